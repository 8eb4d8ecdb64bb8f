"""The contract of masks: an image in, the probability of the foreground at every pixel out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.engine.batch import Batch


@dataclass
class MaskBatch(Batch):
    """Images in [0, 1] with the mask of their foreground.

    Attributes:
        masks: 1 where the foreground is, else 0.
        valid: pixels whose mask is known; none of an image without a mask.
        index: position of the image in its split: it identifies a prediction, also across processes.
    """

    images: Float[Tensor, "batch 3 height width"]
    masks: Float[Tensor, "batch 1 height width"]
    valid: Bool[Tensor, "batch 1 height width"]
    index: Int[Tensor, "batch"]


@dataclass
class BoundaryBatch(Batch):
    """What one step of boundary knowledge translation sees; the three parts know nothing of each other.

    Attributes:
        unlabelled: images of the target, their masks unknown.
        source: images of other categories with masks.
        labelled: the few labelled images of the target.
    """

    unlabelled: MaskBatch
    source: MaskBatch
    labelled: MaskBatch


@dataclass(frozen=True)
class Segmentation:
    """The foreground of a user's own image, in the image's own size.

    Attributes:
        threshold: from which probability on a pixel is foreground.
    """

    image: Float[Tensor, "3 height width"]
    probabilities: Float[Tensor, "height width"]
    threshold: float

    @property
    def mask(self) -> Bool[Tensor, "height width"]:
        return self.probabilities >= self.threshold

    def to_json(self) -> dict[str, Any]:
        """Share of the image, and the box (left, top, right, bottom in pixels) of all foreground; None without any."""
        mask = self.mask
        rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
        box = None
        if len(rows):
            box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        return {
            "width": mask.shape[1],
            "height": mask.shape[0],
            "foreground": round(float(mask.float().mean()), 4),
            "box": box,
            "threshold": round(self.threshold, 4),
        }

    def draw(self, path: Path) -> None:
        """The image with its foreground lit; beside it `<name>.mask.png`, 255 where the foreground is."""
        from ommatid.dense.draw import draw_mask, save_mask

        draw_mask(self.image, self.mask, path)
        save_mask(self.mask.to(torch.uint8) * 255, path.with_suffix(".mask.png"))
