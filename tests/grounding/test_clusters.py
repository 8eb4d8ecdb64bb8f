"""Clusters of sentences and the pseudo labels of videos, against plain derivations."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from ommatid.errors import InputError
from ommatid.grounding.clusters import balanced_pseudo_labels, cluster_codes, mean_over_time, most_likely


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def in_order(rows):
    """Rows of a table in an order of their own, since clusters have none."""
    return torch.stack(sorted(rows, key=lambda row: row.tolist()))


# --- k-means (E3) ---


def test_centres_are_those_of_sklearn_made_unit():
    codes = unit(60, 5)
    centres, share = cluster_codes(codes, 4)
    found = KMeans(4, n_init=10, random_state=0).fit(codes.numpy())
    lengths = np.linalg.norm(found.cluster_centers_, axis=1, keepdims=True)
    np.testing.assert_allclose(centres.numpy(), found.cluster_centers_ / lengths, atol=1e-6)
    assert (60 * share).tolist() == pytest.approx([int((found.labels_ == label).sum()) for label in range(4)])


def spread(points):
    return float(((points - points.mean(dim=0)) ** 2).sum())


def test_centres_are_those_of_the_best_of_all_partitions():
    codes, clusters = unit(8, 3, seed=1), 3
    partitions = (
        torch.tensor(labels)
        for labels in itertools.product(range(clusters), repeat=len(codes))
        if set(labels) == set(range(clusters))
    )
    best = min(partitions, key=lambda labels: sum(spread(codes[labels == each]) for each in range(clusters)))
    means = torch.stack([codes[best == each].mean(dim=0) for each in range(clusters)])
    expected = torch.cat([means / means.norm(dim=1, keepdim=True), best.bincount()[:, None] / 8], dim=1)
    centres, share = cluster_codes(codes, clusters)
    torch.testing.assert_close(in_order(torch.cat([centres, share[:, None]], dim=1)), in_order(expected))


def test_centres_are_unit_and_shares_belong_to_them():
    directions, counts = torch.eye(3, 6), torch.tensor([30, 15, 5])
    codes = torch.nn.functional.normalize(directions.repeat_interleave(counts, dim=0) + 0.05 * unit(50, 6), dim=-1)
    centres, share = cluster_codes(codes, 3)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(3))
    assert float(share.sum()) == pytest.approx(1)
    nearest = (centres @ directions.T).argmax(dim=1)
    assert sorted(nearest.tolist()) == [0, 1, 2]
    torch.testing.assert_close(share, counts[nearest] / 50)


def test_the_same_codes_give_the_same_clusters_whatever_was_drawn_before():
    codes = unit(40, 4)
    first = cluster_codes(codes, 5)
    torch.rand(7)
    for once, again in zip(first, cluster_codes(codes, 5), strict=True):
        assert torch.equal(once, again)


def test_too_few_sentences_are_told():
    with pytest.raises(InputError, match="clusters: found 5, expected at most the number of training sentences, 4"):
        cluster_codes(unit(4, 3), 5)
    centres, share = cluster_codes(unit(4, 3), 4)
    torch.testing.assert_close(in_order(centres), in_order(unit(4, 3)))
    assert share.tolist() == [0.25] * 4


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_sentences_that_repeat_each_other_still_give_labels():
    centres, share = cluster_codes(unit(3, 6).repeat(4, 1), 5)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(5))
    assert sorted(share.tolist()) == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3])
    assert balanced_pseudo_labels(unit(20, 6, seed=1) @ centres.T, share).isfinite().all()


# --- balanced pseudo labels (E8) ---


def sinkhorn(scores, marginal, rounds, sharpness, most):
    """Entry after entry, in plain numbers."""
    rows, columns = range(len(scores)), range(len(marginal))
    plan = [[math.exp(value / sharpness) for value in row] for row in scores]
    for _ in range(rounds):
        for column in columns:
            total = sum(plan[row][column] for row in rows)
            for row in rows:
                plan[row][column] *= marginal[column] / total
        for row in rows:
            total = sum(plan[row])
            plan[row] = [value / total / len(plan) for value in plan[row]]
    return [largest(row, most) for row in plan]


def largest(row, most):
    kept = sorted(range(len(row)), key=lambda column: -row[column])[:most]
    total = sum(row[column] for column in kept)
    return [row[column] / total if column in kept else 0.0 for column in range(len(row))]


@pytest.fixture
def scores():
    """Cosines of 60 videos to 4 clusters, of which the first attracts all."""
    generator = torch.Generator().manual_seed(0)
    return (0.2 * torch.randn(60, 4, generator=generator) + torch.tensor([0.4, 0.0, 0.0, 0.0])).clamp(-1, 1)


MARGINAL = torch.tensor([0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(("rounds", "sharpness", "most"), [(1, 0.05, 4), (3, 0.05, 2), (5, 0.2, 3)])
def test_labels_are_those_of_a_plain_loop(scores, rounds, sharpness, most):
    found = balanced_pseudo_labels(scores, MARGINAL, rounds, sharpness, most)
    expected = sinkhorn(scores.tolist(), MARGINAL.tolist(), rounds, sharpness, most)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_clusters_become_as_frequent_as_their_sentences(scores):
    gaps = []
    for rounds in (1, 5, 200):
        labels = balanced_pseudo_labels(scores, MARGINAL, rounds=rounds, most=4)
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(60))
        gaps.append(float((labels.mean(dim=0) - MARGINAL).abs().max()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3
    unbalanced = (scores / 0.05).softmax(dim=1).mean(dim=0)
    assert unbalanced[0] > 0.7  # else balancing would have nothing to do


def test_three_rounds_already_free_videos_from_the_cluster_that_attracts_all(scores):
    labels = balanced_pseudo_labels(scores, MARGINAL, most=1)
    assert (scores.argmax(dim=1) == 0).float().mean() > 0.8
    assert (labels.mean(dim=0) - MARGINAL).abs().max() < 0.1


def test_what_raises_all_videos_of_a_cluster_alike_changes_nothing(scores):
    plain = balanced_pseudo_labels(scores, MARGINAL)
    for offset in (torch.tensor(0.3), torch.tensor([0.1, -0.2, 0.3, 0.0])):
        torch.testing.assert_close(balanced_pseudo_labels(scores + offset, MARGINAL), plain, rtol=1e-3, atol=1e-5)


def test_what_raises_all_clusters_of_a_video_alike_changes_nothing_in_the_end(scores):
    offset = torch.linspace(-0.2, 0.2, 60)[:, None]
    plain, raised = (balanced_pseudo_labels(each, MARGINAL, rounds=300) for each in (scores, scores + offset))
    torch.testing.assert_close(raised, plain, rtol=1e-3, atol=1e-4)


def test_labels_follow_their_videos_and_clusters(scores):
    videos, clusters = torch.randperm(60, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 0, 3, 1])
    plain = balanced_pseudo_labels(scores, MARGINAL)
    mixed = balanced_pseudo_labels(scores[videos][:, clusters], MARGINAL[clusters])
    torch.testing.assert_close(mixed, plain[videos][:, clusters])


@pytest.mark.parametrize("scale", [1e2, 1e6])
def test_extreme_scores_stay_finite(scores, scale):
    labels = balanced_pseudo_labels(scale * scores, MARGINAL, rounds=20)
    assert labels.isfinite().all()
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(60))


@pytest.mark.parametrize("most", [1, 4])
def test_a_cluster_without_sentences_is_shown_by_no_video(scores, most):
    labels = balanced_pseudo_labels(scores, torch.tensor([0.0, 0.5, 0.3, 0.2]), most=most)
    assert (labels[:, 0] == 0).all()
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(60))


def test_labels_keep_the_precision_of_the_scores(scores):
    assert balanced_pseudo_labels(scores.half(), MARGINAL).dtype == torch.float16
    assert balanced_pseudo_labels(scores.double(), MARGINAL).dtype == torch.float64


# --- most_likely ---


@pytest.mark.parametrize("most", [1, 3, 5, 9])
def test_the_most_likely_are_those_of_a_plain_loop(most):
    scores = torch.rand(20, 5, generator=torch.Generator().manual_seed(0))
    expected = [largest(row, most) for row in scores.tolist()]
    torch.testing.assert_close(most_likely(scores, most), torch.tensor(expected))


# --- mean_over_time ---


def test_the_mean_is_that_of_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    values, weight = torch.randn(3, 6, 2, generator=generator), torch.rand(3, 6, generator=generator)
    found = mean_over_time(values, weight)
    for row in range(3):
        total = sum(float(weight[row, step]) * values[row, step] for step in range(6))
        torch.testing.assert_close(found[row], total / float(weight[row].sum()))


def test_masked_steps_do_not_count_and_nothing_at_all_gives_zero():
    values = torch.tensor([[[1.0], [3.0], [500.0]], [[7.0], [8.0], [9.0]]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    found = mean_over_time(values, mask)
    assert found.tolist() == [[2.0], [0.0]]
    found.sum().backward()
    assert values.grad[..., 0].tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
