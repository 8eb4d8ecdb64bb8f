"""Image normalisation as a layer, so that everything before the network stays in [0, 1]."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalise(nn.Module):
    """Subtract the mean and divide by the deviation of each channel; both travel with the weights.

    Examples:
        >>> model = nn.Sequential(Normalise([0.5], [0.25]), nn.Flatten())
        >>> model(torch.ones(1, 1, 1, 2))
        tensor([[2., 2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(
        self, images: Float[Tensor, "*batch channel height width"]
    ) -> Float[Tensor, "*batch channel height width"]:
        return (images - self.mean) / self.std
