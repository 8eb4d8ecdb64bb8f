"""Every arm gets the same effort, and nothing is trained twice."""

import json
import math

import pytest

from engine.toy import Toy, run_here, toy_claim
from ommatid.engine.claim import Arm, Criterion, measure_effect
from ommatid.engine.experiment import Setup, run_claim
from ommatid.engine.settings import json_text
from ommatid.engine.sweep import Job, Outcome
from ommatid.errors import InputError

ARMS = ("intercept", "none", "slow")


@pytest.fixture
def ran(monkeypatch):
    """Jobs that ran, in this process; what they measure is made up from their settings, at once."""

    def measure(job: Job) -> Outcome:
        recipe = job.model.get("recipe", {})
        error = 1.0 + (not job.model.get("bias", True)) + 0.01 * (job.seed % 7) + recipe.get("lr", 0.1)
        metrics = {"error": error, "never": math.nan}
        return Outcome(metrics, {"slope": float(job.seed)}, seconds=0.5, peak_memory=100, parameters=4)

    return run_here(monkeypatch, measure)


def setup(folder, **changes) -> Setup:
    return Setup(**{"seeds": (0, 1, 2), "folder": folder, **changes})


def without_costs(record: dict) -> dict:
    arms = {
        name: {key: value for key, value in arm.items() if key not in ("seconds", "peak_memory")}
        for name, arm in record["arms"].items()
    }
    return {**record, "arms": arms}


# -- fairness --


def test_every_arm_is_tuned_on_the_same_grid_and_seeds(tmp_path, ran):
    run_claim(Toy, toy_claim(), setup(tmp_path))
    tuning = [job for job in ran if job.split == "val"]
    grids = {}
    for job in tuning:
        arm = "none" if job.model.get("bias") is False else "slow" if "momentum" in job.model["recipe"] else "intercept"
        tried = (job.model["recipe"]["lr"], job.model["recipe"]["clip_norm"], job.seed)
        grids.setdefault(arm, []).append(tried)
    assert set(grids) == set(ARMS)
    expected = {(lr, clip, seed) for lr in (0.01, 0.1) for clip in (None, 1.0) for seed in (1000, 1001)}
    for tried in grids.values():
        assert len(tried) == len(expected)
        assert set(tried) == expected


def test_every_training_has_the_same_data_and_budget(tmp_path, ran):
    claim = toy_claim()
    run_claim(Toy, claim, setup(tmp_path))
    assert all((job.data, job.trainer) == (claim.data, claim.trainer) for job in ran)
    final = [job for job in ran if job.split == "test"]
    for seed in (0, 1, 2):
        assert len([job for job in final if job.seed == seed]) == len(ARMS)


def test_tuning_looks_at_validation_and_the_experiment_at_test(tmp_path, ran):
    run_claim(Toy, toy_claim(), setup(tmp_path))
    assert {job.seed for job in ran if job.split == "val"} == {1000, 1001}
    assert {job.seed for job in ran if job.split == "test"} == {0, 1, 2}


@pytest.mark.parametrize(("direction", "lr"), [("lower", 0.01), ("higher", 0.1)])
def test_the_best_settings_of_the_grid_are_used(tmp_path, ran, direction, lr):
    record = run_claim(Toy, toy_claim(tuning_direction=direction), setup(tmp_path))
    assert all(arm["tuned"] == {"recipe.lr": lr, "recipe.clip_norm": None} for arm in record["arms"].values())
    assert {job.model["recipe"]["lr"] for job in ran if job.split == "test"} == {lr}
    tried = record["arms"]["none"]["tried"]
    assert len(tried) == 4
    assert tried[0] == {
        "recipe.lr": 0.01,
        "recipe.clip_norm": None,
        "error": pytest.approx(2.01 + 0.01 * (1000 % 7 + 1001 % 7) / 2),
    }


