"""Grey morphology by max pooling: erosion, dilation and the band between them, differentiable in the mask.

Source: Trans-Net (arXiv:2108.00379), E3 of docs/methods/trans-net.md; EVS-Net (arXiv:2108.00384), E8 of
docs/methods/evs-net.md.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ommatid.errors import InputError

Mask = Float[Tensor, "batch 1 height width"]


def dilate(mask: Mask, kernel: int) -> Mask:
    """The largest value in a square window around every pixel; nothing lies beyond the border.

    Args:
        kernel: side of the window in pixels, odd.

    Raises:
        InputError: the kernel is even or below 1.

    Examples:
        >>> import torch
        >>> dilate(torch.tensor([[[[0.0, 0.0, 1.0, 0.0, 0.0]]]]), 3)
        tensor([[[[0., 1., 1., 1., 0.]]]])
    """
    return F.max_pool2d(mask, checked(kernel), stride=1, padding=kernel // 2)


def erode(mask: Mask, kernel: int) -> Mask:
    """The smallest value in a square window around every pixel; what lies beyond the border does not count.

    Examples:
        >>> import torch
        >>> erode(torch.tensor([[[[0.0, 1.0, 1.0, 1.0, 1.0]]]]), 3)
        tensor([[[[0., 0., 1., 1., 1.]]]])
    """
    return -F.max_pool2d(-mask, checked(kernel), stride=1, padding=kernel // 2)


def edge_band(mask: Mask, kernel: int = 5) -> Mask:
    """Where the mask changes: its dilation minus its erosion, the morphological gradient.

    Examples:
        >>> import torch
        >>> edge_band(torch.tensor([[[[0.0, 0.0, 0.0, 1.0, 1.0]]]]), 3)
        tensor([[[[0., 0., 1., 1., 0.]]]])
    """
    return dilate(mask, kernel) - erode(mask, kernel)


def checked(kernel: int) -> int:
    if kernel < 1 or kernel % 2 == 0:
        raise InputError(f"kernel must be odd and at least 1, found {kernel}")
    return kernel
