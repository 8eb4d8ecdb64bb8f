"""Visformer: The Vision-friendly Transformer (arXiv:2104.12533, ICCV 2021).

A transformer that learns from few images, found by walking from DeiT-S to a residual network and keeping what helps:
stages of falling resolution (E2), batch norm, convolutions instead of attention where resolution is high (E3), and
attention on maps where it is low (E4). The networks stand in `ommatid.nn.visformer` and `ommatid.nn.visformer_v2`; here
they are trained. Equation numbers refer to docs/methods/visformer.md.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.classification.augment import mixed
from ommatid.classification.classifier import ImageClassifier
from ommatid.classification.task import ImageBatch
from ommatid.data.images import IMAGENET
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import unknown
from ommatid.nn.macs import count_macs
from ommatid.nn.normalise import Normalise
from ommatid.nn.visformer import (
    TRANSITION,
    Visformer,
    load_published_visformer,
    transition_net,
    visformer_small,
    visformer_tiny,
)
from ommatid.nn.visformer_v2 import (
    load_published_visformer_v2,
    visformer_v2_medium,
    visformer_v2_small,
    visformer_v2_tiny,
)

Images = Float[Tensor, "batch channel height width"]
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "tiny": visformer_tiny,
    "small": visformer_small,
    "v2-tiny": visformer_v2_tiny,
    "v2-small": visformer_v2_small,
    "v2-medium": visformer_v2_medium,
    "plain": Visformer,
}


class VisformerClassifier(ImageClassifier):
    """Visformer (arXiv:2104.12533): stages, batch norm and early convolutions make a transformer learn from few images.

    Args:
        num_classes, channels, image_size, mean, std: as the data have them.
        network: "tiny", "small", "v2-tiny", "v2-small", "v2-medium", or a step of the transition from a transformer to
            it, "deit-s", "net1" to "net7"; "plain" has nothing but `settings`.
        settings: replace arguments of the network (`ommatid.nn.visformer.Visformer`).
        drop_path: how often a sample skips the last block in training; rises linearly from 0.
        smoothing: of the labels.
        mixup, cutmix: Beta parameters of mixing pairs of images; 0 for none.
        recipe: optimiser and schedule; the learning rate is that of 512 images an update.
    """

    embedded = {
        "model": {
            "network": "plain",
            "settings": {
                "stem_channels": 16,
                "embed_dim": 64,
                "depths": [2, 2, 2],
                "num_heads": 4,
                "patch_strides": [2, 2, 2],
            },
            "drop_path": 0.0,
            "mixup": 0.0,
            "cutmix": 0.0,
            "recipe": {"lr": 1e-3, "per": "step", "warmup_steps": 30},
        },
        "data": {
            "embedded": "world-shapes",
            "world": {"train": 4000, "val": 500, "test": 1000},
            "augment": "shift",
            "batch_size": 64,
        },
        "trainer": {"max_steps": 600, "max_epochs": -1},
    }

    def __init__(
        self,
        num_classes: int = 1000,
        channels: int = 3,
        image_size: int = 224,
        mean: tuple[float, ...] = IMAGENET[0],
        std: tuple[float, ...] = IMAGENET[1],
        network: str = "small",
        settings: dict[str, Any] | None = None,
        drop_path: float = 0.1,
        smoothing: float = 0.1,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        recipe: Recipe = Recipe("adamw", lr=5e-4, weight_decay=0.05, schedule="cosine", per="epoch", warmup_steps=5),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        if network not in NETWORKS and network not in ("deit-s", *TRANSITION):
            raise unknown("network", network, [*NETWORKS, "deit-s", *TRANSITION])
        make = NETWORKS.get(network) or _step_of_transition(network)
        names = {"drop_path": "drop_path_rate", "in_channels": "in_chans"} if network == "deit-s" else {}
        given = {"img_size": image_size, "in_channels": channels, "num_classes": num_classes, "drop_path": drop_path}
        self.normalise = Normalise(mean, std)
        self.network = make(**{names.get(name, name): value for name, value in given.items()}, **(settings or {}))

    def forward(self, images: Images) -> Float[Tensor, "batch class"]:
        return self.network(self.normalise(images))

    def training_step(self, batch: ImageBatch, _: int) -> Tensor:
        """Cross-entropy with smoothed labels, those of mixed images mixed alike."""
        images, labels = self.mix(batch.images, batch.labels)
        loss = F.cross_entropy(self(images).float(), labels, label_smoothing=self.hparams.smoothing)
        self.report(loss=loss)
        return loss

    @cached_property
    def mix(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What pairs of images and labels go through in training."""
        return mixed(self.hparams.num_classes, self.hparams.mixup, self.hparams.cutmix)

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        rename = load_published_visformer_v2 if self.hparams.network.startswith("v2") else load_published_visformer
        constants = {name: value for name, value in self.state_dict().items() if name.startswith("normalise.")}
        counters = {name: value for name, value in self.state_dict().items() if name.endswith("num_batches_tracked")}
        return counters | constants | {f"network.{name}": value for name, value in rename(state).items()}

    def read_outs(self, data: DataModule) -> dict[str, float]:
        """Millions of multiply-adds of one image."""
        size = self.hparams.image_size
        image = torch.zeros(1, self.hparams.channels, size, size, device=self.device)
        return {"MMACs": count_macs(self, image) / 1e6}


