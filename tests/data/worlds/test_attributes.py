"""The world of attributes: its formulas, its splits, and that it can be written and read again."""

import math

import pytest
import torch

from ommatid.data.worlds.attributes import AttributeWorld
from ommatid.data.zero_shot import open_zero_shot
from ommatid.errors import InputError

SMALL = {"seen": 5, "kept_back": 2, "unseen": 3, "train": 6, "test": 4}


def test_sizes_are_those_asked_for():
    data = AttributeWorld(**SMALL).draw()
    assert {name: len(rows) for name, rows in data.splits.items()} == {
        "trainval": 42,
        "train": 30,
        "val": 12,
        "test_seen": 28,
        "test_unseen": 12,
    }
    assert len(data.seen) == 7
    assert data.kept_back().tolist() == [5, 6]
    assert data.unseen.tolist() == [7, 8, 9]
    assert data.class_names[0] == "seen 1"
    assert data.class_names[-1] == "unseen 3"


def test_attributes_are_unit_vectors_and_features_are_not_negative():
    data = AttributeWorld(**SMALL).draw()
    torch.testing.assert_close(data.attributes.norm(dim=1), torch.ones(10))
    assert data.features.min() == 0
    assert data.features.shape[1] == 96


def test_the_same_seed_gives_the_same_world_and_another_one_another():
    first, again, other = (AttributeWorld(**SMALL, seed=seed).draw() for seed in (3, 3, 4))
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.attributes, again.attributes)
    assert not torch.equal(first.attributes, other.attributes)


def test_classes_with_similar_attributes_have_near_means():
    """The function from attributes to means is smooth."""
    world, generator = AttributeWorld(), torch.Generator().manual_seed(0)
    attributes = torch.nn.functional.normalize(torch.randn(2, 12, generator=generator), dim=1)
    steps = torch.tensor([0.0, 0.01, 0.1, 0.5, 1.0])[:, None]
    means = world._means(attributes[0] + steps * (attributes[1] - attributes[0]), generator)
    away = (means - means[0]).norm(dim=1)
    assert torch.equal(away, away.sort().values)
    assert away[1] < 0.05 * away[4]


def test_without_noise_all_samples_of_a_class_are_its_mean():
    data = AttributeWorld(**SMALL, noise=0.0, nuisance=0.0).draw()
    for number in range(10):
        assert len(data.features[data.labels == number].unique(dim=0)) == 1


def test_nuisance_has_few_directions_that_all_classes_share():
    quiet = AttributeWorld(seen=2, kept_back=0, unseen=1, train=400, test=1, noise=0.0, nuisance=0.02).draw()
    rows = quiet.splits["trainval"]
    features = quiet.features[rows[quiet.labels[rows] == 0]]
    whole = features[:, (features > 0).all(dim=0)]  # where nothing was cut off
    values = torch.linalg.svdvals(whole - whole.mean(dim=0))
    assert values[8] < 1e-3 < values[7]


def test_without_classes_kept_back_there_is_no_such_split():
    data = AttributeWorld(**{**SMALL, "kept_back": 0}).draw()
    assert set(data.splits) == {"trainval", "test_seen", "test_unseen"}


@pytest.mark.parametrize("format", ["xlsa17", "table"])
def test_it_is_read_again_as_it_was_written(format, tmp_path):
    world = AttributeWorld(**SMALL)
    counts = world.write(tmp_path / "made", format)
    data, read = world.draw(), open_zero_shot(tmp_path / "made")
    assert counts["trainval"] == 42
    torch.testing.assert_close(read.features, data.features)
    torch.testing.assert_close(read.attributes, data.attributes)
    assert read.class_names == data.class_names
    assert torch.equal(read.labels, data.labels)
    for name, rows in data.splits.items():
        assert torch.equal(read.splits[name], rows), name
    with pytest.raises(InputError, match="expected a new folder"):
        world.write(tmp_path / "made", format)


def test_impossible_worlds_are_refused(tmp_path):
    with pytest.raises(InputError, match="unseen: found 0, expected at least 1"):
        AttributeWorld(unseen=0)
    with pytest.raises(InputError, match="noise: found nan, expected a number from 0 on"):
        AttributeWorld(noise=math.nan)
    with pytest.raises(InputError, match="unknown format of world-attributes 'csv'"):
        AttributeWorld().write(tmp_path / "made", "csv")
    assert not (tmp_path / "made").exists()
