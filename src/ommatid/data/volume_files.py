"""Volumes as files: NIfTI, or a folder with the slices of one DICOM series; read, resampled, and written back.

Voxels are held in the order (x, y, z), x growing to the patient's right, y to the front and z to the head (RAS+),
whatever the file has. What is predicted for them is written on the file's own grid: its order of axes, its directions,
its affine.
"""

import gzip
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor

from ommatid.data.dicom import read_series
from ommatid.errors import InputError, MissingDependency
from ommatid.files import write_aside

ENDINGS = (".nii.gz", ".nii")
SAME_GRID = 1e-2
"""By how much, in mm, two affines may differ that mean one grid; programs round them."""


@dataclass(frozen=True)
class Grid:
    """How a file has its voxels.

    Attributes:
        affine: from indices of the file's axes to mm.
        axes: of every axis of the file, which of x, y, z it is, and 1 or -1 for its direction.
    """

    affine: tuple[tuple[float, ...], ...]
    axes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels in the order (x, y, z), RAS+.

    Attributes:
        affine: from indices (x, y, z) to mm.
        grid: that of the file; None of a volume that was resampled or made.
        name: of the file, for errors.

    Examples:
        >>> volume = Volume(torch.zeros(4, 4, 2), torch.diag(torch.tensor([0.5, 0.5, 3.0, 1.0], dtype=torch.double)))
        >>> volume.spacing.tolist(), volume.flat
        ([0.5, 0.5, 3.0], None)
    """

    voxels: Num[Tensor, "x y z"]
    affine: Float[Tensor, "4 4"]
    grid: Grid | None = None
    name: str = "volume"

    @property
    def spacing(self) -> Float[Tensor, "3"]:
        """Of voxels along x, y, z, in mm."""
        return self.affine[:3, :3].norm(dim=0).float()

    @property
    def flat(self) -> int | None:
        """The axis along which there is one voxel, if there is one such axis: the volume is a slice."""
        single = [axis for axis, length in enumerate(self.voxels.shape) if length == 1]
        return single[0] if len(single) == 1 else None

    def save_like(self, labels: Shaped[Tensor, "*space"], path: str | Path) -> None:
        """Write labels of these voxels as NIfTI on the grid of the file that these were read from.

        Args:
            labels: as many as there are voxels; of a slice with or without its single axis.
            path: a name that ends in .nii.gz or .nii.

        Raises:
            InputError: there are more or fewer labels than voxels, or the name has another ending.
            MissingDependency: without nibabel.
        """
        path = Path(path)
        if not path.name.endswith(ENDINGS):
            raise InputError(f"{path}: found another ending, expected {' or '.join(ENDINGS)}")
        if labels.numel() != self.voxels.numel():
            found, expected = (" x ".join(map(str, each)) for each in (labels.shape, self.voxels.shape))
            raise InputError(f"labels: found {found}, expected {expected} as {self.name} has")
        data = labels.detach().cpu().reshape(self.voxels.shape).numpy()
        kind = np.uint8 if data.max(initial=0) < 256 else np.int32
        write_nifti(path, _on_grid(data.astype(kind), self.grid), self._file_affine())

    def _file_affine(self) -> np.ndarray:
        return self.affine.numpy() if self.grid is None else np.array(self.grid.affine)


def read_volume(path: str | Path) -> Volume:
    """A NIfTI file, or a folder with the slices of one DICOM series; scaled as the file says (HU of a CT).

    Raises:
        InputError: nothing is there, it is damaged, has more than three axes, no invertible affine, or voxels that are
            not finite or whole numbers of more than 32 bits.
        MissingDependency: without nibabel, or without pydicom where it is DICOM.
    """
    path = Path(path)
    if path.is_dir():
        return oriented(*read_series(path), str(path))
    file = open_nifti(path)
    try:
        data = np.asanyarray(_whole(file, path).dataobj)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected a volume") from error
    return oriented(data, file.affine, str(path))


def _whole(file: Any, path: Path) -> Any:
    """The file with all its content: checksums of compressed files are compared only where they are read to the end."""
    # Files in pairs have their voxels elsewhere.
    if path.suffix != ".gz" or not hasattr(type(file), "from_bytes"):
        return file
    with gzip.open(path) as content:
        return type(file).from_bytes(content.read())


def open_nifti(path: Path) -> Any:
    """A NIfTI file of which only the header is read.

    Raises:
        InputError: the file is missing, damaged or no NIfTI.
        MissingDependency: without nibabel.
    """
    nibabel = nifti_library(path)
    if not path.is_file():
        raise InputError(f"{path}: found nothing, expected a NIfTI file or a folder of DICOM files")
    try:
        file = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, EOFError, OSError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: found a damaged or unknown file ({error}), expected NIfTI") from error
    if len(tuple(file.shape)) < 3 or any(length != 1 for length in file.shape[3:]) or min(file.shape) < 1:
        raise InputError(f"{path}: found {' x '.join(map(str, file.shape))} voxels, expected three axes")
    if file.get_data_dtype().fields is not None or file.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: found voxels of {file.get_data_dtype()}, expected numbers")
    return file


def nifti_library(path: Path) -> Any:
    """nibabel.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise MissingDependency(f"{path}: NIfTI needs nibabel: pip install 'ommatid[volumes]'") from error
    return nibabel


