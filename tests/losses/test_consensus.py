"""Agreement of two views of one time line."""

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from ommatid.losses.consensus import agreement_pseudo_labels, aligned_contrast, over_time, temporal_consensus_loss

MASK = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 6, 3, generator=generator), torch.randn(2, 6, 3, generator=generator)


def test_divergence_is_scipys_over_the_classes_that_occur(views):
    first, second = views
    expected = []
    for row, label in LABELS.nonzero().tolist():
        steps = MASK[row]
        p, q = (view[row, steps, label].softmax(dim=0).numpy() for view in views)
        expected.append(jensenshannon(p, q) ** 2)
    found = temporal_consensus_loss(first, second, LABELS, MASK)
    assert float(found) == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_symmetric_kullback_leibler_is_larger_than_jensen_shannon(views):
    kl = temporal_consensus_loss(*views, LABELS, MASK, kind="kl")
    assert kl > temporal_consensus_loss(*views, LABELS, MASK) > 0


def test_both_views_move(views):
    first, second = (view.requires_grad_() for view in views)
    temporal_consensus_loss(first, second, LABELS, MASK).backward()
    for view in (first, second):
        assert (view.grad[0, :, 0] != 0).any()
        assert (view.grad[0, :, 1] == 0).all()  # the class does not occur
        assert (view.grad[~MASK] == 0).all()


def test_nothing_in_common_is_nothing_to_agree_on(views):
    assert temporal_consensus_loss(*views, LABELS, torch.zeros_like(MASK)) == 0


def test_pseudo_labels_follow_the_rule_unit_by_unit(views):
    where = [over_time(view, MASK) for view in views]
    positive, weight = agreement_pseudo_labels(*where, LABELS, MASK)
    for row in range(2):
        length = int(MASK[row].sum())
        for step in range(6):
            for label in range(3):
                values = [float(view[row, step, label]) * length for view in where]
                occurs = LABELS[row, label] > 0
                expected = occurs and min(values) > 1.2
                counted = step < length and (not occurs or min(values) > 1.2 or max(values) < 0.8)
                assert bool(positive[row, step, label]) == expected
                assert bool(weight[row, step, label]) == counted


def test_aligned_sequences_contrast_least_where_they_are_aligned():
    codes = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    aligned, shifted = aligned_contrast(codes, codes, MASK), aligned_contrast(codes, codes.roll(1, dims=1), MASK)
    assert aligned < 0.1 < shifted


def test_padded_units_are_no_negatives():
    codes = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(2))
    other = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(3))
    alone = aligned_contrast(codes, other, torch.ones(1, 4, dtype=torch.bool))
    padded = aligned_contrast(
        torch.cat([codes, torch.ones(1, 2, 8)], dim=1), torch.cat([other, torch.ones(1, 2, 8)], dim=1), MASK[1:]
    )
    torch.testing.assert_close(alone, padded)
