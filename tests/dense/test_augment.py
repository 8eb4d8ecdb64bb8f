import pytest
import torch

from ommatid.dense.augment import mask_transform
from ommatid.errors import InputError


def marked(height, width):
    """An image that is red exactly where its mask is."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 2
    image = torch.full((3, height, width), 40, dtype=torch.uint8)
    image[0] = torch.where(mask > 0, 250, 40).to(torch.uint8)
    return image, mask


@pytest.mark.parametrize(("name", "size"), [("turns", 24), ("scale-crop", 24)])
def test_image_and_mask_change_together(name, size):
    change = mask_transform(name, size)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        image, mask = change(*marked(24, 24))
        assert image.shape == (3, size, size)
        assert mask.dtype == torch.uint8
        assert set(mask.unique().tolist()) <= {0, 2}
        if mask.any():
            # A blurred rim may differ; what lies within cannot.
            assert image[0][mask > 0].float().mean() > 190
        seen.add(tuple(mask.flatten().tolist()))
    # A square in a corner has four places under turns and mirrors.
    assert len(seen) > 3


def test_scales_and_crops_have_the_size_asked_for_whatever_comes_in():
    torch.manual_seed(0)
    change = mask_transform("scale-crop", 16, base_size=20)
    for shape in ((10, 50), (40, 12), (64, 64)):
        image, mask = change(*marked(*shape))
        assert image.shape == (3, 16, 16)
        assert mask.shape == (16, 16)


def test_the_same_draw_gives_the_same_change():
    change = mask_transform("scale-crop", 16)
    pairs = []
    for _ in range(2):
        torch.manual_seed(3)
        pairs.append(change(*marked(30, 30)))
    assert torch.equal(pairs[0][0], pairs[1][0])
    assert torch.equal(pairs[0][1], pairs[1][1])


def test_none_leaves_everything_and_unknown_names_are_refused():
    image, mask = marked(8, 8)
    same = mask_transform("none", 8)(image, mask)
    assert same[0] is image
    assert same[1] is mask
    with pytest.raises(InputError, match="unknown augment 'mosaic'"):
        mask_transform("mosaic", 8)
