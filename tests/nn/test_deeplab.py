import pytest
import torch
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.deeplab import DeepLabDecoder, DeepLabEncoder, DeepLabV3Plus


def test_dilation_keeps_the_last_maps_at_a_sixteenth():
    low, last = DeepLabEncoder("resnet18").eval()(torch.rand(1, 3, 64, 64))
    assert (tuple(low.shape), tuple(last.shape)) == ((1, 64, 16, 16), (1, 512, 4, 4))
    eighth = DeepLabEncoder("resnet18", output_stride=8).eval()(torch.rand(1, 3, 64, 64))[1]
    assert eighth.shape == (1, 512, 8, 8)


def test_the_decoder_gives_logits_of_the_low_maps_size():
    decoder = DeepLabDecoder((8, 16), outputs=3, width=12).eval()
    assert decoder([torch.rand(2, 8, 10, 12), torch.rand(2, 16, 3, 3)]).shape == (2, 3, 10, 12)


def test_the_published_size_builds():
    """ResNet-101 at output stride 16, atrous rates 6, 12, 18, 48 low channels, 256 elsewhere."""
    with torch.device("meta"):
        network = DeepLabV3Plus()
    rates = [
        layer.dilation[0]
        for layer in network.decoder.pyramid.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ]
    assert rates == [6, 12, 18]
    assert network.decoder.low[0].out_channels == 48
    assert [layer.in_channels for layer in network.decoder.merge if isinstance(layer, nn.Conv2d)] == [304, 256]
    assert network.encoder.widths == (256, 2048)


def test_other_backbones_serve_and_those_without_a_stride_of_4_do_not():
    assert DeepLabV3Plus("regnety_002").eval()(torch.rand(1, 3, 48, 40)).shape == (1, 1, 48, 40)
    with pytest.raises(InputError, match="backbone 'no_such_network'"):
        DeepLabV3Plus("no_such_network")


def test_half_precision_is_finite():
    network = DeepLabV3Plus("resnet18", width=16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(network(torch.rand(2, 3, 32, 32))).all()