def oriented(data: np.ndarray, affine: np.ndarray, name: str) -> Volume:
    """Voxels on the grid of a file as a volume.

    Raises:
        InputError: the affine cannot be inverted, or a voxel is not finite or a whole number of more than 32 bits.
    """
    nibabel = nifti_library(Path(name))
    affine = np.asarray(affine, np.float64)
    axes = _orientation(affine, name)
    data = data.reshape(data.shape[:3])
    turned = nibabel.apply_orientation(data, axes)
    canonical = affine @ nibabel.orientations.inv_ornt_aff(axes, data.shape)
    whole = data.dtype.kind in "iu"
    if whole:
        _refuse_large(data, name)
    # What single precision cannot hold is infinite there.
    with np.errstate(over="ignore"):
        voxels = torch.from_numpy(np.array(turned, np.int32 if whole else np.float32, order="C"))
    count = voxels.numel() - int(voxels.isfinite().sum())
    if count:
        raise InputError(f"{name}: found {count} voxels that are no finite numbers, expected none")
    grid = Grid(tuple(map(tuple, affine.tolist())), tuple((int(axis), int(sign)) for axis, sign in axes))
    return Volume(voxels, torch.from_numpy(canonical), grid, name)


def _refuse_large(data: np.ndarray, name: str) -> None:
    """Whole numbers that would come out as others."""
    held = np.iinfo(np.int32)
    for value in (int(data.min()), int(data.max())):
        if not held.min <= value <= held.max:
            raise InputError(f"{name}: found the value {value}, expected whole numbers from {held.min} to {held.max}")


class Layout(NamedTuple):
    """Voxels along x, y, z, and how far they are apart, in mm."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]


def volume_layout(volume: Volume) -> Layout:
    return Layout(tuple(volume.voxels.shape), tuple(round(each, 4) for each in volume.spacing.tolist()))


def header_layout(file: Any) -> Layout:
    """Of a NIfTI file that is open, as `read_volume` would turn it.

    Raises:
        InputError: the affine cannot be inverted.
    """
    axes = _orientation(file.affine, str(file.get_filename()))
    steps = np.linalg.norm(file.affine[:3, :3], axis=0)
    order = np.argsort(axes[:, 0])
    return Layout(
        tuple(int(file.shape[place]) for place in order), tuple(round(float(steps[place]), 4) for place in order)
    )


def _orientation(affine: np.ndarray, name: str) -> np.ndarray:
    """Which of x, y, z each axis of a file is, and its direction."""
    directions = affine[:3, :3]
    # Of the volume that the three lengths could span: voxels may be as small as they like.
    most = np.linalg.norm(directions, axis=0).prod()
    if not np.isfinite(affine).all() or abs(np.linalg.det(directions)) <= 1e-6 * most:
        raise InputError(f"{name}: found an affine that maps axes onto each other, expected three directions")
    return nifti_library(Path(name)).io_orientation(affine)


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write voxels with their affine; the file is whole or absent, and the same bytes for the same voxels.

    Raises:
        MissingDependency: without nibabel.
    """
    image = nifti_library(path).Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    # Both: some programs read the one, some the other.
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if not np.allclose(image.get_qform(), affine, rtol=1e-3, atol=1e-3 * np.linalg.norm(affine[:3, :3], axis=0).min()):
        # It cannot hold oblique axes, and would tell of another place.
        image.set_qform(None, code=0)
    content = image.to_bytes()
    packed = gzip.compress(content, compresslevel=6, mtime=0) if path.name.endswith(".gz") else content
    write_aside(path, lambda aside: aside.write_bytes(packed))


def _on_grid(data: np.ndarray, grid: Grid | None) -> np.ndarray:
    if grid is None:
        return data
    order = [axis for axis, _ in grid.axes]
    turned = [place for place, (_, sign) in enumerate(grid.axes) if sign < 0]
    return np.flip(data.transpose(order), axis=tuple(turned))


