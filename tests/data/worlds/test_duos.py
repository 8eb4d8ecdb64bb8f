import colorsys

import pytest
import torch

from ommatid.data.masks import detect_mask_format, mask_splits, open_masks
from ommatid.data.worlds.duos import HUE_WIDTH, HUES, SOURCE, SPLITS, TARGET, WORDS, DuoWorld
from ommatid.errors import InputError

FEW = {"categories": 4, "shots": 2, "unlabelled": 5, "val": 3, "test": 4, "source": 6, "size": 32}


@pytest.fixture(scope="module")
def scenes():
    return DuoWorld(categories=6, test=120).split("test")


def test_every_picture_shows_two_categories(scenes):
    for classes in scenes.maps:
        shown = [value for value in classes.unique().tolist() if value]
        assert len(shown) == 2
        assert set(shown) <= set(range(1, 7))
        assert all(int((classes == value).sum()) > 20 for value in shown)


def test_objects_of_a_picture_do_not_touch(scenes):
    """They lie in quarters of their own, apart from what reaches over the middle."""
    shares = torch.stack([(scenes.maps == value).float().mean(dim=(1, 2)) for value in range(1, 7)], dim=1)
    assert shares.max() < 0.25


@pytest.mark.parametrize("categories", [2, 3, 6, 12])
def test_categories_are_different_shapes_with_textures(categories):
    names = DuoWorld(categories=categories).class_names
    assert len(set(names)) == categories
    for name in names:
        texture, shape = name.split()
        assert texture in WORDS
        assert shape in TARGET


def test_an_object_has_the_hue_of_its_category(scenes):
    first = torch.tensor(HUES[:6]) / len(HUES)
    for image, classes in zip(scenes.images.float() / 255, scenes.maps, strict=True):
        for value in classes.unique()[1:].tolist():
            red, green, blue = image[:, classes == value].mean(dim=1).tolist()
            hue = colorsys.rgb_to_hsv(red, green, blue)[0]
            # Noise and clipping move a mean a little.
            away = (hue - first[value - 1] - HUE_WIDTH / 2 + 0.5) % 1 - 0.5
            assert abs(away) < HUE_WIDTH, value


def test_each_category_is_labelled_as_often_as_asked():
    scenes = DuoWorld(**FEW).split("labelled")
    assert len(scenes) == 8
    seen = [set(classes.unique().tolist()) - {0} for classes in scenes.maps]
    for category in range(1, 5):
        assert sum(category in each for each in seen) >= 2


def test_the_source_has_one_object_of_another_shape():
    scenes = DuoWorld(**FEW).split("source")
    assert scenes.class_names == SOURCE
    assert not set(SOURCE) & set(TARGET)
    for classes in scenes.maps:
        assert len(classes.unique()) == 2


def test_a_split_is_the_beginning_of_a_larger_one_and_seeds_differ():
    small, large = DuoWorld(test=5, size=32).split("test"), DuoWorld(test=70, size=32).split("test")
    assert torch.equal(small.images, large.images[:5])
    assert not torch.equal(small.images, DuoWorld(test=5, size=32, seed=1).split("test").images)


def test_what_is_written_is_read_again(tmp_path):
    world = DuoWorld(**FEW)
    counts = world.write(tmp_path / "made")
    assert set(counts) == set(SPLITS)
    target = tmp_path / "made" / "target"
    assert detect_mask_format(target) == "folder"
    assert mask_splits(target) == ("train", "val", "test")
    train = open_masks(target, "train")
    assert (len(train), len(train.labelled)) == (13, 8)
    read, drawn = open_masks(target, "test"), world.split("test")
    assert read.class_names == drawn.class_names
    for number in range(4):
        assert torch.equal(read.label_map(number), drawn.maps[number])
    assert len(open_masks(tmp_path / "made" / "source", "train")) == 6


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"categories": 1}, r"categories must lie in \[2, 12\], found 1"),
        ({"categories": 13}, r"categories must lie in \[2, 12\], found 13"),
        ({"shots": 0}, "shots must be at least 1, found 0"),
    ],
)
def test_impossible_worlds_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        DuoWorld(**settings)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="unknown split 'train'"):
        DuoWorld(**FEW).split("train")
    with pytest.raises(InputError, match="unknown format of world-duos 'voc'"):
        DuoWorld(**FEW).write(tmp_path / "made", "voc")
