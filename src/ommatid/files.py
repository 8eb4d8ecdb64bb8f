"""Small files: read with one sentence for whatever is wrong with them, written whole or not at all."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ommatid.errors import InputError

_REQUIRED = object()


def read_text(path: Path, expected: str) -> str:
    """What a text file holds, in UTF-8 with or without a byte order mark.

    Raises:
        InputError: the file is missing, cannot be read or is no text; `expected` tells what was looked for.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: found no such file, expected {expected}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}, expected {expected}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found bytes that are no text (UTF-8), expected {expected}") from error


def numbered_lines(path: Path, expected: str = "a list of the data set") -> list[tuple[int, str]]:
    """Number and text of every line that is not blank.

    Raises:
        InputError: as of `read_text`.
    """
    lines = read_text(path, expected).splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def csv_rows(path: Path, expected: str) -> list[tuple[int, list[str]]]:
    """Number and cells, without the blanks around them, of every line of a table that is not blank.

    Raises:
        InputError: as of `read_text`, or quotes do not end where they should.
    """
    reader = csv.reader(io.StringIO(read_text(path, expected)), strict=True)
    try:
        lines = ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader)
        return [(number, cells) for number, cells in lines if any(cells)]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: found {error}, expected {expected}") from error


def read_json(path: Path, expected: str, missing: Any = _REQUIRED) -> Any:
    """What a JSON file holds; `missing`, if it is given, where there is no such file.

    Raises:
        InputError: the file is missing, cannot be read or is no JSON; `expected` tells what was looked for.
    """
    if missing is not _REQUIRED and not path.exists():
        return missing
    text = read_text(path, expected)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}: {error.msg}"
        raise InputError(f"{path}: not readable as JSON ({where}), expected {expected}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({type(error).__name__}), expected {expected}") from error


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then rename it: `path` is whole or absent, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        write(aside)
        aside.chmod(0o644)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
