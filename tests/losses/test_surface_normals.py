"""The loss of surface normals is one minus their cosine, over valid pixels only."""

import math

import pytest
import torch

from ommatid.losses.surface_normals import surface_normal_loss

GENERATOR = torch.Generator().manual_seed(0)
PREDICTED = torch.randn(2, 3, 4, 5, generator=GENERATOR)
NORMALS = torch.nn.functional.normalize(torch.randn(2, 3, 4, 5, generator=GENERATOR), dim=1)
VALID = torch.rand(2, 4, 5, generator=GENERATOR) < 0.6


def test_it_is_the_mean_of_torchs_cosine_over_all_valid_pixels_of_the_batch():
    cosine = torch.nn.functional.cosine_similarity(PREDICTED, NORMALS, dim=1)
    torch.testing.assert_close(surface_normal_loss(PREDICTED, NORMALS, VALID), 1 - cosine[VALID].mean())


def test_length_does_not_matter():
    expected = surface_normal_loss(PREDICTED, NORMALS, VALID)
    torch.testing.assert_close(surface_normal_loss(100 * PREDICTED, 0.5 * NORMALS, VALID), expected)


@pytest.mark.parametrize("degrees", [0.0, 60.0, 90.0, 180.0])
def test_it_follows_the_angle(degrees):
    angle = math.radians(degrees)
    up = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    other = torch.tensor([math.sin(angle), 0.0, math.cos(angle)]).view(1, 3, 1, 1)
    assert float(surface_normal_loss(other, up)) == pytest.approx(1 - math.cos(angle), abs=1e-6)


def test_what_is_not_valid_may_hold_anything():
    expected = surface_normal_loss(PREDICTED, NORMALS, VALID)
    hidden = ~VALID[:, None].expand_as(PREDICTED)
    predicted = PREDICTED.masked_fill(hidden, float("nan")).requires_grad_()
    found = surface_normal_loss(predicted, NORMALS.masked_fill(hidden, 255.0), VALID)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert (predicted.grad[hidden] == 0).all()
    assert (predicted.grad[~hidden] != 0).any()


def test_without_a_mask_zero_normals_do_not_count():
    normals = NORMALS * VALID[:, None]
    torch.testing.assert_close(surface_normal_loss(PREDICTED, normals), surface_normal_loss(PREDICTED, NORMALS, VALID))


def test_no_valid_pixel_is_no_loss():
    predicted = PREDICTED.clone().requires_grad_()
    found = surface_normal_loss(predicted, NORMALS, torch.zeros_like(VALID))
    found.backward()
    assert found == 0
    assert (predicted.grad == 0).all()


def test_a_network_that_predicts_nothing_has_a_finite_gradient():
    predicted = torch.zeros_like(PREDICTED).requires_grad_()
    found = surface_normal_loss(predicted, NORMALS)
    found.backward()
    assert found == 1
    assert predicted.grad.isfinite().all()
    assert predicted.grad.abs().max() < 1e6


def test_gradients_are_those_of_finite_differences():
    # Computed in single precision, whatever comes in.
    step, predicted = 1e-2, PREDICTED.clone().requires_grad_()
    surface_normal_loss(predicted, NORMALS, VALID).backward()
    direction = torch.randn(PREDICTED.shape, generator=torch.Generator().manual_seed(1))
    ahead, behind = (surface_normal_loss(PREDICTED + side * step * direction, NORMALS, VALID) for side in (1, -1))
    expected = float((ahead - behind) / (2 * step))
    assert float((predicted.grad * direction).sum()) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype):
    found = surface_normal_loss(PREDICTED.to(dtype), NORMALS.to(dtype), VALID)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, surface_normal_loss(PREDICTED, NORMALS, VALID), rtol=0.02, atol=0.02)
