"""Attention within and between two modalities at once."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.nn.attention import MultiHeadAttention

Video = Float[Tensor, "batch time dim"]
Query = Float[Tensor, "batch word dim"]


class HeterogeneousAttention(nn.Module):
    """Each modality attends to itself and to the other one, and a gate mixes the two (MGSL-Net, arXiv:2201.00454,
    E15-E17).

    Examples:
        >>> block = HeterogeneousAttention(8, heads=2)
        >>> masks = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
        >>> video, query = block(torch.randn(2, 5, 8), torch.randn(2, 3, 8), *masks)
        >>> video.shape, query.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 3, 8]))
    """

    def __init__(self, dim: int, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.video, self.query = _Half(dim, heads, dropout), _Half(dim, heads, dropout)

    def forward(
        self, video: Video, query: Query, video_mask: Bool[Tensor, "batch time"], query_mask: Bool[Tensor, "batch word"]
    ) -> tuple[Video, Query]:
        return self.video(video, query, video_mask, query_mask), self.query(query, video, query_mask, video_mask)


class _Half(nn.Module):
    """One modality's side."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.intra = MultiHeadAttention(dim, heads, dropout=dropout)
        self.inter = MultiHeadAttention(dim, heads, dropout=dropout)
        self.gate = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))

    def forward(self, own: Tensor, other: Tensor, own_mask: Tensor, other_mask: Tensor) -> Tensor:
        within = self.intra(own, own, own_mask)
        between = self.inter(own, other, other_mask)
        gate = self.gate(torch.cat([within, between], dim=-1)).sigmoid()
        mixed = self.norm(own + torch.lerp(between, within, gate))
        return mixed + self.feed_forward(mixed)
