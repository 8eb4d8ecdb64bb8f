"""Volumes with the classes of their voxels, and organs around them: one contract for the layouts they are kept in.

| format | what lies in the folder |
|---|---|
| `nnunet` | raw data of nnU-Net: `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`, `dataset.json` |
| `decathlon` | the same with `imagesTr/<case>.nii.gz`, as the Medical Segmentation Decathlon has it |

`organsTr/<case>.nii.gz` may have organ maps; `imagesTs`, `labelsTs` and `organsTs` are the test part, and
`splits_final.json` has the folds. `dataset.json` names classes in `labels`, organs in `organs`, and in `anchors` the
organs found first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ommatid.data.images import existing_folder
from ommatid.data.volume_files import (
    ENDINGS,
    Layout,
    header_layout,
    open_nifti,
    same_grid,
    volume_layout,
    whole_numbers,
)
from ommatid.data.volume_files import Volume as Volume
from ommatid.data.volume_files import read_volume as read_volume
from ommatid.data.volume_files import resampled as resampled
from ommatid.data.volume_json import CT, Description, read_description, read_fold
from ommatid.errors import InputError, unknown

VOLUME_FORMATS = ("nnunet", "decathlon")
CHANNEL = "_0000"
UNKNOWN = 255
"""Label of voxels whose class nobody knows: those that `dataset.json` calls "ignore"."""
_SUFFIX = {"train": "Tr", "val": "Tr", "test": "Ts"}


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """One case.

    Attributes:
        labels: classes, 255 where nobody knows.
        organs: 0 where there is none.
    """

    case: str
    image: Volume
    labels: Int[Tensor, "x y z"]
    organs: Int[Tensor, "x y z"]


@dataclass(frozen=True)
class VolumesInMemory:
    """The cases of one split that need no reading; attributes as of `VolumeFiles`."""

    volumes: tuple[LabelledVolume, ...]
    class_names: tuple[str, ...]
    organ_names: tuple[str, ...]
    anchors: tuple[str, ...]
    channel: str = CT

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, number: int) -> LabelledVolume:
        return self.volumes[number]

    @property
    def cases(self) -> tuple[str, ...]:
        return tuple(each.case for each in self.volumes)

    def layout(self, number: int) -> Layout:
        return volume_layout(self.volumes[number].image)

    def select(self, numbers: Sequence[int]) -> "VolumesInMemory":
        """Some of the cases."""
        return replace(self, volumes=tuple(self.volumes[number] for number in numbers))


@dataclass(frozen=True)
class VolumeFiles:
    """The cases of one split, read when asked for.

    Attributes:
        organs: None where there are no organ maps.
    """

    cases: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    organs: tuple[Path, ...] | None
    description: Description

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, number: int) -> LabelledVolume:
        """One case.

        Raises:
            InputError: a file is missing or damaged, image and maps lie on different grids, or a label is none of those
                in `dataset.json`.
        """
        image, told = read_volume(self.images[number]), self.description
        labels = self._map(image, self.labels[number], len(told.class_names), told.ignored)
        if told.ignored is not None:
            labels = torch.where(labels == told.ignored, UNKNOWN, labels)
        organs = torch.zeros_like(labels)
        if self.organs is not None:
            organs = self._map(image, self.organs[number], len(told.organ_names))
        return LabelledVolume(self.cases[number], replace(image, voxels=image.voxels.float()), labels, organs)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.description.class_names

    @property
    def organ_names(self) -> tuple[str, ...]:
        """None where there are no organ maps."""
        return () if self.organs is None else self.description.organ_names

    @property
    def anchors(self) -> tuple[str, ...]:
        return () if self.organs is None else self.description.anchors

    @property
    def channel(self) -> str:
        return self.description.channel

    def layout(self, number: int) -> Layout:
        """From the header of the image alone."""
        return header_layout(open_nifti(self.images[number]))

    def select(self, numbers: Sequence[int]) -> "VolumeFiles":
        """Some of the cases."""

        def chosen(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[number] for number in numbers)

        organs = None if self.organs is None else chosen(self.organs)
        return VolumeFiles(chosen(self.cases), chosen(self.images), chosen(self.labels), organs, self.description)

    def _map(self, image: Volume, path: Path, most: int, besides: int | None = None) -> Int[Tensor, "x y z"]:
        found = read_volume(path)
        same_grid(image, found)
        return whole_numbers(found, most, besides)


def open_volumes(root: str | Path, split: str = "train", format: str | None = None, fold: int = 0) -> VolumeFiles:
    """The cases of one split of a data set's folder, in the order of their names.

    Args:
        split: "train" and "val" are those of the fold, "test" is `imagesTs`.
        format: one of `VOLUME_FORMATS`; found out if None.
        fold: entry of `splits_final.json`, from 0 on. Without that file the five folds that nnU-Net makes are taken.

    Raises:
        InputError: the folder is missing or in no known format, has no such split or fold, `dataset.json` or
            `splits_final.json` is faulty, or a case lacks its image, label map or (where others have one) organ map.
        MissingDependency: without nibabel.
    """
    root = existing_folder(Path(root))
    format = detect_volume_format(root) if format is None else format
    if format not in VOLUME_FORMATS:
        raise unknown("format of volumes", format, VOLUME_FORMATS)
    if split not in _SUFFIX:
        raise unknown("split", split, _SUFFIX)
    told = read_description(root)
    files = _listed(root, _SUFFIX[split], format, told)
    if split == "test":
        return files
    chosen = read_fold(root, files.cases, fold)[split]
    return files.select([files.cases.index(case) for case in sorted(chosen)])


def volume_splits(root: str | Path) -> tuple[str, ...]:
    """Those of train, val and test that a folder has with label maps."""
    root = existing_folder(Path(root))
    test = all((root / f"{kind}Ts").is_dir() and any((root / f"{kind}Ts").iterdir()) for kind in ("images", "labels"))
    return ("train", "val", "test") if test else ("train", "val")


def detect_volume_format(root: str | Path) -> str:
    """The one of `VOLUME_FORMATS` that a folder is in.

    Raises:
        InputError: the folder is missing or in none of them.
    """
    root = existing_folder(Path(root))
    images = _files(root / "imagesTr", ENDINGS)
    if not images or not (root / "dataset.json").is_file():
        raise InputError(f"{root}: found no imagesTr/*.nii.gz beside dataset.json, expected the raw layout of nnU-Net")
    return "nnunet" if all(case.endswith(CHANNEL) for case in images) else "decathlon"


def _listed(root: Path, suffix: str, format: str, told: Description) -> VolumeFiles:
    images = _files(root / f"images{suffix}", (told.ending,))
    if format == "nnunet":
        for stem, path in images.items():
            if not stem.endswith(CHANNEL):
                raise InputError(f"{path}: found another name, expected <case>{CHANNEL}{told.ending}")
        images = {stem.removesuffix(CHANNEL): path for stem, path in images.items()}
    if not images:
        raise InputError(f"{root / f'images{suffix}'}: found no volumes, expected at least one {told.ending}")
    labels = _partners(root / f"labels{suffix}", images, told.ending)
    organs = None
    if (root / f"organs{suffix}").is_dir():
        if not told.organ_names:
            raise InputError(f"{root / 'dataset.json'}: found no organs, expected the names of those in organs{suffix}")
        organs = tuple(_partners(root / f"organs{suffix}", images, told.ending).values())
    return VolumeFiles(tuple(images), tuple(images.values()), tuple(labels.values()), organs, told)


def _partners(folder: Path, images: dict[str, Path], ending: str) -> dict[str, Path]:
    found = _files(folder, (ending,))
    for case, path in found.items():
        if case not in images:
            raise InputError(
                f"{path}: found a map without an image, expected a case of {next(iter(images.values())).parent}"
            )
    missing = [case for case in images if case not in found]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(images)} maps are missing, expected one for each image "
            f"(first: {missing[0]}{ending})"
        )
    return {case: found[case] for case in images}


def _files(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Volumes of a folder by their names less the ending, in order."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        ending = next((each for each in endings if path.name.endswith(each)), None)
        if ending is not None and path.is_file() and not path.name.startswith("."):
            found[path.name.removesuffix(ending)] = path
    return dict(sorted(found.items()))
