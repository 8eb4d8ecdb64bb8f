"""Otsu's threshold, image by image."""

import torch
from jaxtyping import Float
from torch import Tensor

LEVELS = 256


def otsu_threshold(maps: Float[Tensor, "*map height width"]) -> Float[Tensor, "*map"]:
    """The threshold, in steps of 1/255, that parts the values of each map in [0, 1] best: two classes farthest apart.

    Values from the threshold on are the upper class. It is that of scikit-image's `threshold_otsu` plus one step, as
    the value there is the last one of the lower class. A map of one value, or with a NaN, cannot be parted; its
    threshold is 0.5.

    Examples:
        >>> round(float(otsu_threshold(torch.tensor([[0.1, 0.1, 0.2], [0.8, 0.9, 0.9]])) * 255))
        52
    """
    maps = torch.where(maps.isnan().any(dim=(-2, -1), keepdim=True), 0.0, maps)
    levels = (maps.float().clamp(0, 1) * (LEVELS - 1)).round().long().flatten(-2)
    counts = torch.zeros(*levels.shape[:-1], LEVELS, dtype=torch.float64, device=maps.device)
    counts.scatter_add_(-1, levels, torch.ones_like(levels, dtype=torch.float64))
    return otsu_of_counts(counts).to(maps)


def otsu_of_counts(counts: Float[Tensor, "*map level"]) -> Float[Tensor, "*map"]:
    """The same from how often each of the 256 values occurs.

    Examples:
        >>> counts = torch.zeros(LEVELS)
        >>> counts[[20, 200]] = 5.0
        >>> round(float(otsu_of_counts(counts) * 255))
        21
    """
    counts = counts.double()
    values = torch.arange(LEVELS, dtype=torch.float64, device=counts.device)
    below, weighted = counts.cumsum(dim=-1), (counts * values).cumsum(dim=-1)
    above, all_weighted = below[..., -1:] - below, weighted[..., -1:]
    gap = weighted / below.clamp(min=1) - (all_weighted - weighted) / above.clamp(min=1)
    between = torch.where((below > 0) & (above > 0), below * above * gap.square(), -1.0)
    best, place = between.max(dim=-1)
    return torch.where(best < 0, 0.5, (place + 1).float() / (LEVELS - 1))
