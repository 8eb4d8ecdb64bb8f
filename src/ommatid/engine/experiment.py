"""The runner of claims: tune every arm alike, train every arm on the same seeds, compare seed by seed."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from ommatid.engine.claim import Claim, Effect, Verdict, measure_effect, overall
from ommatid.engine.settings import merge, to_plain
from ommatid.engine.sweep import Job, Outcome, run_jobs, target_of
from ommatid.errors import InputError, unknown

Progress = Callable[[str, Job, Outcome, bool | None], None]


@dataclass(frozen=True)
class Setup:
    """How a claim is run: seeds, local processes or a Ray cluster, and where single results are kept."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    processes: int = 1
    cluster: str | None = None
    folder: Path = Path("runs/claims")
    tune: bool = True
    on_done: Progress | None = field(default=None, compare=False)


def run_claim(kind: type, claim: Claim, setup: Setup) -> dict[str, Any]:
    """Run a claim and return its record: verdict, effects, arms with metrics and cost, tuning, settings.

    Finished trainings are kept in `setup.folder`; an interrupted run goes on from there.

    Raises:
        InputError: a training does not measure what the claim compares or tunes by.
    """
    tuned = _tune(kind, claim, setup) if claim.tuning and setup.tune else {arm: _Tuned({}, []) for arm in claim.arms}
    jobs = {(arm, seed): _job(kind, claim, arm, tuned[arm].chosen, seed) for arm in claim.arms for seed in setup.seeds}
    outcomes = _run(claim, jobs, {arm: _compared(claim, arm) for arm in claim.arms}, setup, "seeds")
    table = {arm: [outcomes[jobs[arm, seed].key] for seed in setup.seeds] for arm in claim.arms}
    effects = [_effect(claim, position, table) for position in range(len(claim.criteria))]
    return _record(claim, setup, tuned, table, effects)


@dataclass(frozen=True)
class _Tuned:
    chosen: dict[str, Any]
    tried: list[dict[str, Any]]


def _tune(kind: type, claim: Claim, setup: Setup) -> dict[str, _Tuned]:
    """The best settings of every arm on the validation split; every arm gets the same grid and the same seeds."""
    metric = _tuning_metric(claim)
    grid = [dict(zip(claim.tuning, values, strict=True)) for values in itertools.product(*claim.tuning.values())]
    jobs = {
        (arm, position, seed): _job(kind, claim, arm, point, seed, split="val")
        for arm in claim.arms
        for position, point in enumerate(grid)
        for seed in claim.tuning_seeds
    }
    outcomes = _run(claim, jobs, {arm: {metric} for arm in claim.arms}, setup, "tuning")
    better = max if claim.tuning_direction == "higher" else min
    tuned = {}
    for arm in claim.arms:
        scores = [
            _mean_metric([outcomes[jobs[arm, position, seed].key] for seed in claim.tuning_seeds], metric)
            for position in range(len(grid))
        ]
        known = [score for score in scores if score is not None]
        if not known:
            raise InputError(f"claim {claim.name}: no setting that was tried gave the arm {arm!r} a finite {metric}")
        best = scores.index(better(known))
        tried = [{**point, metric: score} for point, score in zip(grid, scores, strict=True)]
        tuned[arm] = _Tuned(grid[best], tried)
    return tuned


def _tuning_metric(claim: Claim) -> str:
    return claim.tuning_metric or claim.criteria[0].metric


def _mean_metric(outcomes: Sequence[Outcome], metric: str) -> float | None:
    """None where a training diverged."""
    values = [_all(outcome).get(metric, math.nan) for outcome in outcomes]
    return mean(values) if all(map(math.isfinite, values)) else None


def _job(kind: type, claim: Claim, arm: str, tuned: Mapping[str, Any], seed: int, split: str = "test") -> Job:
    settings = claim.arms[arm]
    model = merge(claim.model, settings.model, _nested(tuned))
    data, trainer = merge(claim.data, settings.data), merge(claim.trainer, settings.trainer)
    target = settings.method or target_of(kind)
    return Job(target, to_plain(model), to_plain(data), to_plain(trainer), seed, split)


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in dotted.items():
        *path, last = name.split(".")
        layer: dict[str, Any] = {last: value}
        for part in reversed(path):
            layer = {part: layer}
        nested = merge(nested, layer)
    return nested


