"""NYUv2 as the NDDR-CNN release lays it out and as its authors give it away."""

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from data.made_surfaces import SIZE, made
from ommatid.data.nyu import (
    CLASSES,
    OfficialImages,
    ReleasedImages,
    convert_nyu,
    detect_nyu_format,
    nyu_splits,
    open_nyu,
    write_nyu,
)
from ommatid.data.surface_samples import (
    IGNORE,
    Camera,
    decoded_normals,
    normals_from_depth,
)
from ommatid.errors import InputError


@pytest.fixture
def released(tmp_path):
    for split, numbers in (("train", (1, 2)), ("test", (3,))):
        write_nyu(tmp_path, split, (made(number, depth=False) for number in numbers))
    return tmp_path


@pytest.fixture
def official(tmp_path):
    """Three images as the official files have them; labels of three kinds, of which the second is none of the 40."""
    generator = np.random.default_rng(0)
    arrays = {
        "images": generator.integers(256, size=(3, 3, SIZE[1], SIZE[0])).astype(np.uint8),
        "depths": (1 + generator.random((3, SIZE[1], SIZE[0]))).astype(np.float32),
        "labels": generator.integers(4, size=(3, SIZE[1], SIZE[0])).astype(np.uint16),
    }
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    savemat(tmp_path / "splits.mat", {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[2]])})
    savemat(tmp_path / "classMapping40.mat", {"mapClass": np.array([[40, 0, 5]])})
    return tmp_path, arrays


# The layout of the release.


def test_the_release_is_read_as_it_was_written(released):
    assert detect_nyu_format(released) == detect_nyu_format(released / "nyu_v2") == "nyu"
    train = open_nyu(released, "train")
    assert (len(train), len(open_nyu(released / "nyu_v2", "test"))) == (2, 1)
    assert train.class_names == CLASSES
    assert len(CLASSES) == 40
    for index, number in enumerate((1, 2)):
        found, expected = train[index], made(number)
        torch.testing.assert_close(found.image, expected.image)
        assert torch.equal(found.semantic, expected.semantic)
        assert torch.equal(found.normals_valid, expected.normals_valid)
        # A byte is 1/127.5 of the length.
        assert (found.normals - expected.normals).abs().max() < 1 / 127
        torch.testing.assert_close(found.normals.norm(dim=0), found.normals_valid.float())
        assert found.depth is None
        assert found.id == f"{number:04d}"


def test_lists_are_those_of_the_release(released):
    folder = released / "nyu_v2" / "list"
    assert sorted(path.name for path in folder.iterdir()) == [
        "testing_normal_mask.txt",
        "testing_seg.txt",
        "training_normal_mask.txt",
        "training_seg.txt",
    ]
    assert (folder / "testing_seg.txt").read_text() == "/nyu_train_val/0003.png /nyu_train_val/0003_seg.png\n"


def test_splits_are_those_that_have_lists(released, official):
    assert nyu_splits(released, "nyu") == ("train", "test")
    (released / "nyu_v2" / "list" / "training_seg.txt").unlink()
    assert nyu_splits(released, "nyu") == ("test",)
    assert nyu_splits(official[0]) == ("train", "test")


def test_decoding_is_up_to_the_reader(released):
    as_bytes = torch.from_numpy(np.array(Image.open(released / "nyu_v2/nyu_train_val/0003_normal.png"))).permute(
        2, 0, 1
    )
    for decode in ("unit", "raw"):
        expected = decoded_normals(as_bytes, decode)
        torch.testing.assert_close(open_nyu(released, "test", decode=decode)[0].normals, expected)
    with pytest.raises(InputError, match="unknown decode 'bytes'"):
        open_nyu(released, decode="bytes")


def test_classes_can_be_ones_own(released):
    (released / "nyu_v2" / "classes.txt").write_text("\n".join(f"kind {number}" for number in range(40)))
    assert open_nyu(released).class_names[3] == "kind 3"
    (released / "nyu_v2" / "classes.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"0001_seg.png: found the class \d+, expected 0 to 1, or 255 for none"):
        open_nyu(released)[0]
    (released / "nyu_v2" / "classes.txt").write_text("a\na\n")
    with pytest.raises(InputError, match=r"classes.txt: found 2 classes, expected 1 to 255 different names"):
        open_nyu(released)


def test_palette_label_maps_are_read_by_their_numbers(released):
    place = released / "nyu_v2" / "nyu_train_val" / "0003_seg.png"
    image = Image.fromarray(np.array(Image.open(place)), "P")
    image.putpalette([7] * 768)
    image.save(place)
    assert torch.equal(open_nyu(released, "test")[0].semantic, made(3).semantic)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "list/testing_seg.txt",
            "/a.png\n",
            "testing_seg.txt, line 1: found '/a.png', expected an image and its label",
        ),
        ("list/testing_seg.txt", "\n", "testing_seg.txt: found no images, expected at least one"),
        ("list/testing_seg.txt", "/a.png /b.png\n" * 2, "line 2: found /a.png again, expected one line for each image"),
        ("list/testing_seg.txt", "/a.png /b.png\n", r"testing_normal_mask.txt: found no line for /a.png, expected the"),
        ("nyu_train_val/0003.png", "no picture", "0003.png: found a damaged or unreadable file"),
        ("nyu_train_val/0003_seg.png", "no picture", "0003_seg.png: found a damaged or unreadable file .* label map"),
    ],
)
def test_a_faulty_file_is_named(released, name, text, message):
    (released / "nyu_v2" / name).write_text(text)
    with pytest.raises(InputError, match=message):
        open_nyu(released, "test")[0]


