"""VSLNet: the paper's sizes, its losses, its decoding, and what padding must not do."""

import copy
import itertools
from pathlib import Path

import pytest
import torch

from grounding.made import STEPS, WORD_COUNTS, learn_by_heart, made_batch, silent, size
from ommatid.engine.fit import fit
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.timeindex import seconds_to_steps
from ommatid.grounding.vslnet import (
    IMPOSSIBLE,
    PREDICTORS,
    CharacterConvolution,
    Located,
    VSLNet,
    decode_spans,
    extended_foreground,
    highlight_loss,
    published_name,
    span_loss,
    spell,
)

SMALL = {
    "feature_dim": 6,
    "word_dim": 5,
    "vocabulary_size": 9,
    "hidden_dim": 8,
    "character_dim": 4,
    "positions": 12,
    "heads": 2,
    "dropout": 0.0,
}
WORDS = ["a", "cat", "climbs", "extraordinarily", "the", "tree", "up"]


def small(**settings):
    torch.manual_seed(0)
    method = silent(VSLNet(**{**SMALL, **settings}))
    method.restore_extras({"vocabulary": WORDS, "steps": 7, "max_words": 5, "extractor": None})
    method.words.vectors.normal_()
    return method


@pytest.fixture
def batch():
    return made_batch(first_word=1)


def located(method, batch):
    return method.locate(batch.video, method.embed(batch.words), batch.video_mask, batch.word_mask)


# --- the paper's sizes ---


def linear(inputs, outputs):
    return inputs * outputs + outputs


def encoder(dim, positions):
    """Positions; four times norm, kernel of 7 and linear; two norms and four linear layers."""
    return positions * dim + 4 * (2 * dim + 7 * dim + linear(dim, dim)) + 2 * 2 * dim + 4 * linear(dim, dim)


def expected_sizes(predictor):
    dim, characters = 128, 2 + 36
    states = {"rnn": 2 * 4 * (2 * dim * dim + 2 * dim), "transformer": encoder(dim, 128) + 2 * 2 * dim}
    return {
        "words": 300,  # one learned vector for unknown words; the others are frozen
        "characters": characters * 50 + sum(linear(50 * k, 10 * k) for k in (1, 2, 3, 4)),
        "query_input": linear(300 + 100, dim),
        "video_input": linear(1024, dim),
        "encoder": encoder(dim, 128),
        "context_query": 3 * dim + linear(4 * dim, dim),
        "highlighting": dim + linear(2 * dim, dim) + linear(dim, 1),
        "predictor": states[predictor] + 2 * (linear(2 * dim, dim) + linear(dim, 1)),
    }


@pytest.mark.parametrize(("predictor", "total"), [("rnn", 782_871), ("transformer", 672_791)])
def test_full_size_parts_have_the_sizes_of_their_equations(predictor, total):
    full, expected = VSLNet(predictor=predictor), expected_sizes(predictor)
    assert {name: size(getattr(full, name)) for name in expected} == expected
    assert full.parameter_count() == sum(expected.values()) == total


def test_full_size_settings_are_those_of_the_card():
    settings = VSLNet().hparams
    assert (settings.hidden_dim, settings.heads, settings.positions, settings.predictor) == (128, 8, 128, "rnn")
    assert (settings.extend, settings.highlight_weight, settings.as_released) == (0.1, 5.0, False)
    recipe = settings.recipe
    assert (recipe.optimizer, recipe.lr, recipe.schedule, recipe.clip_norm) == ("adamw", 1e-4, "linear", 1.0)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_full_size_takes_one_step_that_reaches_every_parameter(batch, predictor):
    full = silent(VSLNet(predictor=predictor)).train()
    batch.video, batch.words = torch.randn(3, 7, 1024), torch.where(batch.word_mask, 1, 0)
    loss = full.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert [name for name, parameter in full.named_parameters() if parameter.grad is None] == []


# --- forward and training step ---


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_what_stands_in_the_padding_changes_nothing(batch, predictor):
    method = small(predictor=predictor).eval()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    noisy.words = torch.where(batch.word_mask, batch.words, 8)
    torch.testing.assert_close(method(noisy).scores, method(batch).scores)
    torch.testing.assert_close(method(noisy).spans, method(batch).spans)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_a_query_alone_is_answered_as_in_a_batch_of_longer_ones(batch, predictor):
    method = small(predictor=predictor).eval()
    together = method(batch)
    for row, (steps, words) in enumerate(zip(STEPS.tolist(), WORD_COUNTS.tolist(), strict=True)):
        one = batch[row : row + 1]
        one.video, one.video_mask = one.video[:, :steps], one.video_mask[:, :steps]
        one.words, one.word_mask = one.words[:, :words], one.word_mask[:, :words]
        alone = method(one)
        torch.testing.assert_close(alone.spans[0], together.spans[row, : alone.spans.shape[1]])
        torch.testing.assert_close(alone.scores[0], together.scores[row, : alone.spans.shape[1]])


