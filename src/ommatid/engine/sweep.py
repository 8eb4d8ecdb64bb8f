"""Many independent trainings: a job is plain data, its result is kept; it runs in processes or on a Ray cluster."""

import hashlib
import importlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from ommatid import __version__
from ommatid.engine.settings import json_text
from ommatid.errors import InputError, MissingDependency, OmmatidError
from ommatid.files import write_aside


@dataclass(frozen=True)
class Job:
    """One training and evaluation, as plain data that any process can rebuild.

    Attributes:
        method: "module:Class" of the method.
        model, data, trainer: settings of the method, of its data module, and of Lightning's Trainer.
        seed: of the initial weights, of everything drawn in training, and of the order of the samples.
        split: the split that is evaluated after the last step.
        shown: for how many samples of that split, evenly spread over it, predictions are kept.
    """

    method: str
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    split: str = "test"
    shown: int = 0

    @property
    def key(self) -> str:
        """Identity of the job: equal settings have equal keys."""
        text = json.dumps({**asdict(self), "library": __version__}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """What a job measured, and what it cost.

    Attributes:
        seconds: training alone, wall clock.
        peak_memory: bytes above what the process held before; on a GPU, the peak of allocated device memory.
        parameters: trained parameters.
        examples: predictions for single samples, see `Method.examples`.
    """

    metrics: dict[str, float]
    read_outs: dict[str, float]
    seconds: float
    peak_memory: int
    parameters: int
    examples: list[dict[str, Any]] = field(default_factory=list)


def run_job(job: Job) -> Outcome:
    """Train and evaluate one job in this process."""
    import torch

    from ommatid.engine.fit import evaluate, fit, seed
    from ommatid.engine.settings import build, merge

    kind = locate(job.method)
    seed(job.seed)
    data = build(kind.data_module, merge(job.data, {"seed": job.seed}))
    method = build(kind, merge(kind.arguments_from(data), job.model))
    before = _resident_bytes()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    fit(method, data, trainer={"limit_val_batches": 0, **job.trainer})
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _peak_bytes() - before
    metrics = evaluate(method, data, job.split, _devices(job.trainer))
    read_outs, size = method.read_outs(data), len(data.dataset(job.split))  # type: ignore[arg-type]
    examples = method.examples(data, job.split, spread(size, job.shown))
    return Outcome(metrics, read_outs, seconds, max(int(peak), 0), method.parameter_count(), examples)


def spread(size: int, count: int) -> list[int]:
    """At most `count` of `size` positions, evenly spread.

    Examples:
        >>> spread(10, 3), spread(2, 3)
        ([1, 5, 8], [0, 1])
    """
    count = min(count, size)
    return [(2 * number + 1) * size // (2 * count) for number in range(count)]


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    processes: int = 1,
    cluster: str | None = None,
    on_done: Callable[[Job, Outcome, bool], None] | None = None,
) -> dict[str, Outcome]:
    """Run every job whose result is not in `folder` yet; results are kept one file a job as they come.

    Args:
        processes: local processes side by side.
        cluster: address of an existing Ray cluster ("auto" or "ray://host:port"); local processes where None.
        on_done: told of every result, and whether it was there before.

    Returns:
        Job key -> outcome.
    """
    outcomes: dict[str, Outcome] = {}
    waiting = []
    for job in {job.key: job for job in jobs}.values():
        kept = _read_outcome(folder / f"{job.key}.json")
        if kept is None:
            waiting.append(job)
        else:
            outcomes[job.key] = kept
            if on_done:
                on_done(job, kept, True)
    execute = _on_cluster(waiting, cluster) if cluster else _in_processes(waiting, processes)
    for job, outcome in execute:
        _keep(folder / f"{job.key}.json", job, outcome)
        outcomes[job.key] = outcome
        if on_done:
            on_done(job, outcome, False)
    return outcomes


def locate(target: str) -> Any:
    """The class named by "module:Class"."""
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{target}: cannot be imported ({error})") from error


def target_of(kind: type) -> str:
    """The inverse of `locate`."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _in_processes(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Outcome]]:
    if not jobs:
        return
    # A fresh process for every job: its peak memory is its own, and no state leaks from one arm into the next.
    context = fresh_processes(sorted({job.method.partition(":")[0] for job in jobs}))
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(_single_threaded, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def fresh_processes(modules: Sequence[str]) -> BaseContext:
    """A context whose processes share no state with this one; where the system can, they come with modules imported."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def _single_threaded(job: Job) -> Outcome:
    import torch

    torch.set_num_threads(1)
    return run_job(job)


def _on_cluster(jobs: Sequence[Job], address: str) -> Iterator[tuple[Job, Outcome]]:
    try:
        import ray
    except ImportError as error:
        raise MissingDependency("a cluster needs Ray: pip install 'ommatid[cluster]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise InputError(f"--cluster {address}: no Ray cluster answers there") from error
    remote = ray.remote(num_cpus=1, max_calls=1)(_single_threaded)
    pending = {remote.remote(job): job for job in jobs}
    while pending:
        (done,), _ = ray.wait(list(pending), num_returns=1)
        try:
            outcome = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, OmmatidError):
                raise
            # Ray's own message is the worker's whole traceback.
            raise error.cause from None
        yield pending.pop(done), outcome


def _keep(path: Path, job: Job, outcome: Outcome) -> None:
    content = {"job": asdict(job), "outcome": asdict(outcome)}
    write_aside(path, lambda aside: aside.write_text(json_text(content), encoding="utf-8"))


def _read_outcome(path: Path) -> Outcome | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["outcome"]
        return Outcome(_numbers(kept.pop("metrics")), _numbers(kept.pop("read_outs")), **kept)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a result that ommatid kept ({error!r}); delete the file to run it again"
        ) from error


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """JSON has no NaN: what was not measured is null there."""
    return {name: float("nan") if value is None else value for name, value in values.items()}


def _devices(trainer: Mapping[str, Any]) -> dict[str, Any]:
    return {name: trainer[name] for name in ("accelerator", "devices", "precision") if name in trainer}


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return _peak_bytes()
    import resource

    return pages * resource.getpagesize()


def _peak_bytes() -> int:
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
