"""The encoder of QANet (arXiv:1804.09541): words from their characters, and sequences by convolutions and attention."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.errors import InputError

Sequences = Float[Tensor, "batch time dim"]
Mask = Bool[Tensor, "batch time"]

CHANNELS = (10, 20, 30, 40)
"""Of the convolutions over 1, 2, 3 and 4 characters."""


class CharacterConvolution(nn.Module):
    """A vector of each word from how it is spelled: convolutions over characters, the maximum over positions.

    Index 0 pads; a spelling has at least four indices.

    Examples:
        >>> CharacterConvolution(characters=30, dim=8, dropout=0.0)(torch.ones(2, 5, 9, dtype=torch.long)).shape
        torch.Size([2, 5, 100])
    """

    width = sum(CHANNELS)

    def __init__(self, characters: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, dim, padding_idx=0)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim, channels, kernel) for kernel, channels in enumerate(CHANNELS, start=1)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, spelling: Int[Tensor, "batch word character"]) -> Float[Tensor, "batch word channel"]:
        letters = rearrange(self.dropout(self.embedding(spelling)), "b l c d -> (b l) d c")
        pooled = [F.relu(convolution(letters)).amax(dim=-1) for convolution in self.convolutions]
        return rearrange(torch.cat(pooled, dim=-1), "(b l) d -> b l d", b=len(spelling))


class SeparableConvolution(nn.Module):
    """Pre-norm residual step: a convolution along each channel over time, then one across channels."""

    def __init__(self, dim: int, dropout: float, kernel: int = 7) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.across = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        self.within = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, sequence: Sequences, visible: Mask) -> Sequences:
        normed = self.norm(sequence) * visible[..., None]
        mixed = self.across(normed.transpose(1, 2)).transpose(1, 2)
        return sequence + self.dropout(F.relu(self.within(mixed)))


class AttentionBlock(nn.Module):
    """Pre-norm self-attention without a projection of its own, then a pre-norm linear layer."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.out_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, sequence: Sequences, mask: Mask) -> Sequences:
        normed = self.dropout(self.norm(sequence))
        q, k, v = (
            rearrange(project(normed), "b t (h d) -> b h t d", h=self.heads)
            for project in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask[:, None, None], dropout_p=self.dropout.p if self.training else 0.0
        )
        mixed = sequence + self.dropout(rearrange(seen, "b h t d -> b t (h d)"))
        return mixed + self.dropout(self.out(self.dropout(self.out_norm(mixed))))


class FeatureEncoder(nn.Module):
    """Learned positions, four separable convolutions, one attention block.

    Args:
        positions: longest sequence it can number.
        as_released: the convolutions also read padded steps.

    Raises:
        InputError: a sequence is longer than there are positions.

    Examples:
        >>> encoder = FeatureEncoder(16, heads=4, positions=50, dropout=0.1, as_released=False)
        >>> encoder(torch.randn(2, 7, 16), torch.ones(2, 7, dtype=torch.bool)).shape
        torch.Size([2, 7, 16])
    """

    def __init__(self, dim: int, heads: int, positions: int, dropout: float, as_released: bool) -> None:
        super().__init__()
        self.as_released = as_released
        self.positions = nn.Embedding(positions, dim)
        self.convolutions = nn.ModuleList(SeparableConvolution(dim, dropout) for _ in range(4))
        self.attention = AttentionBlock(dim, heads, dropout)

    def forward(self, sequence: Sequences, mask: Mask) -> Sequences:
        length, most = sequence.shape[1], self.positions.num_embeddings
        if length > most:
            raise InputError(f"positions: found a video or sentence of {length} steps, expected at most {most}")
        sequence = sequence + self.positions.weight[:length]
        visible = torch.ones_like(mask) if self.as_released else mask
        for convolution in self.convolutions:
            sequence = convolution(sequence, visible)
        return self.attention(sequence, mask)
