import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.convolutional_attention import ChannelLayerNorm2d, ConvolutionalAttention, SpatialFeedForward
from ommatid.nn.macs import count_macs, count_parameters
from ommatid.nn.visformer import (
    Visformer,
    VisformerBlock,
    load_published_visformer,
    resize_positions,
    transition_net,
    visformer_small,
    visformer_tiny,
)


def small(**settings):
    """A Visformer of three narrow stages on 32x32 images."""
    torch.manual_seed(0)
    return Visformer(
        **{
            "img_size": 32,
            "stem_channels": 8,
            "embed_dim": 32,
            "depths": (2, 1, 1),
            "num_heads": 4,
            "patch_strides": (2, 2, 2),
            "num_classes": 5,
            **settings,
        }
    )


def cost(make, *arguments):
    """Millions of parameters and thousand millions of multiply-adds of an image of 224x224, without computing."""
    with torch.device("meta"):
        model = make(*arguments)
        return count_parameters(model) / 1e6, count_macs(model, torch.zeros(1, 3, 224, 224)) / 1e9


@pytest.mark.parametrize(
    ("make", "parameters", "macs"), [(visformer_tiny, 10.321, 1.268), (visformer_small, 40.220, 4.879)]
)
def test_the_published_sizes_cost_what_the_authors_code_costs(make, parameters, macs):
    assert cost(make) == (pytest.approx(parameters, abs=5.1e-4), pytest.approx(macs, abs=5.1e-4))


@pytest.mark.parametrize(
    ("step", "parameters", "macs"),
    [
        ("net1", 22.008, 4.574),
        ("net2", 23.865, 4.768),
        ("net3", 39.498, 4.788),
        ("net4", 39.498, 4.788),
        ("net5", 39.240, 4.759),
        ("net6", 38.977, 4.759),
        ("net7", 44.977, 4.829),
        ("visformer", 40.220, 4.879),
    ],
)
def test_every_step_from_deit_to_visformer_costs_what_it_costs_in_the_authors_code(step, parameters, macs):
    assert cost(transition_net, step) == (pytest.approx(parameters, abs=5.1e-4), pytest.approx(macs, abs=5.1e-4))


def test_the_walk_starts_at_deit_s():
    assert cost(transition_net, "deit-s") == (pytest.approx(22.05, abs=5.1e-3), pytest.approx(4.6, abs=0.051))


@pytest.mark.parametrize("step", ["net1", "net2", "net3", "net4", "net5", "net6", "net7", "visformer"])
def test_every_step_runs_and_trains_on_small_images(step):
    torch.manual_seed(0)
    strides = {"net1": (8,)}.get(step, (2, 2, 2))
    images = torch.randn(2, 3, 32, 32)
    model = transition_net(step, img_size=32, embed_dim=48, patch_strides=strides, num_classes=5)
    loss = F.cross_entropy(model(images), torch.tensor([0, 3]))
    loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


def test_deit_takes_the_same_settings():
    model = transition_net("deit-s", img_size=32, embed_dim=48, depth=1, num_classes=5)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_each_step_changes_what_the_study_says():
    with torch.device("meta"):
        nets = {step: transition_net(step, embed_dim=48) for step in [*(f"net{i}" for i in range(1, 8)), "visformer"]}

    def holds(kind):
        return {step for step, net in nets.items() if any(isinstance(module, kind) for module in net.modules())}

    def blocks(step):
        return [len(level.blocks) for level in nets[step].levels]

    assert {step for step, net in nets.items() if isinstance(net.stem, nn.Identity)} == {"net1"}
    assert blocks("net1") == [12]
    assert blocks("net2") == [0, 12, 0]
    assert blocks("net3") == blocks("net6") == [4, 4, 4]
    assert blocks("net7") == [6, 7, 7]
    assert holds(ChannelLayerNorm2d) == {"net1", "net2", "net3"}
    assert {step for step, net in nets.items() if net.levels[0].position is None} == {"net6", "net7"}
    assert set(nets) - holds(ConvolutionalAttention) == {"net7"}
    assert holds(SpatialFeedForward) == {"net5", "net6", "net7", "visformer"}
    assert nets["net5"].levels[2].blocks[0].feed_forward.spatial.weight.shape == (80, 80, 3, 3)  # 5/6 of 96, one group
    assert nets["visformer"].levels[0].blocks[0].feed_forward.spatial.weight.shape == (48, 6, 3, 3)  # 2 x 24, 8 groups


