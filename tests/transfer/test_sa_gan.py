"""SA-GAN: three stages in one training, what each of them moves, and what comes of them for a user."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ommatid.data.worlds.attributes import AttributeWorld
from ommatid.data.zero_shot import write_xlsa17
from ommatid.engine.fit import evaluate, fit, seed
from ommatid.engine.runs import RunDir
from ommatid.engine.settings import build, merge
from ommatid.engine.sweep import Job, run_job
from ommatid.errors import InputError
from ommatid.losses.relative_distance import relative_distance_loss
from ommatid.transfer.sa_gan import RAW, SAGAN
from ommatid.transfer.zero_shot_classifier import fit_softmax
from ommatid.transfer.zero_shot_data import ZeroShotData
from ommatid.transfer.zero_shot_task import CHOOSING, TESTING

WORLD = {"seen": 6, "kept_back": 2, "unseen": 3, "train": 20, "test": 10, "feature_dim": 24, "attribute_dim": 5}
SMALL = {
    "latent_dim": 8,
    "embedding_dim": 16,
    "hidden_dim": 16,
    "structure_dim": 8,
    "embedding_steps": 5,
    "generator_steps": 4,
    "critic_steps": 2,
    "zsl_samples": 10,
    "gzsl_samples": 10,
    "classifier_steps": 20,
    "classifier_lr": 0.01,
    "recipe": {"lr": 1e-3},
}
QUIET = {"max_epochs": -1, "limit_val_batches": 0, "accelerator": "cpu"}


def data_of(protocol="validation", **settings):
    return ZeroShotData(protocol=protocol, world=WORLD, batch_size=16, **settings)


@pytest.fixture(scope="module")
def data():
    return data_of()


def made(data, **settings):
    seed(0)
    method = build(SAGAN, {**SAGAN.arguments_from(data), **SMALL, **settings})
    method.adopt(data)
    return method


def trained(data, run=None, trainer=None, resume=False, **settings):
    method = made(data, **settings)
    fit(method, data, run, {**QUIET, **(trainer or {})}, resume=resume)
    return method


def weights(method, *parts):
    return {key: value.clone() for key, value in method.state_dict().items() if not parts or key.startswith(parts)}


class Watched(SAGAN):
    """Writes down which optimisers move."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.save_hyperparameters(logger=False)
        self.moved = []

    def update(self, *names, loss):
        super().update(*names, loss=loss)
        self.moved.append(names)


# -- stages --


def test_stages_follow_each_other_by_numbers_of_updates_and_end_the_training(data):
    seed(0)
    method = Watched(**{**SAGAN.arguments_from(data), **SMALL, "recipe": SAGAN(feature_dim=4).recipe})
    fit(method, data, trainer=QUIET)
    rounds = [("critic", "structure")] * 2 + [("generator",)]
    assert method.moved == [("embedding",)] * 5 + rounds * 4


@pytest.mark.parametrize("steps", [4, 6, 9])
def test_a_round_may_end_inside_of_an_epoch_or_with_it(steps, data):
    """An epoch has six batches here."""
    method = trained(data, embedding_steps=steps, generator_steps=1)
    assert method.trainer.fit_loop.epoch_loop._batches_that_stepped == steps + 3


def test_the_latent_space_rests_while_the_generator_learns(data):
    first, later = trained(data, generator_steps=1), trained(data, generator_steps=4)
    resting = ("embed.", "decode.", "judge.", "prototypes", "scale", "temperature")
    for key, value in weights(first, *resting).items():
        assert torch.equal(value, later.state_dict()[key]), key
    for key, value in weights(first, "generator.", "critic.", "structure_critic.").items():
        assert not torch.equal(value, later.state_dict()[key]), key


def test_every_parameter_learns_and_stays_finite(data):
    before, method = weights(made(data)), trained(data)
    for key, value in method.named_parameters():
        assert value.isfinite().all(), key
        assert not torch.equal(before[key], value), key
        assert value.requires_grad, key


def test_a_training_that_is_too_short_for_the_generator_is_refused(data):
    with pytest.raises(InputError, match=r"embedding_steps is 50, but the training has 12 batches, expected more"):
        trained(data, embedding_steps=50, trainer={"max_epochs": 2})


