"""SCAN-CNN: Scale Attention for Learning Deep Face Representation (arXiv:2209.08788).

A face is large or small, sharp or blurred; kernels of one scale answer to one of these. Here every kernel is made of
scale-normalised derivatives of a Gaussian whose scale it learns (E1-E4): it answers most where the scale of a pattern
meets its own. After training the kernels are constants, and the network is a plain one of the same cost (E5). The layer
stands in `ommatid.nn.scale_attention`, the networks in `ommatid.nn.face_networks`, the margin softmax (E8-E10) in
`ommatid.losses.margin`. Equation numbers refer to docs/methods/scan-cnn.md.
"""

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.data.faces import FACES
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError, unknown
from ommatid.losses.margin import MarginHead, published_head
from ommatid.nn.blur import gaussian_blur
from ommatid.nn.face_networks import FACE_NETWORKS, published_face_network
from ommatid.nn.macs import count_macs
from ommatid.nn.normalise import Normalise
from ommatid.nn.scale_attention import ScaleAttentionConv2d, fold_scale_attention, use_scale_attention
from ommatid.recognition.face_recogniser import Embeddings, FaceRecogniser, Images
from ommatid.recognition.face_task import FaceBatch

Convolution = Literal["scan", "free", "plain"]


class ScanCNN(FaceRecogniser):
    """Faces recognised at any scale in one pass (arXiv:2209.08788, reconstructed; E1-E10).

    Args:
        num_identities, channels, image_size: as the data have them.
        backbone: "ir50", "ir100", "ir152", each also with "-se", "mobilefacenet", or "small", four convolutions.
        convolution: "scan" builds kernels of Gaussian derivatives at learnt scales (E1, E2), "free" blurs free kernels
            to their scale, "plain" has kernels as usual. All spatial ones of the backbone are alike (E7).
        kernel_size: of spatial convolutions.
        order: highest derivative (E1).
        scales: how many scales a layer has, shared by groups of channels; one for every channel where None.
        learn_scale: let scales learn; else they stay as they begin (E4).
        embedding_dim: numbers that a face is described by.
        head: "arcface" (E9), "cosface" (E10), "mv-arcface", "mv-cosface", or "softmax" without a margin.
        scale, margin: of the head (E8); the head's usual margin where None.
        easy_margin: targets far from their identity keep their cosine, as in FaceX-Zoo.
        blur: training pictures are blurred with a deviation from 0 to this, in pixels, drawn for each.
        mirror: mirror every second training picture.
        shots: blurs at which a face is embedded, and the mean taken: the multi-shot rival, whose cost is so many times
            larger. Without any, a face is embedded once, as it is.
        mirrored_test: embed the mirrored face, too.
        test_blurs: blurs, in pixels, under which verification is tested besides sharp pictures.
        recipe: optimiser and schedule.
    """

    embedded = {
        "model": {
            "backbone": "small",
            "kernel_size": 5,
            "embedding_dim": 64,
            "head": "cosface",
            "scale": 16.0,
            "margin": 0.2,
            "blur": 3.0,
            "mirror": False,
            "recipe": {"lr": 0.15, "weight_decay": 5e-4, "schedule": "cosine", "per": "step"},
        },
        "data": {"size": 40, "channels": 1, "batch_size": 64},
        "trainer": {"max_epochs": 14, "max_steps": -1},
    }

    def __init__(
        self,
        num_identities: int = 72_778,
        channels: int = 3,
        image_size: int = 112,
        backbone: str = "ir50",
        convolution: Convolution = "scan",
        kernel_size: int = 3,
        order: int = 3,
        scales: int | None = None,
        learn_scale: bool = True,
        embedding_dim: int = 512,
        head: str = "cosface",
        scale: float = 32.0,
        margin: float | None = None,
        easy_margin: bool = False,
        blur: float = 0.0,
        mirror: bool = True,
        shots: list[float] = [],  # noqa: B006  (plain values for the command line; never changed)
        mirrored_test: bool = False,
        test_blurs: list[float] = [1.0, 2.0, 3.0],  # noqa: B006
        recipe: Recipe = Recipe(
            "sgd",
            lr=0.1,
            weight_decay=1e-4,
            schedule="step",
            per="epoch",
            milestones=(10 / 18, 13 / 18, 16 / 18),
        ),
    ) -> None:
        super().__init__()
        if backbone not in FACE_NETWORKS:
            raise unknown("backbone", backbone, FACE_NETWORKS)
        if kernel_size < 3 or not kernel_size % 2:
            raise InputError(f"kernel_size must be odd and at least 3, found {kernel_size}")
        for name, values in (("blur", [blur]), ("shots", shots), ("test_blurs", test_blurs)):
            for value in values:
                if not 0 <= value < image_size:
                    raise InputError(f"{name} must lie from 0 to below the image size {image_size}, found {value}")
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        mean, std = FACES
        self.normalise = Normalise(mean[:channels], std[:channels])
        self.backbone = FACE_NETWORKS[backbone](
            channels=channels, image_size=image_size, embedding_dim=embedding_dim, kernel_size=kernel_size
        )
        if convolution != "plain":
            basis = "free" if convolution == "free" else "derivatives"
            use_scale_attention(self.backbone, order=order, scales=scales, learn_scale=learn_scale, basis=basis)
        self.head = MarginHead(embedding_dim, num_identities, head, scale, margin, easy=easy_margin)

    def forward(self, images: Images) -> Embeddings:
        """Embeddings of one shot, of any length."""
        return self.backbone(self.normalise(images))

    def embed(self, images: Images) -> Embeddings:
        """What faces are compared by: the mean over shots, and over the mirrored picture where asked for."""
        shots = [gaussian_blur(images, float(sigma)) for sigma in self.hparams.shots] or [images]
        if self.hparams.mirrored_test:
            shots += [shot.flip(-1) for shot in shots]
        # A handful of shots, each a pass of its own: that is their cost.
        return F.normalize(torch.stack([F.normalize(self(shot).float()) for shot in shots]).sum(dim=0))

    def training_step(self, batch: FaceBatch, _: int) -> Tensor:
        """Cross-entropy over the identities of training, with a margin (E8-E10)."""
        logits = self.head(self(self.varied(batch.images)), batch.labels)
        loss = F.cross_entropy(logits, batch.labels)
        self.report(loss=loss)
        return loss

    def varied(self, images: Images) -> Images:
        """Pictures blurred and mirrored at random, each for itself."""
        if self.hparams.mirror:
            turned = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(turned, images.flip(-1), images)
        if self.hparams.blur:
            widest = float(self.hparams.blur)
            images = gaussian_blur(images, widest * torch.rand(len(images), device=images.device), widest)
        return images

    # -- after training --

    def folded(self) -> "ScanCNN":
        """A copy whose kernels are constants: a plain network of the same cost (E5)."""
        made = copy.deepcopy(self).eval()
        fold_scale_attention(made.backbone)
        return made

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """The folded network."""
        return FaceRecogniser.exportable(self.folded())

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """FaceX-Zoo's weights of a backbone, and of its head where that is of as many identities.

        Raises:
            InputError: the convolutions here are not plain ones, which the released weights are of.
        """
        if self.hparams.convolution != "plain":
            raise InputError(
                f"convolution: found {self.hparams.convolution!r}, expected 'plain', which released weights are of"
            )
        kept = {name: value for name, value in self.state_dict().items() if not name.startswith("backbone.")}
        found = {f"backbone.{name}": value for name, value in published_face_network(state).items()}
        counters = {name: value for name, value in self.state_dict().items() if name.endswith("num_batches_tracked")}
        if "head.weight" in state and tuple(reversed(state["head.weight"].shape)) == tuple(self.head.weight.shape):
            kept |= {f"head.{name}": value for name, value in published_head(state).items()}
        return {**counters, **kept, **found}

    def read_outs(self, data: DataModule) -> dict[str, float]:
        """Learnt scales of every layer (lowest, mean, highest), and what it costs to embed one face."""
        size, channels = int(self.hparams.image_size), int(self.hparams.channels)
        folded = self.folded()
        image = torch.zeros(1, channels, size, size, device=self.device)
        found = {
            "MMACs": count_macs(_Shots(folded), image) / 1e6,
            "parameters of the folded network": float(sum(each.numel() for each in folded.backbone.parameters())),
        }
        layers = [layer for layer in self.backbone.modules() if isinstance(layer, ScaleAttentionConv2d)]
        for number, layer in enumerate(layers, start=1):
            scale = layer.scale().detach()
            found |= {
                f"scale {number}, lowest": float(scale.min()),
                f"scale {number}, mean": float(scale.mean()),
                f"scale {number}, highest": float(scale.max()),
            }
        return found


