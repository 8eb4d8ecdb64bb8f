"""Between seconds, clips and steps: the five conventions (D1-D5) by which grounding methods cut a video into T steps.

A video has `n` clips (the stored features) and is shown to a model as `T` steps. Spans of steps and of clips are
numbered from 0 and inclusive on both ends; spans in seconds are ordinary intervals.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.errors import InputError
from ommatid.grounding.metrics import temporal_iou


def pool_to_length(
    features: Float[Tensor, "clip channel"], steps: int, keep_short: bool = False
) -> Float[Tensor, "step channel"]:
    """Average pooling to a fixed number of steps (D1): step i is the mean of clips `[idx_i, idx_{i+1})`, or one clip.

    Args:
        keep_short: leave a sequence of at most `steps` clips as it is, to be padded and masked (VSLNet); without it
            every sequence is resampled, short ones by repetition (2D-TAN).

    Raises:
        InputError: no clips, or `steps` below 1.

    Examples:
        >>> pool_to_length(torch.arange(6.0)[:, None], 3).squeeze(1)
        tensor([0.5000, 2.5000, 4.0000])
        >>> len(pool_to_length(torch.zeros(2, 8), 16)), len(pool_to_length(torch.zeros(2, 8), 16, keep_short=True))
        (16, 2)
    """
    _check_lengths(len(features), steps)
    if keep_short and len(features) <= steps:
        return features
    edges = pooling_edges(len(features), steps).to(features.device)
    return mean_between(features[None], edges[None], _longest_range(len(features), steps))[0]


def pool_padded(
    video: Float[Tensor, "batch clip channel"], mask: Bool[Tensor, "batch clip"], steps: int
) -> Float[Tensor, "batch {steps} channel"]:
    """`pool_to_length` of every video of a padded batch (D1); short ones are repeated.

    Examples:
        >>> video = torch.tensor([[[1.0], [2.0], [9.0]]])
        >>> pool_padded(video, torch.tensor([[True, True, False]]), 4)[0, :, 0]
        tensor([1., 1., 2., 2.])
    """
    edges = by_length(lambda clips: _edges(clips, steps), mask)
    return mean_between(video, edges, _longest_range(mask.shape[1], steps))


def pooling_edges(clips: int, steps: int) -> Int[Tensor, "edge"]:
    """The `steps + 1` clips between which D1 averages: halves are rounded to even, the last edge is the last clip."""
    _check_lengths(clips, steps)
    return _edges(torch.tensor(clips, dtype=torch.float64), steps)


def anchor_indices(clips: int, steps: int) -> Int[Tensor, "step"]:
    """The clip at which each step starts: `int(i (n - 1) / (T - 1))` (D4).

    Examples:
        >>> anchor_indices(10, 4)
        tensor([0, 3, 6, 9])
    """
    _check_lengths(clips, steps)
    return _anchors(torch.tensor(clips, dtype=torch.float64), steps)


def padded_anchors(mask: Bool[Tensor, "batch clip"], steps: int) -> Int[Tensor, "batch {steps}"]:
    """`anchor_indices` of every video of a padded batch (D4).

    Examples:
        >>> padded_anchors(torch.tensor([[True] * 5, [True] * 3 + [False] * 2]), 3)
        tensor([[0, 2, 4],
                [0, 1, 2]])
    """
    return by_length(lambda clips: _anchors(clips, steps), mask)


def sample_to_length(features: Float[Tensor, "clip channel"], steps: int) -> Float[Tensor, "step channel"]:
    """Sparse sampling to a fixed number of steps (D4): means between anchors, and the last clip as the last step."""
    index = anchor_indices(len(features), steps).to(features.device)
    longest = _longest_range(len(features), max(steps - 1, 1))
    return torch.cat([mean_between(features[None], index[None], longest)[0], features[-1:]])


def by_length(
    rule: Callable[[Float[Tensor, "length"]], Int[Tensor, "length *index"]], mask: Bool[Tensor, "batch clip"]
) -> Int[Tensor, "batch *index"]:
    """Indices that depend on the number of clips alone, for every video of a padded batch.

    Rounding and truncation are those of double precision, which not every device has: the rule is worked out on the
    host for every length that the padding leaves room for, and each video looks up its own.

    Args:
        rule: numbers of clips, as float64, to indices; whatever it makes of no clips.

    Examples:
        >>> by_length(lambda clips: (clips / 2).long(), torch.tensor([[True, True, True], [True, True, False]]))
        tensor([1, 1])
    """
    table = rule(torch.arange(mask.shape[1] + 1, dtype=torch.float64, device="cpu"))
    return table.to(mask.device)[mask.sum(dim=1)]


def mean_between(
    video: Float[Tensor, "batch clip channel"], edges: Int[Tensor, "batch *sequence edge"], longest: int
) -> Float[Tensor, "batch *sequence step channel"]:
    """Mean of the clips of every half-open range between neighbouring edges; of an empty range, its first edge.

    Args:
        edges: never falling, inside the video; any number of sequences of them for each video.
        longest: no range holds more clips than this.

    Examples:
        >>> mean_between(torch.arange(5.0)[None, :, None], torch.tensor([[0, 3, 3, 4]]), longest=3)[0, :, 0]
        tensor([1., 3., 3.])
    """
    first, end = edges[..., :-1, None], edges[..., 1:, None]
    clip = first + torch.arange(longest, device=video.device)
    inside = (clip < torch.maximum(end, first + 1))[..., None]
    members = take(video, clip.clamp(max=video.shape[1] - 1)).where(inside, 0)
    return members.sum(dim=-2) / inside.sum(dim=-2)


def take(
    video: Float[Tensor, "batch clip channel"], index: Int[Tensor, "batch *place"]
) -> Float[Tensor, "batch *place channel"]:
    """Clips by their number, whatever the shape of the numbers.

    Examples:
        >>> take(torch.arange(5.0)[None, :, None], torch.tensor([[[4, 0], [1, 1]]])).shape
        torch.Size([1, 2, 2, 1])
    """
    row = torch.arange(len(video), device=video.device).view(-1, *[1] * (index.ndim - 1))
    return video[row, index]


def dense_span(
    span: Float[Tensor, "batch 2"], duration: Float[Tensor, "batch"], clips: Int[Tensor, "batch"]
) -> Int[Tensor, "batch 2"]:
    """Seconds to inclusive clip indices, `int(t n / duration)` inside the video (the labels that D4 snaps)."""
    index = (span.double() * (clips / duration.double())[:, None]).long()
    return torch.minimum(index.clamp(min=0), clips[:, None] - 1)


def snap_span(
    span: Int[Tensor, "batch 2"], index: Int[Tensor, "batch step"], as_released: bool = False
) -> Int[Tensor, "batch 2"]:
    """Clip indices to steps that survive sampling (D4): first anchor from the start on, last anchor up to the end.

    Where no anchor lies inside the span, both ends become the last anchor before it. `as_released=True` repeats a slip
    of the public loader: an end that happens to equal T - 1 is compared with the already shortened length and sent to
    the end of the video.

    Args:
        span: inclusive clip indices.
        index: `anchor_indices` of each video.

    Examples:
        >>> index = anchor_indices(10, 4)[None]
        >>> snap_span(torch.tensor([[2, 7]]), index)
        tensor([[1, 2]])
        >>> snap_span(torch.tensor([[0, 3]]), index), snap_span(torch.tensor([[0, 3]]), index, as_released=True)
        (tensor([[0, 1]]), tensor([[0, 3]]))
    """
    last = index.shape[1] - 1
    start, end = span.to(index.dtype).split(1, dim=1)
    first_inside = torch.searchsorted(index, start.contiguous()).clamp(max=last)
    last_inside = (torch.searchsorted(index, end.contiguous(), right=True) - 1).clamp(min=0)
    if as_released:
        last_inside = torch.where(end == last, last, last_inside)
    return torch.cat([torch.minimum(first_inside, last_inside), last_inside], dim=1)


def seconds_to_steps(
    span: Float[Tensor, "batch 2"], duration: Float[Tensor, "batch"], steps: Int[Tensor, "batch"]
) -> Int[Tensor, "batch 2"]:
    """The inclusive steps (i, j) whose interval `[i d/T, (j+1) d/T]` overlaps the span most (D2, arg-max of IoU).

    Args:
        steps: T of each video; videos of a batch may differ.

    Examples:
        >>> seconds_to_steps(torch.tensor([[2.0, 6.1]]), torch.tensor([10.0]), torch.tensor([5]))
        tensor([[1, 2]])
    """
    longest = int(steps.max())
    overlap = _iou_table(span, duration, steps, longest)
    ends_inside = torch.arange(longest, device=span.device) < steps[:, None]
    best = overlap.masked_fill(~ends_inside[:, None, :], -1).flatten(1).argmax(dim=1)
    return torch.stack([best // longest, best % longest], dim=1)


def steps_to_seconds(
    index: Int[Tensor, "batch 2"], duration: Float[Tensor, "batch"], steps: Int[Tensor, "batch"]
) -> Float[Tensor, "batch 2"]:
    """The interval of inclusive steps in seconds, `[i d/T, (j+1) d/T]` (D3).

    Examples:
        >>> steps_to_seconds(torch.tensor([[1, 2]]), torch.tensor([10.0]), torch.tensor([5]))
        tensor([[2., 6.]])
    """
    edges = index + torch.tensor([0, 1], device=index.device)
    return edges.to(duration.dtype) / steps[:, None].to(duration.dtype) * duration[:, None]


def target_map(
    span: Float[Tensor, "batch 2"], duration: Float[Tensor, "batch"], steps: int
) -> Float[Tensor, "batch start end"]:
    """IoU of every moment of whole steps with the annotated one (D5, the label of 2D-TAN): upper triangle, zero below.

    Args:
        span: in the unit of `duration`; normalised spans go with a duration of one.

    Examples:
        >>> target_map(torch.tensor([[0.0, 5.0]]), torch.tensor([10.0]), 2)
        tensor([[[1.0000, 0.5000],
                 [0.0000, 0.0000]]])
    """
    every = torch.full(duration.shape, steps, device=span.device)
    return _iou_table(span, duration, every, steps)


def _iou_table(
    span: Float[Tensor, "batch 2"], duration: Float[Tensor, "batch"], steps: Int[Tensor, "batch"], longest: int
) -> Float[Tensor, "batch start end"]:
    step_length = (duration / steps)[:, None]
    # Below the diagonal a moment would end before it starts: such a span overlaps nothing.
    start = (torch.arange(longest, device=span.device) * step_length)[:, :, None]
    end = (torch.arange(1, longest + 1, device=span.device) * step_length)[:, None, :]
    moments = torch.stack(torch.broadcast_tensors(start, end), dim=-1)
    return temporal_iou(moments, span[:, None, None, :])


def _edges(clips: Float[Tensor, "*video"], steps: int) -> Int[Tensor, "*video edge"]:
    edges = torch.arange(steps + 1, dtype=torch.float64, device=clips.device) / steps * clips[..., None]
    return torch.minimum(edges.round(), clips[..., None] - 1).long()


def _anchors(clips: Float[Tensor, "*video"], steps: int) -> Int[Tensor, "*video step"]:
    # i * ((n - 1) / (T - 1)) in this order: another order of the same operations truncates to other integers.
    stride = (clips - 1) / max(steps - 1, 1)
    index = torch.arange(steps, dtype=torch.float64, device=clips.device) * stride[..., None]
    if steps > 1:
        index[..., -1] = clips - 1
    return index.long()


def _longest_range(clips: int, steps: int) -> int:
    """What rounding leaves between two neighbours of `steps` even ones at most."""
    return clips // steps + 1


def _check_lengths(clips: int, steps: int) -> None:
    if clips < 1:
        raise InputError(f"features: found {clips} clips, expected at least one")
    if steps < 1:
        raise InputError(f"steps: found {steps}, expected at least 1")
