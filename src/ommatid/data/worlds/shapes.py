"""`world-shapes`: pictures of one textured shape, made of seven factors, with the mask of the shape; rendered, seeded.

A scene is drawn of seven factors that know nothing of each other (`VALUES`): the shape, its texture and hue, the hue of
the background, the size, and the place across and down. Free within them are frequency and phase of the texture, the
brightness, a turn in the plane, a shift, a tenth of the size, a weak wave in the background, and noise. Classes
(`labels`) and captions (`captions`) are of whichever factors one asks for; `ShapeWorld.mosaic` puts four scenes into
one picture.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from ommatid.data.images import SPLITS
from ommatid.data.new_folder import new_folder
from ommatid.data.worlds.drawing import grid, own_frame, rgb
from ommatid.errors import InputError, unknown

VALUES: Mapping[str, tuple[str, ...]] = {
    "shape": ("disc", "square", "triangle", "ring", "cross", "flower", "bar", "crescent"),
    "texture": ("plain", "striped", "checkered", "ringed"),
    "hue": ("red", "yellow", "green", "cyan", "blue", "magenta"),
    "background": ("maroon", "olive", "forest", "teal", "navy", "purple"),
    "size": ("small", "medium", "large"),
    "x": ("left", "centre", "right"),
    "y": ("top", "middle", "bottom"),
}
"""The values of every factor, numbered in this order; no word is a value of two factors."""
FACTORS = tuple(VALUES)
"""The columns of `ShapeScenes.factors`."""
HALF_SIZES = (0.35, 0.5, 0.65)
"""Of small, medium and large shapes, in halves of the picture's side; a tenth more or less is drawn."""
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
"""The second axis of `MosaicScenes.factors`."""
FORMATS = ("folder",)
# Always whole chunks are drawn, so that a smaller world is the beginning of a larger one.
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class ShapeScenes:
    """Pictures of one shape each, and what is to be seen in them.

    Attributes:
        factors: the value of every factor, as numbered in `VALUES`.
        masks: True for pixels whose middle is in the shape; outlines are sharp.
        poses: centre of the shape across and down (-1 is the left or upper border, 1 the right or lower one), its
            half size in the same unit, and its turn (radians, clockwise).
    """

    images: UInt8[Tensor, "scene 3 height width"]
    factors: Int[Tensor, "scene 7"]
    masks: Bool[Tensor, "scene height width"]
    poses: Float[Tensor, "scene 4"]


@dataclass(frozen=True, eq=False)
class MosaicScenes:
    """Pictures of four shapes each: two by two scenes that know nothing of each other.

    Attributes:
        factors: of every quadrant, in the order of `QUADRANTS`; sizes and places are those within the quadrant.
        masks: True where any of the four shapes is.
    """

    images: UInt8[Tensor, "scene 3 height width"]
    factors: Int[Tensor, "scene 4 7"]
    masks: Bool[Tensor, "scene height width"]


