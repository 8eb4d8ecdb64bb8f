"""EVS-Net: Edge-competing Pathological Liver Vessel Segmentation with Limited Labels (arXiv:2108.00384, AAAI 2021).

A vessel's edge is blurred, and few of them are labelled. Two critics compete for it: one sees the vessels that a
segmenter cuts out and does not want background in them, the other sees what is left over and does not want vessel in
it (E5, E6). Alone the first would shrink masks to nothing, the second let them grow; the edge comes to lie where both
are content (E7). What is certain is all that they are shown as true: vessels without their rim, and background without
the surroundings of vessels (E3, E4). Edges of turned images must be turned edges (E8). Equation numbers refer to
docs/methods/evs-net.md.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ommatid.dense.boundary import RALAMB, Activation, BoundaryLearner, BoundarySettings
from ommatid.dense.segmenter import Images, Probabilities, Threshold
from ommatid.dense.task import BoundaryBatch
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.recipe import Recipe
from ommatid.losses.boundary import critic_loss_on_patches
from ommatid.nn.boundary import background_tuple, boundary_tuple
from ommatid.nn.morphology import checked, dilate, erode

VESSEL, BACKGROUND = "vessel", "background"


class EVSNet(BoundaryLearner):
    """EVS-Net (arXiv:2108.00384): two critics compete for the edge of what few labels show (E1-E8).

    Args:
        image_size: height and width of the patches.
        network, backbone, pretrained, widths: of `PixelNetwork`; "deeplabv3plus" as published, or "unet".
        activation: "sigmoid" of the logits, or "clamp" to [0, 1] as in the authors' code, without gradients outside.
        boundary: critics and what unlabelled patches teach (E7, E8), see `BoundarySettings`; the critic "vessel" sees
            background in vessels (D_v), "background" vessels in the background (D_k).
        kernel: side of the window that takes the rim from vessels, and the surroundings of vessels from the background
            (E3, E4); odd.
        threshold: "half", or "otsu", which is chosen patch by patch.
        recipe: optimiser and schedule of the segmenter.
    """

    known_judges = (VESSEL, BACKGROUND)
    source_is_kin = True
    embedded = {
        "model": {
            "network": "unet",
            "widths": [12, 24, 48],
            "kernel": 3,
            "boundary": {
                "critic_base": 12,
                "critic_blocks": 3,
                "critic_sigmoid": False,
                "critic_recipe": {"optimizer": "adam", "lr": 1e-3, "betas": [0.0, 0.9]},
                "critics_from": 0.3,
                "adversarial_from": 0.4,
                "adversarial_weight": 0.1,
                "adversarial_every": 1,
                "together": True,
                "self_weight": 0.1,
                "edge_kernel": 3,
                "paste": 0.0,
            },
            "recipe": {"optimizer": "adam", "lr": 2e-3, "betas": [0.9, 0.999]},
        },
        "data": {
            "embedded": "world-tissue",
            "size": 48,
            "augment": "turns",
            "labelled_batch": 8,
            "batch_size": 16,
        },
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
        boundary: BoundarySettings = BoundarySettings(edge_kernel=5),
        kernel: int = 11,
        threshold: Threshold = "half",
        recipe: Recipe = RALAMB,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        checked(kernel)
        self.build()

    def cut_outs(self, images: Images, predicted: Probabilities) -> dict[str, Float[Tensor, "batch 9 height width"]]:
        """One critic sees the vessels, the other what is left (E1, E2)."""
        images = self.normalise(images)
        every = {VESSEL: boundary_tuple(images, predicted), BACKGROUND: background_tuple(images, predicted)}
        return {name: every[name] for name in self.critics}

    def certain(self, images: Images, masks: Probabilities) -> dict[str, Float[Tensor, "batch 9 height width"]]:
        """Pure vessel and pure background, of labelled patches: what the critics are shown as true (E3, E4)."""
        kernel, images = self.hparams.kernel, self.normalise(images)
        return {
            VESSEL: boundary_tuple(images, erode(masks, kernel)),
            BACKGROUND: background_tuple(images, dilate(masks, kernel)),
        }

    def criticism(self, batch: BoundaryBatch, predicted: Probabilities) -> Float[Tensor, ""]:
        """What is certain against what was predicted (E5, E6)."""
        true = self.certain(batch.source.images, batch.source.masks)
        fake = self.cut_outs(batch.unlabelled.images, predicted)
        penalty = self.boundary.penalty
        # They share no weights: the sum gives each its own gradient.
        return torch.stack(
            [
                critic_loss_on_patches(critic, true[name], fake[name], penalty=penalty)
                for name, critic in self.critics.items()
            ]
        ).sum()


_BUDGET: dict[str, Any] = {
    "model": EVSNet.embedded["model"],
    "data": EVSNet.embedded["data"],
    "trainer": EVSNet.embedded["trainer"],
    "tuning": {"recipe.lr": (1e-3, 2e-3, 4e-3, 8e-3)},
    "tuning_metric": "Dice",
    "shown": ("Dice", "IoU", "image_IoU", "area_error"),
    "arms": {
        "EVS-Net": Arm("method", {}),
        "ten labels": Arm("baseline", {"boundary": {"judges": [], "self_weight": 0.0}}),
        "ten labels, edges turned alike": Arm("ablation", {"boundary": {"judges": []}}),
        "without the background's critic": Arm("ablation", {"boundary": {"judges": [VESSEL]}}),
        "without the vessels' critic": Arm("ablation", {"boundary": {"judges": [BACKGROUND]}}),
        "all labels": Arm("reported", {"boundary": {"judges": [], "self_weight": 0.0}}, data={"shots": None}),
    },
}

EVSNet.claims = (
    Claim(
        name="evs-net",
        statement="With ten labelled patches two critics that compete for the edge give a higher Dice than the ten "
        "labels alone, with and without equivariance of edges.",
        criteria=(
            Criterion("Dice", versus="ten labels"),
            Criterion("Dice", versus="ten labels, edges turned alike"),
        ),
        source="docs/methods/evs-net.md, claim, first half",
        **_BUDGET,
    ),
    Claim(
        name="evs-net-edge",
        statement="Each critic holds the edge against the other: without that of the background masks come out "
        "smaller, without that of the vessels larger.",
        criteria=(
            Criterion("area_error", versus="without the background's critic"),
            Criterion("area_error", versus="without the vessels' critic", direction="lower"),
        ),
        source="docs/methods/evs-net.md, claim, second half",
        **_BUDGET,
    ),
)
