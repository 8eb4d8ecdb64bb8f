"""Drawn trees: classes of one block stand together, and the marked way is the winner's."""

import torch

from ommatid.transfer.draw import MARKED, _places, _way, draw_explained, draw_tree
from ommatid.transfer.task import ExplainedClassification

TREE = [[0, 1], [0, 1, 1], [2, 0, 2, 1]]


def test_classes_of_one_block_stand_side_by_side_below_it():
    order, places = _places(TREE)
    assert abs(order.index(0) - order.index(2)) == 1
    assert places[-2][2] == (order.index(0) + order.index(2)) / 2
    assert set(places[-1]) == {0, 1, 2, 3}


def test_a_way_leads_from_the_first_level_to_the_class():
    assert _way(TREE, 2) == {3: 2, 2: 2, 1: 1, 0: 1}


def test_the_winner_is_marked_and_nothing_without_one():
    marked = draw_tree(TREE, list("abcd"), winner=2).axes[0]
    plain = draw_tree(TREE, list("abcd")).axes[0]
    assert sum(line.get_color() == MARKED for line in marked.lines) == 3
    assert not any(line.get_color() == MARKED for line in plain.lines)
    assert {text.get_text() for text in marked.texts} >= set("abcd")


def test_an_explained_image_shows_image_classes_and_tree(tmp_path):
    found = ExplainedClassification(torch.rand(1, 8, 8), [("c", 0.9), ("a", 0.1)], TREE, list("abcd"), 2)
    figure = draw_explained(found, tmp_path / "found.png")
    assert len(figure.axes) == 3
    assert (tmp_path / "found.png").stat().st_size > 5000
    assert found.way == [1, 1, 2]
    assert found.companions == ["a"]
