"""Training leaves what it promises, and goes on where it was stopped."""

import json
import os
import pickle
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from engine.toy import Adversaries, Interrupted, PointData, Refusing, Toy
from ommatid.engine import fit as fitting
from ommatid.engine.fit import AveragedWeights, EpochSeed, KeepCheckpoints, evaluate, fit, make_trainer, quiet, seed
from ommatid.engine.method import Method
from ommatid.engine.progress import TrainingProgress
from ommatid.engine.recipe import Recipe
from ommatid.engine.runs import RunDir, read_series
from ommatid.errors import CheckpointError, InputError

AVERAGED = Recipe("momentum", lr=0.1, momentum=0.5, schedule="constant", ema_decay=0.5)


def make(kind: type[Method] = Toy, **settings) -> Method:
    seed(0)
    return kind(**settings)


def equal(ours: Method, theirs: Method) -> bool:
    return all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path, "toy")


# -- what is kept --


def test_a_run_keeps_metrics_curves_and_both_checkpoints(run):
    method = make()
    fit(method, PointData(), run, {"max_epochs": 2, "log_every_n_steps": 1})
    kept = {path.name for path in run.path.iterdir()}
    assert kept == {"metrics.csv", "curves.png", "best.safetensors", "last.safetensors", "resume.ckpt"}
    assert equal(Toy.load(run.last), method)
    series = read_series(run.metrics)
    assert len(series["train/loss"]) == 6
    assert len(series["val/error"]) == 2


