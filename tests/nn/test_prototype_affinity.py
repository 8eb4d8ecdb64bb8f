import pytest
import torch

from ommatid.nn.prototype_affinity import affinity_temperature, prototype_affinity, prototype_distances


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rows_sum_to_one_and_prefer_the_nearest():
    latents, prototypes = drawn(20, 6), drawn(5, 6, seed=1)
    found = prototype_affinity(latents, prototypes, 0.7)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(20))
    assert torch.equal(found.argmax(dim=1), torch.cdist(latents, prototypes).argmin(dim=1))


def test_it_is_the_softmax_of_minus_squared_distances_over_width_and_temperature():
    latents, prototypes = drawn(4, 6), drawn(3, 6, seed=1)
    squared = (latents[:, None] - prototypes).square().sum(dim=2)
    torch.testing.assert_close(prototype_affinity(latents, prototypes, 0.7), (-squared / (6 * 0.7)).softmax(dim=1))


def test_a_vanishing_temperature_picks_the_nearest_and_a_huge_one_none():
    latents, prototypes = drawn(20, 6), drawn(5, 6, seed=1)
    nearest = torch.cdist(latents, prototypes).argmin(dim=1)
    cold, hot = (prototype_affinity(latents, prototypes, each) for each in (1e-6, 1e6))
    torch.testing.assert_close(cold, torch.nn.functional.one_hot(nearest, 5).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(hot, torch.full((20, 5), 0.2), atol=1e-4, rtol=0)


def test_the_temperature_is_a_third_of_the_mean_distance():
    latents, prototypes = drawn(7, 6), drawn(5, 6, seed=1)
    expected = (latents[:, None] - prototypes).square().mean() / 3
    torch.testing.assert_close(affinity_temperature(latents, prototypes), expected)


def test_gradients_are_finite_also_on_a_prototype():
    prototypes = drawn(3, 4, seed=1)
    latents = prototypes.clone().requires_grad_()
    prototype_affinity(latents, prototypes, 0.5)[:, 0].sum().backward()
    assert latents.grad.isfinite().all()
    assert latents.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    latents, prototypes = drawn(4, 6), drawn(3, 6, seed=1)
    found = prototype_distances(latents.to(dtype), prototypes.to(dtype))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, prototype_distances(latents, prototypes), rtol=0.05, atol=0.05)
