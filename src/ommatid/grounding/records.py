"""One record of an annotation file: what it must be, what is mended, and how a fault is told.

Nothing here raises for what a file holds: whatever is wrong becomes a `Fault`, and the caller decides whether
the first one ends the reading or all of them are listed.
"""

import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ommatid.errors import InputError
from ommatid.grounding.task import Query


@dataclass(frozen=True)
class Fault:
    """What is wrong with one record of a file.

    Attributes:
        record: video and position in it, line, or empty where the whole file is concerned.
        mended: what `read_annotations` makes of it; empty where it raises.
    """

    file: str
    record: str
    found: str
    expected: str
    mended: str = ""

    def __str__(self) -> str:
        where = f"{self.file}: {self.record}" if self.record else self.file
        return f"{where}: found {self.found}, expected {self.expected}" + (f" ({self.mended})" if self.mended else "")


@dataclass(frozen=True)
class Rules:
    """What a format mends: `swap` spans, `overrun` seconds after the duration; `late` clips even a start there."""

    swap: bool = True
    overrun: float = math.inf
    late: bool = False
    drop_empty: bool = False


OFFICIAL = Rules()
CHARADES_TRAIN = Rules(late=True, drop_empty=True)
CHARADES_TEST = Rules(late=True)
OWN = Rules(swap=False, overrun=1.0)


@dataclass
class Record:
    """One record while it is being read; methods return None, and note a fault, where a value is unusable."""

    path: Path
    name: str
    faults: list[Fault] = field(default_factory=list)

    def fault(self, found: str, expected: str, mended: str = "") -> Any:
        """Note what is wrong; the None it returns may stand for the value."""
        self.faults.append(Fault(str(self.path), self.name, found, expected, mended))

    @property
    def broken(self) -> bool:
        return any(not fault.mended for fault in self.faults)

    def array(self, mapping: dict[str, Any], key: str) -> list[Any] | None:
        if key not in mapping:
            return self.fault(f"no key {key!r}", f"a list {key!r}")
        if not isinstance(mapping[key], list):
            return self.fault(f"{key} {show(mapping[key])}", "a list")
        return mapping[key]

    def text(self, value: Any, what: str) -> str | None:
        if not isinstance(value, str):
            return self.fault(f"{what} {show(value)}", "a text")
        if not value.strip():
            return self.fault(f"an empty {what}", "a text")
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            return self.fault(f"{what} {show(value)}", "text without halves of surrogate pairs")
        return value.strip()

    def number(self, value: Any, what: str) -> float | None:
        """A finite number that is not negative."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self.fault(f"{what} {show(value)}", "a number")
        if not abs(value) <= _LARGEST:
            return self.fault(f"{what} {show(value)}", "a finite number of usual size")
        if value < 0:
            return self.fault(f"{what} {show(value)}", "a number not below zero")
        return float(value)

    def duration(self, value: Any, what: str = "duration") -> float | None:
        seconds = self.number(value, what)
        if seconds is not None and not _SHORTEST <= seconds <= _LONGEST:
            return self.fault(f"{what} {show(value)}", f"{_SHORTEST} to {_LONGEST:.0f} seconds")
        return seconds

    def span(
        self, raw: tuple[Any, Any], duration: float, rules: Rules, unit: float = 1.0
    ) -> tuple[float, float] | None:
        """The span in seconds, mended as the format allows; `unit` is the seconds in one unit of the file's times."""
        first, last = self.number(raw[0], "start"), self.number(raw[1], "end")
        if first is None or last is None:
            return None
        start, end, shown = first * unit, last * unit, f"a span from {show(raw[0])} to {show(raw[1])}"
        if rules.drop_empty and min(end, duration) <= min(start, duration):
            return self.fault(shown, f"an end after the start, within {duration:g} s", "dropped from training")
        if end <= start:
            mended = "swapped" if end < start else "kept, matches nothing"
            self.fault(shown, "an end after the start", mended if rules.swap else "")
            start, end = end, start
        limit = f"at most the duration, {duration:g} s"
        if start > duration:
            self.fault(shown, limit, "clipped" if rules.late else "")
        elif end > duration:
            self.fault(shown, limit, "clipped" if end <= duration + rules.overrun else "")
        return min(start, duration), min(end, duration)

    def glance(self, value: Any, span: tuple[float, float], rules: Rules, unit: float = 1.0) -> float | None:
        moment = self.number(value, "glance")
        if moment is None:
            return None
        inside = min(max(moment * unit, span[0]), span[1])
        if not math.isclose(inside, moment * unit, rel_tol=1e-9):
            inner = f"a moment from {span[0]:g} to {span[1]:g} s"
            self.fault(f"glance {show(value)}", inner, "moved to the span" if rules.swap else "")
        return inside


