"""MGSL-Net: the paper's sizes, what its memory does, and which parts can be left out."""

import copy

import pytest
import torch

from grounding.made import made_batch, silent, size
from ommatid.engine.fit import fit
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.heads import dense_loss, steps_inside
from ommatid.grounding.mgsl_net import (
    MEMORIES,
    MGSLNet,
    published_fusion,
    published_graph_layer,
    published_memory,
)
from ommatid.nn.slot_memory import SlotMemory

SMALL = {"feature_dim": 6, "word_dim": 5, "vocabulary_size": 9, "hidden_dim": 8, "video_dim": 8, "memory_slots": 4}


def small(**settings):
    torch.manual_seed(0)
    return silent(MGSLNet(**{**SMALL, "graph_layers": 1, "dropout": 0.0, **settings}))


@pytest.fixture(scope="module")
def full():
    return silent(MGSLNet())


@pytest.fixture
def batch():
    return made_batch()


# --- the paper's sizes ---


def linear(inputs, outputs, bias=True):
    return inputs * outputs + bias * outputs


def gru(inputs, per_direction):
    """Both directions: three gates over input and state, with torch's two biases."""
    return 2 * 3 * (inputs * per_direction + per_direction**2 + 2 * per_direction)


def attention(dim):
    return 4 * linear(dim, dim)


def test_full_size_parts_have_the_sizes_of_their_equations(full):
    dim, video_dim = 512, 500
    node_update = 3 * linear(2 * dim, dim)
    half = 2 * attention(dim) + linear(2 * dim, dim) + 2 * dim + linear(dim, 2 * dim) + linear(2 * dim, dim)
    expected = {
        "words": 300,  # one learned vector for unknown words; the others are frozen
        "video_input": linear(500, video_dim),
        "video_local": 2 * (attention(video_dim) + 2 * video_dim),
        "video_encoder": gru(video_dim, 256),
        "query_encoder": gru(300, 256),
        "query_local": attention(dim) + 2 * dim,
        "graph": 2 * (linear(dim, dim, bias=False) + 4 * node_update),  # E3-E7, two layers
        "video_memory": 5 * linear(dim, dim) + dim**2,  # E9-E12: two keys, erase, add, output over [x; h]
        "query_memory": 5 * linear(dim, dim) + dim**2,
        "attention": 2 * half,
        "tell": linear(dim, dim) + linear(dim, dim, bias=False) + dim,
        "fusion": gru(2 * dim, 256),
        "head": 3 * linear(dim, dim) + linear(dim, 1) + linear(dim, 2) + linear(dim, 1),
    }
    assert {name: size(getattr(full, name)) for name in expected} == expected
    assert full.parameter_count() == sum(expected.values()) == 32_239_012
    assert full.video_memory.memory.shape == full.query_memory.memory.shape == (256, dim)


def test_full_size_settings_are_those_of_the_card(full):
    settings = full.hparams
    assert (settings.feature_dim, settings.hidden_dim, settings.heads, settings.window) == (500, 512, 4, 3)
    assert (settings.dropout, settings.tau, settings.graph_layers, settings.normalise) == (0.2, 0.1, 2, "sender")
    recipe = settings.recipe
    assert (recipe.lr, recipe.weight_decay, recipe.schedule, recipe.warmup_steps) == (8e-4, 1e-7, "inverse_sqrt", 300)
    data = GroundingData(train_videos=1, test_videos=1)
    assert (data.steps, data.max_words) == (200, 20)


def test_full_size_takes_one_step(full, batch):
    batch.video, batch.words = torch.randn(3, 7, 500), torch.where(batch.word_mask, 1, 0)
    loss = full.train().training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert [name for name, parameter in full.named_parameters() if parameter.grad is None] == []


# --- forward and training step ---


