"""Are two faces of the same person? Accuracy over folds, true accepts at false accepts, and templates of many images.

Protocols of LFW and its kin and of IJB-B/C as published results use them (docs/methods/scan-cnn.md, data and metrics).
Scores are similarities: the higher, the more alike; those of `kfold_accuracy` are cosines.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.errors import InputError, unknown

Scores = Float[Tensor, "pair"]
Same = Bool[Tensor, "pair"]
FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""The rates of false accepts that results on IJB-B and IJB-C are given for."""


class FoldAccuracy(NamedTuple):
    """What `kfold_accuracy` finds: mean over folds, its standard error, and of every fold the score to accept from."""

    mean: Float[Tensor, ""]
    standard_error: Float[Tensor, ""]
    thresholds: Float[Tensor, "fold"]


class Roc(NamedTuple):
    """Rates of accepted strangers and of accepted pairs of one person, and the score from which they are accepted."""

    far: Float[Tensor, "point"]
    tar: Float[Tensor, "point"]
    thresholds: Float[Tensor, "point"]


def kfold_accuracy(scores: Scores, labels: Same, folds: int = 10, rule: str = "arcface") -> FoldAccuracy:
    """Share of pairs told right, each fold judged by the threshold that suits the others, with its standard error.

    Folds are consecutive blocks of pairs, as the files of LFW, CFP and AgeDB list them: put pairs of one's own in
    random order first. The standard error is the deviation over folds (n - 1) divided by the root of their number.

    Args:
        scores: cosines.
        labels: True for the same person.
        rule: how the threshold is chosen. "arcface" takes the most accurate of 400 squared distances of embeddings of
            length one, 0 to 3.99; "toolbox" (FaceX-Zoo) the one of 1,000 scores from lowest to highest that has the
            largest difference of true and false accept rate, and counts a pair that scores the threshold as wrong.

    Raises:
        InputError: scores that are not finite, an unknown rule, fewer than two folds or more than pairs.

    Examples:
        >>> labels = torch.tensor([True, False] * 20)
        >>> found = kfold_accuracy(torch.where(labels, 0.8, 0.1), labels)
        >>> float(found.mean), float(found.standard_error)
        (1.0, 0.0)
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    if not 2 <= folds <= len(scores):
        raise InputError(f"folds: found {folds}, expected 2 to {len(scores)}, the number of pairs")
    scores = _checked(scores, labels)
    found = []
    # Fold after fold: there are ten, and each has a threshold of its own.
    for test in torch.arange(len(scores), device=scores.device).tensor_split(folds):
        train = torch.ones_like(labels)
        train[test] = False
        found.append(RULES[rule](scores, labels, train, ~train))
    accuracy, thresholds = (torch.stack(values) for values in zip(*found, strict=True))
    return FoldAccuracy(accuracy.mean(), accuracy.std() / folds**0.5, thresholds)


def roc(scores: Scores, labels: Same, every_point: bool = False) -> Roc:
    """The curve of true accepts over false accepts, from accepting nobody to accepting everybody.

    Pairs of equal score are accepted together. The first threshold is infinite.

    Args:
        labels: True for the same person.
        every_point: also those on a straight stretch, between two points where the curve bends. Without them it is
            the curve of scikit-learn, which published protocols read.

    Raises:
        InputError: scores that are not finite, or pairs of one kind only.

    Examples:
        >>> scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, False])
        >>> curve = roc(scores, labels)
        >>> curve.far.tolist(), curve.tar.tolist()
        ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    scores = _checked(scores, labels)
    genuine = int(labels.sum())
    if not 0 < genuine < len(labels):
        raise InputError(f"labels: found {genuine} of {len(labels)} pairs alike, expected pairs of both kinds")
    ranked, order = scores.sort(descending=True)
    last = torch.cat([ranked[1:] != ranked[:-1], labels.new_ones(1)])
    accepted = labels[order].cumsum(dim=0)[last]
    refused = (~labels[order]).cumsum(dim=0)[last]
    thresholds = ranked[last].double()
    if not every_point:
        bends = (accepted.diff(n=2) != 0) | (refused.diff(n=2) != 0)
        # The first and the last are ends, which always stay.
        keep = F.pad(bends, (1, 1), value=True) if len(accepted) > 2 else torch.ones_like(accepted, dtype=torch.bool)
        accepted, refused, thresholds = accepted[keep], refused[keep], thresholds[keep]
    far, tar = (F.pad(count, (1, 0)).double() / count[-1] for count in (refused, accepted))
    return Roc(far, tar, F.pad(thresholds, (1, 0), value=float("inf")))


def auc(scores: Scores, labels: Same) -> Float[Tensor, ""]:
    """Area under the curve of `roc`: how often a pair of one person scores above one of two, ties counted half.

    Raises:
        InputError: as of `roc`.

    Examples:
        >>> auc(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, False]))
        tensor(0.7500, dtype=torch.float64)
    """
    curve = roc(scores, labels)
    return torch.trapezoid(curve.tar, curve.far)


