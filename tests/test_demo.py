"""`ommatid demo`, with a budget of a few updates: both methods train, and one page shows everything."""

import io
import json
import re
from contextlib import redirect_stdout

import pytest

from ommatid import catalogue
from ommatid.cli import main
from ommatid.demo import Budget, run_demo
from ommatid.engine.runs import RunDir

SMALL = Budget(
    teacher_steps=20,
    cmi={
        "model": {"generator_steps": 3, "kd_steps": 3, "synthesis_batch": 16, "kd_batch": 16, "bank_size": 64},
        "data": {"channels": 1},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1},
    },
    grounding={
        "model": {"hidden_dim": 16, "video_dim": 16, "memory_slots": 8},
        "data": {"train_videos": 24, "test_videos": 12},
        "trainer": {"max_steps": 4, "max_epochs": -1, "accelerator": "cpu", "devices": 1},
    },
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a demo, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("demo"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        # Starting a process takes longer than all of these trainings.
        patch.setattr("ommatid.demo.CORES", 1)
        page = run_demo(folder, SMALL)
    assert page == folder / "index.html"
    return folder, printed.getvalue()


def test_it_prints_catalogue_accuracies_and_recall(demo):
    _, printed = demo
    for entry in catalogue.CATALOGUE:
        assert entry.name in printed
    for row in ("teacher", "student, half as wide (CMI)", "the same student", "most frequent class"):
        assert row in printed
    for column in ("MGSL-Net", "random span", "mean span", "whole video"):
        assert column in printed


def test_it_tells_what_it_is_doing(demo):
    told = re.findall(r"^\[ *[\d.]+ s\] (.*)$", demo[1], re.MULTILINE)
    for part in (
        "a teacher learns",
        "recovering images: done",
        "noise images: done",
        "finding moments: done",
        "page: ",
    ):
        assert any(line.startswith(part) for line in told), (part, told)


def test_the_page_needs_nothing_else(demo):
    html = (demo[0] / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert html.count("data:image/png;base64,") == 3
    assert html.count("alt=") == 3


def test_the_page_shows_the_numbers_that_were_measured(demo):
    folder, _ = demo
    html = (folder / "index.html").read_text(encoding="utf-8")
    for name in ("recovering", "moments", "noise"):
        (run,) = (folder / "runs" / name).glob("*/*")
        assert RunDir.open(run).last.is_file()
    (run,) = (folder / "runs/moments").glob("*/*")
    assert (run / "moments.png").is_file()
    result = json.loads((run / "result.json").read_text())
    for metrics in (result["test"], *result["baselines"].values()):
        assert f"{metrics['mIoU']:.3f}" in html


def test_the_students_learned_from_the_same_teacher(demo):
    teachers = set()
    for name in ("recovering", "noise"):
        (run,) = (demo[0] / "runs" / name).glob("*/*")
        config = RunDir.open(run).read_config()
        teachers.add(config["model"]["teacher_weights"])
        assert config["model"]["synthesis"] == {"recovering": "inverted", "noise": "noise"}[name]
    assert teachers == {str(demo[0] / "teacher.safetensors")}


def test_the_command_runs_it(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("ommatid.demo.run_demo", lambda out, *_: asked.append(out))
    assert main(["demo", "--out", str(tmp_path / "there")]) == 0
    assert asked == [tmp_path / "there"]
