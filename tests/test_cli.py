"""The command line: exit codes, sentences, and JSON that a program can read."""

import json
import re
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ommatid import api, catalogue, cli
from ommatid.cli import main
from ommatid.cli.verbs import _print_prediction
from ommatid.engine import sweep
from ommatid.engine.settings import constructor_arguments
from ommatid.engine.sweep import Outcome
from ommatid.errors import InputError
from report.records import claim_record, comparison_record
from tiny import Runs, options

METHODS = catalogue.names()
VERBS = (
    "list",
    "show",
    "train",
    "evaluate",
    "predict",
    "compare",
    "claim",
    "data",
    "export",
    "report",
    "doctor",
    "demo",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    torch.set_num_threads(1)
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def ask(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder: its exit code, what it printed, what it complained about."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def ask_json(ask):
    """The same with --json: what a program reads."""

    def run(*words: object):
        code, out, _ = ask(*words, "--json")
        assert code == 0
        return json.loads(out, parse_constant=pytest.fail)

    return run


@pytest.fixture
def refused(ask):
    """A command that must end in one sentence and exit code 2; the sentence."""

    def run(*words: object) -> str:
        code, out, complaint = ask(*words)
        assert code == 2, (code, out)
        assert complaint.startswith("ommatid: error: ")
        assert complaint.count("\n") == 1, complaint
        assert "Traceback" not in complaint
        return complaint.removeprefix("ommatid: error: ").rstrip("\n")

    return run


@pytest.fixture
def features(tmp_path) -> Path:
    path = tmp_path / "video.npy"
    np.save(path, np.random.default_rng(0).normal(size=(20, 48)).astype(np.float32))
    return path


@pytest.fixture
def made_up(monkeypatch):
    """Sweeps whose trainings take no time."""
    ran = []

    def run_here(jobs, processes):
        for job in jobs:
            ran.append((job, processes))
            names = ("top1", "nearest_similarity", "mean_similarity", "never")
            metrics = {name: float("nan") if name == "never" else 0.5 + 0.01 * job.seed for name in names}
            yield job, Outcome(metrics, {}, 1.0, 10, 100)

    monkeypatch.setattr(sweep, "_in_processes", run_here)
    return ran


def query(runs) -> list[str]:
    return ["--sentence", " ".join(runs["mgsl-net"].method.vocabulary.words[:3]), "--duration", "30"]


# -- as a program --


def test_listing_answers_without_torch():
    code = (
        "import sys; from ommatid.cli import main; code = main(['list']);"
        "print([m for m in ('torch', 'torchvision', 'lightning', 'numpy') if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, imported = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == METHODS
    assert imported == "[]"


def test_the_module_runs_like_the_command():
    done = subprocess.run([sys.executable, "-m", "ommatid.cli", "show", "cim"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "ommatid: error: unknown method 'cim': did you mean 'cmi'?\n"


def test_a_reader_that_leaves_early_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "ommatid.cli", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


def test_only_the_first_process_of_a_training_speaks(ask, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert ask("list") == (0, "", "")
    monkeypatch.setenv("RANK", "0")
    assert ask("list")[1] != ""


# -- all commands --


def test_overview_names_every_command(ask):
    for words in ([], ["--help"], ["-h"], ["help"]):
        code, out, _ = ask(*words)
        assert code == 0
        assert all(f"  {verb} " in out for verb in VERBS)
    assert set(cli.VERBS) == set(VERBS)
    assert ask("--version")[1].startswith("ommatid ")


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: ommatid {verb}" in out
    assert cli.VERBS[verb].summary.split(":")[0][:30] in " ".join(out.split())


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("predict", "data")])
def test_misspelt_options_are_answered_with_the_nearest(verb, refused):
    needed = {"show": ["cmi"], "train": ["cmi"], "evaluate": ["x"], "compare": ["cmi"], "claim": ["cmi"]}
    needed |= {"export": ["x"], "report": ["x"]}
    wrong, right = ("--ot", "'--out'") if verb in ("report", "demo") else ("--jsno", "'--json'")
    complaint = refused(verb, *needed.get(verb, []), wrong)
    assert complaint.startswith(f"unknown option of 'ommatid {verb}' '{wrong}': did you mean ")
    assert right in complaint


def test_a_misspelt_option_of_a_data_command_is_answered_with_the_nearest(refused):
    assert "did you mean '--json'" in refused("data", "check", "x", "--jsno")


def test_misspelt_command_is_answered_with_the_nearest(refused):
    assert refused("trian") == "unknown command 'trian': did you mean 'train'?"


@pytest.mark.parametrize("verb", ["show", "evaluate", "predict", "compare", "claim", "data", "export", "report"])
def test_missing_arguments_are_named(verb, refused):
    assert refused(verb).endswith(f"see 'ommatid {verb} --help'")


def test_surplus_arguments_are_refused(refused):
    assert refused("list", "cmi") == "ommatid list: unexpected argument 'cmi'; see 'ommatid list --help'"


def test_debug_shows_where_an_error_comes_from():
    with pytest.raises(InputError, match="unknown method 'cim'"):
        main(["show", "cim", "--debug"])


def test_interruption_has_its_own_exit_code(ask, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "train", interrupt)
    # Ignored where the tests run in the background of a shell.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert ask("train", "cmi") == (130, "", "ommatid: interrupted\n")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


# -- list, show, doctor, demo --


def test_list_by_field(ask, ask_json, refused):
    assert [line.split()[0] for line in ask("list")[1].splitlines()] == METHODS
    assert [entry["name"] for entry in ask_json("list", "--field", "grounding")] == catalogue.names("grounding")
    assert refused("list", "--field", "grunding") == "unknown field 'grunding': did you mean 'grounding'?"


@pytest.mark.parametrize("name", METHODS)
def test_show_tells_what_a_method_is_and_how_to_cite_it(name, ask, ask_json):
    code, out, _ = ask("show", name)
    entry = catalogue.find(name)
    assert code == 0
    assert all(part in out for part in (entry.title, entry.bibtex(), entry.paper, f"ommatid train {name}"))
    assert (f"ommatid claim {name}" in out) == bool(api.method_class(name).claims)
    assert ask_json("show", name)["title"] == entry.title


def test_doctor_fails_where_something_is_broken(ask, ask_json, monkeypatch):
    from ommatid import doctor

    assert all(finding["ok"] for finding in ask_json("doctor"))
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("timm", False, "not installed")])
    assert ask("doctor")[:2] == (1, "FAIL timm: not installed\n")


def test_demo_is_told_where_to_write(ask, monkeypatch):
    from ommatid import demo

    asked = []
    monkeypatch.setattr(demo, "run_demo", asked.append)
    assert ask("demo", "--out", "here")[0] == 0
    assert asked == [Path("here")]


# -- train --


@pytest.mark.parametrize("name", METHODS)
def test_help_names_every_argument_of_method_and_data(name, capsys):
    with pytest.raises(SystemExit):
        main(["train", name, "--help"])
    out = capsys.readouterr().out
    kind = api.method_class(name)
    for group, target in {"model": kind, "data": kind.data_module}.items():
        for argument in constructor_arguments(target):
            assert f"--{group}.{argument}" in out
    assert "--model.recipe.lr (default: " in out
    assert "--trainer.x" in out


def test_a_training_is_printed_as_json(ask_json, tmp_path):
    found = ask_json("train", "mgsl-net", *options("mgsl-net"), "--seed", 3, "--runs", tmp_path / "here")
    assert Path(found["run"]).parent == tmp_path / "here" / "mgsl-net"
    assert found["metrics"]["model"].keys() >= {"mIoU"}
    assert len(found["metrics"]) > 1
    config = yaml.safe_load((Path(found["run"]) / "config.yaml").read_text())
    assert (config["seed"], config["trainer"]["max_steps"], config["model"]["hidden_dim"]) == (3, -1, 16)


def test_command_line_goes_on_top_of_the_config_file(ask, monkeypatch, tmp_path):
    asked, trained = {}, SimpleNamespace(run=SimpleNamespace(path=Path("run")), metrics={"top1": 0.5}, baselines={})
    monkeypatch.setattr(api, "train", lambda name, **given: asked.update(given, name=name) or trained)
    file = tmp_path / "mine.yaml"
    file.write_text("model: {hidden_dim: 8, recipe: {lr: 1e-3, clip_norm: 1}}\ndata:\ntrainer: {max_steps: 5}\n")
    code, *_ = ask("train", "mgsl-net", "--config", file, "--model.recipe.lr=5e-4", "--trainer.max_steps", "-1")
    assert code == 0
    assert asked["model"] == {"hidden_dim": 8, "recipe": {"lr": 5e-4, "clip_norm": 1}}
    assert asked["trainer"] == {"max_steps": -1}
    assert asked["data"] == {}


def test_method_seed_and_compile_may_stand_in_the_config_file(ask, monkeypatch, tmp_path):
    asked, trained = {}, SimpleNamespace(run=SimpleNamespace(path=Path("run")), metrics={"top1": 0.5}, baselines={})
    monkeypatch.setattr(api, "train", lambda name, **given: asked.update(given, name=name) or trained)
    file = tmp_path / "mine.yaml"
    file.write_text("method: cmi\nseed: 5\ncompile: true\n")
    assert ask("train", "--config", file)[0] == 0
    assert (asked["name"], asked["seed"], asked["compile"]) == ("cmi", 5, True)
    assert ask("train", "cmi", "--config", file, "--seed", 0)[0] == 0
    assert asked["seed"] == 0


def test_another_seed_is_that_of_the_data_too(ask, monkeypatch, tmp_path):
    asked, trained = {}, SimpleNamespace(run=SimpleNamespace(path=Path("run")), metrics={"top1": 0.5}, baselines={})
    monkeypatch.setattr(api, "train", lambda name, **given: asked.update(given, name=name) or trained)
    file = tmp_path / "mine.yaml"
    # As runs were written that named the same seed twice; a data seed of its own is a choice.
    for data, kept in (("{seed: 2, size: 16}", {"size": 16}), ("{seed: 7}", {"seed": 7})):
        file.write_text(f"method: cmi\nseed: 2\ndata: {data}\n")
        assert ask("train", "--config", file, "--seed", 1)[0] == 0
        assert (asked["seed"], asked["data"]) == (1, kept)
    file.write_text("method: cmi\ndata: {seed: 0}\n")
    assert ask("train", "--config", file, "--seed", 1)[0] == 0
    assert asked["data"] == {"seed": 0}, "chosen for the data, whatever the training's usual seed is"


def test_text_stays_text_whatever_it_looks_like(ask, refused, monkeypatch, tmp_path):
    asked, trained = {}, SimpleNamespace(run=SimpleNamespace(path=Path("run")), metrics={"top1": 0.5}, baselines={})
    monkeypatch.setattr(api, "train", lambda name, **given: asked.update(given, name=name) or trained)
    words = ("--data.root=2024", "--data.glove", "off", "--data.features", "null", "--data.steps", "8")
    assert ask("train", "mgsl-net", *words)[0] == 0
    assert asked["data"] == {"root": "2024", "glove": "off", "features": None, "steps": 8}
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert refused("train", "mgsl-net", "--data.root", "2024").startswith("2024: no such folder")


@pytest.mark.parametrize(
    "words", [("train", "cmi", "--data.root", ""), ("train", "cmi", "--data.root="), ("compare", "cmi", "--data", "")]
)
def test_an_unset_variable_does_not_mean_embedded_data(words, refused):
    assert refused(*words) == "data.root is an empty text, expected a folder of data"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["cmi"], "cmi"),
        (["--seed", "0", "--runs", "elsewhere"], "--seed, --runs"),
        (["--model.hidden_dim", "9", "--data.size=3", "--compile"], "--model.hidden_dim, --data.size, --compile"),
        (["--config", "none.yaml"], "--config"),
    ],
)
def test_what_a_resumed_run_would_not_heed_is_refused(words, found, refused, runs):
    complaint = refused("train", "--resume", runs["mgsl-net"].run.path, *words)
    assert complaint == f"train --resume: found {found}, expected no settings but --trainer.x"


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_no_generator_takes_are_refused(seed, refused):
    assert refused("train", "cmi", "--seed", seed) == f"seed must be from 0 to 4294967295, found {seed}"
    assert "seed must be from 0" in refused("train", "cmi", "--data.seed", seed)
    assert "seed must be from 0" in refused("data", "make", "world-shapes", "--out", "x", "--seed", seed)


