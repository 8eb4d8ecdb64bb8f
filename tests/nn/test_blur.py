"""Every image is blurred by its own Gaussian."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from ommatid.nn.blur import gaussian_blur


def pictures(count=3, channels=2, height=21, width=17):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigma", [0.7, 1.5, 3.0])
def test_it_is_the_gaussian_filter_of_scipy(sigma):
    images = pictures()
    expected = torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest", radius=None))
    # scipy cuts its kernel at four deviations, here it is three.
    torch.testing.assert_close(gaussian_blur(images, sigma), expected, rtol=0, atol=5e-3)


def test_every_image_has_its_own_width():
    images, sigmas = pictures(), torch.tensor([0.0, 0.8, 2.0])
    together = gaussian_blur(images, sigmas, widest=2.0)
    assert torch.equal(together[0], images[0])
    for image, sigma, blurred in zip(images, sigmas.tolist(), together, strict=True):
        torch.testing.assert_close(blurred, gaussian_blur(image[None], sigma)[0], rtol=0, atol=5e-3)
    torch.testing.assert_close(gaussian_blur(images, sigmas), together)


def test_a_plain_image_stays_as_it_is_up_to_its_border():
    flat = torch.full((1, 1, 4, 4), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, 3.0), flat)


def test_gradients_reach_the_image():
    images = pictures(1, 1, 6, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: gaussian_blur(each, 1.0), (images,))
