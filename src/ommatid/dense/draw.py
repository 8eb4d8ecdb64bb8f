"""Pictures of the field: an image with its foreground lit."""

import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from ommatid.dense.windows import tiff_library
from ommatid.files import write_aside
from ommatid.nn.morphology import edge_band

LIGHT = (0.98, 0.75, 0.15)
DIMMED, EDGE = 0.45, 3
MOST_PIXELS = 50_000_000


def lit(image: Float[Tensor, "3 height width"], mask: Bool[Tensor, "height width"]) -> UInt8[Tensor, "height width 3"]:
    """The image, darker outside the mask, and a bright line along its edge.

    Examples:
        >>> lit(torch.ones(3, 8, 8), torch.ones(8, 8, dtype=torch.bool)).float().mean()
        tensor(255.)
    """
    shown = image.float().cpu().clamp(0, 1) * (DIMMED + (1 - DIMMED) * mask.cpu())
    band = edge_band(mask.cpu().float()[None, None], EDGE)[0, 0] > 0
    shown = torch.where(band, torch.tensor(LIGHT)[:, None, None], shown)
    return (shown * 255).round().to(torch.uint8).permute(1, 2, 0)


def draw_mask(image: Float[Tensor, "3 height width"], mask: Bool[Tensor, "height width"], path: Path) -> None:
    """`lit` as a picture file."""
    _save(lit(image, mask).numpy(), path)


def save_mask(mask: UInt8[Tensor, "height width"], path: Path) -> None:
    """A mask or label map as a PNG file, its values as they are."""
    _save(mask.cpu().numpy(), path)


def save_large_mask(masks: Iterable[Bool[Tensor, "_ width"]], size: tuple[int, int], path: Path) -> Path:
    """A mask that comes row by row: `<name>.mask.png`, and from `MOST_PIXELS` on `.tif`, which is written in parts.

    Raises:
        MissingDependency: tifffile, which writes the latter, is not installed.
    """
    if size[0] * size[1] < MOST_PIXELS:
        place = path.with_suffix(".mask.png")
        save_mask(torch.cat(list(masks)).to(torch.uint8) * 255, place)
        return place
    tifffile, place = tiff_library(path), path.with_suffix(".mask.tif")
    strips = ((part.to(torch.uint8) * 255).numpy() for part in masks)
    write_aside(place, lambda aside: _write_strips(tifffile, aside, strips, size))
    return place


def _write_strips(tifffile: Any, path: Path, strips: Iterator[np.ndarray], size: tuple[int, int]) -> None:
    """Compressed here: of arrays that come one by one tifffile takes whole pages or tiles, no strips."""
    first = next(strips)
    packed = (zlib.compress(np.ascontiguousarray(strip).tobytes()) for strip in chain([first], strips))
    with tifffile.TiffWriter(path) as file:
        file.write(packed, shape=size, dtype=np.uint8, rowsperstrip=len(first), compression="zlib")


def _save(pixels: np.ndarray, path: Path) -> None:
    write_aside(path, lambda aside: Image.fromarray(pixels).save(aside, format="PNG"))
