"""Running extremes against torch's own."""

import pytest
import torch

from ommatid.nn.running import running_maximum


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (2, 4, 17)])
def test_the_largest_value_so_far_is_torchs(shape):
    values = torch.randint(-50, 50, shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(running_maximum(values), values.cummax(dim=-1).values)


def test_nothing_has_no_largest_value():
    assert running_maximum(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0)
