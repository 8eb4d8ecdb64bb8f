"""`world-faces`: heads as their factors say, in the layouts that readers of face recognition know."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from ommatid.data.faces import face_folder, face_list, face_records, verification_bin
from ommatid.data.worlds.faces import PITCH, SKIN, YAW, FaceWorld, verification_pairs
from ommatid.errors import InputError
from ommatid.recognition.verification import auc

SMALL = FaceWorld(train=6, val=3, test=3, train_pictures=4, pictures=3, size=32)
EXACT = ("images", "labels", "poses", "lights", "expressions", "shapes", "phenotypes", "skins")


@pytest.fixture(scope="module")
def scenes():
    return FaceWorld(train=20, train_pictures=6, noise=0.0).split("train")


def test_a_split_is_a_function_of_its_seed():
    again = FaceWorld(**{**vars(SMALL), "pictures": 4}).split("train")
    for name in EXACT:
        assert torch.equal(getattr(SMALL.split("train"), name), getattr(again, name))
    drawn = [SMALL.split(split).shapes[:3] for split in ("train", "val", "test")]
    drawn += [FaceWorld(**{**vars(SMALL), "seed": 1}).split(split).shapes[:3] for split in ("train", "val", "test")]
    rows = torch.cat(drawn)
    assert len(rows.unique(dim=0)) == len(rows) == 18


def test_a_smaller_world_is_the_beginning_of_a_larger_one():
    small, large = FaceWorld(**{**vars(SMALL), "train": 2}).split("train"), SMALL.split("train")
    assert small.images.shape == (8, 1, 32, 32)
    for name in EXACT:
        ours = getattr(small, name)
        assert torch.equal(ours, getattr(large, name)[: len(ours)])


def test_factors_are_drawn_within_their_ranges(scenes):
    assert scenes.labels.bincount().tolist() == [6] * 20
    for angle, most in zip(scenes.poses.unbind(1), (YAW, PITCH), strict=True):
        assert 0.8 * most < float(angle.abs().max()) <= most
    torch.testing.assert_close(scenes.lights.norm(dim=1), torch.ones(120))
    assert float(scenes.lights[:, 2].min()) > 0
    assert 0 <= float(scenes.expressions.min()) < float(scenes.expressions.max()) <= 0.5
    low, high = torch.tensor(list(SKIN.values())).unbind(1)
    assert bool(((scenes.skins >= low) & (scenes.skins <= high)).all())


def test_pictures_of_one_person_are_alike_in_no_trivial_way(scenes):
    """More alike than those of two people, but pixels alone do not tell."""
    pixels = scenes.images.float().flatten(1)
    unit = F.normalize(pixels - pixels.mean(dim=0))
    above = torch.ones(120, 120).triu(diagonal=1) > 0
    same = scenes.labels[:, None] == scenes.labels
    assert 0.55 < float(auc((unit @ unit.T)[above], same[above])) < 0.85


def test_light_and_pose_are_to_be_seen(scenes):
    middle = scenes.images[:, 0, 10:30, 10:30].float()
    right = middle[..., 10:].mean(dim=(1, 2)) - middle[..., :10].mean(dim=(1, 2))
    assert float(torch.corrcoef(torch.stack([right, scenes.lights[:, 0]]))[0, 1]) > 0.6
    turned = FaceWorld(train=1, train_pictures=40, noise=0.0, expression=0.0, seed=3).split("train")
    pixels = turned.images.float().flatten(1)
    # Two pictures in nearly the same pose are more alike than two in different ones, whatever light and background.
    edges = F.normalize(turned.images.float()[..., :, 1:] - turned.images.float()[..., :, :-1], dim=(2, 3)).flatten(1)
    alike = (edges @ edges.T).flatten()
    apart = torch.cdist(turned.poses, turned.poses).flatten()
    assert pixels.shape == (40, 1600)
    assert float(alike[(apart > 0) & (apart < 0.1)].mean()) > float(alike[apart > 0.5].mean()) + 0.05


def test_expressions_move_the_face_alone():
    calm = FaceWorld(train=3, train_pictures=4, noise=0.0, expression=0.0)
    lively = FaceWorld(train=3, train_pictures=4, noise=0.0, expression=1.0)
    first, second = calm.split("train"), lively.split("train")
    for name in ("poses", "lights", "shapes", "skins"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert float(first.expressions.max()) == 0
    changed = (first.images.int() - second.images.int()).abs()[:, 0] > 20
    shown = second.expressions.amax(dim=1) > 0.3
    assert bool(changed[shown].any(dim=(1, 2)).all())
    assert float(changed[:, :5].float().mean()) < 0.02  # the hair


def test_noise_is_added_to_every_pixel():
    clean, noisy = (FaceWorld(train=2, noise=noise).split("train").images.float() for noise in (0.0, 0.05))
    inner = (clean > 60) & (clean < 195)
    assert float((noisy - clean)[inner].std() / 255) == pytest.approx(0.05, rel=0.1)


def test_pairs_are_of_both_kinds_in_turn_and_no_pair_is_of_one_picture():
    labels = torch.arange(6).repeat_interleave(4)
    first, second, same = verification_pairs(labels, pairs=60)
    assert len(same) == 60
    assert same.tolist() == [True, False] * 30
    assert torch.equal(labels[first] == labels[second], same)
    assert bool((first != second).all())
    assert len({tuple(sorted(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True)}) == 60
    assert len(verification_pairs(labels, pairs=1000)[2]) == 2 * 36


def test_written_folders_and_lists_are_read_as_they_were_drawn(tmp_path):
    assert SMALL.write(tmp_path / "folders") == {"train": 24, "val": 9, "test": 9}
    assert SMALL.write(tmp_path / "lists", "list") == {"train": 24, "val": 9, "test": 9}
    for split in ("train", "val", "test"):
        scenes = SMALL.split(split)
        for read in (
            face_folder(tmp_path / "folders" / split, channels=1),
            face_list(tmp_path / "lists" / f"{split}.txt", channels=1),
        ):
            images, labels = read.tensors()
            assert torch.equal(labels, scenes.labels)
            assert torch.equal((images * 255).round().to(torch.uint8), scenes.images)


def test_written_records_and_pairs_are_read_as_they_were_drawn(tmp_path):
    SMALL.write(tmp_path / "records", "records")
    images, labels = face_records(tmp_path / "records", channels=1).tensors()
    scenes = SMALL.split("train")
    assert torch.equal(labels, scenes.labels)
    assert torch.equal((images * 255).round().to(torch.uint8), scenes.images)
    assert SMALL.write(tmp_path / "bin", "bin")["test"] == 18
    for folder, split in itertools.product(("records", "bin"), ("val", "test")):
        pairs, scenes = verification_bin(tmp_path / folder / f"{split}.bin", channels=1), SMALL.split(split)
        first, second, same = verification_pairs(scenes.labels)
        assert torch.equal(pairs.same, same)
        for number in (0, 1, len(pairs) - 1):
            ours = scenes.images[torch.stack([first[number], second[number]])].float() / 255
            torch.testing.assert_close(torch.stack(pairs[number][:2]), ours)


def test_bad_settings_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="train must be at least 1, found 0"):
        FaceWorld(train=0)
    with pytest.raises(InputError, match="noise must be 0 or more, found -1"):
        FaceWorld(noise=-1.0)
    with pytest.raises(InputError, match="expression must lie from 0 to 1, found 2"):
        FaceWorld(expression=2.0)
    with pytest.raises(InputError, match="unknown split 'holidays'"):
        SMALL.split("holidays")
    with pytest.raises(InputError, match="unknown format of world-faces 'mp3'"):
        SMALL.write(tmp_path / "new", "mp3")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").touch()
    with pytest.raises(InputError, match="found files in it, expected a new folder"):
        SMALL.write(tmp_path / "full")
    assert not (tmp_path / "new").exists()
