"""Videos changed in time so that the described moment moves in a known way (ECRL, arXiv:2305.04123, E1-E4).

A video is cut at its annotated boundaries into what comes before, the moment, and what comes after. Backgrounds are
shortened, moved and played at another speed, the moment only at another speed; what results is a plan of indices, which
serves for features, frames and subtitles alike. All videos of a batch are planned at once.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Spans = Float[Tensor, "batch 2"]
Edges = Float[Tensor, "batch piece"]

# In the order of the new video: what moved to the front, both parts of the background before the moment (with a gap
# between them where something was dropped), the moment, the same behind it, what moved to the end.
PIECES = 7
FRONT, BEFORE, MOMENT, AFTER, BACK = 0, (1, 2), 3, (4, 5), 6


@dataclass(frozen=True)
class Speeds:
    """How videos are changed (E1, E2).

    Attributes:
        moment: smallest and largest factor of the length of the moment.
        background: the same of what lies before and behind it.
        move: probability that the moment goes elsewhere.
        drop: probability that a piece of the background goes.
    """

    moment: tuple[float, float] = (0.6, 1.6)
    background: tuple[float, float] = (0.5, 1.5)
    move: float = 0.5
    drop: float = 0.5


@dataclass
class TimePlan:
    """A new video as indices into the old one.

    Attributes:
        index: clip of the old video that each new clip shows.
        piece: which of the seven pieces it belongs to.
        mask: new clips that exist.
        time: where each new clip lay in the old video, in [0, 1]; beyond where padded.
        span: the moment in [0, 1] of the new video.
        old_edges, new_edges: matching instants of the old and the new video, in [0, 1], in order; what was dropped or
            moved between them is left out.
    """

    index: Int[Tensor, "batch clip"]
    piece: Int[Tensor, "batch clip"]
    mask: Bool[Tensor, "batch clip"]
    time: Float[Tensor, "batch clip"]
    span: Spans
    old_edges: Edges
    new_edges: Edges

    def show(self, video: Float[Tensor, "batch old channel"]) -> Float[Tensor, "batch clip channel"]:
        """The new video."""
        return video.gather(1, self.index[..., None].expand(-1, -1, video.shape[2])) * self.mask[..., None]

    def move(self, times: Float[Tensor, "batch any"]) -> Float[Tensor, "batch any"]:
        """Where instants of the old video lie in the new one (psi, E17); differentiable in `times`."""
        return interpolate(times, self.old_edges, self.new_edges)

    def move_back(self, times: Float[Tensor, "batch any"]) -> Float[Tensor, "batch any"]:
        """Where instants of the new video lay in the old one, as far as they were not moved or dropped (phi)."""
        return interpolate(times, self.new_edges, self.old_edges)


def interpolate(
    times: Float[Tensor, "batch any"], at: Float[Tensor, "batch edge"], value: Float[Tensor, "batch edge"]
) -> Float[Tensor, "batch any"]:
    """Piecewise linear interpolation between edges, constant outside of them; differentiable in `times`.

    Examples:
        >>> at, value = torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[0.0, 0.8, 1.0]])
        >>> interpolate(torch.tensor([[0.25, 0.75, 2.0]]), at, value)
        tensor([[0.4000, 0.9000, 1.0000]])
    """
    right = torch.searchsorted(at.contiguous(), times.detach().contiguous(), right=True).clamp(1, at.shape[1] - 1)
    low, high = at.gather(1, right - 1), at.gather(1, right)
    begin, end = value.gather(1, right - 1), value.gather(1, right)
    share = (times - low) / (high - low).clamp(min=1e-6)
    return begin + share.clamp(0, 1) * (end - begin)


def plan_times(mask: Bool[Tensor, "batch clip"], span: Spans, speeds: Speeds = Speeds()) -> TimePlan:
    """A random change of every video of a batch (E1, E2, E4).

    Random numbers come from torch's default generator.

    Args:
        span: the moment in [0, 1] of each video; at least one clip is taken to lie inside.
    """
    clips = mask.sum(dim=1)
    start, stop = _clips_of(span, clips)
    first, length = _pieces(start, stop, clips, speeds)
    factor = _factors(length, speeds)
    # A piece of n clips becomes max(1, round(n r)), one without clips stays without.
    new_length = (length * factor).round().clamp(min=1) * (length > 0)
    end = new_length.cumsum(dim=1)
    begin = end - new_length

    # Room for the fastest growth of everything, and for every piece rounded up.
    room = int(mask.shape[1] * max(speeds.moment[1], speeds.background[1])) + PIECES
    position = torch.arange(room, device=mask.device).expand(len(mask), -1)
    piece = torch.searchsorted(end.contiguous(), position.contiguous(), right=True).clamp(max=PIECES - 1)
    valid = position < end[:, -1:]
    offset = position - begin.gather(1, piece)
    speed = length.gather(1, piece) / new_length.gather(1, piece).clamp(min=1)
    inside = torch.minimum((offset * speed).floor(), length.gather(1, piece) - 1).clamp(min=0)
    index = torch.where(valid, first.gather(1, piece) + inside, 0).long()

    total = end[:, -1:]
    kept = slice(BEFORE[0], AFTER[1] + 1)
    old = torch.stack([first[:, kept], first[:, kept] + length[:, kept]], dim=-1).flatten(1) / clips[:, None]
    new = torch.stack([begin[:, kept], end[:, kept]], dim=-1).flatten(1) / total
    return TimePlan(
        index=index,
        piece=piece,
        mask=valid,
        time=torch.where(valid, (index + 0.5) / clips[:, None], 2.0),
        span=torch.stack([begin[:, MOMENT], end[:, MOMENT]], dim=1) / total,
        old_edges=old,
        new_edges=new,
    )


def perturb_features(
    video: Float[Tensor, "batch clip channel"],
    piece: Int[Tensor, "batch clip"],
    mask: Bool[Tensor, "batch clip"],
    scale: float = 0.1,
    noise: float = 0.1,
    drop: float = 0.1,
) -> Float[Tensor, "batch clip channel"]:
    """Features as if the pictures had been recoloured and cropped, alike within a piece (E3).

    Every channel of a piece is scaled by 1 + `scale` N(0, 1) and dropped with probability `drop`; every clip gets noise
    of `noise` standard deviations of its video.
    """
    batch, _, channels = video.shape
    kept = torch.rand(batch, PIECES, channels, device=video.device) >= drop
    factor = (1 + scale * torch.randn(batch, PIECES, channels, device=video.device)) * kept
    count = mask.sum(dim=1).clamp(min=1)[:, None, None] * channels
    mean = (video * mask[..., None]).sum(dim=(1, 2), keepdim=True) / count
    spread = (((video - mean) * mask[..., None]) ** 2).sum(dim=(1, 2), keepdim=True).div(count).sqrt()
    changed = video * factor.gather(1, piece[..., None].expand(-1, -1, channels))
    return (changed + noise * spread * torch.randn_like(video)) * mask[..., None]


def _clips_of(span: Spans, clips: Int[Tensor, "batch"]) -> tuple[Tensor, Tensor]:
    """First clip of the moment and the one behind its last, at least one apart and inside the video."""
    edges = (span * clips[:, None]).round()
    start = torch.minimum(edges[:, 0].clamp(min=0), clips - 1)
    return start, torch.minimum(torch.maximum(edges[:, 1], start + 1), clips)


def _pieces(start: Tensor, stop: Tensor, clips: Tensor, speeds: Speeds) -> tuple[Edges, Edges]:
    """First clip and number of clips of the seven pieces, in the order of the new video."""
    draw = torch.rand(8, len(start), device=start.device)
    before, after = start, clips - stop
    # Half of the edits move the end of the video to its front, the other half its beginning to its back.
    moves, to_front = draw[0] < speeds.move, draw[1] < 0.5
    moved_after = torch.where(moves & to_front, (after * draw[2]).round(), 0.0)
    moved_before = torch.where(moves & ~to_front, (before * draw[2]).round(), 0.0)
    drops, of_before = draw[3] < speeds.drop, draw[4] < 0.5
    # What is left of each background, less a contiguous part of at most half of it.
    left_before, left_after = before - moved_before, after - moved_after
    dropped_before = torch.where(drops & of_before, (left_before * 0.5 * draw[5]).round(), 0.0)
    dropped_after = torch.where(drops & ~of_before, (left_after * 0.5 * draw[5]).round(), 0.0)
    cut_before = ((left_before - dropped_before) * draw[6]).round()
    cut_after = ((left_after - dropped_after) * draw[7]).round()
    zero = torch.zeros_like(moved_before)
    first = [
        clips - moved_after,
        moved_before,
        moved_before + cut_before + dropped_before,
        start,
        stop,
        stop + cut_after + dropped_after,
        zero,
    ]
    length = [
        moved_after,
        cut_before,
        left_before - dropped_before - cut_before,
        stop - start,
        cut_after,
        left_after - dropped_after - cut_after,
        moved_before,
    ]
    return torch.stack([each.float() for each in first], dim=1), torch.stack([each.float() for each in length], dim=1)


def _factors(length: Edges, speeds: Speeds) -> Edges:
    """One factor for the moment, one for everything before and one for everything behind it."""
    draw = torch.rand(len(length), 3, device=length.device)

    def between(low: float, high: float, column: int) -> Tensor:
        return low + (high - low) * draw[:, column : column + 1]

    moment = between(*speeds.moment, 0)
    before, after = between(*speeds.background, 1), between(*speeds.background, 2)
    # A piece that moved keeps the speed of the background it came from.
    return torch.cat([after, before, before, moment, after, after, before], dim=1)
