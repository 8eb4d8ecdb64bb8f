"""Images with several labels come from the embedded world, official sets and lists alike."""

import pytest
import torch

from ommatid.data.worlds.labels import CLASSES, LabelWorld
from ommatid.errors import InputError
from ommatid.recognition.label_data import LabelData, LabelSet, held_out

SMALL = {"train": 40, "val": 10, "test": 20}


@pytest.fixture(scope="module")
def data():
    return LabelData(size=48, world=SMALL, batch_size=8)


def test_the_embedded_world_is_there_without_files(data):
    batch = data.first_batch("train")
    assert batch.images.shape == (8, 3, 48, 48)
    assert 0 <= batch.images.min() < batch.images.max() <= 1
    assert batch.labels.shape == batch.hard.shape == (8, 16)
    assert not (batch.hard & ~batch.labels).any()
    assert data.class_names == list(CLASSES)
    assert data.most_labels == int(data.sets["train"].labels.sum(dim=1).max())
    torch.testing.assert_close(data.frequencies, data.sets["train"].labels.float().mean(dim=0))
    assert data.describe()["images"] == SMALL


def test_the_same_labels_for_every_image_are_the_baselines(data):
    found = data.baselines("test")
    assert {"labels of most images", "the 4 most frequent labels"} == set(found)
    assert 0 < found["the 4 most frequent labels"]["OF1"] < 0.8
    assert found["the 4 most frequent labels"]["CF1"] < found["the 4 most frequent labels"]["OF1"]


@pytest.mark.parametrize("format", ["csv", "coco", "nus-wide"])
def test_files_give_the_labels_that_were_written(format, tmp_path, data):
    world = LabelWorld(**SMALL)
    world.write(tmp_path / "set", format)
    read = LabelData(str(tmp_path / "set"), size=48, fit="squash", batch_size=4)
    sizes = {split: len(images) for split, images in read.sets.items()}
    assert sum(sizes.values()) <= sum(SMALL.values())
    assert sizes["test"] == 20
    assert read.describe()["name"] == f"set ({format})"
    order = [[name.replace("_", " ") for name in read.class_names].index(name) for name in CLASSES]
    assert torch.equal(read.sets["test"].labels[:, order], data.sets["test"].labels)
    image, written = read.dataset("test")[3][0], data.dataset("test")[3][0]
    # JPEG blurs noise, and keeps what is larger.
    difference = torch.nn.functional.adaptive_avg_pool2d(image - written, 48 if format == "csv" else 6)
    assert difference.abs().mean() < (1e-6 if format == "csv" else 0.03)
    assert not read.first_batch("test").hard.any()


def test_training_images_are_changed_and_others_never(data):
    changed = LabelData(size=48, world=SMALL, augment="base").dataset("train")
    assert changed.draws
    torch.manual_seed(0)
    first = changed[0]
    assert not torch.equal(changed[0][0], first[0])
    assert torch.equal(first[1], data.dataset("train")[0][1])
    assert not LabelData(size=48, world=SMALL, augment="base").dataset("test").draws


def test_a_trained_method_gets_images_as_it_knows_them():
    data = LabelData(size=48, world=SMALL)
    data.first_batch("test")
    data.use(96, "crop")
    assert data.first_batch("test").images.shape[2:] == (96, 96)


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder, expected images with lists of their labels"):
        LabelData(str(tmp_path / "nowhere")).first_batch("train")
    LabelWorld(train=4, val=4, test=4).write(tmp_path / "few")
    for name in ("val", "test"):
        (tmp_path / f"few/{name}.csv").unlink()
    with pytest.raises(InputError, match="found the parts train, expected train and test or val"):
        LabelData(str(tmp_path / "few")).first_batch("train")


def test_a_validation_part_is_every_tenth_image(tmp_path):
    LabelWorld(train=30, val=4, test=4).write(tmp_path / "set")
    (tmp_path / "set/val.csv").unlink()
    read = LabelData(str(tmp_path / "set"), size=48)
    assert {split: len(images) for split, images in read.sets.items()} == {"train": 27, "test": 4, "val": 3}
    with pytest.raises(InputError, match="fewer than 6 images"):
        held_out(
            type(read._lists["test"])(*[getattr(read._lists["test"], n) for n in ("paths", "labels", "class_names")])
        )
    assert isinstance(read.dataset("train"), LabelSet)
