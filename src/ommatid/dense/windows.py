"""Maps of images that are too large to be seen at once: overlapping windows, band by band from the top.

No more than a band of windows is in memory, so that what a slide of any size costs is what its rows cost.
"""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from ommatid.data.images import read_image
from ommatid.errors import InputError, MissingDependency

Maps = Callable[[Float[Tensor, "batch 3 window window"]], Float[Tensor, "batch 1 window window"]]
AT_ONCE = 32
"""Windows that pass through the network together."""
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6
"""Photometric interpretations of TIFF."""
JPEG = 7
"""TIFF's number of this compression."""
PREMULTIPLIED = 1
"""Extra samples of TIFF by which colours were multiplied."""


@runtime_checkable
class Bands(Protocol):
    """An image that is read some rows at a time."""

    height: int
    width: int

    def rows(self, top: int, bottom: int) -> UInt8[Tensor, "3 rows width"]: ...


class WholeImage:
    """An image in memory."""

    def __init__(self, pixels: UInt8[Tensor, "3 height width"]) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[1:]

    def rows(self, top: int, bottom: int) -> UInt8[Tensor, "3 rows width"]:
        return self.pixels[:, top:bottom]


class TiffBands:
    """A TIFF file of bytes, in colour or grey, tiled or in strips; its parts are decoded when their rows are asked for.

    Raises:
        InputError: the file is missing, damaged, or holds other pixels.
        MissingDependency: without tifffile; when rows are read, without imagecodecs where their compression needs it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        tifffile = tiff_library(path)
        try:
            self.file = tifffile.TiffFile(path)
            self.page: Any = self.file.pages[0]
        except (OSError, tifffile.TiffFileError, IndexError) as error:
            raise InputError(f"{path}: found a damaged or unreadable file ({error}), expected a TIFF image") from error
        samples = self.page.samplesperpixel
        if self.page.dtype != np.uint8 or samples not in (1, 3, 4) or self.page.planarconfig != 1:
            raise InputError(
                f"{path}: found {samples} channels of {self.page.dtype}, expected 1, 3 or 4 of bytes, interleaved"
            )
        self.height, self.width = int(self.page.imagelength), int(self.page.imagewidth)

    @property
    def plain(self) -> bool:
        """Whether stored values are colours or grey levels, upright: no palette, no inks, nothing turned."""
        page = self.page
        known = page.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB)
        # The decoder of JPEG gives colours.
        known |= page.photometric == YCBCR and page.compression == JPEG
        return known and page.tags.valueof("Orientation", 1) == 1 and PREMULTIPLIED not in page.extrasamples

    def rows(self, top: int, bottom: int) -> UInt8[Tensor, "3 rows width"]:
        page, found = self.page, np.zeros((bottom - top, self.width, self.page.samplesperpixel), np.uint8)
        across = -(-self.width // page.tilewidth) if page.is_tiled else 1
        tall = page.tilelength if page.is_tiled else page.rowsperstrip
        for row in range(top // tall, -(-bottom // tall)):
            for place in range(row * across, (row + 1) * across):
                part, (_, _, y, x, _), _ = self._decoded(self._stored(place), place)
                part = part[0] if part is not None else np.zeros((tall, 1, found.shape[2]), np.uint8)
                first, last = max(y, top), min(y + len(part), bottom)
                wide = min(part.shape[1], self.width - x)
                found[first - top : last - top, x : x + wide] = part[first - y : last - y, :wide]
        if page.photometric == WHITE_IS_ZERO:
            found = 255 - found
        colours = found[..., :3] if found.shape[2] > 1 else np.repeat(found, 3, axis=2)
        return torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1)))

    def _stored(self, place: int) -> bytes | None:
        """One part as it is in the file, None where it is left out."""
        count = int(self.page.databytecounts[place])
        if not count:
            return None
        self.file.filehandle.seek(self.page.dataoffsets[place])
        found = self.file.filehandle.read(count)
        # Decoders of JPEG fill up what is missing.
        if len(found) < count:
            raise InputError(f"{self.path}: found {len(found)} bytes of part {place}, expected {count}")
        return found

    def _decoded(self, encoded: bytes | None, place: int) -> Any:
        """Pixels of one part, None where it is empty; where it lies, and its shape."""
        try:
            return self.page.decode(encoded, place, jpegtables=self.page.jpegtables)
        except (ValueError, RuntimeError, zlib.error) as error:
            if "imagecodecs" in str(error):
                raise MissingDependency(
                    f"{self.path}: its compression needs imagecodecs: pip install 'ommatid[slides]'"
                ) from error
            raise InputError(f"{self.path}: found a damaged part {place} ({error}), expected pixels") from error


def tiff_library(path: Path) -> Any:
    """tifffile, which reads and writes the file in parts.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import tifffile
    except ImportError as error:
        raise MissingDependency(f"{path}: TIFF in parts needs tifffile: pip install 'ommatid[slides]'") from error
    return tifffile


