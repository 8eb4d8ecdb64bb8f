"""SSRN: the card's sizes, what siamese frames and soft labels do, and which arms can be set apart."""

import copy

import pytest
import torch

from grounding.made import made_batch, silent, size
from ommatid.engine.export import export_method
from ommatid.engine.fit import evaluate, fit
from ommatid.engine.settings import build, merge
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.metrics import temporal_iou
from ommatid.grounding.sampling import soft_boundary_labels, soft_foreground
from ommatid.grounding.ssrn import SSRN, Located, cross_entropy
from ommatid.grounding.task import GroundingBatch
from ommatid.nn.siamese import SiameseAggregator, propagate_soft_labels

SMALL = {"feature_dim": 6, "word_dim": 5, "vocabulary_size": 9, "hidden_dim": 8, "steps": 4, "siamese": 2}


def small(**settings):
    torch.manual_seed(0)
    method = SSRN(**{**SMALL, "dropout": 0.0, **settings})
    method.words.vectors[2:].normal_()
    return silent(method)


@pytest.fixture
def batch():
    return made_batch()


def long_batch(clips=(60, 37, 60)):
    """Videos of many clips, so that steps lie far apart."""
    batch = made_batch()
    torch.manual_seed(2)
    batch.video = torch.randn(3, 60, 6)
    batch.video_mask = torch.arange(60) < torch.tensor(clips)[:, None]
    return batch


def certain(method, batch, index):
    """What a network would say that gives its own targets."""
    mask = batch.video_mask
    clips = mask.sum(dim=1)
    blank = Located(*[torch.zeros(index.shape)] * 3, None, index, clips, (clips - 1) / (index.shape[2] - 1))
    targets = method.targets(batch.span, blank)
    return (
        Located(
            targets.start.clamp(min=1e-30).log(),
            targets.end.clamp(min=1e-30).log(),
            targets.inside,
            None,
            index,
            blank.clips,
            blank.stride,
        ),
        targets,
    )


# --- the card's sizes ---


def test_full_size_settings_are_those_of_the_card():
    full = SSRN()
    settings, dim = full.hparams, 512
    assert (settings.hidden_dim, settings.steps, settings.siamese, settings.omega) == (dim, 200, 4, 0.5)
    assert (settings.inside_weight, settings.regression_weight, settings.siamese_weight) == (2.0, 1.0, 1.0)
    assert (settings.dropout, settings.propagation, settings.frames, settings.labels) == (0.2, 0.3, "between", "soft")
    assert (settings.sampling, settings.interaction, settings.encoder) == ("frame", "graph", "gru")
    assert (settings.recipe.lr, settings.recipe.schedule, settings.recipe.warmup_steps) == (8e-4, "inverse_sqrt", 300)
    assert size(full.aggregate) == 2 * dim**2 + dim  # W_1 and W_2 of E8, one bias
    assert size(full.head) == dim**2 + dim + 3 * dim + 3
    assert size(full.video_input) == 500 * dim + dim


def test_full_size_takes_one_step(batch):
    torch.manual_seed(0)
    full = silent(SSRN(steps=6)).train()
    batch.video, batch.words = torch.randn(3, 7, 500), torch.where(batch.word_mask, 1, 0)
    loss = full.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert [name for name, parameter in full.named_parameters() if parameter.grad is None] == []


def test_data_keep_their_clips_and_the_method_samples_them():
    data = GroundingData(train_videos=4, test_videos=2, batch_size=4, steps=8)
    method = build(SSRN, {**SSRN.arguments_from(data), **SSRN.embedded["model"], "hidden_dim": 8})
    method.adopt(data)
    batch = data.first_batch("train", 4)
    assert (data.steps, method.hparams.steps) == (1024, 8)
    assert batch.video_mask.sum(dim=1).min() >= 96
    assert method.sample(batch.video_mask).shape == (4, 5, 8)


# --- forward ---


