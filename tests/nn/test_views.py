import pytest
import torch
import torch.nn.functional as F

from ommatid.nn.views import crop_flip, random_flip, resized_crop_flip


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(16, 3, 6, 5)


def translations(image, pad):
    """Every view that a shift of at most `pad` pixels can give, zeros where nothing was."""
    padded = F.pad(image, [pad] * 4)
    height, width = image.shape[1:]
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            yield (top, left), padded[:, top : top + height, left : left + width]


def test_crops_are_exact_translations_one_for_each_image(images):
    views = crop_flip(images, pad=2, flip=False)
    shifts = []
    for image, view in zip(images, views, strict=True):
        found = [shift for shift, moved in translations(image, 2) if torch.equal(moved, view)]
        assert len(found) == 1
        shifts += found
    assert len(set(shifts)) > 5
    assert {top for top, _ in shifts} | {left for _, left in shifts} == {0, 1, 2, 3, 4}


def test_all_channels_of_an_image_move_together():
    image = torch.rand(1, 1, 6, 6).expand(8, 3, 6, 6)
    for views in (crop_flip(image, pad=2), resized_crop_flip(image), random_flip(image)):
        torch.testing.assert_close(views[:, 0], views[:, 2])


def test_no_padding_and_no_flip_change_nothing(images):
    assert torch.equal(crop_flip(images, pad=0, flip=False), images)


def test_a_flip_mirrors_about_half_of_the_images():
    torch.manual_seed(0)
    images = torch.rand(400, 1, 2, 3)
    views = random_flip(images)
    flipped = (views == images.flip(-1)).flatten(1).all(1)
    assert torch.equal(views[~flipped], images[~flipped])
    assert 150 < int(flipped.sum()) < 250


def test_a_resized_crop_of_the_whole_image_is_the_image(images):
    views = resized_crop_flip(images, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)
    torch.testing.assert_close(views, images, atol=1e-5, rtol=0)


def test_a_resized_crop_shows_a_part_of_the_stated_area():
    """On a picture of its own coordinates, the span of what is seen tells the size of the part."""
    torch.manual_seed(0)
    axis = (torch.arange(64) + 0.5) / 64
    picture = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(200, 2, 64, 64)
    views = resized_crop_flip(picture, scale=(0.25, 0.5), flip=False)
    tall = (views[:, 0, -1, 0] - views[:, 0, 0, 0]) * 64 / 63
    wide = (views[:, 1, 0, -1] - views[:, 1, 0, 0]) * 64 / 63
    area, ratio = tall * wide, wide / tall
    assert (area > 0.24).all()
    assert (area < 0.51).all()
    assert (ratio > 0.74).all()
    assert (ratio < 1.35).all()
    assert area.std() > 0.05
    assert views.min() >= 0
    assert views.max() <= 1


def test_gradients_flow_through_every_view(images):
    for view in (lambda x: crop_flip(x, pad=1), resized_crop_flip, random_flip):
        leaf = images.clone().requires_grad_()
        view(leaf).sum().backward()
        assert (leaf.grad.flatten(1).abs().sum(dim=1) > 0).all()
    leaf = torch.rand(1, 1, 3, 3, dtype=torch.double, requires_grad=True)

    def seeded(x):
        torch.manual_seed(0)
        return resized_crop_flip(x)

    assert torch.autograd.gradcheck(seeded, leaf)


def test_the_global_generator_decides_the_draw(images):
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(torch.cat([crop_flip(images, 2), resized_crop_flip(images)]))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
