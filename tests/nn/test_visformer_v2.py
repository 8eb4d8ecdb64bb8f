import pytest
import torch
import torch.nn.functional as F

from ommatid.errors import InputError
from ommatid.nn.convolutional_attention import WindowAttention
from ommatid.nn.macs import count_macs, count_parameters
from ommatid.nn.visformer import load_published_visformer
from ommatid.nn.visformer_v2 import (
    VisformerV2,
    load_published_visformer_v2,
    visformer_v2_medium,
    visformer_v2_small,
    visformer_v2_tiny,
)


def small(**settings):
    """A VisformerV2 of four narrow stages on 64x64 images: maps of 16, 8, 4 and 2 pixels."""
    torch.manual_seed(0)
    return VisformerV2(
        **{
            "img_size": 64,
            "stem_channels": 8,
            "embed_dim": 32,
            "depths": (1, 1, 2, 1),
            "num_heads": (1, 2, 2, 4),
            "num_classes": 5,
            **settings,
        }
    )


def attentions(model):
    return [module for module in model.modules() if isinstance(module, WindowAttention)]


@pytest.mark.parametrize(
    ("make", "parameters", "macs"),
    [
        (visformer_v2_tiny, 9.403, 1.284),
        (visformer_v2_small, 23.582, 4.266),
        (visformer_v2_medium, 44.536, 8.452),
    ],
)
def test_the_published_sizes_cost_what_the_authors_code_costs(make, parameters, macs):
    with torch.device("meta"):
        model = make()
        found = count_macs(model, torch.zeros(1, 3, 224, 224)) / 1e9
    assert count_parameters(model) / 1e6 == pytest.approx(parameters, abs=5.1e-4)
    assert found == pytest.approx(macs, abs=5.1e-4)


def test_at_its_own_resolution_every_map_is_one_window():
    with torch.device("meta"):
        model = visformer_v2_small()
    assert [attention.window for attention in attentions(model)] == [14] * 14 + [7] * 3
    assert attentions(model)[0].relative_position_bias_table.shape == (27 * 27, 8)


def test_odd_blocks_counted_through_all_stages_are_shifted_by_half_a_window():
    assert [attention.shift for attention in attentions(small(depths=(1, 2, 3, 2)))] == [2, 0, 2, 0, 1]


def test_windows_are_clipped_to_the_map_they_are_built_for():
    assert [attention.window for attention in attentions(small())] == [4, 4, 2]
    assert [attention.window for attention in attentions(small(img_size=448, depths=(0, 0, 1, 1)))] == [14, 7]
    assert [attention.window for attention in attentions(small(img_size=(64, 128)))] == [4, 4, 2]


def test_early_stages_can_attend_too_with_narrower_heads():
    model = small(attention_stages=(True,) * 4, windows=(4, 4, 4, 4)).eval()
    assert [attention.head_dim for attention in attentions(model)] == [2, 4, 16, 16, 16]
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize("sides", [(64, 64), (128, 96), (104, 72), (32, 160)])
def test_maps_of_any_resolution(sides):
    model = small().eval()
    maps = model.stages(torch.randn(2, 3, *sides))
    expected = [(2, 8 * 2**i, sides[0] // 4 // 2**i, sides[1] // 4 // 2**i) for i in range(4)]
    assert [tuple(level.shape) for level in maps] == expected
    assert all(level.isfinite().all() for level in maps)


def test_a_far_window_does_not_change_a_map_without_shift():
    model = small(depths=(0, 0, 1, 0), position_embedding=False).eval()
    images = torch.randn(1, 3, 64, 192)
    other = images.clone()
    # The stem sees three pixels beyond a patch: change what starts well behind the first window of 64 pixels.
    other[..., 128:] = 0
    first, second = model.stages(images)[2], model.stages(other)[2]
    torch.testing.assert_close(first[..., :4], second[..., :4])
    assert not torch.allclose(first[..., 8:], second[..., 8:])


def test_published_names_are_ours_and_computed_tables_are_left_out():
    model = small()
    published = {
        "patch_embed0.proj.weight": torch.ones(1),
        "stage2.1.attn_mask": torch.ones(1),
        "stage2.1.attn.relative_position_index": torch.ones(1),
        "stage2.1.attn.relative_position_bias_table": torch.ones(1),
        "stage0.0.mlp.conv2.weight": torch.ones(1),
        "stage3.0.norm2.bn.num_batches_tracked": torch.ones(1),
        "pos_embed0": torch.ones(1),
    }
    renamed = load_published_visformer_v2(published)
    assert len(renamed) == 5
    assert set(renamed) <= set(model.state_dict())


def test_weights_of_version_one_are_refused():
    v1 = {"patch_embed1.proj.weight": torch.ones(1)}
    assert load_published_visformer(v1)
    with pytest.raises(InputError, match="patch_embed0"):
        load_published_visformer_v2(v1)


def test_every_parameter_has_a_gradient_with_and_without_windows():
    for side in (64, 128):
        model = small(drop_path=0.1)
        F.cross_entropy(model(torch.randn(4, 3, side, side)), torch.arange(4)).backward()
        without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
        assert without == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", [64, 104])
def test_half_precision_agrees_with_single(dtype, side):
    model = small().eval()
    images = torch.randn(2, 3, side, side)
    expected = model(images)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(model(images).float(), expected, rtol=0.05, atol=0.05)
    halves = model.to(dtype)(images.to(dtype))
    torch.testing.assert_close(halves.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("side", [64, 104])
def test_the_exported_network_gives_the_same_logits_for_any_batch(side):
    model = small().eval()
    batch = torch.export.Dim("batch", min=1, max=16)
    exported = torch.export.export(model, (torch.randn(2, 3, side, side),), dynamic_shapes=({0: batch},))
    images = torch.randn(5, 3, side, side)
    torch.testing.assert_close(exported.module()(images), model(images))


@pytest.mark.parametrize("name", ["num_heads", "attention_stages", "convolution_stages", "windows"])
def test_a_setting_for_too_few_stages_is_refused_in_one_sentence(name):
    with pytest.raises(InputError, match=f"{name}: found 3 entries, expected one for each of the 4 stages"):
        small(**{name: (1, 1, 1) if name in ("num_heads", "windows") else (True,) * 3})
