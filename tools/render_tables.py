"""Write the tables of README and docs between their markers, from the catalogue and the records of claims.

    python tools/render_tables.py            rewrites what is out of step
    python tools/render_tables.py --check    changes nothing, exits with 1 if anything is out of step

A block stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`. Numbers come from `results/claims/*.json`, which
only `ommatid claim` writes (a record that no longer describes its claim in the code is refused), from
`results/comparisons/*.json`, written by `ommatid compare`, and from `results/{throughput,grafts}.json`, written by the
scripts of these names in `benchmarks/`.
"""

import argparse
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from ommatid import catalogue
from ommatid.api import method_class
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.method import Method
from ommatid.engine.recipe import Recipe
from ommatid.engine.settings import build, constructor_arguments, to_plain
from ommatid.report.tables import Grid, claim_grid, comparison_grids, effect_grid, interval, show, signed, spread

ROOT = Path(__file__).resolve().parents[1]
RECORDS = Path("results/claims")
COMPARISONS = Path("results/comparisons")
THROUGHPUT = Path("results/throughput.json")
GRAFTS = Path("results/grafts.json")
ARXIV = "https://arxiv.org/abs"

Record = Mapping[str, Any]


class OutOfStep(Exception):
    """A page, a block or a record is missing, or does not belong to what the code says."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 if a file is out of step")
    parser.add_argument("--root", type=Path, default=ROOT, help="repository (default: the one of this file)")
    arguments = parser.parse_args(argv)
    try:
        pages = blocks(arguments.root)
    except OutOfStep as error:
        print(error, file=sys.stderr)
        return 1
    faults = [fault for path, content in pages.items() if (fault := _settle(path, content, arguments.check))]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _settle(path: Path, content: Mapping[str, str], check: bool) -> str:
    """Write a page that is out of step, or say what is wrong with it."""
    try:
        old, new = _filled(path, content)
    except OutOfStep as error:
        return str(error)
    if old == new:
        return ""
    if check:
        return f"{path}: out of step, run 'python tools/render_tables.py'"
    path.write_text(new, encoding="utf-8")
    print(f"{path}: written")
    return ""


def blocks(root: Path) -> dict[Path, dict[str, str]]:
    """Every file with generated blocks, and what its blocks must hold.

    Raises:
        OutOfStep: a record does not belong to its claim.
    """
    records = read_records(root / RECORDS)
    pages: dict[Path, dict[str, str]] = {
        root / "README.md": {"methods": methods_table(records, "docs/methods/")},
        root / "docs/index.md": {"methods": methods_table(records, "methods/")},
        root / "docs/claims.md": {"verdicts": verdicts_table(records, "methods/")},
        root / "docs/comparison.md": {
            "grounding": measured(
                root / COMPARISONS / "grounding.json", comparison_section, "ommatid compare grounding --jobs 2"
            ),
            "throughput": measured(
                root / THROUGHPUT, throughput_section, f"python benchmarks/throughput.py --threads 2 --out {THROUGHPUT}"
            ),
        },
    }
    for entry in catalogue.CATALOGUE:
        pages[root / f"docs/methods/{entry.name}.md"] = {
            "arguments": arguments_table(method_class(entry.name)),
            "cite": f"```bibtex\n{entry.bibtex()}\n```",
        }
        # A baseline claims nothing of its own, and its page has no such block.
        if claims := claims_of(entry.name):
            sections = [claim_section(claim, records.get(claim.name)) for claim in claims]
            pages[root / f"docs/methods/{entry.name}.md"]["claims"] = "\n\n".join(sections)
    pages[root / "docs/methods/dcin-tel.md"]["published"] = "\n\n".join(
        measured(root / COMPARISONS / f"emotions-{kind}.json", emotions_section, "ommatid compare dcin-tel")
        for kind in ("minilm", "hashed")
    )
    pages[root / "docs/grafting.md"] = {
        "grafts": measured(root / GRAFTS, grafts_section, f"python benchmarks/grafts.py --out {GRAFTS}")
    }
    return pages


def _filled(path: Path, content: Mapping[str, str]) -> tuple[str, str]:
    """A page as it is, and as it should be."""
    if not path.is_file():
        raise OutOfStep(f"{path}: no such page, expected one with the blocks {', '.join(content)}")
    old = new = path.read_text(encoding="utf-8")
    for name, block in content.items():
        new = replace_block(new, name, block, path)
    return old, new


def replace_block(text: str, name: str, content: str, path: Path) -> str:
    """`text` with `content` between the markers of a block.

    Raises:
        OutOfStep: the markers do not stand there exactly once.
    """
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    found = pattern.findall(text)
    if len(found) != 1:
        raise OutOfStep(
            f"{path}: found {len(found)} blocks '<!-- {name}:begin --> ... <!-- {name}:end -->', expected 1"
        )
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


# -- records -----------------------------------------------------------------------------------------------------------


def claims_of(name: str) -> tuple[Claim, ...]:
    return method_class(name).claims


def read_records(folder: Path) -> dict[str, Record]:
    """Claim name -> record; each is compared with the claim in the code.

    Raises:
        OutOfStep: a file belongs to no claim, or tells of other arms, criteria or settings than the claim has now.
    """
    claims = {claim.name: claim for entry in catalogue.CATALOGUE for claim in claims_of(entry.name)}
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    for name, record in records.items():
        if name not in claims:
            raise OutOfStep(f"{folder / name}.json: no method has a claim of this name")
        for what, (found, expected) in _compared(record, claims[name]).items():
            if found != expected:
                raise OutOfStep(
                    f"{folder / name}.json: {what} is not that of the claim any more, run 'ommatid claim {name}'"
                )
    return records


def _compared(record: Record, claim: Claim) -> dict[str, tuple[Any, Any]]:
    """What a record and its claim must agree on."""
    return {
        "statement": (record["statement"], claim.statement),
        # A record may be older than an attribute that has a default.
        "criteria": (
            [to_plain(build(Criterion, each["criterion"])) for each in record["criteria"]],
            to_plain(claim.criteria),
        ),
        "arms": (
            {name: _arm(arm) for name, arm in record["arms"].items()},
            {name: _arm(vars(arm)) for name, arm in claim.arms.items()},
        ),
        **{name: (record[name], to_plain(getattr(claim, name))) for name in ("model", "data", "trainer")},
        **_tuning(record, claim),
    }


def _tuning(record: Record, claim: Claim) -> dict[str, tuple[Any, Any]]:
    """What was tried, where anything was."""
    if not record["tuning_seeds"]:
        return {}
    grid = [dict(zip(claim.tuning, point, strict=True)) for point in product(*claim.tuning.values())]
    tried = {
        name: [{setting: point[setting] for setting in claim.tuning if setting in point} for point in arm["tried"]]
        for name, arm in record["arms"].items()
    }
    return {
        "tuning": (tried, dict.fromkeys(record["arms"], to_plain(grid))),
        "tuning_seeds": (record["tuning_seeds"], list(claim.tuning_seeds)),
    }


def _arm(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: to_plain(content.get(name, to_plain(default))) for name, default in vars(Arm("method")).items()} | {
        "role": content["role"]
    }


# -- blocks ------------------------------------------------------------------------------------------------------------


def methods_table(records: Mapping[str, Record], pages: str) -> str:
    """Every method with its paper and what became of its claims."""
    rows = [
        [
            f"[`{entry.name}`]({pages}{entry.name}.md)",
            entry.summary,
            entry.field,
            f"[{entry.venue} {entry.year}]({ARXIV}/{entry.arxiv})",
            "<br>".join(f"`{claim.name}`: {_verdict(records.get(claim.name))}" for claim in claims_of(entry.name))
            or "a baseline",
        ]
        for entry in catalogue.CATALOGUE
    ]
    return markdown(Grid(["method", "what it does", "field", "paper", "claims, re-tested"], rows))


def verdicts_table(records: Mapping[str, Record], pages: str) -> str:
    """Every claim with its statement, its verdict and the effects behind it."""
    rows = [
        [
            f"[`{claim.name}`]({pages}{entry.name}.md#claims)",
            claim.statement,
            _verdict(records.get(claim.name)),
            "<br>".join(_effects(records.get(claim.name))) or "-",
        ]
        for entry in catalogue.CATALOGUE
        for claim in claims_of(entry.name)
    ]
    return markdown(Grid(["claim", "statement", "verdict", "effect of each criterion, 95 % interval"], rows))


def _verdict(record: Record | None) -> str:
    if record is None:
        return "not run yet"
    small = sum(map(_is_small, record["criteria"]))
    among = f", {small} of {len(record['criteria'])} effects below its margin" if small else ""
    return f"**{record['verdict']}**{among}"


def _is_small(each: Record) -> bool:
    """Whether an effect is there, but the whole interval lies below the smallest one that was declared to matter."""
    criterion = each["criterion"]
    return criterion["kind"] == "better" and each["verdict"] == "holds" and each["high"] < criterion["margin"]


def _effects(record: Record | None) -> list[str]:
    """
    Examples:
        >>> criterion = {"metric": "mIoU", "beyond": None, "versus": "no graph", "beyond_arms": ["few", "few, none"]}
        >>> _effects({"criteria": [{"criterion": criterion, "mean": 0.1, "low": -0.1, "high": 0.3}]})
        ['`mIoU` against no graph, beyond few against few, none: +0.1000 [-0.1000, +0.3000]']
    """
    return [_effect(each) for each in (record or {"criteria": []})["criteria"]]


def _effect(each: Record) -> str:
    criterion = each["criterion"]
    beyond = f" beyond `{criterion['beyond']}`" if criterion["beyond"] else ""
    # A record may be older than this attribute.
    arms = criterion.get("beyond_arms")
    against = criterion["versus"] + (f", beyond {arms[0]} against {arms[1]}" if arms else "")
    span = interval(each["low"], each["high"])
    return f"`{criterion['metric']}`{beyond} against {against}: {signed(each['mean'])} {span}"


def claim_section(claim: Claim, record: Record | None) -> str:
    """One claim on its method's page: verdict, effects, arms, tuning, settings."""
    head = f"### `{claim.name}`: {record['verdict'] if record else 'not run yet'}\n\n{claim.statement}"
    if record is None:
        return f"{head}\n\nThere is no record yet; `ommatid claim {claim.name}` makes one."
    readings = [f"{number}. {_reading(each)}" for number, each in enumerate(record["criteria"], start=1)]
    parts = [head, markdown(_effects_with_margin(record)), "In words:\n\n" + "\n".join(readings)]
    parts += [
        "Arms, mean ± standard deviation over seeds; costs are those of one training:",
        markdown(claim_grid(record)),
    ]
    if record["tuning_seeds"]:
        seeds = ", ".join(map(str, record["tuning_seeds"]))
        scored = f"scored{_by(record)} on the validation split (seed {seeds})."
        parts += [
            f"What was tried: the same grid for every arm, {scored}{_edges(record)}",
            markdown(tuning_grid(record)),
        ]
    parts.append(_settings(record))
    return "\n\n".join(parts)


