"""A stacked bidirectional LSTM over padded sequences, and its state at both ends."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.nn.recurrent import reversal


class BidirectionalLSTM(nn.Module):
    """LSTM layers in both directions over padded sequences; what is padded neither enters a state nor leaves one.

    Gives what torch's packed sequences give, without moving lengths to the host, and can be exported. Padded outputs
    are zero.

    Args:
        channels: width of the input.
        width: width of the output, both directions together; even.
        layers: how many; every layer reads both directions of the one below.
        dropout: between layers, in training.

    Examples:
        >>> lstm = BidirectionalLSTM(8, 6, layers=2)
        >>> lstm(torch.zeros(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)).shape
        torch.Size([2, 5, 6])
    """

    def __init__(self, channels: int, width: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width must be even, half for each direction: got {width}")
        inputs = [channels] + [width] * (layers - 1)
        self.ahead = nn.ModuleList(nn.LSTM(size, width // 2, batch_first=True) for size in inputs)
        self.back = nn.ModuleList(nn.LSTM(size, width // 2, batch_first=True) for size in inputs)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, sequence: Float[Tensor, "batch time channel"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time width"]:
        flip = reversal(mask)[..., None]
        hidden = sequence
        for layer, (ahead, back) in enumerate(zip(self.ahead, self.back, strict=True)):
            hidden = self.dropout(hidden) if layer else hidden
            forwards, _ = ahead(hidden)
            backwards, _ = back(hidden.gather(1, flip.expand_as(hidden)))
            hidden = torch.cat([forwards, backwards.gather(1, flip.expand_as(backwards))], dim=-1)
        return hidden * mask[..., None]


def end_states(
    states: Float[Tensor, "batch time width"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch width"]:
    """A sequence as one vector, where each direction has read all of it: ahead at the last step, back at the first.

    Args:
        states: of a bidirectional encoder, the forward direction in the first half of the channels.

    Examples:
        >>> states = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [0.0, 0.0]]])
        >>> end_states(states, torch.tensor([[True, True, False]]))
        tensor([[ 2., 10.]])
    """
    ahead, back = states.chunk(2, dim=-1)
    last = (mask.sum(dim=1) - 1).clamp(min=0)[:, None, None].expand(-1, 1, ahead.shape[2])
    return torch.cat([ahead.gather(1, last)[:, 0], back[:, 0]], dim=-1)
