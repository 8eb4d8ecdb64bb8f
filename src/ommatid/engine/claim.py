"""A paper's central claim as an experiment: arms, seeds, paired differences, an interval, a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Literal

import numpy as np
from scipy import stats

Role = Literal["method", "baseline", "control", "ablation", "reported"]
Verdict = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        role: the method; a baseline; a control of equal capacity; the method minus a part; or only reported.
        model: constructor arguments that set this arm apart.
        data: settings of the data that set it apart, for a claim about what data must hold.
        trainer: settings of the trainer that set it apart, for a baseline of equal cost instead of equal updates.
        method: "module:Class" of the method that is trained in this arm; the claim's own where None.
    """

    role: Role
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    method: str | None = None


@dataclass(frozen=True)
class Criterion:
    """One comparison that must come out for the claim to hold.

    The effect of a seed is `metric` of the method's arm minus `metric` of `versus`, turned so that larger is better.
    With `beyond`, the same difference in a second metric is subtracted (a difference of differences); with
    `beyond_arms`, the difference in `metric` between two other arms.

    Attributes:
        direction: whether a higher or a lower metric is better.
        kind: "better" asks for an effect above zero, "not worse" for one above minus `margin`.
        margin: the smallest effect that would matter, in units of the metric, fixed before the experiment.
    """

    metric: str
    versus: str
    beyond: str | None = None
    beyond_arms: tuple[str, str] | None = None
    direction: Literal["higher", "lower"] = "higher"
    kind: Literal["better", "not worse"] = "better"
    margin: float = 0.01

    def effect(self, method: str, arms: Mapping[str, Mapping[str, float]]) -> float:
        """The effect from every arm's metrics of one seed, `method` being the arm of the method."""
        ours, other = arms[method], arms[self.versus]
        effect = ours[self.metric] - other[self.metric]
        if self.beyond is not None:
            effect -= ours[self.beyond] - other[self.beyond]
        if self.beyond_arms is not None:
            first, second = self.beyond_arms
            effect -= arms[first][self.metric] - arms[second][self.metric]
        return effect if self.direction == "higher" else -effect

    def describe(self) -> str:
        wanted = {"better": "above 0", "not worse": f"above -{self.margin:g}"}[self.kind]
        metric = f"{self.metric} beyond {self.beyond}" if self.beyond else self.metric
        against = self.versus
        if self.beyond_arms is not None:
            first, second = self.beyond_arms
            against += f", beyond {first} against {second}"
        return f"{metric} ({self.direction} is better), against {against}: effect {wanted}"


@dataclass(frozen=True)
class Claim:
    """What a paper says, as an experiment that can fail.

    Attributes:
        name: "<method>" or "<method>-<part>"; the result stands in results/claims/<name>.json.
        statement: the claim in one sentence.
        arms: name -> arm; exactly one has the role "method".
        criteria: all must come out.
        model, data, trainer: settings common to all arms; the same budget for each.
        tuning: dotted argument of the method -> values, tried for every arm alike on the validation split.
        tuning_seeds: seeds of the tuning runs, none of them used in the experiment.
        tuning_metric: what the tuning looks at; the first criterion's metric where None.
        shown: further metrics and read-outs to print.
        source: where the paper's card states it.
    """

    name: str
    statement: str
    arms: dict[str, Arm]
    criteria: tuple[Criterion, ...]
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    tuning: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    tuning_seeds: tuple[int, ...] = (1000,)
    tuning_metric: str | None = None
    tuning_direction: Literal["higher", "lower"] = "higher"
    shown: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        methods = [name for name, arm in self.arms.items() if arm.role == "method"]
        if len(methods) != 1:
            raise ValueError(f"claim {self.name}: exactly one arm must have the role 'method', found {methods}")
        for criterion in self.criteria:
            for arm in (criterion.versus, *(criterion.beyond_arms or ())):
                if arm not in self.arms:
                    raise ValueError(f"claim {self.name}: criterion against {arm!r}, which is not an arm")

    @property
    def method_arm(self) -> str:
        return next(name for name, arm in self.arms.items() if arm.role == "method")


@dataclass(frozen=True)
class Effect:
    """Paired differences over seeds: mean, 95 % t interval, 95 % bootstrap interval."""

    values: tuple[float, ...]
    mean: float
    low: float
    high: float
    bootstrap_low: float
    bootstrap_high: float
    verdict: Verdict


def measure_effect(criterion: Criterion, values: Sequence[float]) -> Effect:
    """The effect of a criterion from one paired difference a seed; a single one leaves everything undecided.

    Examples:
        >>> effect = measure_effect(Criterion("top1", versus="baseline"), [0.03, 0.04, 0.05, 0.04, 0.03])
        >>> effect.verdict, round(effect.mean, 3)
        ('holds', 0.038)
    """
    low, high = t_interval(values)
    bootstrap_low, bootstrap_high = bootstrap_interval(values)
    verdict = decide(criterion, mean(values), low, high) if len(values) > 1 else "undecided"
    return Effect(tuple(values), mean(values), low, high, bootstrap_low, bootstrap_high, verdict)


def decide(criterion: Criterion, average: float, low: float, high: float) -> Verdict:
    """The verdict that an interval allows.

    "Better" holds where the interval lies above zero; it does not hold where the average is not even positive, or where
    the interval excludes every effect of at least `margin`. "Not worse" holds where the interval lies above -margin;
    it does not hold where the average lies below -margin. Everything between is undecided.
    """
    if criterion.kind == "better":
        if low > 0:
            return "holds"
        return "does not hold" if average <= 0 or high < criterion.margin else "undecided"
    if low > -criterion.margin:
        return "holds"
    return "does not hold" if average < -criterion.margin else "undecided"


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """A claim holds if all its criteria do, and fails with the first that fails."""
    if "does not hold" in verdicts:
        return "does not hold"
    return "undecided" if "undecided" in verdicts else "holds"


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of paired differences; the point itself where all are equal."""
    if len(values) < 2:
        return float("-inf"), float("inf")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
    return mean(values) - float(half), mean(values) + float(half)


def bootstrap_interval(values: Sequence[float], level: float = 0.95, draws: int = 10_000) -> tuple[float, float]:
    """Percentile bootstrap of the mean, with a fixed seed."""
    sample = np.asarray(values, dtype=float)
    picks = np.random.default_rng(0).integers(0, len(sample), (draws, len(sample)))
    low, high = np.quantile(sample[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