def test_nothing_is_written_without_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(make(), PointData(), None, {"max_epochs": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mode", "best"), [("min", 1), ("max", 0)])
def test_best_is_the_best_validated_epoch(run, monkeypatch, mode, best):
    monkeypatch.setattr(Toy, "monitor_mode", mode)
    method, weights = make(recipe=Recipe("momentum", lr=1e-3, momentum=0.0, schedule="constant")), []
    method.on_train_epoch_start = lambda: weights.append(method.line.weight.detach().clone())
    fit(method, PointData(), run, {"max_epochs": 2})
    assert torch.equal(Toy.load(run.best).line.weight, [weights[1], method.line.weight][best])


def test_an_epoch_without_a_score_is_never_the_best(run, monkeypatch):
    scores = iter([float("nan"), 2.0, float("inf")])
    monkeypatch.setattr(Toy, "score", lambda self, batch: {"error": torch.full((len(batch),), next(scores))})
    weights = []
    method = Toy()
    method.on_validation_end = lambda: weights.append(method.line.weight.detach().clone())
    options = {"max_epochs": 3, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    fit(method, PointData(), run, options)
    assert torch.equal(Toy.load(run.best).line.weight, weights[1])


def test_the_best_of_a_killed_run_stays_the_best(run):
    """What comes after resuming is worse: the file of the first part must not be overwritten."""
    method = make(recipe=Recipe("momentum", lr=1e-3, momentum=0.0, schedule="constant"))
    fit(method, PointData(), run, {"max_epochs": 1})
    best = run.best.read_bytes()
    worse = make(recipe=Recipe("momentum", lr=100.0, momentum=0.0, schedule="constant"))
    worse.configure_optimizers = lambda: torch.optim.SGD(worse.parameters(), lr=1e2)
    keep = KeepCheckpoints(run)
    keep.load_state_dict({"best": 0.0})
    fit(worse, PointData(), None, {"max_epochs": 1, "callbacks": [keep], "enable_checkpointing": True})
    assert run.best.read_bytes() == best


# -- averages of the weights --


class Watch(Callback):
    """The weights after every step, and those that were validated."""

    def __init__(self) -> None:
        self.steps, self.validated = [], []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.steps.append(pl_module.line.weight.detach().clone())

    def on_validation_batch_start(self, trainer, pl_module, *_) -> None:
        self.validated.append(pl_module.line.weight.detach().clone())


def test_evaluated_and_kept_weights_are_the_average(run):
    method, watch = make(recipe=AVERAGED), Watch()
    fit(method, PointData(batch_size=12), run, {"max_epochs": 2, "callbacks": [watch]})
    average, expected = watch.steps[0], []
    for number, weights in enumerate(watch.steps):
        average = weights if number == 0 else 0.5 * average + 0.5 * weights
        expected.append(average)
    torch.testing.assert_close(watch.validated[0], expected[1])
    torch.testing.assert_close(watch.validated[-1], expected[3])
    torch.testing.assert_close(Toy.load(run.last).line.weight, expected[3])
    torch.testing.assert_close(Toy.load(run.best).line.weight, expected[3])
    torch.testing.assert_close(method.line.weight, expected[3])
    assert not torch.allclose(watch.steps[-1], expected[3])


def test_the_average_can_be_put_in_place_and_taken_out(run):
    method, averaged, seen = make(recipe=AVERAGED), [], {}

    class Look(Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            (callback,) = [found for found in trainer.callbacks if isinstance(found, AveragedWeights)]
            seen["before"] = pl_module.line.weight.detach().clone()
            with callback.in_place(pl_module):
                averaged.append(pl_module.line.weight.detach().clone())
            seen["after"] = pl_module.line.weight.detach().clone()

    fit(method, PointData(), None, {"max_epochs": 1, "callbacks": [Look()]})
    assert torch.equal(seen["before"], seen["after"])
    assert not torch.equal(seen["before"], averaged[0])


# -- going on --


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Toy, {"recipe": Recipe("adamw", lr=0.05, schedule="cosine", warmup_steps=2, clip_norm=1.0)}),
        (Toy, {"recipe": AVERAGED}),
        (Adversaries, {}),
    ],
    ids=["one optimizer", "average", "two optimizers"],
)
def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path, kind, settings):
    options = {"max_epochs": 4, "log_every_n_steps": 1}
    whole = make(kind, **settings)
    fit(whole, PointData(), RunDir.create(tmp_path / "whole", "toy"), options)
    run = RunDir.create(tmp_path / "killed", "toy")

    class Kill(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if trainer.current_epoch == 2 and batch_idx == 1:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fit(make(kind, **settings), PointData(), run, {**options, "callbacks": [Kill()]})
    resumed = make(kind, **settings)
    torch.rand(17)
    fit(resumed, PointData(), run, options, resume=True)
    assert equal(resumed, whole)
    (other,) = (tmp_path / "whole" / "toy").iterdir()
    # As text, since NaN equals nothing.
    assert repr(sorted(read_series(run.metrics).items())) == repr(sorted(read_series(other / "metrics.csv").items()))
    for name in ("best", "last"):
        assert equal(kind.load(getattr(run, name)), kind.load(other / f"{name}.safetensors"))


@pytest.mark.parametrize(
    ("kind", "settings"), [(Toy, {}), (Toy, {"recipe": AVERAGED}), (Adversaries, {})], ids=["plain", "average", "two"]
)
def test_a_run_killed_before_its_last_weights_were_written_ends_like_any_other(run, kind, settings):
    whole = make(kind, **settings)
    fit(whole, PointData(), run, {"max_epochs": 2})
    last = kind.load(run.last)
    run.last.unlink()
    again = make(kind, **settings)
    fit(again, PointData(), run, {"max_epochs": 2}, resume=True)
    assert equal(kind.load(run.last), last)
    assert equal(again, whole)


def test_what_the_trained_weights_decide_is_settled_once_and_kept(run):
    class Settling(Toy):
        times = 0

        def settle(self):
            type(self).times += 1
            with torch.no_grad():
                self.line.weight.fill_(7.0)

    fit(make(Settling), PointData(), run, {"max_epochs": 2})
    assert Settling.times == 1
    assert (Settling.load(run.last).line.weight == 7).all()


def test_what_an_epoch_draws_depends_on_seed_and_epoch_alone():
    first, second, other = make(), make(), make()
    fit(first, PointData(seed=1), None, {"max_epochs": 2})
    torch.rand(1000)
    fit(second, PointData(seed=1), None, {"max_epochs": 2})
    fit(other, PointData(seed=2), None, {"max_epochs": 2})
    assert first.draws == second.draws
    assert first.seen == second.seen
    assert first.draws != other.draws
    assert first.draws[:3] != first.draws[3:]


def test_nothing_to_resume(run):
    with pytest.raises(InputError, match="nothing to resume, the run had not finished its first epoch"):
        fit(make(), PointData(), run, {"max_epochs": 1}, resume=True)
    with pytest.raises(InputError, match="nothing to resume"):
        fit(make(), PointData(), None, {"max_epochs": 1}, resume=True)


class Bomb:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other", "code"])
def test_a_damaged_resume_state_is_answered_in_one_sentence(run, tmp_path, damage):
    fit(make(), PointData(), run, {"max_epochs": 1})
    whole = run.resume_state.read_bytes()
    flag = tmp_path / "it ran"
    contents = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no state", "code": pickle.dumps(Bomb(flag))}
    if damage == "other":
        torch.save({"weights": torch.zeros(2)}, run.resume_state)
    else:
        run.resume_state.write_bytes(contents[damage])
    with pytest.raises(CheckpointError, match="the resume state cannot be read") as caught:
        fit(make(), PointData(), run, {"max_epochs": 2}, resume=True)
    assert str(caught.value).startswith(f"{run.resume_state}: ")
    assert not flag.exists()


def test_a_resume_state_of_another_model_is_refused(run):
    fit(make(), PointData(), run, {"max_epochs": 1})
    with pytest.raises(CheckpointError, match=r"do not fit Toy: 0 missing, 1 not expected \(first: line.bias\)"):
        fit(make(bias=False), PointData(), run, {"max_epochs": 2}, resume=True)
    other = make(recipe=Recipe("momentum", momentum=0.0, schedule="linear", lr_multipliers={"*bias": 2.0}))
    with pytest.raises(InputError, match="parameter group"):
        fit(other, PointData(), run, {"max_epochs": 2}, resume=True)


# -- options --


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_epoch": 3}, "trainer: unknown option 'max_epoch': did you mean 'max_epochs'"),
        ({"max_epochs": "many"}, "trainer: max_epochs must be one of int, None, found 'many'"),
        ({"max_steps": 2.5}, "trainer: max_steps must be int, found '2.5'"),
        ({"max_steps": -5}, "trainer: `max_steps` must be"),
        ({"accelerator": "abacus"}, "trainer: .*'abacus'"),
        ({"strategy": "zigzag"}, "trainer: .*'zigzag'"),
        ({"devices": 0}, r"trainer: .*devices=0"),
        ({"callbacks": "x"}, "trainer: callbacks must be"),
        ({"accumulate_grad_batches": 0}, "trainer: accumulate_grad_batches must be at least 1, found 0"),
        ({"check_val_every_n_epoch": 0}, "trainer: check_val_every_n_epoch must be at least 1, found 0"),
    ],
)
def test_impossible_options_are_answered_in_one_sentence(options, sentence):
    with pytest.raises(InputError, match=f"^{sentence}") as caught:
        make_trainer(make(), None, options, progress=False)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("trainer: ") == 1


