"""How the steps of a padded sequence see each other: residual convolutions nearby, non-local blocks everywhere."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

Sequences = Float[Tensor, "batch time dim"]
Mask = Bool[Tensor, "batch time"]


class MaskedBatchNorm(nn.Module):
    """Batch normalisation of padded sequences: mean and variance come from valid steps only.

    Where everything is valid this is torch's `BatchNorm1d`. Outputs of padded steps mean nothing.

    Args:
        dim: channels.
        momentum: share of the present batch in the running statistics.

    Examples:
        >>> norm = MaskedBatchNorm(1)
        >>> norm(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[True, True, False]]))[0, :2, 0].tolist()
        [-0.9999949932098389, 0.9999949932098389]
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, sequence: Sequences, mask: Mask) -> Sequences:
        # Statistics of half-precision numbers would overflow.
        steps = sequence.float()
        mean, variance = self.statistics(steps, mask) if self.training else (self.running_mean, self.running_var)
        normed = (steps - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias
        return normed.to(sequence.dtype)

    def statistics(self, steps: Sequences, mask: Mask) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Mean and biased variance of this batch, which also enter the running ones."""
        valid = mask[..., None]
        count = mask.sum()
        mean = (steps * valid).sum(dim=(0, 1)) / count
        variance = ((steps - mean).square() * valid).sum(dim=(0, 1)) / count
        with torch.no_grad():
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return mean, variance


class ResidualConvBlock(nn.Module):
    """Every step sees nearby ones: two convolutions over time, batch norms, a shortcut (LGI, arXiv:2004.07514, B13).

    Padded steps are zero before every convolution, so that they cannot leak into valid ones; what comes out there means
    nothing.

    Args:
        dim: width of input and output.
        kernel: steps under each convolution; odd.

    Examples:
        >>> ResidualConvBlock(8, kernel=5)(torch.randn(2, 7, 8), torch.ones(2, 7, dtype=torch.bool)).shape
        torch.Size([2, 7, 8])
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that the length is kept: got {kernel}")
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, kernel, padding=kernel // 2, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(MaskedBatchNorm(dim) for _ in range(2))

    def forward(self, sequence: Sequences, mask: Mask) -> Sequences:
        hidden = F.relu(self.step(0, sequence, mask))
        return F.relu(self.step(1, hidden, mask) + sequence)

    def step(self, index: int, sequence: Sequences, mask: Mask) -> Sequences:
        seen = (sequence * mask[..., None]).transpose(1, 2)
        return self.norms[index](self.convs[index](seen).transpose(1, 2), mask)


class NonLocalBlock(nn.Module):
    """Every step adds to itself what it attends to anywhere (non-local networks, arXiv:1711.07971; LGI's B13).

    x + softmax(Q K^T / sqrt(d)) V with several heads, without a projection behind it.

    Args:
        dim: width of input and output.
        heads: number of heads, a divisor of `dim`.

    Examples:
        >>> NonLocalBlock(8, heads=2)(torch.randn(2, 7, 8), torch.ones(2, 7, dtype=torch.bool)).shape
        torch.Size([2, 7, 8])
    """

    def __init__(self, dim: int, heads: int = 1) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"dim must be divisible by heads: got {dim} and {heads}")
        self.heads = heads
        # A bias of the keys would add the same to all logits of a softmax.
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)

    def forward(self, sequence: Sequences, mask: Mask) -> Sequences:
        q, k, v = (
            rearrange(project(sequence), "b t (h d) -> b h t d", h=self.heads)
            for project in (self.query, self.key, self.value)
        )
        related = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        return sequence + rearrange(related, "b h t d -> b t (h d)")
