import pytest
import torch

from ommatid.errors import InputError
from ommatid.nn.unet import UNet, UNetDecoder, UNetEncoder


def test_levels_halve_and_the_outcome_has_the_size_of_the_image():
    images = torch.rand(2, 3, 37, 50)
    found = UNetEncoder(3, (4, 8, 16))(images)
    assert [tuple(maps.shape[1:]) for maps in found] == [(4, 37, 50), (8, 18, 25), (16, 9, 12)]
    assert UNetDecoder((4, 8, 16), outputs=5)(found).shape == (2, 5, 37, 50)
    assert UNet(3, (4, 8, 16))(images).shape == (2, 1, 37, 50)


def test_one_level_is_two_convolutions_and_a_head():
    assert UNet(1, (4,))(torch.rand(1, 1, 6, 6)).shape == (1, 1, 6, 6)
    with pytest.raises(InputError, match="widths: found none, expected the channels of one level or more"):
        UNet(3, ())


def test_every_pixel_sees_far_through_the_coarse_levels():
    torch.manual_seed(0)
    network = UNet(1, (4, 8, 16)).eval()
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    network(image)[0, 0, 16, 16].backward()
    seen = image.grad[0, 0].ne(0).nonzero()
    assert seen.min() < 8


def test_it_learns_to_copy():
    torch.manual_seed(0)
    network = UNet(1, (8, 16))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    images = (torch.rand(8, 1, 16, 16) > 0.5).float()
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(images), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_half_precision_is_finite():
    network, images = UNet(3, (4, 8)).eval(), torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(network(images)).all()
