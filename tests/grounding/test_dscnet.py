"""DSCNet: two stages, piles that never meet, and every loss against a plain derivation."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback

from grounding.made import made_batch, silent, size
from ommatid.data.tagging import NOUN, VERB
from ommatid.engine.fit import fit
from ommatid.engine.runs import RunDir
from ommatid.engine.settings import build
from ommatid.engine.sweep import locate
from ommatid.errors import InputError
from ommatid.grounding.clusters import balanced_pseudo_labels, most_likely
from ommatid.grounding.data import GroundingData, UnpairedSet, collate_unpaired
from ommatid.grounding.dscnet import WINDOW, DirectMatching, DSCNet, co_activity_loss, moments_of
from ommatid.grounding.sources import MemoryStore

SMALL = {
    "feature_dim": 6, "word_dim": 5, "vocabulary_size": 9, "hidden_dim": 8, "code_dim": 4, "clusters": 3, "labels": 2,
    "encoder": "conv", "dropout": 0.0,
}  # fmt: skip
LABELS = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
LENGTHS = torch.tensor([17, 9, 17, 16])
MASK = torch.arange(17) < LENGTHS[:, None]
ROWS = [(row, length) for row, length in enumerate(LENGTHS.tolist())]


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def small(**settings):
    torch.manual_seed(0)
    method = silent(DSCNet(**{**SMALL, **settings}))
    method.words.vectors[2:].normal_()
    method.words.tags.copy_(torch.tensor([0, 0, VERB, NOUN, 0, 0, 3, 4, 5]))
    return method


def grown(**settings):
    """As if its language were trained, its sentences clustered, and its context begun to count."""
    method = small(**settings)
    with torch.no_grad():
        method.video_context.weight.normal_(std=0.3)
        method.video_context.bias.normal_(std=0.3)
    method.centres.copy_(unit(3, 4, seed=7))
    method.composes = True
    method.pseudo_labels = LABELS
    return method


def made_pile(seed=0, first_word=2):
    """Four videos of up to 17 clips, seven sentences of up to four words."""
    rng = np.random.default_rng(seed)
    videos = {f"v{row}": rng.standard_normal((length, 6)).astype(np.float32) for row, length in ROWS}
    words = [torch.from_numpy(rng.integers(first_word, 9, size)) for size in (3, 4, 2, 4, 1, 3, 4)]
    return UnpairedSet(list(videos), MemoryStore(videos), words, steps=17, seed=0)


@pytest.fixture
def pile(monkeypatch):
    """Methods find this pile where a trainer would give them one."""
    made = made_pile()
    monkeypatch.setattr(DSCNet, "_pile", made)
    return made


@pytest.fixture
def batch():
    return collate_unpaired([made_pile().in_order(index) for index in range(4)])


@pytest.fixture
def frames():
    """Unit frames and a foreground, zero where padded."""
    foreground = torch.rand(4, 17, generator=torch.Generator().manual_seed(5))
    return unit(4, 17, 4, seed=3) * MASK[..., None], foreground * MASK


def reported(method, batch):
    parts = {}
    method.report = lambda **found: parts.update(found)
    method.training_step(batch, 0)
    return parts


# --- sizes ---


def linear(inputs, outputs, bias=True):
    return inputs * outputs + bias * outputs


def gru(inputs, width):
    """Three gates over input and state, with torch's two biases."""
    return 3 * (inputs * width + width**2 + 2 * width)


