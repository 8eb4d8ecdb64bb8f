"""The slices of one DICOM series as voxels with their affine."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ommatid.errors import InputError, MissingDependency

EVEN = 0.02
"""By which share of their distance slices may be out of place."""
SAME_SPACING = 1e-3
"""By which share the spacing of pixels may differ between slices; programs round it."""
BESIDE = 0.1
"""By which share of their distance slices may lie beside their common line."""
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""What a DICOM file without the preamble of 128 bytes begins with."""


def read_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (column, row, slice) in the scanner's unit (HU of a CT), and the affine from their indices to mm, RAS+.

    Slices may each be shifted within their plane as a tilted gantry does it: the axis along them is then oblique. Files
    that are no DICOM images are passed over. Compressed slices need the packages that pydicom asks for.

    Raises:
        InputError: the folder has no slices or those of several series, slices differ in size or direction, one is
            missing, damaged or beside the line of the others, or one cannot be decoded.
        MissingDependency: without pydicom.
    """
    try:
        import pydicom
    except ImportError as error:
        raise MissingDependency(f"{folder}: DICOM needs pydicom: pip install 'ommatid[volumes]'") from error
    slices = _slices(folder, pydicom)
    first = slices[0]
    _refuse_others(folder, slices)
    orientation, (between_rows, between_columns) = _orientation(first), _numbers(first, "PixelSpacing", 2)
    along, down = orientation[:3], orientation[3:]
    normal = np.cross(along, down)
    slices.sort(key=lambda each: float(normal @ _place(each)))
    affine = np.eye(4)
    affine[:3] = np.stack(
        [along * between_columns, down * between_rows, _step(folder, slices, normal), _place(slices[0])], axis=1
    )
    # DICOM's x grows to the left, its y to the back.
    return np.stack([_voxels(each) for each in slices], axis=2), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _slices(folder: Path, pydicom: Any) -> list[Any]:
    """All images of the folder, headers alone."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    headers = [header for path in files if (header := _header(path, pydicom)) is not None]
    kinds = {_kind(header) for header in headers if "ImagePositionPatient" in header}
    if not kinds:
        raise InputError(f"{folder}: found no DICOM slices, expected those of one series")
    # A slice that breaks off early has no place any more, but is still of their kind.
    return [header for header in headers if _kind(header) in kinds]


def _header(path: Path, pydicom: Any) -> Any:
    """Of a DICOM file; None of a file that is clearly none."""
    with path.open("rb") as file:
        begin = file.read(132)
    marked = begin[128:] == b"DICM" or path.suffix.lower() == ".dcm"
    if not marked and begin[:2] not in FIRST_GROUPS:
        return None
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if _kind(header):
            return header
        reason = "no SOPClassUID"
    except Exception as error:  # the parser stumbles over damage in many ways
        reason = str(error)
    if marked:
        raise InputError(f"{path}: found a damaged file ({reason}), expected a DICOM slice")
    return None


def _kind(header: Any) -> str:
    return str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", ""))


def _place(header: Any) -> np.ndarray:
    return _numbers(header, "ImagePositionPatient", 3)


def _orientation(header: Any) -> np.ndarray:
    return _numbers(header, "ImageOrientationPatient", 6)


def _numbers(header: Any, tag: str, count: int) -> np.ndarray:
    try:
        found = np.atleast_1d(np.array(header[tag].value, float))
    except Exception:  # values are parsed when they are asked for, and the parser stumbles over damage in many ways
        found = np.empty(0)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise InputError(f"{header.filename}: found no {tag} of {count} numbers, expected it of every slice")
    return found


def _series(header: Any) -> str:
    try:
        return str(header.get("SeriesInstanceUID", ""))
    except Exception as error:
        raise InputError(f"{header.filename}: found a damaged SeriesInstanceUID ({error}), expected one") from error


