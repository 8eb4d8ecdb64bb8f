"""Labelled images: real handwritten digits embedded, official archives, or your own folder."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.classification.augment import Augment, training_transform
from ommatid.classification.task import ImageBatch
from ommatid.data.images import (
    Fit,
    ImageSet,
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    image_folder,
    tiny_imagenet,
)
from ommatid.engine.data import DataModule
from ommatid.engine.settings import build
from ommatid.errors import InputError, unknown

FORMATS = ("folder", "imagenet", "cifar10", "cifar100", "tiny-imagenet")


WNID = re.compile(r"n\d{8}")
"""ImageNet's names of classes."""


class LabelledData(DataModule):
    """Samples of named classes."""

    @property
    def class_names(self) -> list[str]:
        raise NotImplementedError


class ImageData(LabelledData):
    """Images in [0, 1] with one label each.

    Args:
        root: folder of the data set; an embedded one where None.
        format: "folder" (`root/{train,val,test}/<class>/*`, or `root/<class>/*` which is then divided), "imagenet" (the
            same, `val` being what is tested), "cifar10", "cifar100", "tiny-imagenet", "torchvision:<data set>" (already
            downloaded), or "auto", which looks at the files.
        embedded: "digits", scikit-learn's handwritten ones, "fashion-mnist", 10,000 grey pictures of clothes, or
            "world-shapes", rendered objects in colour.
        world: settings of `ShapeWorld`, and `labels`, the factors whose combinations are the classes.
        size: height and width that images are resized to; a data set of fixed size keeps its own.
        fit: how files come to that size, see `ommatid.data.images.Fit`.
        channels: 3 for colour, 1 for grey.
        augment: what training images go through, see `ommatid.classification.augment`.
        train_share: part of every class's training images that is used.
        val_fraction: part of the training images that is held out for validation where the data set has no such split.
    """

    dividing = ("seed", "val_fraction")

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        embedded: Literal["digits", "fashion-mnist", "world-shapes"] = "digits",
        world: Mapping[str, Any] | None = None,
        size: int = 32,
        fit: Fit = "squash",
        channels: int = 3,
        augment: Augment = "none",
        train_share: float = 1.0,
        val_fraction: float = 0.15,
        batch_size: int = 128,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        if not 0 < val_fraction < 1:
            raise InputError(f"val_fraction must lie between 0 and 1, found {val_fraction}")
        if not 0 < train_share <= 1:
            raise InputError(f"train_share must lie above 0 and at most at 1, found {train_share}")
        self.root, self.format, self.embedded, self._world = root, format, embedded, dict(world or {})
        self._size, self.fit, self.channels = size, fit, channels
        self.augment, self.train_share, self.val_fraction = augment, train_share, val_fraction

    @cached_property
    def sets(self) -> dict[str, ImageSet]:
        """train, val and test; what the data set itself does not have is cut from its training part, class by class."""
        read = self._reader()
        found = {split: images for split in ("train", "val", "test") if (images := read(split)) is not None}
        self._check_channels(found["train"])
        if "test" not in found:
            found["train"], found["test"] = _divide(found["train"], 0.2, "test")
        if "val" not in found:
            found["train"], found["val"] = _divide(found["train"], self.val_fraction, "val")
        if self.train_share < 1:
            found["train"] = _divide(found["train"], self.train_share, "train")[1]
        return found

    def use(self, size: int, channels: int, fit: Fit = "squash") -> None:
        """Give images as a trained method expects them.

        Raises:
            InputError: the data set has images of another size or number of channels and cannot change them.
        """
        if (size, channels, fit) != (self._size, self.channels, self.fit):
            self._size, self.channels, self.fit = size, channels, fit
            self.__dict__.pop("sets", None)
        if self.size != size:
            raise InputError(f"the data have images of {self.size} pixels, this checkpoint was trained on {size}")

    @property
    def class_names(self) -> list[str]:
        return list(self.sets["train"].class_names)

    @property
    def size(self) -> int:
        height, width = self.sets["train"][0][0].shape[1:]
        if height != width:
            raise InputError(
                f"{self.root}: images of {height} x {width} pixels, expected square ones; give --data.size"
            )
        return int(height)

    @property
    def mean(self) -> list[float]:
        return list(self.sets["train"].mean)

    @property
    def std(self) -> list[float]:
        return list(self.sets["train"].std)

    def tensors(self, split: str) -> tuple[Float[Tensor, "image channel height width"], Int[Tensor, "image"]]:
        """A whole split in memory."""
        return self.sets[self.check_split(split)].tensors()

    def dataset(self, split: str) -> "Indexed":
        images = self.sets[self.check_split(split)]
        if split != "train" or self.augment == "none":
            return Indexed(images)
        return Indexed(uncut(images), training_transform(self.augment, self.size))

    def collate(self, samples: Sequence[tuple[Tensor, int, int]]) -> ImageBatch:
        images, labels, indices = zip(*samples, strict=True)
        return ImageBatch(torch.stack(images), torch.tensor(labels), torch.tensor(indices))

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """The most frequent class of training, and chance."""
        return guesses(self.sets["train"].labels, self.sets[split].labels, len(self.class_names))

    def describe(self) -> dict[str, Any]:
        sizes = {split: len(images) for split, images in self.sets.items()}
        names = {"digits": "digits (UCI, scikit-learn)", "fashion-mnist": "Fashion-MNIST (its test part, divided)"}
        own = names.get(self.embedded, self.embedded)
        name = f"{Path(self.root).name} ({self._format()})" if self.root else own
        return {"name": name, "images": sizes, "classes": len(self.class_names), "size": self.size}

    def _shapes(self, split: str) -> ImageSet:
        """Rendered scenes, labelled by some of their factors."""
        from ommatid.data.worlds.shapes import ShapeWorld, labels

        settings = {"size": self._size, "seed": self.seed, **self._world}
        factors = settings.pop("labels", ("shape", "texture"))
        scenes = build(ShapeWorld, settings).split(split)
        classes, names = labels(scenes.factors, tuple(factors))
        return ImageSet(scenes.images, classes, tuple(names), (0.5,) * 3, (0.25,) * 3, split)

    def _check_channels(self, images: ImageSet) -> None:
        if (found := len(images[0][0])) != self.channels:
            raise InputError(
                f"{self.root}: images have {found} channels, expected {self.channels}; give --data.channels {found}"
            )

    def _format(self) -> str:
        return detect_image_format(Path(str(self.root))) if self.format == "auto" else self.format

    def _reader(self) -> Callable[[str], ImageSet | None]:
        if self.root is None and self.embedded == "world-shapes":
            return self._shapes
        if self.root is None:
            read_own = {"digits": digits, "fashion-mnist": fashion_mnist}[self.embedded]
            return lambda split: None if split == "val" else read_own(split, self._size, self.channels)
        root, format = Path(self.root), self._format()
        if not root.is_dir():
            raise InputError(f"{root}: no such folder, expected images in one of the formats {', '.join(FORMATS)}")
        if format.startswith("torchvision:"):
            return partial(_torchvision_set, root, format.partition(":")[2])
        if format not in FORMATS:
            raise unknown("image format", format, [*FORMATS, "torchvision:NAME"])
        if format == "folder":
            return partial(_folder_split, root, self._size, self.channels, self.fit)
        if format == "imagenet":
            return partial(_imagenet_split, root, self._size, self.channels, self.fit)
        if format == "tiny-imagenet":
            return lambda split: None if split == "val" else tiny_imagenet(root, split, self._size, self.channels)
        read = {"cifar10": cifar10, "cifar100": cifar100}[format]
        return lambda split: None if split == "val" else read(root, split)


