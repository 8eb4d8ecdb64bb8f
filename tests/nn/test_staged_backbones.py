"""Backbones cut into stages give the same features as whole ones."""

import jaxtyping
import pytest
import torch
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.layerwise_fusion import LayerwiseFusionNet, NDDRLayer
from ommatid.nn.staged_backbones import (
    LargeFOVHead,
    SamePool,
    StagedBackbone,
    deeplab_vgg16,
    plain_stages,
    published_head,
    timm_stages,
)

IMAGES = torch.rand(2, 3, 40, 44, generator=torch.Generator().manual_seed(0))


def test_a_backbone_gives_the_map_after_every_stage():
    backbone = plain_stages((4, 6, 8), strides=(2, 1, 2)).eval()
    maps = backbone(IMAGES)
    assert [tuple(each.shape[1:]) for each in maps] == [(4, 20, 22), (6, 20, 22), (8, 10, 11)]
    torch.testing.assert_close(backbone.stages[2](maps[1]), maps[2])
    assert backbone.out_channels == (4, 6, 8)


def test_plain_stages_have_as_many_convolutions_as_asked_for():
    for count in (1, 2):
        for stage in plain_stages((4, 6), convolutions=count).stages:
            assert [type(each) for each in stage] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * count + [nn.MaxPool2d]
            assert stage[0].bias is None


def test_deeplabs_stages_have_the_published_layers():
    widths = [[64, 64], [128, 128], [256] * 3, [512] * 3, [512] * 3]
    backbone = deeplab_vgg16()
    for stage, expected, dilation in zip(backbone.stages, widths, (1, 1, 1, 1, 2), strict=True):
        convolutions = [each for each in stage if isinstance(each, nn.Conv2d)]
        norms = [each for each in stage if isinstance(each, nn.BatchNorm2d)]
        assert [each.out_channels for each in convolutions] == expected
        assert {each.dilation for each in convolutions} == {(dilation, dilation)}
        assert all(each.bias is None for each in convolutions)
        assert {(each.eps, each.momentum) for each in norms} == {(1e-3, 0.05)}
        assert len(norms) == len(convolutions)


@pytest.mark.parametrize(("size", "expected"), [(321, [161, 81, 41, 41, 41]), (480, [240, 120, 60, 60, 60])])
@pytest.mark.parametrize("pools", ["centred", "same"])
def test_deeplabs_output_stride_is_eight(size, expected, pools):
    with torch.device("meta"):
        maps = deeplab_vgg16(pools)(torch.rand(1, 3, size, size))
    assert [each.shape[2] for each in maps] == expected


def test_pools_of_odd_sizes_do_not_depend_on_whose_padding_it_is():
    maps = torch.randn(1, 2, 9, 12, generator=torch.Generator().manual_seed(1))
    same, centred = SamePool(3, 2)(maps), nn.MaxPool2d(3, 2, 1)(maps)
    assert torch.equal(
        same[:, :, 0], nn.functional.pad(maps, (0, 1, 1, 0), value=-9).unfold(3, 3, 2)[:, :, :3].amax((2, 4))
    )
    assert torch.equal(SamePool(3, 2)(maps[..., :11]), nn.MaxPool2d(3, 2, 1)(maps[..., :11]))
    assert not torch.equal(same, centred)


