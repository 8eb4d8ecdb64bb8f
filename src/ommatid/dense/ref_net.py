"""Ref-Net: Boundary Knowledge Translation based Reference Semantic Segmentation (arXiv:2108.01075, IJCAI 2021).

Show the network one outlined object, and it finds all of that kind in another image, whatever the kind is: the outlined
features become one vector (E2), every place of the image is compared with it (E3) and told of it (E4), and a decoder
draws what is alike (E5). Some labelled pairs teach this (E6); of unlabelled images turned ones must give turned masks
(E7), and critics that learnt from other categories what a clean cut-out is judge the rest (E8), as in Trans-Net.
Equation numbers refer to docs/methods/ref-net.md; what E1-E7 compute is this project's reading of the paper.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.data.images import IMAGENET, read_image
from ommatid.data.mask_maps import own_mask
from ommatid.dense.boundary import RALAMB, Activation, BoundarySettings
from ommatid.dense.reference_data import IGNORED, ReferenceData
from ommatid.dense.reference_task import ReferenceBatch, ReferenceScores, query_scores
from ommatid.dense.segmenter import Images, Probabilities, Threshold
from ommatid.dense.task import MaskBatch, Segmentation
from ommatid.dense.trans_net import TransNet
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError, unknown
from ommatid.losses.dice import dice_loss
from ommatid.nn.deeplab import DeepLabDecoder, DeepLabEncoder
from ommatid.nn.normalise import Normalise
from ommatid.nn.reference import ReferenceConditioning, masked_average_pool
from ommatid.nn.unet import UNetDecoder, UNetEncoder


class ReferenceNetwork(nn.Module):
    """Encoder, conditioning on references, decoder (E1-E5).

    Args:
        name, backbone, pretrained, widths: as of `ommatid.dense.networks.PixelNetwork`.
    """

    def __init__(self, name: str, backbone: str, pretrained: bool, widths: Sequence[int]) -> None:
        super().__init__()
        self.normalise = Normalise(*IMAGENET)
        self.encoder: nn.Module
        self.decoder: nn.Module
        if name == "unet":
            self.encoder, self.decoder = UNetEncoder(3, widths), UNetDecoder(widths)
            channels = widths[-1]
        elif name == "deeplabv3plus":
            encoder = DeepLabEncoder(backbone, pretrained=pretrained)
            self.encoder, self.decoder = encoder, DeepLabDecoder(encoder.widths)
            channels = encoder.widths[-1]
        else:
            raise unknown("network", name, ("deeplabv3plus", "unet"))
        # Features around zero: those that are never negative all point the same way, and cosines tell little.
        self.embed = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.conditioning = ReferenceConditioning(channels)

    def forward(
        self,
        images: Images,
        references: Float[Tensor, "batch shot 3 height width"],
        reference_masks: Float[Tensor, "batch shot 1 height width"],
    ) -> Float[Tensor, "batch 1 height width"]:
        shots = references.shape[1]
        # Images and references in one pass: the encoder is the same (E1).
        together = torch.cat([images, rearrange(references, "b s c h w -> (b s) c h w")])
        *finer, last = self.encoder(self.normalise(together))
        features = self.embed(last)
        shown = rearrange(features[len(images) :], "(b s) c h w -> b s c h w", s=shots)
        told = self.conditioning(features[: len(images)], shown, reference_masks)
        logits = self.decoder([*(each[: len(images)] for each in finer), told])
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)

    def prototypes(
        self,
        references: Float[Tensor, "batch shot 3 height width"],
        reference_masks: Float[Tensor, "batch shot 1 height width"],
    ) -> Float[Tensor, "batch feature"]:
        """What references show, as one vector (E2)."""
        maps = self.embed(self.encoder(self.normalise(rearrange(references, "b s c h w -> (b s) c h w")))[-1])
        shown = rearrange(maps, "(b s) c h w -> b s c h w", s=references.shape[1])
        return masked_average_pool(shown, reference_masks)


class RefNet(TransNet):
    """Ref-Net (arXiv:2108.01075): segments what looks like a reference; boundaries are learnt elsewhere (E1-E8).

    The boundary module is Trans-Net's, and so are most arguments.

    Args:
        image_size: height and width that images and references come in.
        network, backbone, pretrained, widths: of `PixelNetwork`; "deeplabv3plus" as published, or "unet".
        activation: "sigmoid" of the logits, or "clamp" to [0, 1].
        consistency_weight: of the distance between what was found and the reference, as vectors (E2); 0 for none.
        empty_below: critics judge images in which some pixel's probability is at least so high: an empty mask is always
            clean.
        boundary: critics and what unlabelled images teach (E7, E8), see `BoundarySettings`; the critic "inner"
            knows cut-outs that lack their rim, "outer" those that keep a ring of background.
        kernels, pseudo_mask, negative_weight: of wrong cut-outs and critics, see `TransNet`.
        threshold: "half", or "otsu", which is chosen image by image.
        recipe: optimiser and schedule of the segmenter.
    """

    data_module: ClassVar[type[ReferenceData]] = ReferenceData  # type: ignore[assignment]
    monitor = "val/category_IoU"
    embedded = {
        "model": {
            "network": "unet",
            "widths": [16, 32, 64, 64],
            "kernels": [3, 7],
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
                "self_weight": 0.1,
                "paste": 0.5,
            },
            "recipe": {"optimizer": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "schedule": "cosine"},
        },
        "data": {"size": 64, "augment": "turns", "labelled_batch": 8, "batch_size": 8},
        "trainer": {"max_epochs": 6},
    }

    def __init__(
        self,
        image_size: int = 128,
        network: str = "deeplabv3plus",
        backbone: str = "resnet101",
        pretrained: bool = False,
        widths: list[int] = [16, 32, 64],  # noqa: B006  (plain values for the command line; never changed)
        activation: Activation = "sigmoid",
        boundary: BoundarySettings = BoundarySettings(paste=0.0),
        consistency_weight: float = 0.0,
        empty_below: float = 0.5,
        kernels: list[int] = [15, 73],  # noqa: B006
        pseudo_mask: Literal["source", "morphed"] = "source",
        negative_weight: float = 1.0,
        threshold: Threshold = "half",
        recipe: Recipe = RALAMB,
    ) -> None:
        super().__init__(
            image_size,
            network,
            backbone,
            pretrained,
            widths,
            activation,
            boundary,
            kernels,
            pseudo_mask,
            negative_weight,
            threshold,
            recipe,
        )
        self.save_hyperparameters(logger=False)

    def build_network(self) -> nn.Module:
        settings = self.hparams
        return ReferenceNetwork(settings.network, settings.backbone, settings.pretrained, settings.widths)

    def forward(self, batch: ReferenceBatch) -> Probabilities:  # type: ignore[override]
        """Where the references' category is (E5)."""
        return self.activated(self.network(batch.images, batch.references, batch.reference_masks))

    # -- training --

    def masks_of(self, part: MaskBatch) -> Probabilities:
        assert isinstance(part, ReferenceBatch)
        return self(part)

    def objects_of(self, few: MaskBatch) -> Float[Tensor, "batch 1 height width"]:
        """All objects, whichever is asked for: the others are what there is to tell it from."""
        assert isinstance(few, ReferenceBatch)
        return ((few.maps > 0) & (few.maps != IGNORED))[:, None].float()

    def supervision(self, predicted: Probabilities, batch: MaskBatch) -> Float[Tensor, ""]:
        """Overlap, and every pixel for itself (E6); where a category is absent, the latter does the work."""
        valid = batch.valid.float()
        # Autocast refuses binary cross-entropy of probabilities.
        with torch.autocast(predicted.device.type, enabled=False):
            pixels = F.binary_cross_entropy(predicted.float().clamp(0, 1), batch.masks, valid, reduction="sum")
        loss = dice_loss(predicted, batch.masks, batch.valid) + pixels / valid.sum().clamp(min=1)
        weight = self.hparams.consistency_weight
        return loss + weight * self.inconsistency(predicted, batch) if weight else loss

    def inconsistency(self, predicted: Probabilities, batch: MaskBatch) -> Float[Tensor, ""]:
        """Mean squared distance of what was found from what the references show, where the image shows it."""
        assert isinstance(batch, ReferenceBatch)
        network = self.network
        assert isinstance(network, ReferenceNetwork)
        found = network.prototypes(batch.images[:, None], predicted[:, None])
        wanted = network.prototypes(batch.references, batch.reference_masks)
        distance = (found - wanted).float().square().mean(dim=1)
        return (distance * batch.present).sum() / batch.present.sum().clamp(min=1)

    def worth_judging(self, predicted: Probabilities) -> Bool[Tensor, "batch"]:
        """Images in which something was found."""
        return predicted.detach().flatten(1).amax(dim=1) >= self.hparams.empty_below

    # -- evaluation --

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, ReferenceData)
        return {"image_size": data.size}

    def align(self, data: DataModule) -> None:
        assert isinstance(data, ReferenceData)
        data.use(int(self.hparams.image_size))

    def new_scores(self) -> ReferenceScores:  # type: ignore[override]
        return ReferenceScores()

    def score(self, batch: ReferenceBatch) -> dict[str, Tensor]:  # type: ignore[override]
        maps = self(batch).float()
        return query_scores(maps >= self.thresholds(maps)[:, None, None, None], batch)

    @torch.no_grad()
    def predict(  # type: ignore[override]
        self,
        image: str | Path,
        references: list[str],
        reference_masks: list[str],
        threshold: float | None = None,
    ) -> Segmentation:
        """What your own image shows of the kind that your references outline.

        Args:
            image: picture file.
            references: picture files that show an object of the kind.
            reference_masks: their outlines, pictures of the same sizes: 0 outside, anything else inside.
            threshold: from which probability on a pixel is foreground; what the method was trained with where None.

        Raises:
            InputError: a file is missing or no readable picture, there are not as many masks as references, a mask has
                another size than its reference or shows nothing, or the threshold lies outside [0, 1].
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise InputError(f"threshold must lie in [0, 1], found {threshold}")
        if not references or len(references) != len(reference_masks):
            raise InputError(
                f"references: found {len(references)} with {len(reference_masks)} masks, expected one or more "
                "with a mask each"
            )
        size = int(self.hparams.image_size)
        pixels = read_image(image).float() / 255
        shown, masks = zip(*map(_outlined, references, reference_masks), strict=True)
        network = self.eval().network
        logits = network(
            _sized(pixels[None], size).to(self.device),
            torch.cat([_sized(each[None], size) for each in shown])[None].to(self.device),
            # By area: what is smaller than a pixel is still there.
            torch.cat([F.interpolate(each[None, None], (size, size), mode="area") for each in masks])[None].to(
                self.device
            ),
        )
        maps = self.activated(logits).float()
        chosen = float(self.thresholds(maps)[0]) if threshold is None else threshold
        whole = F.interpolate(maps, pixels.shape[1:], mode="bilinear", align_corners=False)[0, 0].cpu()
        return Segmentation(pixels, whole, chosen)

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """The network for one reference, example inputs, and the names of inputs and outputs."""
        size, generator = int(self.hparams.image_size), torch.Generator().manual_seed(0)
        images, references = torch.rand(2, 1, 3, size, size, generator=generator)
        masks = (torch.rand(1, 1, 1, size, size, generator=generator) > 0.5).float()
        inputs = ("images", "references", "reference_masks")
        return _PlainReferenceNetwork(self), (images, references[:, None], masks), inputs, ("probabilities",)


class _PlainReferenceNetwork(nn.Module):
    def __init__(self, method: RefNet) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor, references: Tensor, reference_masks: Tensor) -> Tensor:
        return self.method.activated(self.method.network(images, references, reference_masks))


def _outlined(reference: str, mask: str) -> tuple[Float[Tensor, "3 height width"], Float[Tensor, "height width"]]:
    """A reference and its outline."""
    pixels, outline = read_image(reference).float() / 255, torch.from_numpy(own_mask(Path(mask))).float()
    if outline.shape != pixels.shape[1:]:
        found, expected = (" x ".join(map(str, shape)) for shape in (outline.shape, pixels.shape[1:]))
        raise InputError(
            f"{mask}: found a mask of {found} pixels (height x width), expected {expected} as of {reference}"
        )
    if not outline.any():
        raise InputError(f"{mask}: found nothing outlined, expected an object")
    return pixels, outline


def _sized(images: Images, size: int) -> Float[Tensor, "batch 3 {size} {size}"]:
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


_BOUNDARY = RefNet.embedded["model"]["boundary"]
_REF_NET: dict[str, Any] = {
    name: RefNet.embedded["model"][name] for name in ("kernels", "pseudo_mask", "negative_weight", "boundary")
}
_SHARED = {name: RefNet.embedded["model"][name] for name in ("network", "widths", "recipe")}
_BY_CATEGORY = "ommatid.dense.category_network:CategoryNetwork"
_RIVAL = {"paste": _BOUNDARY["paste"]}
_BUDGET: dict[str, Any] = {
    "model": _SHARED,
    "data": RefNet.embedded["data"],
    "trainer": RefNet.embedded["trainer"],
    "tuning": {"recipe.lr": (5e-4, 1e-3, 2e-3)},
    "tuning_metric": "category_IoU",
    "shown": ("category_IoU", "category_mIoU", "swap", "false_area", "mIoU"),
}


def _without(**changed: Any) -> dict[str, Any]:
    return {**_REF_NET, "boundary": {**_BOUNDARY, **changed}}


RefNet.claims = (
    Claim(
        name="ref-net",
        statement="A network that is shown an outlined object finds that kind, and the other object where it is shown "
        "that one; with five labelled images of each category, critics that learnt boundaries elsewhere raise its IoU "
        "by category.",
        arms={
            "Ref-Net": Arm("method", _REF_NET),
            "without critics": Arm("ablation", _without(judges=[])),
            "labels alone": Arm("baseline", _without(judges=[], self_weight=0.0)),
            "references of anything": Arm("control", _REF_NET, data={"told": False}),
            "an output for each category": Arm("reported", _RIVAL, method=_BY_CATEGORY),
        },
        criteria=(
            Criterion("swap", versus="references of anything", margin=0.3),
            Criterion("category_IoU", versus="labels alone"),
            Criterion("category_IoU", versus="without critics"),
        ),
        source="docs/methods/ref-net.md, claim, first part and first half of the second",
        **_BUDGET,
    ),
    Claim(
        name="ref-net-categories",
        statement="The more categories there are, the further a network with one output for each of them falls behind.",
        arms={
            "Ref-Net, 12": Arm("method", _REF_NET, data={"world": {"categories": 12}}),
            "an output for each, 12": Arm("baseline", _RIVAL, {"world": {"categories": 12}}, method=_BY_CATEGORY),
            "Ref-Net, 3": Arm("reported", _REF_NET, data={"world": {"categories": 3}}),
            "an output for each, 3": Arm("reported", _RIVAL, {"world": {"categories": 3}}, method=_BY_CATEGORY),
        },
        criteria=(
            Criterion("category_IoU", "an output for each, 12", beyond_arms=("Ref-Net, 3", "an output for each, 3")),
        ),
        source="docs/methods/ref-net.md, claim, second half of the second part",
        **_BUDGET,
    ),
)
