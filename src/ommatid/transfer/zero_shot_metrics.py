"""Metrics of zero-shot learning: accuracies of classes, averaged over classes, and their harmonic mean."""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ommatid.engine.scores import SampleScores

Numbers = Int[Tensor, " sample"]
Classes = Int[Tensor, " _"]
COLUMNS = ("labels", "is_seen", "among_all", "among_new")


def class_accuracies(predicted: Numbers, labels: Numbers, classes: Classes) -> Float[Tensor, " _"]:
    """The share of each class's samples that is found; NaN for a class without samples.

    Examples:
        >>> labels = torch.tensor([0, 0, 2])
        >>> class_accuracies(torch.tensor([0, 1, 2]), labels, torch.tensor([0, 1, 2]))
        tensor([0.5000,    nan, 1.0000], dtype=torch.float64)
    """
    length = int(torch.cat([labels, classes]).max()) + 1 if len(labels) + len(classes) else 0
    right = torch.bincount(labels, weights=(predicted == labels).double(), minlength=length)
    return (right / torch.bincount(labels, minlength=length))[classes]


def mean_class_accuracy(predicted: Numbers, labels: Numbers, classes: Classes) -> float:
    """The mean of the accuracies of classes, not that of samples; NaN where no class has samples.

    Classes without samples are left out, with a warning.

    Examples:
        >>> mean_class_accuracy(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), torch.tensor([0, 1]))
        0.75
    """
    found = class_accuracies(predicted, labels, classes)
    absent = classes[found.isnan()].tolist()
    if absent:
        warnings.warn(
            f"{len(absent)} of {len(classes)} classes have no samples and are left out of the mean (first: "
            f"{absent[0]})",
            stacklevel=2,
        )
    return float(found.nanmean()) if len(absent) < len(classes) else float("nan")


def zsl_accuracy(predicted: Numbers, labels: Numbers, unseen: Classes) -> float:
    """T1: mean class accuracy over unseen classes, of predictions among these alone; other samples do not count."""
    chosen = torch.isin(labels, unseen)
    return mean_class_accuracy(predicted[chosen], labels[chosen], unseen)


def gzsl_metrics(predicted: Numbers, labels: Numbers, seen: Classes, unseen: Classes) -> dict[str, float]:
    """U and S, the mean class accuracies over unseen and over seen classes, and H, their harmonic mean.

    Args:
        predicted: among all classes, seen and unseen.

    Examples:
        >>> labels, predicted = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
        >>> scores = gzsl_metrics(predicted, labels, seen=torch.tensor([0]), unseen=torch.tensor([1]))
        >>> {name: round(score, 4) for name, score in scores.items()}
        {'U': 1.0, 'S': 0.5, 'H': 0.6667}
    """
    u, s = (mean_class_accuracy(predicted, labels, classes) for classes in (unseen, seen))
    return {"U": u, "S": s, "H": harmonic_mean(u, s)}


def harmonic_mean(first: float, second: float) -> float:
    """0 where both are 0.

    Examples:
        >>> harmonic_mean(0.0, 0.0), harmonic_mean(1.0, 1.0)
        (0.0, 1.0)
    """
    both = first + second
    return 2 * first * second / both if both else 0.0


class ZeroShotScores(SampleScores):
    """T1, U, S and H of a whole split; those that a split has no samples for are left out."""

    def compute(self) -> dict[str, float]:
        identity, values = self.table()
        if not len(identity):
            return {}
        labels, is_seen, among_all, among_new = (column.long() for column in values.unbind(dim=1))
        unseen, seen = labels[is_seen == 0].unique(), labels[is_seen == 1].unique()
        found = {}
        if len(unseen):
            found["T1"] = zsl_accuracy(among_new, labels, unseen)
            found["U"] = mean_class_accuracy(among_all, labels, unseen)
        if len(seen):
            found["S"] = mean_class_accuracy(among_all, labels, seen)
        if len(unseen) and len(seen):
            found["H"] = harmonic_mean(found["U"], found["S"])
        return found