def test_what_the_system_refuses_is_answered_in_one_sentence(refused, made_up, tmp_path):
    (tmp_path / "afile").write_text("")
    assert refused("train", "mgsl-net", *options("mgsl-net"), "--runs", "afile") == "afile/mgsl-net: Not a directory"
    assert refused("compare", "cmi", "--out", "afile/x") == "afile/x: Not a directory"
    assert refused("claim", "cmi-student", "--no-tune", "--out", "afile/x") == "afile/x: Not a directory"
    assert not made_up


def test_a_killed_process_is_answered_in_one_sentence(refused, monkeypatch):
    def killed(*_):
        raise BrokenProcessPool("A process in the process pool was terminated abruptly\nwhile it was running")
        yield

    monkeypatch.setattr(sweep, "_in_processes", killed)
    assert "killed, perhaps for lack of memory" in refused("compare", "cmi")
    with pytest.raises(BrokenProcessPool):
        main(["compare", "cmi", "--debug"])


def test_settings_of_another_method_are_refused(refused, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("method: cmi\n")
    assert "found settings of 'cmi', expected 'mgsl-net'" in refused("train", "mgsl-net", "--config", file)


def test_the_config_of_a_run_repeats_it(ask_json, runs, tmp_path):
    first = runs["mgsl-net"]
    found = ask_json("train", "mgsl-net", "--config", first.run.path / "config.yaml", "--runs", tmp_path)
    for name, value in first.metrics.items():
        assert found["metrics"]["model"][name] == (pytest.approx(value) if value == value else None)


def test_processes_of_one_training_share_a_run_folder_and_print_once(tmp_path):
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    words = ["train", "mgsl-net", *options("mgsl-net"), *two, "--json", "--runs", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "ommatid.cli", *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = (tmp_path / "mgsl-net").iterdir()
    assert json.loads(done.stdout)["run"] == str(run)
    assert {"config.yaml", "last.safetensors", "metrics.csv", "result.json"} <= {path.name for path in run.iterdir()}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("model: [1]", "model is [1], expected a group of settings"),
        ("modle: {}", "did you mean 'model'"),
        ("seed: often", "seed is 'often', expected a whole number"),
        ("compile: 3", "compile is 3, expected true or false"),
        ("model: {5: 3}", "unknown argument of CMI '5': expected one of"),
        ("- a", "found list, expected the groups"),
        ("", "expected the groups"),
        ("a: [", "cannot be read as YAML"),
        (b"\xff\xfe", "cannot be read as YAML"),
    ],
)
def test_a_wrong_config_file_is_answered_in_one_sentence(content, sentence, refused, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    complaint = refused("train", "cmi", "--config", file)
    assert sentence in complaint
    assert "mine.yaml" in complaint or "of CMI" in complaint


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cim"], "unknown method 'cim': did you mean 'cmi'?"),
        ([], "name a method, or a run with --resume"),
        (["mgsl-net", "--model.hiden_dim", "3"], "unknown argument of MGSLNet 'hiden_dim': did you mean 'hidden_dim'"),
        (["mgsl-net", "--model.hidden_dim", "wide"], "hidden_dim must be int, found 'wide'"),
        (["mgsl-net", "--model.recipe.rate", "3"], "unknown argument of MGSLNet.recipe 'rate'"),
        (["mgsl-net", "--model.recipe.optimizer", "adamww"], "unknown optimizer 'adamww': did you mean"),
        (["mgsl-net", "--model.memory", "writen"], "memory must be Literal['written', 'parameters'"),
        (["mgsl-net", "--data.stesp", "3"], "unknown argument of GroundingData 'stesp': did you mean 'steps'"),
        (["mgsl-net", "--data.root", "nowhere"], "nowhere: no such folder"),
        (["mgsl-net", "--data.batch_size", "-1"], "batch_size must be at least 1, found -1"),
        (["mgsl-net", "--trainer.max_step", "3"], "unknown option 'max_step': did you mean 'max_steps'"),
        (["mgsl-net", "--trainer.max_steps", "many"], "trainer: max_steps must be int, found 'many'"),
        (["mgsl-net", "--trainer.max_steps", "-1"], "schedule 'onecycle' needs to know when training ends"),
        (["mgsl-net", "--trainer.max_steps"], "--trainer.max_steps needs a value"),
        (["mgsl-net", "--trainr.max_steps", "3"], "unknown option of 'ommatid train' '--trainr.max_steps'"),
        (["mgsl-net", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["mgsl-net", "--config", "none.yaml"], "--config none.yaml: cannot be read"),
        (["--resume", "nowhere"], "nowhere: not a run folder"),
        (["cmi", "--model.teacher", "digits_cn"], "digits_cn"),
        (["cmi", "--model.teacher_weights", "none.pth"], "none.pth: no such weights file"),
    ],
)
def test_wrong_settings_of_a_training_are_answered_in_one_sentence(words, sentence, refused):
    small = options("mgsl-net")[:-4] if words[:1] == ["mgsl-net"] else []
    assert sentence in refused("train", *words[:1], *small, *words[1:])


