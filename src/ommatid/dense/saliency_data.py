"""Videos shot all around, in windows of frames: the embedded world, Wild360, or your own.

A batch holds what a frozen encoder saw of the frames, not the frames. The encoder is the method's; it is lent to the
data by `encode_with`, before training and before evaluation, and asked when a loader is made (see `frame_tokens`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.data.saliency_videos import (
    SaliencyVideo,
    detect_saliency_format,
    open_saliency,
    saliency_splits,
    window_starts,
)
from ommatid.data.worlds.sphere import SphereWorld
from ommatid.dense.frame_tokens import Footage, FrameEncoder, StoredTokens, TokenFolder, Tokens, frame_tokens
from ommatid.dense.saliency_scores import VideoScores, frame_identity, frame_scores
from ommatid.dense.saliency_task import SaliencyBatch
from ommatid.engine.data import DataModule
from ommatid.engine.settings import build
from ommatid.errors import InputError

V = TypeVar("V")
World = Literal["world-sphere"]
MAP_HEIGHT = 120
"""Rows of the maps that videos on disk are scored on, as Wild360 is."""
WIDTH_OF_PRIORS = 20.0
"""Standard deviation of the hills that know nothing of the video, in degrees."""


class SaliencyData(DataModule):
    """Windows of frames, as a frozen encoder sees them, and their maps.

    Args:
        root: folder of the videos; the embedded world where None.
        format: "wild360", "folder", or "auto", which looks at the files.
        embedded: "world-sphere", textured discs that move over a sphere.
        world: settings of the world.
        height: rows that frames are resized to.
        window: frames of a window; windows do not overlap, apart from the last one, which ends with the video.
        map_height: rows of the maps that are scored; 120 for videos on disk, those of the frames for the world.
        cache: folder in which the tokens of videos on disk are kept; `root`/tokens where None.
    """

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        embedded: World = "world-sphere",
        world: Mapping[str, Any] | None = None,
        height: int = 224,
        window: int = 5,
        map_height: int | None = None,
        cache: str | None = None,
        batch_size: int = 1,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        for name, value in (("height", height), ("window", window), ("map_height", map_height)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")
        self.root, self.format, self.embedded, self._world = root, format, embedded, dict(world or {})
        self.height, self.window, self.map_height, self.cache = height, window, map_height, cache
        self.encoder: FrameEncoder | None = None
        self._windows: dict[tuple[str, str], Windows] = {}

    @cached_property
    def world(self) -> SphereWorld:
        return build(SphereWorld, {"height": self.height, "seed": self.seed, **self._world})

    @cached_property
    def videos(self) -> dict[str, list[SaliencyVideo]]:
        """The videos of every split, of those on disk; a split that is missing is cut from training."""
        root, format = Path(str(self.root)), None if self.format == "auto" else self.format
        found = {split: open_saliency(root, split, format) for split in saliency_splits(root, format)}
        if "train" not in found:
            raise InputError(f"{root}: found the parts {', '.join(found)}, expected one named train")
        for split, every in (("test", 5), ("val", 10)):
            if split not in found:
                found["train"], found[split] = held_out(found["train"], every)
        return found

    @cached_property
    def _rendered(self) -> dict[str, list["RenderedClip"]]:
        return {}

    def footage(self, split: str) -> Sequence[Footage]:
        """The videos of a split, rendered or on disk."""
        if self.root is not None:
            return self.videos[split]
        if split not in self._rendered:
            clips = self.world.split(split)
            self._rendered[split] = [
                RenderedClip(f"{split}_{number:04d}", frames, saliency)
                for number, (frames, saliency) in enumerate(zip(clips.frames, clips.saliency, strict=True))
            ]
        return self._rendered[split]

    @property
    def map_size(self) -> tuple[int, int]:
        height = self.map_height or (self.height if self.root is None else MAP_HEIGHT)
        return height, 2 * height

    def use(self, height: int, window: int) -> None:
        """Give windows as a method reads them."""
        if (height, window) != (self.height, self.window):
            self.height, self.window = height, window
            self._windows.clear()
            for name in ("world", "_rendered"):
                self.__dict__.pop(name, None)

    def encode_with(self, encoder: FrameEncoder) -> None:
        """Lend the data the encoder whose tokens they give from now on."""
        self.encoder = encoder

    def dataset(self, split: str) -> "Windows":
        footage = self.footage(self.check_split(split))
        if self.encoder is None:
            raise InputError("encoder: found none, expected a method to lend its own to the data by encode_with")
        key = split, self.encoder.fingerprint()
        if key not in self._windows:
            # Tokens of weights that are no more would only fill the memory.
            self._windows = {known: each for known, each in self._windows.items() if known[1] == key[1]}
            self._windows[key] = Windows(footage, self._tokens(split, footage), self.window, self.map_size)
        return self._windows[key]

    def _tokens(self, split: str, footage: Sequence[Footage]) -> "Sequence[Tokens | StoredTokens]":
        assert self.encoder is not None
        if self.root is None:
            return [frame_tokens(clip, self.encoder) for clip in footage]
        folder = TokenFolder(Path(self.cache or Path(self.root) / "tokens"), self.encoder)
        share = self.trainer.global_rank / self.trainer.world_size if self.trainer else 0.0
        return folder.all_of(footage, [video.path for video in self.videos[split]], share)

    @staticmethod
    def collate(samples: "Sequence[WindowSample]") -> SaliencyBatch:  # type: ignore[override]
        patches, cls, valid, saliency, scored, video, start = zip(*samples, strict=True)
        return SaliencyBatch(
            patches=torch.stack(patches),
            cls=torch.stack(cls),
            valid=torch.stack(valid),
            saliency=torch.stack(saliency),
            scored=torch.stack(scored),
            video=torch.tensor(video),
            start=torch.tensor(start),
        )

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Everywhere alike; a hill in the middle of the picture; a band along the equator; the mean map of training.

        A split without maps has none; training videos without maps leave the last one out.
        """
        if not any(clip.has_maps for clip in self.footage(split)):
            return {}
        guesses = prior_maps(self.map_size)
        mean = self._mean_map()
        guesses |= {} if mean is None else {"mean map of training": mean}
        scores = {name: VideoScores() for name in guesses}
        for identity, maps in self._known_maps(split):
            for name, guess in guesses.items():
                scores[name].update(identity, frame_scores(guess.expand_as(maps), maps, identity))
        return {name: each.compute() for name, each in scores.items()}

    def describe(self) -> dict[str, Any]:
        sizes = {split: len(self.footage(split)) for split in self.splits}
        name = f"{Path(self.root).name} ({self._format()})" if self.root else self.embedded
        return {"name": name, "videos": sizes, "height": self.height, "window": self.window}

    def _format(self) -> str:
        return detect_saliency_format(str(self.root)) if self.format == "auto" else self.format

    def _known_maps(self, split: str) -> Iterator[tuple[Int[Tensor, "frame"], Float[Tensor, "frame height width"]]]:
        """Identities and maps of the frames of one video after the other, some at a time."""
        for number, clip in enumerate(self.footage(split)):
            frames = torch.arange(clip.length() if clip.has_maps else 0)
            for part in frames.split(64) if len(frames) else ():
                yield frame_identity(torch.full_like(part, number), part), clip.maps(part.tolist(), self.map_size)

    def _mean_map(self) -> Float[Tensor, "height width"] | None:
        total, count = torch.zeros(self.map_size), 0
        for _, maps in self._known_maps("train"):
            total, count = total + maps.sum(dim=0), count + len(maps)
        return total / count if count else None


