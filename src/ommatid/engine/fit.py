"""Training, resuming and evaluating a method: a thin layer over Lightning's Trainer."""

import logging
import math
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint as CheckpointCallback
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ommatid.engine.checkpoint import write_checkpoint
from ommatid.engine.data import DataModule, epoch_seed
from ommatid.engine.method import Method
from ommatid.engine.progress import TrainingProgress
from ommatid.engine.runs import CsvLog, RunDir
from ommatid.engine.settings import checked, constructor_arguments
from ommatid.errors import CheckpointError, InputError, unknown


class AveragedWeights(EMAWeightAveraging):
    """The exponential average of the weights, which is what is evaluated and kept."""

    @contextmanager
    def in_place(self, method: LightningModule) -> Iterator[None]:
        """Within the context the method has the averaged weights."""
        self._swap_models(method)
        try:
            yield
        finally:
            self._swap_models(method)


class KeepCheckpoints(CheckpointCallback):
    """best and last weights as safetensors, and after every epoch the state from which a killed run goes on."""

    def __init__(self, run: RunDir, averaged: AveragedWeights | None = None) -> None:
        super().__init__()
        self.run, self.averaged = run, averaged
        self.best: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Every process names its folder after the second it started in; the first one's holds.
        self.run = RunDir(Path(trainer.strategy.broadcast(str(self.run.path))))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Method)
        value = trainer.callback_metrics.get(pl_module.monitor)
        if trainer.sanity_checking or value is None or not self._improves(float(value), pl_module.monitor_mode):
            return
        self.best = float(value)
        # The value was measured on the averaged weights, which Lightning has put back by now.
        with nullcontext() if self.averaged is None else self.averaged.in_place(pl_module):
            self._save(trainer, pl_module, self.run.best)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Metrics first: a resumed run cuts the rows that its state does not know, but cannot invent missing ones.
        if isinstance(trainer.logger, CsvLog):
            trainer.logger.write()
        aside = self.run.resume_state.with_suffix(".part")
        trainer.save_checkpoint(aside)
        if trainer.is_global_zero:
            aside.replace(self.run.resume_state)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Method)
        self._save(trainer, pl_module, self.run.last)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def _improves(self, value: float, mode: str) -> bool:
        if not math.isfinite(value):
            return False
        return self.best is None or (value > self.best if mode == "max" else value < self.best)

    @staticmethod
    def _save(trainer: Trainer, method: Method, path: Path) -> None:
        # The strategy gathers sharded weights; on one device this is the module's own state dict.
        weights = trainer.strategy.lightning_module_state_dict()
        if trainer.is_global_zero:
            kept = {name: weights[name] for name in method.state_dict()} if weights else {}
            checkpoint = method.checkpoint()
            checkpoint.weights.update(kept)
            write_checkpoint(path, checkpoint)


class Settled(Callback):
    """After the last update a method settles what only its trained weights decide; the last checkpoint holds it."""

    def __init__(self) -> None:
        self.done = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Method)
        pl_module.settle()
        self.done = True


