"""LGI: the paper's sizes, its losses, its one answer, and what must not change it."""

import copy

import pytest
import torch

from grounding.made import learn_by_heart, made_batch, silent, size
from ommatid.engine.export import export_method
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.grounding.heads import step_centres, steps_inside
from ommatid.grounding.lgi import LGI, diversity_loss, guidance_loss, regression_loss
from ommatid.grounding.metrics import temporal_iou

SMALL = {
    "feature_dim": 6,
    "word_dim": 5,
    "vocabulary_size": 9,
    "hidden_dim": 12,
    "attention_dim": 7,
    "head_dim": 10,
    "kernel": 3,
    "positions": 8,
    "output": "sigmoid",
    "dropout": 0.0,
}


def small(**settings):
    torch.manual_seed(0)
    method = LGI(**{**SMALL, **settings})
    method.words.vectors[2:].normal_()
    return silent(method)


@pytest.fixture
def batch():
    return made_batch()


# --- the paper's sizes ---


def linear(inputs, outputs, bias=True):
    return inputs * outputs + outputs * bias


def lstm(inputs, dim):
    """Four gates over input and state, with torch's two biases."""
    return 4 * (inputs * dim + dim**2 + 2 * dim)


def test_full_size_parts_have_the_sizes_of_their_equations():
    full, dim, attention = LGI(), 512, 256
    pool = linear(dim, attention, bias=False) + linear(attention, 1, bias=False)
    expected = {
        "words": 300,  # one learned vector for unknown words; the others are frozen
        "query_encoder": 2 * (lstm(300, 256) + lstm(512, 256)),
        "video_input": linear(1024, dim),
        "positions": 128 * dim,
        "phrase_attention": 3 * linear(dim, dim)
        + linear(2 * dim, dim)
        + 2 * linear(dim, attention)
        + linear(attention, 1, bias=False),
        "fusion": 3 * 3 * linear(dim, dim),
        "near": 3 * 2 * (dim * dim * 15 + 2 * dim),
        "phrase_pool": pool,
        "far": 2 * (2 * linear(dim, dim) + linear(dim, dim, bias=False)),
        "time_pool": pool,
        "summary": linear(dim, dim),
        "head": linear(dim, dim) + linear(dim, 2),
    }
    assert {name: size(getattr(full, name)) for name in expected} == expected
    assert full.parameter_count() == sum(expected.values())


def test_full_size_settings_are_those_of_the_authors_for_charades():
    settings = build(LGI, {"hidden_dim": 4}).hparams
    assert (settings.phrases, settings.kernel, settings.global_blocks, settings.heads) == (3, 15, 2, 4)
    assert (settings.guidance_weight, settings.diversity_weight, settings.diversity) == (1.0, 1.0, 0.3)
    assert (settings.output, settings.dropout, settings.as_released) == ("relu", 0.5, False)
    recipe = settings.recipe
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.schedule) == ("adam", 4e-4, 0.0, "constant")


# --- forward ---


def test_every_query_gets_one_moment_inside_the_video(batch):
    moments = small().eval()(batch)
    assert moments.spans.shape == (3, 1, 2)
    assert moments.scores.shape == (3, 1)
    assert torch.equal(moments.spans, moments.spans.clamp(0, 1))
    assert (moments.spans[..., 0] <= moments.spans[..., 1]).all()


def test_the_score_is_the_attention_inside_the_moment(batch):
    method = small(output="relu").eval()
    torch.nn.init.zeros_(method.head[2].weight)
    method.head[2].bias.data = torch.tensor([0.2, 0.6])
    shares = method.regress(batch).attention_logits.softmax(dim=1)
    for score, share, centres in zip(method(batch).scores[:, 0], shares, step_centres(batch.video_mask), strict=True):
        inside = [part for part, centre in zip(share, centres, strict=True) if 0.2 <= centre <= 0.6]
        torch.testing.assert_close(score, torch.stack(inside).sum())


@pytest.mark.parametrize(
    ("output", "raw", "expected"),
    [
        ("relu", [0.2, 1.5], [0.2, 1.0]),
        ("relu", [-1.0, 0.5], [0.0, 0.5]),
        ("sigmoid", [0.0, 100.0], [0.5, 1.0]),
        ("relu", [0.7, 0.3], [0.7, 0.7]),
    ],
)
def test_a_regressed_span_is_kept_in_the_video_and_empty_where_it_ends_before_its_start(batch, output, raw, expected):
    method = small(output=output).eval()
    torch.nn.init.zeros_(method.head[2].weight)
    method.head[2].bias.data = torch.tensor(raw)
    torch.testing.assert_close(method(batch).spans[:, 0], torch.tensor(expected).expand(3, 2))


def test_padding_changes_nothing(batch):
    method = small().eval()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    noisy.words = torch.where(batch.word_mask, batch.words, 8)
    expected = method(batch)
    torch.testing.assert_close(vars(method(noisy)), vars(expected))
    for row in range(3):
        alone = batch[torch.tensor([row])]
        steps, words = int(batch.video_mask[row].sum()), int(batch.word_mask[row].sum())
        alone.video, alone.video_mask = alone.video[:, :steps], alone.video_mask[:, :steps]
        alone.words, alone.word_mask = alone.words[:, :words], alone.word_mask[:, :words]
        torch.testing.assert_close(method(alone).spans[0], expected.spans[row])
        torch.testing.assert_close(method(alone).scores[0], expected.scores[row])


