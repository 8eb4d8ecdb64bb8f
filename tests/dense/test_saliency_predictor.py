"""Predictions for a user's video are those of the data's windows, in any memory."""

from itertools import pairwise

import pytest
import torch

from dense.made_saliency import data, film, paver
from ommatid.data.clips import read_frames
from ommatid.data.saliency_videos import SaliencyVideo
from ommatid.dense import saliency_predictor
from ommatid.dense.frame_tokens import frame_tokens
from ommatid.dense.saliency_data import Windows
from ommatid.errors import InputError


@pytest.mark.parametrize("frames", [2, 3, 7, 10, 12])
@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_a_video_is_watched_in_the_windows_of_the_data(tmp_path, monkeypatch, frames, at_once):
    monkeypatch.setattr(saliency_predictor, "WINDOWS", at_once)
    method, path = paver().eval(), film(tmp_path / "a.mp4", frames=frames)
    video = SaliencyVideo("a", path)
    windows = Windows([video], [frame_tokens(video, method.encoder)], 3, (32, 64))
    expected = torch.zeros(frames, 32, 64)
    for number, (_, start, new) in enumerate(windows.places):
        sample = windows[number]
        with torch.no_grad():
            maps = method.heat_maps(sample.patches[None], sample.cls[None], sample.valid[None])[0]
        count = int(sample.valid.sum())
        expected[new : start + count] = maps[new - start : count]
    found = method.predict(path)
    torch.testing.assert_close(found.maps, expected, rtol=1e-3, atol=1e-4)
    assert found.frames.shape == (frames, 3, 32, 64)
    assert found.fps == 10


def test_part_of_a_video_can_be_watched(tmp_path):
    method, path = paver(), film(tmp_path / "a.mp4", frames=9)
    found = method.predict(path, start=2, frames=4)
    assert (found.first, len(found.maps)) == (2, 4)
    assert torch.equal(found.frames, SaliencyVideo("a", path).frames([2, 3, 4, 5], 32))
    assert found.to_json()["peaks"][0]["frame"] == 2


def test_a_folder_of_frames_is_a_video(tmp_path):
    from PIL import Image

    pictures = read_frames(film(tmp_path / "a.mp4", frames=4), [0, 1, 2, 3])
    (tmp_path / "frames").mkdir()
    for number, picture in enumerate(pictures, start=1):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "frames" / f"{number:05d}.png")
    method = paver()
    torch.testing.assert_close(method.predict(tmp_path / "frames").maps, method.predict(tmp_path / "a.mp4").maps)


def test_raw_frames_are_a_video(tmp_path):
    path = tmp_path / "street_64x32.yuv"
    path.write_bytes(torch.randint(256, (4 * 64 * 32 * 3 // 2,), dtype=torch.uint8).numpy().tobytes())
    found = paver().predict(path)
    assert len(found.maps) == 4
    assert found.fps == 25


def test_maps_lie_between_0_and_1_and_differ_from_frame_to_frame(tmp_path):
    maps = paver().predict(film(tmp_path / "a.mp4")).maps
    assert maps.amin() == 0
    assert maps.amax() == 1
    assert all(not torch.equal(before, after) for before, after in pairwise(maps))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"start": -1}, "start and frames: found -1 and None"),
        ({"frames": 0}, "start and frames: found 0 and 0"),
        ({"start": 99}, "found no frame of number 99, expected a longer video"),
    ],
)
def test_impossible_parts_are_refused(tmp_path, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        paver().predict(film(tmp_path / "a.mp4"), **settings)


def test_flat_and_missing_videos_are_refused(tmp_path):
    import numpy as np

    from ommatid.data.video import write_video

    write_video(tmp_path / "flat.mp4", np.zeros((2, 32, 32, 3), np.uint8), fps=10)
    with pytest.raises(InputError, match=r"flat\.mp4: found frames 1.00 times as wide as high, expected 2 times"):
        paver().predict(tmp_path / "flat.mp4")
    with pytest.raises(InputError, match=r"no\.mp4: no such video file"):
        paver().predict(tmp_path / "no.mp4")


def test_scores_name_every_frame_once():
    method, module = paver(), data()
    method.adopt(module)
    windows = module.dataset("test")
    identities = torch.cat([method.identity(module.collate([window])) for window in windows])
    assert len(identities) == len(identities.unique()) == 14
    scores = method.score(module.first_batch("test", 6))
    assert {len(values) for values in scores.values()} == {14}


def test_frames_without_maps_have_no_scores():
    method, module = paver(), data()
    method.adopt(module)
    batch = module.first_batch("test", 3)
    batch.scored[:] = False
    assert len(method.identity(batch)) == 0
    assert {len(values) for values in method.score(batch).values()} == {0}


def test_maps_are_scored_in_the_size_of_what_is_known():
    method, module = paver(), data(map_height=20)
    method.adopt(module)
    batch = module.first_batch("test", 2)
    assert batch.saliency.shape[2:] == (20, 40)
    assert saliency_predictor.scored_maps(method(batch), batch).shape[1:] == (20, 40)


def test_data_come_in_the_sizes_of_training():
    method, module = paver(), data(height=64, window=5)
    assert type(method).arguments_from(module) == {"height": 64, "window": 5}
    method.align(module)
    assert (module.height, module.window) == (32, 3)
    assert module.encoder is method.encoder


def test_the_export_is_the_method():
    method = paver().eval()
    network, (frames,), inputs, outputs = method.exportable()
    patches, cls = method.encoder(frames[0])
    torch.testing.assert_close(network(frames)[0], method.heat_maps(patches[None], cls[None])[0])
    assert (inputs, outputs) == (("frames",), ("maps",))
