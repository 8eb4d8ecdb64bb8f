"""Metrics of label sets against scikit-learn and torchmetrics; recorded numbers are in tests/parity."""

import pytest
import torch
from sklearn.metrics import average_precision_score, precision_score, recall_score
from torchmetrics.classification import (
    MultilabelAveragePrecision,
    MultilabelF1Score,
    MultilabelPrecision,
    MultilabelRecall,
)

from ommatid.errors import InputError
from ommatid.recognition.multilabel import average_precision, multilabel_scores, top_labels

SAMPLES, LABELS = 60, 7


@pytest.fixture
def truth():
    """The last class is never there."""
    rate = torch.tensor([0.5, 0.3, 0.2, 0.1, 0.4, 0.2, 0.0])
    return torch.rand(SAMPLES, LABELS, generator=torch.Generator().manual_seed(0)) < rate


@pytest.fixture
def scores(truth):
    """The first class is never predicted; scores are rounded, so that many are equal."""
    noise = torch.rand(SAMPLES, LABELS, generator=torch.Generator().manual_seed(1))
    scores = ((0.4 * truth + 0.7 * noise) * 20).round() / 20
    scores[:, 0] *= 0.1
    return scores


@pytest.fixture
def predicted(scores):
    return scores >= 0.5


def test_class_means_are_those_of_scikit_learn(predicted, truth):
    found = multilabel_scores(predicted, truth)
    settings = {"average": "macro", "zero_division": 0}
    cp, cr = (score(truth.numpy(), predicted.numpy(), **settings) for score in (precision_score, recall_score))
    assert float(found["CP"]) == pytest.approx(cp)
    assert float(found["CR"]) == pytest.approx(cr)
    assert float(found["CF1"]) == pytest.approx(2 * cp * cr / (cp + cr))


def test_overall_ratios_are_those_of_torchmetrics(predicted, truth):
    found = multilabel_scores(predicted, truth)
    for name, metric in {"OP": MultilabelPrecision, "OR": MultilabelRecall, "OF1": MultilabelF1Score}.items():
        expected = metric(LABELS, average="micro")(predicted.int(), truth.int())
        assert float(found[name]) == pytest.approx(float(expected))


def test_classes_never_predicted_or_never_there_count_as_zero(predicted, truth):
    assert not predicted[:, 0].any()
    assert not truth[:, -1].any()
    found = multilabel_scores(predicted, truth)
    inner = slice(1, LABELS - 1)
    right = (predicted & truth)[:, inner].sum(dim=0)
    assert float(found["CP"]) == pytest.approx(float((right / predicted[:, inner].sum(dim=0)).sum()) / LABELS)
    with_first = float((right / truth[:, inner].sum(dim=0)).sum()) / LABELS
    assert float(found["CR"]) == pytest.approx(with_first)


def test_nothing_right_is_zero_and_all_right_is_one(truth):
    truth = truth[:, :-1]
    for predicted, expected in ((torch.zeros_like(truth), 0.0), (~truth, 0.0), (truth, 1.0)):
        assert {float(score) for score in multilabel_scores(predicted, truth).values()} == {expected}


def test_average_precision_is_that_of_scikit_learn_also_among_equal_scores(scores, truth):
    found = average_precision(scores, truth)
    expected = average_precision_score(truth[:, :-1].numpy(), scores[:, :-1].numpy(), average=None)
    torch.testing.assert_close(found[:-1], torch.from_numpy(expected))
    assert found[-1].isnan()


def test_mean_average_precision_is_that_of_torchmetrics_on_classes_that_are_there(scores, truth):
    expected = MultilabelAveragePrecision(LABELS - 1, average="macro")(scores[:, :-1], truth[:, :-1].int())
    found = multilabel_scores(scores >= 0.5, truth, scores)["mAP"]
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_equal_scores_in_any_order_rank_alike(scores, truth):
    shuffle = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        average_precision(scores[shuffle], truth[shuffle]), average_precision(scores, truth), equal_nan=True
    )


def test_the_top_k_are_exactly_k_labels(scores):
    for k in (1, 3, LABELS):
        found = top_labels(scores, k)
        assert found.sum(dim=1).tolist() == [k] * SAMPLES
        inside = scores.masked_fill(~found, 9).amin(dim=1)
        assert (scores.masked_fill(found, -9).amax(dim=1) <= inside).all()
    for k in (0, LABELS + 1):
        with pytest.raises(InputError, match=f"k: found {k}, expected 1 to {LABELS}, the number of labels"):
            top_labels(scores, k)


def test_no_samples_are_refused():
    empty = torch.zeros(0, 3, dtype=torch.bool)
    with pytest.raises(InputError, match="labels: found no samples, expected at least one"):
        multilabel_scores(empty, empty)
