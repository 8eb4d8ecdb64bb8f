"""The sequence consistency loss against the recorded numbers of the public code that ECRL builds on."""

import math

import pytest
import torch

from ommatid.losses.sequence_consistency import gaussian_prior, sequence_consistency_loss
from parity.fixture import load_fixture


@pytest.fixture
def fixture():
    return load_fixture("ecrl-sscl")


@pytest.mark.parametrize("case", ["full", "masked"])
def test_loss_and_gradient_are_reproduced(fixture, case):
    codes = fixture.tensor("in/embs").requires_grad_()
    times, mask = fixture.tensor("in/steps"), fixture.tensor("in/mask").bool()
    mask = mask if case == "masked" else torch.ones_like(mask)
    views = zip(codes.unbind(1), times.unbind(1), mask.unbind(1), strict=True)
    (first, first_times, first_mask), (second, second_times, second_mask) = views
    loss = sequence_consistency_loss(
        first, second, first_times, second_times, first_mask, second_mask,
        tau=fixture.config["temperature"], sigma=math.sqrt(fixture.config["variance"]), as_released=True,
    )  # fmt: skip
    fixture.assert_close(loss[None], f"out/loss_{case}")
    loss.backward()
    fixture.assert_close(codes.grad, f"grad/embs_{case}")


def test_the_prior_is_reproduced(fixture):
    first, second = fixture.tensor("in/steps").unbind(1)
    closeness = -((first[:, :, None] - second[:, None]) ** 2) / (2 * fixture.config["variance"])
    fixture.assert_close(gaussian_prior(closeness, torch.ones_like(closeness) > 0), "out/prior_12")
