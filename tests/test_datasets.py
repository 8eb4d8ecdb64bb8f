"""Embedded sets on disk, and what is said about a user's."""

import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dense.made_saliency import film
from ommatid import datasets
from ommatid.data import video as reading
from ommatid.data.nyu import NYU_FORMATS
from ommatid.errors import InputError


def ask(**arguments) -> Namespace:
    return Namespace(**{"json": True, "format": None, "view": None, "seed": None, **arguments})


@pytest.fixture
def images(tmp_path) -> Path:
    """A small folder of images, two classes."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(8):
                Image.fromarray(np.full((8, 8, 3), 9 * number, dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    from ommatid.data.worlds.grounding import GroundingWorld

    root = tmp_path_factory.mktemp("data") / "world"
    GroundingWorld(train_videos=3, val_videos=2, test_videos=2).write(root)
    return root


def checked(capsys, root: Path, format: str = "auto") -> tuple[int, dict]:
    code = datasets.check(ask(root=str(root), format=format))
    return code, json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


# -- make --


@pytest.mark.parametrize(("name", "images"), [("digits", 1000), ("fashion-mnist", 8000)])
def test_embedded_images_become_a_folder_that_checks_clean(name, images, tmp_path, capsys):
    root = tmp_path / name
    assert datasets.make(ask(name=name, out=str(root))) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["counts"]["train"] == len(list(root.glob("train/*/*.png"))) == images
    assert len(list((root / "test").iterdir())) == 10
    with pytest.raises(InputError, match="found files in it, expected a new folder"):
        datasets.make(ask(name=name, out=str(root)))


def test_faces_are_written_and_check_clean_until_one_is_broken(tmp_path, capsys, monkeypatch):
    from ommatid.data.worlds import faces

    small = faces.FaceWorld(train=4, val=2, test=2, train_pictures=2, pictures=2, size=16)
    monkeypatch.setattr(faces, "FaceWorld", lambda seed: small)
    root = tmp_path / "people"
    assert datasets.make(ask(name="world-faces", out=str(root), format="list")) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"train": 8, "val": 4, "test": 4}
    assert datasets.check(ask(root=str(root), format="auto")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "faces"
    assert found["splits"]["val"] == {"images": 4, "identities": 2}
    next((root / "val").rglob("*.png")).write_text("no picture")
    assert datasets.check(ask(root=str(root), format="faces")) == 1
    assert any("val face" in record["record"] for record in json.loads(capsys.readouterr().out)["records"])


@pytest.mark.parametrize("format", ["folder", "csv", "pickle", "cub"])
def test_new_classes_are_written_and_check_clean(format, tmp_path, capsys, monkeypatch):
    from ommatid.data.worlds import glyphs

    world = glyphs.GlyphWorld
    monkeypatch.setattr(glyphs, "GlyphWorld", lambda seed, **_: world(train=4, val=2, test=2, images=3, seed=seed))
    root = tmp_path / "episodes"
    assert datasets.make(ask(name="world-glyphs", out=str(root), format=format)) == 0
    capsys.readouterr()
    code, found = checked(capsys, root)
    assert (code, found["format"]) == (0, "few-shot")
    assert found["splits"]["test"] == {"images": 6, "classes": 2}
    if format == "folder":
        next((root / "val").rglob("*.png")).write_text("no picture")
        code, found = checked(capsys, root)
        assert code == 1
        assert "val image" in found["records"][0]["record"]


@pytest.mark.parametrize(
    ("name", "formats"),
    [("world-cutouts", ["folder", "pairs"]), ("world-duos", ["folder"]), ("world-tissue", ["folder", "tiles"])],
)
def test_images_with_masks_are_written_and_check_clean(name, formats, tmp_path, capsys, monkeypatch):
    from ommatid.data.worlds import cutouts, duos, tissue

    few = {
        "world-cutouts": cutouts.CutoutWorld(train=4, val=2, test=3, source=2, size=16),
        "world-duos": duos.DuoWorld(shots=1, categories=3, unlabelled=1, val=2, test=3, source=2, size=16),
        "world-tissue": tissue.TissueWorld(labelled=3, unlabelled=1, source=2, val=2, test=3, size=16),
    }
    monkeypatch.setattr(cutouts, "CutoutWorld", lambda seed: few["world-cutouts"])
    monkeypatch.setattr(duos, "DuoWorld", lambda seed: few["world-duos"])
    monkeypatch.setattr(tissue, "TissueWorld", lambda seed: few["world-tissue"])
    for format in formats:
        root = tmp_path / format
        assert datasets.make(ask(name=name, out=str(root), format=format)) == 0
        target = root if name == "world-tissue" else root / "target"
        capsys.readouterr()
        code, found = checked(capsys, target)
        assert (code, found["format"], found["faults"]) == (0, "masks", 0)
        classes = {"world-cutouts": 2, "world-duos": 3}.get(name, 1) if format == "folder" else 1
        assert found["splits"]["test"] == {"images": 3, "masks": 3, "classes": classes}
        assert found["splits"]["train"]["images"] == 4
        assert found["splits"]["train"]["masks"] == (4 if name == "world-cutouts" else 3)
    next((target / "test" / "masks").glob("*.png")).write_text("no picture")
    code, found = checked(capsys, target)
    assert code == 1
    assert "image" in found["records"][0]["record"]


def test_volumes_are_written_and_check_clean(tmp_path, capsys, monkeypatch):
    from ommatid.data.worlds import phantoms

    few = phantoms.PhantomWorld(dimensions=3, train=3, val=2, test=2, size=16)
    monkeypatch.setattr(phantoms, "PhantomWorld", lambda seed: few)
    root = tmp_path / "phantoms"
    assert datasets.make(ask(name="world-phantoms", out=str(root))) == 0
    capsys.readouterr()
    code, found = checked(capsys, root)
    assert (code, found["format"], found["faults"]) == (0, "nnunet", 0)
    assert found["splits"]["test"] == {"volumes": 2, "classes": 4, "organs": 9}
    next((root / "labelsTs").glob("*.nii.gz")).write_bytes(b"no volume")
    code, found = checked(capsys, root)
    assert code == 1
    assert "labelsTs" in found["records"][0]["found"]


def test_videos_all_around_are_written_and_check_clean(tmp_path, capsys, monkeypatch):
    from ommatid.data.worlds import sphere

    few = sphere.SphereWorld(train=2, val=1, test=1, frames=3, height=32)
    monkeypatch.setattr(sphere, "SphereWorld", lambda seed: few)
    root = tmp_path / "around"
    assert datasets.make(ask(name="world-sphere", out=str(root))) == 0
    capsys.readouterr()
    code, found = checked(capsys, root)
    assert (code, found["format"], found["faults"]) == (0, "saliency", 0)
    assert found["splits"]["test"]["videos"] == found["splits"]["test"]["with maps"] >= 1
    next(path for path in root.rglob("*.mp4") if path.is_file()).write_bytes(b"no video")
    code, found = checked(capsys, root)
    assert code == 1
    assert "video" in found["records"][0]["record"]


def test_rated_videos_are_checked(tmp_path, capsys):
    for name, height in (("a.mp4", 32), ("b.mp4", 32), ("c.mp4", 48)):
        film(tmp_path / name, frames=2, height=height)
    (tmp_path / "ratings.csv").write_text("reference,distorted,opinion\na.mp4,b.mp4,3.5\n")
    code, found = checked(capsys, tmp_path)
    assert (code, found["format"], found["splits"]) == (0, "rated-csv", {"test": {"videos": 1, "references": 1}})
    with (tmp_path / "ratings.csv").open("a") as table:
        table.write("a.mp4,c.mp4,1\n")
    code, found = checked(capsys, tmp_path)
    assert code == 1
    assert "found frames of 48 x 96, expected 32 x 64" in found["records"][0]["found"]


@pytest.mark.parametrize("format", ["nyu", "nyu-mat"])
def test_scenes_are_written_and_check_clean(format, tmp_path, capsys, monkeypatch):
    from ommatid.data.worlds import surfaces

    few = surfaces.SurfaceWorld(train=3, val=1, test=2, size=16)
    monkeypatch.setattr(surfaces, "SurfaceWorld", lambda seed: few)
    root = tmp_path / "scenes"
    assert datasets.make(ask(name="world-surfaces", out=str(root), format=format)) == 0
    capsys.readouterr()
    code, found = checked(capsys, root)
    assert (code, found["faults"]) == (0, 0)
    assert found["format"] in NYU_FORMATS
    assert found["splits"]["test"]["images"] == 2


@pytest.mark.parametrize("format", ["table", "xlsa17"])
def test_described_classes_are_written_and_check_clean(format, tmp_path, capsys):
    root = tmp_path / "described"
    assert datasets.make(ask(name="world-attributes", out=str(root), format=format)) == 0
    counts = json.loads(capsys.readouterr().out)["counts"]
    code, found = checked(capsys, root)
    assert (code, found["format"]) == (0, format)
    assert {split: each["samples"] for split, each in found["splits"].items()} == counts
    broken = next(root.rglob("attributes.csv" if format == "table" else "att_splits.mat"))
    broken.write_text("nothing")
    assert checked(capsys, root, format)[0] == 1


def test_the_world_is_written_and_checks_clean(tmp_path, capsys, monkeypatch):
    from ommatid.data.worlds import grounding

    small = grounding.GroundingWorld(train_videos=3, val_videos=2, test_videos=2)
    asked = []
    monkeypatch.setattr(grounding, "GroundingWorld", lambda **given: asked.append(given) or small)
    root = tmp_path / "world"
    assert datasets.make(ask(name="world-grounding", out=str(root), seed=3)) == 0
    assert json.loads(capsys.readouterr().out)["view"] == "standard"
    assert asked == [{"view": "standard", "seed": 3}]
    code, found = checked(capsys, root)
    assert (code, found["faults"], found["records"]) == (0, 0, [])
    assert found["splits"]


@pytest.mark.parametrize("format", ["list", "folder"])
def test_moving_squares_are_written_and_check_clean(format, tmp_path, capsys, monkeypatch):
    from ommatid.data.worlds import motion

    small = motion.MotionWorld(train=12, val=12, test=12, size=16, frames=3)
    monkeypatch.setattr(motion, "MotionWorld", lambda seed: small)
    root = tmp_path / "moving"
    assert datasets.make(ask(name="world-motion", out=str(root), format=format)) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"train": 12, "val": 12, "test": 12}
    code, found = checked(capsys, root)
    assert (code, found["format"], found["faults"]) == (0, "clips", 0)
    assert found["splits"]["test"] == {"videos": 12, "classes": 12}
    with pytest.raises(InputError, match="found files in it, expected a new folder"):
        datasets.make(ask(name="world-motion", out=str(root), format=format))
    with pytest.raises(InputError, match="unknown format of world-motion 'zip'"):
        datasets.make(ask(name="world-motion", out=str(tmp_path / "zip"), format="zip"))


@pytest.mark.parametrize("format", ["csv", "coco", "nus-wide"])
def test_objects_with_labels_are_written_and_check_clean(format, tmp_path, capsys, monkeypatch):
    from ommatid.data.worlds import labels

    small = labels.LabelWorld(train=12, val=6, test=6)
    monkeypatch.setattr(labels, "LabelWorld", lambda seed: small)
    root = tmp_path / "objects"
    assert datasets.make(ask(name="world-labels", out=str(root), format=format)) == 0
    capsys.readouterr()
    code, found = checked(capsys, root)
    assert (code, found["format"], found["faults"]) == (0, format, 0)
    assert found["splits"]["train"]["labels"] == 16
    broken = next(path for path in root.rglob("*") if path.suffix in (".png", ".jpg"))
    broken.write_bytes(b"no picture")
    code, found = checked(capsys, root)
    assert (code, found["faults"]) == (1, 1)


def test_rendered_shapes_become_a_folder_of_images_that_checks_clean(tmp_path, capsys, monkeypatch):
    from ommatid.data.worlds import shapes

    small = shapes.ShapeWorld(train=400, val=64, test=64)
    monkeypatch.setattr(shapes, "ShapeWorld", lambda seed: small)
    assert datasets.make(ask(name="world-shapes", out=str(tmp_path / "shapes"))) == 0
    capsys.readouterr()
    code, found = checked(capsys, tmp_path / "shapes", "folder")
    assert (code, found["splits"]["train"]) == (0, {"images": 400})


def test_every_broken_video_is_reported(tmp_path, capsys):
    from ommatid.data.worlds.motion import MotionWorld

    root = tmp_path / "moving"
    MotionWorld(train=12, val=12, test=12, size=16, frames=3).write(root, "folder")
    (root / "test/grow/0010.mp4").write_bytes(b"nothing of a film")
    (root / "train/up/0002.mp4").write_bytes(b"")
    code, found = checked(capsys, root)
    assert code == 1
    assert found["faults"] == 2
    assert sorted(record["record"] for record in found["records"]) == ["test video 0010", "train video 0002"]


def test_unknown_names_are_answered_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match="unknown embedded data set 'digit': did you mean 'digits'"):
        datasets.make(ask(name="digit", out=str(tmp_path / "x")))
    with pytest.raises(InputError, match="unknown format of digits 'foldr': did you mean 'folder'"):
        datasets.make(ask(name="digits", out=str(tmp_path / "x"), format="foldr"))
    with pytest.raises(InputError, match="unknown"):
        datasets.make(ask(name="world-grounding", out=str(tmp_path / "x"), view="standart"))
    assert not (tmp_path / "x").exists()


# -- check --


def test_a_clean_set_of_images(images, capsys):
    code, found = checked(capsys, images)
    assert (code, found["format"], found["faults"]) == (0, "folder", 0)
    assert sum(split["images"] for split in found["splits"].values()) == 32


def test_every_broken_image_is_reported(images, capsys):
    for name in ("train/cat/1.png", "test/dog/2.png"):
        (images / name).write_bytes((images / name).read_bytes()[:40])
    code, found = checked(capsys, images)
    assert code == 1
    assert found["faults"] == 2
    told = json.dumps(found["records"])
    assert "1.png" in told
    assert "2.png" in told


def test_every_unusable_video_is_reported(world, tmp_path, capsys):
    root = tmp_path / "world"
    shutil.copytree(world, root)
    assert checked(capsys, root)[0] == 0
    damaged, *_, missing = sorted(root.glob("features/*.npy"))
    missing.unlink()
    array = np.load(damaged)
    array[0, 0] = np.nan
    np.save(damaged, array)
    code, found = checked(capsys, root)
    assert code == 1
    assert found["faults"] == found["not_mended"] == 2
    assert [record["record"] for record in found["records"]] == [f"video {path.stem}" for path in (damaged, missing)]


def test_what_cannot_be_checked_is_said(tmp_path, images):
    with pytest.raises(InputError, match="no such folder, expected a data set"):
        datasets.check(ask(root=str(tmp_path / "none"), format="auto"))
    with pytest.raises(InputError, match="unknown format 'foldr': did you mean 'folder'"):
        datasets.check(ask(root=str(images), format="foldr"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=str(empty)):
        datasets.check(ask(root=str(empty), format="auto"))


def test_a_person_reads_faults_as_lines(images, capsys):
    (images / "train/cat/1.png").write_bytes(b"no image")
    assert datasets.check(ask(root=str(images), format="folder", json=False)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "1.png" in lines[0]
    assert any("1 faults, 0 of them mended" in line for line in lines)


# -- features --


class Eyes:
    """An extractor that sees the file's size."""

    def __init__(self, backbone: str, weights: str | None, fps: float) -> None:
        self.backbone, self.weights, self.fps = backbone, weights, fps

    def __call__(self, path: Path):
        import torch

        if "broken" in path.stem:
            raise InputError(f"{path}: not a readable video")
        return torch.full((3, 4), float(path.stat().st_size)), 1.5

    def write(self, folder: Path) -> None:
        (folder / "extractor.json").write_text(json.dumps(vars(self)))


