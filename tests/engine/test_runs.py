"""A run folder tells what was done, and survives what happens to folders."""

import csv
import json
import math

import pytest
from PIL import Image

from ommatid import __version__
from ommatid.engine import runs
from ommatid.engine.runs import CsvLog, RunDir, environment, read_series
from ommatid.errors import InputError

CONFIG = {"method": "toy", "model": {"recipe": {"lr": 1e-3}}, "data": {}, "trainer": {}, "seed": 0, "compile": False}


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path, "toy")


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.time, "strftime", lambda _: "20260101-000000")
    made = [RunDir.create(tmp_path / "runs", "toy").path for _ in range(3)]
    assert [path.name for path in made] == ["20260101-000000", "20260101-000000-1", "20260101-000000-2"]
    assert all(path.parent == tmp_path / "runs" / "toy" and path.is_dir() for path in made)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"not a run folder, expected a config.yaml inside") as caught:
            RunDir.open(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_config_round_trip(run):
    run.write_config(CONFIG)
    assert RunDir.open(run.path).read_config() == CONFIG


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("method: [", "not readable as YAML"),
        (b"\xff\xfe\x00", "not readable as YAML"),
        ("", "no entry 'method'"),
        ("- a\n- b\n", "no entry 'method'"),
        ("method: toy\n", "no entry 'model'"),
        ("method: toy\nmodel: {}\ndata: {}\n", "no entry 'trainer'"),
        ("method: toy\nmodel: 3\ndata: {}\ntrainer: {}\nseed: 0\n", "model is 3, expected a group of settings"),
        ("method: toy\nmodel: {}\ndata: {}\ntrainer: {}\nseed: x\n", "seed is 'x', expected a whole number"),
        ("method: 5\nmodel: {}\ndata: {}\ntrainer: {}\nseed: 0\n", "method is 5, expected a name"),
    ],
)
def test_damaged_config_is_answered_in_one_sentence(run, text, sentence):
    path = run.path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=sentence) as caught:
        run.read_config()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_json_files_hold_null_for_what_is_no_number(run):
    run.write_json("result.json", {"test": {"rare": math.nan, "low": -math.inf, "top1": 0.5}})
    found = json.loads((run.path / "result.json").read_text(), parse_constant=pytest.fail)
    assert found == {"test": {"rare": None, "low": None, "top1": 0.5}}


def test_file_names(run):
    assert [path.name for path in (run.best, run.last, run.resume_state, run.metrics)] == [
        "best.safetensors",
        "last.safetensors",
        "resume.ckpt",
        "metrics.csv",
    ]


def test_environment_says_what_it_ran_on():
    found = environment()
    assert found["ommatid"] == __version__
    assert found["packages"]["torch"].startswith("2.")
    json.dumps(found, allow_nan=False)


def test_environment_without_an_optional_package(monkeypatch):
    monkeypatch.setattr(runs, "PACKAGES", ("torch", "no-such-package-of-mine"))
    assert environment()["packages"]["no-such-package-of-mine"] is None


# -- metrics.csv and its curves --


def logged(run: RunDir) -> CsvLog:
    log = CsvLog(run.metrics)
    log.log_metrics({"train/loss": 2.0, "epoch": 0}, step=0)
    log.log_metrics({"train/loss": 1.0}, step=10)
    log.log_metrics({"val/top1": 0.25}, step=10)
    log.log_metrics({"train/loss": 0.5}, step=20)
    log.finalize("success")
    return log


def test_metrics_of_one_step_stand_in_one_row(run):
    logged(run)
    with run.metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0.0", "10.0", "20.0"]
    assert (rows[1]["train/loss"], rows[1]["val/top1"], rows[0]["val/top1"]) == ("1.0", "0.25", "")


def test_a_metric_that_comes_later_gets_its_column(run):
    log = logged(run)
    log.log_metrics({"val/new": 3.0}, step=30)
    log.write()
    assert read_series(run.metrics)["val/new"] == [(30.0, 3.0)]
    assert read_series(run.metrics)["train/loss"] == [(0.0, 2.0), (10.0, 1.0), (20.0, 0.5)]


def test_a_resumed_log_keeps_the_rows_before_its_start(run):
    logged(run)
    log = CsvLog(run.metrics)
    log.continue_from(20)
    log.log_metrics({"train/loss": 9.0}, step=20)
    log.finalize("success")
    assert read_series(run.metrics)["train/loss"] == [(0.0, 2.0), (10.0, 1.0), (20.0, 9.0)]
    assert read_series(run.metrics)["val/top1"] == [(10.0, 0.25)]


def test_a_run_without_metrics_resumes_with_none(run):
    log = CsvLog(run.metrics)
    log.continue_from(20)
    assert log.rows == []
    log.finalize("success")
    assert not run.metrics.exists()


@pytest.mark.parametrize(
    "content", [b"step,loss\nx,1\n", b"loss\n1\n", b"step,loss\n1,2,3\n", b"\xff\xfe", b"a\0b\n1\n"]
)
def test_damaged_metrics_are_answered_in_one_sentence(run, content):
    run.metrics.write_bytes(content)
    with pytest.raises(InputError, match="not a table of numbers with a column 'step'") as caught:
        CsvLog(run.metrics).continue_from(5)
    assert str(caught.value).startswith(f"{run.metrics}: ")


def test_the_whole_file_is_not_written_after_every_row(run):
    log = CsvLog(run.metrics)
    log.log_metrics({"train/loss": 1.0}, step=0)
    log.save()
    log.log_metrics({"train/loss": 2.0}, step=1)
    log.save()
    assert len(read_series(run.metrics)["train/loss"]) == 1
    log.finalize("success")
    assert len(read_series(run.metrics)["train/loss"]) == 2


def test_log_names_itself_after_its_run(run):
    log = CsvLog(run.metrics)
    log.log_hyperparams({"a": 1})
    assert (log.name, log.version) == ("csv", run.path.name)


def test_curves_are_a_picture_of_losses_and_metrics(run):
    logged(run)
    path = run.draw_curves()
    assert path == run.path / "curves.png"
    both = Image.open(path)
    assert both.format == "PNG"
    run.metrics.write_text("step,train/loss\n0,1\n1,2\n")
    alone = Image.open(run.draw_curves())
    assert alone.width < both.width
    run.metrics.write_text("step,train/loss,val/rare/top1\n0,1,0\n1,2,1\n")
    assert Image.open(run.draw_curves()).tobytes() == alone.tobytes()


def test_no_metrics_no_curves(run):
    assert run.draw_curves() is None
    run.metrics.write_text("step,epoch,test/top1\n0,0,1\n")
    assert run.draw_curves() is None
    assert read_series(run.path / "none.csv") == {}
