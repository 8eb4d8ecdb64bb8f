"""Which frames of a video a method sees, and which part of them: one clip at random in training, several in tests."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ommatid.data.clips import (
    centre_crop,
    clip_indices,
    random_clip_indices,
    random_resized_crop,
    three_crops,
)
from ommatid.data.images import MARGIN
from ommatid.errors import InputError

Views = UInt8[Tensor, "view time 3 height width"]


@dataclass(frozen=True)
class Sampling:
    """How videos become clips (arXiv:2012.06977, E6).

    Attributes:
        clip_length: frames of a clip.
        mode: "dense" takes them `interval` frames apart from one place; "segments" takes one from each of `clip_length`
            equal parts of the video.
        size: height and width of the crop.
        flip: mirror half of the training clips; not where left and right mean something.
        clips, crops: views of a test video: as many moments, times one crop in the middle or three along the longer
            side.
    """

    clip_length: int = 8
    interval: int = 8
    mode: Literal["dense", "segments"] = "dense"
    size: int = 224
    flip: bool = True
    clips: int = 1
    crops: int = 1

    def __post_init__(self) -> None:
        for name in ("clip_length", "interval", "size", "clips"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.crops not in (1, 3):
            raise InputError(f"crops must be 1 or 3, found {self.crops}")

    @property
    def resized(self) -> int:
        """Shorter side of the frames that crops are cut from."""
        return round(MARGIN * self.size)

    def random_indices(self, frames: int, generator: torch.Generator) -> Int[Tensor, "time"]:
        """The frames of one training clip."""
        if self.mode == "segments":
            return random_clip_indices(frames, 1, 1, self.clip_length, generator).flatten()
        return random_clip_indices(frames, self.clip_length, self.interval, 1, generator).flatten()

    def indices(self, frames: int) -> Int[Tensor, "clip time"]:
        """The frames of all test clips."""
        if self.mode == "dense":
            return clip_indices(frames, self.clip_length, self.interval, self.clips)
        # The same parts for every clip, and other places inside them.
        every = clip_indices(frames, 1, 1, self.clip_length * self.clips).flatten()
        return every.unflatten(0, (self.clip_length, self.clips)).T

    def random_view(self, clip: UInt8[Tensor, "time 3 rows columns"], generator: torch.Generator) -> Views:
        """One crop of a training clip, all frames alike."""
        cropped = random_resized_crop(clip, self.size, generator)
        if self.flip and float(torch.rand((), generator=generator)) < 0.5:
            cropped = cropped.flip(-1)
        return cropped[None]

    def views(self, clips: UInt8[Tensor, "clip time 3 rows columns"]) -> Views:
        """All crops of all test clips."""
        if self.crops == 3:
            return three_crops(clips, self.size)
        return centre_crop(clips, self.size)
