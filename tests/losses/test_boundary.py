import pytest
import torch
from torch import nn

from ommatid.losses.boundary import critic_loss_on_patches


class Mean(nn.Module):
    """Scores a tuple by its mean; slope 1 over sqrt(numbers)."""

    def forward(self, tuples):
        return tuples.mean(dim=(1, 2, 3), keepdim=True)


def groups():
    return [torch.full((2, 9, 4, 4), value) for value in (0.9, 0.2, 0.4)]


def test_real_goes_up_and_everything_else_down():
    real, fake, pseudo = groups()
    assert float(critic_loss_on_patches(Mean(), real, fake, penalty=0.0)) == pytest.approx(0.2 - 0.9)
    assert float(critic_loss_on_patches(Mean(), real, fake, pseudo, penalty=0.0)) == pytest.approx(0.2 + 0.4 - 0.9)


def test_two_negative_terms_can_be_balanced_against_one():
    real, fake, pseudo = groups()
    found = critic_loss_on_patches(Mean(), real, fake, pseudo, penalty=0.0, negative_weight=0.5)
    assert float(found) == pytest.approx(0.3 - 0.9)
    alone = critic_loss_on_patches(Mean(), real, fake, penalty=0.0, negative_weight=0.5)
    assert float(alone) == pytest.approx(0.2 - 0.9)


def test_the_slope_is_kept_at_one():
    real, fake, _ = groups()
    slope = 1 / (9 * 16) ** 0.5
    free, bound = (float(critic_loss_on_patches(Mean(), real, fake, penalty=weight)) for weight in (0.0, 10.0))
    assert bound - free == pytest.approx(10 * (slope - 1) ** 2, rel=1e-4)


def test_groups_may_differ_in_size():
    real, fake, pseudo = groups()
    found = critic_loss_on_patches(Mean(), real, fake, pseudo[:1], penalty=0.0)
    assert float(found) == pytest.approx(0.2 + 0.4 - 0.9)
