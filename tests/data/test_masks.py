"""Segmentation data: every format as it is distributed, what its masks mean, and one sentence for what is wrong."""

import json
import pickle
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from ommatid.data.images import SPLITS
from ommatid.data.mask_benchmarks import VOC_CLASSES
from ommatid.data.mask_maps import coco_mask, polygon_mask, run_lengths
from ommatid.data.masks import IGNORE, MASK_FORMATS, MaskedImages, Origin, detect_mask_format, mask_splits, open_masks
from ommatid.data.worlds.attributes import AttributeWorld
from ommatid.data.worlds.faces import FaceWorld
from ommatid.data.worlds.glyphs import GlyphWorld
from ommatid.data.worlds.labels import LabelWorld
from ommatid.data.worlds.tissue import TissueWorld
from ommatid.errors import InputError

SIDES = 4, 6
BLOB = np.zeros(SIDES, np.uint8)
BLOB[1:3, 2:5] = 1


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels))
    if mode == "P":
        image.putpalette([value for index in range(256) for value in (index, 255 - index, index // 2)])
        assert image.mode == "P"
    elif mode:
        image = image.convert(mode)
    image.save(path)
    return path


def picture(path, sides=SIDES, number=0):
    """An image of a colour of its own."""
    return save(path, np.full((*sides, 3), 40 + 10 * number, np.uint8))


def refused(message, read, *args, **settings):
    with pytest.raises(InputError) as caught:
        read(*args, **settings)
    assert str(caught.value).endswith(message), str(caught.value)
    assert "\n" not in str(caught.value)


def maps(images):
    return [images.label_map(number).tolist() for number in images.labelled]


def blob(value=1):
    return (BLOB * np.uint8(value)).tolist()


def test_all_formats_are_told_apart_and_named(tmp_path):
    assert set(MASK_FORMATS) == set(EXAMPLES)
    for name, make in EXAMPLES.items():
        root = tmp_path / name
        make(root)
        assert detect_mask_format(root) == name
        for split in mask_splits(root):
            images = open_masks(root, split)
            assert images.images
            assert images.class_names
            for number in images.labelled:
                labels = images.label_map(number)
                assert labels.dtype == torch.uint8
                assert labels.shape == images.pixels(number).shape[1:]
                assert set(labels.unique().tolist()) <= {0, *range(1, len(images.class_names) + 1), IGNORE}


def test_sets_can_be_sent_to_workers(tmp_path):
    for name, make in EXAMPLES.items():
        make(tmp_path / name)
        images = open_masks(tmp_path / name, mask_splits(tmp_path / name)[0])
        again = pickle.loads(pickle.dumps(images))
        assert maps(again) == maps(images)


# The contract.


def test_images_without_maps_are_unlabelled_and_say_so(tmp_path):
    two_folders(tmp_path)
    picture(tmp_path / "images" / "z.png")
    images = open_masks(tmp_path)
    assert (images.labelled, images.unlabelled) == ((0, 1), (2,))
    assert images.binary
    assert images.class_names == ("foreground",)
    refused("z.png: found no mask of this image, expected a labelled one", images.label_map, 2)


def test_chosen_images_keep_all_that_is_known_of_them(tmp_path):
    thur(tmp_path)
    images = open_masks(tmp_path)
    chosen = images.select([3, 1])
    assert chosen.images == (images.images[3], images.images[1])
    assert chosen.categories == (2, 1)
    assert torch.equal(chosen.label_map(0), images.label_map(3))
    assert (chosen.class_names, chosen.origins) == (images.class_names, (None, None))


def test_all_classes_can_be_taken_for_one(tmp_path):
    values = np.array([[0, 1, 2], [3, 255, 0]], np.uint8)
    picture(tmp_path / "images" / "a.png", (2, 3))
    save(tmp_path / "masks" / "a.png", values)
    write(tmp_path / "classes.txt", "cat", "dog", "cow")
    images = open_masks(tmp_path)
    assert not images.binary
    one = images.as_foreground()
    assert one.binary
    assert one.label_map(0).tolist() == [[0, 1, 1], [1, IGNORE, 0]]
    assert images.label_map(0).tolist() == values.tolist()


def test_maps_and_classes_must_fit():
    refused("maps: found 0, expected 1, one for each image", MaskedImages, (Path("1.jpg"),), (), ("a",))
    refused(
        "origins: found 2, expected 1, one for each image",
        MaskedImages,
        (Path("1"),),
        (None,),
        ("a",),
        (),
        (None, None),
    )
    refused("class_names: found 0, expected 1 to 254", MaskedImages, (), (), ())
    refused("class_names: found 255, expected 1 to 254", MaskedImages, (), (), tuple(map(str, range(255))))


def test_a_map_of_another_size_is_refused(tmp_path):
    two_folders(tmp_path)
    save(tmp_path / "masks" / "b.png", BLOB.T)
    refused(
        f"{tmp_path / 'masks' / 'b.png'}: found a map of 6 x 4 pixels (height x width), expected 4 x 6 as b.png has",
        open_masks(tmp_path).label_map,
        1,
    )


def test_images_lie_as_their_exif_says_and_maps_fit_them(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((6, 4, 3), np.uint8)).save(tmp_path / "images" / "a.jpg", exif=exif)
    save(tmp_path / "masks" / "a.png", BLOB)
    images = open_masks(tmp_path)
    assert images.pixels(0).shape == (3, 4, 6)
    assert maps(images) == [blob()]


def test_missing_and_broken_files_are_named(tmp_path):
    two_folders(tmp_path)
    images = open_masks(tmp_path)
    mask = tmp_path / "masks" / "a.png"
    mask.write_bytes(mask.read_bytes()[:40])
    with pytest.raises(InputError, match=re.escape(f"{mask}: found a damaged or unreadable file")):
        images.label_map(0)
    mask.unlink()
    refused(f"{mask}: found no such file, expected a mask", images.label_map, 0)
    images.images[1].write_bytes(b"no image")
    with pytest.raises(InputError, match=r"b\.png: found a damaged or unreadable file .* expected an image"):
        images.label_map(1)
    images.images[1].unlink()
    refused("b.png: found no such file, expected an image", images.label_map, 1)


def test_a_folder_of_no_known_format_is_refused(tmp_path):
    refused(
        f"{tmp_path}: found no folders of images and masks and no lists of them, expected one of the formats "
        f"{', '.join(sorted(MASK_FORMATS))}",
        detect_mask_format,
        tmp_path,
    )
    refused("found nothing, expected a folder", open_masks, tmp_path / "none")
    two_folders(tmp_path)
    refused(f"split: found 'test', expected one of those in {tmp_path}: train", open_masks, tmp_path, "test")
    with pytest.raises(InputError, match="unknown format of masks 'vocs': did you mean 'voc'"):
        open_masks(tmp_path, format="vocs")
    refused(f"{tmp_path}: found no images and masks, expected some in the format voc", mask_splits, tmp_path, "voc")


@pytest.mark.parametrize(
    ("world", "format"),
    [
        *((FaceWorld(train=3, val=2, test=2, train_pictures=3, pictures=3), name) for name in ("folder", "list")),
        (LabelWorld(train=3, val=2, test=2, size=24), "csv"),
        (LabelWorld(train=3, val=2, test=2, size=24), "nus-wide"),
        (GlyphWorld(train=4, val=2, test=2, images=3), "folder"),
        (GlyphWorld(train=2, val=1, test=1, images=3), "cub"),
        (AttributeWorld(train=2, test=2), "table"),
    ],
)
def test_other_kinds_of_data_are_not_taken_for_masks(world, format, tmp_path):
    world.write(tmp_path / "there", format)
    with pytest.raises(InputError, match="found no folders of images and masks"):
        detect_mask_format(tmp_path / "there")


# One's own folders.


def two_folders(root):
    for number, name in enumerate("ab"):
        picture(root / "images" / f"{name}.png", number=number)
        save(root / "masks" / f"{name}.png", 255 * BLOB)


def test_folders_have_splits_or_are_all_to_train_with(tmp_path):
    for split in ("train", "test"):
        two_folders(tmp_path / split)
    assert mask_splits(tmp_path) == ("train", "test")
    assert [path.parent.parent.name for path in open_masks(tmp_path, "test").images] == ["test"] * 2
    assert mask_splits(tmp_path / "test") == ("train",)
    assert maps(open_masks(tmp_path / "test")) == [blob()] * 2


def test_images_and_masks_may_end_differently_and_lie_deeper(tmp_path):
    picture(tmp_path / "images" / "one" / "a.b.jpg")
    save(tmp_path / "masks" / "one" / "a.b.png", BLOB)
    (tmp_path / "images" / ".DS_Store").touch()
    assert maps(open_masks(tmp_path)) == [blob()]


@pytest.mark.parametrize(
    ("pixels", "mode"),
    [
        (BLOB, None),
        (BLOB * np.uint8(255), None),
        (BLOB * np.uint8(7), None),
        (BLOB * np.uint8(3), "P"),
        (BLOB.astype(bool), None),
        (BLOB * np.uint8(255), "RGB"),
        (BLOB * np.uint8(255), "RGBA"),
        (BLOB * np.uint16(65535), None),
        (np.where(BLOB, 128, 127).astype(np.uint8), None),
        (np.where(BLOB, [200, 255, 128, 130, 140, 150], 100).astype(np.uint8), None),
        (np.where(BLOB, [200, 255, 128, 130, 140, 150], 100).astype(np.uint16) * 257, None),
    ],
)
def test_two_values_with_zero_are_a_mask_and_others_a_soft_one(pixels, mode, tmp_path):
    picture(tmp_path / "images" / "a.png")
    save(tmp_path / "masks" / "a.png", pixels, mode)
    assert maps(open_masks(tmp_path)) == [blob()]


@pytest.mark.parametrize(("value", "meant"), [(0, 0), (1, 1), (9, 1), (255, 1)])
def test_a_mask_of_one_value_is_empty_or_full(value, meant, tmp_path):
    picture(tmp_path / "images" / "a.png")
    save(tmp_path / "masks" / "a.png", np.full(SIDES, value, np.uint8))
    assert maps(open_masks(tmp_path)) == [np.full(SIDES, meant).tolist()]


def test_names_make_values_classes(tmp_path):
    values = BLOB * np.uint8(2)
    values[0] = [1, 1, 255, 0, 0, 0]
    for name, mode in (("a", None), ("b", "P")):
        picture(tmp_path / "images" / f"{name}.png")
        save(tmp_path / "masks" / f"{name}.png", values, mode)
    write(tmp_path / "classes.txt", "cat", "", "dog")
    images = open_masks(tmp_path)
    assert images.class_names == ("cat", "dog")
    assert maps(images) == [values.tolist()] * 2
    write(tmp_path / "classes.txt", "__background__", "cat", "dog")
    assert open_masks(tmp_path).class_names == ("cat", "dog")


def test_one_name_makes_values_classes_too(tmp_path):
    """Whether a map has ignored pixels does not change what its other values mean."""
    write(tmp_path / "classes.txt", "vessel")
    ignored = BLOB.copy()
    ignored[0] = IGNORE
    for name, values in (("a", BLOB), ("b", ignored), ("c", 0 * BLOB)):
        picture(tmp_path / "images" / f"{name}.png")
        save(tmp_path / "masks" / f"{name}.png", values)
    images = open_masks(tmp_path)
    assert images.class_names == ("vessel",)
    assert maps(images) == [BLOB.tolist(), ignored.tolist(), (0 * BLOB).tolist()]
    mask = save(tmp_path / "masks" / "a.png", 255 * BLOB)
    refused(f"{mask}: found 255, ignored pixels, but no 1, expected 1 where the only class is", images.label_map, 0)


@pytest.mark.parametrize("values", [[0, 1, 255], [0, 1, 2, 255], [1, 255]])
def test_classes_with_ignored_pixels_are_no_soft_mask(tmp_path, values):
    picture(tmp_path / "images" / "a.png")
    mask = save(tmp_path / "masks" / "a.png", np.resize(np.array(values, np.uint8), SIDES))
    refused(
        f"{mask}: found the values {', '.join(map(str, values))}, expected 0 and one more, a soft mask up to 255, "
        "or the names of classes in classes.txt",
        open_masks(tmp_path).label_map,
        0,
    )


def test_soft_masks_of_twelve_bits_are_no_empty_ones(tmp_path):
    picture(tmp_path / "images" / "a.png")
    values = np.where(BLOB, [4095, 4000, 3500, 3000, 2500, 2200], 100).astype(np.uint16)
    mask = save(tmp_path / "masks" / "a.png", values)
    refused(
        f"{mask}: found the values 100, 2500, 3000, 3500, expected 0 and one more, a soft mask up to 65535, "
        "or the names of classes in classes.txt",
        open_masks(tmp_path).label_map,
        0,
    )


def test_faulty_masks_are_refused(tmp_path):
    picture(tmp_path / "images" / "a.png")
    values = np.arange(24, dtype=np.uint8).reshape(SIDES)
    mask = save(tmp_path / "masks" / "a.png", values)
    read = open_masks(tmp_path).label_map
    refused(
        f"{mask}: found the values 0, 1, 2, 3, ..., 23, expected 0 and one more, a soft mask up to 255, "
        "or the names of classes in classes.txt",
        read,
        0,
    )
    save(mask, np.stack([BLOB, 2 * BLOB, BLOB], axis=-1))
    refused("found colours (RGB), expected grey values or the indices of a palette", read, 0)
    save(mask, np.dstack([BLOB * np.uint8(255)] * 4))
    refused("found transparent pixels, expected a mask without transparency", read, 0)
    Image.fromarray(BLOB).convert("CMYK").save(mask, "TIFF")
    refused("found pixels of the mode CMYK, expected grey values or a palette", read, 0)
    write(tmp_path / "classes.txt", "cat", "dog")
    save(mask, BLOB * np.uint8(3))
    refused(f"{mask}: found the class id 3 in 6 pixels, expected 0 to 2 or 255", open_masks(tmp_path).label_map, 0)


def test_faulty_folders_are_refused(tmp_path):
    two_folders(tmp_path)
    stray = save(tmp_path / "masks" / "c.png", BLOB)
    refused(
        f"{stray}: found a mask without an image, expected one called c in {tmp_path / 'images'}", open_masks, tmp_path
    )
    stray.unlink()
    twice = picture(tmp_path / "images" / "b.jpg")
    refused(
        f"{tmp_path / 'images' / 'b.png'}: found a second image of this name, expected b.jpg alone",
        open_masks,
        tmp_path,
    )
    twice.unlink()
    text = write(tmp_path / "images" / "readme.md", "x")
    with pytest.raises(InputError, match=re.escape(f"{text}: found the ending '.md', expected an image (.bmp")):
        open_masks(tmp_path)
    text.unlink()
    write(tmp_path / "classes.txt", "background")
    refused("classes.txt: found no classes, expected the name of one on every line", open_masks, tmp_path)
    write(tmp_path / "classes.txt", "cat", "cat")
    refused("classes.txt: found the class 'cat' twice, expected classes of different names", open_masks, tmp_path)


def test_an_empty_split_is_refused(tmp_path):
    two_folders(tmp_path / "train")
    (tmp_path / "val" / "images").mkdir(parents=True)
    assert mask_splits(tmp_path) == ("train", "val")
    refused(
        f"{tmp_path / 'val' / 'images'}: found no images for val, expected at least one", open_masks, tmp_path, "val"
    )


# Tiles.


def slide_tiles(root):
    for split in ("train", "test"):
        for x, y in ((0, 0), (6, 0), (0, 4)):
            picture(root / split / "tiles" / f"liver_7_{x}_{y}.png")
            save(root / split / "masks" / f"liver_7_{x}_{y}.png", 255 * BLOB)


def test_tiles_keep_where_they_lie_on_their_slide(tmp_path):
    slide_tiles(tmp_path)
    images = open_masks(tmp_path, "test")
    assert images.origins == (Origin("liver_7", 0, 0), Origin("liver_7", 0, 4), Origin("liver_7", 6, 0))
    assert maps(images) == [blob()] * 3
    picture(tmp_path / "test" / "tiles" / "liver_7_0.png")
    picture(tmp_path / "test" / "tiles" / "liver.png")
    refused("liver.png: found another name, expected <slide>_<x>_<y>.png", open_masks, tmp_path, "test")


# Lists of pairs.


def pair_lists(root, *files, count=1):
    for file in files or ("train.txt", "test.txt"):
        lines = []
        for number in range(count):
            name = f"{Path(file).stem}{number}"
            picture(root / "Images" / f"{name}.jpg", number=number)
            save(root / "Labels" / f"{name}.png", 255 * BLOB)
            lines.append(f"Images/{name}.jpg Labels/{name}.png")
        write(root / file, *lines)


def test_pairs_are_read_as_their_list_says(tmp_path):
    pair_lists(tmp_path, "train.txt", "val.txt", "test_data.txt")
    assert mask_splits(tmp_path) == SPLITS
    with (tmp_path / "train.txt").open("a") as file:
        file.write("\nImages/val0.jpg\nImages\\test_data0.jpg\tLabels\\a b.png\n")
    save(tmp_path / "Labels" / "a b.png", BLOB * np.uint8(2))
    images = open_masks(tmp_path)
    assert [path.name for path in images.images] == ["train0.jpg", "val0.jpg", "test_data0.jpg"]
    assert images.unlabelled == (1,)
    assert maps(images) == [blob()] * 2
    assert open_masks(tmp_path, "test").images[0].name == "test_data0.jpg"
    write(tmp_path / "classes.txt", "cat", "dog")
    assert open_masks(tmp_path).label_map(2).tolist() == blob(2)


def test_one_list_of_all_pairs_is_divided_by_its_order(tmp_path):
    pair_lists(tmp_path, "full_data.txt", count=13)
    assert mask_splits(tmp_path) == SPLITS
    found = [path.stem for split in SPLITS for path in open_masks(tmp_path, split).images]
    assert found == [f"full_data{number}" for number in range(13)]
    # Ten of thirteen are not tested on, and eight of those are trained with.
    assert [len(open_masks(tmp_path, split)) for split in SPLITS] == [8, 2, 3]


def test_few_labelled_pairs_train_where_nothing_else_does(tmp_path):
    pair_lists(tmp_path, "shot.txt", "test_data.txt")
    assert mask_splits(tmp_path) == ("train", "test")
    assert open_masks(tmp_path).images[0].stem == "shot0"
    pair_lists(tmp_path, "train.txt")
    assert open_masks(tmp_path).images[0].stem == "train0"
    assert open_masks(tmp_path, "shot").images[0].stem == "shot0"


def test_faulty_lists_are_named_with_the_line(tmp_path):
    pair_lists(tmp_path)
    file = tmp_path / "train.txt"
    line = file.read_text().strip()
    write(file, line, "", f"{line} 1")
    refused(
        f"{file}, line 3: found 'Images/train0.jpg Labels/train0.png 1', expected an image and its mask, "
        "with a tab between where names have blanks",
        open_masks,
        tmp_path,
    )
    write(file, line, "Images/none.jpg Labels/train0.png")
    refused(f"{file}, line 2: found no file {tmp_path / 'Images/none.jpg'}, expected the image", open_masks, tmp_path)
    write(file, line, "Images/train0.jpg Labels/none.png")
    refused(f"{file}, line 2: found no file {tmp_path / 'Labels/none.png'}, expected the mask", open_masks, tmp_path)
    write(tmp_path / "test.txt", "")
    refused(f"{tmp_path / 'test.txt'}: found no images for test, expected at least one", open_masks, tmp_path, "test")
    pair_lists(tmp_path, "test_data.txt")
    refused("test_data.txt: found a second list of test, expected test.txt alone", open_masks, tmp_path)
    pair_lists(tmp_path, "full_data.txt")
    refused("train.txt: found a second list of train, expected full_data.txt alone", open_masks, tmp_path)


# Saliency.


def soft(path, scale=255):
    """A mask whose outline is soft: above 127 inside the blob alone."""
    values = np.where(BLOB, 255, 127)
    values[0, 0], values[1, 2] = 0, 128
    return save(path, (values * scale // 255).astype(np.uint8))


def msra(root):
    for number in range(2):
        picture(root / "Imgs" / f"{number}.jpg", number=number)
        soft(root / "Imgs" / f"{number}.png")


def set_of(images, masks, ending):
    def make(root):
        for number in range(2):
            picture(root / images / f"{number:04d}.{ending}", number=number)
            soft(root / masks / f"{number:04d}.png")

    return make


SALIENCY = {
    "ecssd": set_of("images", "ground_truth_mask", "jpg"),
    "dut-omron": set_of("DUT-OMRON-image", "pixelwiseGT-new-PNG", "jpg"),
    "hku-is": set_of("imgs", "gt", "png"),
    "msra10k": msra,
}


@pytest.mark.parametrize("name", SALIENCY)
def test_saliency_sets_show_the_foreground_above_127(name, tmp_path):
    SALIENCY[name](tmp_path)
    assert mask_splits(tmp_path) == ("train",)
    images = open_masks(tmp_path)
    assert [path.stem[-1] for path in images.images] == ["0", "1"]
    assert maps(images) == [blob()] * 2
    mask = images.maps[1].path
    soft(mask, scale=1)
    refused(f"{mask}: found no value above 1, expected values up to 255, foreground above 127", images.label_map, 1)
    mask.unlink()
    refused(
        f"1 of 2 masks are missing, expected one for each image (first: that of {images.images[1].name})",
        open_masks,
        tmp_path,
        format=name,
    )


def test_msra10k_may_lie_in_the_folder_of_its_archive(tmp_path):
    msra(tmp_path / "MSRA10K_Imgs_GT")
    assert detect_mask_format(tmp_path) == detect_mask_format(tmp_path / "MSRA10K_Imgs_GT") == "msra10k"
    assert len(open_masks(tmp_path)) == 2
    soft(tmp_path / "MSRA10K_Imgs_GT" / "Imgs" / "7.png")
    refused(
        f"7.png: found a mask without an image, expected one called 7 in {tmp_path / 'MSRA10K_Imgs_GT' / 'Imgs'}",
        open_masks,
        tmp_path,
    )


def thur(root):
    for name in ("Butterfly", "CoffeeMug"):
        picture(root / name / "Src" / "1.jpg")
        picture(root / name / "Src" / "2.jpg")
        soft(root / name / "Src" / "2.png")


def test_thur15k_has_classes_of_folders_and_keeps_unlabelled_images(tmp_path):
    thur(tmp_path / "THUR15000")
    images = open_masks(tmp_path)
    assert images.class_names == ("Butterfly", "CoffeeMug")
    assert images.categories == (1, 1, 2, 2)
    assert (images.labelled, images.unlabelled) == ((1, 3), (0, 2))
    assert maps(images) == [blob(1), blob(2)]
    assert maps(images.as_foreground()) == [blob(1), blob(1)]


# CUB, flowers, GlaS.


def cub(root):
    names = ("001.Black_footed_Albatross/a_0001_1", "001.Black_footed_Albatross/a_0002_2", "002.Laysan/b_0001_3")
    folder = root / "CUB_200_2011"
    for number, name in enumerate(names):
        picture(folder / "images" / f"{name}.jpg", number=number)
        soft(root / "segmentations" / f"{name}.png")
    write(folder / "images.txt", *(f"{number} {name}.jpg" for number, name in enumerate(names, start=1)))
    write(folder / "train_test_split.txt", "1 0", "2 1", "3 0")
    write(folder / "image_class_labels.txt", "1 1", "2 1", "3 2")


def test_cub_is_divided_officially_and_its_masks_are_soft(tmp_path):
    cub(tmp_path)
    assert mask_splits(tmp_path) == mask_splits(tmp_path / "CUB_200_2011") == ("train", "test")
    assert [path.stem for path in open_masks(tmp_path).images] == ["a_0002_2"]
    assert [path.stem for path in open_masks(tmp_path, "test").images] == ["a_0001_1", "b_0001_3"]
    assert maps(open_masks(tmp_path, "test")) == [blob()] * 2
    (tmp_path / "segmentations").rename(tmp_path / "CUB_200_2011" / "segmentations")
    assert detect_mask_format(tmp_path / "CUB_200_2011") == "cub"
    assert maps(open_masks(tmp_path)) == [blob()]


def test_faulty_lists_of_cub_are_named(tmp_path):
    cub(tmp_path)
    lists = tmp_path / "CUB_200_2011"
    write(lists / "train_test_split.txt", "1 0", "2 1")
    refused("train_test_split.txt: found no line for the image 3, expected 1 (train) or 0", open_masks, tmp_path)
    write(lists / "train_test_split.txt", "1 0", "2 2", "3 0")
    refused("train_test_split.txt: found '2' for the image 2, expected 1 (train) or 0", open_masks, tmp_path)
    write(lists / "train_test_split.txt", "1 0", "2", "3 0")
    refused("train_test_split.txt, line 2: found '2', expected the number of an image and a word", open_masks, tmp_path)
    cub(tmp_path)
    missing = tmp_path / "segmentations" / "001.Black_footed_Albatross" / "a_0002_2.png"
    missing.unlink()
    refused(f"images.txt, line 2: found no file {missing}, expected the segmentation of an image", open_masks, tmp_path)


def flowers(root):
    for number in range(1, 5):
        picture(root / "jpg" / f"image_{number:05d}.jpg", (32, 48), number)
        colours = np.full((32, 48, 3), (0, 0, 254), np.uint8)
        colours[8:24, 16:40] = (120, 60, 200) if number % 2 else (30, 30, 120)
        (root / "segmim").mkdir(exist_ok=True)
        Image.fromarray(colours).save(root / "segmim" / f"segmim_{number:05d}.jpg", quality=95, subsampling=0)
    savemat(root / "setid.mat", {"trnid": [[4, 1]], "valid": [[2]], "tstid": [[3]]})


def test_flowers_are_what_is_not_blue(tmp_path):
    flowers(tmp_path)
    assert mask_splits(tmp_path) == SPLITS
    images = open_masks(tmp_path)
    assert [path.name for path in images.images] == ["image_00004.jpg", "image_00001.jpg"]
    expected = torch.zeros(32, 48, dtype=torch.uint8)
    expected[8:24, 16:40] = 1
    assert torch.equal(images.label_map(0), expected)
    assert torch.equal(images.label_map(1), expected)
    (tmp_path / "segmim" / "segmim_00001.jpg").unlink()
    assert open_masks(tmp_path).unlabelled == (1,)
    (tmp_path / "setid.mat").unlink()
    assert mask_splits(tmp_path) == ("train",)
    assert len(open_masks(tmp_path)) == 4


def test_faulty_lists_of_flowers_are_named(tmp_path):
    flowers(tmp_path)
    file = tmp_path / "setid.mat"
    savemat(file, {"trnid": [[9]], "valid": [[2]], "tstid": [[3]]})
    refused(
        f"{file}, trnid: found no file {tmp_path / 'jpg' / 'image_00009.jpg'}, expected an image", open_masks, tmp_path
    )
    savemat(file, {"trnid": [[1]], "valid": [[2]]})
    refused(f"{file}: found no tstid in it, expected a MAT file with trnid and valid and tstid", open_masks, tmp_path)
    savemat(file, {"trnid": [[0.5]], "valid": [[2]], "tstid": [[3]]})
    refused(f"{file}: found trnid of float64, expected numbers of images", open_masks, tmp_path)
    file.write_bytes(b"no MAT file at all")
    with pytest.raises(InputError, match=r"setid\.mat: found a damaged file \(\w+\), expected a MAT file with trnid"):
        open_masks(tmp_path)


def glas(root):
    for number in (1, 2, 10):
        picture(root / f"train_{number}.bmp", number=number)
        save(root / f"train_{number}_anno.bmp", BLOB * np.uint8(number))
    for name in ("testA_1", "testB_1"):
        picture(root / f"{name}.bmp")
        save(root / f"{name}_anno.bmp", BLOB * np.uint8(3))
    write(
        root / "Grade.csv",
        "name, patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)",
        "testA_1, 2, benign, a",
    )


def test_glas_shows_glands_wherever_one_has_a_number(tmp_path):
    glas(tmp_path / "Warwick QU Dataset (Released 2016_07_08)")
    assert mask_splits(tmp_path) == ("train", "test")
    images = open_masks(tmp_path)
    assert [path.stem for path in images.images] == ["train_1", "train_2", "train_10"]
    assert maps(images) == [blob()] * 3
    assert [path.stem for path in open_masks(tmp_path, "test").images] == ["testA_1", "testB_1"]
    assert [path.stem for path in open_masks(tmp_path, "testB").images] == ["testB_1"]
    folder = images.images[0].parent
    (folder / "train_2_anno.bmp").unlink()
    assert open_masks(tmp_path).unlabelled == (1,)
    (folder / "train_10.bmp").unlink()
    refused(
        f"train_10_anno.bmp: found a mask without an image, expected one called train_10 in {folder}",
        open_masks,
        tmp_path,
    )


# PASCAL VOC and SBD.


def voc_map():
    labels = BLOB * np.uint8(20)
    labels[0], labels[3, 0] = 255, 1
    return labels


def voc(root, year=2012):
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in ("2007_000032", "2007_000039", "2007_000063"):
        picture(folder / "JPEGImages" / f"{name}.jpg")
        save(folder / "SegmentationClass" / f"{name}.png", voc_map(), "P")
    lists = folder / "ImageSets" / "Segmentation"
    write(lists / "train.txt", "2007_000032", "2007_000063")
    write(lists / "val.txt", "2007_000039")
    write(lists / "trainval.txt", "2007_000032", "2007_000039", "2007_000063")
    return folder


def test_voc_maps_are_indices_of_the_palette(tmp_path):
    folder = voc(tmp_path)
    for root in (tmp_path, tmp_path / "VOCdevkit", folder):
        assert detect_mask_format(root) == "voc"
        assert mask_splits(root) == ("train", "val")
    images = open_masks(tmp_path)
    assert images.class_names == VOC_CLASSES
    assert (VOC_CLASSES[0], VOC_CLASSES[19], len(VOC_CLASSES)) == ("aeroplane", "tvmonitor", 20)
    assert maps(images) == [voc_map().tolist()] * 2
    assert len(open_masks(tmp_path, "trainval")) == 3


def test_voc_test_images_are_unlabelled_where_maps_are_kept_back(tmp_path):
    folder = voc(tmp_path)
    picture(folder / "JPEGImages" / "2008_000006.jpg")
    lists = write(folder / "ImageSets" / "Segmentation" / "test.txt", "2008_000006")
    assert open_masks(tmp_path, "test").unlabelled == (0,)
    lists.rename(lists.with_name("val.txt"))
    refused(
        f"val.txt, line 1: found no file {folder / 'SegmentationClass' / '2008_000006.png'}, expected its map",
        open_masks,
        tmp_path,
        "val",
    )


def test_faulty_voc_is_refused(tmp_path):
    folder = voc(tmp_path)
    mask = folder / "SegmentationClass" / "2007_000032.png"
    save(mask, voc_map() + np.uint8(1), "P")
    refused(f"{mask}: found the class id 21 in 6 pixels, expected 0 to 20 or 255", open_masks(tmp_path).label_map, 0)
    image = folder / "JPEGImages" / "2007_000063.jpg"
    image.unlink()
    refused(f"train.txt, line 2: found no file {image}, expected an image", open_masks, tmp_path)
    voc(tmp_path, 2007)
    refused("found VOC2007 and VOC2012, expected the folder of one year", open_masks, tmp_path)


def sbd(root):
    folder = root / "benchmark_RELEASE" / "dataset"
    for name in ("2008_000002", "2008_000003"):
        picture(folder / "img" / f"{name}.jpg")
        (folder / "cls").mkdir(exist_ok=True)
        content = {"Segmentation": BLOB * np.uint8(20), "Boundaries": np.zeros((20, 1)), "CategoriesPresent": 20}
        savemat(folder / "cls" / f"{name}.mat", {"GTcls": content})
        (folder / f"{'train' if name.endswith('2') else 'val'}.txt").write_text(name)
    return folder


def test_sbd_maps_are_in_mat_files(tmp_path):
    folder = sbd(tmp_path)
    for root in (tmp_path, tmp_path / "benchmark_RELEASE", folder):
        assert detect_mask_format(root) == "sbd"
        assert mask_splits(root) == ("train", "val")
    images = open_masks(tmp_path, "val")
    assert images.class_names == VOC_CLASSES
    assert maps(images) == [blob(20)]


def test_faulty_sbd_is_refused(tmp_path):
    folder = sbd(tmp_path)
    file, images = folder / "cls" / "2008_000002.mat", open_masks(tmp_path)
    savemat(file, {"GTcls": {"Segmentation": BLOB * np.uint8(21)}})
    refused(f"{file}: found the class id 21 in 6 pixels, expected 0 to 20 or 255", images.label_map, 0)
    savemat(file, {"GTcls": {"Segmentation": BLOB * 0.5}})
    refused("found GTcls.Segmentation of another kind, expected a map of whole numbers", images.label_map, 0)
    savemat(file, {"GTcls": BLOB})
    refused(f"{file}: found no GTcls.Segmentation, expected a segmentation of SBD", images.label_map, 0)
    savemat(file, {"GTinst": BLOB})
    refused(f"{file}: found no GTcls in it, expected a MAT file with GTcls", images.label_map, 0)
    file.write_bytes(file.read_bytes()[:150])
    with pytest.raises(InputError, match=r"2008_000002\.mat: found a damaged file \(\w+\), expected a MAT file"):
        images.label_map(0)
    file.unlink()
    refused(f"{file}: found no such file, expected a MAT file with GTcls", images.label_map, 0)
    refused(f"train.txt, line 1: found no file {file}, expected its map", open_masks, tmp_path)


# COCO.

BOX = [2, 1, 5, 1, 5, 3, 2, 3]
RUNS = {"size": [4, 6], "counts": [0, 2, 22]}
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]


def coco(root, **changes):
    images = [{"id": number, "file_name": f"{number:012d}.jpg", "height": 4, "width": 6} for number in (9, 25)]
    shown = ((25, 13, [BOX], 0), (25, 1, RUNS, 1), (25, 13, [[0, 3, 1, 3, 1, 4, 0, 4], BOX], 0))
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}
        for number, (image, category, segmentation, crowd) in enumerate(shown)
    ]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    for image in images:
        picture(root / "val2017" / image["file_name"])
    return write(root / "annotations" / "instances_val2017.json", json.dumps(content | changes))


def test_coco_classes_are_numbered_without_gaps_and_all_objects_are_drawn(tmp_path):
    coco(tmp_path)
    assert mask_splits(tmp_path) == ("val",)
    images = open_masks(tmp_path, "val")
    assert images.class_names == ("person", "stop sign", "toothbrush")
    expected = BLOB * np.uint8(2)
    expected[3, 0] = 2
    expected[:2, 0] = 1
    assert images.label_map(1).tolist() == expected.tolist()
    assert images.label_map(0).max() == 0


def test_coco_pixels_of_two_classes_are_ignored(tmp_path):
    other = {"image_id": 9, "category_id": 90, "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]]}
    objects = [other | {"category_id": 1, "segmentation": [BOX]}, other, other]
    coco(tmp_path, annotations=objects)
    expected = BLOB.copy()
    expected[:2, :3] = 3
    expected[1, 2] = IGNORE
    for order in (objects, objects[::-1]):
        coco(tmp_path, annotations=order)
        assert open_masks(tmp_path, "val").label_map(0).tolist() == expected.tolist()


ONE = {"image_id": 9, "category_id": 1, "segmentation": [BOX]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 9, "file_name": "9.jpg"}]}, "expected id (a whole number) and file_name (a text) "
         "and height (a whole number) and width (a whole number)"),
        ({"annotations": [ONE, ONE | {"category_id": 2}]},
         "json, annotations 2: found the category_id 2, expected one that the file describes"),
        ({"annotations": [ONE | {"image_id": 7}]},
         "json, annotations 1: found the image_id 7, expected one that the file describes"),
        ({"annotations": [ONE | {"segmentation": []}]},
         "json, annotations 1: found no segmentation, expected polygons or run lengths"),
        ({"annotations": None}, "json: found no list 'annotations', expected annotations of COCO"),
        ({"images": []}, "found the image_id 25, expected one that the file describes"),
        ({"images": [], "annotations": []}, "json: found no images for val, expected at least one"),
        ({"images": [{"id": 9, "file_name": "9.jpg", "height": 4, "width": 6}] * 2},
         "json, images 2: found the id 9 again, expected one of its own"),
        ({"images": [{"id": 9, "file_name": "9.jpg", "height": -6, "width": 6}]},
         "json, images 1: found -6 x 6 pixels, expected 1 or more"),
    ],
)  # fmt: skip
def test_faulty_coco_records_are_named(tmp_path, changes, message):
    coco(tmp_path, **changes)
    refused(message, open_masks, tmp_path, "val")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[0, 0, 1, 1]], "found a polygon of other than x, y, x, y, x, y, ..., expected three points or more"),
        ([[0, 0, 1, 1, 2]], "found a polygon of other than x, y, x, y, x, y, ..., expected three points or more"),
        ([[0, 0, 1, 1, 2, "x"]], "found a polygon of other than x, y, x, y, x, y, ..., expected three points or more"),
        ("text", "found no segmentation, expected polygons or run lengths"),
        ({"size": [6, 4], "counts": [24]}, "found run lengths of the size [6, 4], expected [4, 6], its image's"),
        ({"size": [4, 6], "counts": [20]}, "found damaged run lengths, expected counts of 24 pixels together"),
        ({"size": [4, 6], "counts": [30, -6]}, "found damaged run lengths, expected counts of 24 pixels together"),
        ({"size": [4, 6], "counts": [12.0, 12]}, "found damaged run lengths, expected counts of 24 pixels together"),
        ({"size": [4, 6], "counts": "zz"}, "found damaged run lengths, expected counts of 24 pixels together"),
        ({"size": [4, 6], "counts": "P"}, "found damaged run lengths, expected counts of 24 pixels together"),
        ({"size": [4, 6], "counts": ""}, "found damaged run lengths, expected counts of 24 pixels together"),
        ({"size": [4, 6]}, "found damaged run lengths, expected counts of 24 pixels together"),
    ],
)
def test_faulty_coco_objects_are_named(tmp_path, segmentation, message):
    file = coco(tmp_path, annotations=[ONE, ONE | {"segmentation": segmentation}])
    refused(f"{file}, annotations 2: {message}", open_masks(tmp_path, "val").label_map, 0)


