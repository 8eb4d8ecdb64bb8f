"""A recogniser of label sets is scored over the whole split, and predicts on a user's own image."""

import json

import pytest
import torch
from PIL import Image

from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.recognition.label_data import LabelData
from ommatid.recognition.label_recogniser import LabelRecogniser, LabelScores
from ommatid.recognition.multilabel import multilabel_scores
from ommatid.recognition.task import FoundLabels, LabelBatch


class Colours(LabelRecogniser):
    """Says red, green and blue where a channel is bright."""

    def __init__(self, num_labels: int = 3, image_size: int = 8, recipe: Recipe = Recipe()) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe

    def decide(self, images):
        scores = images.mean(dim=(2, 3))
        return scores > 0.5, scores


def random_batch(count, start=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 1, 1, generator=generator).expand(-1, -1, 8, 8)
    labels = torch.rand(count, 3, generator=generator) > 0.5
    hard = labels & (torch.rand(count, 3, generator=generator) > 0.5)
    return LabelBatch(images, labels, hard, torch.arange(start, start + count))


def test_scores_are_those_of_the_split_and_repeated_images_count_once():
    method, gathered = Colours(), method_scores()
    first, second = random_batch(5), random_batch(4, start=5, seed=1)
    for batch in (first, second, first):
        gathered.update(method.identity(batch), method.score(batch))
    predicted, scores = (
        torch.cat(each) for each in zip(method.decide(first.images), method.decide(second.images), strict=True)
    )
    labels, hard = torch.cat([first.labels, second.labels]), torch.cat([first.hard, second.hard])
    expected = multilabel_scores(predicted, labels, scores)
    found = gathered.compute()
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), abs=1e-6), name
    assert found["hard recall"] == pytest.approx(float((predicted & hard).sum() / hard.sum()))
    assert method_scores().compute() == {}


def method_scores():
    scores = Colours().new_scores()
    assert isinstance(scores, LabelScores)
    return scores


def test_nothing_is_said_of_hard_labels_where_nobody_knows_them():
    method, gathered = Colours(), method_scores()
    batch = random_batch(5)
    batch.hard = torch.zeros_like(batch.hard)
    gathered.update(method.identity(batch), method.score(batch))
    assert "hard recall" not in gathered.compute()


def test_an_image_of_ones_own_is_predicted_and_drawn(tmp_path):
    Image.new("RGB", (20, 16), (250, 10, 200)).save(tmp_path / "a.png")
    method = Colours()
    method.class_names = ["red", "green", "blue"]
    found = method.predict(tmp_path / "a.png")
    assert isinstance(found, FoundLabels)
    assert [name for name, _ in found.labels] == ["red", "blue"]
    assert json.loads(json.dumps(found.to_json()))["labels"][0] == {"label": "red", "probability": 0.9804}
    found.draw(tmp_path / "a-found.png")
    assert (tmp_path / "a-found.png").stat().st_size > 1000
    with pytest.raises(InputError, match="no such file"):
        method.predict(tmp_path / "nothing.png")


def test_a_checkpoint_knows_its_labels_and_how_images_are_cut(tmp_path):
    method = Colours()
    method.adopt(data := LabelData(size=48, fit="squash", world={"train": 4, "val": 4, "test": 4}))
    loaded = Colours.load(method.save(tmp_path / "m.safetensors"))
    assert (loaded.class_names, loaded.fit) == (data.class_names, "squash")
    assert Colours.arguments_from(data) == {"num_labels": 16, "image_size": 48}
    other = LabelData(size=96, world={"train": 4, "val": 4, "test": 4})
    loaded.hparams.image_size = 48
    loaded.align(other)
    assert (other.size, other.fit) == (48, "squash")


def test_a_method_must_say_how_it_decides():
    class Nothing(Colours):
        decide = LabelRecogniser.decide

    with pytest.raises(NotImplementedError):
        Nothing().score(random_batch(2))