def test_only_as_released_does_the_padding_leak(batch):
    method = small(as_released=True).eval()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    moved = (method(noisy).scores - method(batch).scores).abs().amax(dim=1) > 1e-6
    assert moved.tolist() == [False, True, False]


def test_the_answer_depends_on_the_sentence_and_on_the_video(batch):
    method = small().eval()
    other_words, other_video = copy.copy(batch), copy.copy(batch)
    other_words.words = torch.where(batch.word_mask, batch.words.flip(0).clamp(min=2), 0)
    other_video.video = batch.video.flip(1)
    for other in (other_words, other_video):
        assert not torch.allclose(method(other).scores, method(batch).scores)


def test_the_loss_is_the_span_loss_plus_the_weighted_highlighting(batch):
    method = small(highlight_weight=0.3, extend=0.5).train()
    found = located(method, batch)
    moment = seconds_to_steps(batch.span, torch.ones(3), STEPS)
    foreground = extended_foreground(moment, batch.video_mask, 0.5)
    expected = span_loss(found, moment) + 0.3 * highlight_loss(found, foreground)
    torch.testing.assert_close(method.training_step(batch, 0), expected)


def test_highlight_loss_counts_foreground_twice_and_padding_never(batch):
    torch.manual_seed(3)
    logits, foreground = (
        torch.randn(3, 7),
        extended_foreground(torch.tensor([[1, 2], [0, 0], [6, 6]]), batch.video_mask),
    )
    total = count = 0.0
    for row, column in itertools.product(range(3), range(7)):
        if batch.video_mask[row, column]:
            prob = logits[row, column].sigmoid()
            total += -2 * prob.log() if foreground[row, column] else -(1 - prob).log()
            count += 1
    found = highlight_loss(Located(logits, logits, logits, batch.video_mask), foreground)
    torch.testing.assert_close(found, total / count)


@pytest.mark.parametrize("extend", [0.0, 0.1, 0.25, 0.5])
def test_extended_foreground_ends_with_the_video(extend):
    mask = torch.arange(10) < torch.tensor([[10], [7]])
    for first, last in [(2, 5), (0, 6), (4, 4), (3, 6)]:
        margin = round(extend * (last - first + 1))
        for row, steps in enumerate((10, 7)):
            expected = [max(first - margin, 0) <= step <= min(last + margin, steps - 1) for step in range(10)]
            found = extended_foreground(torch.tensor([[first, last]] * 2), mask, extend)
            assert found[row].tolist() == expected


# --- joint decoding ---


def test_decoding_ranks_all_pairs_by_the_product_of_their_probabilities(batch):
    torch.manual_seed(4)
    logits = 3 * torch.randn(2, 3, 7).masked_fill(~batch.video_mask, IMPOSSIBLE)
    moments = decode_spans(Located(logits[0], logits[1], logits[0], batch.video_mask))
    for row, steps in enumerate(STEPS.tolist()):
        start, end = logits[0, row, :steps].softmax(0), logits[1, row, :steps].softmax(0)
        pairs = [(i, j) for i in range(steps) for j in range(i, steps)]
        pairs.sort(key=lambda pair: -float(start[pair[0]] * end[pair[1]]))
        spans = torch.tensor([[i / steps, (j + 1) / steps] for i, j in pairs])
        scores = torch.stack([start[i] * end[j] for i, j in pairs])
        torch.testing.assert_close(moments.spans[row, : len(pairs)], spans)
        torch.testing.assert_close(moments.scores[row, : len(pairs)], scores)
        assert not moments.spans[row, len(pairs) :].any()
        assert not moments.scores[row, len(pairs) :].any()


def test_decoding_never_ends_before_it_starts():
    start, end = torch.full((1, 5), -20.0), torch.full((1, 5), -20.0)
    start[0, 4], end[0, 0] = 20.0, 20.0
    moments = decode_spans(Located(start, end, start, torch.ones(1, 5, dtype=torch.bool)))
    assert (moments.spans[..., 1] > moments.spans[..., 0]).all()
    assert (moments.scores.diff(dim=1) <= 0).all()


