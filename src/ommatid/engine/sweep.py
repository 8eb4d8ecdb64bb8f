"""Many independent trainings: a job is plain data, its result is kept; it runs in processes or on a Ray cluster."""

import hashlib
import importlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from ommatid import __version__
from ommatid.engine.settings import json_text
from ommatid.errors import InputError, MissingDependency, OmmatidError
from ommatid.files import write_aside

DERIVED = {"cache", "organ-maps", "organ_folder", "tokens"}
"""Settings and folders of what methods make of the data and keep beside them; each has a manifest of its own."""
SHARED_CODE = ("__init__.py", "data", "engine", "errors.py", "files.py", "losses", "nn", "torchvision_guard.py")
"""What of this package trainings of all fields are made of."""


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
        peak_memory: bytes above what the process held before, 0 where the system does not tell; on a GPU, the peak of
            allocated device memory.
        parameters: trained parameters.
        examples: predictions for single samples, see `Method.examples`.
    """

    metrics: dict[str, float]
    read_outs: dict[str, float]
    seconds: float
    peak_memory: int
    parameters: int
    examples: list[dict[str, Any]] = field(default_factory=list)


def run_job(job: Job, place: int = 0) -> Outcome:
    """Train and evaluate one job in this process, on one device.

    Args:
        place: of the job in its sweep; where there are several GPUs, jobs take them in turn.

    Raises:
        InputError: the trainer's settings ask for several devices.
    """
    import torch

    from ommatid.engine.fit import evaluate, fit, seed
    from ommatid.engine.settings import build, merge

    gpu = _gpu(job.trainer, place)
    trainer = {**job.trainer, "devices": 1 if gpu is None else [gpu]}
    kind = locate(job.method)
    seed(job.seed)
    data = build(kind.data_module, merge(job.data, {"seed": job.seed}))
    method = build(kind, merge(kind.arguments_from(data), job.model))
    before = _resident_bytes()
    if gpu is not None:
        torch.cuda.set_device(gpu)
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    fit(method, data, trainer={"limit_val_batches": 0, **trainer})
    seconds = time.perf_counter() - start
    peak = _peak_bytes() - before if gpu is None else torch.cuda.max_memory_allocated()
    metrics = evaluate(method, data, job.split, _devices(trainer))
    read_outs, size = method.read_outs(data), len(data.dataset(job.split))  # type: ignore[arg-type]
    examples = method.examples(data, job.split, spread(size, job.shown))
    return Outcome(_finite(metrics), _finite(read_outs), seconds, max(int(peak), 0), method.parameter_count(), examples)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    """As they come back from a file, which has neither NaN nor infinity: a verdict must not depend on that."""
    return {name: value if math.isfinite(value) else math.nan for name, value in values.items()}


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
    on_done: Callable[[Job, Outcome, bool | None], None] | None = None,
) -> dict[str, Outcome]:
    """Run every job whose result is not in `folder` yet; results are kept one file a job as they come.

    A result that is there, but was measured on other files or with other code of the method, is measured anew.

    Args:
        processes: local processes side by side.
        cluster: address of an existing Ray cluster ("auto" or "ray://host:port"); local processes where None.
        on_done: told of every result, and whether it was there before; None where that one was measured anew.

    Returns:
        Job key -> outcome.

    Raises:
        InputError: the code is not that any more with which the sweep began.
    """
    jobs = list({job.key: job for job in jobs}.values())
    prints = _fingerprints(jobs, folder)
    outcomes: dict[str, Outcome] = {}
    waiting, outdated = [], set()
    for job in jobs:
        found = _read_outcome(folder / f"{job.key}.json")
        if found is not None and found[1] == prints[job.key]:
            outcomes[job.key] = found[0]
            if on_done:
                on_done(job, found[0], True)
            continue
        waiting.append(job)
        if found is not None:
            outdated.add(job.key)
    execute = _on_cluster(waiting, cluster) if cluster else _in_processes(waiting, processes)
    for job, outcome in execute:
        if _code_print(job.method) != prints[job.key].partition("-")[0]:
            raise InputError(
                f"{job.method}: found that its code has changed since the trainings began, expected the same code for "
                "all of them: run it again"
            )
        _keep(folder / f"{job.key}.json", job, prints[job.key], outcome)
        outcomes[job.key] = outcome
        if on_done:
            on_done(job, outcome, None if job.key in outdated else False)
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
    engine = ("ommatid.engine.fit", "ommatid.engine.sweep")
    # All that is imported at the start is of one state of the files.
    context = fresh_processes([*engine, *sorted({job.method.partition(":")[0] for job in jobs})])
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(_single_threaded, job, place): job for place, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def fresh_processes(modules: Sequence[str]) -> BaseContext:
    """A context whose processes share no state with this one; where the system can, they come with modules imported."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def _single_threaded(job: Job, place: int) -> Outcome:
    import torch

    torch.set_num_threads(1)
    return run_job(job, place)


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
    pending = {remote.remote(job, place): job for place, job in enumerate(jobs)}
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


