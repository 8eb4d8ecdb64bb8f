"""Blocks go into anybody's model by layer name, fit without being told sizes, and come out again."""

import copy

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from ommatid.errors import InputError
from ommatid.nn.graft import ChannelsLastAsMap, Gated, Grafted, Site, TokensAsMap, graft, ungraft

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Double(nn.Module):
    """Twice what it reads; knows how many channels that has."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.weight = channels, nn.Parameter(torch.full((channels, 1, 1), 2.0))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps * self.weight


class Plain(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, kernel_size: int, wide: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size + 2 * wide, stride, kernel_size // 2 + wide)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.conv(maps)


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 4, 1), nn.Conv2d(4, 6, 3))
    ).eval()


def test_before_and_after_stand_where_they_say():
    net = model()
    first, inner = net[0](IMAGES), net[2]
    graft(net, Double, at="2.0", how="before", example=IMAGES)
    torch.testing.assert_close(net(IMAGES), inner[1](inner[0].layer(2 * first.relu())))
    ungraft(net)
    made = graft(net, Double, at="2.0", how="after", example=IMAGES)
    assert {name: block.channels for name, block in made.items()} == {"2.0": 4}
    torch.testing.assert_close(net(IMAGES), inner[1](2 * inner[0].layer(first.relu())))


def test_a_replacement_learns_sizes_and_stride_from_the_layer():
    net = model()
    made = graft(net, Plain, at="*0", how="replace", example=IMAGES, wide=1)
    assert list(made) == ["0", "2.0"]
    assert (made["0"].conv.stride, made["0"].conv.kernel_size, made["2.0"].conv.kernel_size) == ((2, 2), (5, 5), (3, 3))
    assert net(IMAGES).shape == model()(IMAGES).shape
    assert sum(value.numel() for value in net.parameters()) != sum(value.numel() for value in model().parameters())


def test_a_wrapping_block_gets_the_layer_itself():
    net = model()
    layer = net[0]

    def twice(module: nn.Module) -> nn.Module:
        return nn.Sequential(module, nn.Upsample(scale_factor=1))

    made = graft(net, twice, at="0", how="wrap", example=IMAGES)
    assert made["0"][0] is layer
    torch.testing.assert_close(net(IMAGES), model()(IMAGES))


def test_all_comes_out_again_with_the_weights_of_now():
    for how, block in (("before", Double), ("after", Double), ("replace", Plain), ("wrap", lambda module: module)):
        net = model()
        before, names = net(IMAGES), list(net.state_dict())
        graft(net, block, at="0", how=how, example=IMAGES)
        assert any(isinstance(each, Grafted) for each in net.modules())
        ungraft(net)
        assert list(net.state_dict()) == names
        assert not any(isinstance(each, Grafted) for each in net.modules())
        torch.testing.assert_close(net(IMAGES), before)
    graft(net, Double, at="0", example=IMAGES)
    with torch.no_grad():
        net[0].layer.weight.zero_()
    ungraft(net)
    assert (net[0].weight == 0).all()


def test_a_gate_leaves_the_model_as_it_was_until_it_learns():
    for how in ("before", "after"):
        net = model()
        graft(net, Double, at="2.0", how=how, example=IMAGES, gated=True)
        torch.testing.assert_close(net(IMAGES), model()(IMAGES))
        net(IMAGES).square().sum().backward()
        gate = next(each for each in net.modules() if isinstance(each, Gated)).gate
        assert gate.grad != 0
        with torch.no_grad():
            gate.fill_(1.0)
        assert not torch.allclose(net(IMAGES), model()(IMAGES))


def test_the_dry_run_leaves_modes_statistics_and_gradients_alone():
    net = models.resnet18(num_classes=5).train()
    net.bn1.eval()
    before = copy.deepcopy(net.state_dict())
    graft(net, Double, at="layer4.*.conv1", how="before")
    assert net.training
    assert not net.bn1.training
    assert net.layer4[0].conv1.block.training
    ungraft(net)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert all(value.grad is None for value in net.parameters())


def test_a_model_may_go_on_asking_its_layer():
    net = model()
    graft(net, Plain, at="0", how="replace", example=IMAGES)
    assert net[0].out_channels == 8
    assert net[0].weight.shape == (8, 3, 3, 3)
    with pytest.raises(AttributeError):
        _ = net[0].something
    copied = copy.deepcopy(net)
    torch.testing.assert_close(copied(IMAGES), net(IMAGES))


def test_blocks_move_and_are_saved_with_the_model():
    net = model().double()
    graft(net, Double, at="2.1", example=IMAGES.double())
    assert net(IMAGES.double()).dtype == torch.float64
    other = model()
    graft(other, Double, at="2.1", example=IMAGES)
    other.double().load_state_dict(net.state_dict())
    assert "2.1.block.weight" in net.state_dict()


class Scale(nn.Module):
    """Channels times their number: what a block on maps may do to any layout."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        assert maps.shape[1] == self.dim
        assert maps.ndim == 4
        return maps * torch.arange(1.0, self.dim + 1)[:, None, None]


