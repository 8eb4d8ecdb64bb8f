import math

import pytest
import torch
from torch import nn

from ommatid.nn.attention import AdditiveAttention, MultiHeadAttention, neighbourhood, sinusoid


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    return torch.randn(2, 4, 6), torch.randn(2, 5, 6), mask


def like_torch(ours):
    """torch's own module with the weights of ours."""
    dim = ours.out.in_features
    theirs = nn.MultiheadAttention(dim, ours.heads, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts]).data
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts]).data
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


@pytest.mark.parametrize("heads", [1, 3])
def test_equals_torchs_attention_with_the_same_weights_and_masked_keys(inputs, heads):
    query, source, mask = inputs
    ours = MultiHeadAttention(6, heads)
    expected, _ = like_torch(ours)(query, source, source, key_padding_mask=~mask)
    torch.testing.assert_close(ours(query, source, mask), expected)


def test_a_window_equals_torchs_attention_under_a_band_mask(inputs):
    _, source, _ = inputs
    every = torch.ones(2, 5, dtype=torch.bool)
    ours = MultiHeadAttention(6, 2, window=1)
    expected, _ = like_torch(ours)(source, source, source, attn_mask=~neighbourhood(5, 1))
    torch.testing.assert_close(ours(source, source, every), expected)


def test_a_step_sees_its_window_and_nothing_else(inputs):
    _, source, _ = inputs
    every = torch.ones(2, 5, dtype=torch.bool)
    attention = MultiHeadAttention(6, 2, window=1)
    changed = source.clone()
    changed[:, 3] += 1
    moved = (attention(changed, changed, every) - attention(source, source, every)).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [False, False, True, True, True]


def test_masked_keys_never_matter_and_padded_steps_stay_finite(inputs):
    _, source, mask = inputs
    for window in (None, 1):
        attention = MultiHeadAttention(6, 2, window=window)
        other = torch.where(mask[..., None], source, 99.0)
        torch.testing.assert_close(attention(source, other, mask)[mask], attention(source, source, mask)[mask])
        assert attention(source, source, mask).isfinite().all()


def test_weights_are_dropped_in_training_only(inputs):
    query, source, mask = inputs
    attention = MultiHeadAttention(6, 2, dropout=0.5)
    assert not torch.equal(attention(query, source, mask), attention(query, source, mask))
    attention.eval()
    assert torch.equal(attention(query, source, mask), attention(query, source, mask))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="dim must be divisible by heads: got 6 and 4"):
        MultiHeadAttention(6, 4)


def test_additive_attention_is_the_weighting_of_every_frame_by_itself(inputs):
    video, query, mask = inputs
    attention = AdditiveAttention(6)
    w1, b1, w2 = attention.frame.weight, attention.frame.bias, attention.word.weight
    w = attention.weight.weight[0]
    expected = torch.zeros(2, 4, 6)
    for b in range(2):
        words = [n for n in range(5) if mask[b, n]]
        for t in range(4):
            energies = torch.stack([w @ torch.tanh(w1 @ video[b, t] + b1 + w2 @ query[b, n]) for n in words])
            shares = energies.exp() / energies.exp().sum()
            expected[b, t] = sum(share * query[b, n] for share, n in zip(shares, words, strict=True))
    torch.testing.assert_close(attention(video, query, mask), expected)


def test_additive_attention_never_reads_masked_words(inputs):
    video, query, mask = inputs
    attention = AdditiveAttention(6)
    other = torch.where(mask[..., None], query, 99.0)
    assert torch.equal(attention(video, query, mask), attention(video, other, mask))


@pytest.mark.parametrize("dim", [5, 6])
def test_sinusoid_has_the_textbook_frequencies(dim):
    table = sinusoid(9, dim)
    assert table.shape == (9, dim)
    for position in range(9):
        for channel in range(dim):
            angle = position / 10_000 ** (2 * (channel // 2) / dim)
            expected = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
            assert table[position, channel].item() == pytest.approx(expected, abs=1e-6)
