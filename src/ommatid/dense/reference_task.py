"""The contract of references: an image and an outlined object in, all objects of that kind in the image out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.dense.segmentation_metrics import confusion_matrices, segmentation_scores
from ommatid.dense.task import MaskBatch
from ommatid.engine.scores import SampleScores


@dataclass
class ReferenceBatch(MaskBatch):
    """Images in [0, 1], each with one or several references; masks are of the references' category alone.

    Attributes:
        maps: category of every pixel, 0 for the ground and 255 for unknown.
        references: of the category that is asked for.
        reference_masks: 1 where a reference shows it.
        category: that is asked for, from 1 on; 0 where nobody knows.
        present: whether the image shows it.
        draw: which choice of references a query is of, where images are asked for several times.
    """

    maps: Int[Tensor, "batch height width"]
    references: Float[Tensor, "batch shot 3 height width"]
    reference_masks: Float[Tensor, "batch shot 1 height width"]
    category: Int[Tensor, "batch"]
    present: Bool[Tensor, "batch"]
    draw: Int[Tensor, "batch"]

    @property
    def others(self) -> Bool[Tensor, "batch 1 height width"]:
        """Objects of other categories."""
        known = (self.maps > 0) & (self.maps != 255)
        return (known & (self.maps != self.category[:, None, None]))[:, None]


class ReferenceScores(SampleScores):
    """Scores of queries, by category first; queries for what is not there count in `false_area` alone.

    | name | of |
    |---|---|
    | `category_IoU` | foreground; one confusion matrix a category, then the mean over categories |
    | `category_mIoU` | the same with foreground and background averaged |
    | `PA`, `MPA`, `mIoU`, `FWIoU`, `IoU`, `Dice` | one confusion matrix of all queries for what is there |
    | `swap` | share of queries that meet the asked object better than those of other categories beside it |
    | `false_area` | share of an image that is found where it does not show what is asked for |
    | `category_IoU_std` | deviation of the first over draws of references, where there are several |
    """

    def update(self, identity: Int[Tensor, "batch"], scores: Mapping[str, Tensor]) -> None:
        """Add the table `confusion` and the columns of `COLUMNS` of some queries."""
        cells = scores["confusion"].flatten(1).unbind(dim=1)
        columns = {str(number): each for number, each in enumerate(cells)}
        super().update(identity, {**columns, **{name: scores[name].float() for name in COLUMNS}})

    def compute(self) -> dict[str, float]:
        identity, values = self.table()
        if not len(identity):
            return {}
        matrices = values[:, :4].double().view(-1, 2, 2)
        category, present, draw, swap, area = values[:, 4:].double().unbind(dim=1)
        asked = present > 0
        found = {name: float(value) for name, value in segmentation_scores(matrices[asked].sum(dim=0)).items()}
        if asked.any():
            overall = by_category(matrices[asked], category[asked])
        else:
            found, overall = dict.fromkeys(found, math.nan), {"IoU": math.nan, "mIoU": math.nan}
        found |= {"category_IoU": overall["IoU"], "category_mIoU": overall["mIoU"]}
        found |= {"swap": float(swap.nanmean()), "false_area": float(area.nanmean())}
        draws = draw[asked].unique()
        if len(draws) > 1:
            each = [
                by_category(matrices[asked & (draw == number)], category[asked & (draw == number)]) for number in draws
            ]
            found["category_IoU_std"] = float(torch.tensor([one["IoU"] for one in each]).std())
        return found


COLUMNS = ("category", "present", "draw", "swap", "false_area")


def by_category(matrices: Float[Tensor, "query 2 2"], category: Float[Tensor, "query"]) -> dict[str, float]:
    """IoU and mIoU from one confusion matrix of each category, averaged over categories.

    Examples:
        >>> matrices = torch.tensor([[[4.0, 0], [0, 4]], [[4.0, 2], [0, 2]]])
        >>> by_category(matrices, torch.tensor([1.0, 2.0]))["IoU"]
        0.75
    """
    # A handful of categories.
    each = [segmentation_scores(matrices[category == number].sum(dim=0)) for number in category.unique()]
    return {name: float(torch.stack([scores[name] for scores in each]).nanmean()) for name in ("IoU", "mIoU")}


def query_scores(predicted: Bool[Tensor, "batch 1 height width"], batch: ReferenceBatch) -> dict[str, Tensor]:
    """What `ReferenceScores` gathers of masks that were found for some queries."""
    masks = batch.masks > 0
    area = predicted.flatten(1).float().mean(dim=1)
    return {
        "confusion": confusion_matrices(predicted, masks, 2, batch.valid),
        "category": batch.category,
        "present": batch.present,
        "draw": batch.draw,
        "swap": swap_hits(predicted, masks, batch.others),
        "false_area": torch.where(batch.present, torch.nan, area),
    }


def swap_hits(
    predicted: Bool[Tensor, "batch 1 height width"],
    asked: Bool[Tensor, "batch 1 height width"],
    others: Bool[Tensor, "batch 1 height width"],
) -> Float[Tensor, "batch"]:
    """1 where what was found overlaps with the asked object more than with the others; NaN where there are no others.

    Examples:
        >>> place = torch.eye(2, dtype=torch.bool).view(2, 1, 1, 2)
        >>> swap_hits(place, place, place.flip(0))
        tensor([1., 1.])
    """

    def overlap(truth: Tensor) -> Tensor:
        joint, either = ((predicted & truth), (predicted | truth))
        return joint.flatten(1).sum(dim=1) / either.flatten(1).sum(dim=1).clamp(min=1)

    both = asked.flatten(1).any(dim=1) & others.flatten(1).any(dim=1)
    return torch.where(both, (overlap(asked) > overlap(others)).float(), torch.nan)
