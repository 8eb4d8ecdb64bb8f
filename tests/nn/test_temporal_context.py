"""Steps see each other, nearby or anywhere, and never what is padded."""

import copy

import pytest
import torch
from torch import nn

from ommatid.nn.temporal_context import MaskedBatchNorm, NonLocalBlock, ResidualConvBlock


@pytest.fixture
def mask():
    return torch.arange(7) < torch.tensor([7, 4, 1])[:, None]


@pytest.fixture
def sequence():
    torch.manual_seed(0)
    return torch.randn(3, 7, 4)


# --- batch norm ---


def test_without_padding_it_is_torchs_batch_norm(sequence):
    ours, theirs = MaskedBatchNorm(4), nn.BatchNorm1d(4)
    nn.init.uniform_(theirs.weight)
    nn.init.uniform_(theirs.bias)
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if name != "num_batches_tracked"})
    everything = torch.ones(3, 7, dtype=torch.bool)
    for _ in range(3):
        torch.testing.assert_close(ours(sequence, everything), theirs(sequence.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(sequence, everything), theirs(sequence.transpose(1, 2)).transpose(1, 2))


def test_only_valid_steps_are_counted(sequence, mask):
    padded, packed = MaskedBatchNorm(4), nn.BatchNorm1d(4)
    noisy = torch.where(mask[..., None], sequence, 99.0)
    torch.testing.assert_close(padded(noisy, mask)[mask], packed(sequence[mask]))
    torch.testing.assert_close(padded.running_mean, packed.running_mean)
    torch.testing.assert_close(padded.running_var, packed.running_var)


def test_a_single_valid_step_is_no_division_by_zero(sequence):
    norm = MaskedBatchNorm(4)
    out = norm(sequence[:1], torch.tensor([[True] + [False] * 6]))
    assert out.isfinite().all()
    assert all(value.isfinite().all() for value in norm.state_dict().values())


def test_statistics_of_half_precision_do_not_overflow():
    norm = MaskedBatchNorm(1)
    out = norm(torch.tensor([[[300.0], [-300.0]]]).half(), torch.ones(1, 2, dtype=torch.bool))
    assert out.dtype == torch.float16
    torch.testing.assert_close(out[0, :, 0].float(), torch.tensor([1.0, -1.0]))


# --- residual convolutions ---


def test_a_block_is_two_normed_convolutions_and_a_shortcut(sequence):
    torch.manual_seed(1)
    block = ResidualConvBlock(4, kernel=3).eval()
    everything = torch.ones(3, 7, dtype=torch.bool)
    hidden = block.convs[0](sequence.transpose(1, 2)) / (1 + 1e-5) ** 0.5
    hidden = block.convs[1](hidden.relu()) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(block(sequence, everything), (hidden.transpose(1, 2) + sequence).relu())


@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_no_convolution(sequence, mask, training):
    torch.manual_seed(1)
    block = ResidualConvBlock(4, kernel=5).train(training)
    noisy = torch.where(mask[..., None], sequence, 50.0)
    torch.testing.assert_close(block(noisy, mask)[mask], block(sequence, mask)[mask])


def test_alone_or_in_company_the_same(sequence, mask):
    block = ResidualConvBlock(4, kernel=5).eval()
    together = block(sequence, mask)
    for row, count in enumerate(mask.sum(dim=1).tolist()):
        alone = block(sequence[row : row + 1, :count], mask[row : row + 1, :count])
        torch.testing.assert_close(alone[0], together[row, :count])


def test_a_step_sees_as_far_as_both_kernels_reach(sequence):
    block = ResidualConvBlock(4, kernel=3).eval()
    everything = torch.ones(1, 7, dtype=torch.bool)
    changed = sequence[:1].clone()
    changed[0, 0] += 1
    moved = (block(changed, everything) - block(sequence[:1], everything)).abs().amax(dim=2)[0] > 1e-6
    assert not moved[3:].any()
    assert moved[:3].any()


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel must be odd, so that the length is kept: got 4"):
        ResidualConvBlock(4, kernel=4)


# --- non-local block ---


def test_a_block_adds_what_every_head_attends_to(sequence, mask):
    torch.manual_seed(1)
    block = NonLocalBlock(4, heads=2)
    found = block(sequence, mask)
    for row, count in enumerate(mask.sum(dim=1).tolist()):
        steps = sequence[row, :count]
        q, k, v = block.query(steps), block.key(steps), block.value(steps)
        heads = [
            (q[:, part] @ k[:, part].T / 2**0.5).softmax(dim=1) @ v[:, part] for part in (slice(0, 2), slice(2, 4))
        ]
        torch.testing.assert_close(found[row, :count], steps + torch.cat(heads, dim=1))


def test_a_bias_of_the_keys_would_change_nothing(sequence, mask):
    block = NonLocalBlock(4, heads=2)
    biased = copy.deepcopy(block)
    biased.key.bias = nn.Parameter(torch.randn(4))
    torch.testing.assert_close(biased(sequence, mask)[mask], block(sequence, mask)[mask])


def test_padded_steps_are_not_attended_to(sequence, mask):
    block = NonLocalBlock(4, heads=2)
    noisy = torch.where(mask[..., None], sequence, 50.0)
    torch.testing.assert_close(block(noisy, mask)[mask], block(sequence, mask)[mask])


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_that_do_not_divide_the_width_are_refused(heads):
    with pytest.raises(ValueError, match=f"dim must be divisible by heads: got 4 and {heads}"):
        NonLocalBlock(4, heads)
