"""Networks of faces cost what is published, and take the toolbox's weights by name."""

import pytest
import torch
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.face_networks import FACE_NETWORKS, MobileFaceNet, ResNetIR, published_face_network
from ommatid.nn.macs import count_macs, count_parameters
from ommatid.nn.scale_attention import ScaleAttentionConv2d, use_scale_attention

PUBLISHED = {"ir50": (43.57, 6.31), "mobilefacenet": (1.19, 0.228)}
"""Millions of parameters and billions of multiply-adds, as the toolbox prints them (docs/methods/scan-cnn.md)."""


def norm_elements(network, image):
    """Numbers that go through batch norms."""
    seen = []
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.register_forward_hook(lambda _, __, out: seen.append(out.numel()))
    network.eval()(image)
    return sum(seen)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(name):
    with torch.device("meta"):
        network, image = FACE_NETWORKS[name](), torch.empty(1, 3, 112, 112)
        # The toolbox's counter leaves PReLU out, and counts two for every number that is normalised.
        slopes = sum(count_parameters(each) for each in network.modules() if isinstance(each, nn.PReLU))
        parameters = count_parameters(network) - slopes
        macs = count_macs(network, image) + 2 * norm_elements(network, image)
    millions, billions = PUBLISHED[name]
    assert round(parameters / 1e6, 2) == millions
    assert round(macs / 1e9, 3 if billions < 1 else 2) == billions


@pytest.mark.parametrize("name", FACE_NETWORKS)
@pytest.mark.parametrize(("size", "channels", "kernel"), [(112, 3, 3), (40, 1, 5), (33, 1, 3)])
def test_any_size_and_kernel_gives_an_embedding(name, size, channels, kernel):
    with torch.device("meta"):
        network = FACE_NETWORKS[name](channels=channels, image_size=size, embedding_dim=32, kernel_size=kernel)
        assert network(torch.empty(2, channels, size, size)).shape == (2, 32)
    spatial = [each for each in network.modules() if isinstance(each, nn.Conv2d) and each.kernel_size != (1, 1)]
    assert {each.kernel_size for each in spatial} == {(kernel, kernel)}


@pytest.mark.parametrize(("name", "count"), [("small", 4), ("ir50", 49), ("ir100", 99), ("mobilefacenet", 17)])
def test_every_spatial_convolution_can_learn_its_scale(name, count):
    with torch.device("meta"):
        network = FACE_NETWORKS[name](image_size=48)
        replaced = use_scale_attention(network)
        assert network(torch.empty(2, network_channels(name), 48, 48)).shape[0] == 2
    assert len(replaced) == count
    assert not any(isinstance(each, nn.Conv2d) and each.kernel_size != (1, 1) for each in network.modules())
    assert any(isinstance(each, ScaleAttentionConv2d) for each in network.modules())


def network_channels(name):
    return 1 if name == "small" else 3


def test_parameters_are_named_as_in_the_toolbox():
    with torch.device("meta"):
        residual, mobile = ResNetIR(squeeze=True).state_dict(), MobileFaceNet().state_dict()
    for name, shape in {
        "input_layer.0.weight": (64, 3, 3, 3),
        "input_layer.2.weight": (64,),
        "body.0.res_layer.1.weight": (64, 64, 3, 3),
        "body.0.res_layer.5.fc1.weight": (4, 64, 1, 1),
        "body.3.shortcut_layer.0.weight": (128, 64, 1, 1),
        "body.23.res_layer.4.running_mean": (512,),
        "output_layer.3.weight": (512, 512 * 7 * 7),
        "output_layer.4.weight": (512,),
    }.items():
        assert tuple(residual[name].shape) == shape, name
    for name, shape in {
        "conv1.conv.weight": (64, 3, 3, 3),
        "conv2_dw.conv.weight": (64, 1, 3, 3),
        "conv_23.conv_dw.conv.weight": (128, 1, 3, 3),
        "conv_3.model.3.project.bn.weight": (64,),
        "conv_45.project.conv.weight": (128, 512, 1, 1),
        "conv_6_sep.prelu.weight": (512,),
        "conv_6_dw.conv.weight": (512, 1, 7, 7),
        "linear.weight": (512, 512),
        "bn.weight": (512,),
    }.items():
        assert tuple(mobile[name].shape) == shape, name


def test_published_weights_come_with_or_without_their_wrapper():
    own = MobileFaceNet(image_size=32, embedding_dim=8).state_dict()
    wrapped = {f"backbone.{name}": value for name, value in own.items()} | {"head.weight": torch.ones(8, 3)}
    for given in (own, wrapped):
        assert published_face_network(given).keys() == own.keys()
    with pytest.raises(InputError, match=r"state: found head.weight, expected names under backbone"):
        published_face_network({"head.weight": torch.ones(1)})
    with pytest.raises(InputError, match=r"found backbone\.a, other, expected names under backbone"):
        published_face_network({"backbone.a": torch.ones(1), "other": torch.ones(1)})
