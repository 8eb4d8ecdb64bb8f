"""Sequences that look at the same scene a little apart: how they inform one another, step by step."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

Frames = Float[Tensor, "batch frame time dim"]
Affinity = Float[Tensor, "batch time frame frame"]
Probs = Float[Tensor, "batch frame time"]


class SiameseAggregator(nn.Module):
    """What the siamese frames of a step see is added to each of them (SSRN, arXiv:2301.00514, E6-E8).

    Cosine similarities A of the frames of one step, a softmax without the diagonal, then
    f_i + ReLU(omega W_1 sum_j A(i, j) f_j + (1 - omega) W_2 f_i).

    Args:
        dim: width of a frame.
        omega: share of the other frames against the frame itself.

    Examples:
        >>> frames, affinity = SiameseAggregator(8)(torch.randn(2, 5, 16, 8))
        >>> frames.shape, affinity.shape
        (torch.Size([2, 5, 16, 8]), torch.Size([2, 16, 5, 5]))
    """

    def __init__(self, dim: int, omega: float = 0.5) -> None:
        super().__init__()
        if not 0 <= omega <= 1:
            raise ValueError(f"omega must lie in [0, 1]: got {omega}")
        self.omega = omega
        self.others, self.own = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)

    def forward(self, frames: Frames) -> tuple[Frames, Affinity]:
        affinity = siamese_affinity(frames)
        others = einsum(affinity.to(frames.dtype), frames, "b t i j, b j t d -> b i t d")
        mixed = self.omega * self.others(others) + (1 - self.omega) * self.own(frames)
        return frames + F.relu(mixed), affinity


def siamese_affinity(frames: Frames) -> Affinity:
    """How much each frame of a step resembles the others: rows sum to one, the diagonal is zero (E6, E7).

    Examples:
        >>> siamese_affinity(torch.ones(1, 3, 1, 2))[0, 0]
        tensor([[0.0000, 0.5000, 0.5000],
                [0.5000, 0.0000, 0.5000],
                [0.5000, 0.5000, 0.0000]])
    """
    unit = F.normalize(frames.float(), dim=-1)
    cosine = einsum(unit, unit, "b i t d, b j t d -> b t i j").float()
    others = ~torch.eye(frames.shape[1], dtype=torch.bool, device=frames.device)
    # Cosines are small enough for exp; a softmax over a frame without siblings would be NaN.
    weight = cosine.exp() * others
    return weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-8)


def propagate_soft_labels(probs: Probs, affinity: Affinity, omega: float = 0.5) -> Probs:
    """What the frames say of time, told to one another: soft labels without a gradient (SSRN, arXiv:2301.00514, E9).

    Frame i listens to frame j by their affinity where i itself puts its probability. Rows sum to one as `probs` do; a
    frame without siblings keeps its own.

    Args:
        probs: a distribution over time for every frame.
        affinity: as `siamese_affinity` gives it.
        omega: share of the other frames.

    Examples:
        >>> probs = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> propagate_soft_labels(probs, siamese_affinity(torch.ones(1, 2, 2, 3)), omega=0.3)
        tensor([[[0.7000, 0.3000],
                 [0.3000, 0.7000]]])
    """
    probs, affinity = probs.detach().float(), affinity.detach()
    # Sums of products instead of matrix products: autocast would round labels to half precision.
    attention = (affinity * rearrange(probs, "b i t -> b t i 1")).sum(dim=1)
    heard = (attention[..., None] * probs[:, None]).sum(dim=2)
    return omega * heard + (1 - omega * attention.sum(dim=-1, keepdim=True)) * probs