class _Shots(nn.Module):
    """All passes that embedding a face takes, without the blur before them."""

    def __init__(self, method: ScanCNN) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Tensor:
        passes = max(len(self.method.hparams.shots), 1) * (2 if self.method.hparams.mirrored_test else 1)
        return torch.stack([self.method(images) for _ in range(passes)])


_METRIC, _BLURRED, _MOST_BLURRED = "TAR@FAR=1e-2", "blur 2/TAR@FAR=1e-2", "blur 3/TAR@FAR=1e-2"
_MODEL = {name: value for name, value in ScanCNN.embedded["model"].items() if name != "recipe"}


def _arm(role: Any, convolution: Convolution = "scan", **settings: Any) -> Arm:
    return Arm(role, {**_MODEL, "convolution": convolution, **settings})


def _claim(name: str, statement: str, arms: dict[str, Arm], criteria: tuple[Criterion, ...]) -> Claim:
    return Claim(
        name=name,
        statement=statement,
        arms=arms,
        criteria=criteria,
        model={"recipe": ScanCNN.embedded["model"]["recipe"]},
        data=ScanCNN.embedded["data"],
        trainer=ScanCNN.embedded["trainer"],
        tuning={"recipe.lr": (0.02, 0.05, 0.15)},
        shown=(_METRIC, "blur 1/TAR@FAR=1e-2", _BLURRED, _MOST_BLURRED, "auc", "MMACs"),
        source="docs/methods/scan-cnn.md, claim",
    )


ScanCNN.claims = (
    _claim(
        "scan-cnn",
        "With equal kernel size, depth, width and cost, scale attention in place of every spatial convolution raises "
        "the share of unseen people's pairs that are accepted at one false accept in a hundred, sharp or blurred.",
        {
            "scale attention": _arm("method"),
            "plain": _arm("baseline", "plain"),
            "scales not learnt": _arm("ablation", learn_scale=False),
            "free kernels": _arm("reported", "free"),
            "plain, kernels of 3": _arm("control", "plain", kernel_size=3),
            "plain, three shots": _arm("control", "plain", shots=[0.0, 1.0, 2.0]),
        },
        (
            Criterion(_METRIC, versus="plain", margin=0.02),
            Criterion(_BLURRED, versus="plain", margin=0.02),
        ),
    ),
    _claim(
        "scan-cnn-blur",
        "The gain of scale attention over plain convolutions is larger on strongly blurred faces than on sharp ones.",
        {"scale attention": _arm("method"), "plain": _arm("baseline", "plain")},
        (Criterion(_MOST_BLURRED, versus="plain", beyond=_METRIC, margin=0.02),),
    ),
)
