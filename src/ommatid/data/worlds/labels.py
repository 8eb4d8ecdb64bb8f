"""`world-labels`: images of two to six objects whose labels come in groups; rendered, seeded.

An object is one of four shapes in one of four colours, sixteen labels. Three things lie in the images:

- Labels come in groups of three that share neither shape nor colour. Where a group is, it is whole with probability
  0.8, and in 60 % of images one of its three labels is hard to see: drawn tiny, or small with one half hidden. What
  cannot be seen can then be told from its companions only.
- Groups are as frequent as the words of a language (Zipf), but how large an object is, how strong its colour and
  whether it is hard are drawn image by image, for rare labels as for frequent ones: no order of labels fits all images.
- A hard object lies inside one of 6 x 6 cells, a small part of what is averaged when an image is pooled.
"""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from ommatid.data.new_folder import new_folder
from ommatid.errors import InputError, unknown

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (0.90, 0.20, 0.20),
    "green": (0.20, 0.80, 0.25),
    "blue": (0.20, 0.35, 0.95),
    "yellow": (0.90, 0.85, 0.20),
}
CLASSES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
GROUPS = ((1, 11, 12), (5, 10, 15), (3, 4, 14), (0, 6, 13), (2, 7, 8))
"""Labels that appear together, the most frequent group first."""
LONER = 9
"""The label of no group, the rarest; it is never alone."""
SPLITS = {"train": 0, "val": 1, "test": 2}
_SIZES = {"plain": (7.0, 14.0), "tiny": (4.0, 5.0), "half": (6.0, 7.0)}
"""Width and height of objects, in pixels of an image of 48."""