def test_the_border_does_not_fade():
    """The mean pool of the last stage does not count what lies beyond."""
    pool = deeplab_vgg16().stages[4][-1]
    assert torch.equal(pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_a_large_field_of_view_reaches_twelve_pixels():
    head = LargeFOVHead(1, 1, channels=4).eval()
    image = torch.randn(1, 1, 31, 31, requires_grad=True)
    head(image)[0, 0, 15, 15].backward()
    assert image.grad[0, 0].nonzero().unique().tolist() == [3, 15, 27]
    assert head(image).shape == image.shape


def test_a_published_head_has_its_place():
    head = LargeFOVHead(4, 3, channels=8)
    order = {"fc6": [0, 1], "fc7": [4, 5]}
    state = {
        f"{order[part][int(rest[0])] if part != 'fc8' else 8}.{rest[-1]}": value
        for (part, *rest), value in ((name.split("."), value) for name, value in head.state_dict().items())
    }
    other = LargeFOVHead(4, 3, channels=8)
    other.load_state_dict(published_head(state))
    torch.testing.assert_close(other.eval()(torch.ones(1, 4, 5, 5)), head.eval()(torch.ones(1, 4, 5, 5)))


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "efficientnet_lite0", "convnext_atto"])
def test_timms_stages_give_what_its_feature_extractor_gives(name):
    import timm

    stages = timm_stages(name).eval()
    whole = timm.create_model(name, features_only=True).eval()
    # The same modules in the same order, whatever their names.
    whole.load_state_dict(dict(zip(whole.state_dict(), stages.state_dict().values(), strict=True)))
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(stages(images), whole(images))
    assert list(stages.out_channels) == whole.feature_info.channels()


def test_no_stage_writes_into_the_map_before_it():
    network = timm_stages("resnet10t")
    assert not any(getattr(module, "inplace", False) for module in network.modules())
    before = network.stages[0](IMAGES)
    kept = before.clone()
    network.stages[1](before)
    assert torch.equal(before, kept)


def test_settings_reach_timm():
    assert timm_stages("resnet10t", out_indices=(1, 3)).out_channels == (64, 256)
    assert timm_stages("resnet10t", output_stride=8)(torch.rand(1, 3, 64, 64))[-1].shape[-1] == 8
    assert timm_stages("resnet10t").training


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_networks_of_timm_can_be_fused_and_trained(name):
    backbones = {task: timm_stages(name, out_indices=(0, 1, 2)) for task in ("semantic", "normals")}
    heads = {task: nn.Conv2d(backbones[task].out_channels[-1], 3, 1) for task in backbones}
    network = LayerwiseFusionNet(backbones, NDDRLayer, heads)
    sum(found.square().sum() for found in network(torch.rand(2, 3, 32, 32)).values()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_tiny_patch16_224", "has no sequence of stages"),
        ("hrnet_w18_small", "has no sequence of stages"),
        ("swin_tiny_patch4_window7_224", "does not run on a small image stage by stage"),
        ("selecsls42", "does not give maps of"),
    ],
)
def test_what_cannot_be_cut_is_refused(name, reason):
    with pytest.raises(
        InputError, match=f"backbone: '{name}' {reason}.*expected a sequence of stages such as resnet50"
    ):
        timm_stages(name)


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match=r"backbone: found 'resnet5', expected a name that timm.list_models\(\) has"):
        timm_stages("resnet5")
    with pytest.raises(InputError, match="strides: found 1, expected 3, one for each stage"):
        plain_stages(strides=(2,))
    with pytest.raises(InputError, match="out_channels: found 1, expected 2, one for each stage"):
        StagedBackbone([nn.Identity(), nn.Identity()], [3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype):
    torch.manual_seed(0)
    backbone = plain_stages((4, 8)).eval()
    with torch.autocast("cpu", dtype=dtype):
        half = backbone(IMAGES)
    torch.testing.assert_close(half[-1].float(), backbone(IMAGES)[-1], rtol=0.05, atol=0.05)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    for block, channels in ((plain_stages((2, 3)), 3), (LargeFOVHead(2, 3, channels=4, dilation=2), 2)):
        images = torch.rand(1, channels, 5, 6, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(block.double().eval(), images)


@pytest.fixture
def unchecked():
    """Without checks of types, which no compiler can trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("pools", ["centred", "same"])
def test_it_compiles_as_one_graph_and_exports(pools):
    pool = nn.MaxPool2d(3, 2, 1) if pools == "centred" else SamePool(3, 2)
    backbone = StagedBackbone([nn.Sequential(nn.Conv2d(3, 4, 3), pool)], [4]).eval()
    expected = backbone(IMAGES)
    torch.testing.assert_close(torch.compile(backbone, fullgraph=True, backend="eager")(IMAGES), expected)
    torch.testing.assert_close(list(torch.export.export(backbone, (IMAGES,)).module()(IMAGES)), expected)
