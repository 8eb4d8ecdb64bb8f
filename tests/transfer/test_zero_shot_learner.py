"""What all zero-shot methods share: scores, scales, and the classes of a user's own samples."""

import numpy as np
import pytest
import torch

from ommatid.data.zero_shot import MinMax
from ommatid.engine.fit import evaluate
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.transfer.zero_shot_data import ZeroShotData
from ommatid.transfer.zero_shot_learner import ZeroShotLearner
from ommatid.transfer.zero_shot_task import TESTING

WORLD = {"seen": 5, "kept_back": 2, "unseen": 3, "train": 10, "test": 4, "feature_dim": 4, "attribute_dim": 4}
CPU = {"accelerator": "cpu"}


class Nearest(ZeroShotLearner):
    """Features are taken for attributes."""

    def __init__(self, feature_dim=4, attribute_dim=4, num_seen=5, num_back=2, num_unseen=3):
        super().__init__(feature_dim, attribute_dim, num_seen, num_back, num_unseen)
        self.save_hyperparameters(logger=False)
        self.recipe = Recipe()

    def decide(self, features, task):
        logits = 10 * features @ self.attributes.T
        number, (seen, back, _) = torch.arange(len(self.attributes)), self.group_sizes
        new = torch.where(task[:, None] == TESTING, number >= seen + back, (number >= seen) & (number < seen + back))
        return logits.masked_fill(~new & (number >= seen), float("-inf")), logits.masked_fill(~new, float("-inf"))

    def decide_among(self, features, attributes, only_new):
        seen = self.attributes[: 0 if only_new else self.group_sizes[0]]
        return 10 * features @ torch.cat([seen, attributes]).T


@pytest.fixture
def data():
    return ZeroShotData(protocol="validation", world=WORLD, scale="none")


@pytest.fixture
def method(data):
    made = Nearest(**Nearest.arguments_from(data))
    made.adopt(data)
    return made


def rows(path, *names, method):
    """A file of samples that look like some classes."""
    numbers = [method.class_names.index(name) for name in names]
    np.save(path, method.attributes[numbers].numpy())
    return path


def test_the_data_say_how_many_classes_of_each_group_there_are(data):
    assert Nearest.arguments_from(data) == {
        "feature_dim": 4,
        "attribute_dim": 4,
        "num_seen": 5,
        "num_back": 2,
        "num_unseen": 3,
    }


def test_each_split_is_scored_on_its_own_classes(data, method):
    for split in ("val", "test"):
        part = data.dataset(split)
        part.features = method.attributes[part.labels]  # what it always recognises
        assert evaluate(method, data, split, CPU) == {"T1": 1.0, "U": 1.0, "S": 1.0, "H": 1.0}


def test_own_samples_are_recognised_among_seen_and_unseen_classes(method, tmp_path):
    path = rows(tmp_path / "mine.npy", "unseen 2", "seen 3", method=method)
    found = method.predict(path, top=2)
    assert [sample[0][0] for sample in found.classes] == ["unseen 2", "seen 3"]
    assert [len(sample) for sample in found.classes] == [2, 2]
    names = {name for sample in method.predict(path, top=20).classes for name, _ in sample}
    assert names == {name for name in method.class_names if not name.startswith("kept back")}
    unseen = method.predict(path, classes="unseen", top=20)
    assert {name for sample in unseen.classes for name, _ in sample} == {"unseen 1", "unseen 2", "unseen 3"}
    assert sum(value for _, value in unseen.classes[0]) == pytest.approx(1)
    assert found.map is None


def test_classes_of_ones_own_take_the_place_of_the_unseen(method, tmp_path):
    path = rows(tmp_path / "mine.npy", "unseen 2", "seen 3", method=method)
    wanted = 7 * method.attributes[method.class_names.index("unseen 2")]  # any length
    table = tmp_path / "new.csv"
    table.write_text("class,a,b,c,d\nokapi," + ",".join(map(str, wanted.tolist())) + "\nzebra,1,0,0,-1\n")
    found = method.predict(path, attributes=table, top=20)
    assert [sample[0][0] for sample in found.classes] == ["okapi", "seen 3"]
    assert len(found.classes[0]) == 5 + 2
    alone = method.predict(path, attributes=table, classes="unseen", top=20)
    assert sorted(name for name, _ in alone.classes[1]) == ["okapi", "zebra"]


def test_own_samples_are_scaled_as_those_of_training_were(method, tmp_path):
    path = rows(tmp_path / "mine.npy", "unseen 2", method=method)
    scale = MinMax(torch.full((4,), -2.0), torch.full((4,), 3.0))
    method.minimum.copy_(scale.minimum)
    method.extent.copy_(scale.extent)
    np.save(tmp_path / "raw.npy", np.load(path) * 3 - 2)
    again = method.predict(tmp_path / "raw.npy").classes[0][0]
    assert again[0] == "unseen 2"
    torch.testing.assert_close(method.scaled(torch.full((1, 4), 1.0)), torch.ones(1, 4))


def test_other_data_are_scaled_as_the_checkpoint_was_trained(data, method):
    method.extent.fill_(0.5)
    method.align(data)
    assert data.scaler.extent.tolist() == [0.5] * 4


def test_data_that_do_not_fit_a_checkpoint_are_refused(data, method):
    with pytest.raises(InputError, match=r"7 seen, 0 kept back and 3 unseen .* expected 5, 2 and 3 as in training"):
        method.align(ZeroShotData(world=WORLD))
    with pytest.raises(InputError, match="the data have 6 features a sample, expected 4"):
        method.align(ZeroShotData(protocol="validation", world={**WORLD, "feature_dim": 6}))
    with pytest.raises(InputError, match="the data have the classes"):
        method.align(ZeroShotData(protocol="validation", world={**WORLD, "seen": 4}))


def test_faulty_input_is_one_sentence(method, tmp_path):
    np.save(tmp_path / "wide.npy", np.ones((2, 5)))
    with pytest.raises(InputError, match="found 5 features a sample, expected 4"):
        method.predict(tmp_path / "wide.npy")
    path = rows(tmp_path / "mine.npy", "seen 3", method=method)
    table = tmp_path / "new.csv"
    table.write_text("class,a,b,c,d\nseen 3,1,0,0,1\n")
    with pytest.raises(InputError, match="'seen 3' is a class with training samples, expected new classes only"):
        method.predict(path, attributes=table)
    table.write_text("class,a\nokapi,1\n")
    with pytest.raises(InputError, match="line 2: found 2 columns, expected 5"):
        method.predict(path, attributes=table)
    with pytest.raises(InputError, match="top must be at least 1, found 0"):
        method.predict(path, top=0)


def test_an_exported_program_takes_features_as_the_network_gives_them(method):
    method.extent.fill_(2.0)
    network, inputs, names, outputs = method.exportable()
    logits = network(*inputs)
    assert (names, outputs, logits.shape) == (("features",), ("logits",), (1, 10))
    torch.testing.assert_close(logits, method.decide(method.scaled(inputs[0]), torch.tensor([TESTING]))[0])


def test_checkpoints_keep_scale_attributes_and_names(method, tmp_path):
    method.extent.fill_(3.0)
    again = Nearest.load(method.save(tmp_path / "method.safetensors"))
    assert torch.equal(again.extent, method.extent)
    assert torch.equal(again.attributes, method.attributes)
    assert again.class_names == method.class_names