@pytest.mark.parametrize("lost", [{}, {"error": float("nan")}])
def test_a_setting_that_diverges_is_not_the_best(tmp_path, monkeypatch, lost):
    def measure(job):
        diverged = job.split == "val" and job.model["recipe"]["lr"] == 0.01
        return Outcome(lost if diverged else {"error": 1.0}, {}, 0.1, 1, 1)

    run_here(monkeypatch, measure)
    record = run_claim(Toy, toy_claim(), setup(tmp_path))
    assert record["arms"]["none"]["tuned"]["recipe.lr"] == 0.1
    assert [tried["error"] for tried in record["arms"]["none"]["tried"]] == [None, None, 1.0, 1.0]
    with pytest.raises(
        InputError, match="claim toy: no setting that was tried gave the arm 'intercept' a finite error"
    ):
        run_claim(Toy, toy_claim(tuning={"recipe.lr": (0.01,)}), setup(tmp_path / "other"))


def test_a_seed_that_diverges_leaves_the_claim_undecided(tmp_path, monkeypatch):
    def measure(job):
        lost = job.split == "test" and job.seed == 1 and job.model.get("bias") is False
        return Outcome({} if lost else {"error": 1.0}, {}, 0.1, 1, 1)

    run_here(monkeypatch, measure)
    record = run_claim(Toy, toy_claim(), setup(tmp_path))
    assert record["arms"]["none"]["metrics"]["error"] == [1.0, None, 1.0]
    values = record["criteria"][0]["values"]
    assert [math.isnan(value) for value in values] == [False, True, False]
    again = run_claim(Toy, toy_claim(), setup(tmp_path))
    assert again["verdict"] == record["verdict"] != "holds"


def test_what_sets_an_arm_apart_survives_the_tuning(tmp_path, ran):
    run_claim(Toy, toy_claim(), setup(tmp_path))
    final = [job for job in ran if job.split == "test"]
    assert next(job.model for job in final if job.model.get("bias") is False)["recipe"]["lr"] == 0.01
    assert any(job.model["recipe"].get("momentum") == 0.1 for job in final)


def test_an_arm_may_train_another_method(tmp_path, ran):
    arms = {"intercept": Arm("method"), "other": Arm("baseline", method="engine.toy:Adversaries")}
    claim = toy_claim(arms=arms, criteria=(Criterion("error", versus="other", direction="lower"),))
    record = run_claim(Toy, claim, setup(tmp_path))
    trained = {method: [job for job in ran if job.method == method] for method in {job.method for job in ran}}
    assert {method: len(jobs) for method, jobs in trained.items()} == {
        "engine.toy:Toy": 11,
        "engine.toy:Adversaries": 11,
    }
    ours, others = ([(job.model, job.data, job.seed, job.split) for job in jobs] for jobs in trained.values())
    assert sorted(map(str, ours)) == sorted(map(str, others))
    assert {name: arm["method"] for name, arm in record["arms"].items()} == {
        "intercept": None,
        "other": "engine.toy:Adversaries",
    }


def test_without_tuning_only_the_experiment_runs(tmp_path, ran):
    record = run_claim(Toy, toy_claim(), setup(tmp_path, tune=False))
    assert len(ran) == len(ARMS) * 3
    assert all(arm["tuned"] == {} and arm["tried"] == [] for arm in record["arms"].values())
    ran.clear()
    untuned = run_claim(Toy, toy_claim(tuning={}), setup(tmp_path / "other"))
    assert len(ran) == len(ARMS) * 3
    for each in (record, untuned):
        assert (each["tuning_seeds"], each["tuning_metric"], each["tuning_direction"]) == ([], None, None)


def test_the_record_says_what_the_tuning_looked_at(tmp_path, ran):
    record = run_claim(Toy, toy_claim(tuning_metric="slope"), setup(tmp_path))
    assert (record["tuning_seeds"], record["tuning_metric"], record["tuning_direction"]) == (
        [1000, 1001],
        "slope",
        "lower",
    )
    assert record["arms"]["none"]["tried"][0]["slope"] == 1000.5


