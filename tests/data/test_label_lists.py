"""Lists of images with several labels: official files as they are distributed, and one sentence for what is wrong."""

import json
import re
from pathlib import Path

import pytest
import torch

from ommatid.data.label_lists import (
    LABEL_FORMATS,
    LabelledImages,
    detect_label_format,
    label_splits,
    open_labels,
    read_coco,
    read_label_csv,
    read_nus_wide,
)
from ommatid.data.worlds.labels import CLASSES, LabelWorld
from ommatid.errors import InputError

WORLD = LabelWorld(train=12, val=6, test=9, size=24)


def write(path, *lines, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())
    return path


def place(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def shown(images):
    """File name -> class names."""
    return {path.name: images.names(index) for index, path in enumerate(images.paths)}


def refused(message, read, *args, **settings):
    with pytest.raises(InputError) as caught:
        read(*args, **settings)
    assert str(caught.value).endswith(message), str(caught.value)
    assert str(caught.value).count("\n") == 0


# What the world writes.


@pytest.mark.parametrize("format", LABEL_FORMATS)
def test_the_world_is_read_as_it_was_written(format, tmp_path):
    root = tmp_path / "world"
    counts = WORLD.write(root, format)
    assert detect_label_format(root) == format
    assert label_splits(root) == tuple(counts)
    assert tuple(counts) == (("train", "test") if format == "nus-wide" else ("train", "val", "test"))
    for split, count in counts.items():
        images, scenes = open_labels(root, split), WORLD.split(split)
        assert len(images) == count == len(scenes)
        order = [CLASSES.index(name.replace("_", " ")) for name in images.class_names]
        assert sorted(order) == sorted(set(order))
        assert torch.equal(images.labels, scenes.labels[:, order])
        assert scenes.labels.sum() == images.labels.sum()
        assert all(path.is_file() for path in images.paths)


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path):
    WORLD.write(tmp_path / "nus", "nus-wide")
    refused(
        f"split: found 'val', expected one of those in {tmp_path / 'nus'}: train, test",
        open_labels,
        tmp_path / "nus",
        "val",
    )


# COCO.

CATEGORIES = [
    {"supercategory": "indoor", "id": 90, "name": "toothbrush"},
    {"supercategory": "person", "id": 1, "name": "person"},
    {"supercategory": "outdoor", "id": 13, "name": "stop sign"},
]


def coco(root, split="train", year="2014", **changes):
    """Two labelled images and one without annotations, in COCO's own form."""
    name = f"{split}{year}"
    files = [f"COCO_{name}_{number:012d}.jpg" if year == "2014" else f"{number:012d}.jpg" for number in (9, 25, 30)]
    images = [
        {
            "license": 5,
            "file_name": file,
            "coco_url": "",
            "height": 480,
            "width": 640,
            "date_captured": "",
            "id": number,
        }
        for file, number in zip(files, (9, 25, 30), strict=True)
    ]
    shown = ((25, 13, 0), (9, 90, 0), (25, 1, 1), (25, 13, 0))
    annotations = [
        {
            "segmentation": [],
            "area": 702.1,
            "iscrowd": crowd,
            "image_id": image,
            "bbox": [473.07, 395.93, 38.65, 28.67],
            "category_id": category,
            "id": number,
        }
        for number, (image, category, crowd) in enumerate(shown)
    ]
    content = {"info": {}, "images": images, "licenses": [], "annotations": annotations, "categories": CATEGORIES}
    place(root, *(f"{name}/{file}" for file in files))
    return write(root / "annotations" / f"instances_{name}.json", json.dumps(content | changes))


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_closes_the_gaps_of_category_ids_and_drops_images_without_labels(tmp_path, year):
    coco(tmp_path, "train", year)
    coco(tmp_path, "val", year)
    write(tmp_path / "annotations" / f"captions_train{year}.json", "{}")
    assert detect_label_format(tmp_path) == "coco"
    assert label_splits(tmp_path) == ("train", "val")
    train = open_labels(tmp_path)
    assert train.class_names == ("person", "stop sign", "toothbrush")
    assert list(shown(train).values()) == [("toothbrush",), ("person", "stop sign")]
    assert train.paths[0].parent == tmp_path / f"train{year}"
    assert train.labels.dtype == torch.bool
    kept = open_labels(tmp_path, "val", keep_empty=True)
    assert [kept.names(index) for index in range(3)] == [("toothbrush",), ("person", "stop sign"), ()]


