"""`ommatid demo`: one method that learns without data, one that finds sentences in videos, both on two CPU cores.

Independent trainings run side by side in processes of one thread each: several threads on networks this small only wait
for each other.
"""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ommatid import catalogue
from ommatid.engine.sweep import fresh_processes
from ommatid.report.page import Page
from ommatid.report.tables import Grid, console, metric_grid

CORES = 2
EVERY_SECONDS = 5.0
_ON_CPU = {"accelerator": "cpu", "devices": 1}
SHOWN = ("R@1,IoU=0.3", "R@1,IoU=0.5", "R@1,IoU=0.7", "R@5,IoU=0.5", "mIoU")


@dataclass(frozen=True)
class Budget:
    """How much the demo trains: three minutes' worth of two CPU cores with room to spare.

    Attributes:
        teacher_steps: updates of the teacher on real digits.
        cmi, grounding: settings of the two methods, in the groups model, data and trainer.
    """

    teacher_steps: int = 300
    cmi: dict[str, Any] = field(
        default_factory=lambda: {
            "model": {"generator_steps": 100, "bank_size": 1024},
            "data": {"channels": 1},
            "trainer": {"max_epochs": 6, "log_every_n_steps": 1, **_ON_CPU},
        }
    )
    grounding: dict[str, Any] = field(default_factory=lambda: {"trainer": {"max_steps": 500, **_ON_CPU}})


def run_demo(out: str | Path, budget: Budget | None = None) -> Path:
    """Train both methods on embedded data, print tables, and write `index.html` with all pictures into `out`.

    Returns:
        The page. Run folders stand below `out/runs`.
    """
    out, budget, clock = Path(out), budget or Budget(), _Clock(console())
    clock.console.print(_catalogue_grid().draw())
    results = _train_all(out, budget, clock)
    for grid in (_accuracy_grid(results), _recall_grid(results)):
        clock.console.print(grid.draw())
    page = _write_page(out, results, clock.seconds())
    clock.say(f"page: {page}")
    return page


@dataclass
class _Clock:
    """Lines with the time since the start, so that a waiting person sees that something happens."""

    console: Console
    start: float = field(default_factory=time.perf_counter)

    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def say(self, text: str) -> None:
        self.console.print(f"[{self.seconds():5.1f} s] {text}", markup=False, highlight=False)


# -- the trainings -----------------------------------------------------------------------------------------------------


def _train_all(out: Path, budget: Budget, clock: _Clock) -> dict[str, dict[str, Any]]:
    """Test metrics, baselines and run folder of every training, by what it is for."""
    runs = out / "runs"
    teacher = out / "teacher.safetensors"
    with ProcessPoolExecutor(CORES, mp_context=fresh_processes(["ommatid.api"]), initializer=_one_thread) as pool:
        try:
            clock.say("finding moments: MGSL-Net trains on the embedded grounding set")
            # It needs no teacher, so it starts first; what needs one follows as soon as there is one.
            waiting = {pool.submit(_find_moments, runs / "moments", budget): ("finding moments", runs / "moments")}
            clock.say("a teacher learns real handwritten digits")
            accuracy = pool.submit(_train_teacher, teacher, budget).result()
            clock.say(
                f"the teacher is right on {accuracy:.1%} of the test digits; its training images are now put away"
            )
            for name, synthesis in {"recovering images": "inverted", "noise images": "noise"}.items():
                folder = runs / name.split()[0]
                waiting[pool.submit(_distil, folder, teacher, synthesis, budget)] = (name, folder)
            clock.say("recovering images: CMI inverts the teacher and distils a student on what it finds")
            return {"teacher": {"top1": accuracy}, **_watch(waiting, clock)}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _watch(waiting: Mapping[Future[Any], tuple[str, Path]], clock: _Clock) -> dict[str, dict[str, Any]]:
    """The results as they come, and now and then a line about those still at work."""
    results, pending, told = {}, set(waiting), dict.fromkeys(waiting, "")
    began = time.time()
    while pending:
        done, pending = wait(pending, EVERY_SECONDS, return_when="FIRST_COMPLETED")
        for future in done:
            name, _ = waiting[future]
            results[name] = future.result()
            clock.say(f"{name}: done, {results[name]['summary']}")
        for future in pending:
            name, folder = waiting[future]
            news = _latest(folder, began)
            if news and news != told[future]:
                clock.say(f"{name}: {news}")
                told[future] = news
    return results