@dataclass(frozen=True, eq=False)
class LabelScenes:
    """Images of one split and what is in them.

    Attributes:
        labels: which objects an image shows.
        tiny: those of them that are hard to see, drawn tiny or half hidden.
        boxes: left, top, right and bottom of what is seen of an object, in pixels; NaN where it is absent.
    """

    images: UInt8[Tensor, "image 3 height width"]
    labels: Bool[Tensor, "image label"]
    tiny: Bool[Tensor, "image label"]
    boxes: Float[Tensor, "image label 4"]
    class_names: tuple[str, ...] = CLASSES

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class LabelWorld:
    """Images of objects whose labels come in groups.

    Attributes:
        train, val, test: number of images.
        size: height and width in pixels, a multiple of 6; the sizes of objects (4 to 14 pixels of 48) go with it.
        together: probability that a group is whole where it is; one of its three labels is missing otherwise.
        hard: share of images in which one label of a group is drawn tiny or half hidden, if it is there.
        noise: standard deviation of what is added to every pixel, whose values lie in [0, 1].

    Raises:
        InputError: there are no images, the size is no multiple of 6 or below 24, or a share is none.

    Examples:
        >>> scenes = LabelWorld(train=4).split("train")
        >>> scenes.images.shape, scenes.images.dtype
        (torch.Size([4, 3, 48, 48]), torch.uint8)
        >>> [CLASSES[label] for label in scenes.labels[2].nonzero()[:, 0]]
        ['yellow circle', 'red square', 'blue cross']
    """

    train: int = 6000
    val: int = 750
    test: int = 1500
    size: int = 48
    together: float = 0.8
    hard: float = 0.6
    noise: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in SPLITS:
            if getattr(self, name) < 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected at least 1 image")
        if self.size < 24 or self.size % 6:
            raise InputError(f"size: found {self.size}, expected a multiple of 6 from 24 on")
        for name in ("together", "hard"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected a share from 0 to 1")
        if not 0 <= self.noise < math.inf:
            raise InputError(f"noise: found {self.noise}, expected a standard deviation from 0 on")

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASSES

    def split(self, name: str) -> LabelScenes:
        """All images of a split, "train", "val" or "test".

        Raises:
            InputError: there is no such split.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        generator = torch.Generator().manual_seed(3 * self.seed + SPLITS[name])
        # A few hundred at a time: the renderer holds several floats for every pixel.
        counts = [len(part) for part in torch.arange(getattr(self, name)).split(250)]
        images, labels, tiny, boxes = zip(*(self._scenes(count, generator) for count in counts), strict=True)
        return LabelScenes(torch.cat(images), torch.cat(labels), torch.cat(tiny), torch.cat(boxes))

    def write(self, root: str | Path, format: str = "csv") -> dict[str, int]:
        """Write the world as the files of a multi-label data set.

        "csv" is `<split>.csv` with the columns `file,labels` beside a folder of PNG images; "coco" is the layout of
        COCO 2017 with boxes, and with labels for test images too, which COCO itself keeps back; "nus-wide" that of
        NUS-WIDE, which has no validation part. Images of the latter two are JPEG files, as theirs are.

        Returns:
            Number of images of every split that was written.

        Raises:
            InputError: the folder is not empty, or the format is none of the three.
        """
        if format not in WRITERS:
            raise unknown("format of world-labels", format, WRITERS)
        splits = ("train", "test") if format == "nus-wide" else tuple(SPLITS)
        with new_folder(root) as aside:
            for name in splits:
                WRITERS[format](aside, name, self.split(name))
        return {name: getattr(self, name) for name in splits}

    def _scenes(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        labels = _draw_labels(count, self.together, generator)
        tiny = labels & _draw_hard(count, self.hard, generator)
        objects = _Objects.draw(labels, tiny, generator)
        coverage = objects.coverage(self.size)
        return self._render(objects, coverage, generator), labels, tiny, objects.boxes(coverage, labels)

    def _render(
        self, objects: "_Objects", coverage: Float[Tensor, "image slot height width"], generator: torch.Generator
    ) -> UInt8[Tensor, "image 3 size size"]:
        def draw(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(len(coverage), *shape, generator=generator)

        ground = self._ground(draw(2.0, 8.0, 2), draw(0.0, 2 * math.pi, 2), draw(0.2, 0.6, 3))
        colours = torch.tensor(list(COLOURS.values()))[objects.label % len(COLOURS)] + draw(-0.12, 0.12, 9, 3)
        # How far an object stands out is drawn for each, as its size is.
        alpha = coverage * draw(0.6, 1.0, 9, 1, 1)
        alpha, painted = alpha[:, :, None], colours[..., None, None].expand(-1, -1, -1, *coverage.shape[2:])
        alpha, painted = (
            rearrange(each, "n (r s) c h w -> n c (r h) (s w)", r=3) for each in (alpha, painted.clamp(0, 1))
        )
        images = ground + alpha * (painted - ground)
        images = images + self.noise * torch.randn(images.shape, generator=generator)
        return (images.clamp(0, 1) * 255).round().to(torch.uint8)

    def _ground(self, frequency: Tensor, phase: Tensor, colour: Tensor) -> Tensor:
        """A weak sinusoid in both directions."""
        axis = (torch.arange(self.size) + 0.5) * 2 / self.size - 1
        across = torch.sin(frequency[:, :1] * axis + phase[:, :1])
        along = torch.sin(frequency[:, 1:] * axis + phase[:, 1:])
        return (0.85 + 0.15 * across[:, None, :] * along[:, :, None])[:, None] * colour[..., None, None]


def _unit_sets() -> tuple[Bool[Tensor, "set unit"], Float[Tensor, "set"]]:
    """The groups (and, last, the label of none) that an image may have, one or two, and how likely each choice is.

    A choice is as likely as the product of its members' odds. These are such that shares of images fall as one over
    the rank of a group, and that the last label is in about 3 % of images.
    """
    odds = [rank**-1.2 for rank in range(1, len(GROUPS) + 1)] + [0.05]
    units = range(len(odds))
    sets = [(unit,) for unit in units[:-1]] + list(itertools.combinations(units, 2))
    members = torch.tensor([[unit in chosen for unit in units] for chosen in sets])
    return members, torch.tensor([math.prod(odds[unit] for unit in chosen) for chosen in sets])


_UNIT_SETS, _UNIT_ODDS = _unit_sets()


def _draw_labels(count: int, together: float, generator: torch.Generator) -> Bool[Tensor, "image label"]:
    units = _UNIT_SETS[torch.multinomial(_UNIT_ODDS, count, replacement=True, generator=generator)]
    whole = torch.rand(count, len(GROUPS), generator=generator) < together
    kept = whole[..., None] | ~_one_of_three(count, generator)
    return _by_label(units[:, :-1, None] & kept, units[:, -1])


def _draw_hard(count: int, share: float, generator: torch.Generator) -> Bool[Tensor, "image label"]:
    """Which labels are hard to see where they are: the same share of every label, drawn without a look at labels."""
    some = torch.rand(count, len(GROUPS), generator=generator) < share
    loner = torch.rand(count, generator=generator) < share / 3
    return _by_label(some[..., None] & _one_of_three(count, generator), loner)


def _one_of_three(count: int, generator: torch.Generator) -> Bool[Tensor, "image group 3"]:
    return torch.randint(3, (count, len(GROUPS), 1), generator=generator) == torch.arange(3)


def _by_label(of_group: Bool[Tensor, "image group 3"], of_loner: Bool[Tensor, "image"]) -> Bool[Tensor, "image label"]:
    labels = torch.zeros(len(of_group), len(CLASSES), dtype=torch.bool)
    labels[:, torch.tensor(GROUPS).flatten()] = of_group.flatten(1)
    labels[:, LONER] = of_loner
    return labels


@dataclass(frozen=True, eq=False)
class _Objects:
    """What is in the 3 x 3 slots of every image; a slot is 2 x 2 cells, and objects of two slots never touch.

    Lengths are in pixels of an image of 48, x to the right and y down from the corner of the slot.
    """

    label: Int[Tensor, "image slot"]
    there: Bool[Tensor, "image slot"]
    extent: Float[Tensor, "image slot"]
    centre: Float[Tensor, "image slot 2"]
    half: Bool[Tensor, "image slot"]
    """Only one half of the object is seen."""
    side: Int[Tensor, "image slot"]
    """Which one: right, left, lower, upper."""

    @classmethod
    def draw(
        cls, labels: Bool[Tensor, "image label"], tiny: Bool[Tensor, "image label"], generator: torch.Generator
    ) -> "_Objects":
        count = len(labels)

        def draw(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator)

        # Labels that are there come first, in any order; the first slots of a shuffle take one each.
        order = (draw(len(CLASSES)) + 2 * ~labels).argsort(dim=1)[:, :9]
        place = draw(9).argsort(dim=1)
        label, there = order.gather(1, place), place < labels.sum(dim=1, keepdim=True)
        hard = tiny.gather(1, label)
        half = hard & (draw(9) < 0.5)
        kind = torch.where(half, 2, hard.long())
        low, high = torch.tensor(list(_SIZES.values()))[kind].unbind(dim=-1)
        extent = low + (high - low) * draw(9)
        # Half a pixel is left on every side, for the soft edge.
        room = torch.where(hard, 8.0, 16.0) - 1 - extent
        cell = 8 * torch.randint(2, (count, 9, 2), generator=generator) * hard[..., None]
        centre = cell + 0.5 + extent[..., None] / 2 + room[..., None] * draw(9, 2)
        side = torch.randint(4, (count, 9), generator=generator)
        return cls(label, there, extent, centre, half, side)

    def coverage(self, size: int) -> Float[Tensor, "image slot height width"]:
        """The part of every pixel of a slot that its object covers."""
        slot, scale = size // 3, size / 48
        axis = torch.arange(slot) + 0.5
        x = axis - scale * self.centre[..., 0, None, None]
        y = axis[:, None] - scale * self.centre[..., 1, None, None]
        radius = scale * self.extent[..., None, None] / 2
        outside = torch.stack(_distances(*torch.broadcast_tensors(x, y, radius)), dim=-1)
        shape = (self.label // len(COLOURS))[..., None, None, None].expand(*outside.shape[:-1], 1)
        covered = (0.5 - outside.gather(-1, shape)[..., 0]).clamp(0, 1)
        axis_of_side = torch.where((self.side < 2)[..., None, None], x, y)
        seen = (0.5 + axis_of_side * (1 - 2 * (self.side % 2))[..., None, None]).clamp(0, 1)
        covered = torch.where(self.half[..., None, None], covered * seen, covered)
        return covered * self.there[..., None, None]

    def boxes(
        self, coverage: Float[Tensor, "image slot height width"], labels: Bool[Tensor, "image label"]
    ) -> Float[Tensor, "image label 4"]:
        """The smallest boxes that hold all pixels of objects."""
        slot = coverage.shape[-1]
        seen = coverage > 0
        ends = []
        for along in (seen.any(dim=2), seen.any(dim=3)):
            ends += [along.int().argmax(dim=-1), slot - along.flip(-1).int().argmax(dim=-1)]
        left, right, top, bottom = ends
        place = torch.arange(9)
        column, row = slot * (place % 3), slot * (place // 3)
        of_slot = torch.stack([left + column, top + row, right + column, bottom + row], dim=-1).float()
        boxes = torch.full((*labels.shape, 4), math.nan)
        image, where = self.there.nonzero(as_tuple=True)
        boxes[image, self.label[image, where]] = of_slot[image, where]
        return boxes


def _distances(x: Tensor, y: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
    """How far a pixel lies outside of every shape (negative inside), in the order of `SHAPES`."""
    wide, high, arm = x.abs(), y.abs(), 0.36 * radius
    circle = torch.hypot(x, y) - radius
    square = torch.maximum(wide, high) - radius
    triangle = torch.maximum(y - radius, (2 * wide - y - radius) / math.sqrt(5))
    cross = torch.maximum(torch.maximum(wide, high) - radius, torch.minimum(wide, high) - arm)
    return circle, square, triangle, cross


def _save(image: UInt8[np.ndarray, "height width 3"], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)  # PNG, without loss, takes no notice


def _pictures(scenes: LabelScenes) -> UInt8[np.ndarray, "image height width 3"]:
    return scenes.images.permute(0, 2, 3, 1).contiguous().numpy()


def _labels_of(scenes: LabelScenes) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in scenes.labels]


def _write_csv(root: Path, split: str, scenes: LabelScenes) -> None:
    """`images/<split>_000001.png`, `<split>.csv` with rows `file,label;label`, and `classes.txt`."""
    lines = ["file,labels"]
    for number, (image, labels) in enumerate(zip(_pictures(scenes), _labels_of(scenes), strict=True), start=1):
        name = f"images/{split}_{number:06d}.png"
        _save(image, root / name)
        lines.append(f"{name},{';'.join(CLASSES[label] for label in labels)}")
    (root / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # A small split may lack a class.
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


def _write_coco(root: Path, split: str, scenes: LabelScenes) -> None:
    """`<split>2017/<id>.jpg` and `annotations/instances_<split>2017.json`; category ids have a gap, as COCO's do."""
    category = [label + 1 + (label > 10) for label in range(len(CLASSES))]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (image, labels) in enumerate(zip(_pictures(scenes), _labels_of(scenes), strict=True), start=1):
        image_id = 100_000 * (SPLITS[split] + 1) + number
        name = f"{image_id:012d}.jpg"
        _save(image, root / f"{split}2017" / name)
        images.append({"id": image_id, "file_name": name, "height": image.shape[0], "width": image.shape[1]})
        for label in labels:
            left, top, right, bottom = scenes.boxes[number - 1, label].tolist()
            annotations.append(
                {
                    "id": 1_000_000 * (SPLITS[split] + 1) + len(annotations),
                    "image_id": image_id,
                    "category_id": category[label],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
    categories = [
        {"id": category[label], "name": name, "supercategory": name.split()[1]} for label, name in enumerate(CLASSES)
    ]
    content = {"info": {"year": 2017}, "images": images, "annotations": annotations, "categories": categories}
    file = root / "annotations" / f"instances_{split}2017.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def _write_nus_wide(root: Path, split: str, scenes: LabelScenes) -> None:
    """`Flickr/<concept>/<number>_<id>.jpg`, the list of images, that of concepts, and a file of 0 and 1 for each."""
    part, concepts = split.capitalize(), [name.replace(" ", "_") for name in CLASSES]
    lines = []
    for number, (image, labels) in enumerate(zip(_pictures(scenes), _labels_of(scenes), strict=True), start=1):
        concept, name = concepts[labels[0]], f"{number:04d}_{100_000 * (SPLITS[split] + 1) + number}.jpg"
        _save(image, root / "Flickr" / concept / name)
        lines.append(f"{concept}\\{name}")
    files = {Path("ImageList", f"{part}Imagelist.txt"): lines, Path("ConceptsList", "Concepts81.txt"): concepts}
    for label, concept in enumerate(concepts):
        column = scenes.labels[:, label].int().tolist()
        files[Path("Groundtruth", "TrainTestLabels", f"Labels_{concept}_{part}.txt")] = [str(flag) for flag in column]
    for file, rows in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("\n".join(rows) + "\n", encoding="utf-8")


WRITERS: dict[str, Callable[[Path, str, LabelScenes], None]] = {
    "csv": _write_csv,
    "coco": _write_coco,
    "nus-wide": _write_nus_wide,
}
