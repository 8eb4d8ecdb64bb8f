"""Siamese frames: what they tell one another, against the equations in plain loops."""

import math

import pytest
import torch

from ommatid.nn.siamese import SiameseAggregator, propagate_soft_labels, siamese_affinity

SIZES = [(2, 5, 7, 6), (1, 2, 1, 4), (3, 3, 4, 5)]


def frames(batch, count, time, dim):
    return torch.randn(batch, count, time, dim, generator=torch.Generator().manual_seed(0))


def slow_affinity(stack):
    """E6 and E7 for the frames (count, dim) of one step."""
    count = len(stack)
    weights = torch.zeros(count, count)
    for i in range(count):
        for j in range(count):
            if i != j:
                cosine = float(stack[i] @ stack[j]) / (float(stack[i].norm()) * float(stack[j].norm()))
                weights[i, j] = math.exp(cosine)
    return weights / weights.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("size", SIZES)
def test_affinity_is_the_softmax_of_cosines_without_the_diagonal(size):
    found = siamese_affinity(frames(*size))
    for row, sample in enumerate(frames(*size)):
        for t in range(size[2]):
            torch.testing.assert_close(found[row, t], slow_affinity(sample[:, t]))


@pytest.mark.parametrize("omega", [0.0, 0.5, 0.8])
def test_every_frame_takes_in_the_others_of_its_step(omega):
    torch.manual_seed(0)
    aggregator, sequence = SiameseAggregator(6, omega), frames(2, 5, 7, 6)
    found, affinity = aggregator(sequence)
    for row, sample in enumerate(sequence):
        for t in range(7):
            weights = slow_affinity(sample[:, t])
            torch.testing.assert_close(affinity[row, t], weights)
            for i in range(5):
                others = sum(weights[i, j] * sample[j, t] for j in range(5) if j != i)
                mixed = omega * aggregator.others.weight @ others
                mixed = mixed + (1 - omega) * (aggregator.own.weight @ sample[i, t] + aggregator.own.bias)
                torch.testing.assert_close(found[row, i, t], sample[i, t] + mixed.clamp(min=0))


def test_steps_do_not_mix():
    aggregator, sequence = SiameseAggregator(6), frames(1, 4, 5, 6)
    changed = sequence.clone()
    changed[:, :, 2] += 1
    before, after = aggregator(sequence)[0], aggregator(changed)[0]
    same = torch.tensor([0, 1, 3, 4])
    assert torch.equal(before[:, :, same], after[:, :, same])
    assert not torch.allclose(before[:, :, 2], after[:, :, 2])


def test_the_order_of_the_siblings_does_not_matter():
    aggregator, sequence = SiameseAggregator(6), frames(2, 4, 3, 6)
    order = torch.tensor([0, 3, 1, 2])
    torch.testing.assert_close(aggregator(sequence[:, order])[0], aggregator(sequence)[0][:, order])


def test_copies_resemble_each_other_equally():
    affinity = siamese_affinity(frames(1, 1, 3, 6).expand(-1, 5, -1, -1))
    torch.testing.assert_close(affinity, (0.25 * (1 - torch.eye(5))).expand(1, 3, 5, 5))


def test_a_single_frame_and_an_empty_one_stay_finite():
    aggregator, single = SiameseAggregator(6), frames(2, 1, 3, 6)
    found, affinity = aggregator(single)
    torch.testing.assert_close(found, single + (0.5 * aggregator.own(single)).clamp(min=0))
    assert not affinity.any()
    blank = torch.zeros(1, 3, 2, 6, requires_grad=True)
    aggregator(blank)[0].sum().backward()
    assert blank.grad.isfinite().all()


@pytest.mark.parametrize("omega", [0.0, 0.5, 1.0])
def test_soft_labels_are_what_the_other_frames_say(omega):
    generator = torch.Generator().manual_seed(1)
    probs = torch.randn(2, 4, 6, generator=generator).softmax(dim=-1)
    affinity = siamese_affinity(frames(2, 4, 6, 5))
    found = propagate_soft_labels(probs, affinity, omega)
    for row in range(2):
        for i in range(4):
            attention = [sum(probs[row, i, t] * affinity[row, t, i, j] for t in range(6)) for j in range(4)]
            heard = sum(attention[j] * probs[row, j] for j in range(4) if j != i)
            torch.testing.assert_close(found[row, i], omega * heard + (1 - omega) * probs[row, i])
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 4))


def test_soft_labels_carry_no_gradient_and_a_lonely_frame_keeps_its_own():
    probs = torch.randn(2, 1, 6).softmax(dim=-1).requires_grad_()
    found = propagate_soft_labels(probs, siamese_affinity(frames(2, 1, 6, 5)))
    assert not found.requires_grad
    torch.testing.assert_close(found, probs.detach())


def test_labels_keep_full_precision_under_autocast():
    probs = torch.randn(2, 4, 6).softmax(dim=-1)
    affinity = siamese_affinity(frames(2, 4, 6, 5))
    with torch.autocast("cpu", torch.bfloat16):
        found = propagate_soft_labels(probs, affinity)
        mixed, narrow = SiameseAggregator(6)(frames(2, 5, 7, 6))
    torch.testing.assert_close(found, propagate_soft_labels(probs, affinity))
    torch.testing.assert_close(narrow.sum(dim=-1), torch.ones(2, 7, 5))
    assert mixed.isfinite().all()


def test_every_weight_learns():
    aggregator = SiameseAggregator(6)
    aggregator(frames(2, 5, 7, 6))[0].square().sum().backward()
    assert all(parameter.grad.any() for parameter in aggregator.parameters())


def test_shares_beyond_one_are_refused():
    with pytest.raises(ValueError, match=r"omega must lie in \[0, 1\]: got 1.5"):
        SiameseAggregator(6, omega=1.5)
