"""Distorted videos shot all around, with what people thought of them: the lists of VQA-ODV, and tables of one's own.

| format | what lies in the folder |
|---|---|
| `vqa-odv` | `VQA_ODV.txt` and `tr_te_VQA_ODV.txt`, the lists that the data set's authors give with their code |
| `rated-csv` | `ratings.csv` with the header `reference,distorted,opinion` |

A line of `VQA_ODV.txt` has eight columns: number of the reference, a second number that is not used, reference,
distorted video, DMOS, width, height, number of frames. `tr_te_VQA_ODV.txt` has the numbers of the references to train
with in its first line, of those to test with in its second. Videos are named from the folder on. The lists name raw
`.yuv` files; where these are missing, videos of the same names are taken.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from ommatid.data.video import SUFFIXES
from ommatid.errors import InputError, unknown
from ommatid.files import csv_rows, numbered_lines

RATED_FORMATS = ("vqa-odv", "rated-csv")
LIST, PARTS, TABLE = "VQA_ODV.txt", "tr_te_VQA_ODV.txt", "ratings.csv"
COLUMNS = ("reference", "distorted", "opinion")
SPLITS = ("train", "test")


@dataclass(frozen=True)
class RatedVideo:
    """A distorted video.

    Attributes:
        opinion: what people thought of it, a mean opinion score or a difference of such.
    """

    reference: Path
    distorted: Path
    opinion: float


def detect_rated_format(root: str | Path) -> str:
    """The one of `RATED_FORMATS` that a folder is in.

    Raises:
        InputError: the folder holds neither list.
    """
    for format, name in zip(RATED_FORMATS, (LIST, TABLE), strict=True):
        if (Path(root) / name).is_file():
            return format
    raise InputError(f"{root}: found neither {LIST} nor {TABLE}, expected rated videos")


def rated_splits(root: str | Path, format: str | None = None) -> tuple[str, ...]:
    """train and test where VQA-ODV says which references are which; else all is "test".

    Raises:
        InputError: as `detect_rated_format` does, or the format is unknown.
    """
    parted = _known(Path(root), format) == "vqa-odv" and (Path(root) / PARTS).is_file()
    return SPLITS if parted else ("test",)


def open_rated(root: str | Path, split: str = "test", format: str | None = None) -> list[RatedVideo]:
    """The rated videos of a split, in the order of the list.

    Raises:
        InputError: a list is missing or damaged, a video is not there, or there is no such split.

    Examples:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("a.mp4", "b.mp4"):
        ...     (root / name).touch()
        >>> _ = (root / "ratings.csv").write_text("reference,distorted,opinion\\na.mp4,b.mp4,42.5\\n")
        >>> open_rated(root)[0].opinion
        42.5
    """
    root = Path(root)
    format = _known(root, format)
    splits = rated_splits(root, format)
    if split not in splits:
        raise InputError(f"split: found {split!r}, expected one of those in {root}: {', '.join(splits)}")
    found = _table(root) if format == "rated-csv" else _list(root, split if len(splits) > 1 else None)
    if not found:
        raise InputError(f"{root}: found no rated video in {split}, expected at least 1")
    return found


def _known(root: Path, format: str | None) -> str:
    if format is None:
        return detect_rated_format(root)
    if format not in RATED_FORMATS:
        raise unknown("format of rated videos", format, RATED_FORMATS)
    return format


def _list(root: Path, split: str | None) -> list[RatedVideo]:
    wanted = None if split is None else _references(root / PARTS)[SPLITS.index(split)]
    file, found = root / LIST, []
    for number, line in numbered_lines(file):
        where, columns = f"{file}, line {number}", line.split()
        if len(columns) != 8:
            raise InputError(
                f"{where}: found {len(columns)} columns, expected 8: number, number, reference, distorted, DMOS, "
                "width, height, frames"
            )
        reference, _, first, second, opinion, *_ = columns
        if not reference.isdecimal():
            raise InputError(f"{where}: found the number {reference!r} of a reference, expected a whole number")
        if wanted is None or int(reference) in wanted:
            found.append(RatedVideo(_video(root, first, where), _video(root, second, where), _score(opinion, where)))
    return found


def _references(file: Path) -> tuple[set[int], set[int]]:
    """Numbers of the references to train and to test with."""
    lines = [line.split() for _, line in numbered_lines(file)]
    if len(lines) != 2 or not all(each.isdecimal() for line in lines for each in line):
        raise InputError(f"{file}: found {len(lines)} lines, expected 2 of whole numbers: to train with, to test with")
    train, test = ({int(each) for each in line} for line in lines)
    if train & test:
        raise InputError(f"{file}: found {min(train & test)} in both lines, expected each reference once")
    return train, test


def _table(root: Path) -> list[RatedVideo]:
    file, found = root / TABLE, []
    rows = csv_rows(file, "a csv of rated videos")
    header = rows[0][1] if rows else []
    if tuple(header) != COLUMNS:
        raise InputError(f"{file}: found the header {','.join(header)!r}, expected {','.join(COLUMNS)}")
    for number, cells in rows[1:]:
        where = f"{file}, line {number}"
        if len(cells) != len(COLUMNS):
            raise InputError(f"{where}: found {len(cells)} cells, expected {len(COLUMNS)}")
        first, second, opinion = cells
        found.append(RatedVideo(_video(root, first, where), _video(root, second, where), _score(opinion, where)))
    return found


def _video(root: Path, name: str, where: str) -> Path:
    path = root / name
    for each in (path, *(path.with_suffix(suffix) for suffix in sorted(SUFFIXES))):
        if each.exists():
            return each
    raise InputError(f"{where}: found no video {path}, expected it, or one of its name with another suffix")


def _score(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: found {text!r} for an opinion, expected a number")
    return value
