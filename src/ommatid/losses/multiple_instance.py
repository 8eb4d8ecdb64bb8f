"""Learning where from labels that only say whether: multiple-instance losses over time, and agreement of attentions.

The forms are those of weakly supervised temporal localisation (equation numbers: DCIN-TEL, docs/methods/dcin-tel.md).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def topk_mean(
    activation: Float[Tensor, "batch time label"], mask: Bool[Tensor, "batch time"], ratio: int = 8
) -> Float[Tensor, "batch label"]:
    """Mean of the `max(1, T // ratio)` highest activations of each class over a sample's valid steps (E10).

    Examples:
        >>> activation = torch.tensor([[[1.0], [5.0], [3.0], [9.0]]])
        >>> topk_mean(activation, torch.tensor([[True, True, True, False]]), ratio=1)
        tensor([[3.]])
    """
    count = (mask.sum(dim=1) // ratio).clamp(min=1)
    ranked = activation.masked_fill(~mask[..., None], float("-inf")).sort(dim=1, descending=True).values
    counted = (torch.arange(activation.shape[1], device=mask.device) < count[:, None])[..., None] & torch.isfinite(
        ranked
    )
    return torch.where(counted, ranked, 0.0).sum(dim=1) / count[:, None]


def mil_bce_loss(
    activation: Float[Tensor, "batch time label"],
    labels: Float[Tensor, "batch label"],
    mask: Bool[Tensor, "batch time"],
    ratio: int = 8,
    weights: Float[Tensor, "batch label"] | None = None,
) -> Float[Tensor, "batch"]:
    """Binary cross-entropy of each class's top-k mean with its label: classes are independent (E10).

    Args:
        activation: logits.
        weights: of each sample's classes; ones where None.
    """
    scores = topk_mean(activation.float(), mask, ratio)
    loss = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    weights = torch.ones_like(loss) if weights is None else weights
    return (loss * weights).sum(dim=1) / weights.sum(dim=1)


def mil_softmax_loss(
    activation: Float[Tensor, "batch time label"],
    labels: Float[Tensor, "batch label"],
    mask: Bool[Tensor, "batch time"],
    ratio: int = 8,
) -> Float[Tensor, "batch"]:
    """Cross-entropy between the softmax over classes of the top-k means and the normalised labels (E12, CO2-Net).

    The last class is the background; `labels` has an entry for it too.
    """
    scores = topk_mean(activation.float(), mask, ratio)
    target = labels / (labels.sum(dim=1, keepdim=True) + 1e-4)
    return -(target * scores.log_softmax(dim=1)).sum(dim=1)


def suppress(
    activation: Float[Tensor, "batch time label"],
    attention: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    over: Literal["time", "labels"] = "time",
) -> Float[Tensor, "batch time label"]:
    """Every class's activations pulled to a floor where attention is low (E11).

    Args:
        over: the floor is each class's minimum over time; "labels" takes each step's minimum over classes instead, as
            the code released for CO2-Net does.

    Examples:
        >>> activation = torch.tensor([[[2.0], [6.0], [0.0]]])
        >>> mask = torch.tensor([[True, True, False]])
        >>> suppress(activation, torch.tensor([[1.0, 0.25, 1.0]]), mask)[0, :, 0]
        tensor([2., 3., 0.])
    """
    if over == "time":
        floor = activation.masked_fill(~mask[..., None], float("inf")).amin(dim=1, keepdim=True)
    else:
        floor = activation.amin(dim=2, keepdim=True)
    return torch.where(mask[..., None], attention[..., None] * (activation - floor) + floor, 0.0)


def mutual_attention_loss(
    first: Float[Tensor, "batch time"], second: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """Each attention moves towards the other, which stands still meanwhile (E14): half the squared error both ways.

    Examples:
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> mutual_attention_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 1.0]]), mask)
        tensor(0.5000)
    """
    valid = mask.to(first.dtype)
    both = (first - second.detach()) ** 2 + (second - first.detach()) ** 2
    return 0.5 * (both * valid).sum() / valid.sum().clamp(min=1)


def background_guide_loss(
    activation: Float[Tensor, "batch time label"],
    attention: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    """Attention and the background class (the last one) must add up to one at every step (CO2-Net)."""
    background = activation.float().softmax(dim=-1)[..., -1]
    valid = mask.to(background.dtype)
    return ((1 - attention - background).abs() * valid).sum() / valid.sum().clamp(min=1)
