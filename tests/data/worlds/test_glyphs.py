"""`world-glyphs`: objects tell classes, grounds only those that are learnt from, and boxes are exact."""

import pytest
import torch

from ommatid.data.embedded import icons
from ommatid.data.worlds.glyphs import WRITERS, GlyphWorld
from ommatid.errors import InputError

SMALL = {"train": 4, "val": 2, "test": 2, "images": 3}


def test_a_split_is_a_function_of_its_seed():
    first, again = (GlyphWorld(**SMALL).split("train") for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.boxes, again.boxes)
    assert not torch.equal(first.images, GlyphWorld(**SMALL, seed=1).split("train").images)
    assert len(first) == 12


def test_classes_of_the_splits_are_different_concepts():
    world = GlyphWorld()
    names = [set(world.split(split).class_names) for split in ("train", "val", "test")]
    assert [len(each) for each in names] == [64, 16, 20]
    assert len(set.union(*names)) == 100
    assert set.union(*names) <= set(icons().concepts)


def test_held_out_images_are_of_base_classes_and_new():
    world = GlyphWorld(**SMALL)
    train, other = world.split("train"), world.held_out()
    assert train.class_names == other.class_names
    assert not torch.equal(train.images, other.images)


@pytest.mark.parametrize("objects", ["icons", "glyphs"])
def test_boxes_hold_the_object_and_nothing_else(objects):
    world = GlyphWorld(**SMALL, objects=objects, contrast=0.0, noise=0.0)
    scenes = world.split("test")
    for image, (top, left, height, width) in zip(scenes.images.int(), scenes.boxes.int().tolist(), strict=True):
        other = (image - image[:, :1, :1]).abs().amax(dim=0)
        # The first pixel may be the object's only where the object is in that corner.
        if top == 0 and left == 0:
            continue
        inside = torch.zeros_like(other, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        # A faint rim, a tenth of what the object covers, does not count.
        assert (other[~inside] < 0.13 * other.max()).all()
        faint = other[top : top + height, left : left + width] > 0.04 * other.max()
        assert faint.any(dim=1)[[0, -1]].all()
        assert faint.any(dim=0)[[0, -1]].all()


def test_objects_are_at_random_places_in_the_image():
    scenes = GlyphWorld(train=20, images=40).split("train")
    top, left, height, width = scenes.boxes.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 48).all()
    assert (left + width <= 48).all()
    middle = torch.stack([top + height / 2, left + width / 2])
    assert (middle.std(dim=1) > 6).all()
    assert height.max() <= 22


def test_nine_of_ten_images_of_a_base_class_have_its_texture_and_no_others_do():
    world = GlyphWorld(train=40, images=50)
    scenes = world.split("train")
    assert float((scenes.textures == scenes.labels).float().mean()) == pytest.approx(0.9, abs=0.02)
    assert (world.split("test").textures == -1).all()
    free = GlyphWorld(train=40, images=50, tied=0.0).split("train")
    assert float((free.textures == free.labels).float().mean()) < 0.06


def test_colours_do_not_depend_on_the_class():
    """The mean colour of an image says less about its class than chance variation does."""
    scenes = GlyphWorld(train=20, images=60).split("train")
    means = scenes.images.float().mean(dim=(2, 3)).unflatten(0, (60, 20))
    between = means.mean(dim=0).var(dim=0)
    assert (between < 2 * means.var(dim=0).mean(dim=0) / 60).all()


def test_an_image_of_a_class_is_drawn_by_several_designers():
    world = GlyphWorld(train=4, images=40, noise=0.0, contrast=0.0)
    sizes = world.split("train").boxes[::4, 2:]
    assert len({tuple(size) for size in sizes.tolist()}) > 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": 0}, "train: found 0, expected at least 1"),
        ({"object_size": 50}, "object_size: found 50, expected 48 at most"),
        ({"tied": 1.5}, r"tied: found 1\.5, expected a share"),
        ({"noise": -1.0}, r"noise: found -1\.0"),
        ({"train": 9999}, "found 10035 classes, expected .* at most, all icons"),
    ],
)
def test_impossible_worlds_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        GlyphWorld(**settings)


def test_what_cannot_be_written_is_refused(tmp_path):
    world = GlyphWorld(**{**SMALL, "train": 3})
    with pytest.raises(InputError, match="found 3, 2 and 2 classes, expected 2:1:1 for the format cub"):
        world.write(tmp_path / "new", "cub")
    with pytest.raises(InputError, match="unknown format of world-glyphs 'coco'"):
        world.write(tmp_path / "new", "coco")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="found files in it, expected a new folder"):
        world.write(tmp_path / "full")
    with pytest.raises(InputError, match="unknown split 'holidays'"):
        world.split("holidays")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fails(root, scenes):
        (root / "half").touch()
        raise OSError("the disk is full")

    monkeypatch.setitem(WRITERS, "folder", fails)
    with pytest.raises(InputError, match="the disk is full"):
        GlyphWorld(**SMALL).write(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
