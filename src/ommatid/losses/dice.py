"""Soft Dice loss of binary masks."""

from jaxtyping import Bool, Float
from torch import Tensor

Masks = Float[Tensor, "batch 1 height width"]


def dice_loss(
    predicted: Masks, masks: Masks, valid: Bool[Tensor, "batch 1 height width"] | None = None, smooth: float = 1.0
) -> Float[Tensor, ""]:
    """One minus the overlap of predicted and true foreground, as a mean over images (Trans-Net, E9).

    The smoothing in the numerator is doubled with the overlap, as published: the loss of a perfect mask lies a little
    below zero.

    Args:
        predicted: probabilities of the foreground.
        valid: pixels that count; all where None.

    Examples:
        >>> import torch
        >>> mask = torch.ones(1, 1, 10, 10)
        >>> round(float(dice_loss(mask, mask)), 4), round(float(dice_loss(0 * mask, mask)), 4)
        (-0.005, 0.9802)
    """
    predicted, masks = predicted.float(), masks.float()
    if valid is not None:
        predicted, masks = predicted * valid, masks * valid
    overlap = (predicted * masks).sum(dim=(1, 2, 3))
    return 1 - (2 * (overlap + smooth) / (predicted.sum(dim=(1, 2, 3)) + masks.sum(dim=(1, 2, 3)) + smooth)).mean()
