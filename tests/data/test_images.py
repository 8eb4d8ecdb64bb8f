import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ommatid.data.images import ImageFiles, ImageSet, cifar10, cifar100, digits, image_folder, read_image, tiny_imagenet
from ommatid.errors import InputError

RANDOM = np.random.default_rng(0)


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path, **options) if mode is None else Image.fromarray(array).convert(mode).save(
        path
    )
    return path


def pixels(height=6, width=8, channels=3):
    return RANDOM.integers(0, 256, (height, width, channels) if channels > 1 else (height, width), dtype=np.uint8)


# embedded digits


def test_digits_are_split_once_and_for_all_in_balance():
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1000, 797)
    assert torch.bincount(train.labels).min() >= 95
    assert torch.equal(train.images, digits("train").images)
    flat = torch.cat([train.images, test.images]).flatten(1)
    assert len(flat.unique(dim=0)) == len(flat)  # every digit once


def test_digits_have_the_size_and_channels_asked_for_and_stay_in_the_unit_interval():
    for size, channels in ((16, 3), (8, 1)):
        test = digits("test", size, channels)
        assert test.images.shape == (797, channels, size, size)
        assert test.images.min() >= 0
        assert test.images.max() <= 1
        assert len(test.mean) == len(test.std) == channels
    assert torch.equal(test.images[:, 0] * 16, (test.images[:, 0] * 16).round())  # 8 x 8 is the original


def test_digits_constants_normalise_the_training_images():
    train = digits("train")
    normalised = (train.images - torch.tensor(train.mean)[:, None, None]) / torch.tensor(train.std)[:, None, None]
    assert abs(normalised.mean()) < 1e-4
    assert abs(normalised.std() - 1) < 1e-3
    assert digits("test").mean == train.mean


def test_an_unknown_split_is_named():
    with pytest.raises(InputError, match="unknown split 'val': expected one of 'test', 'train'"):
        digits("val")


# the set itself


def test_a_set_is_a_dataset_of_float_images_and_labels():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 5)
    images = ImageSet(images, torch.tensor([1, 0]), ("a", "b"), (0.0,) * 3, (1.0,) * 3)
    image, label = images[1]
    assert image.dtype == torch.float32
    assert (image == 1).all()
    assert label == 0
    batch, labels = next(iter(DataLoader(images, batch_size=2)))
    assert torch.equal(batch, images.tensors()[0])
    assert labels.tolist() == [1, 0]


def test_labels_must_fit_images_and_class_names():
    images = torch.zeros(2, 1, 2, 2)
    with pytest.raises(InputError, match="labels: found class 2, expected 0 to 1 for 2 class names"):
        ImageSet(images, torch.tensor([0, 2]), ("a", "b"), (0.0,), (1.0,))
    with pytest.raises(InputError, match="labels: found 3, expected 2, one for each image"):
        ImageSet(images, torch.zeros(3, dtype=torch.long), ("a", "b"), (0.0,), (1.0,))


# CIFAR


def write_cifar10(root, protocol=2, key=str.encode, damage=None):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [name.encode() for name in ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]]
    (folder / "batches.meta").write_bytes(pickle.dumps({key("label_names"): names}, protocol))
    data = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        data[name] = RANDOM.integers(0, 256, (4, 3072), dtype=np.uint8)
        record = {key("data"): data[name], key("labels"): [0, 9, 3, 1], key("filenames"): [b"x.png"] * 4}
        (folder / name).write_bytes(pickle.dumps({**record, **(damage or {})}, protocol))
    return folder, data


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("key", [str, str.encode])
def test_cifar10_archives_of_every_age_are_read(tmp_path, protocol, key):
    folder, data = write_cifar10(tmp_path, protocol, key)
    train, test = cifar10(tmp_path, "train"), cifar10(folder, "test")
    assert (len(train), len(test)) == (20, 4)
    assert test.class_names[3] == "cat"
    assert test.mean == (0.4914, 0.4822, 0.4465)
    image, label = test[1]
    assert label == 9
    torch.testing.assert_close(image, torch.from_numpy(data["test_batch"][1]).reshape(3, 32, 32) / 255)


