"""The files of each annotation format, and a walk over the records of each that yields queries and faults."""

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ommatid.grounding.records import (
    CHARADES_TEST,
    CHARADES_TRAIN,
    OFFICIAL,
    OWN,
    Fault,
    Record,
    Rules,
    as_number,
    decode_text,
    load_bytes,
    load_object,
    note_repeated,
    one_line,
    parse_json,
    show,
    text_lines,
)
from ommatid.grounding.task import Query

CG_FILES = ("train", "test_trivial", "novel_composition", "novel_word")
CHARADES_DURATIONS = ("Charades_duration.json", "durations.json", "charades.json")


@dataclass(frozen=True)
class Part:
    """One annotation file: the split it is, and a walk over its records that yields queries and faults."""

    name: str
    walk: Callable[[], Iterator[Query | Fault]]


def _json_part(name: str, path: Path, frames: bool = False) -> Part:
    return Part(name, lambda: _walk_videos(path, frames))


def activitynet_parts(root: Path) -> list[Part]:
    renamed = {"val_1": "val.json", "val_2": "test.json"}
    paths = {name: root / f"{name}.json" for name in ("train", "val_1", "val_2")}
    if not any(paths[name].exists() for name in renamed):
        paths |= {name: root / file for name, file in renamed.items() if (root / file).exists()}
    return [_json_part(name, path) for name, path in paths.items()]


def tacos_parts(root: Path) -> list[Part]:
    return [_json_part(name, root / f"{name}.json", frames=True) for name in ("train", "val", "test")]


def cg_parts(root: Path) -> list[Part]:
    return [_json_part(name, root / f"{name}.json") for name in CG_FILES]


def unsupervised_parts(root: Path) -> list[Part]:
    paired = ["val", "test"] if (root / "val.json").exists() else ["test"]
    return [
        Part("train", lambda: _walk_sentences(root)),
        *(_json_part(name, root / f"{name}.json") for name in paired),
    ]


def charades_parts(root: Path) -> list[Part]:
    faults: list[Fault] = []
    durations = _charades_durations(root, faults)

    def part(name: str, rules: Rules, first: list[Fault]) -> Part:
        return Part(name, lambda: _walk_charades(root / f"charades_sta_{name}.txt", durations, rules, first))

    return [part("train", CHARADES_TRAIN, faults), part("test", CHARADES_TEST, [])]


def jsonl_parts(root: Path) -> list[Part]:
    paths = [root] if root.is_file() else [root / f"{name}.jsonl" for name in ("train", "val", "test")]
    present = [path for path in paths if path.exists()] or paths

    def part(path: Path) -> Part:
        return Part(path.stem, lambda: _walk_lines_of_json(path))

    return [part(path) for path in present]


PARTS: dict[str, Callable[[Path], list[Part]]] = {
    "activitynet": activitynet_parts,
    "charades": charades_parts,
    "tacos": tacos_parts,
    "cg": cg_parts,
    "unsupervised": unsupervised_parts,
    "jsonl": jsonl_parts,
}


def _walk_videos(path: Path, frames: bool = False) -> Iterator[Query | Fault]:
    """The layout of ActivityNet Captions, TACoS and the compositional sets: video id -> lists in parallel."""
    faults: list[Fault] = []
    videos = load_object(path, "an object from video id to its sentences and timestamps", faults)
    yield from faults
    for vid, video in videos.items():
        yield from _walk_video(path, vid, video, frames)


_TAGS = ("novels", "news", "roles")


def _walk_video(path: Path, vid: str, video: Any, frames: bool) -> Iterator[Query | Fault]:
    head = Record(path, f"video {show(vid)}")
    clock = _check_video(head, vid, video, frames)
    yield from head.faults
    if clock is None or head.broken:
        return
    duration, unit = clock
    name = vid.strip().removesuffix(".avi") if frames else vid.strip()
    seen: set[tuple[Any, ...]] = set()
    for i, (sentence, stamp) in enumerate(zip(video["sentences"], video["timestamps"], strict=True)):
        record = Record(path, f"video {show(vid)}, query {i}")
        query = Query(f"{path.stem}/{name}/{i}", name, record.text(sentence, "sentence") or "", duration, group=name)
        if not (isinstance(stamp, list) and len(stamp) == 2):
            record.fault(f"timestamps {show(stamp)}", "[start, end]")
        elif span := record.span((stamp[0], stamp[1]), duration, OFFICIAL, unit):
            glance = record.glance(video["glance"][i], span, OFFICIAL, unit) if "glance" in video else None
            query = replace(query, span=span, glance=glance, tags=_tags(record, video, i))
            note_repeated(record, query, seen)
        yield from record.faults
        if not record.broken:
            yield query


def _check_video(record: Record, vid: str, video: Any, frames: bool) -> tuple[float, float] | None:
    """Duration in seconds and the seconds in one unit of the timestamps; all lists of the video have one length."""
    record.text(vid, "video id")
    if not isinstance(video, dict):
        return record.fault(show(video), "an object with sentences, timestamps and duration")
    sentences = record.array(video, "sentences")
    if sentences == []:
        record.fault("no sentences", "at least one")
    for key in ("timestamps", *(key for key in ("glance", *_TAGS) if key in video)):
        values = record.array(video, key)
        if sentences and values is not None and len(values) != len(sentences):
            record.fault(f"{len(values)} {key}", f"{len(sentences)}, one per sentence")
    return _video_clock(record, video, frames)


def _video_clock(record: Record, video: dict[str, Any], frames: bool) -> tuple[float, float] | None:
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
        return record.fault(f"fps {show(video['fps'])}", "frames per second")
    duration = record.duration(count / rate, "num_frames / fps")
    return None if duration is None else (duration, 1 / rate)


