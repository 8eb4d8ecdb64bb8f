import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ommatid.errors import InputError
from ommatid.nn.convolutional_attention import (
    ChannelLayerNorm2d,
    ConvolutionalAttention,
    PointwiseFeedForward,
    SpatialFeedForward,
    WindowAttention,
    relative_position_index,
)


def heads_of(attention, maps):
    """Queries, keys and values as (head, pixel, channel), for a batch of one."""
    count, width = attention.num_heads, attention.head_dim
    return attention.qkv(maps)[0].flatten(1).view(3, count, width, -1).transpose(2, 3)


def mixed_by_hand(attention, maps, bias=None):
    query, key, value = heads_of(attention, maps)
    logits = query @ key.mT / math.sqrt(attention.head_dim)
    mixed = (logits if bias is None else logits + bias).softmax(dim=-1) @ value
    return attention.proj(mixed.transpose(1, 2).reshape(1, -1, *maps.shape[2:]))


def offsets_bias(attention, height, width):
    """The bias of each pair of pixels by a loop over the pairs, straight from the meaning of the table."""
    side = attention.window
    table = attention.relative_position_bias_table.view(2 * side - 1, 2 * side - 1, -1)
    places = [(row, column) for row in range(height) for column in range(width)]
    rows = [[table[a - c + side - 1, b - d + side - 1] for c, d in places] for a, b in places]
    return torch.stack([torch.stack(row) for row in rows]).permute(2, 0, 1)


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_attention_is_the_softmax_of_scaled_products_mixing_all_pixels(ratio):
    torch.manual_seed(0)
    attention = ConvolutionalAttention(24, num_heads=3, head_dim_ratio=ratio)
    maps = torch.randn(1, 24, 4, 6)
    torch.testing.assert_close(attention(maps), mixed_by_hand(attention, maps))


def test_a_sample_does_not_depend_on_its_batch():
    attention, maps = WindowAttention(16, 2, window=4, shift=2), torch.randn(3, 16, 7, 9)
    torch.testing.assert_close(attention(maps)[1:2], attention(maps[1:2]))


def test_the_width_of_a_head_is_rounded_in_v1_and_rounded_down_in_v2():
    assert ConvolutionalAttention(21, 3, 0.25).head_dim == 2
    assert WindowAttention(21, 3, window=4, head_dim_ratio=0.25).head_dim == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["whole", "window"])
def test_products_beyond_float16_do_not_overflow(dtype, kind):
    torch.manual_seed(0)
    attention = ConvolutionalAttention(128, 2) if kind == "whole" else WindowAttention(128, 2, window=4)
    # Rows of q and k alike: every product q.k is 64 * 45^2 = 129,600, twice what float16 holds.
    with torch.no_grad():
        attention.qkv.weight[:256] = 0
        attention.qkv.weight[:256, 0] = 45
        attention.qkv.weight[256:] *= 0.1
    maps = torch.randn(1, 128, 4, 4)
    maps[:, 0] = 1
    assert (heads_of(attention, maps)[0] @ heads_of(attention, maps)[1].mT).min() > torch.finfo(torch.float16).max
    expected = attention(maps)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(attention(maps).float(), expected, rtol=0.05, atol=0.02)
    halves = attention.to(dtype)(maps.to(dtype))
    torch.testing.assert_close(halves.float(), expected, rtol=0.05, atol=0.02)


def test_gradients_are_those_of_the_function():
    torch.manual_seed(0)
    maps = torch.randn(1, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    for module in (
        ConvolutionalAttention(4, 2),
        WindowAttention(4, 2, window=2, shift=1),
        SpatialFeedForward(4, 8, groups=2),
        ChannelLayerNorm2d(4),
    ):
        module = module.double()
        names, weights = zip(*module.named_parameters(), strict=True)

        def run(maps, *weights, module=module, names=names):
            return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (maps,))

        assert torch.autograd.gradcheck(run, (maps, *weights), fast_mode=True)


