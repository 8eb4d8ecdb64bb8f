"""The contract of recognition."""

import torch

from ommatid.recognition.task import ClipBatch, ClipClassification


def test_a_batch_is_cut_and_moved_as_one():
    batch = ClipBatch(torch.rand(4, 1, 2, 3, 5, 5), torch.arange(4), torch.arange(4))
    chosen = batch[torch.tensor([2, 0])]
    assert chosen.labels.tolist() == [2, 0]
    assert torch.equal(chosen.clips, batch.clips[[2, 0]])
    assert len(batch.to(torch.device("cpu"))) == 4


def test_a_classification_is_plain_json():
    found = ClipClassification(torch.rand(2, 3, 4, 4), [("run", 0.75), ("walk", 0.25)])
    assert found.to_json() == {
        "classes": [{"class": "run", "probability": 0.75}, {"class": "walk", "probability": 0.25}]
    }
