"""Full-size training speed: parameters, steps per second, peak memory, and where the time goes, as JSON.

python benchmarks/throughput.py --device cuda --precision bf16
python benchmarks/throughput.py --threads 2 --out results/throughput.json
"""

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

import ommatid
from ommatid import catalogue
from ommatid.api import method_class
from ommatid.engine.batch import Batch
from ommatid.engine.method import Method, frozen
from ommatid.engine.recipe import build_optimizer
from ommatid.engine.settings import constructor_arguments
from ommatid.grounding.dcin_tel import DCINTEL
from ommatid.grounding.dscnet import DSCNet
from ommatid.grounding.emotion_task import EmotionBatch
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.task import GroundingBatch, UnpairedBatch
from ommatid.transfer.cmi import CMI

Step = Callable[[], torch.Tensor]


class Workload(NamedTuple):
    """A method at full size, and what its training repeats."""

    method: Method
    parts: dict[str, Step]


def grounding(name: str, device: torch.device, batch: int) -> Workload:
    """One update at full size: T = 200 steps of 500-d features (400 clips for methods that sample), 20 words."""
    kind = method_class(name)
    known = constructor_arguments(kind)
    sizes = {"feature_dim": 500, "vocabulary_size": 1000, "positions": STEPS, "steps": STEPS}
    method = kind(**{argument: value for argument, value in sizes.items() if argument in known})
    method.words.vectors.normal_()
    clips = STEPS if method.clips_kept is None else 2 * STEPS
    video, words = torch.randn(batch, clips, 500), torch.randint(2, 1000, (batch, WORDS))
    video_mask, word_mask = torch.ones(video.shape[:2]) > 0, torch.ones(words.shape) > 0
    number = torch.arange(batch)
    if method.learns_from == "unpaired":
        samples: Batch = UnpairedBatch(video, video_mask, number, words, word_mask, number)
    else:
        span = torch.rand(batch, 2).sort(dim=1).values
        glance, seconds = span.mean(dim=1), torch.full((batch,), 100.0)
        samples = GroundingBatch(video, video_mask, words, word_mask, seconds, span, glance, number)
    if isinstance(method, DSCNet):
        return both_parts(method, samples, device)
    return one_update(method, samples, device)


def both_parts(method: DSCNet, samples: Batch, device: torch.device) -> Workload:
    """Updates of the language (E2), and of the videos with pseudo labels for each of them (E6-E13)."""
    update = one_update(method, samples, device).parts["update"]
    method.centres.normal_()
    method.pseudo_labels = torch.rand(len(samples), len(method.centres)).softmax(dim=1)

    def stage(composes: bool) -> torch.Tensor:
        method.composes = composes
        return update()

    return Workload(method, {"language": partial(stage, False), "videos": partial(stage, True)})


def dcin_tel(device: torch.device, batch: int) -> Workload:
    """One update at full size: clips of 100 lines with 1024-d frames and 768-d sentences."""
    method, lines, labels = DCINTEL(), 100, (torch.rand(batch, 18) < 0.2).float()
    mask = torch.ones(batch, lines) > 0
    start = torch.arange(float(lines)).expand(batch, -1)
    samples = EmotionBatch(
        video=torch.randn(batch, lines, 1024),
        text=torch.randn(batch, lines, 768),
        mask=mask,
        seen=mask,
        heard=mask,
        times=torch.stack([start, start + 1], dim=-1),
        labels=labels,
        votes=labels,
        true_spans=torch.zeros(batch, 1, 2),
        true_labels=torch.full((batch, 1), -1),
        clip=torch.arange(batch),
    )
    return one_update(method, samples, device)


def one_update(method: Method, samples: Batch, device: torch.device) -> Workload:
    ready(method, device)
    samples = samples.to(device)
    optimizers = [build_optimizer(phase) for phase in method.phases().values()]
    return Workload(method, {"update": updating(lambda: method.training_step(samples, 0), *optimizers)})


