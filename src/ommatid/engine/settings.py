"""From plain values to objects and back: constructor arguments are the configuration."""

import contextlib
import dataclasses
import inspect
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ommatid.errors import InputError, unknown

T = TypeVar("T")


def constructor_arguments(kind: type) -> dict[str, inspect.Parameter]:
    """Names and defaults of what the constructor of `kind` takes."""
    parameters = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    return {name: parameter for name, parameter in parameters.items() if name != "self"}


def build(kind: type[T], settings: Mapping[str, Any]) -> T:
    """An instance of `kind` from plain settings (numbers, strings, lists, dicts), checked against its signature.

    Objects (a module, a recipe) may stand among the settings; they are passed on as they are.

    Raises:
        InputError: an argument is unknown or missing, or its value is not of the annotated type.
    """
    return kind(**_checked(kind.__name__, kind, constructor_arguments(kind), settings))


def call(function: Callable[..., T], settings: Mapping[str, Any]) -> T:
    """The result of a function or bound method for plain settings, checked like those of `build`."""
    known = dict(inspect.signature(function).parameters)
    return function(**_checked(function.__name__, function, known, settings))


def _checked(
    label: str, function: Any, known: Mapping[str, inspect.Parameter], settings: Mapping[str, Any]
) -> dict[str, Any]:
    for name in settings:
        if name not in known:
            raise unknown(f"argument of {label}", name, known)
    for name, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and name not in settings:
            raise InputError(f"{label} needs the argument {name!r}, which was not given")
    plain = {name: value for name, value in settings.items() if is_plain(value)}
    objects = {name: value for name, value in settings.items() if name not in plain}
    return {**_parse(label, function, plain, set(objects)), **objects}


def _parse(label: str, function: Any, plain: Mapping[str, Any], skip: set[str | int]) -> dict[str, Any]:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    if inspect.isclass(function):
        parser.add_class_arguments(function, "it", skip=skip, instantiate=False)
    else:
        parser.add_function_arguments(function, "it", skip=skip)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            parsed = parser.instantiate(parser.parse_object({"it": dict(plain)}))
    except ArgumentError as error:
        raise InputError(f"{label}: {one_sentence(str(error))}") from error
    return {name: parsed["it"][name] for name in plain}


def one_sentence(message: str) -> str:
    """A parser's report of several lines as one sentence.

    Examples:
        >>> one_sentence("Parser key \"it.dim\":\n  Expected a <class 'int'>. Got value: x")
        "dim must be int, found 'x'"
    """
    text = re.sub(r"\s+", " ", message.replace("Parser key ", "")).strip()
    text = re.sub(r"Group '\w+' does not accept option '([^']+)'", r"unknown argument '\1'", text)
    return re.sub(
        r'"(?:it\.)?([\w.]+)": Expected an? (?:<class \'(\w+)\'>|([^ ]+.*?))\. Got value: (.*)',
        lambda found: f"{found[1]} must be {found[2] or found[3].replace('typing.', '')}, found {found[4]!r}",
        text,
    )


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