def _compared(claim: Claim, arm: str) -> set[str]:
    """What the criteria look up in an arm."""
    looked_up = [(each.metric, (claim.method_arm, each.versus, *(each.beyond_arms or ()))) for each in claim.criteria]
    looked_up += [(each.beyond, (claim.method_arm, each.versus)) for each in claim.criteria if each.beyond]
    return {metric for metric, arms in looked_up if arm in arms}


def _run(
    claim: Claim, jobs: Mapping[tuple[Any, ...], Job], metrics: Mapping[str, set[str]], setup: Setup, stage: str
) -> dict[str, Outcome]:
    """Outcomes of jobs, whose names begin with an arm; every arm must have measured its `metrics`."""
    needed: dict[str, set[str]] = {}
    for (arm, *_), job in jobs.items():
        needed.setdefault(job.key, set()).update(metrics[arm])

    def told(job: Job, outcome: Outcome, kept: bool | None) -> None:
        # At once, not after the last training.
        _check_measured(claim, needed[job.key], outcome)
        if setup.on_done is not None:
            setup.on_done(stage, job, outcome, kept)

    return run_jobs(list(jobs.values()), setup.folder, setup.processes, setup.cluster, told)


def _check_measured(claim: Claim, needed: set[str], outcome: Outcome) -> None:
    missing = sorted(needed - set(_all(outcome)))
    # A training that diverged may have measured nothing.
    if missing and outcome.metrics:
        raise unknown(f"metric of claim {claim.name}", missing[0], _all(outcome))


def _effect(claim: Claim, position: int, table: Mapping[str, Sequence[Outcome]]) -> Effect:
    criterion = claim.criteria[position]
    # What a training that diverged did not measure is no number.
    unmeasured = {arm: dict.fromkeys(_compared(claim, arm), math.nan) for arm in table}
    by_seed = [
        {arm: unmeasured[arm] | _all(outcome) for arm, outcome in zip(table, outcomes, strict=True)}
        for outcomes in zip(*table.values(), strict=True)
    ]
    return measure_effect(criterion, [criterion.effect(claim.method_arm, arms) for arms in by_seed])


def _all(outcome: Outcome) -> dict[str, float]:
    return {**outcome.read_outs, **outcome.metrics}


def _record(
    claim: Claim,
    setup: Setup,
    tuned: Mapping[str, _Tuned],
    table: Mapping[str, Sequence[Outcome]],
    effects: Sequence[Effect],
) -> dict[str, Any]:
    from ommatid.engine.runs import environment

    verdict: Verdict = overall([effect.verdict for effect in effects])
    was_tuned = bool(claim.tuning) and setup.tune
    criteria = [
        {"criterion": to_plain(criterion), "reads": criterion.describe(), **asdict(effect)}
        for criterion, effect in zip(claim.criteria, effects, strict=True)
    ]
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "source": claim.source,
        "verdict": verdict,
        "criteria": criteria,
        "seeds": list(setup.seeds),
        "arms": {arm: _arm_record(claim, arm, tuned[arm], outcomes) for arm, outcomes in table.items()},
        "shown": list(claim.shown),
        "model": to_plain(claim.model),
        "data": to_plain(claim.data),
        "trainer": to_plain(claim.trainer),
        "tuning_seeds": list(claim.tuning_seeds) if was_tuned else [],
        "tuning_metric": _tuning_metric(claim) if was_tuned else None,
        "tuning_direction": claim.tuning_direction if was_tuned else None,
        "environment": environment(),
    }


def _arm_record(claim: Claim, arm: str, tuned: _Tuned, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    names = {name: None for outcome in outcomes for name in _all(outcome)}
    return {
        "role": claim.arms[arm].role,
        "model": to_plain(claim.arms[arm].model),
        "data": to_plain(claim.arms[arm].data),
        "trainer": to_plain(claim.arms[arm].trainer),
        "method": claim.arms[arm].method,
        "tuned": tuned.chosen,
        "tried": tuned.tried,
        "metrics": {name: [_all(outcome).get(name) for outcome in outcomes] for name in names},
        "seconds": [round(outcome.seconds, 3) for outcome in outcomes],
        "peak_memory": [outcome.peak_memory for outcome in outcomes],
        "parameters": outcomes[0].parameters,
    }
