"""Suppression of boxes in pure PyTorch, which stands in where torchvision has no compiled operators."""

import pytest
import torch

from ommatid.nn.region_ops import nms, roi_align

LIMIT_MS = 30  # for 2,000 boxes on one core: a detector's pass must not wait for it


def boxes(count: int, crowded: bool) -> tuple[torch.Tensor, torch.Tensor]:
    corner = torch.rand(count, 2) * (100 if crowded else 1000)
    return torch.cat([corner, corner + 10 + torch.rand(count, 2) * 90], dim=1), torch.rand(count)


@pytest.mark.parametrize("crowded", [False, True], ids=["spread", "crowded"])
@pytest.mark.parametrize("count", [200, 2000])
def test_nms(benchmark, count, crowded):
    found = benchmark(nms, *boxes(count, crowded), 0.5)
    assert 0 < len(found) <= count
    if benchmark.stats is not None:  # none with --benchmark-disable
        assert benchmark.stats.stats.median * 1000 < LIMIT_MS


def test_roi_align(benchmark):
    corners, _ = boxes(256, crowded=False)
    rois = torch.cat([torch.zeros(256, 1), corners / 16], dim=1)
    found = benchmark(roi_align, torch.rand(1, 64, 64, 64), rois, 1.0, 7, 7, 2, True)
    assert found.shape == (256, 64, 7, 7)
