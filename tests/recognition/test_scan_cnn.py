"""SCAN-CNN costs what a plain network costs, and learns to tell unseen people apart at any blur."""

from functools import partial

import pytest
import torch
from torch import nn

from ommatid.engine.fit import evaluate, fit
from ommatid.engine.settings import build
from ommatid.errors import CheckpointError, InputError
from ommatid.nn.face_networks import FACE_NETWORKS, ResNetIR
from ommatid.nn.macs import count_macs
from ommatid.nn.scale_attention import ScaleAttentionConv2d
from ommatid.recognition.face_data import FaceData
from ommatid.recognition.scan_cnn import ScanCNN

WORLD = {"train": 8, "val": 6, "test": 6, "train_pictures": 6, "pictures": 4}
SMALL = {"backbone": "small", "kernel_size": 5, "embedding_dim": 16, "head": "cosface", "scale": 16.0, "margin": 0.2}


@pytest.fixture(scope="module")
def data():
    return FaceData(size=32, channels=1, world=WORLD, batch_size=16)


def method(**settings):
    torch.manual_seed(0)
    made = build(ScanCNN, {"num_identities": 8, "channels": 1, "image_size": 32, **SMALL, **settings})
    made.report = lambda **_: None
    return made


def spatial_parameters(network):
    """Parameters of convolutions with kernels larger than one."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)]
    return [(layer.kernel_size, layer.stride, layer.groups, layer.weight.numel()) for layer in layers]


def disturb(made):
    """Statistics as after some training: freshly made batch norms would hide a lost one."""
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_(generator=torch.Generator().manual_seed(1))
            layer.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    return made.eval()


@pytest.mark.parametrize("backbone", ["small", "ir50", "mobilefacenet"])
@pytest.mark.parametrize("convolution", ["scan", "free"])
def test_the_folded_network_costs_what_the_plain_one_does(backbone, convolution):
    with torch.device("meta"):
        plain, scan = (method(backbone=backbone, convolution=kind) for kind in ("plain", convolution))
        folded, image = scan.folded(), torch.zeros(1, 1, 32, 32)
        assert not any(isinstance(layer, ScaleAttentionConv2d) for layer in folded.modules())
        assert spatial_parameters(folded.backbone) == spatial_parameters(plain.backbone)
        assert folded.parameter_count() == plain.parameter_count()
        assert count_macs(folded, image) == count_macs(plain, image)


@pytest.mark.parametrize("backbone", ["small", "ir8", "mobilefacenet"])
def test_the_folded_network_gives_the_same_embeddings(backbone, monkeypatch):
    monkeypatch.setitem(FACE_NETWORKS, "ir8", partial(ResNetIR, (1, 1, 1, 1), squeeze=True))
    scan = disturb(method(backbone=backbone))
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(scan.folded()(images), scan(images), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scan.folded().embed(images), scan.embed(images), rtol=1e-4, atol=1e-5)
    # The method itself goes on learning scales.
    assert any(isinstance(layer, ScaleAttentionConv2d) for layer in scan.modules())


@pytest.mark.parametrize("convolution", ["scan", "free", "plain"])
@pytest.mark.parametrize("head", ["arcface", "cosface", "mv-arcface", "softmax"])
def test_every_parameter_learns(convolution, head, data):
    made = method(convolution=convolution, head=head, blur=2.0)
    loss = made.training_step(data.first_batch("train"), 0)
    loss.backward()
    for name, value in made.named_parameters():
        assert value.grad is not None, name
        assert 0 < value.grad.abs().sum() < float("inf"), name


def test_scales_that_are_not_learnt_stay(data):
    made = method(learn_scale=False)
    made.training_step(data.first_batch("train"), 0).backward()
    scales = [value for name, value in made.named_parameters() if name.endswith("log_scale")]
    assert len(scales) == 4
    assert not any(value.requires_grad for value in scales)


def test_training_pictures_are_blurred_and_mirrored_each_for_itself(data):
    images = data.first_batch("train").images
    torch.manual_seed(0)
    blurred = method(blur=3.0, mirror=False).varied(images)
    # Edges get weaker, of every picture by another amount.
    edges = [(each[..., 1:] - each[..., :-1]).abs().mean(dim=(1, 2, 3)) for each in (images, blurred)]
    shares = edges[1] / edges[0]
    assert float(shares.max()) <= 1.0 + 1e-4
    assert float(shares.std()) > 0.05
    mirrored = method(mirror=True).varied(images)
    turned = [torch.equal(one, other.flip(-1)) for one, other in zip(mirrored, images, strict=True)]
    straight = [torch.equal(one, other) for one, other in zip(mirrored, images, strict=True)]
    assert 0 < sum(turned) < len(images) == sum(turned) + sum(straight)
    assert method(blur=0.0, mirror=False).varied(images) is images


def test_several_shots_are_averaged_and_cost_so_many_times_more(data):
    images = data.first_batch("test", 4).images
    once, often = disturb(method(convolution="plain")), disturb(method(convolution="plain", shots=[0.0, 1.0, 2.0]))
    from ommatid.nn.blur import gaussian_blur

    shots = torch.stack([once.embed(gaussian_blur(images, sigma)) for sigma in (0.0, 1.0, 2.0)])
    torch.testing.assert_close(often.embed(images), nn.functional.normalize(shots.sum(dim=0), dim=1))
    assert often.read_outs(data)["MMACs"] == pytest.approx(3 * once.read_outs(data)["MMACs"])
    both = disturb(method(convolution="plain", mirrored_test=True))
    torch.testing.assert_close(both.embed(images), both.embed(images.flip(-1)))


def test_the_scales_can_be_read(data):
    found = method().read_outs(data)
    assert found["scale 1, lowest"] == pytest.approx(0.6, abs=1e-4)
    assert found["scale 4, highest"] == pytest.approx(1.6, abs=1e-4)
    assert found["MMACs"] > 0
    assert not any(name.startswith("scale") for name in method(convolution="plain").read_outs(data))


def test_unseen_people_are_told_apart_after_training(data):
    made = method(recipe={"optimizer": "sgd", "lr": 0.1, "schedule": "constant", "milestones": [0.5]}, mirror=False)
    before = evaluate(made, data, "test", {"accelerator": "cpu"})
    fit(made, data, trainer={"max_epochs": 20, "max_steps": -1, "limit_val_batches": 0, "accelerator": "cpu"})
    after = evaluate(made, data, "test", {"accelerator": "cpu"})
    assert after["auc"] > before["auc"] + 0.05
    assert float(made.threshold) != 0.5


def test_the_toolbox_weights_load_into_a_plain_network(tmp_path):
    made = method(backbone="mobilefacenet", convolution="plain", embedding_dim=16)
    torch.manual_seed(1)
    theirs = FACE_NETWORKS["mobilefacenet"](channels=1, image_size=32, embedding_dim=16, kernel_size=5)
    state = {f"backbone.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": {**state, "head.weight": torch.randn(16, 8)}}, tmp_path / "theirs.pt")
    made.load_published(tmp_path / "theirs.pt")
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(made.eval()(images), theirs.eval()(made.normalise(images)))
    head = torch.load(tmp_path / "theirs.pt", weights_only=True)["state_dict"]["head.weight"]
    torch.testing.assert_close(made.head.weight, head.T)
    before = made.head.weight.clone()
    torch.save({"state_dict": {**state, "head.weight": torch.randn(16, 99)}}, tmp_path / "more.pt")
    made.load_published(tmp_path / "more.pt")  # of other people: the head stays
    assert torch.equal(made.head.weight, before)
    with pytest.raises(InputError, match="convolution: found 'scan', expected 'plain'"):
        method(backbone="mobilefacenet").load_published(tmp_path / "theirs.pt")
    with pytest.raises(CheckpointError, match="do not fit ScanCNN"):
        method(convolution="plain").load_published(tmp_path / "theirs.pt")


def test_full_sizes_are_built_without_a_word():
    with torch.device("meta"):
        made = ScanCNN(backbone="ir50")
        assert made(torch.empty(2, 3, 112, 112)).shape == (2, 512)
    assert len([layer for layer in made.modules() if isinstance(layer, ScaleAttentionConv2d)]) == 49


def test_impossible_settings_are_refused():
    for settings, words in (
        ({"backbone": "huge"}, "unknown backbone 'huge'"),
        ({"kernel_size": 4}, "kernel_size must be odd and at least 3, found 4"),
        ({"blur": -1.0}, r"blur must lie from 0 to below the image size 32, found -1\.0"),
        ({"shots": [0.0, 40.0]}, r"shots must lie from 0 to below the image size 32, found 40\.0"),
        ({"head": "sphere"}, "unknown kind 'sphere'"),
    ):
        with pytest.raises(InputError, match=words):
            method(**settings)