def test_tokens_are_shown_as_a_map_without_those_before_the_grid():
    net = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64).eval()
    images = torch.randn(1, 3, 64, 64)
    made = graft(net, Scale, at="blocks.3", how="after", example=images)
    assert made["blocks.3"].dim == 192
    seen = []
    handle = net.blocks[3].layer.register_forward_hook(lambda module, args, out: seen.append(out))
    handle_after = net.blocks[3].register_forward_hook(lambda module, args, out: seen.append(out))
    net(images)
    handle.remove()
    handle_after.remove()
    plain, scaled = seen
    torch.testing.assert_close(scaled[:, 0], plain[:, 0])
    torch.testing.assert_close(scaled[:, 1:], plain[:, 1:] * torch.arange(1.0, 193))


def test_channels_last_is_shown_as_a_map():
    net = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, img_size=64, window_size=2).eval()
    images = torch.randn(1, 3, 64, 64)
    made = graft(net, Scale, at=["layers.0.blocks.0", "layers.2.blocks.1"], how="after", example=images)
    assert [block.dim for block in made.values()] == [96, 384]
    assert net(images).shape == (1, 3)


class Blocks(nn.Module):
    """Two layers on images of any size, on maps or on channels last; what they are, only the sides tell."""

    def __init__(self, channels: int, last: bool) -> None:
        super().__init__()
        self.stem, self.last, self.layer = nn.Conv2d(3, channels, 3, 4, 1), last, nn.Identity()
        self.stage = nn.Sequential(nn.Conv2d(channels, channels, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stage(self.stem(images))
        return self.layer(maps.permute(0, 2, 3, 1) if self.last else maps)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("size", [(32, 64), (64, 32), (36, 36), (50, 91)])
@pytest.mark.parametrize("channels", [5, 8, 16, 24])
def test_the_layout_is_told_from_the_sides_of_the_image(size, channels, last):
    made = graft(Blocks(channels, last), Scale, at="layer", example=torch.randn(1, 3, *size))
    assert made["layer"].dim == channels


@pytest.mark.parametrize(("stage", "sides", "dim"), [(0, 16, 96), (2, 4, 384), (3, 2, 768)])
def test_an_example_may_have_its_channels_last(stage, sides, dim):
    net = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, img_size=64, window_size=2).eval()
    inputs = net.layers[stage - 1].blocks[-1].norm1.normalized_shape[0] if stage else 96
    sides *= 2 if stage else 1
    made = graft(net.layers[stage], Scale, at="blocks.0", example=torch.randn(1, sides, sides, inputs))
    assert made["blocks.0"].dim == dim


def test_a_layout_that_the_example_leaves_open_is_refused():
    told = r"at: layer reads \(1, 8, 8, 8\), which may be .* expected an example of another size"
    with pytest.raises(InputError, match=told):
        graft(Blocks(8, last=False), Scale, at="layer", example=torch.randn(1, 3, 32, 32))
    # A layer that convolves reads maps.
    assert list(graft(Blocks(8, last=False), Scale, at="stage", example=torch.randn(1, 3, 32, 32))) == ["stage"]


def test_adapters_turn_and_turn_back():
    maps = torch.randn(2, 5, 3, 3)
    block = Scale(5)
    tokens = torch.cat([torch.zeros(2, 1, 5), maps.flatten(2).transpose(1, 2)], dim=1)
    expected = block(maps)
    torch.testing.assert_close(TokensAsMap(block, 1)(tokens)[:, 1:], expected.flatten(2).transpose(1, 2))
    torch.testing.assert_close(ChannelsLastAsMap(block)(maps.permute(0, 2, 3, 1)), expected.permute(0, 2, 3, 1))
    with pytest.raises(InputError, match="tokens: found 10 in the grid, expected a square number"):
        TokensAsMap(block, 0)(tokens)


def test_a_site_knows_its_channels_and_stride():
    layer = nn.Conv2d(3, 8, 3)
    place = Site(layer, (1, 3, 33, 33), (1, 8, 17, 17), "map", 0)
    assert (place.in_channels, place.out_channels, place.stride) == (3, 8, 2)
    place = Site(layer, (1, 16, 16, 3), (1, 8, 8, 6), "channels last", 0)
    assert (place.in_channels, place.out_channels, place.stride) == (3, 6, 2)


def test_mistakes_are_told_in_one_sentence_and_leave_the_model_whole():
    class Narrow(nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, maps):
            return maps[:, :1]

    net = model()
    cases = [
        ({"at": "3.*"}, r"unknown layer '3\.\*'"),
        ({"at": "0", "how": "under"}, "unknown how 'under'"),
        ({"at": "0", "chanels": 3}, "Double has no argument 'chanels', expected one of channels"),
        ({"at": "0", "how": "replace", "gated": True}, "gated: a block that does replace a layer"),
        ({"at": "2.0", "block": Narrow}, "block: Narrow does not fit after 2.0: "),
    ]
    for settings, told in cases:
        with pytest.raises(InputError, match=told):
            graft(net, **{"block": Double, "example": IMAGES, **settings})
        torch.testing.assert_close(net(IMAGES), model()(IMAGES))
    graft(net, Double, at="0", example=IMAGES)
    with pytest.raises(InputError, match="at: 0 is grafted already"):
        graft(net, Double, at="0", example=IMAGES)


@pytest.mark.parametrize("error", [AssertionError(), TypeError("no such argument"), KeyError("key"), RuntimeError("x")])
def test_a_block_that_fails_leaves_the_model_as_it_was(error):
    class Failing(nn.Module):
        def forward(self, maps):
            raise error

    net = model()
    graft(net, Double, at="0", example=IMAGES)
    before = [type(each) for each in net.modules()]
    with pytest.raises(InputError, match=f"block: Failing does not fit after 2.0, 2.1: .*{str(error) or 'Assertion'}"):
        graft(net, Failing, at="2.*", example=IMAGES)
    assert [type(each) for each in net.modules()] == before


def test_an_example_that_the_model_does_not_read_is_named():
    told = r"^example: found a tensor \(2, 1, 32, 32\), expected one that the model reads: Given groups=1"
    with pytest.raises(InputError, match=told):
        graft(model(), Double, at="0", example=IMAGES[:, :1])


def test_layers_come_back_in_the_mode_of_the_model():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4))).train()
    net[2][0].eval()
    graft(net, nn.Identity, at="1", how="replace", example=IMAGES)
    graft(net, nn.Identity, at="2", example=IMAGES)
    ungraft(net)
    assert [each.training for each in (net[1], net[2], net[2][0])] == [True, True, False]
    graft(net, nn.Identity, at="1", how="replace", example=IMAGES)
    net.eval()
    ungraft(net)
    assert not net[1].training


def test_a_layer_that_never_runs_or_has_no_map_is_refused():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.flat = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def forward(self, images):
            return self.flat(self.used(images).mean(dim=(2, 3)))

    with pytest.raises(InputError, match="at: unused did not read and give one tensor in the dry run"):
        graft(Lazy(), Double, at="unused", example=IMAGES)
    with pytest.raises(InputError, match=r"at: flat reads \(2, 4\) and gives \(2, 2\), expected maps"):
        graft(Lazy(), Double, at="flat", example=IMAGES)
