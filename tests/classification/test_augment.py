"""Random changes of training images, and mixtures of pairs of them."""

import pytest
import torch

from ommatid.classification.augment import mixed, training_transform

IMAGE = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))


def test_nothing_leaves_an_image_as_it_is():
    assert training_transform("none", 16)(IMAGE) is IMAGE


def test_a_shift_keeps_all_pixels_and_moves_them_a_little():
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        shifted = training_transform("shift", 24)(IMAGE)
        assert shifted.shape == IMAGE.shape
        torch.testing.assert_close(shifted.flatten().sort().values, IMAGE.flatten().sort().values)
        places = [
            (down, right, mirrored)
            for mirrored in (False, True)
            for down in range(-3, 4)
            for right in range(-4, 5)
            if torch.equal(shifted.flip(-1) if mirrored else shifted, IMAGE.roll((down, right), dims=(1, 2)))
        ]
        assert len(places) == 1
        seen |= set(places)
    assert {mirrored for _, _, mirrored in seen} == {False, True}
    assert len(seen) > 20


@pytest.mark.parametrize("kind", ["base", "elite"])
def test_parts_of_images_have_the_size_and_stay_in_the_unit_interval(kind):
    torch.manual_seed(0)
    shown = [training_transform(kind, 16)(IMAGE) for _ in range(20)]
    assert all(each.shape == (3, 16, 16) and each.dtype == torch.float32 for each in shown)
    assert all(each.min() >= 0 and each.max() <= 1 for each in shown)
    assert not any(torch.equal(shown[0], each) for each in shown[1:])


def test_labels_are_mixed_as_their_images_are():
    images = torch.eye(4)[:, :, None, None].expand(4, 4, 8, 8)[:, :3].contiguous()
    labels = torch.arange(4)
    for settings in ({"mixup": 0.0}, {"cutmix": 0.0}, {}):
        torch.manual_seed(1)
        shown, shares = mixed(4, **settings)(images, labels)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(4))
        # Image k is one in channel k only: the share of a label is the mean of its channel.
        torch.testing.assert_close(shown.mean(dim=(2, 3)), shares[:, :3])
    plain, shares = mixed(4, mixup=0.0, cutmix=0.0)(images, labels)
    assert plain is images
    assert torch.equal(shares, torch.eye(4))
