"""Distortion counts where people look."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dense.made_saliency import film, paver
from ommatid.data.clips import read_frames
from ommatid.data.video import write_video
from ommatid.dense.paver_quality import HIGHEST, WatchedQuality, watched_quality
from ommatid.dense.quality_metrics import weighted_psnr
from ommatid.errors import InputError


def test_the_score_is_the_mean_over_frames_weighed_by_the_references_maps(tmp_path):
    method = paver()
    reference, distorted = film(tmp_path / "a.mp4", height=64), film(tmp_path / "b.mp4", height=64, noise=20.0)
    found = method.quality(reference, distorted)
    first, second = (read_frames(path, range(7)).float() for path in (reference, distorted))
    maps = method.predict(reference).maps[:, None]
    weight = torch.nn.functional.interpolate(maps, (64, 128), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(found.weighted, weighted_psnr(first, second, weight))
    torch.testing.assert_close(found.plain, weighted_psnr(first, second, torch.ones(7, 64, 128)))
    assert found.psnr == pytest.approx(float(found.weighted.mean()))
    assert not torch.allclose(found.weighted, found.plain)


def test_more_noise_is_worse(tmp_path):
    method, reference = paver(), film(tmp_path / "a.mp4")
    scores = [
        method.quality(reference, film(tmp_path / f"{noise}.mp4", noise=float(noise))).psnr for noise in (5, 20, 60)
    ]
    assert scores == sorted(scores, reverse=True)


def test_what_people_look_at_counts_more(tmp_path):
    """The same change, once where the map is high and once where it is low."""
    method, reference = paver(), film(tmp_path / "a.mp4")
    maps = method.predict(reference).maps
    pixels = read_frames(reference, range(7)).permute(0, 2, 3, 1).numpy()
    found = {}
    for name, chosen in (("high", maps > 0.7), ("low", maps < 0.2)):
        changed = np.where(chosen[..., None].numpy(), 255 - pixels, pixels).astype(np.uint8)
        found[name] = method.quality(reference, write_video(tmp_path / f"{name}.mp4", changed, fps=10))
    gain = {name: each.plain.mean() - each.weighted.mean() for name, each in found.items()}
    assert gain["high"] > 0 > gain["low"]


def test_frames_without_difference_count_one_hundred_decibels(tmp_path):
    reference = film(tmp_path / "a.mp4")
    found = paver().quality(reference, reference)
    assert (found.weighted == HIGHEST).all()
    assert found.psnr == HIGHEST


def test_part_of_the_videos_can_be_compared_and_told(tmp_path):
    reference, distorted = film(tmp_path / "a.mp4"), film(tmp_path / "b.mp4", frames=9, noise=9.0)
    found = watched_quality(paver(), reference, distorted, frames=4)
    assert len(found.weighted) == 4
    told = found.to_json()
    assert json.loads(json.dumps(told)) == told
    assert told["weighted_psnr"] == pytest.approx(found.psnr, abs=1e-3)
    assert isinstance(found, WatchedQuality)


def test_videos_of_another_length_or_size_are_refused(tmp_path):
    reference = film(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=r"b\.mp4: found another number of frames, expected that of a\.mp4"):
        paver().quality(reference, film(tmp_path / "b.mp4", frames=9))
    with pytest.raises(InputError, match=r"c\.mp4: found frames of 64 x 128, expected 32 x 64 as in a\.mp4"):
        paver().quality(reference, film(tmp_path / "c.mp4", height=64))


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """Two references with three distorted videos each, which people like the less, the more noise they have."""
    root, lines = tmp_path_factory.mktemp("rated"), ["reference,distorted,opinion"]
    for seed in (0, 1):
        film(root / f"{seed}.mp4", seed=seed)
        for noise in (5, 20, 60):
            film(root / f"{seed}_{noise}.mp4", seed=seed, noise=float(noise))
            lines.append(f"{seed}.mp4,{seed}_{noise}.mp4,{100 - noise}")
    (root / "ratings.csv").write_text("\n".join(lines))
    return root


def test_quality_is_compared_with_what_people_thought(rated):
    method = paver()
    found = method.rated_quality(rated)
    assert found.weighted["srocc"] > 0.9
    assert found.weighted.keys() == found.plain.keys() == {"plcc", "srocc", "krocc", "rmse", "mae"}
    assert [(video.reference.name, video.opinion) for video, _ in found.videos[:2]] == [("0.mp4", 95), ("0.mp4", 80)]
    alone = method.quality(rated / "1.mp4", rated / "1_20.mp4")
    torch.testing.assert_close(found.videos[4][1].weighted, alone.weighted)
    assert json.loads(json.dumps(found.to_json()))["videos"][4]["psnr"] == round(alone.plain_psnr, 3)


@pytest.fixture
def mixed(rated, tmp_path):
    """The same with a cube map among them: frames half as wide again as high."""
    root = tmp_path / "mixed"
    shutil.copytree(rated, root)
    frames = np.zeros((7, 32, 48, 3), np.uint8)
    write_video(root / "cube.mp4", frames, fps=10)
    with (root / "ratings.csv").open("a") as table:
        table.write("\n0.mp4,cube.mp4,50")
    return root


def test_other_projections_are_skipped_and_told(mixed, rated):
    method = paver()
    with pytest.warns(UserWarning, match=r"1 of 7 rated videos are skipped.*cube\.mp4") as told:
        found = method.rated_quality(mixed, frames=2)
    assert len(told) == 1
    assert found.weighted == method.rated_quality(rated, frames=2).weighted
    assert [Path(name).name for name in found.to_json()["skipped"]] == ["cube.mp4"]
    assert len(found.to_json()["videos"]) == 6


def test_what_cannot_be_compared_is_refused_before_any_video_is_watched(mixed, monkeypatch):
    """Three videos of their reference's size, and one more that is not; a reference that is no view all around."""
    lines = (mixed / "ratings.csv").read_text().splitlines()
    (mixed / "ratings.csv").write_text("\n".join([*lines[:4], lines[-1]]))
    method = paver()
    monkeypatch.setattr(method, "watch", lambda *_: pytest.fail("a video was watched"))
    with pytest.warns(UserWarning, match="1 of 4"), pytest.raises(InputError, match="rated: found 3 videos of their"):
        method.rated_quality(mixed)
    (mixed / "ratings.csv").write_text("\n".join([*lines, "cube.mp4,0.mp4,9"]))
    with pytest.raises(InputError, match=r"cube\.mp4: found frames 1\.50 times as wide as high"):
        method.rated_quality(mixed)


def test_a_reference_is_watched_once_for_all_its_videos(rated, monkeypatch):
    method, watched = paver(), []
    watch = method.watch
    monkeypatch.setattr(method, "watch", lambda video, *rest: watched.append(video) or watch(video, *rest))
    method.rated_quality(rated, frames=3)
    assert [path.name for path in watched] == ["0.mp4", "1.mp4"]
