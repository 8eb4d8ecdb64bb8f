"""Phrases follow one another, pooling is a weighted mean, fusion multiplies."""

import pytest
import torch

from ommatid.nn.phrase_attention import HadamardFusion, SequentialPhraseAttention, TanhAttentionPool


@pytest.fixture
def mask():
    return torch.arange(5) < torch.tensor([5, 3])[:, None]


@pytest.fixture
def words():
    torch.manual_seed(0)
    return torch.randn(2, 5, 6)


@pytest.fixture
def sentence():
    torch.manual_seed(1)
    return torch.randn(2, 6)


def attention(phrases=3):
    torch.manual_seed(2)
    return SequentialPhraseAttention(6, phrases, attention_dim=4)


def test_phrases_are_those_of_their_equation(sentence, words, mask):
    module = attention()
    found, weights = module(sentence, words, mask)
    for row in range(2):
        previous = torch.zeros(6)
        valid = words[row][mask[row]]
        for n, project in enumerate(module.sentence):
            guide = torch.relu(module.guide(torch.cat([project(sentence[row]), previous])))
            energy = torch.stack([module.energy(torch.tanh(module.key(guide) + module.word(w)))[0] for w in valid])
            share = energy.softmax(0)
            previous = (share[:, None] * valid).sum(0)
            torch.testing.assert_close(weights[row, n, : len(valid)], share)
            torch.testing.assert_close(found[row, n], previous)


def test_padded_words_are_never_read(sentence, words, mask):
    module = attention()
    noisy = torch.where(mask[..., None], words, 50.0)
    for found, expected in zip(module(sentence, noisy, mask), module(sentence, words, mask), strict=True):
        torch.testing.assert_close(found, expected)
    weights = module(sentence, words, mask)[1]
    assert not weights[1, :, 3:].any()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3))


def test_a_phrase_knows_the_one_before_it(sentence, words, mask):
    """The second phrase moves with the layer of the first, the first does not with that of the second."""
    module = attention(2)
    first, second = module(sentence, words, mask)[0].unbind(dim=1)
    with torch.no_grad():
        module.sentence[0].bias.add_(1)
    moved_first, moved_second = module(sentence, words, mask)[0].unbind(dim=1)
    assert not torch.allclose(moved_first, first)
    assert not torch.allclose(moved_second, second)
    with torch.no_grad():
        module.sentence[1].bias.add_(1)
    again, other = module(sentence, words, mask)[0].unbind(dim=1)
    assert torch.equal(again, moved_first)
    assert not torch.allclose(other, moved_second)


def test_every_parameter_of_the_phrases_learns(sentence, words, mask):
    module = attention()
    module(sentence, words, mask)[0].square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_pool_is_the_mean_under_its_softmax(words, mask):
    torch.manual_seed(3)
    pool = TanhAttentionPool(6, 4)
    pooled, logits = pool(words, mask)
    for row in range(2):
        valid = words[row][mask[row]]
        energy = pool.energy(torch.tanh(pool.token(valid)))
        torch.testing.assert_close(pooled[row], (energy.softmax(0) * valid).sum(0))
        torch.testing.assert_close(logits[row, : len(valid)], energy[:, 0])
    assert logits[~mask].isneginf().all()
    assert torch.isfinite(pool(words)[1]).all()


def test_a_pool_ignores_padding_and_its_gradient_is_finite(words, mask):
    pool = TanhAttentionPool(6, 4)
    noisy = torch.where(mask[..., None], words, 50.0).requires_grad_()
    torch.testing.assert_close(pool(noisy, mask)[0], pool(words, mask)[0])
    pool(noisy, mask)[0].sum().backward()
    assert noisy.grad.isfinite().all()
    assert not noisy.grad[~mask].any()


def test_half_precision_keeps_weights_that_sum_to_one(sentence, words, mask):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = attention()(sentence, words, mask)[1]
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3))


def test_fusion_is_a_product_of_what_each_side_lets_through(words, sentence):
    torch.manual_seed(4)
    fusion = HadamardFusion(6, 6, 8)
    found = fusion(words, sentence[:, None])
    for row in range(2):
        for step in range(5):
            product = torch.relu(fusion.first(words[row, step])) * torch.relu(fusion.second(sentence[row]))
            torch.testing.assert_close(found[row, step], torch.relu(fusion.out(product)))
