"""A U-Net (arXiv:1505.04597) in two halves, so that something can stand between them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError

Maps = Float[Tensor, "batch _ _ _"]


class UNetEncoder(nn.Module):
    """Maps of every level, the finest first: two convolutions each, halved by max pooling between levels.

    Examples:
        >>> [tuple(maps.shape) for maps in UNetEncoder(3, (8, 16, 32))(torch.rand(2, 3, 32, 32))]
        [(2, 8, 32, 32), (2, 16, 16, 16), (2, 32, 8, 8)]
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        if not widths:
            raise InputError("widths: found none, expected the channels of one level or more")
        self.widths = tuple(widths)
        inputs = (in_channels, *self.widths[:-1])
        self.levels = nn.ModuleList(two_convolutions(a, b) for a, b in zip(inputs, self.widths, strict=True))

    def forward(self, images: Maps) -> list[Maps]:
        found = [self.levels[0](images)]
        for level in self.levels[1:]:
            found.append(level(F.max_pool2d(found[-1], 2)))
        return found


class UNetDecoder(nn.Module):
    """Logits in the size of the finest maps: each level is enlarged and joined with the next finer one."""

    def __init__(self, widths: Sequence[int], outputs: int = 1) -> None:
        super().__init__()
        finer = list(widths[:-1])[::-1]
        coarser = list(widths)[:0:-1]
        self.levels = nn.ModuleList(two_convolutions(a + b, b) for a, b in zip(coarser, finer, strict=True))
        self.head = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, maps: Sequence[Maps]) -> Maps:
        *finer, merged = maps
        for level, skipped in zip(self.levels, reversed(finer), strict=True):
            larger = F.interpolate(merged, skipped.shape[2:], mode="bilinear", align_corners=False)
            merged = level(torch.cat([larger, skipped], dim=1))
        return self.head(merged)


class UNet(nn.Module):
    """Image to logits of the same size, whatever the size is.

    Args:
        widths: channels of every level, the finest first.

    Examples:
        >>> UNet(3, (8, 16, 32))(torch.rand(2, 3, 33, 31)).shape
        torch.Size([2, 1, 33, 31])
    """

    def __init__(self, in_channels: int = 3, widths: Sequence[int] = (8, 16, 32), outputs: int = 1) -> None:
        super().__init__()
        self.encoder = UNetEncoder(in_channels, widths)
        self.decoder = UNetDecoder(widths, outputs)

    def forward(self, images: Maps) -> Maps:
        return self.decoder(self.encoder(images))


def two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)
