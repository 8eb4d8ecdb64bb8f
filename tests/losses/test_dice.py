import pytest
import torch

from ommatid.losses.dice import dice_loss


def masks(seed=0):
    return (torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) > 0.5).float()


def test_it_is_the_equation_image_by_image():
    predicted, truth = torch.rand(3, 1, 8, 8), masks()
    shares = [
        2 * (float((p * t).sum()) + 1) / (float(p.sum()) + float(t.sum()) + 1)
        for p, t in zip(predicted, truth, strict=True)
    ]
    assert float(dice_loss(predicted, truth)) == pytest.approx(1 - sum(shares) / 3, abs=1e-6)


def test_pixels_that_are_not_known_do_not_count():
    predicted, truth, valid = torch.rand(3, 1, 8, 8), masks(), masks(1) > 0
    other = torch.where(valid, truth, 1 - truth)
    assert dice_loss(predicted, truth, valid) == dice_loss(predicted, other, valid)
    assert dice_loss(predicted, truth, valid) != dice_loss(predicted, truth)


def test_a_mask_without_foreground_punishes_the_predicted_area():
    nothing = torch.zeros(1, 1, 8, 8)
    few, many = (dice_loss(torch.full((1, 1, 8, 8), value), nothing) for value in (0.1, 0.9))
    assert few < many


def test_gradients_are_those_of_finite_differences():
    predicted = torch.rand(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(dice_loss(predicted, masks()[:2, :, :3, :3]), predicted)[0]
    step = torch.zeros_like(predicted)
    step[1, 0, 2, 1] = 1e-2
    with torch.no_grad():
        slope = (
            dice_loss(predicted + step, masks()[:2, :, :3, :3]) - dice_loss(predicted - step, masks()[:2, :, :3, :3])
        ) / 2e-2
    assert float(found[1, 0, 2, 1]) == pytest.approx(float(slope), abs=1e-4)
