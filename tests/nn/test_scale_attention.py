"""Scale attention: derivatives of Gaussians at learned scales, that a plain convolution replaces after training."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.graft import graft
from ommatid.nn.scale_attention import (
    ScaleAttentionConv2d,
    blurred,
    fold_scale_attention,
    gaussian_derivatives,
    use_scale_attention,
)

FORMS = [{}, {"basis": "free"}, {"scales": 2}, {"stride": 2}, {"groups": 4}, {"bias": True}, {"order": 0}]


def layer(**settings):
    torch.manual_seed(0)
    return ScaleAttentionConv2d(4, 8, **{"kernel_size": 5, **settings})


def test_functions_are_the_derivatives_of_a_gaussian():
    """By automatic differentiation of the Gaussian itself."""
    size, scale = 7, torch.tensor([0.9, 1.7], dtype=torch.float64)
    found = gaussian_derivatives(scale, size, order=3)
    v, u = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) - size // 2] * 2, indexing="ij")
    u, v = u.clone().requires_grad_(), v.clone().requires_grad_()
    for row, s in enumerate(scale):
        bell = torch.exp(-(u**2 + v**2) / (2 * s**2)) / (2 * math.pi * s**2)
        number = 0
        for total in range(4):
            for along in range(total + 1):
                value = bell
                for variable, times in ((u, along), (v, total - along)):
                    for _ in range(times):
                        (value,) = torch.autograd.grad(value.sum(), variable, create_graph=True)
                torch.testing.assert_close(found[row, number], (s**total * value).detach())
                number += 1
        assert number == found.shape[1]


def test_the_response_to_a_blob_peaks_at_its_scale_and_place():
    """A Laplacian of scale s answers most to a Gaussian of width t where s^2 = t^2 (normalised derivatives)."""
    size, scales = 41, torch.linspace(1.0, 6.0, 51)
    functions = gaussian_derivatives(scales, size, order=2)
    laplacian = functions[:, 3] + functions[:, 5]
    for width in (2.0, 3.0):
        blob = torch.zeros(81, 81)
        blob[40, 46] = 1.0
        image = torch.from_numpy(gaussian_filter(blob.numpy(), width))[None, None]
        response = -nn.functional.conv2d(image, laplacian[:, None], padding=size // 2)[0]
        best, row, column = (int(index) for index in torch.unravel_index(response.argmax(), response.shape))
        assert (row, column) == (40, 46)
        assert float(scales[best]) == pytest.approx(width, abs=0.15)


@pytest.mark.parametrize("settings", FORMS)
def test_folding_gives_the_same_at_the_cost_of_a_plain_convolution(settings):
    ours = layer(**settings)
    plain = ours.fold()
    images = torch.randn(2, 4, 11, 11)
    torch.testing.assert_close(plain(images), ours(images), rtol=1e-4, atol=1e-5)
    like = nn.Conv2d(4, 8, 5, ours.stride, 2, groups=ours.groups, bias=ours.bias is not None)
    assert {name: value.shape for name, value in plain.state_dict().items()} == {
        name: value.shape for name, value in like.state_dict().items()
    }


def test_activations_begin_with_the_size_of_the_input():
    torch.manual_seed(0)
    for kernel in (3, 5):
        values = ScaleAttentionConv2d(64, 64, kernel)(torch.randn(4, 64, 24, 24))
        assert 0.2 < float(values.detach().std()) < 5


def test_scales_begin_in_a_row_and_stay_within_the_kernel():
    ours = layer()
    torch.testing.assert_close(ours.scale(), torch.linspace(0.6, 1.6, 8))
    torch.testing.assert_close(layer(kernel_size=3).scale(), torch.linspace(0.4, 1.0, 8))
    grouped = layer(scales=2).scale()
    torch.testing.assert_close(grouped, torch.tensor([0.6] * 4 + [1.6] * 4))
    with torch.no_grad():
        ours.log_scale.copy_(torch.linspace(-9, 9, 8))
    assert float(ours.scale().min()) == pytest.approx(0.3)
    assert float(ours.scale().max()) == pytest.approx(5 / 3)


def test_scales_learn_unless_they_are_frozen():
    images = torch.randn(2, 4, 9, 9)
    for settings in ({}, {"basis": "free"}):
        ours = layer(**settings)
        ours(images).square().sum().backward()
        assert (ours.log_scale.grad != 0).all()
    frozen = layer(learn_scale=False)
    frozen(images).square().sum().backward()
    assert frozen.log_scale.grad is None
    assert ours.log_scale.ndim == 1  # recipes do not decay vectors


def test_a_free_kernel_is_blurred_to_its_scale():
    point = torch.zeros(2, 1, 5, 5)
    point[:, :, 2, 2] = 1
    scale = torch.tensor([0.7, 1.3])
    found = blurred(point, scale)
    expected = gaussian_derivatives(scale, 5, 0) * scale[:, None, None, None]
    torch.testing.assert_close(found, expected)


def test_gradients_are_those_of_finite_differences():
    ours = ScaleAttentionConv2d(2, 3, 3).double()
    images = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    # The kernel itself is made in single precision.
    torch.autograd.gradcheck(ours, images, eps=1e-6, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype):
    ours, images = layer(), torch.randn(2, 4, 9, 9)
    with torch.autocast("cpu", dtype=dtype):
        half = ours(images)
    torch.testing.assert_close(half.float(), ours(images), rtol=0.1, atol=0.1)


def test_it_can_be_exported():
    ours, images = layer().eval(), torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(torch.export.export(ours, (images,)).module()(images), ours(images))


def test_a_whole_network_changes_over_and_back():
    from torchvision.models import resnet18

    net = resnet18(num_classes=4).eval()
    spatial = [name for name, each in net.named_modules() if isinstance(each, nn.Conv2d) and each.kernel_size[0] > 1]
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    assert use_scale_attention(net) == spatial
    images = torch.randn(1, 3, 64, 64)
    scores = net(images)
    assert scores.shape == (1, 4)
    fold_scale_attention(net)
    assert {name: value.shape for name, value in net.state_dict().items()} == shapes
    torch.testing.assert_close(net(images), scores, rtol=1e-3, atol=1e-4)


def test_it_can_be_grafted_in_the_place_of_a_convolution():
    net = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 4, 1))
    made = graft(net, ScaleAttentionConv2d, at="0", how="replace", example=torch.randn(1, 3, 16, 16), order=2)["0"]
    assert (made.in_channels, made.out_channels, made.kernel_size, made.stride) == (3, 8, 5, 2)


def test_what_has_no_middle_is_refused():
    with pytest.raises(InputError, match="kernel_size must be odd and at least 3, found 4"):
        ScaleAttentionConv2d(3, 4, kernel_size=4)
    with pytest.raises(InputError, match="scales must lie between 1 and out_channels 4, found 5"):
        ScaleAttentionConv2d(3, 4, scales=5)
    with pytest.raises(InputError, match="found no convolution with an odd kernel"):
        use_scale_attention(nn.Sequential(nn.Conv2d(3, 4, 1)))
