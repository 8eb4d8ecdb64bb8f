"""Encoders that the methods share."""

import pytest
import torch

from ommatid.grounding.encoders import ConvContext, LocalSelfAttention, WordEmbedding, context
from ommatid.nn.recurrent import BidirectionalGRU

MASK = torch.tensor([[True] * 12, [True] * 5 + [False] * 7])


@pytest.fixture
def words():
    embedding = WordEmbedding(5, 3)
    embedding.vectors.copy_(torch.arange(15.0).reshape(5, 3) - 3)
    embedding.vectors[:2] = 0
    return embedding


def test_known_words_have_the_frozen_vector_of_their_row(words):
    found = words(torch.tensor([[2, 4]]))
    assert torch.equal(found[0], words.vectors[[2, 4]])
    assert "vectors" not in dict(words.named_parameters())
    assert {"vectors", "tags"} < words.state_dict().keys()


def test_every_unknown_word_has_the_same_learned_vector(words):
    found = words(torch.tensor([[1, 0, 1]]))
    assert torch.equal(found[0, 0], words.unknown)
    assert torch.equal(found[0, 2], words.unknown)
    assert (found[0, 1] == 0).all()
    found.sum().backward()
    assert words.unknown.grad.tolist() == [2.0, 2.0, 2.0]


def test_steps_see_their_neighbours_only():
    torch.manual_seed(0)
    layer = LocalSelfAttention(8, heads=2, window=3, dropout=0.0).eval()
    sequence = torch.randn(1, 12, 8).requires_grad_()
    layer(sequence, MASK[:1])[0, 5, 0].backward()
    touched = sequence.grad[0].abs().sum(dim=1) > 0
    assert touched.nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: LocalSelfAttention(8, 2, 3, 0.0),
        lambda: ConvContext(8, 6),
        lambda: context("gru", 8, 6),
        lambda: context("conv", 8, 6),
    ],
)
def test_what_is_padded_changes_nothing_and_stays_zero(encoder):
    torch.manual_seed(0)
    module = encoder().eval()
    sequence = torch.randn(2, 12, 8)
    noisy = torch.where(MASK[..., None], sequence, 99.0)
    first, second = module(sequence, MASK), module(noisy, MASK)
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(module(sequence[1:, :5], MASK[1:, :5])[0], first[1, :5], rtol=1e-5, atol=1e-5)
    assert (first[~MASK] == 0).all()


def test_convolutions_reach_three_steps_a_layer():
    torch.manual_seed(0)
    module = ConvContext(8, 6, layers=2, kernel=7).eval()
    sequence = torch.randn(1, 12, 8).requires_grad_()
    mask = torch.ones(1, 12, dtype=torch.bool)
    module(sequence, mask)[0, 0].sum().backward()
    reached = (sequence.grad[0].abs().sum(dim=1) > 0).nonzero().flatten()
    assert int(reached.max()) in (4, 5, 6)  # a ReLU may close a path at the rim
    assert not sequence.grad[0, 7:].any()


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    module = context("conv", 8, 6, dropout=0.5)
    sequence = torch.randn(2, 12, 8)
    assert not torch.equal(module.train()(sequence, MASK), module(sequence, MASK))
    assert torch.equal(module.eval()(sequence, MASK), module(sequence, MASK))


def test_encoders_are_known_by_name():
    assert isinstance(context("gru", 8, 6), BidirectionalGRU)
    assert isinstance(context("conv", 8, 6), ConvContext)
