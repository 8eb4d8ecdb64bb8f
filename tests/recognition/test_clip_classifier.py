"""A classifier of clips averages views, keeps how clips are taken, and predicts on a user's own video."""

import json

import pytest
import torch
from torch import nn

from ommatid.data.worlds.motion import CLASSES, MotionWorld
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.recognition.clip_classifier import ClipClassifier
from ommatid.recognition.clip_data import ClipData
from ommatid.recognition.sampling import Sampling
from ommatid.recognition.task import ClipBatch, ClipClassification


class Brightness(ClipClassifier):
    """Tells how bright the frames are."""

    def __init__(self, num_classes: int = 3, clip_length: int = 4, recipe: Recipe = Recipe()) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.head = nn.Linear(1, num_classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.arange(num_classes)[:, None] * 10.0)
            self.head.bias.copy_(-5.0 * torch.arange(num_classes) ** 2)

    def forward(self, clips):
        return self.head(clips.mean(dim=(1, 2, 3, 4))[:, None])


def test_views_of_a_video_are_averaged_as_probabilities():
    method = Brightness()
    clips = torch.rand(2, 3, 4, 3, 8, 8)
    expected = torch.stack([method(video).softmax(dim=1).mean(dim=0) for video in clips])
    torch.testing.assert_close(method.probabilities(clips), expected)
    labels = expected.argmax(dim=1)
    scores = method.score(ClipBatch(clips, labels, torch.arange(2)))
    assert scores["top1"].tolist() == [1, 1]
    assert scores["top5"].tolist() == [1, 1]


def test_a_checkpoint_knows_its_classes_and_how_clips_are_taken(tmp_path):
    method, data = (
        Brightness(12),
        ClipData(size=16, clip_length=4, interval=1, world={"train": 12, "val": 12, "test": 12}),
    )
    assert Brightness.arguments_from(data) == {"num_classes": 12, "clip_length": 4}
    method.adopt(data)
    loaded = Brightness.load(method.save(tmp_path / "m.safetensors"))
    assert loaded.class_names == list(CLASSES)
    assert loaded.sampling == data.sampling
    other = ClipData(world={"train": 12, "val": 12, "test": 12})
    loaded.align(other)
    assert other.sampling == data.sampling
    loaded.class_names = ["one", "two"]
    with pytest.raises(InputError, match="this checkpoint was trained on"):
        loaded.align(other)


def test_a_video_of_ones_own_is_predicted_and_drawn(tmp_path):
    MotionWorld(train=1, val=1, test=1, size=32).write(tmp_path / "clips", "folder")
    [video] = (tmp_path / "clips/test").rglob("*.mp4")
    method = Brightness()
    method.class_names, method.sampling = ["dark", "middle", "light"], Sampling(4, 2, size=24, clips=3)
    found = method.predict(video, top=2)
    assert isinstance(found, ClipClassification)
    assert found.frames.shape == (4, 3, 24, 24)
    assert len(found.classes) == 2
    assert found.classes[0][1] >= found.classes[1][1]
    assert json.loads(json.dumps(found.to_json()))["classes"][0]["class"] in method.class_names
    found.draw(tmp_path / "clip.png")
    assert (tmp_path / "clip.png").stat().st_size > 1000
    with pytest.raises(InputError, match="no such video file"):
        method.predict(tmp_path / "nothing.mp4")
    with pytest.raises(InputError, match="top must be at least 1, found 0"):
        method.predict(video, top=0)


def test_the_exported_network_takes_plain_clips():
    method = Brightness()
    method.sampling = Sampling(4, size=8)
    network, (example,), inputs, outputs = method.exportable()
    assert (inputs, outputs) == (("clips",), ("logits",))
    torch.testing.assert_close(network(example), method(example))
