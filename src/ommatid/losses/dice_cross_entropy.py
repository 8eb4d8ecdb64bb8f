"""Soft Dice and cross-entropy of label maps with many classes, on one scale or several (DeepStationing, E4)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

UNKNOWN = 255
"""Label of voxels that teach nothing."""
SMOOTH = 1e-5

Logits = Float[Tensor, "batch class *space"]
Labels = Int[Tensor, "batch *space"]


def soft_dice_loss(logits: Logits, labels: Labels, smooth: float = SMOOTH) -> Float[Tensor, ""]:
    """One minus the overlap of probabilities with labels, as a mean over volumes and foreground classes.

    Class 0 is background and has no part. A class that a volume does not have costs one as soon as a trace of it is
    predicted: what holds it back is cross-entropy.

    Args:
        labels: 255 where unknown; such voxels do not count.
        smooth: what keeps classes apart from nothing: one neither predicted nor there costs 0.

    Examples:
        >>> labels = torch.tensor([[0, 1, 1, 2]])
        >>> sure = 50.0 * F.one_hot(labels, 3).mT.float()
        >>> round(float(soft_dice_loss(sure, labels)), 4), round(float(soft_dice_loss(-sure, labels)), 4)
        (0.0, 1.0)
    """
    probs = rearrange(logits.float().softmax(dim=1), "b c ... -> b c (...)")[:, 1:]
    labels = rearrange(labels, "b ... -> b (...)")
    known = (labels != UNKNOWN)[:, None]
    truth = (labels[:, None] == torch.arange(1, logits.shape[1], device=labels.device)[:, None]).to(probs)
    overlap, total = (probs * truth).sum(dim=2), (probs * known).sum(dim=2) + truth.sum(dim=2)
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean()


def label_cross_entropy(logits: Logits, labels: Labels) -> Float[Tensor, ""]:
    """Mean over voxels that have a class; 0 where none has.

    Examples:
        >>> label_cross_entropy(torch.zeros(1, 2, 1, 1), torch.tensor([[[255]]]))
        tensor(0.)
    """
    total = F.cross_entropy(logits.float(), labels.long(), ignore_index=UNKNOWN, reduction="sum")
    return total / (labels != UNKNOWN).sum().clamp(min=1)


def dice_cross_entropy(logits: Logits, labels: Labels) -> Float[Tensor, ""]:
    """Both, added (E4)."""
    return soft_dice_loss(logits, labels) + label_cross_entropy(logits, labels)


def deeply_supervised(
    outputs: Sequence[Float[Tensor, "batch class *_"]],
    labels: Labels,
    loss: Callable[[Tensor, Tensor], Tensor] = dice_cross_entropy,
) -> Float[Tensor, ""]:
    """A loss on every scale, with weights 1, 1/2, 1/4, ... that add up to one (E4).

    Args:
        outputs: logits, the finest first; labels of coarser ones are those of the nearest voxels.

    Examples:
        >>> labels = torch.tensor([[0, 0, 1, 1]])
        >>> fine, coarse = torch.zeros(1, 2, 4), torch.zeros(1, 2, 2)
        >>> count = lambda logits, labels: torch.tensor(float(labels.numel()))
        >>> deeply_supervised([fine, coarse], labels, count)
        tensor(3.3333)
    """
    weights = torch.tensor([0.5**scale for scale in range(len(outputs))])
    losses = torch.stack([loss(logits, nearest_labels(labels, logits.shape[2:])) for logits in outputs])
    return (losses * (weights / weights.sum()).to(losses)).sum()


def nearest_labels(labels: Labels, size: Sequence[int]) -> Int[Tensor, "batch *_"]:
    """Labels on a coarser grid."""
    if labels.shape[1:] == tuple(size):
        return labels
    # Classes up to 255 are exact in single precision.
    return F.interpolate(labels[:, None].float(), tuple(size), mode="nearest")[:, 0].to(labels.dtype)
