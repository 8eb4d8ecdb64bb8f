import pytest
import torch

from ommatid.dense.networks import PixelNetwork
from ommatid.errors import InputError


@pytest.mark.parametrize("settings", [{"name": "unet", "widths": (4, 8)}, {"backbone": "resnet18"}])
def test_logits_have_the_size_of_the_image(settings):
    assert PixelNetwork(**settings).eval()(torch.rand(2, 3, 32, 40)).shape == (2, 1, 32, 40)


def test_normalisation_is_part_of_the_network():
    torch.manual_seed(0)
    network = PixelNetwork("unet", widths=(4,), mean=(0.2, 0.3, 0.4), std=(0.5, 0.5, 0.5)).eval()
    images = torch.rand(1, 3, 8, 8)
    shifted = (images - torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)) / 0.5
    torch.testing.assert_close(network(images), network.network(shifted))


def test_unknown_networks_are_refused():
    with pytest.raises(InputError, match="unknown network 'segformer'"):
        PixelNetwork("segformer")
