"""One adversarial step of boundary learning beside a supervised one, and windows of large images and volumes."""

from typing import Any

import pytest
import torch

from ommatid.dense.boundary import BoundarySettings
from ommatid.dense.organ_maps import windowed
from ommatid.dense.task import BoundaryBatch, MaskBatch
from ommatid.dense.trans_net import TransNet
from ommatid.dense.windows import WholeImage, map_in_bands
from ommatid.nn.unet_nd import UNetND

SIZE, BATCH = 64, 16
STEPS: dict[str, dict[str, Any]] = {
    "labels alone": {"judges": [], "self_weight": 0.0},
    "labels, turned alike": {"judges": [], "self_weight": 1.0},
    "one critic": {"judges": ["inner"], "self_weight": 0.0},
    "two critics": {"self_weight": 0.0},
    "two critics, turned alike": {"self_weight": 1.0},
}


class Alone(TransNet):
    """Trained by hand."""

    share_done = 1.0


def masked() -> MaskBatch:
    masks = (torch.rand(BATCH, 1, SIZE, SIZE) > 0.5).float()
    return MaskBatch(
        torch.rand(BATCH, 3, SIZE, SIZE), masks, torch.ones_like(masks, dtype=torch.bool), torch.arange(BATCH)
    )


@pytest.mark.parametrize("name", STEPS)
def test_one_step(benchmark, name):
    torch.manual_seed(0)
    boundary = BoundarySettings(critic_blocks=4, together=True, adversarial_every=1, **STEPS[name])
    method = Alone(SIZE, "unet", boundary=boundary, kernels=[3, 7])
    batch = BoundaryBatch(masked(), masked(), masked())
    optimizers = {
        phase: torch.optim.Adam([p for module in each.modules for p in module.parameters()])
        for phase, each in method.phases().items()
    }

    def update(*names: str, loss: torch.Tensor) -> None:
        for each in names:
            optimizers[each].zero_grad()
        loss.backward()
        for each in names:
            optimizers[each].step()

    method.update = update  # type: ignore[method-assign]
    method.report = lambda **parts: None  # type: ignore[method-assign]
    benchmark(lambda: method.training_step(batch, 0))


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_windows_of_a_large_image(benchmark, overlap):
    torch.manual_seed(0)
    method = Alone(image_size=128, network="unet", boundary=BoundarySettings(judges=[])).eval()
    image = WholeImage(torch.randint(0, 256, (3, 1024, 1024), dtype=torch.uint8))

    @torch.no_grad()
    def segment() -> int:
        return sum(len(found) for _, _, found in map_in_bands(method, image, 128, overlap))

    assert benchmark(segment) == 1024


@pytest.mark.parametrize("patch", [None, (32, 32, 24)], ids=["whole", "windows that overlap by half"])
def test_a_volume_of_660_000_voxels(benchmark, patch):
    network = UNetND(3, 1, 13, (8, 16, 32)).eval()
    volume = torch.rand(1, 1, 96, 96, 72)
    with torch.no_grad():
        assert benchmark(lambda: windowed(network, volume, patch)).shape == (1, 13, 96, 96, 72)
