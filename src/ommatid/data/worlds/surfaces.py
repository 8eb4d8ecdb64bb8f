"""`world-surfaces`: textured planes seen by a camera, with class, normal and depth of every pixel; rendered, seeded.

A scene is a background plane and three quads before it. Each has one of five textures (its class), a colour, and a
normal of its own; they know nothing of each other. Two tasks lie in it, and each holds a key to the other:

- A texture shrinks in the direction in which its plane turns away. How far it turns can be read from that only by whom
  the texture is known to; and stripes that turn away look like those of a finer texture.
- Light falls from one side, the same in all scenes: how bright a plane is tells which of two ways it turns, up to its
  colour's own brightness.

Outlines of quads are drawn in the image and say nothing of their planes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ommatid.data.images import SPLITS
from ommatid.data.new_folder import new_folder
from ommatid.data.nyu import LISTS, write_nyu
from ommatid.data.surface_samples import Camera, SurfaceSample
from ommatid.errors import InputError, MissingDependency, unknown

CLASSES = ("wide stripes", "narrow stripes", "checks", "dots", "grid")
LIGHT = (-0.6, 0.5, 0.62)
"""From where light falls: x to the right, y up, z to the viewer."""
FORMATS = ("nyu", "nyu-mat")
QUADS = 3
# Always whole chunks are drawn, so that a smaller world is the beginning of a larger one.
_CHUNK = 32
_FINER = 3
"""Points of a pixel in each direction, of which the mean is its colour."""


@dataclass(frozen=True, eq=False)
class SurfaceScenes:
    """Scenes of one split.

    Attributes:
        classes: of the texture of every pixel's plane, as in `CLASSES`.
        normals: unit vectors, x to the right, y up, z to the viewer.
        depth: in metres, along the camera's axis.
    """

    images: UInt8[Tensor, "scene 3 height width"]
    classes: UInt8[Tensor, "scene height width"]
    normals: Float[Tensor, "scene 3 height width"]
    depth: Float[Tensor, "scene 1 height width"]
    class_names: tuple[str, ...] = CLASSES

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int) -> SurfaceSample:
        """A scene as the readers of files give it."""
        return SurfaceSample(
            self.images[index].float() / 255,
            self.classes[index].long(),
            self.normals[index],
            self.depth[index],
            f"{index:05d}",
        )


@dataclass(frozen=True)
class SurfaceWorld:
    """Scenes of a background plane and three quads.

    Attributes:
        train, val, test: number of scenes. A smaller split is the beginning of a larger one of the same seed.
        size: height and width in pixels; textures have the same number of pixels at every size.
        least_tilt, most_tilt: between a normal and the camera's axis, in degrees.
        noise: standard deviation of what is added to every pixel, whose values lie in [0, 1].

    Raises:
        InputError: a number of scenes is below 1, the size below 8, tilts are no range within 0 to 65, or the noise is
            negative.

    Examples:
        >>> scenes = SurfaceWorld(train=4).split("train")
        >>> scenes.images.shape, scenes.classes.shape, scenes.normals.shape, scenes.depth.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 32, 32]), torch.Size([4, 3, 32, 32]), torch.Size([4, 1, 32, 32]))
    """

    train: int = 800
    val: int = 100
    test: int = 300
    size: int = 32
    least_tilt: float = 15.0
    most_tilt: float = 60.0
    noise: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        for name in SPLITS:
            if getattr(self, name) < 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected at least 1 scene")
        if self.size < 8:
            raise InputError(f"size: found {self.size}, expected at least 8 pixels")
        if not 0 <= self.least_tilt <= self.most_tilt <= 65:
            raise InputError(
                f"least_tilt and most_tilt: found {self.least_tilt:g} and {self.most_tilt:g}, expected a range within "
                "0 to 65 degrees"
            )
        if not 0 <= self.noise < math.inf:
            raise InputError(f"noise: found {self.noise}, expected a standard deviation from 0 on")

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASSES

    @property
    def camera(self) -> Camera:
        """What the scenes are seen with; narrow enough that no plane is seen from behind."""
        return Camera(2.0 * self.size, 2.0 * self.size, (self.size - 1) / 2, (self.size - 1) / 2)

    def split(self, name: str) -> SurfaceScenes:
        """All scenes of a split, "train", "val" or "test".

        Raises:
            InputError: there is no such split.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        count = getattr(self, name)
        generator = torch.Generator().manual_seed(len(SPLITS) * self.seed + SPLITS.index(name))
        chunks = [self._render(generator) for _ in range(math.ceil(count / _CHUNK))]
        parts = zip(*((each.images, each.classes, each.normals, each.depth) for each in chunks), strict=True)
        images, classes, normals, depth = (torch.cat(part)[:count] for part in parts)
        return SurfaceScenes(images, classes, normals, depth)

    def write(self, root: str | Path, format: str = "nyu") -> dict[str, int]:
        """Write training and test scenes as the files of NYUv2, which has no part for validation.

        "nyu" is the layout of the NDDR-CNN release; "nyu-mat" that of the official files, without normals, with
        `camera.txt` beside them. See `ommatid.data.nyu`.

        Returns:
            Number of scenes of every split that was written.

        Raises:
            InputError: the folder is not empty, or the format is neither of the two.
            MissingDependency: the format "nyu-mat" without h5py installed.
        """
        if format not in FORMATS:
            raise unknown("format of world-surfaces", format, FORMATS)
        scenes = {name: self.split(name) for name in LISTS}
        with new_folder(root) as aside:
            if format == "nyu":
                for name, each in scenes.items():
                    write_nyu(aside, name, _samples(name, each), CLASSES)
            else:
                _write_mat(aside, scenes, self.camera)
        return {name: len(each) for name, each in scenes.items()}

    def _render(self, generator: torch.Generator) -> SurfaceScenes:
        """One chunk of scenes; the order of the draws is what a seed stands for."""
        planes = _Planes.draw(self.least_tilt, self.most_tilt, generator)
        finer = self.size * _FINER
        focal, middle = 2.0 * finer, (finer - 1) / 2
        colours, *_ = planes.seen(Camera(focal, focal, middle, middle).rays(finer, finer), self.size)
        images = reduce(colours, "n c (h i) (w j) -> n c h w", "mean", i=_FINER, j=_FINER)
        images = images + self.noise * torch.randn(images.shape, generator=generator)
        _, classes, normals, depth = planes.seen(self.camera.rays(self.size, self.size), self.size)
        return SurfaceScenes(
            (images.clamp(0, 1) * 255).round().to(torch.uint8), classes.to(torch.uint8), normals, depth[:, None]
        )


