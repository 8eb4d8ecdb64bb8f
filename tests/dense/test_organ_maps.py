"""Organs are found stage by stage, out of fold, once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dense.made_volumes import phantoms
from ommatid.dense.case_maps import MappedVolumes, Part, TrainingMaps, packed, unpacked
from ommatid.dense.organ_maps import OrganNetworks, disturbed, one_hot, organ_stages, stage_labels, windowed
from ommatid.dense.organ_scores import organ_dice, rank_auc
from ommatid.dense.organ_training import MANIFEST, MapStore, OrganTraining, train_organs
from ommatid.dense.volume_views import volume_batch
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.nn.unet_nd import UNetND

STAGES = ((1, 2), (3, 4, 5, 6, 7, 8))
HOW = OrganTraining(Recipe("adam", lr=1e-2), steps=2, folds=3, patch=None, seed=0)


def networks(stages=STAGES, **settings):
    torch.manual_seed(0)
    return OrganNetworks(stages, dimensions=2, widths=(4, 6), **settings)


class Counted(UNetND):
    """Counts the updates of all networks of its kind."""

    updates = 0

    def supervised(self, images):
        type(self).updates += 1
        return super().supervised(images)


@pytest.fixture
def updates(monkeypatch):
    monkeypatch.setattr("ommatid.dense.organ_maps.UNetND", Counted)
    Counted.updates = 0
    return lambda: Counted.updates


# --- networks ---


def test_later_stages_see_the_maps_of_earlier_ones():
    made, images = networks().eval(), torch.rand(2, 1, 8, 8)
    assert [network.down[0][0].in_channels for network in made.networks] == [1, 3]
    anchors = one_hot(made.networks[0](images).argmax(dim=1), 2)
    others = one_hot(made.networks[1](torch.cat([images, anchors], dim=1)).argmax(dim=1), 6)
    assert torch.equal(made(images), torch.cat([anchors, others], dim=1))


def test_maps_are_in_the_order_of_organ_numbers():
    made, images = networks(((3, 1), (2,))).eval(), torch.rand(1, 1, 8, 8)
    first, second = (made.shown(each, stage) for stage, each in enumerate(made.findings(images)))
    assert torch.equal(made(images), torch.stack([first[:, 1], second[:, 0], first[:, 0]], dim=1))


def test_probabilities_can_be_shown_instead():
    made, images = networks(((1, 2),), mode="prob").eval(), torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(made(images), made.networks[0](images).softmax(dim=1)[:, 1:])


def test_stages_hold_every_organ_once():
    assert organ_stages("stratified", 5, [4, 2]) == ((2, 4), (1, 3, 5))
    assert organ_stages("joint", 3, [2]) == ((1, 2, 3),)
    assert organ_stages("stratified", 2, []) == ((1, 2),)
    assert organ_stages("stratified", 2, [1, 2]) == ((1, 2),)
    with pytest.raises(InputError, match="anchors: found 6, expected numbers of organs, from 1 to 5"):
        organ_stages("stratified", 5, [6])


def test_organs_of_other_stages_are_background_and_the_unknown_stays_so():
    assert stage_labels(torch.tensor([0, 1, 2, 3, 255]), (2, 3)).tolist() == [0, 0, 1, 2, 255]


def test_disturbed_maps_are_eroded_dilated_dropped_or_whole():
    maps = torch.zeros(400, 1, 7, 7)
    maps[:, :, 2:5, 2:5] = 1
    torch.manual_seed(0)
    sizes = disturbed(maps).sum(dim=(1, 2, 3))
    shares = {size: float((sizes == size).float().mean()) for size in (0.0, 1.0, 9.0, 25.0)}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[0] == pytest.approx(0.1, abs=0.05)
    assert shares[1] == pytest.approx(0.3, abs=0.08)
    assert shares[25] == pytest.approx(0.3, abs=0.08)
    assert disturbed(torch.ones(1, 2, 5, 5, 5)).shape == (1, 2, 5, 5, 5)


def test_windows_of_a_patch_give_the_logits_of_the_whole_where_nothing_depends_on_the_place():
    pytest.importorskip("monai")
    point = torch.nn.Conv2d(1, 3, 1)
    images = torch.rand(1, 1, 11, 9)
    torch.testing.assert_close(windowed(point, images, (4, 5)), point(images), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(windowed(point, images, (16, 4)), point(images), atol=1e-5, rtol=1e-5)
    assert torch.equal(windowed(point, images, None), point(images))


def test_small_windows_pass_together_and_large_ones_alone(monkeypatch):
    seen = []

    def network(windows):
        seen.append(len(windows))
        return windows

    monkeypatch.setattr("ommatid.dense.organ_maps.AT_ONCE", 100)
    windowed(network, torch.rand(1, 1, 16, 16), (4, 5))
    assert max(seen) == 5
    seen.clear()
    windowed(network, torch.rand(1, 1, 16, 16), (16, 12))
    assert set(seen) == {1}


# --- maps beside volumes ---


def test_packed_layers_come_back_even_from_single_precision():
    layers = [torch.tensor([255, 0, 3]), torch.tensor([1, 255, 0]), torch.tensor([255, 9, 255])]
    back = unpacked(packed(layers).float().long(), 3)
    assert all(torch.equal(*pair) for pair in zip(back, layers, strict=True))


@pytest.mark.parametrize("settings", [{"patch": [6, 8]}, {"augment": "affine"}, {"patch": [8, 8], "augment": "affine"}])
def test_maps_are_cropped_and_turned_as_the_volume_is(settings):
    """Where the found map is the true one, it stays so whatever is drawn."""
    data = phantoms(**settings)
    found = [[stage_labels(sample.organs, organs) for organs in STAGES] for sample in data.volumes("train").each()]
    maps = TrainingMaps(STAGES, found)
    torch.manual_seed(0)
    batch = volume_batch([MappedVolumes(data, maps)[number] for number in range(6)])
    truth = unpacked(batch.organs, 1)[0]
    for shown, organs in zip(maps.of(batch), STAGES, strict=True):
        assert torch.equal(shown, one_hot(stage_labels(truth, organs), len(organs)))
    assert MappedVolumes(data, maps).draws


def test_a_part_has_the_volumes_it_is_told():
    volumes = MappedVolumes(phantoms(), TrainingMaps(()))
    part = Part(volumes, [4, 1])
    assert len(part) == 2
    assert torch.equal(part[0].image, volumes[4].image)
    assert part[1].index == 1
    assert not part.draws


def test_true_maps_are_shown_where_none_were_found():
    data = phantoms()
    batch = data.first_batch("train", 3)
    [shown] = TrainingMaps((tuple(range(1, 9)),)).of(batch)
    assert torch.equal(shown, one_hot(batch.organs, 8))
    assert TrainingMaps(()).of(batch) == []


# --- training ---


def test_maps_of_a_volume_are_by_networks_that_did_not_see_it():
    """Whatever its true organs are, they change nothing in what is found of it."""
    plain, other = phantoms(), phantoms()
    first = train_organs(networks(), plain, HOW, None)
    cases = other.sets["train"]
    changed = replace(cases[0], organs=(cases[0].organs + 3) % 9)
    other.sets["train"] = replace(cases, volumes=(changed, *cases.volumes[1:]))
    second = train_organs(networks(), other, HOW, None)
    # Of the second stage, too: its inputs are out of fold already.
    assert torch.equal(first[0][0], second[0][0])
    assert any(not torch.equal(one[0], two[0]) for one, two in zip(first, second, strict=True))


def test_every_network_is_trained_for_the_same_updates(updates):
    train_organs(networks(), phantoms(), HOW, None)
    assert updates() == 2 * (3 + 1) * HOW.steps
    train_organs(networks(), phantoms(), replace(HOW, folds=0), None)
    assert updates() == (2 * (3 + 1) + 2) * HOW.steps


def test_draws_before_do_not_matter_and_none_are_left_behind():
    first, second = networks(), networks()
    torch.manual_seed(0)
    train_organs(first, phantoms(), HOW, None)
    after = torch.rand(1)
    torch.manual_seed(7)
    train_organs(second, phantoms(), HOW, None)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_files_are_used_again(tmp_path, updates):
    first, second = networks(), networks()
    found = train_organs(first, phantoms(), HOW, tmp_path)
    done = updates()
    again = train_organs(second, phantoms(), HOW, tmp_path)
    assert updates() == done
    for one, two in zip(found, again, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, two, strict=True))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    [folder] = tmp_path.iterdir()
    assert (folder / MANIFEST).is_file()
    assert len(list(folder.glob("train_*.npz"))) == 2 * 6
    assert not list(folder.glob(".*"))


def test_what_is_missing_or_damaged_is_made_again_and_nothing_else(tmp_path, updates):
    found = train_organs(networks(), phantoms(), HOW, tmp_path)
    done = updates()
    [folder] = tmp_path.iterdir()
    damaged = folder / "train_002.1.npz"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    again = train_organs(networks(), phantoms(), HOW, tmp_path)
    assert updates() == done + HOW.steps, "one fold of one stage"
    assert torch.equal(found[2][1], again[2][1])


def other_stations(data):
    """Patches lie where stations are."""
    train = data.sets["train"]
    flipped = tuple(replace(each, labels=each.labels.flip(0)) for each in train.volumes)
    data.sets["train"] = replace(train, volumes=flipped)
    return data


@pytest.mark.parametrize(
    "change",
    [
        lambda data, how: (data, replace(how, steps=1)),
        lambda data, how: (data, replace(how, folds=2)),
        lambda data, how: (phantoms(seed=1), how),
        lambda data, how: (phantoms(batch_size=1), how),
        lambda data, how: (phantoms(augment="affine"), how),
        lambda data, how: (other_stations(data), how),
    ],
)
def test_other_settings_and_other_volumes_have_files_of_their_own(tmp_path, change):
    train_organs(networks(), phantoms(), HOW, tmp_path)
    train_organs(networks(), *change(phantoms(), HOW), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_other_code_has_files_of_its_own(tmp_path, monkeypatch):
    train_organs(networks(), phantoms(), HOW, tmp_path)
    (tmp_path / "changed.py").write_text("# another version\n")
    monkeypatch.setattr("ommatid.nn.unet_nd.__file__", str(tmp_path / "changed.py"))
    train_organs(networks(), phantoms(), HOW, tmp_path)
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == 2


def test_probabilities_are_kept_too(tmp_path):
    made = networks(mode="prob")
    found = train_organs(made, phantoms(), replace(HOW, folds=2), tmp_path)
    assert found[0][1].shape == (6, 16, 16)
    maps, batch = TrainingMaps(STAGES, found, "prob"), phantoms().first_batch("train", 4)
    torch.testing.assert_close(maps.of(batch)[0], torch.stack([found[case][0] for case in range(4)]).float())


def test_no_network_but_its_own_stage_moves_and_all_learn():
    made, before = networks(), networks().state_dict()
    train_organs(made, phantoms(), replace(HOW, folds=0), None)
    assert all(not torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_a_folder_that_cannot_be_written_and_too_few_volumes_are_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="expected a folder that can be written: name one as organ_folder"):
        train_organs(networks(), phantoms(), HOW, tmp_path / "file")
    with pytest.raises(InputError, match="folds: found 9 for 6 training volumes, expected fewer"):
        train_organs(networks(), phantoms(), replace(HOW, folds=9), None)


def test_a_store_without_a_folder_remembers():
    store = MapStore(None, {})
    store.keep("a", {"x": np.arange(3)})
    assert store.find("a")["x"].tolist() == [0, 1, 2]
    assert store.find("b") is None


# --- scores ---


def test_organ_dice_is_a_mean_over_volumes():
    made, data = networks().eval(), phantoms()
    found = organ_dice(made, data, "test")
    batch = data.first_batch("test", 4)
    with torch.no_grad():
        maps = made(batch.images)
    truth = one_hot(batch.organs, 8)
    overlap, total = (maps * truth).sum(dim=(2, 3)), (maps + truth).sum(dim=(2, 3))
    torch.testing.assert_close(found, (2 * overlap / total).nanmean(dim=0), equal_nan=True)


def test_the_ranking_counts_pairs():
    assert rank_auc(torch.tensor([3.0, 2.0, 1.0]), (1, 2)) == 1
    assert rank_auc(torch.tensor([1.0, 2.0, 3.0]), (1,)) == 0
    assert rank_auc(torch.tensor([2.0, 2.0, 2.0]), (3,)) == 0.5
