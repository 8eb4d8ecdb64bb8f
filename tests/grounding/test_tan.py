"""2D-TAN: the paper's sizes, its targets, and what must not change a score."""

import copy

import pytest
import torch

from grounding.made import learn_by_heart, made_batch, silent, size
from ommatid.engine.export import export_method
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.metrics import temporal_iou
from ommatid.grounding.tan import TAN2D
from ommatid.grounding.timeindex import pool_to_length

SMALL = {
    "feature_dim": 6,
    "word_dim": 5,
    "vocabulary_size": 9,
    "clips": 16,
    "map_size": 8,
    "scales": (4, 2),
    "hidden_dim": 12,
    "query_dim": 10,
    "query_layers": 2,
    "kernel": 3,
    "map_layers": 2,
}


def small(**settings):
    torch.manual_seed(0)
    method = TAN2D(**{**SMALL, **settings})
    method.words.vectors[2:].normal_()
    return silent(method)


@pytest.fixture
def batch():
    return made_batch()


# --- the paper's sizes ---


def linear(inputs, outputs):
    return inputs * outputs + outputs


def lstm(inputs, dim, layers):
    """Four gates over input and state, with torch's two biases."""
    return sum(4 * ((inputs if layer == 0 else dim) * dim + dim**2 + 2 * dim) for layer in range(layers))


def test_full_size_parts_have_the_sizes_of_their_equations():
    full, dim = TAN2D(), 512
    expected = {
        "words": 300,  # one learned vector for unknown words; the others are frozen
        "clip_input": linear(500, dim),
        "proposals": 0,
        "query_encoder": lstm(300, dim, layers=3),
        "query_output": linear(dim, dim),
        "cell_input": linear(dim, dim),
        "adjacent": 4 * (dim * dim * 9 * 9 + dim),
        "head": linear(dim, 1),
    }
    assert {name: size(getattr(full, name)) for name in expected} == expected
    assert full.parameter_count() == sum(expected.values()) == 91_588_909


def test_full_size_settings_are_those_of_the_card():
    settings = build(TAN2D, {"hidden_dim": 4, "query_dim": 4}).hparams
    assert (settings.clips, settings.map_size, tuple(settings.scales)) == (256, 64, (16, 8, 8))
    assert (settings.kernel, settings.map_layers, settings.min_iou, settings.max_iou) == (9, 4, 0.5, 1.0)
    recipe = settings.recipe
    assert (recipe.optimizer, recipe.lr, recipe.schedule, recipe.clip_norm) == ("adam", 1e-4, "constant", 10.0)


# --- forward ---


def test_every_cell_of_the_map_is_a_moment_and_the_best_comes_first(batch):
    method = small().eval()
    moments = method(batch)
    assert moments.spans.shape == (3, int(method.proposals.mask.sum()), 2)
    assert (moments.scores.diff(dim=1) <= 0).all()
    assert sorted(moments.spans[0].tolist()) == sorted(method.proposals.spans().tolist())


def test_padding_changes_nothing(batch):
    method = small().eval()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    noisy.words = torch.where(batch.word_mask, batch.words, 8)
    torch.testing.assert_close(method.cell_logits(noisy), method.cell_logits(batch))
    alone = batch[torch.tensor([1])]
    alone.video, alone.video_mask = batch.video[1:2, :4], batch.video_mask[1:2, :4]
    torch.testing.assert_close(method.cell_logits(alone)[0], method.cell_logits(batch)[1])


def test_the_answer_depends_on_the_sentence_and_on_the_video(batch):
    method = small().eval()
    other_words, other_video = copy.copy(batch), copy.copy(batch)
    other_words.words = batch.words.flip(0)
    other_video.video = batch.video + 1
    for other in (other_words, other_video):
        assert not torch.allclose(method.cell_logits(other), method.cell_logits(batch))


def test_scores_are_those_of_a_network_without_any_shortcut(batch):
    """The definition cell after cell, with the maximum, the product and the normalisation of each written out."""
    method = small().eval()
    cells, rows = method.proposals, []
    for row in range(3):
        video = pool_to_length(batch.video[row][batch.video_mask[row]], 16)
        clips = torch.relu(method.clip_input(video))
        position = [(clips[2 * p] + clips[2 * p + 1]) / 2 for p in range(8)]
        words = batch.words[row][batch.word_mask[row]][None]
        query = method.query_output(method.query_encoder(method.words(words))[1][0][-1, 0])
        plane = torch.zeros(12, 8, 8)
        for i, j in zip(cells.start.tolist(), cells.end.tolist(), strict=True):
            fused = query * method.cell_input(torch.stack(position[i : j + 1]).amax(dim=0))
            plane[:, i, j] = fused / fused.norm()
        seen = method.adjacent(plane[None], cells.mask)[0]
        rows.append(method.head(seen[:, cells.start, cells.end].T)[:, 0])
    torch.testing.assert_close(method.cell_logits(batch), torch.stack(rows))


# --- training ---


def test_targets_rise_between_both_overlaps(batch):
    method = small(min_iou=0.3, max_iou=0.7)
    spans = method.proposals.spans()
    for row, target in enumerate(method.targets(batch)):
        for span, value in zip(spans, target, strict=True):
            iou = temporal_iou(span, batch.span[row])
            torch.testing.assert_close(value, ((iou - 0.3) / 0.4).clamp(0, 1))
    assert method.targets(batch).amax(dim=1).tolist()[2] == 1


