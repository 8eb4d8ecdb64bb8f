"""The embedded nuclei: every one has a number, is in one piece, and is brighter than what is around it."""

import torch
from scipy.ndimage import binary_dilation, label

from ommatid.data.nuclei import nuclei


def test_nuclei_are_numbered_without_gaps():
    found = nuclei()
    assert found.image.shape == found.instances.shape == (512, 512)
    assert found.image.dtype == found.instances.dtype == torch.uint8
    assert found.instances.unique().tolist() == list(range(len(found) + 1))
    assert len(found) == 125


def test_a_nucleus_is_in_one_piece_and_of_some_size():
    found = nuclei()
    for number in range(1, len(found) + 1):
        one = found.instances == number
        assert label(one.numpy(), structure=[[1] * 3] * 3)[1] == 1
        assert 10 < one.sum() < 2000


def test_numbers_lie_on_the_nuclei_of_the_picture():
    found = nuclei()
    assert torch.equal(found.mask, found.instances > 0)
    brightness = found.image.float()
    brighter = []
    for number in range(1, len(found) + 1):
        one = found.instances == number
        around = torch.from_numpy(binary_dilation(one.numpy(), iterations=4)) & ~found.mask
        brighter.append(bool(brightness[one].mean() > brightness[around].mean()))
    assert sum(brighter) > 0.98 * len(found)
    assert 0.15 < found.mask.float().mean() < 0.25
