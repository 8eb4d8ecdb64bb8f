"""What every method of the catalogue promises; a new one is tested by its row alone, TINY only makes it faster."""

import json
import multiprocessing
import os
import queue
import random
import signal
import socket
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image

from dense.made_saliency import film
from ommatid import api, catalogue
from ommatid.cli import main
from ommatid.data.volume_files import write_nifti
from ommatid.engine.batch import Batch
from ommatid.engine.checkpoint import read_checkpoint, write_checkpoint
from ommatid.engine.fit import evaluate, fit, make_trainer
from ommatid.engine.runs import RunDir
from ommatid.engine.settings import arguments_of, build, constructor_arguments, merge
from ommatid.errors import CheckpointError, InputError
from tiny import TINY

# Where the tiny settings learn nothing: those of the model that do.
LEARNING = {
    "cmi": {"generator_steps": 30, "kd_steps": 30, "synthesis_batch": 32, "kd_batch": 32, "teacher_steps": 30},
    "cosoc": {"exemplar_share": 0.0},
    "dcin-tel": {"hidden_dim": 32, "recipe": {"lr": 1e-2}},
    "deepstationing": {"organs": "truth", "kept": None, "steps": 36, "widths": [8, 16], "recipe": {"lr": 2e-2}},
    "kdexplainer": {"teacher_steps": 100, "dropout": 0.0, "crop_pad": 0, "recipe": {"lr": 1e-2}},
    "paver": {"released_losses": True},
    "sa-gan": {"embedding_dim": 64, "embedding_steps": 20, "classifier_steps": 300, "classifier_lr": 0.05},
    "vam": {"teacher_steps": 100, "crop_pad": 0},
}
# Where the training samples cannot be scored by what is monitored: those of sa-gan are of seen classes alone.
MEMORISED = {"sa-gan": "S"}
METHODS = catalogue.names()
# Pairs that training never shows cannot be learnt by heart; tests/grounding/test_dscnet.py looks at what is learnt.
WITHOUT_PAIRS = [name for name in METHODS if getattr(api.method_class(name), "learns_from", "") == "unpaired"]


def tiny(name: str, **model) -> dict:
    kind = api.method_class(name)
    case = merge({"model": {}, "data": {}, "trainer": {}}, TINY.get(name, {}))
    return api.plan(kind, merge(case["model"], model), case["data"], merge(case["trainer"], {"max_epochs": 3}))


def assembled(name: str, **model):
    return api.assemble(api.method_class(name), tiny(name, **model))


def trained(name: str, run: RunDir | None = None, resume: bool = False, **trainer):
    config = tiny(name)
    method, data = api.assemble(api.method_class(name), config)
    fit(method, data, run, merge(config["trainer"], trainer), resume=resume)
    return method, data


def weights(method) -> dict[str, torch.Tensor]:
    return {name: value for name, value in method.state_dict().items() if isinstance(value, torch.Tensor)}


def predictions(method, batch) -> list[torch.Tensor]:
    """Everything a method predicts for a batch, as tensors."""
    with torch.no_grad():
        outputs = method.eval()(read_by(method, batch))
    return (
        [v for v in vars(outputs).values() if isinstance(v, torch.Tensor)] if isinstance(outputs, Batch) else [outputs]
    )


def read_by(method, batch):
    """What the method's forward reads of a batch: all of it, its images, or one view of its clips."""
    if "batch" in type(method).forward.__annotations__:
        return batch
    return batch.clips[:, 0] if hasattr(batch, "clips") else batch.images


@cache
def briefly_trained(name: str):
    """A method after one epoch, and its data: for looking at."""
    return trained(name, max_epochs=1)


@pytest.mark.parametrize("name", METHODS)
def test_full_size_configuration_builds(name):
    """That its sizes are the published ones is tested method by method."""
    kind = api.method_class(name)
    method = build(kind, {})
    assert method.parameter_count() > 0
    assert set(method.settings()) == set(constructor_arguments(kind))