def _by(record: Record) -> str:
    """What the tuning looked at; a record may be older than this entry."""
    metric = record.get("tuning_metric")
    return f" by `{metric}` ({record['tuning_direction']} is better)" if metric else ""


def _effects_with_margin(record: Record) -> Grid:
    grid = effect_grid(record)
    rows = [
        [*row[:-1], show(float(each["criterion"]["margin"])), row[-1]]
        for row, each in zip(grid.rows, record["criteria"], strict=True)
    ]
    return Grid([*grid.headers[:-1], "margin", grid.headers[-1]], rows)


def _reading(each: Record) -> str:
    """What the numbers of a criterion say, in words; chosen by the numbers themselves."""
    criterion, average, low, high = each["criterion"], each["mean"], each["low"], each["high"]
    margin = criterion["margin"]
    if low is None:
        return "There is no interval: it needs two seeds, and a number from each."
    if criterion["kind"] == "not worse":
        if each["verdict"] == "holds":
            better = "the interval lies above zero" if low > 0 else "that the method is better is not shown"
            return f"A loss of {margin:g} or more is excluded; {better}."
        return "The mean loss exceeds the margin." if average < -margin else "The interval reaches below the margin."
    if each["verdict"] == "holds":
        if _is_small(each):
            small = f"the whole interval lies below {margin:g}, the smallest effect that was declared to matter"
            return f"There is an effect, but a small one: {small}."
        return "The interval lies above zero."
    if each["verdict"] == "undecided":
        return f"The interval contains zero and effects of {margin:g} or more."
    why = ["the mean effect is not positive"] if average <= 0 else []
    why += [f"every effect of {margin:g} or more is excluded"] if high < margin else []
    return f"{' and '.join(why)}.".capitalize()


