from pathlib import Path

import pytest
import torch

from dense.made_volumes import parameters, phantoms, stationing, trained
from ommatid.data.volume_files import read_volume, write_nifti
from ommatid.data.worlds.phantoms import PhantomWorld
from ommatid.dense.deep_stationing import DeepStationing
from ommatid.dense.gate_draw import draw_gates
from ommatid.dense.organ_context import resized
from ommatid.dense.organ_maps import one_hot
from ommatid.dense.station_batches import FINAL, GATES, WEIGHTS, StageSampler, divided
from ommatid.dense.volume_data import VolumeData
from ommatid.dense.volume_metrics import volume_scores
from ommatid.engine.export import export_method
from ommatid.engine.fit import evaluate
from ommatid.engine.runs import RunDir
from ommatid.engine.settings import build, merge
from ommatid.errors import InputError
from ommatid.losses.dice_cross_entropy import deeply_supervised

ALL = {"kept": None}
KINDS = ["stratified", "joint", "truth", "shuffled", "none"]


@pytest.fixture(scope="module")
def done():
    """A whole training."""
    made, data = stationing(), phantoms()
    before = parameters(made)
    trainer = trained(made, data)
    return made, data, before, trainer


# --- the networks ---


def test_the_published_size_builds():
    with torch.device("meta"):
        made = build(DeepStationing, {})
    assert made.context.networks.stages[0] == (2, 5, 6, 7, 8, 9, 10, 11, 12, 13)
    inputs = {
        "anchors": made.context.networks.networks[0],
        "others": made.context.networks.networks[1],
        "search": made.searcher,
        "stations": made.network,
    }
    channels = {name: network.down[0][0].in_channels for name, network in inputs.items()}
    assert channels == {"anchors": 1, "others": 11, "search": 23, "stations": 7}
    assert made.network.strides == [(2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)]
    assert made.network.heads[0].out_channels == 13


@pytest.mark.parametrize(("kind", "seen"), list(zip(KINDS, [8, 8, 8, 8, 0], strict=True)))
def test_the_station_network_sees_a_map_of_every_organ(kind, seen):
    made = stationing(organs=kind, **ALL)
    assert made.network.down[0][0].in_channels == 1 + seen
    assert made.searcher is None
    assert made.gate is None
    assert (made.context.networks is not None) == (kind in ("stratified", "joint", "shuffled"))


def test_controls_have_as_many_parameters():
    counts = [stationing(organs=kind, **ALL).parameter_count() for kind in ("stratified", "joint", "truth", "shuffled")]
    assert len(set(counts)) == 1
    assert stationing(organs="none", **ALL).parameter_count() == counts[0] - 8 * 9 * 4


def test_logits_are_those_of_volumes_beside_the_organs_that_were_chosen():
    made, batch = stationing().eval(), phantoms().first_batch("test", 3)
    made.chosen.copy_(torch.tensor([1, 4, 7]))
    maps = made.context.networks(batch.images)
    expected = made.network(torch.cat([batch.images, maps[:, [1, 4, 7]]], dim=1))
    assert torch.equal(made(batch), expected)


# --- which maps are seen ---


def test_true_maps_are_those_of_the_data():
    batch = phantoms().first_batch("test", 3)
    assert torch.equal(stationing(organs="truth", **ALL).context(batch), one_hot(batch.organs, 8))
    assert stationing(organs="none", **ALL).context(batch).shape == (3, 0, 16, 16)


def test_training_shows_maps_that_were_found_out_of_fold():
    made, data = stationing(), phantoms()
    made.adopt(data)
    batch = next(iter(made.training_loader())).weights
    shown = made.context.taught(batch)
    for row, case in enumerate(batch.index.tolist()):
        anchors, others = made.context.found[case]
        expected = torch.cat([one_hot(anchors[None].long(), 2), one_hot(others[None].long(), 6)], dim=1)[0]
        # The anchors of the world are its organs 1 and 2.
        assert torch.equal(shown[row], expected)


def test_without_folds_training_shows_true_maps_that_are_disturbed():
    made, data = stationing(oof=False), phantoms()
    made.adopt(data)
    assert made.context.found is None
    batch = next(iter(made.training_loader())).weights
    truth = one_hot(batch.organs, 8)
    torch.manual_seed(0)
    shown = [made.context.taught(batch) for _ in range(20)]
    assert torch.stack([(each == truth).float().mean() for each in shown]).min() > 0.8
    assert any(not torch.equal(each, truth) for each in shown)


