"""`world-tissue`: patches of stained tissue with one to three vessels in them, and their exact masks; rendered, seeded.

Tissue is mottled and speckled in the pink of eosin and the violet of haematoxylin. A vessel is an ellipse or a bent
tube of any size. Its speckle is coarser than that of the tissue around it, and it has more or less of either stain,
each vessel for itself; it may be paler, darker, redder or bluer. Its border is blurred by one to two pixels about the
outline, which the mask has sharp. Patches differ in the strength and hue of their stains, in the light behind them and
in their grain, by more than vessels differ from tissue: few patches do not tell what vessels look like.

There are five splits: patches with masks to learn from (`labelled`), patches whose masks are for judging only
(`unlabelled`), a pool of vessels with masks (`source`), and patches to choose and to test with (`val`, `test`).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from ommatid.data.new_folder import new_folder
from ommatid.data.worlds.drawing import grid, save_picture
from ommatid.errors import InputError, unknown

SPLITS = ("labelled", "unlabelled", "source", "val", "test")
EOSIN = (0.14, 0.86, 0.36)
HAEMATOXYLIN = (0.68, 0.62, 0.28)
"""Optical densities of the stains in red, green and blue, at a strength of 1."""
MOST_VESSELS = 3
CONTENT = (0.1, 0.4)
"""How much more or less of a stain a vessel has than the tissue around it."""
TISSUE_GRAIN = (0.5, 1.2)
"""Deviation in pixels of the Gaussian that noise is smoothed by."""
COARSER = (1.2, 1.6)
"""Grain of vessels for that of the tissue."""
MOTTLE = 0.15
"""Deviation of the stain of tissue over some pixels, without a border."""
TILES_ACROSS = 8
"""Of a slide in the format "tiles"."""
# Always whole chunks are drawn, so that a smaller world is the beginning of a larger one.
_CHUNK = 128


@dataclass(frozen=True, eq=False)
class TissuePatches:
    """Patches and what is to be seen in them.

    Attributes:
        vessels: the number of the vessel that a pixel is of, 1 to 3; 0 is tissue.
    """

    images: UInt8[Tensor, "patch 3 height width"]
    vessels: UInt8[Tensor, "patch height width"]

    @property
    def masks(self) -> Bool[Tensor, "patch height width"]:
        """True for pixels whose middle is in a vessel."""
        return self.vessels > 0

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class TissueWorld:
    """Patches of tissue with vessels.

    Attributes:
        labelled, unlabelled, source, val, test: number of patches; none of a split that is not needed, except of those
            that are labelled and for testing. A smaller split is the beginning of a larger one of the same seed.
        size: height and width in pixels.

    Raises:
        InputError: a number of patches is below 0, there are none to learn from or to test with, or the size is below
            16.

    Examples:
        >>> world = TissueWorld(labelled=4, unlabelled=0, source=0, val=0, test=2, size=32)
        >>> patches = world.split("labelled")
        >>> patches.images.shape, patches.masks.dtype
        (torch.Size([4, 3, 32, 32]), torch.bool)
    """

    labelled: int = 10
    unlabelled: int = 500
    source: int = 200
    val: int = 100
    test: int = 200
    size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"labelled": 1, "test": 1, "size": 16}
        for name in (*SPLITS, "size"):
            if getattr(self, name) < least.get(name, 0):
                raise InputError(f"{name} must be at least {least.get(name, 0)}, found {getattr(self, name)}")

    def split(self, name: str) -> TissuePatches:
        """All patches of a split.

        Raises:
            InputError: there is no such split.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        generator = torch.Generator().manual_seed(len(SPLITS) * self.seed + SPLITS.index(name))
        count = getattr(self, name)
        # A few at a time: the renderer holds several floats for every pixel.
        chunks = [_render(self.size, generator) for _ in range(max(math.ceil(count / _CHUNK), 1))]
        images, vessels = zip(*chunks, strict=True)
        return TissuePatches(torch.cat(images)[:count], torch.cat(vessels)[:count])

    def write(self, root: str | Path, format: str = "folder") -> dict[str, int]:
        """Write the world as the files of a segmentation set, beside `root` first and moved there at once.

        Unlabelled patches are training images without a mask, after those with one. The pool of source patches is a
        set of its own in `source/`, in the same format, all to train with.

        | format | files |
        |---|---|
        | `folder` | `{train,val,test}/{images,masks}/<number>.png`, masks of 0 and 255 |
        | `tiles` | `{train,val,test}/{tiles,masks}/<slide>_<x>_<y>.png`, a new slide after 64 tiles |
        | `pairs` | `Images/`, `Labels/` and `{train,val,test}.txt` with an image and its mask a line |
        | `glas` | `train_<n>.bmp`, `testA_<n>.bmp` and `<name>_anno.bmp` with numbers of vessels; it has no `val` |

        Returns:
            Number of patches of every split that was written.

        Raises:
            InputError: the folder is not empty or cannot be written, or the format is unknown.
        """
        if format not in FORMATS:
            raise unknown("format of world-tissue", format, FORMATS)
        written = [name for name in SPLITS if getattr(self, name) and not (name == "val" and format == "glas")]
        with new_folder(root) as aside:
            parts: dict[str, list[Patch]] = {}
            for name in written:
                parts.setdefault("train" if name in ("labelled", "unlabelled") else name, []).extend(
                    _patches(self.split(name), masked=name != "unlabelled")
                )
            source = parts.pop("source", [])
            FORMATS[format](aside, parts)
            if source:
                FORMATS[format](aside / "source", {"train": source})
        return {name: getattr(self, name) for name in written}


