"""Random views of a batch of images that gradients flow through."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch channel height width"]


def crop_flip(images: Images, pad: int, flip: bool = True) -> Images:
    """Zero-pad, crop back to the size at a random place, and mirror half of the images; one draw per image.

    Examples:
        >>> crop_flip(torch.rand(4, 3, 16, 16), pad=2).shape
        torch.Size([4, 3, 16, 16])
    """
    count, _, height, width = images.shape
    top, left = (torch.randint(0, 2 * pad + 1, (count, 1), device=images.device) for _ in range(2))
    rows = (top + torch.arange(height, device=images.device))[:, :, None]
    columns = (left + torch.arange(width, device=images.device))[:, None]
    padded = F.pad(images, [pad] * 4).permute(0, 2, 3, 1)
    picked = padded[torch.arange(count, device=images.device)[:, None, None], rows, columns]
    return random_flip(picked.permute(0, 3, 1, 2)) if flip else picked.permute(0, 3, 1, 2)


def resized_crop_flip(
    images: Images,
    scale: tuple[float, float] = (0.25, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> Images:
    """A random part of each image, resized to the whole, and mirrored half of the time; one draw per image.

    Args:
        scale: smallest and largest share of the area.
        ratio: smallest and largest width over height.

    Examples:
        >>> resized_crop_flip(torch.rand(4, 3, 16, 16)).shape
        torch.Size([4, 3, 16, 16])
    """
    draws = torch.rand(4, len(images), device=images.device, dtype=images.dtype)
    area = scale[0] + draws[0] * (scale[1] - scale[0])
    low, high = torch.tensor(ratio).log().tolist()
    aspect = torch.exp(low + draws[1] * (high - low))
    wide, tall = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    shift_x, shift_y = (1 - wide) * (2 * draws[2] - 1), (1 - tall) * (2 * draws[3] - 1)
    nothing = torch.zeros_like(wide)
    theta = torch.stack([wide, nothing, shift_x, nothing, tall, shift_y], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    cropped = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return random_flip(cropped) if flip else cropped


def random_flip(images: Images) -> Images:
    """Mirror each image left to right with probability one half."""
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, images.flip(-1), images)
