"""Attention over a frame's patches and over a patch's frames, side by side (PAVER, arXiv:2209.08956, E6-E7)."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.errors import InputError

Tokens = Float[Tensor, "batch time patch dim"]
Heads = Float[Tensor, "batch time patch head width"]
Valid = Bool[Tensor, "batch time"]


class SpaceAttention(nn.Module):
    """Every patch attends to the patches of its own frame (E7, the variant without time).

    Args:
        dim: width of the tokens.
        heads: number of heads, a divisor of `dim`.
        qkv_bias: whether the shared projection to queries, keys and values has a bias.

    Raises:
        InputError: the heads do not divide the width.

    Examples:
        >>> SpaceAttention(16, heads=4)(torch.randn(2, 3, 8, 16)).shape
        torch.Size([2, 3, 8, 16])
    """

    def __init__(self, dim: int, heads: int = 8, qkv_bias: bool = False) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise InputError(f"heads: found {heads}, expected a divisor of dim {dim}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tokens, valid: Valid | None = None) -> Tokens:
        """
        Args:
            valid: frames that are real; the others are never attended to from another frame. All where None.
        """
        query, key, value = rearrange(self.qkv(tokens), "b t n (three h d) -> three b t n h d", three=3, h=self.heads)
        return self.proj(self.mix(query, key, value, valid).flatten(-2))

    def mix(self, query: Heads, key: Heads, value: Heads, valid: Valid | None) -> Heads:
        """What the queries read."""
        return over_space(query, key, value)


class SpaceTimeAttention(SpaceAttention):
    """Every patch attends to the patches of its own frame, and to itself in all frames; the mean of both (E7).

    Both share one projection to queries, keys and values. Arguments are those of `SpaceAttention`.

    Examples:
        >>> attention = SpaceTimeAttention(16, heads=4)
        >>> clips, valid = torch.randn(2, 3, 8, 16), torch.tensor([[True, True, True], [True, True, False]])
        >>> alone = attention(clips[1:, :2])
        >>> torch.testing.assert_close(attention(clips, valid)[1:, :2], alone)
    """

    def mix(self, query: Heads, key: Heads, value: Heads, valid: Valid | None) -> Heads:
        return (over_space(query, key, value) + over_time(query, key, value, valid)) / 2


def over_space(query: Heads, key: Heads, value: Heads) -> Heads:
    """Attention within each frame."""
    frames = query.shape[1]
    query, key, value = (rearrange(each, "b t n h d -> (b t) h n d") for each in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(query, key, value), "(b t) h n d -> b t n h d", t=frames)


def over_time(query: Heads, key: Heads, value: Heads, valid: Valid | None = None) -> Heads:
    """Attention of each patch to itself in the valid frames."""
    patches, allowed = query.shape[2], None
    if valid is not None:
        # A padded frame still sees itself: a row without any key would be NaN.
        itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
        allowed = repeat(valid[:, None] | itself, "b t s -> (b n) 1 t s", n=patches)
    query, key, value = (rearrange(each, "b t n h d -> (b n) h t d") for each in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    return rearrange(mixed, "(b n) h t d -> b t n h d", n=patches)


class TokenMLP(nn.Module):
    """Linear, GELU, linear, back to the width it reads: of a transformer's block, or for the CLS token (E6).

    Examples:
        >>> TokenMLP(16, hidden_dim=16)(torch.randn(2, 3, 16)).shape
        torch.Size([2, 3, 16])
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return self.fc2(F.gelu(self.fc1(tokens)))


class SpaceBlock(nn.Module):
    """One pre-norm transformer block on the patches of each frame alone (E7, the variant without time).

    Args:
        dim, heads, qkv_bias: as in `SpaceAttention`.
        mlp_ratio: hidden width of the MLP, in widths of the tokens.

    Examples:
        >>> SpaceBlock(16, heads=4)(torch.randn(2, 3, 8, 16)).shape
        torch.Size([2, 3, 8, 16])
    """

    attention: type[SpaceAttention] = SpaceAttention

    def __init__(self, dim: int, heads: int = 8, mlp_ratio: float = 4.0, qkv_bias: bool = False) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), self.attention(dim, heads, qkv_bias)
        self.norm2, self.mlp = nn.LayerNorm(dim), TokenMLP(dim, int(mlp_ratio * dim))

    def forward(self, tokens: Tokens, valid: Valid | None = None) -> Tokens:
        """
        Args:
            valid: frames that are real; padded ones do not change them.
        """
        tokens = tokens + self.attn(self.norm1(tokens), valid)
        return tokens + self.mlp(self.norm2(tokens))


class SpaceTimeBlock(SpaceBlock):
    """One pre-norm transformer block whose attention is the mean over space and time (E7).

    Arguments are those of `SpaceBlock`.

    Examples:
        >>> SpaceTimeBlock(16, heads=4)(torch.randn(2, 3, 8, 16), torch.ones(2, 3, dtype=torch.bool)).shape
        torch.Size([2, 3, 8, 16])
    """

    attention = SpaceTimeAttention
