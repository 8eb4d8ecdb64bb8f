"""A video's candidate moments as a map over start and end, and convolutions on such a map.

Cell (i, j) of the map is the moment from position i to position j, both inside. Only some cells exist: none ends before
it starts, and long moments are sampled sparsely.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.errors import InputError

Cells = Float[Tensor, "batch cell channel"]
Map = Float[Tensor, "batch channel start end"]


class ProposalMap(nn.Module):
    """Max-pooled features of all candidate moments, and the way onto the map and back (2D-TAN, arXiv:1912.03590, B2).

    Args:
        size: positions of the sequence, the side of the map.
        scales: how many lengths each scale adds, see `proposal_cells`; `(size,)` makes every moment a cell.

    Examples:
        >>> proposals = ProposalMap(4, (2, 1))
        >>> proposals.mask.int().tolist()
        [[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]]
        >>> cells = proposals(torch.tensor([[[3.0], [1.0], [2.0], [0.0]]]))
        >>> proposals.scatter(cells)[0, 0]
        tensor([[3., 3., 0., 3.],
                [0., 1., 2., 0.],
                [0., 0., 2., 2.],
                [0., 0., 0., 0.]])
    """

    start: Tensor
    end: Tensor
    mask: Tensor

    def __init__(self, size: int, scales: Sequence[int]) -> None:
        super().__init__()
        start, end = proposal_cells(size, scales)
        mask = torch.zeros(size, size, dtype=torch.bool)
        mask[start, end] = True
        for name, table in {"start": start, "end": end, "mask": mask}.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, sequence: Float[Tensor, "batch position channel"]) -> Cells:
        return span_max(sequence, self.start, self.end)

    def spans(self) -> Float[Tensor, "cell 2"]:
        """Start and end of every cell in [0, 1] of the sequence."""
        return torch.stack([self.start, self.end + 1], dim=-1) / len(self.mask)

    def scatter(self, cells: Cells) -> Map:
        """Cells at their places on the map, zero where no cell exists."""
        batch, _, channels = cells.shape
        size = len(self.mask)
        flat = cells.new_zeros(batch, channels, size * size)
        flat = flat.index_copy(2, self.start * size + self.end, cells.transpose(1, 2))
        return flat.unflatten(2, (size, size))

    def gather(self, plane: Map) -> Cells:
        """What the map holds at the existing cells."""
        return plane.flatten(2).index_select(2, self.start * len(self.mask) + self.end).transpose(1, 2)


class MaskedMapConv(nn.Module):
    """Convolutions on a map with missing cells: each result is divided by the number of cells it saw (B4).

    After every convolution and ReLU a place is multiplied by 1 / (valid cells under the kernel); from then on it is
    valid where there was at least one. The first convolution pads for all of them, so that the size is kept overall
    and places outside the map carry messages between the layers (2D-TAN, arXiv:1912.03590).

    Args:
        channels: width of the map.
        kernel: odd, unless there is an even number of layers.
        layers: number of convolutions.
        dilation: of every kernel.

    Examples:
        >>> convs = MaskedMapConv(8, kernel=3, layers=2)
        >>> convs(torch.rand(2, 8, 5, 5), torch.ones(5, 5, dtype=torch.bool).triu()).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(self, channels: int, kernel: int, layers: int, dilation: int = 1) -> None:
        super().__init__()
        if min(kernel, layers, dilation) < 1:
            raise InputError(f"kernel, layers and dilation must be at least 1, found {kernel}, {layers} and {dilation}")
        # Every convolution takes this much from each side in the end, half of it at the beginning of the map.
        shrinkage = dilation * (kernel - 1) * layers
        if shrinkage % 2:
            raise InputError(f"kernel must be odd for an odd number of layers, found {kernel} and {layers} layers")
        paddings = [shrinkage // 2] + [0] * (layers - 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation) for padding in paddings
        )

    def forward(self, plane: Map, mask: Bool[Tensor, "start end"]) -> Map:
        valid = mask[None, None]
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            count = valid_cells(valid, conv)
            plane = F.relu(conv(plane)) * inverse(count).to(plane.dtype)
            valid = count > 0
        return plane


