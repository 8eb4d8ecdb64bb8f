"""What every few-shot learner does: accuracies with their interval, and answers about a user's own classes."""

import json

import pytest
import torch
from PIL import Image

from ommatid.data.worlds.glyphs import GlyphWorld
from ommatid.errors import InputError
from ommatid.transfer.cosoc import COSOC
from ommatid.transfer.few_shot_data import EpisodeData
from ommatid.transfer.few_shot_learner import EpisodeScores

WORLD = {"train": 4, "val": 3, "test": 3, "images": 4, "object_size": 10}
DATA = {"size": 24, "way": 3, "queries": 2, "episodes": 4, "val_episodes": 4}


@pytest.fixture(scope="module")
def learner():
    torch.manual_seed(0)
    return COSOC(4, 16, 24, 16, "conv4-32", exemplar_share=0.0, fusion="none", crops=3).eval()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five pictures of one class, one of another, and a query."""
    root, scenes = tmp_path_factory.mktemp("own"), GlyphWorld(**WORLD, size=24).split("test")
    for name, rows in {"cup": (0, 3, 6), "hat": [1]}.items():
        (root / "classes" / name).mkdir(parents=True)
        for row in rows:
            picture = Image.fromarray(scenes.images[row].permute(1, 2, 0).numpy())
            picture.save(root / "classes" / name / f"{row}.png")
    Image.fromarray(scenes.images[9].permute(1, 2, 0).numpy()).resize((40, 30)).save(root / "query.png")
    return root


def test_scores_come_with_the_interval_over_episodes():
    scores = EpisodeScores()
    scores.update(torch.arange(4), {"accuracy": torch.tensor([0.5, 0.7, 0.6, 0.8])})
    found = scores.compute()
    assert found["accuracy"] == pytest.approx(0.65)
    assert found["ci95"] == pytest.approx(1.96 * torch.tensor([0.5, 0.7, 0.6, 0.8]).std().item() / 2)


def test_episodes_and_base_images_are_scored(learner):
    data = EpisodeData(**DATA, world=WORLD)
    episodes = learner.score(data.first_batch("test"))["accuracy"]
    assert episodes.shape == (4,)
    assert ((episodes * 6).round() == episodes * 6).all()
    images = learner.score(data.first_batch("train", 5))["accuracy"]
    assert set(images.tolist()) <= {0.0, 1.0}


def test_it_answers_about_classes_of_ones_own(learner, pictures, tmp_path):
    found = learner.predict(pictures / "query.png", pictures / "classes")
    assert {name for name, _ in found.classes} == {"cup", "hat"}
    assert found.classes[0][1] >= found.classes[1][1]
    assert all(value <= 1 for _, value in found.classes)
    count = {"cup": 3, "hat": 1}[found.classes[0][0]]
    assert len(found.supports) == count
    assert len(found.matches) == 3
    assert all(len(match.support_boxes) == count for match in found.matches)
    assert json.dumps(found.to_json())
    found.draw(tmp_path / "answer.png")
    assert (tmp_path / "answer.png").stat().st_size > 5000


def test_the_answer_does_not_depend_on_the_moment(learner, pictures):
    first, again = (learner.predict(pictures / "query.png", pictures / "classes") for _ in range(2))
    assert first.classes == again.classes


def test_what_is_missing_is_named(learner, pictures, tmp_path):
    with pytest.raises(InputError, match="found no such file, expected an image"):
        learner.predict(tmp_path / "none.png", pictures / "classes")
    with pytest.raises(InputError, match="found no folders"):
        learner.predict(pictures / "query.png", pictures / "classes" / "cup")
    (tmp_path / "one" / "cup").mkdir(parents=True)
    with pytest.raises(InputError, match="found 1 folder, expected one for each of two or more classes"):
        learner.predict(pictures / "query.png", tmp_path / "one")
