"""A linear classifier of angles."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError


class CosineClassifier(nn.Module):
    """Logits from the cosine between a feature and the direction of every class (COSOC, arXiv:2107.07746, E9).

    Only directions count: neither the length of a feature nor that of a class's weight changes a logit.

    Args:
        scale: what cosines are multiplied by; learnt from there where `learn_scale`.

    Examples:
        >>> logits = CosineClassifier(16, 64)(torch.randn(2, 16))
        >>> logits.shape, bool(logits.abs().max() <= 10)
        (torch.Size([2, 64]), True)
    """

    scale: Tensor

    def __init__(self, features: int, classes: int, scale: float = 10.0, learn_scale: bool = True) -> None:
        super().__init__()
        if scale <= 0:
            raise InputError(f"scale: found {scale}, expected a positive number")
        self.weight = nn.Parameter(F.normalize(torch.randn(classes, features), dim=1))
        if learn_scale:
            self.scale = nn.Parameter(torch.tensor(float(scale)))
        else:
            self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch class"]:
        cosines = F.linear(F.normalize(features.float(), dim=-1), F.normalize(self.weight.float(), dim=-1))
        return self.scale * cosines.float()