def test_the_loss_is_the_mean_cross_entropy_of_the_cells(batch):
    method = small()
    probs, target = method.cell_logits(batch).sigmoid(), method.targets(batch)
    expected = -(target * probs.log() + (1 - target) * (1 - probs).log()).mean()
    torch.testing.assert_close(method.training_step(batch, 0), expected)


def test_every_parameter_learns(batch):
    method = small().train()
    batch.words[0, 0] = 1
    method.training_step(batch, 0).backward()
    assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_one_batch_is_learnt_by_heart(batch):
    method = small(hidden_dim=24).train()
    batch.span = torch.tensor([[0.0, 0.25], [0.5, 0.875], [0.0, 1.0]])
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    torch.testing.assert_close(learn_by_heart(method, batch, optimizer, steps=150), batch.span)


# --- checkpoints, export, released names ---


def test_a_checkpoint_gives_the_same_moments(batch, tmp_path):
    method = small().eval()
    loaded = TAN2D.load(method.save(tmp_path / "m.safetensors"))
    assert torch.equal(loaded(batch).scores, method(batch).scores)


def test_the_exported_program_gives_the_same_moments(tmp_path):
    method = small().eval()
    method.steps, method.max_words = 16, 5
    assert export_method(method, tmp_path / "tan.pt2", "torch") < 1e-4


def released(dim=12, query=10, layers=2):
    state = {
        "frame_layer.vis_conv.weight": (dim, 6, 1),
        "frame_layer.vis_conv.bias": (dim,),
        "fusion_layer.tex_linear.weight": (dim, query),
        "fusion_layer.tex_linear.bias": (dim,),
        "fusion_layer.vis_conv.weight": (dim, dim, 1, 1),
        "fusion_layer.vis_conv.bias": (dim,),
        "pred_layer.weight": (1, dim, 1, 1),
        "pred_layer.bias": (1,),
    }
    for layer in range(layers):
        state |= {
            f"fusion_layer.textual_encoder.weight_ih_l{layer}": (4 * query, query if layer else 5),
            f"fusion_layer.textual_encoder.weight_hh_l{layer}": (4 * query, query),
            f"fusion_layer.textual_encoder.bias_ih_l{layer}": (4 * query,),
            f"fusion_layer.textual_encoder.bias_hh_l{layer}": (4 * query,),
            f"map_layer.convs.{layer}.weight": (dim, dim, 3, 3),
            f"map_layer.convs.{layer}.bias": (dim,),
        }
    return {name: torch.randn(shape) for name, shape in state.items()}


def test_every_released_tensor_finds_its_place(tmp_path):
    method, state = small(), released()
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "released.pth")
    vectors = method.words.vectors.clone()
    method.load_published(tmp_path / "released.pth")
    assert torch.equal(method.clip_input.weight, state["frame_layer.vis_conv.weight"][..., 0])
    assert torch.equal(method.cell_input.weight, state["fusion_layer.vis_conv.weight"][..., 0, 0])
    assert torch.equal(method.query_encoder.weight_hh_l1, state["fusion_layer.textual_encoder.weight_hh_l1"])
    assert torch.equal(method.adjacent.convs[1].weight, state["map_layer.convs.1.weight"])
    assert torch.equal(method.head.bias, state["pred_layer.bias"])
    assert torch.equal(method.words.vectors, vectors)
    learned = method.parameter_count() - size(method.words)
    assert sum(tensor.numel() for tensor in state.values()) == learned


def test_released_weights_of_another_map_are_refused(tmp_path):
    torch.save(released(layers=3), tmp_path / "released.pth")
    with pytest.raises(InputError, match="weights do not fit TAN2D: 0 missing, 6 not expected"):
        small().load_published(tmp_path / "released.pth")


def test_a_tensor_of_an_unknown_name_is_refused(tmp_path):
    torch.save({**released(), "extra.weight": torch.zeros(2)}, tmp_path / "released.pth")
    with pytest.raises(InputError, match=r"0 missing, 1 not expected \(first: extra\.weight\)"):
        small().load_published(tmp_path / "released.pth")


# --- bad input, embedded settings ---


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"clips": 20}, "clips must be a multiple of map_size, found 20 clips for a map of 8"),
        ({"map_size": 0}, "clips must be a multiple of map_size, found 16 clips for a map of 0"),
        ({"scales": (4, 4)}, r"scales \(4, 4\) reach moments of 12 positions, expected at most the 8 of the map"),
        ({"kernel": 4, "map_layers": 1}, "kernel must be odd for an odd number of layers, found 4 and 1 layers"),
        ({"min_iou": 0.7, "max_iou": 0.7}, r"min_iou must lie below max_iou, both in \[0, 1\], found 0.7 and 0.7"),
    ],
)
def test_settings_that_make_no_map_are_refused_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        small(**settings)
    assert "\n" not in str(refused.value)


def test_embedded_settings_fit_the_embedded_data():
    data = GroundingData(**{**TAN2D.embedded["data"], "train_videos": 8, "test_videos": 4})
    method = silent(build(TAN2D, {**TAN2D.arguments_from(data), **TAN2D.embedded["model"]}))
    method.adopt(data)
    sample = data.first_batch("train", 4)
    assert method.training_step(sample, 0).isfinite()
    # The best cell of the map overlaps almost every described moment by more than the loss asks for.
    assert (method.targets(sample).amax(dim=1) > 0).all()
