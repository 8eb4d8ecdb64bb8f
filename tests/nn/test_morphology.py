import numpy as np
import pytest
import torch
from scipy import ndimage

from ommatid.errors import InputError
from ommatid.nn.morphology import dilate, edge_band, erode


def maps(dtype=torch.float32):
    return torch.rand(3, 1, 13, 17, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_it_is_grey_morphology_with_a_square_window(kernel):
    found = maps()
    footprint = np.ones((kernel, kernel))
    for ours, theirs, beyond in (
        (dilate, ndimage.grey_dilation, -np.inf),
        (erode, ndimage.grey_erosion, np.inf),
    ):
        expected = [theirs(each[0].numpy(), footprint=footprint, mode="constant", cval=beyond) for each in found]
        np.testing.assert_array_equal(ours(found, kernel)[:, 0].numpy(), np.stack(expected))


def test_the_band_is_nought_where_nothing_changes():
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 5:] = 1
    band = edge_band(mask, 3)[0, 0]
    assert band[:, 4:6].eq(1).all()
    assert band[:, :4].eq(0).all()
    assert band[:, 6:].eq(0).all()


@pytest.mark.parametrize("kernel", [0, 2, -1])
def test_a_window_without_a_middle_is_refused(kernel):
    with pytest.raises(InputError, match=f"kernel must be odd and at least 1, found {kernel}"):
        dilate(maps(), kernel)


def test_gradients_are_those_of_finite_differences():
    mask = maps(torch.float64)[:1, :, :5, :5].requires_grad_()
    assert torch.autograd.gradcheck(lambda each: edge_band(each, 3), (mask,))


def test_half_precision_stays_so():
    assert dilate(maps().bfloat16(), 3).dtype == torch.bfloat16
