"""Training parts hold classes as often as asked for, are turned in mm, and never mirrored."""

import pytest
import torch

from ommatid.dense.volume_augment import VolumeSample, _places, augmented, cropped, margin, patch_start
from ommatid.dense.volume_task import UNKNOWN


def made(labels, spacing=None):
    steps = torch.ones(labels.ndim) if spacing is None else torch.tensor(spacing)
    image = (labels > 0).float()[None]
    return VolumeSample(image, labels, labels.clone(), steps, labels, steps, 0)


def test_a_third_of_the_patches_has_a_class_in_the_middle():
    labels = torch.zeros(60, 60, dtype=torch.long)
    labels[30, 30] = 1
    torch.manual_seed(0)
    hits = sum(patch_start(labels, [3, 3]) == [29, 29] for _ in range(600))
    assert 150 < hits < 250


def test_patches_stay_in_the_volume_and_reach_its_ends():
    torch.manual_seed(0)
    starts = torch.tensor([patch_start(torch.zeros(10, 5, 4, dtype=torch.long), [4, 5, 6]) for _ in range(200)])
    assert starts[:, 0].min() == 0
    assert starts[:, 0].max() == 6
    assert starts[:, 1].unique().tolist() == [0]
    assert starts[:, 2].unique().tolist() == [-1], "a volume that is too small lies in the middle"


def test_what_lies_beyond_is_dark_and_unknown():
    labels = torch.arange(1, 13).view(3, 4)
    found = cropped(made(labels), [-1, 2], [3, 4])
    assert found.labels.tolist() == [[UNKNOWN] * 4, [3, 4, UNKNOWN, UNKNOWN], [7, 8, UNKNOWN, UNKNOWN]]
    assert found.image[0, 0].sum() == 0
    assert torch.equal(found.truth, found.labels)


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 8)])
def test_standing_still_changes_nothing(shape):
    labels = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(0))
    sample = made(labels, [0.5, 2.0, 3.0][: len(shape)])
    places = _places(sample, torch.eye(len(shape)), shape)
    moved = torch.nn.functional.grid_sample(labels[None, None].float(), places, mode="nearest", align_corners=False)
    assert torch.equal(moved[0, 0].long(), labels)


def test_turns_are_those_of_the_body():
    """A quarter of a circle on voxels of 1 x 2 mm: what lies 8 mm along x then lies 8 mm along y."""
    labels = torch.zeros(33, 17, dtype=torch.long)
    labels[16 + 8, 8] = 1
    sample = made(labels, [1.0, 2.0])
    quarter = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    places = _places(sample, quarter, (33, 17))
    moved = torch.nn.functional.grid_sample(labels[None, None].float(), places, mode="nearest", align_corners=False)
    across, along = moved[0, 0].nonzero().unbind(dim=1)
    # A voxel of 1 x 2 mm covers two of them when it lies down.
    assert (along == 12).all()
    assert float(across.float().mean()) == 16


def test_image_and_maps_move_together_and_left_stays_left():
    labels = torch.zeros(32, 32, dtype=torch.long)
    labels[4:10, 8:24], labels[22:28, 8:24] = 1, 2
    torch.manual_seed(0)
    for _ in range(20):
        found = augmented(made(labels))
        known = found.labels != UNKNOWN
        bright = found.image[0] > 0.5
        agree = (bright == (found.labels > 0))[known].float().mean()
        assert agree > 0.9
        assert torch.equal(found.labels, found.organs)
        left, right = ((found.labels == number).nonzero()[:, 0].float().mean() for number in (1, 2))
        assert left < right
        assert found.image.min() >= 0
        assert found.image.max() <= 1


@pytest.mark.parametrize(("size", "spacing"), [([16, 16], [1.0, 1.0]), ([12, 16, 8], [1.0, 1.0, 4.0])])
def test_the_margin_holds_all_that_a_turn_needs(size, spacing):
    steps = torch.tensor(spacing)
    wide = [side + 2 * more for side, more in zip(size, margin(size, steps), strict=True)]
    torch.manual_seed(0)
    sample = made(torch.ones(wide, dtype=torch.long), spacing)
    shown = torch.stack([augmented(sample, size).labels for _ in range(30)])
    assert float((shown == UNKNOWN).float().mean()) < 0.002


def test_the_same_seed_draws_the_same():
    sample = made(torch.randint(0, 3, (12, 12), generator=torch.Generator().manual_seed(0)))

    def drawn(seed):
        torch.manual_seed(seed)
        return augmented(sample).image

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