def tar_at_far(
    scores: Scores,
    labels: Same,
    fars: Sequence[float] = FARS,
    every_point: bool = False,
) -> Float[Tensor, "far"]:
    """True accept rate at the point of the curve whose false accept rate is nearest, for each of the rates asked for.

    Of points equally near the one of larger true accept rate counts.

    Args:
        fars: in [0, 1]. Rates below one stranger in all pairs of strangers can only be answered with their neighbour.
        every_point: as of `roc`; without them the nearest point can be the end of a long straight stretch, which
            raises the result where pairs are few.

    Raises:
        InputError: as of `roc`, or a rate out of range.

    Examples:
        >>> scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, False])
        >>> tar_at_far(scores, labels, [0.01, 0.5])
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    for rate in fars:
        if not 0 <= rate <= 1:
            raise InputError(f"fars: found {rate}, expected rates from 0 to 1")
    curve = roc(scores, labels, every_point)
    far, tar = curve.far.flip(0), curve.tar.flip(0)
    # Rate after rate, because a curve can have millions of points; from the end, where the true accept rate is larger.
    return torch.stack([tar[(far - rate).abs().argmin()] for rate in fars]) if len(fars) else tar[:0]


def ijb_templates(
    features: Float[Tensor, "image dim"],
    templates: Int[Tensor, "image"],
    media: Int[Tensor, "image"],
    detector_scores: Float[Tensor, "image"] | None = None,
) -> tuple[Float[Tensor, "template dim"], Int[Tensor, "template"]]:
    """One vector of length one for every template, and the templates' numbers in the same, rising order.

    Images of one medium in a template (frames of a video) are averaged, the media of a template added up.

    Args:
        features: as the network gives them: their length says how sure it is, and counts.
        templates, media: the numbers that each image belongs to.
        detector_scores: how sure the face detector was, multiplied to the features.

    Raises:
        InputError: there are no images.

    Examples:
        >>> features = torch.tensor([[3.0, 0.0], [5.0, 0.0], [0.0, 4.0], [0.0, 2.0]])
        >>> ijb_templates(features, torch.tensor([7, 7, 7, 2]), torch.tensor([1, 1, 3, 3]))
        (tensor([[0.0000, 1.0000],
                 [0.7071, 0.7071]]), tensor([2, 7]))
    """
    if not len(features):
        raise InputError("features: found no images, expected at least one")
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    if detector_scores is not None:
        features = features * detector_scores[:, None].to(features.dtype)
    numbers, template = templates.unique(return_inverse=True)
    medium = media.unique(return_inverse=True)[1]
    # One number for a medium within a template: the same medium can stand in several.
    clips = medium.max() + 1
    owners, clip, images = (template * clips + medium).unique(return_inverse=True, return_counts=True)
    means = features.new_zeros(len(owners), features.shape[1]).index_add(0, clip, features) / images[:, None]
    sums = features.new_zeros(len(numbers), features.shape[1])
    return F.normalize(sums.index_add(0, owners // clips, means)), numbers


def template_scores(
    features: Float[Tensor, "template dim"],
    numbers: Int[Tensor, "template"],
    first: Int[Tensor, "pair"],
    second: Int[Tensor, "pair"],
) -> Scores:
    """Cosines of pairs of templates, which are named by their numbers.

    Args:
        features, numbers: as `ijb_templates` gives them.

    Raises:
        InputError: a pair names a template that there is none of.

    Examples:
        >>> features, numbers = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([2, 7])
        >>> template_scores(features, numbers, torch.tensor([7, 7]), torch.tensor([2, 7]))
        tensor([0.6000, 1.0000])
    """
    rows = [_rows(numbers, names) for names in (first, second)]
    # In parts: the features of all 16 million pairs of IJB-C do not fit into memory.
    parts = zip(*(row.split(100_000) for row in rows), strict=True)
    return torch.cat([(features[one] * features[other]).sum(dim=1) for one, other in parts])


_Judged = tuple[Float[Tensor, ""], Float[Tensor, ""]]
"""Accuracy on the test part, and the score that was accepted from."""


def _by_distance(scores: Scores, labels: Same, train: Same, test: Same) -> _Judged:
    """400 squared distances of unit vectors; accepted is what is nearer."""
    distance = 2 - 2 * scores.double()
    candidates = torch.arange(400, device=scores.device, dtype=torch.float64) * 0.01
    near, far = (distance[train & part].sort().values for part in (labels, ~labels))
    right = torch.searchsorted(near, candidates) + len(far) - torch.searchsorted(far, candidates)
    threshold = candidates[right.argmax()]
    return ((distance[test] < threshold) == labels[test]).double().mean(), 1 - threshold / 2


def _by_score(scores: Scores, labels: Same, train: Same, test: Same) -> _Judged:
    """1,000 equidistant scores; what equals the threshold is wrong, whichever kind it is."""
    low, high = scores[train].aminmax()
    # The step is rounded to the precision of the scores, the thresholds are not.
    step = ((high - low) / 1000).double()
    candidates = low.double() + step * torch.arange(1, 1001, device=scores.device)
    exact = scores.double()
    tar, far = (_share_above(exact[train & part], candidates) for part in (labels, ~labels))
    threshold = candidates[(tar - far).argmax()]
    right = torch.where(labels[test], exact[test] > threshold, exact[test] < threshold)
    return right.double().mean(), threshold


RULES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], _Judged]] = {"arcface": _by_distance, "toolbox": _by_score}


def _share_above(scores: Float[Tensor, "part"], candidates: Float[Tensor, "candidate"]) -> Float[Tensor, "candidate"]:
    above = len(scores) - torch.searchsorted(scores.sort().values, candidates, right=True)
    return above.double() / max(len(scores), 1)


def _rows(numbers: Int[Tensor, "template"], names: Int[Tensor, "pair"]) -> Int[Tensor, "pair"]:
    rows = torch.searchsorted(numbers, names).clamp(max=max(len(numbers) - 1, 0))
    missing = names if not len(numbers) else names[numbers[rows] != names]
    for name in missing[:1].tolist():
        raise InputError(f"pairs: found the template {name}, expected one of the {len(numbers)} that there are")
    return rows


def _checked(scores: Scores, labels: Same) -> Scores:
    if not bool(scores.isfinite().all()):
        raise InputError(f"scores: found {int((~scores.isfinite()).sum())} that are no finite numbers, expected none")
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