def open_bands(path: Path) -> Bands:
    """TIFF files in colour or grey part by part; as a whole all others, those with a palette, with inks, or turned.

    Raises:
        InputError: the file is missing or no readable image.
        MissingDependency: a TIFF file without tifffile.
    """
    if path.suffix.lower() in (".tif", ".tiff") and path.is_file() and (bands := TiffBands(path)).plain:
        return bands
    return WholeImage(read_image(path))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis: every so many pixels, the last at the end.

    Examples:
        >>> window_starts(10, 4, 2), window_starts(9, 4, 2), window_starts(3, 4, 2)
        ([0, 2, 4, 6], [0, 2, 4, 5], [0])
    """
    last = max(length - window, 0)
    return sorted({*range(0, last, stride), last})


def map_in_bands(
    maps: Maps, image: Bands, window: int, overlap: float = 0.5, at_once: int = AT_ONCE
) -> Iterator[tuple[int, UInt8[Tensor, "3 rows width"], Float[Tensor, "rows width"]]]:
    """Finished rows from the top: their number, the image, and the mean of all windows that see them.

    Args:
        maps: what gives maps of windows, images in [0, 1].
        window: side of a window in pixels; an image that is smaller is continued by its last rows and columns.
        overlap: share of a window that the next one sees, too.
        at_once: windows that are mapped together.

    Raises:
        InputError: the window is below 1, or the overlap lies outside [0, 1).
    """
    if window < 1 or not 0 <= overlap < 1:
        raise InputError(f"tile and overlap: found {window} and {overlap}, expected a side from 1 on, a share below 1")
    stride = max(round(window * (1 - overlap)), 1)
    tops, lefts = (window_starts(length, window, stride) for length in (image.height, image.width))
    wide = max(image.width, window)
    total, seen = torch.zeros(window, wide), torch.zeros(window, wide)
    for top, following in zip(tops, [*tops[1:], image.height], strict=True):
        pixels = image.rows(top, min(top + window, image.height))
        for start in range(0, len(lefts), at_once):
            group = lefts[start : start + at_once]
            found = maps(_windows(pixels, group, window))[:, 0].float().cpu()
            # Window by window: they overlap, and there are some dozens in a band.
            for left, each in zip(group, found, strict=True):
                total[:, left : left + window] += each
                seen[:, left : left + window] += 1
        done = following - top
        finished = (total[:done] / seen[:done])[: image.height - top, : image.width]
        yield top, pixels[:, :done], finished
        total, seen = (F.pad(each[done:], (0, 0, 0, window - len(each[done:]))) for each in (total, seen))


def _windows(
    pixels: UInt8[Tensor, "3 rows width"], lefts: list[int], window: int
) -> Float[Tensor, "batch 3 {window} {window}"]:
    missing = max(window - pixels.shape[1], 0), max(window - pixels.shape[2], 0)
    band = pixels.float()[None] / 255
    band = F.pad(band, (0, missing[1], 0, missing[0]), mode="replicate")[0] if any(missing) else band[0]
    return torch.stack([band[:, :, left : left + window] for left in lefts])
