"""Volumes with stations and organs: the embedded phantoms, a real CT, or your own in the layout of nnU-Net."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ommatid.data.ct import ct_slabs
from ommatid.data.volume_files import Layout, Volume
from ommatid.data.volumes import LabelledVolume, VolumesInMemory, detect_volume_format, open_volumes, volume_splits
from ommatid.data.worlds.phantoms import LOWEST, WIDTH, PhantomWorld
from ommatid.dense.data import held_out
from ommatid.dense.volume_augment import VolumeSample
from ommatid.dense.volume_metrics import VolumeScores, volume_scores
from ommatid.dense.volume_task import VolumeBatch
from ommatid.dense.volume_views import Cases, VolumeSet, volume_batch
from ommatid.engine.data import DataModule
from ommatid.engine.settings import build
from ommatid.errors import InputError, unknown

SOFT_TISSUE = (-160.0, 240.0)
"""In HU."""
HELD_OUT = 5
"""Every so many training cases are for validation, where there is no test part and the fold's is tested."""


class VolumeData(DataModule):
    """Volumes, or slices, with the class and the organ of every voxel.

    Args:
        root: folder of the data set; the embedded data where None.
        format: see "Volumes" in the documentation, or "auto", which looks at the files.
        fold: entry of `splits_final.json`. Its validation cases are tested where there is no test part; then every
            fifth training case is for validation.
        embedded: "world-phantoms", or "ct", slabs of one real CT whose organs another network has found.
        world: settings of the world.
        spacing: mm between voxels that volumes are resampled to, along x, y, z (of slices along their two axes); as
            they are where None.
        patch: voxels along each axis of the parts that are trained with; whole volumes where None.
        window: HU, or intensities of another scanner, that are shown as 0 and as 1; -160 and 240, soft tissue of a CT,
            where None.
        augment: "affine" turns and scales training volumes, adds noise, and changes their gamma; nothing is mirrored.
        anchors: names of the organs that are found first; those that the data name where None.
    """

    dividing = ("seed", "fold")

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        fold: int = 0,
        embedded: Literal["world-phantoms", "ct"] = "world-phantoms",
        world: Mapping[str, Any] | None = None,
        spacing: list[float] | None = None,
        patch: list[int] | None = None,
        window: list[float] | None = None,
        augment: Literal["none", "affine"] = "none",
        anchors: list[str] | None = None,
        batch_size: int = 2,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        if spacing is not None and (not spacing or min(spacing) <= 0):
            raise InputError(f"spacing: found {spacing}, expected lengths above 0, in mm")
        if patch is not None and (not patch or min(patch) < 1):
            raise InputError(f"patch: found {patch}, expected numbers of voxels from 1 on")
        if window is not None and (len(window) != 2 or not window[0] < window[1]):
            raise InputError(f"window: found {window}, expected a lower and a higher HU")
        if augment not in ("none", "affine"):
            raise unknown("augment", augment, ("none", "affine"))
        if embedded not in EMBEDDED:
            raise unknown("embedded data set", embedded, EMBEDDED)
        self.root, self.format, self.fold, self.embedded, self._world = root, format, fold, embedded, dict(world or {})
        self.spacing, self.patch, self._window, self.augment, self.anchors = spacing, patch, window, augment, anchors

    @cached_property
    def sets(self) -> dict[str, Cases]:
        """train, val and test."""
        if self.root is not None:
            return read_cases(self.root, self.format, self.fold)
        world = {"seed": self.seed, **self._world} if self.embedded == "world-phantoms" else self._world
        return {split: EMBEDDED[self.embedded](world, split) for split in self.splits}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classes 1, 2, ...: the stations, without background."""
        return self.sets["train"].class_names

    @property
    def organ_names(self) -> tuple[str, ...]:
        """Of the organs 1, 2, ...; none where there are no organ maps."""
        return self.sets["train"].organ_names

    @property
    def window(self) -> list[float]:
        """Intensities that are shown as 0 and as 1.

        Raises:
            InputError: none were given, and the files say that they are no CT.
        """
        if self._window is not None:
            return self._window
        channel = self.sets["train"].channel
        if "ct" not in re.split("[^a-z]+", channel.lower()):
            raise InputError(
                f"window: found none for volumes of {channel!r} in {self.root}, expected the two of their intensities "
                "that are shown as 0 and as 1"
            )
        return list(SOFT_TISSUE)

    @property
    def anchor_numbers(self) -> tuple[int, ...]:
        """Numbers of the organs that are found first, from 1 on.

        Raises:
            InputError: one of the names is no organ.
        """
        names = self.sets["train"].anchors if self.anchors is None else tuple(self.anchors)
        for name in names:
            if name not in self.organ_names:
                raise unknown("organ", name, self.organ_names)
        return tuple(sorted(self.organ_names.index(name) + 1 for name in names))

    @property
    def defining(self) -> tuple[int, ...]:
        """Numbers of the organs that define the classes, where the world knows them; else none."""
        if self.root is not None or self.embedded != "world-phantoms":
            return ()
        return build(PhantomWorld, self._world).defining

    @cached_property
    def layouts(self) -> dict[str, list[Layout]]:
        """The grids of all volumes of every split; each header is read once."""
        return {split: [cases.layout(number) for number in range(len(cases))] for split, cases in self.sets.items()}

    @cached_property
    def dimensions(self) -> int:
        """2 where all volumes have one slice, else 3.

        Raises:
            InputError: some are slices, others are not, or a volume has one voxel along several axes.
        """
        found = {}
        for split, cases in self.sets.items():
            for case, layout in zip(cases.cases, self.layouts[split], strict=True):
                single = sum(length == 1 for length in layout.shape)
                if single > 1:
                    raise InputError(f"{case}: found {single} axes of one voxel, expected a volume or a slice")
                found[3 - single] = case
        if len(found) > 1:
            raise InputError(f"{found[2]}: found a slice, expected a volume of several slices as {found[3]} is")
        return next(iter(found))

    def volumes(self, split: str) -> "VolumeSet":
        """Whole volumes of a split as they are evaluated, always in the same order."""
        return VolumeSet(self.sets[self.check_split(split)], self.spacing, self.window)

    def case_names(self, split: str) -> tuple[str, ...]:
        """Of `volumes`, in their order."""
        return self.sets[self.check_split(split)].cases

    def dataset(self, split: str) -> "VolumeSet":
        if split != "train":
            return self.volumes(split)
        if self.patch is not None and len(self.patch) != self.dimensions:
            raise InputError(f"patch: found {self.patch}, expected {self.dimensions} numbers of voxels")
        return VolumeSet(self.sets[split], self.spacing, self.window, self.patch, self.augment, shown=True)

    def collate(self, samples: Sequence[VolumeSample]) -> VolumeBatch:
        return volume_batch(samples)

    def batch_size_of(self, split: str) -> int:
        """Evaluated one by one where volumes differ in size."""
        return self.batch_size if split == "train" or self.one_size(split) else 1

    def one_size(self, *splits: str) -> bool:
        """Whether all volumes of some splits have the same grid."""
        return len({layout for split in splits for layout in self.layouts[self.check_split(split)]}) == 1

    def use(self, spacing: Sequence[float] | None, window: Sequence[float]) -> None:
        """Show volumes as a trained method expects them."""
        self.spacing, self._window = None if spacing is None else list(spacing), list(window)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """All is background; and, where all volumes have one size, every voxel's most frequent class of training."""
        guesses: dict[str, Tensor | None] = {"all background": None}
        if self.one_size("train", split):
            guesses["most frequent class of each voxel"] = self.volumes("train").usual(len(self.class_names))
        found = {}
        for name, guess in guesses.items():
            scores = VolumeScores()
            for sample in self.volumes(split).each():
                truth = sample.truth[None]
                same = torch.zeros_like(truth) if guess is None else guess[None].expand_as(truth)
                table = volume_scores(same, truth, sample.truth_spacing[None], len(self.class_names))
                scores.update(torch.tensor([sample.index]), table)
            found[name] = scores.compute()
        return found

    def describe(self) -> dict[str, Any]:
        name: str = self.embedded
        if self.root is not None:
            format = detect_volume_format(self.root) if self.format == "auto" else self.format
            name = f"{Path(self.root).name} ({format}, fold {self.fold})"
        return {
            "name": name,
            "volumes": {split: len(each) for split, each in self.sets.items()},
            "dimensions": self.dimensions,
            "classes": len(self.class_names),
            "organs": len(self.organ_names),
            "spacing": self.spacing,
            "patch": self.patch,
        }


