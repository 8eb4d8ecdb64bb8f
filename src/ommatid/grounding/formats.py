"""Annotation files of temporal grounding, official and one's own, read into queries with times in seconds.

| format | files in the folder |
|---|---|
| `activitynet` | `train.json`, `val_1.json`, `val_2.json` (2D-TAN renames the last two `val.json` and `test.json`) |
| `charades` | `charades_sta_train.txt`, `charades_sta_test.txt`; durations in `Charades_v1_*.csv` or a json |
| `tacos` | `train.json`, `val.json`, `test.json`, times in frames |
| `cg` | `train.json`, `test_trivial.json`, `novel_composition.json`, `novel_word.json` |
| `unsupervised` | `videos.json` and `queries.txt` to train on, `test.json` with pairs |
| `jsonl` | one's own: `train.jsonl`, `val.jsonl`, `test.jsonl`, those that exist, or a single file |

Splits are named as the files, in ActivityNet Captions by the protocol. Where a format has no validation part, one is
cut from train by video. Glance labels are read wherever they stand: in the lines of Charades-STA
(`VID start end##glance##sentence`) and under the key `glance` of the json formats.

What is mended, because the official files need it, and what is not:

- a reversed span is swapped, and an end after the duration is clipped to it, in every official format;
- Charades-STA: a training query with an empty or reversed span is dropped, as everybody does; test queries never are;
- a glance label outside its span moves to the nearer end; repeated queries are kept, as the published counts keep them;
- `jsonl`: only an end up to one second after the duration is clipped (rounding); a reversed or empty span is an error;
- everything else is an error: missing keys, wrong types, NaN, negative times, a span that begins after the video has
  ended (Charades-STA clips it), empty sentences, repeated video ids, damaged files.
"""

import csv
import io
import json
import math
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from ommatid.data.text import tokenize
from ommatid.errors import InputError, unknown
from ommatid.grounding.task import Query

FORMATS = ("activitynet", "charades", "tacos", "cg", "unsupervised", "jsonl")
# Three incompatible test conventions of ActivityNet Captions: numbers of two of them do not belong in one table.
PROTOCOLS: dict[str, dict[str, tuple[str, ...]]] = {
    "2dtan": {"train": ("train",), "val": ("val_1",), "test": ("val_2",)},
    "vslnet": {"train": ("train",), "val": ("val_2",), "test": ("val_1",)},
    "lgi": {"train": ("train",), "test": ("val_1", "val_2")},
}
CG_FILES = ("train", "test_trivial", "novel_composition", "novel_word")
CHARADES_DURATIONS = ("Charades_duration.json", "durations.json", "charades.json")

Splits = dict[str, list[Query]]


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
class Summary:
    """What a set of queries looks like: counts, and means over videos (seconds of video) or queries (all others)."""

    videos: int
    queries: int
    video_seconds: float
    segment_seconds: float
    segment_share: float
    words: float


def read_annotations(
    root: str | Path, format: str | None = None, protocol: str = "2dtan", val_fraction: float = 0.1, seed: int = 0
) -> Splits:
    """The queries of every split.

    Args:
        root: the folder with the annotation files, or one `.jsonl` file.
        format: one of `FORMATS`; without it the files decide.
        protocol: the test convention of ActivityNet Captions, one of `PROTOCOLS`; other formats have only one.
        val_fraction: share of the training videos held out as `val` where the format has none; 0 leaves train whole.
        seed: chooses the held-out videos.

    Raises:
        InputError: names the first fault that cannot be mended (see the table above; `check_annotations` lists all).
    """
    root = Path(root)
    format = format or detect_format(root)
    _check_choice(format, protocol)
    return _READERS[format](root, protocol, val_fraction, seed)


def check_annotations(root: str | Path, format: str | None = None) -> Iterator[Fault]:
    """Every faulty record of every file, those included that `read_annotations` mends (`Fault.mended` says how).

    Examples:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> good = '{"video": "a", "sentence": "a dog barks", "start": 1, "end": 4, "duration": 9}'
        >>> _ = (root / "test.jsonl").write_text(good + "\\n" + good.replace("4", "0.5") + "\\n")
        >>> [f"{fault.record}: {fault.found}" for fault in check_annotations(root)]
        ['line 2: a span from 1 to 0.5']
    """
    root = Path(root)
    format = format or detect_format(root)
    _check_choice(format, "2dtan")
    return (item for part in _PARTS[format](root) for item in part.walk() if isinstance(item, Fault))


