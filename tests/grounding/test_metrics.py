"""Metrics of grounding, against a slow and independent implementation in plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.errors import InputError
from ommatid.grounding.metrics import (
    grounding_scores,
    nms_moments,
    rare_query_split,
    recall_at,
    temporal_iou,
    temporal_nms,
)
from ommatid.grounding.task import Moments, sort_moments

THRESHOLDS = (0.1, 0.3, 0.5, 0.7)


def slow_iou(a, b, extra=0):
    if a[1] + extra <= a[0] or b[1] + extra <= b[0]:
        return 0.0
    inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]) + extra)
    return inside / (max(a[1], b[1]) - min(a[0], b[0]) + extra)


def slow_nms(spans, threshold):
    kept = []
    for span in spans:
        if all(slow_iou(span, other) <= threshold for other in kept):
            kept.append(span)
    return kept


def slow_recall(videos, truths, threshold, rank, convention, nms):
    limit = threshold - 0.05 if convention == "frames" else nms
    extra = 1 if convention == "frames" else 0
    found = 0
    for spans, truth in zip(videos, truths, strict=True):
        overlaps = [slow_iou(span, truth, extra) for span in slow_nms(spans, limit)[:rank]]
        found += any(o > threshold if convention == "seconds" else o >= threshold for o in overlaps)
    return found / len(truths)


# Multiples of 1/8 are exact in float32 and make ties and touching spans frequent.
TIMES = st.integers(0, 80).map(lambda eighth: eighth / 8)
SPANS = st.tuples(TIMES, TIMES)


@st.composite
def ranked_spans(draw):
    videos, moments = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    spans = draw(st.lists(st.lists(SPANS, min_size=moments, max_size=moments), min_size=videos, max_size=videos))
    truths = draw(st.lists(SPANS.map(sorted).map(tuple), min_size=videos, max_size=videos))
    return spans, truths


@given(SPANS, SPANS, st.booleans())
def test_iou_equals_the_slow_one_and_is_symmetric_and_bounded(a, b, inclusive):
    first, second = torch.tensor(a), torch.tensor(b)
    iou = temporal_iou(first, second, inclusive).item()
    assert iou == pytest.approx(slow_iou(a, b, int(inclusive)), abs=1e-6)
    assert iou == temporal_iou(second, first, inclusive).item()
    assert 0 <= iou <= 1


@given(SPANS.filter(lambda span: span[0] < span[1]))
def test_a_span_matches_itself_fully(span):
    assert temporal_iou(torch.tensor(span), torch.tensor(span)).item() == 1


@given(ranked_spans(), st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_suppression_keeps_what_the_slow_one_keeps(case, threshold):
    spans, _ = case
    batch = torch.tensor(spans)
    kept = temporal_nms(batch, threshold)
    for row, mask, expected in zip(batch, kept, spans, strict=True):
        assert [tuple(span) for span in row[mask].tolist()] == slow_nms(expected, threshold)


@given(ranked_spans(), st.sampled_from([0.3, 0.5]), st.integers(1, 6))
def test_stopping_early_keeps_the_same_first_survivors(case, threshold, count):
    batch = torch.tensor(case[0])
    everything, first = temporal_nms(batch, threshold), temporal_nms(batch, threshold, count)
    assert torch.equal(first, everything & (everything.cumsum(1) <= count))


@given(ranked_spans(), st.sampled_from(["ommatid", "seconds", "frames"]), st.sampled_from([0.4, 0.5]))
def test_recall_equals_the_slow_one_in_every_convention(case, convention, nms):
    spans, truths = case
    batch = torch.tensor(spans)
    moments = Moments(batch, -torch.arange(batch.shape[1]).float().expand(batch.shape[:2]))
    recall = recall_at(moments, torch.tensor(truths), THRESHOLDS, (1, 5), nms, convention)
    for i, threshold in enumerate(THRESHOLDS):
        for j, rank in enumerate((1, 5)):
            expected = slow_recall(spans, truths, threshold, rank, convention, nms)
            assert recall[i, j].item() == pytest.approx(expected, abs=1e-6)


@given(ranked_spans(), st.sampled_from([None, 0.5]))
@settings(max_examples=50)
def test_scores_of_single_queries_average_to_the_recall(case, nms):
    spans, truths = case
    batch, truth, duration = torch.tensor(spans), torch.tensor(truths), torch.full((len(spans),), 16.0)
    moments = Moments(batch / 16, -torch.arange(batch.shape[1]).float().expand(batch.shape[:2]))
    scores = grounding_scores(moments, truth / 16, duration, THRESHOLDS, (1, 5), nms)
    recall = recall_at(Moments(batch, moments.scores), truth, THRESHOLDS, (1, 5), nms=1.0 if nms is None else nms)
    for i, threshold in enumerate(THRESHOLDS):
        for j, rank in enumerate((1, 5)):
            assert torch.isclose(scores[f"R@{rank},IoU={threshold:g}"].mean(), recall[i, j])
    best = [slow_iou(video[0], t) for video, t in zip(spans, truths, strict=True)]
    assert scores["mIoU"].tolist() == pytest.approx(best, abs=1e-6)


def test_metric_names_are_the_fields_names():
    moments = Moments(torch.rand(2, 6, 2), torch.zeros(2, 6))
    names = grounding_scores(moments, torch.tensor([[0.1, 0.5]] * 2), torch.ones(2), (0.5, 0.7))
    assert set(names) == {"R@1,IoU=0.5", "R@5,IoU=0.5", "R@1,IoU=0.7", "R@5,IoU=0.7", "mIoU"}


def test_predictions_are_clipped_to_the_video_before_they_are_scored():
    moments = Moments(torch.tensor([[[-3.0, 0.5]]]), torch.zeros(1, 1))
    scores = grounding_scores(moments, torch.tensor([[0.0, 0.5]]), torch.tensor([20.0]))
    assert scores["mIoU"].item() == 1


@pytest.mark.parametrize("span", [[0.4, 0.4], [0.6, 0.2], [1.2, 1.9]])
def test_degenerate_predictions_score_zero(span):
    scores = grounding_scores(
        Moments(torch.tensor([[span]]), torch.zeros(1, 1)), torch.tensor([[0.2, 0.9]]), torch.tensor([20.0])
    )
    assert all(score.item() == 0 for score in scores.values())


def test_the_same_iou_as_the_threshold_counts_as_found():
    moments = Moments(torch.tensor([[[0.0, 0.5]]]), torch.zeros(1, 1))
    truth = torch.tensor([[0.0, 1.0]])
    assert grounding_scores(moments, truth, torch.ones(1), (0.5,))["R@1,IoU=0.5"].item() == 1
    assert recall_at(moments, truth, (0.5,), (1,), convention="seconds").item() == 0


def test_suppression_lets_a_distant_moment_rise_into_the_first_five():
    near = torch.tensor([[0.0, 0.50 + 0.001 * i] for i in range(6)])
    moments = Moments(torch.cat([near, torch.tensor([[0.6, 0.9]])])[None], torch.arange(7, 0, -1.0)[None])
    truth = torch.tensor([[0.6, 0.9]])
    assert grounding_scores(moments, truth, torch.ones(1), (0.7,), nms=0.5)["R@5,IoU=0.7"].item() == 1
    assert grounding_scores(moments, truth, torch.ones(1), (0.7,), nms=None)["R@5,IoU=0.7"].item() == 0


def test_a_query_without_annotation_scores_nan_and_leaves_the_others_alone():
    moments = Moments(torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]]), torch.zeros(2, 1))
    scores = grounding_scores(moments, torch.tensor([[0.0, 1.0], [math.nan, math.nan]]), torch.ones(2))
    assert all(score[0].item() == 1 and score[1].isnan() for score in scores.values())


def test_unclear_convention_is_answered_with_the_nearest_one():
    with pytest.raises(InputError, match="unknown convention 'second': did you mean 'seconds'"):
        recall_at(Moments(torch.rand(1, 1, 2), torch.rand(1, 1)), torch.rand(1, 2), convention="second")


def test_suppressed_list_is_filled_up_with_empty_moments():
    spans = torch.tensor([[[0.0, 0.5], [0.0, 0.51], [0.6, 0.9]], [[0.0, 0.3], [0.4, 0.6], [0.7, 0.9]]])
    moments = nms_moments(sort_moments(spans, torch.tensor([[0.9, 0.8, 0.7]] * 2)), 0.5, 3)
    assert torch.allclose(moments.spans[0], torch.tensor([[0.0, 0.5], [0.6, 0.9], [0.0, 0.0]]))
    assert moments.scores[0, 2] == -math.inf
    assert torch.equal(moments.spans[1], spans[1])


def test_every_pass_over_survivors_serves_the_whole_batch(monkeypatch):
    import ommatid.grounding.metrics as metrics

    calls = []
    original = metrics.temporal_iou
    monkeypatch.setattr(metrics, "temporal_iou", lambda *a, **k: calls.append(1) or original(*a, **k))
    metrics.temporal_nms(torch.rand(64, 30, 2).sort(-1).values, 0.5, count=5)
    assert len(calls) == 5


def test_rare_split_follows_frequency_and_part_of_speech():
    train = ["person opens the door"] * 10 + ["person opens the fridge"] * 9
    table = {"person": "NOUN", "opens": "VERB", "door": "NOUN", "fridge": "NOUN", "slowly": "ADV", "the": "DET"}
    test = [
        "Person opens the door.",
        "person opens the FRIDGE",
        "person opens the door slowly",
        "person lifts the door",
    ]
    assert rare_query_split(train, test, 10, tags=table).tolist() == [False, True, False, True]
    assert rare_query_split(train, test, 9, tags=table).tolist() == [False, False, False, True]
    assert rare_query_split(train, test, 10, pos=("ADV",), tags=table).tolist() == [False, False, True, True]


def test_rare_split_without_a_table_counts_everything_but_stop_words():
    train = ["person opens the door"] * 10
    assert rare_query_split(train, ["person and the door", "person slowly opens the door"]).tolist() == [False, True]


def test_rare_split_of_no_sentences_is_empty():
    assert rare_query_split(["a"], []).shape == (0,)


def test_negative_frequency_is_refused():
    with pytest.raises(InputError, match="threshold: found -1"):
        rare_query_split([], [], threshold=-1)