def test_options_that_contradict_the_data_are_answered_in_one_sentence():
    with pytest.raises(InputError, match=r"^trainer: `val_check_interval` \(1000\) must be") as caught:
        fit(make(), PointData(), None, {"max_epochs": 1, "val_check_interval": 1000})
    assert "\n" not in str(caught.value)


def test_a_fault_of_a_method_keeps_its_own_error():
    method = make()
    method.training_step = lambda batch, batch_idx: [][1]
    with pytest.raises(IndexError):
        fit(method, PointData(), None, {"max_epochs": 1})
    method.training_step = lambda batch, batch_idx: int("x")
    with pytest.raises(ValueError, match="invalid literal") as caught:
        fit(method, PointData(), None, {"max_epochs": 1})
    assert not isinstance(caught.value, InputError)


def test_data_that_a_method_refuses_are_refused_before_training(run):
    with pytest.raises(InputError, match="not for me"):
        fit(make(Refusing), PointData(), run, {"max_epochs": 1})


def test_options_reach_the_trainer_and_callbacks_are_added():
    watch = Watch()
    trainer = make_trainer(make(recipe=AVERAGED), None, {"max_steps": 7, "callbacks": [watch]}, progress=True, seed=5)
    assert trainer.max_steps == 7
    kinds = {type(callback): callback for callback in trainer.callbacks}
    assert {Watch, AveragedWeights, TrainingProgress, EpochSeed} <= kinds.keys()
    assert KeepCheckpoints not in kinds
    assert kinds[EpochSeed].seed == 5


