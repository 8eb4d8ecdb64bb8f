"""Random crops by torchvision's rule, and many crops of a batch at once."""

import pytest
import torch

from ommatid.errors import InputError
from ommatid.nn.crops import overlap, random_crop_boxes, take_crops, whole_box


def test_crops_lie_in_their_region_and_have_the_asked_area_and_shape():
    regions = torch.tensor([10.0, 20.0, 60.0, 80.0]).expand(2000, 4)
    boxes = random_crop_boxes(regions, (0.1, 0.5), generator=torch.Generator().manual_seed(0))
    top, left, height, width = boxes.unbind(1)
    assert (top >= 10).all()
    assert (left >= 20).all()
    assert (top + height <= 70.001).all()
    assert (left + width <= 100.001).all()
    share, ratio = height * width / 4800, width / height
    assert 0.1 <= share.min() <= 0.11
    assert 0.49 <= share.max() <= 0.5001
    assert 0.749 <= ratio.min() <= 0.76
    assert 1.32 <= ratio.max() <= 1.334
    assert (ratio.log().mean()).abs() < 0.02


def test_areas_are_distributed_as_torchvision_s():
    from torchvision.transforms import RandomResizedCrop

    import ommatid  # noqa: F401

    torch.manual_seed(0)
    image = torch.zeros(1, 200, 200)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(1500)])
    ours = random_crop_boxes(whole_box(200, 200).expand(1500, 4))
    for name, at in {"height": 2, "width": 3, "top": 0}.items():
        for quantile in (0.1, 0.5, 0.9):
            found, expected = (each[:, at].float().quantile(quantile) for each in (ours, theirs))
            assert found == pytest.approx(float(expected), abs=9), (name, quantile)


def test_where_no_crop_fits_the_largest_middle_part_is_taken():
    region = torch.tensor([[0.0, 0.0, 10.0, 100.0]])
    box = random_crop_boxes(region, (0.9, 1.0))
    torch.testing.assert_close(box, torch.tensor([[0.0, 50 - 20 / 3, 10.0, 40 / 3]]))


def test_a_region_may_have_a_smallest_share_of_its_own():
    regions, smallest = whole_box(48, 48).expand(200, 4), torch.ones(200)
    boxes = random_crop_boxes(regions, smallest=smallest)
    assert (boxes[:, 2:].prod(dim=1) > 0.999 * 48 * 48).all()


def test_the_same_generator_gives_the_same_crops():
    first, second = (
        random_crop_boxes(whole_box(48, 48).expand(3, 2, 4), generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(InputError, match=r"scale: found 0\.5 to 0\.1, expected two positive numbers in order"):
        random_crop_boxes(whole_box(8, 8), (0.5, 0.1))


def test_the_whole_image_in_its_own_size_is_the_image():
    images = torch.rand(3, 2, 16, 16)
    crops = take_crops(images, whole_box(16, 16).expand(3, 1, 4), 16)
    torch.testing.assert_close(crops[:, 0], images)


def test_each_image_has_its_own_crops_and_some_are_mirrored():
    images = torch.rand(2, 3, 12, 12)
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 4.0, 4.0]], [[2.0, 4.0, 4.0, 4.0], [0.0, 0.0, 12.0, 12.0]]])
    crops = take_crops(images, boxes, 4, torch.tensor([[False, True], [True, False]]))
    torch.testing.assert_close(crops[0, 0], images[0, :, :4, :4])
    torch.testing.assert_close(crops[0, 1], images[0, :, 8:, 8:].flip(-1))
    torch.testing.assert_close(crops[1, 0], images[1, :, 2:6, 4:8].flip(-1))


def test_gradients_reach_the_image():
    image = torch.rand(1, 1, 8, 8, requires_grad=True)
    take_crops(image, torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]), 4).sum().backward()
    assert image.grad[0, 0, :4, :4].min() > 0
    assert image.grad[0, 0, 5:, 5:].abs().max() == 0


def test_overlap_is_one_of_equal_and_zero_of_distant_boxes():
    box = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert float(overlap(box, box)) == pytest.approx(1)
    assert float(overlap(box, torch.tensor([10.0, 2.0, 3.0, 4.0]))) == 0