def test_an_archive_written_by_python_2_is_read(tmp_path):
    """Byte strings and the old module names, as the distributed files have them."""
    folder, data = write_cifar10(tmp_path)
    pixels = data["test_batch"][:1].tobytes()
    quoted = "'" + "".join(f"\\x{byte:02x}" for byte in pixels) + "'"
    (folder / "test_batch").write_bytes(
        f"""(dp0
S'data'
p1
cnumpy.core.multiarray
_reconstruct
(cnumpy
ndarray
(I0
tS'b'
tR(I1
(I1
I3072
tcnumpy
dtype
(S'u1'
I0
I1
tR(I3
S'|'
NNNI-1
I-1
I0
tbI00
S{quoted}
tbsS'labels'
(lI7
as.""".encode()
    )
    test = cifar10(folder, "test")
    assert test.labels.tolist() == [7]
    assert torch.equal(test.images.flatten(), torch.from_numpy(data["test_batch"][0]))


def test_cifar100_has_its_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    names = [f"kind{i}".encode() for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names, b"coarse_label_names": []}, 2))
    record = {b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [99, 5], b"coarse_labels": [1, 1]}
    (folder / "test").write_bytes(pickle.dumps(record, 2))
    test = cifar100(tmp_path, "test")
    assert test.labels.tolist() == [99, 5]
    assert test.class_names[99] == "kind99"
    assert test.std == (0.2675, 0.2565, 0.2761)


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (Attack(os.system, "touch owned"), "system"),
        (Attack(eval, "open('owned', 'w')"), "eval"),
        (Attack(getattr, "", "join"), "getattr"),
        (Attack(np.load, "owned"), "load"),
    ],
)
def test_code_in_an_archive_is_refused_not_run(tmp_path, monkeypatch, attack, named):
    monkeypatch.chdir(tmp_path)
    folder, _ = write_cifar10(tmp_path, damage={"more": attack})
    with pytest.raises(InputError, match=rf"test_batch: found a reference to \S+{named}, expected only arrays, lists"):
        cifar10(folder, "test")
    assert not (tmp_path / "owned").exists()


def test_only_plain_text_is_decoded_from_an_archive(tmp_path):
    import _codecs

    folder, _ = write_cifar10(tmp_path, damage={"more": Attack(_codecs.encode, "x", "punycode")})
    with pytest.raises(InputError, match="found text encoded as 'punycode', expected latin1"):
        cifar10(folder, "test")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ({"data": np.zeros((4, 100), np.uint8)}, r"found data of uint8 \(4, 100\), expected bytes \(n, 3072\)"),
        ({"data": np.zeros((4, 3072))}, r"found data of float64 \(4, 3072\), expected bytes"),
        ({"data": None}, r"found data of object \(\), expected bytes"),
        ({"labels": [1, 2]}, r"found labels of int64 \(2,\), expected 4 integers"),
        ({"labels": ["a"] * 4}, r"found labels of .* \(4,\), expected 4 integers"),
        ({"labels": [0, 1, 2, 10]}, "found the label 10, expected 0 to 9 for 10 class names"),
    ],
)
def test_batches_of_something_else_are_refused(tmp_path, damage, sentence):
    folder, _ = write_cifar10(tmp_path, key=str, damage=damage)
    with pytest.raises(InputError, match=f"test_batch: {sentence}"):
        cifar10(folder, "test")