def _latest(folder: Path, since: float) -> str:
    """The last validation of the run that is being written below a folder."""
    from ommatid.engine.runs import read_series

    tables = [path for path in folder.glob("*/*/metrics.csv") if path.stat().st_mtime >= since]
    if not tables:
        return ""
    series = read_series(max(tables, key=lambda path: path.stat().st_mtime))
    shown = {"val/top1": "accuracy", "val/R@1,IoU=0.5": "R@1,IoU=0.5"}
    news = [(series[name][-1], meaning) for name, meaning in shown.items() if name in series]
    return "; ".join(
        f"update {step + 1:.0f}, {meaning} on validation data {value:.3f}" for (step, value), meaning in news
    )


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _train_teacher(path: Path, budget: Budget) -> float:
    """A classifier of real digits, kept as a file; its test accuracy."""
    import torch
    from safetensors.torch import save_file

    from ommatid.classification.data import ImageData
    from ommatid.files import write_aside
    from ommatid.transfer.cmi import CMI
    from ommatid.transfer.networks import accuracy, build_classifier, train_classifier

    torch.manual_seed(0)
    data = ImageData(**{**CMI.embedded["data"], **budget.cmi["data"]})
    name = CMI.embedded["model"]["teacher"]
    teacher = build_classifier(name, len(data.class_names), data.channels, data.mean, data.std)
    train_classifier(teacher, *data.tensors("train"), budget.teacher_steps, pad=1)
    write_aside(path, lambda aside: save_file(teacher[1].state_dict(), aside))
    return accuracy(teacher, *data.tensors("test"))


def _distil(folder: Path, teacher: Path, synthesis: str, budget: Budget) -> dict[str, Any]:
    """A student that sees the teacher and, if any, the images recovered from it."""
    from ommatid import api

    model = {**budget.cmi["model"], "teacher_weights": str(teacher), "synthesis": synthesis}
    trained = api.train("cmi", model=model, data=budget.cmi["data"], trainer=budget.cmi["trainer"], runs=folder)
    return {
        "metrics": trained.metrics,
        "baselines": trained.baselines,
        "run": trained.run.path,
        "summary": f"the student is right on {trained.metrics['top1']:.1%}",
    }


def _find_moments(folder: Path, budget: Budget) -> dict[str, Any]:
    """MGSL-Net on the embedded world, and a picture of one test query."""
    from ommatid import api

    trained = api.train("mgsl-net", **budget.grounding, runs=folder)
    return {
        "metrics": trained.metrics,
        "baselines": trained.baselines,
        "run": trained.run.path,
        "sentence": _draw_typical_query(trained),
        "summary": f"R@1,IoU=0.5 {trained.metrics['R@1,IoU=0.5']:.3f} on the test set",
    }


def _draw_typical_query(trained: Any) -> str:
    """Draw the test query on which the method is as good as on average, so that the picture promises no more."""
    import torch

    from ommatid.grounding.data import GroundingData
    from ommatid.grounding.draw import draw_moments
    from ommatid.grounding.grounder import kept
    from ommatid.grounding.metrics import NMS, nms_moments

    method, data = trained.method.to("cpu").eval(), GroundingData(**trained.run.read_config()["data"])
    method.align(data)
    with torch.no_grad():
        scored = [(batch, method(batch)) for batch in data.test_dataloader()]
    overlaps = torch.cat([_overlap(moments.spans[:, 0], batch.span) for batch, moments in scored])
    chosen = int((overlaps - overlaps.mean()).abs().argmin())
    query = data.queries["test"][chosen]
    with torch.no_grad():
        moments = method(data.collate([data.dataset("test")[chosen]]))
    moments = kept(nms_moments(moments, NMS, 5))
    draw_moments(query.sentence, query.duration, moments, truth=query.span, path=trained.run.path / "moments.png")
    return str(query.sentence)


def _overlap(found: Any, true: Any) -> Any:
    """Temporal IoU of spans, row by row."""
    inside = (found[:, 1].minimum(true[:, 1]) - found[:, 0].maximum(true[:, 0])).clamp(min=0)
    return inside / (found[:, 1].maximum(true[:, 1]) - found[:, 0].minimum(true[:, 0]))


