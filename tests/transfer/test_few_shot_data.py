"""Base classes to learn from, episodes of others to be judged by, from the world and from files."""

import pytest
import torch

from ommatid.data.worlds.glyphs import GlyphWorld
from ommatid.errors import InputError
from ommatid.transfer.few_shot_data import EpisodeData
from ommatid.transfer.few_shot_task import BaseClassBatch, EpisodeBatch

WORLD = {"train": 8, "val": 4, "test": 4, "images": 6, "object_size": 10}
SETTINGS = {"size": 24, "way": 3, "shot": 2, "queries": 3, "episodes": 5, "val_episodes": 4, "batch_size": 8}


@pytest.fixture(scope="module")
def data():
    return EpisodeData(**SETTINGS, world=WORLD)


def test_training_shows_images_of_base_classes(data):
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, BaseClassBatch)
    assert batch.images.shape == (8, 3, 24, 24)
    scenes = data.world.split("train")
    torch.testing.assert_close(batch.images, scenes.images[batch.index].float() / 255)
    assert torch.equal(batch.labels, scenes.labels[batch.index])
    assert torch.equal(batch.boxes, scenes.boxes[batch.index])


def test_episodes_are_put_together_of_the_right_images(data):
    batch = data.first_batch("test", 3)
    assert isinstance(batch, EpisodeBatch)
    assert batch.support.shape == (3, 3, 2, 3, 24, 24)
    assert batch.query.shape == (3, 9, 3, 24, 24)
    scenes = data.world.split("test")
    assert torch.equal(batch.images, scenes.images[batch.numbers].float() / 255)
    assert torch.equal(batch.boxes, scenes.boxes[batch.numbers])
    for episode in range(3):
        classes = scenes.labels[batch.support_numbers[episode]]
        assert (classes == classes[:, :1]).all()
        assert torch.equal(classes[batch.labels[episode], 0], scenes.labels[batch.query_numbers[episode]])
    assert batch.index.tolist() == [0, 1, 2]


def test_fewer_episodes_than_images_come_at_once(data):
    assert len(next(iter(data.train_dataloader()))) == 8
    sizes = [len(batch) for batch in data.test_dataloader()]
    assert sizes == [4, 1]
    assert sum(len(batch) for batch in data.val_dataloader()) == 4


def test_episodes_do_not_depend_on_the_batch(data):
    one, two = data.first_batch("test", 1), data.first_batch("test", 2)
    assert torch.equal(one.images[0], two.images[0])


@pytest.mark.parametrize("format", ["folder", "csv", "pickle", "cub"])
def test_files_give_the_same_as_the_world(format, data, tmp_path):
    GlyphWorld(**{**WORLD, "size": 24}).write(tmp_path / "set", format)
    read = EpisodeData(str(tmp_path / "set"), **SETTINGS)
    assert len(read.class_names) == 8
    assert read.describe()["name"] == f"set ({format})"
    assert read.first_batch("test", 2).support.shape == (2, 3, 2, 3, 24, 24)
    assert read.has_boxes == (format == "cub")
    batch = read.first_batch("train", 4)
    assert bool(batch.boxes.isfinite().all()) == (format == "cub")
    larger = EpisodeData(str(tmp_path / "set"), **{**SETTINGS, "size": 32}).first_batch("train", 4)
    assert larger.images.shape == (4, 3, 32, 32)
    assert (larger.images.mean(dim=(2, 3)) - batch.images.mean(dim=(2, 3))).abs().max() < 0.02


def test_trivial_predictors_are_at_chance_or_near(data):
    found = EpisodeData(**{**SETTINGS, "episodes": 40}, world=WORLD).baselines("test")
    assert found["chance"]["accuracy"] == pytest.approx(1 / 3)
    assert 0.2 < found["nearest pixels"]["accuracy"] < 0.6
    assert found["nearest pixels"]["ci95"] > 0
    assert data.baselines("train") == {"chance": {"accuracy": 1 / 8}}


def test_it_is_known_whether_images_repeat(data):
    assert data.repeats("test")
    assert not EpisodeData(**{**SETTINGS, "episodes": 1}, world=WORLD).repeats("test")


def test_a_trained_method_may_ask_for_another_size(data):
    other = EpisodeData(**SETTINGS, world=WORLD)
    assert other.first_batch("test", 1).query.shape[-1] == 24
    other.use(32)
    assert other.first_batch("test", 1).query.shape[-1] == 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"way": 1}, "way must be at least 2, found 1"),
        ({"shot": 0}, "shot must be at least 1, found 0"),
        ({"size": 0}, "size must be at least 1, found 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        EpisodeData(**{**SETTINGS, **settings})


def test_too_many_classes_or_pictures_for_an_episode_are_refused():
    with pytest.raises(InputError, match="way: found 5, expected 4 at most"):
        EpisodeData(**{**SETTINGS, "way": 5}, world=WORLD).dataset("test")
    with pytest.raises(InputError, match="way: found 3, expected 0 at most, the classes with 102 images"):
        EpisodeData(**{**SETTINGS, "queries": 100}, world=WORLD).dataset("test")
    with pytest.raises(InputError, match="no such folder"):
        EpisodeData("/nowhere").dataset("train")