def test_full_size_parts_have_the_sizes_of_their_equations():
    full, dim, code = DSCNet(), 512, 256
    expected = {
        "words": 300,  # one learned vector for unknown words; the others are frozen
        "language": 2 * gru(300, dim // 2) + linear(dim, 1, bias=False) + linear(300, code, bias=False)  # E1
        + linear(code, dim) + gru(300 + code, dim) + linear(dim, 2),  # E2, a vocabulary of two
        "video_encoder": 2 * gru(500, dim // 2),
        "video_context": linear(dim, 500),
        "frame_code": linear(500, code, bias=False),  # E5
        "foreground": linear(dim, dim) + linear(dim, 1),  # E11
    }  # fmt: skip
    assert {name: size(getattr(full, name)) for name in expected} == expected
    assert size(full) == sum(expected.values())
    assert full.parameter_count() == sum(expected.values()) - 300 * code  # the projection of codes rests
    assert full.centres.shape == (32, code)
    assert not bool(full.mined)


def test_full_size_settings_are_those_of_the_card():
    settings = DSCNet().hparams
    assert (settings.hidden_dim, settings.code_dim, settings.clusters, settings.labels) == (512, 256, 32, 3)
    assert (settings.temperature, settings.content_weight, settings.recipe.lr) == (0.1, 2.0, 1e-4)


# --- two stages ---


def gradients(method, batch):
    method.zero_grad()
    method.training_step(batch, 0).backward()
    return {name for name, p in method.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-8}


@pytest.mark.parametrize("encoder", ["gru", "conv"])
def test_every_parameter_learns_in_its_stage_alone(encoder):
    batch = collate_unpaired([made_pile(first_word=1).in_order(index) for index in range(4)])
    of_language = gradients(small(encoder=encoder), batch)
    method = grown(encoder=encoder)
    of_videos = gradients(method, batch)
    names = dict(method.named_parameters())
    language = {name for name in names if name.startswith(("words.", "language."))}
    # The projection is fixed.
    assert language - of_language == {"language.code.weight"}
    assert of_language <= language
    assert of_videos == names.keys() - language


def test_the_language_is_trained_on_sentences_and_content_weighs_more(batch):
    method = small(content_weight=3.0)
    weight = torch.tensor([[3.0 if int(word) in (2, 3) else 1.0 for word in row] for row in batch.words])
    assert set(weight[batch.word_mask].tolist()) == {1.0, 3.0}
    words = method.words(batch.words)
    code = method.language.encode(words, batch.word_mask)
    expected = method.language.reconstruct(code, words, batch.words, weight * batch.word_mask).mean()
    torch.testing.assert_close(method.training_step(batch, 0), expected)


def told(method, monkeypatch, shares, batch_index=0):
    """What the hook did at each share of the training."""
    done = []
    for name in ("mine", "label_videos"):
        original = getattr(DSCNet, name)
        monkeypatch.setattr(
            DSCNet, name, lambda self, name=name, original=original: (done.append(name), original(self))
        )
    for share in shares:
        monkeypatch.setattr(DSCNet, "share_done", share)
        done.append(share)
        method.on_train_batch_start(None, batch_index)
    return done


def test_sentences_are_clustered_once_when_the_language_has_had_its_share(pile, monkeypatch):
    method = small(language_share=0.4)
    done = told(method, monkeypatch, (0.0, 0.39, 0.4, 0.6), batch_index=3)
    assert done == [0.0, 0.39, 0.4, "mine", "label_videos", 0.6]


def test_videos_are_labelled_anew_with_every_epoch(pile, monkeypatch):
    done = told(small(language_share=0.4), monkeypatch, (0.2, 0.4, 0.6, 0.8))
    assert done == [0.2, 0.4, "mine", "label_videos", 0.6, "label_videos", 0.8, "label_videos"]


def test_mining_finds_the_clusters_of_all_sentences(pile):
    method = small(dropout=0.5).train()
    method.mine()
    assert method.training  # as it was
    with torch.no_grad():
        method.eval()
        raw = [method.language.raw_code(method.words(w[None]), torch.ones(1, len(w)) > 0)[0] for w in pile.words]
        codes = F.normalize(torch.stack(raw) - torch.stack(raw).mean(dim=0), dim=1)
    torch.testing.assert_close(method.language.mean, torch.stack(raw).mean(dim=0))
    nearest = torch.cdist(codes, method.centres).argmin(dim=1)
    for label in range(3):
        mean = codes[nearest == label].mean(dim=0)
        torch.testing.assert_close(method.centres[label], mean / mean.norm())
        assert float(method.share[label]) == pytest.approx(int((nearest == label).sum()) / 7)
    assert bool(method.mined)


@pytest.mark.parametrize("balance", [True, False])
def test_labels_are_those_of_each_video_alone(pile, balance):
    method = grown(balance=balance, dropout=0.5)
    method.share.copy_(torch.tensor([0.5, 0.3, 0.2]))
    method.label_videos()
    assert method.training
    method.eval()
    table = []
    for row, length in ROWS:
        video = pile.in_order(row).video
        codes = method.frames(video[None], torch.ones(1, length) > 0)[0][0]
        alike = (codes @ method.centres.T).sort(dim=0, descending=True).values
        table.append(alike[: max(length // 8, 1)].mean(dim=0))
    table = torch.stack(table)
    expected = balanced_pseudo_labels(table, method.share, most=2)
    if not balance:
        expected = most_likely((table / 0.1).softmax(dim=1), 2)
    torch.testing.assert_close(method.pseudo_labels, expected, rtol=1e-4, atol=1e-5)
    assert (method.pseudo_labels > 0).sum(dim=1).tolist() == [2] * 4


def test_labels_change_as_the_videos_are_learnt(pile):
    method = grown()
    method.label_videos()
    before = method.pseudo_labels
    with torch.no_grad():
        method.frame_code.weight.normal_()
    method.label_videos()
    assert not torch.allclose(method.pseudo_labels, before)


def test_more_videos_than_are_read_at_a_time_are_labelled_in_their_order(monkeypatch):
    features = {f"v{row}": np.random.default_rng(row).standard_normal((9, 6), dtype=np.float32) for row in range(300)}
    words = [torch.tensor([2, 3])] * 5
    method, labels = grown(balance=False), []
    for names in (list(features), list(features)[290:]):
        monkeypatch.setattr(DSCNet, "_pile", UnpairedSet(names, MemoryStore(features), words, steps=9, seed=0))
        method.label_videos()
        labels.append(method.pseudo_labels)
    assert labels[0].shape == (300, 3)
    torch.testing.assert_close(labels[0][290:], labels[1])


# --- nothing of the pairs leaks ---


def test_sentences_in_another_order_change_no_label_and_other_videos_no_cluster(pile, monkeypatch):
    method = small()
    method.mine()
    method.label_videos()
    centres, labels = method.centres.clone(), method.pseudo_labels
    mixed = made_pile()
    mixed.words.reverse()
    monkeypatch.setattr(DSCNet, "_pile", mixed)
    method.label_videos()
    assert torch.equal(method.pseudo_labels, labels)
    other = made_pile(seed=1)
    other.words = made_pile().words
    monkeypatch.setattr(DSCNet, "_pile", other)
    method.mine()
    assert torch.equal(method.centres, centres)
    method.label_videos()
    assert not torch.allclose(method.pseudo_labels, labels)


def test_the_sentences_of_a_batch_mean_nothing_to_its_videos(batch):
    method = grown()
    other = copy.copy(batch)
    other.words, other.word_mask = batch.words.flip(0), batch.word_mask.flip(0)
    other.sentence_number = batch.sentence_number.flip(0)
    assert torch.equal(method.training_step(batch, 0), method.training_step(other, 0))
    before = small()
    videos = copy.copy(batch)
    videos.video, videos.video_number = batch.video.flip(0) + 1, batch.video_number.flip(0)
    assert torch.equal(before.training_step(batch, 0), before.training_step(videos, 0))


def test_a_video_has_its_own_labels_wherever_it_stands_in_a_batch(batch):
    order = torch.tensor([2, 0, 3, 1])
    mixed = copy.copy(batch)
    for name in ("video", "video_mask", "video_number"):
        setattr(mixed, name, getattr(batch, name)[order])
    method = grown()
    torch.testing.assert_close(method.training_step(mixed, 0), method.training_step(batch, 0))
    mixed.video_number = batch.video_number
    assert not torch.allclose(method.training_step(mixed, 0), method.training_step(batch, 0))


# --- losses ---


def softmax(values):
    highest = max(values)
    exponents = [math.exp(value - highest) for value in values]
    return [value / sum(exponents) for value in exponents]


def dots(vector, centres):
    return [float(vector @ centre) / 0.1 for centre in centres]


def test_composed_activities_must_be_near_their_own_centre():
    method, composed = grown(), unit(4, 3, 4, seed=8)
    expected = 0.0
    for row in range(4):
        for label in range(3):
            own = softmax(dots(composed[row, label], method.centres))[label]
            expected -= float(LABELS[row, label]) * math.log(own) / 4
    assert float(method.semantic_loss(composed, LABELS)) == pytest.approx(expected, rel=1e-4)
    at_home = method.centres.expand(4, -1, -1)
    assert method.semantic_loss(at_home, LABELS) < method.semantic_loss(composed, LABELS)


def test_videos_of_one_cluster_attract_each_other_and_repel_the_rest():
    composed, rest = unit(4, 3, 4, seed=8), unit(4, 3, 4, seed=9)
    losses = []
    for first in range(4):
        for second in range(4):
            for label in range(3):
                if first != second and LABELS[first, label] > 0 and LABELS[second, label] > 0:
                    alike = float(composed[first, label] @ composed[second, label])
                    unlike = float(composed[first, label] @ rest[second, label])
                    losses.append((1 - alike) + max(0.5 - alike + unlike, 0.0))
    assert len(losses) == 10
    found = co_activity_loss(composed, rest, LABELS)
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert co_activity_loss(composed, rest, LABELS, margin=0.9) > found


def test_videos_without_a_cluster_in_common_have_nothing_to_agree_on():
    assert co_activity_loss(unit(3, 3, 4), unit(3, 3, 4, seed=1), torch.eye(3)) == 0


def test_foreground_losses_are_those_of_a_plain_loop(frames):
    method, (codes, foreground) = grown(), frames
    foreground[0], foreground[3] = 0.95, 0.02  # beyond both ends of what size is held to
    foreground = foreground * MASK
    expected = dict.fromkeys(("foreground", "background", "size", "smooth"), 0.0)
    for row, length in ROWS:
        steps = range(length)
        kept = foreground[row].tolist()
        inside = F.normalize(sum(kept[t] * codes[row, t] for t in steps), dim=0)
        outside = F.normalize(sum((1 - kept[t]) * codes[row, t] for t in steps), dim=0)
        said = softmax(dots(inside, method.centres))
        expected["foreground"] -= math.log(sum(said[c] for c in range(3) if LABELS[row, c] > 0)) / 4
        nothing = softmax(dots(outside, method.centres))
        expected["background"] += 0.5 * sum(p * math.log(p) for p in nothing) / 4
        expected["size"] += min((sum(kept) / length - 0.35) ** 2, 0.15) / 4
        changes = [abs(kept[t] - kept[t - 1]) for t in range(1, length)]
        expected["smooth"] += 0.1 * sum(changes) / (length - 1) / 4
    found = method.foreground_losses(codes, foreground, LABELS, MASK)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_the_loss_of_videos_is_that_of_a_plain_loop(batch):
    method = grown()
    parts = reported(method, batch)
    codes, logits = method.frames(batch.video, batch.video_mask)
    share, mutual, composed, rest = 0.0, [], torch.zeros(4, 3, 4), torch.zeros(4, 3, 4)
    for row, length in ROWS:
        shown = [dots(codes[row, t], method.centres) for t in range(length)]
        best = []
        for label in range(3):
            over_time = [shown[t][label] for t in range(length)]
            count = max(length // 8, 1)
            best.append(sum(sorted(over_time)[-count:]) / count)
            attention = softmax(over_time)
            composed[row, label] = sum(a * codes[row, t] for t, a in enumerate(attention))
            rest[row, label] = sum((1 - a) * codes[row, t] for t, a in enumerate(attention))
        share -= sum(float(LABELS[row, c]) * math.log(softmax(best)[c]) for c in range(3)) / 4
        strongest = [max(value for c, value in enumerate(step) if LABELS[row, c] > 0) for step in shown]
        low, high = min(strongest), max(strongest)
        inside = logits[row].sigmoid().tolist()
        mutual += [((value - low) / (high - low) - inside[t]) ** 2 for t, value in enumerate(strongest)]
    composed, rest = F.normalize(composed, dim=-1), F.normalize(rest, dim=-1)
    expected = {
        "clusters": share,
        "composed": float(method.semantic_loss(composed, LABELS)),
        "across": 0.5 * float(co_activity_loss(composed, rest, LABELS)),
        # Half of both directions' squared errors, which are the same.
        "mutual": 0.5 * sum(mutual) / len(mutual),
    }
    parts = {name: float(value) for name, value in parts.items()}
    assert {name: parts[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert parts["loss"] == pytest.approx(sum(value for name, value in parts.items() if name != "loss"), rel=1e-5)


def test_padded_steps_cost_nothing(batch):
    method, noisy = grown(), copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    longer = copy.copy(noisy)
    longer.video, longer.video_mask = F.pad(noisy.video, (0, 0, 0, 3), value=9.0), F.pad(batch.video_mask, (0, 3))
    for other in (noisy, longer):
        torch.testing.assert_close(method.training_step(other, 0), method.training_step(batch, 0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(batch, dtype):
    for method in (small(), grown()):
        full = method.training_step(batch, 0)
        with torch.autocast("cpu", dtype=dtype):
            half = method.training_step(batch, 0)
        torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)
        half.backward()
        assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


# --- frames and curves ---


def test_what_a_scene_shows_all_the_time_is_taken_off():
    method, batch = grown().eval(), made_batch()
    codes, foreground = method.frames(batch.video, batch.video_mask)
    scene = torch.randn(3, 1, 6)
    shifted = method.frames(batch.video + scene, batch.video_mask)
    for row, length in enumerate((7, 4, 7)):
        torch.testing.assert_close(shifted[0][row, :length], codes[row, :length], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(shifted[1][row, :length], foreground[row, :length], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(codes.norm(dim=-1), batch.video_mask.float())


def test_frames_start_in_the_space_of_the_clip_features():
    method = small(feature_dim=6, code_dim=4, clusters=3).eval()
    video = torch.randn(1, 9, 6)
    codes = method.frames(video, torch.ones(1, 9) > 0)[0]
    assert (F.cosine_similarity(codes, (video - video.mean(dim=1))[..., :4], dim=-1) > 0.95).all()


def test_the_curve_of_a_query_is_that_of_a_plain_loop(frames):
    method, (codes, _), queries = grown(), frames, unit(4, 4, seed=11)
    found = method.query_curve(codes, queries, MASK)
    for row, length in ROWS:
        belongs, curve = softmax(dots(queries[row], method.centres)), []
        for t in range(length):
            shown = dots(codes[row, t], method.centres)
            clustered = sum(belongs[c] * shown[c] for c in range(3))
            curve.append(0.5 * float(codes[row, t] @ queries[row]) / 0.1 + 0.5 * clustered)
        low, high = min(curve), max(curve)
        assert found[row, :length].tolist() == pytest.approx([(v - low) / (high - low) for v in curve], abs=1e-4)
        assert (found[row, length:] == 0).all()


def test_the_moment_is_where_the_query_and_the_foreground_agree(monkeypatch):
    method, batch = grown().eval(), made_batch()[:1]
    codes = F.one_hot(torch.tensor([3, 0, 3, 3, 0, 0, 3]), 4).float()[None]
    foreground = torch.tensor([[-4.0, -4, 4, -4, 4, 4, -4]])
    told, alone = (lambda video, mask: (codes, foreground)), grown(specific=False).eval()
    monkeypatch.setattr(method, "codes", lambda words, mask: torch.eye(4)[:1])
    for each in (method, alone):
        monkeypatch.setattr(each, "frames", told)
    found, without = ([tuple(span) for span in (7 * each(batch).spans[0]).round().tolist()] for each in (method, alone))
    assert found[0] == (4.0, 6.0)
    assert (1.0, 2.0) not in found  # what was asked for, but no foreground
    assert (2.0, 3.0) not in found  # foreground, but not what was asked for
    assert set(without[:2]) == {(2.0, 3.0), (4.0, 6.0)}


# --- prediction ---


def finite(moments, row):
    seen = moments.scores[row].isfinite()
    return moments.spans[row][seen], moments.scores[row][seen]


@pytest.mark.parametrize("encoder", ["gru", "conv"])
@pytest.mark.parametrize("specific", [True, False])
def test_padding_changes_no_prediction(encoder, specific):
    method, batch = grown(encoder=encoder, specific=specific).eval(), made_batch()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    noisy.words = torch.where(batch.word_mask, batch.words, 8)
    together = method(noisy)
    for row, (steps, words) in enumerate(((7, 3), (4, 5), (7, 2))):
        one = batch[row : row + 1]
        one.video, one.video_mask = one.video[:, :steps], one.video_mask[:, :steps]
        one.words, one.word_mask = one.words[:, :words], one.word_mask[:, :words]
        for found, alone in zip(finite(together, row), finite(method(one), 0), strict=True):
            torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_the_sentence_counts_unless_the_foreground_alone_is_asked():
    batch = made_batch()
    other = copy.copy(batch)
    other.words = torch.where(batch.word_mask, 10 - batch.words, 0)
    for specific in (True, False):
        method = grown(specific=specific).eval()
        assert torch.equal(method(batch).scores, method(other).scores) == (not specific)


def test_moments_are_ranked_and_lie_in_the_video():
    moments = grown().eval()(made_batch())
    assert moments.spans.shape == (3, 51, 2)
    assert (moments.scores[:, 1:] <= moments.scores[:, :-1]).all()
    assert ((moments.spans >= 0) & (moments.spans <= 1)).all()


def test_runs_come_first_and_a_window_around_the_highest_point_last():
    curve = torch.tensor([[0.0, 0.9, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.35, 0.0, 7.0, 7.0]])
    mask = (torch.arange(12) < 10)[None]
    spans, scores = finite(moments_of(curve, mask), 0)
    assert [[round(value, 4) for value in span] for span in spans.tolist()] == [[0.1, 0.3], [0.8, 0.9], [0.1, 0.4]]
    assert scores[-1] < scores[-2]


@pytest.mark.parametrize(("highest", "expected"), [(None, (0.0, 0.2)), (5, (0.4, 0.7)), (9, (0.8, 1.0))])
def test_where_no_run_stands_out_there_is_a_window(highest, expected):
    curve, mask = torch.zeros(1, 12), (torch.arange(12) < 10)[None]
    curve[:, 10:] = 5.0
    if highest is not None:
        curve[0, highest] = 0.25  # below every level
    moments = moments_of(curve, mask)
    assert moments.spans[0, 0].tolist() == pytest.approx(expected)
    assert moments.scores[0].isfinite().tolist() == [True] + [False] * 50
    assert WINDOW == 0.3


# --- trained through the trainer ---

TINY = {"hidden_dim": 8, "code_dim": 8, "clusters": 3, "encoder": "conv", "recipe": {"lr": 1e-2}}


def tiny_data():
    return GroundingData(view="unsupervised", train_videos=8, test_videos=4, steps=8, batch_size=8)


def tiny(data, **settings):
    torch.manual_seed(0)
    return build(DSCNet, {**DSCNet.arguments_from(data), **TINY, **settings})


class Stages(Callback):
    """The stage of every update, what moved in it, and how often labels were made."""

    def __init__(self):
        self.stages, self.moved, self.tables, self.labels = [], [], [], []

    def on_train_batch_end(self, trainer, method, outputs, batch, batch_idx):
        now = {name: value.clone() for name, value in method.named_parameters()}
        if self.stages:
            self.moved.append({name.split(".")[0] for name in now if not torch.equal(now[name], self.before[name])})
        self.before = now
        self.stages.append(bool(method.mined))
        if not any(method.pseudo_labels is seen for seen in self.tables):
            self.tables.append(method.pseudo_labels)
        self.labels.append(len(self.tables))


@pytest.fixture(scope="module")
def whole():
    """Five epochs of three updates: half of the training ends within the third epoch."""
    torch.set_num_threads(1)
    data, stages = tiny_data(), Stages()
    method = tiny(data)
    fit(method, data, trainer={"max_epochs": 5, "limit_val_batches": 0, "callbacks": [stages]})
    return method, data, stages


def test_training_gives_the_language_its_share_and_then_leaves_it_alone(whole):
    method, _, stages = whole
    assert stages.stages == [False] * 8 + [True] * 7
    assert all(moved == {"language"} for moved in stages.moved[:7])
    assert all(moved == {"video_encoder", "video_context", "frame_code", "foreground"} for moved in stages.moved[7:])
    # None yet; then the rest of the epoch in which it begins, and one table for each of the two after that.
    assert stages.labels == [1] * 8 + [2] + [3] * 3 + [4] * 3
    assert method.pseudo_labels.shape == (8, 3)
    torch.testing.assert_close(method.pseudo_labels.sum(dim=1), torch.ones(8))


def test_a_checkpoint_carries_what_was_mined(whole, tmp_path):
    method, data, _ = whole
    path = method.save(tmp_path / "m.safetensors")
    loaded, bare = DSCNet.load(path), DSCNet.load(path)
    for name in ("centres", "share", "mined", "language.mean"):
        saved, kept = loaded.get_buffer(name), method.get_buffer(name)
        assert torch.equal(saved, kept)
        assert (kept != 0).any()
    batch = data.first_batch("test", 4)
    ours, theirs = method.eval()(batch), loaded(batch)
    assert torch.equal(ours.spans, theirs.spans)
    assert torch.equal(ours.scores, theirs.scores)
    bare.centres.zero_()
    assert not torch.equal(bare(batch).scores, theirs.scores)


@pytest.mark.parametrize("killed_in", [2, 4])
def test_a_resumed_training_ends_like_an_uninterrupted_one(whole, tmp_path, killed_in):
    """Killed before the sentences are clustered, and after: labels are no part of the resume state."""

    class Kill(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (killed_in, 0):
                raise RuntimeError("killed")

    run, options, data = RunDir.create(tmp_path, "dscnet"), {"max_epochs": 5, "limit_val_batches": 0}, tiny_data()
    with pytest.raises(RuntimeError, match="killed"):
        fit(tiny(data), data, run, {**options, "callbacks": [Kill()]})
    resumed = tiny(data)
    torch.rand(17)
    fit(resumed, data, run, options, resume=True)
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert torch.equal(whole[0].pseudo_labels, resumed.pseudo_labels)


# --- direct matching ---


def matching(**settings):
    method = silent(DirectMatching(feature_dim=6, word_dim=6, vocabulary_size=9, **settings))
    method.words.vectors[2:8] = torch.eye(6)
    return method.eval()


def scene(shown):
    """A video that shows channel c at steps a..b, before a scene of its own."""
    batch = made_batch()[:1]
    batch.video, batch.words = torch.full((1, 7, 6), 3.0), torch.zeros(1, 5, dtype=torch.long)
    for channel, first, last, strength in shown:
        batch.video[0, first:last, channel] += strength
    batch.word_mask = torch.arange(5)[None] < 1
    return batch


def test_direct_matching_finds_the_step_that_shows_the_word():
    batch = scene([(0, 1, 3, 1.0), (4, 4, 6, 1.0)])
    for word, expected in ((2, (1 / 7, 3 / 7)), (6, (4 / 7, 6 / 7))):
        batch.words[0, 0] = word
        assert matching()(batch).spans[0, 0].tolist() == pytest.approx(expected)


def test_energy_prefers_the_step_where_more_happens():
    batch = scene([(0, 1, 3, 0.4), (0, 4, 6, 5.0)])
    batch.words[0, 0] = 2
    assert matching(energy=True)(batch).spans[0, 0].tolist() == pytest.approx((4 / 7, 6 / 7))
    weak = scene([(0, 1, 2, 1.0), (1, 4, 5, 5.0)])
    weak.words[0, 0] = 2
    assert matching()(weak).spans[0, 0].tolist() == pytest.approx((1 / 7, 2 / 7))


def test_direct_matching_does_not_see_padding():
    batch, method = made_batch(), matching()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    noisy.words = torch.where(batch.word_mask, batch.words, 8)
    torch.testing.assert_close(method(noisy).scores, method(batch).scores)
    torch.testing.assert_close(method(noisy).spans, method(batch).spans)


def test_direct_matching_learns_nothing(batch):
    method = matching()
    loss = method.training_step(batch, 0)
    loss.backward()
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in method.parameters())


# --- bad settings, claims ---


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"language_share": 0.0}, "language_share must lie between 0 and 1, found 0.0"),
        ({"language_share": 1.0}, "language_share must lie between 0 and 1, found 1.0"),
        ({"clusters": 1}, "clusters must be at least 2, found 1"),
        ({"labels": 0}, "labels must be at least 1, found 0"),
        ({"temperature": 0.0}, "temperature must be above 0, found 0.0"),
    ],
)
def test_bad_settings_are_told(settings, told):
    with pytest.raises(InputError, match=f"^{told}$"):
        small(**settings)


def test_unequal_widths_cannot_be_matched():
    with pytest.raises(InputError, match=r"^feature_dim is 500, expected that of the word vectors, 300$"):
        DirectMatching(feature_dim=500, word_dim=300)


def test_more_clusters_than_sentences_are_told(pile):
    with pytest.raises(InputError, match="clusters: found 8, expected at most the number of training sentences, 7"):
        small(clusters=8).mine()


def test_arms_of_the_claim_are_methods_that_build():
    (claim,) = DSCNet.claims
    for arm in claim.arms.values():
        kind = DSCNet if arm.method is None else locate(arm.method)
        assert kind.learns_from == "unpaired"
        assert build(kind, arm.model).parameter_count() > 0
    assert {criterion.versus for criterion in claim.criteria} <= claim.arms.keys()