def test_a_killed_run_goes_on(ask_json, runs):
    run = runs["mgsl-net"].run.path
    before = (run / "metrics.csv").read_text()
    found = ask_json("train", "--resume", run)
    assert found["run"] == str(run)
    assert (run / "metrics.csv").read_text().splitlines()[0] == before.splitlines()[0]


# -- evaluate, predict, export, report --


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_beside_baselines(name, ask, ask_json, runs):
    found = ask_json("evaluate", runs[name].run.path, "--split", "val")
    assert {"model", *runs[name].baselines} == set(found)
    code, out, _ = ask("evaluate", runs[name].run.last, "--data.batch_size", "50")
    assert code == 0
    assert all(baseline in " ".join(out.split()) for baseline in runs[name].baselines)


def test_wrong_checkpoints_are_answered_in_one_sentence(refused, runs, tmp_path):
    whole = runs["mgsl-net"].run.best.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    (tmp_path / "text.safetensors").write_text("no")
    for verb in ("evaluate", "predict", "export"):
        assert "not a complete safetensors file" in refused(verb, "cut.safetensors")
        assert "pickled PyTorch file" in refused(verb, "pickle.safetensors")
        assert "not a complete safetensors file" in refused(verb, "text.safetensors")
        assert "no such checkpoint file" in refused(verb, "none.safetensors")
        assert "not a run folder" in refused(verb, tmp_path)
    assert not (tmp_path / "ran").exists()
    assert "unknown split 'tset'" in refused("evaluate", runs["cmi"].run.path, "--split", "tset")