def _step_of_transition(network: str) -> Callable[..., nn.Module]:
    return lambda **settings: transition_net(network, **settings)


_METRIC = "top1"
_RECIPE = {**VisformerClassifier.embedded["model"]["recipe"], "weight_decay": 0.05}
_COMMON: dict[str, Any] = {"network": "plain", "drop_path": 0.0, "mixup": 0.0, "cutmix": 0.0}
_SMALL = VisformerClassifier.embedded["model"]["settings"]
_CONVOLUTIONS = {
    **_SMALL,
    "depths": [2, 3, 3],
    "attention_stages": [False] * 3,
    "convolution_stages": [True] * 3,
}
_VIT: dict[str, Any] = {
    "stem_channels": None,
    "embed_dim": 48,
    "depths": [3],
    "num_heads": 4,
    "patch_strides": [4],
    "attention_stages": [True],
    "convolution_stages": [False],
    "norm": "layer",
    "embedding_norm": False,
}
_VIT_LARGE = {**_VIT, "embed_dim": 96, "depths": [5]}
_WORLD = VisformerClassifier.embedded["data"]["world"]
_MANY: dict[str, Any] = {"world": _WORLD}
_FEW: dict[str, Any] = {"world": {**_WORLD, "train": 800}}


def _arm(role: Any, settings: dict[str, Any], data: dict[str, Any] | None = None) -> Arm:
    return Arm(role, {**_COMMON, "settings": settings}, data or {})


def _claim(name: str, statement: str, arms: dict[str, Arm], criteria: tuple[Criterion, ...], data: Any) -> Claim:
    return Claim(
        name=name,
        statement=statement,
        arms=arms,
        criteria=criteria,
        model={"recipe": _RECIPE},
        data={**VisformerClassifier.embedded["data"], **data},
        trainer=VisformerClassifier.embedded["trainer"],
        tuning={"recipe.lr": (5e-4, 1e-3, 2e-3)},
        shown=(_METRIC, "top5", "MMACs"),
        source="docs/methods/visformer.md, claim",
    )


VisformerClassifier.claims = (
    _claim(
        "visformer",
        "At no more multiply-adds Visformer is more accurate than a transformer trained from scratch, also than one "
        "with as many parameters.",
        {
            "visformer": _arm("method", _SMALL),
            "transformer": _arm("baseline", _VIT),
            "transformer, as many parameters": _arm("control", _VIT_LARGE),
            "convolutions alone": _arm("reported", _CONVOLUTIONS),
        },
        (
            Criterion(_METRIC, versus="transformer", margin=0.05),
            Criterion(_METRIC, versus="transformer, as many parameters", margin=0.05),
        ),
        _MANY,
    ),
    _claim(
        "visformer-few",
        "With 800 training images Visformer's margin over a transformer of no fewer multiply-adds is larger than with "
        "4,000.",
        {
            "visformer": _arm("method", _SMALL),
            "transformer": _arm("baseline", _VIT),
            "convolutions alone": _arm("reported", _CONVOLUTIONS),
            "4,000: visformer": _arm("control", _SMALL, _MANY),
            "4,000: transformer": _arm("control", _VIT, _MANY),
        },
        (
            Criterion(_METRIC, versus="transformer", margin=0.05),
            Criterion(
                _METRIC, versus="transformer", margin=0.02, beyond_arms=("4,000: visformer", "4,000: transformer")
            ),
        ),
        _FEW,
    ),
)