def detect_format(root: str | Path) -> str:
    """The format whose files `root` holds."""
    root = Path(root)
    if not root.exists():
        raise InputError(f"{root}: no such folder, expected annotation files")
    if root.is_file():
        if root.suffix == ".jsonl":
            return "jsonl"
        raise InputError(f"{root}: found a single file, expected a folder of annotation files or a .jsonl file")
    names = {path.name for path in root.iterdir()}
    for format, signs in (
        ("activitynet", {"val_1.json", "val_2.json"}),
        ("charades", {"charades_sta_train.txt", "charades_sta_test.txt"}),
        ("cg", {"novel_composition.json", "novel_word.json"}),
        ("unsupervised", {"queries.txt"}),
        ("jsonl", {"train.jsonl", "val.jsonl", "test.jsonl"}),
    ):
        if names & signs:
            return format
    for name in ("test.json", "val.json", "train.json"):
        if name in names:
            return "tacos" if b'"num_frames"' in _bytes(root / name) else "activitynet"
    found = ", ".join(sorted(names)[:5]) or "nothing"
    raise InputError(f"{root}: found {found}, expected the annotation files of one of {', '.join(FORMATS)}")


def read_activitynet(root: str | Path, protocol: str = "2dtan", val_fraction: float = 0.1, seed: int = 0) -> Splits:
    """ActivityNet Captions under one of three test conventions (`PROTOCOLS`).

    `lgi` tests on both validation files, so that its validation part is cut from train.
    """
    parts = {part.name: part for part in _activitynet_parts(Path(root))}
    splits = {
        split: [query for name in names for query in _strict(parts[name])]
        for split, names in _protocol(protocol).items()
    }
    return _with_val(splits, val_fraction, seed)