def test_coco_images_must_be_there_and_as_large_as_described(tmp_path):
    file = coco(tmp_path)
    image = picture(tmp_path / "val2017" / "000000000009.jpg", (6, 4))
    refused(
        f"{file}, images 1: found a map of 4 x 6 pixels (height x width), expected 6 x 4 as {image.name} has",
        open_masks(tmp_path, "val").label_map,
        0,
    )
    image.unlink()
    refused(f"{file}, images 1: found no file {image}, expected an image", open_masks, tmp_path, "val")
    write(file, "[]")
    refused("found a list, expected an object with images and annotations", open_masks, tmp_path, "val")


def inside(points, x, y):
    """The even-odd rule in exact numbers: how often a ray to the left crosses the outline."""
    crossings = 0
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        if (ay <= y) != (by <= y):
            crossings += ax + Fraction(y - ay) * (bx - ax) / (by - ay) <= x
    return crossings % 2 == 1


quarters = st.integers(-8, 40).map(lambda number: Fraction(number, 4))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(quarters, quarters), min_size=3, max_size=9))
def test_a_polygon_covers_the_pixels_whose_middle_is_inside(points):
    mask = polygon_mask(np.array(points, dtype=float), 7, 9)
    half = Fraction(1, 2)
    expected = [[inside(points, x + half, y + half) for x in range(9)] for y in range(7)]
    assert mask.tolist() == expected


