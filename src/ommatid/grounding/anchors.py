"""Multi-scale temporal anchors: fixed moments around every step, each scored and shifted (A1-A3).

The head of CSMGAN, IA-Net and their descendants, to stand beside or in the place of `DenseRegressionHead`. Anchors are
spans of steps, first and last inside, so that lengths count one more than their difference; in [0, 1] of the video a
span from step i to step j is [i / T, (j + 1) / T]. Block numbers refer to the field's card.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.errors import InputError
from ommatid.grounding.metrics import temporal_iou
from ommatid.grounding.task import Moments, sort_moments

ACTIVITYNET_WIDTHS = (16, 32, 64, 96, 128, 160, 192)


def temporal_anchors(steps: int, half_widths: Float[Tensor, " scale"]) -> Float[Tensor, "step scale 2"]:
    """Around every step one span for each scale: from `step - half_width` to `step + half_width` (A1).

    Many reach beyond the video; `anchor_targets` and `AnchorHead` take those for invalid.

    Examples:
        >>> temporal_anchors(2, half_widths([2, 4])).tolist()
        [[[-0.5, 0.5], [-1.5, 1.5]], [[0.5, 1.5], [-0.5, 2.5]]]
    """
    centre = torch.arange(steps, device=half_widths.device)[:, None]
    return torch.stack([centre - half_widths, centre + half_widths], dim=-1)


def half_widths(widths: Sequence[int], factor: float = 0.5) -> Float[Tensor, " scale"]:
    """How far an anchor of each listed width reaches to both sides: factor (width - 1), in double precision (A1).

    Args:
        factor: 0.5 makes an anchor as many steps wide as is listed (ActivityNet). The field's TACoS and Charades
            settings have 0.125, so that their anchors are about a quarter of what is listed.

    Raises:
        InputError: no width, a width below 1, or a factor that is not positive.

    Examples:
        >>> half_widths([16, 24], factor=0.125).tolist()
        [1.875, 2.875]
    """
    if not widths or min(widths) < 1:
        raise InputError(f"widths: found {tuple(widths)}, expected at least one width, each at least 1")
    if factor <= 0:
        raise InputError(f"factor must be above 0, found {factor}")
    return factor * (torch.tensor(list(widths), dtype=torch.float64) - 1)


@dataclass
class AnchorTargets:
    """What every anchor should have learned of an annotated moment.

    Attributes:
        score: overlap in units of the best anchor's (A2); 0 where not valid.
        valid: inside the video.
        regress: the overlap of the anchors that learn to shift (A3), 0 for all others.
    """

    score: Float[Tensor, "batch anchor"]
    valid: Bool[Tensor, "batch anchor"]
    regress: Float[Tensor, "batch anchor"]


def anchor_targets(
    anchors: Float[Tensor, "anchor 2"],
    label: Float[Tensor, "batch 2"],
    steps: Int[Tensor, "batch"],
    threshold: float = 0.8,
    relative: bool = True,
) -> AnchorTargets:
    """Score targets, validity and regression set of every anchor (A1-A3).

    Where no anchor fits into a video, or none overlaps the moment, all targets are 0.

    Args:
        label: first and last step of each moment; fractions are kept.
        steps: of each video, which may differ in a batch.
        threshold, relative: an anchor learns to shift if it overlaps by so much, in units of the best anchor's
            overlap or as it is. ActivityNet has 0.8 relative; TACoS and Charades have 0.45 absolute.

    Examples:
        >>> anchors = temporal_anchors(4, half_widths([1, 3])).flatten(0, 1).float()
        >>> targets = anchor_targets(anchors, torch.tensor([[1.0, 2.0]]), torch.tensor([4]))
        >>> targets.valid.int().tolist()
        [[1, 0, 1, 1, 1, 1, 1, 0]]
        >>> [round(score, 2) for score in targets.score[0].tolist()]
        [0.0, 0.0, 0.75, 1.0, 0.75, 1.0, 0.0, 0.0]
    """
    valid = inside_video(anchors, steps)
    overlap = temporal_iou(anchors, label[:, None], inclusive=True).masked_fill(~valid, 0)
    best = overlap.amax(dim=1, keepdim=True)
    learns = (overlap >= (threshold * best if relative else threshold)) & (overlap > 0)
    return AnchorTargets(overlap / torch.where(best > 0, best, 1), valid, overlap.masked_fill(~learns, 0))


def inside_video(anchors: Float[Tensor, "anchor 2"], steps: Int[Tensor, "batch"]) -> Bool[Tensor, "batch anchor"]:
    """Anchors that begin at the first step of a video or later, and end before the first step behind it.

    The end may lie up to one step further out than the start: ends are fractions, and the public loaders compare them
    with the number of steps.
    """
    return (anchors[:, 0] >= 0) & (anchors[:, 1] < steps[:, None])


@dataclass
class AnchorPrediction:
    """What the anchor head says of every anchor.

    Attributes:
        logits: of the score.
        spans: anchors with their offsets added, in steps, not clipped.
        anchors: the same without offsets, for all videos, in the order of the others when flattened.
        valid: anchors inside their own video.
        steps: of each video.
    """

    logits: Float[Tensor, "batch anchor"]
    spans: Float[Tensor, "batch anchor 2"]
    anchors: Float[Tensor, "step scale 2"]
    valid: Bool[Tensor, "batch anchor"]
    steps: Int[Tensor, "batch"]


class AnchorHead(nn.Module):
    """Every step scores and shifts an anchor of each width around it (A1-A3).

    Args:
        dim: width of the features.
        widths, factor: of the anchors, see `half_widths`. The defaults are for ActivityNet at 200 steps; widths must
            suit the number of steps, as an anchor wider than a video is never valid.

    Examples:
        >>> head = AnchorHead(8, widths=(4, 8))
        >>> features, mask = torch.randn(2, 16, 8), torch.ones(2, 16, dtype=torch.bool)
        >>> prediction = head(features, mask)
        >>> decode_anchors(prediction).spans.shape
        torch.Size([2, 32, 2])
        >>> loss = anchor_loss(prediction, torch.tensor([[0.1, 0.5], [0.3, 0.9]]))
        >>> (loss.score + 1e-3 * loss.offset).backward()
    """

    half_widths: Tensor

    def __init__(self, dim: int, widths: Sequence[int] = ACTIVITYNET_WIDTHS, factor: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("half_widths", half_widths(widths, factor).float(), persistent=False)
        self.score, self.offset = nn.Linear(dim, len(widths)), nn.Linear(dim, 2 * len(widths))

    def forward(self, features: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]) -> AnchorPrediction:
        anchors = temporal_anchors(features.shape[1], self.half_widths)
        flat = anchors.flatten(0, 1)
        steps = mask.sum(dim=1)
        offset = rearrange(self.offset(features).float(), "b t (a side) -> b (t a) side", side=2)
        logits = rearrange(self.score(features), "b t a -> b (t a)")
        return AnchorPrediction(logits, flat + offset, anchors, inside_video(flat, steps), steps)


@dataclass
class AnchorLoss:
    """Both parts of the anchor head's loss; the field weighs the offsets by 1e-3 (ActivityNet) or 5e-3."""

    score: Float[Tensor, ""]
    offset: Float[Tensor, ""]