def test_moments_are_predicted_and_drawn(ask, ask_json, runs, features, tmp_path):
    found = ask_json("predict", runs["mgsl-net"].run.path, "--video", features, *query(runs), "--top", 2)
    assert found["duration"] == 30
    assert 1 <= len(found["moments"]) <= 2
    code, out, _ = ask(
        "predict", runs["mgsl-net"].run.path, "--video", features, *query(runs), "--out", tmp_path / "moments.png"
    )
    assert code == 0
    assert "moments.png" in out
    assert Image.open(tmp_path / "moments.png").format == "PNG"


def test_a_sentence_of_digits_stays_a_sentence(refused, runs, features):
    complaint = refused("predict", runs["mgsl-net"].run.path, "--video", features, "--sentence", "12", "--duration", 3)
    assert "none of its words is in the vocabulary" in complaint


def test_classes_are_predicted(ask_json, runs, tmp_path):
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(tmp_path / "digit.png")
    path = runs["cmi"].run.path
    found = ask_json("predict", path, "--image", "digit.png", "--top=3")
    assert len(found["classes"]) == 3
    assert ask_json("predict", "--image", "digit.png", "--out", "seen.png", path, "--top", "3") == found
    assert (tmp_path / "seen.png").is_file()
    assert sum(row["probability"] for row in found["classes"]) <= 1.001