@settings(max_examples=50, deadline=None)
@given(quarters, quarters, quarters, quarters)
def test_polygons_side_by_side_share_no_pixel_and_leave_none_out(x, y, top, bottom):
    corners = {"left": -4, "right": 14, "top": -4, "bottom": 14}
    left = [corners["left"], corners["top"], top, corners["top"], x, y, bottom, corners["bottom"], corners["left"], 14]
    right = [top, corners["top"], corners["right"], corners["top"], corners["right"], 14, bottom, 14, x, y]
    masks = [coco_mask([[float(each) for each in side]], 7, 9, "object") for side in (left, right)]
    if -4 < y < 14:
        assert (masks[0] ^ masks[1]).all()


def compressed(counts):
    """Run lengths as COCO writes them, number by number."""
    text = ""
    for place, count in enumerate(counts):
        left = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            low, left = left & 31, left >> 5
            more = left != (-1 if low & 16 else 0)
            text += chr(48 + (low | 32 * more))
    return text


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_run_lengths_give_back_the_mask_that_they_were_made_of(data):
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 40))
    flat = np.zeros(height * width, bool)
    for place in data.draw(st.lists(st.integers(0, height * width), max_size=8)):
        flat[place:] ^= True
    mask = flat.reshape(width, height).T
    counts, last = [0], False
    for pixel in flat.tolist():
        if pixel != last:
            counts, last = [*counts, 0], pixel
        counts[-1] += 1
    for stored in (counts, compressed(counts)):
        found = coco_mask({"size": [height, width], "counts": stored}, height, width, "object")
        assert np.array_equal(found, mask)
    assert run_lengths(compressed(counts)).tolist() == counts


