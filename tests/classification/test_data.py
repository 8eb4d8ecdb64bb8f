"""`ImageData`: labelled images from every source as one batch."""

import gzip
import json
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from ommatid.classification.data import FORMATS, ImageData, Indexed, detect_image_format, uncut
from ommatid.errors import InputError


@pytest.fixture(scope="module")
def digits():
    return ImageData(size=16, batch_size=64)


def folder(root, splits=("train",), classes=("cat", "dog"), images=8, size=(6, 6)):
    """Pictures whose level says class and number."""
    for split in splits:
        for label, name in enumerate(classes):
            (place := root / split / name).mkdir(parents=True)
            for number in range(images):
                level = np.full((*size, 3), 100 * label + number, np.uint8)
                Image.fromarray(level).save(place / f"{number}.png")
    return root


def cifar(root, classes=10):
    rng = np.random.default_rng(0)
    place = root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    place.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if classes == 10 else ["train", "test"]
    per_file = 2 * classes
    for name in names:
        labels = list(range(classes)) * 2
        content = {b"data": rng.integers(0, 255, (per_file, 3072), dtype=np.uint8)}
        content[b"labels" if classes == 10 else b"fine_labels"] = labels
        (place / name).write_bytes(pickle.dumps(content))
    meta = {"label_names" if classes == 10 else "fine_label_names": [f"c{i}" for i in range(classes)]}
    (place / ("batches.meta" if classes == 10 else "meta")).write_bytes(pickle.dumps(meta))
    return root


def tiny_imagenet(root):
    place = root / "tiny-imagenet-200"
    wnids = ["n001", "n002"]
    for wnid in wnids:
        (place / "train" / wnid / "images").mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (64, 64), (number, 0, 0)).save(place / "train" / wnid / "images" / f"{number}.JPEG")
    (place / "val" / "images").mkdir(parents=True)
    lines = []
    for number, wnid in enumerate(wnids):
        Image.new("RGB", (64, 64)).save(place / "val" / "images" / f"v{number}.JPEG")
        lines.append(f"v{number}.JPEG\t{wnid}\t0\t0\t1\t1")
    (place / "val" / "val_annotations.txt").write_text("\n".join(lines))
    (place / "wnids.txt").write_text("\n".join(wnids))
    return root


def mnist(root):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 10)):
        images = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
    return root


# --- the embedded digits ---


def test_digits_keep_their_test_part_and_validate_on_a_part_of_training(digits):
    assert {split: len(images) for split, images in digits.sets.items()} == {"train": 850, "test": 797, "val": 150}
    shares = digits.sets["val"].labels.bincount()
    assert shares.max() - shares.min() <= 2
    train, val = (digits.tensors(split)[0].flatten(1) for split in ("train", "val"))
    assert (torch.cdist(val, train).min(dim=1).values > 0).all()


def test_a_batch_has_images_in_the_unit_interval_labels_and_positions(digits):
    batch = next(iter(digits.test_dataloader()))
    assert batch.images.shape == (64, 3, 16, 16)
    assert 0 <= batch.images.min() < batch.images.max() <= 1
    assert batch.index.tolist() == list(range(64))
    images, labels = digits.tensors("test")
    assert torch.equal(batch.images, images[:64])
    assert torch.equal(batch.labels, labels[:64])


def test_a_data_set_says_what_it_is(digits):
    assert digits.class_names == [str(number) for number in range(10)]
    assert (digits.size, len(digits.mean), len(digits.std)) == (16, 3, 3)
    described = digits.describe()
    assert (described["classes"], described["size"]) == (10, 16)
    assert "digits" in described["name"]
    json.dumps(described)


def test_baselines_are_the_most_frequent_class_and_chance(digits):
    found = digits.baselines("test")
    assert found["chance"] == {"top1": 0.1, "top5": 0.5}
    known = digits.sets["train"].labels.tolist()
    majority = max(range(10), key=known.count)
    labels = digits.sets["test"].labels.tolist()
    assert found["majority class"]["top1"] == pytest.approx(labels.count(majority) / len(labels))


def test_two_classes_have_no_better_chance_than_certain(tmp_path):
    assert ImageData(str(folder(tmp_path, images=10))).baselines("test")["chance"] == {"top1": 0.5, "top5": 1.0}


# --- formats on disk ---


def test_a_folder_without_splits_is_divided_class_by_class(tmp_path):
    folder(tmp_path / "set", splits=("",), images=20)
    data = ImageData(str(tmp_path / "set"), size=8)
    assert {split: len(images) for split, images in data.sets.items()} == {"train": 27, "test": 8, "val": 5}
    levels = {split: {round(float(v)) for v in data.tensors(split)[0].mean((1, 2, 3)) * 255} for split in data.sets}
    assert sum(map(len, levels.values())) == len(set.union(*levels.values())) == 40
    assert data.sets["test"].labels.bincount().tolist() == [4, 4]