@pytest.mark.parametrize("name", METHODS)
def test_one_epoch_changes_every_trained_parameter_and_stays_finite(name):
    before = dict(assembled(name)[0].named_parameters())
    method, _ = briefly_trained(name)
    for key, value in method.named_parameters():
        assert torch.isfinite(value).all(), key
        if not key.startswith(method.trained_elsewhere or ("\0",)) and not rests(key, method):
            assert not torch.equal(before[key], value), f"{key} was never updated"


def rests(key: str, method) -> bool:
    """Parameters that one tiny epoch may leave alone: a vector for what did not occur, an unknown word or a gap."""
    return key.endswith(("words.unknown", ".missing"))


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_gives_the_same_bits(name):
    first, _ = briefly_trained(name)
    second, _ = trained(name, max_epochs=1)
    for key, value in weights(first).items():
        assert torch.equal(value, weights(second)[key]), key


@pytest.mark.parametrize("name", METHODS)
def test_checkpoint_round_trip_gives_equal_predictions(name, tmp_path):
    method, data = briefly_trained(name)
    batch = data.first_batch("test", 4)
    path = method.save(tmp_path / "method.safetensors")
    loaded = api.load(path)
    for ours, theirs in zip(predictions(method, batch), predictions(loaded, batch), strict=True):
        assert torch.equal(ours, theirs)
    assert loaded.extras() == method.extras()


