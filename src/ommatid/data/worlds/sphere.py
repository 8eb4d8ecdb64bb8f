"""`world-sphere`: equirectangular clips of textured discs that move over a sphere; rendered, seeded.

One or two discs, fixed to the sphere's surface, move on great circles in front of smooth waves or of photographed
panoramas; where they are is where people would look, known exactly. Row 0 of a frame touches the north pole, column 0
starts at longitude 0. The same discs seen by a camera, `views`, have their texture as label: a small network learns
from them what flat pictures teach.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ommatid.data.embedded import read
from ommatid.data.images import decode_image
from ommatid.data.new_folder import new_folder
from ommatid.data.video import write_video
from ommatid.data.worlds.drawing import rgb
from ommatid.errors import InputError, unknown

TEXTURES = ("plain", "stripes", "fine stripes", "checker", "fine checker", "rings", "spokes", "dots", "cross", "eye")
BACKGROUNDS = ("waves", "panoramas")
SPLITS = ("train", "val", "test")
FORMATS = ("wild360",)
PANORAMAS_OF_SPLIT = {"train": slice(0, 12), "val": slice(12, 14), "test": slice(14, 18)}
OBJECTS = 2
"""Most discs of a clip."""
SALIENCY_WIDTH = math.radians(10)
"""Standard deviation of the true map around a disc's middle."""
_FINER = 2
"""Rendered pixels for one of the picture, along each side."""
_CHUNK = 4

Directions = Float[Tensor, "*place 3"]


@dataclass(frozen=True)
class SphereClips:
    """Clips, and what is true of them.

    Attributes:
        saliency: between 0 and 1, a Gaussian of 10 degrees around every disc.
        masks: pixels that a disc fills by half or more.
        centres: latitude and longitude of the discs' middles; those that are not there included.
        present: discs that are there, the first one always.
        textures: number of each disc's texture in `TEXTURES`.
    """

    frames: UInt8[Tensor, "clip time 3 height width"]
    saliency: Float[Tensor, "clip time height width"]
    masks: Bool[Tensor, "clip time height width"]
    centres: Float[Tensor, "clip time object 2"]
    present: Bool[Tensor, "clip object"]
    textures: Int[Tensor, "clip object"]


