"""Visformer trained: its step, its networks by name, released weights, and the arms of its claims."""

import pytest
import torch

from ommatid.classification.data import ImageData
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.nn.macs import count_macs
from ommatid.nn.visformer import Visformer, visformer_tiny
from ommatid.nn.visformer_v2 import VisformerV2
from ommatid.recognition.visformer import NETWORKS, VisformerClassifier

SMALL = {**VisformerClassifier.embedded["model"], "num_classes": 32, "image_size": 32}


def method(**settings):
    torch.manual_seed(0)
    made = build(VisformerClassifier, {**SMALL, **settings})
    made.report = lambda **_: None
    return made


def batch(count=8):
    world = {"train": 32, "val": 32, "test": 32}
    return ImageData(embedded="world-shapes", world=world, size=32).first_batch("train", count)


def test_images_are_normalised_inside():
    made = method(mean=[0.5] * 3, std=[0.25] * 3).eval()
    images = batch().images
    torch.testing.assert_close(made(images), made.network((images - 0.5) / 0.25))


def test_a_step_learns_from_smoothed_and_mixed_labels():
    samples = batch()
    for settings in ({}, {"mixup": 0.8}, {"cutmix": 1.0}, {"smoothing": 0.0}):
        made = method(**settings)
        loss = made.training_step(samples, 0)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(3.5, abs=0.6)  # log 32: nothing is known yet
        assert all(value.grad is not None and value.grad.isfinite().all() for value in made.parameters())
    made = method(smoothing=0.3)
    expected = torch.nn.functional.cross_entropy(made(samples.images), samples.labels, label_smoothing=0.3)
    torch.testing.assert_close(made.training_step(samples, 0), expected, rtol=1e-4, atol=1e-5)


def test_networks_go_by_their_names():
    with torch.device("meta"):
        for name, kind in (("tiny", Visformer), ("small", Visformer), ("v2-tiny", VisformerV2), ("net4", Visformer)):
            assert type(VisformerClassifier(network=name).network) is kind
        assert VisformerClassifier(network="deit-s", num_classes=7).network.head.out_features == 7
        wide = VisformerClassifier(network="tiny", settings={"embed_dim": 96, "num_heads": 3})
    assert wide.network.feature_dim == 192
    assert set(NETWORKS) == {"tiny", "small", "v2-tiny", "v2-small", "v2-medium", "plain"}
    with pytest.raises(InputError, match="unknown network 'smal': did you mean 'small'"):
        VisformerClassifier(network="smal")


@pytest.mark.parametrize("network", ["tiny", "v2-tiny"])
def test_weights_of_the_authors_find_their_places(network):
    made = VisformerClassifier(network=network, num_classes=5, image_size=64)
    first = 1 if network == "tiny" else 0
    theirs = {}
    for name, value in made.network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        for ours, released in (
            (".embedding.0.", ".proj."),
            (".embedding.1.", ".norm.bn."),
            (".position", ".position"),
            (".attention_norm.", ".norm1.bn."),
            (".attention.", ".attn."),
            (".feed_forward_norm.", ".norm2.bn."),
            (".feed_forward.expand.", ".mlp.conv1."),
            (".feed_forward.spatial.", ".mlp.conv2."),
            (".feed_forward.project.", ".mlp.conv3."),
        ):
            name = name.replace(ours, released)
        if name.startswith("levels."):
            _, stage, rest = name.split(".", 2)
            number = int(stage) + first
            if rest.startswith(("proj.", "norm.")):
                name = f"patch_embed{number}.{rest}"
            elif rest == "position":
                name = f"pos_embed{number}"
            else:
                name = f"stage{number}.{rest.removeprefix('blocks.')}"
        theirs[name] = value + 1
    found = made.published_state(theirs)
    assert found.keys() == made.state_dict().keys()
    for name, value in made.state_dict().items():
        fixed = name.startswith("normalise.") or name.endswith("num_batches_tracked")
        assert torch.equal(found[name], value if fixed else value + 1), name


def test_weights_of_timm_give_its_logits():
    import timm

    theirs = timm.create_model("visformer_tiny", num_classes=5).eval()
    made = VisformerClassifier(network="tiny", num_classes=5, mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    made.load_state_dict(made.published_state(theirs.state_dict()))
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(made(image), theirs(image), rtol=1e-3, atol=1e-3)
    assert isinstance(visformer_tiny(num_classes=5), Visformer)


def test_the_arms_of_the_claims_cost_what_the_claims_say():
    image = torch.zeros(1, 3, 32, 32)
    for claim in VisformerClassifier.claims:
        made = {name: method(**arm.model) for name, arm in claim.arms.items()}
        cost = {name: count_macs(each, image) for name, each in made.items()}
        assert cost["visformer"] <= cost["transformer"] <= 1.5 * cost["visformer"]
        assert cost["convolutions alone"] == pytest.approx(cost["visformer"], rel=0.05)
    made = {name: method(**arm.model).parameter_count() for name, arm in VisformerClassifier.claims[0].arms.items()}
    assert made["transformer, as many parameters"] == pytest.approx(made["visformer"], rel=0.05)


def test_the_cost_is_read_out():
    data = ImageData(embedded="world-shapes", world={"train": 32, "val": 32, "test": 32})
    assert method().read_outs(data)["MMACs"] == pytest.approx(5.33, abs=0.01)
