"""Terminal tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> Table:
    """A table whose number columns align right.

    Examples:
        >>> table(["method", "mIoU"], [["mgsl-net", 0.61234]]).row_count
        1
    """
    made = Table(title=title, title_justify="left", header_style="bold")
    for position, header in enumerate(headers):
        numeric = bool(rows) and all(isinstance(row[position], (int, float)) or row[position] is None for row in rows)
        made.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(show(value) for value in row))
    return made


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


def metric_table(columns: Mapping[str, Mapping[str, float]], title: str | None = None) -> Table:
    """Metrics down, predictors across: a model beside its trivial baselines."""
    names = list(dict.fromkeys(name for metrics in columns.values() for name in metrics))
    rows = [[name, *(metrics.get(name) for metrics in columns.values())] for name in names]
    return table(["metric", *columns], rows, title)


def claim_table(record: Mapping[str, Any]) -> Table:
    """The arms of a claim: mean and standard deviation over seeds, costs, tuned settings."""
    shown = list(record["shown"]) or [criterion["criterion"]["metric"] for criterion in record["criteria"]]
    rows = []
    for name, arm in record["arms"].items():
        values = [spread(arm["metrics"].get(metric, [])) for metric in shown]
        cost = [spread(arm["seconds"], 1), f"{max(arm['peak_memory']) / 2**20:.0f} MiB", arm["parameters"]]
        tuned = ", ".join(f"{key}={value:g}" for key, value in arm["tuned"].items())
        rows.append([name, arm["role"], *values, *cost, tuned])
    headers = ["arm", "role", *shown, "seconds", "peak memory", "parameters", "tuned"]
    return table(headers, rows, f"{record['claim']}: {record['verdict'].upper()}")


def effect_table(record: Mapping[str, Any]) -> Table:
    """The criteria of a claim: paired differences, their intervals, verdicts."""
    rows = [
        [
            criterion["reads"],
            f"{criterion['mean']:+.4f}",
            f"[{criterion['low']:+.4f}, {criterion['high']:+.4f}]",
            f"[{criterion['bootstrap_low']:+.4f}, {criterion['bootstrap_high']:+.4f}]",
            criterion["verdict"],
        ]
        for criterion in record["criteria"]
    ]
    seeds = len(record["seeds"])
    return table(["criterion", "effect", "95 % (t)", "95 % (bootstrap)", "verdict"], rows, f"{seeds} seeds, paired")


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Mean ± standard deviation.

    Examples:
        >>> spread([0.5, 0.7])
        '0.600 ± 0.141'
    """
    from statistics import mean, stdev

    known = [value for value in values if value is not None]
    if not known:
        return "-"
    deviation = f" ± {stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{mean(known):.{digits}f}{deviation}"


def console(stderr: bool = False) -> Console:
    """A console that does not break tables when the output is no terminal."""
    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=160, soft_wrap=False)
