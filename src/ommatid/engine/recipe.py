"""How a method is trained: optimiser and schedule as data, built by timm and torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
)

from ommatid.engine.ralamb import Ralamb
from ommatid.errors import InputError, unknown

Schedule = Literal["constant", "linear", "poly", "cosine", "onecycle", "inverse_sqrt", "step"]
ENDLESS = ("constant", "inverse_sqrt")
"""Schedules that need not know how long the run is."""
OWN_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "ralamb": Ralamb,
    "ralamb-released": partial(Ralamb, lookahead_steps=0.5, lookahead_share=6.0),
}
"""Optimisers that timm does not have. In the code of Trans-Net two arguments of the look-ahead are swapped."""


@dataclass(frozen=True)
class Recipe:
    """Optimiser and schedule of one set of parameters.

    Attributes:
        optimizer: any name that timm knows ("adamw", "lamb", ...); "sgd" has plain momentum as in torch, "nesterov"
            Nesterov's; or one of `OWN_OPTIMIZERS`.
        betas: Adam's; the optimiser's own where None.
        schedule: shape of the learning rate over the run. "inverse_sqrt" falls with the root of the step after the
            warm-up; "step" multiplies by `gamma` at each milestone; "poly" falls to 0 as (1 - t/T)^`power`.
        per: whether the schedule moves with every update or with every epoch.
        milestones: fractions of the run, for "step".
        warmup_steps: updates (or epochs) of linear warm-up before the schedule.
        lr_multipliers: glob pattern of parameter names -> factor on the learning rate; the first match counts.
        decay_vectors: whether weight decay also acts on biases and norms.
        clip_norm: largest norm of the gradient; None for no clipping.
        ema_decay: evaluate an exponential average of the weights instead of the weights; None for none.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] | None = None
    momentum: float = 0.9
    schedule: Schedule = "cosine"
    per: Literal["step", "epoch"] = "step"
    milestones: tuple[float, ...] = (0.6, 0.75, 0.9)
    gamma: float = 0.1
    power: float = 0.9
    warmup_steps: int = 0
    lr_multipliers: dict[str, float] = field(default_factory=dict)
    decay_vectors: bool = False
    clip_norm: float | None = None
    ema_decay: float | None = None


@dataclass
class Phase:
    """One optimiser of a method that has several: which modules it moves, how, and when.

    Attributes:
        modules: what the optimiser updates.
        recipe: optimiser and schedule.
        updates: updates in one training step (a critic may take five to the generator's one).
        every: the phase acts in every n-th training step.
        later: share of the training -> updates a step that come in addition from then on.
        total: updates in the whole run, for the schedule; None where the run's length says it.
    """

    modules: Sequence[nn.Module]
    recipe: Recipe
    updates: int = 1
    every: int = 1
    total: int | None = None
    later: Mapping[float, float] = field(default_factory=dict)

    def rate(self, share: float) -> float:
        """Updates a training step when so much of the training is done."""
        return self.updates / self.every + sum(more for begin, more in self.later.items() if begin <= share)

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        prefix = len(self.modules) > 1
        for position, module in enumerate(self.modules):
            for name, parameter in module.named_parameters():
                yield (f"{position}.{name}" if prefix else name), parameter


def expected_updates(phases: Sequence[Phase], batches: float, steps: float) -> tuple[float, list[float]]:
    """How long a training is that ends after so many batches, or so many updates of all phases together.

    Args:
        batches, steps: infinite for no such end.

    Returns:
        Its batches, and the updates of every phase.

    Examples:
        >>> critic = Phase([], Recipe(), updates=0, later={0.5: 1.0})
        >>> expected_updates([Phase([], Recipe()), critic], 10.0, float("inf"))
        (10.0, [10.0, 5.0])
    """
    done, counts = 0.0, [0.0] * len(phases)
    begins = sorted({0.0, *(begin for phase in phases for begin in phase.later if begin < 1)})
    for begin, end in pairwise([*begins, 1.0]):
        rates = [phase.rate(begin) for phase in phases]
        left = [end * batches - done]
        if sum(rates):
            left.append((end * steps - sum(counts)) / sum(rates))
        # One of the two limits may already lie further on.
        piece = max(min(left), 0.0)
        done += piece
        counts = [count + rate * piece for count, rate in zip(counts, rates, strict=True)]
    return done, counts


def build_optimizer(phase: Phase) -> Optimizer:
    """The phase's optimiser, with parameter groups for learning-rate multipliers and for what is not decayed."""
    from timm.optim import create_optimizer_v2, list_optimizers

    recipe = phase.recipe
    known = [*(str(name) for name in list_optimizers()), *OWN_OPTIMIZERS]
    if recipe.optimizer.lower() not in known:
        raise unknown("optimizer", recipe.optimizer, known)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in phase.named_parameters():
        if parameter.requires_grad:
            decay = recipe.weight_decay if parameter.ndim > 1 or recipe.decay_vectors else 0.0
            groups.setdefault((_multiplier(recipe, name), decay), []).append(parameter)
    params = [
        {"params": members, "lr": recipe.lr * factor, "weight_decay": decay}
        for (factor, decay), members in groups.items()
    ]
    options: dict[str, Any] = {} if recipe.betas is None else {"betas": tuple(recipe.betas)}
    if recipe.optimizer.lower() in OWN_OPTIMIZERS:
        return OWN_OPTIMIZERS[recipe.optimizer.lower()](params, lr=recipe.lr, **options)
    try:
        return create_optimizer_v2(
            params,
            # What timm calls "sgd" has Nesterov's momentum; papers mean torch's.
            opt="momentum" if recipe.optimizer.lower() == "sgd" else recipe.optimizer,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            **options,
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"recipe of optimizer {recipe.optimizer!r}: {error}") from error


def build_schedule(optimizer: Optimizer, recipe: Recipe, total: int) -> LRScheduler:
    """The schedule of `recipe` over `total` updates (or epochs), warm-up included."""
    total, warmup = max(total, 1), recipe.warmup_steps
    if recipe.schedule == "inverse_sqrt":
        start = max(warmup, 1)
        return LambdaLR(optimizer, lambda step: min((step + 1) / start, (start / (step + 1)) ** 0.5))
    rest = max(total - warmup, 1)
    after: LRScheduler
    if recipe.schedule == "constant":
        after = ConstantLR(optimizer, factor=1.0, total_iters=0)
    elif recipe.schedule == "linear":
        after = LinearLR(optimizer, start_factor=1.0, end_factor=1e-8, total_iters=rest)
    elif recipe.schedule == "poly":
        after = PolynomialLR(optimizer, total_iters=rest, power=recipe.power)
    elif recipe.schedule == "cosine":
        after = CosineAnnealingLR(optimizer, T_max=rest)
    elif recipe.schedule == "step":
        after = MultiStepLR(optimizer, [round(at * total) - warmup for at in recipe.milestones], gamma=recipe.gamma)
    elif recipe.schedule == "onecycle":
        # One spare step: Lightning moves the schedule once more after the last update.
        after = OneCycleLR(optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], total_steps=rest + 1)
    else:
        raise unknown("schedule", recipe.schedule, get_args(Schedule))
    if not warmup:
        return after
    ramp = LinearLR(optimizer, start_factor=1 / (warmup + 1), end_factor=1.0, total_iters=warmup)
    return SequentialLR(optimizer, [ramp, after], milestones=[warmup])


def _multiplier(recipe: Recipe, name: str) -> float:
    return next((factor for pattern, factor in recipe.lr_multipliers.items() if fnmatchcase(name, pattern)), 1.0)
