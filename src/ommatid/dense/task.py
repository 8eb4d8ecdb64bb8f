"""The contract of masks: an image in, the probability of the foreground at every pixel out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
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

    Where images are asked for what a reference shows, the target's parts are batches of references.

    Attributes:
        unlabelled: images of the target, their masks unknown.
        source: images of other categories with masks.
        labelled: the few labelled images of the target.
        kin: whether the source shows what is searched for, as it does where the labelled images take its place.
    """

    unlabelled: MaskBatch
    source: MaskBatch
    labelled: MaskBatch
    kin: bool = False


LEVELS = 255
MOST_SHOWN = 2048
"""Longest side of a drawing of an image that was seen in windows, in pixels."""


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
        return {**_told([self.mask]), "threshold": round(self.threshold, 4)}

    def draw(self, path: Path) -> None:
        """The image with its foreground lit; beside it `<name>.mask.png`, 255 where the foreground is."""
        from ommatid.dense.draw import draw_mask, save_mask

        draw_mask(self.image, self.mask, path)
        save_mask(self.mask.to(torch.uint8) * 255, path.with_suffix(".mask.png"))


@dataclass(frozen=True)
class TiledSegmentation:
    """The foreground of an image of any size that was seen in windows.

    Attributes:
        shown: the image, no side longer than `MOST_SHOWN` pixels.
        levels: probabilities in steps of 1/255, in the image's own size.
    """

    shown: Float[Tensor, "3 rows columns"]
    levels: UInt8[Tensor, "height width"]
    threshold: float

    def masks(self, rows: int = 512) -> Iterator[Bool[Tensor, "rows width"]]:
        """The mask, some rows at a time: as a whole it would be as large as the levels."""
        for part in self.levels.split(rows):
            yield part >= self.threshold * LEVELS

    def to_json(self) -> dict[str, Any]:
        """As of `Segmentation`."""
        return {**_told(self.masks()), "threshold": round(self.threshold, 4)}

    def draw(self, path: Path) -> None:
        """The image with its foreground lit; beside it the mask, `<name>.mask.png`, or `.tif` of a large image."""
        from ommatid.dense.draw import draw_mask, save_large_mask

        height, width = self.levels.shape
        step = shown_step(height, width)
        draw_mask(self.shown, self.levels[::step, ::step] >= self.threshold * LEVELS, path)
        save_large_mask(self.masks(), (height, width), path)


def shown_step(height: int, width: int) -> int:
    """Every how many pixels of a large image are shown.

    Examples:
        >>> shown_step(2048, 100), shown_step(20_000, 100)
        (1, 10)
    """
    return -(-max(height, width) // MOST_SHOWN)


def _told(masks: Iterable[Bool[Tensor, "_ width"]]) -> dict[str, Any]:
    """Sizes, share and box of a mask that comes in one part or in several, one below the other, each seen once."""
    across, down, counts = zip(*((part.any(dim=0), part.any(dim=1), int(part.sum())) for part in masks), strict=True)
    width, height = len(across[0]), sum(map(len, down))
    columns, rows = torch.stack(across).any(dim=0).nonzero()[:, 0], torch.cat(down).nonzero()[:, 0]
    box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1] if len(rows) else None
    share = sum(counts) / (height * width)
    return {"width": width, "height": height, "foreground": round(share, 4), "box": box}
