"""Views of one sample: whatever moves the pixels moves all maps, and turns what points somewhere."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.data.surface_samples import IGNORE, SurfaceSample

MEAN_COLOUR = (122.7 / 255, 116.7 / 255, 104.0 / 255)
"""Of the photographs that the weights of Caffe's networks were trained with."""


def flipped(sample: SurfaceSample, negate_x: bool = True) -> SurfaceSample:
    """Left and right exchanged.

    Args:
        negate_x: so that normals point to where their surfaces now do; False leaves them, as the authors' code does.
    """
    normals = sample.normals.flip(-1)
    if negate_x:
        normals = normals * normals.new_tensor([-1.0, 1.0, 1.0])[:, None, None]
    depth = None if sample.depth is None else sample.depth.flip(-1)
    return replace(sample, image=sample.image.flip(-1), semantic=sample.semantic.flip(-1), normals=normals, depth=depth)


def scaled(sample: SurfaceSample, factor: float) -> SurfaceSample:
    """Resized: colours bilinearly, all else by the nearest pixel; what looks larger is as much nearer."""
    size = [max(1, int(side * factor)) for side in sample.semantic.shape]
    image = F.interpolate(sample.image[None], size, mode="bilinear", align_corners=False)[0]
    semantic = F.interpolate(sample.semantic[None, None].float(), size, mode="nearest-exact")[0, 0].long()
    normals = F.interpolate(sample.normals[None], size, mode="nearest-exact")[0]
    depth = None
    if sample.depth is not None:
        depth = F.interpolate(sample.depth[None], size, mode="nearest-exact")[0] / factor
    return replace(sample, image=image, semantic=semantic, normals=normals, depth=depth)


def rotated(sample: SurfaceSample, degrees: float, fill: tuple[float, float, float] = MEAN_COLOUR) -> SurfaceSample:
    """Turned counterclockwise about the middle in its frame; x and y of the normals, y up, turn along.

    Args:
        fill: colour of what comes into view.
    """
    angle = torch.deg2rad(torch.tensor(degrees))
    cosine, sine = angle.cos(), angle.sin()
    height, width = sample.semantic.shape
    y, x = torch.meshgrid(
        torch.arange(float(height)) - (height - 1) / 2, torch.arange(float(width)) - (width - 1) / 2, indexing="ij"
    )
    # Where a pixel's content comes from; y runs down here.
    source = torch.stack([(cosine * x - sine * y) * 2 / width, (sine * x + cosine * y) * 2 / height], dim=-1)[None]

    def moved(maps: Tensor, mode: str) -> Tensor:
        return F.grid_sample(maps[None].float(), source, mode=mode, align_corners=False)[0]

    inside = moved(torch.ones(1, height, width), "nearest") > 0
    colour = sample.image.new_tensor(fill)[:, None, None]
    # The distance to the fill is moved: beyond the border it is 0.
    image = moved(sample.image - colour, "bilinear") + colour
    semantic = moved(sample.semantic[None], "nearest").long().where(inside, IGNORE)[0]
    right, up, ahead = moved(sample.normals, "nearest")
    normals = torch.stack([cosine * right - sine * up, sine * right + cosine * up, ahead])
    depth = None if sample.depth is None else moved(sample.depth, "nearest")
    return replace(sample, image=image, semantic=semantic, normals=normals, depth=depth)


def cropped(
    sample: SurfaceSample,
    top: int,
    left: int,
    height: int,
    width: int,
    fill: tuple[float, float, float] = MEAN_COLOUR,
) -> SurfaceSample:
    """A part of the image; what lies beyond its lower and right border has the colour `fill` and no labels."""
    sides = [0, max(0, left + width - sample.semantic.shape[1]), 0, max(0, top + height - sample.semantic.shape[0])]

    def part(maps: Tensor, value: float = 0.0) -> Tensor:
        return F.pad(maps, sides, value=value)[..., top : top + height, left : left + width]

    colour = sample.image.new_tensor(fill)[:, None, None]
    depth = None if sample.depth is None else part(sample.depth)
    return replace(
        sample,
        image=part(sample.image - colour) + colour,
        semantic=part(sample.semantic, float(IGNORE)),
        normals=part(sample.normals),
        depth=depth,
    )


@dataclass(frozen=True)
class RandomView:
    """Random scale, mirror image, turn, and crop, of an image and all its maps alike (the augmentation of NDDR-CNN).

    Args:
        size: height and width of the crop.
        scales: least and largest scale.
        flip: probability of the mirror image.
        degrees: largest turn to either side; the authors turn nothing.
        negate_x: see `flipped`.
        fill: colour of what lies beyond the image.

    Examples:
        >>> blank = SurfaceSample(
        ...     torch.rand(3, 40, 60), torch.zeros(40, 60, dtype=torch.long), torch.zeros(3, 40, 60), None, "1"
        ... )
        >>> RandomView((32, 32))(blank, torch.Generator().manual_seed(0)).image.shape
        torch.Size([3, 32, 32])
    """

    size: tuple[int, int] = (321, 321)
    scales: tuple[float, float] = (0.5, 1.5)
    flip: float = 0.5
    degrees: float = 0.0
    negate_x: bool = True
    fill: tuple[float, float, float] = MEAN_COLOUR

    def __call__(self, sample: SurfaceSample, generator: torch.Generator) -> SurfaceSample:
        scale, mirror, turn, down, across = torch.rand(5, generator=generator).tolist()
        low, high = self.scales
        if low != 1 or high != 1:
            sample = scaled(sample, low + (high - low) * scale)
        if mirror < self.flip:
            sample = flipped(sample, self.negate_x)
        if self.degrees:
            sample = rotated(sample, self.degrees * (2 * turn - 1), self.fill)
        spare = [max(0, had - wanted) for had, wanted in zip(sample.semantic.shape, self.size, strict=True)]
        top, left = (int(share * (rest + 1)) for share, rest in zip((down, across), spare, strict=True))
        return cropped(sample, top, left, *self.size, self.fill)
