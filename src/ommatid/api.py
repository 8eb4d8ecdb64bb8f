"""The verbs as plain functions; the command line only calls these.

Examples:
    >>> import ommatid
    >>> method = ommatid.create("mgsl-net", hidden_dim=32, feature_dim=48, word_dim=48, vocabulary_size=10)
    >>> method.parameter_count() > 0
    True
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ommatid import catalogue
from ommatid.engine.checkpoint import read_checkpoint
from ommatid.engine.data import DataModule, check_seed
from ommatid.engine.experiment import Setup, run_claim
from ommatid.engine.fit import evaluate as evaluate_method
from ommatid.engine.fit import fit, seed
from ommatid.engine.method import Method, Prediction
from ommatid.engine.recipe import ENDLESS
from ommatid.engine.runs import RunDir, environment
from ommatid.engine.settings import build, constructor_arguments, merge, to_plain
from ommatid.engine.sweep import Job, Outcome, locate, run_jobs, target_of
from ommatid.errors import CheckpointError, InputError, unknown


@dataclass(frozen=True)
class Trained:
    """A finished training: the run folder, the method with its last weights, its test metrics beside the baselines."""

    run: RunDir
    method: Method
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]


def method_class(name: str) -> type[Method]:
    """The class of a method by its catalogue name."""
    return locate(catalogue.find(name).target)


def create(name: str, **settings: Any) -> Method:
    """A method with fresh weights; `settings` are its constructor's arguments.

    Raises:
        InputError: the method or an argument is unknown, or a value is not of the expected type.
    """
    return build(method_class(name), settings)


def load(path: str | Path, **overrides: Any) -> Method:
    """A trained method from a checkpoint file or a run folder (its best checkpoint).

    Raises:
        CheckpointError: the file is damaged, of an unknown method, or of a newer version.
    """
    file = checkpoint_file(path)
    checkpoint = read_checkpoint(file)
    entry = catalogue.find_class(checkpoint.method)
    if entry is None:
        raise CheckpointError(
            f"{file}: a checkpoint of {checkpoint.method}, which this ommatid does not have; "
            f"expected one of {', '.join(known.class_name for known in catalogue.CATALOGUE)}"
        )
    return locate(entry.target).from_checkpoint(file, checkpoint, **overrides)


def checkpoint_file(path: str | Path) -> Path:
    """The checkpoint itself where a run folder is named: the best, or the last where no validation took place."""
    path = Path(path)
    if not path.is_dir():
        return path
    run = RunDir.open(path)
    for file in (run.best, run.last):
        if file.is_file():
            return file
    raise CheckpointError(f"{path}: no best.safetensors or last.safetensors inside; the run did not finish")


def train(
    name: str,
    *,
    model: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    seed: int = 0,
    runs: str | Path = "runs",
    progress: bool = False,
    compile: bool = False,
) -> Trained:
    """Train a method on its embedded data, or on your own with `data={"root": ..., ...}`; then evaluate it.

    Args:
        name: the method's catalogue name.
        model, data, trainer: arguments of the method, of its field's data module, of Lightning's Trainer.
        seed: of weights, draws and sample order; the same seed gives the same bits on the same CPU.
        runs: where `runs/<method>/<time>/` is made.
        progress: show a progress bar.
        compile: train through `torch.compile`.
    """
    kind = method_class(name)
    config = {**plan(kind, model or {}, data or {}, trainer or {}, seed), "compile": compile}
    method, module = assemble(kind, config)
    run = RunDir.create(runs, name)
    run.write_config({"method": name, **_in_full(config, method, module)})
    run.write_json("environment.json", environment())
    return _train(method, module, config, run, resume=False, progress=progress)


def resume(run: str | Path, *, trainer: Mapping[str, Any] | None = None, progress: bool = False) -> Trained:
    """Go on with a killed run from its last finished epoch; the result is that of an uninterrupted run, bit for bit."""
    folder = RunDir.open(run)
    config = folder.read_config()
    before, config["trainer"] = config["trainer"], merge(config["trainer"], trainer or {})
    method, module = assemble(method_class(config["method"]), config)
    _refuse_another_length(method, before, config["trainer"])
    return _train(method, module, config, folder, resume=True, progress=progress)


def _refuse_another_length(method: Method, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A schedule was laid out for the whole run: with another end it would restart, or run out."""
    bound = [phase.recipe.schedule for phase in method.phases().values() if phase.recipe.schedule not in ENDLESS]
    for name in ("max_epochs", "max_steps"):
        if bound and now.get(name) != before.get(name):
            raise InputError(
                f"trainer.{name} is {now[name]}, but the schedule {bound[0]!r} of the run to resume was laid out for "
                f"{before.get(name)}, expected the same"
            )