TOLD = {
    "mask": ({"width": 9, "height": 8, "foreground": 0.25, "box": [1, 2, 3, 4], "threshold": 0.5}, "box: 1, 2, 3, 4"),
    "no mask": ({"width": 9, "height": 8, "foreground": 0.0, "box": None, "threshold": 0.5}, "box: -"),
    "volume": (
        {"size": [4, 5, 6], "spacing": [1.0, 1.0, 2.5], "classes": {"4L": {"voxels": 3210, "ml": 1.5}}},
        "size: 4, 5, 6 spacing: 1.000, 1.000, 2.500 classes name voxels ml 4L 3,210 1.500",
    ),
    "scene": (
        {"width": 9, "classes": {"wall": 0.75, "floor": 0.25}, "normal": [0.0, 1.0, 0.0]},
        "name value wall 0.750 floor 0.250 normal: 0.000, 1.000, 0.000",
    ),
    "film": (
        {"fps": 25.0, "peaks": [{"frame": 3, "latitude": 1.5, "longitude": 9.0}]},
        "fps: 25.000 peaks frame latitude longitude 3 1.500 9.000",
    ),
    "faces": ({"cosine": 0.25, "threshold": 0.5, "same": False}, "cosine: 0.250 threshold: 0.500 same: no"),
    "people": (
        {"people": [{"name": "[b]ob", "cosine": 0.5, "same": True}], "threshold": 0.1},
        "people name cosine same [b]ob 0.500 yes threshold: 0.100",
    ),
    "explained": (
        {"classes": [{"class": "boot", "probability": 0.9}], "way": [1, 0], "shares_last_block_with": ["shoe", "bag"]},
        "boot 0.900 way: 1, 0 shares_last_block_with: shoe, bag",
    ),
    "sentence": (
        {"sentence": "a [/b] x", "duration": 30.0, "moments": [{"start": 1.0, "end": 2.0, "score": 0.5}]},
        "sentence: a [/b] x duration: 30.000 moments start end score 1.000 2.000 0.500",
    ),
    "samples": ({"classes": [{"sample": 0, "class": "okapi", "probability": 1.0}]}, "0 okapi 1.000"),
    "no labels": ({"labels": []}, "labels: nothing found"),
    "no moments": ({"duration": 3.0, "moments": []}, "duration: 3.000 moments: nothing found"),
    "no classes": ({"classes": {}}, "classes: nothing found"),
}


