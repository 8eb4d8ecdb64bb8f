"""Images with masks: embedded worlds, official data sets, or your own pictures; for many labels, and for a few."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ommatid.data.masks import MaskedImages, detect_mask_format, mask_splits, open_masks
from ommatid.data.worlds.cutouts import CutoutWorld
from ommatid.data.worlds.tissue import TissueWorld
from ommatid.dense.augment import Augment, mask_transform
from ommatid.dense.segmentation_metrics import confusion_matrices, image_scores, segmentation_scores
from ommatid.dense.task import BoundaryBatch, MaskBatch
from ommatid.engine.data import DataModule
from ommatid.engine.settings import build
from ommatid.engine.streams import stream_loader
from ommatid.errors import InputError, unknown

M = TypeVar("M", bound=MaskBatch)
MaskSample = tuple[
    Float[Tensor, "3 height width"], Float[Tensor, "1 height width"], Bool[Tensor, "1 height width"], int
]
World = Literal["world-cutouts", "world-tissue"]
IGNORED = 255


@runtime_checkable
class Divisible(Protocol):
    """Images of which some can be chosen."""

    def __len__(self) -> int: ...

    def select(self: "S", numbers: Sequence[int]) -> "S": ...


S = TypeVar("S", bound=Divisible)


@runtime_checkable
class Pictures(Protocol):
    """Images of any size, some of them with label maps: 0 is background, 255 what is unknown."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def labelled(self) -> Sequence[int]:
        """Numbers of the images with a map."""

    def __len__(self) -> int: ...

    def pixels(self, number: int) -> UInt8[Tensor, "3 height width"]: ...

    def label_map(self, number: int) -> UInt8[Tensor, "height width"]: ...

    def select(self, numbers: Iterable[int]) -> "Pictures": ...