def test_pairs_of_vanishing_probability_keep_their_order():
    start = torch.tensor([[0.0, -500.0, -510.0]])
    end = torch.tensor([[0.0, -500.0, -490.0]])
    moments = decode_spans(Located(start, end, start, torch.ones(1, 3, dtype=torch.bool)))
    assert (moments.scores[0, 1:] == 0).all()
    edges = (moments.spans[0] * 3).round().int().tolist()
    assert edges == [[0, 1], [0, 3], [0, 2], [1, 3], [1, 2], [2, 3]]


def test_a_video_of_one_step_is_its_own_answer():
    logits = torch.zeros(1, 1)
    moments = decode_spans(Located(logits, logits, logits, torch.ones(1, 1, dtype=torch.bool)))
    assert moments.spans.tolist() == [[[0.0, 1.0]]]
    assert moments.scores.tolist() == [[1.0]]


# --- words and how they are spelled ---


def test_words_are_spelled_by_the_vocabulary_and_survive_a_checkpoint(batch, tmp_path):
    method = small().eval()
    assert torch.equal(method.spelling[2:], spell(WORDS, method.hparams.alphabet, 20, 16))
    assert not method.spelling[:2].any()
    loaded = VSLNet.load(method.save(tmp_path / "m.safetensors"))
    assert torch.equal(loaded.spelling, method.spelling)
    assert torch.equal(loaded(batch).scores, method(batch).scores)


def test_words_without_vectors_are_told_apart_by_their_letters(batch):
    method = small().eval()
    method.words.vectors.zero_()
    vectors = method.embed(torch.arange(2, 9)[None])[0]
    assert torch.cdist(vectors, vectors).fill_diagonal_(1).min() > 1e-3


def test_a_words_vector_does_not_depend_on_other_words():
    vectors = []
    for words in (["cat"], ["cat", "extraordinarily"]):
        method = small().eval()
        method.restore_extras({"vocabulary": words, "steps": 7, "max_words": 5, "extractor": None})
        vectors.append(method.embed(torch.tensor([[2]])))
    assert torch.equal(*vectors)


def test_a_short_word_has_the_vector_it_would_have_behind_more_padding():
    convolution = small().eval().characters
    spelled = [spell(["cat"], "act", width, 16)[None].long() for width in (7, 20)]
    torch.testing.assert_close(*(convolution(table) for table in spelled))


def test_every_kernel_reads_its_letters():
    convolution = CharacterConvolution(9, 4, dropout=0.0)
    assert convolution(torch.randint(0, 9, (2, 3, 6))).shape == (2, 3, 100)
    assert convolution.embedding(torch.tensor([0])).any().item() is False


# --- released names ---


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_released_names_map_onto_all_of_ours(predictor):
    method = small(predictor=predictor)
    state = released(predictor)
    ours = method.published_state(state)
    method.check_weights(ours, Path("released.pth"))
    del ours["words.tags"]  # parts of speech come with the data
    assert sum(t.numel() for t in ours.values()) == sum(t.numel() for t in state.values()) + SMALL["word_dim"]


def test_released_weights_are_loaded_from_a_file(tmp_path):
    state = released("rnn")
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "released.pth")
    method = small()
    method.load_published(tmp_path / "released.pth")
    assert torch.equal(method.words.vectors[2:], state["embedding_net.word_emb.glove_vec"])
    assert torch.equal(method.predictor.states.end.weight_hh_l0, state["predictor.end_encoder.lstm.weight_hh_l0"])
    assert torch.equal(method.context_query.product[0], state["cq_attention.w4mlu"].flatten())


def test_released_weights_of_the_other_predictor_are_refused_in_one_sentence(tmp_path):
    torch.save(released("transformer"), tmp_path / "released.pth")
    with pytest.raises(InputError, match=r"weights do not fit VSLNet: 8 missing \(first: predictor\.states\.end\."):
        small().load_published(tmp_path / "released.pth")


