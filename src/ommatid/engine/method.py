"""`Method`: what all published methods share, on top of a LightningModule."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torchmetrics import Metric

from ommatid.engine.batch import Batch
from ommatid.engine.checkpoint import Checkpoint, read_checkpoint, read_foreign, write_checkpoint
from ommatid.engine.data import DataModule
from ommatid.engine.progress import share_done
from ommatid.engine.recipe import ENDLESS, Phase, Recipe, build_optimizer, build_schedule, expected_updates
from ommatid.engine.scores import SampleScores
from ommatid.engine.settings import build, constructor_arguments, merge, to_plain
from ommatid.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from ommatid.engine.claim import Claim

M = TypeVar("M", bound="Method")


@runtime_checkable
class Prediction(Protocol):
    """What `predict` of a field gives: to be read by a program, or drawn."""

    def to_json(self) -> dict[str, Any]: ...

    def draw(self, path: Path) -> None: ...


class Method(LightningModule):
    """Base of every method.

    A subclass takes its whole configuration as constructor arguments (`recipe` among them), calls
    `save_hyperparameters(logger=False)`, and implements `training_step` as its paper trains. Its field's base class
    says what a batch is, how a prediction is scored, and how a user's own input becomes a prediction.

    Class attributes:
        data_module: the field's data module.
        monitor, monitor_mode: the validation metric that picks the best checkpoint.
        embedded: settings (`model`, `data`, `trainer`) with which the method learns on embedded data within minutes.
        claims: the paper's central claims, re-testable with one command.
        several_optimizers: True for a method that overrides `phases` and calls `update` itself.
        idle_parameters: True where an update may leave some parameters without gradients; so it is with several
            optimisers.
        trained_elsewhere: names (prefixes) of parameters that no update of this method moves, such as a frozen teacher.
        each_its_own: names (prefixes) of parameters that every process of a training has for itself; gradients of all
            others are averaged over processes.
        predict: the field's prediction for a user's own input, which its keyword arguments name.
    """

    data_module: ClassVar[type[DataModule]]
    monitor: ClassVar[str]
    monitor_mode: ClassVar[str] = "max"
    embedded: ClassVar[dict[str, dict[str, Any]]] = {}
    claims: ClassVar[tuple["Claim", ...]] = ()
    several_optimizers: ClassVar[bool] = False
    idle_parameters: ClassVar[bool] = False
    trained_elsewhere: ClassVar[tuple[str, ...]] = ()
    each_its_own: ClassVar[tuple[str, ...]] = ()

    recipe: Recipe
    predict: Callable[..., Prediction]

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = not self.several_optimizers
        self._val_scores, self._test_scores = self.new_scores(), self.new_scores()

    @property
    def hparams(self) -> Any:
        """The constructor arguments as attributes."""
        return super().hparams

    # -- what a field or a method says --

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        """Constructor arguments that the data decide (a feature width, a number of classes)."""
        return {}

    @classmethod
    def refuses(cls, data: DataModule) -> str | None:
        """Why it cannot be trained on these data, as the rest of a sentence about the method; None where it can."""
        return None

    def adopt(self, data: DataModule) -> None:
        """Before training: take over from the data what is neither weight nor setting (word vectors, class names)."""

    def align(self, data: DataModule) -> None:
        """Before evaluation: make the data speak this trained method's language (its vocabulary, its class order)."""

    def settle(self) -> None:
        """After the last update, before the last checkpoint: what only trained weights decide, such as a threshold."""

    def training_loader(self) -> DataLoader[Any] | None:
        """Its own training batches, for a method that learns from no data set; None takes the data module's."""
        return None

    def extras(self) -> dict[str, Any]:
        """JSON values that belong into a checkpoint besides weights and settings."""
        return {}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        """The inverse of `extras`."""

    def identity(self, batch: Any) -> Int[Tensor, "batch"]:
        """Which sample of its split each row of the batch is."""
        raise NotImplementedError

    def score(self, batch: Any) -> dict[str, Tensor]:
        """Each named metric of each sample; NaN where a metric does not apply to a sample."""
        raise NotImplementedError

    def new_scores(self) -> Metric:
        """What collects `identity` and `score` of every batch of a split: means over samples unless a field overrides.

        A field whose metric is no mean (a precision over a ranking of the whole split) gives a metric with
        `update(identity, scores)` and `compute() -> name to value`.
        """
        return SampleScores()

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' state dict under our names."""
        raise InputError(f"{type(self).__name__} knows no released weights")

    def read_outs(self, data: DataModule) -> dict[str, float]:
        """Measurements of the mechanism after training, beside the metrics (such as the diversity of a pool)."""
        return {}

    def examples(self, data: DataModule, split: str, indices: Sequence[int]) -> list[dict[str, Any]]:
        """What it predicts for some samples of a split, as JSON values; nothing unless the field can show that."""
        return []

    @classmethod
    def draw_examples(cls, examples: Mapping[str, Sequence[dict[str, Any]]], folder: Path) -> list[Path]:
        """One picture a sample of what several methods (name -> `examples`) predict for the same samples."""
        return []

    def draw_training(self, folder: Path) -> list[Path]:
        """Pictures worth keeping with the run (recovered images, a memory); none unless the method has any."""
        return []

    # -- optimisation --

    def phases(self) -> dict[str, Phase]:
        """The optimisers by name. An ordinary method has one, over all its parameters."""
        return {"main": Phase([self], self.recipe)}

    def configure_optimizers(self) -> Any:
        optimizers, schedules = [], []
        phases = list(self.phases().values())
        for place, phase in enumerate(phases):
            optimizer = build_optimizer(phase)
            schedule = build_schedule(optimizer, phase.recipe, self._schedule_length(phases, place))
            optimizers.append(optimizer)
            schedules.append({"scheduler": schedule, "interval": phase.recipe.per})
        return optimizers, schedules

    def _schedule_length(self, phases: Sequence[Phase], place: int) -> int:
        recipe, total = phases[place].recipe, phases[place].total
        if recipe.per == "step" and total is not None:
            return total
        epochs, updates = self._expected_length(phases, place)
        if math.isinf(epochs):
            if recipe.schedule in ENDLESS:
                return 1
            raise InputError(
                f"recipe: schedule {recipe.schedule!r} needs to know when training ends, "
                "expected trainer.max_steps or trainer.max_epochs above 0"
            )
        # Sums of shares may lie a rounding error above a whole number.
        return math.ceil(round(epochs, 6)) if recipe.per == "epoch" else round(updates)

    def _expected_length(self, phases: Sequence[Phase], place: int) -> tuple[float, float]:
        """Epochs of the training, and updates of one phase in it; infinite where nothing says when it ends."""
        trainer = self.trainer
        # Without a number of epochs Lightning has not counted the batches yet.
        trainer.fit_loop.setup_data()
        of_epoch = max(trainer.num_training_batches, 1)
        if not self.several_optimizers:
            updates = float(trainer.estimated_stepping_batches)
            return updates / math.ceil(of_epoch / trainer.accumulate_grad_batches), updates
        epochs, steps = trainer.max_epochs or 0, trainer.max_steps
        batches, counts = expected_updates(
            phases, float(epochs * of_epoch) if epochs > 0 else math.inf, float(steps) if steps > 0 else math.inf
        )
        return batches / of_epoch, counts[place]

    def refuse_short(self, name: str, batches: int, updates: int, otherwise: str) -> None:
        """Refuse a training that ends before its first stage does, of so many batches and updates of all optimisers.

        Raises:
            InputError: it is too short; `name` is the argument that says how long the stage is.
        """
        trainer = self.trainer
        limits = [(trainer.max_epochs or 0) * trainer.num_training_batches, trainer.max_steps * batches / updates]
        found = min((limit for limit in limits if limit > 0), default=math.inf)
        if found <= batches:
            raise InputError(
                f"{name} is {batches}, but the training has {int(found)} batches, expected more, or {otherwise}"
            )

    def optimizer(self, name: str) -> Optimizer:
        """The optimiser of a phase, by the phase's name."""
        optimizers = self.optimizers()
        position = list(self.phases()).index(name)
        return optimizers[position] if isinstance(optimizers, list) else optimizers  # type: ignore[return-value]

    def update(self, *names: str, loss: Tensor) -> None:
        """One backward pass of `loss`, then one step of each named optimiser (manual optimisation)."""
        optimizers = {name: self.optimizer(name) for name in names}
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        self.manual_backward(loss)
        phases, schedules = self.phases(), self.lr_schedulers()
        for name, optimizer in optimizers.items():
            optimizer.step()
            if phases[name].recipe.per == "step":
                schedule = schedules[list(phases).index(name)] if isinstance(schedules, list) else schedules
                schedule.step()  # type: ignore[union-attr]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # Here, not before the step: gradients of half precision are in their own units again.
        if self.several_optimizers:
            phase = list(self.phases().values())[self.trainer.optimizers.index(optimizer)]
            if phase.recipe.clip_norm is not None:
                self.clip_gradients(optimizer, phase.recipe.clip_norm, "norm")

    def forget(self, name: str) -> None:
        """A phase's optimiser as if it had never made a step: its momenta belong to parameters that were drawn anew."""
        wrapped = self.optimizer(name)
        # Lightning's wrapper keeps the state it was made with; a resumed optimiser has another.
        getattr(wrapped, "optimizer", wrapped).state.clear()

    def on_train_epoch_end(self) -> None:
        if self.several_optimizers:
            schedules = self.lr_schedulers()
            for schedule, phase in zip(
                schedules if isinstance(schedules, list) else [schedules], self.phases().values(), strict=True
            ):
                if phase.recipe.per == "epoch":
                    schedule.step()  # type: ignore[union-attr, call-arg]

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        value = gradient_clip_val if gradient_clip_val is not None else self.recipe.clip_norm
        self.clip_gradients(optimizer, value, gradient_clip_algorithm)

    def batch_number(self, batch_idx: int) -> int:
        """Batches of the whole training before this one; also in a resumed training. Without a trainer all are of one
        epoch."""
        trainer = self._trainer
        return batch_idx if trainer is None else trainer.current_epoch * int(trainer.num_training_batches) + batch_idx

    @property
    def share_done(self) -> float:
        """How much of the training is done, in [0, 1], for losses that change with time; 0 without a trainer."""
        trainer = self._trainer
        return 0.0 if trainer is None else share_done(trainer)

    # Lightning's bookkeeping cannot be traced by torch.compile, and has nothing to gain from it.
    @torch.compiler.disable
    def report(self, **losses: Tensor) -> None:
        """Log the parts of the loss; `loss` also shows in the progress bar."""
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), prog_bar=name == "loss", on_step=True, on_epoch=False)

    # -- evaluation --

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._val_scores.update(self.identity(batch), self.score(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._test_scores.update(self.identity(batch), self.score(batch))

    def on_validation_epoch_end(self) -> None:
        self._close("val", self._val_scores)

    def on_test_epoch_end(self) -> None:
        self._close("test", self._test_scores)

    def _close(self, split: str, scores: Metric) -> None:
        means = {f"{split}/{name}": value for name, value in scores.compute().items()}
        self.log_dict({name: value for name, value in means.items() if name != self.monitor}, rank_zero_only=False)
        if self.monitor in means:
            self.log(self.monitor, means[self.monitor], prog_bar=True)
        scores.reset()

    # -- checkpoints --

    def settings(self) -> dict[str, Any]:
        """The constructor arguments as JSON values."""
        # A method derived from another one also finds its parent's arguments among the hyperparameters.
        known = constructor_arguments(type(self))
        return {name: to_plain(value) for name, value in self.hparams.items() if name in known}

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(type(self).__name__, self.settings(), self.extras(), dict(self.state_dict()))

    def save(self, path: str | Path) -> Path:
        """Write weights, settings and extras as one .safetensors file."""
        write_checkpoint(Path(path), self.checkpoint())
        return Path(path)

    @classmethod
    def load(cls: type[M], path: str | Path, **overrides: Any) -> M:
        """Rebuild a method from a checkpoint that `save` wrote; `overrides` replace constructor arguments.

        Raises:
            CheckpointError: the file is damaged or belongs to another method.
        """
        return cls.from_checkpoint(Path(path), read_checkpoint(Path(path)), **overrides)

    @classmethod
    def from_checkpoint(cls: type[M], path: Path, checkpoint: Checkpoint, **overrides: Any) -> M:
        if checkpoint.method != cls.__name__:
            raise CheckpointError(f"{path}: a checkpoint of {checkpoint.method}, expected one of {cls.__name__}")
        method = build(cls, merge(checkpoint.settings, overrides))
        method.restore_extras(checkpoint.extras)
        method.load_weights(checkpoint.weights, path)
        return method.eval()

    def load_published(self, path: str | Path) -> None:
        """Load the authors' released weights, their names mapped to ours; nothing in the file is executed."""
        self.load_weights(self.published_state(read_foreign(Path(path))), Path(path))

    def load_weights(self, state: Mapping[str, Tensor], path: Path) -> None:
        self.check_weights(state, path)
        self.load_state_dict(dict(state))

    def check_weights(self, state: Mapping[str, Tensor], path: Path) -> None:
        """Refuse a state dict whose names or shapes are not this method's."""
        expected = self.state_dict()
        missing, surplus = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
        if missing or surplus:
            raise CheckpointError(
                f"{path}: weights do not fit {type(self).__name__}: {_count('missing', missing)}, "
                f"{_count('not expected', surplus)}"
            )
        for name, tensor in state.items():
            if tensor.shape != expected[name].shape:
                raise CheckpointError(
                    f"{path}: {name} has the shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # The settings stand in config.yaml; a resume file holds tensors and plain values only, so that it can be read
        # without running code.
        checkpoint.pop("hyper_parameters", None)
        checkpoint.pop("hparams_name", None)

    def parameter_count(self, trained_only: bool = True) -> int:
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trained_only)


def frozen(module: nn.Module) -> "_Frozen":
    """Within the context, the module's parameters collect no gradient (its inputs still do)."""
    return _Frozen(module)


class _Frozen:
    def __init__(self, module: nn.Module) -> None:
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(True)


def _count(what: str, names: list[str]) -> str:
    return f"{len(names)} {what}" + (f" (first: {names[0]})" if names else "")