class MaskData(DataModule):
    """Images in [0, 1] and masks of their foreground.

    Args:
        root: folder of the data set; an embedded world where None.
        format: see "Images with masks" in the documentation, or "auto", which looks at the files.
        embedded: "world-cutouts", shapes on textures, or "world-tissue", vessels in stained tissue.
        world: settings of the world.
        classes: names of the classes that make the foreground; all of them where None.
        size: height and width that images are resized to, both sides on their own.
        augment: what training images go through, see `ommatid.dense.augment`.
        shots: training images whose masks are used, the first ones; all where None.
    """

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        embedded: World = "world-cutouts",
        world: Mapping[str, Any] | None = None,
        classes: list[str] | None = None,
        size: int = 128,
        augment: Augment = "none",
        shots: int | None = None,
        batch_size: int = 16,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        if shots is not None and shots < 1:
            raise InputError(f"shots must be at least 1, found {shots}")
        if embedded not in WORLDS:
            raise unknown("embedded data set", embedded, WORLDS)
        self.root, self.format, self.embedded, self._world = root, format, embedded, dict(world or {})
        self.classes, self.size, self.augment, self.shots = classes, size, augment, shots

    @cached_property
    def pictures(self) -> dict[str, Pictures]:
        """train, val and test, images without masks among them."""
        if self.root is None:
            return {split: self._drawn(split) for split in self.splits}
        return read_pictures(self.root, self.format)

    @cached_property
    def sets(self) -> dict[str, "MaskSet"]:
        """The images with masks of every split; of the training images the first `shots`."""
        chosen = {
            split: MaskSet(pictures, self.size, self._foreground(pictures)) for split, pictures in self.pictures.items()
        }
        labelled = {split: each.select(each.pictures.labelled) for split, each in chosen.items()}
        if self.shots is not None:
            if len(labelled["train"]) < self.shots:
                raise InputError(f"shots is {self.shots}, but only {len(labelled['train'])} training images have masks")
            labelled["train"] = labelled["train"].select(range(self.shots))
        for split, each in labelled.items():
            if not len(each):
                raise InputError(f"{self.root}: found no image with a mask in the split {split}, expected at least 1")
        return labelled

    def use(self, size: int) -> None:
        """Give images as a trained method expects them."""
        if size != self.size:
            self.size = size
            for name in ("pictures", "sets"):
                self.__dict__.pop(name, None)

    def dataset(self, split: str) -> "MaskSet":
        images = self.sets[self.check_split(split)]
        return images if split != "train" else images.changed_by(self.augment)

    def collate(self, samples: Sequence[MaskSample]) -> MaskBatch:
        return mask_batch(samples)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Nothing is foreground; everything is; and every pixel that is in most training masks."""
        train, truth = self.sets["train"], self.sets[split]
        usual = train.mean_mask() >= 0.5
        guesses = {
            "all background": torch.zeros_like(usual),
            "all foreground": torch.ones_like(usual),
            "mean mask": usual,
        }
        every = torch.stack(list(guesses.values()))
        tables = torch.stack([truth.confusions(number, every) for number in range(len(truth))], dim=1)
        found = {}
        for name, joint in zip(guesses, tables, strict=True):
            means = {metric: each.nanmean() for metric, each in image_scores(joint).items()}
            scores = segmentation_scores(joint.sum(dim=0)) | means
            found[name] = {metric: float(value) for metric, value in scores.items()}
        return found

    def describe(self) -> dict[str, Any]:
        name = f"{Path(self.root).name} ({self._format()})" if self.root else self.embedded
        return {"name": name, "images": {split: len(each) for split, each in self.sets.items()}, "size": self.size}

    def _drawn(self, split: str) -> Pictures:
        """A split of the embedded world; "source" has one only of cut-outs."""
        return WORLDS[self.embedded]({"size": self.size, "seed": self.seed, **self._world}, split)

    def _format(self) -> str:
        return detect_mask_format(Path(str(self.root))) if self.format == "auto" else self.format

    def _foreground(self, pictures: Pictures) -> list[int] | None:
        """Numbers of the classes that make the foreground."""
        names = list(pictures.class_names)
        for name in self.classes or ():
            if name not in names:
                raise unknown("class", name, names)
        return None if self.classes is None else [names.index(name) + 1 for name in self.classes]


def read_pictures(root: str, format: str) -> dict[str, Pictures]:
    """The splits of a data set on disk; one without a mask counts as missing, and what is missing is cut from train.

    Where test is missing it is val, or a fifth of the labelled images of train; a missing val is a tenth of them.

    Raises:
        InputError: the folder is missing, is no data set of the format, has no training part, or too few masks there.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected images with masks")
    format = detect_mask_format(folder) if format == "auto" else format
    parts = {split: open_masks(folder, split, format) for split in mask_splits(folder, format)}
    if "train" not in parts:
        raise InputError(f"{folder}: found the parts {', '.join(parts)}, expected one named train")
    found = {split: pictures for split, pictures in parts.items() if split == "train" or pictures.labelled}
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    for split, every in (("test", 5), ("val", 10)):
        if split not in found:
            found["train"], found[split] = held_out_masks(found["train"], every)
    return dict(found)


def held_out_masks(pictures: MaskedImages, every: int) -> tuple[MaskedImages, MaskedImages]:
    """The rest, and every so many labelled images, of few ones the last; the division never changes.

    Tiles of one slide stay together: every so many slides with masks are held out, with all of their tiles.

    Raises:
        InputError: there are fewer than two labelled images or slides.
    """
    units = [number if origin is None else origin.slide for number, origin in enumerate(pictures.origins)]
    labelled = list(dict.fromkeys(units[number] for number in pictures.labelled))
    if len(labelled) < 2:
        kind = "slides" if any(pictures.origins) else "images"
        raise InputError(f"train: found {len(labelled)} {kind} with masks, expected at least 2 to hold a part out")
    chosen = set(labelled[min(every, len(labelled)) - 1 :: every])
    held = [number for number, unit in enumerate(units) if unit in chosen]
    return pictures.select([number for number, unit in enumerate(units) if unit not in chosen]), pictures.select(held)


def held_out(images: S, every: int) -> tuple[S, S]:
    """The rest, and every so many images; the division never changes.

    Raises:
        InputError: there are fewer images than that.
    """
    if len(images) < every:
        raise InputError(f"train: found {len(images)} images, expected at least {every} to hold a part out")
    chosen = range(every - 1, len(images), every)
    return images.select([place for place in range(len(images)) if place not in chosen]), images.select(chosen)


