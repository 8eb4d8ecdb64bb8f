import numpy as np
import pytest
import torch

from ommatid.data.masks import detect_mask_format, mask_splits, open_masks
from ommatid.data.worlds.cutouts import SHAPES, SOURCE, SPLITS, TARGET, TEXTURES, CutoutWorld, inside, pattern
from ommatid.errors import InputError

FEW = {"train": 12, "val": 4, "test": 6, "source": 8, "size": 24}


@pytest.fixture(scope="module")
def scenes():
    return CutoutWorld().split("train")


def test_target_and_source_have_no_shape_in_common():
    assert not set(TARGET) & set(SOURCE)
    world = CutoutWorld(**FEW)
    assert world.split("test").class_names == TARGET
    assert world.split("source").class_names == SOURCE


def test_every_picture_has_one_shape_and_its_mask(scenes):
    assert scenes.images.shape == (600, 3, 32, 32)
    for classes in scenes.maps:
        values = set(classes.unique().tolist())
        assert values in ({0, 1}, {0, 2})
    share = (scenes.maps > 0).float().mean(dim=(1, 2))
    assert share.min() > 0.02
    assert share.max() < 0.5


def test_objects_and_grounds_have_textures_of_their_own(scenes):
    assert set(scenes.textures[:, 0].tolist()) == {0, 1, 2}
    assert set(scenes.textures[:, 1].tolist()) == {3, 4, 5}
    assert len(TEXTURES) == 6


def test_their_mean_colours_differ_as_asked():
    scenes = CutoutWorld(train=100, contrast=0.4, noise=0.0).split("train")
    masks, images = (scenes.maps > 0)[:, None].float(), scenes.images.float() / 255
    thing, ground = ((images * each).sum(dim=(2, 3)) / each.sum(dim=(2, 3)) for each in (masks, 1 - masks))
    # Of the whole layers, not of what is seen of them; colours also end at 0 and 1.
    assert (thing - ground).norm(dim=1).quantile(0.1) > 0.2


def test_a_split_is_the_beginning_of_a_larger_one_and_seeds_differ():
    small, large = CutoutWorld(train=5).split("train"), CutoutWorld(train=120).split("train")
    assert torch.equal(small.images, large.images[:5])
    assert not torch.equal(small.images, CutoutWorld(train=5, seed=1).split("train").images)
    assert not torch.equal(CutoutWorld(test=5).split("test").images, small.images)


def test_shapes_have_the_areas_that_geometry_gives_them():
    """In their own frame, from -1 to 1; a pixel is 4 / 400 ** 2."""
    axis = (torch.arange(400) + 0.5) / 200 - 1
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    found = inside(u.expand(6, -1, -1), v.expand(6, -1, -1), torch.arange(6)).float().mean(dim=(1, 2)) * 4
    # Ten triangles of the sides 1 and 0.45 with 36 degrees between them make a star.
    star = 10 * 0.5 * 0.45 * np.sin(np.pi / 5)
    expected = [np.pi * 0.85**2, 1.5**2, 0.5 * 1.6 * 1.92, star, 4 * 0.33 * (2 * 0.95 - 0.33), 4 * 0.95 * 0.4]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0.01)
    assert len(expected) == len(SHAPES)


def test_textures_fill_the_picture_with_values_from_0_to_1():
    found = pattern(torch.arange(len(TEXTURES)), 32, torch.Generator().manual_seed(0))
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found.flatten(1).std(dim=1) > 0.05).all()


@pytest.mark.parametrize("format", ["folder", "pairs"])
def test_what_is_written_is_read_again(tmp_path, format):
    world = CutoutWorld(**FEW)
    assert world.write(tmp_path / "made", format) == {name: FEW[name] for name in SPLITS}
    target = tmp_path / "made" / "target"
    assert detect_mask_format(target) == format
    assert mask_splits(target) == ("train", "val", "test")
    read, drawn = open_masks(target, "test"), world.split("test")
    for number in range(len(drawn)):
        assert torch.equal(read.pixels(number), drawn.images[number])
        classes = read.label_map(number)
        assert torch.equal(
            classes if format == "folder" else classes > 0,
            drawn.maps[number] if format == "folder" else drawn.maps[number] > 0,
        )
    source = open_masks(tmp_path / "made" / "source", "train")
    assert len(source) == FEW["source"]
    if format == "folder":
        assert read.class_names == TARGET
        assert source.class_names == SOURCE


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train": 0}, "train must be at least 1, found 0"),
        ({"source": 0}, "source must be at least 1, found 0"),
        ({"noise": -0.1}, r"noise must lie in \[0, 1\], found -0.1"),
        ({"contrast": 2.0}, r"contrast must lie in \[0, 1\], found 2"),
    ],
)
def test_impossible_worlds_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        CutoutWorld(**settings)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="unknown split 'holidays'"):
        CutoutWorld(**FEW).split("holidays")
    with pytest.raises(InputError, match="unknown format of world-cutouts 'voc'"):
        CutoutWorld(**FEW).write(tmp_path / "made", "voc")
