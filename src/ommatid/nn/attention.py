"""Attention blocks on padded sequences, all on torch's fused kernel."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with several heads; keys are masked, and queries may be limited to a neighbourhood.

    Args:
        dim: width of queries, keys and values.
        heads: number of heads, a divisor of `dim`.
        window: each query sees keys at most so many positions away (its own sequence); None for all.
        dropout: of the attention weights, in training.
    """

    def __init__(self, dim: int, heads: int = 4, window: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be divisible by heads: got {dim} and {heads}")
        self.heads, self.window, self.dropout = heads, window, dropout
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        query: Float[Tensor, "batch target dim"],
        source: Float[Tensor, "batch source dim"],
        source_mask: Bool[Tensor, "batch source"],
    ) -> Float[Tensor, "batch target dim"]:
        q, k, v = (
            rearrange(projected, "b t (h d) -> b h t d", h=self.heads)
            for projected in (self.query(query), self.key(source), self.value(source))
        )
        allowed = source_mask[:, None, None, :]
        if self.window is not None:
            allowed = allowed & neighbourhood(query.shape[1], self.window, query.device)
            # A padded position still sees itself: a row without any key would be NaN.
            allowed = allowed | torch.eye(query.shape[1], dtype=torch.bool, device=query.device)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(rearrange(mixed, "b h t d -> b t (h d)"))


class AdditiveAttention(nn.Module):
    """For every frame its own sentence: words weighted by w^T tanh(W1 frame + W2 word) (arXiv:2201.00454, E18)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.frame = nn.Linear(dim, dim)
        self.word = nn.Linear(dim, dim, bias=False)
        self.weight = nn.Linear(dim, 1, bias=False)

    def forward(
        self,
        video: Float[Tensor, "batch time dim"],
        query: Float[Tensor, "batch word dim"],
        query_mask: Bool[Tensor, "batch word"],
    ) -> Float[Tensor, "batch time dim"]:
        energy = self.weight(torch.tanh(self.frame(video)[:, :, None] + self.word(query)[:, None]))[..., 0]
        weights = energy.masked_fill(~query_mask[:, None], float("-inf")).softmax(dim=-1)
        return weights @ query


def neighbourhood(length: int, window: int, device: torch.device | None = None) -> Bool[Tensor, "length length"]:
    """True where two positions lie at most `window` apart.

    Examples:
        >>> neighbourhood(3, 1).int().tolist()
        [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
    """
    position = torch.arange(length, device=device)
    return (position[:, None] - position).abs() <= window


def sinusoid(length: int, dim: int, device: torch.device | None = None) -> Float[Tensor, "length dim"]:
    """Sinusoidal positions, sine and cosine of each frequency side by side.

    Examples:
        >>> sinusoid(2, 4)[0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """
    rate = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10_000.0) / dim))
    angle = torch.arange(length, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :dim]
