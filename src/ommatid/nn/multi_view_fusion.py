"""Filter a 2D network's features along time, height and width (arXiv:2012.06977, E1-E3), and what it specialises to."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError

Frames = Float[Tensor, "frame channel height width"]
Views = Literal["T", "TH", "THW", "HW"]


class MultiViewFusion(nn.Module):
    """Depth-wise kernels of length 3 along time, height and width on a share of the channels (E1-E3).

    Stands in front of a 1x1 convolution of a residual block, whose shortcut carries the untouched input.

    Args:
        channels: of the map that it reads.
        clip_length: frames of a clip; frames of one clip follow each other in the batch.
        alpha: share of the channels that is filtered; 0 filters none, and the network stays the 2D network it was.
        views: the axes that have a kernel; "HW" leaves time out.
        shared: use the kernel of time along the other axes, too.
        activation: normalise the sum and pass it through a hard swish.

    Raises:
        InputError: alpha lies outside [0, 1], or the frames are no whole number of clips.

    Examples:
        >>> MultiViewFusion(64, clip_length=8, alpha=1 / 8)(torch.randn(16, 64, 7, 7)).shape
        torch.Size([16, 64, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        clip_length: int = 8,
        alpha: float = 0.125,
        views: Views = "THW",
        shared: bool = False,
        activation: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha must lie in [0, 1], found {alpha}")
        self.clip_length, self.fused, self.views = clip_length, int(alpha * channels), views
        self.time = _kernel(self.fused) if shared or "T" in views else None
        self.height = _kernel(self.fused) if not shared and "H" in views else None
        self.width = _kernel(self.fused) if not shared and "W" in views else None
        # Statistics over clips, frames and places are those over frames and places of a flat batch.
        self.norm = nn.BatchNorm2d(self.fused) if activation and self.fused else None

    def forward(self, frames: Frames) -> Frames:
        if not self.fused:
            return frames
        read, rest = frames[:, : self.fused], frames[:, self.fused :]
        views = []
        if "T" in self.views and self.time is not None:
            views.append(along_time(read, self.time, self.clip_length))
        if "H" in self.views:
            views.append(F.conv2d(read, self._plane(), padding=1, groups=self.fused))
        fused = sum(views[1:], views[0])
        if self.norm is not None:
            fused = F.hardswish(self.norm(fused))
        return torch.cat([fused, rest], dim=1)

    def _plane(self) -> Float[Tensor, "channel one 3 3"]:
        """The kernels of height and width as one: a cross costs one pass where two lines cost two."""
        height, width = (self.time if kernel is None else kernel for kernel in (self.height, self.width))
        assert height is not None
        cross = F.pad(height[:, None, :, None], (1, 1))
        if "W" in self.views:
            assert width is not None
            cross = cross + F.pad(width[:, None, None, :], (0, 0, 1, 1))
        return cross

    def extra_repr(self) -> str:
        return f"clip_length={self.clip_length}, channels={self.fused}, views={self.views}"


class TemporalShift(nn.Module):
    """Move an eighth of the channels one frame ahead and another one back, at no cost: fixed kernels along time.

    Args:
        channels: of the map that it reads.
        clip_length: frames of a clip.
        share: of the channels that moves in each direction.

    Examples:
        >>> clip = torch.arange(1.0, 4).view(3, 1, 1, 1).expand(3, 3, 1, 1)
        >>> TemporalShift(3, clip_length=3, share=1 / 3)(clip)[..., 0, 0]
        tensor([[2., 0., 1.],
                [3., 1., 2.],
                [0., 2., 3.]])
    """

    def __init__(self, channels: int, clip_length: int = 8, share: float = 0.125) -> None:
        super().__init__()
        if not 0 <= share <= 0.5:
            raise InputError(f"share must lie in [0, 0.5], found {share}")
        self.clip_length, self.moved = clip_length, int(share * channels)

    def forward(self, frames: Frames) -> Frames:
        clips, moved = as_clips(frames, self.clip_length), self.moved
        shifted = clips.clone()
        shifted[:, :-1, :moved], shifted[:, -1:, :moved] = clips[:, 1:, :moved], 0
        shifted[:, 1:, moved : 2 * moved], shifted[:, :1, moved : 2 * moved] = clips[:, :-1, moved : 2 * moved], 0
        return shifted.flatten(0, 1)


def along_time(frames: Frames, kernel: Float[Tensor, "channel 3"], clip_length: int) -> Frames:
    """Every channel filtered along the frames of its clip, zeros beyond them (E2).

    Raises:
        InputError: the frames are no whole number of clips.
    """
    height = frames.shape[2]
    # Time as the height of an image whose width are all places: several times faster than a 3D convolution.
    lines = as_clips(frames, clip_length).transpose(1, 2).flatten(3)
    filtered = F.conv2d(lines, kernel[:, None, :, None], padding=(1, 0), groups=len(kernel))
    return filtered.unflatten(3, (height, -1)).transpose(1, 2).flatten(0, 1)


def as_clips(frames: Frames, clip_length: int) -> Float[Tensor, "clip time channel height width"]:
    """
    Raises:
        InputError: the frames are no whole number of clips.
    """
    if len(frames) % clip_length:
        raise InputError(f"frames: found {len(frames)}, expected a multiple of clip_length {clip_length}")
    return frames.unflatten(0, (-1, clip_length))


def _kernel(channels: int) -> nn.Parameter:
    # As a convolution of three taps that is initialised by its outputs, groups not taken into account.
    return nn.Parameter(torch.randn(channels, 3) * math.sqrt(2 / (3 * max(channels, 1))))


def published_fusion(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' parameters of one module under the names used here, without those of the wrapped convolution."""
    named = {"shift_conv": "time", "h_conv": "height", "w_conv": "width"}
    kernels = {
        named[name]: value.flatten(1) for key, value in state.items() if (name := key.removesuffix(".weight")) in named
    }
    return kernels | {f"norm.{key[3:]}": value for key, value in state.items() if key.startswith("bn.")}
