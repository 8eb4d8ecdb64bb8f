"""The contract of recognition: an image or a clip in, its label or labels out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
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
