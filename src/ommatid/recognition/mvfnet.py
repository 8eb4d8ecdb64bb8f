"""MVFNet: Multi-View Fusion Network for Efficient Video Recognition (arXiv:2012.06977, AAAI 2021).

A network on images sees height and width of every frame. In front of the first convolution of its residual units, a
share of the channels is also filtered along time, height and width, each by a depth-wise kernel of three taps (E1-E3):
features of one frame learn of its neighbours at nearly no cost. Scores of a clip are the mean over its frames (E5). The
network of images, a network of temporal convolutions and one of temporal shifts are special cases. Equation numbers
refer to docs/methods/mvfnet.md.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.data.images import IMAGENET
from ommatid.data.worlds.motion import OPPOSITE
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.nn.macs import count_macs
from ommatid.nn.multi_view_fusion import MultiViewFusion, Views, published_fusion
from ommatid.nn.normalise import Normalise
from ommatid.nn.video import as_video_model
from ommatid.recognition.backbones import timm_backbone
from ommatid.recognition.clip_classifier import ClipClassifier
from ommatid.recognition.clip_data import ClipData, WorldClips
from ommatid.recognition.task import ClipBatch

Clips = Float[Tensor, "batch time 3 height width"]


class MVFNet(ClipClassifier):
    """Multi-view fusion (arXiv:2012.06977): depth-wise kernels along time, height and width inside a 2D network.

    Args:
        num_classes, clip_length: as the data have them.
        backbone: any CNN of timm, or "small", four residual units for clips of 32 pixels.
        weights: of the backbone: None for random ones, "pretrained" for timm's, or a file of them.
        alpha: share of the channels that is filtered; 0 is the network of images (C2D).
        views: axes with a kernel of their own; "HW" leaves time out, a control of nearly equal size.
        shared: use the kernel of time along the other axes, too.
        activation: norm and hard swish behind the sum of the views.
        stages: resolutions of the backbone, from the coarsest, whose units are filtered.
        dropout: before the classifier.
        recipe: optimiser and schedule.
    """

    embedded = {
        "model": {
            "backbone": "small",
            "alpha": 0.5,
            "stages": 4,
            "dropout": 0.0,
            "recipe": {"lr": 0.05, "weight_decay": 1e-4, "schedule": "onecycle", "clip_norm": None},
        },
        "data": {"size": 32, "clip_length": 8, "flip": False, "batch_size": 16},
        "trainer": {"max_steps": 600, "max_epochs": -1},
    }

    def __init__(
        self,
        num_classes: int = 400,
        clip_length: int = 8,
        backbone: str = "resnet50",
        weights: str | None = None,
        alpha: float = 0.125,
        views: Views = "THW",
        shared: bool = False,
        activation: bool = True,
        stages: int = 2,
        dropout: float = 0.5,
        recipe: Recipe = Recipe(
            "nesterov", lr=0.015, weight_decay=1e-4, schedule="step", milestones=(0.6, 13 / 15), clip_norm=40.0
        ),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.normalise = Normalise(*IMAGENET)
        network, width = _features(backbone, weights)
        fusion = partial(MultiViewFusion, alpha=alpha, views=views, shared=shared, activation=activation)
        # Weights of the 2D network are there before the views are (E4).
        self.frames = as_video_model(network, fusion, clip_length, stages=stages, size=_DRY_RUN.get(backbone, 128))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, clips: Clips) -> Float[Tensor, "batch class"]:
        """Logits of a clip: the mean over its frames (E5)."""
        features = self.frames.each(self.normalise(clips))
        return self.head(self.dropout(features)).mean(dim=1)

    def training_step(self, batch: ClipBatch, _: int) -> Tensor:
        """Cross-entropy of the clip's mean score."""
        loss = F.cross_entropy(self(batch.clips.flatten(0, 1)).float(), batch.labels)
        self.report(loss=loss)
        return loss

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return published_mvfnet(state, self.state_dict())

    def read_outs(self, data: DataModule) -> dict[str, float]:
        """Multiply-adds of one clip; where clips are rendered, what becomes of them backwards and in no order at all:
        how often the opposite class is named, how often the right one, and how often the right axis of motion.
        """
        assert isinstance(data, ClipData)
        clip = torch.zeros(1, data.sampling.clip_length, 3, data.sampling.size, data.sampling.size, device=self.device)
        found = {"MMACs": count_macs(self, clip) / 1e6}
        return found | (self._without_order(data) if data.root is None else {})

    @torch.no_grad()
    def _without_order(self, data: ClipData) -> dict[str, float]:
        self.eval()
        opposite = torch.tensor(OPPOSITE)
        generator = torch.Generator().manual_seed(0)
        hits: dict[str, list[Tensor]] = {"reversed, opposite class": [], "shuffled, top1": [], "shuffled, axis": []}
        rendered = data.dataset("test")
        assert isinstance(rendered, WorldClips)
        clips, labels = rendered.clips, rendered.labels
        for part, truth in zip(clips.split(64), labels.split(64), strict=True):
            frames = part.float().to(self.device) / 255
            order = torch.randperm(frames.shape[1], generator=generator)
            backwards, shuffled = (self(each).argmax(dim=1).cpu() for each in (frames.flip(1), frames[:, order]))
            hits["reversed, opposite class"].append(backwards == opposite[truth])
            hits["shuffled, top1"].append(shuffled == truth)
            hits["shuffled, axis"].append((shuffled == truth) | (shuffled == opposite[truth]))
        return {name: float(torch.cat(values).float().mean()) for name, values in hits.items()}