def read_cases(root: str, format: str, fold: int) -> dict[str, Cases]:
    """The splits of a data set on disk.

    Raises:
        InputError: the folder is missing, is no data set of the format, or has too few cases.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected volumes with label maps")
    format = detect_volume_format(folder) if format == "auto" else format
    found: dict[str, Cases] = {split: open_volumes(folder, split, format, fold) for split in volume_splits(folder)}
    if "test" not in found:
        found["test"] = found["val"]
        found["train"], found["val"] = held_out(found["train"], every=HELD_OUT)
    organs = {split: bool(each.organ_names) for split, each in found.items()}
    if len(set(organs.values())) > 1:
        lacking = next(split for split, there in organs.items() if not there)
        raise InputError(f"{folder}: found no organ maps for {lacking}, expected them as for the other splits")
    return found


def _phantoms(settings: Mapping[str, Any], split: str) -> VolumesInMemory:
    world = build(PhantomWorld, settings)
    phantoms = world.split(split)
    shape, spacing = (*world.shape, 1)[:3], (*phantoms.spacing, 1.0)[:3]
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.double))
    volumes = [
        LabelledVolume(
            case := f"{split}_{number:03d}",
            Volume(image.view(shape) * WIDTH + LOWEST, affine, name=case),
            labels.view(shape).long(),
            organs.view(shape).long(),
        )
        for number, (image, labels, organs) in enumerate(
            zip(phantoms.images, phantoms.labels, phantoms.organs, strict=True)
        )
    ]
    anchors = tuple(world.organ_names[number - 1] for number in world.anchors)
    return VolumesInMemory(tuple(volumes), world.class_names, world.organ_names, anchors)


def _ct(settings: Mapping[str, Any], split: str) -> VolumesInMemory:
    if settings:
        raise InputError(f"world: found {', '.join(settings)}, expected no settings for ct, which is no world")
    return ct_slabs(split)


EMBEDDED: dict[str, Callable[[Mapping[str, Any], str], VolumesInMemory]] = {"world-phantoms": _phantoms, "ct": _ct}