def cmi(device: torch.device, batch: int) -> Workload:
    """One inversion iteration (E9) with a bank that fills its negatives, and one update of the student (E10)."""
    method = CMI(synthesis_batch=batch, pool_rounds=4)
    ready(method, device)
    method.teacher.eval()
    rows = method.hparams.negatives
    method.bank.add(torch.randn(rows, method.bank.values.shape[1], device=device).abs())
    method.pool.add(torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, device=device))
    targets = torch.randint(10, (batch,), device=device)
    optimizers = {name: build_optimizer(phase) for name, phase in method.phases().items()}

    def inversion() -> torch.Tensor:
        method.student.eval()
        with frozen(method.student), method.statistics:
            return method.inversion_loss(method.generator(method.latents[0]), targets)[0]

    def distillation() -> torch.Tensor:
        method.student.train()
        return method.distillation_loss()

    parts = {
        "inversion": updating(inversion, optimizers["generator"], optimizers["head"]),
        "distillation": updating(distillation, optimizers["student"]),
    }
    return Workload(method, parts)


STEPS, WORDS = 200, 20
METHODS: dict[str, tuple[Callable[[torch.device, int], Workload], int]] = {
    "cmi": (cmi, 256),
    "dcin-tel": (dcin_tel, 16),
    **{
        # The map of all moments convolved with 9 x 9 kernels is work for a GPU.
        name: (partial(grounding, name), 1 if name == "2d-tan" else 64)
        for name in catalogue.names("grounding")
        if issubclass(method_class(name), Grounder)
    },
}


def ready(method: Method, device: torch.device) -> None:
    method.to(device).train()
    # Without a trainer there is nothing to log to.
    method.report = lambda **_: None  # type: ignore[method-assign]


def updating(loss: Step, *optimizers: torch.optim.Optimizer) -> Step:
    """A forward pass, a backward pass, and one step of each optimiser."""

    def step() -> torch.Tensor:
        for optimizer in optimizers:
            optimizer.zero_grad()
        value = loss()
        value.backward()
        for optimizer in optimizers:
            optimizer.step()
        return value.detach()

    return step


def measure(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    """All steps of one method, in a process of its own so that its memory is its own."""
    torch.manual_seed(0)
    device = torch.device(settings.device)
    if device.type == "cpu":
        torch.set_num_threads(settings.threads)
    make, batch = METHODS[name]
    batch = settings.batch or batch
    with ExitStack() as stack:
        if settings.precision == "bf16":
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        method, parts = make(device, batch)
        timings = {part: timed(step, device, settings) for part, step in parts.items()}
    parameters = sum(value.numel() for value in method.parameters() if value.requires_grad)
    return {"batch": batch, "parameters": parameters, "parts": timings}


def timed(step: Step, device: torch.device, settings: argparse.Namespace) -> dict[str, Any]:
    for _ in range(settings.warmup):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    wait(device)
    begin = time.perf_counter()
    for _ in range(settings.steps):
        value = step()
    wait(device)
    seconds = (time.perf_counter() - begin) / settings.steps
    return {
        "steps_per_second": round(1 / seconds, 3),
        "milliseconds": round(1000 * seconds, 3),
        "peak_memory_mib": round(peak_memory(device)),
        "loss": float(value),
        "top_operations": operations(step, device, settings.top),
    }


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(device: torch.device) -> float:
    """MiB: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def operations(step: Step, device: torch.device, count: int) -> list[dict[str, Any]]:
    """The operations that took most time themselves, of one step."""
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=kinds) as profiler:
        step()
        wait(device)
    time_of = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, time_of))
    total = sum(getattr(row, time_of) for row in rows) or 1
    return [
        {
            "name": row.key,
            "calls": row.count,
            "self_ms": round(getattr(row, time_of) / 1000, 3),
            "share": round(getattr(row, time_of) / total, 4),
        }
        for row in rows[:count]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, help="instead of each method's own")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--top", type=int, default=8, help="operations to list")
    parser.add_argument("--out", type=Path, help="file to write instead of printing")
    settings = parser.parse_args()
    device = torch.device(settings.device)
    record: dict[str, Any] = {
        "library": ommatid.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        **{name: value for name, value in vars(settings).items() if name in ("precision", "steps", "threads")},
        "methods": {},
    }
    for name in settings.method:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            record["methods"][name] = pool.submit(measure, name, settings).result()
        print(name, file=sys.stderr)
        if settings.out is not None:
            # After every method: the slow ones take minutes.
            settings.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if settings.out is None:
        print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
