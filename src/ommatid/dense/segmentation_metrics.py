"""Scores of masks and label maps from one confusion matrix of a whole split, and of single images beside them.

What papers call IoU or accuracy differs in what is averaged. Here a plain name is one matrix over all pixels of the
split; a name that begins with `image_` is a mean over images.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ommatid.engine.scores import SampleScores

Confusions = Float[Tensor, "image true predicted"]


def confusion_matrices(
    predicted: Shaped[Tensor, "image *pixels"],
    truth: Shaped[Tensor, "image *pixels"],
    classes: int,
    valid: Bool[Tensor, "image *pixels"] | None = None,
) -> Confusions:
    """Pixels of every image by their class (rows) and what was predicted for them (columns).

    Args:
        valid: pixels that count; all where None.

    Examples:
        >>> confusion_matrices(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]), 2)
        tensor([[[1., 1.],
                 [0., 2.]]])
    """
    images = torch.arange(len(truth), device=truth.device).view(-1, *[1] * (truth.ndim - 1))
    cells = (images * classes + truth.long()) * classes + predicted.long()
    cells = cells if valid is None else cells[valid]
    counts = torch.bincount(cells.flatten(), minlength=len(truth) * classes**2)
    return counts.view(len(truth), classes, classes).float()


def segmentation_scores(matrix: Float[Tensor, "true predicted"]) -> dict[str, Tensor]:
    """PA, MPA, mIoU and FWIoU of a confusion matrix; of two classes also IoU and Dice of the second, the foreground.

    A class that neither occurs nor is predicted has no IoU, one that does not occur no recall; means leave them out.

    Examples:
        >>> found = segmentation_scores(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
        >>> {name: round(float(value), 3) for name, value in found.items()}
        {'PA': 0.75, 'MPA': 0.75, 'mIoU': 0.583, 'FWIoU': 0.583, 'IoU': 0.667, 'Dice': 0.8}
    """
    matrix = matrix.double()
    hits, truth, predicted = matrix.diagonal(), matrix.sum(dim=1), matrix.sum(dim=0)
    overlaps = hits / (truth + predicted - hits)
    found = {
        "PA": hits.sum() / matrix.sum(),
        "MPA": (hits / truth).nanmean(),
        "mIoU": overlaps.nanmean(),
        "FWIoU": (truth / truth.sum() * overlaps).nansum(),
    }
    if len(matrix) == 2:
        found |= {"IoU": overlaps[1], "Dice": 2 * hits[1] / (truth[1] + predicted[1])}
    return found


def image_scores(matrices: Float[Tensor, "image 2 2"]) -> dict[str, Float[Tensor, "image"]]:
    """Of single images: IoU of the foreground, and the signed error of its area as a share of the true one.

    NaN where an image has no foreground, and for the IoU also none was predicted.
    """
    hits, truth, predicted = matrices[:, 1, 1], matrices[:, 1].sum(dim=1), matrices[:, :, 1].sum(dim=1)
    area = torch.where(truth > 0, (predicted - truth) / truth, torch.nan)
    return {"image_IoU": hits / (truth + predicted - hits), "area_error": area}


class SegmentationScores(SampleScores):
    """All of the above of a whole split, from the confusion matrix of every image.

    Examples:
        >>> scores = SegmentationScores()
        >>> scores.update(torch.tensor([0]), {"confusion": torch.tensor([[[3.0, 1.0], [0.0, 4.0]]])})
        >>> round(scores.compute()["IoU"], 2)
        0.8
    """

    def update(
        self, identity: Int[Tensor, "batch"], scores: Mapping[str, Float[Tensor, "batch true predicted"]]
    ) -> None:
        """Add the tables `confusion` of some images."""
        cells = scores["confusion"].flatten(1).unbind(dim=1)
        super().update(identity, {str(number): each for number, each in enumerate(cells)})

    def compute(self) -> dict[str, float]:
        identity, values = self.table()
        if not len(identity):
            return {}
        classes = int(values.shape[1] ** 0.5)
        matrices = values.view(len(values), classes, classes)
        found = segmentation_scores(matrices.double().sum(dim=0))
        if classes == 2:
            found |= {name: each.double().nanmean() for name, each in image_scores(matrices).items()}
        return {name: float(value) for name, value in found.items()}
