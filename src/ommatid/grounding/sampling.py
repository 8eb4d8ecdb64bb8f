"""From a long video to few steps and back: sampling, labels that survive it, spans between the steps (SSRN, E1-E16).

A video of `n` dense clips is shown as T anchor frames, one every `(n - 1) / (T - 1)` clips (the stride). Between two
anchors lie dropped clips, among them most annotated boundaries. K siamese frames beside each anchor bring some of them
back; labels shared between two neighbouring steps say where a boundary lies although its own clip was dropped. All
functions work on padded batches of videos of different lengths; positions are numbers of dense clips.
"""

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.errors import InputError
from ommatid.grounding.timeindex import by_length, mean_between, padded_anchors, snap_span, take


def stride(mask: Bool[Tensor, "batch clip"], steps: int) -> Float[Tensor, "batch"]:
    """Clips from one anchor to the next, (n - 1) / (T - 1) (E1).

    Examples:
        >>> stride(torch.ones(1, 10, dtype=torch.bool), 4)
        tensor([3.])
    """
    return (mask.sum(dim=1) - 1) / (steps - 1)


def siamese_indices(
    mask: Bool[Tensor, "batch clip"], steps: int, siamese: int, symmetric: bool = False
) -> Int[Tensor, "batch frame {steps}"]:
    """The clips of the anchor sequence (E1), and of `siamese` sequences between its steps (E4), which follow it.

    Sequence k is shifted by round(k stride / (K + 1)) clips and stops at the video's last clip.

    Args:
        symmetric: half of the sequences lie before their anchors, and stop at the first clip.

    Raises:
        InputError: fewer than two steps, or less than no siamese frames.

    Examples:
        >>> siamese_indices(torch.ones(1, 10, dtype=torch.bool), steps=4, siamese=2)
        tensor([[[0, 3, 6, 9],
                 [1, 4, 7, 9],
                 [2, 5, 8, 9]]])
        >>> siamese_indices(torch.ones(1, 10, dtype=torch.bool), steps=4, siamese=2, symmetric=True)[0, 1:]
        tensor([[0, 2, 5, 8],
                [1, 4, 7, 9]])
    """
    if steps < 2 or siamese < 0:
        raise InputError(f"steps must be at least 2 and siamese at least 0, found {steps} and {siamese}")
    before = siamese // 2 if symmetric else 0
    place = torch.tensor([0, *range(-before, 0), *range(1, siamese - before + 1)], dtype=torch.float64)

    def shift(clips: Float[Tensor, "length"]) -> Int[Tensor, "length frame"]:
        return (place * (clips[:, None] - 1) / ((steps - 1) * (siamese + 1))).round().long()

    shifted = padded_anchors(mask, steps)[:, None] + by_length(shift, mask)[..., None]
    last = mask.sum(dim=1)[:, None, None] - 1
    return torch.minimum(shifted.clamp(min=0), last)


def take_means(
    video: Float[Tensor, "batch clip channel"], index: Int[Tensor, "batch frame step"]
) -> Float[Tensor, "batch frame step channel"]:
    """Means from each index to the next, and the clip at the last one (E2, as the field's loaders sample).

    Examples:
        >>> take_means(torch.arange(6.0)[None, :, None], torch.tensor([[[0, 2, 5], [1, 3, 5]]]))[..., 0]
        tensor([[[0.5000, 3.0000, 5.0000],
                 [1.5000, 3.5000, 5.0000]]])
    """
    longest = video.shape[1] // (index.shape[2] - 1) + 1
    return torch.cat([mean_between(video, index, longest), take(video, index[..., -1:])], dim=2)


