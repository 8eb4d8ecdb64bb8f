"""Prediction heads that the methods of the field share."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.grounding.metrics import temporal_iou
from ommatid.grounding.task import Moments, sort_moments


@dataclass
class DenseRegression:
    """What the dense head says of every step: is it inside, how far to both ends, how good is the span (H3).

    Attributes:
        inside_logits: step inside the moment.
        spans: start and end that the step votes for, in [0, 1] units, not clipped.
        quality_logits: expected tIoU of that span.
        mask: valid steps.
    """

    inside_logits: Float[Tensor, "batch time"]
    spans: Float[Tensor, "batch time 2"]
    quality_logits: Float[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]


class DenseRegressionHead(nn.Module):
    """Every step votes for a span, with a foreground score and a quality (the field's head H3)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inside, self.distance, self.quality = _mlp(dim, 1), _mlp(dim, 2), _mlp(dim, 1)
        # Moments cover about a third of a video: the first guesses reach a sixth of it to both sides.
        nn.init.constant_(self.distance[-1].bias, -1.7)  # type: ignore[arg-type]

    def forward(self, features: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]) -> DenseRegression:
        left, right = F.softplus(self.distance(features)).unbind(-1)
        centre = step_centres(mask)
        spans = torch.stack([centre - left, centre + right], dim=-1)
        return DenseRegression(self.inside(features)[..., 0], spans, self.quality(features)[..., 0], mask)


@dataclass
class DenseLoss:
    """The three parts of the dense head's loss, each a mean over the batch."""

    classification: Float[Tensor, ""]
    regression: Float[Tensor, ""]
    quality: Float[Tensor, ""]


def dense_loss(prediction: DenseRegression, span: Float[Tensor, "batch 2"]) -> DenseLoss:
    """BCE of the foreground, 1 - tIoU of the spans and smooth L1 of the quality on the steps inside (H3)."""
    inside = steps_inside(prediction.mask, span)
    valid = prediction.mask.float()
    bce = F.binary_cross_entropy_with_logits(prediction.inside_logits.float(), inside.float(), reduction="none")
    iou = temporal_iou(prediction.spans.float(), span[:, None])
    # A video's steps weigh equally within it, and every video weighs the same.
    weight = inside.float() / inside.sum(dim=1, keepdim=True).clamp(min=1)
    quality = F.smooth_l1_loss(prediction.quality_logits.float().sigmoid(), iou.detach(), reduction="none")
    return DenseLoss(
        classification=((bce * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)).mean(),
        regression=((1 - iou) * weight).sum(dim=1).mean(),
        quality=(quality * weight).sum(dim=1).mean(),
    )


def decode_dense(prediction: DenseRegression) -> Moments:
    """One candidate a step, scored by foreground times quality, best first; padded steps come last with score 0."""
    scores = prediction.inside_logits.sigmoid() * prediction.quality_logits.sigmoid() * prediction.mask
    return sort_moments(prediction.spans.float().clamp(0, 1), scores.float())


def step_centres(mask: Bool[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
    """Where the middle of each step lies in its own video, in [0, 1]; beyond 1 for padded steps.

    Examples:
        >>> step_centres(torch.tensor([[True, True, False]])).tolist()
        [[0.25, 0.75, 1.25]]
    """
    position = torch.arange(mask.shape[1], device=mask.device) + 0.5
    return position / mask.sum(dim=1, keepdim=True).clamp(min=1)


def steps_inside(mask: Bool[Tensor, "batch time"], span: Float[Tensor, "batch 2"]) -> Bool[Tensor, "batch time"]:
    """Steps whose middle lies in the span; for a span between two middles, the nearest step.

    Examples:
        >>> steps_inside(torch.ones(1, 4, dtype=torch.bool), torch.tensor([[0.3, 0.7]])).tolist()
        [[False, True, True, False]]
        >>> steps_inside(torch.ones(1, 4, dtype=torch.bool), torch.tensor([[0.4, 0.5]])).tolist()
        [[False, True, False, False]]
    """
    centre = step_centres(mask)
    start, end = span[:, :1], span[:, 1:]
    distance = (centre - (start + end) / 2).abs().masked_fill(~mask, float("inf"))
    nearest = F.one_hot(distance.argmin(dim=1), mask.shape[1]).bool()
    return ((centre >= start) & (centre <= end) & mask) | nearest


def _mlp(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out))
