"""Videos with maps are read as they were written, and what is wrong with them is said in one sentence."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from data.videos import grey, write_video
from ommatid.data.saliency_videos import (
    detect_saliency_format,
    frame_chunks,
    map_files,
    open_saliency,
    read_map,
    saliency_splits,
    video_folder,
    wild360,
    window_starts,
)
from ommatid.data.worlds.sphere import SphereWorld
from ommatid.errors import InputError

WORLD = SphereWorld(train=2, test=1, frames=4, height=32, noise=0.0)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("sphere") / "wild360"
    WORLD.write(root)
    return root


@pytest.fixture
def root(tmp_path):
    """A small Wild360 of one test video with three maps."""
    WORLD_OF_ONE.write(tmp_path / "wild360")
    return tmp_path / "wild360"


WORLD_OF_ONE = SphereWorld(train=1, test=1, frames=3, height=16, noise=0.0)


def test_wild360_is_read_as_it_was_written(written):
    train = wild360(written, "train")
    assert [video.name for video in train] == ["train_0000", "train_0001"]
    assert [video.length() for video in train] == [4, 4]
    clips = WORLD.split("train")
    for number, video in enumerate(train):
        found = video.frames([0, 2], height=32)
        assert (found.float() - clips.frames[number, [0, 2]].float()).abs().mean() < 4
    [test] = wild360(written, "test")
    truth = WORLD.split("test").saliency[0]
    torch.testing.assert_close(test.maps([0, 1, 2, 3], size=(32, 64)), truth)
    expected = torch.nn.functional.interpolate(truth[None], (12, 24), mode="bilinear")[0]
    torch.testing.assert_close(test.maps([3, 1], size=(12, 24)), expected[[3, 1]])
    assert test.maps([], size=(12, 24)).shape == (0, 12, 24)


def test_frames_come_twice_as_wide_as_high(tmp_path):
    path = write_video(tmp_path / "film.mp4", [grey(100, 50, 96)], [0.0])
    [video] = video_folder(tmp_path)
    found = video.frames([0], height=16)
    assert found.shape == (1, 3, 16, 32)
    assert (found.float() - 100).abs().max() < 5
    assert video.path == path


def test_maps_of_ones_own_are_pictures_or_arrays_from_0_or_1(tmp_path):
    write_video(tmp_path / "film.mp4", [grey(0, 32, 64)] * 3, [0.0, 0.1, 0.2])
    write_video(tmp_path / "other.mp4", [grey(0, 32, 64)] * 2, [0.0, 0.1])
    for number, level in enumerate((0, 51, 255), start=1):
        folder = tmp_path / "maps" / "film"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 8), level, np.uint8)).save(folder / f"map_{number}.png")
    (tmp_path / "maps" / "other.mp4").mkdir()
    np.save(tmp_path / "maps" / "other.mp4" / "0.npy", np.arange(2.0).reshape(1, 2))
    film, other = video_folder(tmp_path, tmp_path / "maps")
    torch.testing.assert_close(film.maps([0, 1, 2], size=(2, 4))[:, 0, 0], torch.tensor([0.0, 0.2, 1.0]))
    assert (film.length(), other.length()) == (3, 1)
    torch.testing.assert_close(other.maps([0], size=(1, 2)), torch.tensor([[[0.0, 1.0]]]))


def test_maps_are_in_the_order_of_their_numbers(tmp_path):
    for number in range(12):
        np.save(tmp_path / f"{number}.npy", np.full((1, 1), number))
    (tmp_path / "readme.txt").touch()
    assert [float(read_map(path)) for path in map_files(tmp_path)] == list(range(12))


def test_float_pictures_are_maps_between_0_and_1(tmp_path):
    Image.fromarray(np.array([[0, 0.2, 1]], np.float32)).save(tmp_path / "0.tif")
    torch.testing.assert_close(read_map(tmp_path / "0.tif"), torch.tensor([[0, 0.2, 1]]))
    Image.fromarray(np.array([[0, 3.5]], np.float32)).save(tmp_path / "1.tif")
    with pytest.raises(InputError, match=r"1\.tif: found floats from 0 to 3.5, expected 0 to 1"):
        read_map(tmp_path / "1.tif")


@pytest.mark.parametrize(("frames", "length"), [(1, 5), (5, 5), (6, 5), (12, 5), (25, 5), (27, 4)])
def test_windows_cover_every_frame_and_end_with_the_video(frames, length):
    starts = window_starts(frames, length)
    covered = {frame for start in starts for frame in range(start, start + length)}
    assert set(range(frames)) <= covered
    assert len(starts) == -(-frames // length)
    if frames >= length:
        assert max(covered) == frames - 1
    assert all(second - first == length for first, second in itertools.pairwise(starts[:-1]))


def change_list(text):
    return lambda root: (root / "test.txt").write_text(text)


def replace_map(values):
    return lambda root: np.save(root / "Wild360_GT_29/test_0000.mp4/00001.npy", values)


def cut(path):
    def shorten(root):
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[: len(content) // 3])

    return shorten


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / "test.txt").unlink(), "test.txt: found no such file, expected names of videos"),
        (change_list("\n\n"), "test.txt: found no names, expected those of videos"),
        (change_list("test_0000\ntest_0000\n"), "test.txt: found 'test_0000' twice, expected every video once"),
        (change_list("none\n"), "none.mp4: found no such video, expected the one that test.txt names"),
        (lambda root: (root / "Wild360_GT_29").rename(root / "maps"), "test_0000.mp4: found no such folder, expected"),
        (cut("data/test/test_0000.mp4"), "test_0000.mp4: not a readable video"),
        (cut("Wild360_GT_29/test_0000.mp4/00001.npy"), "00001.npy: found no readable array"),
        (replace_map(np.ones((2, 3, 4))), r"00001.npy: found float64 of shape \(2, 3, 4\), expected numbers of height"),
        (replace_map(np.array([["a"]])), "00001.npy: found <U1 of shape"),
        (replace_map(np.full((2, 4), np.nan)), "00001.npy: found nan in the map, expected numbers only"),
        (replace_map(np.array([None])), "00001.npy: found no readable array"),
        (
            lambda root: (root / "Wild360_GT_29/test_0000.mp4/00001.npy").unlink(),
            "test_0000.mp4: found no map of number 1, expected all from 0 to 2",
        ),
    ],
)
def test_a_damaged_wild360_is_refused(root, harm, message):
    harm(root)
    with pytest.raises(InputError, match=message):
        read_all(root)


def read_all(root):
    for video in wild360(root, "test"):
        video.frames([0], height=16)
        video.maps(range(video.length()))


def test_an_unknown_split_is_refused(root):
    with pytest.raises(InputError, match="unknown split of Wild360 'val'"):
        wild360(root, "val")


def test_a_map_that_is_not_there_is_refused(root):
    [video] = wild360(root, "test")
    with pytest.raises(InputError, match=r"test_0000.mp4: found 3 maps, expected one of frame 3"):
        video.maps([3])
    [video] = wild360(root, "train")
    with pytest.raises(InputError, match=r"train_0000.mp4: found no maps of this video"):
        video.maps([0])


def test_frames_of_another_shape_are_refused(tmp_path):
    write_video(tmp_path / "flat.mp4", [grey(0, 48, 64)], [0.0])
    [video] = video_folder(tmp_path)
    with pytest.raises(InputError, match=r"flat.mp4: found frames 1.33 times as wide as high, expected 2 times"):
        video.frames([0], height=48)


def test_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match="none: found nothing, expected a folder"):
        video_folder(tmp_path / "none")
    with pytest.raises(InputError, match="found no video, expected at least one"):
        video_folder(tmp_path)
    write_video(tmp_path / "film.mp4", [grey(0, 32, 64)], [0.0])
    with pytest.raises(InputError, match=r"film: found no such folder, expected the maps of film.mp4"):
        video_folder(tmp_path, tmp_path)
    (tmp_path / "film").mkdir()
    [video] = video_folder(tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"found no numbered maps, expected some like 00000.npy"):
        video.length()
    for name in ("2.npy", "3.npy"):
        np.save(tmp_path / "film" / name, np.ones((2, 4)))
    with pytest.raises(InputError, match="found 2 as the first map's number, expected 0 or 1"):
        video.length()
    np.save(tmp_path / "film" / "0002.npy", np.ones((2, 4)))
    with pytest.raises(InputError, match=r"2.npy: found another map of this number \(0002.npy\)"):
        video.length()
    (tmp_path / "film.avi").touch()
    with pytest.raises(InputError, match="found another video of this name"):
        video_folder(tmp_path)


def test_windows_of_nothing_are_refused():
    with pytest.raises(InputError, match="frames: found 0, expected at least 1"):
        window_starts(0, 5)


def test_formats_are_told_by_the_files(written, tmp_path):
    assert detect_saliency_format(written) == "wild360"
    assert saliency_splits(str(written)) == ("train", "test")
    assert [video.name for video in open_saliency(written, "test")] == ["test_0000"]
    for folder in ("train/videos", "test"):
        (tmp_path / folder).mkdir(parents=True)
        write_video(tmp_path / folder / "film.mp4", [grey(100, 64, 32)], [0.0])
    (tmp_path / "train" / "maps" / "film").mkdir(parents=True)
    np.save(tmp_path / "train" / "maps" / "film" / "0.npy", np.ones((4, 8)))
    assert detect_saliency_format(tmp_path) == "folder"
    assert saliency_splits(tmp_path) == ("train", "test")
    [train], [test] = (open_saliency(tmp_path, split) for split in ("train", "test"))
    assert train.has_maps
    assert not test.has_maps
    assert saliency_splits(tmp_path / "test") == ("train",)
    assert open_saliency(tmp_path / "test", "train")[0].path == test.path


@pytest.mark.parametrize("length", [1, 3, 4, 9])
def test_chunks_are_the_frames_in_order(written, length):
    video = wild360(written, "train")[0]
    chunks = list(video.chunks(32, length))
    assert {len(chunk) for chunk in chunks[:-1]} <= {length}
    assert torch.equal(torch.cat(chunks), video.frames(range(4), 32))
    assert torch.equal(torch.cat(list(frame_chunks(video.path, None, length, start=1))), torch.cat(chunks)[1:])


def test_what_is_no_data_set_of_videos_is_refused(written, tmp_path):
    with pytest.raises(InputError, match="no such folder, expected videos shot all around"):
        detect_saliency_format(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"found no videos, expected some in videos/"):
        detect_saliency_format(tmp_path)
    with pytest.raises(InputError, match="unknown format of saliency 'films'"):
        saliency_splits(written, "films")
    with pytest.raises(InputError, match=r"split: found 'val', expected one of those in .*: train, test"):
        open_saliency(written, "val")
    with pytest.raises(InputError, match="found no frame of number 4, expected a longer video"):
        list(frame_chunks(written / "data" / "train" / "train_0000.mp4", 16, start=4))
