"""Equivariance: what is predicted for a turned image is the turned prediction.

Source: Trans-Net (arXiv:2108.00379), E8 of docs/methods/trans-net.md; EVS-Net (arXiv:2108.00384), E8 of
docs/methods/evs-net.md, which compares edges alone.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ommatid.nn.morphology import edge_band

Maps = Float[Tensor, "batch channel height width"]


def turn(maps: Maps, quarters: int) -> Maps:
    """Maps turned counter-clockwise by so many quarters of a circle.

    Examples:
        >>> turn(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 1)
        tensor([[[[2., 4.],
                  [1., 3.]]]])
    """
    return torch.rot90(maps, quarters, dims=(2, 3))


def equivariance_loss(maps: Maps, maps_of_turned: Maps, quarters: int, edge_kernel: int | None = None) -> Tensor:
    """Mean squared difference between predictions and those of turned images, turned back.

    Args:
        maps_of_turned: predicted for images turned by `quarters`.
        edge_kernel: compare the maps within this band around their edges alone; gradients also go through the band.

    Examples:
        >>> maps = torch.rand(2, 1, 4, 4)
        >>> equivariance_loss(maps, turn(maps, 1), 1)
        tensor(0.)
    """
    back = maps_of_turned if edge_kernel is None else maps_of_turned * edge_band(maps_of_turned, edge_kernel)
    maps = maps if edge_kernel is None else maps * edge_band(maps, edge_kernel)
    return (maps.float() - turn(back.float(), -quarters)).square().mean()
