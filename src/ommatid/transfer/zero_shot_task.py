"""The contract of zero-shot learning: features of an image in, its class out, which may have no training image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from ommatid.engine.batch import Batch

CHOOSING, TESTING = 0, 1
"""The two tasks: which classes without training samples can be the answer."""


@dataclass
class FeatureBatch(Batch):
    """Features of images with their class.

    Classes are numbered in this order: seen ones, those kept back for choosing settings, unseen ones.

    Attributes:
        task: which classes can be the answer: beside those seen in training the ones kept back (`CHOOSING`), or the
            unseen ones (`TESTING`).
        index: position of the sample in its split.
    """

    features: Float[Tensor, "batch feature"]
    labels: Int[Tensor, "batch"]
    task: Int[Tensor, "batch"]
    index: Int[Tensor, "batch"]


@dataclass(frozen=True)
class LatentMap:
    """A plane through the space in which a method tells classes apart, with what lies in it.

    Attributes:
        class_names: of the classes without training samples that can be the answer.
        seen: prototypes of the seen classes.
        generated, labels: samples that were made up for the classes of `class_names`, and whose each is.
        given: the samples that were asked about.
    """

    class_names: list[str]
    seen: Float[Tensor, "seen 2"]
    generated: Float[Tensor, "generated 2"]
    labels: Int[Tensor, "generated"]
    given: Float[Tensor, "sample 2"]


@dataclass(frozen=True)
class FoundClasses:
    """Classes of the user's own samples, the most probable first.

    Attributes:
        classes: of every sample, in the order of the file.
        map: where the samples lie; None where the method has no such space.
    """

    classes: list[list[tuple[str, float]]]
    map: LatentMap | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "classes": [
                {"sample": number, "class": name, "probability": round(value, 4)}
                for number, found in enumerate(self.classes)
                for name, value in found
            ]
        }

    def draw(self, path: Path) -> None:
        from ommatid.transfer.zero_shot_draw import draw_found_classes

        draw_found_classes(self.classes, self.map, path)
