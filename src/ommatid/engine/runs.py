"""Run directories: everything needed to understand, repeat and resume a training run."""

import csv
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from ommatid import __version__
from ommatid.engine.settings import CONFIG_ENTRIES, json_text, read_yaml, to_plain
from ommatid.errors import InputError
from ommatid.files import write_aside

PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy", "scikit-learn", "jsonargparse")


@dataclass(frozen=True)
class RunDir:
    """`runs/<method>/<time>/`: config.yaml, environment.json, metrics.csv, curves.png, best and last checkpoint."""

    path: Path

    @classmethod
    def create(cls, root: str | Path, method: str) -> "RunDir":
        """A new folder; of several processes of one training only the first makes it, and `fit` tells the others."""
        base, stamp = Path(root) / method, time.strftime("%Y%m%d-%H%M%S")
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            return cls(base / stamp)
        base.mkdir(parents=True, exist_ok=True)
        # Two runs may start in the same second; mkdir decides which of them takes the name.
        for attempt in range(1000):
            path = base / (stamp if not attempt else f"{stamp}-{attempt}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return cls(path)
        raise InputError(f"{base}: could not make a run folder, 1000 of this second exist already")

    @classmethod
    def open(cls, path: str | Path) -> "RunDir":
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise InputError(f"{path}: not a run folder, expected a config.yaml inside")
        return cls(path)

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def resume_state(self) -> Path:
        """The trainer's state after the last finished epoch: optimisers, schedules, random generators."""
        return self.path / "resume.ckpt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @rank_zero_only
    def write_config(self, config: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
        write_aside(self.path / "config.yaml", lambda aside: aside.write_text(text, encoding="utf-8"))

    def read_config(self) -> dict[str, Any]:
        path = self.path / "config.yaml"
        try:
            config = read_yaml(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not readable as YAML ({type(error).__name__})") from error
        # All but `compile` must be there.
        config = {"compile": False, **config} if isinstance(config, dict) else {}
        for name, (kind, expected) in CONFIG_ENTRIES.items():
            if name not in config:
                raise InputError(f"{path}: no entry {name!r}, expected the config.yaml of a run")
            if not isinstance(config[name], kind):
                raise InputError(f"{path}: {name} is {config[name]!r}, expected {expected}")
        return config

    @rank_zero_only
    def write_json(self, name: str, content: Any) -> None:
        """JSON that any program reads: NaN becomes null."""
        write_aside(self.path / name, lambda aside: aside.write_text(json_text(content), encoding="utf-8"))

    def draw_curves(self) -> Path | None:
        """Training losses and validation metrics over steps, from metrics.csv; metrics of subsets are left out."""
        series = read_series(self.metrics)
        shown = {name: points for name, points in series.items() if name.split("/")[:-1] in (["train"], ["val"])}
        if not shown:
            return None
        figure = _curves(shown)
        path = self.path / "curves.png"
        write_aside(path, lambda aside: figure.savefig(aside, format="png", dpi=110))
        return path


def environment() -> dict[str, Any]:
    """Versions, machine and devices, for the record."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "ommatid": __version__,
        "python": sys.version.split()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "packages": versions,
    }


class CsvLog(Logger):
    """metrics.csv, one row a logged step. A resumed run keeps the rows before its starting point.

    Lightning's own CSV logger deletes the earlier rows of a resumed run.
    """

    SECONDS_BETWEEN_WRITES = 5.0

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.written = float("-inf")

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return self.path.parent.name

    def continue_from(self, step: int) -> None:
        """Keep the rows before a step.

        Raises:
            InputError: the file is not one that ommatid wrote.
        """
        if not self.path.is_file():
            return
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
            self.rows = [row for row in rows if row["step"] < step]
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise InputError(f"{self.path}: not a table of numbers with a column 'step' ({error!r})") from error

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The settings stand in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": float(step or 0), **metrics}
        if self.rows and self.rows[-1]["step"] == row["step"]:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)

    @rank_zero_only
    def save(self) -> None:
        # Lightning asks after every row; the whole file each time would cost more and more.
        if time.monotonic() - self.written > self.SECONDS_BETWEEN_WRITES:
            self.write()

    @rank_zero_only
    def write(self) -> None:
        """All rows so far, as metrics.csv."""
        self.written = time.monotonic()
        if not self.rows:
            return
        columns = list(dict.fromkeys(name for row in self.rows for name in row))

        def fill(aside: Path) -> None:
            with aside.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self.rows)

        write_aside(self.path, fill)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.write()


def read_series(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Column -> (step, value) points of a metrics.csv."""
    series: dict[str, list[tuple[float, float]]] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        series.setdefault(name, []).append((float(row["step"]), float(value)))
    return series


def _curves(series: Mapping[str, list[tuple[float, float]]]) -> Any:
    from matplotlib.figure import Figure

    groups = [prefix for prefix in ("train/", "val/") if any(name.startswith(prefix) for name in series)]
    figure = Figure(figsize=(5.2 * len(groups), 3.4), layout="constrained")
    for axis, prefix in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        for name, points in series.items():
            if name.startswith(prefix):
                axis.plot(*zip(*points, strict=True), label=name.removeprefix(prefix), linewidth=1.2)
        axis.set(xlabel="step", title=prefix.rstrip("/"))
        # Many metrics make a legend that is higher than the picture: it must not push the curves out.
        axis.legend(fontsize=6, ncols=1 + len(axis.lines) // 13).set_in_layout(False)
        axis.grid(alpha=0.3)
    return figure
