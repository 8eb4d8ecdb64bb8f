"""Networks of timm without their classifier."""

import pytest
import timm
import torch

from ommatid.errors import InputError
from ommatid.recognition.backbones import timm_backbone


def test_a_network_gives_as_many_features_as_it_says():
    network, width = timm_backbone("mobilenetv3_small_050", None)
    assert network.eval()(torch.rand(1, 3, 64, 64)).shape == (1, width)
    maps, width = timm_backbone("resnet18", None, global_pool="")
    assert maps.eval()(torch.rand(1, 3, 64, 64)).shape == (1, width, 2, 2)


def test_weights_come_from_a_file(tmp_path):
    theirs = timm.create_model("resnet18", num_classes=0)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours, _ = timm_backbone("resnet18", str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_what_timm_does_not_have_is_refused(tmp_path):
    with pytest.raises(InputError, match="backbone: found 'resnet5000', expected 'small' or a name"):
        timm_backbone("resnet5000", None)
    with pytest.raises(InputError, match="no such weights file"):
        timm_backbone("resnet18", str(tmp_path / "nothing.pth"))
