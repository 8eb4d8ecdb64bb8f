"""Multi-view fusion, the network around it and its sampling give the authors' numbers (arXiv:2012.06977)."""

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from ommatid.nn.multi_view_fusion import MultiViewFusion, published_fusion
from ommatid.nn.video import as_video_model
from parity.fixture import load_fixture


@pytest.fixture(scope="module")
def module():
    return load_fixture("mvfnet-module")


def fusion(module, variant):
    views, shared, activation = variant.split("_")[:3]
    start = f"{variant}."
    state = {key.removeprefix(start): value for key, value in module.tensors("state").items() if key.startswith(start)}
    block = MultiViewFusion(
        module.config["channels"],
        module.config["frames"],
        module.config["alpha"],
        views,
        shared == "share1",
        activation == "act1",
    )
    block.load_state_dict(published_fusion(state), strict=False)
    missing = set(block.state_dict()) - set(published_fusion(state))
    assert missing <= {"norm.num_batches_tracked"}
    wrapped = nn.Conv2d(module.config["channels"], module.config["out_channels"], 1, bias=False)
    wrapped.load_state_dict({"weight": state["net.weight"]})
    return block, wrapped


def test_every_variant(module):
    for variant in module.config["variants"]:
        block, wrapped = fusion(module, variant)
        module.assert_close(wrapped(block.eval()(module.tensor("in/x"))), f"out/{variant}")


def test_batch_statistics_and_gradients(module):
    variant = next(key.removeprefix("out/") for key in module.arrays if key.endswith("_train") and "out/" in key)
    block, wrapped = fusion(module, variant.removesuffix("_train"))
    frames = module.tensor("in/x").requires_grad_()
    out = wrapped(block.train()(frames))
    module.assert_close(out, f"out/{variant}")
    (out**2).mean().backward()
    module.assert_close(frames.grad, f"grad/{variant}.x")
    module.assert_close(block.time.grad, f"grad/{variant}.shift_conv.weight")
    module.assert_close(block.height.grad, f"grad/{variant}.h_conv.weight")


class SmallResNet(nn.Module):
    """A bottleneck network as the recording has it: stem, four stages, a linear layer on the mean of places."""

    def __init__(self, width, planes, blocks, strides, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.stem = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        channels = width
        for number, (plane, count, stride) in enumerate(zip(planes, blocks, strides, strict=True), start=1):
            units = []
            for position in range(count):
                step = stride if position == 0 else 1
                shortcut = None
                if step != 1 or channels != 4 * plane:
                    shortcut = nn.Sequential(
                        nn.Conv2d(channels, 4 * plane, 1, step, bias=False), nn.BatchNorm2d(4 * plane)
                    )
                units.append(Bottleneck(channels, plane, step, shortcut))
                channels = 4 * plane
            self.add_module(f"layer{number}", nn.Sequential(*units))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.stem(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(x.mean(dim=(2, 3)))


def test_network_with_fusion_in_its_last_stages():
    network = load_fixture("mvfnet-network")
    config = network.config
    plain = SmallResNet(config["width"], config["planes"], config["blocks"], config["strides"], config["classes"])
    at = [f"layer{number}.*.conv1" for number, flag in enumerate(config["stages_with_fusion"], start=1) if flag]
    video = as_video_model(
        plain, MultiViewFusion, config["frames"], at=at, size=config["image"], alpha=config["alpha"]
    ).eval()
    video.network.load_state_dict(published(network.tensors("state")))
    frames = network.tensor("in/frames").unflatten(0, (-1, config["frames"]))
    network.assert_close(video(frames), "out/logits")


def published(state):
    """The recording's keys under the names of a grafted network."""
    heads = {key.split(".conv1.")[0] for key in state if ".conv1.shift_conv." in key}
    own = {}
    for key, value in state.items():
        head, _, rest = key.partition(".conv1.")
        if head not in heads:
            own[key] = value
        elif rest == "net.weight":
            own[f"{head}.conv1.layer.weight"] = value
    for head in heads:
        inside = {key.split(".conv1.")[1]: value for key, value in state.items() if key.startswith(f"{head}.conv1.")}
        own |= {f"{head}.conv1.block.{name}": value for name, value in published_fusion(inside).items()}
        own[f"{head}.conv1.block.norm.num_batches_tracked"] = torch.tensor(0)
    return own
