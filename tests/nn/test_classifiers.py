import pytest
import torch
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.classifiers import CIFAR_CLASSIFIERS, build_cifar_classifier


def parameters(name, **arguments):
    return sum(p.numel() for p in build_cifar_classifier(name, num_classes=10, **arguments).parameters())


@pytest.mark.parametrize(
    ("name", "exact", "published_millions"),
    [
        ("wrn40_2", 2_243_546, 2.24),
        ("wrn40_1", 563_930, 0.56),
        ("wrn16_2", 691_674, 0.69),
        ("wrn16_1", 175_066, 0.17),
        ("resnet18", 11_173_962, 11.17),
        ("resnet34", 21_282_122, 21.28),
        ("resnet50", 23_520_842, 23.52),
    ],
)
def test_networks_have_the_published_number_of_parameters(name, exact, published_millions):
    assert parameters(name) == exact
    assert exact / 1e6 == pytest.approx(published_millions, abs=0.01)


@pytest.mark.parametrize("name", CIFAR_CLASSIFIERS)
def test_every_network_gives_logits_maps_and_the_features_its_head_reads(name):
    model = build_cifar_classifier(name, num_classes=7, in_channels=1, width=0.25).eval()
    images = torch.randn(2, 1, 16, 16)
    features = model.forward_features(images)
    assert features["pooled"].shape == (2, model.feature_dim)
    assert all(maps.ndim == 4 and len(maps) == 2 for maps in features["maps"])
    torch.testing.assert_close(features["maps"][-1].mean((2, 3)), features["pooled"])
    torch.testing.assert_close(model(images), model.head(features["pooled"]))
    assert model(images).shape == (2, 7)


@pytest.mark.parametrize(("name", "depth"), [("wrn40_2", 40), ("wrn16_1", 16), ("resnet20", 20), ("resnet56", 56)])
def test_depth_is_the_number_of_layers_on_the_main_path(name, depth):
    layers = build_cifar_classifier(name, num_classes=10).modules()
    main_path = [
        m for m in layers if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
    ]
    assert (
        len(main_path) == depth - ("wrn" in name) * 2
    )  # a WRN's depth counts its three shortcuts, not the linear layer


def test_the_inputs_of_resnet34_stages_have_the_widths_of_the_card():
    model = build_cifar_classifier("resnet34", num_classes=10)
    assert [stage[0].residual[0].in_channels for stage in model.stages] == [64, 64, 128, 256]


def test_the_digits_network_and_its_student_are_those_of_the_card():
    for width, widths in ((1.0, [16, 32, 32, 64]), (0.5, [8, 16, 16, 32])):
        model = build_cifar_classifier("digits_cnn", num_classes=10, width=width)
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert [c.out_channels for c in convolutions] == widths
        assert [c.stride[0] for c in convolutions] == [1, 2, 1, 2]


def test_wide_blocks_normalise_before_they_convolve():
    model = build_cifar_classifier("wrn16_1", num_classes=10)
    block = model.stages[0][0].eval()
    nn.init.zeros_(block.conv2.weight)
    features = -torch.rand(1, 16, 4, 4)
    torch.testing.assert_close(block(features), features)  # nothing behind the addition


def test_a_network_learns_a_step_in_training_mode():
    model = build_cifar_classifier("wrn16_1", num_classes=3)
    model(torch.randn(4, 3, 8, 8)).logsumexp(dim=1).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_mistakes_are_named():
    with pytest.raises(InputError, match="unknown classifier 'wrn40-2': did you mean 'wrn40_2'"):
        build_cifar_classifier("wrn40-2", 10)
    with pytest.raises(InputError, match="num_classes: found 0, expected a positive number"):
        build_cifar_classifier("wrn40_2", 0)
