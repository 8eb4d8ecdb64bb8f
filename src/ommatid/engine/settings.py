"""From plain values to objects and back: constructor arguments are the configuration."""

import contextlib
import dataclasses
import inspect
import io
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ommatid.errors import InputError, unknown

T = TypeVar("T")

CONFIG_ENTRIES: dict[str, tuple[type, str]] = {
    "method": (str, "a name"),
    "model": (dict, "a group of settings"),
    "data": (dict, "a group of settings"),
    "trainer": (dict, "a group of settings"),
    "seed": (int, "a whole number"),
    "compile": (bool, "true or false"),
}
"""What a settings file holds, as of a run's config.yaml."""


def constructor_arguments(kind: type) -> dict[str, inspect.Parameter]:
    """Names and defaults of what the constructor of `kind` takes."""
    return arguments_of(kind.__init__)  # type: ignore[misc]


def arguments_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Names and defaults of what a function or method takes."""
    return {name: known for name, known in inspect.signature(function).parameters.items() if name != "self"}


def build(kind: type[T], settings: Mapping[str, Any]) -> T:
    """An instance of `kind` from plain settings (numbers, strings, lists, dicts), checked against its signature.

    Objects (a module, a recipe) may stand among the settings; they are passed on as they are.

    Raises:
        InputError: an argument is unknown or missing, or its value is not of the annotated type.
    """
    return kind(**checked(kind.__name__, kind, settings))


def call(function: Callable[..., T], settings: Mapping[str, Any]) -> T:
    """The result of a function or bound method for plain settings, checked like those of `build`."""
    return function(**checked(function.__name__, function, settings))


def checked(label: str, function: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the values that a class or function takes.

    Args:
        label: what the sentences of errors call the function.

    Raises:
        InputError: an argument is unknown or missing, or its value is not of the annotated type.
    """
    known = constructor_arguments(function) if inspect.isclass(function) else arguments_of(function)
    _check_names(label, {name: parameter.annotation for name, parameter in known.items()}, settings)
    for name, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and name not in settings:
            raise InputError(f"{label} needs the argument {name!r}, which was not given")
    plain = {name: value for name, value in settings.items() if is_plain(value)}
    objects = {name: value for name, value in settings.items() if name not in plain}
    return {**_parse(label, function, plain, {name for name in known if name not in plain}), **objects}


def _check_names(label: str, known: Mapping[str, Any], settings: Mapping[str, Any], prefix: str = "") -> None:
    """What the parser lets pass or says badly: unknown names, None where none is taken, no group for a dataclass."""
    for name, value in settings.items():
        if name not in known:
            raise unknown(f"argument of {label}{prefix and '.' + prefix[:-1]}", name, known)
        kinds = _alternatives(known[name])
        group = next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)
        if value is None and not {Any, type(None), inspect.Parameter.empty} & set(kinds):
            raise InputError(f"{label}: {prefix}{name} must be {_name(known[name])}, found None")
        if group is not None and isinstance(value, Mapping):
            _check_names(label, {f.name: f.type for f in dataclasses.fields(group)}, value, f"{prefix}{name}.")
        elif group is not None and kinds == (group,) and not isinstance(value, group):
            names = ", ".join(f.name for f in dataclasses.fields(group))
            raise InputError(f"{label}: {prefix}{name} is {value!r}, expected a group of settings ({names})")


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; any other annotation alone."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _parse(label: str, function: Any, plain: Mapping[str, Any], skip: set[str | int]) -> dict[str, Any]:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    if inspect.isclass(function):
        parser.add_class_arguments(function, "it", skip=skip, instantiate=False)
    else:
        # jsonargparse asks where to import a function from, which a bound method cannot tell.
        plain_function = function.__func__ if inspect.ismethod(function) else function
        parser.add_function_arguments(plain_function, "it", skip=skip | {"self"})
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            parsed = parser.instantiate(parser.parse_object({"it": dict(plain)}))
    except ArgumentError as error:
        raise InputError(f"{label}: {one_sentence(str(error))}") from error
    return {name: parsed["it"][name] for name in plain}


def one_sentence(message: str) -> str:
    r"""A parser's report of several lines as one sentence.

    Examples:
        >>> one_sentence("Parser key \"it.dim\":\n  Expected a <class 'int'>. Got value: x")
        "dim must be int, found 'x'"
    """
    text = re.sub(r"\s+", " ", message.replace("Parser key ", "")).strip()
    text = re.sub(r"Group '\w+' does not accept option '([^']+)'", r"unknown argument '\1'", text)
    text = re.sub(
        r'"(?:it\.)?([\w.]+)": Does not validate .* Subtypes: \[(.*)\] Errors: .* Given value: (.*)',
        lambda found: f"{found[1]} must be one of {_kinds(found[2])}, found {found[3]!r}",
        text,
    )
    return re.sub(
        r'"(?:it\.)?([\w.]+)": Expected an? (.*?)\. Got value: (.*)',
        lambda found: f"{found[1]} must be {_kinds(found[2])}, found {found[3]!r}",
        text,
    )


def _kinds(text: str) -> str:
    """Types as a person writes them: without `<class ...>` and the modules they come from."""
    return re.sub(r"<class '([\w.]+)'>", r"\1", text).replace("NoneType", "None").replace("typing.", "")


def is_plain(value: Any) -> bool:
    """Whether a value consists of JSON kinds only."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def to_plain(value: Any) -> Any:
    """JSON kinds for what a constructor takes: dataclasses become dicts, paths strings, tuples lists.

    An object that JSON cannot hold (a module of the user's) becomes None: it must be given again on loading.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value if is_plain(value) else None


def json_text(content: Any) -> str:
    """JSON that any program reads: NaN and infinities, which JSON does not have, become null.

    Examples:
        >>> print(json_text([0.5, float("nan")]))
        [
          0.5,
          null
        ]
    """
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_yaml(text: str) -> Any:
    """A YAML document of JSON kinds only: 1e-3 is a number, 2020-01-01 and every name a string, whatever YAML 1.1 says.

    Examples:
        >>> read_yaml("{lr: 1e-3, day: 2020-01-01, 5: 3}")
        {'lr': 0.001, 'day': '2020-01-01', '5': 3}
    """
    return yaml.load(text, Loader=_PlainLoader)


class _PlainLoader(yaml.SafeLoader):
    """Without YAML's dates, with every notation of a float that Python knows, and with names that are text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:  # type: ignore[override]
        return {str(name): value for name, value in super().construct_mapping(node, deep).items()}


_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings on top of settings, nested dicts merged, the last one wins.

    Examples:
        >>> merge({"recipe": {"lr": 1, "clip": 2}, "dim": 3}, {"recipe": {"lr": 5}})
        {'recipe': {'lr': 5, 'clip': 2}, 'dim': 3}
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            below = merged.get(name)
            if dataclasses.is_dataclass(below) and isinstance(value, Mapping):
                below = to_plain(below)
            nested = isinstance(below, Mapping) and isinstance(value, Mapping)
            merged[name] = merge(below, value) if nested else value  # type: ignore[arg-type]
    return merged
