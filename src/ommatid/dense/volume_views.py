"""Volumes as networks see them: resampled, in a window of intensities, whole or in random parts, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.data.volume_files import Layout, Volume, resampled, to_size
from ommatid.data.volumes import LabelledVolume
from ommatid.dense.volume_augment import VolumeSample, augmented, cropped, margin, of_patch, patch_start
from ommatid.dense.volume_task import UNKNOWN, VolumeBatch
from ommatid.errors import InputError

MOST_KEPT = 2**30
"""Bytes of a split that are kept in memory; volumes beyond are read again whenever they are asked for."""
MAPS = ("labels", "organs", "truth")


@runtime_checkable
class Cases(Protocol):
    """Volumes of one split."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def organ_names(self) -> tuple[str, ...]: ...

    @property
    def anchors(self) -> tuple[str, ...]: ...

    @property
    def channel(self) -> str: ...

    @property
    def cases(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> LabelledVolume: ...

    def layout(self, number: int) -> Layout: ...

    def select(self, numbers: Sequence[int]) -> "Cases": ...


class VolumeSet(Dataset[VolumeSample]):
    """Volumes of one split as they are shown.

    Args:
        spacing: mm between voxels; as they are where None.
        window: HU of 0 and of 1.
        patch: size of the random parts that are shown; whole volumes where None.
        augment: a random change.
        shown: truth is what is shown, on its own grid.
    """

    def __init__(
        self,
        cases: Cases,
        spacing: Sequence[float] | None,
        window: Sequence[float],
        patch: Sequence[int] | None = None,
        augment: str = "none",
        shown: bool = False,
    ) -> None:
        self.cases, self.spacing, self.window = cases, spacing, window
        self.patch, self.augment, self.shown = patch, augment, shown
        self.draws = patch is not None or augment != "none"
        self._kept: dict[int, VolumeSample] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> VolumeSample:
        sample = self.stored(index)
        if self.patch is not None:
            sample = self._part(sample, self.patch)
        elif self.augment != "none":
            sample = augmented(sample)
        elif self.shown:
            sample = of_patch(sample)
        return _maps_as(sample, torch.long)

    def whole(self, index: int) -> VolumeSample:
        """A volume without any random change."""
        return _maps_as(self.stored(index), torch.long)

    def stored(self, index: int) -> VolumeSample:
        """The same with one byte a voxel for each of its maps: no number of a class or an organ is above 255."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index in self._kept:
            return self._kept[index]
        sample = _maps_as(shown_volume(self.cases[index], self.spacing, self.window, index), torch.uint8)
        size = sum(getattr(sample, name).nbytes for name in ("image", *MAPS))
        if self._bytes + size <= MOST_KEPT:
            self._kept[index] = sample
            self._bytes += size
        return sample

    def each(self) -> Iterator[VolumeSample]:
        """One volume after the other: there may be more than memory holds."""
        return (self.whole(index) for index in range(len(self)))

    def usual(self, classes: int) -> Int[Tensor, "*grid"]:
        """The most frequent class of every voxel, on the grid of the files."""
        counts = torch.zeros(classes + 1, *self.stored(0).truth.shape, dtype=torch.int32)
        for index in range(len(self)):
            truth = self.stored(index).truth
            known = torch.where(truth == UNKNOWN, 0, truth)
            # Class by class: one hot, a volume would take eight bytes a voxel and class.
            for number in range(classes + 1):
                counts[number] += known == number
        return counts.argmax(dim=0)

    def _part(self, sample: VolumeSample, patch: Sequence[int]) -> VolumeSample:
        start = patch_start(sample.labels, patch)
        if self.augment == "none":
            return cropped(sample, start, patch)
        more = margin(patch, sample.spacing)
        start = [first - each for first, each in zip(start, more, strict=True)]
        wide = [side + 2 * each for side, each in zip(patch, more, strict=True)]
        return augmented(cropped(sample, start, wide), patch)


def _maps_as(sample: VolumeSample, kind: torch.dtype) -> VolumeSample:
    return replace(sample, **{name: getattr(sample, name).to(kind) for name in MAPS})


def shown_volume(
    case: LabelledVolume, spacing: Sequence[float] | None, window: Sequence[float], index: int = 0
) -> VolumeSample:
    """A case as a sample; labels are resampled with the image, truth stays on the grid of the file."""
    image, steps = network_input(case.image, spacing, window)
    size = tuple(image.shape[1:])
    labels, organs = (_flattened(each, case.image.flat) for each in (case.labels, case.organs))
    shown = to_size(torch.stack([labels, organs])[None], size, smooth=False)[0]
    kept = [axis for axis in range(3) if axis != case.image.flat]
    return VolumeSample(image, shown[0], shown[1], steps, labels, case.image.spacing[kept], index)


def network_input(
    volume: Volume, spacing: Sequence[float] | None, window: Sequence[float]
) -> tuple[Float[Tensor, "1 *space"], Float[Tensor, "axis"]]:
    """Intensities in [0, 1] as a network sees them, a slice without its single axis; and mm between voxels.

    Args:
        spacing: mm between voxels along every axis that is kept; as they are where None.

    Raises:
        InputError: the spacing has not as many lengths as there are axes.

    Examples:
        >>> volume = Volume(torch.full((8, 8, 4), 40.0), torch.eye(4, dtype=torch.double))
        >>> image, steps = network_input(volume, [2.0, 2.0, 1.0], [-160.0, 240.0])
        >>> image.shape, float(image.mean()), steps.tolist()
        (torch.Size([1, 4, 4, 4]), 0.5, [2.0, 2.0, 1.0])
    """
    flat = volume.flat
    kept = [axis for axis in range(3) if axis != flat]
    moved = volume
    if spacing is not None:
        if len(spacing) != len(kept):
            raise InputError(
                f"spacing: found {list(spacing)}, expected {len(kept)} lengths for the axes of {volume.name}"
            )
        wanted = volume.spacing.tolist()
        for axis, step in zip(kept, spacing, strict=True):
            wanted[axis] = step
        moved = resampled(volume, wanted)
    low, high = window
    shown = ((moved.voxels.float() - low) / (high - low)).clamp(0, 1)
    return _flattened(shown, flat)[None], moved.spacing[kept]


def file_labels(logits: Float[Tensor, "1 class *space"], volume: Volume) -> Int[Tensor, "*grid"]:
    """The likeliest class of every voxel of a file, from logits on the grid that `network_input` gave.

    Examples:
        >>> volume = Volume(torch.zeros(4, 6, 1), torch.eye(4, dtype=torch.double))
        >>> file_labels(torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 2, 3), volume).shape
        torch.Size([4, 6])
    """
    return to_size(logits, tuple(_flattened(volume.voxels, volume.flat).shape), smooth=True)[0].argmax(dim=0)


def _flattened(voxels: Num[Tensor, "x y z"], flat: int | None) -> Num[Tensor, "*space"]:
    return voxels if flat is None else voxels.squeeze(flat)


def volume_batch(samples: Sequence[VolumeSample]) -> VolumeBatch:
    """Volumes of one size as a batch.

    Raises:
        InputError: they differ in size.
    """
    first = samples[0]
    for each in samples:
        for kind, found, expected in (
            ("", each.labels.shape, first.labels.shape),
            (" in its file", each.truth.shape, first.truth.shape),
        ):
            if found != expected:
                sizes = [" x ".join(map(str, shape)) for shape in (found, expected)]
                raise InputError(
                    f"volume {each.index}: found {sizes[0]} voxels{kind}, expected {sizes[1]} as before: set patch, or "
                    "batch_size to 1"
                )

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(each, name) for each in samples])

    return VolumeBatch(
        images=stacked("image"),
        labels=stacked("labels"),
        organs=stacked("organs"),
        spacing=stacked("spacing"),
        truth=stacked("truth"),
        truth_spacing=stacked("truth_spacing"),
        index=torch.tensor([each.index for each in samples]),
    )
