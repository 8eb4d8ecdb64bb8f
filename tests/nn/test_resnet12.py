"""Sizes of the few-shot networks, and released weights under other names."""

import pytest
import torch

from ommatid.errors import InputError
from ommatid.nn.resnet12 import Conv4, ResNet12, few_shot_backbone, published_backbone


def test_resnet12_has_the_published_size():
    with torch.device("meta"):
        network = ResNet12()
        assert network(torch.empty(1, 3, 84, 84)).shape == (1, 640, 5, 5)
    count = sum(each.numel() for each in network.parameters())
    assert count == pytest.approx(12.4e6, rel=0.01)


@pytest.mark.parametrize("name", ["resnet12", "conv4", "conv4-32"])
def test_every_backbone_says_how_many_channels_it_has(name):
    network = few_shot_backbone(name).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, network.out_channels, 2, 2)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(InputError, match="unknown backbone 'resnet10': did you mean 'resnet12'"):
        few_shot_backbone("resnet10")


def released(network):
    """Their names and order: convolutions and norms of a block in turn, then the shortcut; a head and a copy around."""
    own = network.state_dict()
    state = {"queue": torch.zeros(5), "encoder_k.layer1.0.conv1.weight": torch.zeros(8, 3, 3, 3)}
    for block in range(4):
        for number in range(3):
            state[f"backbone.layer{block + 1}.0.conv{number + 1}.weight"] = own[
                f"blocks.{block}.residual.{3 * number}.weight"
            ]
            for part in ("weight", "bias", "running_mean", "running_var"):
                source = f"blocks.{block}.residual.{3 * number + 1}.{part}"
                state[f"backbone.layer{block + 1}.0.bn{number + 1}.{part}"] = own[source]
            state[f"backbone.layer{block + 1}.0.bn{number + 1}.num_batches_tracked"] = torch.tensor(7)
        state[f"backbone.layer{block + 1}.0.downsample.0.weight"] = own[f"blocks.{block}.shortcut.0.weight"]
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"backbone.layer{block + 1}.0.downsample.1.{part}"] = own[f"blocks.{block}.shortcut.1.{part}"]
    return {**state, "classifier.weight": torch.zeros(4, 32)}


def test_released_weights_are_told_by_their_order():
    torch.manual_seed(0)
    theirs, ours = ResNet12((8, 16, 24, 32)), ResNet12((8, 16, 24, 32))
    for each in theirs.parameters():
        torch.nn.init.normal_(each)
    ours.load_state_dict(published_backbone(released(theirs), ours))
    image = torch.rand(2, 3, 32, 32)
    assert torch.equal(theirs.eval()(image), ours.eval()(image))


def test_weights_of_another_network_are_refused():
    with pytest.raises(InputError, match=r"found layers\.12\.weight of the shape .* expected .* as in the ResNet12"):
        published_backbone(Conv4().state_dict(), ResNet12())
    with pytest.raises(InputError, match="found 0 tensors"):
        published_backbone({}, Conv4())
