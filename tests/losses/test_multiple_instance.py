"""Multiple-instance losses against plain loops, and what padding may not change."""

import pytest
import torch
import torch.nn.functional as F

from ommatid.losses.multiple_instance import (
    background_guide_loss,
    mil_bce_loss,
    mil_softmax_loss,
    mutual_attention_loss,
    suppress,
    topk_mean,
)

LENGTHS = (9, 3, 1)
MASK = torch.arange(9) < torch.tensor(LENGTHS)[:, None]


@pytest.fixture
def activation():
    return torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ratio", [1, 2, 8])
def test_the_strongest_units_are_averaged_whatever_is_padded(activation, ratio):
    activation[~MASK] = 50.0
    found = topk_mean(activation, MASK, ratio)
    for row, length in enumerate(LENGTHS):
        count = max(1, length // ratio)
        expected = activation[row, :length].topk(count, dim=0).values.mean(dim=0)
        torch.testing.assert_close(found[row], expected)


def test_a_sample_without_units_has_no_evidence_and_no_gradient(activation):
    activation.requires_grad_()
    loss = mil_bce_loss(activation, torch.ones(3, 4), torch.zeros(3, 9, dtype=torch.bool))
    assert loss.tolist() == pytest.approx([0.6931] * 3, abs=1e-4)
    loss.sum().backward()
    assert (activation.grad == 0).all()


def test_weights_of_classes_are_shares(activation):
    labels = torch.tensor([[1.0, 0, 0, 1]] * 3)
    weights = torch.tensor([[2.0, 0, 0, 2.0]] * 3)
    found = mil_bce_loss(activation, labels, MASK, weights=weights)
    logits = topk_mean(activation, MASK)[:, [0, 3]]
    torch.testing.assert_close(found, F.softplus(-logits).mean(dim=1))


def test_softmax_loss_is_the_cross_entropy_with_normalised_labels(activation):
    labels = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]])
    found = mil_softmax_loss(activation, labels, MASK, ratio=2)
    target = labels / labels.sum(dim=1, keepdim=True)
    expected = F.cross_entropy(topk_mean(activation, MASK, 2), target, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("over", ["time", "labels"])
def test_suppression_keeps_what_is_attended_and_floors_the_rest(activation, over):
    attention = torch.tensor([1.0, 0.0] * 5)[:9].expand(3, -1)
    found = suppress(activation, attention, MASK, over)
    torch.testing.assert_close(found[0, 0], activation[0, 0])
    floor = activation[0].amin(dim=0) if over == "time" else activation[0, 1].amin().expand(4)
    torch.testing.assert_close(found[0, 1], floor)
    assert (found[~MASK] == 0).all()


def test_each_attention_follows_the_other_one():
    first, second = torch.tensor([[0.2, 0.9]], requires_grad=True), torch.tensor([[0.6, 0.9]], requires_grad=True)
    mutual_attention_loss(first, second, torch.ones(1, 2, dtype=torch.bool)).backward()
    assert first.grad[0, 0] < 0 < second.grad[0, 0]
    assert first.grad[0, 1] == second.grad[0, 1] == 0


def test_guided_background_is_the_complement_of_attention(activation):
    background = activation.softmax(dim=-1)[..., -1]
    assert background_guide_loss(activation, 1 - background, MASK) == pytest.approx(0.0, abs=1e-6)
    assert background_guide_loss(activation, torch.zeros(3, 9), MASK) == pytest.approx(
        float((1 - background)[MASK].mean()), abs=1e-6
    )
