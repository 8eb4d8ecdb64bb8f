"""Detection average precision over temporal overlap, as ActivityNet's evaluation computes it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.metrics import average_precision_score
from torch import Tensor
from torchmetrics import Metric

from ommatid.errors import InputError
from ommatid.grounding.emotion_task import EmotionBatch, EmotionMoments
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


class DetectionScores(Metric):
    """Average precision over a whole split, gathered clip by clip, on one process or on many.

    `mAP` is the mean over classes and overlaps (`TIOUS`), `mAP@0.5` that at one overlap, `<class>/mAP` that of one
    class, and `clip_mAP` says how well clips, not moments, are ranked. What the split has no labels for is left out.

    Attributes:
        classes: their names; numbers where empty.
    """

    full_state_update = False
    found: list[Tensor]
    true: list[Tensor]
    clips: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.classes: tuple[str, ...] = ()
        for name in ("found", "true", "clips"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @staticmethod
    def rows(batch: EmotionBatch, moments: EmotionMoments) -> dict[str, Tensor]:
        """Found and true moments of a batch of clips, and what is said and true of each clip as a whole."""
        clips = torch.cat([moments.presence.double(), batch.labels.double()], dim=1)
        return {
            "found": _moment_rows(batch.clip, moments.labels, moments.spans, moments.scores),
            "true": _moment_rows(batch.clip, batch.true_labels, batch.true_spans, batch.true_labels),
            "clips": torch.cat([batch.clip[:, None].double(), clips], dim=1),
        }

    def update(self, identity: Int[Tensor, "batch"], scores: Mapping[str, Tensor]) -> None:
        for name, rows in scores.items():
            getattr(self, name).append(rows)

    def compute(self) -> dict[str, float]:
        # A distributed sampler repeats clips; a repeated row says the same again.
        found, true, clips = (_joined(getattr(self, name)).unique(dim=0) for name in ("found", "true", "clips"))
        if not len(clips):
            return {}
        classes = (clips.shape[1] - 1) // 2
        said, labels = clips[:, 1 : 1 + classes].numpy(), clips[:, 1 + classes :].numpy()
        known = [number for number in range(classes) if labels[:, number].any()]
        precision = [average_precision_score(labels[:, number], said[:, number]) for number in known]
        scores = {"clip_mAP": float(np.mean(precision))} if known else {}
        if not len(true):
            return scores
        table = detection_ap(_detections(found, True), _detections(true, False), classes)
        scores |= {"mAP": float(table.nanmean())}
        scores |= {f"mAP@{tiou:g}": float(value) for tiou, value in zip(TIOUS, table.nanmean(dim=0), strict=True)}
        names = self.classes or tuple(map(str, range(classes)))
        return scores | {f"{name}/mAP": float(value) for name, value in zip(names, table.mean(dim=1), strict=True)}


def _moment_rows(clip: Tensor, labels: Tensor, spans: Tensor, scores: Tensor) -> Tensor:
    """(clip, label, start, end, score) of every moment that is none of the fillers."""
    every = torch.cat(
        [clip[:, None, None].expand(-1, labels.shape[1], 1), labels[..., None], spans, scores[..., None]], dim=-1
    )
    return every[labels >= 0].double()


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    return (state if isinstance(state, Tensor) else torch.cat(state) if state else torch.zeros(0, 1)).cpu()


def _detections(rows: Tensor, scored: bool) -> Detections:
    video, label, spans = rows[:, 0].long(), rows[:, 1].long(), rows[:, 2:4].float()
    return Detections(video, label, spans, rows[:, 4].float() if scored else None)