@pytest.mark.parametrize(
    ("changes", "trainings"),
    [
        ({"tuning_metric": "eror"}, 1),
        ({"tuning": {}, "criteria": (Criterion("error", versus="none", beyond="eror"),)}, 1),
        ({"criteria": (Criterion("slope", versus="none"), Criterion("eror", versus="none"))}, 25),
    ],
)
def test_a_misspelt_metric_is_refused_after_the_first_training(tmp_path, ran, changes, trainings):
    with pytest.raises(InputError, match=r"^unknown metric of claim toy 'eror': did you mean 'error'\?$"):
        run_claim(Toy, toy_claim(**changes), setup(tmp_path))
    assert len(ran) == trainings


def test_an_arm_that_is_only_reported_may_lack_a_metric(tmp_path, monkeypatch):
    def measure(job):
        reported = "momentum" in job.model.get("recipe", {})
        return Outcome({"other": 1.0} if reported else {"error": 1.0}, {}, 0.1, 1, 1)

    run_here(monkeypatch, measure)
    record = run_claim(Toy, toy_claim(tuning={}), setup(tmp_path))
    assert record["arms"]["slow"]["metrics"] == {"other": [1.0, 1.0, 1.0]}


# -- the record --


def test_effects_are_paired_by_seed(tmp_path, ran):
    record = run_claim(Toy, toy_claim(), setup(tmp_path))
    (criterion,) = record["criteria"]
    arms = record["arms"]
    differences = [
        b - a for a, b in zip(arms["intercept"]["metrics"]["error"], arms["none"]["metrics"]["error"], strict=True)
    ]
    assert criterion["values"] == pytest.approx(tuple(differences))
    expected = measure_effect(toy_claim().criteria[0], differences)
    for name in ("mean", "low", "high", "bootstrap_low", "bootstrap_high"):
        assert criterion[name] == pytest.approx(getattr(expected, name))
    assert criterion["verdict"] == expected.verdict
    assert record["verdict"] == "holds"
    assert record["seeds"] == [0, 1, 2]


def test_one_failing_criterion_fails_the_claim(tmp_path, ran):
    criteria = (
        Criterion("error", versus="none", direction="lower"),
        Criterion("error", versus="none", direction="higher"),
    )
    record = run_claim(Toy, toy_claim(criteria=criteria), setup(tmp_path))
    assert [criterion["verdict"] for criterion in record["criteria"]] == ["holds", "does not hold"]
    assert record["verdict"] == "does not hold"


def test_a_criterion_may_look_at_a_read_out(tmp_path, ran):
    criteria = (Criterion("slope", versus="none", kind="not worse"),)
    record = run_claim(Toy, toy_claim(criteria=criteria, tuning={}), setup(tmp_path))
    assert record["criteria"][0]["values"] == (0.0, 0.0, 0.0)
    assert record["verdict"] == "holds"


def test_costs_and_settings_stand_in_the_record(tmp_path, ran):
    record = run_claim(Toy, toy_claim(), setup(tmp_path))
    arm = record["arms"]["none"]
    assert (arm["role"], arm["model"], arm["parameters"]) == ("baseline", {"bias": False}, 4)
    assert (arm["seconds"], arm["peak_memory"]) == ([0.5] * 3, [100] * 3)
    assert arm["metrics"]["slope"] == [0.0, 1.0, 2.0]
    assert (record["data"], record["trainer"], record["shown"]) == ({"count": 8}, {"max_epochs": 2}, ["error", "never"])
    assert record["environment"]["packages"]["torch"]


def test_the_record_is_strict_json(tmp_path, ran):
    record = run_claim(Toy, toy_claim(), setup(tmp_path, seeds=(0,)))
    read = json.loads(json_text(record), parse_constant=pytest.fail)
    assert read["criteria"][0]["low"] is None
    assert read["arms"]["none"]["metrics"]["never"] == [None]