@dataclass(frozen=True, eq=False)
class _Planes:
    """The background, first, and the quads of every scene.

    Attributes:
        normals: x to the right, y up, z to the viewer.
        centres: the point in front of which a plane's texture begins, and the middle of a quad; across and down, from
            -1 to 1 between the borders of the image.
        depth: of that point.
        corners: of quads, in turn, in the same unit.
        turn: of the texture in its plane.
        phase: of the texture, in its own periods.
        dark: what the dark parts of the texture leave of the colour.
    """

    classes: Int[Tensor, "scene plane"]
    normals: Float[Tensor, "scene plane 3"]
    centres: Float[Tensor, "scene plane 2"]
    depth: Float[Tensor, "scene plane"]
    corners: Float[Tensor, "scene quad 4 2"]
    turn: Float[Tensor, "scene plane"]
    phase: Float[Tensor, "scene plane 2"]
    colours: Float[Tensor, "scene plane 3"]
    dark: Float[Tensor, "scene plane"]

    @classmethod
    def draw(cls, least_tilt: float, most_tilt: float, generator: torch.Generator) -> "_Planes":
        def draw(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(_CHUNK, *shape, generator=generator)

        planes = QUADS + 1
        classes = torch.randint(len(CLASSES), (_CHUNK, planes), generator=generator)
        tilt, towards = torch.deg2rad(draw(least_tilt, most_tilt, planes)), draw(0.0, 2 * math.pi, planes)
        normals = torch.stack([tilt.sin() * towards.cos(), tilt.sin() * towards.sin(), tilt.cos()], dim=-1)
        # Quads stand around the middle, so that each is seen.
        third = draw(0.0, 2 * math.pi, 1) + torch.arange(QUADS) * 2 * math.pi / QUADS + draw(-0.3, 0.3, QUADS)
        middles = draw(0.45, 0.65, QUADS, 1) * torch.stack([third.cos(), third.sin()], dim=-1)
        centres = torch.cat([torch.zeros(_CHUNK, 1, 2), middles], dim=1)
        # A quad's depth varies by up to a half: these are so far apart that no plane reaches through another.
        depth = draw(1.0, 1.15, planes) * torch.tensor([11.0, 4.8, 2.2, 1.0])
        quads = centres[:, 1:, None] + _quads(
            draw(0.0, 2 * math.pi, QUADS, 1), draw(-0.35, 0.35, QUADS, 4), draw(0.45, 0.75, QUADS, 2)
        )
        # Hues tell planes apart, and leave brightness to the light.
        hue = draw(0.0, 2 * math.pi, planes, 1) + torch.arange(3) * 2 * math.pi / 3
        colours = draw(0.7, 0.85, planes, 1) * (1 + 0.3 * hue.cos())
        return cls(
            classes,
            normals,
            centres,
            depth,
            quads,
            draw(0.0, 2 * math.pi, planes),
            draw(0.0, 1.0, planes, 2),
            colours,
            draw(0.15, 0.35, planes),
        )

    def seen(
        self, rays: Float[Tensor, "3 height width"], size: int
    ) -> tuple[
        Float[Tensor, "scene 3 height width"],
        Int[Tensor, "scene height width"],
        Float[Tensor, "scene 3 height width"],
        Float[Tensor, "scene height width"],
    ]:
        """Colour, class, normal and depth of the plane that is nearest where each ray goes.

        Args:
            size: pixels from border to border, of which textures have a number.
        """
        # In the camera's own axes: x to the right, y down, z ahead.
        across = self.normals * torch.tensor([1.0, -1.0, -1.0])
        anchor = torch.cat([self.centres / 4, torch.ones_like(self.depth)[..., None]], dim=-1)
        offset = self.depth * (across * anchor).sum(dim=-1)
        depth = offset[..., None, None] / torch.einsum("npc,chw->nphw", across, rays)
        there = self._inside(4 * rays[:2])
        nearest = depth.where(there, math.inf).argmin(dim=1, keepdim=True)

        def of_nearest(values: Tensor) -> Tensor:
            return values.gather(1, nearest)[:, 0]

        depth = of_nearest(depth)
        plane = nearest[:, 0]
        scene = torch.arange(len(plane))[:, None, None]
        normals = rearrange(self.normals[scene, plane], "n h w c -> n c h w")
        classes = self.classes[scene, plane]
        texture = self._texture(depth[..., None] * rays.permute(1, 2, 0), scene, plane, size)
        light = 0.35 + 0.65 * torch.einsum("nchw,c->nhw", normals, F.normalize(torch.tensor(LIGHT), dim=0)).clamp(min=0)
        gain = light * torch.lerp(self.dark[scene, plane], torch.ones(()), texture)
        colours = rearrange(self.colours[scene, plane], "n h w c -> n c h w") * gain[:, None]
        return colours, classes, normals, depth

    def _inside(self, places: Float[Tensor, "2 height width"]) -> Bool[Tensor, "scene plane height width"]:
        """Which planes are where; the background is everywhere."""
        start = self.corners
        edge = start.roll(-1, dims=2) - start
        x, y = places
        left = edge[..., 0, None, None] * (y - start[..., 1, None, None])
        right = edge[..., 1, None, None] * (x - start[..., 0, None, None])
        quads = (left >= right).all(dim=2)
        return torch.cat([torch.ones_like(quads[:, :1]), quads], dim=1)

    def _texture(
        self,
        points: Float[Tensor, "scene height width 3"],
        scene: Int[Tensor, "scene 1 1"],
        plane: Int[Tensor, "scene height width"],
        size: int,
    ) -> Float[Tensor, "scene height width"]:
        """Brightness of the texture at points of planes, from 0 to 1."""
        across = self.normals * torch.tensor([1.0, -1.0, -1.0])
        # Two directions in the plane at a right angle, turned by chance.
        helper = torch.stack([self.turn.cos(), self.turn.sin(), torch.zeros_like(self.turn)], dim=-1)
        first = F.normalize(helper - (helper * across).sum(dim=-1, keepdim=True) * across, dim=-1)
        second = torch.linalg.cross(across, first)
        anchor = self.depth[..., None] * torch.cat([self.centres / 4, torch.ones_like(self.depth)[..., None]], dim=-1)
        away = points - anchor[scene, plane]
        # In pixels as they would be if the plane faced the camera at this depth.
        unit = 2.0 * size / self.depth[scene, plane]
        u = (away * first[scene, plane]).sum(dim=-1) * unit
        v = (away * second[scene, plane]).sum(dim=-1) * unit
        phase = self.phase[scene, plane]
        bright = _brightness(u, v, phase[..., 0], phase[..., 1])
        return bright.gather(-1, self.classes[scene, plane][..., None])[..., 0].float()


def _quads(
    turn: Float[Tensor, "scene quad 1"],
    jitter: Float[Tensor, "scene quad 4"],
    extent: Float[Tensor, "scene quad 2"],
) -> Float[Tensor, "scene quad 4 2"]:
    """Corners on an ellipse, so that quads are convex."""
    around = torch.arange(4) * math.pi / 2 + math.pi / 4 + jitter
    x, y = extent[..., :1] * around.cos(), extent[..., 1:] * around.sin()
    return torch.stack([turn.cos() * x - turn.sin() * y, turn.sin() * x + turn.cos() * y], dim=-1)


def _brightness(u: Tensor, v: Tensor, start: Tensor, other: Tensor) -> Bool[Tensor, "*point 5"]:
    """Whether places of a plane, in pixels, are bright in each texture, in the order of `CLASSES`."""

    def within(place: Tensor, period: float, phase: Tensor) -> Tensor:
        """Where in its period a place is, from 0 to 1."""
        return (place / period + phase).frac().add_(1).frac_()

    first, second = within(u, 8.0, start) < 0.5, within(v, 8.0, other) < 0.5
    # Distances from the middle of a cell, in periods.
    across, along = (within(place, 6.0, phase).sub_(0.5).abs_() for place, phase in ((u, start), (v, other)))
    return torch.stack(
        [
            first,
            within(u, 4.5, start) < 0.5,
            first == second,
            across.square() + along.square() > 0.33**2,
            torch.maximum(across, along) < 0.36,
        ],
        dim=-1,
    )


def _samples(split: str, scenes: SurfaceScenes) -> Iterator[SurfaceSample]:
    for index in range(len(scenes)):  # one file after the other: PNG cannot be batched
        sample = scenes.sample(index)
        yield SurfaceSample(sample.image, sample.semantic, sample.normals, None, f"{split}_{sample.id}")


def _write_mat(root: Path, scenes: dict[str, SurfaceScenes], camera: Camera) -> None:
    """The official files: training scenes first, labels from 1 on, axes reversed as MATLAB's are in HDF5."""
    from scipy.io import savemat

    try:
        import h5py
    except ImportError as error:
        raise MissingDependency("format='nyu-mat' needs h5py: pip install 'ommatid[video]'") from error

    def reversed_axes(name: str) -> np.ndarray:
        return torch.cat([getattr(each, name) for each in scenes.values()]).transpose(-1, -2).contiguous().numpy()

    labels = reversed_axes("classes").astype(np.uint16) + 1
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        arrays = {"images": reversed_axes("images"), "depths": reversed_axes("depth")[:, 0], "labels": labels}
        for name, array in (*arrays.items(), ("instances", np.ones_like(labels, dtype=np.uint8))):
            file.create_dataset(name, data=array, track_times=False)
    numbers = np.arange(1, 1 + len(labels))[:, None]
    train = len(scenes["train"])
    savemat(root / "splits.mat", {"trainNdxs": numbers[:train], "testNdxs": numbers[train:]})
    names = np.array(CLASSES, dtype=object)[None]
    savemat(root / "classMapping40.mat", {"mapClass": np.arange(1, 1 + len(CLASSES))[None], "className": names})
    text = f"{camera.fx} {camera.fy} {camera.cx} {camera.cy}\n"
    (root / "camera.txt").write_text(text, encoding="utf-8")
