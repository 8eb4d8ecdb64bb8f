"""Settings on the command line: --model.x, --data.x, --trainer.x, --config FILE, and what `predict` is given."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ommatid import catalogue
from ommatid.errors import InputError, unknown

GROUPS = ("model", "data", "trainer")


def split_settings(words: Sequence[str], groups: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Options of the form `--group.name value`, nested by their dots, apart from everything else.

    Values are YAML, but for arguments that are text: a folder may be called 2024.

    Examples:
        >>> split_settings(["--model.recipe.lr", "1e-3", "--data.root=2024", "rest"], ["model", "data"])
        ({'model': {'recipe': {'lr': 0.001}}, 'data': {'root': '2024'}}, ['rest'])
    """
    settings: dict[str, dict[str, Any]] = {group: {} for group in groups}
    left: list[str] = []
    waiting = iter(words)
    for word in waiting:
        name, equals, value = word.removeprefix("--").partition("=")
        group, dot, path = name.partition(".")
        if not (word.startswith("--") and dot and group in settings):
            left.append(word)
            continue
        text = value if equals else _next_value(name, waiting)
        layer = settings[group]
        *parents, last = path.split(".")
        for depth, parent in enumerate(parents):
            layer = layer.setdefault(parent, {})
            if not isinstance(layer, dict):
                above = ".".join([group, *parents[: depth + 1]])
                raise InputError(f"--{name}: --{above} was given a value of its own, expected one or the other")
        layer[last] = text if path in _text_arguments(group) and text != "null" else _value(text)
    return settings, left


@cache
def _text_arguments(group: str) -> frozenset[str]:
    """Arguments that are text, or nothing, for every method, or its data, that has them."""
    from ommatid.api import method_class
    from ommatid.engine.settings import constructor_arguments

    kinds = [method_class(name) for name in catalogue.names()]
    of_groups: dict[str, list[type]] = {"model": [*kinds], "data": [kind.data_module for kind in kinds]}
    known = [parameter for target in of_groups.get(group, []) for parameter in constructor_arguments(target).values()]
    others = {parameter.name for parameter in known if parameter.annotation not in (str, str | None)}
    return frozenset(parameter.name for parameter in known) - others


def free_options(words: Sequence[str], known: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Options of any name but the known ones, as text, apart from everything else.

    Examples:
        >>> free_options(["--video", "a.mp4", "--top=3", "rest", "--out", "b.png"], ["--out"])
        ({'video': 'a.mp4', 'top': '3'}, ['rest', '--out', 'b.png'])
    """
    options: dict[str, str] = {}
    left: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if not word.startswith("--") or word.partition("=")[0] in known:
            left.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        options[name.replace("-", "_")] = value if equals else _next_value(name, waiting)
    return options, left


def _next_value(name: str, waiting: Any) -> str:
    value = next(waiting, None)
    if value is None or value.startswith("--"):
        raise InputError(f"--{name} needs a value")
    return value


def _value(text: str) -> Any:
    """A word of the command line as YAML, or as it stands where it is none."""
    import yaml

    from ommatid.engine.settings import read_yaml

    try:
        return read_yaml(text)
    except yaml.YAMLError:
        return text


def training_settings(arguments: Any) -> dict[str, Any]:
    """What `train` is to do: the config file's entries, those of the command line on top.

    Raises:
        InputError: no method is named, or the file holds the settings of another one.
    """
    from ommatid.engine.settings import merge

    config = {} if arguments.config is None else read_config(Path(arguments.config))
    if arguments.seed is not None and "seed" in config and (config.get("data") or {}).get("seed") == config["seed"]:
        # Not chosen for the data: it is the training's own, which this one does not have.
        del config["data"]["seed"]
    method = arguments.method or config.get("method")
    if method is None:
        raise InputError("ommatid train: name a method, or a run with --resume; 'ommatid list' shows the methods")
    if config.get("method", method) != method:
        raise InputError(f"--config {arguments.config}: found settings of {config['method']!r}, expected {method!r}")
    return {
        "method": catalogue.find(method).name,
        **{group: merge(config.get(group) or {}, getattr(arguments, group)) for group in GROUPS},
        "seed": config.get("seed", 0) if arguments.seed is None else arguments.seed,
        "compile": arguments.compile or config.get("compile", False),
    }


def read_config(path: Path) -> dict[str, Any]:
    """A settings file: the groups model, data and trainer, and what else the config.yaml of a run holds.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    import yaml

    from ommatid.engine.settings import CONFIG_ENTRIES, read_yaml

    try:
        config = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path}: cannot be read as YAML ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise InputError(
            f"--config {path}: found {type(config).__name__}, expected the groups {', '.join(CONFIG_ENTRIES)}"
        )
    for name, value in config.items():
        if name not in CONFIG_ENTRIES:
            raise unknown(f"entry of {path}", name, CONFIG_ENTRIES)
        kind, expected = CONFIG_ENTRIES[name]
        # A group whose entries are all commented out reads as nothing.
        if not isinstance(value, kind) and not (value is None and name in GROUPS):
            raise InputError(f"--config {path}: {name} is {value!r}, expected {expected}")
    return config