def _in_full(config: Mapping[str, Any], method: Method, module: DataModule) -> dict[str, Any]:
    """A plan with every default written out, apart from what the data decide and a seed that says nothing new."""
    decided = type(method).arguments_from(module)
    model = {name: value for name, value in method.settings().items() if name not in decided}
    defaults = {name: to_plain(known.default) for name, known in constructor_arguments(type(module)).items()}
    data = merge(defaults, _seeded_data(config))
    if data["seed"] == config["seed"]:
        # A training from this file with another seed draws its data anew, too.
        del data["seed"]
    return {**config, "model": merge(model, config["model"]), "data": data}


def _train(
    method: Method, module: DataModule, config: Mapping[str, Any], run: RunDir, resume: bool, progress: bool
) -> Trained:
    trainer = config["trainer"]
    fit(method, module, run, trainer, resume=resume, progress=progress, compile=config["compile"])
    metrics = evaluate_method(method, module, "test", evaluation_options(trainer))
    baselines = module.baselines("test")
    run.write_json("result.json", {"test": metrics, "baselines": baselines, "data": module.describe()})
    return Trained(run, method, metrics, baselines)


def plan(
    kind: type[Method],
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    trainer: Mapping[str, Any],
    seed: int = 0,
) -> dict[str, Any]:
    """The settings of a training: on embedded data, the method's own small settings lie below the user's."""
    below = {} if _own_data(data) else kind.embedded
    return {
        "model": merge(below.get("model", {}), model),
        "data": merge(below.get("data", {}), data),
        "trainer": merge(below.get("trainer", {}), trainer),
        "seed": seed,
    }


def _own_data(data: Mapping[str, Any]) -> bool:
    """Whether settings name data of the user's own; an unset variable of the shell must not mean embedded ones.

    Raises:
        InputError: the folder is an empty text.
    """
    if data.get("root") == "":
        raise InputError("data.root is an empty text, expected a folder of data")
    return bool(data.get("root"))


def _seeded_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """The data's settings of a plan or a run; their seed is that of the training unless they have one of their own."""
    return {"seed": config["seed"], **config["data"]}


def assemble(kind: type[Method], config: Mapping[str, Any]) -> tuple[Method, DataModule]:
    """Seed, data module and method of a plan."""
    check_seed(config["seed"])
    seed(config["seed"])
    module = build(kind.data_module, _seeded_data(config))
    return build(kind, merge(kind.arguments_from(module), config["model"])), module


