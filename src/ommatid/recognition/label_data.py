"""Images with several labels: the embedded world, official sets, or a list of your own."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.classification.augment import Augment, training_transform
from ommatid.classification.data import LabelledData
from ommatid.data.images import Fit, ImageFiles, unit_interval
from ommatid.data.label_lists import LabelledImages, detect_label_format, label_splits, open_labels
from ommatid.data.worlds.labels import CLASSES, LabelWorld
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.recognition.multilabel import multilabel_scores
from ommatid.recognition.task import LabelBatch

LabelSample = tuple[Float[Tensor, "3 height width"], Bool[Tensor, "label"], Bool[Tensor, "label"], int]
VAL_FRACTION = 0.1


class LabelData(LabelledData):
    """Images in [0, 1] with any number of labels.

    Args:
        root: folder of the data set; the embedded `world-labels` where None.
        format: "coco", "nus-wide", "csv" (see "Images with several labels" in the documentation), or "auto", which
            looks at the files.
        size: height and width that images are resized to.
        fit: how files come to that size, see `ommatid.data.images.Fit`.
        augment: what training images go through, see `ommatid.classification.augment`.
        world: settings of `LabelWorld`.
    """

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        size: int = 224,
        fit: Fit = "crop",
        augment: Augment = "none",
        world: Mapping[str, Any] | None = None,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        self.root, self.format = root, format
        self.size, self.fit, self.augment, self._world = size, fit, augment, dict(world or {})

    @cached_property
    def sets(self) -> dict[str, "LabelSet"]:
        """train, val and test. COCO's labelled validation part is what is tested; one to validate on is then cut from
        training.
        """
        if self.root is None:
            world = build(LabelWorld, {"size": self.size, "seed": self.seed, **self._world})
            scenes = {split: world.split(split) for split in self.splits}
            return {split: LabelSet(each.images, each.labels, each.tiny) for split, each in scenes.items()}
        found = dict(self._lists)
        if "test" not in found and "val" in found:
            found["test"] = found.pop("val")
        if "train" not in found or "test" not in found:
            raise InputError(f"{self.root}: found the parts {', '.join(found)}, expected train and test or val")
        if "val" not in found:
            found["train"], found["val"] = held_out(found["train"])
        return {split: LabelSet(self._files(each), each.labels) for split, each in found.items()}

    @property
    def class_names(self) -> list[str]:
        return list(CLASSES) if self.root is None else list(self._lists["train"].class_names)

    @property
    def frequencies(self) -> Float[Tensor, "label"]:
        """Share of the training images that have each label."""
        return self.sets["train"].labels.float().mean(dim=0)

    @property
    def most_labels(self) -> int:
        """Labels of the training image that has most of them."""
        return int(self.sets["train"].labels.sum(dim=1).max())

    def use(self, size: int, fit: Fit) -> None:
        """Give images as a trained method expects them."""
        if (size, fit) != (self.size, self.fit):
            self.size, self.fit = size, fit
            self.__dict__.pop("sets", None)

    def dataset(self, split: str) -> "LabelSet":
        images = self.sets[self.check_split(split)]
        if split != "train" or self.augment == "none":
            return images
        return images.changed_by(training_transform(self.augment, self.size))

    def collate(self, samples: Sequence[LabelSample]) -> LabelBatch:
        images, labels, hard, indices = zip(*samples, strict=True)
        return LabelBatch(torch.stack(images), torch.stack(labels), torch.stack(hard), torch.tensor(indices))

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """The same labels for every image: what most training images have, and as many as an image has on average."""
        truth, share = self.sets[split].labels, self.frequencies
        count = max(round(float(share.sum())), 1)
        guesses = {
            "labels of most images": share >= 0.5,
            f"the {count} most frequent labels": torch.zeros_like(share).scatter(0, share.topk(count).indices, 1) > 0,
        }
        found = {name: multilabel_scores(guess.expand_as(truth), truth) for name, guess in guesses.items()}
        return {name: {metric: float(value) for metric, value in each.items()} for name, each in found.items()}

    def describe(self) -> dict[str, Any]:
        sizes = {split: len(images) for split, images in self.sets.items()}
        name = f"{Path(self.root).name} ({self._format()})" if self.root else "world-labels"
        return {"name": name, "images": sizes, "labels": len(self.class_names), "size": self.size}

    @cached_property
    def _lists(self) -> dict[str, LabelledImages]:
        root, format = self._folder(), self._format()
        return {split: open_labels(root, split, format) for split in label_splits(root, format)}

    def _folder(self) -> Path:
        root = Path(str(self.root))
        if not root.is_dir():
            raise InputError(f"{root}: no such folder, expected images with lists of their labels")
        return root

    def _format(self) -> str:
        return detect_label_format(self._folder()) if self.format == "auto" else self.format

    def _files(self, images: LabelledImages) -> ImageFiles:
        return ImageFiles(images.paths, 3, self.size, self.fit)


class LabelSet(Dataset[LabelSample]):
    """Images with their labels and, where it is known, which of these are hard to see."""

    def __init__(
        self,
        images: Tensor | ImageFiles,
        labels: Bool[Tensor, "image label"],
        hard: Bool[Tensor, "image label"] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.images, self.labels, self.transform, self.draws = images, labels, transform, transform is not None
        self.hard = torch.zeros_like(labels) if hard is None else hard

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> LabelSample:
        image = unit_interval(self.images[index])
        return image if self.transform is None else self.transform(image), self.labels[index], self.hard[index], index

    def changed_by(self, transform: Callable[[Tensor], Tensor]) -> "LabelSet":
        """The same images, in full size where they are files, changed at random."""
        whole = self.images if isinstance(self.images, Tensor) else ImageFiles(self.images.paths, self.images.channels)
        return LabelSet(whole, self.labels, self.hard, transform)


def held_out(train: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Every tenth image, and the rest first."""
    chosen = torch.arange(len(train)) % round(1 / VAL_FRACTION) == 5
    if not chosen.any():
        raise InputError("train: found fewer than 6 images, expected enough to hold out a validation part")

    def part(which: Bool[Tensor, "image"]) -> LabelledImages:
        paths = tuple(train.paths[number] for number in which.nonzero()[:, 0].tolist())
        return LabelledImages(paths, train.labels[which], train.class_names)

    return part(~chosen), part(chosen)
