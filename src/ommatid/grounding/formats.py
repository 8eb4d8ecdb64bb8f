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

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ommatid.data.text import tokenize
from ommatid.errors import InputError, unknown
from ommatid.grounding.layouts import CG_FILES as CG_FILES
from ommatid.grounding.layouts import CHARADES_DURATIONS as CHARADES_DURATIONS
from ommatid.grounding.layouts import (
    PARTS,
    Part,
    activitynet_parts,
    cg_parts,
    charades_parts,
    durations_in_json,
    jsonl_parts,
    tacos_parts,
    unsupervised_parts,
)
from ommatid.grounding.records import Fault, read_bytes
from ommatid.grounding.task import Query

FORMATS = ("activitynet", "charades", "tacos", "cg", "unsupervised", "jsonl")
# Three incompatible test conventions of ActivityNet Captions: numbers of two of them do not belong in one table.
PROTOCOLS: dict[str, dict[str, tuple[str, ...]]] = {
    "2dtan": {"train": ("train",), "val": ("val_1",), "test": ("val_2",)},
    "vslnet": {"train": ("train",), "val": ("val_2",), "test": ("val_1",)},
    "lgi": {"train": ("train",), "test": ("val_1", "val_2")},
}

Splits = dict[str, list[Query]]


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
    return (item for part in PARTS[format](root) for item in part.walk() if isinstance(item, Fault))


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
            content = read_bytes(root / name)
            if b'"emo"' in content:
                raise InputError(f"{root}: found emotions of clips, expected sentences with moments")
            return "tacos" if b'"num_frames"' in content else "activitynet"
    found = ", ".join(sorted(names)[:5]) or "nothing"
    raise InputError(f"{root}: found {found}, expected the annotation files of one of {', '.join(FORMATS)}")


def read_activitynet(root: str | Path, protocol: str = "2dtan", val_fraction: float = 0.1, seed: int = 0) -> Splits:
    """ActivityNet Captions under one of three test conventions (`PROTOCOLS`).

    `lgi` tests on both validation files, so that its validation part is cut from train.
    """
    parts = {part.name: part for part in activitynet_parts(Path(root))}
    splits = {
        split: [query for name in names for query in _strict(parts[name])]
        for split, names in _protocol(protocol).items()
    }
    return _with_val(splits, val_fraction, seed)


def read_charades(root: str | Path, val_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Charades-STA, with or without glance labels. Only train and test exist: `val` is cut from train, by video."""
    return _with_val(_read(charades_parts(Path(root))), val_fraction, seed)


def read_tacos(root: str | Path) -> Splits:
    """TACoS as distributed with 2D-TAN: frame numbers become seconds, video ids lose `.avi`."""
    return _read(tacos_parts(Path(root)))


def read_cg(root: str | Path, val_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Charades-CG or ActivityNet-CG; `tags["novels"]` holds novel compositions, `tags["news"]` novel words."""
    return _with_val(_read(cg_parts(Path(root))), val_fraction, seed)


def read_unsupervised(root: str | Path) -> Splits:
    """A pile of sentences without videos (`vid` empty, `duration` NaN, no span) as train, annotated pairs as test.

    The videos to train on come from `read_videos`.
    """
    return _read(unsupervised_parts(Path(root)))


def read_videos(root: str | Path) -> dict[str, float]:
    """Duration in seconds of each unpaired training video of the `unsupervised` format (`videos.json`)."""
    path = Path(root) / "videos.json"
    faults: list[Fault] = []
    durations = dict(durations_in_json(path, faults))
    _raise_first(faults)
    return durations


def read_jsonl(root: str | Path, val_fraction: float = 0.1, seed: int = 0) -> Splits:
    """One's own annotations: a line `{"video", "sentence", "start", "end", "duration"}` per query, seconds.

    `start` and `end` may be left out together in `test.jsonl` and in files to predict on, and be null together anywhere
    (there is no span to learn from). `glance` (seconds) and `group` (what must not be split) are read where they stand;
    any further key goes to `tags`. `val` is cut from train where `val.jsonl` is missing.
    """
    return _with_val(_read(jsonl_parts(Path(root))), val_fraction, seed)


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


def _read(parts: list[Part]) -> Splits:
    return {part.name: list(_strict(part)) for part in parts}


def _strict(part: Part) -> Iterator[Query]:
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
