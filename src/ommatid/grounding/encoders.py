"""Encoders that the methods of the field share: words to vectors, clips and words to contextual features."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.nn.attention import MultiHeadAttention
from ommatid.nn.recurrent import BidirectionalGRU

Encoder = Literal["gru", "conv"]


class WordEmbedding(nn.Module):
    """Frozen word vectors with one learned vector for every unknown word; index 0 pads, 1 is unknown.

    Vectors (`GloVe` rows) and parts of speech come with the data; until they do, they are zero.

    Attributes:
        tags: part of speech of each row, an index into `ommatid.data.tagging.PARTS_OF_SPEECH`.
    """

    vectors: Tensor
    tags: Tensor

    def __init__(self, vocabulary_size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(vocabulary_size, dim))
        self.register_buffer("tags", torch.zeros(vocabulary_size, dtype=torch.long))
        self.unknown = nn.Parameter(torch.empty(dim).normal_(0, 0.1))

    def forward(self, words: Int[Tensor, "batch word"]) -> Float[Tensor, "batch word dim"]:
        known = F.embedding(words, self.vectors)
        return torch.where((words == 1)[..., None], self.unknown.to(known.dtype), known)


class LocalSelfAttention(nn.Module):
    """Residual self-attention in which each step sees its neighbours only (E1)."""

    def __init__(self, dim: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, heads, window, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, sequence: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time dim"]:
        return self.norm(sequence + self.attention(sequence, sequence, mask)) * mask[..., None]


class ConvContext(nn.Module):
    """Residual depth-wise separable convolutions: context without recurrence, several times faster on a CPU."""

    def __init__(self, channels: int, width: int, layers: int = 2, kernel: int = 7, dropout: float = 0.0) -> None:
        super().__init__()
        self.project = nn.Linear(channels, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.across = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False) for _ in range(layers)
        )
        self.within = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, sequence: Float[Tensor, "batch time channel"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time width"]:
        hidden = self.project(sequence) * mask[..., None]
        for norm, across, within in zip(self.norms, self.across, self.within, strict=True):
            # Padded steps are zero before every convolution, so that they cannot leak into valid ones.
            normed = norm(hidden) * mask[..., None]
            mixed = across(normed.transpose(1, 2)).transpose(1, 2)
            hidden = hidden + self.dropout(F.relu(within(mixed))) * mask[..., None]
        return hidden


def context(kind: Encoder, channels: int, width: int, dropout: float = 0.0) -> nn.Module:
    """A sequence encoder by name: `(sequence, mask) -> sequence` of the new width."""
    if kind == "gru":
        return BidirectionalGRU(channels, width)
    return ConvContext(channels, width, dropout=dropout)