def _fingerprints(jobs: Sequence[Job], results: Path) -> dict[str, str]:
    """Job key -> what its result comes of besides its settings: the method's source, and the files that it reads."""
    code, files = cache(_code_print), cache(lambda path: _files_print(path, results.resolve()))
    return {job.key: "-".join([code(job.method), *map(files, [*_paths(job.data), *_paths(job.model)])]) for job in jobs}


def _paths(settings: Mapping[str, Any]) -> list[Path]:
    named = {name: value for name, value in settings.items() if isinstance(value, str) and value}
    return [path for name in sorted(named) if name not in DERIVED and (path := Path(named[name])).exists()]


def _code_print(method: str) -> str:
    """Of the files that a method's training is made of: those of its field, and what all fields share."""
    package, module = Path(__file__).parents[1], method.partition(":")[0]
    name, _, inner = module.partition(".")
    places = [package / each for each in SHARED_CODE]
    if name == package.name:
        places.append(package / inner.partition(".")[0])
    elif (file := getattr(locate(method), "__module__", None)) and (origin := sys.modules[file].__file__):
        # Somebody's own method.
        places.append(Path(origin))
    sources = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
    return _short(f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sources)


def _files_print(root: Path, results: Path) -> str:
    """Names, sizes and times of a file, or of all files of a folder but those that are kept there meanwhile."""
    found = {path.relative_to(root): path.stat() for path in sorted(_files(root, results))}
    return _short(f"{path} {status.st_size} {status.st_mtime_ns}" for path, status in found.items())


def _files(root: Path, results: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
    for folder, folders, names in os.walk(root, followlinks=True):
        if Path(folder).resolve() == results:
            folders.clear()
            continue
        folders[:] = set(folders) - DERIVED
        yield from (path for name in names if (path := Path(folder, name)).exists())


def _short(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


def _keep(path: Path, job: Job, fingerprint: str, outcome: Outcome) -> None:
    content = {"job": asdict(job), "fingerprint": fingerprint, "outcome": asdict(outcome)}
    write_aside(path, lambda aside: aside.write_text(json_text(content), encoding="utf-8"))


def _read_outcome(path: Path) -> tuple[Outcome, str | None] | None:
    """What was kept, and its fingerprint, which results of older versions lack."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kept = content["outcome"]
        outcome = Outcome(_numbers(kept.pop("metrics")), _numbers(kept.pop("read_outs")), **kept)
        return outcome, content.get("fingerprint")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a result that ommatid kept ({error!r}); delete the file to run it again"
        ) from error


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """JSON has no NaN: what was not measured is null there."""
    return {name: float("nan") if value is None else value for name, value in values.items()}


def _gpu(trainer: Mapping[str, Any], place: int) -> int | None:
    """The GPU that a job trains on; None where it trains on none of CUDA's."""
    import torch

    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    named = isinstance(devices, list) and len(devices) == 1
    if nodes != 1 or not (named or devices in (1, "1", "auto")):
        raise InputError(
            f"trainer: found {devices} devices on {nodes} nodes, expected one: trainings of a sweep run side by side, "
            "each on a device of its own"
        )
    if trainer.get("accelerator", "auto") not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return None
    return devices[0] if named else place % torch.cuda.device_count()


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
    try:
        import resource
    except ImportError:
        return 0  # Windows has no such module.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
