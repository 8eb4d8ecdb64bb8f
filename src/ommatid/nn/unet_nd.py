"""A U-Net of slices and volumes, as nnU-Net lays it out (arXiv:1809.10486)."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError

SLOPE = 0.01
MOST_SUPERVISED = 3
CONVOLUTIONS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}

Maps = Float[Tensor, "batch _ *_"]


class UNetND(nn.Module):
    """Volume to logits of the same size, whatever the size is; 2-D slices or 3-D volumes.

    Levels have two convolutions of side 3 with instance norm and leaky ReLU; the first halves by its stride, a
    transposed convolution doubles. In deep supervision the finest maps on the way up, three at most, give logits each.

    Args:
        dimensions: 2 or 3.
        widths: channels of every level, the finest first.
        in_plane: how many of the first halvings leave the last axis as it is, for slices that lie far apart.

    Examples:
        >>> network = UNetND(2, in_channels=1, outputs=3, widths=(10, 20, 40))
        >>> network(torch.rand(2, 1, 33, 31)).shape
        torch.Size([2, 3, 33, 31])
        >>> [tuple(logits.shape[2:]) for logits in network.supervised(torch.rand(2, 1, 33, 31))]
        [(33, 31), (17, 16)]
        >>> thick = UNetND(3, 1, 2, (4, 8, 8), in_plane=1)
        >>> [tuple(logits.shape[2:]) for logits in thick.supervised(torch.rand(1, 1, 16, 16, 6))]
        [(16, 16, 6), (8, 8, 6)]
    """

    def __init__(
        self, dimensions: int, in_channels: int, outputs: int, widths: Sequence[int], in_plane: int = 0
    ) -> None:
        super().__init__()
        if dimensions not in CONVOLUTIONS:
            raise InputError(f"dimensions must be 2 or 3, found {dimensions}")
        if len(widths) < 2:
            raise InputError(f"widths: found {len(widths)} levels, expected 2 at least")
        if not 0 <= in_plane < len(widths):
            raise InputError(f"in_plane must lie from 0 to {len(widths) - 1}, the number of halvings, found {in_plane}")
        whole, flat = (2,) * dimensions, (2,) * (dimensions - 1) + (1,)
        self.dimensions, self.strides = dimensions, [flat] * in_plane + [whole] * (len(widths) - 1 - in_plane)
        steps = list(zip(widths[:-1], widths[1:], self.strides, strict=True))
        self.down = nn.ModuleList([two_convolutions(dimensions, in_channels, widths[0], (1,) * dimensions)])
        self.down.extend(two_convolutions(dimensions, fine, coarse, stride) for fine, coarse, stride in steps)
        self.enlarge = nn.ModuleList(
            TRANSPOSED[dimensions](coarse, fine, stride, stride, bias=False) for fine, coarse, stride in steps
        )
        self.up = nn.ModuleList(two_convolutions(dimensions, 2 * fine, fine, (1,) * dimensions) for fine, *_ in steps)
        supervised = min(MOST_SUPERVISED, len(steps))
        self.heads = nn.ModuleList(CONVOLUTIONS[dimensions](width, outputs, 1) for width in widths[:supervised])
        self.apply(_initialise)

    def forward(self, images: Maps) -> Maps:
        return self.heads[0](self.ascend(images)[0])

    def supervised(self, images: Maps) -> list[Maps]:
        """Logits of the finest levels, each half as large as the one before."""
        # The coarsest first on the way up; there may be more of them than heads.
        return [head(maps) for head, maps in zip(self.heads, self.ascend(images), strict=False)]

    def ascend(self, images: Maps) -> list[Maps]:
        """Maps of every level on the way up, the finest first."""
        self.check_size(images.shape[2:])
        skipped = [self.down[0](images)]
        for level in self.down[1:]:
            skipped.append(level(skipped[-1]))
        merged, found = skipped.pop(), []
        for enlarge, level in zip(reversed(self.enlarge), reversed(self.up), strict=True):
            finer = skipped.pop()
            # Half of an odd size is rounded up: its double has a row too many.
            larger = enlarge(merged)[(..., *(slice(size) for size in finer.shape[2:]))]
            merged = level(torch.cat([larger, finer], dim=1))
            found.append(merged)
        return found[::-1]

    def check_size(self, size: Sequence[int]) -> None:
        """Raises:
        InputError: nothing would be left on the coarsest level for its norm to compare.
        """
        factors = [prod(stride[axis] for stride in self.strides) for axis in range(self.dimensions)]
        if prod(-(-length // factor) for length, factor in zip(size, factors, strict=True)) < 2:
            raise InputError(
                f"found a volume of {' x '.join(map(str, size))} voxels, expected more than "
                f"{' x '.join(map(str, factors))} for a network of {len(self.down)} levels"
            )


def two_convolutions(dimensions: int, inputs: int, outputs: int, stride: Sequence[int]) -> nn.Sequential:
    """The first convolution has the stride; a bias would be lost in the norm."""
    layers: list[nn.Module] = []
    for channels, step in ((inputs, tuple(stride)), (outputs, (1,) * dimensions)):
        layers.append(CONVOLUTIONS[dimensions](channels, outputs, 3, step, padding=1, bias=False))
        layers += [NORMS[dimensions](outputs, affine=True), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