def held_out(videos: Sequence[V], every: int) -> tuple[list[V], list[V]]:
    """The rest, and every so many videos; the division never changes.

    Raises:
        InputError: there are fewer than two videos.
    """
    if len(videos) < 2:
        raise InputError(f"train: found {len(videos)} video, expected at least 3 to validate and to test on others")
    chosen = set(range(min(every, len(videos)) - 1, len(videos), every))
    return (
        [video for number, video in enumerate(videos) if number not in chosen],
        [video for number, video in enumerate(videos) if number in chosen],
    )


def prior_maps(size: tuple[int, int]) -> dict[str, Float[Tensor, "height width"]]:
    """Maps that know nothing of a video: "uniform", "centre" and "equator".

    Examples:
        >>> maps = prior_maps((4, 8))
        >>> maps["centre"].argmax().item(), (100 * maps["equator"][:, 0]).int().tolist()
        (11, [0, 53, 53, 0])
    """
    height, width = size
    latitude = 90 - (torch.arange(height) + 0.5) * 180 / height
    longitude = (torch.arange(width) + 0.5) * 360 / width - 180
    across = (-((latitude / WIDTH_OF_PRIORS) ** 2) / 2).exp()[:, None].expand(height, width)
    along = latitude.deg2rad().cos()[:, None] * longitude.deg2rad().cos()
    angle = along.clamp(-1, 1).acos().rad2deg()
    return {
        "uniform": torch.ones(height, width),
        "centre": (-((angle / WIDTH_OF_PRIORS) ** 2) / 2).exp(),
        "equator": across.clone(),
    }


