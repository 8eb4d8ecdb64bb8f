import warnings

import pytest
import torch

from ommatid.transfer.zero_shot_metrics import (
    ZeroShotScores,
    class_accuracies,
    gzsl_metrics,
    harmonic_mean,
    mean_class_accuracy,
    zsl_accuracy,
)


def numbers(*values):
    return torch.tensor(values)


def test_classes_count_alike_however_many_samples_they_have():
    labels, predicted = numbers(0, 0, 0, 0, 1), numbers(0, 0, 0, 0, 0)
    assert mean_class_accuracy(predicted, labels, numbers(0, 1)) == 0.5


def test_t1_looks_at_unseen_classes_alone():
    labels, predicted = numbers(0, 3, 3, 4), numbers(1, 3, 4, 4)
    assert zsl_accuracy(predicted, labels, numbers(3, 4)) == 0.75


def test_u_and_s_are_among_all_classes_and_h_lies_between():
    labels, predicted = numbers(0, 0, 1, 2, 2, 2, 2), numbers(0, 1, 1, 2, 0, 0, 0)
    found = gzsl_metrics(predicted, labels, seen=numbers(0, 1), unseen=numbers(2))
    assert found == {"U": 0.25, "S": 0.75, "H": 2 * 0.25 * 0.75}


def test_the_harmonic_mean_of_nothing_is_nothing():
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.0, 1.0) == 0.0


def test_classes_without_samples_are_left_out_and_told():
    labels, predicted = numbers(0, 0), numbers(0, 1)
    assert class_accuracies(predicted, labels, numbers(0, 5)).isnan().tolist() == [False, True]
    with pytest.warns(UserWarning, match=r"1 of 2 classes have no samples and are left out of the mean \(first: 5\)"):
        assert mean_class_accuracy(predicted, labels, numbers(0, 5)) == 0.5


def collected(labels, seen, among_all, among_new, identity=None):
    scores = ZeroShotScores()
    columns = {"labels": labels, "is_seen": seen, "among_all": among_all, "among_new": among_new}
    identity = torch.arange(len(labels)) if identity is None else identity
    scores.update(identity, {name: torch.tensor(each).float() for name, each in columns.items()})
    return scores


def test_scores_of_a_split_are_those_of_the_functions():
    found = collected([0, 0, 2, 3], [1, 1, 0, 0], [0, 2, 2, 0], [2, 3, 2, 3]).compute()
    assert found == {"T1": 1.0, "U": 0.5, "S": 0.5, "H": 0.5}


def test_a_sample_counts_once():
    scores = collected([0, 2], [1, 0], [0, 2], [2, 2])
    again = {"labels": [2.0, 3.0], "is_seen": [0.0, 0.0], "among_all": [2.0, 0.0], "among_new": [2.0, 2.0]}
    scores.update(numbers(1, 2), {name: torch.tensor(each) for name, each in again.items()})
    assert scores.compute()["T1"] == 0.5


def test_a_split_of_one_kind_of_classes_has_the_metrics_of_that_kind():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert collected([0, 1], [1, 1], [0, 0], [2, 2]).compute() == {"S": 0.5}
        assert set(collected([2, 3], [0, 0], [2, 2], [2, 3]).compute()) == {"T1", "U"}
    assert ZeroShotScores().compute() == {}
