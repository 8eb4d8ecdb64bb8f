import pytest
import torch

from ommatid.losses.wasserstein import critic_loss, generator_loss, gradient_penalty


def points(seed=0, rows=6, width=4):
    return torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_critic_wants_real_above_fake_and_a_generator_its_fakes_high():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])
    assert float(critic_loss(real, fake)) == pytest.approx(-1.5)
    assert float(generator_loss(fake)) == pytest.approx(-0.5)


def test_a_linear_critic_of_unit_slope_costs_nothing():
    weight = torch.nn.functional.normalize(points(1, 1)[0], dim=0)
    found = gradient_penalty(lambda x, _: x @ weight + 5, points(2), points(3), points(4))
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-12, rtol=0)


@pytest.mark.parametrize("slope", [0.0, 0.5, 3.0])
def test_any_other_slope_costs_its_squared_distance_from_one(slope):
    weight = slope * torch.nn.functional.normalize(points(1, 1)[0], dim=0)
    found = gradient_penalty(lambda x, _: x @ weight, points(2), points(3), points(4))
    assert float(found) == pytest.approx((slope - 1) ** 2, abs=1e-12)


def test_the_condition_may_be_as_steep_as_it_likes():
    """Some ports take the slope along features and attributes together."""
    weight = torch.nn.functional.normalize(points(1, 1)[0], dim=0)
    found = gradient_penalty(lambda x, a: x @ weight + 100 * a.sum(dim=1), points(2), points(3), points(4))
    assert float(found) == pytest.approx(0.0, abs=1e-12)


def test_the_slope_is_taken_between_real_and_fake_samples():
    real, fake, seen = points(2), points(3), []

    def critic(x, _):
        seen.append(x)
        return x.square().sum(dim=1)

    gradient_penalty(critic, real, fake, points(4), torch.Generator().manual_seed(0))
    share = (seen[0] - fake) / (real - fake)
    torch.testing.assert_close(share, share[:, :1].expand_as(share))
    assert 0 <= share.detach().min() < share.detach().max() <= 1


def test_images_are_penalised_over_all_their_pixels_and_patches_together():
    images = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = gradient_penalty(lambda x: x.sum(dim=1, keepdim=True), images, images + 1)
    assert float(found) == pytest.approx(((2 * 4 * 4) ** 0.5 - 1) ** 2)


def test_points_can_be_given():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.sum(dim=1)

    gradient_penalty(critic, points(2), points(3), share=torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(seen[0][1::2], points(2)[1::2])
    torch.testing.assert_close(seen[0][::2], points(3)[::2])


def test_gradients_reach_the_critic_and_not_the_samples():
    weight, real, fake = points(1, 1)[0].requires_grad_(), points(2).requires_grad_(), points(3).requires_grad_()
    gradient_penalty(lambda x, _: (x @ weight).square(), real, fake, points(4)).backward()
    assert weight.grad.abs().sum() > 0
    assert real.grad is None
    assert fake.grad is None


def test_the_same_generator_gives_the_same_points():
    def found(seed):
        drawn = torch.Generator().manual_seed(seed)
        return gradient_penalty(lambda x, _: x.pow(3).sum(dim=1), points(2), points(3), points(4), drawn).item()

    assert found(0) == found(0) != found(1)


def test_half_precision_is_finite():
    layer = torch.nn.Linear(4, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradient_penalty(
            lambda x, _: layer(x)[:, 0], points(2).float(), points(3).float(), points(4).float()
        ) + critic_loss(layer(points(2).float())[:, 0], layer(points(3).float())[:, 0])
    found.backward()
    assert found.dtype == torch.float32
    assert layer.weight.grad.isfinite().all()