def read_charades(root: str | Path, val_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Charades-STA, with or without glance labels. Only train and test exist: `val` is cut from train, by video."""
    return _with_val(_read(_charades_parts(Path(root))), val_fraction, seed)


def read_tacos(root: str | Path) -> Splits:
    """TACoS as distributed with 2D-TAN: frame numbers become seconds, video ids lose `.avi`."""
    return _read(_tacos_parts(Path(root)))


def read_cg(root: str | Path, val_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Charades-CG or ActivityNet-CG; `tags["novels"]` holds novel compositions, `tags["news"]` novel words."""
    return _with_val(_read(_cg_parts(Path(root))), val_fraction, seed)


def read_unsupervised(root: str | Path) -> Splits:
    """A pile of sentences without videos (`vid` empty, `duration` NaN, no span) as train, annotated pairs as test.

    The videos to train on come from `read_videos`.
    """
    return _read(_unsupervised_parts(Path(root)))


def read_videos(root: str | Path) -> dict[str, float]:
    """Duration in seconds of each unpaired training video of the `unsupervised` format (`videos.json`)."""
    path = Path(root) / "videos.json"
    faults: list[Fault] = []
    durations = dict(_durations_in_json(path, faults))
    _raise_first(faults)
    return durations


def read_jsonl(root: str | Path, val_fraction: float = 0.1, seed: int = 0) -> Splits:
    """One's own annotations: a line `{"video", "sentence", "start", "end", "duration"}` per query, seconds.

    `start` and `end` may be left out together in `test.jsonl` and in files to predict on, and be null together anywhere
    (there is no span to learn from). `glance` (seconds) and `group` (what must not be split) are read where they stand;
    any further key goes to `tags`. `val` is cut from train where `val.jsonl` is missing.
    """
    return _with_val(_read(_jsonl_parts(Path(root))), val_fraction, seed)


def hold_out(queries: list[Query], fraction: float, seed: int) -> tuple[list[Query], list[Query]]:
    """Queries of the remaining and of the held-out groups (videos), each in its old order.

    The same seed chooses the same videos on every machine, whatever the order of the records.

    Examples:
        >>> queries = [Query(f"{v}{i}", v, "a dog", 9.0, group=v) for v in "abcd" for i in range(2)]
        >>> [len(part) for part in hold_out(queries, 0.25, seed=0)]
        [6, 2]
    """
    if not 0 <= fraction < 1:
        raise InputError(f"val_fraction: found {fraction}, expected a share of at least 0 and below 1")
    # Sorted by digest rather than drawn: one video more or less must not change the choice among the others.
    groups = sorted({q.group for q in queries}, key=lambda group: sha256(f"{seed}/{group}".encode()).digest())
    count = min(max(1, round(fraction * len(groups))), len(groups) - 1) if fraction else 0
    held = set(groups[: max(count, 0)])
    return [q for q in queries if q.group not in held], [q for q in queries if q.group in held]


def summarise(queries: Iterable[Query]) -> Summary:
    """Counts and means of a split, NaN where there is nothing to average.

    Examples:
        >>> summarise([Query("0", "a", "A dog barks.", 10.0, (2.0, 4.0)), Query("1", "a", "It runs", 10.0, (0.0, 2.0))])
        Summary(videos=1, queries=2, video_seconds=10.0, segment_seconds=2.0, segment_share=0.2, words=2.5)
    """
    queries = list(queries)
    durations = {q.vid: q.duration for q in queries if q.vid}
    segments = [(q.span[1] - q.span[0], q.duration) for q in queries if q.span]
    return Summary(
        videos=len(durations),
        queries=len(queries),
        video_seconds=_mean(durations.values()),
        segment_seconds=_mean(length for length, _ in segments),
        segment_share=_mean(length / duration for length, duration in segments),
        words=_mean(len(tokenize(q.sentence)) for q in queries),
    )


# --- the files of each format -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """One annotation file: the split it is, and a walk over its records that yields queries and faults."""

    name: str
    walk: Callable[[], Iterator[Query | Fault]]


@dataclass(frozen=True)
class _Rules:
    """What a format mends: `swap` spans, `overrun` seconds after the duration; `late` clips even a start there."""

    swap: bool = True
    overrun: float = math.inf
    late: bool = False
    drop_empty: bool = False


_OFFICIAL = _Rules()
_CHARADES_TRAIN = _Rules(late=True, drop_empty=True)
_CHARADES_TEST = _Rules(late=True)
_OWN = _Rules(swap=False, overrun=1.0)


def _json_part(name: str, path: Path, frames: bool = False) -> _Part:
    return _Part(name, lambda: _walk_videos(path, frames))


def _activitynet_parts(root: Path) -> list[_Part]:
    renamed = {"val_1": "val.json", "val_2": "test.json"}
    paths = {name: root / f"{name}.json" for name in ("train", "val_1", "val_2")}
    if not any(paths[name].exists() for name in renamed):
        paths |= {name: root / file for name, file in renamed.items() if (root / file).exists()}
    return [_json_part(name, path) for name, path in paths.items()]


def _tacos_parts(root: Path) -> list[_Part]:
    return [_json_part(name, root / f"{name}.json", frames=True) for name in ("train", "val", "test")]


def _cg_parts(root: Path) -> list[_Part]:
    return [_json_part(name, root / f"{name}.json") for name in CG_FILES]


def _unsupervised_parts(root: Path) -> list[_Part]:
    paired = ["val", "test"] if (root / "val.json").exists() else ["test"]
    return [
        _Part("train", lambda: _walk_sentences(root)),
        *(_json_part(name, root / f"{name}.json") for name in paired),
    ]


def _charades_parts(root: Path) -> list[_Part]:
    faults: list[Fault] = []
    durations = _charades_durations(root, faults)

    def part(name: str, rules: _Rules, first: list[Fault]) -> _Part:
        return _Part(name, lambda: _walk_charades(root / f"charades_sta_{name}.txt", durations, rules, first))

    return [part("train", _CHARADES_TRAIN, faults), part("test", _CHARADES_TEST, [])]


def _jsonl_parts(root: Path) -> list[_Part]:
    paths = [root] if root.is_file() else [root / f"{name}.jsonl" for name in ("train", "val", "test")]
    present = [path for path in paths if path.exists()] or paths

    def part(path: Path) -> _Part:
        return _Part(path.stem, lambda: _walk_lines_of_json(path))

    return [part(path) for path in present]


_PARTS: dict[str, Callable[[Path], list[_Part]]] = {
    "activitynet": _activitynet_parts,
    "charades": _charades_parts,
    "tacos": _tacos_parts,
    "cg": _cg_parts,
    "unsupervised": _unsupervised_parts,
    "jsonl": _jsonl_parts,
}
_READERS: dict[str, Callable[[Path, str, float, int], Splits]] = {
    "activitynet": read_activitynet,
    "charades": lambda root, _, fraction, seed: read_charades(root, fraction, seed),
    "tacos": lambda root, *_: read_tacos(root),
    "cg": lambda root, _, fraction, seed: read_cg(root, fraction, seed),
    "unsupervised": lambda root, *_: read_unsupervised(root),
    "jsonl": lambda root, _, fraction, seed: read_jsonl(root, fraction, seed),
}


def _check_choice(format: str, protocol: str) -> None:
    if format not in FORMATS:
        raise unknown("annotation format", format, FORMATS)
    _protocol(protocol)


def _protocol(name: str) -> dict[str, tuple[str, ...]]:
    if name not in PROTOCOLS:
        raise unknown("ActivityNet protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def _read(parts: list[_Part]) -> Splits:
    return {part.name: list(_strict(part)) for part in parts}


def _strict(part: _Part) -> Iterator[Query]:
    for item in part.walk():
        if isinstance(item, Query):
            yield item
        else:
            _raise_first([item])


def _raise_first(faults: list[Fault]) -> None:
    for fault in faults:
        if not fault.mended:
            raise InputError(str(fault))


def _with_val(splits: Splits, fraction: float, seed: int) -> Splits:
    if "val" in splits or "train" not in splits:
        return splits
    train, val = hold_out(splits["train"], fraction, seed)
    return {**splits, "train": train} | ({"val": val} if val else {})


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


# --- one record -------------------------------------------------------------------------------------------------------


@dataclass
class _Record:
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
            return self.fault(f"{key} {_show(mapping[key])}", "a list")
        return mapping[key]

    def text(self, value: Any, what: str) -> str | None:
        if not isinstance(value, str):
            return self.fault(f"{what} {_show(value)}", "a text")
        if not value.strip():
            return self.fault(f"an empty {what}", "a text")
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            return self.fault(f"{what} {_show(value)}", "text without halves of surrogate pairs")
        return value.strip()

    def number(self, value: Any, what: str) -> float | None:
        """A finite number that is not negative."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self.fault(f"{what} {_show(value)}", "a number")
        if not abs(value) <= _LARGEST:
            return self.fault(f"{what} {_show(value)}", "a finite number of usual size")
        if value < 0:
            return self.fault(f"{what} {_show(value)}", "a number not below zero")
        return float(value)

    def duration(self, value: Any, what: str = "duration") -> float | None:
        seconds = self.number(value, what)
        if seconds is not None and not _SHORTEST <= seconds <= _LONGEST:
            return self.fault(f"{what} {_show(value)}", f"{_SHORTEST} to {_LONGEST:.0f} seconds")
        return seconds

    def span(
        self, raw: tuple[Any, Any], duration: float, rules: _Rules, unit: float = 1.0
    ) -> tuple[float, float] | None:
        """The span in seconds, mended as the format allows; `unit` is the seconds in one unit of the file's times."""
        first, last = self.number(raw[0], "start"), self.number(raw[1], "end")
        if first is None or last is None:
            return None
        start, end, shown = first * unit, last * unit, f"a span from {_show(raw[0])} to {_show(raw[1])}"
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

    def glance(self, value: Any, span: tuple[float, float], rules: _Rules, unit: float = 1.0) -> float | None:
        moment = self.number(value, "glance")
        if moment is None:
            return None
        inside = min(max(moment * unit, span[0]), span[1])
        if not math.isclose(inside, moment * unit, rel_tol=1e-9):
            inner = f"a moment from {span[0]:g} to {span[1]:g} s"
            self.fault(f"glance {_show(value)}", inner, "moved to the span" if rules.swap else "")
        return inside


# Beyond these, times overflow or vanish in float32.
_SHORTEST, _LONGEST, _LARGEST = 0.001, 1e7, 1e12


_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxstring, _brief.maxother, _brief.maxlong = 2, 60, 60, 40


def _show(value: Any) -> str:
    """A value as the file has it, on one line, short and printable."""
    return _brief.repr(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _fresh(record: _Record, query: Query, seen: set[tuple[Any, ...]]) -> None:
    """Note a query that the file already holds."""
    key = (query.vid, query.sentence, query.span)
    if key in seen:
        record.fault("the same query again", "every query once", "kept")
    seen.add(key)


# --- files ------------------------------------------------------------------------------------------------------------


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: found {_problem(error)}, expected an annotation file") from None


def _problem(error: OSError) -> str:
    return "no such file" if isinstance(error, FileNotFoundError) else f"an unreadable file ({error.strerror})"


def _load(path: Path, expected: str, faults: list[Fault]) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        faults.append(Fault(str(path), "", _problem(error), expected))
        return None


def _decode(data: bytes, path: Path, name: str, faults: list[Fault]) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        faults.append(Fault(str(path), name, f"byte 0x{data[error.start]:02x} at {error.start}", "UTF-8 text"))
        return None


def _parse(text: str, path: Path, name: str, faults: list[Fault]) -> Any:
    """The JSON value; keys that occur twice are faults, because only the last would be read."""
    twice: list[str] = []
    try:
        value = json.loads(text, object_pairs_hook=partial(_object_of_pairs, twice))
    except (ValueError, RecursionError) as error:
        reason = "too deep nesting" if isinstance(error, RecursionError) else f"damaged JSON ({_one_line(error)})"
        faults.append(Fault(str(path), name, reason, "complete JSON"))
        return None
    faults += [Fault(str(path), name, f"the key {_show(key)} twice", "every key once") for key in twice]
    return value


def _object_of_pairs(twice: list[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:100]


def _object(path: Path, expected: str, faults: list[Fault]) -> dict[str, Any]:
    """The top-level object of a JSON file, empty where there is none (which is a fault)."""
    data = _load(path, expected, faults)
    text = None if data is None else _decode(data, path, "", faults)
    if text is None:
        return {}
    before = len(faults)
    value = _parse(text, path, "", faults)
    if isinstance(value, dict) and value:
        return value
    if len(faults) == before:
        found = "an empty object" if value == {} else f"a {type(value).__name__}"
        faults.append(Fault(str(path), "", found, expected))
    return {}


def _walk_videos(path: Path, frames: bool = False) -> Iterator[Query | Fault]:
    """The layout of ActivityNet Captions, TACoS and the compositional sets: video id -> lists in parallel."""
    faults: list[Fault] = []
    videos = _object(path, "an object from video id to its sentences and timestamps", faults)
    yield from faults
    for vid, video in videos.items():
        yield from _walk_video(path, vid, video, frames)


_TAGS = ("novels", "news", "roles")


def _walk_video(path: Path, vid: str, video: Any, frames: bool) -> Iterator[Query | Fault]:
    head = _Record(path, f"video {_show(vid)}")
    clock = _check_video(head, vid, video, frames)
    yield from head.faults
    if clock is None or head.broken:
        return
    duration, unit = clock
    name = vid.strip().removesuffix(".avi") if frames else vid.strip()
    seen: set[tuple[Any, ...]] = set()
    for i, (sentence, stamp) in enumerate(zip(video["sentences"], video["timestamps"], strict=True)):
        record = _Record(path, f"video {_show(vid)}, query {i}")
        query = Query(f"{path.stem}/{name}/{i}", name, record.text(sentence, "sentence") or "", duration, group=name)
        if not (isinstance(stamp, list) and len(stamp) == 2):
            record.fault(f"timestamps {_show(stamp)}", "[start, end]")
        elif span := record.span((stamp[0], stamp[1]), duration, _OFFICIAL, unit):
            glance = record.glance(video["glance"][i], span, _OFFICIAL, unit) if "glance" in video else None
            query = replace(query, span=span, glance=glance, tags=_tags(record, video, i))
            _fresh(record, query, seen)
        yield from record.faults
        if not record.broken:
            yield query


def _check_video(record: _Record, vid: str, video: Any, frames: bool) -> tuple[float, float] | None:
    """Duration in seconds and the seconds in one unit of the timestamps; all lists of the video have one length."""
    record.text(vid, "video id")
    if not isinstance(video, dict):
        return record.fault(_show(video), "an object with sentences, timestamps and duration")
    sentences = record.array(video, "sentences")
    if sentences == []:
        record.fault("no sentences", "at least one")
    for key in ("timestamps", *(key for key in ("glance", *_TAGS) if key in video)):
        values = record.array(video, key)
        if sentences and values is not None and len(values) != len(sentences):
            record.fault(f"{len(values)} {key}", f"{len(sentences)}, one per sentence")
    return _video_clock(record, video, frames)


def _video_clock(record: _Record, video: dict[str, Any], frames: bool) -> tuple[float, float] | None:
    needed = ("fps", "num_frames") if frames else ("duration",)
    for key in needed:
        if key not in video:
            record.fault(f"no key {key!r}", " and ".join(needed))
    if record.broken:
        return None
    if not frames:
        duration = record.duration(video["duration"])
        return None if duration is None else (duration, 1.0)
    count, rate = record.number(video["num_frames"], "num_frames"), record.number(video["fps"], "fps")
    if count is None or rate is None:
        return None
    if not 0.001 <= rate <= 1e6:
        return record.fault(f"fps {_show(video['fps'])}", "frames per second")
    duration = record.duration(count / rate, "num_frames / fps")
    return None if duration is None else (duration, 1 / rate)


def _tags(record: _Record, video: dict[str, Any], i: int) -> dict[str, Any] | None:
    tags = {key: video[key][i] for key in _TAGS if key in video}
    for key, pair in (("novels", True), ("news", False)):
        if key in tags and not _is_novelty(tags[key], pair):
            record.fault(
                f"{key} {_show(tags[key])}", "{type: [[word, word], ...]}" if pair else "{part of speech: [word, ...]}"
            )
    return tags or None


def _is_novelty(value: Any, pair: bool) -> bool:
    is_item = _is_word_pair if pair else _is_word
    return isinstance(value, dict) and all(isinstance(v, list) and all(map(is_item, v)) for v in value.values())


def _is_word(value: Any) -> bool:
    return isinstance(value, str)


def _is_word_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_word, value))


def _walk_charades(
    path: Path, durations: dict[str, float], rules: _Rules, first: list[Fault]
) -> Iterator[Query | Fault]:
    yield from first
    seen: set[tuple[Any, ...]] = set()
    for number, line in _text_lines(path, "lines 'VID start end##sentence'"):
        if isinstance(line, Fault):
            yield line
            continue
        record = _Record(path, f"line {number}")
        query = _charades_query(record, f"{path.stem}/{number}", line, durations, rules)
        if query:
            _fresh(record, query, seen)
        yield from record.faults
        if query and not record.broken:
            yield query


def _charades_query(record: _Record, qid: str, line: str, durations: dict[str, float], rules: _Rules) -> Query | None:
    head, *rest = line.split("##", 2)
    fields = head.split()
    if len(fields) != 3 or not rest:
        return record.fault(_show(line), "'VID start end##sentence' or 'VID start end##glance##sentence'")
    vid, (start, end) = fields[0], (_as_number(text) for text in fields[1:])
    sentence = record.text(rest[-1], "sentence")
    if vid not in durations:
        record.fault(
            f"video {_show(vid)} without a duration",
            "a duration in Charades_v1_train.csv, Charades_v1_test.csv or a json",
        )
    if vid not in durations or sentence is None:
        return None
    span = record.span((start, end), durations[vid], rules)
    if span is None:
        return None
    glance = record.glance(_as_number(rest[0]), span, rules) if len(rest) == 2 else None
    return Query(qid, vid, sentence, durations[vid], span, glance, group=vid)


def _as_number(text: str) -> Any:
    """The number a field holds, or the text itself for the fault to show."""
    try:
        return float(text) if "_" not in text else text
    except ValueError:
        return text


def _charades_durations(root: Path, faults: list[Fault]) -> dict[str, float]:
    tables = [path for path in (root / f"Charades_v1_{name}.csv" for name in ("train", "test")) if path.exists()]
    objects = [path for path in (root / name for name in CHARADES_DURATIONS) if path.exists()]
    if not tables and not objects:
        wanted = f"Charades_v1_train.csv and Charades_v1_test.csv, or one of {', '.join(CHARADES_DURATIONS)}"
        faults.append(Fault(str(root), "", "no file with durations", wanted))
    durations: dict[str, float] = {}
    for path in tables:
        durations |= _durations_in_csv(path, faults)
    for path in objects if not tables else []:
        durations |= _durations_in_json(path, faults)
    return durations


def _durations_in_csv(path: Path, faults: list[Fault]) -> Iterator[tuple[str, float]]:
    data = _load(path, "a table with the columns id and length", faults)
    text = None if data is None else _decode(data, path, "", faults)
    if text is None:
        return
    rows = csv.DictReader(io.StringIO(text, newline=""))
    known: dict[str, float] = {}
    try:
        if not {"id", "length"} <= set(rows.fieldnames or ()):
            faults.append(Fault(str(path), "", f"the columns {_show(rows.fieldnames)}", "columns id and length"))
            return
        for row in rows:
            record = _Record(path, f"line {rows.line_num}")
            vid, seconds = row["id"] or "", record.duration(_as_number(row["length"] or ""), "length")
            if not vid.strip():
                record.fault("no id", "a video id")
            if known.get(vid, seconds) != seconds:
                record.fault(f"another length of {_show(vid)}", f"{known[vid]:g} as before")
            faults.extend(record.faults)
            if seconds is not None and not record.broken:
                known[vid] = seconds
    except csv.Error as error:
        faults.append(
            Fault(str(path), f"line {rows.line_num}", f"a damaged table ({_one_line(error)})", "comma-separated values")
        )
    yield from known.items()


def _durations_in_json(path: Path, faults: list[Fault]) -> Iterator[tuple[str, float]]:
    """An object from video id to seconds, or to an object with the key `duration`."""
    for vid, value in _object(path, "an object from video id to duration", faults).items():
        record = _Record(path, f"video {_show(vid)}")
        record.text(vid, "video id")
        seconds = record.duration(value.get("duration") if isinstance(value, dict) else value)
        faults.extend(record.faults)
        if seconds is not None and not record.broken:
            yield vid, seconds


def _walk_sentences(root: Path) -> Iterator[Query | Fault]:
    faults: list[Fault] = []
    # Read for its faults only: sentences know nothing of videos.
    for _ in _durations_in_json(root / "videos.json", faults):
        pass
    yield from faults
    path = root / "queries.txt"
    for number, line in _text_lines(path, "one sentence a line"):
        if isinstance(line, Fault):
            yield line
        else:
            qid = f"{path.stem}/{number}"
            yield Query(qid, "", line, math.nan, group=qid)


def _text_lines(path: Path, expected: str) -> Iterator[tuple[int, str | Fault]]:
    """Numbered lines without their blanks, empty lines left out; a fault stands for a line that is no UTF-8."""
    faults: list[Fault] = []
    data = _load(path, expected, faults)
    if data is not None and not data.removeprefix(b"\xef\xbb\xbf").strip():
        faults.append(Fault(str(path), "", "an empty file", expected))
    yield from ((0, fault) for fault in faults)
    for number, raw in enumerate((data or b"").split(b"\n"), start=1):
        line = _decode(raw, path, f"line {number}", faults := [])
        if faults:
            yield number, faults[0]
        elif line and line.strip():
            yield number, line.strip()


def _walk_lines_of_json(path: Path) -> Iterator[Query | Fault]:
    expected = 'a line {"video", "sentence", "start", "end", "duration"} per query'
    seen: set[tuple[Any, ...]] = set()
    for number, line in _text_lines(path, expected):
        if isinstance(line, Fault):
            yield line
            continue
        record = _Record(path, f"line {number}")
        value = _parse(line, path, record.name, record.faults)
        query = None
        if isinstance(value, dict):
            query = _own_query(record, f"{path.stem}/{number}", value, path.stem in ("train", "val"))
        elif not record.faults:
            record.fault(_show(value), expected)
        if query:
            _fresh(record, query, seen)
        yield from record.faults
        if query and not record.broken:
            yield query


_OWN_KEYS = ("video", "sentence", "start", "end", "duration", "glance", "group")


def _own_query(record: _Record, qid: str, value: dict[str, Any], must_have_span: bool) -> Query | None:
    needed = [key for key in _OWN_KEYS[:5] if key not in ("start", "end") or must_have_span]
    # Half a span is always a mistake.
    needed += [other for key, other in (("start", "end"), ("end", "start")) if key in value and other not in needed]
    for key in dict.fromkeys(needed):
        if key not in value:
            record.fault(f"no key {key!r}", "video, sentence, start, end and duration")
    if record.broken:
        return None
    vid, sentence = record.text(value["video"], "video"), record.text(value["sentence"], "sentence")
    group = record.text(value["group"], "group") if "group" in value else vid
    duration = record.duration(value["duration"])
    if vid is None or sentence is None or group is None or duration is None:
        return None
    span = None
    if value.get("start") is not None or value.get("end") is not None:
        span = record.span((value["start"], value["end"]), duration, _OWN)
    glance = record.glance(value["glance"], span or (0.0, duration), _OWN) if value.get("glance") is not None else None
    tags = {key: item for key, item in value.items() if key not in _OWN_KEYS}
    return Query(qid, vid, sentence, duration, span, glance, group, tags or None)