def test_a_clip_of_the_trainer_goes_before_the_recipe():
    recipe = Recipe(clip_norm=0.5)
    assert make_trainer(make(recipe=recipe), None, {}, progress=False).gradient_clip_val == 0.5
    assert make_trainer(make(recipe=recipe), None, {"gradient_clip_val": 2.0}, progress=False).gradient_clip_val == 2.0


def test_accumulated_batches_count_as_one_step():
    method = make()
    lightning = fit(method, PointData(), None, {"max_epochs": 2, "accumulate_grad_batches": 3})
    assert lightning.global_step == 2
    assert len(method.seen) == 6


def test_minus_one_is_no_limit():
    assert fit(make(), PointData(), None, {"max_epochs": 2, "max_steps": -1}).global_step == 6
    assert fit(make(), PointData(), None, {"max_epochs": -1, "max_steps": 4}).global_step == 4


def test_compiled_training_gives_the_same_weights(monkeypatch, run):
    monkeypatch.setattr(fitting.torch, "compile", partial(torch.compile, backend="eager"))
    plain, compiled = make(), make()
    # No validation: the run-time type checks of the tests cannot be traced.
    options = {"max_epochs": 1, "limit_val_batches": 0}
    fit(plain, PointData(), None, options)
    fit(compiled, PointData(), run, options, compile=True)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[key], value)
    assert equal(Toy.load(run.last), compiled)


# -- evaluation, seeds, interruption --


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_split_is_evaluated_whole(split):
    method, data = make(), PointData(batch_size=7)
    expected = method.score(data.first_batch(split, 24))["error"].mean().item()
    assert evaluate(method, data, split)["error"] == pytest.approx(expected, rel=1e-5)


def test_evaluating_nothing_finds_nothing():
    assert evaluate(make(), PointData(), "test", {"limit_test_batches": 0}) == {}


def test_misspelt_split_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="unknown split 'vla': did you mean 'val'"):
        evaluate(make(), PointData(), "vla")


def test_the_seed_decides_the_weights():
    first, second = make(), make()
    assert equal(first, second)
    seed(1)
    assert not equal(first, Toy())


def test_ctrl_c_arrives_as_such_and_the_next_one_is_heard():
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(make(Interrupted), PointData(), None, {"max_epochs": 1})
    assert signal.getsignal(signal.SIGINT) is handler


def test_leaving_on_purpose_is_no_interruption():
    method = make()

    def leave(batch, batch_idx):
        raise SystemExit(3)

    method.training_step = leave
    with pytest.raises(SystemExit):
        fit(method, PointData(), None, {"max_epochs": 1})


def test_quiet_silences_advertisements_and_nothing_else(recwarn):
    import logging
    import warnings

    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with quiet():
        warnings.warn("The 'val_dataloader' does not have many workers", stacklevel=1)
        assert logger.level == logging.WARNING
        warnings.warn("something real", stacklevel=1)
    assert logger.level == level
    assert [str(warning.message) for warning in recwarn] == ["something real"]


def test_metrics_that_no_sample_has_are_null_in_json(run):
    run.write_json("result.json", evaluate(make(), PointData()))
    assert json.loads((run.path / "result.json").read_text())["never"] is None
