"""Random changes of colour and sharpness of a batch, one draw per image."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch 3 height width"]
TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def jitter_colours(
    images: Images,
    brightness: float = 0.8,
    contrast: float = 0.8,
    saturation: float = 0.8,
    hue: float = 0.2,
    share: float = 1.0,
) -> Images:
    """Brightness, contrast, saturation and hue changed at random, in this order, in a share of the images.

    The hue is turned around the grey axis, which needs no other colour space than a linear one.

    Args:
        brightness, contrast, saturation: a factor is drawn from 1 minus this, at least 0, to 1 plus it.
        hue: largest turn, as a share of a whole one.

    Examples:
        >>> jitter_colours(torch.rand(4, 3, 8, 8)).shape
        torch.Size([4, 3, 8, 8])
    """

    def factor(width: float) -> Tensor:
        low = max(0.0, 1 - width)
        return low + (1 + width - low) * torch.rand(len(images), 1, 1, 1, device=images.device)

    changed = (images * factor(brightness)).clamp(0, 1)
    middle = _grey(changed).mean(dim=(2, 3), keepdim=True)
    changed = (middle + factor(contrast) * (changed - middle)).clamp(0, 1)
    grey = _grey(changed)
    changed = (grey + factor(saturation) * (changed - grey)).clamp(0, 1)
    changed = _turned(changed, hue * (2 * torch.rand(len(images), device=images.device) - 1))
    return _in_some(images, changed, share)


def random_grey(images: Images, share: float = 0.2) -> Images:
    """A share of the images without colour.

    Examples:
        >>> grey = random_grey(torch.rand(2, 3, 4, 4), share=1.0)
        >>> bool((grey[:, 0] == grey[:, 2]).all())
        True
    """
    return _in_some(images, _grey(images).expand_as(images), share)


def random_blur(images: Images, share: float = 0.2, sigma: tuple[float, float] = (1.0, 2.0)) -> Images:
    """A share of the images blurred by a Gaussian of 3 x 3 pixels, whose width is drawn.

    Examples:
        >>> random_blur(torch.ones(2, 3, 4, 4), share=1.0).allclose(torch.ones(1))
        True
    """
    width = sigma[0] + (sigma[1] - sigma[0]) * torch.rand(len(images), device=images.device)
    side = torch.exp(-0.5 / width.square())
    kernel = torch.stack([side, torch.ones_like(side), side], dim=1) / (1 + 2 * side)[:, None]
    # Each image has a kernel of its own: images stand in for channels.
    planes = F.pad(images, [1, 1, 1, 1], mode="reflect").transpose(0, 1)
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=len(images))
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=len(images))
    return _in_some(images, planes.transpose(0, 1), share)


def _grey(images: Images) -> Float[Tensor, "batch 1 height width"]:
    weights = torch.tensor(TO_YIQ[0], device=images.device, dtype=images.dtype)
    return torch.einsum("bchw,c->bhw", images, weights)[:, None]


def _turned(images: Images, turns: Float[Tensor, "batch"]) -> Images:
    to_yiq = torch.tensor(TO_YIQ, device=images.device, dtype=images.dtype)
    angle = 2 * math.pi * turns
    one, none = torch.ones_like(angle), torch.zeros_like(angle)
    rows = [[one, none, none], [none, angle.cos(), -angle.sin()], [none, angle.sin(), angle.cos()]]
    turn = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    whole = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("bcd,bdhw->bchw", whole, images).clamp(0, 1)


def _in_some(images: Images, changed: Images, share: float) -> Images:
    chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < share
    return torch.where(chosen, changed, images)
