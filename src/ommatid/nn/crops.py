"""Random crops of a batch as boxes, and all crops of a batch taken at once."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from ommatid.errors import InputError

TRIES = 10
"""Crops drawn for each one wanted, since a long one may not fit into its region."""


def whole_box(height: int, width: int, device: torch.device | None = None) -> Float[Tensor, "4"]:
    """The box of a whole image."""
    return torch.tensor([0, 0, height, width], device=device, dtype=torch.float32)


def random_crop_boxes(
    regions: Float[Tensor, "*crop 4"],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    smallest: Float[Tensor, "*crop"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*crop 4"]:
    """One random part of every region, by the rule of torchvision's RandomResizedCrop, without rounding to pixels.

    Args:
        regions: boxes (top, left, height, width).
        scale: smallest and largest share of the region's area.
        ratio: smallest and largest width over height.
        smallest: the smallest share for each region, in place of `scale[0]`.
        generator: draws on its own device; the global one of the regions' device where None.

    Raises:
        InputError: a bound of scale or ratio is not positive, or the lower one is the larger.

    Examples:
        >>> regions = whole_box(48, 48).expand(5, 4)
        >>> boxes = random_crop_boxes(regions, generator=torch.Generator().manual_seed(0))
        >>> boxes.shape, bool((boxes[:, :2] + boxes[:, 2:] <= 48).all())
        (torch.Size([5, 4]), True)
    """
    for name, (low, high) in {"scale": scale, "ratio": ratio}.items():
        if not 0 < low <= high:
            raise InputError(f"{name}: found {low} to {high}, expected two positive numbers in order")
    device = generator.device if generator is not None else regions.device
    draws = torch.rand(*regions.shape[:-1], 2 * TRIES + 2, device=device, generator=generator).to(regions)
    top, left, height, width = regions.unbind(-1)
    least = torch.as_tensor(scale[0]).to(regions) if smallest is None else smallest
    share = least[..., None] + (scale[1] - least[..., None]) * draws[..., :TRIES]
    # The logarithm of the ratio is drawn, so that upright and lying crops are equally likely.
    bounds = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(bounds[0] + (bounds[1] - bounds[0]) * draws[..., TRIES:-2])
    area = share * (height * width)[..., None]
    wide, tall = (area * aspect).sqrt(), (area / aspect).sqrt()
    fits = (wide <= width[..., None]) & (tall <= height[..., None])
    first = fits.int().argmax(dim=-1, keepdim=True)
    # Where none fits: the largest middle part of an allowed shape.
    most_wide = torch.minimum(width, height * ratio[1])
    most_tall = torch.minimum(height, width / ratio[0])
    found = fits.any(dim=-1)
    wide = torch.where(found, wide.gather(-1, first)[..., 0], most_wide)
    tall = torch.where(found, tall.gather(-1, first)[..., 0], most_tall)
    down = torch.where(found, draws[..., -2], 0.5) * (height - tall)
    across = torch.where(found, draws[..., -1], 0.5) * (width - wide)
    return torch.stack([top + down, left + across, tall, wide], dim=-1)


def take_crops(
    images: Float[Tensor, "image channel height width"],
    boxes: Float[Tensor, "image crop 4"],
    size: int,
    mirrored: Bool[Tensor, "image crop"] | None = None,
) -> Float[Tensor, "image crop channel size size"]:
    """Every box of every image, resized bilinearly to `size`, by one call of grid_sample.

    Args:
        boxes: top, left, height and width in pixels, which need not be whole.
        mirrored: crops that are turned left to right.

    Examples:
        >>> image = torch.arange(16.0).view(1, 1, 4, 4)
        >>> take_crops(image, torch.tensor([[[0.0, 2.0, 2.0, 2.0]]]), size=2)[0, 0, 0]
        tensor([[2., 3.],
                [6., 7.]])
    """
    height, width = images.shape[2:]
    steps = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size
    across = steps.expand(*boxes.shape[:2], size)
    if mirrored is not None:
        across = torch.where(mirrored[..., None], 1 - across, across)
    top, left, tall, wide = (each[..., None] for each in boxes.unbind(-1))
    # From -1 to 1 between the borders of the image.
    y = 2 * (top + tall * steps) / height - 1
    x = 2 * (left + wide * across) / width - 1
    grid = torch.stack(torch.broadcast_tensors(x[..., None, :], y[..., :, None]), dim=-1)
    grid = rearrange(grid, "image crop row column xy -> image (crop row) column xy")
    crops = F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False)
    return rearrange(crops, "image c (crop row) column -> image crop c row column", row=size)


def overlap(boxes: Float[Tensor, "*#box 4"], others: Float[Tensor, "*#box 4"]) -> Float[Tensor, "*#box"]:
    """Intersection over union of pairs of boxes (top, left, height, width), broadcast.

    Examples:
        >>> overlap(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 1.0, 2.0, 2.0]]))
        tensor([0.3333])
    """
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., :2] + boxes[..., 2:], others[..., :2] + others[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    return shared / (boxes[..., 2:].prod(dim=-1) + others[..., 2:].prod(dim=-1) - shared).clamp(min=1e-12)
