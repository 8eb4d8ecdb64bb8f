"""Networks that embed faces: ResNet-IR, MobileFaceNet (arXiv:1804.07573), and a small one for small pictures.

Parameters of the first two are named as in FaceX-Zoo, the toolbox of SCAN-CNN's authors, whose weights therefore load.
Their spatial convolutions can be replaced (`ommatid.nn.scale_attention.use_scale_attention`).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError

Images = Float[Tensor, "batch channel height width"]
Maps = Float[Tensor, "batch feature rows columns"]
Made = Float[Tensor, "batch made down across"]
Embeddings = Float[Tensor, "batch dim"]
IR_UNITS = {"ir50": (3, 4, 14, 3), "ir100": (3, 13, 30, 3), "ir152": (3, 8, 36, 3)}
IR_WIDTHS = (64, 128, 256, 512)


class SmallFaceNet(nn.Module):
    """Four convolutions and a linear layer, for pictures of about 40 pixels.

    Examples:
        >>> SmallFaceNet(image_size=40)(torch.zeros(2, 1, 40, 40)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        channels: int = 1,
        image_size: int = 40,
        embedding_dim: int = 64,
        kernel_size: int = 5,
        widths: Sequence[int] = (16, 24, 32, 48),
        strides: Sequence[int] = (2, 2, 2, 1),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs, side = channels, image_size
        for width, stride in zip(widths, strides, strict=True):
            layers += [_conv(inputs, width, kernel_size, stride), nn.BatchNorm2d(width), nn.PReLU(width)]
            inputs, side = width, math.ceil(side / stride)
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(inputs * side**2, embedding_dim, bias=False)
        self.norm = nn.BatchNorm1d(embedding_dim)

    def forward(self, images: Images) -> Embeddings:
        return self.norm(self.linear(self.features(images).flatten(1)))


class ResNetIR(nn.Module):
    """Residual network of ArcFace (arXiv:1801.07698): norm first, PReLU, and all of the last map in the embedding.

    Args:
        units: residual units of every stage; `IR_UNITS` has the published ones.
        squeeze: weigh channels in every unit (squeeze-and-excitation).
        dropout: before the embedding.

    Examples:
        >>> ResNetIR((1, 1, 1, 1), image_size=32)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self,
        units: Sequence[int] = IR_UNITS["ir50"],
        channels: int = 3,
        image_size: int = 112,
        embedding_dim: int = 512,
        kernel_size: int = 3,
        squeeze: bool = False,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        first = IR_WIDTHS[0]
        self.input_layer = nn.Sequential(_conv(channels, first, kernel_size), nn.BatchNorm2d(first), nn.PReLU(first))
        blocks: list[nn.Module] = []
        inputs, side = first, image_size
        for width, count in zip(IR_WIDTHS, units, strict=True):
            for place in range(count):
                blocks.append(_UnitIR(inputs, width, 1 if place else 2, kernel_size, squeeze))
                inputs = width
            side = math.ceil(side / 2)
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(inputs * side**2, embedding_dim),
            nn.BatchNorm1d(embedding_dim),
        )

    def forward(self, images: Images) -> Embeddings:
        return self.output_layer(self.body(self.input_layer(images)))


class _UnitIR(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, kernel_size: int, squeeze: bool) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = (
            nn.MaxPool2d(1, stride)
            if inputs == width
            else nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            _conv(inputs, width, kernel_size),
            nn.PReLU(width),
            _conv(width, width, kernel_size, stride),
            nn.BatchNorm2d(width),
            *([_Squeeze(width)] if squeeze else []),
        )

    def forward(self, maps: Maps) -> Made:
        return self.res_layer(maps) + self.shortcut_layer(maps)


class _Squeeze(nn.Module):
    def __init__(self, width: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(width // reduction, width, 1, bias=False)

    def forward(self, maps: Maps) -> Maps:
        return maps * self.fc2(F.relu(self.fc1(maps.mean(dim=(2, 3), keepdim=True)))).sigmoid()


class MobileFaceNet(nn.Module):
    """MobileFaceNet: inverted residuals, and a depthwise convolution over the whole last map instead of a mean.

    Examples:
        >>> MobileFaceNet(image_size=48, embedding_dim=128)(torch.zeros(2, 3, 48, 48)).shape
        torch.Size([2, 128])
    """

    def __init__(
        self, channels: int = 3, image_size: int = 112, embedding_dim: int = 512, kernel_size: int = 3
    ) -> None:
        super().__init__()
        kernel = {"kernel_size": kernel_size}
        self.conv1 = _ConvBlock(channels, 64, stride=2, **kernel)
        self.conv2_dw = _ConvBlock(64, 64, groups=64, **kernel)
        self.conv_23 = _DepthWise(64, 64, 128, stride=2, **kernel)
        self.conv_3 = _Residual(64, 4, 128, **kernel)
        self.conv_34 = _DepthWise(64, 128, 256, stride=2, **kernel)
        self.conv_4 = _Residual(128, 6, 256, **kernel)
        self.conv_45 = _DepthWise(128, 128, 512, stride=2, **kernel)
        self.conv_5 = _Residual(128, 2, 256, **kernel)
        self.conv_6_sep = _ConvBlock(128, 512, kernel_size=1)
        self.conv_6_dw = _WholeMap(512, math.ceil(image_size / 16))
        self.linear = nn.Linear(512, embedding_dim, bias=False)
        self.bn = nn.BatchNorm1d(embedding_dim)

    def forward(self, images: Images) -> Embeddings:
        maps = self.conv2_dw(self.conv1(images))
        maps = self.conv_3(self.conv_23(maps))
        maps = self.conv_4(self.conv_34(maps))
        maps = self.conv_5(self.conv_45(maps))
        return self.bn(self.linear(self.conv_6_dw(self.conv_6_sep(maps)).flatten(1)))


class _ConvBlock(nn.Module):
    def __init__(self, inputs: int, width: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = _conv(inputs, width, kernel_size, stride, groups)
        self.bn = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)

    def forward(self, maps: Maps) -> Made:
        return self.prelu(self.bn(self.conv(maps)))


class _Project(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, maps: Maps) -> Made:
        return self.bn(self.conv(maps))


class _DepthWise(nn.Module):
    def __init__(self, inputs: int, width: int, wide: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = _ConvBlock(inputs, wide, kernel_size=1)
        self.conv_dw = _ConvBlock(wide, wide, kernel_size, stride, groups=wide)
        self.project = _Project(wide, width)

    def forward(self, maps: Maps) -> Made:
        return self.project(self.conv_dw(self.conv(maps)))


class _Residual(nn.Module):
    def __init__(self, width: int, count: int, wide: int, kernel_size: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(_DepthWise(width, width, wide, kernel_size) for _ in range(count)))

    def forward(self, maps: Maps) -> Maps:
        for block in self.model:
            maps = maps + block(maps)
        return maps


class _WholeMap(nn.Module):
    """A weighted mean of each channel's whole map: it has one place only, and no scale to look for."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.conv = _Weights(width, side)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, maps: Maps) -> Made:
        return self.bn(self.conv(maps))


class _Weights(nn.Module):
    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 1, side, side))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, maps: Maps) -> Made:
        return F.conv2d(maps, self.weight, groups=len(self.weight))


