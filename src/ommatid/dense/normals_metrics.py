"""Scores of predicted surface normals and depths, and what learning several tasks at once gains.

All pixels of a split count alike, whichever image they are in: averages over images are other numbers. Equations:
docs/methods/nddr-cnn.md. `DenseTaskScores` collects these and the scores of label maps (E9, E10) batch by batch, on one
process or on many.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from ommatid.dense.segmentation_metrics import segmentation_scores
from ommatid.errors import InputError

Vectors = Float[Tensor, "batch 3 height width"]
Depths = Float[Tensor, "batch 1 height width"]
Pixels = Bool[Tensor, "batch height width"]
WITHIN = (11.25, 22.5, 30.0)
"""Angles in degrees."""
LOWER_IS_BETTER = ("mean angle", "median angle", "rmse angle", "depth rmse", "abs rel")


def angular_errors(
    predicted: Vectors, normals: Vectors, valid: Pixels | None = None
) -> Float[Tensor, "batch height width"]:
    """Angles in degrees between vectors of any length (E11); 90 where the predicted one is zero, and 180, the worst
    there is, where it is not finite.

    Args:
        valid: where this is False the angle is NaN; where the true normal is zero, if None.

    Examples:
        >>> east, up = torch.eye(3)[0].view(1, 3, 1, 1), torch.eye(3)[2].view(1, 3, 1, 1)
        >>> round(float(angular_errors(east + up, 2 * up)), 4)
        45.0
    """
    one, other = F.normalize(predicted.float(), dim=1), F.normalize(normals.float(), dim=1)
    # The angle of the cosine, without the rounding that an arc cosine suffers near 0 and 180 degrees.
    apart, along = (one - other).norm(dim=1), (one + other).norm(dim=1)
    angles = torch.rad2deg(2 * torch.atan2(apart, along)).where(predicted.isfinite().all(dim=1), 180.0)
    valid = (normals != 0).any(dim=1) if valid is None else valid
    return angles.masked_fill(~valid, float("nan"))


def normal_scores(angles: Float[Tensor, " pixel"]) -> dict[str, float]:
    """Mean, median and root mean square of all angles of a split, and percentages within 11.25 to 30 degrees (E11).

    The median of an even number is the mean of the middle two.

    Examples:
        >>> found = normal_scores(torch.tensor([10.0, 20.0, 30.0, 60.0]))
        >>> found["mean angle"], found["median angle"], found["within 30"]
        (30.0, 25.0, 75.0)
    """
    if not len(angles):
        return {}
    count, total = len(angles), angles.double()
    middle = [angles.kthvalue(place).values.double() for place in {(count + 1) // 2, count // 2 + 1}]
    within = {f"within {limit:g}": 100 * float((angles <= limit).sum()) / count for limit in WITHIN}
    return {
        "mean angle": float(total.mean()),
        "median angle": float(sum(middle[1:], middle[0]) / len(middle)),
        "rmse angle": float(total.square().mean().sqrt()),
        **within,
    }


def both_tasks(miou: float, angle: float) -> float:
    """Classes and normals as one number: the mean of mIoU and of what an angle lacks to 90 degrees, as a share of them.

    Examples:
        >>> both_tasks(0.5, 27.0)
        0.6
    """
    return (miou + 1 - angle / 90) / 2


def depth_sums(predicted: Depths, depth: Depths, valid: Pixels) -> Float[Tensor, "batch 6"]:
    """Of every image: how many pixels are valid, and their sums for `depth_scores`."""
    found, true = predicted[:, 0].double(), depth[:, 0].double().where(valid, 1.0)
    ratio = torch.maximum(found / true, true / found.clamp(min=1e-12))
    parts = [torch.ones_like(true), (found - true).square(), (found - true).abs() / true]
    parts += [(ratio < 1.25**power).double() for power in (1, 2, 3)]
    return torch.stack([part.where(valid, 0.0).sum(dim=(1, 2)) for part in parts], dim=1)


def depth_scores(sums: Float[Tensor, "image 6"]) -> dict[str, float]:
    """Root mean square error in the unit of depth, mean relative error, and shares of ratios below 1.25 to the k.

    Args:
        sums: `depth_sums` of all images.

    Examples:
        >>> depth = torch.full((1, 1, 2, 2), 2.0)
        >>> depth_scores(depth_sums(depth + 1, depth, torch.ones(1, 2, 2, dtype=torch.bool)))
        {'depth rmse': 1.0, 'abs rel': 0.5, 'delta 1': 0.0, 'delta 2': 1.0, 'delta 3': 1.0}
    """
    count, square, relative, *below = sums.double().sum(dim=0).tolist()
    if not count:
        return {}
    ratios = {f"delta {power}": each / count for power, each in enumerate(below, start=1)}
    return {"depth rmse": (square / count) ** 0.5, "abs rel": relative / count, **ratios}


def class_overlaps(matrix: Float[Tensor, "true predicted"]) -> Float[Tensor, " class"]:
    """Intersection over union of every class (E10); NaN of those that neither occur nor are predicted.

    Args:
        matrix: pixels of a whole split, see `ommatid.dense.segmentation_metrics.confusion_matrices`.

    Examples:
        >>> class_overlaps(torch.tensor([[3.0, 1.0], [0.0, 4.0]]))
        tensor([0.7500, 0.8000], dtype=torch.float64)
    """
    matrix = matrix.double()
    right = matrix.diagonal()
    return right / (matrix.sum(dim=0) + matrix.sum(dim=1) - right)


def multi_task_gain(
    scores: Mapping[str, float], single: Mapping[str, float], lower_is_better: Iterable[str] = LOWER_IS_BETTER
) -> float:
    """Mean relative improvement over networks of single tasks, in percent: Delta_m of the literature.

    Args:
        scores: one score of each task.
        single: the same scores of the networks of single tasks.

    Raises:
        InputError: scores differ in their names, or one of a single task is 0.

    Examples:
        >>> multi_task_gain({"mIoU": 45.0, "mean angle": 15.0}, {"mIoU": 40.0, "mean angle": 20.0})
        18.75
    """
    if set(scores) != set(single) or not scores:
        raise InputError(
            f"scores: found {', '.join(scores) or 'none'}, expected those of the single tasks, {', '.join(single)}"
        )
    for name, value in single.items():
        if value == 0:
            raise InputError(f"single: found 0 for {name!r}, expected a score that a gain can be measured against")
    lower = set(lower_is_better)
    gains = [(-1) ** (name in lower) * (scores[name] - single[name]) / single[name] for name in scores]
    return 100 * sum(gains) / len(gains)


class DenseTaskScores(Metric):
    """All scores of a split: of label maps, normals and depths, whichever there are.

    Every image carries an identity, as in `SampleScores`: one that a distributed sampler repeats counts once. For an
    exact median all angles are kept, four bytes for each valid pixel.

    Examples:
        >>> scores = DenseTaskScores()
        >>> angles = torch.tensor([[[10.0, 30.0]], [[20.0, float("nan")]]])
        >>> scores.update(torch.tensor([0, 1]), {"angles": angles})
        >>> scores.update(torch.tensor([1]), {"angles": angles[1:]})
        >>> scores.compute()["mean angle"]
        20.0
    """

    full_state_update = False
    identity: list[Tensor]
    confusion: list[Tensor]
    depth: list[Tensor]
    angles: list[Tensor]
    counts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("identity", "confusion", "depth", "angles", "counts"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, identity: Int[Tensor, "batch"], scores: Mapping[str, Tensor]) -> None:
        """Add images.

        Args:
            scores: any of "confusion" (batch, class, class), the `confusion_matrices`, "angles" (batch, height, width)
                with NaN where a pixel does not count, and "depth" (batch, 6), the `depth_sums`.
        """
        self.identity.append(identity.detach())
        if "confusion" in scores:
            self.confusion.append(scores["confusion"].detach())
        if "depth" in scores:
            self.depth.append(scores["depth"].detach())
        if "angles" in scores:
            counted = ~scores["angles"].isnan()
            self.angles.append(scores["angles"].detach()[counted])
            self.counts.append(counted.flatten(1).sum(dim=1))

    def compute(self) -> dict[str, float]:
        if not len(self.identity):
            return {}
        first = _first_of_each(_gathered(self.identity))
        found: dict[str, float] = {}
        if len(self.confusion):
            matrix = _gathered(self.confusion)[first].double().sum(dim=0)
            found |= {name: float(value) for name, value in segmentation_scores(matrix).items()}
        if len(self.counts):
            found |= normal_scores(_gathered(self.angles)[first.repeat_interleave(_gathered(self.counts))])
        if len(self.depth):
            found |= depth_scores(_gathered(self.depth)[first])
        if {"mIoU", "mean angle"} <= found.keys():
            found["both tasks"] = both_tasks(found["mIoU"], found["mean angle"])
        return found


def _gathered(state: list[Tensor] | Tensor) -> Tensor:
    """A list before processes have put their parts together, one tensor after."""
    return state if isinstance(state, Tensor) else torch.cat(state)


def _first_of_each(identity: Int[Tensor, " image"]) -> Bool[Tensor, " image"]:
    """False where an image was there before."""
    order = identity.argsort(stable=True)
    ranked = identity[order]
    fresh = torch.ones_like(ranked, dtype=torch.bool)
    fresh[1:] = ranked[1:] != ranked[:-1]
    return torch.zeros_like(fresh).scatter(0, order, fresh)
