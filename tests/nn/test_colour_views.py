"""Changes of colour are drawn image by image and stay in [0, 1]."""

import pytest
import torch

from ommatid.nn.colour_views import jitter_colours, random_blur, random_grey


@pytest.mark.parametrize("change", [jitter_colours, random_grey, random_blur])
def test_a_share_of_the_images_is_changed(change):
    torch.manual_seed(0)
    images = torch.rand(400, 3, 6, 6)
    changed = (change(images, share=0.3) != images).flatten(1).any(dim=1).float().mean()
    assert float(changed) == pytest.approx(0.3, abs=0.08)
    assert torch.equal(change(images, share=0.0), images)


def test_colours_stay_in_range_and_differ_from_image_to_image():
    torch.manual_seed(0)
    same = torch.rand(1, 3, 6, 6).expand(8, -1, -1, -1)
    changed = jitter_colours(same)
    assert 0 <= changed.min() <= changed.max() <= 1
    assert (changed[1:] - changed[0]).flatten(1).abs().amax(dim=1).min() > 0.01


def test_a_turn_of_the_hue_keeps_grey_grey():
    grey = torch.rand(4, 1, 5, 5).expand(-1, 3, -1, -1)
    turned = jitter_colours(grey, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.5)
    torch.testing.assert_close(turned, grey, rtol=0, atol=2e-3)


def test_blurring_keeps_the_mean_and_lowers_the_contrast():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 32, 32)
    blurred = random_blur(images, share=1.0)
    torch.testing.assert_close(blurred.mean(dim=(2, 3)), images.mean(dim=(2, 3)), rtol=0, atol=0.02)
    assert (blurred.std(dim=(2, 3)) < 0.6 * images.std(dim=(2, 3))).all()
