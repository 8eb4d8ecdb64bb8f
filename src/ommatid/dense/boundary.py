"""`BoundaryLearner`: a segmenter with few labels, and two critics that know a clean cut-out when they see one.

What Trans-Net and EVS-Net share: the step, in which critics and segmenter take turns, its streams, and the terms that
both have. What a critic is shown, and what counts as true, is what the two differ in.
"""

from contextlib import ExitStack
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.dense.data import BoundaryData
from ommatid.dense.networks import PixelNetwork
from ommatid.dense.segmenter import Images, Probabilities, Segmenter
from ommatid.dense.task import BoundaryBatch, MaskBatch
from ommatid.engine.method import frozen
from ommatid.engine.recipe import Phase
from ommatid.errors import InputError, unknown
from ommatid.losses.dice import dice_loss
from ommatid.losses.equivariance import equivariance_loss, turn
from ommatid.losses.wasserstein import generator_loss
from ommatid.nn.boundary import PatchCritic
from ommatid.nn.copy_paste import paste_on_corner

ACTIVATIONS = ("sigmoid", "clamp")


class BoundaryLearner(Segmenter):
    """Few labels, equivariance, and critics of cut-outs; a subclass says what critics see (`criticism`, `cut_outs`).

    Its arguments are those of `TransNet`, apart from `kernels`, `pseudo_mask` and `negative_weight`.
    """

    data_module = BoundaryData
    several_optimizers = True
    known_judges: ClassVar[tuple[str, str]]

    def __init__(self) -> None:
        super().__init__()
        self.critics = nn.ModuleDict()

    def build(self) -> None:
        """Segmenter and critics, as the arguments say."""
        settings = self.hparams
        if settings.activation not in ACTIVATIONS:
            raise unknown("activation", settings.activation, ACTIVATIONS)
        for name in ("critics_from", "adversarial_from", "paste"):
            if not 0 <= settings[name] <= 1:
                raise InputError(f"{name} must lie in [0, 1], found {settings[name]}")
        if settings.adversarial_every < 1:
            raise InputError(f"adversarial_every must be at least 1, found {settings.adversarial_every}")
        smallest = 2**settings.critic_blocks
        if settings.image_size < smallest:
            raise InputError(
                f"critic_blocks is {settings.critic_blocks}, which halves images to nothing below {smallest} pixels, "
                f"found images of {settings.image_size}"
            )
        self.network = PixelNetwork(settings.network, settings.backbone, settings.pretrained, settings.widths)
        for name in settings.judges:
            if name not in self.known_judges:
                raise unknown("judge", name, self.known_judges)
            self.critics[name] = PatchCritic(
                base=settings.critic_base, blocks=settings.critic_blocks, sigmoid=settings.critic_sigmoid
            )

    def forward(self, images: Images) -> Probabilities:
        """Where the foreground is (E1)."""
        logits = self.network(images)
        return logits.clamp(0, 1) if self.hparams.activation == "clamp" else logits.sigmoid()

    # -- what a subclass says --

    def criticism(self, batch: BoundaryBatch, predicted: Probabilities) -> Float[Tensor, ""]:
        """What the critics minimise, `predicted` being the masks of the unlabelled images."""
        raise NotImplementedError

    def cut_outs(self, images: Images, predicted: Probabilities) -> dict[str, Float[Tensor, "batch 9 height width"]]:
        """What each critic is shown of predicted masks."""
        raise NotImplementedError

    # -- training --

    def phases(self) -> dict[str, Phase]:
        settings = self.hparams
        found = {"segmenter": Phase([self.network], self.recipe)}
        if self.critics:
            found["critics"] = Phase([self.critics], settings.critic_recipe)
        return found

    def training_step(self, batch: BoundaryBatch, batch_idx: int) -> None:
        """One update of the critics, one by labels, and every so often one by critics and turned images."""
        settings, parts = self.hparams, {}
        if self.critics and self.share_done >= settings.critics_from:
            with torch.no_grad():
                predicted = self(batch.unlabelled.images)
            parts["critics"] = self.criticism(batch, predicted)
            self.update("critics", loss=parts["critics"])
        unlabelled = batch_idx % settings.adversarial_every == 0
        labelled = self.labelled_loss(self.composited(batch))
        if not (unlabelled and settings.together):
            self.update("segmenter", loss=labelled)
        if unlabelled:
            terms = self.unlabelled_losses(batch.unlabelled.images)
            parts |= terms
            if terms:
                loss = torch.stack(list(terms.values())).sum()
                self.update("segmenter", loss=labelled + loss if settings.together else loss)
            elif settings.together:
                self.update("segmenter", loss=labelled)
        self.report(loss=labelled, **parts)

    def composited(self, batch: BoundaryBatch) -> MaskBatch:
        """The labelled images, some of them on corners of source images instead of their own background."""
        few, share = batch.labelled, self.hparams.paste
        if not share:
            return few
        grounds = batch.source.images[torch.arange(len(few), device=few.images.device) % len(batch.source)]
        pasted = paste_on_corner(few.images, few.masks, grounds)
        # A mask that is not known everywhere would leave holes.
        chosen = (torch.rand(len(few), device=few.images.device) < share) & few.valid.flatten(1).all(dim=1)
        return MaskBatch(torch.where(chosen[:, None, None, None], pasted, few.images), few.masks, few.valid, few.index)

    def labelled_loss(self, batch: MaskBatch) -> Float[Tensor, ""]:
        """Overlap with the known masks, and equivariance on the same images."""
        predicted = self(batch.images)
        loss = dice_loss(predicted, batch.masks, batch.valid)
        return loss + self.self_loss(batch.images, predicted) if self.hparams.self_weight else loss

    def self_loss(self, images: Images, predicted: Probabilities) -> Float[Tensor, ""]:
        """Equivariance under a quarter or half of a turn, drawn anew each time."""
        quarters = int(torch.randint(1, 3, ()))
        of_turned = self(turn(images, quarters))
        loss = equivariance_loss(predicted, of_turned, quarters, self.hparams.edge_kernel)
        return self.hparams.self_weight * loss

    def unlabelled_losses(self, images: Images) -> dict[str, Float[Tensor, ""]]:
        """What unlabelled images teach: equivariance, and what the critics think of predicted masks."""
        settings, parts = self.hparams, {}
        judged = self.critics and self.share_done >= settings.adversarial_from
        if not (settings.self_weight or judged):
            return {}
        predicted = self(images)
        if settings.self_weight:
            parts["turned"] = self.self_loss(images, predicted)
        if judged:
            with ExitStack() as resting:
                for critic in self.critics.values():
                    resting.enter_context(frozen(critic))
                shown = self.cut_outs(images, predicted)
                losses = [generator_loss(critic(shown[name])) for name, critic in self.critics.items()]
            parts["adversarial"] = settings.adversarial_weight * torch.stack(losses).sum()
        return parts
