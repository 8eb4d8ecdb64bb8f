"""New pictures of old objects: a foreground on a corner of another picture.

Source: Trans-Net (arXiv:2108.00379), step 9 of docs/methods/trans-net.md.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ommatid.errors import InputError

Images = Float[Tensor, "batch channel height width"]
Masks = Float[Tensor, "batch 1 height width"]


def paste_on_corner(
    images: Images, masks: Masks, backgrounds: Images, side: float = 1 / 3, generator: torch.Generator | None = None
) -> Images:
    """What the masks show, on a corner of each background that is enlarged to the whole.

    Args:
        side: of the corner, as a share of the background's sides.
        generator: draws which corner; torch's global one where None.

    Raises:
        InputError: `side` lies outside (0, 1].

    Examples:
        >>> paste_on_corner(torch.ones(2, 3, 9, 9), torch.zeros(2, 1, 9, 9), torch.zeros(2, 3, 9, 9)).sum()
        tensor(0.)
    """
    if not 0 < side <= 1:
        raise InputError(f"side must lie in (0, 1], found {side}")
    height, width = (max(round(side * length), 1) for length in backgrounds.shape[2:])
    right, low = torch.randint(0, 2, (2, len(backgrounds), 1, 1, 1), generator=generator).to(images.device)
    rows = torch.where(low > 0, backgrounds[:, :, -height:], backgrounds[:, :, :height])
    corners = torch.where(right > 0, rows[..., -width:], rows[..., :width])
    ground = F.interpolate(corners, images.shape[2:], mode="bilinear", align_corners=False)
    return images * masks + ground * (1 - masks)
