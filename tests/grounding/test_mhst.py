"""MHST: the paper's sizes, its losses against loops, its stages, and what it measures about itself."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from grounding.made import made_batch, silent, size
from ommatid.data.tagging import ADJECTIVE, NOUN, VERB
from ommatid.engine.fit import fit
from ommatid.engine.settings import build, merge
from ommatid.engine.sweep import locate
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.metrics import temporal_iou
from ommatid.grounding.mhst import MHST, node_spans, overlap_with, ranking_loss, root_length, tree_loss
from ommatid.nn.segment_tree import SegmentTree

SMALL = {"feature_dim": 6, "word_dim": 5, "vocabulary_size": 9, "hidden_dim": 8, "projection": 6}


def small(**options):
    torch.manual_seed(0)
    method = silent(MHST(**{**SMALL, "dropout": 0.0, "encoder": "conv", **options}))
    method.words.vectors.normal_()
    torch.nn.init.normal_(method.tree.join.weight, 0, 0.1)
    return method


@pytest.fixture
def batch():
    made = made_batch()
    made.glance, made.span = torch.tensor([0.3, 0.6, 0.99]), torch.full((3, 2), torch.nan)
    return made


@pytest.fixture
def grown():
    """Trees over random sequences, the node chosen in each, and the mask."""
    torch.manual_seed(5)
    mask = torch.arange(12) < torch.tensor([12, 7, 10, 12])[:, None]
    leaves = torch.randn(4, 6, 5).repeat_interleave(2, dim=1) + 0.7 * torch.randn(4, 12, 5)
    direction = torch.randn(5)
    tree = SegmentTree(5, threshold=0.3, lowest=0.1)
    with torch.no_grad():
        nodes = tree(leaves, mask, lambda n: (n @ direction).sigmoid(), prune=False)
    return nodes, nodes.root & nodes.containing(torch.tensor([3, 5, 0, 11])), mask


# --- the paper's sizes ---


def linear(inputs, outputs, bias=True):
    return inputs * outputs + bias * outputs


def gru(inputs, per_direction):
    return 2 * 3 * (inputs * per_direction + per_direction**2 + 2 * per_direction)


def test_full_size_parts_have_the_sizes_of_their_equations():
    method, dim, words = MHST(vocabulary_size=1000), 512, 1000
    attention = 4 * linear(dim, dim)
    expected = {
        "words": 300,
        "told": gru(500, 256) + gru(300, 256)  # E1
        + dim  # the sentence's pooling
        + linear(dim, dim, bias=False) + linear(3 * dim, dim) + 2 * (attention + 2 * dim)  # E2
        + linear(dim, dim) + linear(dim, dim, bias=False) + linear(dim, 1),  # E3
        "tree": linear(dim, 128, bias=False) + linear(2 * dim, dim),  # E4, E6
        "rank": linear(3 * dim + 1, dim) + linear(dim, 1),  # E9
        "reconstruct": words * dim + dim + attention + 3 * linear(dim, dim) + linear(dim, dim, bias=False)
        + linear(dim, 2 * dim) + linear(2 * dim, dim) + 3 * 2 * dim,  # E13
    }  # fmt: skip
    assert {name: size(getattr(method, name)) for name in expected} == expected
    assert method.parameter_count() == sum(expected.values())


def test_full_size_settings_are_those_of_the_card():
    settings = MHST().hparams
    assert (settings.hidden_dim, settings.projection, settings.threshold, settings.window) == (512, 128, 0.6, 3)
    assert (settings.irrelevant, settings.doubtful, settings.candidates) == (0.2, 0.5, 30)
    assert (settings.temperature, settings.boundary, settings.warmup) == (0.1, 0.3, 0.25)
    assert (settings.tree_weight, settings.reconstruction_weight, settings.ranking_weight) == (0.5, 0.5, 1.0)
    assert settings.hypotheses == "roots+internal"


def test_full_size_takes_one_step(batch):
    method = silent(MHST())
    batch.video, batch.words = torch.randn(3, 7, 500), torch.where(batch.word_mask, 1, 0)
    loss = method.train().training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert [name for name, parameter in method.named_parameters() if parameter.grad is None] == []


# --- moments ---


def test_moments_are_the_hypotheses_best_first(batch):
    method = small(irrelevant=0.0, doubtful=0.0, threshold=0.5).eval()
    moments = method(batch)
    pairs = method.told.encode(method.words(batch.words), batch)
    nodes = method.grow(method.told.tell(pairs), pairs, prune=True)
    score = method.rank_logits(nodes, pairs).sigmoid().detach()
    assert moments.spans.shape == (3, 13, 2)
    for row, steps in enumerate([7, 4, 7]):
        real = moments.scores[row].isfinite()
        expected = {
            (int(nodes.first[row, at]), int(nodes.last[row, at]) + 1): float(score[row, at])
            for at in method.hypotheses(nodes)[row].nonzero()[:, 0].tolist()
        }
        spans = (moments.spans[row, real] * steps).round().long().tolist()
        found = {tuple(span): value for span, value in zip(spans, moments.scores[row, real].tolist(), strict=True)}
        assert found == pytest.approx(expected)
        assert (moments.scores[row, real].diff() <= 0).all()
        assert not moments.spans[row, ~real].any()


def test_no_more_hypotheses_than_asked_for(batch):
    moments = small(candidates=2).eval()(batch)
    assert moments.spans.shape == (3, 2, 2)
    assert moments.scores[:, 0].isfinite().all()


def test_hypotheses_are_roots_and_what_is_as_relevant_inside_them(grown):
    nodes, _, _ = grown
    assert torch.equal(small(hypotheses="roots").hypotheses(nodes), nodes.root)
    inside = small().hypotheses(nodes) & ~nodes.root
    assert inside.any()
    assert torch.equal(inside, nodes.above_parent())


@pytest.mark.parametrize("encoder", ["gru", "conv"])
@pytest.mark.parametrize("prune", [True, False])
def test_padding_changes_nothing(batch, encoder, prune):
    method = small(encoder=encoder, prune=prune).eval()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    noisy.words = torch.where(batch.word_mask, batch.words, 8)
    torch.testing.assert_close(method(noisy).scores, method(batch).scores)
    torch.testing.assert_close(method(noisy).spans, method(batch).spans)
    alone = batch[1:2]
    alone.video, alone.video_mask = alone.video[:, :4], alone.video_mask[:, :4]
    found, expected = method(alone), method(batch[1:2])
    torch.testing.assert_close(found.scores, expected.scores[:, :7])
    torch.testing.assert_close(found.spans, expected.spans[:, :7])


def test_padding_changes_no_loss(batch):
    """What a loss averages or compares is never a padded step, word or node."""
    method = small()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    losses = []
    for each in (batch, noisy):
        torch.manual_seed(4)
        losses.append(method.training_step(each, 0))
    torch.testing.assert_close(*losses)


def test_the_glance_is_no_input_of_an_answer(batch):
    method, other = small().eval(), copy.copy(batch)
    other.glance = torch.full((3,), torch.nan)
    assert torch.equal(method(other).scores, method(batch).scores)


# --- losses ---


def steps_of(nodes, row, at):
    return int(nodes.first[row, at]), int(nodes.last[row, at])


def only(mask):
    return [int(row.nonzero()) for row in mask]


def test_tree_loss_is_that_of_the_merges_and_borders_of_the_chosen_root(grown):
    nodes, chosen, _ = grown
    inside, borders = [], []
    for row, root in enumerate(only(chosen)):
        first, last = steps_of(nodes, row, root)
        for at in range(12, 23):
            begin, end = steps_of(nodes, row, at)
            if nodes.exists[row, at] and first <= begin and end <= last:
                inside.append(1 - nodes.affinity[row, at])
        for value in (nodes.before[row, root], nodes.after[row, root]):
            if value > -math.inf:
                borders.append(F.relu(value + 0.5))
    assert len(inside) > 2
    assert sum(float(value) > 0 for value in borders) > 1
    expected = torch.stack(inside).mean() + torch.stack(borders).mean()
    torch.testing.assert_close(tree_loss(nodes, chosen, -0.5), expected)


def test_contrast_compares_the_glance_root_with_roots_elsewhere(batch):
    method = small(prune=False, threshold=0.7)
    own = method.told.encode(method.words(batch.words), batch)
    both = own.and_others()
    nodes, others = method.grow(method.told.tell(both), both, prune=False).halves()
    chosen = nodes.root & nodes.containing(torch.tensor([2, 1, 5]))

    def similarity(features, row):
        first, second = (method.tree.project(each) for each in (features, own.sentence[row]))
        return F.cosine_similarity(first, second, dim=0) / 0.1

    losses, negatives = [], 0
    for row, root in enumerate(only(chosen)):
        right = similarity(nodes.features[row, root], row)
        compared, mine = [right], torch.tensor(steps_of(nodes, row, root)) + torch.tensor([0, 1])
        for tree in (nodes, others):
            for at in tree.root[row].nonzero()[:, 0].tolist():
                span = torch.tensor(steps_of(tree, row, at)) + torch.tensor([0, 1])
                if float(temporal_iou(mine.float(), span.float())) <= 0.5:
                    compared.append(similarity(tree.features[row, at], row))
        negatives += len(compared) - 1
        losses.append(torch.stack(compared).logsumexp(dim=0) - right)
    assert negatives > 3
    torch.testing.assert_close(method.contrast_loss(nodes, others, chosen, own), torch.stack(losses).mean())


def test_ranking_target_is_half_how_it_serves_half_that_it_contains_the_glance():
    torch.manual_seed(0)
    logits, nll = torch.randn(2, 5), torch.rand(2, 5)
    valid = torch.tensor([[True, True, True, True, False], [True, True, False, False, False]])
    contains = torch.tensor([[True, False, True, False, True], [False, True, False, False, False]])
    expected = []
    for row in range(2):
        kept, right = valid[row].nonzero()[:, 0], (valid & contains)[row].nonzero()[:, 0]
        score = logits[row].sigmoid()
        share = score / score[kept].sum()
        serving = (-nll[row, right] / 0.2).softmax(dim=0)
        target = (serving + 1 / len(right)) / 2
        expected.append(-(target * share[right].log()).sum())
    torch.testing.assert_close(ranking_loss(logits, nll, valid, contains), torch.stack(expected).mean())


def test_ranking_moves_the_scores_and_not_the_reconstruction(batch):
    method = small()
    own = method.told.encode(method.words(batch.words), batch)
    glance = torch.tensor([2, 2, 6])
    nodes = method.grow(method.told.tell(own), own, prune=False)
    chosen = nodes.root & nodes.containing(glance)
    method.hypothesis_losses(nodes, chosen, glance, own, batch)[1].backward()
    assert all(parameter.grad.any() for parameter in method.rank.parameters())
    assert all(parameter.grad is None for parameter in method.reconstruct.parameters())


def test_reconstruction_prefers_the_root_to_the_whole_and_to_the_rest(batch, monkeypatch):
    method = small()
    own = method.told.encode(method.words(batch.words), batch)
    glance = torch.tensor([2, 2, 6])
    nodes = method.grow(method.told.tell(own), own, prune=False)
    chosen = nodes.root & nodes.containing(glance)
    seen = []

    def judged(video, weight, words, masked):
        seen.append(weight)
        return torch.tensor([1.0, 1.05, 0.7]).expand(3, 3) if len(seen) == 1 else torch.zeros(weight.shape[:2])

    monkeypatch.setattr(method.reconstruct, "forward", judged)
    loss, _ = method.hypothesis_losses(nodes, chosen, glance, own, batch)
    assert float(loss) == pytest.approx(1.0 + (0.1 - 0.05) + (0.2 + 0.3))
    for row, root in enumerate(only(chosen)):
        first, last = steps_of(nodes, row, root)
        inside = (torch.arange(7) >= first) & (torch.arange(7) <= last)
        valid = batch.video_mask[row]
        assert torch.equal(seen[0][row].bool(), torch.stack([inside, valid, valid & ~inside]))


def test_ranked_hypotheses_come_with_all_that_contain_the_glance(batch, monkeypatch):
    method = small(candidates=3, prune=False, threshold=0.2)
    own = method.told.encode(method.words(batch.words), batch)
    glance = torch.tensor([2, 2, 6])
    nodes = method.grow(method.told.tell(own), own, prune=False)
    seen = []
    monkeypatch.setattr("ommatid.grounding.mhst.ranking_loss", lambda *parts: seen.append(parts) or torch.zeros(()))
    method.hypothesis_losses(nodes, nodes.root & nodes.containing(glance), glance, own, batch)
    _, _, valid, contains = seen[0]
    expected = (method.hypotheses(nodes) & nodes.containing(glance)).sum(dim=1).clamp(max=3)
    assert torch.equal((valid & contains).sum(dim=1), expected)


def test_nouns_and_verbs_are_masked_more_often_and_unknown_words_never(batch):
    method = small()
    method.words.tags.copy_(torch.tensor([0, 0, NOUN, VERB, ADJECTIVE, 0, 0, 0, 0]))
    count = 6000
    batch.words = torch.tensor([[1, 2, 3, 4, 5]]).expand(count, 5)
    batch.word_mask = torch.ones(count, 5, dtype=torch.bool)
    torch.manual_seed(0)
    often = method.draw_words(batch).float().mean(dim=0)
    assert often[0] == 0
    assert often[1] == pytest.approx(float(often[2]), abs=0.03)
    assert often[3] == pytest.approx(float(often[4]), abs=0.03)
    assert 1.4 < often[1] / often[3] < 2


# --- stages ---


def test_the_first_quarter_of_the_updates_is_the_first_stage():
    method = small()
    assert not method.first_stage()
    for done, total, first in ((0, 100, True), (24, 100, True), (25, 100, False), (0, float("inf"), False)):
        method._trainer = SimpleNamespace(global_step=done, estimated_stepping_batches=total)
        assert method.first_stage() == first


def test_the_first_stage_knows_relevance_and_contrast_and_prunes_nothing(batch, monkeypatch):
    method, pruned = small(), []
    original = SegmentTree.forward
    monkeypatch.setattr(
        SegmentTree,
        "forward",
        lambda self, a, b, c, d, prune: pruned.append(prune) or original(self, a, b, c, d, prune),
    )
    for first in (True, False):
        monkeypatch.setattr(MHST, "first_stage", lambda self, first=first: first)
        parts = {}
        method.report = lambda parts=parts, **losses: parts.update(losses)
        loss = method.training_step(batch, 0)
        early = parts["relevance"] + parts["contrast"]
        late = 0.5 * parts["tree"] + 0.5 * parts["reconstruction"] + parts["ranking"]
        torch.testing.assert_close(loss, early if first else early + late)
    assert pruned == [False, True]


def test_both_stages_give_every_parameter_a_gradient(batch, monkeypatch):
    """Of 0 where a loss has no weight yet: processes that train together must agree."""
    for first in (True, False):
        monkeypatch.setattr(MHST, "first_stage", lambda self, first=first: first)
        method = small()
        method.training_step(batch, 0).backward()
        assert [name for name, p in method.named_parameters() if p.grad is None and "unknown" not in name] == []


def test_the_node_with_the_glance_survives_any_relevance(batch):
    method, parts = small(), {}
    torch.nn.init.constant_(method.told.weight.bias, -20)
    method.report = lambda **losses: parts.update(losses)
    loss = method.training_step(batch, 0)
    assert loss.isfinite()
    torch.testing.assert_close(parts["root_length"], (1 / batch.video_mask.sum(dim=1)).mean())


def test_half_precision_step_is_finite(batch):
    method = small().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters() if parameter.grad is not None)


def test_a_batch_of_one_takes_a_step(batch):
    assert small().training_step(batch[:1], 0).isfinite()


# --- what it says about its trees ---


def test_overlaps_lengths_and_spans_of_nodes(grown):
    nodes, chosen, mask = grown
    overlap, share, spans = (
        overlap_with(nodes, chosen, nodes),
        root_length(nodes, chosen, mask),
        node_spans(nodes, mask),
    )
    for row, root in enumerate(only(chosen)):
        steps, (first, last) = int(mask[row].sum()), steps_of(nodes, row, root)
        assert float(share[row]) == pytest.approx((last - first + 1) / steps)
        assert spans[row, root].tolist() == pytest.approx([first / steps, (last + 1) / steps])
        for at in nodes.exists[row].nonzero()[:, 0].tolist():
            begin, end = steps_of(nodes, row, at)
            both = max(min(last, end) - max(first, begin) + 1, 0)
            assert float(overlap[row, at]) == pytest.approx(
                both / (max(last, end) - min(first, begin) + 1) * (both > 0)
            )
    nobody = torch.zeros_like(chosen)
    assert root_length(nodes, nobody, mask).isnan().all()


def test_read_outs_are_measured_on_the_test_queries(batch):
    method = small(candidates=13, prune=False).eval()
    batch.span = torch.tensor([[0.1, 0.5], [0.4, 0.9], [torch.nan, torch.nan]])
    batch.glance[1] = torch.nan
    measured = method.measure(batch)
    moments = method(batch)
    iou = temporal_iou(moments.spans, batch.span[:, None])
    assert measured["oracle recall"][:2].tolist() == (iou[:2] >= 0.5).any(dim=1).float().tolist()
    assert all(value[2].isnan() for value in measured.values())
    assert 0 < float(measured["glance root length"][1]) <= 1

    data = GroundingData(view="glance", train_videos=8, test_videos=4, steps=12, batch_size=5)
    method = build(MHST, {**MHST.arguments_from(data), **MHST.embedded["model"], "hidden_dim": 8})
    method.adopt(data)
    found = method.read_outs(data)
    assert set(found) == {"oracle recall", "glance root recall", "glance root length"}
    one_batch = method.measure(data.first_batch("test", 12))
    assert found == pytest.approx({name: float(value.nanmean()) for name, value in one_batch.items()}, abs=1e-6)


def test_no_hypotheses_are_refused():
    with pytest.raises(InputError, match="candidates must be at least 1, found 0"):
        small(candidates=0)


# --- claims, embedded settings ---


def test_arms_of_the_claim_are_methods_that_build():
    (claim,) = MHST.claims
    for arm in claim.arms.values():
        kind = locate(arm.method) if arm.method else MHST
        method = build(kind, merge(claim.model, arm.model))
        assert method.parameter_count() > 0
        data = build(GroundingData, merge({"train_videos": 2, "test_videos": 1}, merge(claim.data, arm.data)))
        assert data.allows(method.learns_from)


def test_the_claim_compares_on_the_same_glances_and_on_two_spreads_of_lengths():
    (claim,) = MHST.claims
    assert claim.data["view"] == "glance"
    for arm in ("tree", "viga", "no pruning", "no tree"):
        kind = claim.arms[arm].method
        assert (locate(kind) if kind else MHST).learns_from == "glance"
        assert claim.arms[arm].data == {}
    one_length = [claim.arms[arm] for arm in ("tree, one length", "viga, one length")]
    assert [arm.method for arm in one_length] == [claim.arms[arm].method for arm in ("tree", "viga")]
    assert all(arm.data == {"world": {"lengths": (0.2, 0.2)}} for arm in one_length)


def test_embedded_settings_learn_from_glances():
    data = GroundingData(view="glance", train_videos=24, test_videos=4, steps=16, batch_size=16)
    torch.manual_seed(0)
    method = build(MHST, {**MHST.arguments_from(data), **MHST.embedded["model"], "hidden_dim": 24})
    losses = []
    method.report = lambda **parts: losses.append(float(parts["contrast"].detach()))
    fit(method, data, trainer={"max_steps": 40, "max_epochs": -1, "limit_val_batches": 0})
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
