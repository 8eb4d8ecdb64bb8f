"""`world-duos`: pictures of two objects of different categories, to be told apart by a reference.

A category is a shape with a texture, "striped star", and hues of its own, never pale nor dark; grounds have any. Size,
turn and place are free; the two objects of a picture lie in different quarters. The source, from which boundaries are
learnt, has one object a picture, a disc or a bar, of which the target has none.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ommatid.data.new_folder import new_folder
from ommatid.data.worlds.cutouts import SHAPES, apart, coloured, inside
from ommatid.data.worlds.drawing import own_frame, save_picture
from ommatid.errors import InputError, unknown

TARGET, SOURCE = ("star", "cross", "square", "triangle"), ("disc", "bar")
WORDS = ("striped", "checkered", "dotted")
"""Of the textures of objects, in the order of `ommatid.data.worlds.cutouts.TEXTURES`."""
SPLITS = ("labelled", "unlabelled", "val", "test", "source")
HUES = (0, 4, 8, 2, 6, 10, 1, 5, 9, 3, 7, 11)
"""Where those of a category begin, in twelfths of all hues: few categories differ more than many do."""
HUE_WIDTH = 1 / 24
VIVID = (0.7, 1.0)
"""Strength and brightness of objects: where a colour is pale or dark, nobody sees its hue."""
FORMATS = ("folder",)
QUARTERS = torch.tensor([[-0.45, -0.45], [0.45, -0.45], [-0.45, 0.45], [0.45, 0.45]])
# Always whole chunks are drawn, so that a smaller split is the beginning of a larger one.
_CHUNK = 60


@dataclass(frozen=True, eq=False)
class Duos:
    """Pictures of one split and what is in them.

    Attributes:
        maps: class of every pixel: 0 is the ground, 1 the first of `class_names`.
    """

    images: UInt8[Tensor, "scene 3 height width"]
    maps: UInt8[Tensor, "scene height width"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class DuoWorld:
    """Pictures of two objects each.

    Attributes:
        categories: how many there are, 2 to 12.
        shots: labelled pictures in which each category is the first object; it is the second of others, too.
        unlabelled, val, test: number of other pictures. A smaller split is the beginning of a larger one.
        source: number of pictures of the source, with one object each.
        size: height and width in pixels.
        noise, contrast: as of `CutoutWorld`.

    Raises:
        InputError: there are too few or too many categories, or a number is below 1.

    Examples:
        >>> world = DuoWorld(categories=3, shots=2, size=32)
        >>> scenes = world.split("labelled")
        >>> scenes.class_names, len(scenes), scenes.maps.shape
        (('striped star', 'checkered cross', 'dotted square'), 6, torch.Size([6, 32, 32]))
    """

    categories: int = 6
    shots: int = 5
    unlabelled: int = 800
    val: int = 60
    test: int = 200
    source: int = 600
    size: int = 64
    noise: float = 0.03
    contrast: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        most = len(TARGET) * len(WORDS)
        if not 2 <= self.categories <= most:
            raise InputError(f"categories must lie in [2, {most}], found {self.categories}")
        for name in ("shots", "unlabelled", "val", "test", "source", "size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Categories in an order in which shapes and textures take turns."""
        return tuple(f"{WORDS[texture]} {TARGET[shape]}" for shape, texture in self._parts().tolist())

    def split(self, name: str) -> Duos:
        """All pictures of a split: "labelled", "unlabelled", "val", "test" or "source".

        Raises:
            InputError: there is no such split.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        count = self.shots * self.categories if name == "labelled" else getattr(self, name)
        generator = torch.Generator().manual_seed(len(SPLITS) * self.seed + SPLITS.index(name))
        chunks = [self._scenes(name, start, generator) for start in range(0, count, _CHUNK)]
        images, maps = (torch.cat(each)[:count] for each in zip(*chunks, strict=True))
        return Duos(images, maps, SOURCE if name == "source" else self.class_names)

    def write(self, root: str | Path, format: str = "folder") -> dict[str, int]:
        """Write `target/{train,val,test}/{images,masks}/<name>.png` and `source/{images,masks}/<name>.png`.

        Masks are label maps with `classes.txt`; training pictures without a mask are the unlabelled ones.

        Returns:
            Number of pictures of every split.

        Raises:
            InputError: the folder is not empty, or the format is unknown.
        """
        if format not in FORMATS:
            raise unknown("format of world-duos", format, FORMATS)
        counts = {}
        with new_folder(root) as aside:
            for name in SPLITS:
                scenes = self.split(name)
                counts[name] = len(scenes)
                place = aside / ("source" if name == "source" else "target")
                part = place if name == "source" else place / ("train" if name.endswith("labelled") else name)
                for number, (image, classes) in enumerate(zip(scenes.images, scenes.maps, strict=True)):
                    file = f"{name}_{number:05d}.png"
                    save_picture(image.permute(1, 2, 0).contiguous().numpy(), part / "images" / file)
                    if name != "unlabelled":
                        save_picture(classes.numpy(), part / "masks" / file)
                (place / "classes.txt").write_text("".join(f"{each}\n" for each in scenes.class_names))
        return counts

    def _parts(self) -> Int[Tensor, "category 2"]:
        """Shape and texture of every category."""
        number = torch.arange(self.categories)
        shape = number % len(TARGET)
        return torch.stack([shape, (number + number // len(TARGET)) % len(WORDS)], dim=1)

    def _scenes(self, name: str, start: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One chunk; the order of the draws is what a seed stands for."""
        size, alone = self.size, name == "source"
        if alone:
            classes = torch.randint(len(SOURCE), (_CHUNK, 1), generator=generator)
            shapes = torch.tensor([SHAPES.index(each) for each in SOURCE])[classes]
            textures = torch.randint(len(WORDS), (_CHUNK, 1), generator=generator)
        else:
            classes = torch.randint(self.categories, (_CHUNK, 2), generator=generator)
            if name == "labelled":
                classes[:, 0] = (start + torch.arange(_CHUNK)) % self.categories
            # Any other category is the second.
            other = torch.randint(1, self.categories, (_CHUNK,), generator=generator)
            classes[:, 1] = (classes[:, 0] + other) % self.categories
            parts = self._parts()[classes]
            shapes = torch.tensor([SHAPES.index(each) for each in TARGET])[parts[..., 0]]
            textures = parts[..., 1]
        quarters = torch.rand(_CHUNK, 4, generator=generator).argsort(dim=1)
        ground = coloured(torch.randint(3, 6, (_CHUNK,), generator=generator), size, generator)
        things = []
        for place in range(classes.shape[1]):
            hues = None if alone else (torch.tensor(HUES)[classes[:, place]] / len(HUES), HUE_WIDTH)
            thing = coloured(textures[:, place], size, generator, hues, VIVID, VIVID)
            # The ground gives way: what moves a thing would change its hue.
            _, ground = apart(thing, ground, self.contrast)
            things.append(thing)
        images, maps = ground, torch.zeros(_CHUNK, size, size, dtype=torch.uint8)
        for place, thing in enumerate(things):
            masks = inside(*own_frame(self._poses(quarters[:, place], alone, generator), size), shapes[:, place])
            images = torch.where(masks[:, None], thing, images)
            maps = torch.where(masks, (classes[:, place] + 1).to(torch.uint8)[:, None, None], maps)
        images = images + self.noise * torch.randn(images.shape, generator=generator)
        return (images.clamp(0, 1) * 255).round().to(torch.uint8), maps

    def _poses(
        self, quarters: Int[Tensor, "scene"], alone: bool, generator: torch.Generator
    ) -> Float[Tensor, "scene 4"]:
        """Somewhere near the middle of its quarter; an object that is alone may be larger."""

        def draw(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(_CHUNK, *shape, generator=generator)

        half = draw(0.36, 0.6 if alone else 0.46, 1)
        return torch.cat([QUARTERS[quarters] + draw(-0.06, 0.06, 2), half, draw(0.0, 2 * math.pi, 1)], dim=1)
