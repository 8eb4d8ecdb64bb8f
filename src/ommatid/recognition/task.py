"""The contract of recognition: an image or a clip in, its label or labels out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.engine.batch import Batch


@dataclass
class ClipBatch(Batch):
    """Videos with their class, each seen in one or several clips.

    Attributes:
        clips: frames in [0, 1]; views are clips from other moments and crops of the same video.
        index: position of the video in its split: it identifies a prediction, also across processes.
    """

    clips: Float[Tensor, "batch view time 3 height width"]
    labels: Int[Tensor, "batch"]
    index: Int[Tensor, "batch"]


@dataclass(frozen=True)
class ClipClassification:
    """Class probabilities of a user's own video, most probable first.

    Attributes:
        frames: of the clip in its middle.
    """

    frames: Float[Tensor, "time 3 height width"]
    classes: list[tuple[str, float]]

    def to_json(self) -> dict[str, Any]:
        return {"classes": [{"class": name, "probability": round(value, 4)} for name, value in self.classes]}

    def draw(self, path: Path) -> None:
        from ommatid.recognition.draw import draw_clip

        draw_clip(self.frames, self.classes, path)


@dataclass
class LabelBatch(Batch):
    """Images in [0, 1] with any number of labels.

    Attributes:
        hard: labels whose object is hard to see; none where nobody knows.
        index: position of the image in its split.
    """

    images: Float[Tensor, "batch 3 height width"]
    labels: Bool[Tensor, "batch label"]
    hard: Bool[Tensor, "batch label"]
    index: Int[Tensor, "batch"]


@dataclass(frozen=True)
class FoundLabels:
    """The labels of a user's own image, in the order in which they were named.

    Attributes:
        labels: name and probability.
        attention: where the method looked when it named each label; None where it has no such thing.
    """

    image: Float[Tensor, "3 height width"]
    labels: list[tuple[str, float]]
    attention: Float[Tensor, "label rows columns"] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"labels": [{"label": name, "probability": round(value, 4)} for name, value in self.labels]}

    def draw(self, path: Path) -> None:
        from ommatid.recognition.draw import draw_labels

        draw_labels(self.image, self.labels, self.attention, path)
