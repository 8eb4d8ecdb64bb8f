"""The field's contract: batches of images, and a classified image."""

import json

import torch

from ommatid.classification.task import Classification, ImageBatch


def test_choosing_images_keeps_labels_and_positions_with_them():
    batch = ImageBatch(torch.rand(3, 1, 4, 4), torch.tensor([5, 6, 7]), torch.tensor([0, 1, 2]))
    chosen = batch[torch.tensor([2, 0])]
    assert (chosen.labels.tolist(), chosen.index.tolist(), len(chosen)) == ([7, 5], [2, 0], 2)
    assert torch.equal(chosen.images, batch.images[[2, 0]])
    assert batch.to("meta").images.device.type == "meta"


def test_a_classification_is_json_and_a_picture(tmp_path):
    found = Classification(torch.rand(3, 8, 8), [("cat", 0.87654321), ("dog", 0.12)])
    assert found.to_json() == {
        "classes": [{"class": "cat", "probability": 0.8765}, {"class": "dog", "probability": 0.12}]
    }
    json.dumps(found.to_json())
    found.draw(tmp_path / "found.png")
    assert [path.name for path in tmp_path.iterdir()] == ["found.png"]