def evaluation_options(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """What of the trainer's arguments also concerns an evaluation."""
    kept = ("accelerator", "devices", "num_nodes", "strategy", "precision", "limit_test_batches")
    return {name: trainer[name] for name in kept if name in trainer}


def evaluate(
    checkpoint: str | Path,
    *,
    data: Mapping[str, Any] | None = None,
    split: str = "test",
    trainer: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Metrics of a checkpoint and of the field's trivial baselines on one split.

    The data are those of the checkpoint's run unless `data` names others; those, too, are divided as the run's were.
    """
    method = load(checkpoint)
    module = build(type(method).data_module, data_settings(checkpoint, type(method), data or {}))
    metrics = evaluate_method(method, module, split, trainer)
    return {"model": metrics, **module.baselines(split)}


def data_settings(checkpoint: str | Path, kind: type[Method], data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of the checkpoint's run, with `data` on top.

    Where `data` names another root, only what divides samples into splits is taken from the run: the folder may hold
    what was trained on.
    """
    folder = checkpoint_file(checkpoint).parent
    if not (folder / "config.yaml").is_file():
        return merge({} if _own_data(data) else kind.embedded.get("data", {}), data)
    trained_on = _seeded_data(RunDir(folder).read_config())
    if _own_data(data) and not _same_folder(data["root"], trained_on.get("root")):
        trained_on = {name: trained_on[name] for name in kind.data_module.dividing if name in trained_on}
    return merge(trained_on, data)


def _same_folder(one: str | Path, other: str | Path | None) -> bool:
    return other is not None and Path(one).resolve() == Path(other).resolve()


def predict(checkpoint: str | Path, *, out: str | Path | None = None, **inputs: Any) -> Prediction:
    """The prediction of a checkpoint for your own input; drawn to `out` where given.

    `inputs` are the arguments of the field's `predict` (`video` and `sentence` in grounding, `image` in transfer).
    """
    from ommatid.engine.settings import call

    method = load(checkpoint)
    prediction = call(method.predict, inputs)
    if out is not None:
        prediction.draw(Path(out))
    return prediction


def compare(
    what: str | Sequence[str],
    *,
    data: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    seeds: int = 1,
    processes: int = 1,
    cluster: str | None = None,
    folder: str | Path = "runs/compare",
    shown: int = 6,
    on_done: Any = None,
) -> dict[str, Any]:
    """Train the methods of a field (or the named ones) on the same data, budget and seeds; one record with all numbers.

    Of a field those methods take part that the data can teach; `left_out` says why others do not.

    Args:
        data, trainer: of all methods alike; on embedded data they lie above what the field compares its methods on.
        model: of every method that has such an argument.
        shown: for how many test samples predictions are kept and drawn.
        on_done: told of every finished training: name of the method, job, outcome, and whether it was kept from before;
            None where what was kept had to be measured anew.

    Returns:
        What `folder/comparison.json` holds: `data`, `methods` (name -> metrics and costs, one value a seed),
        `baselines` (name -> metrics), `left_out` (name -> reason), `examples` (name -> predictions of the first seed),
        `pictures` (files in `folder`), `plans` (name -> all settings) and `environment`.
    """
    if "seed" in (data or {}):
        raise InputError("compare: found data.seed, but every training draws its data by its own seed, expected seeds")
    left_out: dict[str, str] = {}
    chosen = _chosen_methods(what)
    if isinstance(what, str) and what in catalogue.FIELDS:
        chosen, left_out = of_one_contract(chosen)
    for setting in model or {}:
        if not any(setting in constructor_arguments(method_class(name)) for name in chosen):
            raise InputError(f"compare: none of the methods {', '.join(chosen)} has an argument {setting!r}")
    plans = {name: _common_plan(name, model or {}, data or {}, trainer or {}) for name in chosen}
    module = build(method_class(chosen[0]).data_module, plans[chosen[0]]["data"])
    reasons = {name: method_class(name).refuses(module) for name in chosen}
    left_out |= {name: reason for name, reason in reasons.items() if reason}
    plans = {name: config for name, config in plans.items() if name not in left_out}
    if not plans:
        raise InputError(f"compare: {chosen[0]} {reasons[chosen[0]]}")
    jobs = {
        name: [_shown_job(name, config, number, shown if number == 0 else 0) for number in range(seeds)]
        for name, config in plans.items()
    }
    names = {job.key: name for name, group in jobs.items() for job in group}
    told = None if on_done is None else (lambda job, *rest: on_done(names[job.key], job, *rest))
    # Before the first training, not after it: a place that cannot be written to costs nobody an hour.
    Path(folder).mkdir(parents=True, exist_ok=True)
    outcomes = run_jobs([job for group in jobs.values() for job in group], Path(folder), processes, cluster, told)
    methods = {name: [outcomes[job.key] for job in group] for name, group in jobs.items()}
    examples = {name: group[0].examples for name, group in methods.items()}
    pictures = method_class(next(iter(plans))).draw_examples(examples, Path(folder) / "examples")
    record = {
        "data": module.describe(),
        "seeds": list(range(seeds)),
        "methods": {name: _costs(group) for name, group in methods.items()},
        "baselines": module.baselines("test"),
        "left_out": left_out,
        "examples": examples,
        "pictures": [path.relative_to(folder).as_posix() for path in pictures],
        "plans": to_plain(plans),
        "environment": environment(),
    }
    RunDir(Path(folder)).write_json("comparison.json", record)
    return record


def _chosen_methods(what: str | Sequence[str]) -> list[str]:
    if isinstance(what, str):
        if what not in catalogue.FIELDS and what not in catalogue.names():
            raise unknown("field or method", what, [*catalogue.FIELDS, *catalogue.names()])
        return catalogue.names(what) if what in catalogue.FIELDS else [what]
    fields = {catalogue.find(name).field for name in what}
    contracts = {method_class(name).data_module for name in what}
    if len(fields) != 1 or len(contracts) != 1:
        raise InputError(
            f"compare: methods of the fields {sorted(fields)} have no common protocol, expected methods that read the "
            "same kind of data"
        )
    return list(what)


def of_one_contract(chosen: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The methods of a field that read the kind of data that most of them read, and the others."""
    contracts = {name: method_class(name).data_module for name in chosen}
    usual = max(contracts.values(), key=list(contracts.values()).count)
    others = {
        name: f"reads other data ({contract.__name__}); compare it by its name"
        for name, contract in contracts.items()
        if contract is not usual
    }
    return [name for name in chosen if name not in others], others


def _common_plan(
    name: str, model: Mapping[str, Any], data: Mapping[str, Any], trainer: Mapping[str, Any]
) -> dict[str, Any]:
    """A method's plan with what all methods share: the data and how many updates."""
    kind = method_class(name)
    common = {} if _own_data(data) else kind.data_module.compared
    known = {setting: value for setting, value in model.items() if setting in constructor_arguments(kind)}
    return plan(kind, known, merge(common.get("data", {}), data), merge(common.get("trainer", {}), trainer))


def _shown_job(name: str, config: Mapping[str, Any], seed: int, shown: int) -> Job:
    model, data, trainer = (to_plain(config[group]) for group in ("model", "data", "trainer"))
    return Job(target_of(method_class(name)), model, data, trainer, seed, shown=shown)


def _costs(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    # A training that diverged may lack some.
    names = {name: None for outcome in outcomes for name in outcome.metrics}
    metrics = {name: [outcome.metrics.get(name, math.nan) for outcome in outcomes] for name in names}
    return {
        "metrics": metrics,
        "seconds": [outcome.seconds for outcome in outcomes],
        "peak_memory": [outcome.peak_memory for outcome in outcomes],
        "parameters": outcomes[0].parameters,
    }


def claim(
    name: str,
    *,
    seeds: int = 5,
    processes: int = 1,
    cluster: str | None = None,
    folder: str | Path = "runs/claims",
    results: str | Path | None = None,
    tune: bool = True,
    on_done: Any = None,
) -> list[dict[str, Any]]:
    """Re-test a method's claims (or the one named); the records, also written to `results` where given.

    Args:
        name: a method ("cmi": all its claims) or one claim ("cmi-student").
        processes: local processes side by side; `cluster`: address of a Ray cluster instead.
        folder: where every finished training is kept, so that an interrupted run goes on.
        tune: choose the tuned settings of every arm on the validation split first.
    """
    records = []
    claims = _chosen_claims(name)
    for place in (folder, results):
        if place is not None:
            Path(place).mkdir(parents=True, exist_ok=True)
    for kind, chosen in claims:
        # Claims of one method share a folder: where two have an arm in common, it is trained once.
        setup = Setup(tuple(range(seeds)), processes, cluster, Path(folder) / catalogue_name(kind), tune, on_done)
        record = run_claim(kind, chosen, setup)
        records.append(record)
        if results is not None:
            RunDir(Path(results)).write_json(f"{chosen.name}.json", record)
    return records


def _chosen_claims(name: str) -> list[tuple[type[Method], Any]]:
    every = {entry.name: method_class(entry.name) for entry in catalogue.CATALOGUE}
    if name in every:
        if not every[name].claims:
            field = catalogue.find(name).field
            raise InputError(f"{name} makes no claim of its own: it is a baseline, see 'ommatid compare {field}'")
        return [(every[name], item) for item in every[name].claims]
    by_name = {item.name: (kind, item) for kind in every.values() for item in kind.claims}
    if name not in by_name:
        raise unknown("method or claim", name, [*every, *by_name])
    return [by_name[name]]


def catalogue_name(kind: type[Method]) -> str:
    """The catalogue name of a method's class."""
    entry = catalogue.find_class(kind.__name__)
    return entry.name if entry else kind.__name__


def export(checkpoint: str | Path, format: str, out: str | Path | None = None) -> tuple[Path, float]:
    """Export a checkpoint as a graph and compare it with the method; the file and the largest absolute difference."""
    from ommatid.engine.export import export_method

    method = load(checkpoint)
    file = checkpoint_file(checkpoint)
    suffix = {"torch": ".pt2", "onnx": ".onnx"}
    if format not in suffix:
        raise unknown("export format", format, suffix)
    path = Path(out) if out else file.with_suffix(suffix[format])
    return path, export_method(method, path, format)
