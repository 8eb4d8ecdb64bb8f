"""Released CIFAR networks under our names: the same weights give the same logits.

The networks below are written after their papers (arXiv:1605.07146, arXiv:1512.03385) with the layer names under which
their weights are widely shared.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.classifiers import build_cifar_classifier
from ommatid.nn.normalise import Normalise
from ommatid.transfer.networks import build_classifier, load_classifier
from ommatid.transfer.published import network_of, published_classifier, renamed


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.convShortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, x):
        active = F.relu(self.bn1(x))
        skipped = x if self.convShortcut is None else self.convShortcut(active)
        return skipped + self.conv2(F.relu(self.bn2(self.conv1(active))))


class WideGroup(nn.Module):
    def __init__(self, count, inputs, outputs, stride):
        super().__init__()
        blocks = [WideBlock(inputs, outputs, stride)] + [WideBlock(outputs, outputs, 1) for _ in range(count - 1)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideNet(nn.Module):
    def __init__(self, depth, factor, classes=10):
        super().__init__()
        count, widths = (depth - 4) // 6, [16, 16 * factor, 32 * factor, 64 * factor]
        self.conv1 = conv(3, 16, 3)
        self.block1 = WideGroup(count, widths[0], widths[1], 1)
        self.block2 = WideGroup(count, widths[1], widths[2], 2)
        self.block3 = WideGroup(count, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean(dim=(2, 3)))


class Basic(nn.Module):
    expansion = 1

    def __init__(self, inputs, width, stride, skip):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.skip = add_skip(self, skip, inputs, width, stride)

    def forward(self, x):
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + getattr(self, self.skip)(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs, width, stride, skip):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.skip = add_skip(self, skip, inputs, 4 * width, stride)

    def forward(self, x):
        inner = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(inner)) + getattr(self, self.skip)(x))


def add_skip(block, name, inputs, outputs, stride):
    same = stride == 1 and inputs == outputs
    path = nn.Sequential() if same else nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
    block.add_module(name, path)
    return name


class ResidualNet(nn.Module):
    def __init__(self, block, counts, widths, skip, head, classes=10):
        super().__init__()
        self.conv1, self.bn1 = conv(3, widths[0], 3), nn.BatchNorm2d(widths[0])
        self.head_name, self.stages, inputs = head, [], widths[0]
        for number, (count, width) in enumerate(zip(counts, widths, strict=True), start=1):
            blocks = []
            for position in range(count):
                blocks.append(block(inputs, width, 2 if number > 1 and position == 0 else 1, skip))
                inputs = width * block.expansion
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            self.stages.append(f"layer{number}")
        self.add_module(head, nn.Linear(inputs, classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return getattr(self, self.head_name)(x.mean(dim=(2, 3)))


REFERENCES = {
    "wrn16_1": lambda: WideNet(16, 1),
    "wrn16_2": lambda: WideNet(16, 2),
    "wrn40_2": lambda: WideNet(40, 2),
    "resnet20": lambda: ResidualNet(Basic, (3, 3, 3), (16, 32, 64), "downsample", "fc"),
    "resnet18": lambda: ResidualNet(Basic, (2, 2, 2, 2), (64, 128, 256, 512), "shortcut", "linear"),
    "resnet50": lambda: ResidualNet(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), "downsample", "linear"),
}


def trained(reference):
    """With statistics and scales that differ from layer to layer, so that no two layers can be mixed up."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in reference.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return reference.eval()


@pytest.mark.parametrize("name", REFERENCES)
@torch.no_grad()
def test_released_weights_give_the_released_logits(name):
    reference, ours = trained(REFERENCES[name]()), build_cifar_classifier(name, 10).eval()
    state = reference.state_dict()
    ours.load_state_dict(published_classifier(state, ours))
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(ours(images), reference(images), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in reference.parameters())


@torch.no_grad()
def test_a_released_file_becomes_a_classifier_of_raw_images(tmp_path):
    reference, mean, std = trained(WideNet(16, 1)), [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    state = {"state_dict": {f"module.{name}": tensor for name, tensor in reference.state_dict().items()}}
    torch.save(state, tmp_path / "wrn.pth")
    model = build_classifier("wrn16_1", 10, 3, mean, std).eval()
    load_classifier(model, tmp_path / "wrn.pth")
    images = torch.rand(2, 3, 16, 16)
    normalised = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(model(images), reference(normalised), rtol=1e-4, atol=1e-5)


def test_old_files_without_counts_of_batches_are_read():
    reference, ours = WideNet(16, 1), build_cifar_classifier("wrn16_1", 10)
    state = {name: value for name, value in reference.state_dict().items() if "num_batches" not in name}
    ours.load_state_dict(published_classifier(state, ours))
    assert torch.equal(ours.head.weight, reference.fc.weight)


def test_a_normaliser_inside_the_file_is_left_out():
    reference, ours = WideNet(16, 1), build_cifar_classifier("wrn16_1", 10)
    state = {**reference.state_dict(), "normalizer.mean": torch.zeros(3)}
    assert published_classifier(state, ours).keys() == ours.state_dict().keys()


def test_our_own_names_stay():
    ours = build_cifar_classifier("resnet20", 10)
    state = ours.state_dict()
    found = published_classifier(state, ours)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_every_name_finds_a_place_of_its_own():
    for name, build in REFERENCES.items():
        state = build().state_dict()
        ours = renamed(state)
        assert len(ours) == len(state), name
        assert ours.keys() == build_cifar_classifier(name, 10).state_dict().keys()


def test_weights_of_another_network_are_refused_in_one_sentence():
    wide = WideNet(16, 1).state_dict()
    for name, told in {
        "wrn16_2": r"found the shape \(16, 16, 3, 3\) for stages\.0\.0\.conv1\.weight of the CifarClassifier",
        "wrn40_1": r"found nothing for stages\.0\.2\.norm1\.weight of the CifarClassifier, expected a tensor",
        "resnet20": "found nothing for ",
    }.items():
        with pytest.raises(InputError, match=f"^released weights: {told}"):
            published_classifier(wide, build_cifar_classifier(name, 10))
    deeper = WideNet(22, 1).state_dict()
    with pytest.raises(InputError, match=r"^released weights: "):
        published_classifier(deeper, build_cifar_classifier("wrn16_1", 10))


def test_the_network_is_found_behind_its_normalisation():
    network = build_cifar_classifier("wrn16_1", 10)
    assert network_of(nn.Sequential(Normalise([0.5], [0.5]), network)) == (network, "1.")
    assert network_of(network) == (network, "")
    plain = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    assert network_of(plain) == (plain, "")