def test_attention_runs_on_the_fused_kernel():
    attention = ConvolutionalAttention(24, 3)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        attention(torch.randn(1, 24, 5, 5))
    # The fallback would have shown its two products as matrix products.
    assert torch.ops.aten.bmm not in counter.get_flop_counts()["Global"]


@pytest.mark.parametrize("sides", [(4, 4), (3, 4), (4, 2), (1, 1)])
def test_a_map_that_fits_the_window_is_attended_to_as_a_whole_whatever_the_shift(sides):
    torch.manual_seed(0)
    attention = WindowAttention(16, 2, window=4, shift=2)
    maps = torch.randn(1, 16, *sides)
    torch.testing.assert_close(attention(maps), mixed_by_hand(attention, maps, offsets_bias(attention, *sides)))


def test_windows_are_attended_to_one_by_one():
    torch.manual_seed(0)
    attention = WindowAttention(16, 2, window=4)
    maps = torch.randn(2, 16, 8, 12)
    found = attention(maps)
    for top in range(0, 8, 4):
        for left in range(0, 12, 4):
            window = (..., slice(top, top + 4), slice(left, left + 4))
            torch.testing.assert_close(found[window], attention(maps[window]))


def test_shifted_windows_stop_at_the_edges_of_the_map():
    """A map of 8 with windows of 4 shifted by 2 is cut, along each side, into parts of 2, 4 and 2 pixels."""
    torch.manual_seed(0)
    attention = WindowAttention(16, 2, window=4, shift=2)
    maps = torch.randn(1, 16, 8, 8)
    found, cuts = attention(maps), [slice(0, 2), slice(2, 6), slice(6, 8)]
    for rows in cuts:
        for columns in cuts:
            part = maps[:, :, rows, columns]
            bias = offsets_bias(attention, *part.shape[2:])
            torch.testing.assert_close(found[:, :, rows, columns], mixed_by_hand(attention, part, bias))


@pytest.mark.parametrize(("shift", "rows", "columns"), [(0, [4, 3], [4, 1]), (2, [2, 4, 1], [2, 3])])
def test_no_pixel_sees_the_filling_of_incomplete_windows(shift, rows, columns):
    torch.manual_seed(0)
    attention = WindowAttention(16, 2, window=4, shift=shift)
    maps = torch.randn(1, 16, 7, 5)
    found = attention(maps)
    for top, height in zip([0, *torch.tensor(rows).cumsum(0).tolist()], rows, strict=False):
        for left, width in zip([0, *torch.tensor(columns).cumsum(0).tolist()], columns, strict=False):
            part = (..., slice(top, top + height), slice(left, left + width))
            expected = mixed_by_hand(attention, maps[part], offsets_bias(attention, height, width))
            torch.testing.assert_close(found[part], expected)


def test_every_offset_has_its_own_row_of_the_table():
    index = relative_position_index(3, 3, window=3)
    assert sorted(index.unique().tolist()) == list(range(25))
    assert index[4, 4] == 12
    assert (index.diagonal() == 12).all()


def test_the_grouped_convolution_looks_at_its_group_only():
    module = SpatialFeedForward(8, 16, groups=4)
    assert module.spatial.weight.shape == (16, 4, 3, 3)
    assert all(conv.bias is None for conv in (module.expand, module.spatial, module.project))


def test_a_pointwise_layer_treats_each_pixel_alone():
    module, maps = PointwiseFeedForward(8, 32), torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(module(maps)[:, :, 2:3, 1:2], module(maps[:, :, 2:3, 1:2]))


def test_channel_norm_works_on_maps_of_any_size():
    norm = ChannelLayerNorm2d(8)
    maps = torch.randn(2, 8, 3, 5) * 4 + 1
    found = norm(maps)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 3, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.var(1, unbiased=False), torch.ones(2, 3, 5), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ConvolutionalAttention(4, 8), "num_heads: found 8"),
        (lambda: ConvolutionalAttention(4, 0), "num_heads: found 0"),
        (lambda: WindowAttention(8, 2, window=4, shift=4), "shift: found 4"),
        (lambda: SpatialFeedForward(8, 10, groups=4), "groups: found 4"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_sentence(make, said):
    with pytest.raises(InputError, match=said):
        make()