def test_run_lengths_are_those_of_other_tools():
    # As pycocotools writes a box of 14 x 45 pixels with a hole in an image of 20 x 50.
    text = "[1>6" + 14 * "0" + "DN" + 9 * "62JN" + "626" + 52 * "0" + "i1"
    expected = np.zeros((20, 50), bool)
    expected[3:17, 2:47] = True
    expected[5:9, 10:20] = False
    assert np.array_equal(coco_mask({"size": [20, 50], "counts": text}, 20, 50, "object"), expected)


# All formats, and what the world writes.

EXAMPLES = {
    "folder": two_folders,
    "tiles": slide_tiles,
    "pairs": pair_lists,
    **SALIENCY,
    "thur15k": thur,
    "cub": cub,
    "flowers": flowers,
    "glas": glas,
    "voc": voc,
    "sbd": sbd,
    "coco": coco,
}


@pytest.mark.parametrize("format", ["folder", "pairs", "glas", "tiles"])
def test_the_world_is_read_as_it_was_written(format, tmp_path):
    world = TissueWorld(labelled=3, unlabelled=2, source=2, val=2, test=4, size=16)
    counts = world.write(tmp_path / "tissue", format)
    assert detect_mask_format(tmp_path / "tissue") == format
    train, test = (open_masks(tmp_path / "tissue", split) for split in ("train", "test"))
    assert (train.labelled, train.unlabelled) == ((0, 1, 2), (3, 4))
    source = open_masks(tmp_path / "tissue" / "source")
    parts = {"labelled": (train, 0), "unlabelled": (train, 3), "source": (source, 0), "test": (test, 0)}
    if format != "glas":
        parts["val"] = (open_masks(tmp_path / "tissue", "val"), 0)
    assert counts == {name: getattr(world, name) for name in counts}
    assert set(counts) == set(parts)
    for name, (images, first) in parts.items():
        drawn = world.split(name)
        for number in range(counts[name]):
            assert torch.equal(images.pixels(first + number), drawn.images[number])
            if name != "unlabelled":
                assert torch.equal(images.label_map(first + number).bool(), drawn.masks[number])