def test_coco_images_may_lie_in_a_folder_of_images_or_anywhere(tmp_path):
    file = coco(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "train2014").rename(tmp_path / "images" / "train2014")
    assert len(open_labels(tmp_path)) == 2
    (tmp_path / "images" / "train2014").rename(tmp_path / "all")
    refused(
        "found no folder train2014 and no images/train2014, expected the images of instances_train2014.json",
        open_labels,
        tmp_path,
    )
    assert len(read_coco(file, tmp_path / "all")) == 2


def test_coco_of_two_years_is_not_mixed(tmp_path):
    coco(tmp_path, "train", "2014")
    file = coco(tmp_path, "train", "2017")
    refused(f"{file}: found a second list of train, expected instances_train2014.json alone", open_labels, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "json: found no list 'images', expected annotations of COCO"),
        (
            {"images": [{"id": 9}]},
            "json, images 1: found {'id': 9}, expected id (a whole number) and file_name (a text)",
        ),
        (
            {"images": [{"id": 9, "file_name": "a.jpg"}] * 2},
            "json, images 2: found the id 9 again, expected one of its own",
        ),
        (
            {"annotations": [{"image_id": 9, "category_id": 1}, {"image_id": 77, "category_id": 1}]},
            "json, annotations 2: found the image_id 77, expected one that the file describes",
        ),
        (
            {"annotations": [{"image_id": 9, "category_id": 12}]},
            "json, annotations 1: found the category_id 12, expected one that the file describes",
        ),
        (
            {"annotations": [{"image_id": 9, "category_id": "1"}]},
            "json, annotations 1: found {'image_id': 9, 'category_id': '1'}, "
            "expected image_id (a whole number) and category_id (a whole number)",
        ),
        ({"annotations": []}, "json: found no images with labels, expected at least one"),
        (
            {"categories": [*CATEGORIES, {"id": 1, "name": "cat"}]},
            "json, categories 4: found the id 1 again, expected one of its own",
        ),
        (
            {"categories": [*CATEGORIES, {"id": 2, "name": "person"}]},
            "json: found the class 'person' twice, expected classes of different names",
        ),
    ],
)
def test_faulty_coco_records_are_named(tmp_path, changes, message):
    refused(message, read_coco, coco(tmp_path, **changes))


def test_what_is_no_coco_json_is_refused(tmp_path):
    (tmp_path / "train2014").mkdir()
    file = write(tmp_path / "annotations" / "instances_train2014.json", "{", '"images": ]')
    refused(
        "2014.json: not readable as JSON (line 2: Expecting value), expected annotations of COCO",
        read_coco,
        file,
    )
    refused("found a list, expected an object with images and annotations", read_coco, write(file, "[]"))
    file.write_bytes(b"\xff\xfe\x00")
    refused("found bytes that are no text (UTF-8), expected annotations of COCO", read_coco, file)
    refused("found no such file, expected annotations of COCO", read_coco, tmp_path / "none.json")


# NUS-WIDE.


