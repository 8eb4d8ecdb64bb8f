"""Metrics of multi-label recognition: precision, recall and F1 per class and overall, and mean average precision."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ommatid.errors import InputError

Scores = Float[Tensor, "sample label"]
LabelSets = Bool[Tensor, "sample label"]


def multilabel_scores(
    predicted: LabelSets, labels: LabelSets, scores: Scores | None = None
) -> dict[str, Float[Tensor, ""]]:
    """CP, CR, CF1, OP, OR and OF1 of a whole split, in [0, 1], and mAP where scores are given.

    Of all classes (C-) precision and recall are means over classes: a class that is never predicted has a precision
    of 0, one that is never there a recall of 0, and both count in the mean. Overall (O-) they are ratios of sums over
    all samples and classes. CF1 and OF1 are the harmonic means of the two, as the literature of NUS-WIDE and COCO has
    it, not means of the classes' F1; they are 0 where nothing is right. mAP is a mean over the classes that are there.

    Args:
        predicted: the sets of labels to be judged, such as `scores >= 0.5` or `top_labels(scores, 3)`.
        labels: the truth.
        scores: by which samples are ranked for mAP.

    Raises:
        InputError: there are no samples.

    Examples:
        >>> labels = torch.tensor([[1, 0, 0], [1, 1, 0]]).bool()
        >>> predicted = torch.tensor([[1, 0, 1], [0, 0, 0]]).bool()
        >>> {name: round(float(score), 3) for name, score in multilabel_scores(predicted, labels).items()}
        {'CP': 0.333, 'CR': 0.167, 'CF1': 0.222, 'OP': 0.5, 'OR': 0.333, 'OF1': 0.4}
    """
    if not len(labels):
        raise InputError("labels: found no samples, expected at least one")
    right, named, true = (sets.sum(dim=0).double() for sets in (predicted & labels, predicted, labels))
    by_class = _ratio(right, named).mean(), _ratio(right, true).mean()
    overall = _ratio(right.sum(), named.sum()), _ratio(right.sum(), true.sum())
    found = {
        "CP": by_class[0],
        "CR": by_class[1],
        "CF1": _harmonic(*by_class),
        "OP": overall[0],
        "OR": overall[1],
        "OF1": _harmonic(*overall),
    }
    return found if scores is None else found | {"mAP": average_precision(scores, labels).nanmean()}


def top_labels(scores: Scores, k: int = 3) -> LabelSets:
    """The k labels of highest score of every sample, exactly k also among equal scores.

    Raises:
        InputError: k is below 1 or above the number of labels.

    Examples:
        >>> top_labels(torch.tensor([[0.1, 0.7, 0.2]]), k=2).int()
        tensor([[0, 1, 1]], dtype=torch.int32)
    """
    if not 1 <= k <= scores.shape[1]:
        raise InputError(f"k: found {k}, expected 1 to {scores.shape[1]}, the number of labels")
    best = scores.topk(k, dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)


def average_precision(scores: Scores, labels: LabelSets) -> Float[Tensor, "label"]:
    """Of every class the mean, over the samples that have it, of the precision at their rank; not interpolated.

    Samples of equal score share the last of their ranks. NaN for a class that no sample has.

    Examples:
        >>> scores = torch.tensor([[0.9, 0.5], [0.8, 0.5], [0.7, 0.1]])
        >>> labels = torch.tensor([[True, False], [False, True], [True, False]])
        >>> average_precision(scores, labels)
        tensor([0.8333, 0.5000], dtype=torch.float64)
    """
    ranked, order = scores.mT.contiguous().sort(dim=1, descending=True)
    hits = labels.mT.gather(1, order)
    # How many samples score at least as much: the last rank among equals.
    rank = torch.searchsorted(-ranked, -ranked, right=True)
    precision = hits.cumsum(dim=1).gather(1, rank - 1) / rank.double()
    return (precision * hits).sum(dim=1) / hits.sum(dim=1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.clamp(min=1)


def _harmonic(precision: Tensor, recall: Tensor) -> Tensor:
    both = precision + recall
    return torch.where(both > 0, 2 * precision * recall / both, 0.0)
