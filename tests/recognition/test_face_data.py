"""Faces come rendered, in folders, lists and records; who is tested was never learnt from."""

import pytest
import torch
from PIL import Image

from ommatid.data.worlds.faces import FaceWorld
from ommatid.errors import InputError
from ommatid.recognition.face_data import FaceData, detect_face_format, of_identities, without

SMALL = {"train": 10, "val": 3, "test": 4, "train_pictures": 3, "pictures": 3}
WORLD = FaceWorld(**SMALL, size=32)


@pytest.fixture(scope="module")
def data():
    return FaceData(size=32, channels=1, world=SMALL, batch_size=8)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    for format in ("folder", "list", "bin", "records"):
        WORLD.write(root / format, format)
    return root


def people_apart(read):
    """No picture of one split is in another."""
    rows = [torch.stack([faces[i][0].flatten() for i in range(len(faces))]) for faces in read.sets.values()]
    together = torch.cat(rows)
    return len(together.unique(dim=0)) == len(together)


def test_the_embedded_world_is_there_without_files(data):
    batch = data.first_batch("train")
    assert batch.images.shape == (8, 1, 32, 32)
    assert 0 <= batch.images.min() < batch.images.max() <= 1
    assert data.identities == 10
    assert data.describe() == {
        "name": "world-faces",
        "images": {"train": 30, "val": 9, "test": 12},
        "identities": 10,
        "size": 32,
    }
    assert not batch.listed.any()
    colour = FaceData(size=32, world=SMALL).first_batch("test", 2)
    torch.testing.assert_close(colour.images, data.first_batch("test", 2).images.expand(-1, 3, -1, -1))


def test_folders_and_lists_give_what_was_written(written, data):
    for format in ("folder", "list"):
        read = FaceData(str(written / format), size=32, channels=1)
        assert read.describe()["name"] == f"{format} ({format})"
        for split in ("train", "val", "test"):
            for ours, theirs in zip(read.dataset(split), data.dataset(split), strict=True):
                torch.testing.assert_close(ours[0], theirs[0])
                assert ours[1:] == theirs[1:]


@pytest.mark.parametrize("format", ["bin", "records"])
def test_pairs_beside_the_training_images_are_what_is_tested(written, format):
    read = FaceData(str(written / format), size=32, channels=1)
    assert read.identities == 10
    batch = read.first_batch("test", 6)
    assert batch.listed.all()
    # In turn of one person and of two.
    assert (batch.labels[::2] == batch.labels[1::2]).tolist() == [True, False, True]
    assert {"accuracy", "auc"} < read.baselines("test")["pixels"].keys()
    assert read.baselines("test")["chance"]["accuracy"] == 0.5


def test_pairs_can_be_named_and_replace_a_part(written):
    pairs = str(written / "bin" / "val.bin")
    read = FaceData(str(written / "folder"), size=32, channels=1, test_pairs=pairs)
    assert read.first_batch("test").listed.all()
    assert not read.first_batch("val").listed.any()
    with pytest.raises(InputError, match=r"nowhere\.bin: found nothing, expected a verification set"):
        FaceData(str(written / "folder"), test_pairs="nowhere.bin").dataset("test")


def test_people_are_held_out_where_there_is_nothing_to_test_with(written):
    read = FaceData(str(written / "folder" / "train"), size=32, channels=1, held_out=0.2)
    assert {split: len(faces) for split, faces in read.sets.items()} == {"train": 18, "val": 6, "test": 6}
    assert read.identities == 6
    assert people_apart(read)
    assert read.sets["train"].labels.unique().tolist() == list(range(6))


def test_the_orl_faces_are_divided_by_people(tmp_path, monkeypatch):
    for person in range(1, 11):
        for number in range(1, 4):
            file = tmp_path / f"s{person}" / f"{number}.pgm"
            file.parent.mkdir(exist_ok=True)
            Image.new("L", (9, 12), person * 20 + number).save(file)
    monkeypatch.setattr("ommatid.data.faces._packaged_orl", lambda: tmp_path)
    read = FaceData(embedded="orl", size=16, channels=1)
    assert {split: len(faces) for split, faces in read.sets.items()} == {"train": 18, "val": 6, "test": 6}
    assert people_apart(read)
    assert read.describe()["name"] == "orl"


def test_numbers_of_identities_have_no_gaps(tmp_path):
    from ommatid.data.faces import face_list

    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "train.txt").write_text("a.png 3\na.png 7\na.png 3\n")
    assert of_identities(face_list(tmp_path / "train.txt")).labels.tolist() == [0, 1, 0]


def test_pixels_are_above_chance(data):
    found = data.baselines("train")
    assert found["pixels"]["auc"] > found["chance"]["auc"] == 0.5
    assert found["chance"].keys() <= found["pixels"].keys()


def test_a_trained_method_gets_images_as_it_knows_them():
    data = FaceData(size=32, channels=1, world=SMALL)
    data.first_batch("test")
    data.use(24, 3)
    assert data.first_batch("test").images.shape[1:] == (3, 24, 24)


def test_what_is_no_data_set_is_refused(tmp_path, written):
    with pytest.raises(InputError, match="nowhere: no such folder, expected faces in one of the formats"):
        FaceData(str(tmp_path / "nowhere")).dataset("train")
    with pytest.raises(InputError, match=r"found no train\.rec, no train\.txt and no folders"):
        detect_face_format(tmp_path)
    with pytest.raises(InputError, match="unknown face format 'mp3'"):
        FaceData(str(tmp_path), "mp3").dataset("train")
    with pytest.raises(InputError, match=r"found no train\.txt, expected one of lines"):
        FaceData(str(written / "folder"), "list").dataset("train")
    with pytest.raises(InputError, match=r"held_out must lie between 0 and 0\.5, found 0\.7"):
        FaceData(held_out=0.7)
    with pytest.raises(InputError, match="unknown split 'holidays'"):
        FaceData(size=32, world=SMALL).dataset("holidays")
    for person in ("ann", "bob", "cid"):
        (tmp_path / person).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / person / "a.png")
    with pytest.raises(InputError, match="found 3 identities, expected at least 4 to hold some out for test"):
        FaceData(str(tmp_path)).dataset("train")


def test_no_more_is_held_out_than_is_compared(written, monkeypatch):
    from ommatid.data.faces import face_folder

    monkeypatch.setattr("ommatid.recognition.face_data.MOST_IMAGES", 9)
    rest, part = without(face_folder(written / "folder" / "train"), 0.4, "test")
    assert (len(rest), len(part)) == (21, 9)