def test_padding_changes_no_loss_and_no_running_statistic(batch):
    plain, other = small().train(), small().train()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    torch.testing.assert_close(plain.training_step(batch, 0), other.training_step(noisy, 0))
    torch.testing.assert_close(plain.state_dict(), other.state_dict())


def test_as_released_the_longest_video_of_a_batch_matters(batch):
    method = small(as_released=True).eval()
    alone = batch[torch.tensor([1])]
    alone.video, alone.video_mask = alone.video[:, :4], alone.video_mask[:, :4]
    assert not torch.allclose(method.regress(alone).span[0], method.regress(batch).span[1])
    method.hparams.as_released = False
    torch.testing.assert_close(method.regress(alone).span[0], method.regress(batch).span[1])


def test_the_answer_depends_on_the_sentence_on_the_video_and_on_the_order_of_both(batch):
    method = small().eval()
    other_words, other_video, later = copy.copy(batch), copy.copy(batch), copy.copy(batch)
    other_words.words = batch.words.flip(1) * batch.word_mask + 2 * batch.word_mask
    other_words.words = other_words.words.clamp(max=8)
    other_video.video = batch.video + 1
    later.video = batch.video.flip(1)
    for other in (other_words, other_video, later):
        assert not torch.allclose(method.regress(other).span, method.regress(batch).span)


# --- training ---


def test_the_loss_is_the_weighted_sum_of_three(batch):
    method = small(guidance_weight=0.5, diversity_weight=2.0, diversity=0.2).eval()
    found = method.regress(batch)
    expected = (
        regression_loss(found.span, batch.span)
        + 0.5 * guidance_loss(found.attention_logits, steps_inside(batch.video_mask, batch.span))
        + 2.0 * diversity_loss(found.phrase_weights, 0.2)
    )
    torch.testing.assert_close(method.training_step(batch, 0), expected)


def test_guidance_is_least_where_attention_is_even_over_the_moment(batch):
    foreground = torch.tensor([[False, True, True, False]])
    even = torch.tensor([[-50.0, 0.0, 0.0, float("-inf")]])
    assert guidance_loss(even, foreground).item() == pytest.approx(torch.tensor(2.0).log().item())
    for other in ([[0.0, 0.0, 0.0, 0.0]], [[-50.0, 2.0, 0.0, float("-inf")]]):
        assert guidance_loss(torch.tensor(other), foreground) > guidance_loss(even, foreground)