def published_face_network(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of FaceX-Zoo's ResNet-IR or MobileFaceNet under our names, with or without the head beside them.

    Raises:
        InputError: there is no such network.

    Examples:
        >>> state = {"backbone.linear.weight": torch.ones(1), "head.weight": torch.ones(1)}
        >>> list(published_face_network(state))
        ['linear.weight']
    """
    wrapped = any(name.startswith("backbone.") for name in state)
    found = {name.removeprefix("backbone."): value for name, value in state.items() if not name.startswith("head.")}
    if not found or (wrapped and not all(name.startswith(("backbone.", "head.")) for name in state)):
        raise InputError(f"state: found {', '.join(list(state)[:3]) or 'nothing'}, expected names under backbone.")
    return found


def _conv(inputs: int, width: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, width, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)


FACE_NETWORKS: dict[str, Any] = {
    "small": SmallFaceNet,
    **{name: (lambda units=units, **settings: ResNetIR(units, **settings)) for name, units in IR_UNITS.items()},
    **{
        f"{name}-se": (lambda units=units, **settings: ResNetIR(units, squeeze=True, **settings))
        for name, units in IR_UNITS.items()
    },
    "mobilefacenet": MobileFaceNet,
}
"""By name; all take `channels`, `image_size`, `embedding_dim` and `kernel_size`."""
