"""Data of few-shot learning: images of base classes to learn from, episodes of other classes to be judged by."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.classification.data import LabelledData
from ommatid.data.few_shot import FewShotImages, detect_few_shot_format, read_few_shot
from ommatid.data.images import SPLITS, unit_interval
from ommatid.data.worlds.glyphs import GlyphScenes, GlyphWorld
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.transfer.episodes import (
    EpisodicBatchSampler,
    episode_accuracy,
    episode_labels,
    euclidean_prototype_scores,
    interval,
)
from ommatid.transfer.few_shot_task import BaseClassBatch, EpisodeBatch

THUMBNAIL = 16
"""Side of the images whose pixels the trivial predictor compares."""
BASELINE_EPISODES = 200


class BaseSample(NamedTuple):
    """One image of a base class."""

    image: Float[Tensor, "3 size size"]
    label: int
    box: Float[Tensor, "4"]
    number: int


class EpisodeSample(NamedTuple):
    """The images of one episode, supports first, classes in turn."""

    images: Float[Tensor, "image 3 size size"]
    boxes: Float[Tensor, "image 4"]
    numbers: Int[Tensor, "image"]
    episode: int


class EpisodeData(LabelledData):
    """Images in [0, 1] of base classes, and episodes of new ones.

    Args:
        root: folder of the data set; the embedded `world-glyphs` where None.
        format: "folder", "csv", "pickle", "cub" (see "Few-shot data" in the documentation), or "auto", which looks at
            the files.
        size: height and width that images are resized to; networks see crops of it.
        way, shot, queries: classes of an episode, pictures known of each, and pictures of each that are asked for.
        episodes, val_episodes: how many of them test and validation have.
        episodes_per_batch: evaluated at once.
        world: settings of `GlyphWorld`.
    """

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        size: int = 168,
        way: int = 5,
        shot: int = 1,
        queries: int = 15,
        episodes: int = 2000,
        val_episodes: int = 600,
        episodes_per_batch: int = 4,
        world: Mapping[str, Any] | None = None,
        batch_size: int = 128,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        numbers = {"shot": shot, "queries": queries, "episodes": episodes, "val_episodes": val_episodes}
        for name, value in {**numbers, "episodes_per_batch": episodes_per_batch, "size": size}.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")
        if way < 2:
            raise InputError(f"way must be at least 2, found {way}")
        self.root, self.format, self.size, self._world = root, format, size, dict(world or {})
        self.way, self.shot, self.queries = way, shot, queries
        self.episodes = {"val": val_episodes, "test": episodes}
        self.episodes_per_batch = episodes_per_batch

    @cached_property
    def sets(self) -> dict[str, FewShotImages]:
        """train, val and test, each of other classes."""
        if self.root is None:
            return {split: _known(self.world.split(split)) for split in SPLITS}
        return read_few_shot(self._folder(), self.format, self.size)

    @property
    def world(self) -> GlyphWorld:
        return build(GlyphWorld, {"size": self.size, "seed": self.seed, **self._world})

    @property
    def class_names(self) -> list[str]:
        """Of the base classes."""
        return list(self.sets["train"].class_names)

    @property
    def has_boxes(self) -> bool:
        """Whether objects have boxes."""
        return all(each.boxes is not None for each in self.sets.values())

    @property
    def held_out(self) -> "BaseImages | None":
        """Images of the base classes that are not learnt from, where there are some."""
        return BaseImages(_known(self.world.held_out()), self.size) if self.root is None else None

    def repeats(self, split: str) -> bool:
        """Whether an image is in several episodes on average, so that looking at all images once is less work."""
        shown = self.episodes[split] * self.way * (self.shot + self.queries)
        return shown > 2 * len(self.sets[split])

    def use(self, size: int) -> None:
        """Give images as a trained method expects them."""
        if size != self.size:
            self.size = size
            self.__dict__.pop("sets", None)

    def dataset(self, split: str) -> "BaseImages | EpisodeSet":
        images = self.sets[self.check_split(split)]
        return (
            BaseImages(images, self.size) if split == "train" else EpisodeSet(images, self.size, self._sampler(split))
        )

    def collate(self, samples: Sequence[BaseSample | EpisodeSample]) -> BaseClassBatch | EpisodeBatch:
        if isinstance(samples[0], BaseSample):
            images, labels, boxes, places = zip(*samples, strict=True)
            return BaseClassBatch(torch.stack(images), torch.tensor(labels), torch.stack(boxes), torch.tensor(places))
        images, boxes, numbers, episodes = zip(*samples, strict=True)
        support, query, support_boxes, query_boxes, support_numbers, query_numbers = (
            part for of_images in (images, boxes, numbers) for part in self._divided(torch.stack(of_images))
        )
        return EpisodeBatch(
            support,
            query,
            episode_labels(self.way, self.queries).expand(len(samples), -1),
            support_boxes,
            query_boxes,
            support_numbers,
            query_numbers,
            torch.tensor(episodes),
            torch.full((len(samples),), self.seed),
        )

    def _divided(self, images: Shaped[Tensor, "episode image ..."]) -> tuple[Tensor, Tensor]:
        """Supports by class, and queries."""
        support, query = images.split([self.way * self.shot, self.way * self.queries], dim=1)
        # Classes come in turn: the class is the faster axis.
        return support.unflatten(1, (self.shot, self.way)).transpose(1, 2), query

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Chance, and the nearest class mean of small pictures, pixel by pixel."""
        if split == "train":
            return {"chance": {"accuracy": 1 / len(self.class_names)}}
        dataset = self.dataset(split)
        # One episode after the other: those of large pictures together would not fit into memory.
        found = [
            self._by_pixels(self.collate([dataset[number]])) for number in range(min(len(dataset), BASELINE_EPISODES))
        ]
        accuracy, ci95 = interval(torch.stack(found))
        return {"chance": {"accuracy": 1 / self.way}, "nearest pixels": {"accuracy": accuracy, "ci95": ci95}}

    def describe(self) -> dict[str, Any]:
        sizes = {split: len(images) for split, images in self.sets.items()}
        classes = {split: len(images.class_names) for split, images in self.sets.items()}
        format = detect_few_shot_format(self._folder()) if self.root and self.format == "auto" else self.format
        name = f"{Path(self.root).name} ({format})" if self.root else "world-glyphs"
        protocol = f"{self.way}-way {self.shot}-shot, {self.queries} queries"
        return {"name": name, "images": sizes, "classes": classes, "size": self.size, "episodes": protocol}

    def _folder(self) -> Path:
        root = Path(str(self.root))
        if not root.is_dir():
            raise InputError(f"{root}: no such folder, expected the parts of a few-shot data set")
        return root

    def _sampler(self, split: str) -> EpisodicBatchSampler:
        labels = self.sets[split].labels
        return EpisodicBatchSampler(labels, self.episodes[split], self.way, self.shot + self.queries, seed=self.seed)

    def _by_pixels(self, batch: BaseClassBatch | EpisodeBatch) -> Float[Tensor, ""]:
        assert isinstance(batch, EpisodeBatch)
        support, query = (_thumbnails(images) for images in (batch.support, batch.query))
        return episode_accuracy(euclidean_prototype_scores(support, query), batch.labels)[0]

    def batch_size_of(self, split: str) -> int:
        """An episode is many images: fewer of them come at once."""
        return self.batch_size if split == "train" else self.episodes_per_batch