def test_the_gradient_of_the_guidance_is_finite_next_to_padding():
    logits = torch.randn(2, 4, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    guidance_loss(logits.masked_fill(~mask, float("-inf")), mask & torch.tensor([False, True, True, True])).backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[~mask].any()


def test_diversity_counts_words_that_phrases_share():
    apart = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    shared = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    assert diversity_loss(apart, 1.0) == 0
    assert diversity_loss(shared, 1.0) == 2
    assert diversity_loss(torch.cat([apart, shared]), 1.0) == 1


def test_every_parameter_learns(batch):
    method = small().train()
    batch.words[0, 0] = 1
    method.training_step(batch, 0).backward()
    assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_one_batch_is_learnt_by_heart(batch):
    method = small(hidden_dim=24).train()
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    best = learn_by_heart(method, batch, optimizer, steps=150)
    assert (temporal_iou(best, batch.span) > 0.8).all()


def test_a_half_precision_step_is_finite(batch):
    method = small().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.training_step(batch, 0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in method.parameters())


# --- checkpoints, export, released names ---


def test_a_checkpoint_gives_the_same_moments(batch, tmp_path):
    method = small()
    method.training_step(batch, 0)  # moves the running statistics
    method.eval()
    loaded = LGI.load(method.save(tmp_path / "m.safetensors")).eval()
    assert torch.equal(loaded(batch).spans, method(batch).spans)
    assert torch.equal(loaded(batch).scores, method(batch).scores)


def test_the_exported_program_gives_the_same_moments(tmp_path):
    method = small().eval()
    method.steps, method.max_words = 8, 5
    assert export_method(method, tmp_path / "lgi.pt2", "torch") < 1e-4


def released(dim=12, words=9, phrases=3, blocks=2):
    """Names and shapes of the authors' file, flattened."""
    half = dim // 2
    shapes = {
        "query_enc.embedding.weight": (words, 5),
        "video_enc.vid_emb_fn.0.weight": (dim, 6),
        "video_enc.vid_emb_fn.0.bias": (dim,),
        "video_enc.pos_emb_fn.0.weight": (8, dim),
        "sqan.guide_emb_fn.0.weight": (dim, 2 * dim),
        "sqan.guide_emb_fn.0.bias": (dim,),
        "sqan.att_fn.to_alpha.weight": (1, 7),
        "sqan.att_fn.to_alpha.bias": (1,),
        "ta_reg_fn.MLP_reg.0.weight": (10, dim),
        "ta_reg_fn.MLP_reg.0.bias": (10,),
        "ta_reg_fn.MLP_reg.2.weight": (2, 10),
        "ta_reg_fn.MLP_reg.2.bias": (2,),
    }
    for layer, inputs in enumerate((5, dim)):
        for suffix in ("", "_reverse"):
            shapes |= {
                f"query_enc.rnn.weight_ih_l{layer}{suffix}": (4 * half, inputs),
                f"query_enc.rnn.weight_hh_l{layer}{suffix}": (4 * half, half),
                f"query_enc.rnn.bias_ih_l{layer}{suffix}": (4 * half,),
                f"query_enc.rnn.bias_hh_l{layer}{suffix}": (4 * half,),
            }
    square = [f"sqan.global_emb_fn.{n}" for n in range(phrases)]
    square += [f"vti_fn.fusion_fn.{n}.fc_{part}" for n in range(phrases) for part in (1, 2, 3)]
    square += [f"vti_fn.global_fn.{n}.v_lin" for n in range(blocks)] + ["vti_fn.satt_fn.fc", "ta_reg_fn.tatt.fc"]
    for name in square:
        shapes |= {f"{name}.weight": (dim, dim), f"{name}.bias": (dim,)}
    for name in ("sqan.att_fn.key2att", "sqan.att_fn.feat2att"):
        shapes |= {f"{name}.weight": (7, dim), f"{name}.bias": (7,)}
    for name in ("vti_fn.satt_fn", "ta_reg_fn.tatt"):
        shapes |= {f"{name}.feat2att.weight": (7, dim), f"{name}.to_alpha.weight": (1, 7)}
    for n in range(blocks):
        shapes |= {f"vti_fn.global_fn.{n}.c_lin.weight": (2 * dim, dim), f"vti_fn.global_fn.{n}.c_lin.bias": (2 * dim,)}
    for n in range(phrases):
        block = f"vti_fn.local_fn.{n}.blocks.0"
        shapes |= {f"{block}.{conv}.weight": (dim, dim, 3) for conv in (0, 3)}
        for norm in (1, 4):
            shapes |= {f"{block}.{norm}.{part}": (dim,) for part in ("weight", "bias", "running_mean", "running_var")}
            shapes[f"{block}.{norm}.num_batches_tracked"] = ()
    return {name: torch.randn(shape).abs() for name, shape in shapes.items()}


def test_every_released_tensor_finds_its_place(tmp_path):
    method, state = small(), released()
    torch.save(state, tmp_path / "released.pth")
    method.load_published(tmp_path / "released.pth")
    assert torch.equal(method.words.vectors, state["query_enc.embedding.weight"])
    assert torch.equal(method.words.unknown, state["query_enc.embedding.weight"][1])
    assert torch.equal(method.query_encoder.back[1].weight_hh_l0, state["query_enc.rnn.weight_hh_l1_reverse"])
    assert torch.equal(method.near[2].norms[1].running_var, state["vti_fn.local_fn.2.blocks.0.4.running_var"])
    assert torch.equal(method.far[1].key.weight, state["vti_fn.global_fn.1.c_lin.weight"][:12])
    assert torch.equal(method.far[1].value.bias, state["vti_fn.global_fn.1.c_lin.bias"][12:])
    assert torch.equal(method.far[0].query.weight, state["vti_fn.global_fn.0.v_lin.weight"])
    used = sum(
        tensor.numel()
        for name, tensor in state.items()
        if not name.endswith(("num_batches_tracked", "running_mean", "running_var", "att_fn.to_alpha.bias"))
        and "satt_fn.fc" not in name
    )
    keys = 2 * 12  # biases of the keys
    assert method.parameter_count() == used - keys - 9 * 5 + 5


def test_released_weights_of_another_vocabulary_or_size_are_refused(tmp_path):
    torch.save(released(words=11), tmp_path / "words.pth")
    with pytest.raises(InputError, match=r"words\.vectors"):
        small().load_published(tmp_path / "words.pth")
    torch.save(released(phrases=4), tmp_path / "phrases.pth")
    with pytest.raises(InputError, match="weights do not fit LGI: 0 missing"):
        small().load_published(tmp_path / "phrases.pth")


# --- bad input, embedded settings ---


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hidden_dim": 14}, "hidden_dim: found 14, expected an even multiple of heads, which is 4"),
        ({"hidden_dim": 9, "heads": 3}, "hidden_dim: found 9, expected an even multiple of heads, which is 3"),
        ({"kernel": 4}, "kernel must be odd, found 4"),
        ({"phrases": 0}, "phrases must be at least 1, found 0"),
        ({"heads": 0}, "heads must be at least 1, found 0"),
    ],
)
def test_settings_that_make_no_network_are_refused_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        small(**settings)
    assert "\n" not in str(refused.value)


def test_a_video_longer_than_the_positions_is_refused(batch):
    with pytest.raises(InputError, match="positions: found a video of 7 steps, expected at most 5"):
        small(positions=5)(batch)
