"""Embedded data: the files are those of the manifest, every source is credited, and what is read is what was packed."""

import hashlib
import json

import torch

from ommatid.data.embedded import FOLDER, fashion_mnist_test, icons, read
from ommatid.data.images import fashion_mnist

MANIFEST = json.loads((FOLDER / "manifest.json").read_text())


def test_every_file_is_in_the_manifest_with_its_checksum():
    assert {path.name for path in FOLDER.glob("*.xz")} == set(MANIFEST)
    for name, entry in MANIFEST.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == entry["sha256"], name


def test_every_file_is_credited():
    notice = (FOLDER / "NOTICE").read_text()
    for name, entry in MANIFEST.items():
        assert name in notice
        assert entry["sources"]


def test_all_files_together_stay_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) <= 9 * 2**20


def test_icons_show_every_concept_ten_times_and_never_twice_the_same():
    found = icons()
    concepts, designs = found.masks.shape[:2]
    assert len(found.concepts) == len(set(found.concepts)) == concepts >= 200
    assert all(len(set(names)) == designs == 10 for names in found.designs)
    flat = found.masks.flatten(2).float() / 255
    apart = (flat[:, :, None] - flat[:, None]).abs().mean(dim=3)
    assert float(apart[:, ~torch.eye(10, dtype=torch.bool)].min()) > 0.02
    assert flat.mean(dim=2).min() > 0.02


def test_arrays_are_read_as_they_were_packed():
    assert read("icons")["pixels"].shape == (len(icons().concepts), 10, 32, 16)


def test_fashion_mnist_is_the_official_test_part():
    images, labels = fashion_mnist_test()
    # The first labels of t10k-labels-idx1-ubyte, and the mean that is published with the set.
    assert labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert 0.28 < float(images.float().mean() / 255) < 0.295


def test_fashion_mnist_is_divided_in_balance_and_nothing_twice():
    train, test = fashion_mnist("train"), fashion_mnist("test")
    assert train.labels.bincount().tolist() == [800] * 10
    assert test.labels.bincount().tolist() == [200] * 10
    assert (len(train), len(test)) == (8000, 2000)


def test_fashion_mnist_comes_in_the_size_and_channels_asked_for():
    found = fashion_mnist("test", size=14, channels=3)
    assert found.images.shape == (2000, 3, 14, 14)
    assert len(found.mean) == 3