# Resampling.


def resampled(volume: Volume, spacing: Float[Tensor, "3"] | list[float], labels: bool = False) -> Volume:
    """The volume with voxels of (nearly) another spacing, over the same extent.

    The extent is divided into a whole number of voxels, so the spacing that comes out may differ from what is asked for
    by half a voxel over the whole length.

    Args:
        labels: take the nearest voxel's value; else voxels are interpolated linearly.

    Raises:
        InputError: the spacing is no three numbers above 0.

    Examples:
        >>> volume = Volume(torch.arange(8.0).view(8, 1, 1), torch.eye(4, dtype=torch.double))
        >>> coarse = resampled(volume, [2.0, 1.0, 1.0])
        >>> coarse.voxels.flatten().tolist(), coarse.spacing.tolist()
        ([0.5, 2.5, 4.5, 6.5], [2.0, 1.0, 1.0])
    """
    wanted = torch.as_tensor(spacing, dtype=torch.double)
    if wanted.shape != (3,) or not bool((wanted > 0).all()):
        raise InputError(f"spacing: found {wanted.tolist()}, expected three lengths above 0, in mm")
    shape = torch.tensor(volume.voxels.shape)
    size = (shape * volume.spacing.double() / wanted).round().clamp(min=1).long()
    ratio = shape.double() / size
    scale = torch.diag(torch.cat([ratio, ratio.new_ones(1)]))
    # The middle of the first new voxel, in old voxels.
    scale[:3, 3] = (ratio - 1) / 2
    voxels = to_size(volume.voxels[None, None], tuple(size.tolist()), smooth=not labels)[0, 0]
    return replace(volume, voxels=voxels, affine=volume.affine @ scale, grid=None)


def to_size(
    maps: Num[Tensor, "batch channel *space"], size: tuple[int, ...], smooth: bool
) -> Num[Tensor, "batch channel *other"]:
    """Maps over the same extent on another grid: linear where `smooth`, else of the nearest voxel.

    So labels that were predicted on a resampled grid come back to that of the file.

    Examples:
        >>> to_size(torch.tensor([[[[0, 0, 7, 7]]]]), (1, 2), smooth=False)
        tensor([[[[0, 7]]]])
    """
    if maps.shape[2:] == size:
        return maps
    if not smooth:
        return _nearest(maps, size)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(maps.float(), size, mode=mode, align_corners=False)


def _nearest(maps: Num[Tensor, "batch channel *space"], size: tuple[int, ...]) -> Num[Tensor, "batch channel *other"]:
    # By index, as torch interpolates floats only.
    for axis, length in enumerate(size, start=2):
        places = (torch.arange(length, device=maps.device) + 0.5) * maps.shape[axis] / length
        maps = maps.index_select(axis, places.long().clamp(max=maps.shape[axis] - 1))
    return maps


def whole_numbers(volume: Volume, most: int, besides: int | None = None) -> Int[Tensor, "x y z"]:
    """The voxels of a label map.

    Raises:
        InputError: one is no whole number, or neither from 0 to `most` nor `besides`.
    """
    voxels = volume.voxels
    if voxels.is_floating_point():
        broken = voxels[voxels != voxels.round()]
        if len(broken):
            raise InputError(f"{volume.name}: found the label {float(broken[0]):g}, expected whole numbers")
        voxels = voxels.int()
    named = (voxels >= 0) & (voxels <= most)
    if besides is not None:
        named |= voxels == besides
    strange = voxels[~named]
    if len(strange):
        known = f"0 to {most}" if besides is None else f"0 to {most} or {besides}"
        raise InputError(f"{volume.name}: found the label {int(strange[0])}, expected {known} as in dataset.json")
    return voxels.long()


def same_grid(volume: Volume, other: Volume) -> None:
    """Refuse label maps that lie elsewhere than their image.

    Raises:
        InputError: shapes or affines differ.
    """
    shapes = [" x ".join(map(str, each.voxels.shape)) for each in (volume, other)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{other.name}: found {shapes[1]} voxels, expected {shapes[0]} as {volume.name} has")
    corners = torch.tensor([[0.0, 0, 0, 1], [*(float(length - 1) for length in volume.voxels.shape), 1]]).double().T
    apart = float(((volume.affine - other.affine) @ corners).abs().max())
    if apart > max(SAME_GRID, 0.05 * float(volume.spacing.min())):
        raise InputError(
            f"{other.name}: found an affine that lies up to {apart:.3g} mm away, expected that of {volume.name}"
        )
