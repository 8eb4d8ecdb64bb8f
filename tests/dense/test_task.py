import json
import weakref

import numpy as np
import torch
from PIL import Image

from ommatid.dense.task import BoundaryBatch, MaskBatch, Segmentation, TiledSegmentation


def masks(count):
    return MaskBatch(
        torch.rand(count, 3, 4, 4),
        torch.zeros(count, 1, 4, 4),
        torch.ones(count, 1, 4, 4, dtype=torch.bool),
        torch.arange(count),
    )


def test_three_streams_of_their_own_lengths_travel_as_one():
    batch = BoundaryBatch(masks(4), masks(4), masks(2))
    assert len(batch) == 4
    assert len(batch.labelled) == 2
    moved = batch.to("meta")
    assert moved.source.images.device.type == moved.labelled.valid.device.type == "meta"
    assert batch.source.images.device.type == "cpu"


def found(mask):
    return Segmentation(torch.rand(3, *mask.shape), mask.float() * 0.8 + 0.1, 0.5)


def test_share_and_box_of_the_foreground():
    mask = torch.zeros(6, 10)
    mask[1:4, 2:7] = 1
    told = found(mask).to_json()
    assert told == {"width": 10, "height": 6, "foreground": 0.25, "box": [2, 1, 7, 4], "threshold": 0.5}
    assert json.loads(json.dumps(told)) == told
    assert found(torch.zeros(6, 10)).to_json()["box"] is None


def test_a_large_mask_is_told_of_part_by_part(monkeypatch):
    """The same as of the whole, and never more than two parts in memory."""
    alive, most, parts = [], [], TiledSegmentation.masks

    def watched(self):
        for part in parts(self, rows=2):
            alive.append(weakref.ref(part.untyped_storage()))
            most.append(sum(each() is not None for each in alive))
            yield part

    monkeypatch.setattr(TiledSegmentation, "masks", watched)
    mask = torch.zeros(31, 10)
    mask[5:24, 2:7] = 1
    levels = (mask * 255).to(torch.uint8)
    assert TiledSegmentation(torch.rand(3, 31, 10), levels, 0.5).to_json() == found(mask).to_json()
    assert len(most) == 16
    assert max(most) <= 2


def test_a_drawing_is_the_lit_image_and_the_mask_beside_it(tmp_path):
    mask = torch.zeros(20, 30)
    mask[5:15, 5:15] = 1
    found(mask).draw(tmp_path / "found.png")
    assert Image.open(tmp_path / "found.png").size == (30, 20)
    saved = np.asarray(Image.open(tmp_path / "found.mask.png"))
    np.testing.assert_array_equal(saved, mask.numpy() * 255)