def tuning_grid(record: Record) -> Grid:
    """Arms down, tried settings across, the validation score of each, and the setting that was chosen."""
    first = next(iter(record["arms"].values()))["tried"]
    rows = [
        [name, *(_score(tried) for tried in arm["tried"]), _setting(arm["tuned"])]
        for name, arm in record["arms"].items()
    ]
    return Grid(["arm", *(_setting(_point(tried)) for tried in first), "chosen"], rows)


def _score(tried: Record) -> float | None:
    return list(tried.values())[-1]  # type: ignore[no-any-return]


def _point(tried: Record) -> dict[str, Any]:
    # The last entry is the score, the others are what was tried.
    return dict(list(tried.items())[:-1])


def _setting(point: Record) -> str:
    return ", ".join(f"{name}={value}" for name, value in point.items())


def _edges(record: Record) -> str:
    """A warning where the best value of a setting is the smallest or largest that was tried, and made a difference."""
    arms = {name: arm for name, arm in record["arms"].items() if len({_score(tried) for tried in arm["tried"]}) > 1}
    if not arms:
        return ""
    names = next(iter(arms.values()))["tuned"]
    at_edge = {
        name: [arm for arm in arms if arms[arm]["tuned"][name] in _extremes(arms[arm]["tried"], name)] for name in names
    }
    return "".join(
        f" The best `{name}` lies at the edge of the grid for: {', '.join(found)}."
        for name, found in at_edge.items()
        if found
    )


