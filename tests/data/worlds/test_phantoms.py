"""Phantoms: stations hold fat alone, faint organs lie beside their anchors, and what is written is read again."""

import pytest
import torch

from ommatid.data.volumes import open_volumes, volume_splits
from ommatid.data.worlds.phantoms import _PLANS, FAINT, FAT, SPLITS, PhantomWorld
from ommatid.errors import InputError

BOTH = pytest.mark.parametrize("dimensions", [2, 3])


@pytest.fixture(scope="module")
def drawn():
    return {dimensions: PhantomWorld(dimensions, train=20).split("train") for dimensions in (2, 3)}


@BOTH
def test_every_phantom_has_every_station(drawn, dimensions):
    phantoms, world = drawn[dimensions], PhantomWorld(dimensions)
    assert phantoms.images.shape[1:] == ((48, 48) if dimensions == 2 else (32, 32, 24))
    for number in range(1, 1 + len(world.class_names)):
        assert (phantoms.labels == number).flatten(1).any(dim=1).float().mean() > 0.9


@BOTH
def test_a_station_shows_nothing_but_fat(dimensions):
    clear = PhantomWorld(dimensions, train=20, noise=0.0).split("train")
    assert not clear.organs[clear.labels > 0].any()
    assert clear.images[clear.labels > 0].unique().tolist() == [FAT]


@BOTH
def test_faint_organs_are_fainter_than_the_noise_and_others_are_not(drawn, dimensions):
    phantoms, plan = drawn[dimensions], _PLANS[dimensions]
    for number, organ in enumerate(plan.organs, start=1):
        contrast = float(phantoms.images[phantoms.organs == number].mean()) - FAT
        assert (contrast < 0.15) == bool(organ.base)
        assert contrast == pytest.approx(organ.brightness - FAT, abs=0.05)
    assert PhantomWorld().noise > FAINT


@BOTH
def test_faint_organs_lie_beside_their_anchors(dimensions):
    plan = _PLANS[dimensions]
    for jitter, spread in ((0.0, 0.0), (None, plan.jitter)):
        centres = PhantomWorld(dimensions, train=100, size=16, jitter=jitter).split("train").centres * plan.size / 16
        for number, organ in enumerate(plan.organs):
            if organ.base:
                away = centres[:, number] - centres[:, organ.base - 1]
                torch.testing.assert_close(away.mean(dim=0), torch.tensor(organ.centre), atol=0.7, rtol=0)
                assert float(away.std(dim=0).mean()) == pytest.approx(spread, abs=0.15 * spread + 1e-4)


@BOTH
def test_stations_follow_from_defining_organs_alone(dimensions):
    """A station lies within the ring around its organ, and on its side of the planes."""
    plan, world = _PLANS[dimensions], PhantomWorld(dimensions, train=20)
    phantoms = world.split("train")
    named = {organ for each in plan.stations for organ in (each.organ, *(side[2] for side in each.sides))}
    assert world.defining == tuple(sorted(named))
    for number, station in enumerate(plan.stations, start=1):
        case, *places = (phantoms.labels == number).nonzero(as_tuple=True)
        for axis, sign, organ in station.sides:
            assert (sign * (places[axis] - phantoms.centres[case, organ - 1, axis]) > 0).all()
        if dimensions == 2:
            away = torch.stack(places, dim=1) - phantoms.centres[case, station.organ - 1]
            furthest = max(plan.organs[station.organ - 1].radii) * 1.12 + station.width
            assert away.norm(dim=1).max() < furthest


def test_a_split_is_the_beginning_of_a_larger_one_and_seeds_differ():
    small, large = PhantomWorld(test=3).split("test"), PhantomWorld(test=25).split("test")
    assert torch.equal(small.images, large.images[:3])
    assert not torch.equal(small.images, PhantomWorld(test=3, seed=1).split("test").images)
    assert not torch.equal(PhantomWorld(val=3).split("val").images, small.images)


def test_organs_grow_with_the_picture():
    small, large = (PhantomWorld(train=20, size=size).split("train") for size in (48, 96))
    ratio = (large.organs == 1).sum() / (small.organs == 1).sum()
    assert float(ratio) == pytest.approx(4, rel=0.05)


@BOTH
def test_what_is_written_is_read_again(tmp_path, dimensions):
    pytest.importorskip("nibabel")
    spacing = [0.5, 0.75, 2.0][:dimensions]
    world = PhantomWorld(dimensions, train=3, val=2, test=2, size=16, spacing=spacing)
    assert world.write(tmp_path / "made") == {"train": 3, "val": 2, "test": 2}
    assert volume_splits(tmp_path / "made") == SPLITS
    for split in SPLITS:
        read, phantoms = open_volumes(tmp_path / "made", split), world.split(split)
        assert (read.class_names, read.organ_names) == (world.class_names, world.organ_names)
        assert tuple(world.organ_names.index(name) + 1 for name in read.anchors) == world.anchors
        for number in range(len(phantoms)):
            case, shape = read[number], phantoms.images[0].shape
            torch.testing.assert_close(
                (case.image.voxels.view(shape) + 160) / 400, phantoms.images[number], atol=1 / 800 + 1e-6, rtol=0
            )
            assert torch.equal(case.labels.view(shape), phantoms.labels[number].long())
            assert torch.equal(case.organs.view(shape), phantoms.organs[number].long())
            assert case.image.spacing.tolist()[:dimensions] == spacing


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dimensions": 4}, "dimensions: found 4, expected 2 or 3"),
        ({"train": 0}, "train: found 0, expected at least 1 phantom"),
        ({"size": 18}, "size: found 18, expected a multiple of 4 from 16 on"),
        ({"noise": -0.1}, "noise: found -0.1, expected a standard deviation"),
        ({"jitter": -1.0}, "jitter: found -1.0, expected a standard deviation"),
        ({"spacing": [1.0]}, r"spacing: found \[1.0\], expected 2 lengths above 0"),
    ],
)
def test_impossible_worlds_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        PhantomWorld(**settings)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="unknown split 'all'"):
        PhantomWorld().split("all")
    with pytest.raises(InputError, match="unknown format of world-phantoms 'coco'"):
        PhantomWorld().write(tmp_path / "made", "coco")
