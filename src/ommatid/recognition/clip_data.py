"""Videos with a label: the embedded world, official lists, or your own folders."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.classification.data import LabelledData, guesses
from ommatid.data.clip_lists import ClipList, ClipRecord, clip_splits, detect_clip_format, open_clips
from ommatid.data.clips import count_frames, read_frames
from ommatid.data.images import unit_interval
from ommatid.data.worlds.motion import CLASSES, MotionWorld
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.recognition.sampling import Sampling
from ommatid.recognition.task import ClipBatch

ClipSample = tuple[UInt8[Tensor, "view time 3 height width"], int, int]
VAL_FRACTION = 0.1


class ClipData(LabelledData):
    """Clips in [0, 1] with one label each.

    Args:
        root: folder of the data set; the embedded `world-motion` where None.
        format: one of the official lists (see "Videos with a label" in the documentation), "folder", or "auto", which
            looks at the files.
        fold: of UCF101 and HMDB51.
        clip_length, interval, mode, size, flip: how training clips are drawn, see `Sampling`.
        test_clips, test_crops: views of a test video, whose scores are averaged.
        world: settings of `MotionWorld`.
    """

    dividing = ("seed", "fold")

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        fold: int = 1,
        clip_length: int = 8,
        interval: int = 8,
        mode: Literal["dense", "segments"] = "dense",
        size: int = 224,
        flip: bool = True,
        test_clips: int = 1,
        test_crops: int = 1,
        world: Mapping[str, Any] | None = None,
        batch_size: int = 16,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        self.root, self.format, self.fold = root, format, fold
        self.sampling = Sampling(clip_length, interval, mode, size, flip, test_clips, test_crops)
        self._world = dict(world or {})

    @cached_property
    def world(self) -> MotionWorld:
        sizes = {"frames": self.sampling.clip_length, "size": self.sampling.size, "seed": self.seed}
        return build(MotionWorld, {**sizes, **self._world})

    @cached_property
    def lists(self) -> dict[str, ClipList]:
        """The videos of every split; a validation part is cut from training where there is none."""
        root, format = self._folder(), self._format()
        found = {split: open_clips(root, split, self.fold, format) for split in clip_splits(root, format, self.fold)}
        if "train" not in found or "test" not in found:
            raise InputError(f"{root}: found the parts {', '.join(found)}, expected train and test")
        if "val" not in found:
            found["train"], found["val"] = held_out(found["train"])
        return found

    @property
    def class_names(self) -> list[str]:
        return list(CLASSES) if self.root is None else list(self.lists["train"].class_names)

    def use(self, sampling: Sampling) -> None:
        """Give clips as a trained method expects them."""
        if sampling != self.sampling:
            self.sampling = sampling
            self.__dict__.pop("world", None)
            self.__dict__.pop("_rendered", None)

    def dataset(self, split: str) -> "WorldClips | VideoClips":
        self.check_split(split)
        if self.root is None:
            return self._rendered_split(split)
        return VideoClips(self.lists[split].records, self.sampling, at_random=split == "train")

    def collate(self, samples: Sequence[ClipSample]) -> ClipBatch:
        clips, labels, indices = zip(*samples, strict=True)
        return ClipBatch(unit_interval(torch.stack(clips)), torch.tensor(labels), torch.tensor(indices))

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """The most frequent class of training, and chance."""
        return guesses(self._labels("train"), self._labels(split), len(self.class_names))

    def describe(self) -> dict[str, Any]:
        sizes = {split: len(self._labels(split)) for split in self.splits}
        name = f"{Path(self.root).name} ({self._format()})" if self.root else "world-motion"
        return {"name": name, "videos": sizes, "classes": len(self.class_names), **vars(self.sampling)}

    def _labels(self, split: str) -> Int[Tensor, "video"]:
        if self.root is None:
            return self._rendered_split(split).labels
        return torch.tensor([record.label for record in self.lists[split].records])

    def _folder(self) -> Path:
        root = Path(str(self.root))
        if not root.is_dir():
            raise InputError(f"{root}: no such folder, expected lists of videos or folders of them")
        return root

    def _format(self) -> str:
        return detect_clip_format(self._folder()) if self.format == "auto" else self.format

    def _rendered_split(self, split: str) -> "WorldClips":
        if split not in self._rendered:
            self._rendered[split] = WorldClips(*self.world.split(split))
        return self._rendered[split]

    @cached_property
    def _rendered(self) -> dict[str, "WorldClips"]:
        return {}


class WorldClips(Dataset[ClipSample]):
    """Rendered clips, in memory; each is one view."""

    def __init__(self, clips: UInt8[Tensor, "clip time 3 height width"], labels: Int[Tensor, "clip"]) -> None:
        self.clips, self.labels = clips, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> ClipSample:
        return self.clips[index][None], int(self.labels[index]), index


class VideoClips(Dataset[ClipSample]):
    """Videos that are decoded when asked for: one random clip, or all test views."""

    def __init__(self, records: Sequence[ClipRecord], sampling: Sampling, at_random: bool) -> None:
        self.records, self.sampling, self.draws = records, sampling, at_random

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> ClipSample:
        record, sampling = self.records[index], self.sampling
        frames = record.frames or count_frames(record.path)
        if self.draws:
            indices = sampling.random_indices(frames, torch.default_generator)
            clip = read_frames(record.path, indices, sampling.resized)
            return sampling.random_view(clip, torch.default_generator), record.label, index
        return test_views(record.path, frames, sampling), record.label, index


def test_views(path: Path, frames: int, sampling: Sampling) -> UInt8[Tensor, "view time 3 height width"]:
    """All test views of a video; every frame is decoded once."""
    return sampling.views(read_frames(path, sampling.indices(frames), sampling.resized))


def held_out(train: ClipList) -> tuple[ClipList, ClipList]:
    """Every tenth video of each class, and the rest first."""
    seen: dict[int, int] = {}
    parts: tuple[list[ClipRecord], list[ClipRecord]] = ([], [])
    for record in train.records:
        number = seen.get(record.label, 0)
        seen[record.label] = number + 1
        parts[number % round(1 / VAL_FRACTION) == 5].append(record)
    if not parts[1]:
        raise InputError(
            "train: found fewer than 6 videos of every class, expected enough to hold out a validation part"
        )
    return ClipList(tuple(parts[0]), train.class_names), ClipList(tuple(parts[1]), train.class_names)