def test_a_folder_with_splits_keeps_them(tmp_path):
    data = ImageData(str(folder(tmp_path / "set", splits=("train", "val", "test"))), size=8)
    assert {split: len(images) for split, images in data.sets.items()} == {"train": 16, "val": 16, "test": 16}
    assert data.class_names == ["cat", "dog"]
    assert data.first_batch("test", 2).images.shape == (2, 3, 8, 8)


def test_the_division_never_changes(tmp_path):
    root = str(folder(tmp_path / "set", splits=("",), images=20))
    first, second = (ImageData(root, size=8, seed=seed).sets["val"].images.paths for seed in (0, 7))
    assert first == second


@pytest.mark.parametrize(
    ("write", "format", "size", "train", "test"),
    [
        (cifar, "cifar10", 32, 85, 20),
        (lambda root: cifar(root, 100), "cifar100", 32, 100, 200),
        (tiny_imagenet, "tiny-imagenet", 64, 17, 2),
    ],
)
def test_official_archives_are_recognised_and_read(tmp_path, write, format, size, train, test):
    root = write(tmp_path / "set")
    assert detect_image_format(root) == format
    data = ImageData(str(root), size=64, val_fraction=0.5 if format == "cifar100" else 0.15)
    sizes = {split: len(images) for split, images in data.sets.items()}
    assert (sizes["train"], sizes["test"]) == (train, test)
    assert data.size == size
    assert data.describe()["name"].endswith(f"({format})")
    assert data.first_batch("test", 2).images.shape == (2, 3, size, size)


def test_every_format_is_recognised_or_a_folder(tmp_path):
    assert detect_image_format(tmp_path) == "folder"
    assert set(FORMATS) == {"folder", "imagenet", "cifar10", "cifar100", "tiny-imagenet"}


def test_the_validation_part_of_imagenet_is_what_is_tested(tmp_path):
    root = folder(tmp_path / "set", splits=("train", "val"), classes=("n01440764", "n01443537"), images=10)
    assert detect_image_format(root) == "imagenet"
    data = ImageData(str(root), size=8, val_fraction=0.2)
    assert {split: len(images) for split, images in data.sets.items()} == {"train": 16, "test": 20, "val": 4}
    assert data.class_names == ["n01440764", "n01443537"]
    # The same with names of one's own has a validation part to validate with.
    own = folder(tmp_path / "own", splits=("train", "val"), images=10)
    assert detect_image_format(own) == "folder"
    assert len(ImageData(str(own), size=8).sets["val"]) == 20


def test_a_share_of_the_training_images_keeps_every_class(tmp_path):
    root = str(folder(tmp_path / "set", splits=("train", "val", "test"), images=20))
    data = ImageData(root, size=8, train_share=0.1)
    assert data.sets["train"].labels.tolist() == [0, 0, 1, 1]
    assert len(data.sets["test"]) == 40
    with pytest.raises(InputError, match=r"train_share must lie above 0 and at most at 1, found 0\.0"):
        ImageData(root, train_share=0.0)


def test_files_are_squashed_or_cut_to_their_size(tmp_path):
    root = tmp_path / "set"
    for split in ("train", "val", "test"):
        (root / split / "a").mkdir(parents=True)
        picture = np.zeros((20, 40, 3), np.uint8)
        picture[:, :20] = 255
        picture[:, :5] = 100
        Image.fromarray(picture).save(root / split / "a/0.png")
    squashed, cut = (ImageData(str(root), size=16, fit=fit).sets["test"][0][0] for fit in ("squash", "crop"))
    assert squashed.shape == cut.shape == (3, 16, 16)
    # The grey edge is in the whole, and not in the middle.
    assert float(squashed[0, 8, 0]) == pytest.approx(100 / 255, abs=0.05)
    assert float(cut[0, 8, 0]) == pytest.approx(1.0, abs=0.05)
    assert float(cut[0, 8, -1]) == pytest.approx(0.0, abs=0.05)


def test_training_images_are_changed_and_others_never(tmp_path):
    root = str(folder(tmp_path / "set", splits=("train", "val", "test"), images=4, size=(40, 60)))
    for augment in ("base", "elite"):
        data = ImageData(root, size=16, augment=augment)
        torch.manual_seed(0)
        first = data.dataset("train")[0][0]
        assert first.shape == (3, 16, 16)
        assert 0 <= first.min() <= first.max() <= 1
        torch.manual_seed(0)
        assert torch.equal(data.dataset("train")[0][0], first)
        assert torch.equal(data.dataset("test")[0][0], ImageData(root, size=16).dataset("test")[0][0])
    assert tuple(uncut(data.sets["train"])[0][0].shape) == (3, 40, 60)