def test_a_killed_training_goes_on_to_the_same_weights(data, tmp_path):
    whole = trained(data)
    run = RunDir.create(tmp_path, "sa-gan")
    for epochs in (1, 2):  # ended behind the embedding, then amid the rounds
        trained(data, run, {"max_epochs": epochs}, resume=epochs > 1)
    resumed = trained(data, run, resume=True)
    again = trained(data, run, resume=True)  # nothing is left to do
    for key, value in weights(whole).items():
        assert torch.equal(value, resumed.state_dict()[key]), key
        assert torch.equal(value, again.state_dict()[key]), key
        assert torch.equal(value, SAGAN.load(run.last).state_dict()[key]), key


# -- the latent space --


def test_class_means_and_what_is_measured_at_the_switch(data):
    method = trained(data)
    features, labels = data.tensors("train")
    expected = torch.stack([features[labels == number].mean(dim=0) for number in range(6)])
    torch.testing.assert_close(method.class_means, expected)
    with torch.no_grad():
        latents = method.embed(features)
        scale = latents.std(dim=0).mean()
        torch.testing.assert_close(method.scale, scale)
        torch.testing.assert_close(method.prototypes, method.embed(expected) / scale)
        distances = (latents[:, None] / scale - method.prototypes).square().mean(dim=2)
        torch.testing.assert_close(method.temperature, distances.mean() / 3)
        torch.testing.assert_close(method.place(features).std(dim=0).mean(), torch.ones(()))


def test_the_loss_of_the_space_is_the_weighted_sum_of_its_parts(data):
    method, (features, labels) = made(data, constraint_weight=3.0, decoding_weight=2.0), data.tensors("train")
    loss, parts = method.embedding_loss(features, labels)
    torch.testing.assert_close(loss, parts["classes"] + 3 * parts["constraint"] + 2 * parts["decoding"])
    latents, moved = method.embed(features), method.embed(method.class_means)
    expected = relative_distance_loss(features, method.class_means, latents, moved)
    torch.testing.assert_close(parts["constraint"], expected)
    assert set(made(data, **LEAST).embedding_loss(features, labels)[1]) == {"classes"}


LEAST = {"constraint_weight": 0.0, "decoding_weight": 0.0, "structure_weight": 0.0, "reconstruction_weight": 0.0}


def test_the_constraint_keeps_distances(data):
    kept, lost = (
        trained(data, **LEAST, embedding_steps=80),
        trained(data, **LEAST | {"constraint_weight": 10.0}, embedding_steps=80),
    )
    assert lost.read_outs(data)["distances_changed"] < 0.7 * kept.read_outs(data)["distances_changed"]


# -- the adversaries --


