"""Detection average precision over temporal overlap, as ActivityNet's evaluation computes it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ommatid.errors import InputError
from ommatid.grounding.metrics import temporal_iou

TIOUS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Detections:
    """Moments with a class: found ones with scores, or true ones.

    Attributes:
        spans: start and end, in any unit that is the same for all.
        scores: higher is surer; None for true moments.
    """

    video: Int[Tensor, "moment"]
    label: Int[Tensor, "moment"]
    spans: Float[Tensor, "moment 2"]
    scores: Float[Tensor, "moment"] | None = None


def detection_ap(
    found: Detections, true: Detections, classes: int, tious: tuple[float, ...] = TIOUS
) -> Float[Tensor, "label tiou"]:
    """Interpolated average precision of every class at every overlap; NaN for a class that never occurs.

    All found moments of a class are ranked over the whole split. Each takes the true moment of its video that it
    overlaps most among those still free, if the overlap reaches the threshold; what takes none is a false alarm.

    Raises:
        InputError: the found moments have no scores, or a label is not below `classes`.
    """
    if found.scores is None:
        raise InputError("found: has no scores, expected one for each moment")
    for name, moments in {"found": found, "true": true}.items():
        if len(moments.label) and not 0 <= int(moments.label.min()) <= int(moments.label.max()) < classes:
            raise InputError(f"{name}: a label is outside 0 to {classes - 1}")
    order = found.scores.argsort(descending=True, stable=True)
    label, hits = found.label[order], _hits(found, true, order, tious)
    precision = torch.full((classes, len(tious)), float("nan"))
    for number in range(classes):  # few, and of very different sizes
        count = int((true.label == number).sum())
        if count:
            precision[number] = _interpolated(hits[label == number], count)
    return precision


def _hits(found: Detections, true: Detections, order: Tensor, tious: tuple[float, ...]) -> Tensor:
    """(moment, tiou), in order of rank: whether each found moment takes a true one."""
    video, label, spans = found.video[order], found.label[order], found.spans[order]
    keys = torch.stack([torch.cat([video, true.video]), torch.cat([label, true.label])], dim=1)
    groups = keys.unique(dim=0, return_inverse=True)[1]
    group, true_group = groups[: len(order)], groups[len(order) :]
    count = int(groups.max()) + 1 if len(groups) else 0
    place, true_place = _places(group, count), _places(true_group, count)
    width, depth = (int(each.max()) + 1 if len(each) else 0 for each in (place, true_place))
    hits = torch.zeros(len(order), len(tious), dtype=torch.bool)
    if not width or not depth:
        return hits

    # One row a pair of video and class, found moments by rank; what is missing has an overlap below every threshold.
    row = torch.full((count, width), -1)
    row[group, place] = torch.arange(len(order))
    boxes = torch.full((count, depth, 2), float("nan"), dtype=spans.dtype)
    boxes[true_group, true_place] = true.spans.to(spans.dtype)
    overlap = (
        temporal_iou(spans[row][:, :, None], boxes[:, None]).nan_to_num(-1.0).masked_fill((row < 0)[..., None], -1.0)
    )
    limit = torch.tensor(tious, dtype=overlap.dtype)
    free = torch.ones(count, len(tious), depth, dtype=torch.bool)
    for rank in range(width):  # who comes first takes first
        best, which = overlap[:, rank, None].where(free, -1.0).max(dim=-1)
        taken = best >= limit
        free &= ~(torch.nn.functional.one_hot(which, depth).bool() & taken[..., None])
        present = row[:, rank] >= 0
        hits[row[present, rank]] = taken[present]
    return hits


def _places(group: Int[Tensor, "moment"], count: int) -> Int[Tensor, "moment"]:
    """The how-manieth of its group each moment is."""
    order = group.argsort(stable=True)
    sizes = torch.bincount(group, minlength=count)
    start = sizes.cumsum(0) - sizes
    place = torch.empty_like(group)
    place[order] = torch.arange(len(group)) - start[group[order]]
    return place


def _interpolated(hits: Tensor, count: int) -> Float[Tensor, "tiou"]:
    """Area under precision over recall, precision made to fall only."""
    right = hits.double().cumsum(dim=0)
    precision = right / torch.arange(1, len(hits) + 1, dtype=torch.float64)[:, None]
    envelope = precision.flip(0).cummax(dim=0).values.flip(0) if len(hits) else precision
    return ((envelope * hits).sum(dim=0) / count).float()
