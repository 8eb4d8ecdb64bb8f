import pytest
import torch

from ommatid.losses.equivariance import equivariance_loss, turn
from ommatid.nn.morphology import edge_band


def maps(seed=0):
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_network_that_turns_with_its_input_costs_nothing(quarters):
    assert equivariance_loss(maps(), turn(maps(), quarters), quarters) == 0
    assert equivariance_loss(maps(), turn(maps(), quarters), quarters, edge_kernel=3) == 0
    assert equivariance_loss(maps(), maps(), quarters) > 0


def test_it_is_the_mean_squared_difference_after_turning_back():
    found = equivariance_loss(maps(), maps(1), 1)
    expected = (maps() - torch.rot90(maps(1), -1, dims=(2, 3))).square().mean()
    torch.testing.assert_close(found, expected)


def test_with_a_band_what_is_far_from_edges_does_not_count():
    inside = torch.zeros(1, 1, 16, 16)
    inside[..., 4:12, 4:12] = 0.9
    hollow = inside.clone()
    assert equivariance_loss(inside, turn(hollow, 2), 2, edge_kernel=3) == 0
    differs = torch.zeros(1, 1, 16, 16)
    differs[..., 6:12, 4:12] = 0.9
    assert equivariance_loss(inside, turn(differs, 2), 2, edge_kernel=3) > 0
    assert edge_band(inside, 3)[..., 7, 7] == 0


def test_gradients_reach_both_predictions():
    first, second = maps().requires_grad_(), maps(1).requires_grad_()
    equivariance_loss(first, second, 1, edge_kernel=3).backward()
    assert first.grad.abs().sum() > 0
    assert second.grad.abs().sum() > 0
