"""Which samples and classes each protocol trains on, chooses by and tests."""

import warnings

import numpy as np
import pytest
import torch

from ommatid.data.worlds.attributes import AttributeWorld
from ommatid.data.zero_shot import MinMax, ZeroShotSet, write_table, write_xlsa17
from ommatid.errors import InputError
from ommatid.transfer.zero_shot_data import ZeroShotData, held_out
from ommatid.transfer.zero_shot_task import CHOOSING, TESTING

WORLD = {"seen": 5, "kept_back": 2, "unseen": 3, "train": 10, "test": 4, "feature_dim": 8, "attribute_dim": 4}


@pytest.fixture(scope="module")
def selecting():
    return ZeroShotData(protocol="validation", world=WORLD)


@pytest.fixture(scope="module")
def final():
    return ZeroShotData(protocol="test", world=WORLD)


def test_classes_are_numbered_seen_kept_back_unseen(selecting, final):
    assert selecting.class_names[0] == "seen 1"
    assert selecting.class_names[5] == "kept back 1"
    assert selecting.class_names[7] == "unseen 1"
    assert [len(group) for group in (final.groups.seen, final.groups.kept_back, final.groups.unseen)] == [7, 0, 3]
    torch.testing.assert_close(selecting.attributes, selecting.source.attributes)


def test_settings_are_chosen_on_classes_and_samples_that_are_neither_trained_on_nor_tested(selecting):
    parts = {split: selecting.dataset(split) for split in selecting.splits}
    assert {split: sorted(part.labels.unique().tolist()) for split, part in parts.items()} == {
        "train": [0, 1, 2, 3, 4],
        "val": [0, 1, 2, 3, 4, 5, 6],
        "test": [0, 1, 2, 3, 4, 7, 8, 9],
    }
    assert [len(part) for part in parts.values()] == [40, 10 + 20, 20 + 12]
    assert [part.task for part in parts.values()] == [TESTING, CHOOSING, TESTING]
    rows = {split: {tuple(row) for row in part.features.tolist()} for split, part in parts.items()}
    assert sum(map(len, rows.values())) == len(set.union(*rows.values()))


def test_the_final_training_has_all_seen_classes_and_nothing_to_choose_by(final):
    assert len(final.dataset("train")) == 70
    assert len(final.dataset("test")) == 40
    assert final.val_dataloader() == []
    with pytest.raises(InputError, match="split 'val': protocol 'test' trains on all seen classes and keeps none back"):
        final.dataset("val")
    with pytest.raises(InputError, match="unknown split 'holidays'"):
        final.dataset("holidays")


def test_a_train_split_that_holds_test_samples_leaks_nothing(tmp_path):
    """The official files' own one does."""
    made = AttributeWorld(**WORLD).draw()
    leaky = torch.cat([made.splits["train"], made.splits["test_seen"][made.labels[made.splits["test_seen"]] < 5]])
    write_xlsa17(
        ZeroShotSet(made.features, made.labels, made.attributes, {**made.splits, "train": leaky}, made.class_names),
        tmp_path / "leaky",
    )
    data = ZeroShotData(str(tmp_path / "leaky"), protocol="validation")
    rows = [{tuple(row) for row in data.dataset(split).features.tolist()} for split in ("train", "test")]
    assert not rows[0] & rows[1]
    assert len(data.dataset("train")) == 40


def test_features_are_scaled_by_the_samples_that_are_trained_on(selecting, final):
    for data in (selecting, final):
        features = data.dataset("train").features
        torch.testing.assert_close(features.amin(dim=0), torch.zeros(8))
        torch.testing.assert_close(features.amax(dim=0), torch.ones(8))
    assert not torch.equal(selecting.scaler.extent, final.scaler.extent)
    plain = ZeroShotData(scale="none", world=WORLD)
    assert torch.equal(plain.dataset("train").features, plain.source.features[plain.source.splits["trainval"]])