@pytest.fixture
def videos(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(reading, "Extractor", Eyes)
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("b.mp4", "a.mp4", "notes.txt"):
        (folder / name).write_bytes(b"x" * len(name))
    return folder


def take(videos: Path, out: Path, **changes) -> Namespace:
    return ask(**{"videos": str(videos), "out": str(out), "backbone": "net", "weights": None, "fps": 2.0, **changes})


def test_features_of_every_video_with_its_duration(videos, tmp_path, capsys):
    out = tmp_path / "features"
    assert datasets.features(take(videos, out)) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "videos": 2, "written": 2, "clips": 6}
    datasets.features(take(videos, out))
    assert json.loads(capsys.readouterr().out)["written"] == 0
    assert np.load(out / "a.npy").shape == (3, 4)
    assert json.loads((out / "durations.json").read_text()) == {"a": 1.5, "b": 1.5}
    assert json.loads((out / "extractor.json").read_text())["backbone"] == "net"


def test_an_interrupted_extraction_goes_on_where_it_was(videos, tmp_path, capsys):
    out = tmp_path / "features"
    (videos / "broken.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="broken"):
        datasets.features(take(videos, out))
    assert (out / "b.npy").is_file()
    before = (out / "a.npy").stat().st_mtime_ns
    (videos / "broken.mp4").unlink()
    datasets.features(take(videos, out))
    assert (out / "a.npy").stat().st_mtime_ns == before


def test_a_video_that_was_changed_is_read_again(videos, tmp_path, capsys):
    out = tmp_path / "features"
    datasets.features(take(videos, out))
    later = (out / "a.npy").stat().st_mtime + 9
    os.utime(videos / "a.mp4", (later, later))
    capsys.readouterr()
    datasets.features(take(videos, out))
    assert json.loads(capsys.readouterr().out)["written"] == 1


def test_videos_of_one_name_are_refused_before_the_first_is_read(videos, tmp_path):
    (videos / "more").mkdir()
    (videos / "more" / "a.avi").write_bytes(b"x")
    with pytest.raises(InputError, match=r"more/a\.avi: found .*/a\.mp4 of the same name, expected"):
        datasets.features(take(videos, tmp_path / "features"))
    assert not (tmp_path / "features").exists()


def test_an_interrupted_folder_takes_no_features_of_another_extractor(videos, tmp_path):
    out = tmp_path / "features"
    (videos / "broken.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="broken"):
        datasets.features(take(videos, out))
    with pytest.raises(InputError, match=r"holds features of .* expected the same settings or another folder"):
        datasets.features(take(videos, out, backbone="other"))


def test_features_of_one_video_file(videos, tmp_path):
    datasets.features(take(videos / "a.mp4", tmp_path / "features"))
    assert {path.name for path in (tmp_path / "features").glob("*.npy")} == {"a.npy"}


def test_what_holds_no_videos_is_said(videos, tmp_path):
    with pytest.raises(InputError, match="no such video or folder of videos"):
        datasets.features(take(tmp_path / "none", tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no videos, expected files ending in"):
        datasets.features(take(tmp_path / "empty", tmp_path / "out"))


@pytest.mark.parametrize("name", ["extractor.json", "durations.json", "feature_shapes.json"])
@pytest.mark.parametrize("content", ["{", "[1]", "3"])
def test_a_damaged_table_of_an_earlier_extraction_is_said(videos, tmp_path, name, content):
    out = tmp_path / "features"
    datasets.features(take(videos, out))
    (out / name).write_text(content)
    with pytest.raises(InputError, match=name):
        datasets.features(take(videos, out))