def anchor_loss(
    prediction: AnchorPrediction, span: Float[Tensor, "batch 2"], threshold: float = 0.8, relative: bool = True
) -> AnchorLoss:
    """BCE of the scores (A2) and smooth L1, in steps, of the anchors that learn to shift (A3).

    The sum of a video's cross-entropies is divided by all its anchors, valid or not, as the field does; every video
    weighs the same.

    Args:
        span: the annotated moment in [0, 1] of the video, unsnapped.
        threshold, relative: which anchors learn to shift, see `anchor_targets`.
    """
    label = label_in_steps(span, prediction.steps)
    targets = anchor_targets(prediction.anchors.flatten(0, 1), label, prediction.steps, threshold, relative)
    bce = F.binary_cross_entropy_with_logits(prediction.logits.float(), targets.score, reduction="none")
    count = prediction.steps * prediction.anchors.shape[1]
    score = (bce * targets.valid).sum(dim=1) / count.clamp(min=1)
    distance = F.smooth_l1_loss(prediction.spans, label[:, None].expand_as(prediction.spans), reduction="none")
    learns = targets.regress > 0
    offset = (distance.mean(dim=-1) * learns).sum() / learns.sum().clamp(min=1)
    return AnchorLoss(score.mean(), offset)


def label_in_steps(span: Float[Tensor, "batch 2"], steps: Int[Tensor, "batch"]) -> Float[Tensor, "batch 2"]:
    """First and last step, in fractions, of a span in [0, 1] of the video.

    Examples:
        >>> label_in_steps(torch.tensor([[0.25, 0.75]]), torch.tensor([8]))
        tensor([[2., 5.]])
    """
    return span * steps[:, None] - torch.tensor([0, 1], device=span.device)


def decode_anchors(prediction: AnchorPrediction) -> Moments:
    """Every shifted anchor as a moment, best first; anchors outside the video come last with score 0."""
    edges = prediction.spans + torch.tensor([0, 1], device=prediction.spans.device)
    spans = (edges / prediction.steps[:, None, None].clamp(min=1)).clamp(0, 1)
    return sort_moments(spans, prediction.logits.float().sigmoid() * prediction.valid)