class EpochSeed(Callback):
    """What is drawn in an epoch depends on the seed, the epoch and the process only, not on what was drawn before.

    A resumed run therefore draws what the killed one would have drawn, without any generator's state on disk.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Not at the start of the epoch: opening a loader draws too, in a resumed epoch at another moment.
        if batch_idx == 0:
            torch.manual_seed(epoch_seed(self.seed, trainer.current_epoch, trainer.global_rank))


def fit(
    method: Method,
    data: DataModule,
    run: RunDir | None = None,
    trainer: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool = False,
    compile: bool = False,
) -> Trainer:
    """Train `method` on `data` and return the finished trainer.

    Args:
        run: where checkpoints, metrics and curves are kept; nothing is written where None.
        trainer: arguments of Lightning's Trainer (devices, strategy, num_nodes, precision, max_steps, ...).
        resume: go on from the run's last finished epoch, bit for bit.
        progress: show a progress bar with the time left and the current metric.
        compile: train through `torch.compile`.

    Raises:
        InputError: the trainer does not know an argument, or there is nothing to resume.
    """
    method.adopt(data)
    # Where DistributedDataParallel looks; `startswith` an empty tuple is never true.
    method._ddp_params_and_buffers_to_ignore = [  # type: ignore[assignment]
        name for name in method.state_dict() if name.startswith(method.each_its_own)
    ]
    lightning = make_trainer(method, run, trainer or {}, progress, data.seed)
    state = _resume_state(run, resume)
    if state:
        done = _steps_done(state, method)
        if isinstance(lightning.logger, CsvLog):
            lightning.logger.continue_from(done)
    module: Any = torch.compile(method) if compile else method
    with quiet(), _one_sentence(), _interruptible():
        # Lightning reads the state through torch.load: plain values and tensors only, nothing in the file is executed.
        lightning.fit(
            module, **_loaders(method, data, lightning), ckpt_path=state, weights_only=True if state else None
        )
    callbacks: list[Callback] = lightning.callbacks  # type: ignore[attr-defined]
    if state and not any(isinstance(each, Settled) and each.done for each in callbacks):
        # Killed after the last epoch was kept and before its weights were: there was nothing left to train.
        for callback in callbacks:
            if isinstance(callback, AveragedWeights | Settled | KeepCheckpoints):
                callback.on_train_end(lightning, method)
    if run is not None and lightning.is_global_zero:
        run.draw_curves()
        method.draw_training(run.path)
    return lightning


def _loaders(method: Method, data: DataModule, lightning: Trainer) -> dict[str, Any]:
    """The data's loaders; for a method that makes its own training data, its loader beside the data's validation."""
    own = method.training_loader()
    if own is None:
        return {"datamodule": data}
    data.trainer = lightning
    return {"train_dataloaders": own, "val_dataloaders": data.val_dataloader()}


def make_trainer(
    method: Method, run: RunDir | None, options: Mapping[str, Any], progress: bool, seed: int = 0
) -> Trainer:
    """Lightning's Trainer with what every run of ours has; `options` are its own arguments.

    Raises:
        InputError: Lightning does not know an option, or the options contradict each other.
    """
    arguments = constructor_arguments(Trainer)
    for name in options:
        if name not in arguments:
            raise InputError(f"trainer: {unknown('option', name, arguments)}")
    options = checked("trainer", Trainer, options)
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        if options.get(name) is not None and options[name] < 1:
            raise InputError(f"trainer: {name} must be at least 1, found {options[name]}")
    averaged = None if method.recipe.ema_decay is None else AveragedWeights(decay=method.recipe.ema_decay)
    callbacks: list[Callback] = [EpochSeed(seed)]
    if averaged is not None:
        callbacks.append(averaged)
    callbacks.append(Settled())
    if progress:
        callbacks.append(TrainingProgress())
    if run is not None:
        callbacks.append(KeepCheckpoints(run, averaged))
    callbacks.extend(options.pop("callbacks", None) or [])
    if method.automatic_optimization and method.recipe.clip_norm is not None:
        options.setdefault("gradient_clip_val", method.recipe.clip_norm)
    known: dict[str, Any] = {
        "logger": CsvLog(run.metrics) if run else False,
        "callbacks": callbacks,
        "enable_progress_bar": progress,
        "enable_checkpointing": run is not None,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "log_every_n_steps": 10,
    }
    try:
        with quiet(), _one_sentence():
            made = Trainer(**{**known, **options})
            idle = method.several_optimizers or method.idle_parameters
            if idle and isinstance(made.strategy, DDPStrategy) and options.get("strategy", "auto") in ("auto", "ddp"):
                # Processes would wait for gradients that never come.
                made = Trainer(**{**known, **options, "strategy": "ddp_find_unused_parameters_true"})
            return made
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"trainer: {error}") from error


def evaluate(
    method: Method, data: DataModule, split: str = "test", trainer: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Metrics of a method on one split, every sample counted once."""
    data.check_split(split)
    method.align(data)
    data.evaluated_split = split
    lightning = make_trainer(method, None, trainer or {}, progress=False)
    with quiet(), _one_sentence(), _interruptible():
        found = lightning.test(method, datamodule=data, verbose=False)
    # Nothing is found where the trainer was told to look at no batch.
    return {name.removeprefix("test/"): float(value) for metrics in found for name, value in metrics.items()}


def seed(value: int) -> None:
    """Seed every generator, loader workers included."""
    with quiet():
        seed_everything(value, workers=True, verbose=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's advertisements and its hints on loader workers; real warnings pass."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
            warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode at the start of training.*")
            warnings.filterwarnings(
                "ignore", message=".*number of training batches.*smaller than the logging interval.*"
            )
            warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
            # Scores are gathered from all processes before their means are logged.
            warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
            warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Options of the trainer that contradict each other, the data or the machine are the user's to mend."""
    try:
        yield
    except MisconfigurationException as error:
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error
    except ValueError as error:
        # Lightning and torch have no kind of their own for these two; a fault of ours keeps its traceback.
        if not any(known in str(error) for known in ("val_check_interval", "parameter group")):
            raise
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C arrives as KeyboardInterrupt; Lightning would leave the process, and be deaf to the next one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as leaving:
        if not isinstance(leaving.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def _resume_state(run: RunDir | None, resume: bool) -> str | None:
    if not resume:
        return None
    if run is None or not run.resume_state.is_file():
        where = run.path if run else "resume"
        raise InputError(f"{where}: nothing to resume, the run had not finished its first epoch")
    return str(run.resume_state)


def _steps_done(path: str, method: Method) -> int:
    """Steps as the log counts them: batches after which something was updated, by however many optimisers."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights, loops = state["state_dict"], state["loops"]
        steps = int(loops["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"])
    except Exception as error:
        raise CheckpointError(f"{path}: the resume state cannot be read ({type(error).__name__})") from error
    method.check_weights(weights, Path(path))
    return steps
