"""Tables: their rows for every output (terminal, HTML page, Markdown), and the terminal's own drawing of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn: one row holds as many values as there are headers."""

    headers: list[str]
    rows: list[list[Any]]
    title: str | None = None

    def numeric(self, position: int) -> bool:
        """Whether a column holds numbers only, so that it aligns right."""
        return bool(self.rows) and all(is_number(row[position]) for row in self.rows)

    def draw(self) -> Table:
        return table(self.headers, self.rows, self.title)


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> Table:
    """A terminal table whose number columns align right.

    Examples:
        >>> table(["method", "mIoU"], [["mgsl-net", 0.61234]]).row_count
        1
    """
    grid = Grid(list(headers), [list(row) for row in rows], title)
    made = Table(title=title, title_justify="left", header_style="bold")
    for position, header in enumerate(headers):
        made.add_column(header, justify="right" if grid.numeric(position) else "left", overflow="fold")
    for row in rows:
        made.add_row(*(show(value) for value in row))
    return made


def is_number(value: Any) -> bool:
    """Whether a value is shown as a number: None stands for a missing one, "0.6 ± 0.1" for several.

    Examples:
        >>> [is_number(value) for value in (0.5, None, "0.600 ± 0.141", "cmi", True)]
        [True, True, True, False, False]
    """
    if isinstance(value, str):
        return value == "-" or all(_parses(part) for part in value.split(" ± "))
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _parses(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def show(value: Any) -> str:
    """A value as a person reads it.

    Examples:
        >>> show(0.61234), show(1234567), show(None)
        ('0.612', '1,234,567', '-')
    """
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def metric_grid(columns: Mapping[str, Mapping[str, float]], title: str | None = None) -> Grid:
    """Metrics down, predictors across: a model beside its trivial baselines."""
    names = list(dict.fromkeys(name for metrics in columns.values() for name in metrics))
    rows = [[name, *(metrics.get(name) for metrics in columns.values())] for name in names]
    return Grid(["metric", *columns], rows, title)


def metric_table(columns: Mapping[str, Mapping[str, float]], title: str | None = None) -> Table:
    """`metric_grid` for the terminal."""
    return metric_grid(columns, title).draw()


def claim_grid(record: Mapping[str, Any]) -> Grid:
    """The arms of a claim: mean and standard deviation over seeds, costs, tuned settings."""
    shown = list(record["shown"]) or [criterion["criterion"]["metric"] for criterion in record["criteria"]]
    rows = []
    for name, arm in record["arms"].items():
        values = [spread(arm["metrics"].get(metric, [])) for metric in shown]
        cost = [spread(arm["seconds"], 1), mebibytes(arm["peak_memory"]), arm["parameters"]]
        tuned = ", ".join(f"{key}={_brief(value)}" for key, value in arm["tuned"].items())
        rows.append([name, arm["role"], *values, *cost, tuned or "-"])
    headers = ["arm", "role", *shown, "seconds", "peak memory", "parameters", "tuned"]
    return Grid(headers, rows, f"{record['claim']}: {record['verdict'].upper()}")


def claim_table(record: Mapping[str, Any]) -> Table:
    """`claim_grid` for the terminal."""
    return claim_grid(record).draw()


def effect_grid(record: Mapping[str, Any]) -> Grid:
    """The criteria of a claim: paired differences, their intervals, verdicts."""
    rows = [
        [
            criterion["reads"],
            signed(criterion["mean"]),
            interval(criterion["low"], criterion["high"]),
            interval(criterion["bootstrap_low"], criterion["bootstrap_high"]),
            criterion["verdict"],
        ]
        for criterion in record["criteria"]
    ]
    headers = ["criterion", "effect", "95 % (t)", "95 % (bootstrap)", "verdict"]
    seeds = len(record["seeds"])
    return Grid(headers, rows, f"{seeds} seed{'s' if seeds > 1 else ''}, paired")


def effect_table(record: Mapping[str, Any]) -> Table:
    """`effect_grid` for the terminal."""
    return effect_grid(record).draw()


def comparison_grids(record: Mapping[str, Any]) -> list[Grid]:
    """What `ommatid.compare` measured: methods and trivial baselines down, metrics and costs across.

    Metrics of a part of the data ("rare/mIoU") have a table of their own, one for each part; where parts have a single
    metric each (a precision of every class), one table of all parts.
    """
    names = list(dict.fromkeys(name for method in record["methods"].values() for name in method["metrics"]))
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(name.rpartition("/")[0], []).append(name)
    lone = [name for part, held in parts.items() if part and len(held) == 1 for name in held]
    groups = {part: held for part, held in parts.items() if not part or len(held) > 1}
    seeds = len(record["seeds"])
    title = f"{record['data'].get('name', 'comparison')}, {seeds} seed{'s' if seeds > 1 else ''}"
    grids = [
        _comparison_grid(record, held, f"{title}, {part}" if part else title, not part) for part, held in groups.items()
    ]
    return grids + ([_comparison_grid(record, lone, f"{title}, part by part", False)] if lone else [])


def _comparison_grid(record: Mapping[str, Any], metrics: Sequence[str], title: str, costs: bool) -> Grid:
    headers = [name.rpartition("/")[2] for name in metrics]
    if len(set(headers)) < len(headers):
        headers = list(metrics)
    rows = []
    for name, method in record["methods"].items():
        cost = [spread(method["seconds"], 1), mebibytes(method["peak_memory"]), show(method["parameters"])]
        values = [spread(method["metrics"].get(metric, [])) for metric in metrics]
        rows.append([name, *values, *(cost if costs else [])])
    for name, baseline in record["baselines"].items():
        rows.append([name, *(show(baseline.get(metric)) for metric in metrics), *(["-"] * 3 if costs else [])])
    return Grid(["method", *headers, *(["seconds", "peak memory", "parameters"] if costs else [])], rows, title)


def comparison_tables(record: Mapping[str, Any]) -> list[Table]:
    """`comparison_grids` for the terminal."""
    return [grid.draw() for grid in comparison_grids(record)]


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Mean ± standard deviation.

    Examples:
        >>> spread([0.5, 0.7])
        '0.600 ± 0.141'
    """
    known = [value for value in values if value is not None and value == value]
    if not known:
        return "-"
    deviation = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{mean(known):.{digits}f}{deviation}"


def signed(effect: float | None) -> str:
    """An effect with its sign.

    Examples:
        >>> signed(0.2), signed(None)
        ('+0.2000', '-')
    """
    return show(effect) if effect is None or effect != effect else f"{effect:+.4f}"


def interval(low: float | None, high: float | None) -> str:
    """An interval of effects; a single seed gives none, nor do effects that are no numbers.

    Examples:
        >>> interval(-0.01, 0.2), interval(None, None)
        ('[-0.0100, +0.2000]', 'not known')
    """
    if low is None or high is None or not isfinite(high - low):
        return "not known"
    return f"[{low:+.4f}, {high:+.4f}]"


def mebibytes(sizes: Sequence[int]) -> str:
    """The largest of several sizes in bytes.

    Examples:
        >>> mebibytes([1048576, 3145728])
        '3 MiB'
    """
    return f"{max(sizes) / 2**20:.0f} MiB"


def _brief(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def console(stderr: bool = False) -> Console:
    """A console that does not break tables when the output is no terminal."""
    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=160, soft_wrap=False)