@pytest.mark.parametrize("name", METHODS)
def test_a_prediction_is_told_and_drawn_on_the_command_line(name, tmp_path, capsys):
    method, _ = briefly_trained(name)
    words = ["predict", str(method.save(tmp_path / "method.safetensors")), *asked(method, tmp_path)]
    assert main([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert main([*words, "--out", str(tmp_path / "drawn.png")]) == 0
    told = capsys.readouterr().out
    assert all(key in told for key in content)
    assert (tmp_path / "drawn.png").stat().st_size > 0


def asked(method, folder: Path) -> list[str]:
    """What a user gives `predict` on the command line: every input that the method cannot do without."""
    taken = arguments_of(method.predict)
    needed = [name for name, parameter in taken.items() if parameter.default is parameter.empty]
    # A file of features does not say how long its video is; a face is compared with another one.
    needed += [name for name in ("duration", "subtitle_features", "other") if name in taken]
    return [word for name in needed for word in (f"--{name}", INPUTS[name](method, folder))]


def a_picture(path: Path, grey: bool = False) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(255, size=(24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels[..., 0] if grey else pixels).save(path)
    return str(path)


def an_array(path: Path, rows: int, columns: int) -> str:
    np.save(path, np.random.default_rng(0).random((rows, columns), dtype=np.float32))
    return str(path)


def a_video(method, folder: Path) -> str:
    if "feature_dim" in method.hparams:
        return an_array(folder / "video.npy", 20, method.hparams.feature_dim)
    pytest.importorskip("av")
    return str(film(folder / "video.mp4"))


def some_subtitles(_, folder: Path) -> str:
    (folder / "film.srt").write_text("1\n00:00:01,000 --> 00:00:02,500\nI am so happy!\n")
    return str(folder / "film.srt")


def a_volume(_, folder: Path) -> str:
    pytest.importorskip("nibabel")
    write_nifti(folder / "ct.nii.gz", np.zeros((16, 16, 1), dtype=np.int16), np.diag([2.0, 3.0, 5.0, 1.0]))
    return str(folder / "ct.nii.gz")


def some_classes(_, folder: Path) -> str:
    for name in ("one", "two"):
        a_picture(folder / "classes" / name / "example.png")
    return str(folder / "classes")


INPUTS: dict[str, Callable[..., str]] = {
    "image": lambda _, folder: a_picture(folder / "image.png"),
    "other": lambda _, folder: a_picture(folder / "other.png"),
    "references": lambda _, folder: json.dumps([a_picture(folder / "reference.png")]),
    "reference_masks": lambda _, folder: json.dumps([a_picture(folder / "reference.mask.png", grey=True)]),
    "support": some_classes,
    "video": a_video,
    "duration": lambda *_: "30",
    "sentence": lambda method, _: " ".join(method.vocabulary.words[:3]),
    "subtitles": some_subtitles,
    "subtitle_features": lambda method, folder: an_array(folder / "text.npy", 1, method.hparams.text_dim),
    "features": lambda method, folder: an_array(folder / "features.npy", 3, method.hparams.feature_dim),
    "volume": a_volume,
}
"""By the argument's name: writes an input into a folder, and gives the word of the command line."""


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kills", [2, pytest.param(200, marks=pytest.mark.soak)])
def test_kills_at_random_moments_never_change_the_outcome(name, kills, tmp_path):
    """However often it is killed and resumed, a run ends with the weights of an uninterrupted one."""
    epochs = max(3, kills // 10)
    start = time.perf_counter()
    whole, _ = trained(name, RunDir.create(tmp_path / "whole", name), max_epochs=epochs)
    seconds = time.perf_counter() - start
    run = RunDir.create(tmp_path / "killed", name)
    config = tiny(name)
    run.write_config({"method": name, **merge(config, {"trainer": {"max_epochs": epochs}}), "compile": False})
    draw = random.Random(0)
    kill_in_second_epoch(run)
    # However fast the machine is, there is something to resume.
    assert run.resume_state.is_file()
    assert not run.last.is_file()
    for _ in range(kills - 1):
        if not run.last.is_file():
            kill_after(draw.uniform(0.0, seconds / 2), run)
    if not run.last.is_file():
        FORKS.Process(target=train_or_resume, args=(run.path,)).run()
    resumed = type(whole).load(run.last)
    for key, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[key]), key


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["ommatid.api", *(entry.target.partition(":")[0] for entry in catalogue.CATALOGUE)])


class KilledInSecondEpoch(Callback):
    """No process outruns its own kill; one whose method needs a single epoch dies before it keeps its last weights."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_end(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGKILL)


def kill_in_second_epoch(run: RunDir) -> None:
    process = FORKS.Process(target=train_or_resume, args=(run.path, None, KilledInSecondEpoch()))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def kill_after(seconds: float, run: RunDir) -> None:
    """Train in a process of its own and SIGKILL it; the clock starts when the training does."""
    started = FORKS.Event()
    process = FORKS.Process(target=train_or_resume, args=(run.path, started))
    process.start()
    while not started.wait(0.2):
        assert process.is_alive(), "the training did not start"
    process.join(seconds)
    process.kill()
    process.join()


def train_or_resume(path: Path, started=None, callback=None) -> None:
    torch.set_num_threads(1)
    run = RunDir.open(path)
    config = run.read_config()
    method, data = api.assemble(api.method_class(config["method"]), config)
    if started is not None:
        started.set()
    if not run.last.is_file():
        trainer = {**config["trainer"], "callbacks": [callback] if callback else None}
        fit(method, data, run, trainer, resume=run.resume_state.is_file())


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_step_is_finite(name):
    method, data = assembled(name)
    # The steps of all optimisers count: enough of them for a second stage.
    steps = 8 if method.several_optimizers else 2
    fit(method, data, trainer={"max_epochs": 1, "max_steps": steps, "precision": "bf16-mixed", "limit_val_batches": 0})
    for key, value in weights(method).items():
        assert not value.is_floating_point() or torch.isfinite(value).all(), key


@pytest.mark.parametrize("name", METHODS)
def test_order_of_the_batch_does_not_change_a_prediction(name):
    method, data = assembled(name)
    method.adopt(data)
    batch = data.first_batch("test", 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for straight, mixed in zip(predictions(method, batch), predictions(method, batch[order]), strict=True):
        torch.testing.assert_close(straight[order], mixed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_company_in_the_batch_does_not_change_a_prediction(name):
    """Alone or padded to the length of others: the same answer."""
    method, data = assembled(name)
    method.adopt(data)
    batch = data.first_batch("test", 6)
    together = predictions(method, batch)
    dataset = data.dataset("test")
    for index in range(3):
        alone = predictions(method, data.collate([dataset[index]]))
        for joint, single in zip(together, alone, strict=True):
            known = single[0]
            torch.testing.assert_close(joint[index][: len(known)], known, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in WITHOUT_PAIRS])
def test_it_learns_beyond_the_trivial(name):
    """Overfits: after the tiny training the training samples are scored better than before it."""
    method, data = assembled(name, **LEARNING.get(name, {}))
    # What a method is not shown in training (moments, pairs) it may still be scored by.
    _, labelled = assembled(name)
    method.adopt(data)
    monitored = MEMORISED.get(name, method.monitor.removeprefix("val/"))
    before = evaluate(method, labelled, "train", {"limit_test_batches": 2})[monitored]
    fit(method, data, trainer={"max_epochs": 25 if method.automatic_optimization else 6, "limit_val_batches": 0})
    after = evaluate(method, labelled, "train", {"limit_test_batches": 2})[monitored]
    assert after > before + 0.1, (before, after)


@pytest.mark.parametrize("name", METHODS)
def test_bad_input_is_answered_in_one_sentence(name, tmp_path):
    kind = api.method_class(name)
    with pytest.raises(InputError, match=r"unknown argument of \w+ 'no_such_argument'"):
        api.create(name, no_such_argument=1)
    with pytest.raises(InputError, match=r"unknown split 'holidays'"):
        evaluate(*assembled(name), "holidays")
    with pytest.raises(InputError, match="no such folder"):
        build(kind.data_module, {"root": str(tmp_path / "nowhere")}).dataset("train")
    with pytest.raises(InputError, match="trainer:"):
        make_trainer(assembled(name)[0], None, {"no_such_option": 1}, progress=False)


@pytest.mark.parametrize("name", METHODS)
def test_checkpoints_of_others_are_refused(name, tmp_path):
    method, _ = briefly_trained(name)
    path = method.save(tmp_path / "own.safetensors")
    checkpoint = read_checkpoint(path)
    stranger = tmp_path / "stranger.safetensors"
    write_checkpoint(stranger, type(checkpoint)("Stranger", checkpoint.settings, checkpoint.extras, checkpoint.weights))
    with pytest.raises(CheckpointError, match="Stranger"):
        api.load(stranger)
    with pytest.raises(CheckpointError, match=f"expected one of {type(method).__name__}"):
        type(method).load(stranger)
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        api.load(truncated)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_score_like_one_and_train_together(name, tmp_path):
    method, data = assembled(name)
    method.adopt(data)
    alone = evaluate(method, data, "test")
    path = method.save(tmp_path / "method.safetensors")
    answers, port = FORKS.Queue(), free_port()
    ranks = [FORKS.Process(target=score_and_train, args=(path, tiny(name), rank, port, answers)) for rank in range(2)]
    for process in ranks:
        process.start()
    (together, first), (_, second) = sorted((answer(answers, ranks) for _ in ranks), key=lambda each: not each[0])
    for process in ranks:
        process.join(60)
    assert together.keys() == alone.keys()
    for key, value in alone.items():
        if value == value:
            assert together[key] == pytest.approx(value, abs=1e-6), key
    shared = [key for key in first if not key.startswith(type(method).each_its_own)]
    assert [first[key] for key in shared] == [second[key] for key in shared], "trained apart"
    before = sums(assembled(name)[0])
    assert any(first[key] != before[key] for key in shared)


def answer(answers, ranks):
    """The next of their answers; a process that fails is not waited for."""
    while True:
        try:
            return answers.get(timeout=1)
        except queue.Empty:
            assert all(process.exitcode in (None, 0) for process in ranks), "a process failed, see above"


def sums(method) -> dict[str, float]:
    return {
        key: float(value.detach().double().sum()) for key, value in method.named_parameters() if value.requires_grad
    }


def score_and_train(path: Path, config: dict, rank: int, port: int, answers) -> None:
    """What one of two processes does that a launcher has started; the first one tells what they score."""
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in launched.items()})
    torch.set_num_threads(1)
    method = api.load(path)
    trainer = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
    found = evaluate(method, build(type(method).data_module, config["data"]), "test", trainer)
    method, data = api.assemble(type(method), config)
    fit(method, data, trainer={**config["trainer"], **trainer, "max_epochs": 2, "limit_val_batches": 0})
    answers.put((found if rank == 0 else {}, sums(method)))


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