def test_the_loss_of_the_generator_is_the_weighted_sum_of_its_parts(data):
    method, batch = trained(data, structure_weight=0.7, reconstruction_weight=2.0, class_weight=0.3), data.first_batch()
    method.zero_grad()
    loss, parts = method.generation_loss(batch)
    expected = parts["generator"] + 0.7 * parts["affinity"] + 2 * parts["reconstruction"] + 0.3 * parts["judged"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert {key.partition(".")[0] for key, value in method.named_parameters() if value.grad is not None} == {
        "generator"
    }


def test_each_critic_is_taught_by_its_own_part(data):
    method = trained(data)
    method.zero_grad()
    loss, parts = method.criticism_loss(data.first_batch())
    assert set(parts) == {"critic", "structure"}
    torch.testing.assert_close(loss, parts["critic"] + parts["structure"])
    loss.backward()
    moved = {key.partition(".")[0] for key, value in method.named_parameters() if value.grad is not None}
    assert moved == {"critic", "structure_critic"}


def test_affinities_to_the_seen_classes_are_what_the_structure_critic_reads(data):
    method = trained(data)
    near = method.affinity(method.place(data.first_batch().features))
    assert near.shape == (16, 6)
    torch.testing.assert_close(near.sum(dim=1), torch.ones(16))
    assert method.structure_critic.layers[0].in_features == 6 + 5


def test_raw_features_are_a_configuration(data):
    """f-CLSWGAN: samples of features themselves, which are not negative."""
    method = trained(data, **RAW)
    features = data.tensors("train")[0]
    assert torch.equal(method.place(features), features)
    assert method.made_up(method.attributes, 5)[0].min() >= 0
    assert method.structure_critic is None
    assert set(method.phases()) == {"embedding", "generator", "critic"}
    assert evaluate(method, data, "test", {"accelerator": "cpu"})["S"] > 0
    assert method.read_outs(data)["distances_changed"] == pytest.approx(0.0, abs=1e-6)


# -- the last stage --


def test_real_samples_of_unseen_classes_would_be_recognised_better():
    """The bound of what made-up samples can reach: the same classifier on real ones."""
    data = data_of()
    method = trained(data, embedding_steps=60, generator_steps=10)
    features, labels = data.tensors("test")
    unseen = labels >= 8
    with torch.no_grad():
        latents = method.place(features[unseen])
    weight, bias = fit_softmax(latents, labels[unseen] - 8, 3, steps=300, lr=0.05)
    oracle = float(((latents @ weight.T + bias).argmax(dim=1) == labels[unseen] - 8).float().mean())
    assert oracle >= evaluate(method, data, "test", {"accelerator": "cpu"})["T1"]
    assert oracle > 0.8


def test_one_training_gives_classifiers_among_new_and_among_all_classes_of_both_tasks(data):
    weight = trained(data).classifiers.weight
    filled = weight.abs().sum(dim=-1) > 0
    assert filled[CHOOSING].int().tolist() == [[1] * 8 + [0] * 3, [0] * 6 + [1] * 2 + [0] * 3]
    assert filled[TESTING].int().tolist() == [[1] * 6 + [0] * 2 + [1] * 3, [0] * 8 + [1] * 3]


def test_settling_again_changes_nothing_and_draws_nothing(data):
    method = trained(data)
    before, state = method.classifiers.weight.clone(), torch.get_rng_state()
    method.settle()
    assert torch.equal(before, method.classifiers.weight)
    assert torch.equal(state, torch.get_rng_state())


def test_a_validation_inside_of_training_changes_nothing(data):
    alone, watched = trained(data), trained(data, trainer={"limit_val_batches": 1.0})
    for key, value in weights(alone).items():
        assert torch.equal(value, watched.state_dict()[key]), key


def test_validation_keeps_a_checkpoint_that_can_classify(data, tmp_path):
    run = RunDir.create(tmp_path, "sa-gan")
    trained(data, run, {"limit_val_batches": 1.0})
    assert SAGAN.load(run.best).classifiers.weight.any()
    assert Image.open(run.path / "latent.png").width > 100


def test_the_final_protocol_has_no_best_checkpoint(tmp_path):
    data, run = data_of("test"), RunDir.create(tmp_path, "sa-gan")
    method = trained(data, run, {"limit_val_batches": 1.0})
    assert run.last.is_file()
    assert not run.best.is_file()
    assert set(evaluate(method, data, "test", {"accelerator": "cpu"})) == {"T1", "U", "S", "H"}


@pytest.mark.parametrize("settings", [{}, RAW])
def test_classifiers_can_see_features_instead_of_latents(settings, data):
    method = trained(data, classify_in="feature", **settings)
    assert method.classifiers.weight.shape[-1] == 24
    assert evaluate(method, data, "test", {"accelerator": "cpu"})["S"] > 0.1


# -- for a user --


def test_samples_are_recognised_among_classes_that_have_a_description_only(data, tmp_path):
    method = trained(data, embedding_steps=60, generator_steps=20)
    np.save(tmp_path / "mine.npy", data.source.features[:4].numpy())
    found = method.predict(tmp_path / "mine.npy", top=2)
    assert [len(sample) for sample in found.classes] == [2] * 4
    assert found.map.given.shape == (4, 2)
    found.draw(tmp_path / "found.png")
    assert Image.open(tmp_path / "found.png").width > 200
    header = "class," + ",".join(f"a{number}" for number in range(5))
    (tmp_path / "new.csv").write_text(f"{header}\nokapi,1,0,0,1,0\nquagga,0,1,0,-1,0\n")
    new = method.predict(tmp_path / "mine.npy", attributes=tmp_path / "new.csv", classes="unseen")
    assert {name for sample in new.classes for name, _ in sample} == {"okapi", "quagga"}
    assert new.map.class_names == ["okapi", "quagga"]
    everything = method.predict(tmp_path / "mine.npy", attributes=tmp_path / "new.csv", top=20)
    assert len(everything.classes[0]) == 6 + 2
    assert json.dumps(new.to_json())


def test_a_new_class_is_recognised_by_a_checkpoint_without_the_data(data, tmp_path):
    """A class of the world that was in no table of training: its description comes with the question."""
    method = trained(
        data, embedding_steps=60, generator_steps=60, zsl_samples=50, classifier_steps=200, recipe={"lr": 5e-3}
    )
    loaded = SAGAN.load(method.save(tmp_path / "method.safetensors"))
    source = data.source
    rows = source.splits["test_unseen"]
    np.save(tmp_path / "mine.npy", source.features[rows].numpy())
    names = [source.class_names[number] for number in source.unseen.tolist()]
    lines = [
        ",".join([f"my {name}", *map(str, source.attributes[number].tolist())])
        for name, number in zip(names, source.unseen, strict=True)
    ]
    (tmp_path / "new.csv").write_text("\n".join(["class,a,b,c,d,e", *lines]))
    mine = loaded.predict(tmp_path / "mine.npy", attributes=tmp_path / "new.csv", classes="unseen")
    own = loaded.predict(tmp_path / "mine.npy", classes="unseen")
    assert [sample[0][0] for sample in mine.classes] == [f"my {sample[0][0]}" for sample in own.classes]
    right = [
        sample[0][0] == source.class_names[int(label)]
        for sample, label in zip(own.classes, source.labels[rows], strict=True)
    ]
    assert np.mean(right) > 0.5


def test_the_benchmark_layout_can_be_trained_on(tmp_path):
    write_xlsa17(AttributeWorld(**WORLD).draw(), tmp_path / "sets", "CUB")
    data = ZeroShotData(str(tmp_path / "sets"), dataset="CUB", batch_size=16)
    method = trained(data)
    assert set(evaluate(method, data, "test", {"accelerator": "cpu"})) == {"T1", "U", "S", "H"}


# -- settings --

FULL = {
    "AWA": {"feature_dim": 2048, "attribute_dim": 85, "num_seen": 40, "num_unseen": 10},
    "CUB": {"feature_dim": 2048, "attribute_dim": 312, "num_seen": 150, "num_unseen": 50},
    "SUN": {"feature_dim": 2048, "attribute_dim": 102, "num_seen": 645, "num_unseen": 72},
    "APY": {"feature_dim": 2048, "attribute_dim": 64, "num_seen": 20, "num_unseen": 12},
    "FLO": {"feature_dim": 2048, "attribute_dim": 1024, "num_seen": 82, "num_unseen": 20},
}


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("settings", [{}, RAW])
def test_full_sizes_are_those_of_the_benchmarks(name, settings):
    sizes = FULL[name]
    with torch.device("meta"):
        method = SAGAN(**sizes, **settings)
        logits = method.decide(torch.empty(2, 2048), torch.empty(2, dtype=torch.long))[0]
        made_up = method.generator(torch.empty(2, sizes["attribute_dim"]))
    width = 2048 if settings else 512
    assert made_up.shape == (2, width)
    assert logits.shape == (2, sizes["num_seen"] + sizes["num_unseen"])
    assert method.generator.layers[0].weight.shape == (4096, 2 * sizes["attribute_dim"])
    assert method.critic.layers[0].weight.shape == (4096, width + sizes["attribute_dim"])


def test_impossible_settings_are_refused(data):
    with pytest.raises(InputError, match="critic_steps must be at least 1, found 0"):
        made(data, critic_steps=0)
    with pytest.raises(InputError, match="decoding_weight is 0: there is no way back from the latent space"):
        made(data, decoding_weight=0.0)
    with pytest.raises(InputError, match="decoding_weight is 0"):
        made(data, **LEAST, classify_in="feature")


@pytest.mark.parametrize("claim", SAGAN.claims, ids=lambda claim: claim.name)
def test_arms_differ_by_the_part_in_question_and_are_tuned_alike(claim):
    method, baseline = (
        next(arm.model for arm in claim.arms.values() if arm.role == role) for role in ("method", "baseline")
    )
    differing = {name for name in method.keys() | baseline.keys() if method.get(name) != baseline.get(name)}
    assert differing == {"sa-gan": {"constraint_weight"}, "sa-gan-structure": {"structure_weight"}}[claim.name]
    assert len(claim.arms) == 6
    for arm in claim.arms.values():
        assert not {"generator_steps", "embedding_steps"} & arm.model.keys(), "the lengths are tuned, for all alike"
        assert not arm.data


@pytest.mark.parametrize("arm", SAGAN.claims[0].arms)
def test_every_arm_trains_and_is_scored_on_classes_to_choose_by_and_to_test(arm):
    claim = SAGAN.claims[0]
    short = {**SMALL, "embedding_steps": 2, "generator_steps": 1}
    model = merge(claim.model, claim.arms[arm].model, short)
    for split in ("val", "test"):
        job = Job("ommatid.transfer.sa_gan:SAGAN", model, {**claim.data, "world": WORLD}, claim.trainer, 0, split)
        outcome = run_job(job)
        assert set(outcome.metrics) == {"T1", "U", "S", "H"}
        assert outcome.read_outs["distances_changed"] >= 0
