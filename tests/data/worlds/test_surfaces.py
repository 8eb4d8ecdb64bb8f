"""`world-surfaces`: planes whose textures shrink as they turn away, and whose brightness says to which side."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from ommatid.data.nyu import open_nyu
from ommatid.data.surface_samples import normals_from_depth
from ommatid.data.worlds.surfaces import CLASSES, LIGHT, SurfaceWorld
from ommatid.errors import InputError

WORLD = SurfaceWorld(train=128, val=2, test=3, noise=0.0)


@pytest.fixture(scope="module")
def scenes():
    return WORLD.split("train")


def surfaces(scenes, index):
    """Masks of the pixels of every plane of a scene, told apart by their normals."""
    _, which = scenes.normals[index].flatten(1).unique(dim=1, return_inverse=True)
    return [(which == number).view(scenes.normals.shape[-2:]) for number in range(int(which.max()) + 1)]


def test_a_split_is_a_function_of_its_seed():
    first, again = (SurfaceWorld(train=12, size=16).split("train") for _ in range(2))
    for name in ("images", "classes", "normals", "depth"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert len(first) == 12
    assert first.images.shape == (12, 3, 16, 16)
    for other in (SurfaceWorld(train=12, size=16, seed=1).split("train"), SurfaceWorld(val=12, size=16).split("val")):
        assert not torch.equal(first.classes, other.classes)


def test_a_smaller_split_is_the_beginning_of_a_larger_one():
    small, large = (SurfaceWorld(train=count, size=8).split("train") for count in (3, 33))
    assert torch.equal(small.images, large.images[:3])
    assert torch.equal(small.depth, large.depth[:3])
    assert not torch.equal(large.images[0], large.images[32])


def test_noise_changes_the_images_only(scenes):
    noisy = SurfaceWorld(train=128, noise=0.1).split("train")
    for name in ("classes", "normals", "depth"):
        assert torch.equal(getattr(noisy, name), getattr(scenes, name))
    middle = (scenes.images > 80) & (scenes.images < 170)
    assert (noisy.images.float() - scenes.images.float())[middle].std() / 255 == pytest.approx(0.1, rel=0.05)


def test_scenes_are_three_quads_before_a_plane(scenes):
    counts = [len(surfaces(scenes, index)) for index in range(len(scenes))]
    assert max(counts) == 4
    assert sum(count == 4 for count in counts) > 0.95 * len(counts)
    for index in range(10):
        for mask in surfaces(scenes, index):
            assert len(scenes.classes[index][mask].unique()) == 1


def test_classes_are_about_equally_frequent(scenes):
    shares = scenes.classes.flatten().bincount(minlength=len(CLASSES)) / scenes.classes.numel()
    assert len(shares) == len(CLASSES)
    assert shares.min() > 0.14
    assert shares.max() < 0.26


def test_tilts_are_within_their_range_and_to_all_sides(scenes):
    torch.testing.assert_close(scenes.normals.norm(dim=1), torch.ones_like(scenes.depth[:, 0]))
    tilt = torch.rad2deg(scenes.normals[:, 2].arccos())
    assert 15 - 1e-3 < tilt.min() < 17
    assert 58 < tilt.max() < 60 + 1e-3
    assert scenes.normals.mean(dim=(0, 2, 3))[:2].abs().max() < 0.1
    flat = SurfaceWorld(train=4, least_tilt=0.0, most_tilt=0.0).split("train")
    torch.testing.assert_close(flat.normals, torch.tensor([0.0, 0, 1])[:, None, None].expand(4, 3, 32, 32))


def test_depth_is_that_of_planes_with_these_normals(scenes):
    """Inverse depth is linear in the pixels, as the normal says."""
    rays = WORLD.camera.rays(32, 32)
    for index in range(10):
        right, up, ahead = scenes.normals[index]
        facing = ahead * rays[2] - right * rays[0] + up * rays[1]
        assert (facing > 0).all()
        for mask in surfaces(scenes, index):
            distance = (scenes.depth[index, 0] * facing)[mask]
            torch.testing.assert_close(distance, distance[:1].expand_as(distance), rtol=1e-4, atol=0)


def test_no_plane_reaches_through_another(scenes):
    """A quad's own depth stays before all that is behind it: quads are whole, but for what covers them."""
    depths = [
        sorted((float(scenes.depth[index, 0][mask].min()), float(scenes.depth[index, 0][mask].max())) for mask in masks)
        for index, masks in ((index, surfaces(scenes, index)) for index in range(len(scenes)))
    ]
    apart = [all(near[1] < far[0] for near, far in pairwise(each)) for each in depths]
    assert sum(apart) > 0.9 * len(apart)