def test_there_is_one_moment_a_step_and_the_best_comes_first(batch):
    moments = small().eval()(batch)
    assert moments.spans.shape == (3, 7, 2)
    assert (moments.scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("encoder", ["gru", "conv"])
@pytest.mark.parametrize("normalise", ["sender", "receiver"])
def test_padding_changes_nothing(batch, encoder, normalise):
    method = small(encoder=encoder, normalise=normalise).eval()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    noisy.words = torch.where(batch.word_mask, batch.words, 8)
    torch.testing.assert_close(method(noisy).scores, method(batch).scores)
    torch.testing.assert_close(method(noisy).spans, method(batch).spans)


def test_the_loss_is_the_weighted_sum_of_its_parts(batch):
    method = small(regression_weight=0.3, quality_weight=0.7).train()
    twin = copy.deepcopy(method)
    torch.manual_seed(2)
    loss = twin.training_step(batch, 0)
    torch.manual_seed(2)
    parts = dense_loss(method.regress(batch)[0], batch.span)
    torch.testing.assert_close(loss, parts.classification + 0.3 * parts.regression + 0.7 * parts.quality)


def test_the_answer_depends_on_the_sentence_and_on_the_video(batch):
    method = small().eval()
    method.words.vectors.normal_()
    other_words, other_video = copy.copy(batch), copy.copy(batch)
    other_words.words = batch.words.flip(0)
    other_video.video = batch.video + 1
    for other in (other_words, other_video):
        assert not torch.allclose(method(other).scores, method(batch).scores)


def test_the_optimiser_sees_everything_but_the_memories():
    named = dict(small().named_parameters())
    assert not any(name.endswith("memory.memory") for name in named)
    assert not any(name.endswith("vectors") for name in named)


# --- the memory ---


def test_training_writes_and_evaluation_only_reads(batch):
    method = small()
    method.train()
    slots = method.video_memory.memory.clone(), method.query_memory.memory.clone()
    method.training_step(batch, 0)
    written = method.video_memory.memory.clone(), method.query_memory.memory.clone()
    assert not any(torch.equal(old, new) for old, new in zip(slots, written, strict=True))
    method.eval()(batch)
    assert torch.equal(method.video_memory.memory, written[0])
    assert torch.equal(method.query_memory.memory, written[1])


def test_only_frames_inside_the_moment_and_valid_words_are_written(batch, monkeypatch):
    method, masks = small().train(), []
    original = SlotMemory.write
    monkeypatch.setattr(SlotMemory, "write", lambda self, x, mask: masks.append(mask) or original(self, x, mask))
    method.training_step(batch, 0)
    assert torch.equal(masks[0], steps_inside(batch.video_mask, batch.span))
    assert torch.equal(masks[1], batch.word_mask)


def test_a_checkpoint_carries_what_the_memories_hold(batch, tmp_path):
    method = small().train()
    method.training_step(batch, 0)
    loaded = MGSLNet.load(method.save(tmp_path / "m.safetensors"))
    assert torch.equal(loaded.video_memory.memory, method.video_memory.memory)
    assert torch.equal(loaded(batch).scores, method.eval()(batch).scores)


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_arm_trains(batch, memory):
    method = small(memory=memory).train()
    method.training_step(batch, 0).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert ("video_memory.memory" in method.state_dict()) == (memory != "mlp")


def test_the_control_has_the_capacity_of_the_memory():
    full, control = small(hidden_dim=48), small(hidden_dim=48, memory="mlp")
    assert control.parameter_count() == pytest.approx(full.parameter_count(), rel=0.005)


def test_both_ways_of_writing_are_offered(batch):
    stored = []
    for write in ("sequential", "batched"):
        method = small(write=write).train()
        method.training_step(batch, 0)
        stored.append(method.video_memory.memory)
    assert not torch.allclose(*stored)


# --- parts that can be left out, and the cycle ---


@pytest.mark.parametrize("settings", [{"graph_layers": 0}, {"attention_blocks": 0}, {"graph_layers": 2}])
def test_parts_are_repeated_or_left_out(batch, settings):
    method = small(**settings).train()
    assert len(method.graph) == settings.get("graph_layers", 1)
    assert len(method.attention) == settings.get("attention_blocks", 1)
    method.training_step(batch, 0).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def slow_cycle(video, query, align):
    """E8, one word after the other."""
    similarity = (video @ align.T) @ query.T
    to_frames, to_words = similarity.softmax(dim=0), similarity.softmax(dim=1)
    return [-torch.log(sum(to_frames[t, n] * to_words[t, n] for t in range(len(video)))) for n in range(len(query))]


def test_the_cycle_loss_leads_every_word_home(batch):
    method = small(cycle_weight=1.0)
    video, query = torch.randn(3, 7, 8), torch.randn(3, 5, 8)
    losses = []
    for row in range(3):
        frames, words = video[row][batch.video_mask[row]], query[row][batch.word_mask[row]]
        losses += slow_cycle(frames, words, method.cycle_align.weight)
    torch.testing.assert_close(method.cycle_loss(video, query, batch), torch.stack(losses).mean())


def test_the_cycle_costs_nothing_unless_it_is_asked_for(batch):
    assert small().cycle_align is None
    method = small(cycle_weight=0.5).train()
    method.training_step(batch, 0).backward()
    assert method.cycle_align.weight.grad.any()


# --- released names ---


def released_graph(dim):
    shapes = {"atten.q_proj.weight": (dim, dim)}
    for node in ("update_v", "update_s", "update_v_intra", "update_s_intra"):
        for gate in ("update_gate", "reset_gate", "out_gate"):
            shapes |= {f"{node}.{gate}.weight": (dim, 2 * dim), f"{node}.{gate}.bias": (dim,)}
    shapes |= {"v2s.ws1.weight": (dim, dim), "v2s.ws1.bias": (dim,)}
    shapes |= {"v2s.ws2.weight": (dim, dim), "v2s.wst.weight": (1, dim)}
    for suffix in ("", "_reverse"):
        for part, shape in {"weight_ih": (3 * dim // 2, 2 * dim), "weight_hh": (3 * dim // 2, dim // 2)}.items():
            shapes |= {f"rnn.gru.{part}_l0{suffix}": shape, f"rnn.gru.bias_{part[-2:]}_l0{suffix}": (3 * dim // 2,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def released_memory(dim, slots):
    state = {"memory": torch.randn(slots, dim)}
    for name in ("write_key_proj", "write_val_proj", "erase_val_proj"):
        state |= {f"{name}.weight": torch.randn(dim, dim), f"{name}.bias": torch.randn(dim)}
    return state


def test_released_parts_are_loaded_under_our_names(tmp_path):
    method, state = small(), released_graph(8) | released_memory(8, 4)
    untouched = method.head.inside[0].weight.clone()
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "released.pth")
    method.load_published(tmp_path / "released.pth")
    assert torch.equal(method.graph[0].align.weight, state["atten.q_proj.weight"])
    assert torch.equal(method.video_memory.memory, state["memory"])
    assert torch.equal(method.tell.weight.weight, state["v2s.wst.weight"])
    assert torch.equal(method.fusion.back.weight_hh_l0, state["rnn.gru.weight_hh_l0_reverse"])
    assert torch.equal(method.head.inside[0].weight, untouched)


def test_every_released_tensor_finds_its_place():
    graph, memory = released_graph(8), released_memory(8, 4)
    attention_state, gru_state = published_fusion(graph)
    found = [*published_graph_layer(graph).values(), *attention_state.values(), *gru_state.values()]
    assert sum(tensor.numel() for tensor in found) == sum(tensor.numel() for tensor in graph.values())
    assert sum(t.numel() for t in published_memory(memory).values()) == sum(t.numel() for t in memory.values())


def test_weights_of_another_size_are_refused(tmp_path):
    torch.save(released_memory(8, 5), tmp_path / "released.pth")
    with pytest.raises(InputError, match=r"video_memory\.memory has the shape \(5, 8\), expected \(4, 8\)"):
        small().load_published(tmp_path / "released.pth")


# --- claims, embedded settings ---


def test_arms_of_the_claims_are_methods_that_build():
    for claim in MGSLNet.claims:
        assert {arm.role for arm in claim.arms.values()} & {"method"}
        for arm in claim.arms.values():
            method = build(MGSLNet, {**MGSLNet.embedded["model"], **arm.model})
            assert method.parameter_count() > 0


def test_the_claim_compares_equal_capacity_on_rare_queries():
    claim = MGSLNet.claims[0]
    control = claim.arms[claim.criteria[0].versus]
    assert claim.data["view"] == "rare"
    sizes = [
        build(MGSLNet, {**MGSLNet.embedded["model"], **arm.model}).parameter_count()
        for arm in (control, next(iter(claim.arms.values())))
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.005)


def test_embedded_settings_learn_to_ground():
    data = GroundingData(train_videos=24, test_videos=4, steps=16, batch_size=16)
    torch.manual_seed(0)
    method = build(
        MGSLNet, {**MGSLNet.arguments_from(data), **MGSLNet.embedded["model"], "hidden_dim": 24, "video_dim": 24}
    )
    losses = []
    method.report = lambda **parts: losses.append(float(parts["loss"].detach()))
    fit(method, data, trainer={"max_steps": 40, "max_epochs": -1, "limit_val_batches": 0})
    assert sum(losses[-5:]) < 0.88 * sum(losses[:5])
