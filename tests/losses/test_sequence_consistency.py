"""The sequence consistency loss against its definition written out step by step."""

import math

import pytest
import torch

from ommatid.losses.sequence_consistency import gaussian_prior, sequence_consistency_loss


def views(batch=2, one=6, two=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    codes = [torch.nn.functional.normalize(torch.randn(batch, n, 4, generator=draw), dim=-1) for n in (one, two)]
    times = [torch.rand(batch, n, generator=draw) for n in (one, two)]
    masks = [torch.ones(batch, n, dtype=torch.bool) for n in (one, two)]
    return *codes, *times, *masks


def written_out(first, second, u, v, tau, sigma):
    """One direction of one video (E10-E13)."""
    total = 0.0
    for code, at in zip(first, u, strict=True):
        scores = [float(code @ other) / tau for other in second]
        norm = math.log(sum(math.exp(score) for score in scores))
        weights = [math.exp(-(float(at - other) ** 2) / (2 * sigma**2)) for other in v]
        prior = [weight / sum(weights) for weight in weights]
        total += sum(p * (math.log(p) - (score - norm)) for p, score in zip(prior, scores, strict=True) if p > 0)
    return total / len(u)


def test_both_directions_of_every_video_are_averaged():
    first, second, u, v, _, _ = inputs = views()
    expected = []
    for i in range(2):
        there = written_out(first[i], second[i], u[i], v[i], 0.1, 0.2)
        back = written_out(second[i], first[i], v[i], u[i], 0.1, 0.2)
        expected.append((there + back) / 2)
    found = sequence_consistency_loss(*inputs, tau=0.1, sigma=0.2)
    assert float(found) == pytest.approx(sum(expected) / 2, rel=1e-4)


@pytest.mark.parametrize("how", ["padded", "without a time"])
def test_steps_that_are_padded_or_from_elsewhere_take_no_part(how):
    first, second, u, v, first_mask, second_mask = views(batch=1)
    alone = sequence_consistency_loss(first, second, u, v, first_mask, second_mask, sigma=0.2)
    more = [torch.cat([x, torch.ones_like(x[:, :2])], dim=1) for x in (first, second, u, v, first_mask, second_mask)]
    if how == "padded":
        more[4][:, -2:], more[5][:, -2:] = False, False
    else:
        more[2][:, -2:], more[3][:, -2:] = math.nan, math.nan
    torch.testing.assert_close(sequence_consistency_loss(*more, sigma=0.2), alone)


def test_the_released_form_differs_where_something_is_masked():
    inputs = list(views())
    plain = sequence_consistency_loss(*inputs, sigma=0.2)
    released = sequence_consistency_loss(*inputs, sigma=0.2, as_released=True)
    assert 0 < abs(plain - released) < 0.5  # 1e-6 added to every probability, another denominator


def test_steps_can_weigh_more():
    inputs = views()
    weight = torch.tensor([[2.0] * 6, [2.0] * 6]), torch.tensor([[2.0] * 5, [2.0] * 5])
    doubled = sequence_consistency_loss(*inputs, first_weight=weight[0], second_weight=weight[1])
    torch.testing.assert_close(doubled, 2 * sequence_consistency_loss(*inputs))


def test_a_prior_without_pairs_is_zero():
    pairs = torch.tensor([[[True, True], [False, False]]])
    prior = gaussian_prior(torch.zeros(1, 2, 2), pairs)
    assert prior[0].tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_gradients_are_finite_where_everything_is_masked():
    first, second, u, v, first_mask, second_mask = views()
    first.requires_grad_()
    sequence_consistency_loss(first, second, u, v, first_mask & False, second_mask).backward()
    assert torch.isfinite(first.grad).all()