Patch = tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"] | None]
"""The picture and the vessels of a patch, none where it is unlabelled."""


# Rendering.


def _render(
    size: int, generator: torch.Generator
) -> tuple[UInt8[Tensor, "patch 3 size size"], UInt8[Tensor, "patch size size"]]:
    """One chunk of patches; the order of the draws is what a seed stands for."""

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(_CHUNK, *shape, generator=generator)

    def speckle(grain: Float[Tensor, "patch"]) -> Float[Tensor, "patch size size"]:
        return _smoothed(torch.randn(_CHUNK, size, size, generator=generator), grain, normed=True)

    vessels = _vessels(size, draw)
    border = draw(1.0, 2.0)
    parts = torch.stack([_smoothed((vessels == number + 1).float(), border) for number in range(MOST_VESSELS)], dim=1)
    vessel = parts.sum(dim=1)
    content = (2 * (draw(0.0, 1.0, 2, MOST_VESSELS) < 0.5) - 1) * draw(*CONTENT, 2, MOST_VESSELS)

    grain = draw(*TISSUE_GRAIN)
    coarse, wide, amount = grain * draw(*COARSER), draw(4.0, 10.0), draw(0.2, 0.4, 2)
    density = []
    for stain, strength in enumerate((draw(0.35, 0.9), draw(0.1, 0.6))):
        speckles = amount[:, stain, None, None] * ((1 - vessel) * speckle(grain) + vessel * speckle(coarse))
        mottle = MOTTLE * (1 - vessel) * speckle(wide)
        full = einsum(parts, content[:, stain], "n v h w, n v -> n h w")
        density.append(strength[:, None, None] * (1 + full + mottle + speckles).clamp(min=0))
    stains = torch.tensor([EOSIN, HAEMATOXYLIN]) * (1 + draw(-0.25, 0.25, 2, 3))
    optical = einsum(torch.stack(density, dim=1), stains, "n s h w, n s c -> n c h w")
    images = draw(0.85, 1.0)[:, None, None, None] * torch.exp(-optical)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8), vessels


def _vessels(size: int, draw: Callable[..., Tensor]) -> UInt8[Tensor, "patch size size"]:
    """The number of the vessel that the middle of a pixel is in; a later one lies over an earlier one.

    The unit of lengths is half the side of a patch, as in the frame from -1 to 1.
    """
    there = torch.arange(MOST_VESSELS) <= draw(0.0, float(MOST_VESSELS))[:, None]
    centre, turn = draw(-0.7, 0.7, MOST_VESSELS, 2), draw(0.0, math.pi, MOST_VESSELS)
    tube = draw(0.0, 1.0, MOST_VESSELS) < 0.5
    wide, flat = draw(0.2, 0.6, MOST_VESSELS), draw(0.5, 1.0, MOST_VESSELS)
    long, thick, bend = draw(0.5, 1.2, MOST_VESSELS), draw(0.1, 0.25, MOST_VESSELS), draw(-0.8, 0.8, MOST_VESSELS)

    x, y = grid(size)
    x, y = x - centre[..., 0, None, None], y - centre[..., 1, None, None]
    cos, sin = turn.cos()[..., None, None], turn.sin()[..., None, None]
    along, across = cos * x + sin * y, cos * y - sin * x
    ellipse = torch.hypot(along / wide[..., None, None], across / (wide * flat)[..., None, None]) < 1
    # About the distance to a parabola, and to its end where a pixel lies beyond it.
    inner = along.clamp(-long[..., None, None], long[..., None, None])
    slope = 2 * bend[..., None, None] * inner
    off = (across - bend[..., None, None] * inner**2) / torch.sqrt(1 + slope**2)
    bent = torch.hypot(off, along - inner) < thick[..., None, None]
    inside = torch.where(tube[..., None, None], bent, ellipse) & there[..., None, None]
    numbers = torch.arange(1, MOST_VESSELS + 1, dtype=torch.uint8)[:, None, None]
    return (inside * numbers).amax(dim=1)


