"""Attention, feed-forward layers and layer norm on maps (batch, channel, height, width), as 1x1 convolutions.

The parts of a convolution-friendly Transformer (Visformer, arXiv:2104.12533): they fit into any network of maps, take
any height and width, and learn no bias in their convolutions.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.errors import InputError

Maps = Float[Tensor, "batch channel height width"]


class ConvolutionalAttention(nn.Module):
    """Every pixel of a map attends to every other (Visformer, arXiv:2104.12533, E4).

    Queries, keys and values are one 1x1 convolution, the heads are mixed by another; neither has a bias.

    E4 multiplies q and k by a^-1/4 each, so that their product fits into float16. With torch's fused attention nothing
    has to be scaled beforehand: its kernels add up and scale the product in float32 before anything is rounded to half
    precision, and its plain fallback scales both factors before the product, as E4 does.

    Args:
        dim: channels of the map.
        num_heads: number of heads.
        head_dim_ratio: width of a head in units of ``dim // num_heads`` (rho of E4), rounded to a whole number.

    Raises:
        InputError: a head would have no channel.

    Examples:
        >>> ConvolutionalAttention(24, num_heads=3)(torch.randn(2, 24, 5, 7)).shape
        torch.Size([2, 24, 5, 7])
        >>> ConvolutionalAttention(24, num_heads=3, head_dim_ratio=0.5).head_dim
        4
    """

    def __init__(self, dim: int, num_heads: int, head_dim_ratio: float = 1.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = _head_dim(dim, num_heads, head_dim_ratio)
        self.qkv = nn.Conv2d(dim, 3 * num_heads * self.head_dim, 1, bias=False)
        self.proj = nn.Conv2d(num_heads * self.head_dim, dim, 1, bias=False)

    def forward(self, maps: Maps) -> Maps:
        heads = rearrange(self.qkv(maps), "b (n heads d) h w -> n b heads (h w) d", n=3, heads=self.num_heads)
        # The fused kernels read the channels of a head in one stretch; otherwise torch would build all of q k^T.
        query, key, value = heads.contiguous()
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(mixed, "b heads (h w) d -> b (heads d) h w", h=maps.shape[2]))


class WindowAttention(nn.Module):
    """Attention inside windows of a map, with a learned bias for every offset of two pixels (VisformerV2, E8).

    The map is cut into windows of `window` x `window` pixels. With `shift` the cuts lie that many pixels further down
    and right, and what the last window then collects from two edges of the map stays apart. A side that is no multiple
    of the window is filled up, and no pixel sees the filling. Along a side that fits into one window there is neither
    cut nor shift: a map as large as the window is attended to as a whole.

    Args:
        dim: channels of the map.
        num_heads: number of heads.
        window: side of a window, in pixels.
        shift: how far the windows are displaced, in pixels, less than `window`; half a window in every other block.
        head_dim_ratio: width of a head in units of ``dim // num_heads``, rounded down.

    Raises:
        InputError: a head would have no channel, or the shift is negative or not smaller than the window.

    Examples:
        >>> WindowAttention(24, num_heads=3, window=4, shift=2)(torch.randn(2, 24, 8, 10)).shape
        torch.Size([2, 24, 8, 10])
    """

    def __init__(self, dim: int, num_heads: int, window: int, shift: int = 0, head_dim_ratio: float = 1.0) -> None:
        super().__init__()
        if not 0 <= shift < window:
            raise InputError(f"shift: found {shift}, expected a number from 0 to {window - 1}, less than the window")
        self.num_heads, self.window, self.shift = num_heads, window, shift
        self.head_dim = _head_dim(dim, num_heads, head_dim_ratio, down=True)
        self.qkv = nn.Conv2d(dim, 3 * num_heads * self.head_dim, 1, bias=False)
        self.proj = nn.Conv2d(num_heads * self.head_dim, dim, 1, bias=False)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, maps: Maps) -> Maps:
        height, width = maps.shape[2:]
        down, right = _Cut.of(height, self.window, self.shift), _Cut.of(width, self.window, self.shift)
        qkv = F.pad(self.qkv(maps), (0, right.padded - width, 0, down.padded - height))
        qkv = qkv.roll((-down.shift, -right.shift), dims=(2, 3))
        # Windows stand beside the heads, not in the batch: bias and mask are then the same for every sample.
        heads = rearrange(
            qkv,
            "b (n heads d) (ny y) (nx x) -> n b (ny nx heads) (y x) d",
            n=3,
            heads=self.num_heads,
            y=down.window,
            x=right.window,
        )
        query, key, value = heads.contiguous()
        bias = self._bias(down, right).to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        mixed = rearrange(
            mixed,
            "b (ny nx heads) (y x) d -> b (heads d) (ny y) (nx x)",
            ny=down.count,
            nx=right.count,
            y=down.window,
        )
        mixed = mixed.roll((down.shift, right.shift), dims=(2, 3))
        return self.proj(mixed[:, :, :height, :width])

    def _bias(self, down: "_Cut", right: "_Cut") -> Float[Tensor, "1 window_head pixel pixel"]:
        """What is added to the scaled products: the bias of the offset, -inf between pixels that must not meet."""
        table = self.relative_position_bias_table
        index = relative_position_index(down.window, right.window, self.window, table.device)
        bias = rearrange(table[index], "i j heads -> heads i j").expand(down.count * right.count, -1, -1, -1)
        if not (down.is_whole and right.is_whole):
            bias = bias.masked_fill(~_same_part(down, right, table.device)[:, None], float("-inf"))
        return rearrange(bias, "n heads i j -> 1 (n heads) i j")


class SpatialFeedForward(nn.Module):
    """1x1 convolution, GELU, grouped 3x3 convolution, GELU, 1x1 convolution (Visformer, arXiv:2104.12533, E3).

    Args:
        dim: channels of the map.
        hidden: channels of the 3x3 convolution; the paper takes ``2 * dim`` with 8 groups.
        groups: of the 3x3 convolution, a divisor of `hidden`.

    Raises:
        InputError: `hidden` is not a multiple of `groups`.

    Examples:
        >>> SpatialFeedForward(16, hidden=32, groups=8)(torch.randn(2, 16, 6, 6)).shape
        torch.Size([2, 16, 6, 6])
    """

    def __init__(self, dim: int, hidden: int, groups: int = 8) -> None:
        super().__init__()
        if groups < 1 or hidden % groups:
            raise InputError(f"groups: found {groups}, expected a divisor of the {hidden} hidden channels")
        self.expand = nn.Conv2d(dim, hidden, 1, bias=False)
        self.spatial = nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups, bias=False)
        self.project = nn.Conv2d(hidden, dim, 1, bias=False)

    def forward(self, maps: Maps) -> Maps:
        return self.project(F.gelu(self.spatial(F.gelu(self.expand(maps)))))


class PointwiseFeedForward(nn.Module):
    """1x1 convolution, GELU, 1x1 convolution: the feed-forward layer of a Transformer on maps (E3).

    Examples:
        >>> PointwiseFeedForward(16, hidden=64)(torch.randn(2, 16, 6, 6)).shape
        torch.Size([2, 16, 6, 6])
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(dim, hidden, 1, bias=False)
        self.project = nn.Conv2d(hidden, dim, 1, bias=False)

    def forward(self, maps: Maps) -> Maps:
        return self.project(F.gelu(self.expand(maps)))


class ChannelLayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each pixel of a map.

    Examples:
        >>> maps = ChannelLayerNorm2d(8)(torch.randn(2, 8, 3, 3))
        >>> bool(maps.mean(dim=1).abs().max() < 1e-5)
        True
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__(dim, eps=eps)

    def forward(self, input: Maps) -> Maps:
        normalised = F.layer_norm(input.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return normalised.permute(0, 3, 1, 2)


def relative_position_index(
    height: int, width: int, window: int, device: torch.device | None = None
) -> Int[Tensor, "pixel pixel"]:
    """The row of a bias table for each pair of the ``height * width`` pixels of a window, at most `window` on a side.

    The table has a row for each of the ``(2 * window - 1) ** 2`` offsets, vertical offset first.

    Examples:
        >>> relative_position_index(1, 2, window=2).tolist()
        [[4, 3], [5, 4]]
    """
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    rows, columns = rows.flatten(), columns.flatten()
    vertical = rows[:, None] - rows + window - 1
    horizontal = columns[:, None] - columns + window - 1
    return vertical * (2 * window - 1) + horizontal


class _Cut:
    """How one side of a map is cut into `count` windows of `window` pixels, `shift` pixels further on."""

    def __init__(self, length: int, window: int, shift: int) -> None:
        self.length, self.window, self.shift = length, window, shift
        self.count = -(-length // window)
        self.padded = self.count * window

    @classmethod
    def of(cls, length: int, window: int, shift: int) -> "_Cut":
        """A side that fits into one window is not cut."""
        return cls(length, length, 0) if length <= window else cls(length, window, shift)

    @property
    def is_whole(self) -> bool:
        return self.shift == 0 and self.padded == self.length

    def parts(self, device: torch.device) -> Int[Tensor, "window pixel"]:
        """The part of the side each pixel of each window came from: carried over from the start, and filling."""
        source = torch.arange(self.padded, device=device) + self.shift
        carried, filling = source >= self.padded, source % self.padded >= self.length
        return (carried + 2 * filling).view(self.count, self.window)


def _same_part(down: _Cut, right: _Cut, device: torch.device) -> Bool[Tensor, "window pixel pixel"]:
    """True where two pixels of a window lie together in the map too."""
    parts = 4 * down.parts(device)[:, None, :, None] + right.parts(device)[None, :, None, :]
    parts = rearrange(parts, "ny nx y x -> (ny nx) (y x)")
    return parts[:, :, None] == parts[:, None, :]


def _head_dim(dim: int, num_heads: int, ratio: float, down: bool = False) -> int:
    wanted = dim // num_heads * ratio if num_heads > 0 else 0.0
    head_dim = int(wanted) if down else round(wanted)
    if head_dim < 1:
        raise InputError(
            f"num_heads: found {num_heads} heads of {wanted:g} channels for dim {dim}, expected at least one channel"
        )
    return head_dim
