"""`BoundaryLearner`: a segmenter with few labels, and two critics that know a clean cut-out when they see one.

What Trans-Net and EVS-Net share: the step, in which critics and segmenter take turns, its streams, and the terms that
both have. What a critic is shown, and what counts as true, is what the two differ in.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.data.images import IMAGENET
from ommatid.dense.data import BoundaryData
from ommatid.dense.networks import PixelNetwork
from ommatid.dense.reference_data import ReferenceData
from ommatid.dense.segmenter import Images, Probabilities, Segmenter
from ommatid.dense.task import BoundaryBatch, MaskBatch
from ommatid.engine.data import DataModule
from ommatid.engine.method import frozen
from ommatid.engine.recipe import Phase, Recipe
from ommatid.errors import InputError, unknown
from ommatid.losses.dice import dice_loss
from ommatid.losses.equivariance import equivariance_loss, turn
from ommatid.nn.boundary import PatchCritic
from ommatid.nn.copy_paste import paste_on_corner
from ommatid.nn.normalise import Normalise

Activation = Literal["sigmoid", "clamp"]
RALAMB = Recipe("ralamb", lr=1.2e-4, betas=(0.0, 0.9), schedule="constant")
"""Of segmenter and critics, as published."""


@dataclass(frozen=True)
class BoundarySettings:
    """What teaches boundaries beside the labels, and when.

    Attributes:
        judges: the critics, by name; all of the method's where None, none where empty.
        critic_base, critic_blocks, critic_sigmoid: of each critic, see `PatchCritic`.
        critic_recipe: optimiser and schedule of the critics. "ralamb-released" is the optimiser with the authors'
            swapped arguments, six times as fast.
        critics_from, adversarial_from: shares of the training after which critics learn, and are listened to.
        penalty: weight of the critics' slope.
        adversarial_weight: of what the critics think.
        adversarial_every: steps between two updates by unlabelled images.
        together: add what unlabelled images teach to the labelled loss of the step, instead of an update of its own.
        self_weight: of equivariance.
        edge_kernel: side of the window of the band around edges in which turned masks are compared; everywhere where
            None.
        paste: share of labelled images that get a background from the source. Where the source shows what is searched
            for, such places of a background teach nothing.
    """

    judges: list[str] | None = None
    critic_base: int = 16
    critic_blocks: int = 6
    critic_sigmoid: bool = True
    critic_recipe: Recipe = RALAMB
    critics_from: float = 0.0
    adversarial_from: float = 0.0
    penalty: float = 10.0
    adversarial_weight: float = 1.0
    adversarial_every: int = 5
    together: bool = False
    self_weight: float = 1.0
    edge_kernel: int | None = None
    paste: float = 1.0


class BoundaryLearner(Segmenter):
    """Few labels, equivariance, and critics of cut-outs; a subclass says what critics see (`criticism`, `cut_outs`).

    Besides those of every `Segmenter`, a subclass has the arguments `network`, `backbone`, `pretrained`, `widths`,
    `activation` and `boundary`; it calls `build` when they are saved.
    """

    data_module = BoundaryData
    several_optimizers = True
    known_judges: ClassVar[tuple[str, str]]
    source_is_kin: ClassVar[bool] = False
    """Whether the source always shows what is searched for."""

    def __init__(self) -> None:
        super().__init__()
        self.critics = nn.ModuleDict()
        # Critics see pictures in the units of their papers, so that what is cut away has the mean colour (E2).
        self.normalise = Normalise(*IMAGENET)

    def build(self) -> None:
        """Segmenter and critics, as the arguments say."""
        activation, size, boundary = self.hparams.activation, self.hparams.image_size, self.boundary
        if activation not in get_args(Activation):
            raise unknown("activation", activation, get_args(Activation))
        for name in ("critics_from", "adversarial_from", "paste"):
            if not 0 <= getattr(boundary, name) <= 1:
                raise InputError(f"{name} must lie in [0, 1], found {getattr(boundary, name)}")
        if boundary.adversarial_from < boundary.critics_from:
            raise InputError(
                f"adversarial_from is {boundary.adversarial_from}, expected at least critics_from, "
                f"{boundary.critics_from}: before, critics know nothing"
            )
        if boundary.adversarial_every < 1:
            raise InputError(f"adversarial_every must be at least 1, found {boundary.adversarial_every}")
        if size < 2**boundary.critic_blocks:
            raise InputError(
                f"critic_blocks is {boundary.critic_blocks}, which halves images to nothing below "
                f"{2**boundary.critic_blocks} pixels, found images of {size}"
            )
        self.network = self.build_network()
        for name in self.known_judges if boundary.judges is None else boundary.judges:
            if name not in self.known_judges:
                raise unknown("judge", name, self.known_judges)
            self.critics[name] = PatchCritic(
                base=boundary.critic_base, blocks=boundary.critic_blocks, sigmoid=boundary.critic_sigmoid
            )
        # Convolutions with channels last in memory, as they are then for activations, too, take a quarter less time.
        self.to(memory_format=torch.channels_last)

    def adopt(self, data: DataModule) -> None:
        super().adopt(data)
        assert isinstance(data, BoundaryData | ReferenceData)
        least = min(data.batch_size, data.labelled_batch)
        if self.hparams.network == "deeplabv3plus" and least < 2:
            raise InputError("batch_size and labelled_batch must be at least 2 for the batch norms of DeepLab, found 1")

    @property
    def boundary(self) -> BoundarySettings:
        return self.hparams.boundary

    def forward(self, images: Images) -> Probabilities:
        """Where the foreground is (E1)."""
        return self.activated(self.network(images))

    def build_network(self) -> nn.Module:
        """The segmenter."""
        settings = self.hparams
        return PixelNetwork(settings.network, settings.backbone, settings.pretrained, settings.widths)

    def activated(self, logits: Float[Tensor, "batch 1 height width"]) -> Probabilities:
        """Logits as values in [0, 1] (E1), in single precision: in half, sure ones would be 1 and have no gradient."""
        logits = logits.float()
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
        boundary, later = self.boundary, {}
        if not boundary.together and (self.critics or boundary.self_weight):
            # Unlabelled images teach from the start on where they are turned.
            later[0.0 if boundary.self_weight else boundary.adversarial_from] = 1 / boundary.adversarial_every
        found = {"segmenter": Phase([self.network], self.recipe, later=later)}
        if self.critics:
            critics = {boundary.critics_from: 1.0}
            found["critics"] = Phase([self.critics], boundary.critic_recipe, updates=0, later=critics)
        return found

    def training_step(self, batch: BoundaryBatch, batch_idx: int) -> None:
        """One update of the critics, one by labels, and every so often one by critics and turned images."""
        settings, parts, terms = self.boundary, {}, {}
        reached = self.batch_number(batch_idx) % settings.adversarial_every == 0
        taught = reached and (self.judged or settings.self_weight > 0)
        # Where nothing moves the segmenter in between, the same masks teach critics and segmenter.
        predicted = self.masks_of(batch.unlabelled) if settings.together and taught else None
        if self.critics and self.share_done >= settings.critics_from:
            with torch.no_grad():
                shown = self.masks_of(batch.unlabelled) if predicted is None else predicted.detach()
            parts["critics"] = self.criticism(batch, shown)
            self.update("critics", loss=parts["critics"])
        labelled = self.labelled_loss(self.composited(batch))
        if not settings.together:
            self.update("segmenter", loss=labelled)
        if taught:
            terms = self.unlabelled_losses(batch.unlabelled, predicted)
        if settings.together:
            self.update("segmenter", loss=torch.stack([labelled, *terms.values()]).sum())
        elif terms:
            self.update("segmenter", loss=torch.stack(list(terms.values())).sum())
        self.report(loss=labelled, **parts, **terms)

    @property
    def judged(self) -> bool:
        """Whether critics are listened to by now."""
        return bool(self.critics) and self.share_done >= self.boundary.adversarial_from

    def masks_of(self, part: MaskBatch) -> Probabilities:
        """What is predicted for the images of a stream."""
        return self(part.images)

    def composited(self, batch: BoundaryBatch) -> MaskBatch:
        """The labelled images, some of them on corners of source images instead of their own background."""
        few, share = batch.labelled, self.boundary.paste
        if not share:
            return few
        places = torch.arange(len(few), device=few.images.device) % len(batch.source)
        kin = ((batch.source.masks > 0) | ~batch.source.valid).float()
        ground = torch.cat([batch.source.images, kin], dim=1)[places]
        pasted = paste_on_corner(
            torch.cat([few.images, torch.zeros_like(few.masks)], dim=1), self.objects_of(few), ground
        )
        # A mask that is not known everywhere would leave holes.
        known = few.valid.flatten(1).all(dim=1)
        chosen = ((torch.rand(len(few), device=few.images.device) < share) & known)[:, None, None, None]
        images, valid = torch.where(chosen, pasted[:, :-1], few.images), few.valid
        if batch.kin or self.source_is_kin:
            valid = valid & ~(chosen & (pasted[:, -1:] > 0))
        return replace(few, images=images, valid=valid)

    def objects_of(self, few: MaskBatch) -> Float[Tensor, "batch 1 height width"]:
        """What of labelled images stays where the ground is another."""
        return few.masks

    def labelled_loss(self, batch: MaskBatch) -> Float[Tensor, ""]:
        """Overlap with the known masks, and equivariance on the same images."""
        predicted = self.masks_of(batch)
        loss = self.supervision(predicted, batch)
        return loss + self.self_loss(batch, predicted) if self.boundary.self_weight else loss

    def supervision(self, predicted: Probabilities, batch: MaskBatch) -> Float[Tensor, ""]:
        """What known masks teach."""
        return dice_loss(predicted, batch.masks, batch.valid)

    def self_loss(self, part: MaskBatch, predicted: Probabilities) -> Float[Tensor, ""]:
        """Equivariance under a quarter or half of a turn, drawn anew each time."""
        quarters = int(torch.randint(1, 3, ()))
        of_turned = self.masks_of(replace(part, images=turn(part.images, quarters)))
        loss = equivariance_loss(predicted, of_turned, quarters, self.boundary.edge_kernel)
        return self.boundary.self_weight * loss

    def unlabelled_losses(self, part: MaskBatch, predicted: Probabilities | None) -> dict[str, Float[Tensor, ""]]:
        """What unlabelled images teach: equivariance, and what the critics think of the masks predicted for them."""
        settings, parts = self.boundary, {}
        predicted = self.masks_of(part) if predicted is None else predicted
        if settings.self_weight:
            parts["turned"] = self.self_loss(part, predicted)
        if self.judged:
            with ExitStack() as resting:
                for critic in self.critics.values():
                    resting.enter_context(frozen(critic))
                shown, worth = self.cut_outs(part.images, predicted), self.worth_judging(predicted)
                losses = [judged_loss(critic(shown[name]), worth) for name, critic in self.critics.items()]
            parts["adversarial"] = settings.adversarial_weight * torch.stack(losses).sum()
        return parts

    def worth_judging(self, predicted: Probabilities) -> Bool[Tensor, "batch"]:
        """Images whose masks the critics are asked about."""
        return torch.ones(len(predicted), dtype=torch.bool, device=predicted.device)


def judged_loss(scores: Float[Tensor, "batch 1 rows columns"], worth: Bool[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Minus the mean score of the images that are worth judging; nothing where none is.

    Examples:
        >>> judged_loss(torch.tensor([1.0, 5.0]).view(2, 1, 1, 1), torch.tensor([True, False]))
        tensor(-1.)
    """
    means = scores.float().flatten(1).mean(dim=1)
    return -(means * worth).sum() / worth.sum().clamp(min=1)