def _refuse_others(folder: Path, slices: list[Any]) -> None:
    needed = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}
    for each in slices:
        for tag, count in needed.items():
            _numbers(each, tag, count)
        if _numbers(each, "PixelSpacing", 2).min() <= 0:
            raise InputError(f"{each.filename}: found PixelSpacing {each.PixelSpacing}, expected numbers above 0")
    series = {_series(each) for each in slices}
    if len(series) > 1:
        raise InputError(f"{folder}: found slices of {len(series)} series, expected those of one")
    first = slices[0]
    for each in slices[1:]:
        if (each.Rows, each.Columns) != (first.Rows, first.Columns):
            raise InputError(
                f"{each.filename}: found {each.Columns} x {each.Rows} pixels, expected {first.Columns} x {first.Rows} "
                f"as {Path(first.filename).name} has"
            )
        spacing, usual = _numbers(each, "PixelSpacing", 2), _numbers(first, "PixelSpacing", 2)
        if abs(spacing / usual - 1).max() > SAME_SPACING:
            raise InputError(
                f"{each.filename}: found pixels {spacing[0]:g} x {spacing[1]:g} mm apart, expected "
                f"{usual[0]:g} x {usual[1]:g} as {Path(first.filename).name} has"
            )
        if abs(_orientation(each) - _orientation(first)).max() > 1e-3:
            raise InputError(
                f"{each.filename}: found a slice that is turned, expected the direction of {Path(first.filename).name}"
            )


def _step(folder: Path, slices: list[Any], normal: np.ndarray) -> np.ndarray:
    """From each slice to the next, in mm."""
    if len(slices) == 1:
        return normal * float(slices[0].get("SpacingBetweenSlices") or slices[0].get("SliceThickness") or 1.0)
    places = np.array([_place(each) for each in slices])
    steps = np.diff(places @ normal)
    usual = float(np.median(steps))
    for place, step in enumerate(steps):
        if abs(step - usual) > max(EVEN * usual, 1e-3):
            raise InputError(
                f"{folder}: found {step:.4g} mm between {Path(slices[place].filename).name} and "
                f"{Path(slices[place + 1].filename).name}, expected {usual:.4g} mm as between the others"
            )
    step = (places[-1] - places[0]) / (len(places) - 1)
    allowed, away = max(BESIDE * usual, 1e-3), places - (places[0] + np.arange(len(places))[:, None] * step)
    # Differences that are small each may add up.
    early = abs(away @ normal)
    if early.max() > allowed:
        raise InputError(
            f"{slices[int(early.argmax())].filename}: found a slice {early.max():.3g} mm from where slices lie that "
            f"are {step @ normal:.4g} mm apart, expected even distances"
        )
    beside = np.linalg.norm(away - np.outer(away @ normal, normal), axis=1)
    if beside.max() > allowed:
        raise InputError(
            f"{slices[int(beside.argmax())].filename}: found a slice {beside.max():.3g} mm beside the line from the "
            "first to the last one, expected all on it"
        )
    return step


def _voxels(header: Any) -> np.ndarray:
    """(column, row) of one slice, scaled."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = pydicom.dcmread(header.filename, force=True)
            # What a file without the preamble has where it does not say.
            content.file_meta.setdefault("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian)
            pixels = content.pixel_array
    except Exception as error:  # decoders raise what they like
        raise InputError(f"{header.filename}: found pixels that cannot be decoded ({error}), expected some") from error
    if pixels.shape != (header.Rows, header.Columns):
        found, expected = (" x ".join(map(str, each)) for each in (pixels.shape, (header.Rows, header.Columns)))
        raise InputError(f"{header.filename}: found {found} values, expected {expected}, one a pixel")
    slope, offset = _rescale(header, "RescaleSlope", 1.0) or 1.0, _rescale(header, "RescaleIntercept", 0.0)
    scaled = pixels.T * slope + offset
    return scaled.astype(np.int32 if slope.is_integer() and offset.is_integer() else np.float32)


def _rescale(header: Any, tag: str, otherwise: float) -> float:
    """What stored values are scaled by; it may be absent or empty."""
    try:
        empty = header.get(tag) in (None, "")
    except Exception:
        empty = False
    return otherwise if empty else float(_numbers(header, tag, 1)[0])