@pytest.fixture(scope="module")
def timms():
    """timm's narrowest Visformer, on small images, with random weights and statistics."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(
        "visformer_tiny", pretrained=False, img_size=64, num_classes=7, depth=(2, 1, 1), drop_path_rate=0.0
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def test_timms_weights_give_timms_logits_and_maps(timms):
    model = visformer_tiny(img_size=64, num_classes=7, depths=(2, 1, 1)).eval()
    model.load_state_dict(load_published_visformer(timms.state_dict()))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), timms(images), rtol=1e-4, atol=1e-4)
        expected = timms.forward_intermediates(images, intermediates_only=True)
        for found, maps in zip(model.stages(images), expected, strict=True):
            torch.testing.assert_close(found, maps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [visformer_tiny, visformer_small])
def test_the_names_of_both_sizes_are_timms(make):
    import timm

    with torch.device("meta"):
        ours = make()
        theirs = timm.create_model(make.__name__, pretrained=False)
    renamed = load_published_visformer(theirs.state_dict())
    assert {name: value.shape for name, value in renamed.items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }


def test_the_authors_wrapped_norms_are_unwrapped():
    state = {
        "patch_embed1.norm.bn.weight": torch.ones(4),
        "stage2.1.norm1.ln.bias": torch.zeros(8, 1, 1),
        "stage3.0.attn.qkv.weight": torch.ones(1),
        "norm.bn.running_var": torch.ones(4),
        "stem.1.bn.bias": torch.ones(4),
        "stem.0.weight": torch.ones(4),
        "pos_embed3": torch.ones(1),
        "head.bias": torch.ones(2),
    }
    renamed = load_published_visformer(state)
    assert list(renamed) == [
        "levels.0.embedding.1.weight",
        "levels.1.blocks.1.attention_norm.bias",
        "levels.2.blocks.0.attention.qkv.weight",
        "norm.running_var",
        "stem.1.bias",
        "stem.0.weight",
        "levels.2.position",
        "head.bias",
    ]
    assert renamed["levels.1.blocks.1.attention_norm.bias"].shape == (8,)


def test_weights_of_something_else_are_refused():
    with pytest.raises(InputError, match="state: found layer1"):
        load_published_visformer({"layer1.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="found nothing"):
        load_published_visformer({})


def test_maps_halve_in_size_and_double_in_width():
    model = small().eval()
    maps = model.stages(torch.randn(2, 3, 32, 32))
    assert [tuple(level.shape) for level in maps] == [(2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]
    assert model.widths == [16, 32, 64]
    assert model.feature_dim == 64
    assert model.reduction == 16


def test_logits_are_the_linear_of_the_mean_of_the_normed_last_map():
    model, images = small().eval(), torch.randn(2, 3, 32, 32)
    last = model.norm(model.stages(images)[-1])
    torch.testing.assert_close(model(images), last.mean(dim=(2, 3)) @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize("sides", [(32, 64), (48, 40), (16, 16), (37, 51)])
def test_images_of_other_sizes_are_classified(sides):
    model = small().eval()
    images = torch.randn(2, 3, *sides)
    assert model(images).isfinite().all()
    heights = [maps.shape[2] for maps in model.stages(images)]
    assert heights == [-(-sides[0] // 2) // 2, -(-sides[0] // 2) // 4, -(-sides[0] // 2) // 8]


def test_positions_are_resized_and_not_shifted():
    ramp = torch.linspace(0, 1, 14).expand(1, 2, 14, 14)
    assert resize_positions(ramp, (14, 14)) is ramp
    finer = resize_positions(ramp, (14, 28))
    centres = (torch.arange(28) + 0.5) / 2 - 0.5
    torch.testing.assert_close(finer, (centres / 13).clamp(0, 1).expand(1, 2, 14, 28), atol=0.01, rtol=0)
    assert resize_positions(ramp.half(), (7, 9)).dtype == torch.float16


def test_images_smaller_than_the_last_pixel_are_refused():
    with pytest.raises(InputError, match="images: found 8x32 pixels, expected at least 16x16"):
        small().stages(torch.zeros(1, 3, 8, 32))


def test_rectangular_images_can_be_what_the_network_is_built_for():
    model = small(img_size=(32, 64)).eval()
    assert model.levels[0].position.shape == (1, 16, 8, 16)
    assert model(torch.zeros(1, 3, 32, 64)).shape == (1, 5)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_every_parameter_learns(norm):
    model = small(norm=norm, drop_path=0.2)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_with_single(dtype):
    model = small()
    images = torch.randn(4, 3, 32, 32)
    with torch.autocast("cpu", dtype):
        loss = F.cross_entropy(model(images).float(), torch.arange(4))
    loss.backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    model.eval()
    expected = model(images)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(model(images).float(), expected, rtol=0.05, atol=0.03)
    halves = model.to(dtype)(images.to(dtype))
    torch.testing.assert_close(halves.float(), expected, rtol=0.05, atol=0.05)


def test_a_dropped_branch_is_skipped_by_whole_samples_and_scaled_otherwise():
    class One(nn.Module):
        def forward(self, maps):
            return torch.ones_like(maps)

    torch.manual_seed(0)
    block = VisformerBlock(4, None, One(), nn.BatchNorm2d, drop_path=0.25)
    added = block(torch.zeros(2000, 4, 2, 2))
    assert torch.equal(added, added[:, :1, :1, :1].expand_as(added))
    assert added.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (added[:, 0, 0, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (block.eval()(torch.zeros(2, 4, 2, 2)) == 1).all()


def test_the_rate_of_dropping_rises_over_all_blocks():
    model = small(depths=(2, 2, 1), drop_path=0.2)
    rates = [block.drop_path for level in model.levels for block in level.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_fresh_weights_have_the_published_deviations():
    torch.manual_seed(0)
    model = visformer_tiny(depths=(1, 1, 0))
    spatial = model.levels[0].blocks[0].feed_forward.spatial.weight
    assert spatial.std().item() == pytest.approx((2 / (192 * 9)) ** 0.5, rel=0.05)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.levels[1].position.std().item() == pytest.approx(0.02, rel=0.05)
    biases = [module.bias for module in model.modules() if isinstance(module, nn.Conv2d) and module.bias is not None]
    assert len(biases) == 3  # of the patch embeddings, and of no other convolution
    assert not any(bias.any() for bias in biases)


def test_the_exported_network_gives_the_same_logits_for_any_batch():
    model = small().eval()
    batch = torch.export.Dim("batch", min=1, max=16)
    exported = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
    images = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(exported.module()(images), model(images))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"norm": "group"}, "unknown norm 'group'"),
        ({"attention_stages": (True,)}, "attention_stages: found 1 entries, expected one for each of the 3 stages"),
        ({"convolution_stages": (True,) * 4}, "convolution_stages: found 4 entries"),
        ({"patch_strides": (2, 2)}, "patch_strides: found 2 entries"),
        ({"depths": (), "attention_stages": (), "convolution_stages": ()}, "depths: found no stage"),
        ({"img_size": 8}, "img_size: found 8, expected at least 16"),
        ({"num_heads": 64}, "num_heads: found 64"),
        ({"groups": 7}, "groups: found 7"),
        ({"embed_dim": 1}, "embed_dim: found 1"),
        ({"drop_path": 1.0}, "drop_path: found 1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_sentence(settings, said):
    with pytest.raises(InputError, match=said):
        small(**settings)


def test_a_misspelt_step_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean"):
        transition_net("net8")
