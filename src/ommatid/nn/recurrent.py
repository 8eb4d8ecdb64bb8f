"""Recurrent encoders for padded sequences."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class BidirectionalGRU(nn.Module):
    """A GRU in both directions over padded sequences; what is padded neither enters a state nor leaves one.

    The backward direction runs over each sequence reversed within its own length. This gives what packing gives,
    without moving lengths to the host, and it can be exported. Padded outputs are zero.

    Args:
        channels: width of the input.
        width: width of the output, both directions together; even.

    Examples:
        >>> gru = BidirectionalGRU(8, 6)
        >>> gru(torch.zeros(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)).shape
        torch.Size([2, 5, 6])
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width must be even, half for each direction: got {width}")
        self.ahead = nn.GRU(channels, width // 2, batch_first=True)
        self.back = nn.GRU(channels, width // 2, batch_first=True)

    def forward(
        self, sequence: Float[Tensor, "batch time channel"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time width"]:
        flip = reversal(mask)
        ahead, _ = self.ahead(sequence)
        back, _ = self.back(sequence.gather(1, flip[..., None].expand_as(sequence)))
        back = back.gather(1, flip[..., None].expand_as(back))
        return torch.cat([ahead, back], dim=-1) * mask[..., None]


def reversal(mask: Bool[Tensor, "batch time"]) -> Tensor:
    """Indices that reverse each sequence within its own length and leave the padding where it is.

    Examples:
        >>> reversal(torch.tensor([[True, True, True, False]]))
        tensor([[2, 1, 0, 3]])
    """
    position = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    mirrored = mask.sum(dim=1, keepdim=True) - 1 - position
    return torch.where(mask, mirrored, position)


def published_gru(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """torch's one-layer bidirectional GRU under the names of `BidirectionalGRU`."""
    renamed = {}
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        renamed[f"ahead.{part}_l0"] = state[f"{prefix}{part}_l0"]
        renamed[f"back.{part}_l0"] = state[f"{prefix}{part}_l0_reverse"]
    return renamed