class BaseImages(Dataset[BaseSample]):
    """Images of base classes with the box of their object."""

    def __init__(self, images: FewShotImages, size: int) -> None:
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Int[Tensor, "image"]:
        return self.images.labels

    def __getitem__(self, index: int) -> BaseSample:
        image = _resized(unit_interval(self.images.images[index]), self.size)
        return BaseSample(image, int(self.images.labels[index]), self.images.box(index, self.size), index)


class EpisodeSet(Dataset[EpisodeSample]):
    """Episodes by their number."""

    def __init__(self, images: FewShotImages, size: int, sampler: EpisodicBatchSampler) -> None:
        self.images, self.sampler = BaseImages(images, size), sampler

    def __len__(self) -> int:
        return self.sampler.episodes

    def __getitem__(self, number: int) -> EpisodeSample:
        # One file after the other: decoding cannot be batched.
        numbers = self.sampler.episode(number)
        images, _, boxes, _ = zip(*(self.images[index] for index in numbers.tolist()), strict=True)
        return EpisodeSample(torch.stack(images), torch.stack(boxes), numbers, number)


def _known(scenes: GlyphScenes) -> FewShotImages:
    return FewShotImages(scenes.images, scenes.labels, scenes.class_names, scenes.boxes)


def _resized(image: Float[Tensor, "3 height width"], size: int) -> Float[Tensor, "3 size size"]:
    """Images in memory come in a size of their own."""
    if image.shape[1:] == (size, size):
        return image
    return F.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True)[0]


def _thumbnails(images: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch pixel"]:
    small = F.adaptive_avg_pool2d(images.flatten(0, -4), THUMBNAIL)
    return small.flatten(1).unflatten(0, images.shape[:-3])
