"""What every method that yields a classifier inherits."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ommatid.classification.classifier import ImageClassifier
from ommatid.classification.data import ImageData
from ommatid.engine.export import export_method
from ommatid.engine.fit import evaluate
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError


class Brightness(ImageClassifier):
    """As small as a classifier can be: a linear layer on the mean of the channels."""

    def __init__(self, num_classes: int = 10, channels: int = 1, image_size: int = 8, mean=None, std=None) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = Recipe()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, images):
        return self.linear(images.mean(dim=(2, 3)))


@pytest.fixture
def data():
    return ImageData(size=8, channels=1, batch_size=64)


@pytest.fixture
def method(data):
    torch.manual_seed(0)
    method = Brightness(**Brightness.arguments_from(data))
    method.adopt(data)
    return method


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "mine.png"
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(path)
    return path


def test_a_classifier_takes_its_sizes_from_the_data(data):
    given = Brightness.arguments_from(data)
    assert {name: given[name] for name in ("num_classes", "channels", "image_size")} == {
        "num_classes": 10,
        "channels": 1,
        "image_size": 8,
    }
    assert (given["mean"], given["std"]) == (data.mean, data.std)


def test_top1_and_top5_are_those_of_single_images(data, method):
    batch = data.first_batch("test", 50)
    scores = method.score(batch)
    ranked = method(batch.images).argsort(dim=1, descending=True)
    for row in range(50):
        place = ranked[row].tolist().index(int(batch.labels[row]))
        assert scores["top1"][row] == float(place == 0)
        assert scores["top5"][row] == float(place < 5)
    assert method.identity(batch).tolist() == list(range(50))


def test_fewer_than_five_classes_are_ranked_too():
    method = Brightness(num_classes=3)
    batch = ImageData(size=8, channels=1).first_batch("test", 8)
    batch.labels = batch.labels % 3
    assert method.score(batch)["top5"].tolist() == [1.0] * 8


def test_a_picture_gets_named_classes_most_probable_first(method, picture):
    found = method.predict(picture, top=3)
    probs = [value for _, value in found.classes]
    assert len(probs) == 3
    assert probs == sorted(probs, reverse=True)
    assert sum(value for _, value in method.predict(picture, top=50).classes) == pytest.approx(1.0, abs=1e-5)
    assert {name for name, _ in found.classes} <= set(method.class_names)
    assert found.image.shape == (1, 8, 8)
    with torch.no_grad():
        logits = method(torch.full((1, 1, 8, 8), 200 / 255))
    assert found.classes[0][1] == pytest.approx(float(logits.softmax(dim=1).max()), abs=1e-3)
    json.dumps(found.to_json())


def test_a_picture_is_recognised_as_the_network_sees_it(method, picture):
    pixels, probs = method.recognise(picture)
    torch.testing.assert_close(pixels, torch.full((1, 8, 8), 200 / 255))
    with torch.no_grad():
        torch.testing.assert_close(probs, method(pixels[None]).softmax(dim=1)[0])


def test_without_class_names_classes_are_numbers(picture):
    assert {name for name, _ in Brightness(num_classes=2).predict(picture).classes} == {"0", "1"}


def test_unusable_pictures_are_said_in_one_sentence(method, picture, tmp_path):
    (tmp_path / "torn.png").write_bytes(picture.read_bytes()[:60])
    for path, told in ((tmp_path / "none.png", "no such file"), (tmp_path / "torn.png", "damaged or unreadable")):
        with pytest.raises(InputError, match=told) as caught:
            method.predict(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="top must be at least 1, found 0"):
        method.predict(picture, top=0)


def test_class_names_travel_with_the_checkpoint(method, tmp_path):
    loaded = Brightness.load(method.save(tmp_path / "m.safetensors"))
    assert loaded.class_names == [str(number) for number in range(10)]


def test_data_of_other_classes_are_refused(method, tmp_path):
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / split / name / "0.png")
    with pytest.raises(InputError, match=r"the data have the classes \['cat', 'dog'\]\.\.\., this checkpoint was"):
        evaluate(method, ImageData(str(tmp_path)))


def test_data_of_another_size_are_given_in_the_trained_one(method, data):
    assert evaluate(method, ImageData(size=32, channels=3)) == evaluate(method, data)


def test_the_exported_graph_gives_the_same_logits(method, tmp_path):
    network, (example,), inputs, outputs = method.exportable()
    assert (inputs, outputs, tuple(example.shape)) == (("images",), ("logits",), (1, 1, 8, 8))
    assert torch.equal(network(example), method(example))
    assert export_method(method, tmp_path / "graph.pt2", "torch") < 1e-6
