"""The contract of saliency: tokens of a window of frames in, a map of where people would look for every frame out."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ommatid.engine.batch import Batch


@dataclass
class SaliencyBatch(Batch):
    """Windows of frames, as a frozen encoder saw them, with their maps where somebody knows them.

    Attributes:
        patches: a token for every patch of every frame, row by row from the north pole; zeros behind a video's end.
        cls: a token of every frame as a whole.
        valid: frames that are real.
        saliency: how much people looked where; zeros in frames without a map.
        scored: frames that have a map and were not in the window before.
        video: position of the window's video in its split.
        start: number of the window's first frame in its video.
    """

    patches: Float[Tensor, "batch time patch dim"]
    cls: Float[Tensor, "batch time dim"]
    valid: Bool[Tensor, "batch time"]
    saliency: Float[Tensor, "batch time map_height map_width"]
    scored: Bool[Tensor, "batch time"]
    video: Int[Tensor, "batch"]
    start: Int[Tensor, "batch"]


@dataclass(frozen=True)
class SaliencyMaps:
    """Where people would look in a user's own video.

    Attributes:
        frames: in the size that the method sees.
        maps: between 0 and 1 in every frame.
        first: number of the first frame in the video, counted from 0.
        fps: frames a second.
    """

    frames: UInt8[Tensor, "time 3 height width"]
    maps: Float[Tensor, "time height width"]
    first: int = 0
    fps: float = 25.0

    def peaks(self) -> Float[Tensor, "time 2"]:
        """Latitude and longitude, in degrees, of the most salient place of every frame."""
        height, width = self.maps.shape[1:]
        place = self.maps.flatten(1).argmax(dim=1)
        row, column = place.div(width, rounding_mode="floor"), place % width
        found = self.maps.new_empty(len(self.maps), 2)
        found[:, 0], found[:, 1] = 90 - (row + 0.5) * 180 / height, (column + 0.5) * 360 / width
        return found

    def to_json(self) -> dict[str, Any]:
        """The most salient place of every frame: latitude from -90 (south) to 90, longitude from 0 to 360 degrees."""
        height, width = self.maps.shape[1:]
        peaks = [
            {"frame": self.first + number, "latitude": round(latitude, 1), "longitude": round(longitude, 1)}
            for number, (latitude, longitude) in enumerate(self.peaks().tolist())
        ]
        return {"frames": len(self.maps), "height": height, "width": width, "fps": round(self.fps, 3), "peaks": peaks}

    def draw(self, path: str | Path) -> None:
        """Some of the frames below their maps' light; all of them, as a video, where the path ends in .mp4."""
        from ommatid.dense.saliency_draw import draw_saliency, write_saliency_video

        if Path(path).suffix.lower() == ".mp4":
            write_saliency_video(self.frames, self.maps, max(1, math.floor(self.fps + 0.5)), Path(path))
        else:
            draw_saliency(self.frames, self.maps, self.first, Path(path))
