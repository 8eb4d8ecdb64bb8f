"""Dilated contexts and their mixture."""

import pytest
import torch

from ommatid.nn.dilated_context import DilatedContextStack, GranularityAttention

MASK = torch.ones(1, 40, dtype=torch.bool)


def test_the_reach_grows_from_level_to_level():
    torch.manual_seed(0)
    stack = DilatedContextStack(6, dilations=(1, 2, 4, 8)).eval()
    sequence = torch.randn(1, 40, 6, requires_grad=True)
    for level, reach in enumerate((3, 7, 15, 31)):
        (gradient,) = torch.autograd.grad(stack(sequence, MASK)[0, level, 20].sum(), sequence)
        touched = gradient[0].abs().sum(dim=1).nonzero()[:, 0]
        assert (int(touched.min()), int(touched.max())) == (20 - reach // 2, 20 + reach // 2)


def test_one_dilation_has_the_same_parameters():
    sizes = [
        sum(p.numel() for p in DilatedContextStack(6, dilations).parameters()) for dilations in ((1, 2, 4), (1, 1, 1))
    ]
    assert sizes[0] == sizes[1]


def test_padding_changes_nothing():
    torch.manual_seed(0)
    stack = DilatedContextStack(6).eval()
    sequence = torch.randn(1, 9, 6)
    alone = stack(sequence, MASK[:, :9])
    padded = stack(torch.cat([sequence, torch.full((1, 5, 6), 9.0)], dim=1), torch.arange(14)[None] < 9)
    torch.testing.assert_close(alone, padded[:, :, :9])
    assert (padded[:, :, 9:] == 0).all()


def test_scales_are_mixed_by_weights_that_add_up_to_one():
    torch.manual_seed(0)
    attention = GranularityAttention(6)
    contexts, fine = torch.randn(2, 4, 5, 6), torch.randn(2, 5, 6)
    mixed, weights = attention(contexts, fine)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 5))
    # Attention runs across scales, not across time.
    changed = contexts.clone()
    changed[:, :, 3] += 1
    other, _ = attention(changed, fine)
    assert torch.equal(mixed[:, :3], other[:, :3])
    assert not torch.equal(mixed[:, 3], other[:, 3])


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    stack, attention = DilatedContextStack(3, dilations=(1, 2)).double(), GranularityAttention(3).double()
    mask = torch.tensor([[True, True, True, False]])

    def both(sequence):
        return attention(stack(sequence, mask), sequence)[0]

    assert torch.autograd.gradcheck(both, torch.randn(1, 4, 3, dtype=torch.double, requires_grad=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_half_precision_is_finite(dtype):
    stack, attention = DilatedContextStack(8).to(dtype), GranularityAttention(8).to(dtype)
    sequence = torch.randn(2, 10, 8, dtype=dtype)
    mixed, _ = attention(stack(sequence, torch.ones(2, 10, dtype=torch.bool)), sequence)
    assert torch.isfinite(mixed).all()
