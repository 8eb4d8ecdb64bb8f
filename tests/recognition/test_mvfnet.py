"""MVFNet: a 2D network until its views see time; learns motion, loads what the authors released."""

import pytest
import torch

from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.nn.macs import count_macs, count_parameters
from ommatid.nn.multi_view_fusion import MultiViewFusion
from ommatid.recognition.clip_data import ClipData
from ommatid.recognition.mvfnet import MVFNet, SmallResNet, published_mvfnet

CLIPS = torch.rand(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def small(**settings):
    torch.manual_seed(0)
    return build(MVFNet, {**MVFNet.embedded["model"], "num_classes": 12, **settings})


def test_scores_are_the_mean_over_frames():
    method = small(alpha=0.0).eval()
    frames = torch.stack([method(clip[None].expand(8, -1, -1, -1, -1).transpose(0, 1)).detach() for clip in CLIPS[:1]])
    expected = frames[0].mean(dim=0, keepdim=True)
    torch.testing.assert_close(method(CLIPS[:1]), expected, rtol=1e-4, atol=1e-5)


def test_only_views_of_time_see_the_order_of_frames():
    for settings, sees in (
        ({"alpha": 0.0}, False),
        ({"alpha": 0.5, "views": "HW"}, False),
        ({"alpha": 0.5, "views": "T"}, True),
        ({"alpha": 0.5}, True),
        ({"alpha": 0.5, "shared": True}, True),
    ):
        method = small(**settings).eval()
        torch.nn.init.normal_(method.head.weight)
        same = torch.allclose(method(CLIPS), method(CLIPS.flip(1)), rtol=1e-3, atol=1e-4)
        assert same != sees, settings


def test_the_published_network_has_its_parameters_and_its_cost():
    """24.34 M parameters and 32.91 G multiply-adds of a ResNet-50 on 8 frames; the card counts norms' own, too."""
    with torch.device("meta"):
        method = MVFNet(num_classes=400, clip_length=8)
        clip = torch.empty(1, 8, 3, 224, 224)
        macs = count_macs(method, clip)
    assert count_parameters(method) / 1e6 == pytest.approx(24.34, abs=0.02)
    assert macs / 1e9 == pytest.approx(32.91, rel=0.01)
    blocks = [name for name, module in method.named_modules() if isinstance(module, MultiViewFusion)]
    assert len(blocks) == 9
    assert all(name.startswith(("frames.network.layer3", "frames.network.layer4")) for name in blocks)


def test_views_cost_little():
    plain, fused = (count_macs(small(alpha=alpha), CLIPS[:1]) for alpha in (0.0, 0.5))
    assert 1 < fused / plain < 1.2


def test_a_step_moves_all_parameters_and_gradients_are_finite():
    method = small()
    method.report = lambda **_: None
    data = ClipData(size=32, world={"train": 12, "val": 12, "test": 12})
    loss = method.training_step(data.first_batch("train", 12), 0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2.48, abs=0.1)  # log 12: nothing is known yet
    assert all(value.grad.isfinite().all() and value.grad.any() for value in method.parameters())


def test_read_outs_tell_cost_and_what_becomes_of_clips_without_order():
    data = ClipData(size=32, world={"train": 12, "val": 12, "test": 24})
    found = small().read_outs(data)
    assert found["MMACs"] == pytest.approx(count_macs(small(), CLIPS[:1]) / 1e6)
    for name in ("reversed, opposite class", "shuffled, top1", "shuffled, axis"):
        assert 0 <= found[name] <= 1
    assert found["shuffled, axis"] >= found["shuffled, top1"]


def test_released_weights_find_their_places():
    method = MVFNet(num_classes=7, clip_length=4, backbone="resnet50")
    theirs = {}
    for name, value in method.state_dict().items():
        if name.startswith("normalise.") or name.endswith("_tracked"):
            continue
        if name.startswith("head."):
            theirs[f"cls_head.new_fc.{name.removeprefix('head.')}"] = value
            continue
        key = "backbone." + name.removeprefix("frames.network.")
        key = key.replace(".conv1.layer.weight", ".conv1.net.weight").replace(".conv1.block.norm.", ".conv1.bn.")
        for ours, kernel, shape in (
            ("time", "shift_conv", (-1, 1, 3, 1, 1)),
            ("height", "h_conv", (-1, 1, 1, 3, 1)),
            ("width", "w_conv", (-1, 1, 1, 1, 3)),
        ):
            if key.endswith(f".conv1.block.{ours}"):
                key, value = key.removesuffix(ours).replace("block.", "") + f"{kernel}.weight", value.view(shape)
        theirs[key] = value
    assert sum(".shift_conv." in key for key in theirs) == 9
    found = method.published_state({f"module.{key}": value + 1 for key, value in theirs.items()})
    expected = {
        name: value if name.startswith("normalise.") or name.endswith("_tracked") else value + 1
        for name, value in method.state_dict().items()
    }
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert published_mvfnet({"fc.weight": torch.ones(2)}, {}).keys() == {"head.weight"}


def test_a_backbone_nobody_knows_is_refused(tmp_path):
    with pytest.raises(InputError, match="backbone: found 'resnet5000', expected 'small' or a name"):
        MVFNet(backbone="resnet5000")
    with pytest.raises(InputError, match="no such weights file"):
        MVFNet(backbone="resnet18", weights=str(tmp_path / "nothing.pth"))


def test_the_small_network_gives_64_features():
    assert SmallResNet()(torch.rand(2, 3, 32, 32)).shape == (2, 64)
