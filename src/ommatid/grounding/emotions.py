"""Temporal emotion localisation: annotation files of clips with subtitles, emotion classes and, for testing, when.

    train.json   movie -> clip -> {"emo": {class: votes}, "time": [times], "dialog": [lines]}
    test.json    movie -> clip -> {"emo": {class: {"segment": [clauses]}}, "dialog_name": [times], "dialog": [lines]}

where a time is "00:01:21.720-->00:01:22.845".

A clause is one line of subtitles with its time. Training clips say which emotions occur (weak labels), test clips also
in which clauses. Mended: blanks around class names, clause numbers that are not in order.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from ommatid.errors import InputError
from ommatid.grounding.records import Fault, Record, load_object, read_bytes, show

Instances = Literal["runs", "hull"]

FILES = {"train": "train.json", "test": "test.json"}
_TIME = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)-->(\d+):(\d\d):(\d\d(?:\.\d+)?)")


@dataclass(frozen=True)
class Clause:
    """One line of subtitles; times in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class EmotionalClip:
    """A clip with subtitles and the emotions that occur in it.

    Attributes:
        votes: how many marks each emotion that occurs has.
        marked: the clauses in which each emotion occurs, in order; empty in training.
    """

    movie: str
    name: str
    clauses: tuple[Clause, ...]
    votes: dict[str, int]
    marked: dict[str, tuple[int, ...]]


def holds_emotions(root: str | Path) -> bool:
    """Whether a folder has annotation files of emotions."""
    files = [path for name in FILES.values() if (path := Path(root) / name).is_file()]
    return any(b'"emo"' in read_bytes(path) for path in files)


def read_emotions(root: str | Path) -> dict[str, list[EmotionalClip]]:
    """The clips of train.json and test.json, those of them that exist.

    Raises:
        InputError: there is neither file, or one of them is damaged; the first faulty record is told.
    """
    splits: dict[str, list[EmotionalClip]] = {}
    for split, item in _walk(Path(root)):
        if isinstance(item, EmotionalClip):
            splits.setdefault(split, []).append(item)
        elif not item.mended:
            raise InputError(str(item))
    return splits


def check_emotions(root: str | Path) -> Iterator[Fault]:
    """Every fault of the files, also those that `read_emotions` mends."""
    return (item for _, item in _walk(Path(root)) if isinstance(item, Fault))


def summarise_emotions(clips: Sequence[EmotionalClip]) -> dict[str, int]:
    """Counts of what a split holds; runs of marked clauses only where clauses are marked."""
    marked = [clauses for clip in clips for clauses in clip.marked.values()]
    return {
        "movies": len({clip.movie for clip in clips}),
        "clips": len(clips),
        "clauses": sum(len(clip.clauses) for clip in clips),
        "labels": sum(len(clip.votes) for clip in clips),
        "runs": sum(len(runs(clauses)) for clauses in marked),
    }


def classes_of(clips: Iterable[EmotionalClip]) -> list[str]:
    """The names of the emotions that occur, in alphabetical order."""
    return sorted({name for clip in clips for name in clip.votes})


def runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Maximal runs of consecutive clauses as (first, last).

    Examples:
        >>> runs([0, 1, 4, 5, 6])
        [(0, 1), (4, 6)]
    """
    if not indices:
        return []
    ordered = np.unique(np.asarray(indices))
    cuts = np.flatnonzero(np.diff(ordered) > 1)
    firsts, lasts = ordered[np.r_[0, cuts + 1]], ordered[np.r_[cuts, -1]]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def emotion_instances(
    clips: Sequence[EmotionalClip], classes: Sequence[str], instances: Instances = "runs"
) -> tuple[Int[np.ndarray, "instance 2"], Float[np.ndarray, "instance 2"]]:
    """What there is to be found in test clips: (clip, class) numbers, and (start, end) in seconds.

    Args:
        instances: "runs" makes one of every run of consecutive clauses, "hull" one of every annotation, from its first
            clause to its last. Results of the two do not compare.
    """
    rows, spans = [], []
    for number, clip in enumerate(clips):
        for name, marked in clip.marked.items():
            for first, last in runs(marked) if instances == "runs" else [(marked[0], marked[-1])]:
                rows.append((number, classes.index(name)))
                spans.append((clip.clauses[first].start, clip.clauses[last].end))
    return np.array(rows, dtype=np.int64).reshape(-1, 2), np.array(spans, dtype=np.float64).reshape(-1, 2)


# -- records -----------------------------------------------------------------------------------------------------------


def _walk(root: Path) -> Iterator[tuple[str, EmotionalClip | Fault]]:
    present = {split: root / name for split, name in FILES.items() if (root / name).is_file()}
    if not present:
        raise InputError(f"{root}: found neither {' nor '.join(FILES.values())}, expected emotion annotations")
    for split, path in present.items():
        faults: list[Fault] = []
        movies = load_object(path, "an object from movie to clips", faults)
        yield from ((split, fault) for fault in faults)
        for movie, clips in movies.items():
            if not isinstance(clips, dict):
                yield split, Fault(str(path), movie, show(clips), "an object from clip to annotation")
                continue
            for name, content in clips.items():
                record = Record(path, f"{movie} {name}")
                clip = _read_clip(record, movie, name, content, split == "test")
                yield from ((split, fault) for fault in record.faults)
                if clip is not None and not record.broken:
                    yield split, clip


def _read_clip(record: Record, movie: str, name: str, content: Any, tested: bool) -> EmotionalClip | None:
    if not isinstance(content, dict):
        return record.fault(show(content), "an object with 'emo' and 'dialog'")
    clauses = _read_clauses(record, content, "dialog_name" if tested else "time")
    emotions = content.get("emo")
    if not isinstance(emotions, dict) or not emotions:
        return record.fault(f"emo {show(emotions)}", "an object from emotion to its marks")
    votes: dict[str, int] = {}
    marked: dict[str, tuple[int, ...]] = {}
    for raw, marks in emotions.items():
        emotion = record.text(raw, "emotion")
        if emotion is None:
            continue
        if emotion != raw:
            record.fault(f"emotion {show(raw)}", "no blanks around it", "cut off")
        if tested:
            marked[emotion] = _read_segment(record, emotion, marks, len(clauses))
            votes[emotion] = len(marked[emotion])
        elif isinstance(marks, int) and not isinstance(marks, bool) and marks > 0:
            votes[emotion] = marks
        else:
            record.fault(f"{emotion} {show(marks)}", "a number of marks above 0")
    return EmotionalClip(movie, name, clauses, votes, marked)


def _read_clauses(record: Record, content: dict[str, Any], key: str) -> tuple[Clause, ...]:
    times, texts = record.array(content, key), record.array(content, "dialog")
    if times is None or texts is None:
        return ()
    if len(times) != len(texts) or not times:
        return record.fault(f"{len(times)} times of {len(texts)} clauses", "one time for each, at least one") or ()
    read = [_read_clause(record, time, text) for time, text in zip(times, texts, strict=True)]
    return tuple(clause for clause in read if clause is not None)


def _read_clause(record: Record, time: Any, text: Any) -> Clause | None:
    found = _TIME.fullmatch(time.strip()) if isinstance(time, str) else None
    if found is None:
        return record.fault(f"the time {show(time)}", "hours:minutes:seconds-->hours:minutes:seconds")
    if not isinstance(text, str):
        return record.fault(f"the clause {show(text)}", "a text")
    start, end = (60 * (60 * int(h) + int(m)) + float(s) for h, m, s in (found.groups()[:3], found.groups()[3:]))
    if end < start:
        return record.fault(f"the time {show(time)}", "an end after the start")
    return Clause(start, end, text.strip())


def _read_segment(record: Record, emotion: str, marks: Any, count: int) -> tuple[int, ...]:
    segment = marks.get("segment") if isinstance(marks, dict) else None
    numbers = isinstance(segment, list) and all(type(number) is int for number in segment)
    if not numbers or not segment:
        return record.fault(f"{emotion} {show(marks)}", "a list 'segment' of clause numbers") or ()
    outside = [number for number in segment if not 0 <= number < count]
    if outside:
        return record.fault(f"{emotion} in clause {outside[0]}", f"clause numbers from 0 to {count - 1}") or ()
    ordered = tuple(sorted(set(segment)))
    if ordered != tuple(segment):
        record.fault(f"{emotion} in clauses {show(segment)}", "each clause once, in order", "sorted")
    return ordered
