"""`world-sphere`: discs are where the truth says, on the sphere, across the seam, and in Wild360's layout."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ommatid.data.clips import count_frames, read_frames
from ommatid.data.worlds.sphere import (
    OBJECTS,
    PANORAMAS_OF_SPLIT,
    TEXTURES,
    SphereWorld,
    _Ground,
    _look,
    panoramas,
)
from ommatid.errors import InputError

WORLD = SphereWorld(train=6, val=3, test=4, noise=0.0)
CLIPS = WORLD.split("train")


def directions(latitude, longitude):
    return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=-1)


def pixel_directions(height):
    latitude = math.pi / 2 - (torch.arange(height) + 0.5) * math.pi / height
    longitude = (torch.arange(2 * height) + 0.5) * math.pi / height
    return directions(*torch.meshgrid(latitude, longitude, indexing="ij"))


def centre_directions(clips):
    return directions(*clips.centres.unbind(-1))


def test_a_split_is_a_function_of_its_seed():
    again = SphereWorld(train=6, noise=0.0).split("train")
    assert CLIPS.frames.shape == (6, 10, 3, 64, 128)
    assert torch.equal(again.frames, CLIPS.frames)
    assert torch.equal(again.saliency, CLIPS.saliency)
    assert not torch.equal(SphereWorld(train=6, noise=0.0, seed=1).split("train").frames, CLIPS.frames)
    assert not torch.equal(WORLD.split("val").frames, CLIPS.frames[:3])


@pytest.mark.parametrize("background", ["waves", "panoramas"])
def test_only_discs_move(background):
    clips = SphereWorld(train=3, noise=0.0, background=background).split("train")
    frames = clips.frames.int()
    # A pixel at the edge of a disc shows some of it.
    near = torch.nn.functional.max_pool2d(clips.masks.float(), 3, stride=1, padding=1)[:, :, None] > 0
    darkest, brightest = frames.masked_fill(near, 999).amin(dim=1), frames.masked_fill(near, -999).amax(dim=1)
    assert (brightest <= darkest)[~near.all(dim=1).expand_as(darkest)].float().mean() > 0.999
    assert ((frames.amax(dim=1) - frames.amin(dim=1)) > 60).any(dim=1).sum() > 200


def test_masks_are_discs_of_10_to_15_degrees_around_their_centres_at_all_latitudes():
    single = ~CLIPS.present[:, 1]
    assert single.any()
    area = math.pi / 64 * directions_area(64)
    for clip in single.nonzero().flatten().tolist():
        sizes = (CLIPS.masks[clip] * area).sum(dim=(1, 2))
        radius = (1 - sizes / (2 * math.pi)).acos() * 180 / math.pi
        assert ((radius > 9) & (radius < 16)).all()
        torch.testing.assert_close(radius, radius.mean().expand(10), rtol=0.06, atol=0)
        mean = (pixel_directions(64) * (CLIPS.masks[clip] * area)[..., None]).sum(dim=(1, 2))
        cosine = torch.cosine_similarity(mean, centre_directions(CLIPS)[clip, :, 0], dim=-1)
        assert (cosine > math.cos(math.radians(1.5))).all()


def directions_area(height):
    """What a pixel of each row covers, in steps of pi / height."""
    return torch.sin((torch.arange(height) + 0.5) * math.pi / height)[:, None] * math.pi / height


def test_the_true_map_is_a_gaussian_of_ten_degrees_around_every_disc_that_is_there():
    angle = torch.einsum("hwc,btoc->btohw", pixel_directions(64), centre_directions(CLIPS)).clamp(-1, 1).acos()
    hills = (-(angle**2) / (2 * math.radians(10) ** 2)).exp()
    hills = torch.where(CLIPS.present[:, None, :, None, None], hills, 0.0)
    torch.testing.assert_close(CLIPS.saliency, hills.amax(dim=2), rtol=1e-3, atol=1e-3)


def test_discs_move_on_great_circles_at_an_even_pace():
    centres = centre_directions(CLIPS)
    turns = torch.linalg.cross(centres[:, :-1], centres[:, 1:])
    torch.testing.assert_close(turns, turns[:, :1].expand_as(turns), rtol=1e-2, atol=1e-4)
    speed = turns.norm(dim=-1).asin() * 180 / math.pi
    assert ((speed > 1.9) & (speed < 6.1)).all()


def test_discs_start_at_all_latitudes_up_to_seventy_degrees():
    clips = SphereWorld(train=200, frames=1, height=8).split("train")
    latitude = clips.centres[:, 0, 0, 0] * 180 / math.pi
    assert latitude.abs().max() <= 70.01
    assert (latitude.abs() > 45).float().mean() > 0.25
    assert 0.35 < clips.present[:, 1].float().mean() < 0.65
    assert clips.present[:, 0].all()
    assert clips.centres.shape == (200, 1, OBJECTS, 2)


def test_backgrounds_have_no_seam():
    for background in ("waves", "panoramas"):
        frames = SphereWorld(train=8, frames=1, noise=0.0, background=background).split("train").frames[:, 0].float()
        across = (frames[..., 0] - frames[..., -1]).abs().mean()
        beside = (frames[..., 1:] - frames[..., :-1]).abs().mean()
        assert across < 2 * beside


def test_panoramas_are_read_across_their_edges_and_turned_by_their_yaw():
    longitude = (torch.arange(16) + 0.5) * 2 * math.pi / 16
    scenes = torch.stack([longitude.sin(), longitude.cos(), 0 * longitude])[None, :, None].expand(-1, -1, 8, -1)
    ground = _Ground.draw(5, torch.Generator().manual_seed(0))
    seen = _look(scenes, ground, pixel_directions(32)[None])
    turned = (torch.arange(64) + 0.5) * 2 * math.pi / 64 + ground.yaw[:, None]
    torch.testing.assert_close(seen[:, 0], turned.sin()[:, None].expand(-1, 32, -1), rtol=0, atol=0.03)
    torch.testing.assert_close(seen[:, 1], turned.cos()[:, None].expand(-1, 32, -1), rtol=0, atol=0.03)


def test_splits_show_other_panoramas():
    pictures, names = panoramas()
    places = {split: set(names[part]) for split, part in PANORAMAS_OF_SPLIT.items()}
    assert sum(map(len, places.values())) == len(set.union(*places.values())) == len(pictures) == 18
    clips = SphereWorld(test=2, frames=1, noise=0.0, background="panoramas").split("test").frames[:, 0]
    # A panorama that is turned has the means of its rows, whatever the direction.
    rows = torch.nn.functional.avg_pool2d(pictures.float(), 4).mean(dim=3)
    for clip in clips:
        distance = (rows - clip.float().mean(dim=2)).abs().mean(dim=(1, 2))
        assert names[int(distance.argmin())] in places["test"]


def test_panoramas_are_photographs_that_differ():
    pictures, names = panoramas()
    assert pictures.shape == (18, 3, 256, 512)
    assert len(set(names)) == 18
    small = torch.nn.functional.avg_pool2d(pictures.float(), 16).flatten(1)
    apart = torch.cdist(small, small) + 1e9 * torch.eye(18)
    assert apart.min() > 300
    assert (pictures.float().flatten(1).std(dim=1) > 20).all()


@pytest.mark.parametrize("background", ["waves", "panoramas"])
def test_views_show_one_texture_each_in_turn(background):
    images, labels = SphereWorld(background=background).views(40, size=32)
    assert images.shape == (40, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [*range(len(TEXTURES))] * 4
    assert torch.equal(images, SphereWorld(background=background).views(40, size=32)[0])
    assert not torch.equal(images, SphereWorld(background=background).views(40, "test", size=32)[0])


def test_textures_can_be_told_apart_in_views():
    """By the spectrum of their brightness, which does not depend on place and turn: far above chance."""
    from sklearn.ensemble import RandomForestClassifier

    world = SphereWorld(noise=0.0)
    features, classes = [], []
    for split in ("train", "test"):
        images, labels = world.views(500, split, size=48, field_of_view=60.0)
        spectrum = torch.fft.fft2(images.float().mean(dim=1)).abs().log1p()
        y, x = torch.meshgrid(torch.fft.fftfreq(48), torch.fft.fftfreq(48), indexing="ij")
        ring = (torch.hypot(x, y) * 48).long().clamp(max=30).flatten()
        rings = torch.zeros(500, 31).index_add(1, ring, spectrum.flatten(1)) / ring.bincount(minlength=31)
        features.append(rings.numpy())
        classes.append(labels.numpy())
    forest = RandomForestClassifier(100, random_state=0).fit(features[0], classes[0])
    assert forest.score(features[1], classes[1]) > 0.25


def test_noise_is_as_strong_as_asked_for():
    still = SphereWorld(train=1, noise=0.0).split("train").frames.float()
    noisy = SphereWorld(train=1, noise=0.05).split("train").frames.float()
    assert float((noisy - still).std() / 255) == pytest.approx(0.05, rel=0.2)


def test_wild360_is_written_as_the_benchmark_is(tmp_path):
    root = tmp_path / "wild360"
    assert SphereWorld(train=2, val=1, test=1, frames=4, height=32).write(root) == {"train": 2, "test": 1}
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {
        "train.txt",
        "test.txt",
        "data/train/train_0000.mp4",
        "data/train/train_0001.mp4",
        "data/test/test_0000.mp4",
        *(f"Wild360_GT_29/test_0000.mp4/{frame:05d}.npy" for frame in range(4)),
    }
    assert (root / "train.txt").read_text().split() == ["train_0000", "train_0001"]
    video = root / "data/test/test_0000.mp4"
    clips = SphereWorld(test=1, frames=4, height=32).split("test")
    assert count_frames(video) == 4
    assert (read_frames(video, [0, 3]).float() - clips.frames[0, [0, 3]].float()).abs().mean() < 4
    for frame in range(4):
        map = np.load(root / f"Wild360_GT_29/test_0000.mp4/{frame:05d}.npy", allow_pickle=False)
        np.testing.assert_array_equal(map, clips.saliency[0, frame].numpy())


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("ommatid.data.worlds.sphere.write_video", broken)
    with pytest.raises(InputError, match="disk full"):
        SphereWorld(train=1, test=1, frames=2, height=32).write(tmp_path / "world")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: SphereWorld(height=0), "height must be at least 1, found 0"),
        (lambda: SphereWorld(background="wave"), "unknown background of world-sphere 'wave': did you mean 'waves'"),
        (lambda: WORLD.split("tset"), "unknown split 'tset': did you mean 'test'"),
        (lambda: WORLD.views(0), "count must be at least 1, found 0"),
        (lambda: WORLD.views(1, field_of_view=180.0), "field_of_view must lie between 0 and 180, found 180.0"),
        (lambda: WORLD.write("x", "coco"), "unknown format of world-sphere 'coco'"),
        (lambda: SphereWorld(height=33).write("x"), "height must be even for a video, found 33"),
    ],
)
def test_what_cannot_be_drawn_is_refused(act, message):
    with pytest.raises(InputError, match=message):
        act()
    assert not Path("x").exists()
