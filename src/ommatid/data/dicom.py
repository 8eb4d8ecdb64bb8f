"""The slices of one DICOM series as voxels with their affine."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ommatid.errors import InputError, MissingDependency

EVEN = 0.02
"""By which share of their distance slices may be out of place."""


def read_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (column, row, slice) in the scanner's unit (HU of a CT), and the affine from their indices to mm, RAS+.

    Files that are no DICOM images are passed over. Compressed slices need the packages that pydicom asks for.

    Raises:
        InputError: the folder has no slices or those of several series, slices differ in size or direction, one is
            missing, or one cannot be decoded.
        MissingDependency: without pydicom.
    """
    try:
        import pydicom
    except ImportError as error:
        raise MissingDependency(f"{folder}: DICOM needs pydicom: pip install 'ommatid[volumes]'") from error
    slices = _slices(folder, pydicom)
    first = slices[0]
    _refuse_others(folder, slices)
    along, down = (np.array(first.ImageOrientationPatient[part], float) for part in (slice(0, 3), slice(3, 6)))
    normal = np.cross(along, down)
    slices.sort(key=lambda each: float(normal @ np.array(each.ImagePositionPatient, float)))
    start = np.array(slices[0].ImagePositionPatient, float)
    step = _step(folder, slices, normal)
    # PixelSpacing is that of rows, then of columns.
    affine = np.eye(4)
    affine[:3] = np.stack(
        [along * float(first.PixelSpacing[1]), down * float(first.PixelSpacing[0]), normal * step, start], axis=1
    )
    # DICOM's x grows to the left, its y to the back.
    return np.stack([_voxels(each) for each in slices], axis=2), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _slices(folder: Path, pydicom: Any) -> list[Any]:
    """All images of the folder, headers alone."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.name.startswith("."):
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (pydicom.errors.InvalidDicomError, OSError):
            continue
        if "ImagePositionPatient" in header:
            found.append(header)
    if not found:
        raise InputError(f"{folder}: found no DICOM slices, expected those of one series")
    return found


def _refuse_others(folder: Path, slices: list[Any]) -> None:
    series = {str(each.get("SeriesInstanceUID", "")) for each in slices}
    if len(series) > 1:
        raise InputError(f"{folder}: found slices of {len(series)} series, expected those of one")
    first = slices[0]
    needed = ("ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
    for each in slices:
        for tag in needed:
            if each.get(tag) is None:
                raise InputError(f"{each.filename}: found no {tag}, expected it of every slice")
    for each in slices[1:]:
        if (each.Rows, each.Columns) != (first.Rows, first.Columns):
            raise InputError(
                f"{each.filename}: found {each.Columns} x {each.Rows} pixels, expected {first.Columns} x {first.Rows} "
                f"as {Path(first.filename).name} has"
            )
        turned = np.array(each.ImageOrientationPatient, float) - np.array(first.ImageOrientationPatient, float)
        if abs(turned).max() > 1e-3:
            raise InputError(
                f"{each.filename}: found a slice that is turned, expected the direction of {Path(first.filename).name}"
            )


def _step(folder: Path, slices: list[Any], normal: np.ndarray) -> float:
    """The distance of neighbouring slices, in mm."""
    if len(slices) == 1:
        return float(slices[0].get("SpacingBetweenSlices") or slices[0].get("SliceThickness") or 1.0)
    places = np.array([normal @ np.array(each.ImagePositionPatient, float) for each in slices])
    steps = np.diff(places)
    usual = float(np.median(steps))
    for place, step in enumerate(steps):
        if abs(step - usual) > max(EVEN * usual, 1e-3):
            raise InputError(
                f"{folder}: found {step:.4g} mm between {Path(slices[place].filename).name} and "
                f"{Path(slices[place + 1].filename).name}, expected {usual:.4g} mm as between the others"
            )
    return float(steps.mean())


def _voxels(header: Any) -> np.ndarray:
    """(column, row) of one slice, scaled."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = pydicom.dcmread(header.filename).pixel_array
    except Exception as error:  # decoders raise what they like
        raise InputError(f"{header.filename}: found pixels that cannot be decoded ({error}), expected some") from error
    slope, offset = float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)
    scaled = pixels.T * slope + offset
    return scaled.astype(np.int32 if slope.is_integer() and offset.is_integer() else np.float32)
