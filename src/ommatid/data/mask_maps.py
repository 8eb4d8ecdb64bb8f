"""Label maps that are decoded when they are asked for: files of masks, SBD's MAT files, polygons and runs of COCO.

A map is 0 for background, 1 and up for classes, `IGNORE` for pixels that count for nothing. Binary masks know the class
1 alone. Masks are read by their stored values: indices of a palette as such, colours only where they are grey.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageOps

from ommatid.errors import InputError

IGNORE = 255
MOST_CLASSES = 254
THRESHOLD = 127
"""Soft masks show the foreground where they are above it."""
LIKELY_CLASS = 32
"""Where no other value beside 255 is above it, they look like classes and ignored pixels, not like a soft mask."""
FLOWER_BACKGROUND = (0, 0, 254)
BLUE_TOLERANCE = 64
"""Of every channel; the segmentations of flowers are JPEG files."""
_ORIENTATION = 0x0112
LabelMap = UInt8[np.ndarray, "height width"]


class MapSource(ABC):
    """A label map that is read when it is asked for."""

    @property
    @abstractmethod
    def place(self) -> str:
        """File, and record where it has several, for errors."""

    @abstractmethod
    def read(self) -> LabelMap:
        """The map.

        Raises:
            InputError: what the map is made of is missing, damaged, or has a class that is not known.
        """


@dataclass(frozen=True)
class FileMap(MapSource):
    """A map in a file of its own.

    Attributes:
        decode: one of this module's functions of a path.
    """

    path: Path
    decode: Callable[[Path], LabelMap]

    @property
    def place(self) -> str:
        return str(self.path)

    def read(self) -> LabelMap:
        return self.decode(self.path)


@dataclass(frozen=True)
class AnyClass(MapSource):
    """The map of a source with all its classes as one."""

    source: MapSource

    @property
    def place(self) -> str:
        return self.source.place

    def read(self) -> LabelMap:
        labels = self.source.read()
        return np.where(labels == IGNORE, labels, labels.clip(max=1))


@dataclass(frozen=True, eq=False)
class CocoMap(MapSource):
    """Objects of an image as COCO describes them; pixels that two classes claim are `IGNORE`.

    Attributes:
        objects: of each its place for errors, its class from 1 on, and polygons or run lengths.
    """

    place_of_image: str
    height: int
    width: int
    objects: Sequence[tuple[str, int, Any]]

    @property
    def place(self) -> str:
        return self.place_of_image

    def read(self) -> LabelMap:
        labels = np.zeros((self.height, self.width), np.uint8)
        # Object by object: each is described by its own number of points or runs.
        for place, label, segmentation in self.objects:
            shown = coco_mask(segmentation, self.height, self.width, place)
            free = (labels == 0) | (labels == label)
            labels[shown & free] = label
            labels[shown & ~free] = IGNORE
        return labels


# Files.


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file once upright, from its header.

    Raises:
        InputError: the file is missing or no image.
    """
    try:
        with Image.open(path) as file:
            width, height = file.size
            turned = file.getexif().get(_ORIENTATION, 1) >= 5
    except FileNotFoundError as error:
        raise InputError(f"{path}: found no such file, expected an image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: found a damaged or unreadable file ({error}), expected an image") from error
    return (width, height) if turned else (height, width)


def soft_mask(path: Path) -> LabelMap:
    """Foreground where a mask is above 127, as saliency sets and CUB store it.

    Raises:
        InputError: the file is no mask of values up to 255.
    """
    values = _values(path)
    if values.max() == 1:
        raise InputError(f"{path}: found no value above 1, expected values up to 255, foreground above {THRESHOLD}")
    return (values > THRESHOLD).astype(np.uint8)