def released(predictor):
    """A state dict with the names and shapes of the authors' code, in the sizes of `SMALL`."""
    torch.manual_seed(5)
    dim, known = 8, 7
    shapes = {
        "embedding_net.word_emb.pad_vec": (1, 5),
        "embedding_net.word_emb.unk_vec": (1, 5),
        "embedding_net.word_emb.glove_vec": (known, 5),
        "embedding_net.char_emb.char_emb.weight": (38, 4),
        "cq_attention.w4C": (dim, 1),
        "cq_attention.w4Q": (dim, 1),
        "cq_attention.w4mlu": (1, 1, dim),
        "cq_concat.weighted_pool.weight": (dim, 1),
    }
    for i in range(4):
        channels = 10 * (i + 1)
        shapes[f"embedding_net.char_emb.char_convs.{i}.0.weight"] = (channels, 4, 1, i + 1)
        shapes[f"embedding_net.char_emb.char_convs.{i}.0.bias"] = (channels,)
    convolutions = {
        "embedding_net.linear": (105, dim),
        "video_affine.linear": (6, dim),
        "cq_attention.cqa_linear": (4 * dim, dim),
        "cq_concat.conv1d": (2 * dim, dim),
        "highlight_layer.conv1d": (dim, 1),
    }
    for end in ("start", "end"):
        convolutions |= {f"predictor.{end}_block.0": (2 * dim, dim), f"predictor.{end}_block.2": (dim, 1)}
        if predictor == "rnn":
            lstm = f"predictor.{end}_encoder.lstm"
            shapes |= {f"{lstm}.{part}_l0": (4 * dim, dim) for part in ("weight_ih", "weight_hh")}
            shapes |= {f"{lstm}.{part}_l0": (4 * dim,) for part in ("bias_ih", "bias_hh")}
        else:
            shapes |= {f"predictor.{end}_layer_norm.{part}": (dim,) for part in ("weight", "bias")}
    for name in ("feature_encoder", *(["predictor.encoder"] if predictor == "transformer" else [])):
        shapes[f"{name}.pos_embedding.position_embeddings.weight"] = (12, dim)
        for i in range(4):
            layer = f"{name}.conv_block.depthwise_separable_conv.{i}"
            shapes |= {f"{layer}.0.weight": (dim, 1, 7), f"{layer}.1.weight": (dim, dim, 1), f"{layer}.1.bias": (dim,)}
            shapes |= {f"{name}.conv_block.layer_norms.{i}.{part}": (dim,) for part in ("weight", "bias")}
        block = f"{name}.attention_block"
        shapes |= {f"{block}.layer_norm{i}.{part}": (dim,) for i in (1, 2) for part in ("weight", "bias")}
        convolutions |= {f"{block}.{part}": (dim, dim) for part in ("query", "key", "value", "out_layer")}
    for name, (inputs, outputs) in convolutions.items():
        shapes |= {f"{name}.conv1d.weight": (outputs, inputs, 1), f"{name}.conv1d.bias": (outputs,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_published_names_are_distinct():
    names = [published_name(name) for name in released("rnn")]
    assert len(set(names)) == len(names)


# --- bad input, in one sentence ---


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"predictor": "rnm"}, r"predictor must be Literal\['rnn', 'transformer'\], found 'rnm'"),
        ({"heads": 3}, "heads: found 3, expected a divisor of hidden_dim, which is 8"),
        ({"alphabet": "abca"}, "alphabet: found 'abca', expected every character once"),
        ({"positions": 0}, "positions must be at least 1, found 0"),
        ({"word_length": 0}, "word_length must be at least 1, found 0"),
        ({"extend": -0.1}, r"extend must be at least 0, found -0\.1"),
    ],
)
def test_unusable_settings_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        build(VSLNet, {**SMALL, **settings})


def test_a_vocabulary_larger_than_the_settings_say_is_refused():
    with pytest.raises(InputError, match="vocabulary: found 7 words, expected at most 4"):
        small(vocabulary_size=6)


def test_a_video_longer_than_the_positions_is_refused(batch):
    with pytest.raises(InputError, match="positions: found a video or sentence of 7 steps, expected at most 6"):
        small(positions=6)(batch)


# --- learning ---


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_overfits_one_small_batch(batch, predictor):
    method = small(predictor=predictor, hidden_dim=16).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    best = learn_by_heart(method, batch, optimizer, steps=60)
    moment = seconds_to_steps(batch.span, torch.ones(3), STEPS)
    expected = (moment + torch.tensor([0, 1])) / STEPS[:, None]
    torch.testing.assert_close(best, expected)


def test_positions_reach_over_what_the_data_hold():
    data = GroundingData(train_videos=2, test_videos=1, steps=160)
    assert VSLNet.arguments_from(data)["positions"] == 160


def test_embedded_settings_learn_to_ground():
    data = GroundingData(train_videos=24, test_videos=4, steps=16, batch_size=16)
    torch.manual_seed(0)
    method = build(VSLNet, {**VSLNet.arguments_from(data), **VSLNet.embedded["model"], "hidden_dim": 24})
    losses = []
    method.report = lambda **parts: losses.append(float(parts["loss"].detach()))
    fit(method, data, trainer={"max_steps": 40, "max_epochs": -1, "limit_val_batches": 0})
    assert method.spelling[2:].any(dim=1).all()
    assert sum(losses[-5:]) < 0.88 * sum(losses[:5])