@dataclass(frozen=True)
class SphereWorld:
    """Clips of moving discs, all around.

    Attributes:
        train, val, test: number of clips.
        frames: of a clip.
        height: rows of a frame, which has twice as many columns.
        background: "waves" of 60 degrees and more, or "panoramas", photographs in another direction for every clip; no
            two splits show the same place.
        noise: standard deviation of what is added to every pixel of every frame.

    Raises:
        InputError: a number is below 1, or the background is neither.

    Examples:
        >>> world = SphereWorld(train=2, frames=3, height=32)
        >>> clips = world.split("train")
        >>> clips.frames.shape, clips.frames.dtype, clips.saliency.shape
        (torch.Size([2, 3, 3, 32, 64]), torch.uint8, torch.Size([2, 3, 32, 64]))
    """

    train: int = 64
    val: int = 16
    test: int = 32
    frames: int = 10
    height: int = 64
    background: str = "waves"
    noise: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "val", "test", "frames", "height"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.background not in BACKGROUNDS:
            raise unknown("background of world-sphere", self.background, BACKGROUNDS)

    def split(self, name: str) -> SphereClips:
        """All clips of a split.

        Raises:
            InputError: the split is none of train, val and test.
        """
        generator = self._generator(name, stream=0)
        count = getattr(self, name)
        discs, ground = _Discs.draw((count, OBJECTS), generator), _Ground.draw(count, generator)
        moment = torch.arange(self.frames) - (self.frames - 1) / 2
        # A few at a time: the renderer holds several floats for every rendered pixel.
        parts = [
            self._render(discs.of(part), ground.of(part), moment, name, generator)
            for part in torch.arange(count).split(_CHUNK)
        ]
        frames, masks, saliency = (torch.cat(part) for part in zip(*parts, strict=True))
        centres = _places(discs.frame(moment[:, None])[0].movedim(2, 1))
        return SphereClips(frames, saliency, masks, centres, discs.present, discs.texture)

    def views(
        self, count: int, name: str = "train", size: int = 64, field_of_view: float = 90.0
    ) -> tuple[UInt8[Tensor, "{count} 3 {size} {size}"], Int[Tensor, "{count}"]]:
        """Pictures that a camera takes of one disc each, and the number of its texture; classes in turn.

        The disc is anywhere within 25 degrees of the middle, up is north.

        Args:
            count: number of pictures.
            field_of_view: across the picture, in degrees.

        Raises:
            InputError: the split is unknown, a number is below 1, or the field of view is not between 0 and 180.

        Examples:
            >>> images, labels = SphereWorld().views(20, size=32)
            >>> images.shape, TEXTURES[labels[11]]
            (torch.Size([20, 3, 32, 32]), 'stripes')
        """
        for label, number in (("count", count), ("size", size)):
            if number < 1:
                raise InputError(f"{label} must be at least 1, found {number}")
        if not 0 < field_of_view < 180:
            raise InputError(f"field_of_view must lie between 0 and 180, found {field_of_view}")
        generator = self._generator(name, stream=1)
        discs, ground = _Discs.draw((count, 1), generator), _Ground.draw(count, generator)
        labels = torch.arange(count) % len(TEXTURES)
        discs = discs.with_texture(labels[:, None])
        camera = _camera(discs.start[:, 0], _FINER * size, math.radians(field_of_view), generator)
        parts = []
        for part in torch.arange(count).split(16 * _CHUNK):
            images, _ = self._painted(camera[part], discs.of(part), ground.of(part), torch.zeros(1), name)
            parts.append(self._pictures(images, generator)[:, 0])
        return torch.cat(parts), labels

    def write(self, root: str | Path, format: str = "wild360") -> dict[str, int]:
        """Write the clips of train and test in the layout of Wild360, beside `root` first and moved there at once.

        | path | holds |
        |---|---|
        | `train.txt`, `test.txt` | names of the videos, one a line |
        | `data/<split>/<video>.mp4` | the videos, ten frames a second |
        | `Wild360_GT_29/<video>.mp4/<frame>.npy` | of test videos: the true map of every frame, numbered from 00000 |

        Returns:
            Number of videos of both splits.

        Raises:
            InputError: the folder is not empty or cannot be written, the format is unknown, or the height is odd.
        """
        if format not in FORMATS:
            raise unknown("format of world-sphere", format, FORMATS)
        if self.height % 2:
            raise InputError(f"height must be even for a video, found {self.height}")
        counts = {}
        with new_folder(root) as aside:
            for name in ("train", "test"):
                clips = self.split(name)
                _write_wild360(aside, name, clips)
                counts[name] = len(clips.frames)
        return counts

    def _generator(self, name: str, stream: int) -> torch.Generator:
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        return torch.Generator().manual_seed(2 * len(SPLITS) * self.seed + len(SPLITS) * stream + SPLITS.index(name))

    def _render(
        self, discs: "_Discs", ground: "_Ground", moment: Float[Tensor, "time"], name: str, generator: torch.Generator
    ) -> tuple[
        UInt8[Tensor, "clip time 3 height width"],
        Bool[Tensor, "clip time height width"],
        Float[Tensor, "clip time height width"],
    ]:
        """Frames, masks and true maps."""
        around = _around(_FINER * self.height)[None]
        images, covered = self._painted(around, discs, ground, moment, name)
        masks = F.avg_pool2d(covered.float(), _FINER) >= 0.5
        middle, _, _ = discs.frame(moment[:, None])
        angle = torch.einsum("hwc,botc->bothw", _around(self.height), middle).clamp(-1, 1).acos()
        hills = (-(angle**2) / (2 * SALIENCY_WIDTH**2)).exp() * discs.present[:, :, None, None, None]
        return self._pictures(images, generator), masks, hills.amax(dim=1)

    def _painted(
        self,
        directions: Float[Tensor, "#clip height width 3"],
        discs: "_Discs",
        ground: "_Ground",
        moment: Float[Tensor, "time"],
        name: str,
    ) -> tuple[Float[Tensor, "clip time 3 height width"], Bool[Tensor, "clip time height width"]]:
        """What is seen in every direction at every moment, and whether it is a disc."""
        if self.background == "waves":
            seen = ground.waves(directions)
        else:
            seen = _look(self._panoramas[PANORAMAS_OF_SPLIT[name]], ground, directions)
        images = seen[:, None].repeat(1, len(moment), 1, 1, 1)
        covered = torch.zeros_like(images[:, :, 0], dtype=torch.bool)
        for number in range(discs.present.shape[1]):  # one above the other
            covered |= discs.paint(number, images, directions, moment)
        return images, covered

    def _pictures(
        self, images: Float[Tensor, "clip time 3 fine_height fine_width"], generator: torch.Generator
    ) -> UInt8[Tensor, "clip time 3 height width"]:
        coarse = F.avg_pool2d(images.flatten(0, 1), _FINER).unflatten(0, images.shape[:2])
        coarse = coarse + self.noise * torch.randn(coarse.shape, generator=generator)
        return (coarse.clamp(0, 1) * 255).round().to(torch.uint8)

    @cached_property
    def _panoramas(self) -> Float[Tensor, "scene 3 height width"]:
        pictures = panoramas()[0].float() / 255
        # A pixel of the world is the mean of what it shows.
        return F.avg_pool2d(pictures, max(1, pictures.shape[2] // (_FINER * self.height)))


@cache
def panoramas() -> tuple[UInt8[Tensor, "scene 3 height width"], tuple[str, ...]]:
    """The embedded photographs all around, equirectangular, and the names of their places (Poly Haven, CC0 1.0).

    Examples:
        >>> pictures, names = panoramas()
        >>> pictures.shape, names[5]
        (torch.Size([18, 3, 256, 512]), 'forest')
    """
    arrays = read("panoramas")
    starts = [0, *arrays["ends"].tolist()]
    names = tuple(arrays["names"].tolist())
    files = (arrays["jpeg"][start:end].tobytes() for start, end in itertools.pairwise(starts))
    return torch.stack([decode_image(file, name) for file, name in zip(files, names, strict=True)]), names


@dataclass(frozen=True)
class _Discs:
    """Discs, and how they move.

    Attributes:
        start, heading: where each is in the middle of its clip, and where it goes: two unit vectors at right angles.
        speed: radians a frame.
        radius: radians.
        turn: of the texture against the heading, radians.
        frequency, phase: of the texture, about 1; radians.
        colours: of its light and dark parts.
    """

    start: Float[Tensor, "clip object 3"]
    heading: Float[Tensor, "clip object 3"]
    speed: Float[Tensor, "clip object"]
    radius: Float[Tensor, "clip object"]
    turn: Float[Tensor, "clip object"]
    texture: Int[Tensor, "clip object"]
    frequency: Float[Tensor, "clip object"]
    phase: Float[Tensor, "clip object"]
    colours: Float[Tensor, "clip object 2 3"]
    present: Bool[Tensor, "clip object"]

    @classmethod
    def draw(cls, shape: tuple[int, int], generator: torch.Generator) -> "_Discs":
        def draw(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(shape, generator=generator)

        latitude = draw(math.radians(-70), math.radians(70))
        longitude, course = draw(0.0, 2 * math.pi), draw(0.0, 2 * math.pi)
        start = _directions(latitude, longitude)
        east, north = _tangents(start)
        present = torch.rand(shape, generator=generator) < 0.5
        present[:, 0] = True
        hue = draw(0.0, 1.0).flatten()
        light = rgb(hue, draw(0.4, 0.9).flatten(), draw(0.8, 1.0).flatten())
        dark = rgb(hue + draw(0.3, 0.7).flatten(), draw(0.4, 0.9).flatten(), draw(0.1, 0.4).flatten())
        return cls(
            start=start,
            heading=course.cos()[..., None] * east + course.sin()[..., None] * north,
            speed=draw(math.radians(2), math.radians(6)),
            radius=draw(math.radians(10), math.radians(15)),
            turn=draw(0.0, 2 * math.pi),
            texture=torch.randint(len(TEXTURES), shape, generator=generator),
            frequency=draw(0.9, 1.1),
            phase=draw(0.0, 2 * math.pi),
            colours=torch.stack([light, dark], dim=1).unflatten(0, shape),
            present=present,
        )

    def of(self, clips: Int[Tensor, "part"]) -> "_Discs":
        return _Discs(**{name: value[clips] for name, value in vars(self).items()})

    def with_texture(self, texture: Int[Tensor, "clip object"]) -> "_Discs":
        return _Discs(**{**vars(self), "texture": texture})

    def frame(
        self, moment: Float[Tensor, "time one"]
    ) -> tuple[Directions, Directions, Float[Tensor, "clip object one 3"]]:
        """Middle, heading and left side of every disc (clip, object) at every moment."""
        angle = self.speed[:, :, None, None] * moment
        start, heading = self.start[:, :, None], self.heading[:, :, None]
        middle = angle.cos() * start + angle.sin() * heading
        return middle, angle.cos() * heading - angle.sin() * start, torch.linalg.cross(start, heading)

    def paint(
        self,
        number: int,
        images: Float[Tensor, "clip time 3 height width"],
        directions: Float[Tensor, "#clip height width 3"],
        moment: Float[Tensor, "time"],
    ) -> Bool[Tensor, "clip time height width"]:
        """Paint one disc of every clip into the pictures, and tell where it is."""
        middle, ahead, left = (each[:, number].expand(-1, len(moment), -1) for each in self.frame(moment[:, None]))
        directions = directions.expand(len(images), -1, -1, -1)
        depth = torch.einsum("bhwc,btc->bthw", directions, middle)
        inside = (depth > self.radius[:, number].cos().view(-1, 1, 1, 1)) & self.present[:, number].view(-1, 1, 1, 1)
        # Discs are small: what they look like is computed where they are.
        clip, time, row, column = inside.nonzero(as_tuple=True)
        seen = directions[clip, row, column]
        reach = depth[inside] * self.radius[clip, number].tan()
        along, aside = ((seen * axis[clip, time]).sum(dim=-1) / reach for axis in (ahead, left))
        turn, frequency, phase = (each[clip, number] for each in (self.turn, self.frequency, self.phase))
        u, v = turn.cos() * along + turn.sin() * aside, turn.cos() * aside - turn.sin() * along
        light, dark = self.colours[clip, number].unbind(1)
        is_light = _is_light(u, v, self.texture[clip, number], frequency, phase)
        images[clip, time, :, row, column] = torch.where(is_light[:, None], light, dark)
        return inside


def _is_light(
    u: Float[Tensor, "pixel"],
    v: Float[Tensor, "pixel"],
    texture: Int[Tensor, "pixel"],
    frequency: Float[Tensor, "pixel"],
    phase: Float[Tensor, "pixel"],
) -> Bool[Tensor, "pixel"]:
    """Whether the texture is light there, in coordinates in which the disc has the radius 1."""
    radius, angle = torch.hypot(u, v), torch.atan2(v, u)
    across, along = torch.sin(5 * frequency * u + phase), torch.sin(5 * frequency * v + phase)
    fine_across, fine_along = torch.sin(10 * frequency * u + phase), torch.sin(10 * frequency * v + phase)
    every = torch.stack(
        [
            torch.ones_like(u),
            across,
            fine_across,
            across * along,
            fine_across * fine_along,
            torch.sin(9 * frequency * radius),
            torch.sin(4 * angle + phase),
            fine_across + fine_along - 0.8,
            0.28 - torch.minimum(u.abs(), v.abs()),
            radius - 0.45,
        ]
    )
    return every[texture, torch.arange(len(texture))] > 0


@dataclass(frozen=True)
class _Ground:
    """What is behind the discs of a clip.

    Attributes:
        vectors, phases, gains: of waves through the sphere; a vector's length is the wave's rate around a great circle.
        colour: their mean.
        scene, yaw: share of the way through the list of panoramas, and how far to the east it is turned.
    """

    vectors: Float[Tensor, "clip wave 3"]
    phases: Float[Tensor, "clip wave"]
    gains: Float[Tensor, "clip wave 3"]
    colour: Float[Tensor, "clip 3"]
    scene: Float[Tensor, "clip"]
    yaw: Float[Tensor, "clip"]

    @classmethod
    def draw(cls, count: int, generator: torch.Generator, number: int = 6) -> "_Ground":
        vectors = F.normalize(torch.randn(count, number, 3, generator=generator), dim=-1)
        rates = 1 + 5 * torch.rand(count, number, 1, generator=generator)
        return cls(
            vectors=vectors * rates,
            phases=2 * math.pi * torch.rand(count, number, generator=generator),
            gains=0.06 * torch.randn(count, number, 3, generator=generator),
            colour=0.3 + 0.4 * torch.rand(count, 3, generator=generator),
            scene=torch.rand(count, generator=generator),
            yaw=2 * math.pi * torch.rand(count, generator=generator),
        )

    def of(self, clips: Int[Tensor, "part"]) -> "_Ground":
        return _Ground(**{name: value[clips] for name, value in vars(self).items()})

    def waves(self, directions: Float[Tensor, "#clip height width 3"]) -> Float[Tensor, "clip 3 height width"]:
        directions = directions.expand(len(self.colour), -1, -1, -1)
        waves = torch.sin(torch.einsum("bhwc,bnc->bnhw", directions, self.vectors) + self.phases[:, :, None, None])
        return self.colour[:, :, None, None] + torch.einsum("bnhw,bnc->bchw", waves, self.gains)


def _look(
    scenes: Float[Tensor, "scene 3 rows columns"], ground: _Ground, directions: Float[Tensor, "#clip height width 3"]
) -> Float[Tensor, "clip 3 height width"]:
    """Panoramas in the given directions, bilinear, without a seam."""
    places = _places(directions)
    latitude, longitude = places[..., 0], places[..., 1] + ground.yaw[:, None, None]
    columns = scenes.shape[3]
    across = longitude.remainder(2 * math.pi) / math.pi * columns / 2  # pixels from the left edge
    # One column more on either side, so that reads across the edge find their neighbour.
    grid = torch.stack([(across + 1) / (columns + 2) * 2 - 1, (-2 / math.pi * latitude).expand_as(across)], dim=-1)
    chosen = scenes[(ground.scene * len(scenes)).long()]
    padded = torch.cat([chosen[..., -1:], chosen, chosen[..., :1]], dim=-1)
    return F.grid_sample(padded, grid, padding_mode="border", align_corners=False)


def _around(height: int) -> Float[Tensor, "{height} {2*height} 3"]:
    """Where every pixel of an equirectangular picture looks, at its middle."""
    latitude = math.pi / 2 - (torch.arange(height) + 0.5) * math.pi / height
    longitude = (torch.arange(2 * height) + 0.5) * math.pi / height
    return _directions(*torch.meshgrid(latitude, longitude, indexing="ij"))


def _camera(
    target: Float[Tensor, "view 3"], size: int, field_of_view: float, generator: torch.Generator
) -> Float[Tensor, "view {size} {size} 3"]:
    """Where every pixel of a camera looks that has the target within 25 degrees of its middle, and north above."""
    angle, far = torch.rand(2, len(target), 1, generator=generator)
    angle, far = 2 * math.pi * angle, math.radians(25) * far.sqrt()
    east, north = _tangents(target)
    ahead = far.cos() * target + far.sin() * (angle.cos() * east + angle.sin() * north)
    right, up = (each[:, None, None] for each in _tangents(ahead))
    axis = ((torch.arange(size) + 0.5) * 2 / size - 1) * math.tan(field_of_view / 2)
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return F.normalize(ahead[:, None, None] + x[..., None] * right + y[..., None] * up, dim=-1)


def _directions(latitude: Float[Tensor, "*place"], longitude: Float[Tensor, "*place"]) -> Directions:
    """Unit vectors: x to longitude 0, y to longitude 90 degrees, z to the north pole."""
    return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=-1)


def _places(directions: Directions) -> Float[Tensor, "*place 2"]:
    """Latitude and longitude, the latter from 0 to 2 pi."""
    x, y, z = directions.unbind(-1)
    return torch.stack([torch.atan2(z, torch.hypot(x, y)), torch.atan2(y, x).remainder(2 * math.pi)], dim=-1)


def _tangents(directions: Directions) -> tuple[Directions, Directions]:
    """East and north of a place."""
    x, y, z = directions.unbind(-1)
    east = F.normalize(torch.stack([-y, x, torch.zeros_like(z)], dim=-1), dim=-1)
    return east, torch.linalg.cross(directions, east)


def _write_wild360(root: Path, split: str, clips: SphereClips) -> None:
    names = [f"{split}_{number:04d}" for number in range(len(clips.frames))]
    (root / "data" / split).mkdir(parents=True)
    pictures = rearrange(clips.frames, "clip time c h w -> clip time h w c").numpy()
    # One file after the other: videos cannot be encoded in batches.
    for name, frames, maps in zip(names, pictures, clips.saliency.numpy(), strict=True):
        write_video(root / "data" / split / f"{name}.mp4", frames, fps=10)
        if split == "test":
            folder = root / "Wild360_GT_29" / f"{name}.mp4"
            folder.mkdir(parents=True)
            for number, map in enumerate(maps):
                np.save(folder / f"{number:05d}.npy", map)
    (root / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
