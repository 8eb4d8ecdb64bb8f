import itertools

import pytest
import torch

from ommatid.errors import InputError
from ommatid.nn.unet_nd import UNetND

PUBLISHED = (32, 64, 128, 256, 320)


def closed_form(dimensions, inputs, outputs, widths, in_plane=0):
    """Parameters from sizes alone."""
    kernel, halvings = 3**dimensions, list(itertools.pairwise(widths))
    levels = [(inputs, widths[0]), *halvings]
    down = sum(kernel * (a * b + b * b) + 4 * b for a, b in levels)
    corners = [2 ** (dimensions - 1) if step < in_plane else 2**dimensions for step in range(len(halvings))]
    enlarge = sum(corner * fine * coarse for corner, (fine, coarse) in zip(corners, halvings, strict=True))
    up = sum(kernel * 3 * fine**2 + 4 * fine for fine, _ in halvings)
    heads = sum((width + 1) * outputs for width in widths[: min(3, len(halvings))])
    return down + enlarge + up + heads


@pytest.mark.parametrize(
    ("dimensions", "inputs", "outputs", "widths", "in_plane"),
    [(3, 23, 13, PUBLISHED, 2), (3, 1, 2, PUBLISHED, 0), (2, 9, 5, (10, 20, 40), 0), (3, 1, 2, (4, 8), 1)],
)
def test_it_has_as_many_parameters_as_its_sizes_say(dimensions, inputs, outputs, widths, in_plane):
    with torch.device("meta"):
        network = UNetND(dimensions, inputs, outputs, widths, in_plane)
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == closed_form(dimensions, inputs, outputs, widths, in_plane)


@pytest.mark.parametrize("size", [(16, 16, 8), (17, 15, 9), (13, 7, 5)])
def test_logits_have_the_size_of_the_volume(size):
    network = UNetND(3, 2, 3, (4, 6, 8), in_plane=1)
    finest, coarser = network.supervised(torch.rand(2, 2, *size))
    assert finest.shape == (2, 3, *size)
    assert coarser.shape == (2, 3, -(-size[0] // 2), -(-size[1] // 2), size[2])
    torch.testing.assert_close(network(torch.ones(1, 2, *size)), network.supervised(torch.ones(1, 2, *size))[0])


def test_slices_are_halved_last():
    network = UNetND(3, 1, 2, PUBLISHED, in_plane=2)
    assert network.strides == [(2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)]
    assert len(network.heads) == 3


def test_every_parameter_learns():
    network = UNetND(2, 3, 4, (4, 6, 8, 8))
    torch.stack([logits.square().mean() for logits in network.supervised(torch.randn(2, 3, 16, 16))]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_volumes_of_a_batch_do_not_see_each_other():
    network = UNetND(2, 1, 3, (4, 8)).train()
    images = torch.rand(3, 1, 9, 8)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite(dtype):
    network = UNetND(2, 1, 3, (4, 8))
    with torch.autocast("cpu", dtype=dtype):
        found = network.supervised(100 * torch.rand(2, 1, 8, 8))
    assert all(torch.isfinite(each).all() for each in found)


def test_sizes_that_cannot_be_are_told():
    with pytest.raises(InputError, match="found a volume of 4 x 4 voxels, expected more than 4 x 4 for a network of 3"):
        UNetND(2, 1, 2, (4, 4, 4))(torch.rand(1, 1, 4, 4))
    UNetND(2, 1, 2, (4, 4, 4))(torch.rand(1, 1, 4, 5))
    with pytest.raises(InputError, match="dimensions must be 2 or 3, found 4"):
        UNetND(4, 1, 2, (4, 4))
    with pytest.raises(InputError, match="found 1 levels, expected 2 at least"):
        UNetND(2, 1, 2, (4,))
    with pytest.raises(InputError, match="in_plane must lie from 0 to 1, the number of halvings, found 2"):
        UNetND(2, 1, 2, (4, 4), in_plane=2)


def test_it_can_be_exported():
    network = UNetND(3, 1, 2, (4, 6)).eval()
    images = torch.rand(1, 1, 8, 7, 6)
    program = torch.export.export(network, (images,)).module()
    torch.testing.assert_close(program(images), network(images))
