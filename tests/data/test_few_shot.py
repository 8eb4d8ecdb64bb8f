"""Official layouts of few-shot data, written by the embedded world and read again; what is wrong is named."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from ommatid.data.few_shot import FEW_SHOT_FORMATS, detect_few_shot_format, read_few_shot
from ommatid.data.images import unit_interval
from ommatid.data.worlds.glyphs import GlyphWorld
from ommatid.errors import InputError

WORLD = GlyphWorld(train=4, val=2, test=2, images=3, size=24, object_size=12)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    roots = {format: tmp_path_factory.mktemp("few-shot") / format for format in FEW_SHOT_FORMATS}
    for format, root in roots.items():
        WORLD.write(root, format)
    return roots


@pytest.mark.parametrize("format", FEW_SHOT_FORMATS)
def test_every_layout_holds_the_world(format, written):
    root = written[format]
    assert detect_few_shot_format(root) == format
    found = read_few_shot(root)
    for split, part in found.items():
        scenes = WORLD.split(split)
        names = [name.partition(".")[2] or name for name in part.class_names]
        assert sorted(names) == sorted(scenes.class_names)
        assert part.labels.bincount().tolist() == [3] * len(names)
        for index in range(len(part)):
            truth = scenes.images[scenes.labels == scenes.class_names.index(names[part.labels[index]])]
            assert (truth == part.images[index]).flatten(1).all(dim=1).any()


def test_boxes_of_cub_follow_the_size(written):
    small, large = (read_few_shot(written["cub"], size=size)["test"] for size in (24, 48))
    scenes = WORLD.split("test")
    names = [name.partition(".")[2] for name in small.class_names]
    label = scenes.class_names.index(names[int(small.labels[0])])
    assert small.box(0, 24).tolist() in scenes.boxes[scenes.labels == label].tolist()
    torch.testing.assert_close(large.box(0, 48), 2 * small.box(0, 24))
    assert large.images[0].shape == (3, 48, 48)
    assert read_few_shot(written["folder"])["test"].box(0, 24).isnan().all()


def test_cub_may_be_named_by_the_folder_above(written, tmp_path):
    (tmp_path / "CUB_200_2011").symlink_to(written["cub"])
    assert detect_few_shot_format(tmp_path) == "cub"
    assert len(read_few_shot(tmp_path)["train"].class_names) == 4


def test_a_pickle_of_python_2_is_read(tmp_path):
    """Names are bytes there; classes may be listed in any order."""
    for split, first in {"train": 0, "val": 10, "test": 20}.items():
        images = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3) + first
        members = {f"n{first + 1}".encode(): [3, 1], f"n{first}".encode(): [0, 2]}
        record = {b"image_data": images, b"class_dict": members}
        (tmp_path / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(record, protocol=2))
    part = read_few_shot(tmp_path)["val"]
    assert part.class_names == ("n10", "n11")
    assert part.labels.tolist() == [0, 0, 1, 1]
    assert part.images[1, 0, 0, 0] == 10 + 2 * 12
    assert part.images[2, 0, 0, 0] == 10 + 3 * 12
    assert unit_interval(part.images[0]).max() < 0.2


class Harmful:
    def __reduce__(self):
        return eval, ("1 / 0",)


def test_nothing_in_a_pickle_is_executed(tmp_path):
    (tmp_path / "mini-imagenet-cache-train.pkl").write_bytes(pickle.dumps({"image_data": Harmful()}))
    with pytest.raises(InputError, match=r"train\.pkl: found a reference to builtins\.eval, expected only arrays"):
        read_few_shot(tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image_data": np.zeros((2, 4, 4)), "class_dict": {}}, r"found image_data of float64 \(2, 4, 4\)"),
        ({"image_data": np.zeros((2, 4, 4, 3), np.uint8)}, "found class_dict of NoneType"),
        ({"image_data": np.zeros((2, 4, 4, 3), np.uint8), "class_dict": {"a": [2]}}, "class a: found image 2"),
        ({"image_data": np.zeros((2, 4, 4, 3), np.uint8), "class_dict": {"a": ["x"]}}, "expected numbers of images"),
        ([1], "found a pickled list, expected a dictionary"),
    ],
)
def test_a_pickle_of_something_else_is_refused(record, message, tmp_path):
    (tmp_path / "mini-imagenet-cache-train.pkl").write_bytes(pickle.dumps(record))
    with pytest.raises(InputError, match=message):
        read_few_shot(tmp_path)


def test_a_truncated_pickle_is_refused(written, tmp_path):
    whole = (written["pickle"] / "mini-imagenet-cache-train.pkl").read_bytes()
    (tmp_path / "mini-imagenet-cache-train.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"train\.pkl: found a damaged pickle"):
        read_few_shot(tmp_path)


def table(root, text):
    root.mkdir(exist_ok=True)
    (root / "train.csv").write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\na.png,b\n", r"train\.csv: found the columns \['file', 'class'\], expected filename and label"),
        ("filename,label\na.png,\n", r"train\.csv, line 2: found an empty field"),
        ("filename,label\n", r"train\.csv: found no images"),
        ("filename,label\na.png,b\n", r"train\.csv, line 2: found no image .*a\.png, expected the files below"),
    ],
)
def test_a_faulty_table_is_named(text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_few_shot(table(tmp_path, text))


def test_images_may_lie_beside_the_tables(tmp_path):
    for split in ("train", "val", "test"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{split}.png")
        (tmp_path / f"{split}.csv").write_text(f"filename,label\n{split}.png,of {split}\n")
    assert read_few_shot(tmp_path)["test"].images[0].shape == (3, 8, 8)


def test_a_missing_part_and_a_class_in_two_parts_are_named(tmp_path):
    for split, name in {"train": "dog", "val": "cat"}.items():
        (tmp_path / split / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / name / "1.png")
    with pytest.raises(InputError, match="found no folder 'test'"):
        read_few_shot(tmp_path)
    (tmp_path / "test" / "dog").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "test" / "dog" / "1.png")
    with pytest.raises(InputError, match="found the class 'dog' in train and in test, expected it in one"):
        read_few_shot(tmp_path)


def test_a_faulty_list_of_cub_is_named(written, tmp_path):
    import shutil

    root = tmp_path / "cub"
    shutil.copytree(written["cub"], root)
    (root / "bounding_boxes.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match=r"bounding_boxes\.txt, line 1: found '1 2 3', expected a number and 4 values"):
        read_few_shot(root)
    (root / "bounding_boxes.txt").write_text("1 0 0 3 3\n")
    with pytest.raises(InputError, match="found no box of image 2"):
        read_few_shot(root)
    (root / "image_class_labels.txt").write_text("1 99\n")
    with pytest.raises(InputError, match="image 1: found the class 99, expected one of the 8"):
        read_few_shot(root)
    (root / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"classes\.txt: found no such file"):
        read_few_shot(root)


def test_an_unknown_format_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="unknown format of few-shot data 'omniglot'"):
        read_few_shot(tmp_path, "omniglot")
    with pytest.raises(InputError, match="found nothing, expected a folder"):
        read_few_shot(tmp_path / "nowhere")
