"""`world-glyphs`: a small object of each class at a random place on a textured ground, for learning from few images.

Ground and object are at odds, as they are in photographs (docs/methods/cosoc.md, claim):

- Every base class has a texture of its own, and nine of ten images of the class have it: a network that looks at the
  ground alone does well on base classes. Textures of the classes that come later know nothing of the class.
- The object is at a random place and takes a fifth of the image. Its colours are drawn for every image.
- An object is an icon: a class is a concept, and its images are drawn in the hands of several designers. Plain glyphs
  of 4 x 4 cells stand for classes without any variety.
"""

import csv
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from ommatid.data.embedded import icons
from ommatid.data.images import SPLITS
from ommatid.data.new_folder import new_folder
from ommatid.errors import InputError, unknown

CELLS = 4
"""Side of a plain glyph."""


@dataclass(frozen=True, eq=False)
class GlyphScenes:
    """Images of one split.

    Attributes:
        labels: class of every image, counted within the split.
        boxes: top, left, height and width of the object, in pixels.
        textures: which of the textures the ground has; -1 for one that no base class has.
        class_names: of this split alone.
    """

    images: UInt8[Tensor, "image 3 height width"]
    labels: Int[Tensor, "image"]
    boxes: Float[Tensor, "image 4"]
    textures: Int[Tensor, "image"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class GlyphWorld:
    """Objects on textured grounds; the classes of the three splits are different ones.

    Attributes:
        train, val, test: number of classes to learn from, to validate on and to test on.
        images: of each class.
        size: height and width of an image in pixels.
        object_size: of an object, in pixels.
        tied: probability that an image of a base class has the texture of its class; any texture otherwise.
        contrast: of the texture; 0 leaves a plain ground.
        noise: standard deviation of what is added to every pixel, whose values lie in [0, 1].
        objects: "icons" or "glyphs".

    Raises:
        InputError: there are no classes or images, more classes than objects, an object larger than the image, or a
            share that is none.

    Examples:
        >>> scenes = GlyphWorld(train=4, val=2, test=2, images=3).split("train")
        >>> scenes.images.shape, scenes.labels.tolist()
        (torch.Size([12, 3, 48, 48]), [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3])
        >>> len(set(scenes.class_names))
        4
    """

    train: int = 64
    val: int = 16
    test: int = 20
    images: int = 40
    size: int = 48
    object_size: int = 22
    tied: float = 0.9
    contrast: float = 0.5
    noise: float = 0.03
    objects: Literal["icons", "glyphs"] = "icons"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*SPLITS, "images", "object_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected at least 1")
        if self.object_size > self.size:
            raise InputError(f"object_size: found {self.object_size}, expected {self.size} at most, the image's size")
        for name in ("tied", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected a share from 0 to 1")
        if not 0 <= self.noise < math.inf:
            raise InputError(f"noise: found {self.noise}, expected a standard deviation from 0 on")
        if self.objects not in ("icons", "glyphs"):
            raise unknown("kind of objects", self.objects, ("icons", "glyphs"))
        classes, known = self.train + self.val + self.test, len(_drawings(self.objects)[1])
        if classes > known:
            raise InputError(
                f"train, val and test: found {classes} classes, expected {known} at most, all {self.objects}"
            )

    def split(self, name: str) -> GlyphScenes:
        """All images of a split, "train", "val" or "test", the classes in turn.

        Raises:
            InputError: there is no such split.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        return self._scenes(name, SPLITS.index(name))

    def held_out(self) -> GlyphScenes:
        """Other images of the classes of `train`: what is known of them beyond the images that were learnt from."""
        return self._scenes("train", len(SPLITS))

    def write(self, root: str | Path, format: str = "folder") -> dict[str, int]:
        """Write all splits in a layout of few-shot benchmarks, beside `root` first and moved there at once.

        | format | files |
        |---|---|
        | "folder" | `<split>/<class>/<number>.png` |
        | "csv" | `<split>.csv` with lines `filename,label` beside `images/` |
        | "pickle" | `mini-imagenet-cache-<split>.pkl` with `image_data` and `class_dict` |
        | "cub" | `images/<class>/`, `images.txt`, `image_class_labels.txt`, `classes.txt`, `bounding_boxes.txt` |

        "cub" has its classes in the order that the reader divides again: as many to validate on as to test on, and
        twice as many to learn from.

        Returns:
            Number of images of every split.

        Raises:
            InputError: the folder is not empty or cannot be written, the format is unknown, or the numbers of classes
                are not those of "cub".
        """
        if format not in WRITERS:
            raise unknown("format of world-glyphs", format, WRITERS)
        if format == "cub" and not self.train == 2 * self.val == 2 * self.test:
            found = f"{self.train}, {self.val} and {self.test}"
            raise InputError(f"train, val and test: found {found} classes, expected 2:1:1 for the format cub")
        scenes = {name: self.split(name) for name in SPLITS}
        with new_folder(root) as aside:
            WRITERS[format](aside, scenes)
        return {name: len(each) for name, each in scenes.items()}

    def _scenes(self, name: str, stream: int) -> GlyphScenes:
        first = {"train": 0, "val": self.train, "test": self.train + self.val}[name]
        count = getattr(self, name)
        designs, names = _drawings(self.objects)
        # Which objects are whose is drawn for the world; what is drawn on an image, for the split.
        world = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(names), generator=world)[first : first + count]
        waves = _Waves.draw(self.train, world)
        generator = torch.Generator().manual_seed((len(SPLITS) + 1) * self.seed + stream + 1)
        labels = torch.arange(count).repeat(self.images)
        if name == "train":
            free = torch.rand(len(labels), generator=generator) >= self.tied
            other = torch.randint(self.train, (len(labels),), generator=generator)
            textures = torch.where(free, other, labels)
            grounds = waves.take(textures)
        else:
            textures = torch.full_like(labels, -1)
            grounds = _Waves.draw(len(labels), generator)
        design = torch.randint(designs.shape[1], (len(labels),), generator=generator)
        masks = designs[chosen[labels], design]
        parts = [
            self._render(masks[rows], grounds.take(rows), generator) for rows in torch.arange(len(labels)).split(500)
        ]
        images, boxes = (torch.cat(part) for part in zip(*parts, strict=True))
        return GlyphScenes(images, labels, boxes, textures, tuple(names[place] for place in chosen.tolist()))

    def _render(
        self, masks: Float[Tensor, "image side side"], grounds: "_Waves", generator: torch.Generator
    ) -> tuple[UInt8[Tensor, "image 3 size size"], Float[Tensor, "image 4"]]:
        """Objects at random places and in random colours on their grounds."""
        count, size, side = len(masks), self.size, self.object_size
        ground = grounds.paint(size, self.contrast, generator)
        small = F.interpolate(masks[:, None], size=(side, side), mode="area" if masks.shape[1] > side else "nearest")
        top, left = torch.randint(0, size - side + 1, (2, count), generator=generator).unbind(0)
        rows, columns = (start[:, None] + torch.arange(side) for start in (top, left))
        alpha = torch.zeros(count, size, size)
        alpha[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]] = small[:, 0]
        # Lighter than any ground, in any colour.
        ink = 0.7 + 0.3 * torch.rand(count, 3, 1, 1, generator=generator)
        images = ground + alpha[:, None] * (ink - ground)
        images = images + self.noise * torch.randn(images.shape, generator=generator)
        return (images.clamp(0, 1) * 255).round().to(torch.uint8), _extent(small[:, 0], top, left)


def _extent(
    masks: Float[Tensor, "image side side"], top: Int[Tensor, "image"], left: Int[Tensor, "image"]
) -> Float[Tensor, "image 4"]:
    """The smallest boxes that hold all visible pixels of objects."""
    seen, side = masks > 0.1, masks.shape[-1]
    ends = []
    for along in (seen.any(dim=2), seen.any(dim=1)):
        ends.append((along.int().argmax(dim=1), side - along.flip(1).int().argmax(dim=1)))
    (above, below), (before, behind) = ends
    return torch.stack([top + above, left + before, below - above, behind - before], dim=1).float()


@dataclass(frozen=True, eq=False)
class _Waves:
    """Two sine waves across the image; their phases and colours are those of an image."""

    frequency: Float[Tensor, "wave 2 2"]

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> "_Waves":
        angle = torch.rand(count, 2, generator=generator) * math.pi
        # Periods in an image; both waves of a texture are drawn alike.
        periods = 2 + 6 * torch.rand(count, 2, generator=generator)
        return cls(torch.stack([angle.cos(), angle.sin()], dim=-1) * (2 * math.pi * periods)[..., None])

    def take(self, rows: Int[Tensor, "row"]) -> "_Waves":
        return _Waves(self.frequency[rows])

    def paint(self, size: int, contrast: float, generator: torch.Generator) -> Float[Tensor, "image 3 size size"]:
        """The textures between two colours."""
        axis = (torch.arange(size) + 0.5) / size
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        phase = torch.rand(len(self.frequency), 2, generator=generator) * 2 * math.pi
        waves = torch.sin(torch.einsum("nwk,khv->nwhv", self.frequency, torch.stack([y, x])) + phase[..., None, None])
        share = 0.5 + 0.5 * contrast * waves.mean(dim=1, keepdim=True) * math.sqrt(2)
        first, second = 0.6 * torch.rand(2, len(waves), 3, 1, 1, generator=generator)
        return first + share.clamp(0, 1) * (second - first)


@cache
def _drawings(objects: str) -> tuple[Float[Tensor, "class design side side"], tuple[str, ...]]:
    """All objects that there are, with the names of their classes."""
    if objects == "icons":
        known = icons()
        return known.masks.float() / 255, known.concepts
    # Different numbers of 16 bits with about half of them set, one for each glyph.
    numbers = torch.arange(1 << CELLS * CELLS)
    bits = (numbers[:, None] >> torch.arange(CELLS * CELLS)) & 1
    chosen = bits[bits.sum(dim=1) == CELLS * CELLS // 2][::20].float()
    return chosen.view(-1, 1, CELLS, CELLS), tuple(f"glyph {number}" for number in range(len(chosen)))


def _folder_names(scenes: GlyphScenes) -> list[str]:
    return [name.replace(" ", "_") for name in scenes.class_names]


def _pictures(scenes: GlyphScenes) -> UInt8[np.ndarray, "image height width 3"]:
    return scenes.images.permute(0, 2, 3, 1).contiguous().numpy()


def _save(picture: UInt8[np.ndarray, "height width 3"], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def _write_folder(root: Path, splits: dict[str, GlyphScenes]) -> None:
    for split, scenes in splits.items():
        names = _folder_names(scenes)
        for number, (picture, label) in enumerate(zip(_pictures(scenes), scenes.labels.tolist(), strict=True)):
            _save(picture, root / split / names[label] / f"{number:05d}.png")


def _write_csv(root: Path, splits: dict[str, GlyphScenes]) -> None:
    for split, scenes in splits.items():
        names = _folder_names(scenes)
        with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["filename", "label"])
            for number, (picture, label) in enumerate(zip(_pictures(scenes), scenes.labels.tolist(), strict=True)):
                name = f"{names[label]}{number:08d}.png"
                _save(picture, root / "images" / name)
                table.writerow([name, names[label]])


def _write_pickle(root: Path, splits: dict[str, GlyphScenes]) -> None:
    for split, scenes in splits.items():
        members = {
            name: (scenes.labels == label).nonzero()[:, 0].tolist() for label, name in enumerate(_folder_names(scenes))
        }
        with (root / f"mini-imagenet-cache-{split}.pkl").open("wb") as file:
            pickle.dump({"image_data": _pictures(scenes), "class_dict": members}, file, protocol=4)


def _write_cub(root: Path, splits: dict[str, GlyphScenes]) -> None:
    """Classes are numbered as the reader divides them: two of four to learn from, one each to validate and test on."""
    order = [each for label in range(len(splits["val"].class_names)) for each in _four(label)]
    tables: dict[str, list[str]] = {"images": [], "image_class_labels": [], "classes": [], "bounding_boxes": []}
    number = 0
    for place, (split, label) in enumerate(order, start=1):
        scenes = splits[split]
        name = f"{place:03d}.{_folder_names(scenes)[label]}"
        tables["classes"].append(f"{place} {name}")
        for row in (scenes.labels == label).nonzero()[:, 0].tolist():
            number += 1
            path = f"{name}/{name.partition('.')[2]}_{number:04d}.png"
            _save(scenes.images[row].permute(1, 2, 0).contiguous().numpy(), root / "images" / path)
            top, left, height, width = scenes.boxes[row].tolist()
            tables["images"].append(f"{number} {path}")
            tables["image_class_labels"].append(f"{number} {place}")
            tables["bounding_boxes"].append(f"{number} {left:.1f} {top:.1f} {width:.1f} {height:.1f}")
    for table, lines in tables.items():
        (root / f"{table}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _four(label: int) -> list[tuple[str, int]]:
    return [("train", 2 * label), ("val", label), ("train", 2 * label + 1), ("test", label)]


WRITERS: dict[str, Callable[[Path, dict[str, GlyphScenes]], None]] = {
    "folder": _write_folder,
    "csv": _write_csv,
    "pickle": _write_pickle,
    "cub": _write_cub,
}