@pytest.mark.parametrize("name", TOLD)
def test_every_kind_of_prediction_is_told_in_words(name, capsys):
    content, expected = TOLD[name]
    _print_prediction(content)
    assert expected in re.sub(r"[^\w.:,\[\]/-]+", " ", capsys.readouterr().out)


def test_brackets_in_a_path_are_no_markup(ask, runs, tmp_path):
    kept = tmp_path / "run[v2]"
    kept.mkdir()
    for name in ("config.yaml", "last.safetensors"):
        (kept / name).write_bytes((runs["cmi"].run.path / name).read_bytes())
    assert "test metrics of run[v2]" in ask("evaluate", "run[v2]")[1]


def test_help_of_a_run_or_a_field_names_the_arguments_of_its_data(runs, capsys):
    for words, options_shown in (
        (["evaluate", str(runs["cmi"].run.path)], ["--data.train_share", "--trainer.x"]),
        (["compare", "grounding"], ["--data.view", "--model.x: an argument of any of 2d-tan"]),
        # Words that are there as files or folders, but are no runs.
        (["compare", "--data", str(runs["cmi"].run.path.parent), "grounding"], ["--data.view"]),
    ):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        out = capsys.readouterr().out
        assert all(option in out for option in options_shown)


def test_help_of_a_prediction_names_its_inputs(runs, capsys):
    for words, expected in (
        ([], ["--video", "--sentence", "--image"]),
        ([str(runs["cmi"].run.path)], ["--image", "--top"]),
        (["--image", "digit.png", str(runs["cmi"].run.path)], ["--image", "--top"]),
    ):
        with pytest.raises(SystemExit):
            main(["predict", *words, "--help"])
        out = capsys.readouterr().out
        assert all(option in out for option in expected)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.full((5, 48), np.nan, np.float32), "nan|NaN|finite"),
        (np.full((5, 48), np.inf, np.float32), "inf|finite"),
        (np.zeros((5, 7), np.float32), "7 channels, expected 48"),
        (np.zeros((0, 48), np.float32), "video.npy: .*(no clips|empty|0)"),
        (np.zeros((5,), np.float32), "video.npy: "),
        (np.array(["a"]), "video.npy: "),
    ],
)
def test_unusable_features_are_answered_in_one_sentence(array, sentence, refused, runs, features):
    np.save(features, array)
    complaint = refused("predict", runs["mgsl-net"].run.path, "--video", features, *query(runs))
    assert re.search(sentence, complaint), complaint
    assert "video.npy" in complaint


