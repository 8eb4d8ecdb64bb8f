"""The verbs as functions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import ommatid
from ommatid import api, catalogue
from ommatid.engine import sweep
from ommatid.engine.recipe import Recipe
from ommatid.engine.runs import read_series
from ommatid.engine.settings import build, merge
from ommatid.engine.sweep import Outcome
from ommatid.errors import CheckpointError, InputError
from tiny import TINY, Runs, train_tiny

METHODS = catalogue.names()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    torch.set_num_threads(1)
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def made_up(monkeypatch):
    """Trainings that did not take place: outcomes made up from the jobs, which are listed."""
    ran = []

    def run_here(jobs, processes):
        for job in jobs:
            ran.append(job)
            metrics = dict.fromkeys(("top1", *measured_by_claims()), 0.5 + 0.01 * job.seed)
            read_outs = {"nearest_similarity": 0.9, "mean_similarity": 0.5, "class_entropy": float("nan")}
            yield job, Outcome(metrics, read_outs, 1.0 + job.seed, 10, 100)

    monkeypatch.setattr(sweep, "_in_processes", run_here)
    return ran


def measured_by_claims() -> set[str]:
    """Every metric that some claim looks at."""
    claims = [claim for name in METHODS for claim in api.method_class(name).claims]
    criteria = [criterion for claim in claims for criterion in claim.criteria]
    looked_at = [name for each in criteria for name in (each.metric, each.beyond)]
    return {name for name in (*looked_at, *(claim.tuning_metric for claim in claims)) if name}


def video(path: Path, clips: int = 20, channels: int = 48) -> Path:
    np.save(path, np.random.default_rng(0).normal(size=(clips, channels)).astype(np.float32))
    return path


# -- the package --


def test_the_package_offers_the_verbs():
    for name in ommatid.__all__:
        assert getattr(ommatid, name) is getattr(api, name)
    assert {*ommatid.__all__, "__version__"} == set(dir(ommatid))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = ommatid.trian


# -- create --


def test_settings_reach_the_constructor():
    method = api.create("mgsl-net", hidden_dim=8, video_dim=8, recipe={"lr": 0.5})
    assert method.hparams.hidden_dim == 8
    assert method.recipe.lr == 0.5
    assert api.create("mgsl-net", hidden_dim=8, video_dim=8, recipe=Recipe("lamb")).recipe.optimizer == "lamb"


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(InputError, match="unknown method 'cim': did you mean 'cmi'"):
        api.create("cim")
    with pytest.raises(InputError, match="unknown argument of MGSLNet 'hiden_dim': did you mean 'hidden_dim'"):
        api.create("mgsl-net", hiden_dim=3)
    with pytest.raises(InputError, match=r"unknown argument of MGSLNet.recipe 'rate'"):
        api.create("mgsl-net", recipe={"rate": 3})


# -- train, resume, load --


@pytest.mark.parametrize("name", METHODS)
def test_a_run_folder_is_complete(runs, name):
    trained = runs[name]
    kept = {path.name for path in trained.run.path.iterdir()}
    promised = {"config.yaml", "environment.json", "metrics.csv", "curves.png", "best.safetensors", "last.safetensors"}
    assert promised | {"resume.ckpt", "result.json"} <= kept
    assert not [path for path in kept if path.startswith(".") or path.endswith(".part")]
    result = json.loads((trained.run.path / "result.json").read_text(), parse_constant=pytest.fail)
    assert result["test"].keys() == trained.metrics.keys()
    assert result["baselines"].keys() == trained.baselines.keys() != set()
    json.loads((trained.run.path / "environment.json").read_text(), parse_constant=pytest.fail)
    assert any(series for series in read_series(trained.run.metrics).values())


@pytest.mark.parametrize("name", METHODS)
def test_the_config_of_a_run_rebuilds_it(runs, name):
    config = runs[name].run.read_config()
    assert (config["method"], config["seed"], config["compile"]) == (name, 0, False)
    method, _ = api.assemble(api.method_class(name), config)
    assert method.settings() == runs[name].method.settings()


@pytest.mark.parametrize("name", METHODS)
def test_a_run_folder_loads_its_best_and_a_file_itself(runs, name):
    trained = runs[name]
    assert api.checkpoint_file(trained.run.path) == trained.run.best
    loaded = api.load(trained.run.last)
    assert type(loaded) is api.method_class(name)
    for key, value in trained.method.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


def test_without_a_best_the_last_is_loaded(runs, tmp_path):
    run = runs["mgsl-net"].run
    for name in ("config.yaml", "last.safetensors"):
        (tmp_path / name).write_bytes((run.path / name).read_bytes())
    assert api.checkpoint_file(tmp_path) == tmp_path / "last.safetensors"
    (tmp_path / "last.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the run did not finish"):
        api.load(tmp_path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        api.load(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="not a run folder"):
        api.load(tmp_path)
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="without ommatid's settings"):
        api.load(tmp_path / "other.safetensors")


def test_the_same_seed_gives_the_same_bits_and_another_does_not(runs, tmp_path):
    again = train_tiny("mgsl-net", tmp_path)
    other = train_tiny("mgsl-net", tmp_path, seed=1)
    first = runs["mgsl-net"].method.state_dict()
    assert all(torch.equal(value, again.method.state_dict()[key]) for key, value in first.items())
    assert not all(torch.equal(value, other.method.state_dict()[key]) for key, value in first.items())
    assert again.run.path != other.run.path
    assert other.run.read_config()["seed"] == 1


def test_the_seed_of_the_data_is_that_of_the_training_unless_they_have_their_own(runs, tmp_path):
    assert "seed" not in runs["mgsl-net"].run.read_config()["data"]
    case = merge(TINY["mgsl-net"], {"data": {"seed": 7}})
    assert api.train("mgsl-net", **case, runs=tmp_path, seed=3).run.read_config()["data"]["seed"] == 7
    plan = api.plan(api.method_class("mgsl-net"), TINY["mgsl-net"]["model"], TINY["mgsl-net"]["data"], {}, seed=3)
    assert api.assemble(api.method_class("mgsl-net"), plan)[1].seed == 3


def test_a_finished_run_can_be_made_longer_where_its_schedule_has_no_end(runs, tmp_path):
    settings = merge(TINY["mgsl-net"], {"model": {"recipe": {"schedule": "constant"}}})
    short = api.train("mgsl-net", **settings, runs=tmp_path / "short")
    resumed = api.resume(short.run.path, trainer={"max_epochs": 2})
    straight = api.train("mgsl-net", **merge(settings, {"trainer": {"max_epochs": 2}}), runs=tmp_path / "long")
    for key, value in straight.method.state_dict().items():
        assert torch.equal(value, resumed.method.state_dict()[key]), key
    with pytest.raises(InputError, match=r"trainer.max_epochs is 2, but the schedule 'onecycle' .* laid out for 1"):
        api.resume(runs["mgsl-net"].run.path, trainer={"max_epochs": 2})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: (path / "config.yaml").unlink(), "not a run folder, expected a config.yaml inside"),
        (lambda path: (path / "config.yaml").write_text("method: ["), "not readable as YAML"),
        (lambda path: (path / "config.yaml").write_text("method: cmi\n"), "no entry 'model'"),
        (lambda path: (path / "resume.ckpt").unlink(), "nothing to resume"),
        (lambda path: (path / "resume.ckpt").write_bytes(b"PK\3\4"), "the resume state cannot be read"),
        (lambda path: (path / "metrics.csv").write_text("step\nx\n"), "not a table of numbers"),
    ],
)
def test_a_damaged_run_is_answered_in_one_sentence(runs, tmp_path, damage, sentence):
    for path in runs["mgsl-net"].run.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path)
    with pytest.raises(InputError, match=sentence) as caught:
        api.resume(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_settings_leave_no_run_folder(tmp_path):
    for bad in ({"model": {"hiden": 1}}, {"data": {"steps": 1}}, {"data": {"root": str(tmp_path / "none")}}):
        with pytest.raises(InputError):
            api.train("mgsl-net", **bad, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# -- settings in layers --


def test_embedded_settings_lie_below_the_users():
    kind = api.method_class("mgsl-net")
    plan = api.plan(kind, {"hidden_dim": 7}, {}, {"max_steps": 3}, seed=4)
    assert plan["model"] == merge(kind.embedded["model"], {"hidden_dim": 7})
    assert plan["trainer"]["max_steps"] == 3
    assert plan["seed"] == 4


def test_embedded_settings_do_not_reach_the_users_own_data():
    plan = api.plan(api.method_class("mgsl-net"), {"hidden_dim": 7}, {"root": "mine"}, {})
    assert plan["model"] == {"hidden_dim": 7}
    assert plan["trainer"] == {}
    assert plan["data"] == {"root": "mine"}


def test_an_evaluation_takes_the_devices_of_the_training():
    options = {"devices": 2, "max_steps": 3, "precision": "bf16-mixed", "strategy": "ddp"}
    assert api.evaluation_options(options) == {"devices": 2, "precision": "bf16-mixed", "strategy": "ddp"}


def test_data_of_a_checkpoint_are_those_of_its_run(runs, tmp_path):
    trained = runs["mgsl-net"]
    kind = type(trained.method)
    assert api.data_settings(trained.run.best, kind, {})["train_videos"] == 24
    assert api.data_settings(trained.run.path, kind, {"batch_size": 3})["batch_size"] == 3
    assert api.data_settings(trained.run.path, kind, {"root": "mine"}) == {"root": "mine", "seed": 0}
    moved = trained.method.save(tmp_path / "moved.safetensors")
    assert api.data_settings(moved, kind, {}) == kind.embedded["data"]


def test_a_run_s_own_folder_is_divided_as_it_was_trained_on(runs, tmp_path):
    """Or what is evaluated on might be what was trained on."""
    config = runs["cmi"].run.read_config()
    trained_on = {"root": str(tmp_path / "mine"), "val_fraction": 0.3, "train_share": 0.5}
    (tmp_path / "run").mkdir()
    run = api.RunDir(tmp_path / "run")
    run.write_config({**config, "seed": 3, "data": trained_on})
    (run.path / "last.safetensors").write_bytes(runs["cmi"].run.last.read_bytes())
    kind = type(runs["cmi"].method)
    same = api.data_settings(run.path, kind, {"root": str(tmp_path / "." / "mine"), "batch_size": 5})
    assert same == {**trained_on, "seed": 3, "batch_size": 5}
    other = api.data_settings(run.path, kind, {"root": "other"})
    assert other == {"root": "other", "seed": 3, "val_fraction": 0.3}
    assert api.data_settings(run.path, kind, {"root": "other", "seed": 4})["seed"] == 4
    moved = runs["cmi"].method.save(tmp_path / "moved.safetensors")
    assert api.data_settings(moved, kind, {"root": "other"}) == {"root": "other"}
    run.write_config({**config, "seed": 3, "data": {"root": str(tmp_path / "mine"), "fold": 3, "augment": "affine"}})
    folded = api.data_settings(run.path, api.method_class("deepstationing"), {"root": "other"})
    assert folded == {"root": "other", "seed": 3, "fold": 3}
    with pytest.raises(InputError, match="root is an empty text"):
        api.data_settings(moved, kind, {"root": ""})


# -- evaluate, predict, export --


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_gives_the_metrics_of_training_beside_the_baselines(runs, name):
    trained = runs[name]
    columns = api.evaluate(trained.run.last)
    assert repr(columns.pop("model")) == repr(trained.metrics)
    assert repr(columns) == repr(trained.baselines)


def test_evaluation_of_another_split(runs):
    columns = api.evaluate(runs["cmi"].run.path, split="val", trainer={"limit_test_batches": 1})
    assert 0 <= columns["model"]["top1"] <= 1
    with pytest.raises(InputError, match="unknown split 'vla'"):
        api.evaluate(runs["cmi"].run.path, split="vla")


def test_prediction_of_an_image_is_drawn(runs, tmp_path):
    image = tmp_path / "digit.png"
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(image)
    prediction = api.predict(runs["cmi"].run.path, image=str(image), top=3, out=tmp_path / "out.png")
    assert len(prediction.to_json()["classes"]) == 3
    assert Image.open(tmp_path / "out.png").format == "PNG"


def test_prediction_of_a_moment_lies_inside_the_video(runs, tmp_path):
    trained = runs["mgsl-net"]
    sentence = " ".join(trained.method.vocabulary.words[:3])
    features = video(tmp_path / "video.npy")
    prediction = api.predict(trained.run.path, video=str(features), sentence=sentence, duration=30, top=2)
    moments = prediction.to_json()["moments"]
    assert 1 <= len(moments) <= 2
    assert all(0 <= moment["start"] <= moment["end"] <= 30 for moment in moments)


def test_misspelt_inputs_of_a_prediction(runs):
    with pytest.raises(InputError, match="unknown argument of predict 'sentense': did you mean 'sentence'"):
        api.predict(runs["mgsl-net"].run.path, video="a.npy", sentense="x")
    with pytest.raises(InputError, match="predict needs the argument 'sentence'"):
        api.predict(runs["mgsl-net"].run.path, video="a.npy")


def test_export_stands_beside_the_checkpoint(runs):
    path, difference = api.export(runs["cmi"].run.path, "torch")
    assert path == runs["cmi"].run.path / "best.pt2"
    assert path.is_file()
    assert difference < 1e-3
    with pytest.raises(InputError, match="unknown export format 'onx': did you mean 'onnx'"):
        api.export(runs["cmi"].run.path, "onx")


# -- compare and claim --


def test_comparison_has_a_column_a_method_and_a_value_a_seed(tmp_path, made_up):
    record = api.compare("cmi", seeds=2, folder=tmp_path)
    assert record["seeds"] == [0, 1]
    assert record["methods"]["cmi"]["metrics"]["top1"] == [0.5, 0.51]
    assert record["methods"]["cmi"]["seconds"] == [1.0, 2.0]
    assert record["methods"]["cmi"]["parameters"] == 100
    assert "chance" in record["baselines"]
    assert json.loads((tmp_path / "comparison.json").read_text())["methods"] == record["methods"]
    assert [job.seed for job in made_up] == [0, 1]
    api.compare("cmi", seeds=3, folder=tmp_path)
    assert [job.seed for job in made_up] == [0, 1, 2]


def test_a_field_stands_for_its_methods(tmp_path, made_up):
    settings = {"data": TINY["mgsl-net"]["data"], "trainer": {"max_steps": 2}}
    record = api.compare("grounding", **settings, folder=tmp_path)
    assert list(record["methods"]) == [name for name in catalogue.names("grounding") if name != "dcin-tel"]
    assert record["left_out"] == {"dcin-tel": "reads other data (EmotionData); compare it by its name"}
    assert all(job.trainer["max_steps"] == 2 for job in made_up)
    assert api.compare(["mgsl-net"], **settings, folder=tmp_path)["methods"].keys() == {"mgsl-net"}


def test_compared_methods_share_data_and_updates_and_keep_their_own_sizes(tmp_path, made_up):
    api.compare("grounding", model={"hidden_dim": 24}, data={"train_videos": 24, "test_videos": 8}, folder=tmp_path)
    shared = api.method_class("mgsl-net").data_module.compared
    for job in made_up:
        assert job.data == {**job.data, **shared["data"]}
        assert job.trainer == shared["trainer"]
        assert job.model["hidden_dim"] == 24
    assert len({json.dumps(job.data, sort_keys=True) for job in made_up}) == 1
    assert len({json.dumps(job.model, sort_keys=True) for job in made_up}) == len(made_up)
    with pytest.raises(InputError, match=r"none of the methods .* has an argument 'hiden_dim'"):
        api.compare("grounding", model={"hiden_dim": 24}, folder=tmp_path)


def test_methods_that_the_data_cannot_teach_are_left_out_and_named(tmp_path, made_up):
    record = api.compare("grounding", data={"view": "glance", "train_videos": 12, "test_videos": 4}, folder=tmp_path)
    reason = "learns from annotated moments, these data have supervision 'glance'"
    assert record["left_out"]["mgsl-net"].startswith(reason)
    assert "mgsl-net" not in record["methods"]
    with pytest.raises(InputError, match="compare: vslnet learns from annotated moments"):
        api.compare(["vslnet"], data={"view": "glance", "train_videos": 12, "test_videos": 4}, folder=tmp_path)


def test_answers_to_the_same_queries_are_kept_and_drawn(tmp_path):
    settings = {"data": TINY["mgsl-net"]["data"], "trainer": {"max_steps": 2}}
    record = api.compare(["lgi", "vslnet"], **settings, model={"hidden_dim": 16}, folder=tmp_path, shown=2)
    first, second = record["examples"].values()
    assert [told["sentence"] for told in first] == [told["sentence"] for told in second]
    assert all(told["truth"] and told["moments"] for told in (*first, *second))
    assert record["pictures"] == ["examples/query_1.png", "examples/query_2.png"]
    assert all((tmp_path / picture).stat().st_size > 0 for picture in record["pictures"])


def test_only_methods_of_one_field_can_be_compared(tmp_path):
    with pytest.raises(InputError, match=r"methods of the fields \['grounding', 'transfer'\] have no common protocol"):
        api.compare(["cmi", "mgsl-net"], folder=tmp_path)
    with pytest.raises(InputError, match="unknown field or method 'grunding': did you mean 'grounding'"):
        api.compare("grunding", folder=tmp_path)
    with pytest.raises(InputError, match="unknown method 'cim'"):
        api.compare(["cim"], folder=tmp_path)


def test_a_baseline_makes_no_claim(tmp_path):
    with pytest.raises(InputError, match=r"^vslnet makes no claim of its own: it is a baseline, see 'ommatid compare"):
        api.claim("vslnet", folder=tmp_path)


@pytest.mark.parametrize("name", [name for name in METHODS if api.method_class(name).claims])
def test_claims_are_written_as_strict_json(tmp_path, made_up, name):
    records = api.claim(name, seeds=2, folder=tmp_path / "runs", results=tmp_path / "results")
    written = {path.stem for path in (tmp_path / "results").iterdir()}
    assert written == {record["claim"] for record in records} == {claim.name for claim in api.method_class(name).claims}
    for record in records:
        text = (tmp_path / "results" / f"{record['claim']}.json").read_text()
        assert json.loads(text, parse_constant=pytest.fail)["verdict"] == record["verdict"]
    count = len(made_up)
    assert count == len({job.key for job in made_up})
    api.claim(name, seeds=2, folder=tmp_path / "runs")
    assert len(made_up) == count


def test_one_claim_can_be_named(tmp_path, made_up):
    told = []
    (record,) = api.claim("cmi-student", seeds=1, tune=False, folder=tmp_path, on_done=lambda *what: told.append(what))
    assert record["claim"] == "cmi-student"
    assert len(told) == len(made_up) == len(record["arms"])
    assert {path.parent.name for path in tmp_path.rglob("*.json")} == {"cmi"}
    with pytest.raises(InputError, match="unknown method or claim 'cmi-studant': did you mean 'cmi-student'"):
        api.claim("cmi-studant", folder=tmp_path)


def test_a_class_outside_the_catalogue_has_its_own_name():
    assert api.catalogue_name(api.method_class("cmi")) == "cmi"
    assert api.catalogue_name(type("Mine", (api.Method,), {})) == "Mine"


def test_assembled_parts_agree_on_their_sizes():
    kind = api.method_class("cmi")
    method, data = api.assemble(kind, api.plan(kind, {}, {"size": 8}, {}))
    assert method.hparams.image_size == data.size == 8
    assert build(kind, merge(kind.arguments_from(data), {"image_size": 16})).hparams.image_size == 16