def test_rendered_shapes_are_embedded_and_labelled_by_their_factors():
    world = {"train": 64, "val": 32, "test": 32}
    data = ImageData(embedded="world-shapes", world=world, size=32)
    assert len(data.class_names) == 32
    assert data.describe()["name"] == "world-shapes"
    assert data.first_batch("train", 4).images.shape == (4, 3, 32, 32)
    textures = ImageData(embedded="world-shapes", world={**world, "labels": ["texture"]}, size=32)
    assert len(textures.class_names) == 4
    assert torch.equal(textures.tensors("test")[0], data.tensors("test")[0])


def test_a_downloaded_set_of_torchvision_is_read(tmp_path):
    data = ImageData(str(mnist(tmp_path)), format="torchvision:MNIST", val_fraction=0.25)
    assert {split: len(images) for split, images in data.sets.items()} == {"train": 30, "test": 10, "val": 10}
    assert data.size == 28
    assert len(data.class_names) == 10
    images, labels = data.tensors("test")
    assert labels.tolist() == list(range(10))
    raw = (tmp_path / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    expected = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(10, 28, 28) / 255
    torch.testing.assert_close(images[:, 1], expected)


def test_samples_know_their_position(digits):
    dataset = digits.dataset("val")
    assert isinstance(dataset, Indexed)
    assert [dataset[place][2] for place in (0, 7)] == [0, 7]
    assert len(dataset) == 150


# --- what a trained method asks for ---


def test_images_are_given_as_a_trained_method_expects_them():
    data = ImageData(size=16)
    assert data.first_batch("test", 2).images.shape == (2, 3, 16, 16)
    data.use(size=8, channels=1)
    assert data.first_batch("test", 2).images.shape == (2, 1, 8, 8)
    assert len(data.mean) == 1


def test_images_of_a_fixed_size_cannot_be_used_at_another(tmp_path):
    data = ImageData(str(cifar(tmp_path)))
    with pytest.raises(InputError, match="images of 32 pixels, this checkpoint was trained on 16"):
        data.use(size=16, channels=3)
    with pytest.raises(InputError, match=r"images have 3 channels, expected 1; give --data\.channels 3"):
        data.use(size=32, channels=1)


# --- mistakes ---


def test_mistakes_are_said_in_one_sentence(tmp_path):
    few = folder(tmp_path / "few", splits=("",), images=1)
    torn = folder(tmp_path / "torn", splits=("train", "val", "test"), images=1)
    (torn / "test" / "cat" / "0.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    cases = [
        ({"root": "/nowhere/at/all"}, "no such folder, expected images in one of the formats"),
        ({"root": str(few)}, "2 images are too few to hold out a test split of every class"),
        ({"root": str(few), "format": "cifr10"}, "unknown image format 'cifr10': did you mean 'cifar10'"),
        ({"root": str(few), "format": "torchvision:MINST"}, "unknown torchvision data set 'MINST': did you mean"),
        ({"root": str(few), "format": "torchvision:FakeData"}, "has no train and test part"),
        ({"root": str(few), "format": "torchvision:MNIST"}, "not found"),
        ({"root": str(tmp_path / "empty")}, "found no folders"),
        ({"root": str(cifar(tmp_path / "cifar")), "channels": 1}, "images have 3 channels, expected 1"),
    ]
    for settings, told in cases:
        with pytest.raises(InputError, match=told) as caught:
            ImageData(**settings).sets  # noqa: B018
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"0\.png: found a damaged or unreadable file"):
        ImageData(str(torn), size=8).first_batch("test")
    for fraction in (0.0, 1.0, -0.5):
        with pytest.raises(InputError, match="val_fraction must lie between 0 and 1"):
            ImageData(val_fraction=fraction)
    with pytest.raises(InputError, match="unknown split 'tset': did you mean 'test'"):
        ImageData().dataset("tset")


def test_images_that_are_not_square_ask_for_a_size(tmp_path, monkeypatch):
    data = ImageData(str(folder(tmp_path / "set", size=(6, 9), splits=("train", "val", "test"))), size=8)
    for images in data.sets.values():
        monkeypatch.setattr(images.images, "size", None)
    with pytest.raises(InputError, match=r"images of 6 x 9 pixels, expected square ones; give --data\.size"):
        data.size  # noqa: B018


def test_a_packed_archive_is_not_taken_for_images(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "data.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(InputError, match="found no folders"):
        ImageData(str(tmp_path / "set")).sets  # noqa: B018
