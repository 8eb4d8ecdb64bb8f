"""From a score at every step to ranked moments."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.nn.running import running_maximum

LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def min_max(
    curve: Float[Tensor, "... time"], mask: Bool[Tensor, "... time"], eps: float = 1e-6
) -> Float[Tensor, "... time"]:
    """Each curve stretched to [0, 1] over its valid steps; 0 where padded, and all 0 where it is constant.

    Examples:
        >>> min_max(torch.tensor([1.0, 3.0, 2.0, 9.0]), torch.tensor([True, True, True, False]))
        tensor([0.0000, 1.0000, 0.5000, 0.0000])
    """
    low = curve.masked_fill(~mask, float("inf")).amin(dim=-1, keepdim=True)
    high = curve.masked_fill(~mask, float("-inf")).amax(dim=-1, keepdim=True)
    stretched = (curve - low) / (high - low).clamp(min=eps)
    return torch.where(mask, stretched, 0.0)


def curve_to_segments(
    curve: Float[Tensor, "row time"],
    mask: Bool[Tensor, "row time"],
    levels: Sequence[float] = LEVELS,
    band: float = 0.25,
    shortest: int = 1,
    count: int = 50,
) -> tuple[Int[Tensor, "row moment 2"], Float[Tensor, "row moment"]]:
    """Maximal runs above several levels, scored by how much they stand out from what surrounds them (DSCNet E16).

    The score of a run is its mean minus the mean of a band on either side of it, `band` of its length each (at least
    one step); where the video ends on both sides, the band counts as zero.

    Args:
        curve: min-max normalised, see `min_max`.
        levels: of which runs are taken; equal runs of several levels count once.
        shortest: runs of fewer steps are left out.
        count: how many are kept of each row.

    Returns:
        First step and the one behind the last, best first; empty runs of score -inf fill up.

    Examples:
        >>> curve = torch.tensor([[0.0, 0.9, 1.0, 0.0, 0.45, 0.0]])
        >>> runs, scores = curve_to_segments(curve, torch.ones(1, 6, dtype=torch.bool), levels=(0.4, 0.8), count=3)
        >>> runs[0].tolist(), scores[0].tolist()
        ([[1, 3], [4, 5], [0, 0]], [0.949999988079071, 0.44999998807907104, -inf])
    """
    steps = curve.shape[1]
    levels_of = torch.as_tensor(levels, device=curve.device, dtype=curve.dtype)
    above = (curve[:, None] >= levels_of[:, None]) & mask[:, None]
    # A run that starts here ends before the next step that is not above: the smallest such index from here on.
    position = torch.arange(steps, device=curve.device)
    below = torch.where(above, steps, position)
    end = -running_maximum(-below.flip(-1)).flip(-1)
    before = torch.nn.functional.pad(above[..., :-1], (1, 0))
    starts = above & ~before & (end - position >= shortest)
    # The same run on a higher level adds nothing.
    repeated = (starts[:, 1:] & starts[:, :-1]) & (end[:, 1:] == end[:, :-1])
    starts[:, 1:] &= ~repeated

    start = position.expand_as(end).flatten(1)
    end = end.flatten(1)
    total = torch.nn.functional.pad((curve * mask).double().cumsum(dim=-1), (1, 0))
    valid = mask.sum(dim=1, keepdim=True)
    width = ((end - start) * band).round().long().clamp(min=1)
    left, right = (start - width).clamp(min=0), torch.minimum(end + width, valid)
    inside = _sum(total, start, end) / (end - start).clamp(min=1)
    outside = (_sum(total, left, start) + _sum(total, end, right)) / ((start - left) + (right - end)).clamp(min=1)
    scores = (inside - outside).to(curve.dtype).masked_fill(~starts.flatten(1), float("-inf"))

    kept = min(count, scores.shape[1])
    best = scores.sort(dim=1, descending=True, stable=True)
    chosen, order = best.values[:, :kept], best.indices[:, :kept]
    runs = torch.stack([start.gather(1, order), end.gather(1, order)], dim=-1)
    runs = runs.masked_fill(~torch.isfinite(chosen)[..., None], 0)
    fill = (0, count - kept)
    return torch.nn.functional.pad(runs, (0, 0, *fill)), torch.nn.functional.pad(chosen, fill, value=float("-inf"))


def _sum(total: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Sums over half-open ranges from running totals."""
    end = torch.maximum(start, end)
    return total.gather(1, end) - total.gather(1, start)
