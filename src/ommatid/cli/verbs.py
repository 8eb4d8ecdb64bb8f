"""What each command takes and does; every one calls a function of the library and prints what it gives."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ommatid import catalogue
from ommatid.cli.settings import training_settings
from ommatid.errors import InputError, unknown

Arguments = argparse.Namespace


@dataclass(frozen=True)
class Verb:
    """A command: one line of help, what it takes, what it does.

    Attributes:
        groups: names of the settings groups (`--model.x` ...) that are passed on to constructors.
        inputs: whether options of any other name are collected as `arguments.inputs`.
    """

    summary: str
    declare: Callable[[argparse.ArgumentParser], object]
    run: Callable[[Arguments], int | None]
    groups: tuple[str, ...] = ()
    inputs: bool = False


def _declare_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--field", help="only methods of this field")
    _json(parser)


def _list(arguments: Arguments) -> None:
    if arguments.field and arguments.field not in catalogue.FIELDS:
        raise unknown("field", arguments.field, catalogue.FIELDS)
    entries = [entry for entry in catalogue.CATALOGUE if arguments.field in (None, entry.field)]
    if arguments.json:
        _print_json([_entry_json(entry) for entry in entries])
        return
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        print(f"{entry.name:<{width}}  {entry.field:<12} {entry.paper:<17} {entry.summary}")  # noqa: T201


def _declare_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", help="name in the catalogue")
    _json(parser)


def _show(arguments: Arguments) -> None:
    entry = catalogue.find(arguments.method)
    if arguments.json:
        _print_json(_entry_json(entry))
        return
    lines = [
        f"{entry.name}: {entry.title}",
        f"{entry.authors} {entry.venue} {entry.year}, {entry.paper}",
        "",
        entry.summary,
        f"field: {entry.field} ({catalogue.FIELDS[entry.field]})",
        f"embedded data: {entry.embedded}",
        f"class: {entry.target}",
        "",
        entry.bibtex(),
        "",
        f"train it:   ommatid train {entry.name}",
        f"compare it: ommatid compare {entry.field}" if entry.baseline else f"re-test it: ommatid claim {entry.name}",
    ]
    print("\n".join(lines))  # noqa: T201


def _entry_json(entry: catalogue.Entry) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(entry), "bibtex": entry.bibtex()}


def _declare_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", nargs="?", help="name in the catalogue")
    parser.add_argument("--config", help="YAML file with the groups model, data, trainer, such as a run's config.yaml")
    parser.add_argument("--seed", type=int, help="of weights, draws and sample order (default: 0)")
    parser.add_argument("--runs", help="where the run folder is made (default: runs)")
    parser.add_argument("--resume", metavar="RUN", help="go on with a killed run")
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")
    _json(parser)


def _train(arguments: Arguments) -> None:
    progress = _progress(arguments)
    if arguments.resume is None:
        settings = training_settings(arguments)
        from ommatid import api

        runs = "runs" if arguments.runs is None else arguments.runs
        trained = api.train(settings.pop("method"), **settings, runs=runs, progress=progress)
    else:
        _refuse_beside_resume(arguments)
        from ommatid import api

        trained = api.resume(arguments.resume, trainer=arguments.trainer, progress=progress)
    columns = {"model": trained.metrics, **trained.baselines}
    if arguments.json:
        _print_json({"run": str(trained.run.path), "metrics": columns})
        return
    _print_metrics(columns, f"test metrics of {trained.run.path}")


def _refuse_beside_resume(arguments: Arguments) -> None:
    """A run goes on with its own settings; others would be forgotten without a word."""
    options = {"--config": arguments.config, "--seed": arguments.seed, "--runs": arguments.runs}
    given = [name for name, value in options.items() if value is not None]
    given += [f"--{group}.{name}" for group in ("model", "data") for name in getattr(arguments, group)]
    given += ["--compile"] * arguments.compile + [arguments.method] * (arguments.method is not None)
    if given:
        raise InputError(f"train --resume: found {', '.join(given)}, expected no settings but --trainer.x")


def _declare_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a run folder or a .safetensors checkpoint")
    parser.add_argument("--split", default="test", help="split to evaluate on (default: test)")
    _json(parser)


def _evaluate(arguments: Arguments) -> None:
    from ommatid import api

    columns = api.evaluate(arguments.checkpoint, data=arguments.data, split=arguments.split, trainer=arguments.trainer)
    if arguments.json:
        _print_json(columns)
        return
    _print_metrics(columns, f"{arguments.split} metrics of {arguments.checkpoint}")


def _declare_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a run folder or a .safetensors checkpoint")
    parser.add_argument("--out", help="picture of the result (.png)")
    _json(parser)


def _predict(arguments: Arguments) -> None:
    from ommatid import api

    prediction = api.predict(arguments.checkpoint, out=arguments.out, **arguments.inputs)
    if arguments.json:
        _print_json(prediction.to_json())
        return
    _print_prediction(prediction.to_json())
    if arguments.out:
        print(f"drawn to {arguments.out}")  # noqa: T201


def _print_prediction(content: Mapping[str, Any]) -> None:
    """Records and groups of values as tables, everything else in a line of its own."""
    from ommatid.report.tables import show, table

    for name, value in content.items():
        rows = _records(value)
        if rows:
            _print_table(table(list(rows[0]), [list(row.values()) for row in rows], name))
        elif isinstance(value, list | dict):
            print(f"{name}: {', '.join(map(show, value)) or 'nothing found'}")  # noqa: T201
        else:
            print(f"{name}: {show(value)}")  # noqa: T201


def _records(value: Any) -> list[dict[str, Any]]:
    """The rows of a table: of a list of records, or of a group whose values are numbers or records."""
    if isinstance(value, dict):
        values = {name: item if isinstance(item, dict) else {"value": item} for name, item in value.items()}
        return [{"name": name, **item} for name, item in values.items()]
    return value if isinstance(value, list) and all(isinstance(row, dict) for row in value) else []


def _declare_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", help="a field, or one method of it")
    parser.add_argument("--methods", nargs="+", help="only these methods")
    parser.add_argument("--data", dest="root", metavar="DIR", help="your own data, as --data.root (default: embedded)")
    parser.add_argument("--seeds", type=_positive, default=1, help="trainings a method (default: 1)")
    _sweep(parser)
    parser.add_argument("--out", default="runs/compare", help="where results are kept (default: runs/compare)")
    _json(parser)


def _compare(arguments: Arguments) -> None:
    from ommatid import api

    record = api.compare(
        _compared(arguments),
        data=arguments.data if arguments.root is None else {**arguments.data, "root": arguments.root},
        model=arguments.model,
        trainer=arguments.trainer,
        seeds=arguments.seeds,
        processes=arguments.jobs,
        cluster=arguments.cluster,
        folder=arguments.out,
        on_done=None if arguments.json else _trained_line,
    )
    if arguments.json:
        _print_json(record)
        return
    from ommatid.report.page import write_comparison
    from ommatid.report.tables import comparison_tables

    for each in comparison_tables(record):
        _print_table(each)
    for name, reason in record["left_out"].items():
        print(f"left out: {name} {reason}")  # noqa: T201
    page = write_comparison(Path(arguments.out), record)
    print(f"page: {page}")  # noqa: T201


def _compared(arguments: Arguments) -> str | list[str]:
    """A field, a method, or the chosen methods of a field."""
    if arguments.methods is None:
        return arguments.what  # type: ignore[no-any-return]
    if arguments.what not in catalogue.FIELDS:
        raise unknown("field", arguments.what, catalogue.FIELDS)
    for name in arguments.methods:
        if (field := catalogue.find(name).field) != arguments.what:
            raise InputError(f"compare --methods: {name} is a method of {field}, expected methods of {arguments.what}")
    return list(arguments.methods)


def _declare_claim(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("claim", help="a method (all its claims) or one claim")
    parser.add_argument("--seeds", type=_positive, default=5, help="trainings an arm (default: 5)")
    _sweep(parser)
    parser.add_argument("--out", default="results/claims", help="where records go (default: results/claims)")
    parser.add_argument(
        "--runs", default="runs/claims", help="where finished trainings are kept (default: runs/claims)"
    )
    parser.add_argument("--no-tune", action="store_true", help="skip the tuning that every arm gets alike")
    _json(parser)


def _claim(arguments: Arguments) -> None:
    from ommatid import api

    shown = None if arguments.json else _job_line
    records = api.claim(
        arguments.claim,
        seeds=arguments.seeds,
        processes=arguments.jobs,
        cluster=arguments.cluster,
        folder=arguments.runs,
        results=arguments.out,
        tune=not arguments.no_tune,
        on_done=shown,
    )
    if arguments.json:
        _print_json(records)
        return
    from ommatid.report.tables import claim_table, effect_table

    for record in records:
        print(record["statement"])  # noqa: T201
        _print_table(claim_table(record))
        _print_table(effect_table(record))


def _trained_line(method: str, job: Any, outcome: Any, kept: bool | None) -> None:
    print(f"{method}: seed {job.seed}: {_how(outcome, kept)}", file=sys.stderr)  # noqa: T201


def _job_line(stage: str, job: Any, outcome: Any, kept: bool | None) -> None:
    settings = json.dumps(job.model, sort_keys=True)[:100]
    print(f"{stage}: seed {job.seed}, {settings}: {_how(outcome, kept)}", file=sys.stderr)  # noqa: T201


def _how(outcome: Any, kept: bool | None) -> str:
    if kept:
        return "kept from before"
    return f"{outcome.seconds:.1f} s" + (", anew, as data or code have changed" if kept is None else "")


def _declare_data(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="make|check|features|subtitles")
    make = verbs.add_parser("make", help="write an embedded set to disk in an official format")
    make.add_argument("name", help="name of the embedded set, such as world-grounding or digits")
    make.add_argument("--out", required=True, help="folder to write")
    make.add_argument("--format", help="official format (default: the first the set can write)")
    make.add_argument("--view", help="view of a world")
    make.add_argument("--seed", type=int, help="of a world (default: 0)")
    check = verbs.add_parser("check", help="read your data and report every faulty record")
    check.add_argument("root", help="folder of the data")
    check.add_argument("--format", default="auto", help="format to read it as (default: auto)")
    features = verbs.add_parser("features", help="take clip features from your videos")
    features.add_argument("videos", help="folder of video files, or one file")
    features.add_argument("--out", required=True, help="folder for one .npy a video")
    features.add_argument("--backbone", default="resnet50", help="timm model (default: resnet50)")
    features.add_argument("--weights", help="weights file of the backbone (default: timm's pretrained weights)")
    features.add_argument("--fps", type=float, default=2.0, help="clips a second (default: 2)")
    subtitles = verbs.add_parser("subtitles", help="take sentence features from the subtitles of emotion data")
    subtitles.add_argument("root", help="folder of the annotations (train.json, test.json)")
    subtitles.add_argument("--out", required=True, help="folder for one .npy a clip")
    subtitles.add_argument("--encoder", default="minilm", help="minilm or hashed (default: minilm)")
    for each in (make, check, features, subtitles):
        _json(each)


def _data(arguments: Arguments) -> int:
    from ommatid import datasets

    actions = {
        "make": datasets.make,
        "check": datasets.check,
        "features": datasets.features,
        "subtitles": datasets.subtitles,
    }
    return actions[arguments.action](arguments)


def _declare_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a run folder or a .safetensors checkpoint")
    parser.add_argument("--format", default="torch", help="torch (a .pt2 program) or onnx (default: torch)")
    parser.add_argument("--out", help="file to write (default: beside the checkpoint)")
    _json(parser)


def _export(arguments: Arguments) -> None:
    from ommatid import api

    path, difference = api.export(arguments.checkpoint, arguments.format, arguments.out)
    if arguments.json:
        _print_json({"path": str(path), "largest_difference": difference})
        return
    print(f"{path}: same numbers as the checkpoint, largest difference {difference:.2e}")  # noqa: T201


def _declare_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run folder, or the folder of claim results")
    parser.add_argument("--out", help="page to write (default: report.html in the folder)")


def _report(arguments: Arguments) -> None:
    from ommatid.report.page import write_report

    print(write_report(Path(arguments.run), Path(arguments.out) if arguments.out else None))  # noqa: T201


def _declare_doctor(parser: argparse.ArgumentParser) -> None:
    _json(parser)


def _doctor(arguments: Arguments) -> int:
    from ommatid.doctor import examine

    findings = examine()
    if arguments.json:
        _print_json([finding.to_json() for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name}: {finding.text}")  # noqa: T201
    return 0 if all(finding.ok for finding in findings) else 1


def _declare_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo", help="folder of the demo (default: demo)")


def _demo(arguments: Arguments) -> None:
    from ommatid.demo import run_demo

    run_demo(Path(arguments.out))


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for a program to read")


def _sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=_positive, default=1, help="local processes side by side (default: 1)")
    parser.add_argument("--cluster", help="address of a Ray cluster ('auto' or ray://host:port)")


def _positive(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text!r}")
    return number


def _progress(arguments: Arguments) -> bool:
    return sys.stderr.isatty() and not arguments.json


def _print_json(content: Any) -> None:
    from ommatid.engine.settings import json_text

    print(json_text(content))  # noqa: T201


def _print_metrics(columns: Mapping[str, Mapping[str, float]], title: str) -> None:
    from ommatid.report.tables import metric_table

    _print_table(metric_table(columns, title))


def _print_table(drawn: Any) -> None:
    """A table to the terminal; rich would read `[v2]` in a path or a name as markup, and leave it out."""
    from rich.markup import escape

    from ommatid.report.tables import console

    drawn.title = drawn.title and escape(drawn.title)
    console().print(drawn, markup=False)


VERBS = {
    "list": Verb("the methods, one line each", _declare_list, _list),
    "show": Verb("one method: paper, data, how to cite it", _declare_show, _show),
    "train": Verb(
        "train a method on embedded data or on your own", _declare_train, _train, ("model", "data", "trainer")
    ),
    "evaluate": Verb(
        "metrics of a checkpoint beside trivial baselines", _declare_evaluate, _evaluate, ("data", "trainer")
    ),
    "predict": Verb("predict on your own input and draw the result", _declare_predict, _predict, inputs=True),
    "compare": Verb("methods of a field under one protocol", _declare_compare, _compare, ("model", "data", "trainer")),
    "claim": Verb("re-test a paper's central claim", _declare_claim, _claim),
    "data": Verb("write embedded sets, check your own, take features from videos", _declare_data, _data),
    "export": Verb("a checkpoint as a torch or ONNX program", _declare_export, _export),
    "report": Verb("a run or claim results as one HTML page", _declare_report, _report),
    "doctor": Verb("check the installation", _declare_doctor, _doctor),
    "demo": Verb("both worlds in three minutes: pictures and tables in demo/index.html", _declare_demo, _demo),
}