def test_images_that_only_the_normals_have_are_named(released):
    file = released / "nyu_v2" / "list" / "testing_normal_mask.txt"
    file.write_text(file.read_text() + "/a.png /b.png\n")
    with pytest.raises(InputError, match=r"testing_seg.txt: found no line for /a.png"):
        open_nyu(released, "test")


def test_missing_files_are_counted(released):
    (released / "nyu_v2" / "nyu_train_val" / "0001.png").unlink()
    (released / "nyu_v2" / "nyu_train_val" / "0002_normal.png").unlink()
    with pytest.raises(InputError, match=r"list: 2 files of train are missing, expected all \(first: .*0001.png\)"):
        open_nyu(released)
    (released / "nyu_v2" / "list" / "training_normal_mask.txt").unlink()
    with pytest.raises(InputError, match=r"training_normal_mask.txt: found no such file, expected a list of images"):
        open_nyu(released)


def test_maps_are_of_the_size_of_their_image(released):
    place = released / "nyu_v2" / "nyu_train_val"
    Image.fromarray(np.zeros((6, 7), dtype=np.uint8)).save(place / "0003_seg.png")
    with pytest.raises(InputError, match=r"0003_seg.png: found 6 x 7 pixels, expected 6 x 8 as of 0003.png"):
        open_nyu(released, "test")[0]
    Image.fromarray(np.zeros((6, 8, 3), dtype=np.uint8)).save(place / "0003_seg.png")
    with pytest.raises(InputError, match=r"0003_seg.png: found an image of mode RGB, expected a label map"):
        open_nyu(released, "test")[0]


def test_unknown_splits_formats_and_folders_are_refused(released, tmp_path):
    with pytest.raises(InputError, match="unknown split 'val'"):
        open_nyu(released, "val")
    with pytest.raises(InputError, match="unknown format of NYUv2 'png'"):
        open_nyu(released, format="png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: found neither nyu_depth_v2_labeled.mat nor nyu_v2/list/\*_seg.txt"):
        open_nyu(tmp_path / "empty")
    with pytest.raises(InputError, match="nowhere: found nothing, expected a folder"):
        open_nyu(tmp_path / "nowhere")


# The official files.


def test_official_arrays_are_turned_and_labels_mapped(official):
    root, arrays = official
    assert detect_nyu_format(root) == "nyu-mat"
    train = open_nyu(root, "train")
    assert train.ids == ("0001", "0003")
    sample = train[1]
    assert np.array_equal((sample.image * 255).round().byte().numpy(), arrays["images"][2].swapaxes(1, 2))
    assert np.array_equal(sample.depth[0].numpy(), arrays["depths"][2].T)
    wanted = np.array([IGNORE, 39, IGNORE, 4])[arrays["labels"][2].T]
    assert np.array_equal(sample.semantic.numpy(), wanted)
    assert len(open_nyu(root, "test")) == 1
    assert train.class_names == CLASSES


def test_normals_are_fitted_to_the_depths_with_nyus_camera(official):
    root, _ = official
    sample = open_nyu(root, "test")[0]
    torch.testing.assert_close(sample.normals, normals_from_depth(sample.depth, Camera.of_nyu(*SIZE)))
    (root / "camera.txt").write_text("10 12 3 4")
    torch.testing.assert_close(
        open_nyu(root, "test")[0].normals, normals_from_depth(sample.depth, Camera(10.0, 12.0, 3.0, 4.0))
    )


def test_the_mapping_can_be_a_text_and_name_its_classes(official, tmp_path):
    root, _ = official
    expected = open_nyu(root)[0].semantic
    (tmp_path / "mine.txt").write_text("40\n0\n5\n")
    assert torch.equal(open_nyu(root, mapping=tmp_path / "mine.txt")[0].semantic, expected)
    names = np.array(["a", "b"], dtype=object)[None]
    savemat(tmp_path / "named.mat", {"mapClass": np.array([[2, 0, 1]]), "className": names})
    assert open_nyu(root, mapping=tmp_path / "named.mat").class_names == ("a", "b")


