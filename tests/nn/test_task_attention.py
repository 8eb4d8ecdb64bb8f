"""Static attention over parents: rows are distributions, sharp when cold, and their entropy has known ends."""

import math

import torch

from ommatid.nn.task_attention import TaskAttention, mixed


def test_weights_are_softmax_of_twice_the_logits_over_the_temperature():
    attention = TaskAttention(3, 2)
    weights = attention(2.5)
    expected = (2 * attention.logits.view(3, 2) / 2.5).softmax(dim=1)
    torch.testing.assert_close(weights, expected)


def test_cold_attention_keeps_the_first_parent_only():
    attention = TaskAttention(4, 3)
    cold = attention(1e-4)
    torch.testing.assert_close(cold.argmax(dim=1), attention.parent())
    torch.testing.assert_close(cold.max(dim=1).values, torch.ones(4))
    assert float(attention.entropy(1e-4).max()) < 1e-3


def test_entropy_of_equal_preferences_is_the_largest():
    attention = TaskAttention(2, 5)
    torch.nn.init.zeros_(attention.logits)
    torch.testing.assert_close(attention.entropy(), torch.full((2,), math.log(5)))
    torch.testing.assert_close(attention.entropy(normalise=True), torch.ones(2))


def test_one_parent_has_no_entropy():
    assert TaskAttention(3, 1).entropy(normalise=True).tolist() == [0, 0, 0]


def test_mixing_equals_the_sum_written_out():
    features, weights = torch.randn(2, 3, 4, 5), torch.rand(6, 3)
    expected = sum(weights[None, :, parent, None, None] * features[:, None, parent] for parent in range(3))
    torch.testing.assert_close(mixed(features, weights), expected)