def test_a_trained_method_brings_its_own_scale():
    data = ZeroShotData(world=WORLD)
    before = data.dataset("test").features
    data.use(MinMax(data.scaler.minimum, 2 * data.scaler.extent))
    torch.testing.assert_close(data.dataset("test").features, before / 2)


def test_batches_know_the_task_and_the_place_in_the_split(selecting):
    batch = selecting.first_batch("val", 3)
    assert batch.index.tolist() == [0, 1, 2]
    assert batch.task.tolist() == [CHOOSING] * 3
    assert batch.features.shape == (3, 8)


def test_every_nth_sample_of_a_class_is_held_out():
    labels = torch.tensor([1, 0, 1, 1, 0, 1, 1, 2])
    assert held_out(labels, 0.2).nonzero()[:, 0].tolist() == [6]
    assert held_out(labels, 0.5).nonzero()[:, 0].tolist() == [2, 4, 5]


def test_both_formats_give_the_same_splits(tmp_path):
    made = AttributeWorld(**WORLD).draw()
    write_xlsa17(made, tmp_path / "mat", "CUB")
    write_table(made, tmp_path / "mine")
    for protocol in ("test", "validation"):
        found = [ZeroShotData(str(tmp_path / name), protocol=protocol) for name in ("mat", "mine")]
        for split in ("train", "test"):
            ours, theirs = (each.tensors(split) for each in found)
            torch.testing.assert_close(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])
    assert found[0].describe()["name"] == "mat (xlsa17)"
    assert ZeroShotData(str(tmp_path / "mat"), dataset="CUB").describe()["name"] == "CUB (xlsa17)"
    assert found[1].describe()["classes"] == {"seen": 5, "kept back": 2, "unseen": 3}
    assert ZeroShotData(world=WORLD).describe()["name"] == "world-attributes"


def test_classes_without_test_samples_are_told_once(tmp_path):
    np.save(tmp_path / "features.npy", np.random.default_rng(0).random((4, 3)))
    (tmp_path / "samples.csv").write_text("class,part\na,train\nb,train\na,test\nc,test\n")
    (tmp_path / "attributes.csv").write_text("class,x\na,1\nb,2\nc,3\nd,4\n")
    data = ZeroShotData(str(tmp_path))
    with pytest.warns(UserWarning, match="classes have no samples") as told:
        data.dataset("test")
    assert len(told) == 2
    assert "test: 1 of 2 seen classes have no samples and are left out of means (first: b)" in str(told[0].message)
    assert "1 of 2 new classes have no samples" in str(told[1].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.dataset("test")


def test_too_few_classes_to_keep_some_back_is_said(tmp_path):
    world = AttributeWorld(**{**WORLD, "seen": 3, "kept_back": 0})
    write_table(world.draw(), tmp_path / "few")
    with pytest.raises(InputError, match="found 3 seen classes, expected at least 5 to keep some back"):
        ZeroShotData(str(tmp_path / "few"), protocol="validation").dataset("train")
    with pytest.raises(InputError, match=r"val_fraction must lie above 0 and at most at 0\.5, found 0\.7"):
        ZeroShotData(val_fraction=0.7)


def test_baselines_stand_beside_every_split(selecting, final):
    for data, split in ((selecting, "val"), (selecting, "test"), (final, "test")):
        found = data.baselines(split)
        assert set(found) == {"chance", "ESZSL", "nearest regressed class mean"}
        assert all(set(scores) == {"T1", "U", "S", "H"} for scores in found.values())
    assert final.baselines("test")["chance"] == {"T1": pytest.approx(1 / 3), "U": 0.1, "S": 0.1, "H": 0.1}
    assert set(selecting.baselines("train")["ESZSL"]) == {"S"}


def test_the_seed_draws_another_world():
    first, other = ZeroShotData(world=WORLD, seed=0), ZeroShotData(world=WORLD, seed=1)
    assert not torch.equal(first.source.features, other.source.features)
