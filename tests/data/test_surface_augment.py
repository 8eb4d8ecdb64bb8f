import math
from dataclasses import replace

import pytest
import torch

from data.made_surfaces import SIZE, made
from ommatid.data.surface_augment import RandomView, cropped, flipped, rotated, scaled
from ommatid.data.surface_samples import (
    IGNORE,
    Camera,
    SurfaceSample,
    normals_from_depth,
)


def test_a_mirror_image_moves_all_maps_and_turns_normals():
    sample = made()
    found = flipped(sample)
    for name in ("image", "semantic", "depth"):
        assert torch.equal(getattr(found, name), getattr(sample, name).flip(-1))
    assert torch.equal(found.normals[0], -sample.normals[0].flip(-1))
    assert torch.equal(found.normals[1:], sample.normals[1:].flip(-1))
    again = flipped(found)
    assert torch.equal(again.normals, sample.normals)
    assert torch.equal(flipped(sample, negate_x=False).normals, sample.normals.flip(-1))


@pytest.mark.parametrize(
    "change", [flipped, lambda sample: rotated(sample, 90.0), lambda sample: rotated(sample, -90.0)]
)
def test_normals_of_the_changed_depth_are_the_changed_normals(change):
    """With a camera that looks through the middle, and has square pixels."""
    camera, size = Camera(60.0, 60.0, 15.0, 15.0), (31, 31)
    y, x = torch.meshgrid(torch.arange(31.0), torch.arange(31.0), indexing="ij")
    depth = (3 + 0.02 * x + 0.01 * y + 0.001 * x * y)[None]
    normals = normals_from_depth(depth, camera)
    sample = SurfaceSample(torch.rand(3, *size), torch.zeros(size, dtype=torch.long), normals, depth, "1")
    found = change(sample)
    torch.testing.assert_close(found.normals, normals_from_depth(found.depth, camera), rtol=0, atol=1e-3)
    assert not torch.equal(found.depth, sample.depth)


def test_a_quarter_turn_goes_counterclockwise():
    sample = made(size=(6, 6))
    found = rotated(sample, 90.0)
    for name in ("image", "depth"):
        torch.testing.assert_close(getattr(found, name), torch.rot90(getattr(sample, name), 1, (1, 2)))
    assert torch.equal(found.semantic, torch.rot90(sample.semantic, 1))
    right, up, ahead = torch.rot90(sample.normals, 1, (1, 2))
    torch.testing.assert_close(found.normals, torch.stack([-up, right, ahead]), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.normals_valid, torch.rot90(sample.normals_valid, 1))


def test_what_a_turn_brings_into_view_is_unlabelled():
    whole = torch.ones(3, 16, 16)
    sample = SurfaceSample(whole, torch.zeros(16, 16, dtype=torch.long), whole / 3**0.5, whole[:1], "1")
    found = rotated(sample, 45.0, fill=(0.0, 0.5, 1.0))
    corner = found.semantic == IGNORE
    assert 0.1 < corner.float().mean() < 0.3
    assert torch.equal(found.normals_valid, ~corner)
    assert torch.equal(found.depth[0] == 0, corner)
    assert found.image[:, 0, 0].tolist() == [0, 0.5, 1]
    torch.testing.assert_close(found.normals[:, 8, 8].norm(), torch.tensor(1.0))


def test_scaling_leaves_labels_whole_and_brings_things_nearer():
    sample = made(size=(20, 30))
    found = scaled(sample, 1.5)
    assert found.image.shape == (3, 30, 45)
    assert set(found.semantic.unique().tolist()) == set(sample.semantic.unique().tolist())
    half = scaled(sample, 0.5)
    assert half.semantic.shape == (10, 15)
    for each, factor in ((found, 1.5), (half, 0.5)):
        length = each.normals.norm(dim=0)
        assert ((length - 1).abs().lt(1e-5) | (length == 0)).all()
        assert set(each.depth.unique().tolist()) <= set((sample.depth / factor).unique().tolist())
    assert scaled(replace(sample, depth=None), 0.5).depth is None


