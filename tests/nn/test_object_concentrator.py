"""SOC against plain loops over rounds, rows and columns, and what its scores must not depend on."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from ommatid.errors import InputError
from ommatid.nn import object_concentrator
from ommatid.nn.object_concentrator import (
    SharedObjectConcentrator,
    greedy_matching,
    greedy_matching_score,
    shared_prototypes,
    unit_vectors,
)


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def matched_by_loops(similarity, beta):
    rows, columns, score = set(range(len(similarity))), set(range(similarity.shape[1])), 0.0
    for power in range(min(similarity.shape)):
        value, row, column = max((float(similarity[r, c]), r, c) for r in rows for c in columns)
        rows.remove(row)
        columns.remove(column)
        score += beta**power * max(value, 0)
    return score


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 2), (1, 1)])
def test_greedy_matching_is_that_of_plain_loops(shape):
    similarity = torch.randn(6, *shape, generator=torch.Generator().manual_seed(1))
    expected = torch.tensor([matched_by_loops(each, 0.7) for each in similarity])
    torch.testing.assert_close(greedy_matching_score(similarity, 0.7), expected)


def test_matches_say_where_they_are():
    similarity = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(2))
    found = greedy_matching(similarity)
    for number, each in enumerate(similarity):
        assert torch.equal(each[found.rows[number], found.columns[number]], found.values[number])
        assert len(set(found.rows[number].tolist())) == 3
        assert len(set(found.columns[number].tolist())) == 3
    assert (found.values.diff(dim=1) <= 0).all()


def test_the_released_matching_pairs_what_is_left_in_order():
    similarity = torch.tensor([[0.1, 0.2, 0.9], [0.8, 0.3, 0.1], [0.7, 0.4, 0.2]])
    found = greedy_matching(similarity, as_released=True)
    assert found.values.tolist() == pytest.approx([0.9, 0.8, 0.4])
    assert list(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) == [(0, 2), (1, 0), (2, 1)]


def prototypes_by_loops(support):
    shots, crops, _ = support.shape
    left, found = [list(range(crops)) for _ in range(shots)], []
    for _ in range(crops):
        best = max(
            itertools.product(*left),
            key=lambda choice: float(torch.stack([support[k, j] for k, j in enumerate(choice)]).sum(dim=0).norm()),
        )
        found.append(best)
        left = [[crop for crop in of if crop != taken] for of, taken in zip(left, best, strict=True)]
    return found


@pytest.mark.parametrize(("shots", "crops"), [(2, 4), (3, 3), (5, 2)])
def test_prototypes_are_those_of_an_exhaustive_search(shots, crops):
    support = unit(3, shots, crops, 8)
    found = shared_prototypes(support)
    for number, each in enumerate(support):
        assert [tuple(row) for row in found.crops[number].tolist()] == prototypes_by_loops(each)
    chosen = support[0, torch.arange(shots), found.crops[0, 0]]
    torch.testing.assert_close(found.vectors[0, 0], F.normalize(chosen.mean(dim=0), dim=0))


def test_a_search_that_follows_all_combinations_is_exhaustive(monkeypatch):
    support = unit(4, 3, 3, 8, seed=4)
    whole = shared_prototypes(support).crops
    monkeypatch.setattr(object_concentrator, "EXHAUSTIVE", 1)
    assert torch.equal(shared_prototypes(support).crops, whole)


def test_a_narrow_search_still_uses_every_crop_once(monkeypatch):
    monkeypatch.setattr(object_concentrator, "EXHAUSTIVE", 1)
    monkeypatch.setattr(object_concentrator, "BEAM", 4)
    found = shared_prototypes(unit(2, 6, 5, 8)).crops
    assert torch.equal(found.sort(dim=1).values, torch.arange(5)[None, :, None].expand(2, 5, 6))


def test_one_support_has_its_crops_as_prototypes_of_weight_one():
    support = unit(3, 1, 4, 8)
    found = shared_prototypes(support, alpha=0.5)
    assert torch.equal(found.vectors, support[:, 0])
    assert found.weights.tolist() == [1] * 4


def test_later_rounds_weigh_less():
    assert shared_prototypes(unit(2, 2, 3, 8), alpha=0.5).weights.tolist() == [1, 0.5, 0.25]


def test_the_released_prototypes_repeat_the_last_but_one():
    support = unit(2, 2, 3, 8)
    ours, theirs = (shared_prototypes(support, as_released=each) for each in (False, True))
    assert torch.equal(ours.vectors[:, :2], theirs.vectors[:, :2])
    assert torch.equal(theirs.vectors[:, 2], theirs.vectors[:, 1])


@pytest.mark.parametrize("shots", [1, 3])
def test_scores_do_not_depend_on_the_order_of_crops_supports_and_company(shots):
    block, support, query = SharedObjectConcentrator(0.9, 0.7), unit(2, 4, shots, 5, 8), unit(2, 6, 5, 8, seed=9)
    scores = block(support, query)
    torch.testing.assert_close(block(support.flip(2).roll(1, dims=3), query.roll(2, dims=2)), scores)
    torch.testing.assert_close(block(support.flip(1), query).flip(2), scores)
    torch.testing.assert_close(block(support[1:], query[1:, 3:]), scores[1:, 3:])


def test_a_class_that_is_shown_gets_the_highest_score():
    support = unit(1, 3, 1, 4, 16)
    block = SharedObjectConcentrator()
    scores = block(support, support[:, 1])
    assert int(scores[0, 0].argmax()) == 1
    assert float(scores[0, 0, 1]) == pytest.approx(block.highest(4))


def test_vectors_are_of_unit_length_even_of_an_empty_map():
    assert unit_vectors(torch.zeros(1, 4, 2, 2)).isfinite().all()
    torch.testing.assert_close(unit_vectors(torch.randn(3, 4, 2, 2).half()).norm(dim=-1), torch.ones(3))


def test_a_weight_that_is_none_is_refused():
    with pytest.raises(InputError, match=r"beta: found 1\.5, expected a weight from 0 to 1"):
        SharedObjectConcentrator(beta=1.5)