def _extremes(tried: Sequence[Record], name: str) -> tuple[Any, Any]:
    values = [point[name] for point in tried]
    return min(values), max(values)


def _settings(record: Record) -> str:
    common = {name: record[name] for name in ("model", "data", "trainer")}
    return (
        f"Seeds {', '.join(map(str, record['seeds']))}; {_where(record['environment'])}\n\n"
        '<details markdown="1"><summary>Settings common to all arms</summary>\n\n'
        f"```json\n{json.dumps(common, indent=1)}\n```\n\n</details>"
    )


def arguments_table(kind: type[Method]) -> str:
    """The constructor's arguments: meaning from the docstring, default, and value on embedded data."""
    meanings = argument_docs(inspect.getdoc(kind) or "")
    embedded = kind.embedded.get("model", {})
    rows = [
        row
        for name, parameter in constructor_arguments(kind).items()
        for row in _argument(name, meanings.get(name, ""), parameter.default, embedded.get(name, ""))
    ]
    return markdown(Grid(["argument", "meaning", "default", "on embedded data"], rows))


def _argument(name: str, meaning: str, default: Any, embedded: Any) -> Iterator[list[str]]:
    """The row of an argument; of a group of settings a row for each of them, too."""
    if not dataclasses.is_dataclass(default) or isinstance(default, Recipe):
        yield [f"`{name}`", meaning, _default(default), _code(embedded)]
        return
    yield [f"`{name}`", meaning, "", ""]
    meanings = argument_docs(inspect.getdoc(default) or "")
    for field in dataclasses.fields(default):
        said = re.sub("^as `", f"as `{name}.", meanings.get(field.name, ""))
        given = embedded.get(field.name, "") if embedded else ""
        yield from _argument(f"{name}.{field.name}", said, getattr(default, field.name), given)


def _default(value: Any) -> str:
    """A default; of a recipe only what sets it apart from `Recipe()`."""
    if isinstance(value, Recipe):
        return _code({name: item for name, item in to_plain(value).items() if item != to_plain(Recipe())[name]})
    return _code(to_plain(value))


def argument_docs(docstring: str) -> dict[str, str]:
    """Argument -> meaning, from the Args or Attributes section of a docstring.

    Examples:
        >>> argument_docs("A thing.\\n\\nArgs:\\n    a, b: sizes\\n        in pixels.\\n    c: a name.\\n")
        {'a': 'sizes in pixels.', 'b': 'as `a`', 'c': 'a name.'}
    """
    section = re.split("(?:Args|Attributes):\n", f"{docstring}Args:\n")[1].split("\n\n")[0]
    docs: dict[str, str] = {}
    for names, meaning in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
        first, *others = names.split(", ")
        docs |= {first: " ".join(meaning.split()), **dict.fromkeys(others, f"as `{first}`")}
    return docs


def _code(value: Any) -> str:
    if value == "":
        return ""
    if isinstance(value, dict):
        return "<br>".join(f"`{name}: {json.dumps(item)}`" for name, item in value.items())
    return f"`{json.dumps(value)}`"


# -- other measurements ------------------------------------------------------------------------------------------------