@pytest.fixture
def nus(tmp_path):
    """Three training images, one of them without labels, as in the archives: backslashes, rows of 0 and 1."""
    root = tmp_path / "NUS-WIDE"
    write(root / "ConceptsList" / "Concepts81.txt", "airport", "animal", "bear", end="\r\n")
    train = ("actor\\0001_2124494179.jpg", "actor\\0002_174174086.jpg", "zoo\\0003_2538687.jpg")
    write(root / "ImageList" / "TrainImagelist.txt", *train, end="\r\n")
    write(root / "ImageList" / "TestImagelist.txt", "zebra\\0001_1.jpg")
    labels = root / "Groundtruth" / "TrainTestLabels"
    for name, train_rows, test_row in (("airport", "000", "1"), ("animal", "101", "0"), ("bear", "001", "0")):
        write(labels / f"Labels_{name}_Train.txt", *train_rows, end="\r\n")
        write(labels / f"Labels_{name}_Test.txt", test_row)
    place(root / "Flickr", "actor/0001_2124494179.jpg", "zoo/0003_2538687.jpg", "zebra/0001_1.jpg")
    return root


def test_nus_wide_drops_images_without_any_label(nus):
    assert detect_label_format(nus) == "nus-wide"
    assert label_splits(nus) == ("train", "test")
    train = open_labels(nus)
    assert train.class_names == ("airport", "animal", "bear")
    assert train.paths == (
        nus / "Flickr" / "actor" / "0001_2124494179.jpg",
        nus / "Flickr" / "zoo" / "0003_2538687.jpg",
    )
    assert shown(train) == {"0001_2124494179.jpg": ("animal",), "0003_2538687.jpg": ("animal", "bear")}
    assert shown(open_labels(nus, "test")) == {"0001_1.jpg": ("airport",)}
    refused(
        f"1 of 3 images are missing, expected each as a file (first: {nus / 'Flickr/actor/0002_174174086.jpg'})",
        open_labels,
        nus,
        keep_empty=True,
    )
    place(nus / "Flickr", "actor/0002_174174086.jpg")
    assert shown(open_labels(nus, keep_empty=True))["0002_174174086.jpg"] == ()


def test_dead_links_of_nus_wide_are_left_out_only_if_told(nus):
    (nus / "Flickr" / "actor" / "0001_2124494179.jpg").unlink()
    refused(
        f"TrainImagelist.txt: 1 of 2 images are missing, expected each as a file "
        f"(first: {nus / 'Flickr/actor/0001_2124494179.jpg'})",
        open_labels,
        nus,
    )
    train = open_labels(nus, skip_missing=True)
    assert shown(train) == {"0003_2538687.jpg": ("animal", "bear")}
    (nus / "Flickr" / "zoo" / "0003_2538687.jpg").unlink()
    with pytest.raises(InputError, match="2 of 2 images are missing"):
        open_labels(nus, skip_missing=True)


def test_nus_wide_archives_may_be_unpacked_side_by_side(nus):
    (nus / "Groundtruth" / "TrainTestLabels").rename(nus / "TrainTestLabels")
    (nus / "ConceptsList" / "Concepts81.txt").rename(nus / "Concepts81.txt")
    (nus / "Flickr").rename(nus / "images")
    assert open_labels(nus).paths[0] == nus / "images" / "actor" / "0001_2124494179.jpg"


def test_faulty_files_of_nus_wide_are_named(nus):
    labels = nus / "Groundtruth" / "TrainTestLabels" / "Labels_animal_Train.txt"
    write(labels, "1", "2", "0")
    refused(f"{labels}, line 2: found '2', expected 0 or 1", open_labels, nus)
    write(labels, "1", "", "0")
    refused(f"{labels}, line 2: found '', expected 0 or 1", open_labels, nus)
    write(labels, "1", "0")
    refused(f"{labels}: found 2 rows, expected 3, one for each image of TrainImagelist.txt", open_labels, nus)
    labels.unlink()
    refused(f"{labels}: found no such file, expected labels of NUS-WIDE", open_labels, nus)
    images = write(nus / "ImageList" / "TrainImagelist.txt", "actor\\0001_2124494179.jpg", "actor")
    refused(f"{images}, line 2: found 'actor', expected concept\\number_id.jpg", open_labels, nus)
    write(nus / "ConceptsList" / "Concepts81.txt", "bear", "bear")
    refused("Concepts81.txt: found the class 'bear' twice, expected classes of different names", open_labels, nus)
    refused("unknown split 'val': expected one of 'test', 'train'", read_nus_wide, nus, "val")
    (nus / "ConceptsList" / "Concepts81.txt").unlink()
    refused("found no ConceptsList/Concepts81.txt, expected the concepts of NUS-WIDE", read_nus_wide, nus)


