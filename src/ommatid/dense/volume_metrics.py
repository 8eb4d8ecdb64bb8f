"""Overlap and surface distances of the classes of a volume, in mm.

The surface of a class are its voxels with a neighbour along an axis that is not of the class, or none because the
volume ends. HD is the largest distance from one surface to the other, in either direction; HD95 the larger of the two
95th percentiles; ASD the mean over all voxels of both surfaces.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.dense.volume_task import UNKNOWN
from ommatid.engine.scores import SampleScores
from ommatid.errors import MissingDependency

METRICS = ("Dice", "HD", "HD95", "ASD", "missed")


def volume_scores(
    predicted: Int[Tensor, "batch *grid"],
    truth: Int[Tensor, "batch *grid"],
    spacing: Float[Tensor, "batch axis"],
    classes: int,
) -> dict[str, Float[Tensor, "batch class"]]:
    """Dice, HD, HD95 and ASD of every case and class, and `missed`.

    A class that is neither there nor predicted has no scores (NaN). Where it is just one of the two its Dice is 0, its
    distances are NaN, and `missed` is 1 instead of 0. Voxels that nobody knows are background in both.

    Args:
        spacing: of voxels along every axis, in mm.
        classes: how many there are besides background, which has no scores.

    Raises:
        MissingDependency: without monai.

    Examples:
        >>> truth = torch.zeros(1, 8, 8, dtype=torch.long)
        >>> truth[:, 2:4, 2:4] = 1
        >>> found = volume_scores(truth.roll(1, dims=1), truth, torch.tensor([[3.0, 1.0]]), classes=1)
        >>> {name: round(float(value), 3) for name, value in found.items()}
        {'Dice': 0.5, 'HD': 3.0, 'HD95': 3.0, 'ASD': 1.5, 'missed': 0.0}
    """
    known = truth != UNKNOWN
    # Surfaces are found on the CPU, one case and class after the other: they differ in length.
    predicted, truth = (torch.where(known, each, 0).cpu() for each in (predicted, truth))
    scores = [
        [_scores(predicted[case] == number, truth[case] == number, spacing[case].tolist()) for number in numbers]
        for case, numbers in enumerate([range(1, classes + 1)] * len(truth))
    ]
    table = torch.tensor(scores, dtype=torch.float).view(len(truth), classes, len(METRICS)).to(spacing.device)
    return dict(zip(METRICS, table.unbind(dim=-1), strict=True))


def _scores(
    predicted: Bool[Tensor, "*grid"], truth: Bool[Tensor, "*grid"], spacing: list[float]
) -> tuple[float, float, float, float, float]:
    """As `METRICS`, of one class of one case."""
    both, either = bool(predicted.any() and truth.any()), bool(predicted.any() or truth.any())
    nothing = float("nan")
    if not both:
        return (0.0, nothing, nothing, nothing, 1.0) if either else (nothing,) * 5
    dice = 2 * int((predicted & truth).sum()) / (int(predicted.sum()) + int(truth.sum()))
    there, back = _distances(predicted, truth, spacing)
    hd = float(max(there.max(), back.max()))
    hd95 = max(float(each.double().quantile(0.95)) if len(each) < 2**24 else _large(each) for each in (there, back))
    return dice, hd, hd95, float(torch.cat([there, back]).mean()), 0.0


def _large(distances: Float[Tensor, "voxel"]) -> float:
    """The 95th percentile of more values than `quantile` takes."""
    return float(distances.sort().values[round(0.95 * (len(distances) - 1))])


def _distances(
    predicted: Bool[Tensor, "*grid"], truth: Bool[Tensor, "*grid"], spacing: list[float]
) -> tuple[Float[Tensor, "_"], Float[Tensor, "_"]]:
    """From every voxel of the predicted surface to the true one, and from every one of the true surface back."""
    surfaces, distances = _monai()
    edges = surfaces(predicted, truth, crop=True)
    found = [distances(*pair, spacing=spacing) for pair in (edges, edges[::-1])]
    there, back = (torch.as_tensor(each).flatten().float() for each in found)
    return there, back


def _monai() -> tuple[Any, Any]:
    try:
        from monai.metrics.utils import get_mask_edges, get_surface_distance
    except ImportError as error:
        raise MissingDependency("distances of surfaces need monai: pip install 'ommatid[volumes]'") from error
    return get_mask_edges, get_surface_distance


class VolumeScores(SampleScores):
    """Mean over the cases that have a score of a class, then over the classes that have it in any case.

    NaN where none has it. `missed` is the share of cases in which a class is predicted or there, but not both.

    Examples:
        >>> scores, nothing = VolumeScores(), float("nan")
        >>> scores.update(torch.tensor([0]), {"Dice": torch.tensor([[0.5, nothing]])})
        >>> scores.update(torch.tensor([1]), {"Dice": torch.tensor([[0.7, 0.2]])})
        >>> {name: round(value, 3) for name, value in scores.compute().items()}
        {'Dice': 0.4}
    """

    def __init__(self) -> None:
        super().__init__()
        self.metrics: tuple[str, ...] = ()

    def update(self, identity: Int[Tensor, "batch"], scores: Mapping[str, Float[Tensor, "batch class"]]) -> None:
        """Add what `volume_scores` gives of some cases."""
        self.metrics = tuple(scores)
        columns = {
            f"{name} {number}": column
            for name, table in scores.items()
            for number, column in enumerate(table.unbind(dim=1))
        }
        super().update(identity, columns)

    def by_class(self) -> dict[str, Float[Tensor, "class"]]:
        """Means over cases; NaN for a class that no case has."""
        identity, values = self.table()
        if not len(identity):
            return {}
        means = values.double().view(len(values), len(self.metrics), -1).nanmean(dim=0)
        return dict(zip(self.metrics, means.float(), strict=True))

    def compute(self) -> dict[str, float]:
        return {name: float(each.double().nanmean()) for name, each in self.by_class().items()}