@dataclass(frozen=True)
class ShapeWorld:
    """Scenes of shapes.

    Attributes:
        train, val, test: number of scenes. A smaller split is the beginning of a larger one of the same seed.
        size: height and width in pixels.
        noise: standard deviation of what is added to every channel of every pixel, of values in [0, 1].

    Raises:
        InputError: a number of scenes or the size is below 1, or the noise is negative.

    Examples:
        >>> world = ShapeWorld(train=12, size=16)
        >>> scenes = world.split("train")
        >>> scenes.images.shape, scenes.images.dtype, scenes.masks.shape
        (torch.Size([12, 3, 16, 16]), torch.uint8, torch.Size([12, 16, 16]))
        >>> classes, class_names = labels(scenes.factors, ("shape", "texture"))
        >>> classes.shape, len(class_names)
        (torch.Size([12]), 32)
        >>> world.mosaic("train").factors.shape
        torch.Size([12, 4, 7])
    """

    train: int = 4000
    val: int = 1000
    test: int = 1000
    size: int = 32
    seed: int = 0
    noise: float = 0.04

    def __post_init__(self) -> None:
        for name in (*SPLITS, "size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 0 <= self.noise < math.inf:
            raise InputError(f"noise must be 0 or more, found {self.noise}")

    def split(self, name: str) -> ShapeScenes:
        """All scenes of a split.

        Raises:
            InputError: the split is none of train, val and test.
        """
        return self._scenes(name, getattr(self, self._known(name)), self.size, stream=0)

    def mosaic(self, name: str) -> MosaicScenes:
        """As many pictures of four scenes, each of half the size; none of the scenes is one of `split`.

        Raises:
            InputError: the split is none of train, val and test, or the size is odd.
        """
        if self.size % 2:
            raise InputError(f"size must be even for a mosaic, found {self.size}")
        tiles = self._scenes(name, 4 * getattr(self, self._known(name)), self.size // 2, stream=1)
        return MosaicScenes(
            rearrange(tiles.images, "(n row column) c h w -> n c (row h) (column w)", row=2, column=2),
            rearrange(tiles.factors, "(n quadrant) factor -> n quadrant factor", quadrant=4),
            rearrange(tiles.masks, "(n row column) h w -> n (row h) (column w)", row=2, column=2),
        )

    def write(
        self, root: str | Path, format: str = "folder", factors: Sequence[str] = ("shape", "texture")
    ) -> dict[str, int]:
        """Write all splits as files, beside `root` first and moved there at once.

        | path | holds |
        |---|---|
        | `<split>/<class>/<number>.png` | the pictures, for `ommatid.data.images.image_folder` |
        | `masks/<split>/<class>/<number>.png` | their masks: 255 where the shape is, else 0 |
        | `factors.csv` | path of the picture and the word of every factor, splits and numbers in turn |

        Args:
            factors: whose values make the classes; a folder is named by them, with underscores between.

        Returns:
            Number of pictures of every split.

        Raises:
            InputError: the folder is not empty or cannot be written, the format or a factor is unknown, or a class has
                no picture to train with.
        """
        if format not in FORMATS:
            raise unknown("format of world-shapes", format, FORMATS)
        with new_folder(root) as aside:
            splits = {name: self.split(name) for name in SPLITS}
            _check_all_seen(splits["train"], factors)
            _write_folder(aside, splits, factors)
        return {name: len(scenes.factors) for name, scenes in splits.items()}

    def _known(self, name: str) -> str:
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        return name

    def _scenes(self, name: str, count: int, size: int, stream: int) -> ShapeScenes:
        number = SPLITS.index(name) + len(SPLITS) * stream
        generator = torch.Generator().manual_seed(2 * len(SPLITS) * self.seed + number)
        # A few hundred at a time: the renderer holds several floats for every pixel.
        chunks = [_render(size, self.noise, generator) for _ in range(math.ceil(count / _CHUNK))]
        parts = zip(*((each.images, each.factors, each.masks, each.poses) for each in chunks), strict=True)
        return ShapeScenes(*(torch.cat(part)[:count] for part in parts))


def labels(
    factors: Int[Tensor, "*scene 7"], names: Sequence[str] = ("shape", "texture")
) -> tuple[Int[Tensor, "*scene"], tuple[str, ...]]:
    """Classes of any of the factors: one for every combination of their values, those of the last named in turn.

    Returns:
        The class of every scene, and the names of all classes: the words of their values, as in `captions`.

    Raises:
        InputError: no factor is named, one is unknown, or named twice.

    Examples:
        >>> classes, class_names = labels(torch.tensor([[7, 1, 0, 0, 0, 0, 0]]), ("shape", "texture"))
        >>> len(class_names), class_names[classes[0]]
        (32, 'crescent striped')
    """
    classes = torch.zeros_like(factors[..., 0])
    class_names: tuple[str, ...] = ("",)
    for name in _known_factors(names):
        values = VALUES[name]
        classes = classes * len(values) + factors[..., FACTORS.index(name)]
        class_names = tuple(f"{words} {value}".lstrip() for words in class_names for value in values)
    return classes, class_names


def captions(factors: Int[Tensor, "scene 7"], names: Sequence[str] = ("size", "texture", "hue", "shape")) -> list[str]:
    """The words of the named factors' values, one for each in the order named: "large striped red disc".

    Raises:
        InputError: no factor is named, one is unknown, or named twice.

    Examples:
        >>> captions(torch.tensor([[0, 1, 0, 4, 2, 0, 1]]), ("size", "texture", "hue", "shape", "x", "background"))
        ['large striped red disc left navy']
    """
    columns = [FACTORS.index(name) for name in _known_factors(names)]
    vocabularies = [VALUES[name] for name in names]
    return [
        " ".join(words[value] for words, value in zip(vocabularies, values, strict=True))
        for values in factors[:, columns].tolist()
    ]


def _known_factors(names: Sequence[str]) -> Sequence[str]:
    if not names:
        raise InputError(f"factors: found none, expected some of {', '.join(FACTORS)}")
    for name in names:
        if name not in VALUES:
            raise unknown("factor of world-shapes", name, FACTORS)
    if len(set(names)) < len(names):
        raise InputError(f"factors: found one twice in {', '.join(names)}, expected each once")
    return names


def _render(size: int, noise: float, generator: torch.Generator) -> ShapeScenes:
    """One chunk of scenes; the order of the draws is what a seed stands for."""

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(_CHUNK, *shape, generator=generator)

    factors = torch.stack(
        [torch.randint(len(values), (_CHUNK,), generator=generator) for values in VALUES.values()], dim=-1
    )
    shape, texture, hue, background, extent, column, row = factors.unbind(-1)
    place = (torch.stack([column, row], dim=-1) - 1) * 0.3 + draw(-0.08, 0.08, 2)
    half = torch.tensor(HALF_SIZES)[extent] * draw(0.9, 1.1)
    poses = torch.cat([place, half[:, None], draw(-0.4, 0.4, 1)], dim=-1)

    u, v = own_frame(poses, size)
    masks = _inside(u, v, shape)
    gain = _gain(u, v, texture, draw(1.5, 2.5), draw(0.0, 2 * math.pi))
    colour = rgb((hue + draw(-0.15, 0.15)) / 6, 0.8, draw(0.75, 1.0))
    ground = rgb(background / 6, 0.35, draw(0.25, 0.5))
    wave = _wave(size, draw(2.0, 8.0, 2), draw(0.0, 2 * math.pi, 2))
    images = torch.where(
        masks[:, None], gain[:, None] * colour[..., None, None], wave[:, None] * ground[..., None, None]
    )
    images = images + noise * torch.randn(images.shape, generator=generator)
    return ShapeScenes((images.clamp(0, 1) * 255).round().to(torch.uint8), factors, masks, poses)


def _inside(
    u: Float[Tensor, "scene height width"], v: Float[Tensor, "scene height width"], shape: Int[Tensor, "scene"]
) -> Bool[Tensor, "scene height width"]:
    radius, petals = torch.hypot(u, v), torch.cos(5 * torch.atan2(v, u))
    short, long = torch.minimum(u.abs(), v.abs()), torch.maximum(u.abs(), v.abs())
    every = torch.stack(
        [
            radius < 1,
            long < 0.85,
            (v < 0.7) & (u.abs() < 0.55 * (v + 1)),
            (radius > 0.55) & (radius < 1),
            (short < 0.3) & (long < 1),
            radius < 0.55 + 0.4 * petals,
            (u.abs() < 1) & (v.abs() < 0.4),
            (radius < 1) & (torch.hypot(u - 0.45, v) > 0.7),
        ]
    )
    return every[shape, torch.arange(len(shape))]


def _gain(
    u: Float[Tensor, "scene height width"],
    v: Float[Tensor, "scene height width"],
    texture: Int[Tensor, "scene"],
    frequency: Float[Tensor, "scene"],
    phase: Float[Tensor, "scene"],
) -> Float[Tensor, "scene height width"]:
    """What the texture leaves of the colour: all of it, or between 0.4 and 1 in the shape's own frame."""
    frequency, phase = frequency[:, None, None], phase[:, None, None]
    across, along = torch.sin(6 * frequency * u + phase), torch.sin(6 * frequency * v + phase)
    rings = torch.sin(4 * frequency * torch.hypot(u, v) + phase)
    levels = torch.stack([torch.ones_like(u), torch.sign(across), torch.sign(across * along), rings])
    return 0.7 + 0.3 * levels[texture, torch.arange(len(texture))]


def _wave(
    size: int, frequency: Float[Tensor, "scene 2"], phase: Float[Tensor, "scene 2"]
) -> Float[Tensor, "scene size size"]:
    """A weak sinusoid in both directions, between 0.6 and 1."""
    (over_x, over_y), (at_x, at_y) = ((each[..., None, None]).unbind(1) for each in (frequency, phase))
    x, y = grid(size)
    return 0.8 + 0.2 * torch.sin(over_x * x + at_x) * torch.sin(over_y * y + at_y)


def _check_all_seen(train: ShapeScenes, factors: Sequence[str]) -> None:
    """A folder without pictures is no class to those who read it."""
    classes, class_names = labels(train.factors, factors)
    for number in (torch.bincount(classes, minlength=len(class_names)) == 0).nonzero().flatten()[:1].tolist():
        raise InputError(
            f"train: found no picture of {class_names[number]!r} among {len(classes)}, expected one of each of the "
            f"{len(class_names)} classes: draw more, or make classes of fewer factors"
        )


def _write_folder(root: Path, splits: Mapping[str, ShapeScenes], factors: Sequence[str]) -> None:
    with (root / "factors.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", *FACTORS))
        for split, scenes in splits.items():
            classes, class_names = labels(scenes.factors, factors)
            pictures, masks = scenes.images.permute(0, 2, 3, 1).numpy(), scenes.masks.byte().mul(255).numpy()
            # One file after the other: PNG cannot be batched.
            for number, (label, words) in enumerate(
                zip(classes.tolist(), captions(scenes.factors, FACTORS), strict=True)
            ):
                path = Path(split, class_names[label].replace(" ", "_"), f"{number:05d}.png")
                for place, pixels in ((root / path, pictures[number]), (root / "masks" / path, masks[number])):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(place)
                table.writerow((path.as_posix(), *words.split()))