def test_unusable_questions_are_answered_in_one_sentence(refused, runs, features, tmp_path):
    predict = ("predict", runs["mgsl-net"].run.path, "--video", features)
    words = query(runs)
    assert "has no words" in refused(*predict, "--sentence", "", "--duration", 3)
    assert "has no words" in refused(*predict, "--sentence", "?!", "--duration", 3)
    assert "needs its duration" in refused(*predict, *words[:2])
    assert "needs its duration" in refused(*predict, *words[:3], "-3")
    assert "duration must be one of float, None, found 'nan'" in refused(*predict, *words[:3], "nan")
    assert "needs its duration" in refused(*predict, *words[:3], ".inf")
    assert "duration must be one of float, None, found 'long'" in refused(*predict, *words[:3], "long")
    assert "top must be at least 1, found 0" in refused(*predict, *words, "--top", 0)
    assert "did you mean 'sentence'" in refused(*predict, "--sentense", "x", "--duration", 3)
    assert "needs the argument 'sentence'" in refused(*predict)
    assert "--sentence needs a value" in refused(*predict, "--sentence")
    features.write_bytes(features.read_bytes()[:100])
    assert "video.npy" in refused(*predict, *words)
    assert "none.npy" in refused("predict", runs["mgsl-net"].run.path, "--video", "none.npy", *words)
    assert "features of unknown origin" in refused("predict", runs["mgsl-net"].run.path, "--video", "a.mp4", *words)
    (tmp_path / "no.png").write_text("no picture")
    for image in ("no.png", "none.png"):
        assert image in refused("predict", runs["cmi"].run.path, "--image", image)


def test_export_tells_how_far_the_program_is_off(ask, refused, runs, tmp_path):
    code, out, _ = ask("export", runs["cmi"].run.path, "--out", "cmi.pt2")
    assert code == 0
    assert "largest difference" in out
    assert (tmp_path / "cmi.pt2").is_file()
    assert "did you mean 'onnx'" in refused("export", runs["cmi"].run.path, "--format", "onx")


def test_report_of_a_run_and_of_claims(ask, refused, runs, tmp_path):
    code, out, _ = ask("report", runs["cmi"].run.path, "--out", "cmi.html")
    assert (code, out.strip()) == (0, "cmi.html")
    assert "<html" in (tmp_path / "cmi.html").read_text()
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "one.json").write_text(json.dumps(claim_record()))
    assert ask("report", "claims")[0] == 0
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("report", "empty")


# -- compare, claim --


def test_comparison_as_json_and_as_a_page(ask, ask_json, made_up, tmp_path, monkeypatch):
    found = ask_json("compare", "cmi", "--seeds", 2, "--jobs", 2, "--trainer.max_epochs", 1)
    assert found["methods"]["cmi"]["metrics"]["never"] == [None, None]
    assert {processes for _, processes in made_up} == {2}
    assert all(job.trainer["max_epochs"] == 1 for job, _ in made_up)
    count = len(made_up)
    code, out, told = ask("compare", "transfer", "--methods", "cmi", "--seeds", 2, "--trainer.max_epochs", 1)
    assert code == 0
    assert told.splitlines() == ["cmi: seed 0: kept from before", "cmi: seed 1: kept from before"]
    assert len(made_up) == count
    monkeypatch.setattr(sweep, "_code_print", lambda method: f"other code of {method}")
    told = ask("compare", "transfer", "--methods", "cmi", "--trainer.max_epochs", 1)[2]
    assert told == "cmi: seed 0: 1.0 s, anew, as data or code have changed\n"
    assert "cmi" in out
    assert next((tmp_path / "runs" / "compare").glob("*.html")).is_file()
    assert comparison_record().keys() == found.keys()


