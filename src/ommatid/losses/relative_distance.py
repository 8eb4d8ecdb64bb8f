"""Keeping how far samples and classes lie from each other when features are mapped into another space."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def relative_distance_loss(
    features: Float[Tensor, "batch feature"],
    centers: Float[Tensor, "class feature"],
    latents: Float[Tensor, "batch latent"],
    latent_centers: Float[Tensor, "class latent"],
) -> Float[Tensor, ""]:
    """How much the distances of samples to class centres, and of centres to each other, change (SA-GAN,
    arXiv:2108.07032, E4).

    Distances of each of the four tables are divided by their mean, and those of both spaces compared by the smooth L1
    loss. What only scales, turns or shifts everything therefore costs nothing.

    Args:
        centers, latent_centers: of the same classes in the same order; one class alone has no distances to others.

    Examples:
        >>> points, centers = torch.randn(6, 3), torch.randn(4, 3)
        >>> bool(relative_distance_loss(points, centers, 5 * points + 2, 5 * centers + 2) < 1e-8)
        True
    """
    placed = _change(_to_centers(features, centers), _to_centers(latents, latent_centers))
    if len(centers) < 2:
        return placed
    return placed + _change(F.pdist(_single(centers)), F.pdist(_single(latent_centers)))


def _to_centers(points: Tensor, centers: Tensor) -> Tensor:
    return torch.cdist(_single(points), _single(centers))


def _change(before: Tensor, after: Tensor) -> Tensor:
    return F.smooth_l1_loss(_relative(after), _relative(before))


def _relative(distances: Tensor) -> Tensor:
    return distances / distances.mean().clamp(min=torch.finfo(distances.dtype).tiny)


def _single(values: Tensor) -> Tensor:
    """Single precision at least: distances are differences of large numbers."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