def test_maps_of_another_volume_are_those_of_the_next_training_volume():
    made, data = stationing(organs="shuffled", **ALL), phantoms()
    made.adopt(data)
    training, networks = data.first_batch("train", 6), made.context.networks.eval()
    found = networks(training.images)
    batch = next(iter(made.training_loader())).final
    assert torch.equal(made.context.taught(batch), found[(batch.index + 1) % 6])
    test = data.first_batch("test", 4)
    assert torch.equal(made.context(test), found[1:5])
    # A trained one borrows them again.
    made.context.found = None
    with pytest.raises(InputError, match="organs is 'shuffled', which borrows maps of training volumes"):
        made(test)
    made.align(data)
    assert torch.equal(made.context(test), found[1:5])


def test_maps_are_borrowed_in_the_size_of_the_volume():
    labels = torch.arange(16).view(4, 4)
    assert resized(labels, [2, 4]).shape == (2, 4)
    assert resized(torch.rand(3, 4, 4), [8, 2]).shape == (3, 8, 2)


# --- training ---


def test_one_training_moves_everything_but_the_organ_networks(done):
    made, data, before, trainer = done
    organs = stationing()
    organs.adopt(data)
    for name, value in made.named_parameters():
        if name.startswith("context."):
            assert torch.equal(value, organs.state_dict()[name]), "as adopt trained it"
        else:
            assert not torch.equal(value, before[name]), name
    # Three batches an epoch, seven updates; the gates learn in three of the four of the search.
    assert trainer.current_epoch == 3
    assert trainer.global_step == 4 + 3 + 3


def test_the_organs_of_the_most_open_gates_are_kept(done):
    made, *_ = done
    assert torch.equal(made.chosen, made.gate.kept(3))
    torch.testing.assert_close(made.gate_path[-1], made.gate.differences())
    assert not torch.equal(made.gate_path[0], made.gate_path[-1])