def test_claims_are_recorded_and_printed(ask, ask_json, made_up, tmp_path):
    words = ("claim", "cmi-student", "--seeds", 2, "--no-tune")
    (record,) = ask_json(*words)
    assert record["verdict"] in ("holds", "does not hold", "undecided")
    written = json.loads((tmp_path / "results" / "claims" / "cmi-student.json").read_text(), parse_constant=pytest.fail)
    assert written == record
    assert claim_record().keys() == record.keys()
    count = len(made_up)
    code, out, told = ask(*words)
    assert (code, len(made_up)) == (0, count)
    assert record["verdict"] in out
    assert told.count("kept from before") == count
    assert (tmp_path / "runs" / "claims" / "cmi").is_dir()


def test_wrong_sweeps_are_answered_in_one_sentence(refused, monkeypatch):
    assert "did you mean 'cmi-student'" in refused("claim", "cmi-studnt")
    assert "expected a number of at least 1, found '0'" in refused("claim", "cmi", "--seeds", 0)
    assert "expected a number of at least 1, found '-2'" in refused("compare", "cmi", "--jobs", "-2")
    complaint = refused("compare", "grounding", "--methods", "mgsl-net", "cmi")
    assert complaint == "compare --methods: cmi is a method of transfer, expected methods of grounding"
    assert "unknown field 'nonsense'" in refused("compare", "nonsense", "--methods", "mgsl-net", "vslnet")
    assert "expected seeds" in refused("compare", "cmi", "--data.seed", 5)
    assert "unknown field or method 'cim'" in refused("compare", "cim")


# -- data --


def test_data_that_is_fine_and_data_that_is_not(ask, ask_json, refused, tmp_path):
    for name in ("cat", "dog"):
        folder = tmp_path / "images" / "train" / name
        folder.mkdir(parents=True)
        for number in range(20):
            Image.fromarray(np.full((8, 8), number, dtype=np.uint8)).save(folder / f"{number}.png")
    assert ask_json("data", "check", "images")["faults"] == 0
    (tmp_path / "images" / "train" / "cat" / "3.png").write_text("no picture")
    code, out, _ = ask("data", "check", "images", "--format", "folder")
    assert code == 1
    assert "3.png" in out
    assert "nowhere: no such folder" in refused("data", "check", "nowhere")
    assert "did you mean 'digits'" in refused("data", "make", "digit", "--out", "x")
    assert "invalid choice: 'mke'" in refused("data", "mke")
    assert "--out" in refused("data", "make", "digits")
    assert "no such video" in refused("data", "features", "none", "--out", "x")
    assert "digits has no views, expected none" in refused("data", "make", "digits", "--out", "x", "--view", "rare")
    assert "which no seed draws" in refused("data", "make", "digits", "--out", "x", "--seed", 0)


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"start": 5.0, "end": 2.0}, "5"),
        ({"start": 2.0, "end": 99.0}, "99"),
        ({"start": float("nan"), "end": 2.0}, ""),
        ({"sentence": ""}, ""),
    ],
)
def test_faulty_moments_are_reported_with_their_file(record, sentence, ask, tmp_path):
    root = tmp_path / "mine"
    (root / "features").mkdir(parents=True)
    good = {"video": "v1", "sentence": "a dog runs", "start": 1.0, "end": 3.0, "duration": 10.0}
    (root / "train.jsonl").write_text("\n".join(json.dumps(line) for line in (good, {**good, **record})) + "\n")
    np.save(root / "features" / "v1.npy", np.ones((5, 4), np.float32))
    code, out, complaint = ask("data", "check", root, "--format", "jsonl")
    assert (code, complaint) == (1, "")
    assert "train.jsonl" in out
    assert sentence in out
