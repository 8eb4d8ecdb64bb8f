"""The contract of classification: images in, class logits out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from ommatid.engine.batch import Batch


@dataclass
class ImageBatch(Batch):
    """Images in [0, 1] with their class.

    Attributes:
        index: position of the image in its split: it identifies a prediction, also across processes.
    """

    images: Float[Tensor, "batch channel height width"]
    labels: Int[Tensor, "batch"]
    index: Int[Tensor, "batch"]


@dataclass(frozen=True)
class Classification:
    """Class probabilities of a user's own image, most probable first."""

    image: Float[Tensor, "channel height width"]
    classes: list[tuple[str, float]]

    def to_json(self) -> dict[str, Any]:
        return {"classes": [{"class": name, "probability": round(value, 4)} for name, value in self.classes]}

    def draw(self, path: Path) -> None:
        from ommatid.classification.draw import draw_classification

        draw_classification(self.image, self.classes, path)