def guesses(train: Int[Tensor, "sample"], labels: Int[Tensor, "_"], classes: int) -> dict[str, dict[str, float]]:
    """Accuracy of the most frequent class of training, and of chance.

    Examples:
        >>> guesses(torch.tensor([0, 1, 1]), torch.tensor([1, 0]), 2)
        {'majority class': {'top1': 0.5}, 'chance': {'top1': 0.5, 'top5': 1.0}}
    """
    majority = int(train.bincount().argmax())
    return {
        "majority class": {"top1": float((labels == majority).float().mean())},
        "chance": {"top1": 1 / classes, "top5": min(5 / classes, 1.0)},
    }


class Indexed(Dataset[tuple[Tensor, int, int]]):
    """An image set whose samples know their position, and may be changed at random."""

    def __init__(self, images: ImageSet, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        self.images, self.transform, self.draws = images, transform, transform is not None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image, label = self.images[index]
        return image if self.transform is None else self.transform(image), label, index


def detect_image_format(root: Path) -> str:
    """The format that the files below a folder are in."""
    marks = {
        "cifar10": ("cifar-10-batches-py", "data_batch_1"),
        "cifar100": ("cifar-100-python", "fine_label_names", "meta"),
        "tiny-imagenet": ("tiny-imagenet-200", "wnids.txt"),
    }
    for format, names in marks.items():
        if any((root / name).exists() for name in names):
            return format
    first = next((path.name for path in sorted(root.glob("train/*")) if path.is_dir()), "")
    return "imagenet" if WNID.fullmatch(first) and (root / "val").is_dir() else "folder"


def uncut(images: ImageSet) -> ImageSet:
    """The same set with files in full size, for transforms that choose the part they show."""
    if isinstance(images.images, Tensor):
        return images
    files = type(images.images)(images.images.paths, images.images.channels)
    return replace(images, images=files)


def _folder_split(root: Path, size: int, channels: int, fit: Fit, split: str) -> ImageSet | None:
    has_splits = (root / "train").is_dir()
    if has_splits:
        return image_folder(root, split, size, channels, fit) if (root / split).is_dir() else None
    return image_folder(root, None, size, channels, fit) if split == "train" else None


def _imagenet_split(root: Path, size: int, channels: int, fit: Fit, split: str) -> ImageSet | None:
    """The labelled validation part is what is tested, and another one is cut from training."""
    if split == "val":
        return None
    return image_folder(root, "train" if split == "train" else "val", size, channels, fit)


def _torchvision_set(root: Path, name: str, split: str) -> ImageSet | None:
    """A data set of torchvision's with `train` as its switch, from files that are already there."""
    import torchvision

    if split == "val":
        return None
    if name not in torchvision.datasets.__all__:
        raise unknown("torchvision data set", name, torchvision.datasets.__all__)
    try:
        dataset = getattr(torchvision.datasets, name)(str(root), train=split == "train", download=False)
    except TypeError as error:
        raise InputError(f"torchvision data set {name}: has no train and test part, expected one with both") from error
    except RuntimeError as error:
        raise InputError(f"{root}: {' '.join(str(error).split())}") from error
    # torchvision decodes image by image; there is no batched way to ask it.
    pairs = [dataset[index] for index in range(len(dataset))]
    images = torch.from_numpy(np.stack([np.array(image.convert("RGB")) for image, _ in pairs])).permute(0, 3, 1, 2)
    labels = torch.tensor([int(label) for _, label in pairs])
    names = tuple(map(str, getattr(dataset, "classes", range(int(labels.max()) + 1))))
    scaled = images.float() / 255
    mean, std = scaled.mean(dim=(0, 2, 3)).tolist(), scaled.std(dim=(0, 2, 3)).tolist()
    return ImageSet(images, labels, names, tuple(mean), tuple(std), split)


def _divide(images: ImageSet, fraction: float, name: str) -> tuple[ImageSet, ImageSet]:
    """A part of a set, and the rest of it first; classes keep their shares, and the division never changes."""
    from sklearn.model_selection import train_test_split

    numbers = np.arange(len(images))
    try:
        rest, part = train_test_split(numbers, test_size=fraction, stratify=images.labels.numpy(), random_state=0)
    except ValueError as error:
        raise InputError(
            f"{len(images)} images are too few to hold out a {name} split of every class ({error})"
        ) from error
    return _part(images, np.sort(rest), "train"), _part(images, np.sort(part), name)


def _part(images: ImageSet, chosen: np.ndarray, split: str) -> ImageSet:
    labels = images.labels[torch.from_numpy(chosen)]
    if isinstance(images.images, Tensor):
        return ImageSet(
            images.images[torch.from_numpy(chosen)], labels, images.class_names, images.mean, images.std, split
        )
    given = images.images
    files = type(given)([given.paths[i] for i in chosen], given.channels, given.size, given.fit)
    return ImageSet(files, labels, images.class_names, images.mean, images.std, split)