# One's own csv.


def test_a_csv_of_names_and_one_of_columns_say_the_same(tmp_path):
    place(tmp_path, "a/1.jpg", "2.png", "3.jpg")
    rows = ('a/1.jpg,"dog; a red, small chair"', "", "2.png,", "3.jpg,cat")
    names = write(tmp_path / "names.csv", "\ufeffimage,Labels", *rows, end="\r\n")
    columns = write(
        tmp_path / "columns.csv", 'path,"a red, small chair",cat,dog', "a/1.jpg,1,0,1", "2.png,0, 0,0", "3.jpg,0,1,0"
    )
    first, second = read_label_csv(names), read_label_csv(columns)
    assert first.class_names == second.class_names == ("a red, small chair", "cat", "dog")
    assert torch.equal(first.labels, second.labels)
    assert first.paths == second.paths == (tmp_path / "a" / "1.jpg", tmp_path / "2.png", tmp_path / "3.jpg")
    assert shown(first) == {"1.jpg": ("a red, small chair", "dog"), "2.png": (), "3.jpg": ("cat",)}
    assert shown(read_label_csv(names, keep_empty=False)).keys() == {"1.jpg", "3.jpg"}
    assert read_label_csv(names, class_names=("dog", "cat", "a red, small chair", "cow")).names(2) == ("cat",)


def test_a_csv_may_start_from_another_folder(tmp_path):
    place(tmp_path / "pictures", "1.jpg")
    file = write(tmp_path / "lists" / "mine.csv", "file,cat", "1.jpg,1")
    assert read_label_csv(file, tmp_path / "pictures").paths == (tmp_path / "pictures" / "1.jpg",)
    with pytest.raises(
        InputError, match=re.escape(f"1 of 1 images are missing, expected each as a file (first: {tmp_path}")
    ):
        read_label_csv(file)


