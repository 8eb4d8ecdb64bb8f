"""Old data sets are pickled; they are read without running what a pickle asks for."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ommatid.errors import InputError


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in old pickles; any other codec is none of theirs."""
    if encoding not in ("latin1", "latin-1"):
        raise InputError(f"found text encoded as {encoding!r}, expected latin1")
    return text.encode("latin1")


_RECONSTRUCT: Any = np.zeros(1).__reduce__()[0]
_FROM_BUFFER: Any = np.zeros(1).__reduce_ex__(5)[0]


class ArraysOnly(pickle.Unpickler):
    """Builds arrays and the containers that pickle knows itself; any other reference is refused, not imported."""

    ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
        # What rebuilds an array moved between versions of numpy, in archives as well as in the installed one.
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _FROM_BUFFER for core in ("core", "_core")},
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise InputError(f"found a reference to {module}.{name}, expected only arrays, lists and text")
        return self.ALLOWED[module, name]


def unpickled(path: Path, missing: str, expected: str, reader: type[ArraysOnly] = ArraysOnly) -> Any:
    """What a pickle of Python 2 or 3 holds: arrays and plain containers, nothing else.

    Args:
        missing: what to say where there is no such file.
        expected: what a file that cannot be read should have held.

    Raises:
        InputError: the file is missing or damaged, or refers to anything but arrays.
    """
    if not path.is_file():
        raise InputError(f"{path}: {missing}")
    try:
        with path.open("rb") as file:
            return reader(file, encoding="bytes").load()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path}: found a damaged pickle ({type(error).__name__}), expected {expected}") from error


def unpickled_dictionary(path: Path, missing: str, expected: str) -> dict[str, Any]:
    """A pickled dictionary, its keys as text; see `unpickled`."""
    record = unpickled(path, missing, expected)
    if not isinstance(record, dict):
        raise InputError(f"{path}: found a pickled {type(record).__name__}, expected a dictionary")
    return {as_text(key): value for key, value in record.items()}


def as_text(value: Any) -> str:
    """Text, which Python 2 pickled as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
