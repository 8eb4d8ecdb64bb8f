import pytest
import torch

from ommatid.errors import InputError
from ommatid.nn.copy_paste import paste_on_corner


def test_the_object_stays_and_the_rest_is_a_corner():
    """Every corner has a value of its own, so that the ground tells which was taken."""
    images, masks = torch.full((40, 3, 12, 12), 0.5), torch.zeros(40, 1, 12, 12)
    masks[:, :, 4:8, 4:8] = 1
    grounds = torch.zeros(40, 3, 12, 12)
    for value, (rows, columns) in enumerate(
        [(slice(6), slice(6)), (slice(6), slice(6, 12)), (slice(6, 12), slice(6)), (slice(6, 12), slice(6, 12))]
    ):
        grounds[:, :, rows, columns] = value + 1.0
    found = paste_on_corner(images, masks, grounds, generator=torch.Generator().manual_seed(0))
    assert found[:, :, 4:8, 4:8].eq(0.5).all()
    outside = found[:, 0][:, masks[0, 0] == 0]
    torch.testing.assert_close(outside, outside[:, :1].expand_as(outside))
    assert set(outside[:, 0].round().tolist()) == {1.0, 2.0, 3.0, 4.0}


def test_a_whole_background_can_be_taken():
    grounds = torch.rand(2, 3, 8, 8)
    found = paste_on_corner(torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8), grounds, side=1.0)
    torch.testing.assert_close(found, grounds)


def test_an_impossible_side_is_refused():
    with pytest.raises(InputError, match=r"side must lie in \(0, 1\], found 0"):
        paste_on_corner(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4), side=0.0)