def _tags(record: Record, video: dict[str, Any], i: int) -> dict[str, Any] | None:
    tags = {key: video[key][i] for key in _TAGS if key in video}
    for key, pair in (("novels", True), ("news", False)):
        if key in tags and not _is_novelty(tags[key], pair):
            record.fault(
                f"{key} {show(tags[key])}", "{type: [[word, word], ...]}" if pair else "{part of speech: [word, ...]}"
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
    path: Path, durations: dict[str, float], rules: Rules, first: list[Fault]
) -> Iterator[Query | Fault]:
    yield from first
    seen: set[tuple[Any, ...]] = set()
    for number, line in text_lines(path, "lines 'VID start end##sentence'"):
        if isinstance(line, Fault):
            yield line
            continue
        record = Record(path, f"line {number}")
        query = _charades_query(record, f"{path.stem}/{number}", line, durations, rules)
        if query:
            note_repeated(record, query, seen)
        yield from record.faults
        if query and not record.broken:
            yield query


def _charades_query(record: Record, qid: str, line: str, durations: dict[str, float], rules: Rules) -> Query | None:
    head, *rest = line.split("##", 2)
    fields = head.split()
    if len(fields) != 3 or not rest:
        return record.fault(show(line), "'VID start end##sentence' or 'VID start end##glance##sentence'")
    vid, (start, end) = fields[0], (as_number(text) for text in fields[1:])
    sentence = record.text(rest[-1], "sentence")
    if vid not in durations:
        record.fault(
            f"video {show(vid)} without a duration",
            "a duration in Charades_v1_train.csv, Charades_v1_test.csv or a json",
        )
    if vid not in durations or sentence is None:
        return None
    span = record.span((start, end), durations[vid], rules)
    if span is None:
        return None
    glance = record.glance(as_number(rest[0]), span, rules) if len(rest) == 2 else None
    return Query(qid, vid, sentence, durations[vid], span, glance, group=vid)


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
        durations |= durations_in_json(path, faults)
    return durations


def _durations_in_csv(path: Path, faults: list[Fault]) -> Iterator[tuple[str, float]]:
    data = load_bytes(path, "a table with the columns id and length", faults)
    text = None if data is None else decode_text(data, path, "", faults)
    if text is None:
        return
    rows = csv.DictReader(io.StringIO(text, newline=""))
    known: dict[str, float] = {}
    try:
        if not {"id", "length"} <= set(rows.fieldnames or ()):
            faults.append(Fault(str(path), "", f"the columns {show(rows.fieldnames)}", "columns id and length"))
            return
        for row in rows:
            record = Record(path, f"line {rows.line_num}")
            vid, seconds = row["id"] or "", record.duration(as_number(row["length"] or ""), "length")
            if not vid.strip():
                record.fault("no id", "a video id")
            if known.get(vid, seconds) != seconds:
                record.fault(f"another length of {show(vid)}", f"{known[vid]:g} as before")
            faults.extend(record.faults)
            if seconds is not None and not record.broken:
                known[vid] = seconds
    except csv.Error as error:
        faults.append(
            Fault(str(path), f"line {rows.line_num}", f"a damaged table ({one_line(error)})", "comma-separated values")
        )
    yield from known.items()


def durations_in_json(path: Path, faults: list[Fault]) -> Iterator[tuple[str, float]]:
    """An object from video id to seconds, or to an object with the key `duration`."""
    for vid, value in load_object(path, "an object from video id to duration", faults).items():
        record = Record(path, f"video {show(vid)}")
        record.text(vid, "video id")
        seconds = record.duration(value.get("duration") if isinstance(value, dict) else value)
        faults.extend(record.faults)
        if seconds is not None and not record.broken:
            yield vid, seconds


def _walk_sentences(root: Path) -> Iterator[Query | Fault]:
    faults: list[Fault] = []
    # Read for its faults only: sentences know nothing of videos.
    for _ in durations_in_json(root / "videos.json", faults):
        pass
    yield from faults
    path = root / "queries.txt"
    for number, line in text_lines(path, "one sentence a line"):
        if isinstance(line, Fault):
            yield line
        else:
            qid = f"{path.stem}/{number}"
            yield Query(qid, "", line, math.nan, group=qid)


def _walk_lines_of_json(path: Path) -> Iterator[Query | Fault]:
    expected = 'a line {"video", "sentence", "start", "end", "duration"} per query'
    seen: set[tuple[Any, ...]] = set()
    for number, line in text_lines(path, expected):
        if isinstance(line, Fault):
            yield line
            continue
        record = Record(path, f"line {number}")
        value = parse_json(line, path, record.name, record.faults)
        query = None
        if isinstance(value, dict):
            query = _own_query(record, f"{path.stem}/{number}", value, path.stem in ("train", "val"))
        elif not record.faults:
            record.fault(show(value), expected)
        if query:
            note_repeated(record, query, seen)
        yield from record.faults
        if query and not record.broken:
            yield query


_OWN_KEYS = ("video", "sentence", "start", "end", "duration", "glance", "group")


def _own_query(record: Record, qid: str, value: dict[str, Any], must_have_span: bool) -> Query | None:
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
        span = record.span((value["start"], value["end"]), duration, OWN)
    glance = record.glance(value["glance"], span or (0.0, duration), OWN) if value.get("glance") is not None else None
    tags = {key: item for key, item in value.items() if key not in _OWN_KEYS}
    return Query(qid, vid, sentence, duration, span, glance, group, tags or None)
