"""How far predicted surface normals point from the true ones."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

SHORT = 1e-6
"""Vectors below this length are not made longer: the gradient stays finite where a network predicts nothing."""
Vectors = Float[Tensor, "batch 3 height width"]


def surface_normal_loss(
    predicted: Vectors, normals: Vectors, valid: Bool[Tensor, "batch height width"] | None = None
) -> Float[Tensor, ""]:
    """One minus the cosine of the angle between vectors, as a mean over all valid pixels (NDDR-CNN, E7).

    The length of either vector does not matter.

    Args:
        predicted: as the network gives them, not activated.
        valid: pixels that count; those whose true normal is not zero where None.

    Examples:
        >>> import torch
        >>> up = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
        >>> surface_normal_loss(5 * up, up), surface_normal_loss(-up, up)
        (tensor(0.), tensor(2.))
    """
    predicted, normals = predicted.float(), normals.float()
    if valid is None:
        valid = (normals != 0).any(dim=1)
    # Pixels that do not count may hold anything, NaN included.
    shown = valid[:, None]
    cosine = (
        F.normalize(predicted.where(shown, 0.0), dim=1, eps=SHORT) * F.normalize(normals.where(shown, 0.0), dim=1)
    ).sum(dim=1)
    return ((1 - cosine) * valid).sum() / valid.sum().clamp(min=1)