@dataclass(frozen=True)
class RenderedClip:
    """A clip of the world: footage in memory."""

    name: str
    frames: UInt8[Tensor, "time 3 height width"]
    saliency: Float[Tensor, "time height width"]
    has_maps: bool = True

    def length(self) -> int:
        return len(self.frames)

    def chunks(self, height: int, length: int = 32) -> Iterator[UInt8[Tensor, "time 3 height width"]]:
        assert height == self.frames.shape[2]
        yield from self.frames.split(length)

    def maps(self, indices: Sequence[int], size: tuple[int, int]) -> Float[Tensor, "time map_height map_width"]:
        maps = self.saliency[list(indices)]
        if maps.shape[1:] == size:
            return maps
        return torch.nn.functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


class WindowSample(NamedTuple):
    """One row of a `SaliencyBatch`."""

    patches: Float[Tensor, "time patch dim"]
    cls: Float[Tensor, "time dim"]
    valid: Bool[Tensor, "time"]
    saliency: Float[Tensor, "time height width"]
    scored: Bool[Tensor, "time"]
    video: int
    start: int


class Windows(Dataset[WindowSample]):
    """Windows without overlap of all videos of a split; the last of a video is moved back to end with it (F)."""

    def __init__(
        self,
        footage: Sequence[Footage],
        tokens: "Sequence[Tokens | StoredTokens]",
        length: int,
        map_size: tuple[int, int],
    ) -> None:
        self.footage, self.tokens, self.length, self.map_size = footage, tokens, length, map_size
        # Frames behind the last map have no part in training either. Counting them may take reading the whole video.
        self.frames = [
            min(len(each), clip.length()) if clip.has_maps else len(each)
            for clip, each in zip(footage, tokens, strict=True)
        ]
        self.places = [
            (video, start, new) for video, frames in enumerate(self.frames) for start, new in windows_of(frames, length)
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> WindowSample:
        video, start, new = self.places[index]
        clip = self.footage[video]
        frames = min(self.length, self.frames[video] - start)
        seen = padded(self.tokens[video][start : start + frames], self.length)
        saliency, scored = torch.zeros(self.length, *self.map_size), torch.zeros(self.length, dtype=torch.bool)
        if clip.has_maps:
            saliency[:frames] = clip.maps(range(start, start + frames), self.map_size)
            scored[new - start : frames] = True
        valid = torch.arange(self.length) < frames
        return WindowSample(seen[:, 1:], seen[:, 0], valid, saliency, scored, video, start)


def windows_of(frames: int, length: int) -> list[tuple[int, int]]:
    """First frame of every window, and the first of its frames that the window before does not show.

    Examples:
        >>> windows_of(12, 5), windows_of(3, 5)
        ([(0, 0), (5, 5), (7, 10)], [(0, 0)])
    """
    starts = window_starts(frames, length)
    ends = [0, *(start + length for start in starts)]
    return [(start, max(start, end)) for start, end in zip(starts, ends, strict=False)]


def padded(tokens: Float[Tensor, "time token dim"], length: int) -> Float[Tensor, "{length} token dim"]:
    """Zeros behind the last frame.

    Examples:
        >>> padded(torch.ones(2, 3, 4), 5)[:, 0, 0].tolist()
        [1.0, 1.0, 0.0, 0.0, 0.0]
    """
    missing = length - len(tokens)
    return torch.cat([tokens, tokens.new_zeros(missing, *tokens.shape[1:])]) if missing else tokens
