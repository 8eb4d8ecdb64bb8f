"""The smallest methods that have everything a method can have; shared by the tests of the engine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from ommatid.engine import sweep
from ommatid.engine.batch import Batch
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.method import Method, frozen
from ommatid.engine.recipe import Phase, Recipe
from ommatid.engine.sweep import Job, Outcome
from ommatid.errors import InputError

DIM = 3


@dataclass
class Points(Batch):
    inputs: Tensor
    targets: Tensor
    index: Tensor


@dataclass
class Value:
    value: float

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value}

    def draw(self, path: Path) -> None:
        path.write_text(str(self.value))


class PointSet(Dataset[tuple[Tensor, Tensor, int]]):
    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return self.inputs[index], self.targets[index], index


class PointData(DataModule):
    """Points on a plane with a known slope; `scale` makes every gradient as large as wished."""

    def __init__(self, count: int = 24, scale: float = 1.0, batch_size: int = 8, workers: int = 0, seed: int = 0):
        super().__init__(batch_size, workers, seed)
        self.count, self.scale = count, scale

    def dataset(self, split: str) -> "PointSet":
        number = self.splits.index(self.check_split(split))
        inputs = torch.randn(self.count, DIM, generator=torch.Generator().manual_seed(number))
        targets = self.scale * (inputs @ torch.tensor([1.0, -2.0, 0.5]) + 1)
        return PointSet(inputs, targets)

    def collate(self, samples: Any) -> Points:
        inputs, targets, indices = zip(*samples, strict=True)
        return Points(torch.stack(inputs), torch.stack(targets), torch.tensor(indices))

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        return {"zero": {"error": 1.0}}


class Toy(Method):
    """A linear regression."""

    data_module = PointData
    monitor = "val/error"
    monitor_mode = "min"

    def __init__(
        self,
        dim: int = DIM,
        bias: bool = True,
        recipe: Recipe = Recipe("momentum", lr=0.1, momentum=0.0, schedule="linear"),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.line = nn.Linear(dim, 1, bias=bias)
        self.seen: list[list[int]] = []
        self.draws: list[float] = []

    def forward(self, batch: Points) -> Tensor:
        return self.line(batch.inputs)[:, 0]

    def training_step(self, batch: Points, _: int) -> Tensor:
        self.seen.append(batch.index.tolist())
        self.draws.append(float(torch.rand(())))
        loss = F.mse_loss(self(batch), batch.targets)
        self.report(loss=loss)
        return loss

    def identity(self, batch: Points) -> Tensor:
        return batch.index

    def score(self, batch: Points) -> dict[str, Tensor]:
        """`never` is a metric that no sample has."""
        error = (self(batch) - batch.targets) ** 2
        return {"error": error, "never": torch.full_like(error, float("nan"))}

    def predict(self, inputs: list[float], top: int = 1) -> "Value":
        return Value(self.line(torch.tensor(inputs)).item())

    def extras(self) -> dict[str, Any]:
        return {"names": ["a", "b"]}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        self.names = extras["names"]

    def read_outs(self, data: DataModule) -> dict[str, float]:
        return {"slope": self.line.weight[0, 0].item(), "unknown": float("nan")}

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"line.{name}": tensor for name, tensor in state.items()}


class Adversaries(Toy):
    """Two optimisers: a critic that is updated twice a step, and a line that learns against it."""

    several_optimizers = True

    def __init__(
        self,
        recipe: Recipe = Recipe("momentum", lr=0.1, momentum=0.0, schedule="linear"),
        critic_recipe: Recipe = Recipe("adam", lr=0.01, schedule="linear", per="epoch"),
    ) -> None:
        super().__init__(recipe=recipe)
        self.save_hyperparameters(logger=False)
        self.critic = nn.Linear(1, 1)

    def phases(self) -> dict[str, Phase]:
        return {
            "critic": Phase([self.critic], self.hparams.critic_recipe, updates=2),
            "line": Phase([self.line], self.recipe),
        }

    def training_step(self, batch: Points, _: int) -> None:
        for _ in range(2):
            loss = F.mse_loss(self.critic(self(batch).detach()[:, None])[:, 0], batch.targets)
            self.update("critic", loss=loss)
        with frozen(self.critic):
            loss = F.mse_loss(self.critic(self(batch)[:, None])[:, 0], batch.targets)
            self.update("line", loss=loss)
        self.report(loss=loss)


class Interrupted(Toy):
    """Somebody presses Ctrl-C in the first step."""

    def training_step(self, batch: Points, _: int) -> Tensor:
        raise KeyboardInterrupt


class Refusing(Toy):
    """A method whose data are not what it needs."""

    def adopt(self, data: DataModule) -> None:
        raise InputError("these points are not for me, expected others")


def toy_claim(**changes: Any) -> Claim:
    """A line with an intercept against one without, tuned alike."""
    settings: dict[str, Any] = {
        "name": "toy",
        "statement": "An intercept lowers the error.",
        "arms": {
            "intercept": Arm("method"),
            "none": Arm("baseline", {"bias": False}),
            "slow": Arm("reported", {"recipe": {"momentum": 0.1}}),
        },
        "criteria": (Criterion("error", versus="none", direction="lower"),),
        "data": {"count": 8},
        "trainer": {"max_epochs": 2},
        "tuning": {"recipe.lr": (0.01, 0.1), "recipe.clip_norm": (None, 1.0)},
        "tuning_seeds": (1000, 1001),
        "tuning_direction": "lower",
        "shown": ("error", "never"),
    }
    return Claim(**{**settings, **changes})


def run_here(monkeypatch, measure: Callable[[Job], Outcome]) -> list[Job]:
    """Let `run_jobs` measure in this process, one job after the other; the list of jobs that ran grows."""
    ran: list[Job] = []

    def one_by_one(jobs, processes):
        for job in jobs:
            ran.append(job)
            yield job, measure(job)

    monkeypatch.setattr(sweep, "_in_processes", one_by_one)
    return ran
