import pytest
import torch

from ommatid.dense.otsu import LEVELS, otsu_threshold


def brute_force(values):
    """The step between two levels that leaves least variance within the two sides."""
    levels = (values.flatten() * (LEVELS - 1)).round()
    best, chosen = float("inf"), None
    for step in range(1, LEVELS):
        low, high = levels[levels < step], levels[levels >= step]
        if len(low) and len(high):
            within = sum(float((side - side.mean()).square().sum()) for side in (low, high))
            if within < best - 1e-6:
                best, chosen = within, step
    return chosen


@pytest.mark.parametrize("seed", range(4))
def test_it_parts_values_as_no_other_step_does(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.cat(
        [0.2 + 0.1 * torch.randn(60, generator=generator), 0.7 + 0.1 * torch.randn(40, generator=generator)]
    )
    values = values.clamp(0, 1).view(10, 10)
    assert round(float(otsu_threshold(values)) * (LEVELS - 1)) == brute_force(values)


def test_every_map_has_its_own():
    maps = torch.stack([torch.tensor([[0.1, 0.2], [0.8, 0.9]]), torch.tensor([[0.5, 0.6], [0.9, 1.0]])])
    found = otsu_threshold(maps)
    assert torch.equal(found[0], otsu_threshold(maps[0]))
    assert ((maps >= found[:, None, None]).flatten(1).sum(dim=1) == 2).all()


@pytest.mark.parametrize("value", [0.0, 0.018, 0.49, 0.51, 1.0])
def test_a_map_that_cannot_be_parted_is_foreground_from_one_half_on(value):
    parted = torch.tensor([[0.1, 0.1], [0.2, 0.2]])
    maps = torch.stack([torch.full((2, 2), value), parted])
    found = otsu_threshold(maps)
    assert found[0] == 0.5
    assert found[1] == otsu_threshold(parted)
    assert (maps[0] >= found[0]).all() == (value > 0.5)


def test_a_map_with_a_nan_cannot_be_parted_either():
    parted = torch.tensor([[0.1, 0.1], [0.2, 0.2]])
    found = otsu_threshold(torch.stack([torch.tensor([[0.1, 0.2], [torch.nan, 0.2]]), parted]))
    assert found.tolist() == [0.5, float(otsu_threshold(parted))]
