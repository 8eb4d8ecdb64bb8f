"""Clips with a label come from the embedded world, from lists and from folders alike."""

import numpy as np
import pytest
import torch
from PIL import Image

from ommatid.data.worlds.motion import CLASSES, MotionWorld
from ommatid.errors import InputError
from ommatid.recognition.clip_data import ClipData, VideoClips, WorldClips, held_out
from ommatid.recognition.clip_data import test_views as views_of
from ommatid.recognition.sampling import Sampling

SMALL = {"size": 16, "clip_length": 4, "interval": 1, "batch_size": 6, "flip": False}
WORLD = {"train": 24, "val": 12, "test": 12}


@pytest.fixture(scope="module", params=["list", "folder"])
def files(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("clips") / "moving"
    MotionWorld(**WORLD, size=24, frames=6).write(root, request.param)
    return root


def test_the_embedded_world_is_there_without_files():
    data = ClipData(**SMALL, world=WORLD)
    batch = data.first_batch("train")
    assert batch.clips.shape == (6, 1, 4, 3, 16, 16)
    assert 0 <= batch.clips.min() < batch.clips.max() <= 1
    assert batch.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.class_names == list(CLASSES)
    assert data.describe()["videos"] == {"train": 24, "val": 12, "test": 12}
    assert data.baselines("test") == {
        "majority class": {"top1": pytest.approx(1 / 12)},
        "chance": {"top1": 1 / 12, "top5": 5 / 12},
    }
    assert isinstance(data.dataset("train"), WorldClips)


def test_another_seed_is_another_world():
    first, second = (ClipData(**SMALL, world=WORLD, seed=seed).first_batch("test") for seed in (0, 1))
    assert not torch.equal(first.clips, second.clips)


def test_files_give_the_clips_that_were_written(files):
    data = ClipData(str(files), **SMALL, test_clips=2, test_crops=3)
    batch = data.first_batch("test", 3)
    assert batch.clips.shape == (3, 6, 4, 3, 16, 16)
    names = [name.replace("_", " ") for name in data.class_names]
    assert sorted(names) == sorted(CLASSES)
    assert len(data.dataset("train")) == 24
    assert len(data.dataset("val")) == 12
    train = data.first_batch("train", 3)
    assert train.clips.shape == (3, 1, 4, 3, 16, 16)
    assert isinstance(data.dataset("train"), VideoClips)
    assert data.describe()["name"].startswith("moving (")


def test_frames_read_back_are_those_of_the_world(tmp_path):
    world = MotionWorld(**WORLD, size=32, noise=0.0)
    world.write(tmp_path / "clips")
    sampling = Sampling(clip_length=8, interval=1, size=28)
    views = views_of(tmp_path / "clips/frames/test_0003", 8, sampling)
    expected = sampling.views(world.split("test")[0][3][None])
    # JPEG is not exact, but near.
    assert (views.float() - expected.float()).abs().mean() < 8
    assert sampling.resized == 32


def test_training_draws_another_clip_every_time(files):
    dataset = ClipData(str(files), **SMALL).dataset("train")
    torch.manual_seed(0)
    first, again = dataset[0][0], dataset[0][0]
    assert not torch.equal(first, again)
    torch.manual_seed(0)
    assert torch.equal(dataset[0][0], first)
    tests = ClipData(str(files), **SMALL).dataset("test")
    assert torch.equal(tests[0][0], tests[0][0])


def test_a_validation_part_is_cut_from_every_class_where_there_is_none(files):
    lists = ClipData(str(files), **SMALL).lists
    many = type(lists["train"])(lists["train"].records * 5, lists["train"].class_names)
    rest, part = held_out(many)
    assert len(rest) + len(part) == len(many)
    assert {record.label for record in part.records} == set(range(12))
    with pytest.raises(InputError, match="train: found fewer than 6 videos of every class"):
        held_out(lists["train"])


def test_a_trained_method_gets_clips_as_it_knows_them():
    data = ClipData(**SMALL, world=WORLD)
    data.first_batch("test")
    data.use(Sampling(clip_length=5, size=20))
    assert data.first_batch("test").clips.shape[2:] == (5, 3, 20, 20)


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder, expected lists of videos"):
        ClipData(str(tmp_path / "nowhere")).first_batch("train")
    with pytest.raises(InputError, match="unknown split 'holidays'"):
        ClipData(**SMALL, world=WORLD).dataset("holidays")
    folder = tmp_path / "train/jump/a"
    folder.mkdir(parents=True)
    for number in (1, 2):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / f"img_{number:05d}.jpg")
    with pytest.raises(InputError, match="found the parts train, expected train and test"):
        ClipData(str(tmp_path), **SMALL).first_batch("train")