def test_scaled_colours_stay_where_their_labels_are():
    ramp = torch.arange(8.0).expand(3, 8, 8)
    sample = replace(made(size=(8, 8)), image=ramp, semantic=ramp[0].long())
    half, twice = scaled(sample, 0.5), scaled(sample, 2.0)
    torch.testing.assert_close(half.image[0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    assert half.semantic[0].tolist() == [1, 3, 5, 7]
    torch.testing.assert_close(twice.image[0, 0, 1:5], torch.tensor([0.25, 0.75, 1.25, 1.75]))
    assert twice.semantic[0, :6].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_crop_beyond_the_border_is_filled_and_unlabelled():
    sample = made()
    found = cropped(sample, 2, 3, 7, 4, fill=(0.25, 0.5, 0.75))
    torch.testing.assert_close(found.image[:, :4], sample.image[:, 2:, 3:7])
    assert torch.equal(found.semantic[:4], sample.semantic[2:, 3:7])
    assert torch.equal(found.normals[:, :4], sample.normals[:, 2:, 3:7])
    assert torch.equal(found.depth[:, :4], sample.depth[:, 2:, 3:7])
    assert (found.semantic[4:] == IGNORE).all()
    assert not found.normals_valid[4:].any()
    assert (found.depth[:, 4:] == 0).all()
    assert found.image[:, 6, 3].tolist() == [0.25, 0.5, 0.75]


def test_a_random_view_is_a_function_of_its_generator():
    sample, view = made(size=(40, 60)), RandomView((24, 32))
    views = [view(sample, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(views[0].image, views[1].image)
    assert torch.equal(views[0].normals, views[1].normals)
    assert not torch.equal(views[0].image, views[2].image)
    assert all(each.image.shape == (3, 24, 32) and each.semantic.shape == (24, 32) for each in views)


def test_random_views_show_every_part_at_every_scale():
    columns = torch.arange(60).expand(40, 60)
    sample = replace(made(size=(40, 60)), semantic=columns.clone(), depth=torch.ones(1, 40, 60))
    generator = torch.Generator().manual_seed(0)
    views = [RandomView((20, 20))(sample, generator) for _ in range(200)]
    nearest = torch.stack([each.depth[each.depth > 0].max() for each in views])
    assert 0.66 < nearest.min() < 0.7
    assert 1.9 < nearest.max() <= 2.0
    mirrored = torch.tensor([int(each.semantic[0, 0]) > int(each.semantic[0, 10]) for each in views])
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.12)
    assert {0, 59} <= {int(value) for each in views for value in each.semantic.unique()}


def test_a_view_without_chance_is_the_image_itself():
    sample = made()
    view = RandomView(SIZE, scales=(1.0, 1.0), flip=0.0)(sample, torch.Generator().manual_seed(0))
    for name in ("image", "semantic", "normals", "depth"):
        torch.testing.assert_close(getattr(view, name), getattr(sample, name))


def test_turns_stay_within_their_limit():
    normals = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 9, 9)
    sample = SurfaceSample(torch.zeros(3, 9, 9), torch.zeros(9, 9, dtype=torch.long), normals, None, "1")
    view, generator = RandomView((9, 9), scales=(1.0, 1.0), flip=0.0, degrees=20.0), torch.Generator().manual_seed(0)
    middles = torch.stack([view(sample, generator).normals[:, 4, 4] for _ in range(50)])
    angles = torch.rad2deg(torch.atan2(middles[:, 1], middles[:, 0]))
    assert angles.abs().max() <= 20 + 1e-4
    assert angles.min() < -10
    assert angles.max() > 10
    assert math.isclose(float(middles.norm(dim=1).mean()), 1.0, abs_tol=1e-5)
