"""Attention over space and time: the mean of two plain attentions, in which padded frames have no part."""

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.space_time_attention import SpaceAttention, SpaceBlock, SpaceTimeAttention, SpaceTimeBlock, TokenMLP

TOKENS = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(0))
VALID = torch.tensor([[True, True, True], [True, True, False]])


def made(kind, **settings):
    torch.manual_seed(0)
    return kind(16, **{"heads": 4, **settings})


def plain(attention, tokens):
    """Multi-head attention over the second of (batch, token, dim), by torch's own function."""
    return F.multi_head_attention_forward(
        *[tokens.transpose(0, 1)] * 3,
        16,
        attention.heads,
        attention.qkv.weight,
        attention.qkv.bias,
        None,
        None,
        False,
        0.0,
        torch.eye(16),
        torch.zeros(16),
    )[0].transpose(0, 1)


def over_space(attention, tokens):
    return plain(attention, tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])


def over_time(attention, tokens):
    patches = tokens.transpose(1, 2)
    return plain(attention, patches.flatten(0, 1)).unflatten(0, patches.shape[:2]).transpose(1, 2)


@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_projected_mean_of_attention_over_space_and_over_time(bias):
    attention = made(SpaceTimeAttention, qkv_bias=bias)
    expected = attention.proj((over_space(attention, TOKENS) + over_time(attention, TOKENS)) / 2)
    torch.testing.assert_close(attention(TOKENS), expected)


def test_without_time_frames_do_not_see_each_other():
    attention = made(SpaceAttention)
    torch.testing.assert_close(attention(TOKENS), attention.proj(over_space(attention, TOKENS)))
    alone = attention(TOKENS[:, 1:2])
    torch.testing.assert_close(attention(TOKENS)[:, 1:2], alone)
    assert not torch.allclose(made(SpaceTimeAttention)(TOKENS)[:, 1:2], made(SpaceTimeAttention)(TOKENS[:, 1:2]))


@pytest.mark.parametrize("kind", [SpaceAttention, SpaceTimeAttention, SpaceBlock, SpaceTimeBlock])
def test_padded_frames_do_not_change_real_ones(kind):
    module = made(kind)
    padded = TOKENS.clone()
    padded[1, 2] = 1e3
    alone = module(TOKENS[1:, :2], VALID[1:, :2])
    torch.testing.assert_close(module(padded, VALID)[1:, :2], alone)
    torch.testing.assert_close(module(TOKENS[1:, :2]), alone)
    torch.testing.assert_close(module(TOKENS, torch.ones_like(VALID)), module(TOKENS))


def test_padded_frames_see_themselves_so_that_a_clip_without_real_frames_stays_finite():
    module = made(SpaceTimeBlock)
    tokens = TOKENS.clone().requires_grad_()
    found = module(tokens, torch.zeros_like(VALID))
    torch.testing.assert_close(found, torch.cat([module(frame) for frame in TOKENS.split(1, dim=1)], dim=1))
    found.sum().backward()
    assert tokens.grad.isfinite().all()


@pytest.mark.parametrize("kind", [SpaceBlock, SpaceTimeBlock])
def test_a_block_normalises_before_it_attends_and_before_its_mlp(kind):
    block = made(kind, mlp_ratio=2.0)
    attended = TOKENS + block.attn(F.layer_norm(TOKENS, (16,)))
    hidden = F.gelu(block.mlp.fc1(F.layer_norm(attended, (16,))))
    assert hidden.shape[-1] == 32
    torch.testing.assert_close(block(TOKENS), attended + block.mlp.fc2(hidden))


def test_the_mlp_of_the_cls_token_is_two_linear_layers_with_gelu():
    mlp = TokenMLP(16, hidden_dim=16)
    expected = nn.Sequential(mlp.fc1, nn.GELU(), mlp.fc2)
    torch.testing.assert_close(mlp(TOKENS[:, :, 0]), expected(TOKENS[:, :, 0]))


@pytest.mark.parametrize("kind", [SpaceBlock, SpaceTimeBlock])
def test_every_parameter_gets_a_gradient(kind):
    block = made(kind)
    block(TOKENS, VALID).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in block.parameters())


@pytest.mark.parametrize("kind", [SpaceAttention, SpaceTimeAttention])
def test_gradients_are_those_of_finite_differences(kind):
    torch.manual_seed(0)
    module = kind(4, heads=2).double()
    tokens = torch.randn(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda each: module(each, torch.tensor([[True, True, False]])), tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [SpaceBlock, SpaceTimeBlock])
def test_half_precision_stays_near(kind, dtype):
    block = made(kind)
    with torch.autocast("cpu", dtype=dtype):
        half = block(TOKENS, VALID)
    torch.testing.assert_close(half.float(), block(TOKENS, VALID), rtol=0.05, atol=0.05)


@pytest.fixture
def unchecked():
    """Without checks of types, which no compiler can trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [SpaceBlock, SpaceTimeBlock])
def test_it_compiles_as_one_graph_and_can_be_exported(kind):
    block = made(kind).eval()
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(TOKENS, VALID), block(TOKENS, VALID))
    exported = torch.export.export(block, (TOKENS, VALID)).module()
    torch.testing.assert_close(exported(TOKENS, VALID), block(TOKENS, VALID))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match="heads: found 3, expected a divisor of dim 16"):
        SpaceTimeBlock(16, heads=3)
