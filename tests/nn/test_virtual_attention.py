"""Virtual attention: at first nothing changes, trained it weighs blocks, folded it costs nothing."""

import pytest
import torch
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.graft import graft, ungraft
from ommatid.nn.virtual_attention import (
    VirtualAttention,
    add_virtual_attention,
    attention_entropy,
    fits,
    fold_virtual_attention,
    virtual_attentions,
)


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 8, 1)
    )


def trained(net):
    with torch.no_grad():
        for layer in virtual_attentions(net):
            layer.logits.normal_(generator=torch.Generator().manual_seed(1))
            layer.log_temperature.fill_(-0.5)
    return net


IMAGES = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(2))


def test_a_fresh_model_gives_what_it_gave():
    net = model()
    before = net(IMAGES)
    assert add_virtual_attention(net, block_size=4) == ["2", "4"]  # the stem and the depth-wise layer are no blocks
    torch.testing.assert_close(net(IMAGES), before)
    torch.testing.assert_close(net[2].attention(), torch.full((3, 2), 0.5))


def test_one_temperature_serves_the_whole_model():
    net = model()
    add_virtual_attention(net, block_size=4)
    assert net[2].log_temperature is net[4].log_temperature
    net(IMAGES).square().sum().backward()
    assert net[2].logits.grad.abs().sum() > 0
    # At first all blocks are alike, and their temperature says nothing.
    trained(net).zero_grad()
    net(IMAGES).square().sum().backward()
    assert net[2].log_temperature.grad.abs() > 0


def test_attention_weighs_blocks_of_inputs_block_by_block():
    layer = trained(VirtualAttention(nn.Conv2d(8, 12, 3, padding=1), block_size=4))
    images = torch.randn(2, 8, 5, 5)
    weight, bias, attention = layer.convolution.weight, layer.convolution.bias, layer.attention()
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(3))
    blocks = []
    for out in range(3):
        rows = weight[4 * out : 4 * out + 4]
        parts = [
            2 * attention[out, start] * nn.functional.conv2d(images[:, 4 * start : 4 * start + 4], part, padding=1)
            for start, part in enumerate(rows.split(4, dim=1))
        ]
        blocks.append(sum(parts))
    torch.testing.assert_close(layer(images), torch.cat(blocks, dim=1) + bias[:, None, None])


def test_folding_leaves_plain_convolutions_and_the_outputs():
    net = model()
    add_virtual_attention(net, block_size=4)
    before = trained(net)(IMAGES)
    fold_virtual_attention(net)
    assert [type(layer) for layer in net] == [type(layer) for layer in model()]
    assert not list(virtual_attentions(net))
    torch.testing.assert_close(net(IMAGES), before)


def test_entropy_falls_when_a_block_chooses():
    net = model()
    add_virtual_attention(net, block_size=4)
    even = attention_entropy(net)
    torch.testing.assert_close(even, (torch.tensor(2.0).log() + torch.tensor(3.0).log()) / 2)
    torch.testing.assert_close(attention_entropy(net, normalise=True), torch.tensor(1.0))
    assert attention_entropy(trained(net)) < even
    with torch.no_grad():
        for layer in virtual_attentions(net):
            layer.log_temperature.fill_(-20.0)
    torch.testing.assert_close(attention_entropy(net), torch.tensor(0.0))


def test_preferences_are_no_matrix_that_weight_decay_would_shrink():
    assert VirtualAttention(nn.Conv2d(8, 8, 3)).logits.ndim == 1


def test_gradients_are_those_of_finite_differences():
    layer = trained(VirtualAttention(nn.Conv2d(4, 4, 3), block_size=2).double())
    torch.autograd.gradcheck(layer, torch.randn(1, 4, 4, 4, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype):
    layer = trained(VirtualAttention(nn.Conv2d(8, 8, 3), block_size=4))
    images = torch.randn(2, 8, 6, 6)
    with torch.autocast("cpu", dtype=dtype):
        half = layer(images)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), layer(images), rtol=0.05, atol=0.05)


def test_it_can_be_exported():
    layer = trained(VirtualAttention(nn.Conv2d(8, 8, 3), block_size=4)).eval()
    images = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(torch.export.export(layer, (images,)).module()(images), layer(images))


def test_it_can_be_grafted_layer_by_layer_and_taken_out():
    net = model()
    before = net(IMAGES)
    made = graft(net, VirtualAttention, at=["2", "4"], how="wrap", example=IMAGES, block_size=4)
    torch.testing.assert_close(net(IMAGES), before)
    assert made["2"].log_temperature is not made["4"].log_temperature
    trained(net)
    ungraft(net)
    torch.testing.assert_close(net(IMAGES), before)  # the filters themselves have not changed


def test_what_cannot_be_divided_is_refused():
    assert not fits(nn.Conv2d(8, 8, 3, groups=8), 4)
    assert not fits(nn.Linear(8, 8), 4)
    with pytest.raises(InputError, match=r"module: Conv2d.* cannot be divided into blocks"):
        VirtualAttention(nn.Conv2d(3, 8, 3), block_size=4)
    with pytest.raises(InputError, match="block_size: no convolution has channels that are multiples of 5"):
        add_virtual_attention(model(), block_size=5)
    with pytest.raises(InputError, match="model: found no virtual attention"):
        attention_entropy(model())