def test_normals_of_the_depths_are_the_normals(scenes):
    worst = []
    for index in range(20):
        found = normals_from_depth(scenes.depth[index], WORLD.camera)
        angle = torch.rad2deg((found * scenes.normals[index]).sum(dim=0).clamp(-1, 1).arccos())
        worst.append((angle < 2).float().mean())
    assert torch.stack(worst).mean() > 0.97


def test_planes_that_face_the_light_are_brighter(scenes):
    """Up to their colours: so brightness tells to which side a plane turns."""
    light = F.normalize(torch.tensor(LIGHT), dim=0)
    facing, bright = [], []
    for index in range(60):
        for mask in surfaces(scenes, index):
            if mask.sum() > 40:
                facing.append((scenes.normals[index][:, mask][:, 0] * light).sum())
                bright.append(scenes.images[index][:, mask].float().mean())
    assert torch.corrcoef(torch.stack([torch.stack(facing), torch.stack(bright)]))[0, 1] > 0.8


def test_stripes_shrink_with_the_cosine_of_the_tilt():
    """The number of bright and dark changes along the image's middle, of the plane that fills most of it."""

    def changes(tilt, kind):
        world = SurfaceWorld(train=192, least_tilt=tilt, most_tilt=tilt, noise=0.0)
        scenes = world.split("train")
        edges = scenes.images.float().mean(dim=1).diff(dim=-1).abs().mean(dim=(1, 2))
        shading = scenes.images.float().mean(dim=(1, 2, 3))
        return (edges / shading)[(scenes.classes == kind).float().mean(dim=(1, 2)) > 0.6].mean()

    assert changes(50.0, 0) > 1.1 * changes(0.0, 0)


def test_textures_differ_in_their_mean_less_than_planes_do_in_brightness(scenes):
    """No class can be told by its brightness alone."""
    bright = [scenes.images.float().mean(dim=1)[scenes.classes == number] for number in range(len(CLASSES))]
    means = torch.stack([each.mean() for each in bright])
    assert means.std() < 0.5 * torch.stack([each.std() for each in bright]).mean()


def test_a_scene_is_a_sample_as_readers_give_it(scenes):
    sample = scenes.sample(5)
    assert torch.equal((sample.image * 255).round().byte(), scenes.images[5])
    assert torch.equal(sample.semantic, scenes.classes[5].long())
    assert torch.equal(sample.normals, scenes.normals[5])
    assert sample.normals_valid.all()


@pytest.mark.parametrize("format", ["nyu", "nyu-mat"])
def test_what_is_written_is_read(tmp_path, format):
    world = SurfaceWorld(train=4, val=1, test=3, size=24)
    assert world.write(tmp_path / "new", format) == {"train": 4, "test": 3}
    for split in ("train", "test"):
        images, scenes = open_nyu(tmp_path / "new", split), world.split(split)
        assert images.class_names == CLASSES
        assert len(images) == len(scenes)
        for index in range(len(images)):
            found = images[index]
            assert torch.equal((found.image * 255).round().byte(), scenes.images[index])
            assert torch.equal(found.semantic, scenes.classes[index].long())
            cosine = (found.normals * scenes.normals[index]).sum(dim=0)
            assert (cosine > 0.999).float().mean() > (0.999 if format == "nyu" else 0.9)
            if format == "nyu-mat":
                torch.testing.assert_close(found.depth, scenes.depth[index])


def test_bad_settings_are_refused(tmp_path):
    for settings, message in (
        ({"val": 0}, "val: found 0, expected at least 1 scene"),
        ({"size": 4}, "size: found 4, expected at least 8 pixels"),
        (
            {"least_tilt": 50.0, "most_tilt": 40.0},
            "least_tilt and most_tilt: found 50 and 40, expected a range within 0",
        ),
        ({"most_tilt": 80.0}, "found 15 and 80, expected a range within 0 to 65 degrees"),
        ({"noise": -1.0}, "noise: found -1.0, expected a standard deviation from 0 on"),
    ):
        with pytest.raises(InputError, match=message):
            SurfaceWorld(**settings)
    with pytest.raises(InputError, match="unknown split 'dev'"):
        SurfaceWorld(train=1).split("dev")
    with pytest.raises(InputError, match="unknown format of world-surfaces 'voc'"):
        SurfaceWorld(train=1).write(tmp_path / "new", "voc")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="found files in it, expected a new folder"):
        SurfaceWorld(train=1, test=1, size=8).write(tmp_path)
