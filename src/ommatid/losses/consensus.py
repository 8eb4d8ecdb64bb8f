"""Two views of the same time line should agree on where something happens (DCIN-TEL, arXiv:2208.01954, E13-E16)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

TINY = 1e-8


def temporal_consensus_loss(
    first: Float[Tensor, "batch time label"],
    second: Float[Tensor, "batch time label"],
    labels: Float[Tensor, "batch label"],
    mask: Bool[Tensor, "batch time"],
    kind: Literal["js", "kl"] = "js",
) -> Float[Tensor, ""]:
    """Divergence of two distributions over time, mean over the classes that occur (E13).

    Args:
        first, second: logits; the softmax over valid steps is taken here.
        labels: 1 for classes that occur.
        kind: Jensen-Shannon, or the symmetric Kullback-Leibler divergence.

    Examples:
        >>> mask, labels = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 1)
        >>> curve = torch.tensor([[[0.0], [1.0], [2.0]]])
        >>> temporal_consensus_loss(curve, curve + 5, labels, mask)
        tensor(0.)
    """
    p, q = over_time(first, mask), over_time(second, mask)
    middle = (p + q) / 2
    divergence = _kl(p, middle) + _kl(q, middle) if kind == "js" else _kl(p, q) + _kl(q, p)
    return (divergence / 2 * labels).sum() / labels.sum().clamp(min=1)


def over_time(
    logits: Float[Tensor, "batch time label"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time label"]:
    """Softmax over the valid steps; 0 where padded."""
    return logits.float().masked_fill(~mask[..., None], float("-inf")).softmax(dim=1).nan_to_num(0.0)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * ((p + TINY).log() - (q + TINY).log())).sum(dim=1)


def agreement_pseudo_labels(
    first: Float[Tensor, "batch time label"],
    second: Float[Tensor, "batch time label"],
    labels: Float[Tensor, "batch label"],
    mask: Bool[Tensor, "batch time"],
    high: float = 1.2,
    low: float = 0.8,
) -> tuple[Float[Tensor, "batch time label"], Float[Tensor, "batch time label"]]:
    """Labels for single steps where two distributions over time agree, and the weight of each (E15).

    A step is positive for a class that occurs where both lie above `high / T`, negative where both lie below `low / T`,
    and has no weight in between; for a class that does not occur every step is negative.

    Args:
        first, second: distributions over time (`over_time`).

    Examples:
        >>> peaked, flat = torch.tensor([[[0.8], [0.1], [0.1]]]), torch.full((1, 3, 1), 1 / 3)
        >>> mask = torch.ones(1, 3, dtype=torch.bool)
        >>> positive, weight = agreement_pseudo_labels(peaked, peaked, torch.ones(1, 1), mask)
        >>> positive[0, :, 0].tolist(), weight[0, :, 0].tolist()
        ([1.0, 0.0, 0.0], [1.0, 1.0, 1.0])
        >>> agreement_pseudo_labels(peaked, flat, torch.ones(1, 1), mask)[1].sum()
        tensor(0.)
    """
    uniform = 1 / mask.sum(dim=1).clamp(min=1)[:, None, None]
    lower, upper = torch.minimum(first, second), torch.maximum(first, second)
    occurs = labels[:, None] > 0
    positive = occurs & (lower > high * uniform)
    negative = ~occurs | (upper < low * uniform)
    weight = (positive | negative) & mask[..., None]
    return positive.to(first.dtype), weight.to(first.dtype)


def aligned_contrast(
    first: Float[Tensor, "batch time dim"],
    second: Float[Tensor, "batch time dim"],
    mask: Bool[Tensor, "batch time"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """InfoNCE both ways between two sequences: a step belongs to its counterpart and to no other (E16).

    Examples:
        >>> codes = torch.eye(4)[None]
        >>> bool(aligned_contrast(codes, codes, torch.ones(1, 4, dtype=torch.bool)) < 1e-3)
        True
    """
    similarity = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).transpose(1, 2) / temperature
    similarity = similarity.masked_fill(~mask[:, None], float("-inf"))
    there = similarity.log_softmax(dim=2).diagonal(dim1=1, dim2=2)
    back = similarity.transpose(1, 2).masked_fill(~mask[:, None], float("-inf")).log_softmax(dim=2)
    both = torch.where(mask, there + back.diagonal(dim1=1, dim2=2), 0.0)
    return -0.5 * both.sum() / mask.sum().clamp(min=1)
