"""What worlds of drawn scenes share: pixel coordinates, a shape's own frame, and colours."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor


def save_picture(pixels: UInt8[np.ndarray, "height width *channel"], path: Path) -> None:
    """Write a picture into a folder that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def grid(size: int) -> tuple[Float[Tensor, "size size"], Float[Tensor, "size size"]]:
    """Across and down, from -1 to 1 between the borders, at the middles of pixels.

    Examples:
        >>> grid(2)[0].tolist()
        [[-0.5, 0.5], [-0.5, 0.5]]
    """
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def own_frame(
    poses: Float[Tensor, "scene 4"], size: int
) -> tuple[Float[Tensor, "scene size size"], Float[Tensor, "scene size size"]]:
    """Coordinates of every pixel in a shape's own frame, of which it fills (-1, 1).

    Args:
        poses: centre across and down and half size, in halves of the picture's side, and turn (radians, clockwise).

    Examples:
        >>> u, v = own_frame(torch.tensor([[0.5, 0.0, 0.5, 0.0]]), 4)
        >>> u[0, 0].tolist()
        [-2.5, -1.5, -0.5, 0.5]
    """
    x, y = grid(size)
    left, top, half, angle = (each[:, None, None] for each in poses.unbind(-1))
    x, y = (x - left) / half, (y - top) / half
    return angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x


def rgb(
    hue: Float[Tensor, "scene"], saturation: float | Tensor, value: Float[Tensor, "scene"]
) -> Float[Tensor, "scene 3"]:
    """Colours of HSV; hues repeat after 1.

    Examples:
        >>> rgb(torch.tensor([0.0]), 1.0, torch.tensor([1.0])).tolist()
        [[1.0, 0.0, 0.0]]
    """
    sixth = (torch.tensor([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    if isinstance(saturation, Tensor):
        saturation = saturation[:, None]
    return value[:, None] * (1 - saturation * torch.minimum(sixth, 4 - sixth).clamp(0, 1))