def test_unknown_depths_have_no_normals(official):
    root, _ = official
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["depths"][1, 2, 3], file["depths"][1, 0, 0] = np.nan, 0
    sample = open_nyu(root, "test")[0]
    assert (sample.depth == 0).nonzero().tolist() == [[0, 0, 0], [0, 3, 2]]
    assert not sample.normals_valid[0, 0]
    assert not sample.normals_valid[3, 2]
    assert sample.normals.isfinite().all()


def test_official_files_become_the_release(official, tmp_path):
    root, _ = official
    assert convert_nyu(root, tmp_path / "new") == {"train": 2, "test": 1}
    found, expected = ReleasedImages(tmp_path / "new", "train")[1], OfficialImages(root, "train")[1]
    torch.testing.assert_close(found.image, expected.image)
    assert torch.equal(found.semantic, expected.semantic)
    assert (found.normals - expected.normals).abs().max() < 1 / 127
    with pytest.raises(InputError, match="found files in it, expected a new folder"):
        convert_nyu(root, tmp_path / "new")


def spoil(root, what):
    data = root / "nyu_depth_v2_labeled.mat"
    if what == "damaged":
        data.write_bytes(b"MATLAB")
    elif what == "entry":
        with h5py.File(data, "r+") as file:
            del file["depths"]
    elif what == "axes":
        with h5py.File(data, "r+") as file:
            del file["labels"]
            file["labels"] = np.zeros((3, *SIZE), dtype=np.uint16)
    elif what == "flat":
        with h5py.File(data, "r+") as file:
            del file["images"]
            file["images"] = np.zeros((3, *SIZE), dtype=np.uint8)
    elif what == "label":
        with h5py.File(data, "r+") as file:
            file["labels"][0, 0, 0] = 9
    elif what == "splits":
        savemat(root / "splits.mat", {"trainNdxs": np.array([[4]])})
    elif what == "no splits":
        (root / "splits.mat").unlink()
    elif what == "empty split":
        savemat(root / "splits.mat", {"trainNdxs": np.zeros((0, 1))})
    elif what == "other splits":
        savemat(root / "splits.mat", {"train": np.array([[1]])})
    elif what == "no mapping":
        (root / "classMapping40.mat").unlink()
    elif what == "mapping":
        savemat(root / "classMapping40.mat", {"mapClass": np.array([[-1, 300]])})
    elif what == "broken mapping":
        (root / "classMapping40.mat").write_text("1 2 3")
    elif what == "camera":
        (root / "camera.txt").write_text("10 12")
    else:
        (root / "camera.txt").write_text("ten")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("damaged", r"nyu_depth_v2_labeled.mat: found a damaged file .* expected a MAT file of version 7.3"),
        ("entry", "nyu_depth_v2_labeled.mat: found no entry 'depths', expected images, labels and depths"),
        ("axes", r"found arrays of shapes \(3, 3, 8, 6\), \(3, 6, 8\), \(3, 8, 6\), expected one label map"),
        ("flat", r"found images of shape \(3, 6, 8\), expected that of NYUv2, axes reversed"),
        ("label", "labeled.mat, image 0001: found the label 9, expected 0 to 3"),
        ("splits", "splits.mat: found image 4 in trainNdxs, expected 1 to 3"),
        ("no splits", "splits.mat: found no such file, expected trainNdxs and testNdxs"),
        ("empty split", "splits.mat: found nothing in trainNdxs, expected numbers of images"),
        ("other splits", "splits.mat: found no entry 'trainNdxs', expected trainNdxs and testNdxs"),
        ("no mapping", "classMapping40.mat: found no such file, expected the class of each of the 894 labels"),
        ("mapping", "classMapping40.mat: found classes -1 to 300, expected 1 to 40"),
        ("broken mapping", r"classMapping40.mat: found no readable MAT file \(.*\), expected the class of each"),
        ("camera", "camera.txt: found 2 numbers, expected fx fy cx cy"),
        ("no camera", "camera.txt: found .* expected fx fy cx cy, numbers only"),
    ],
)
def test_a_faulty_official_file_is_named(official, what, message):
    root, _ = official
    spoil(root, what)
    with pytest.raises(InputError, match=message):
        open_nyu(root, format="nyu-mat")[0]


def test_a_missing_official_file_is_named(official):
    root, _ = official
    (root / "nyu_depth_v2_labeled.mat").unlink()
    with pytest.raises(InputError, match="found no such file, expected the labelled images of NYUv2"):
        open_nyu(root, format="nyu-mat")