def test_csv_files_of_several_splits_number_classes_alike(tmp_path):
    place(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    write(tmp_path / "my_train.csv", "file,labels", "1.jpg,dog")
    write(tmp_path / "my-validation.csv", "file,labels", "2.jpg,cat")
    assert detect_label_format(tmp_path) == "csv"
    assert label_splits(tmp_path) == ("train", "val")
    train, val = open_labels(tmp_path), open_labels(tmp_path, "val")
    assert train.class_names == val.class_names == ("cat", "dog")
    assert (train.names(0), val.names(0)) == (("dog",), ("cat",))
    write(tmp_path / "classes.txt", "dog", "cow", "cat")
    assert open_labels(tmp_path).class_names == ("dog", "cow", "cat")
    write(tmp_path / "classes.txt", "dog")
    refused("my-validation.csv, line 2: found the label 'cat', expected one of 1 classes", open_labels, tmp_path, "val")


def test_columns_of_several_splits_may_come_in_another_order_but_must_be_the_same(tmp_path):
    place(tmp_path, "1.jpg", "2.jpg")
    write(tmp_path / "train.csv", "file,dog,cat", "1.jpg,1,0")
    test = write(tmp_path / "test.csv", "file,cat,dog", "2.jpg,1,0")
    assert open_labels(tmp_path).class_names == open_labels(tmp_path, "test").class_names == ("dog", "cat")
    assert open_labels(tmp_path, "test").names(0) == ("cat",)
    write(test, "file,cat", "2.jpg,1")
    refused(f"{test}: found no column 'dog', expected one for each of 2 classes", open_labels, tmp_path, "test")
    write(test, "file,cat,dog,cow", "2.jpg,1,0,0")
    refused(f"{test}: found the column 'cow', expected one of the 2 classes", open_labels, tmp_path, "test")


def test_a_csv_that_is_alone_is_the_training_split(tmp_path):
    place(tmp_path, "1.jpg")
    write(tmp_path / "mine.csv", "file,labels", "1.jpg,dog")
    assert label_splits(tmp_path) == ("train",)
    write(tmp_path / "yours.csv", "file,labels", "1.jpg,dog")
    refused("mine.csv: found one of 2 csv files, expected train, val or test in their names", label_splits, tmp_path)
    write(tmp_path / "train.csv", "file,labels", "1.jpg,dog")
    assert label_splits(tmp_path) == ("train",)
    write(tmp_path / "train_small.csv", "file,labels", "1.jpg,dog")
    refused("train_small.csv: found a second list of train, expected one beside train.csv", label_splits, tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], ": found nothing in it, expected a csv of images and labels"),
        (["1.jpg,dog"], ", line 1: found '1.jpg,dog', expected a header, file,labels or file,class,..."),
        (["file;labels"], ", line 1: found 'file;labels', expected a header, file,labels or file,class,..."),
        (["file,cat,cat"], ": found the class 'cat' twice, expected classes of different names"),
        (["file,labels"], ": found no images, expected at least one"),
        (["file,labels", "1.jpg,"], ": found no labels, expected at least one"),
        (
            ["file,labels", "1.jpg,cat", "", "1.jpg,dog"],
            ", line 4: found 1.jpg again, expected one row for each image (the first is line 2)",
        ),
        (["file,labels", "1.jpg,cat;;dog"], ", line 2: found 'cat;;dog', expected labels with one ; between them"),
        (
            ["file,labels", "1.jpg,cat,dog"],
            ", line 2: found 2 cells after '1.jpg', expected a file and 1 more as in the header",
        ),
        (["file,labels", ",cat"], ", line 2: found no file, expected a file and 1 more as in the header"),
        (
            ["file,cat,dog", "1.jpg,1"],
            ", line 2: found 1 cells after '1.jpg', expected a file and 2 more as in the header",
        ),
        (["file,cat,dog", "1.jpg,1,yes"], ", line 2: found 'yes' for dog, expected 0 or 1"),
        (["file,cat,dog", "1.jpg,1,"], ", line 2: found '' for dog, expected 0 or 1"),
        (["file,labels", '1.jpg,"cat'], ", line 2: found unexpected end of data, expected a csv of images and labels"),
    ],
)
def test_faulty_rows_of_a_csv_are_named(tmp_path, lines, message):
    place(tmp_path, "1.jpg")
    file = write(tmp_path / "mine.csv", *lines)
    refused(f"{file}{message}", read_label_csv, file)


# All.


def test_a_folder_of_no_known_format_is_refused(tmp_path):
    refused(
        f"{tmp_path}: found no annotations/instances_*.json, no Concepts81.txt and no csv, "
        "expected one of the formats coco, nus-wide, csv",
        detect_label_format,
        tmp_path,
    )
    refused("found nothing, expected a folder", open_labels, tmp_path / "none")
    refused(
        "unknown label format 'xml': expected one of 'coco', 'csv', 'nus-wide'", open_labels, tmp_path, format="xml"
    )
    refused("found no split with labels, expected one in the format coco", label_splits, tmp_path, "coco")


def test_labels_must_fit_images_and_classes():
    with pytest.raises(
        InputError, match=re.escape("labels: found the shape (1, 2), expected (1, 3), images and classes")
    ):
        LabelledImages((Path("1.jpg"),), torch.ones(1, 2, dtype=torch.bool), ("a", "b", "c"))