def test_there_is_a_moment_for_every_pair_of_steps_and_the_best_comes_first(batch):
    moments = small().eval()(batch)
    assert moments.spans.shape == (3, 4 * 5 // 2, 2)
    assert (moments.scores.diff(dim=1) <= 0).all()
    assert ((moments.spans >= 0) & (moments.spans <= 1)).all()
    assert (moments.spans[:, 0, 1] > moments.spans[:, 0, 0]).all()


ARMS = [
    {},
    {"interaction": "context_query"},
    {"encoder": "conv"},
    {"siamese": 0},
    {"siamese": 0, "labels": "snapped"},
    {"labels": "snapped"},
    {"sampling": "mean"},
    {"frames": "around"},
    {"frames": "copies"},
    {"infer_anchor_only": True},
]


@pytest.mark.parametrize("settings", ARMS)
def test_padding_changes_nothing(batch, settings):
    method = small(**settings).eval()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    noisy.words = torch.where(batch.word_mask, batch.words, 8)
    together = method(batch)
    torch.testing.assert_close(method(noisy).scores, together.scores)
    torch.testing.assert_close(method(noisy).spans, together.spans)
    clips, words = int(batch.video_mask[1].sum()), int(batch.word_mask[1].sum())
    one = batch[1:2]
    one.video, one.video_mask = one.video[:, :clips], one.video_mask[:, :clips]
    one.words, one.word_mask = one.words[:, :words], one.word_mask[:, :words]
    torch.testing.assert_close(method(one).scores[0], together.scores[1])
    torch.testing.assert_close(method(one).spans[0], together.spans[1])


@pytest.mark.parametrize("settings", ARMS)
def test_every_arm_learns_with_all_its_weights(settings):
    method = small(**settings).train()
    method.eta.fill_(0.3)
    loss = method.training_step(long_batch(), 0)
    loss.backward()
    assert loss.isfinite()
    idle = {name for name, parameter in method.named_parameters() if parameter.grad is None}
    assert idle <= {"words.unknown"}


def test_the_answer_depends_on_the_sentence_and_on_the_video(batch):
    method = small().eval()
    other_words, other_video = copy.copy(batch), copy.copy(batch)
    other_words.words = batch.words.flip(0)
    other_video.video = batch.video + 1
    for other in (other_words, other_video):
        assert not torch.allclose(method(other).scores, method(batch).scores)


# --- siamese frames (E4, E8) ---


def seen_clips(method, batch):
    """Which clips a prediction depends on."""
    video = batch.video.clone().requires_grad_()
    noisy = copy.copy(batch)
    noisy.video = video
    method.eval()(noisy).scores.sum().backward()
    return video.grad.abs().sum(dim=-1) > 0


@pytest.mark.parametrize("settings", [{}, {"frames": "around"}, {"frames": "copies"}, {"siamese": 0}])
def test_a_prediction_sees_the_sampled_clips_and_no_others(settings):
    batch, method = long_batch(), small(**settings)
    sampled = method.sample(batch.video_mask)[0].unique().tolist()
    assert seen_clips(method, batch)[0].nonzero()[:, 0].tolist() == sampled
    only_anchors = settings.get("frames") == "copies" or settings.get("siamese") == 0
    assert (sampled == [0, 19, 39, 59]) == only_anchors


def test_means_see_every_clip():
    batch = long_batch()
    assert seen_clips(small(siamese=0, sampling="mean"), batch)[batch.video_mask].all()


def test_all_sequences_are_read_by_the_same_weights_at_once(batch, monkeypatch):
    method, shapes = small().eval(), []
    original = type(method.video_encoder).forward
    monkeypatch.setattr(
        type(method.video_encoder), "forward", lambda self, x, mask: shapes.append(x.shape) or original(self, x, mask)
    )
    located = method.locate(batch)
    assert torch.Size([9, 4, 8]) in shapes
    # A sequence that shows the same clips gets the same answer, whatever its place.
    same = small(frames="copies").eval().locate(batch)
    torch.testing.assert_close(same.start[:, 0], same.start[:, 2])
    assert not torch.allclose(located.start[:, 0], located.start[:, 2])


def test_without_siamese_frames_nothing_is_aggregated(batch):
    alone = small(siamese=0)
    assert alone.aggregate is None
    assert alone.locate(batch).affinity is None
    assert small().locate(batch).affinity.shape == (3, 4, 3, 3)


def test_copies_have_the_size_of_siamese_frames():
    assert size(small(frames="copies")) == size(small()) == size(small(siamese=0)) + 2 * 8**2 + 8


def test_anchors_alone_are_read_where_siamese_frames_inform_them_before(batch, monkeypatch):
    method, read = small(infer_anchor_only=True).eval(), []
    original = SSRN.read
    monkeypatch.setattr(
        SSRN, "read", lambda self, video, batch: read.append(video.shape[1]) or original(self, video, batch)
    )
    moments = method(batch)
    method.train().training_step(batch, 0)
    assert read == [1, 3]
    # The anchors still depend on what lies between them.
    other = copy.copy(batch)
    other.video = batch.video.clone()
    other.video[0, 1] += 1
    index = method.sample(batch.video_mask)[0]
    assert 1 not in index[0].tolist()
    assert 1 in index[1:].flatten().tolist()
    assert not torch.allclose(method.eval()(other).scores[0], moments.scores[0])


# --- targets (E3, E10, E12) ---


def test_soft_targets_are_those_of_each_sequence():
    batch, method = long_batch(), small()
    index = method.sample(batch.video_mask)
    _, targets = certain(method, batch, index)
    for row, clips in enumerate([60, 37, 60]):
        start, end = (batch.span[row] * clips).tolist()
        for k in range(3):
            sequence = index[row, k]
            expected = soft_boundary_labels(torch.tensor(start), sequence)
            torch.testing.assert_close(targets.start[row, k], expected, atol=1e-5, rtol=1e-4)
            expected = soft_boundary_labels(torch.tensor(end - 1), sequence)
            torch.testing.assert_close(targets.end[row, k], expected, atol=1e-5, rtol=1e-4)
            expected = soft_foreground(torch.tensor([start, end]), sequence)
            torch.testing.assert_close(targets.inside[row, k], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(targets.ends, batch.span * torch.tensor([[60.0], [37.0], [60.0]]) - torch.tensor([0, 1]))


def test_snapped_targets_mark_the_first_and_the_last_frame_inside():
    batch, method = long_batch((60, 60, 60)), small(labels="snapped", steps=7)
    batch.span = torch.tensor([[6 / 60, 30 / 60], [0.0, 1.0], [31 / 60, 35 / 60]])
    index = method.sample(batch.video_mask)
    _, targets = certain(method, batch, index)
    for row, (first, last) in enumerate([(6, 29), (0, 59), (31, 34)]):
        for k in range(3):
            inside = [t for t, clip in enumerate(index[row, k].tolist()) if first <= clip <= last]
            if not inside:
                inside = [max(t for t, clip in enumerate(index[row, k].tolist()) if clip <= last)]
            assert targets.start[row, k].nonzero().flatten().tolist() == inside[:1]
            assert targets.end[row, k].nonzero().flatten().tolist() == inside[-1:]
            assert targets.inside[row, k].nonzero().flatten().tolist() == inside


def test_snapped_training_knows_no_more_than_the_snapped_boundaries():
    batch, other = long_batch((60, 60, 60)), long_batch((60, 60, 60))
    batch.span = torch.tensor([[1 / 60, 45 / 60], [2 / 60, 41 / 60], [5 / 60, 59 / 60]])
    other.span = torch.tensor([[9 / 60, 50 / 60], [19 / 60, 59 / 60], [18 / 60, 45 / 60]])
    base, soft = small(siamese=0, labels="snapped").eval(), small(siamese=0).eval()
    assert torch.equal(base.training_step(batch, 0), base.training_step(other, 0))
    assert not torch.allclose(soft.training_step(batch, 0), soft.training_step(other, 0))


@pytest.mark.parametrize("siamese", [0, 4])
def test_soft_targets_decode_to_the_annotated_moment(siamese, monkeypatch):
    batch, method = long_batch(), small(siamese=siamese, steps=8)
    # Not from the very beginning, where the shifted sequences have no step yet.
    batch.span[2, 0] = 0.15
    located, targets = certain(method, batch, method.sample(batch.video_mask))
    monkeypatch.setattr(method, "locate", lambda *_, **__: located)
    clips = batch.video_mask.sum(dim=1, keepdim=True)
    error = (method(batch).spans[:, 0] - batch.span).abs() * clips
    # One sequence finds it exactly; the window over several may cut off the tail of some of them.
    assert error.max() < (1e-2 if siamese == 0 else 1.0)
    torch.testing.assert_close(method.span_loss(located, targets), torch.tensor(0.0), atol=1e-3, rtol=0)


def test_snapped_targets_decode_without_a_bias(monkeypatch):
    """Over all moments of a video the errors of both ends cancel, although each may be half a stride."""
    first, last = torch.triu_indices(57, 57, offset=12)
    first, last = first[(first > 0) & (last < 57)], last[(first > 0) & (last < 57)]
    count = len(first)
    batch = GroundingBatch(
        video=torch.zeros(count, 57, 6),
        video_mask=torch.ones(count, 57, dtype=torch.bool),
        words=torch.zeros(count, 1, dtype=torch.long),
        word_mask=torch.ones(count, 1, dtype=torch.bool),
        duration=torch.ones(count),
        span=torch.stack([first, last + 1], dim=1) / 57,
        glance=torch.full((count,), torch.nan),
        query=torch.arange(count),
    )
    method = small(siamese=0, labels="snapped", steps=8)
    located, targets = certain(method, batch, method.sample(batch.video_mask))
    monkeypatch.setattr(method, "locate", lambda *_, **__: located)
    error = (method(batch).spans[:, 0] - batch.span) * 57
    assert error.abs().max() <= 3.5 + 1e-3
    assert error.mean(dim=0).abs().max() < 0.5
    torch.testing.assert_close(method.span_loss(located, targets), torch.tensor(0.0), atol=1e-5, rtol=0)


# --- losses (E11, E13, E14) ---


@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_the_loss_is_the_weighted_sum_of_its_parts(eta):
    batch = long_batch()
    method = small(inside_weight=0.7, regression_weight=0.3, siamese_weight=0.9).train()
    method.eta.fill_(eta)
    # A fresh network finds all steps alike, and could not tell one cross-entropy from another.
    method.head[2].weight.data.mul_(20)
    located = method.locate(batch)
    targets = method.targets(batch.span, located)
    told = [propagate_soft_labels(p.exp(), located.affinity) for p in (located.start, located.end)]
    boundary = agreement = 0.0
    for log_probs, label, heard in zip((located.start, located.end), (targets.start, targets.end), told, strict=True):
        mixed = (1 - eta) * label + eta * heard
        torch.testing.assert_close(mixed.sum(dim=-1), torch.ones(3, 3))
        boundary += -(mixed * log_probs).sum(dim=-1).mean()
        agreement += -(heard[:, 0] * log_probs[:, 0]).sum(dim=-1).mean() / 2
    probs = located.inside_logits.sigmoid()
    inside = -(targets.inside * probs.log() + (1 - targets.inside) * (1 - probs).log()).mean()
    expected = boundary + 0.7 * inside + 0.3 * method.span_loss(located, targets) + 0.9 * agreement
    torch.testing.assert_close(method.training_step(batch, 0), expected)


def test_the_span_loss_is_one_minus_the_overlap_of_the_anchors_best_span():
    batch, method = long_batch(), small(siamese=0)
    located = method.locate(batch)
    best = method.eval()(batch).spans[:, 0]
    distance = (best - batch.span).abs()
    assert (distance < 1).all()
    expected = (1 - temporal_iou(best, batch.span)).mean() + (distance**2 / 2).mean()
    torch.testing.assert_close(method.span_loss(located, method.targets(batch.span, located)), expected)


def test_cross_entropy_is_lowest_at_the_target():
    target = torch.tensor([[[0.25, 0.75]]])
    entropy = -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log())
    torch.testing.assert_close(cross_entropy(target.log(), target), entropy)
    assert cross_entropy(torch.tensor([[[0.5, 0.5]]]).log(), target) > entropy


def test_snapped_labels_listen_to_nobody(batch):
    parts = {}
    method = small(labels="snapped").train()
    method.report = lambda **found: parts.update(found)
    method.training_step(batch, 0)
    assert parts["siamese"] == 0
    silent_loss = method.training_step(batch, 0)
    method.eta.fill_(0.3)
    assert torch.equal(method.training_step(batch, 0), silent_loss)


def test_how_far_snapping_moves_the_boundaries_is_logged():
    batch, parts = long_batch((60, 60, 60)), {}
    method = small(steps=4)
    method.report = lambda **found: parts.update(found)
    batch.span = torch.tensor([[0.0, 1.0], [19 / 60, 40 / 60], [16 / 60, 45 / 60]])
    method.training_step(batch, 0)
    anchors = method.sample(batch.video_mask)[0, 0].tolist()
    assert anchors == [0, 19, 39, 59]
    torch.testing.assert_close(parts["snapping"], torch.tensor((0 + 0 + (3 + 5) / 2) / 3))


def test_targets_listen_to_the_siamese_frames_after_a_third_of_the_training():
    data = GroundingData(train_videos=12, test_videos=2, batch_size=4)
    method = silent(build(SSRN, {**SSRN.arguments_from(data), **SSRN.embedded["model"], "hidden_dim": 8}))
    shares, original = [], method.training_step
    method.training_step = lambda batch, number=0: shares.append(float(method.eta)) or original(batch, number)
    fit(method, data, trainer={"max_steps": 9, "max_epochs": -1, "limit_val_batches": 0, "accelerator": "cpu"})
    assert shares == pytest.approx([0.0] * 3 + [0.3] * 6)
    assert "eta" not in method.state_dict()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite(dtype):
    method = small(interaction="context_query", encoder="conv").train()
    with torch.autocast("cpu", dtype):
        loss = method.training_step(long_batch(), 0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


# --- scores, prediction, errors ---


def test_close_boundaries_are_told_apart(batch):
    method = small().eval()
    batch.subsets = {"first": torch.tensor([True, False, False])}
    scores = method.score(batch)
    found = method(batch).spans[:, 0]
    expected = (found - batch.span).abs().mean(dim=1) * 10
    torch.testing.assert_close(scores["boundary error"], expected)
    assert scores["first/boundary error"].isnan().tolist() == [False, True, True]
    assert {"R@1,IoU=0.9", "R@1,IoU=0.7", "mIoU", "first/R@1,IoU=0.9"} <= scores.keys()
    assert torch.equal(scores["R@1,IoU=0.9"], (temporal_iou(found, batch.span) >= 0.9).float())


def test_a_video_of_one_clip_is_all_there_is(batch):
    method = small().eval()
    batch.video, batch.video_mask = batch.video[:, :1], batch.video_mask[:, :1]
    moments = method(batch)
    torch.testing.assert_close(moments.spans, torch.tensor([0.0, 1.0]).expand_as(moments.spans))
    assert method.training_step(batch, 0).isfinite()


@pytest.mark.parametrize("settings", [{}, {"interaction": "context_query", "encoder": "conv"}])
def test_it_can_be_exported(settings, tmp_path):
    method = small(**settings)
    method.steps, method.max_words = 60, 5
    assert export_method(method, tmp_path / "ssrn.pt2", "torch") < 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 1}, "steps must be at least 2, found 1"),
        ({"siamese": -1}, "siamese must be at least 0, found -1"),
        ({"omega": 1.5}, r"omega must lie in \[0, 1\], found 1.5"),
        ({"propagation": -0.1}, r"propagation must lie in \[0, 1\], found -0.1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        small(**settings)


# --- claim, embedded settings ---


def test_arms_of_the_claim_build_and_the_control_has_the_size_of_the_method():
    (claim,) = SSRN.claims
    sizes = {name: build(SSRN, merge(claim.model, arm.model)).parameter_count() for name, arm in claim.arms.items()}
    assert sizes["base, equal capacity"] == sizes[claim.method_arm] > sizes["base"] == sizes["base-soft"]
    assert sizes["T=64 siamese + soft"] == sizes[claim.method_arm]
    control = build(SSRN, merge(claim.model, claim.arms["base, equal capacity"].model))
    assert isinstance(control.aggregate, SiameseAggregator)


def test_embedded_settings_learn_to_ground():
    data = GroundingData(train_videos=24, test_videos=4, batch_size=16, steps=32)
    torch.manual_seed(0)
    method = build(SSRN, {**SSRN.arguments_from(data), **SSRN.embedded["model"], "hidden_dim": 24})
    losses = []
    method.report = lambda **parts: losses.append(float(parts["loss"].detach()))
    fit(method, data, trainer={"max_steps": 60, "max_epochs": -1, "limit_val_batches": 0, "accelerator": "cpu"})
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert evaluate(method, data, "train", {"accelerator": "cpu"})["mIoU"] > 0.25