_DRY_RUN = {"small": 32}
"""Height and width on which a backbone is run once to see its sizes, where 128 is too much."""


def _features(backbone: str, weights: str | None) -> tuple[nn.Module, int]:
    """A network that gives one vector an image, and the width of that vector."""
    if backbone == "small":
        return SmallResNet(), 64
    return timm_backbone(backbone, weights)


class SmallResNet(nn.Module):
    """A stem and four bottleneck units at two resolutions: 64 features of an image of 32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.resnet import Bottleneck

        def unit(channels: int, planes: int, stride: int) -> nn.Module:
            shortcut = None
            if stride > 1 or channels != 4 * planes:
                convolution = nn.Conv2d(channels, 4 * planes, 1, stride, bias=False)
                shortcut = nn.Sequential(convolution, nn.BatchNorm2d(4 * planes))
            return Bottleneck(channels, planes, stride, shortcut)

        self.stem = nn.Sequential(nn.Conv2d(3, 16, 5, 2, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layer1 = nn.Sequential(unit(16, 8, 1), unit(32, 8, 1))
        self.layer2 = nn.Sequential(unit(32, 16, 2), unit(64, 16, 1))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 64"]:
        return self.layer2(self.layer1(self.stem(images))).mean(dim=(2, 3))


def published_mvfnet(state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' checkpoint of a residual network under our names.

    Args:
        ours: our state, from which come the constants that theirs does not hold.
    """
    known = {key.removeprefix("module.").removeprefix("backbone."): value for key, value in state.items()}
    fused = {key.rpartition(".conv1.")[0] for key in known if ".conv1.shift_conv." in key}
    found = {name: value for name, value in ours.items() if name.startswith("normalise.") or name.endswith("_tracked")}
    inside: dict[str, dict[str, Tensor]] = {unit: {} for unit in fused}
    for key, value in known.items():
        unit, _, rest = key.partition(".conv1.")
        head = _head(key)
        if head is not None:
            found[head] = value
        elif unit not in fused:
            found[f"frames.network.{key}"] = value
        elif rest == "net.weight":
            found[f"frames.network.{unit}.conv1.layer.weight"] = value
        else:
            inside[unit][rest] = value
    for unit, parameters in inside.items():
        found |= {
            f"frames.network.{unit}.conv1.block.{name}": value for name, value in published_fusion(parameters).items()
        }
    return found


def _head(key: str) -> str | None:
    """The classifier goes by several names in the authors' code base."""
    for name in ("cls_head.new_fc.", "cls_head.fc_cls.", "new_fc.", "fc."):
        if key.startswith(name):
            return f"head.{key.removeprefix(name)}"
    return None


_METRIC = "top1"
_MODEL = {name: value for name, value in MVFNet.embedded["model"].items() if name not in ("alpha", "recipe")}


def _arm(role: Any, **settings: Any) -> Arm:
    return Arm(role, {**_MODEL, **settings})


MVFNet.claims = (
    Claim(
        name="mvfnet",
        statement="Multi-view fusion lifts a 2D network from chance to near-perfect on labels that lie in motion "
        "alone, which kernels along height and width do not.",
        arms={
            "time, height, width": _arm("method", alpha=0.5),
            "2D": _arm("baseline", alpha=0.0),
            "height, width": _arm("control", alpha=0.5, views="HW"),
            "time": _arm("ablation", alpha=0.5, views="T"),
            "time, height": _arm("ablation", alpha=0.5, views="TH"),
            "time, height, width, one kernel": _arm("ablation", alpha=0.5, shared=True),
            "an eighth: time, height, width": _arm("reported", alpha=0.125),
            "an eighth: time": _arm("reported", alpha=0.125, views="T"),
        },
        criteria=(
            Criterion(_METRIC, versus="2D", margin=0.5),
            Criterion(_METRIC, versus="height, width", margin=0.5),
        ),
        model={"recipe": MVFNet.embedded["model"]["recipe"]},
        data=MVFNet.embedded["data"],
        trainer=MVFNet.embedded["trainer"],
        tuning={"recipe.lr": (0.02, 0.05, 0.1)},
        shown=(_METRIC, "MMACs", "reversed, opposite class", "shuffled, top1", "shuffled, axis"),
        source="docs/methods/mvfnet.md, claim",
    ),
)
