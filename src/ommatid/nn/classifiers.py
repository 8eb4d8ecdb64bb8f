"""Image classifiers for small images (CIFAR size and below), by the names that distillation papers use."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError, unknown

Maps = Float[Tensor, "batch channel height width"]


class CifarClassifier(nn.Module):
    """A stem, stages of falling resolution, the global mean, and one linear layer `head`."""

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module], feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.feature_dim = feature_dim
        self.head = nn.Linear(feature_dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Maps) -> Float[Tensor, "batch class"]:
        return self.head(self.forward_features(images)["pooled"])

    def forward_features(self, images: Maps) -> dict[str, Any]:
        """`{"maps": [one (batch, channel, height, width) behind each stage], "pooled": (batch, feature)}`."""
        features = self.stem(images)
        maps = [features := stage(features) for stage in self.stages]
        return {"maps": maps, "pooled": maps[-1].mean(dim=(2, 3))}


def build_cifar_classifier(name: str, num_classes: int, in_channels: int = 3, width: float = 1.0) -> CifarClassifier:
    """The classifier `name`, one of `CIFAR_CLASSIFIERS`, with fresh weights.

    Args:
        width: multiplies the channels of every layer, for students narrower than their teacher.

    Raises:
        InputError: the name is not known, or a number is not positive.

    Examples:
        >>> import torch
        >>> model = build_cifar_classifier("wrn16_1", num_classes=10)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> [tuple(maps.shape[1:]) for maps in model.forward_features(torch.zeros(1, 3, 32, 32))["maps"]]
        [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    """
    if name not in CIFAR_CLASSIFIERS:
        raise unknown("classifier", name, CIFAR_CLASSIFIERS)
    for argument, value in {"num_classes": num_classes, "in_channels": in_channels, "width": width}.items():
        if value <= 0:
            raise InputError(f"{argument}: found {value}, expected a positive number")
    parts = CIFAR_CLASSIFIERS[name](in_channels, lambda channels: max(1, round(channels * width)))
    return CifarClassifier(*parts, num_classes)


class _Parts(NamedTuple):
    stem: nn.Module
    stages: list[nn.Sequential]
    feature_dim: int


_Widen = Callable[[int], int]


def _wide_resnet(in_channels: int, widen: _Widen, depth: int, factor: int) -> _Parts:
    """Wide residual network with pre-activation (arXiv:1605.07146)."""
    stem = widen(16)
    channels = [widen(base * factor) for base in (16, 32, 64)]
    stages = _residual_stages(_PreActivationBlock, stem, channels, [(depth - 4) // 6] * 3)
    stages[-1].extend([nn.BatchNorm2d(channels[-1]), nn.ReLU()])
    return _Parts(_conv3x3(in_channels, stem), stages, channels[-1])


def _cifar_resnet(in_channels: int, widen: _Widen, depth: int) -> _Parts:
    """Residual network of three stages (arXiv:1512.03385, section 4.2), projected where the shape changes."""
    channels = [widen(base) for base in (16, 32, 64)]
    stages = _residual_stages(_BasicBlock, channels[0], channels, [(depth - 2) // 6] * 3)
    return _Parts(_conv_norm_relu(in_channels, channels[0]), stages, channels[-1])


def _resnet(in_channels: int, widen: _Widen, block: "type[_BasicBlock | _Bottleneck]", counts: Sequence[int]) -> _Parts:
    """The residual network of ImageNet (arXiv:1512.03385) with a 3x3 stem and no pooling behind it."""
    channels = [block.expansion * widen(base) for base in (64, 128, 256, 512)]
    stages = _residual_stages(block, widen(64), channels, counts)
    return _Parts(_conv_norm_relu(in_channels, widen(64)), stages, channels[-1])


def _vgg(in_channels: int, widen: _Widen, counts: Sequence[int]) -> _Parts:
    """VGG with batch norm (arXiv:1409.1556), pooled between its five stages and without hidden linear layers."""
    stages: list[nn.Sequential] = []
    before = in_channels
    for count, base in zip(counts, (64, 128, 256, 512, 512), strict=True):
        widths = [before, *[widen(base)] * count]
        pool = [nn.MaxPool2d(2)] if stages else []
        stages.append(nn.Sequential(*pool, *(_conv_norm_relu(a, b) for a, b in pairwise(widths))))
        before = widths[-1]
    return _Parts(nn.Identity(), stages, before)


def _digits_cnn(in_channels: int, widen: _Widen) -> _Parts:
    """Four convolutions: enough for handwritten digits, with several batch norms to invert."""
    widths = [in_channels, *map(widen, (16, 32, 32, 64))]
    stages = [_conv_norm_relu(a, b, stride) for (a, b), stride in zip(pairwise(widths), (1, 2, 1, 2), strict=True)]
    return _Parts(nn.Identity(), stages, widths[-1])


class _PreActivationBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = None if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        active = F.relu(self.norm1(features))
        residual = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return residual + (self.shortcut(active) if self.shortcut else features)


class _BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_conv_norm_relu(in_channels, out_channels, stride),
            _conv3x3(out_channels, out_channels),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = _projection(in_channels, out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.residual(features) + self.shortcut(features))


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        inner = out_channels // self.expansion
        self.residual = nn.Sequential(
            *(nn.Conv2d(in_channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()),
            *_conv_norm_relu(inner, inner, stride),
            *(nn.Conv2d(inner, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)),
        )
        self.shortcut = _projection(in_channels, out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.residual(features) + self.shortcut(features))


def _residual_stages(
    block: Callable[[int, int, int], nn.Module], in_channels: int, channels: Sequence[int], counts: Sequence[int]
) -> list[nn.Sequential]:
    """One stage per width; every stage but the first halves the resolution in its first block."""
    stages: list[nn.Sequential] = []
    for (before, after), count in zip(pairwise([in_channels, *channels]), counts, strict=True):
        first = block(before, after, 2 if stages else 1)
        stages.append(nn.Sequential(first, *(block(after, after, 1) for _ in range(count - 1))))
    return stages


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def _conv_norm_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv3x3(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels), nn.ReLU())


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


CIFAR_CLASSIFIERS: dict[str, Callable[[int, _Widen], _Parts]] = {
    "digits_cnn": _digits_cnn,
    "resnet18": partial(_resnet, block=_BasicBlock, counts=(2, 2, 2, 2)),
    "resnet20": partial(_cifar_resnet, depth=20),
    "resnet34": partial(_resnet, block=_BasicBlock, counts=(3, 4, 6, 3)),
    "resnet50": partial(_resnet, block=_Bottleneck, counts=(3, 4, 6, 3)),
    "resnet56": partial(_cifar_resnet, depth=56),
    "vgg11_bn": partial(_vgg, counts=(1, 1, 2, 2, 2)),
    "vgg8_bn": partial(_vgg, counts=(1, 1, 1, 1, 1)),
    "wrn16_1": partial(_wide_resnet, depth=16, factor=1),
    "wrn16_2": partial(_wide_resnet, depth=16, factor=2),
    "wrn40_1": partial(_wide_resnet, depth=40, factor=1),
    "wrn40_2": partial(_wide_resnet, depth=40, factor=2),
}
