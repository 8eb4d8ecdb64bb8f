"""The contract of few-shot learning: some images of known classes to learn from, then episodes of new ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ommatid.engine.batch import Batch


@dataclass
class BaseClassBatch(Batch):
    """Images in [0, 1] of the classes that are learnt from.

    Attributes:
        boxes: top, left, height and width of the object in pixels; NaN where nobody knows.
        index: position of the image in its part.
    """

    images: Float[Tensor, "batch 3 height width"]
    labels: Int[Tensor, "batch"]
    boxes: Float[Tensor, "batch 4"]
    index: Int[Tensor, "batch"]


@dataclass
class EpisodeBatch(Batch):
    """Episodes: a few images in [0, 1] of each new class, and others whose class is asked for.

    Attributes:
        labels: class of every query within its episode.
        support_boxes, query_boxes: as of `BaseClassBatch`.
        support_numbers, query_numbers: positions of the images in their part. What is drawn at random for an image
            follows from its number and `seed`, in whatever episode it is.
        index: number of the episode.
    """

    support: Float[Tensor, "episode way shot 3 height width"]
    query: Float[Tensor, "episode query 3 height width"]
    labels: Int[Tensor, "episode query"]
    support_boxes: Float[Tensor, "episode way shot 4"]
    query_boxes: Float[Tensor, "episode query 4"]
    support_numbers: Int[Tensor, "episode way shot"]
    query_numbers: Int[Tensor, "episode query"]
    index: Int[Tensor, "episode"]
    seed: Int[Tensor, "episode"]

    @property
    def images(self) -> Float[Tensor, "episode image 3 height width"]:
        """Supports, class by class, then queries."""
        return torch.cat([self.support.flatten(1, 2), self.query], dim=1)

    @property
    def boxes(self) -> Float[Tensor, "episode image 4"]:
        """Of `images`."""
        return torch.cat([self.support_boxes.flatten(1, 2), self.query_boxes], dim=1)

    @property
    def numbers(self) -> Int[Tensor, "episode image"]:
        """Of `images`."""
        return torch.cat([self.support_numbers.flatten(1, 2), self.query_numbers], dim=1)


@dataclass(frozen=True)
class CropMatch:
    """A crop of a query beside the crops of a class that it resembles.

    Attributes:
        query_box, support_boxes: top, left, height and width in pixels; one support box for each support.
        similarity: cosine between the crop and what the support crops share.
    """

    query_box: tuple[float, ...]
    support_boxes: tuple[tuple[float, ...], ...]
    similarity: float


@dataclass(frozen=True)
class FewShotPrediction:
    """Which of a user's new classes his own image shows, best first.

    Attributes:
        classes: name and score; a score is at most 1, and no probability.
        supports: the pictures of the best class.
        matches: what the decision rests on, where the method can tell.
    """

    image: Float[Tensor, "3 height width"]
    classes: list[tuple[str, float]]
    supports: Float[Tensor, "shot 3 height width"]
    matches: tuple[CropMatch, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"classes": [{"class": name, "score": round(value, 4)} for name, value in self.classes]}

    def draw(self, path: Path) -> None:
        from ommatid.transfer.few_shot_draw import draw_few_shot

        draw_few_shot(self, path)
