"""A sequence put together from pieces, smoothed where they meet (ECRL, arXiv:2305.04123, E5-E7)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.nn.attention import MultiHeadAttention

Sequences = Float[Tensor, "batch time dim"]
Mask = Bool[Tensor, "batch time"]


class SelfRefine(nn.Module):
    """Each step corrected by its neighbours: two depth-wise convolutions, then attention within a window (E5).

    Both add to what they are given, so that refined features stay comparable with features that were not refined.

    Args:
        window: steps to either side that the attention sees.

    Examples:
        >>> refine = SelfRefine(8)
        >>> refine(torch.randn(2, 9, 8), torch.ones(2, 9, dtype=torch.bool)).shape
        torch.Size([2, 9, 8])
    """

    def __init__(self, dim: int, kernel: int = 5, window: int = 3) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim) for _ in range(2))
        self.norm = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, 1, window, 0.0)

    def forward(self, sequence: Sequences, mask: Mask) -> Sequences:
        valid = mask[..., None]
        hidden = torch.relu(self.first((sequence * valid).transpose(1, 2))).transpose(1, 2) * valid
        smooth = sequence + self.second(hidden.transpose(1, 2)).transpose(1, 2)
        normed = self.norm(smooth) * valid
        return (smooth + self.attention(normed, normed, mask)) * valid


def corrupt(sequence: Sequences, mask: Mask, repeated: float = 0.2, zeroed: float = 0.1) -> tuple[Sequences, Mask]:
    """Some steps replaced by their left neighbour, some by zeros, and which ones those are (E6).

    Random numbers come from torch's default generator.
    """
    draw = torch.rand(mask.shape, device=mask.device)
    repeat, zero = draw < repeated, (draw >= repeated) & (draw < repeated + zeroed)
    left = torch.cat([sequence[:, :1], sequence[:, :-1]], dim=1)
    changed = torch.where(repeat[..., None], left, sequence).masked_fill(zero[..., None], 0.0)
    return changed, (repeat | zero) & mask


def reconstruction_loss(refined: Sequences, original: Sequences, corrupted: Mask) -> Float[Tensor, ""]:
    """Mean squared error of the corrupted steps (E6)."""
    error = ((refined - original) ** 2).mean(dim=-1)
    return (error * corrupted).sum() / corrupted.sum().clamp(min=1)


def seam_smoothness(
    refined: Sequences, seams: Bool[Tensor, "batch time"], mask: Mask, reference: Sequences, reference_mask: Mask
) -> Float[Tensor, ""]:
    """How much more than usual neighbouring steps differ where two pieces meet (E7).

    Args:
        seams: True for a step after which another piece begins.
        reference: an untouched sequence of the same video: what difference is usual.

    Examples:
        >>> still, jump = torch.zeros(1, 4, 1), torch.tensor([[[0.0], [0.0], [3.0], [3.0]]])
        >>> mask, seams = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[False, True, False, False]])
        >>> round(seam_smoothness(jump, seams, mask, still, mask).item(), 3)
        3.0
    """
    usual, both = _steps_apart(reference, reference_mask)
    usual = (usual * both).sum(dim=1, keepdim=True) / both.sum(dim=1, keepdim=True).clamp(min=1)
    apart, both = _steps_apart(refined, mask)
    meeting = seams[:, :-1] & both
    return (torch.relu(apart - usual) * meeting).sum() / meeting.sum().clamp(min=1)


def _steps_apart(sequence: Sequences, mask: Mask) -> tuple[Tensor, Tensor]:
    """Distance of neighbouring steps, and where both exist."""
    difference = sequence[:, 1:] - sequence[:, :-1]
    # The root of zero has no gradient.
    return (difference.float() ** 2).sum(dim=-1).clamp(min=1e-12).sqrt(), mask[:, 1:] & mask[:, :-1]