def _smoothed(
    maps: Float[Tensor, "patch height width"], sigma: Float[Tensor, "patch"], normed: bool = False
) -> Float[Tensor, "patch height width"]:
    """Every map blurred by a Gaussian of its own deviation in pixels; weights beyond the border go to those within.

    Args:
        normed: weights of noise instead, that keep its variance.
    """
    place = torch.arange(maps.shape[-1], dtype=torch.float32)
    weights = torch.exp(-0.5 * ((place - place[:, None]) / sigma[:, None, None]) ** 2)
    weights = weights / (weights.square().sum(dim=-1, keepdim=True).sqrt() if normed else weights.sum(-1, keepdim=True))
    return weights @ maps @ weights.mT


# Files.


def _patches(patches: TissuePatches, masked: bool) -> list[Patch]:
    pictures, vessels = patches.images.permute(0, 2, 3, 1).contiguous().numpy(), patches.vessels.numpy()
    return [(picture, vessel if masked else None) for picture, vessel in zip(pictures, vessels, strict=True)]


def _mask(vessels: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    return (vessels > 0).astype(np.uint8) * np.uint8(255)


def _write_folder(root: Path, parts: Mapping[str, list[Patch]]) -> None:
    for part, patches in parts.items():
        _write_named(root / part if len(parts) > 1 else root, "images", patches, _numbers(part))


def _write_tiles(root: Path, parts: Mapping[str, list[Patch]]) -> None:
    for part, patches in parts.items():
        _write_named(root / part if len(parts) > 1 else root, "tiles", patches, _places(part, len(patches[0][0])))


def _write_named(folder: Path, images: str, patches: list[Patch], names: Iterator[str]) -> None:
    for (picture, vessels), name in zip(patches, names, strict=False):
        save_picture(picture, folder / images / f"{name}.png")
        if vessels is not None:
            save_picture(_mask(vessels), folder / "masks" / f"{name}.png")


def _numbers(part: str) -> Iterator[str]:
    number = 0
    while True:
        yield f"{part}_{number:05d}"
        number += 1


def _places(part: str, size: int) -> Iterator[str]:
    """Slides are of one part each, so that none is in two."""
    number = 0
    while True:
        slide, place = divmod(number, TILES_ACROSS**2)
        row, column = divmod(place, TILES_ACROSS)
        yield f"{part}{slide:02d}_{column * size:04d}_{row * size:04d}"
        number += 1


def _write_pairs(root: Path, parts: Mapping[str, list[Patch]]) -> None:
    for part, patches in parts.items():
        lines = []
        for (picture, vessels), name in zip(patches, _numbers(part), strict=False):
            words = [f"Images/{name}.png"]
            save_picture(picture, root / words[0])
            if vessels is not None:
                words.append(f"Labels/{name}.png")
                save_picture(_mask(vessels), root / words[1])
            lines.append(" ".join(words))
        (root / f"{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_glas(root: Path, parts: Mapping[str, list[Patch]]) -> None:
    for part, patches in parts.items():
        name = {"train": "train", "test": "testA"}[part]
        for number, (picture, vessels) in enumerate(patches, start=1):
            save_picture(picture, root / f"{name}_{number}.bmp")
            if vessels is not None:
                save_picture(vessels, root / f"{name}_{number}_anno.bmp")


FORMATS: dict[str, Callable[[Path, Mapping[str, list[Patch]]], None]] = {
    "folder": _write_folder,
    "tiles": _write_tiles,
    "pairs": _write_pairs,
    "glas": _write_glas,
}