def soft_boundary_labels(
    boundary: Float[Tensor, "*sequence"], index: Int[Tensor, "*sequence step"]
) -> Float[Tensor, "*sequence step"]:
    """A boundary between two sampled clips, shared by them in inverse proportion to its distance (E10).

    The mean of `index` under these labels is the boundary itself, wherever it lies between the first and the last
    sampled clip; beyond them the nearest step has it all.

    Args:
        boundary: position of a dense clip, not necessarily whole.
        index: sampled clips, never falling.

    Examples:
        >>> soft_boundary_labels(torch.tensor([4.0]), torch.tensor([[0, 3, 7, 9]]))
        tensor([[0.0000, 0.7500, 0.2500, 0.0000]])
    """
    last = index.shape[-1] - 1
    left = ((index <= boundary[..., None]).sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    right = (left + 1).clamp(max=last)
    from_left, width = boundary[..., None] - index.gather(-1, left), index.gather(-1, right) - index.gather(-1, left)
    share = (from_left / width.clamp(min=1)).clamp(0, 1)
    labels = share.new_zeros(index.shape)
    return labels.scatter_add(-1, left, 1 - share).scatter_add(-1, right, share)


def soft_foreground(
    span: Float[Tensor, "*sequence 2"], index: Int[Tensor, "*sequence step"]
) -> Float[Tensor, "*sequence step"]:
    """Which share of the clips from each sampled one to the next lies in the span (E12).

    Args:
        span: from the beginning of the first clip to the end of the last one, in clips.

    Examples:
        >>> soft_foreground(torch.tensor([[2.0, 7.0]]), torch.tensor([[0, 4, 6, 9]]))
        tensor([[0.5000, 1.0000, 0.3333, 0.0000]])
    """
    following = torch.cat([index[..., 1:], index[..., -1:] + 1], dim=-1)
    following = torch.maximum(following, index + 1)
    inside = torch.minimum(following, span[..., 1:]) - torch.maximum(index, span[..., :1])
    return inside.clamp(min=0) / (following - index)


def clips_touched(
    span: Float[Tensor, "batch 2"], clips: Int[Tensor, "batch"], tolerance: float = 1e-3
) -> Int[Tensor, "batch 2"]:
    """The first and the last clip that a span touches, by more than `tolerance` of a clip.

    Args:
        span: in [0, 1] of the video.

    Examples:
        >>> clips_touched(torch.tensor([[0.2, 0.6], [0.25, 0.65]]), torch.tensor([10, 10]))
        tensor([[2, 5],
                [2, 6]])
    """
    edges = span * clips[:, None]
    # Seconds became shares of the video: a boundary between two clips is no longer a whole number.
    first, last = (edges[:, 0] + tolerance).floor(), (edges[:, 1] - tolerance).ceil() - 1
    last_clip = clips - 1
    first = torch.minimum(first.clamp(min=0), last_clip)
    return torch.stack([first, torch.minimum(torch.maximum(last, first), last_clip)], dim=1).long()


def snap_sequences(
    touched: Int[Tensor, "batch 2"], index: Int[Tensor, "batch frame step"]
) -> Int[Tensor, "batch frame 2"]:
    """First and last step of every sequence inside a span of dense clips, each on its own frames (E3).

    Args:
        touched: first and last clip, as `clips_touched` gives them.

    Examples:
        >>> snap_sequences(torch.tensor([[2, 7]]), torch.tensor([[[0, 3, 6, 9], [1, 4, 7, 9]]]))
        tensor([[[1, 2],
                 [1, 2]]])
    """
    spans = repeat(touched, "b e -> (b k) e", k=index.shape[1])
    return snap_span(spans, index.flatten(0, 1).contiguous()).unflatten(0, index.shape[:2])


def snapping_error(
    span: Float[Tensor, "batch 2"], index: Int[Tensor, "batch step"], clips: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """How far the boundaries move, on average and in clips, when they are snapped to sampled frames (E3).

    Args:
        span: in [0, 1] of the video.

    Examples:
        >>> snapping_error(torch.tensor([[0.2, 0.8]]), torch.tensor([[0, 3, 6, 9]]), torch.tensor([10]))
        tensor([1.])
    """
    touched = clips_touched(span, clips)
    snapped = snap_sequences(touched, index[:, None])[:, 0]
    return (index.gather(1, snapped) - touched).abs().float().mean(dim=1)


def interleave_scores(
    log_probs: Float[Tensor, "batch frame step"], index: Int[Tensor, "batch frame step"]
) -> tuple[Float[Tensor, "batch fine"], Float[Tensor, "batch fine"]]:
    """Distributions over the steps of K + 1 sequences as one over all their clips in order of time (E15).

    Gives log-probabilities and positions; position after position, K + 1 of them to a step.

    Examples:
        >>> scores, positions = interleave_scores(torch.zeros(1, 2, 1), torch.tensor([[[4], [2]]]))
        >>> scores.exp(), positions
        (tensor([[0.5000, 0.5000]]), tensor([[2., 4.]]))
    """
    positions, order = rearrange(index, "b k t -> b (t k)").sort(dim=1, stable=True)
    scores = rearrange(log_probs, "b k t -> b (t k)").gather(1, order)
    return scores - math.log(index.shape[1]), positions.to(scores.dtype)


def decode_spans(
    start: Float[Tensor, "batch fine"],
    end: Float[Tensor, "batch fine"],
    positions: Float[Tensor, "batch fine"],
    reach: Float[Tensor, "batch"],
    block: int = 1,
) -> tuple[Float[Tensor, "batch span 2"], Float[Tensor, "batch span"]]:
    """For every block of start positions and every later or equal one of end positions, the best pair (E15, E16).

    The best pair of all, start not after end, is the best pair of its blocks. Each end is then moved to the mean
    position near it (`mean_position`); whether a pair is the best is not differentiable, where it lies is.

    Args:
        start, end: log-probabilities.
        positions: never falling.
        reach: clips on either side of a position over which its mean is taken.
        block: neighbouring positions that yield one candidate only.

    Returns:
        Positions of the first and the last clip, and log-probabilities of the pairs.

    Examples:
        >>> start, end = torch.tensor([[0.1, 0.8, 0.1]]).log(), torch.tensor([[0.6, 0.3, 0.1]]).log()
        >>> spans, scores = decode_spans(start, end, torch.tensor([[0.0, 4.0, 8.0]]), torch.tensor([0.0]))
        >>> spans[0, scores[0].argmax()]
        tensor([4., 4.])
    """
    starts = rearrange(start, "b (t i) -> b t i", i=block)
    ends = rearrange(end, "b (t i) -> b t i", i=block)
    steps = starts.shape[1]
    first_of_block = torch.arange(steps, device=start.device) * block
    row, column = torch.triu_indices(steps, steps, offset=1, device=start.device)

    # Between two blocks any pair is in order: the best start with the best end. Within one block the order counts.
    best_start, best_end = starts.max(dim=2), ends.max(dim=2)
    ordered = torch.ones(block, block, dtype=torch.bool, device=start.device).triu()
    within = (starts[..., None] + ends[..., None, :]).masked_fill(~ordered, float("-inf")).flatten(2).max(dim=2)

    begin = torch.cat([best_start.indices, within.indices // block], dim=1) + first_of_block.repeat(2)
    close = torch.cat([best_end.indices, within.indices % block], dim=1) + first_of_block.repeat(2)
    begin_at = mean_position(start, positions, positions.gather(1, begin), reach)
    close_at = mean_position(end, positions, positions.gather(1, close), reach)

    across = torch.stack([begin_at[:, row], close_at[:, column]], dim=-1)
    inside = torch.stack([begin_at[:, steps:], close_at[:, steps:]], dim=-1)
    scores = torch.cat([best_start.values[:, row] + best_end.values[:, column], within.values], dim=1)
    return torch.cat([across, inside], dim=1), scores


def mean_position(
    log_probs: Float[Tensor, "batch fine"],
    positions: Float[Tensor, "batch fine"],
    centre: Float[Tensor, "batch place"],
    reach: Float[Tensor, "batch"],
) -> Float[Tensor, "batch place"]:
    """The expected position under a distribution cut to `reach` clips on either side of each centre (E15).

    Examples:
        >>> probs = torch.tensor([[0.2, 0.5, 0.2, 0.1]])
        >>> positions = torch.tensor([[0.0, 3.0, 6.0, 20.0]])
        >>> mean_position(probs.log(), positions, torch.tensor([[3.0, 20.0]]), torch.tensor([5.0]))
        tensor([[ 3., 20.]])
    """
    near = (positions[:, None] - centre[..., None]).abs() <= reach[:, None, None]
    weight = log_probs[:, None].masked_fill(~near, float("-inf")).softmax(dim=-1)
    return (weight * positions[:, None]).sum(dim=-1)


def boundary_error(
    predicted: Float[Tensor, "batch 2"], span: Float[Tensor, "batch 2"], duration: Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Mean distance of both predicted ends from the annotated ones, in seconds; NaN where nothing is annotated.

    Args:
        predicted, span: in [0, 1] of the video; predictions beyond it are clipped.

    Examples:
        >>> boundary_error(torch.tensor([[0.1, 0.5]]), torch.tensor([[0.2, 0.5]]), torch.tensor([30.0]))
        tensor([1.5000])
    """
    return (predicted.clamp(0, 1) - span).abs().mean(dim=1) * duration
