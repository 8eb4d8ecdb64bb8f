"""Trans-Net: Visual Boundary Knowledge Translation for Foreground Segmentation (arXiv:2108.00379, AAAI 2021).

Plenty of masks exist, of other things than those one wants to find. What they know about their things is of no use;
what they know about cutting out is: whether background is left inside, or a piece of the object outside, can be told
without knowing the object. Two critics learn that from the source (E2-E6), and judge what a segmenter with some ten
labels of its own (E9) makes of unlabelled images (E7), while turned images must give turned masks (E8). Images of the
source never pass through the segmenter. Equation numbers refer to docs/methods/trans-net.md.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ommatid.dense.boundary import RALAMB, Activation, BoundaryLearner, BoundarySettings
from ommatid.dense.segmenter import Images, Probabilities, Threshold
from ommatid.dense.task import BoundaryBatch
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.losses.boundary import critic_loss_on_patches
from ommatid.nn.boundary import boundary_tuple
from ommatid.nn.morphology import checked, dilate, erode

INNER, OUTER = "inner", "outer"


class TransNet(BoundaryLearner):
    """Trans-Net (arXiv:2108.00379): critics carry knowledge of boundaries from one kind of objects to another (E1-E9).

    Args:
        image_size: height and width that images come in.
        network, backbone, pretrained, widths: of `PixelNetwork`; "deeplabv3plus" as published, or "unet".
        activation: "sigmoid" of the logits, or "clamp" to [0, 1] as in the authors' code, which has no gradient outside
            (E1).
        boundary: critics and what unlabelled images teach (E6-E8), see `BoundarySettings`; the critic "inner"
            knows cut-outs that lack their rim, "outer" those that keep a ring of background.
        kernels: smallest and largest side of the window with which a source's mask is made wrong; an odd one is drawn
            for either critic in every step (E3).
        pseudo_mask: what the critics are shown beside a wrong cut-out: the "source" mask, as in the authors' code, or
            the "morphed" one that made it (E4).
        negative_weight: of the scores of predicted and of wrong cut-outs (E5).
        threshold: "half", or "otsu", which is chosen image by image.
        recipe: optimiser and schedule of the segmenter.
    """

    known_judges = (INNER, OUTER)
    embedded = {
        "model": {
            "network": "unet",
            "kernels": [3, 5],
            "pseudo_mask": "morphed",
            "negative_weight": 0.5,
            "boundary": {
                "critic_base": 12,
                "critic_blocks": 3,
                "critic_sigmoid": False,
                "critic_recipe": {"optimizer": "adam", "lr": 1e-3, "betas": [0.0, 0.9]},
                "critics_from": 0.3,
                "adversarial_from": 0.4,
                "adversarial_weight": 0.5,
                "adversarial_every": 1,
                "together": True,
                "self_weight": 0.0,
                "paste": 0.0,
            },
            "recipe": {"optimizer": "adam", "lr": 2e-3, "betas": [0.9, 0.999]},
        },
        "data": {"size": 32, "augment": "turns", "labelled_batch": 8, "batch_size": 16},
        "trainer": {"max_epochs": 5},
    }

    def __init__(
        self,
        image_size: int = 128,
        network: str = "deeplabv3plus",
        backbone: str = "resnet101",
        pretrained: bool = False,
        widths: list[int] = [8, 16, 32],  # noqa: B006  (plain values for the command line; never changed)
        activation: Activation = "sigmoid",
        boundary: BoundarySettings = BoundarySettings(),
        kernels: list[int] = [15, 73],  # noqa: B006
        pseudo_mask: Literal["source", "morphed"] = "source",
        negative_weight: float = 1.0,
        threshold: Threshold = "half",
        recipe: Recipe = RALAMB,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        if len(kernels) != 2 or kernels[0] > kernels[1]:
            raise InputError(f"kernels must be a smallest and a largest side, found {kernels}")
        for kernel in kernels:
            checked(kernel)
        self.build()

    def cut_outs(self, images: Images, predicted: Probabilities) -> dict[str, Float[Tensor, "batch 9 height width"]]:
        """Both critics see the same: image, cut-out and mask (E2)."""
        return dict.fromkeys(self.critics, boundary_tuple(self.normalise(images), predicted))

    def criticism(self, batch: BoundaryBatch, predicted: Probabilities) -> Float[Tensor, ""]:
        """Clean cut-outs of the source against predicted ones, and against its own with a wrong edge (E4, E5)."""
        images, masks, settings = self.normalise(batch.source.images), batch.source.masks, self.hparams
        real, fake = boundary_tuple(images, masks), boundary_tuple(self.normalise(batch.unlabelled.images), predicted)
        wrong = {INNER: erode(masks, self.kernel()), OUTER: dilate(masks, self.kernel())}
        losses = []
        for name, critic in self.critics.items():
            shown = masks if settings.pseudo_mask == "source" else None
            pseudo = boundary_tuple(images, wrong[name], shown)
            losses.append(
                critic_loss_on_patches(
                    critic, real, fake, pseudo, self.boundary.penalty, negative_weight=settings.negative_weight
                )
            )
        # They share no weights: the sum gives each its own gradient.
        return torch.stack(losses).sum()

    def kernel(self) -> int:
        """Side of a window, drawn from the odd numbers between the two (E3)."""
        low, high = self.hparams.kernels
        return low + 2 * int(torch.randint((high - low) // 2 + 1, ()))


TransNet.claims = (
    Claim(
        name="trans-net",
        statement="With ten labelled images of the target, two critics that learnt boundaries from other categories "
        "give a higher foreground IoU than the ten labels alone, at equally many supervised updates.",
        arms={
            "Trans-Net": Arm("method", {}),
            "ten labels": Arm("baseline", {"boundary": {"judges": []}}),
            "ten labels, turned alike": Arm("ablation", {"boundary": {"judges": [], "self_weight": 0.1}}),
            "inner critic alone": Arm("reported", {"boundary": {"judges": [INNER]}}),
            "outer critic alone": Arm("reported", {"boundary": {"judges": [OUTER]}}),
            "all 600 labels": Arm("reported", {"boundary": {"judges": []}}, data={"shots": None}),
        },
        criteria=(
            Criterion("IoU", versus="ten labels"),
            Criterion("IoU", versus="ten labels, turned alike"),
        ),
        model=TransNet.embedded["model"],
        data=TransNet.embedded["data"],
        trainer=TransNet.embedded["trainer"],
        tuning={"recipe.lr": (1e-3, 2e-3, 4e-3, 8e-3)},
        shown=("IoU", "mIoU", "Dice", "image_IoU", "area_error"),
        source="docs/methods/trans-net.md, claim",
    ),
)