# -- once and never again --


def test_second_call_runs_nothing_and_finds_the_same(tmp_path, ran):
    first = run_claim(Toy, toy_claim(), setup(tmp_path))
    count = len(ran)
    second = run_claim(Toy, toy_claim(), setup(tmp_path))
    assert len(ran) == count
    assert json_text(first) == json_text(second)


def test_more_seeds_only_run_the_new_ones(tmp_path, ran):
    run_claim(Toy, toy_claim(), setup(tmp_path, seeds=(0, 1)))
    ran.clear()
    run_claim(Toy, toy_claim(), setup(tmp_path, seeds=(0, 1, 2)))
    assert [job.seed for job in ran] == [2] * len(ARMS)


@pytest.mark.parametrize("stop_at", [1, 7, 26, 31])
def test_an_interrupted_claim_goes_on(tmp_path, ran, stop_at):
    whole = run_claim(Toy, toy_claim(), setup(tmp_path / "whole"))
    count = len(ran)
    ran.clear()

    def stop(stage, job, outcome, kept):
        if len(ran) == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_claim(Toy, toy_claim(), setup(tmp_path / "killed", on_done=stop))
    record = run_claim(Toy, toy_claim(), setup(tmp_path / "killed"))
    assert len(ran) == count == len({job.key for job in ran})
    assert json_text(record) == json_text(whole)


def test_progress_names_the_stage(tmp_path, ran):
    told = []

    def note(stage, job, outcome, kept):
        told.append((stage, kept))

    run_claim(Toy, toy_claim(), setup(tmp_path, on_done=note))
    assert told == [("tuning", False)] * 24 + [("seeds", False)] * 9
    told.clear()
    run_claim(Toy, toy_claim(), setup(tmp_path, on_done=note))
    assert told == [("tuning", True)] * 24 + [("seeds", True)] * 9


def test_arms_that_two_claims_share_are_trained_once(tmp_path, ran):
    run_claim(Toy, toy_claim(), setup(tmp_path))
    ran.clear()
    arms = {"intercept": Arm("method"), "frozen": Arm("ablation", {"dim": 3})}
    other = toy_claim(name="toy-other", arms=arms, criteria=(Criterion("error", versus="frozen"),))
    run_claim(Toy, other, setup(tmp_path))
    assert len(ran) == 8 + 3
    assert all(job.model.get("dim") == 3 for job in ran)


# -- the real thing --


def test_two_processes_give_the_record_of_one(tmp_path):
    arms = {"intercept": Arm("method"), "none": Arm("baseline", {"bias": False})}
    claim = toy_claim(arms=arms, tuning={"recipe.lr": (0.1,)}, tuning_seeds=(1000,), trainer={"max_epochs": 1})
    alone = run_claim(Toy, claim, setup(tmp_path / "one", seeds=(0, 1), processes=1))
    together = run_claim(Toy, claim, setup(tmp_path / "two", seeds=(0, 1), processes=2))
    assert json_text(without_costs(alone)) == json_text(without_costs(together))
    assert alone["arms"]["intercept"]["parameters"] == 4
    assert alone["arms"]["none"]["parameters"] == 3


def test_an_arm_may_have_other_data_or_a_longer_training(tmp_path, ran):
    arms = {
        "intercept": Arm("method"),
        "longer": Arm("control", trainer={"max_steps": 7}),
        "fewer": Arm("reported", data={"count": 8}),
    }
    claim = toy_claim(arms=arms, criteria=(Criterion("error", versus="longer", direction="lower"),))
    record = run_claim(Toy, claim, setup(tmp_path))
    assert {job.trainer.get("max_steps") for job in ran} == {claim.trainer.get("max_steps"), 7}
    assert {job.data.get("count") for job in ran} == {claim.data.get("count"), 8}
    assert record["arms"]["longer"]["trainer"] == {"max_steps": 7}
    assert record["arms"]["fewer"]["data"] == {"count": 8}
