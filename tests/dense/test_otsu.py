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


def test_a_constant_map_has_no_foreground_above_its_value():
    threshold = otsu_threshold(torch.full((4, 4), 0.5))
    assert threshold.isfinite()