def test_gates_rest_in_the_warm_up_and_weights_while_gates_learn():
    made = stationing(organs="truth", search_steps=8, search_warmup=0.5)
    trained(made)
    path = made.gate_path
    assert torch.equal(path[: len(path) // 2], torch.full_like(path[: len(path) // 2], 2.0))
    assert not torch.equal(path[-1], path[0])
    made, data = stationing(organs="truth", search_steps=8, search_warmup=0.0), phantoms()
    made.adopt(data)
    batch = next(iter(made.training_loader()))
    updated = []
    other = {"search": "gates", "gates": "search"}
    made.update = lambda name, loss: updated.append((name, slopes(loss, name), slopes(loss, other[name])))
    made.report = lambda **losses: None

    def slopes(loss, name):
        modules = {"search": made.searcher, "gates": made.gate}
        asked = [p for p in modules[name].parameters() if p.requires_grad]
        return torch.autograd.grad(loss, asked, allow_unused=True, retain_graph=True) if asked else ()

    made.search(batch, 0)
    assert [name for name, *_ in updated] == ["search", "gates"]
    assert all(gradient is not None for _, own, _ in updated for gradient in own)
    assert not any(gradient is not None for *_, others in updated for gradient in others)


def test_an_open_gate_costs_its_probability():
    """Between a free gate and a dear one lies the sparsity times the slope of the probability."""
    found = {}
    for sparsity in (0.0, 1.0):
        data = phantoms()
        made = stationing(organs="truth", search_steps=8, search_warmup=0.0, sparsity=sparsity)
        made.adopt(data)
        batch = next(iter(made.training_loader()))
        losses = {}
        made.update = lambda name, loss, losses=losses: losses.update({name: float(loss.detach())})
        made.report = lambda **losses: None
        torch.manual_seed(0)
        made.search(batch, 0)
        found[sparsity] = losses
    assert found[0.0]["search"] == found[1.0]["search"]
    assert found[1.0]["gates"] - found[0.0]["gates"] == pytest.approx(float(made.gate.probs().detach().sum()), abs=1e-4)


def test_temperatures_fall_while_gates_learn():
    made = stationing(organs="truth", search_steps=8, search_warmup=0.5, temperatures=[1.0, 0.5])
    seen = {}
    made.station_loss = lambda network, batch, maps: torch.zeros((), requires_grad=True)
    made.update = lambda name, loss: None
    made.report = lambda **losses: None
    made.adopt(phantoms())
    batch = next(iter(made.training_loader()))
    for number in (0, 4, 6):
        made.search(batch, number)
        seen[number] = made.gate.temperature
    assert seen == {0: 1.0, 4: 1.0, 6: 0.75}


def test_the_loss_is_that_of_all_scales():
    made, batch = stationing(organs="none", **ALL, widths=[4, 4, 4]), phantoms().first_batch("train", 2)
    expected = deeply_supervised(made.network.supervised(batch.images), batch.labels)
    torch.testing.assert_close(made.station_loss(made.network, batch, batch.images[:, :0]), expected)


def test_without_a_search_all_organs_are_seen_and_one_stage_is_trained():
    made = stationing(organs="truth", **ALL)
    trainer = trained(made)
    assert list(made.phases()) == ["stations"]
    assert trainer.global_step == 3
    assert made.chosen.tolist() == list(range(8))
    assert made.draw_training(Path("nowhere")) == []


@pytest.mark.parametrize(
    ("settings", "killed"),
    [
        ({}, {"max_steps": 5}),
        ({}, {"max_epochs": 2}),
        ({"gate": "softmax", "maps": "prob"}, {"max_steps": 5}),
        ({"oof": False, "organs": "joint"}, {"max_epochs": 2}),
    ],
    ids=["in the search", "after it", "probabilities", "disturbed"],
)
def test_a_killed_training_goes_on_where_it_was(tmp_path, settings, killed):
    whole, part, rest = (stationing(**settings) for _ in range(3))
    run = RunDir(tmp_path)
    trained(whole)
    # A limit stands for the kill; asked for, one within the first stage is refused.
    part.refuse_short = lambda *_: None
    trained(part, run=run, **killed)
    assert run.resume_state.is_file()
    trained(rest, run=run, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name


def test_organ_networks_are_read_from_their_files(tmp_path, monkeypatch):
    first, second = (stationing(organ_folder=str(tmp_path)) for _ in range(2))
    first.adopt(phantoms())
    monkeypatch.setattr("ommatid.dense.organ_training._StageTrainer.trained", None)
    second.adopt(phantoms())
    for name, value in first.context.state_dict().items():
        assert torch.equal(value, second.context.state_dict()[name])


def test_data_on_disk_keep_their_organ_maps_beside_them(tmp_path):
    pytest.importorskip("nibabel")
    PhantomWorld(**{"dimensions": 2, "train": 6, "val": 2, "test": 2, "size": 16}).write(tmp_path / "set")
    data = VolumeData(str(tmp_path / "set"), batch_size=2)
    made = stationing(data)
    trained(made, data)
    assert len(list((tmp_path / "set" / "organ-maps").iterdir())) == 1


def test_patches_and_turned_volumes_are_trained_with():
    pytest.importorskip("monai")
    data = phantoms(patch=[8, 8], augment="affine")
    made = stationing(data)
    assert made.hparams.patch == [8, 8]
    trained(made, data)
    assert evaluate(made, data, "test")["Dice"] >= 0
    with pytest.raises(InputError, match="maps is 'prob', but the data give patches or augmented volumes"):
        stationing(data, maps="prob").adopt(data)


def test_three_dimensions_train():
    data = phantoms(world={"dimensions": 3, "train": 4, "val": 1, "test": 2, "size": 16})
    made = stationing(data, in_plane=1)
    trained(made, data)
    assert made(data.first_batch("test", 1)).shape == (1, 5, 16, 16, 12)


def test_a_training_too_short_for_the_stations_is_refused():
    with pytest.raises(InputError, match="search_steps is 40, but the training has 6 batches, expected more"):
        trained(stationing(search_steps=40), max_epochs=2)


def test_epochs_that_are_cut_short_read_what_their_updates_need():
    made = stationing(organs="truth", search_steps=5)
    trainer = trained(made, limit_train_batches=2, max_epochs=8)
    assert trainer.num_training_batches == 2
    assert trainer.current_epoch > 3
    assert len(made.chosen) == made.hparams.kept


# --- batches ---


def test_a_search_reads_two_streams_that_share_no_volume():
    made, data = stationing(organs="truth", search_steps=5, search_warmup=0.4), phantoms()
    made.adopt(data)
    loader = made.training_loader()
    weights, gates = divided(6, 0.2, data.seed)
    read = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            parts = {name: getattr(batch, name) for name in (FINAL, WEIGHTS, GATES)}
            read.append([name for name, each in parts.items() if each is not None])
            if batch.weights is not None:
                assert set(batch.weights.index.tolist()) <= set(weights)
            if batch.gates is not None:
                assert set(batch.gates.index.tolist()) <= set(gates)
    assert read == [[WEIGHTS]] * 2 + [[WEIGHTS, GATES]] * 3 + [[FINAL]]


def test_an_epoch_shows_what_its_number_says():
    data = phantoms()

    def order(epoch):
        sampler = StageSampler(data, {FINAL: 6}, 0, 0)
        sampler.set_epoch(epoch)
        return [[drawn.number for drawn in step] for step in sampler]

    assert order(0) == order(0) != order(1)
    assert sorted(number for step in order(1) for number in step) == list(range(6))


def test_division_is_by_volume_and_never_changes():
    weights, gates = divided(120, 0.2, 0)
    assert len(gates) == 24
    assert divided(120, 0.2, 0) == (weights, gates) != divided(120, 0.2, 1)
    assert [len(part) for part in divided(2, 0.01, 0)] == [1, 1]


# --- inference ---


def test_a_split_is_scored_on_the_grid_of_its_files(done):
    pytest.importorskip("monai")
    made, data, *_ = done
    found = evaluate(made, data, "test")
    batch = data.first_batch("test", 4)
    with torch.no_grad():
        predicted = made.eval()(batch).argmax(dim=1)
    table = volume_scores(predicted, batch.truth, batch.truth_spacing, classes=4)["Dice"]
    assert found["Dice"] == pytest.approx(float(table.nanmean(dim=0).nanmean()), abs=1e-5)
    coarse = stationing(phantoms(spacing=[2.0, 2.0]))
    assert coarse.score(phantoms(spacing=[2.0, 2.0]).first_batch("test", 2))["Dice"].shape == (2, 4)


def written(folder, organs=False):
    pytest.importorskip("nibabel")
    phantom = PhantomWorld(dimensions=2, test=1, size=16).split("test")
    affine = torch.diag(torch.tensor([2.0, 3.0, 5.0, 1.0])).numpy()
    write_nifti(folder / "ct.nii.gz", (phantom.images[0] * 400 - 160).round().short()[..., None].numpy(), affine)
    write_nifti(folder / "organs.nii.gz", phantom.organs[0][..., None].numpy(), affine)
    return folder / "ct.nii.gz", folder / "organs.nii.gz"


def test_a_volume_of_ones_own_is_answered_on_its_own_grid(done, tmp_path):
    made, *_ = done
    image, organs = written(tmp_path)
    found = made.predict(image)
    assert found.labels.numel() == 256
    assert found.class_names == phantoms().class_names
    found.draw(tmp_path / "found.png")
    assert torch.equal(read_volume(tmp_path / "found.nii.gz").voxels.flatten().long(), found.labels.flatten())
    with pytest.raises(InputError, match=r"organs: found .*organs.nii.gz, expected none"):
        made.predict(image, organs)
    with pytest.raises(InputError, match=r"missing\.nii\.gz"):
        made.predict(tmp_path / "missing.nii.gz")


def test_given_organs_serve_a_method_of_true_maps(tmp_path):
    made = stationing(organs="truth", **ALL).eval()
    image, organs = written(tmp_path)
    found = made.predict(image, organs)
    phantom = PhantomWorld(dimensions=2, test=1, size=16).split("test")
    shown = ((phantom.images[0] * 400 - 160).round() + 160) / 400
    maps = one_hot(phantom.organs.long(), 8)
    expected = made.network(torch.cat([shown[None, None], maps], dim=1)).argmax(dim=1)
    assert torch.equal(found.labels.flatten(), expected.flatten())
    assert found.class_names[0] == "station 1"
    with pytest.raises(InputError, match="organs: found None, expected a label map of organs"):
        made.predict(image)


def test_a_method_of_slices_refuses_a_volume(tmp_path):
    pytest.importorskip("nibabel")
    write_nifti(tmp_path / "ct.nii", torch.zeros(8, 8, 8).numpy(), torch.eye(4).numpy())
    with pytest.raises(InputError, match=r"ct\.nii: found 3 axes, expected 2 as in training"):
        stationing().predict(tmp_path / "ct.nii")


def test_a_checkpoint_predicts_as_its_method(done, tmp_path):
    made, data, *_ = done
    loaded = DeepStationing.load(made.save(tmp_path / "m.safetensors"))
    batch = data.first_batch("test", 2)
    assert torch.equal(loaded(batch), made.eval()(batch))
    assert loaded.organ_names == list(data.organ_names)


def test_data_of_other_stations_or_organs_are_refused():
    with pytest.raises(InputError, match="world-phantoms: found 4 stations, expected the 6 of training"):
        stationing(num_classes=7).adopt(phantoms())
    with pytest.raises(InputError, match="world-phantoms: found 8 organs, expected the 5 of training"):
        stationing(num_organs=5).adopt(phantoms())
    stationing(num_organs=0, anchors=[], organs="none", **ALL).align(phantoms())


@pytest.mark.parametrize("kind", ["stratified", "truth", "none"])
def test_an_exported_program_gives_the_same_logits(kind, tmp_path):
    made = stationing(organs=kind, kept=None if kind == "none" else 3)
    assert export_method(made, tmp_path / "m.pt2", "torch") < 1e-3


# --- read-outs and drawings ---


def test_the_ranking_of_organs_is_read_out(done):
    made, data, *_ = done
    made.gate.logits.data[:, 1] = 0
    before = made.gate.logits.data[:, 0].clone()
    made.gate.logits.data[:, 0] = torch.tensor([3.0, 2.0, -1.0, 4.0, 0.0, 0.0, -5.0, -6.0])
    found = made.read_outs(data)
    made.gate.logits.data[:, 0] = before
    assert data.defining == (1, 2, 3, 4)
    # The third loses against two of the four others.
    assert found["rank AUC"] == pytest.approx(14 / 16)
    assert found["lowest defining gate"] == -1
    assert found["highest other gate"] == 0
    assert {"organ Dice", "anchor Dice", "other organ Dice"} <= set(found)


def test_the_criterion_of_the_ranking_is_its_distance_from_what_is_asked():
    claim = next(each for each in DeepStationing.claims if each.name == "deepstationing-search")
    asked = claim.criteria[0]
    plain = stationing(**ALL).read_outs(phantoms())
    arms = {"searched organs": {"rank AUC": 0.9, "rank AUC asked": 0.8}, "all organs": plain}
    assert asked.effect("searched organs", arms) == pytest.approx(0.1)


def test_gates_are_drawn(done, tmp_path):
    made, *_ = done
    assert made.draw_training(tmp_path) == [tmp_path / "gates.png"]
    assert (tmp_path / "gates.png").stat().st_size > 1000
    figure = draw_gates(torch.tensor([[2.0, 2.0], [1.0, 3.0]]), [1, 2], ["a", "b"], [1])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["b", "a"]


# --- claims and settings ---


@pytest.mark.parametrize("claim", DeepStationing.claims, ids=lambda claim: claim.name)
def test_arms_of_claims_build(claim):
    for arm in claim.arms.values():
        data = VolumeData(**merge(claim.data, arm.data))
        build(DeepStationing, merge(DeepStationing.arguments_from(data), claim.model, arm.model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"organs": "none", "kept": 3}, "kept is 3, but there are maps of 0 organs"),
        ({"kept": 9}, "kept is 9, but there are maps of 8 organs, expected at most as many, or None"),
        ({"num_organs": 0, "anchors": []}, "num_organs is 0, expected organ maps in the data, or organs 'none'"),
        ({"search_steps": 0}, "search_steps must be at least 1, found 0"),
        ({"steps": 0}, "steps must be at least 1, found 0"),
        ({"search_warmup": 1.0}, "search_warmup must lie from 0 to below 1, found 1.0"),
        ({"search_share": -0.1}, "search_share must lie from 0 to below 1, found -0.1"),
        ({"folds": 1}, "folds must be at least 2, found 1: for none, set oof to False"),
        ({"temperatures": [1.0]}, "temperatures: found .*, expected two above 0"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        stationing(**settings)


def test_what_the_data_decide_is_taken_from_them():
    found = DeepStationing.arguments_from(phantoms(patch=[8, 8], spacing=[2.0, 2.0]))
    assert found["num_classes"] == 5
    assert found["num_organs"] == 8
    assert found["anchors"] == [1, 2]
    assert found["dimensions"] == 2
    assert found["patch"] == [8, 8]
    assert found["spacing"] == [2.0, 2.0]
    data = phantoms()
    stationing(spacing=[2.0, 2.0]).align(data)
    assert data.first_batch("test", 1).images.shape[2:] == (8, 8)
