"""Steps that are told a sentence, and runs of relevant ones."""

import copy

import pytest
import torch
import torch.nn.functional as F

from grounding.made import made_batch, silent
from ommatid.engine.fit import fit
from ommatid.engine.settings import build
from ommatid.grounding.data import GroundingData
from ommatid.grounding.relevance_runs import RelevanceRuns, glance_step, relevance_loss, run_around_best

SMALL = {"feature_dim": 6, "word_dim": 5, "vocabulary_size": 9, "hidden_dim": 8}


def small(**options):
    torch.manual_seed(0)
    method = silent(RelevanceRuns(**{**SMALL, "dropout": 0.0, "encoder": "conv", **options}))
    method.words.vectors.normal_()
    return method


@pytest.fixture
def batch():
    made = made_batch()
    made.glance, made.span = torch.tensor([0.3, 0.6, 0.99]), torch.full((3, 2), torch.nan)
    return made


def test_the_glance_lies_in_the_step_that_holds_its_instant():
    mask = torch.arange(8) < torch.tensor([8, 4, 4, 4])[:, None]
    assert glance_step(torch.tensor([0.5, 0.24, 0.26, 1.0]), mask).tolist() == [4, 0, 1, 3]


def run_one_by_one(relevance, threshold):
    best = max(range(len(relevance)), key=relevance.__getitem__)
    first = last = best
    while first > 0 and relevance[first - 1] >= threshold:
        first -= 1
    while last + 1 < len(relevance) and relevance[last + 1] >= threshold:
        last += 1
    return first, last


def test_the_run_grows_from_the_most_relevant_step():
    torch.manual_seed(0)
    for threshold in (0.1, 0.4, 0.7, 1.1):
        relevance = torch.rand(50, 9)
        found = zip(*(part.tolist() for part in run_around_best(relevance, threshold)), strict=True)
        assert list(found) == [run_one_by_one(row, threshold) for row in relevance.tolist()]


def test_the_moment_is_the_run_in_the_time_of_the_video(batch):
    method = small(threshold=0.52).eval()
    moments = method(batch)
    pairs = method.told.encode(method.words(batch.words), batch)
    relevance = method.told.relevance_logits(method.told.tell(pairs), pairs.sentence).sigmoid()
    for row, steps in enumerate(batch.video_mask.sum(dim=1).tolist()):
        first, last = run_one_by_one(relevance[row, :steps].tolist(), 0.52)
        assert moments.spans[row, 0].tolist() == pytest.approx([first / steps, (last + 1) / steps])
        assert moments.scores[row, 0] == relevance[row, :steps].max()


@pytest.mark.parametrize("encoder", ["gru", "conv"])
def test_padding_changes_nothing(batch, encoder):
    method = small(encoder=encoder).eval()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    noisy.words = torch.where(batch.word_mask, batch.words, 8)
    torch.testing.assert_close(method(noisy).scores, method(batch).scores)
    torch.testing.assert_close(method(noisy).spans, method(batch).spans)
    alone = batch[1:2]
    alone.video, alone.video_mask = alone.video[:, :4], alone.video_mask[:, :4]
    torch.testing.assert_close(method(alone).scores, method(batch[1:2]).scores)


def test_others_are_the_same_videos_with_the_sentence_of_the_pair_before(batch):
    method = small().eval()
    pairs = method.told.encode(method.words(batch.words), batch)
    both = pairs.and_others()
    assert torch.equal(both.video[3:], pairs.video)
    assert torch.equal(both.video_mask[3:], pairs.video_mask)
    for name in ("words", "word_mask", "sentence"):
        own = getattr(pairs, name)
        assert torch.equal(getattr(both, name)[:3], own)
        assert torch.equal(getattr(both, name)[3:], own[[2, 0, 1]])


def test_a_video_without_its_sentence_shows_nothing_of_it(batch):
    """What reconstructs words may only look at `video`: it must not have been told them."""
    method, other = small().eval(), copy.copy(batch)
    other.words = batch.words.flip(0)
    first, second = (method.told.encode(method.words(each.words), each) for each in (batch, other))
    assert torch.equal(first.video, second.video)
    assert not torch.allclose(method.told.tell(first), method.told.tell(second))


def test_the_loss_knows_the_glance_and_the_wrong_sentence_only(batch):
    torch.manual_seed(3)
    logits, glance = torch.randn(6, 7), torch.tensor([0, 2, 6])
    near, far = [], []
    for row, steps in enumerate([7, 4, 7]):
        near += [-F.logsigmoid(logits[row, t]) for t in range(steps) if abs(t - int(glance[row])) <= 1]
        far += [-F.logsigmoid(-logits[3 + row, t]) for t in range(steps)]
    expected = torch.stack(near).mean() + torch.stack(far).mean()
    torch.testing.assert_close(relevance_loss(logits, glance, batch), expected)


def test_a_sentence_that_occurs_twice_is_no_other_sentence(batch):
    batch.words = batch.words[:1].expand(3, -1)
    logits = torch.randn(6, 7, requires_grad=True)
    relevance_loss(logits, torch.tensor([0, 2, 6]), batch).backward()
    assert not logits.grad[3:].any()
    assert logits.grad[:3].any()


@pytest.mark.parametrize("encoder", ["gru", "conv"])
def test_every_parameter_gets_a_gradient(batch, encoder):
    method = small(encoder=encoder).train()
    method.training_step(batch, 0).backward()
    assert [name for name, p in method.named_parameters() if p.grad is None and "unknown" not in name] == []


def test_embedded_settings_learn_from_glances():
    data = GroundingData(view="glance", train_videos=24, test_videos=4, steps=16, batch_size=16)
    torch.manual_seed(0)
    method = build(RelevanceRuns, {**RelevanceRuns.arguments_from(data), **RelevanceRuns.embedded["model"]})
    losses = []
    method.report = lambda **parts: losses.append(float(parts["loss"].detach()))
    fit(method, data, trainer={"max_steps": 40, "max_epochs": -1, "limit_val_batches": 0})
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