# -- tables and page ---------------------------------------------------------------------------------------------------


def _catalogue_grid() -> Grid:
    rows: list[list[Any]] = [[entry.name, entry.summary, entry.field, entry.paper] for entry in catalogue.CATALOGUE]
    return Grid(["method", "idea", "field", "paper"], rows, "Methods of this library")


def _accuracy_grid(results: Mapping[str, Mapping[str, Any]]) -> Grid:
    student = results["recovering images"]
    rows: list[list[Any]] = [
        ["teacher", "1,000 real digits", results["teacher"]["top1"]],
        ["student, half as wide (CMI)", "images recovered from the teacher", student["metrics"]["top1"]],
        ["the same student", "noise images, the teacher's answers", results["noise images"]["metrics"]["top1"]],
        ["most frequent class", "nothing", student["baselines"]["majority class"]["top1"]],
    ]
    return Grid(["classifier", "learned from", "test accuracy"], rows, "Handwritten digits: 797 test images")


def _recall_grid(results: Mapping[str, Mapping[str, Any]]) -> Grid:
    found = results["finding moments"]
    columns = {"MGSL-Net": found["metrics"], **found["baselines"]}
    chosen = {name: {metric: metrics[metric] for metric in SHOWN} for name, metrics in columns.items()}
    return metric_grid(chosen, "Moments in world-grounding (made data): test queries")


def _write_page(out: Path, results: Mapping[str, Mapping[str, Any]], seconds: float) -> Path:
    page = Page(
        "ommatid: a look around",
        f"Two published methods, trained here just now in {seconds:.0f} seconds, on data that need no download.",
    )
    _write_digits(page, results)
    _write_moments(page, results)
    page.section("All methods")
    methods = _catalogue_grid()
    page.table(methods.headers, methods.rows)
    page.section("Where to go from here")
    page.text(
        f"Weights, settings and metrics of these trainings stand in {out / 'runs'}; 'ommatid report RUN' shows one."
    )
    page.text("'ommatid train METHOD --data.root FOLDER' trains on your own data.")
    page.text("'ommatid claim METHOD' re-tests what the paper claims, with several seeds and a verdict.")
    return page.write(out / "index.html")


def _write_digits(page: Page, results: Mapping[str, Mapping[str, Any]]) -> None:
    run, accuracy = results["recovering images"]["run"], _accuracy_grid(results)
    entry = catalogue.find("cmi")
    page.section("Learning from a network instead of data")
    page.text(
        "A small network learned to read handwritten digits (real ones: UCI, in scikit-learn). Then its training "
        "images were put away. CMI recovered images like them from the network itself, and a smaller student learned "
        "from those."
    )
    page.table(accuracy.headers, accuracy.rows, accuracy.title)
    page.picture(
        run / "recovered.png",
        "What CMI recovered. Above each image: the digit that the teacher takes it for. No real image was looked at.",
        alt="A sheet of small grey images with strokes like those of handwritten digits",
    )
    page.picture(
        run / "curves.png",
        "Losses of inversion and student, and the student's accuracy on validation images, over updates.",
        alt="Curves of losses and accuracy over updates",
    )
    page.text(f"{entry.title}. {entry.venue} {entry.year}, {entry.paper}.")


def _write_moments(page: Page, results: Mapping[str, Mapping[str, Any]]) -> None:
    found, recall = results["finding moments"], _recall_grid(results)
    entry = catalogue.find("mgsl-net")
    page.section("Finding the moment that a sentence describes")
    page.text(
        "MGSL-Net reads a video as a sequence of features, and a sentence, and says from when to when the sentence is "
        "true. No corpus of this kind can be shipped, so the videos are made: events whose start, end and wording are "
        "known. R@1,IoU=0.5 is the share of sentences whose best moment overlaps the true one by at least half."
    )
    page.table(recall.headers, recall.rows, recall.title)
    page.picture(
        found["run"] / "moments.png",
        "A test sentence on which the method does as well as it does on average: the true moment and the best guesses.",
        alt=f"Time line of a video with the true moment and the best guesses for the sentence: {found['sentence']}",
    )
    page.text(f"{entry.title}. {entry.venue} {entry.year}, {entry.paper}.")
