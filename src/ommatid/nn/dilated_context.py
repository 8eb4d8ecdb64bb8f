"""Context at several time scales at once, weighed step by step (DCIN-TEL, arXiv:2208.01954, E3-E7)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class DilatedContextStack(nn.Module):
    """Residual convolutions whose reach doubles from level to level; every level's result is given (E3).

    Args:
        dilations: one a level; all ones give equal depth and parameters without the growing reach.

    Examples:
        >>> stack = DilatedContextStack(8, dilations=(1, 2, 4))
        >>> contexts = stack(torch.randn(2, 10, 8), torch.ones(2, 10, dtype=torch.bool))
        >>> contexts.shape
        torch.Size([2, 3, 10, 8])
    """

    def __init__(self, dim: int, dilations: Sequence[int] = (1, 2, 4, 8), kernel: int = 3) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.across = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=dilation * (kernel // 2), dilation=dilation) for dilation in dilations
        )
        self.within = nn.ModuleList(nn.Linear(dim, dim) for _ in dilations)

    def forward(
        self, sequence: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch level time dim"]:
        valid = mask[..., None]
        hidden = self.norm(sequence) * valid
        levels = []
        for across, within in zip(self.across, self.within, strict=True):
            seen = torch.relu(across(hidden.transpose(1, 2)).transpose(1, 2))
            hidden = (hidden + within(seen)) * valid
            levels.append(hidden)
        return torch.stack(levels, dim=1)


class GranularityAttention(nn.Module):
    """Contexts of several scales tell each other about one step, then are mixed by weights of that step (E6, E7).

    Examples:
        >>> attention = GranularityAttention(8)
        >>> mixed, weights = attention(torch.randn(2, 3, 10, 8), torch.randn(2, 10, 8))
        >>> mixed.shape, weights.shape
        (torch.Size([2, 10, 8]), torch.Size([2, 10, 3]))
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.fine, self.context = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.weight = nn.Linear(dim, 1, bias=False)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, contexts: Float[Tensor, "batch level time dim"], fine: Float[Tensor, "batch time dim"]
    ) -> tuple[Float[Tensor, "batch time dim"], Float[Tensor, "batch time level"]]:
        nodes = torch.cat([contexts.transpose(1, 2), fine[:, :, None]], dim=2)
        told = nn.functional.scaled_dot_product_attention(self.query(nodes), self.key(nodes), self.value(nodes))
        related = (nodes + told)[:, :, :-1]
        weights = self.weight(torch.tanh(self.fine(fine)[:, :, None] + self.context(related)))[..., 0].softmax(dim=-1)
        return self.norm(fine + (weights[..., None] * related).sum(dim=2)), weights