class InMemory:
    """Pictures of a world, all with maps."""

    def __init__(
        self,
        images: UInt8[Tensor, "image 3 height width"],
        maps: UInt8[Tensor, "image height width"],
        class_names: tuple[str, ...],
    ) -> None:
        self.images, self.maps, self.class_names = images, maps, class_names

    @property
    def labelled(self) -> Sequence[int]:
        return range(len(self))

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, number: int) -> UInt8[Tensor, "3 height width"]:
        return self.images[number]

    def label_map(self, number: int) -> UInt8[Tensor, "height width"]:
        return self.maps[number]

    def select(self, numbers: Iterable[int]) -> "InMemory":
        places = torch.tensor(list(numbers), dtype=torch.long)
        return InMemory(self.images[places], self.maps[places], self.class_names)


def _cutouts(settings: Mapping[str, Any], split: str) -> InMemory:
    scenes = build(CutoutWorld, settings).split(split)
    return InMemory(scenes.images, scenes.maps, scenes.class_names)


def _tissue(settings: Mapping[str, Any], split: str) -> InMemory:
    """Patches to train with are those for labels first, then the others."""
    world = build(TissueWorld, settings)
    parts = [world.split(name) for name in (("labelled", "unlabelled") if split == "train" else (split,))]
    masks = torch.cat([part.masks for part in parts]).to(torch.uint8)
    return InMemory(torch.cat([part.images for part in parts]), masks, ("vessel",))


WORLDS: dict[str, Callable[[Mapping[str, Any], str], InMemory]] = {"world-cutouts": _cutouts, "world-tissue": _tissue}


class Views:
    """Pictures at one size, with a random change, and their label maps: 255 everywhere where there is none."""

    def __init__(self, pictures: Pictures, size: int, augment: Augment = "none") -> None:
        self.pictures, self.size = pictures, size
        self.labelled = frozenset(pictures.labelled)
        self.transform = mask_transform(augment, size)
        self.changes, self.crops = augment != "none", augment == "scale-crop"

    def of(self, number: int) -> tuple[UInt8[Tensor, "3 size size"], UInt8[Tensor, "size size"]]:
        image = self.pictures.pixels(number)
        unknown_map = image.new_full(image.shape[1:], IGNORED)
        classes = self.pictures.label_map(number) if number in self.labelled else unknown_map
        if not self.crops:
            image, classes = resized(image, classes, self.size)
        return self.transform(image, classes)

    def plain(self) -> "Views":
        """The same pictures without a change."""
        return Views(self.pictures, self.size)


class MaskSet(Dataset[MaskSample]):
    """Pictures as samples of one size.

    Args:
        foreground: numbers of the classes that make the foreground; all but 0 where None.
        augment: a random change of image and mask.
    """

    def __init__(
        self, pictures: Pictures, size: int, foreground: Sequence[int] | None = None, augment: Augment = "none"
    ) -> None:
        self.pictures, self.size, self.foreground, self.augment = pictures, size, foreground, augment
        self.views = Views(pictures, size, augment)
        self.draws = augment != "none"

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> MaskSample:
        image, classes = self.views.of(index)
        mask = (
            classes > 0 if self.foreground is None else torch.isin(classes, torch.tensor(self.foreground).to(classes))
        )
        valid = classes != IGNORED
        return image.float() / 255, (mask & valid)[None].float(), valid[None], index

    def select(self, numbers: Iterable[int]) -> "MaskSet":
        return MaskSet(self.pictures.select(numbers), self.size, self.foreground, self.augment)

    def changed_by(self, augment: Augment) -> "MaskSet":
        return MaskSet(self.pictures, self.size, self.foreground, augment)

    def mean_mask(self) -> Float[Tensor, "1 height width"]:
        # One after the other: there may be more than memory holds.
        total = sum(self[number][1] for number in range(len(self)))
        return torch.as_tensor(total / len(self))

    def confusions(self, number: int, guesses: Bool[Tensor, "guess 1 height width"]) -> Float[Tensor, "guess 2 2"]:
        """Several guesses against the mask of one sample."""
        _, mask, valid, _ = self[number]
        return confusion_matrices(guesses, (mask > 0).expand_as(guesses), 2, valid.expand_as(guesses))


