"""`world-phantoms`: organs in fat, and stations, regions of the fat that only the organs around them define.

Every phantom has two or three anchors that are plain to see; as many organs fainter than the noise, each at a fixed
offset of an anchor, give or take; and distractors, plain to see, anywhere. A station is a part of a ring around an
organ, on one side of planes through the middles of organs. It holds fat and nothing else, so that its own voxels do not
tell of it.

There are two kinds, slices with ellipses and volumes with ellipsoids and tubes. The organs that a station is defined
by, and these alone, are `defining`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ommatid.data.new_folder import new_folder
from ommatid.data.volume_files import write_nifti
from ommatid.errors import InputError, unknown

SPLITS = ("train", "val", "test")
FORMATS = ("nnunet",)
FAT, FAINT = 0.25, 0.03
"""Intensity of fat, and by how much organs that are hard to see are brighter."""
LOWEST, WIDTH = -160.0, 400.0
"""HU of the intensities 0 and (with the width) 1, in files."""
TURN, SWELL, LEAN = 0.5, 0.12, 0.1
"""Largest turn of an organ (radians), spread of its radii (a share), and lean of tubes."""
_CHUNK = 20


class _Organ(NamedTuple):
    """How one organ is drawn, in voxels of a phantom of the usual size.

    Attributes:
        radii: half axes; infinite along z for a tube.
        brightness: intensity.
        base: number of the organ that `centre` is an offset from; 0 for a place of its own.
        centre: its middle.
        spread: by how much the middle is moved at most, along every axis; None for anywhere.
    """

    name: str
    radii: tuple[float, ...]
    brightness: float
    base: int
    centre: tuple[float, ...]
    spread: float | None


class _Station(NamedTuple):
    """A part of a ring.

    Attributes:
        organ: number of the organ that the ring is around.
        sides: axis, 1 or -1, and number of the organ through whose middle the plane goes.
    """

    name: str
    organ: int
    width: float
    sides: tuple[tuple[int, int, int], ...]


class _Plan(NamedTuple):
    size: int
    counts: tuple[int, int, int]
    jitter: float
    organs: tuple[_Organ, ...]
    anchors: tuple[int, ...]
    stations: tuple[_Station, ...]

    @property
    def defining(self) -> tuple[int, ...]:
        """Numbers of the organs that stations are defined by."""
        return tuple(
            sorted({organ for each in self.stations for organ in (each.organ, *(o for _, _, o in each.sides))})
        )


_TUBE = math.inf
_PLANS = {
    2: _Plan(
        48,
        (120, 20, 60),
        2.0,
        (
            _Organ("anchor 1", (6.0, 5.0), 0.7, 0, (17.0, 17.0), 14.0),
            _Organ("anchor 2", (7.5, 4.5), 0.8, 0, (31.0, 31.0), 14.0),
            _Organ("faint 1", (6.5, 5.0), FAT + FAINT, 1, (2.0, 12.0), None),
            _Organ("faint 2", (5.5, 5.0), FAT + FAINT, 2, (-2.0, -12.0), None),
            _Organ("distractor 1", (3.0, 2.5), 0.5, 0, (), None),
            _Organ("distractor 2", (4.5, 1.5), 0.6, 0, (), None),
            _Organ("distractor 3", (2.5, 2.5), 0.95, 0, (), None),
            _Organ("distractor 4", (4.0, 2.0), 0.9, 0, (), None),
        ),
        (1, 2),
        (
            _Station("upper 1", 3, 5.0, ((1, 1, 3),)),
            _Station("lower right 1", 3, 5.0, ((1, -1, 3), (0, 1, 1))),
            _Station("left 2", 4, 5.0, ((0, -1, 4),)),
            _Station("upper 2", 2, 4.0, ((1, 1, 2),)),
        ),
    ),
    3: _Plan(
        32,
        (60, 10, 20),
        1.5,
        (
            _Organ("tube", (3.0, 3.0, _TUBE), 0.8, 0, (9.5, 21.0, 12.0), 2.0),
            _Organ("upper body", (5.0, 4.0, 4.0), 0.7, 0, (21.5, 21.0, 8.0), 2.0),
            _Organ("lower body", (4.0, 3.0, 5.0), 0.9, 0, (22.5, 8.0, 15.0), 2.0),
            _Organ("faint tube", (2.5, 2.0, _TUBE), FAT + FAINT, 1, (0.0, -11.0, 0.0), None),
            _Organ("faint upper body", (3.0, 3.0, 2.5), FAT + FAINT, 2, (0.0, 0.0, 9.0), None),
            _Organ("faint lower body", (3.0, 2.5, 2.5), FAT + FAINT, 3, (0.0, 0.0, -9.0), None),
            _Organ("distractor 1", (2.5, 2.5, 2.5), 0.5, 0, (), None),
            _Organ("distractor 2", (3.5, 1.8, 1.8), 0.6, 0, (), None),
            _Organ("distractor 3", (1.8, 1.8, 4.0), 0.95, 0, (), None),
        ),
        (1, 2, 3),
        (
            _Station("beside, above", 4, 4.0, ((2, 1, 2),)),
            _Station("right, below", 4, 4.0, ((2, -1, 2), (0, 1, 1))),
            _Station("left of upper", 5, 4.0, ((0, -1, 5),)),
            _Station("before lower", 6, 4.0, ((1, 1, 3),)),
        ),
    ),
}


@dataclass(frozen=True, eq=False)
class Phantoms:
    """The phantoms of one split.

    Attributes:
        images: intensities in [0, 1]; axes are x, y and (of volumes) z.
        labels: station of every voxel, 0 where there is none.
        organs: number of the organ, 0 in fat.
        centres: of every organ, in voxels from the middle of the first one.
    """

    images: Float[Tensor, "phantom *space"]
    labels: UInt8[Tensor, "phantom *space"]
    organs: UInt8[Tensor, "phantom *space"]
    centres: Float[Tensor, "phantom organ axis"]
    spacing: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class PhantomWorld:
    """Organs in fat, with stations between them.

    Attributes:
        dimensions: 2 for slices, 3 for volumes.
        train, val, test: number of phantoms; of slices 120, 20 and 60 where None, of volumes 60, 10 and 20. A smaller
            split is the beginning of a larger one of the same seed.
        size: voxels along x and y; where None 48 of slices and 32 of volumes, which have three quarters as many along
            z. Organs grow with it.
        noise: standard deviation of what is added to every voxel.
        jitter: standard deviation of where a faint organ lies, in voxels of the usual size; where None 2 of slices and
            1.5 of volumes.
        spacing: of voxels in mm; 1 along every axis where None.

    Raises:
        InputError: dimensions are neither 2 nor 3, a number of phantoms is below 1, the size below 16 or no multiple of
            4, noise or jitter negative, or spacing is not one length for each axis.

    Examples:
        >>> world = PhantomWorld(dimensions=3, train=2)
        >>> world.split("train").images.shape, world.anchors, world.defining
        (torch.Size([2, 32, 32, 24]), (1, 2, 3), (1, 2, 3, 4, 5, 6))
    """

    dimensions: int = 2
    train: int | None = None
    val: int | None = None
    test: int | None = None
    size: int | None = None
    noise: float = 0.15
    jitter: float | None = None
    spacing: list[float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dimensions not in _PLANS:
            raise InputError(f"dimensions: found {self.dimensions}, expected 2 or 3")
        for name in SPLITS:
            if self.count(name) < 1:
                raise InputError(f"{name}: found {self.count(name)}, expected at least 1 phantom")
        if self.shape[0] < 16 or self.shape[0] % 4:
            raise InputError(f"size: found {self.shape[0]}, expected a multiple of 4 from 16 on")
        for name, value in (("noise", self.noise), ("jitter", self.jitter)):
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{name}: found {value}, expected a standard deviation from 0 on")
        if self.spacing is not None and (len(self.spacing) != self.dimensions or min(self.spacing) <= 0):
            raise InputError(f"spacing: found {self.spacing}, expected {self.dimensions} lengths above 0, in mm")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the stations."""
        return tuple(each.name for each in self._plan.stations)

    @property
    def organ_names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self._plan.organs)

    @property
    def anchors(self) -> tuple[int, ...]:
        """Numbers of the organs that can be found by how they look, from 1 on."""
        return self._plan.anchors

    @property
    def defining(self) -> tuple[int, ...]:
        """Numbers of the organs that stations are defined by, from 1 on."""
        return self._plan.defining

    @property
    def shape(self) -> tuple[int, ...]:
        size = self.size or self._plan.size
        return (size, size) if self.dimensions == 2 else (size, size, size * 3 // 4)

    def count(self, split: str) -> int:
        """Number of phantoms of a split."""
        given = getattr(self, split)
        return self._plan.counts[SPLITS.index(split)] if given is None else int(given)

    def split(self, name: str) -> Phantoms:
        """All phantoms of a split, "train", "val" or "test".

        Raises:
            InputError: there is no such split.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        generator = torch.Generator().manual_seed(len(SPLITS) * self.seed + SPLITS.index(name))
        # Always whole chunks, so that a smaller split is the beginning of a larger one.
        chunks = [self._drawn(generator) for _ in range(math.ceil(self.count(name) / _CHUNK))]
        images, labels, organs, centres = (torch.cat(each)[: self.count(name)] for each in zip(*chunks, strict=True))
        return Phantoms(images, labels, organs, centres, tuple(self.spacing or (1.0,) * self.dimensions))

    def write(self, root: str | Path, format: str = "nnunet") -> dict[str, int]:
        """Write all splits as raw data of nnU-Net, in HU from -160 for the intensity 0 to 240 for 1.

        Slices become volumes with one voxel along z. Training and validation phantoms are fold 0 of
        `splits_final.json`; test phantoms lie in `imagesTs`, `labelsTs` and `organsTs`.

        Returns:
            Number of phantoms of every split.

        Raises:
            InputError: the folder is not empty, or the format is unknown.
            MissingDependency: without nibabel.
        """
        if format not in FORMATS:
            raise unknown("format of world-phantoms", format, FORMATS)
        with new_folder(root) as aside:
            cases = {name: _write(aside, name, self.split(name)) for name in SPLITS}
            (aside / "dataset.json").write_text(json.dumps(self._description(len(cases["train"] + cases["val"]))))
            folds = [{name: cases[name] for name in ("train", "val")}]
            (aside / "splits_final.json").write_text(json.dumps(folds))
        return {name: len(each) for name, each in cases.items()}

    @property
    def _plan(self) -> _Plan:
        return _PLANS[self.dimensions]

    def _description(self, training: int) -> dict[str, object]:
        return {
            "channel_names": {"0": "CT"},
            "labels": {name: number for number, name in enumerate(("background", *self.class_names))},
            "organs": {name: number for number, name in enumerate(self.organ_names, start=1)},
            "anchors": [self.organ_names[number - 1] for number in self.anchors],
            "numTraining": training,
            "file_ending": ".nii.gz",
        }

    def _drawn(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One chunk; the order of the draws is what a seed stands for."""
        scale = self.shape[0] / self._plan.size
        centres = self._centres(generator, scale)
        poses = _Poses.draw([each.radii for each in self._plan.organs], scale, generator)
        places = _places(self.shape)
        within = torch.stack(
            [poses.inside(places, centres, number, 0.0) for number in range(len(self._plan.organs))], dim=1
        )
        # What comes first in the plan lies in front.
        first = within.to(torch.uint8).argmax(dim=1)
        organs = torch.where(within.any(dim=1), first + 1, 0)
        labels = torch.zeros_like(organs)
        for number, station in enumerate(self._plan.stations, start=1):  # a handful: where two meet, the first has it
            part = poses.inside(places, centres, station.organ - 1, station.width * scale) & (organs == 0)
            for axis, sign, organ in station.sides:
                middle = centres[:, organ - 1, axis].view(-1, *[1] * self.dimensions)
                part &= sign * (places[axis] - middle) > 0
            labels = torch.where(part & (labels == 0), number, labels)
        brightness = torch.tensor([FAT, *(each.brightness for each in self._plan.organs)])[organs]
        images = brightness + self.noise * torch.randn(brightness.shape, generator=generator)
        return images.clamp(0, 1), labels.to(torch.uint8), organs.to(torch.uint8), centres

    def _centres(self, generator: torch.Generator, scale: float) -> Float[Tensor, "phantom organ axis"]:
        extent = torch.tensor(self.shape) / scale
        jitter = self._plan.jitter if self.jitter is None else self.jitter
        centres: list[Tensor] = []
        for organ in self._plan.organs:  # one after the other: some stand beside earlier ones
            share = torch.rand(_CHUNK, self.dimensions, generator=generator)
            away = torch.randn(_CHUNK, self.dimensions, generator=generator).clamp(-2, 2)
            if organ.base:
                centres.append(centres[organ.base - 1] + torch.tensor(organ.centre) + jitter * away)
            elif organ.spread is None:
                centres.append(3 + share * (extent - 6))
            else:
                centres.append(torch.tensor(organ.centre) + organ.spread * (2 * share - 1))
        return torch.stack(centres, dim=1) * scale - 0.5


class _Poses(NamedTuple):
    """Radii, turn in the plane of x and y, and lean along z of every organ."""

    radii: Float[Tensor, "phantom organ axis"]
    turn: Float[Tensor, "phantom organ"]
    lean: Float[Tensor, "phantom organ 2"]

    @classmethod
    def draw(cls, radii: list[tuple[float, ...]], scale: float, generator: torch.Generator) -> "_Poses":
        usual = torch.tensor(radii) * scale

        def draw(*shape: int) -> Tensor:
            return 2 * torch.rand(_CHUNK, *shape, generator=generator) - 1

        swollen = usual * (1 + SWELL * draw(*usual.shape))
        lean = LEAN * draw(len(usual), 2) * usual.isinf().any(dim=1)[:, None]
        return cls(swollen, TURN * draw(len(usual)), lean)

    def inside(
        self, places: list[Float[Tensor, "..."]], centres: Float[Tensor, "phantom organ axis"], organ: int, wider: float
    ) -> Bool[Tensor, "phantom *space"]:
        """Voxels within an organ whose radii are so many voxels larger."""

        def each(values: Float[Tensor, "phantom"]) -> Tensor:
            return values.view(-1, *[1] * len(places))

        away = [place - each(centres[:, organ, axis]) for axis, place in enumerate(places)]
        x, y, *z = away
        if z:
            x, y = (value - each(self.lean[:, organ, axis]) * z[0] for axis, value in enumerate((x, y)))
        turn = each(self.turn[:, organ])
        along = [turn.cos() * x + turn.sin() * y, turn.cos() * y - turn.sin() * x, *z]
        squares = [(value / each(self.radii[:, organ, axis] + wider)).square() for axis, value in enumerate(along)]
        return sum(squares[1:], squares[0]) < 1


def _places(shape: tuple[int, ...]) -> list[Float[Tensor, "..."]]:
    """Coordinates of voxels along every axis, ready to be broadcast."""
    return list(
        torch.meshgrid(
            *(torch.arange(float(length)) for length in shape),
            indexing="ij",
        )
    )


def _write(root: Path, split: str, phantoms: Phantoms) -> list[str]:
    suffix = "Ts" if split == "test" else "Tr"
    for kind in ("images", "labels", "organs"):
        (root / f"{kind}{suffix}").mkdir(exist_ok=True)
    spacing = (*phantoms.spacing, 1.0)[:3]
    affine = np.diag([*spacing, 1.0])
    cases = []
    for number in range(len(phantoms)):  # a file each
        case = f"{split}_{number:03d}"
        # int16, as scanners write.
        hounsfield = (phantoms.images[number] * WIDTH + LOWEST).round().to(torch.int16)
        for kind, data, channel in (
            ("images", hounsfield, "_0000"),
            ("labels", phantoms.labels[number], ""),
            ("organs", phantoms.organs[number], ""),
        ):
            shaped = data.reshape(*data.shape, *[1] * (3 - data.ndim)).numpy()
            write_nifti(root / f"{kind}{suffix}" / f"{case}{channel}.nii.gz", shaped, affine)
        cases.append(case)
    return cases
