"""`world-cutouts`: one textured shape on a textured ground, with its mask; shapes to learn and others to learn from.

Objects are striped, checkered or dotted, the ground behind them grainy, cloudy or ringed, each in any two colours; so
texture tells them apart, colour does not, and a few labelled pictures cannot show what the others will look like. What
can be learnt from any shape is whether a cut-out is clean: that of the right mask has one texture inside, and another
outside.

There are two sets. The target has stars and crosses, the source discs, squares and triangles; so what is known of a
source's outlines is of no use, what is known of its edges is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from ommatid.data.new_folder import new_folder
from ommatid.data.worlds.drawing import grid, own_frame, rgb
from ommatid.errors import InputError, unknown

SHAPES = ("disc", "square", "triangle", "star", "cross", "bar")
TARGET, SOURCE = ("star", "cross"), ("disc", "square", "triangle")
TEXTURES = ("stripes", "checks", "dots", "grain", "clouds", "rings")
"""The first three are of objects, the others of grounds."""
SPLITS = ("train", "val", "test", "source")
FORMATS = ("folder", "pairs")
# Always whole chunks are drawn, so that a smaller split is the beginning of a larger one.
_CHUNK = 100


@dataclass(frozen=True, eq=False)
class Cutouts:
    """Pictures of one split and what is in them.

    Attributes:
        maps: class of every pixel: 0 is the ground, 1 the first of `class_names`.
        poses: centre across and down, half size (in halves of the side), turn (radians, clockwise).
        textures: of object and ground, as numbered in `TEXTURES`.
    """

    images: UInt8[Tensor, "scene 3 height width"]
    maps: UInt8[Tensor, "scene height width"]
    poses: Float[Tensor, "scene 4"]
    textures: Int[Tensor, "scene 2"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class CutoutWorld:
    """Pictures of one shape each.

    Attributes:
        train, val, test: number of target pictures. A smaller split is the beginning of a larger one of the same seed.
        source: number of source pictures.
        size: height and width in pixels.
        noise: standard deviation of what is added to every channel of every pixel, of values in [0, 1].
        contrast: least distance of the two mean colours, as a root of summed squares; 0 lets them be alike.

    Raises:
        InputError: a number of pictures or the size is below 1, or noise or contrast lies outside [0, 1].

    Examples:
        >>> scenes = CutoutWorld(train=4, size=16).split("train")
        >>> scenes.images.shape, scenes.maps.shape, scenes.class_names
        (torch.Size([4, 3, 16, 16]), torch.Size([4, 16, 16]), ('star', 'cross'))
    """

    train: int = 600
    val: int = 100
    test: int = 200
    source: int = 600
    size: int = 32
    noise: float = 0.03
    contrast: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*SPLITS, "size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("noise", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in [0, 1], found {getattr(self, name)}")

    def split(self, name: str) -> Cutouts:
        """All pictures of a split: "train", "val", "test" or "source".

        Raises:
            InputError: there is no such split.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        generator = torch.Generator().manual_seed(len(SPLITS) * self.seed + SPLITS.index(name))
        names, count = (SOURCE if name == "source" else TARGET), getattr(self, name)
        chunks = [self._scenes(names, generator) for _ in range(math.ceil(count / _CHUNK))]
        images, maps, poses, textures = (torch.cat(each)[:count] for each in zip(*chunks, strict=True))
        return Cutouts(images, maps, poses, textures, names)

    def write(self, root: str | Path, format: str = "folder") -> dict[str, int]:
        """Write the target below `root/target` and the source below `root/source`, as data sets of two formats.

        "folder" is `{train,val,test}/{images,masks}/<number>.png`, masks as label maps with `classes.txt` beside the
        splits; "pairs" `{train,val,test}.txt` of "image mask" lines, all masks with 255 for the object.

        Returns:
            Number of pictures of every split.

        Raises:
            InputError: the folder is not empty, or the format is unknown.
        """
        if format not in FORMATS:
            raise unknown("format of world-cutouts", format, FORMATS)
        with new_folder(root) as aside:
            for name in SPLITS:
                folder, split = (aside / "source", "train") if name == "source" else (aside / "target", name)
                _write(folder, split, self.split(name), format)
        return {name: getattr(self, name) for name in SPLITS}

    def _scenes(self, names: Sequence[str], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One chunk; the order of the draws is what a seed stands for."""

        def draw(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(_CHUNK, *shape, generator=generator)

        classes = torch.randint(len(names), (_CHUNK,), generator=generator)
        poses = torch.cat([draw(-0.45, 0.45, 2), draw(0.4, 0.65, 1), draw(0.0, 2 * math.pi, 1)], dim=1)
        textures = torch.randint(3, (_CHUNK, 2), generator=generator) + torch.tensor([0, 3])
        u, v = own_frame(poses, self.size)
        shapes = torch.tensor([SHAPES.index(name) for name in names])[classes]
        masks = inside(u, v, shapes)
        thing, ground = (coloured(textures[:, number], self.size, generator) for number in range(2))
        thing, ground = apart(thing, ground, self.contrast)
        images = torch.where(masks[:, None], thing, ground)
        images = images + self.noise * torch.randn(images.shape, generator=generator)
        maps = masks.to(torch.uint8) * (classes + 1).to(torch.uint8)[:, None, None]
        return (images.clamp(0, 1) * 255).round().to(torch.uint8), maps, poses, textures


def coloured(
    textures: Int[Tensor, "scene"],
    size: int,
    generator: torch.Generator,
    hues: tuple[Float[Tensor, "scene"], float] | None = None,
    strength: tuple[float, float] = (0.2, 0.9),
    brightness: tuple[float, float] = (0.3, 1.0),
) -> Float[Tensor, "scene 3 {size} {size}"]:
    """A texture in two colours all over each picture.

    Args:
        hues: from where on and how wide the range is that the hues of a picture are drawn from; all of them by default.
        strength, brightness: lowest and highest saturation and value of HSV.
    """

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(textures), generator=generator)

    start, extent = hues or (torch.zeros(len(textures)), 1.0)
    first, second = (
        rgb(start + extent * draw(0.0, 1.0), draw(*strength), draw(*brightness))[..., None, None] for _ in range(2)
    )
    share = 0.4 * pattern(textures, size, generator)[:, None]
    return first * (1 - share) + second * share


def inside(
    u: Float[Tensor, "scene height width"], v: Float[Tensor, "scene height width"], shapes: Int[Tensor, "scene"]
) -> Bool[Tensor, "scene height width"]:
    """Pixels whose middle is in the shape, as numbered in `SHAPES`, in its own frame."""
    radius, angle = torch.hypot(u, v), torch.atan2(v, u)
    short, long = torch.minimum(u.abs(), v.abs()), torch.maximum(u.abs(), v.abs())
    fifth = math.pi / 5
    # Between a point of the star, at 1, and the notch beside it, at 0.45, its outline is straight.
    apart = ((angle + fifth) % (2 * fifth) - fifth).abs()
    notch = 0.45 * math.cos(fifth) - 1, 0.45 * math.sin(fifth)
    star = notch[0] * radius * apart.sin() - notch[1] * (radius * apart.cos() - 1) > 0
    every = torch.stack(
        [
            radius < 0.85,
            long < 0.75,
            (v < 0.6) & (u.abs() < 0.6 * (v + 1)),
            star,
            (short < 0.33) & (long < 0.95),
            (u.abs() < 0.95) & (v.abs() < 0.4),
        ]
    )
    return every[shapes, torch.arange(len(shapes))]


def pattern(
    textures: Int[Tensor, "scene"], size: int, generator: torch.Generator
) -> Float[Tensor, "scene height width"]:
    """Values in [0, 1] of a texture, with period and direction of its own in every scene."""
    count = len(textures)

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator))[:, None, None]

    x, y = grid(size)
    turn, phase, period = draw(0.0, math.pi), draw(0.0, 2 * math.pi), draw(0.18, 0.4)
    across, along = turn.cos() * x + turn.sin() * y, turn.cos() * y - turn.sin() * x
    wave, other = (torch.sin(2 * math.pi * each / period + phase) for each in (across, along))
    grain = torch.rand(count, size, size, generator=generator)
    clouds = torch.nn.functional.avg_pool2d(
        torch.rand(count, 1, size, size, generator=generator), 7, 1, 3, count_include_pad=False
    )[:, 0]
    every = torch.stack(
        [
            (wave > 0).float(),
            (wave * other > 0).float(),
            ((wave > 0.3) & (other > 0.3)).float(),
            grain,
            ((clouds - 0.5) * 5 + 0.5).clamp(0, 1),
            0.5 + 0.5 * torch.sin(2 * math.pi * torch.hypot(x, y) / period + phase),
        ]
    )
    return every[textures, torch.arange(count)]


def apart(
    thing: Float[Tensor, "scene 3 height width"], ground: Float[Tensor, "scene 3 height width"], contrast: float
) -> tuple[Tensor, Tensor]:
    """Two layers, the mean colours of which differ at least so much: both are moved by as much as is missing."""
    between = (thing - ground).mean(dim=(2, 3), keepdim=True)
    distance = between.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-6)
    step = between / distance * (contrast - distance).clamp(min=0) / 2
    return thing + step, ground - step


def _write(folder: Path, split: str, scenes: Cutouts, format: str) -> None:
    places = {kind: folder / split / kind for kind in ("images", "masks")}
    for place in places.values():
        place.mkdir(parents=True)
    lines = []
    for number, (image, classes) in enumerate(zip(scenes.images, scenes.maps, strict=True)):
        name = f"{number:05d}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(places["images"] / name)
        values = classes.numpy() if format == "folder" else (classes.numpy() > 0) * np.uint8(255)
        Image.fromarray(values).save(places["masks"] / name)
        lines.append(f"{split}/images/{name} {split}/masks/{name}\n")
    if format == "folder":
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in scenes.class_names))
    else:
        (folder / f"{split}.txt").write_text("".join(lines))
