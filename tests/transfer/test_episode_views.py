"""Crops of an image follow from its number, whatever stands beside it."""

import torch

from ommatid.transfer import episode_views
from ommatid.transfer.episode_views import Crops, drawn_crops, middle_boxes, upright, views_in_parts


def test_company_does_not_change_the_crops_of_an_image():
    together = drawn_crops(torch.tensor([4, 9, 2]), 5, 32, 48, seed=1)
    alone = drawn_crops(torch.tensor([9]), 5, 32, 48, seed=1)
    assert torch.equal(together.boxes[1], alone.boxes[0])
    assert torch.equal(together.mirrored[1], alone.mirrored[0])
    assert not torch.equal(alone.boxes, drawn_crops(torch.tensor([9]), 5, 32, 48, seed=2).boxes)
    assert (together.boxes[..., 0] + together.boxes[..., 2] <= 32.001).all()
    assert together.boxes[..., 1].max() > 32 - 24


def test_parts_do_not_change_the_views(monkeypatch):
    images, crops = torch.rand(5, 3, 16, 16), drawn_crops(torch.arange(5), 3, 16, 16, seed=0)
    (whole,) = views_in_parts(images, crops, 8)
    monkeypatch.setattr(episode_views, "ENCODED_AT_ONCE", 6)
    parts = list(views_in_parts(images, crops, 8))
    assert [len(part) for part in parts] == [6, 6, 3]
    assert torch.equal(torch.cat(parts), whole)


def test_the_middle_of_all_is_all():
    assert middle_boxes(2, 30, 40, 1.0).tolist() == [[[0, 0, 30, 40]]] * 2
    crops = upright(middle_boxes(2, 30, 40, 0.5))
    assert isinstance(crops, Crops)
    assert not crops.mirrored.any()