def measured(path: Path, section: Callable[[Record], str], command: str) -> str:
    """What a section says of a record, or how to make the record."""
    if not path.is_file():
        return f"There is no record yet; `{command}` makes one."
    return section(json.loads(path.read_text(encoding="utf-8")))


def comparison_section(record: Record) -> str:
    """What `ommatid compare` found: one table for all samples, one for each part, and who took no part."""
    grids = comparison_grids(record)
    parts = [f"**{grid.title}**\n\n{markdown(grid)}" for grid in grids]
    parts += [f"Left out: `{name}` {reason}." for name, reason in record["left_out"].items()]
    return "\n\n".join([*parts, _where(record["environment"])])


def emotions_section(record: Record) -> str:
    """Average precision on published annotations, of the model and of what needs none."""
    metrics = ["mAP", "mAP@0.1", "mAP@0.3", "mAP@0.5", "clip_mAP"]
    rows = [
        [name, *(spread(method["metrics"][metric], 4) for metric in metrics), spread(method["seconds"], 0)]
        for name, method in record["methods"].items()
    ]
    for name, baseline in record["baselines"].items():
        rows.append([name, *(f"{baseline[metric]:.4f}" for metric in metrics), "-"])
    data = record["data"]
    clips = ", ".join(f"{count} {split}" for split, count in data["clips"].items())
    told = f"Lines as {data['text']}; clips: {clips}; moments: {data['instances']}; {len(record['seeds'])} seeds."
    return f"{markdown(Grid(['', *metrics, 'seconds'], rows))}\n\n{told} {_where(record['environment'])}"


def grafts_section(record: Record) -> str:
    """What a block adds to a backbone, parameters and multiply-adds of one image; a dash where it has no place."""
    blocks = list(next(iter(record["backbones"].values())))
    rows = [[f"`{name}`", *(_added(found[block]) for block in blocks)] for name, found in record["backbones"].items()]
    told = f"Images of {record['size']} pixels; torch {record['torch']}, timm {record['timm']}."
    return f"{markdown(Grid(['backbone', *(f'`{block}`' for block in blocks)], rows))}\n\n{told}"


def _added(found: Mapping[str, int] | str) -> str:
    """
    Examples:
        >>> _added({"parameters": 21761, "macs": 1500000}), _added({"parameters": -9}), _added("no such layer")
        ('+21,761<br>+1.50 M', '-9', '-')
    """
    if isinstance(found, str):
        return "-"
    cost = f"<br>{found['macs'] / 1e6:+.2f} M" if "macs" in found else ""
    return f"{found['parameters']:+,}{cost}"


def throughput_section(record: Record) -> str:
    """One update at full size: parameters, time, memory, and the operation that takes most of the time."""
    rows = []
    for name, method in record["methods"].items():
        for part, found in method["parts"].items():
            most = found["top_operations"][0]
            named = name if len(method["parts"]) == 1 else f"{name}, {part}"
            rows.append(
                [
                    named,
                    method["batch"],
                    method["parameters"],
                    f"{found['steps_per_second']:.3g}",
                    f"{found['peak_memory_mib']:,} MiB",
                    f"`{most['name']}` {most['share']:.0%}",
                ]
            )
    headers = ["method", "batch", "parameters", "updates a second", "peak memory", "most time in"]
    told = (
        f"{record['precision']}, {record['device']}, {record['threads']} threads, torch {record['torch']}; mean of "
        f"{record['steps']} updates. On a CPU, peak memory is that of the whole process."
    )
    return f"{markdown(Grid(headers, rows))}\n\n{told}"


def _where(environment: Mapping[str, Any]) -> str:
    versions = environment["packages"]
    where = ", ".join(environment["gpus"]) or f"{environment['platform']}, CPU, one thread a training"
    return f"ommatid {environment['ommatid']}, torch {versions['torch']}, lightning {versions['lightning']}; {where}."


def markdown(grid: Grid) -> str:
    """A grid as a Markdown table; numbers align right."""
    rule = ["---:" if grid.numeric(position) else "---" for position in range(len(grid.headers))]
    body: Iterable[Sequence[Any]] = [grid.headers, rule, *grid.rows]
    return "\n".join(f"| {' | '.join(_cells(row))} |" for row in body)


def _cells(row: Iterable[Any]) -> Iterator[str]:
    for value in row:
        yield show(value).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
