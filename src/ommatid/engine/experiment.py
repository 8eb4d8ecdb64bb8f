"""The runner of claims: tune every arm alike, train every arm on the same seeds, compare seed by seed."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from ommatid.engine.claim import Claim, Effect, Verdict, measure_effect, overall
from ommatid.engine.settings import merge, to_plain
from ommatid.engine.sweep import Job, Outcome, run_jobs, target_of

Progress = Callable[[str, Job, Outcome, bool], None]


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
    """
    tuned = _tune(kind, claim, setup) if claim.tuning and setup.tune else {arm: _Tuned({}, []) for arm in claim.arms}
    jobs = {(arm, seed): _job(kind, claim, arm, tuned[arm].chosen, seed) for arm in claim.arms for seed in setup.seeds}
    outcomes = _run(list(jobs.values()), setup, "seeds")
    table = {arm: [outcomes[jobs[arm, seed].key] for seed in setup.seeds] for arm in claim.arms}
    effects = [_effect(claim, position, table) for position in range(len(claim.criteria))]
    return _record(claim, setup, tuned, table, effects)


@dataclass(frozen=True)
class _Tuned:
    chosen: dict[str, Any]
    tried: list[dict[str, Any]]


def _tune(kind: type, claim: Claim, setup: Setup) -> dict[str, _Tuned]:
    """The best settings of every arm on the validation split; every arm gets the same grid and the same seeds."""
    metric = claim.tuning_metric or claim.criteria[0].metric
    grid = [dict(zip(claim.tuning, values, strict=True)) for values in itertools.product(*claim.tuning.values())]
    jobs = {
        (arm, position, seed): _job(kind, claim, arm, point, seed, split="val")
        for arm in claim.arms
        for position, point in enumerate(grid)
        for seed in claim.tuning_seeds
    }
    outcomes = _run(list(jobs.values()), setup, "tuning")
    better = max if claim.tuning_direction == "higher" else min
    tuned = {}
    for arm in claim.arms:
        scores = [
            mean(outcomes[jobs[arm, position, seed].key].metrics[metric] for seed in claim.tuning_seeds)
            for position in range(len(grid))
        ]
        best = scores.index(better(scores))
        tried = [{**point, metric: score} for point, score in zip(grid, scores, strict=True)]
        tuned[arm] = _Tuned(grid[best], tried)
    return tuned


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


def _run(jobs: Sequence[Job], setup: Setup, stage: str) -> dict[str, Outcome]:
    on_done = setup.on_done
    told = None if on_done is None else (lambda job, outcome, kept: on_done(stage, job, outcome, kept))
    return run_jobs(jobs, setup.folder, setup.processes, setup.cluster, told)


def _effect(claim: Claim, position: int, table: Mapping[str, Sequence[Outcome]]) -> Effect:
    criterion = claim.criteria[position]
    by_seed = [dict(zip(table, map(_all, outcomes), strict=True)) for outcomes in zip(*table.values(), strict=True)]
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
        "tuning_seeds": list(claim.tuning_seeds) if claim.tuning else [],
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