def test_missing_and_truncated_archives_are_named(tmp_path):
    folder, _ = write_cifar10(tmp_path)
    whole = (folder / "test_batch").read_bytes()
    for content, sentence in {
        whole[: len(whole) // 2]: r"test_batch: found a damaged pickle \(\w+\), expected a CIFAR batch",
        b"": r"test_batch: found a damaged pickle \(EOFError\)",
        pickle.dumps([1]): "test_batch: found a pickled list, expected a dictionary",
    }.items():
        (folder / "test_batch").write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            cifar10(folder, "test")
    (folder / "data_batch_3").unlink()
    with pytest.raises(InputError, match="data_batch_3: found nothing, expected a file of the unpacked archive"):
        cifar10(tmp_path, "train")
    (folder / "batches.meta").write_bytes(pickle.dumps({}))
    with pytest.raises(InputError, match=r"batches\.meta: found no label_names, expected the list of class names"):
        cifar10(tmp_path, "test")
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.touch()
    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz: found a file, expected a folder"):
        cifar10(archive)


# Tiny-ImageNet


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for wnid in ("n02", "n01"):
        for number in range(2):
            save(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", pixels(64, 64))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes are not read")
    for number in range(3):
        save(root / "val" / "images" / f"val_{number}.JPEG", pixels(64, 64))
    (root / "val" / "val_annotations.txt").write_text(
        "val_2.JPEG\tn02\t0\t0\t9\t9\nval_0.JPEG\tn01\t0\t0\t9\t9\nval_1.JPEG\tn02\t0\t0\t9\t9\n"
    )
    (root / "words.txt").write_text("n01\tgoldfish, carp\nn03\tcat\n")
    return root


def test_tiny_imagenet_is_read_in_both_parts(tiny):
    train, test = tiny_imagenet(tiny.parent), tiny_imagenet(tiny, "test", size=32)
    assert train.class_names == test.class_names == ("goldfish, carp", "n02")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert test.labels.tolist() == [1, 0, 1]
    assert test.images.paths[0].name == "val_2.JPEG"
    assert train.tensors()[0].shape == (4, 3, 64, 64)
    assert test[0][0].shape == (3, 32, 32)


def test_tiny_imagenet_annotations_of_unknown_classes_are_named(tiny):
    table = tiny / "val" / "val_annotations.txt"
    table.write_text("val_0.JPEG\tn01\t0\nval_1.JPEG\tn77\t0\n")
    with pytest.raises(InputError, match=r"val_annotations\.txt, line 2: found the class 'n77', expected one of the 2"):
        tiny_imagenet(tiny, "test")
    table.write_text("val_0.JPEG\n")
    with pytest.raises(InputError, match=r"line 1: found the class '', expected"):
        tiny_imagenet(tiny, "test")
    table.unlink()
    with pytest.raises(InputError, match=r"val_annotations\.txt: found no such file, expected the annotations"):
        tiny_imagenet(tiny, "test")


# folders


@pytest.fixture
def folder(tmp_path):
    for split, classes in {"train": ("ant", "bee", "cat"), "test": ("bee", "cat")}.items():
        for name in classes:
            save(tmp_path / split / name / "1.png", pixels())
            save(tmp_path / split / name / "0.JPG", pixels(10, 4))
    return tmp_path


def test_folders_number_their_classes_as_in_train(folder):
    train, test = image_folder(folder, "train", size=(5, 7)), image_folder(folder, "test", size=8, channels=1)
    assert train.class_names == test.class_names == ("ant", "bee", "cat")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.labels.tolist() == [1, 1, 2, 2]
    assert [path.name for path in test.images.paths] == ["0.JPG", "1.png"] * 2
    assert train.tensors()[0].shape == (6, 3, 5, 7)
    assert test.tensors()[0].shape == (4, 1, 8, 8)
    assert len(train.mean) == 3
    assert len(test.mean) == 1


def test_a_folder_of_classes_needs_no_split(folder):
    test = image_folder(folder / "test", size=4)
    assert test.class_names == ("bee", "cat")
    assert test.labels.tolist() == [0, 0, 1, 1]


def test_a_png_comes_back_as_it_was_saved(tmp_path):
    array = pixels()
    image = read_image(save(tmp_path / "a.png", array))
    assert torch.equal(image, torch.from_numpy(array).permute(2, 0, 1))


def test_grey_palette_alpha_and_bilevel_images_are_converted(tmp_path):
    array = pixels()
    for mode in ("L", "P", "RGBA", "LA", "1", "CMYK"):
        path = save(tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}", array, mode)
        assert read_image(path).shape == (3, 6, 8)
        assert read_image(path, channels=1).shape == (1, 6, 8)
    grey = read_image(tmp_path / "L.png")
    assert torch.equal(grey[0], grey[2])
    torch.testing.assert_close(read_image(tmp_path / "RGBA.png"), torch.from_numpy(array).permute(2, 0, 1))


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path):
    path = save(tmp_path / "deep.png", np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert read_image(path, channels=1).flatten().tolist() == [0, 100, 255]


def test_floats_are_scaled_or_refused(tmp_path):
    path = save(tmp_path / "float.tif", np.array([[0, 0.4, 1]], dtype=np.float32))
    assert read_image(path, channels=1).flatten().tolist() == [0, 102, 255]
    for value in (300, -0.5, np.nan):
        path = save(tmp_path / "beyond.tif", np.array([[0, value]], dtype=np.float32))
        with pytest.raises(InputError, match=r"beyond\.tif: found floats from \S+ to \S+, expected 0 to 1$"):
            read_image(path)


def test_images_are_turned_upright(tmp_path):
    array = np.zeros((4, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    save(tmp_path / "a.jpg", array, exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (3, 8, 4)


def test_clutter_is_passed_over_and_other_files_are_named(folder):
    (folder / "test" / "bee" / ".DS_Store").touch()
    (folder / "test" / "bee" / "Thumbs.db").touch()
    save(folder / "test" / "bee" / ".ipynb_checkpoints" / "x.png", pixels())
    assert len(image_folder(folder, "test")) == 4
    (folder / "test" / "bee" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes\.txt: found the ending '\.txt', expected an image \(\.bmp .*\.webp\)"):
        image_folder(folder, "test")


def test_empty_folders_are_named(folder, tmp_path):
    (folder / "train" / "dog").mkdir()
    with pytest.raises(InputError, match="dog: found no images, expected at least one for the class 'dog'"):
        image_folder(folder, "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: found no folders, expected one folder of images for each class"):
        image_folder(tmp_path / "empty")
    with pytest.raises(InputError, match="nowhere: found nothing, expected a folder"):
        image_folder(tmp_path / "nowhere")


def test_classes_that_train_does_not_have_are_named(folder):
    save(folder / "test" / "dog" / "0.png", pixels())
    with pytest.raises(InputError, match=r"dog: found a class that is none of the 3 classes of .*train"):
        image_folder(folder, "test")


def test_the_split_must_be_there_and_be_said(folder):
    with pytest.raises(InputError, match="split: found none, expected one of train, test, the folders in"):
        image_folder(folder)
    with pytest.raises(InputError, match=r"split: found 'val', expected one of the folders in .*: train, test"):
        image_folder(folder, "val")
    with pytest.raises(InputError, match=r"split: found 'train', expected one of the folders in .*: none"):
        image_folder(folder / "train", "train")


def test_images_that_cannot_be_read_are_named_when_they_are_read(folder):
    whole = (folder / "test" / "bee" / "0.JPG").read_bytes()
    (folder / "test" / "bee" / "0.JPG").write_bytes(whole[: len(whole) // 2])
    (folder / "test" / "bee" / "1.png").write_bytes(b"this is no image")
    test = image_folder(folder, "test", size=4)
    with pytest.raises(
        InputError, match=r"0\.JPG: found a damaged or unreadable file \((?i:.*truncated.*)\), expected an image"
    ):
        test[0]
    with pytest.raises(InputError, match=r"1\.png: found a damaged or unreadable file"):
        test[1]
    with pytest.raises(InputError, match=r"gone\.png: found no such file, expected an image"):
        read_image(folder / "gone.png")
    with pytest.raises(InputError, match="channels: found 4, expected 1 or 3"):
        read_image(folder / "train" / "ant" / "1.png", channels=4)


def test_images_of_different_sizes_are_not_stacked(folder):
    train = image_folder(folder, "train")
    with pytest.raises(
        InputError, match=r"1\.png: found 6 x 8 pixels, expected 10 x 4 as in the first image: pass a size"
    ):
        train.tensors()
    assert train[1][0].shape == (3, 6, 8)


def test_files_travel_to_the_workers_of_a_loader(folder):
    train = image_folder(folder, "train", size=4)
    restored = pickle.loads(pickle.dumps(train))
    assert torch.equal(restored.tensors()[0], train.tensors()[0])
    assert isinstance(restored.images, ImageFiles)