def settings_help(words: Sequence[str], groups: Sequence[str], inputs: bool) -> str | None:
    """What `--model.x` and `--data.x` can be for the named method, or what `predict` takes for the named checkpoint."""
    if inputs:
        return _inputs_help([word for word in words if _is_checkpoint(word)])
    if not groups:
        return None
    from ommatid import api

    for word in words:
        if word in catalogue.names():
            return _constructor_help(api.method_class(word), groups)
        if word in catalogue.FIELDS:
            alike, _ = api.of_one_contract(catalogue.names(word))
            shared = _constructor_help(api.method_class(alike[0]), [group for group in groups if group != "model"])
            return f"--model.x: an argument of any of {', '.join(alike)}\n{shared}"
        if _is_checkpoint(word):
            return _constructor_help(type(api.load(word)), groups)
    listed = ", ".join(f"--{group}.x" for group in groups)
    return f"{listed} set constructor arguments; name a method, a field or a run before --help to see them."


def _is_checkpoint(word: str) -> bool:
    return word.endswith(".safetensors") or (Path(word) / "config.yaml").is_file()


def _inputs_help(words: Sequence[str]) -> str:
    from ommatid import api

    if words:
        return f"what to predict on: {_inputs_of(type(api.load(words[0])))}"
    first = {entry.field: entry.name for entry in reversed(catalogue.CATALOGUE)}
    lines = [f"  {field:<12} {_inputs_of(api.method_class(name))}" for field, name in sorted(first.items())]
    return "\n".join(["what to predict on, by the field of the checkpoint's method:", *lines])


def _inputs_of(kind: Any) -> str:
    from ommatid.engine.settings import arguments_of

    return " ".join(_usage(name, parameter) for name, parameter in arguments_of(kind.predict).items())


def _usage(name: str, parameter: Any) -> str:
    option = f"--{name} {name.upper()}"
    return option if parameter.default is parameter.empty else f"[{option}]"


def _constructor_help(kind: Any, groups: Sequence[str]) -> str:
    from ommatid.engine.settings import constructor_arguments, is_plain, to_plain

    lines = []
    for group, target in {"model": kind, "data": kind.data_module}.items():
        if group not in groups:
            continue
        lines.append(f"--{group}.x (arguments of {target.__name__}):")
        for argument, parameter in constructor_arguments(target).items():
            default = parameter.default if is_plain(parameter.default) else to_plain(parameter.default)
            if isinstance(default, dict):
                lines += [f"  --{group}.{argument}.{key} (default: {value})" for key, value in default.items()]
            else:
                lines.append(f"  --{group}.{argument} (default: {default})")
    if "trainer" in groups:
        lines.append("--trainer.x: any argument of Lightning's Trainer (max_steps, max_epochs, accelerator, devices,")
        lines.append("  strategy, num_nodes, precision, accumulate_grad_batches, ...)")
    if kind.embedded:
        lines.append(f"on embedded data, without --data.root: {json.dumps(kind.embedded)}")
    return "\n".join(lines)