# Beyond these, times overflow or vanish in float32.
_SHORTEST, _LONGEST, _LARGEST = 0.001, 1e7, 1e12


_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxstring, _brief.maxother, _brief.maxlong = 2, 60, 60, 40


def show(value: Any) -> str:
    """A value as the file has it, on one line, short and printable."""
    return _brief.repr(value).encode("utf-8", "backslashreplace").decode("utf-8")


def note_repeated(record: Record, query: Query, seen: set[tuple[Any, ...]]) -> None:
    """Note a query that the file already holds."""
    key = (query.vid, query.sentence, query.span)
    if key in seen:
        record.fault("the same query again", "every query once", "kept")
    seen.add(key)


def as_number(text: str) -> Any:
    """The number a field holds, or the text itself for the fault to show."""
    try:
        return float(text) if "_" not in text else text
    except ValueError:
        return text


# --- files ------------------------------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: found {_problem(error)}, expected an annotation file") from None


def _problem(error: OSError) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else f"an unreadable file ({error.strerror})"


def load_bytes(path: Path, expected: str, faults: list[Fault]) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        faults.append(Fault(str(path), "", _problem(error), expected))
        return None


def decode_text(data: bytes, path: Path, name: str, faults: list[Fault]) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        faults.append(Fault(str(path), name, f"byte 0x{data[error.start]:02x} at {error.start}", "UTF-8 text"))
        return None


def parse_json(text: str, path: Path, name: str, faults: list[Fault]) -> Any:
    """The JSON value; keys that occur twice are faults, because only the last would be read."""
    twice: list[str] = []
    try:
        value = json.loads(text, object_pairs_hook=partial(_object_of_pairs, twice))
    except (ValueError, RecursionError) as error:
        reason = "too deep nesting" if isinstance(error, RecursionError) else f"damaged JSON ({one_line(error)})"
        faults.append(Fault(str(path), name, reason, "complete JSON"))
        return None
    faults += [Fault(str(path), name, f"the key {show(key)} twice", "every key once") for key in twice]
    return value


def _object_of_pairs(twice: list[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return found


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:100]


def load_object(path: Path, expected: str, faults: list[Fault]) -> dict[str, Any]:
    """The top-level object of a JSON file, empty where there is none (which is a fault)."""
    data = load_bytes(path, expected, faults)
    text = None if data is None else decode_text(data, path, "", faults)
    if text is None:
        return {}
    before = len(faults)
    value = parse_json(text, path, "", faults)
    if isinstance(value, dict) and value:
        return value
    if len(faults) == before:
        found = "an empty object" if value == {} else f"a {type(value).__name__}"
        faults.append(Fault(str(path), "", found, expected))
    return {}


def text_lines(path: Path, expected: str) -> Iterator[tuple[int, str | Fault]]:
    """Numbered lines without their blanks, empty lines left out; a fault stands for a line that is no UTF-8."""
    faults: list[Fault] = []
    data = load_bytes(path, expected, faults)
    if data is not None and not data.removeprefix(b"\xef\xbb\xbf").strip():
        faults.append(Fault(str(path), "", "an empty file", expected))
    yield from ((0, fault) for fault in faults)
    for number, raw in enumerate((data or b"").split(b"\n"), start=1):
        line = decode_text(raw, path, f"line {number}", faults := [])
        if faults:
            yield number, faults[0]
        elif line and line.strip():
            yield number, line.strip()
