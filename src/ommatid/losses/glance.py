"""Learning from a glance: one instant of a video that is known to lie inside the moment a sentence describes.

The losses of ViGA (Video moment retrieval from text queries via single frame annotation, arXiv:2204.09409), the
baseline of glance supervision: weights that fall off around the glance (B1), clips that recognise their sentence as far
as they are near it (B2, B3), and attention that gathers around it (B4). Block numbers are those of the card of MHST.

Mode "normalised" measures every video by its own length, so that padding changes nothing. Mode "viga" repeats the
authors' code, in which places count from the padded length, and padded steps take part in two sums.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ommatid.errors import InputError, unknown

Mode = Literal["normalised", "viga"]
Steps = Float[Tensor, "batch time"]
Mask = Bool[Tensor, "batch time"]
Clips = tuple[Float[Tensor, "batch clip dim"], Float[Tensor, "batch clip"], Bool[Tensor, "batch clip"]]


def gaussian_glance_weight(
    glance: Float[Tensor, "batch"], mask: Mask, sigma_factor: float, mode: Mode = "normalised"
) -> Steps:
    """How much each step counts as described: a Gaussian around the glance whose largest value is 1 (B1).

    Args:
        glance: in steps from the beginning of the video; step t lasts from t to t + 1.
        sigma_factor: standard deviation in halves of the video.
        mode: "viga" takes the index of the glance's step, and stretches places over the padded length.

    Raises:
        InputError: a width that is not above 0.

    Examples:
        >>> mask = torch.tensor([[True, True, True, True, False]])
        >>> gaussian_glance_weight(torch.tensor([1.5]), mask, sigma_factor=0.5)
        tensor([[0.6065, 1.0000, 0.6065, 0.1353, 0.0000]])
    """
    _known(mode)
    if sigma_factor <= 0:
        raise InputError(f"sigma_factor must be above 0, found {sigma_factor}")
    length, padded = mask.sum(dim=1, keepdim=True).clamp(min=1), mask.shape[1]
    if mode == "viga":
        # On a line from -1 to 1, both ends being steps, though the glance is placed as if the last step ended at 1.
        place = torch.linspace(-1, 1, padded, device=mask.device)
        centre, sigma = glance[:, None] / padded * 2 - 1, sigma_factor * length / padded
    else:
        place = torch.arange(padded, device=mask.device) + 0.5
        centre, sigma = glance[:, None], sigma_factor * length / 2
    exponent = -((place - centre) ** 2) / (2 * sigma**2)
    highest = exponent if mode == "viga" else exponent.masked_fill(~mask, float("-inf"))
    # The largest value becomes 1 before the exponential, which a far glance would send to 0 everywhere.
    return (exponent - highest.amax(dim=1, keepdim=True).clamp(min=-1e30)).exp().masked_fill(~mask, 0)


def sliding_clips(
    video: Float[Tensor, "batch time dim"],
    weight: Steps,
    mask: Mask,
    clip_steps: Sequence[int] = (16,),
    stride: int = 8,
    mode: Mode = "normalised",
) -> Clips:
    """Max-pooled windows of a video, the weight at the middle of each, and which windows lie in it (B2).

    A video that is shorter than a window has one window all the same, its first.

    Args:
        clip_steps: lengths of the windows.
        stride: steps from one window to the next.
        mode: in "viga" every window counts that begins in the video.

    Raises:
        InputError: a length or the stride is below 1.

    Examples:
        >>> video = torch.tensor([[[1.0], [5.0], [2.0], [3.0]]])
        >>> clips, _, inside = sliding_clips(video, torch.ones(1, 4), torch.ones(1, 4).bool(), [2], stride=2)
        >>> clips[0, :, 0].tolist(), inside.tolist()
        ([5.0, 3.0], [[True, True]])
    """
    _known(mode)
    if min(*clip_steps, stride) < 1:
        raise InputError(f"clip_steps and stride must be at least 1, found {tuple(clip_steps)} and {stride}")
    parts = [_windows(video, weight, mask, size, stride, mode) for size in clip_steps]
    clips, weights, inside = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    return clips, weights, inside


def clip_nce_loss(
    sentence: Float[Tensor, "batch dim"],
    clips: Float[Tensor, "batch clip dim"],
    weight: Float[Tensor, "batch clip"],
    mask: Bool[Tensor, "batch clip"],
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """Each clip recognises its sentence among all of the batch, as far as its weight says so (B3).

    The label of a clip is `weight` for its own sentence, and the rest in equal parts for the others; cross-entropy,
    mean over valid clips.

    Args:
        sentence, clips: of length one each, or pooled from what is.

    Examples:
        >>> sentences = torch.eye(2)
        >>> near, far = torch.ones(2, 1), torch.zeros(2, 1)
        >>> inside = torch.ones(2, 1, dtype=torch.bool)
        >>> bool(clip_nce_loss(sentences, sentences[:, None], near, inside) < 1e-4)
        True
        >>> bool(clip_nce_loss(sentences, sentences[:, None], far, inside) > 10)
        True
    """
    log_share = (torch.einsum("bnd,kd->bnk", clips, sentence).float() / temperature).log_softmax(dim=-1)
    own = log_share.diagonal(dim1=0, dim2=2).T
    others = (log_share.sum(dim=-1) - own) / max(len(sentence) - 1, 1)
    loss = -(weight * own + (1 - weight) * others)
    return (loss * mask).sum() / mask.sum().clamp(min=1)


def attention_guidance_kl(
    attention: Steps, weight: Steps, mask: Mask, scale: float = 10_000.0, mode: Mode = "normalised"
) -> Float[Tensor, ""]:
    """How far attention over the steps of a video is from the weights around its glance (B4).

    Both pass a softmax, though attention is one already: two flat distributions, whose small divergence `scale` makes
    up for. KL from the weights to the attention, summed over valid steps, divided by their number in the batch.

    Args:
        mode: in "viga" padded steps take part in both softmaxes.

    Examples:
        >>> weight, mask = torch.tensor([[0.2, 1.0]]), torch.ones(1, 2, dtype=torch.bool)
        >>> attention_guidance_kl(weight, weight, mask)
        tensor(0.)
    """
    _known(mode)
    # Finite, so that a padded step's difference of logarithms stays a number.
    valid = torch.ones_like(mask) if mode == "viga" else mask
    found, wanted = (values.float().masked_fill(~valid, -1e4).log_softmax(dim=1) for values in (attention, weight))
    divergence = F.kl_div(found, wanted, reduction="none", log_target=True)
    return (divergence * mask).sum() / mask.sum().clamp(min=1) * scale


def _windows(
    video: Float[Tensor, "batch time dim"], weight: Steps, mask: Mask, size: int, stride: int, mode: Mode
) -> Clips:
    short = max(size - video.shape[1], 0)
    known = F.pad(video.masked_fill(~mask[..., None], float("-inf")), (0, 0, 0, short), value=float("-inf"))
    windows = known.unfold(1, size, stride)
    start = torch.arange(windows.shape[1], device=video.device) * stride
    steps = mask.sum(dim=1, keepdim=True)
    inside = (start < steps) if mode == "viga" else (start + size <= steps) | ((start == 0) & (steps > 0))
    clips = windows.amax(dim=-1).masked_fill(~inside[..., None], 0)
    # A window that reaches over the end of a short video has its middle in what there is of it.
    middle = torch.minimum(start + size // 2, (steps - 1).clamp(min=0)) if mode == "normalised" else start + size // 2
    middle = middle.expand(len(video), -1).clamp(max=video.shape[1] - 1)
    return clips, weight.gather(1, middle), inside


def _known(mode: str) -> None:
    if mode not in get_args(Mode):
        raise unknown("mode", mode, get_args(Mode))
