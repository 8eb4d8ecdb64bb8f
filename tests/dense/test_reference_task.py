import math

import pytest
import torch

from ommatid.dense.reference_task import ReferenceBatch, ReferenceScores, by_category, query_scores, swap_hits


def batch():
    """Two queries of one image with the categories 1 (left) and 2 (right), and one of an image that shows neither."""
    maps = torch.zeros(3, 4, 8, dtype=torch.long)
    maps[:2, :, :2], maps[:2, :, 6:] = 1, 2
    maps[1, 0, 4] = 255
    category = torch.tensor([1, 2, 1])
    masks = (maps == category[:, None, None])[:, None]
    return ReferenceBatch(
        torch.rand(3, 3, 4, 8),
        masks.float(),
        (maps != 255)[:, None],
        torch.arange(3),
        maps,
        torch.rand(3, 1, 3, 4, 8),
        torch.ones(3, 1, 1, 4, 8),
        category,
        masks.flatten(1).any(dim=1),
        torch.zeros(3, dtype=torch.long),
    )


def test_other_objects_are_those_of_other_categories():
    others = batch().others
    assert others[0, 0, :, 6:].all()
    assert others[0].sum() == 8
    assert others[1, 0, :, :2].all()
    assert not others[2].any()


def test_asked_objects_found_are_hits_and_others_are_not():
    asked = batch()
    right = query_scores(asked.masks > 0, asked)
    assert right["swap"][:2].tolist() == [1, 1]
    assert right["swap"][2].isnan()
    assert right["false_area"][:2].isnan().all()
    assert right["false_area"][2] == 0
    wrong = query_scores(asked.others, asked)
    assert wrong["swap"][:2].tolist() == [0, 0]
    everything = query_scores(torch.ones_like(asked.valid), asked)
    assert everything["swap"][:2].tolist() == [0, 0]
    assert everything["false_area"][2] == 1
    assert everything["confusion"].sum(dim=(1, 2)).tolist() == [32, 31, 32]


def test_swaps_need_both_objects():
    place = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    assert swap_hits(place, place, torch.zeros_like(place)).isnan().all()


def test_categories_count_alike_however_often_they_are_asked():
    matrices = torch.tensor([[[4.0, 0], [0, 4]], [[4.0, 0], [0, 4]], [[4.0, 0], [4, 0]]])
    found = by_category(matrices, torch.tensor([1.0, 1.0, 2.0]))
    assert found["IoU"] == pytest.approx(0.5)
    assert found["mIoU"] == pytest.approx((1 + (0 + 0.5) / 2) / 2)


def test_a_split_is_scored_by_category_and_by_draw():
    asked, scores = batch(), ReferenceScores()
    scores.update(asked.index, query_scores(asked.masks > 0, asked))
    found = scores.compute()
    assert found["category_IoU"] == found["IoU"] == found["swap"] == 1
    assert found["false_area"] == 0
    assert "category_IoU_std" not in found
    asked.draw, asked.index = asked.draw + 1, asked.index + 3
    scores.update(asked.index, query_scores(asked.others, asked))
    found = scores.compute()
    assert found["category_IoU_std"] == pytest.approx(torch.tensor([1.0, 0.0]).std())
    assert found["swap"] == pytest.approx(0.5)


def test_without_anything_asked_for_in_sight_only_what_is_falsely_found_is_scored():
    asked, scores = batch(), ReferenceScores()
    found = query_scores(torch.ones_like(asked.valid), asked)
    scores.update(asked.index[2:], {name: value[2:] for name, value in found.items()})
    found = scores.compute()
    assert found.pop("false_area") == 1.0
    assert {"category_IoU", "mIoU", "swap"} <= found.keys()
    assert all(math.isnan(value) for value in found.values())


def test_nothing_seen_is_no_score():
    assert ReferenceScores().compute() == {}
