"""One HTML file that needs nothing else: style and pictures inside, no network, dark and light, phone and desk."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ommatid import __version__
from ommatid.errors import InputError
from ommatid.files import read_json, write_aside
from ommatid.report.tables import Grid, claim_grid, comparison_grids, effect_grid, metric_grid, show

PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
CURVES = "curves.png"
RECORD = {"claim", "statement", "source", "verdict", "criteria", "seeds", "arms", "tuning_seeds"}
"""Entries without which a file is not the record of a claim."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2125; --soft: #59636e; --paper: #ffffff; --panel: #f5f7f9; --line: #d5dbe1;
  --accent: #0b62a8; --good: #0a6b4b; --bad: #a3282d; --open: #7a5200; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaed; --soft: #a4afba; --paper: #14171a; --panel: #1d2226;
  --line: #38414a; --accent: #7dbdf2; --good: #5fd0a4; --bad: #f39a9a; --open: #e8bf6a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem max(1rem, env(safe-area-inset-left)) 3rem; max-width: 62rem;
  background: var(--paper); color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.65rem; line-height: 1.2; margin: .4rem 0 .6rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.4rem 0 .6rem; padding-top: .7rem;
  border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; }
.lead { font-size: 1.06rem; color: var(--soft); }
.scroll { overflow-x: auto; margin: .9rem 0 1.2rem; border: 1px solid var(--line); border-radius: .5rem; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; padding: .55rem .8rem; color: var(--soft); }
th, td { padding: .38rem .8rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { background: var(--panel); white-space: nowrap; }
tbody th { font-weight: 500; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.interval { white-space: nowrap; font-variant-numeric: tabular-nums; }
.wide { min-width: 15rem; }
figure { margin: 1rem 0 1.4rem; }
figure img { display: block; max-width: 100%; max-height: 36rem; height: auto; background: #ffffff;
  border: 1px solid var(--line); border-radius: .5rem; padding: .4rem; }
figcaption { margin-top: .45rem; color: var(--soft); font-size: .92rem; max-width: 46rem; }
.verdict { display: inline-block; padding: .1rem .7rem; border: 2px solid currentColor; border-radius: 1rem;
  font-weight: 650; }
.holds { color: var(--good); } .does-not-hold { color: var(--bad); } .undecided { color: var(--open); }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 34rem) { table { font-size: .84rem; } th, td { padding: .34rem .55rem; }
  thead th, thead .number { white-space: normal; } .wide { min-width: 12rem; } }
""".strip()


class Page:
    """A page that grows from top to bottom; everything given to it is text, never markup.

    Examples:
        >>> page = Page("Runs & results", "What came of it.")
        >>> page.section("Numbers")
        >>> page.table(["metric", "value"], [["mIoU", 0.61234]])
        >>> "<td class=\\"number\\">0.612</td>" in page.html()
        True
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self.title, self.lead = title, lead
        self._blocks: list[str] = []
        self._inside = False

    def section(self, heading: str) -> None:
        """Begin a section; what follows belongs to it."""
        self._leave_section()
        self._blocks.append(f"<section>\n<h2>{escape(heading)}</h2>")
        self._inside = True

    def text(self, text: str) -> None:
        """A paragraph."""
        self._blocks.append(f"<p>{escape(text)}</p>")

    def verdict(self, verdict: str) -> None:
        """What became of a claim, in words and in colour."""
        kind = escape(verdict.replace(" ", "-"), quote=True)
        self._blocks.append(f'<p><strong class="verdict {kind}">{escape(verdict)}</strong></p>')

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[Any]], caption: str | None = None) -> None:
        """A table in a box of its own, which scrolls sideways where the screen is narrow; numbers align right."""
        self._blocks.append(_table(Grid(list(headers), [list(row) for row in rows], caption)))

    def grid(self, grid: Grid) -> None:
        """A table as `ommatid.report.tables` makes it."""
        self.table(grid.headers, grid.rows, grid.title)

    def picture(self, path: str | Path, caption: str, alt: str | None = None) -> None:
        """A picture, put into the page itself; `alt` says in words what it shows (the caption where None).

        Raises:
            InputError: the file is missing, or no picture that browsers show.
        """
        path = Path(path)
        kind = PICTURES.get(path.suffix.lower())
        if kind is None:
            raise InputError(f"{path}: found the ending {path.suffix!r}, expected a picture ({' '.join(PICTURES)})")
        try:
            content = base64.b64encode(path.read_bytes()).decode("ascii")
        except OSError as error:
            raise InputError(f"{path}: found {error.strerror}, expected a picture") from None
        self._blocks.append(
            f'<figure>\n<img alt="{escape(alt or caption, quote=True)}" src="data:{kind};base64,{content}">\n'
            f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
        )

    def html(self) -> str:
        """The whole page."""
        body = "\n".join([*self._blocks, "</section>"] if self._inside else self._blocks)
        lead = f'<p class="lead">{escape(self.lead)}</p>\n' if self.lead else ""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<title>{escape(self.title)}</title>\n<link rel="icon" href="data:,">\n'
            f"<style>\n{STYLE}\n</style>\n</head>\n"
            f"<body>\n<main>\n<header>\n<h1>{escape(self.title)}</h1>\n{lead}</header>\n{body}\n</main>\n"
            f"<footer>Written by ommatid {escape(__version__)}.</footer>\n</body>\n</html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page; the file is whole or absent, never half.

        Raises:
            InputError: the path cannot be written.
        """
        path = Path(path)
        try:
            write_aside(path, lambda aside: aside.write_text(self.html(), encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}, expected a file that can be written") from None
        return path

    def _leave_section(self) -> None:
        if self._inside:
            self._blocks.append("</section>")
        self._inside = False


def _table(grid: Grid) -> str:
    numeric = [grid.numeric(position) for position in range(len(grid.headers))]
    caption = f"<caption>{escape(grid.title)}</caption>" if grid.title else ""
    head = "".join(
        f'<th scope="col"{_class("number" if right else "")}>{escape(str(header))}</th>'
        for header, right in zip(grid.headers, numeric, strict=True)
    )
    rows = "\n".join(f"<tr>{''.join(_cells(row, numeric))}</tr>" for row in grid.rows)
    label = escape(grid.title or f"table of {', '.join(map(str, grid.headers))}", quote=True)
    # A box that scrolls must be reachable by keyboard, and a region that is reachable needs a name.
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">\n<table>{caption}\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _cells(row: Sequence[Any], numeric: Sequence[bool]) -> Iterator[str]:
    for position, (value, right) in enumerate(zip(row, numeric, strict=True)):
        text = show(value)
        kind = "number" if right else "interval" if text.startswith("[") else "wide" if len(text) > 40 else ""
        if position == 0 and not right:
            yield f'<th scope="row"{_class(kind)}>{escape(text)}</th>'
        else:
            yield f"<td{_class(kind)}>{escape(text)}</td>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


# -- what is written about --


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """A page about a run folder or a folder of claim results: `report.html` in the folder unless `out` says else.

    Raises:
        InputError: the folder is neither, or a file in it is damaged.
    """
    folder = Path(folder)
    if (folder / "config.yaml").is_file():
        page = _run_page(folder)
    elif records := _read_claims(folder):
        page = _claims_page(records)
    else:
        found = "no such folder" if not folder.is_dir() else "neither config.yaml nor claim results (*.json)"
        raise InputError(f"{folder}: found {found}, expected a run folder or a folder of claim results")
    return page.write(out or folder / "report.html")


def write_comparison(folder: str | Path, record: Mapping[str, Any]) -> Path:
    """A page about what `ommatid.compare` measured: `comparison.html` in the folder."""
    data = record["data"]
    methods = ", ".join(record["methods"])
    page = Page(f"Comparison on {data.get('name', 'the same data')}", f"{methods}: same data, same budget, same seeds.")
    page.section("Metrics and costs")
    page.text("Mean ± standard deviation over seeds. Trivial baselines look at no input: they say what is easy.")
    for grid in comparison_grids(record):
        page.grid(grid)
    if record["left_out"]:
        page.section("Left out")
        page.table(["method", "reason"], [[name, reason] for name, reason in record["left_out"].items()])
    if record["pictures"]:
        page.section("The same inputs, all methods")
        for number, picture in enumerate(record["pictures"], 1):
            page.picture(Path(folder) / picture, f"Test sample {number}: the best answer of each method, first seed.")
    page.section("Data")
    page.table(["setting", "value"], list(_flat(data)))
    return page.write(Path(folder) / "comparison.html")


def _run_page(folder: Path) -> Page:
    from ommatid.engine.runs import RunDir

    config = RunDir.open(folder).read_config()
    page = Page(
        f"{config['method']}: {folder.name}", f"A training of {config['method']}: its metrics, curves and settings."
    )
    page.section("Test metrics")
    result = read_json(folder / "result.json", "what ommatid wrote", missing=None)
    if result is not None and not (isinstance(result, dict) and {"test", "baselines", "data"} <= result.keys()):
        raise InputError(f"{folder / 'result.json'}: not the result of a run, expected what 'ommatid train' writes")
    if result is None:
        page.text("There is no result.json: the run has not finished. 'ommatid train --resume' goes on with it.")
    else:
        page.grid(metric_grid({"model": result["test"], **result["baselines"]}))
    _add_pictures(page, folder)
    if result is not None:
        page.section("Data")
        page.table(["setting", "value"], list(_flat(result["data"])))
    page.section("Settings")
    page.table(["setting", "value"], list(_flat(config)))
    environment = read_json(folder / "environment.json", "what ommatid wrote", missing=None)
    if environment is not None:
        page.section("Environment")
        page.table(["what", "found"], list(_flat(environment)))
    return page


def _add_pictures(page: Page, folder: Path) -> None:
    curves = folder / CURVES
    others = [path for path in sorted(folder.glob("*.png")) if path.name != CURVES]
    if not others and not curves.is_file():
        return
    page.section("Pictures")
    if curves.is_file():
        page.picture(
            curves, "Training losses and validation metrics over steps.", alt="curves of losses and metrics over steps"
        )
    for path in others:
        page.picture(path, path.stem.replace("_", " "))


def _claims_page(records: Sequence[Mapping[str, Any]]) -> Page:
    counts = {
        verdict: sum(record["verdict"] == verdict for record in records)
        for verdict in ("holds", "undecided", "does not hold")
    }
    summary = ", ".join(f"{verdict} {count}" for verdict, count in counts.items() if count)
    page = Page("Claims re-tested", f"{len(records)} claim{'s' if len(records) > 1 else ''}: {summary}.")
    for record in records:
        page.section(record["claim"])
        page.text(record["statement"])
        page.verdict(record["verdict"])
        effects, arms = effect_grid(record), claim_grid(record)
        page.table(effects.headers, effects.rows, f"Effects: {effects.title}")
        page.table(arms.headers, arms.rows, "Arms: mean ± standard deviation over seeds; costs of one training")
        tried = [row for name, arm in record["arms"].items() for row in _tried(name, arm)]
        if tried:
            seeds = ", ".join(map(str, record["tuning_seeds"]))
            page.table(
                ["arm", "tried", "validation"], tried, f"Tuning: every arm alike, seed {seeds}, validation split"
            )
        page.text(f"Stated in {record['source']}. Seeds {', '.join(map(str, record['seeds']))}.")
    return page


def _tried(name: str, arm: Mapping[str, Any]) -> Iterator[list[Any]]:
    for point in arm["tried"]:
        # The last entry is the score, the others are what was tried.
        *settings, (metric, score) = point.items()
        chosen = " (chosen)" if dict(settings) == dict(arm["tuned"]) else ""
        yield [name, ", ".join(f"{key} = {value}" for key, value in settings) + chosen, f"{metric} {show(score)}"]


def _read_claims(folder: Path) -> list[dict[str, Any]]:
    records = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        record = read_json(path, "what ommatid wrote", missing=None)
        if not isinstance(record, dict) or not record.keys() >= RECORD:
            raise InputError(f"{path}: not the result of a claim, expected what 'ommatid claim' writes")
        records.append(record)
    return records


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[list[str]]:
    """Nested settings as dotted names and values, the way the command line takes them."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield [f"{prefix}{name}", _plain(value)]


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None or value == {} else str(value)
