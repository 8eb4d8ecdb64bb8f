"""Gaussian blur with a width of its own for every image of a batch."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def gaussian_blur(
    images: Float[Tensor, "batch channel height width"],
    sigma: float | Float[Tensor, "batch"],
    widest: float | None = None,
) -> Float[Tensor, "batch channel height width"]:
    """Images convolved with Gaussians; their border is continued beyond it.

    Args:
        sigma: standard deviation in pixels, one for all images or one for each; 0 leaves an image as it is.
        widest: no sigma is larger. Needed where sigmas are a tensor: the size of the kernel must not wait for them.

    Examples:
        >>> images = torch.zeros(2, 1, 9, 9)
        >>> images[:, :, 4, 4] = 1.0
        >>> blurred = gaussian_blur(images, torch.tensor([0.0, 1.0]), widest=1.0)
        >>> blurred[:, 0, 4, 4]
        tensor([1.0000, 0.1592])
    """
    batch, channels = images.shape[:2]
    if isinstance(sigma, Tensor):
        largest = float(sigma.max()) if widest is None else widest
        widths = sigma.to(images.dtype)
    else:
        largest, widths = sigma, images.new_full((batch,), sigma)
    # Beyond three deviations there is next to nothing. Borders are continued, so that any image is wide enough.
    radius = max(math.ceil(3 * largest), 1)
    position = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    bell = torch.exp(-((position / widths.clamp(min=1e-3)[:, None]) ** 2) / 2)
    bell = (bell / bell.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    rows = rearrange(images, "b c h w -> 1 (b c) h w")
    for kernel, border in (
        (bell[:, None, None, :], (radius, radius, 0, 0)),
        (bell[:, None, :, None], (0, 0, radius, radius)),
    ):
        rows = F.conv2d(F.pad(rows, border, mode="replicate"), kernel, groups=batch * channels)
    return rearrange(rows, "1 (b c) h w -> b c h w", b=batch)