def resized(
    image: UInt8[Tensor, "3 height width"], classes: UInt8[Tensor, "height width"], size: int
) -> tuple[UInt8[Tensor, "3 size size"], UInt8[Tensor, "size size"]]:
    """Image and label map at one size, both sides on their own: the image smoothed, classes as they are."""
    if image.shape[1:] == (size, size):
        return image, classes
    smooth = F.interpolate(image[None].float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
    nearest = F.interpolate(classes[None, None], (size, size), mode="nearest-exact")
    return smooth[0].round().clamp(0, 255).to(torch.uint8), nearest[0, 0]


class BoundaryData(MaskData):
    """A few labelled images of the target, many without masks, and a source of other categories with masks.

    The training images are those of the target; the first `shots` of them that have masks are the labelled ones, and
    all of them are shown without.

    Args:
        source: folder of the source; of the embedded `world-cutouts` its own where `root` is None too. Without a source
            the labelled images take its place.
        source_format: as `format`.
        labelled_batch: labelled images of a step; `batch_size` are those of the target without masks, and as many of
            the source.
        steps_per_epoch: steps after which a validation follows.
    """

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        embedded: World = "world-cutouts",
        world: Mapping[str, Any] | None = None,
        classes: list[str] | None = None,
        source: str | None = None,
        source_format: str = "auto",
        size: int = 128,
        augment: Augment = "none",
        shots: int | None = 10,
        labelled_batch: int = 64,
        batch_size: int = 64,
        steps_per_epoch: int = 100,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(root, format, embedded, world, classes, size, augment, shots, batch_size, workers, seed)
        for name, value in (("labelled_batch", labelled_batch), ("steps_per_epoch", steps_per_epoch)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")
        self.source, self.source_format = source, source_format
        self.labelled_batch, self.steps_per_epoch = labelled_batch, steps_per_epoch

    @cached_property
    def source_set(self) -> "MaskSet":
        """What boundaries are learnt from."""
        if self.source is not None:
            pictures = read_source(self.source, self.source_format)
            return MaskSet(pictures.select(pictures.labelled), self.size)
        return self.sets["train"] if self.labels_are_source else MaskSet(self._drawn("source"), self.size)

    @property
    def labels_are_source(self) -> bool:
        """Whether the labelled images take the place of a source."""
        return self.source is None and (self.root is not None or self.embedded != "world-cutouts")

    def use(self, size: int) -> None:
        if size != self.size:
            self.__dict__.pop("source_set", None)
        super().use(size)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "unlabelled": len(self.pictures["train"]), "source": len(self.source_set)}

    def streams(self) -> dict[str, "MaskSet"]:
        """The three data sets of a training step."""
        everything = MaskSet(self.pictures["train"], self.size)
        found = {"unlabelled": everything, "source": self.source_set, "labelled": self.sets["train"]}
        return {name: each.changed_by(self.augment) for name, each in found.items()}

    def train_dataloader(self) -> DataLoader[BoundaryBatch]:
        counts = {"unlabelled": self.batch_size, "source": self.batch_size, "labelled": self.labelled_batch}
        return stream_loader(self, self.streams(), counts, self.steps_per_epoch, self.collate_streams)

    def collate_streams(self, samples: Mapping[str, Sequence[MaskSample]]) -> BoundaryBatch:
        """One step, of its samples by stream."""
        batches = {name: self.collate(part) for name, part in samples.items()}
        return BoundaryBatch(**{**batches, "unlabelled": hidden(batches["unlabelled"])}, kin=self.labels_are_source)


def mask_batch(samples: Sequence[MaskSample]) -> MaskBatch:
    """Samples of one size as a batch."""
    images, masks, valid, indices = zip(*samples, strict=True)
    return MaskBatch(torch.stack(images), torch.stack(masks), torch.stack(valid), torch.tensor(indices))


def hidden(batch: M) -> M:
    """The same images, as if nobody knew their masks."""
    return replace(batch, masks=torch.zeros_like(batch.masks), valid=torch.zeros_like(batch.valid))


def read_source(root: str, format: str) -> Pictures:
    """All pictures of a data set on disk, whatever its splits."""
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected images with masks to learn boundaries from")
    format = detect_mask_format(folder) if format == "auto" else format
    return joined([open_masks(folder, split, format) for split in mask_splits(folder, format)])


def joined(parts: Sequence[MaskedImages]) -> MaskedImages:
    """Several sets of pictures of the same classes, one after the other."""
    return MaskedImages(
        tuple(path for part in parts for path in part.images),
        tuple(source for part in parts for source in part.maps),
        parts[0].class_names,
    )