def proposal_cells(size: int, scales: Sequence[int]) -> tuple[Int[Tensor, " cell"], Int[Tensor, " cell"]]:
    """First and last position of every candidate moment, short ones densely and long ones sparsely (B2).

    Scale k adds `scales[k]` lengths, each 2^k longer than the one before, at starts that are multiples of 2^k.

    Args:
        size: positions of the sequence.
        scales: (16, 8, 8) gives the lengths 1, 2, .. 16, then 18, 20, .. 32, then 36, 40, .. 64.

    Raises:
        InputError: no scale, or a scale without lengths, or moments longer than the sequence.

    Examples:
        >>> start, end = proposal_cells(4, (2, 1))
        >>> list(zip(start.tolist(), end.tolist()))
        [(0, 0), (0, 1), (0, 3), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3)]
    """
    if not scales or min(scales) < 1:
        raise InputError(f"scales must name at least 1 length for each scale, found {tuple(scales)}")
    count = torch.tensor(list(scales))
    stride = (2 ** torch.arange(len(count))).repeat_interleave(count)
    length = stride.cumsum(0)
    longest = int(length[-1])
    if longest > size:
        raise InputError(
            f"scales {tuple(scales)} reach moments of {longest} positions, expected at most the {size} of the map"
        )
    position = torch.arange(size)
    begins = position[:, None] % stride == 0
    inside = position[:, None] + length <= size
    start, which = (begins & inside).nonzero(as_tuple=True)
    return start, start + length[which] - 1


def span_max(
    sequence: Float[Tensor, "batch position channel"], start: Int[Tensor, " cell"], end: Int[Tensor, " cell"]
) -> Cells:
    """Maximum over positions start to end, both inside, for many spans at once.

    Every span is the union of two overlapping windows whose length is a power of two, so that log2(positions) tables
    of windows answer all spans.

    Examples:
        >>> sequence = torch.tensor([[[1.0], [5.0], [2.0]]])
        >>> span_max(sequence, torch.tensor([0, 2, 0]), torch.tensor([0, 2, 2]))[0, :, 0]
        tensor([1., 2., 5.])
    """
    size = sequence.shape[1]
    windows, width = [sequence], 1
    # Each table is made from the one before it; windows that would leave the sequence are cut at its end.
    while 2 * width <= size:
        last = windows[-1]
        windows.append(torch.cat([torch.maximum(last[:, :-width], last[:, width:]), last[:, -width:]], dim=1))
        width *= 2
    table = torch.cat(windows, dim=1)
    level = _floor_log2(end - start + 1, len(windows))
    first = level * size + start
    second = level * size + end + 1 - 2**level
    return torch.maximum(table.index_select(1, first), table.index_select(1, second))


def _floor_log2(length: Int[Tensor, " cell"], levels: int) -> Int[Tensor, " cell"]:
    """Exact for every length: counts the powers of two that fit instead of rounding a logarithm."""
    powers = 2 ** torch.arange(levels, device=length.device)
    return (length[:, None] >= powers).sum(dim=1) - 1


@torch.no_grad()
def valid_cells(valid: Bool[Tensor, "1 1 height width"], conv: nn.Conv2d) -> Float[Tensor, "1 1 above across"]:
    """How many valid places lie under the kernel of a convolution, at each of its results."""
    ones = torch.ones(1, 1, *conv.kernel_size, device=valid.device)
    # Counts are whole numbers, whatever a fast convolution makes of them.
    return F.conv2d(valid.float(), ones, None, conv.stride, conv.padding, conv.dilation).float().round()


def inverse(count: Float[Tensor, "*place"]) -> Float[Tensor, "*place"]:
    """1 / count, and 0 where nothing was counted."""
    return torch.where(count > 0, 1 / count.clamp(min=1), 0)