def own_mask(path: Path) -> LabelMap:
    """Foreground of a user's mask: all but 0 where there are two values with 0 among them, else what is above 127.

    Values above 255 are those of 16 bits.

    Raises:
        InputError: there are more than two values and all of them small, as in a map of classes without names, or all
            but 255, as in one with ignored pixels, or small for 16 bits.
    """
    values = _values(path)
    found = np.unique(values)
    if len(found) == 1 or (len(found) == 2 and found[0] == 0):
        return (values != 0).astype(np.uint8)
    white = 65535 if found[-1] > 255 else 255
    classes_and_ignored = found[-1] == IGNORE and found[-2] <= LIKELY_CLASS
    if found[-1] <= white // 2 or classes_and_ignored:
        listed = ", ".join(map(str, found[:4].tolist())) + (f", ..., {found[-1]}" if len(found) > 4 else "")
        raise InputError(
            f"{path}: found the values {listed}, expected 0 and one more, a soft mask up to {white}, "
            f"or the names of classes in classes.txt"
        )
    return (values > white // 2).astype(np.uint8)


def class_ids(path: Path, classes: int) -> LabelMap:
    """A map whose values, or indices of its palette, are classes from 1 on, 0 and 255.

    Raises:
        InputError: a value is none of them, or 255 stands where the only class was to be expected.
    """
    values = _values(path)
    if classes == 1 and values.max() == IGNORE and not (values == 1).any():
        raise InputError(f"{path}: found {IGNORE}, ignored pixels, but no 1, expected 1 where the only class is")
    return checked_ids(values, classes, path)


def any_instance(path: Path) -> LabelMap:
    """Foreground wherever an instance has a number."""
    return (_values(path) != 0).astype(np.uint8)


def not_blue(path: Path) -> LabelMap:
    """Foreground where a segmentation of Oxford's flowers is not its background, blue within 64 of (0, 0, 254)."""
    colours = np.asarray(_upright(path).convert("RGB")).astype(np.int16)
    return (np.abs(colours - np.array(FLOWER_BACKGROUND)).max(axis=-1) > BLUE_TOLERANCE).astype(np.uint8)


def sbd_classes(path: Path, classes: int) -> LabelMap:
    """`GTcls.Segmentation` of a MAT file of SBD.

    Raises:
        InputError: the file is damaged or another MAT file, or a value is no class.
    """
    stored = mat_entries(path, "GTcls")["GTcls"]
    if stored.dtype.names is None or "Segmentation" not in stored.dtype.names or stored.size != 1:
        raise InputError(f"{path}: found no GTcls.Segmentation, expected a segmentation of SBD")
    labels = stored["Segmentation"].reshape(-1)[0]
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in "ui":
        raise InputError(f"{path}: found GTcls.Segmentation of another kind, expected a map of whole numbers")
    return checked_ids(labels.astype(np.int32), classes, path)


def checked_ids(values: Int[np.ndarray, "height width"], classes: int, path: Path) -> LabelMap:
    """Values as classes, refused where one is none of 0, the classes and 255."""
    strange = (values < 0) | ((values > classes) & (values != IGNORE))
    if strange.any():
        raise InputError(
            f"{path}: found the class id {values[strange][0]} in {int(strange.sum())} pixels, "
            f"expected 0 to {classes} or {IGNORE}"
        )
    return values.astype(np.uint8)


def mat_entries(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Arrays of a MAT file.

    Raises:
        InputError: the file is missing, damaged, or lacks one of them.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise InputError(f"{path}: found no such file, expected a MAT file with {' and '.join(names)}")
    try:
        content = loadmat(path, variable_names=list(names))
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise InputError(
            f"{path}: found a damaged file ({type(error).__name__}), expected a MAT file with {' and '.join(names)}"
        ) from error
    for name in names:
        if name not in content:
            raise InputError(f"{path}: found no {name} in it, expected a MAT file with {' and '.join(names)}")
    return {name: np.asarray(content[name]) for name in names}


def _upright(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise InputError(f"{path}: found no such file, expected a mask") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: found a damaged or unreadable file ({error}), expected a mask") from error


def _values(path: Path) -> Int[np.ndarray, "height width"]:
    """The stored values of a mask with one channel, or with three equal ones."""
    image = _upright(path)
    if image.mode in ("LA", "PA", "RGBA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise InputError(f"{path}: found transparent pixels, expected a mask without transparency")
        image = image.convert(image.mode.removesuffix("A"))
    values = np.asarray(image)
    if image.mode == "RGB":
        if (values != values[..., :1]).any():
            raise InputError(f"{path}: found colours (RGB), expected grey values or the indices of a palette")
        values = values[..., 0]
    elif image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise InputError(f"{path}: found pixels of the mode {image.mode}, expected grey values or a palette")
    return values.astype(np.int32)


# COCO.


def coco_mask(segmentation: Any, height: int, width: int, place: str) -> Bool[np.ndarray, "height width"]:
    """The pixels of an object: the union of its polygons, or its run lengths, compressed or not.

    Args:
        segmentation: lists of x, y, x, y, ...; or counts of pixels, column by column, and the size.
        place: file and record, for errors.

    Raises:
        InputError: a polygon has less than three points, or the runs are damaged or of another size.

    Examples:
        >>> coco_mask([[0, 0, 2, 0, 2, 1, 0, 1]], 2, 3, "object").astype(int)
        array([[1, 1, 0],
               [0, 0, 0]])
        >>> coco_mask({"counts": [1, 2, 3], "size": [2, 3]}, 2, 3, "object").astype(int)
        array([[0, 1, 0],
               [1, 0, 0]])
    """
    if isinstance(segmentation, dict):
        return _runs_mask(segmentation, height, width, place)
    polygons = [_polygon(each, place) for each in segmentation] if isinstance(segmentation, list) else []
    if not polygons:
        raise InputError(f"{place}: found no segmentation, expected polygons or run lengths")
    return np.any([polygon_mask(points, height, width) for points in polygons], axis=0)


def polygon_mask(points: Float[np.ndarray, "point 2"], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """The pixels whose middle is inside a closed polygon, by the even-odd rule.

    A middle on the outline belongs to what lies right of it or below, so that polygons side by side share no pixel.

    Args:
        points: x and y; the corner of the first pixel is (0, 0), its middle (0.5, 0.5).
    """
    (x, y), (next_x, next_y) = points.T, np.roll(points, -1, axis=0).T
    middles = np.arange(height) + 0.5
    edge, row = ((y[:, None] <= middles) != (next_y[:, None] <= middles)).nonzero()
    # Multiplied before it is divided: crossings at the middle of a pixel come out exactly.
    along = (middles[row] - y[edge]) * (next_x - x)[edge] / (next_y - y)[edge]
    first = np.ceil(x[edge] + along - 0.5).clip(0, width).astype(np.int64)
    crossings = np.zeros((height, width + 1), np.int32)
    np.add.at(crossings, (row, first), 1)
    return crossings[:, :width].cumsum(axis=1) % 2 == 1


def _polygon(coordinates: Any, place: str) -> Float[np.ndarray, "point 2"]:
    try:
        values = np.asarray(coordinates, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.full(6, np.nan)
    if values.ndim != 1 or len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
        raise InputError(f"{place}: found a polygon of other than x, y, x, y, x, y, ..., expected three points or more")
    return values.reshape(-1, 2)


def _runs_mask(runs: dict[str, Any], height: int, width: int, place: str) -> Bool[np.ndarray, "height width"]:
    if runs.get("size") != [height, width]:
        raise InputError(
            f"{place}: found run lengths of the size {runs.get('size')}, expected [{height}, {width}], its image's"
        )
    counts = runs.get("counts")
    lengths = run_lengths(counts) if isinstance(counts, str) else _plain_lengths(counts)
    if lengths is None or (lengths < 0).any() or lengths.sum() != height * width:
        raise InputError(f"{place}: found damaged run lengths, expected counts of {height * width} pixels together")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def _plain_lengths(counts: Any) -> Int[np.ndarray, "run"] | None:
    if not isinstance(counts, list) or not all(type(count) is int and abs(count) < 2**40 for count in counts):
        return None
    return np.array(counts, dtype=np.int64)


def run_lengths(text: str) -> Int[np.ndarray, "run"] | None:
    """The counts in COCO's compressed run lengths; None where the text is none.

    A character carries six bits, from 48 on: five of a number, lowest first, and whether more of it follow. Numbers are
    signed; from the fourth on they are the difference to the count before the last.

    Examples:
        >>> run_lengths("123N")
        array([1, 2, 3, 0])
    """
    bits = np.array([ord(character) - 48 for character in text], dtype=np.int64)
    ends = ((bits & 32) == 0).nonzero()[0]
    if not len(bits) or bits.min() < 0 or bits.max() > 63 or ends[-1:].tolist() != [len(bits) - 1]:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    digit = np.arange(len(bits)) - np.repeat(starts, ends - starts + 1)
    if digit.max() > 8:
        return None
    numbers = np.add.reduceat((bits & 31) << (5 * digit), starts)
    numbers -= ((bits[ends] & 16) != 0) * (1 << (5 * (digit[ends] + 1)))
    # Every second one adds up, from the second and from the third on.
    for parity in (1, 2):
        numbers[parity::2] = numbers[parity::2].cumsum()
    return numbers
