"""Which videos a data set has and what each shows: the official lists of action recognition, and one's own.

| format | what lies in the folder |
|---|---|
| `kinetics` | csv files with the columns `label,youtube_id,time_start,time_end,split` |
| `something-v2` | `[something-something-v2-]{labels,train,validation}.json` |
| `something-v1` | `[something-something-v1-]{labels,train,validation}.csv`, separated by semicolons |
| `ucf101` | `classInd.txt`, `trainlist0<fold>.txt`, `testlist0<fold>.txt` |
| `hmdb51` | `<class>_test_split<fold>.txt` |
| `list` | text files with train, val or test in their names, and perhaps `classes.txt` or `category.txt` |
| `folder` | `{train,val,test}/<class>/*.mp4` or `<class>/*.mp4` |

Annotations may also lie in its folder `annotations`, `labels`, `ucfTrainTestlist` or `testTrainMulti_7030_splits`. The
videos themselves may lie anywhere below the folder, each as a file of any video format or as a folder of frames
that is named like the video; only list files say exactly where. `open_clips` finds the format and reads a split;
each reader can be called with files of its own as well. A video that a list names but nobody has is an error, unless
`skip_missing` leaves it out.
"""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ommatid.data.images import SPLITS, existing_folder, is_clutter
from ommatid.data.images import SUFFIXES as IMAGE_SUFFIXES
from ommatid.data.video import SUFFIXES
from ommatid.errors import InputError, shortened, unknown
from ommatid.files import numbered_lines, read_json

CLIP_FORMATS = ("kinetics", "something-v2", "something-v1", "ucf101", "hmdb51", "list", "folder")
_PLACES = ("", "annotations", "labels", "ucfTrainTestlist", "testTrainMulti_7030_splits")
_SPLIT_NAMES = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class ClipRecord:
    """One labelled video.

    Attributes:
        path: a video file, or a folder of frame images.
        frames: how many the list says there are; None where it does not say.
        name: as the data set calls it, without folder and ending.
    """

    path: Path
    label: int
    frames: int | None
    name: str


@dataclass(frozen=True)
class ClipList:
    """The videos of one split.

    Examples:
        >>> clips = ClipList((ClipRecord(Path("jump/a.mp4"), 0, None, "a"),), ("jump", "run"))
        >>> len(clips), clips.class_names[clips.records[0].label]
        (1, 'jump')
    """

    records: tuple[ClipRecord, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class _Row:
    """A video that is named but not yet found: its possible names, the best first."""

    names: tuple[str, ...]
    label: int
    class_name: str


def open_clips(
    root: str | Path, split: str = "train", fold: int = 1, format: str | None = None, skip_missing: bool = False
) -> ClipList:
    """The videos of one split of a data set's folder; classes are numbered alike in all its splits.

    Args:
        split: "train", "val" or "test", one of `clip_splits`.
        fold: which of several divisions of the data, from 1 (UCF101 and HMDB51 have three).
        format: one of `CLIP_FORMATS`; `detect_clip_format` finds it out if None.
        skip_missing: leave out videos that are named but not there.

    Raises:
        InputError: the folder is missing or in no known format, has no such split, a row is faulty (file and line are
            named), or videos are missing.
    """
    splits = _splits(Path(root), format or detect_clip_format(root), fold, skip_missing)
    if split not in splits:
        raise InputError(f"split: found {split!r}, expected one of those in {root}: {', '.join(splits)}")
    return splits[split]()


def clip_splits(root: str | Path, format: str | None = None, fold: int = 1) -> tuple[str, ...]:
    """Those of train, val and test that a data set's folder has with labels; one folder of classes is all "train".

    Raises:
        InputError: the folder is missing or in no known format.
    """
    return tuple(_splits(Path(root), format or detect_clip_format(root), fold, skip_missing=False))


def detect_clip_format(root: str | Path) -> str:
    """The one of `CLIP_FORMATS` that a folder is in.

    Raises:
        InputError: the folder is missing, or none of the formats.
    """
    root = existing_folder(Path(root))
    marks: dict[str, Callable[[], Any]] = {
        "ucf101": lambda: _files(root, "classInd.txt"),
        "hmdb51": lambda: _files(root, "*_test_split[0-9].txt"),
        "something-v2": lambda: _files(root, "*labels.json"),
        "something-v1": lambda: _files(root, "*labels.csv"),
        "kinetics": lambda: _kinetics_files(root),
        "list": lambda: _list_files(root, 1),
        "folder": lambda: any(path.is_dir() for path in _entries(root)),
    }
    for format, found in marks.items():
        if found():
            return format
    raise InputError(f"{root}: found no lists and no folders, expected one of the formats {', '.join(CLIP_FORMATS)}")


def _splits(root: Path, format: str, fold: int, skip_missing: bool) -> dict[str, Callable[[], ClipList]]:
    """What reads each split that there is, in the order train, val, test."""
    existing_folder(root)
    if format == "kinetics":
        files = _kinetics_files(root)
        named = {row.split for file in files for row in _kinetics_rows(file)}
        readers: dict[str, Any] = {
            split: partial(read_kinetics, files, root, split, None, skip_missing) for split in SPLITS if split in named
        }
    elif format in ("something-v2", "something-v1"):
        read, ending = (read_something_v2, "json") if format == "something-v2" else (read_something_v1, "csv")
        labels = _only(root, f"*labels.{ending}")
        files_of = {"train": _files(root, f"*train.{ending}"), "val": _files(root, f"*validation.{ending}")}
        readers = {
            split: partial(read, files[0], labels, root, skip_missing) for split, files in files_of.items() if files
        }
    elif format in ("ucf101", "hmdb51"):
        read_fold = read_ucf101 if format == "ucf101" else read_hmdb51
        lists = _only(root, "classInd.txt" if format == "ucf101" else "*_test_split[0-9].txt").parent
        readers = {split: partial(read_fold, lists, root, split, fold, skip_missing) for split in ("train", "test")}
    elif format == "list":
        lists_of = _list_files(root, fold)
        names = _list_classes(root, lists_of.values())
        readers = {split: partial(read_clip_list, file, root, names, skip_missing) for split, file in lists_of.items()}
    elif format == "folder":
        found = _split_folders(root)
        readers = {split: partial(read_clip_folder, root, split) for split in found}
        readers = readers or {"train": partial(read_clip_folder, root)}
    else:
        raise unknown("clip format", format, CLIP_FORMATS)
    if not readers:
        raise InputError(f"{root}: found no split with labels, expected one in the format {format}")
    return readers


def read_clip_list(
    file: str | Path,
    videos: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    skip_missing: bool = False,
) -> ClipList:
    """A working list: `path num_frames label` (folders of frames) or `path.avi label` a row, labels counted from 0.

    Args:
        videos: folder that the paths start from; that of the list if None.
        class_names: the numbers up to the highest label if None.

    Raises:
        InputError: a row is of another form or its label has no class name (file and line are named), or videos are
            missing.

    Examples:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "jump.mp4").touch()
        >>> _ = (root / "train.txt").write_text("jump.mp4 0")
        >>> [(record.name, record.label) for record in read_clip_list(root / "train.txt").records]
        [('jump', 0)]
    """
    file = Path(file)
    rows = list(_list_rows(file))
    if class_names is None:
        class_names = _numbers(label for _, _, _, label in rows)
    records, missing = [], []
    for line, path, frames, label in rows:
        if label >= len(class_names):
            expected = f"0 to {len(class_names) - 1} for {len(class_names)} classes"
            raise InputError(f"{file}, line {line}: found the label {label}, expected {expected}")
        located = Path(videos or file.parent) / path
        if located.exists():
            records.append(ClipRecord(located, label, frames, _without_suffix(located.name)))
        else:
            missing.append(str(located))
    if missing:
        _refuse_missing(file, missing, len(rows), skip_missing)
    return ClipList(tuple(records), tuple(class_names))


def read_kinetics(
    files: str | Path | Sequence[str | Path],
    videos: str | Path,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    skip_missing: bool = False,
) -> ClipList:
    """Kinetics' csv: `label,youtube_id,time_start,time_end,split,is_cc`, further columns allowed.

    Videos are named `<id>_<start>_<end>` with six digits each, or `<id>`, in folders of their class or not.

    Args:
        files: one csv or several.
        split: only rows of this split; all rows if None.
        class_names: the labels of all rows in alphabetical order if None, as they are numbered in the field.

    Raises:
        InputError: a column or value is missing or unusable (file and line are named), or videos are missing.
    """
    sources = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    found = [row for file in sources for row in _kinetics_rows(file)]
    names = tuple(sorted({row.label for row in found}) if class_names is None else class_names)
    label_of = {name: label for label, name in enumerate(names)}
    rows = []
    for row in found:
        if row.label not in label_of:
            raise InputError(f"{row.where}: found the class {row.label!r}, expected one of the {len(names)} given")
        if split is None or row.split == split:
            rows.append(_Row((row.span, row.video), label_of[row.label], row.label))
    return _found(sources[0], Path(videos), rows, names, skip_missing)


def read_something_v2(file: str | Path, labels: str | Path, videos: str | Path, skip_missing: bool = False) -> ClipList:
    """Something-Something v2: entries `{"id", "label", "template", "placeholders"}`; templates with brackets removed.

    Args:
        labels: the json of template -> "index".

    Raises:
        InputError: a file is no such json, an entry lacks its id or template, or has one that is not among the labels
            (file and number of the entry, from 1, are named), or videos are missing.
    """
    file, labels = Path(file), Path(labels)
    names = _something_v2_classes(labels)
    label_of = {name: label for label, name in enumerate(names)}
    entries = read_json(file, "a list of the data set")
    if not isinstance(entries, list):
        raise InputError(f"{file}: found a {type(entries).__name__}, expected a list of entries")
    rows = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not {"id", "template"} <= entry.keys():
            raise InputError(f"{file}, entry {number}: found {shortened(entry)}, expected an id and a template")
        template = re.sub(r"[\[\]]", "", str(entry["template"]))
        if template not in label_of:
            raise InputError(f"{file}, entry {number}: found the template {template!r}, expected one of {labels}")
        rows.append(_Row((str(entry["id"]),), label_of[template], template))
    return _found(file, Path(videos), rows, names, skip_missing)


def read_something_v1(file: str | Path, labels: str | Path, videos: str | Path, skip_missing: bool = False) -> ClipList:
    """Something-Something v1: rows `id;template`, numbered in the alphabetical order of the templates as in the field.

    Args:
        labels: the csv with one template a row.

    Raises:
        InputError: a row has no template or one that is not among the labels (file and line are named), or videos are
            missing.
    """
    file, labels = Path(file), Path(labels)
    names = tuple(sorted({text for _, text in numbered_lines(labels)}))
    label_of = {name: label for label, name in enumerate(names)}
    rows = []
    for line, text in numbered_lines(file):
        video, _, template = (part.strip() for part in text.partition(";"))
        if not video or template not in label_of:
            raise InputError(f"{file}, line {line}: found {shortened(text)}, expected id;template, one of {labels}")
        rows.append(_Row((video,), label_of[template], template))
    return _found(file, Path(videos), rows, names, skip_missing)


def read_ucf101(
    lists: str | Path, videos: str | Path, split: str = "train", fold: int = 1, skip_missing: bool = False
) -> ClipList:
    """UCF101: `trainlist0<fold>.txt` (`Class/v_Class_g08_c01.avi 1`, from 1 on) or `testlist0<fold>.txt` (no label).

    Args:
        lists: the folder of the lists and of `classInd.txt`.
        split: "train" or "test"; UCF101 has no other.

    Raises:
        InputError: a list is missing, a row is of another form, of an unknown class, or numbered unlike its class
            (file and line are named), or videos are missing.
    """
    lists = Path(lists)
    _train_or_test(split)
    names = _ucf101_classes(lists / "classInd.txt")
    label_of = {name: label for label, name in enumerate(names)}
    file = lists / f"{split}list{fold:02d}.txt"
    rows = []
    for line, text in numbered_lines(file):
        path, _, number = text.partition(" ")
        class_name, slash, video = path.partition("/")
        if not slash or class_name not in label_of:
            raise InputError(f"{file}, line {line}: found {shortened(text)}, expected Class/video.avi of a known class")
        number, expected = number.strip(), str(label_of[class_name] + 1)
        if number != expected and (number or split == "train"):
            raise InputError(
                f"{file}, line {line}: found the label {number!r}, expected {expected}, the number of {class_name}"
            )
        rows.append(_Row((_without_suffix(video),), label_of[class_name], class_name))
    return _found(file, Path(videos), rows, names, skip_missing)


def read_hmdb51(
    lists: str | Path, videos: str | Path, split: str = "train", fold: int = 1, skip_missing: bool = False
) -> ClipList:
    """HMDB51: `<class>_test_split<fold>.txt` with `video.avi flag` a row; 1 is train, 2 is test, 0 is neither.

    Args:
        lists: the folder of the lists.
        split: "train" or "test"; HMDB51 has no other.

    Raises:
        InputError: there are no lists of this fold, a row is of another form (file and line are named), or videos are
            missing.
    """
    lists = existing_folder(Path(lists))
    _train_or_test(split)
    ending = f"_test_split{fold}.txt"
    files = sorted(lists.glob(f"*{ending}"))
    if not files:
        raise InputError(f"{lists}: found no list of fold {fold}, expected files named like <class>{ending}")
    names = tuple(file.name.removesuffix(ending) for file in files)
    wanted = {"train": "1", "test": "2"}[split]
    rows = []
    for label, file in enumerate(files):
        for line, text in numbered_lines(file):
            video, _, flag = text.rpartition(" ")
            if not video or flag not in ("0", "1", "2"):
                raise InputError(f"{file}, line {line}: found {shortened(text)}, expected video.avi and 0, 1 or 2")
            if flag == wanted:
                rows.append(_Row((_without_suffix(video.strip()),), label, names[label]))
    return _found(lists, Path(videos), rows, names, skip_missing)


def read_clip_folder(root: str | Path, split: str | None = None) -> ClipList:
    """One folder of videos (or of folders of frames) per class: `root/<split>/<class>/*` or `root/<class>/*`.

    Classes are numbered in alphabetical order, as in `train` where there are splits.

    Raises:
        InputError: a folder is missing or empty, a class is none of `train`, or a file is no video.
    """
    root = existing_folder(Path(root))
    splits = _split_folders(root)
    if split is None and splits:
        raise InputError(f"split: found none, expected one of {', '.join(splits)}, the folders in {root}")
    if split is not None and split not in splits:
        raise InputError(f"split: found {split!r}, expected a folder in {root}: {', '.join(splits) or 'there is none'}")
    classes = _class_folders(root / split if split else root)
    names = tuple(folder.name for folder in (_class_folders(root / "train") if "train" in splits else classes))
    for folder in classes:
        if folder.name not in names:
            raise InputError(f"{folder}: found a class that is none of the {len(names)} classes of {root / 'train'}")
    records = [
        ClipRecord(path, names.index(folder.name), None, path.name if path.is_dir() else path.stem)
        for folder in classes
        for path in _videos_in(folder)
    ]
    return ClipList(tuple(records), names)


@dataclass(frozen=True)
class _KineticsRow:
    where: str
    label: str
    video: str
    span: str
    split: str


def _kinetics_rows(file: Path) -> Iterator[_KineticsRow]:
    if not file.is_file():
        raise InputError(f"{file}: found no such file, expected a csv of Kinetics")
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        try:
            yield from (_kinetics_row(f"{file}, line {reader.line_num}", row) for row in reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{file}, line {reader.line_num}: found {error}, expected a csv of Kinetics") from error


def _kinetics_row(where: str, row: dict[str, Any]) -> _KineticsRow:
    label, video = ((row.get(column) or "").strip() for column in ("label", "youtube_id"))
    if not label or not video:
        raise InputError(f"{where}: found no {'youtube_id' if label else 'label'}, expected label and youtube_id")
    try:
        start, end = (int(float(row.get(column) or "")) for column in ("time_start", "time_end"))
    except (ValueError, OverflowError):
        found = f"{row.get('time_start')!r} and {row.get('time_end')!r}"
        raise InputError(f"{where}: found the times {found}, expected seconds") from None
    split = (row.get("split") or "").strip()
    return _KineticsRow(where, label, video, f"{video}_{start:06d}_{end:06d}", _SPLIT_NAMES.get(split, split))


def _kinetics_files(root: Path) -> list[Path]:
    """The csv files whose first line has Kinetics' columns; those of a test split without labels are left out."""
    return [file for file in _files(root, "*.csv") if {"label", "youtube_id"} <= set(_first_line(file))]


def _something_v2_classes(labels: Path) -> tuple[str, ...]:
    table = read_json(labels, "a list of the data set")
    if not isinstance(table, dict):
        raise InputError(f"{labels}: found a {type(table).__name__}, expected an object of template and index")
    order = {str(index): name for name, index in table.items()}
    for index in range(len(table)):
        if str(index) not in order:
            raise InputError(f"{labels}: found no template with the index {index}, expected 0 to {len(table) - 1}")
    return tuple(order[str(index)] for index in range(len(table)))


def _ucf101_classes(file: Path) -> tuple[str, ...]:
    names: list[str] = []
    for line, text in numbered_lines(file):
        number, _, name = text.partition(" ")
        if number != str(len(names) + 1) or not name:
            raise InputError(f"{file}, line {line}: found {shortened(text)}, expected {len(names) + 1} and a class")
        names.append(name.strip())
    return tuple(names)


def _train_or_test(split: str) -> None:
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))


def _list_rows(file: Path) -> Iterator[tuple[int, str, int | None, int]]:
    """Line, path, number of frames and label; a path may hold blanks."""
    for line, text in numbered_lines(file):
        path, _, label = text.rpartition(" ")
        frames = None
        if path and Path(path).suffix.lower() not in SUFFIXES:
            path, _, count = path.rpartition(" ")
            frames = int(count) if count.isdecimal() else 0
        if not path or not label.isdecimal() or frames == 0:
            expected = "path, number of frames and label, or video file and label"
            raise InputError(f"{file}, line {line}: found {shortened(text)}, expected {expected}")
        yield line, path.strip(), frames, int(label)


def _list_files(root: Path, fold: int) -> dict[str, Path]:
    """The list of every split; where a split has several, that with the number of the fold at the end of its name."""
    found = defaultdict(list)
    for file in _files(root, "*.txt"):
        words = re.findall("[a-z]+", file.stem.lower().replace("list", " "))
        for split in {_SPLIT_NAMES[word] for word in words if word in _SPLIT_NAMES}:
            found[split].append(file)
    chosen = {}
    for split in SPLITS:
        files = found[split]
        if len(files) > 1:
            files = [file for file in files if re.fullmatch(rf".*?\D0*{fold}", file.stem)]
        if len(files) > 1:
            raise InputError(f"{files[1]}: found a second list of {split}, expected one beside {files[0].name}")
        if files:
            chosen[split] = files[0]
    return chosen


def _list_classes(root: Path, files: Iterable[Path]) -> tuple[str, ...]:
    for name in ("classes.txt", "category.txt"):
        if table := _files(root, name):
            return tuple(text for _, text in numbered_lines(table[0]))
    return _numbers(label for file in files for _, _, _, label in _list_rows(file))


def _numbers(labels: Iterable[int]) -> tuple[str, ...]:
    return tuple(str(label) for label in range(max(labels, default=-1) + 1))


def _found(
    source: Path, videos: Path, rows: Sequence[_Row], class_names: tuple[str, ...], skip_missing: bool
) -> ClipList:
    """The rows whose videos are somewhere below a folder."""
    places = _locate(existing_folder(videos), {name for row in rows for name in row.names})
    records, missing = [], []
    for row in rows:
        name = next((name for name in row.names if name in places), None)
        if name is None:
            missing.append(row.names[0])
            continue
        # Where videos of two classes have one name, the folder tells them apart.
        own = (path for path in places[name] if path.parent.name.replace("_", " ") == row.class_name.replace("_", " "))
        records.append(ClipRecord(next(own, places[name][0]), row.label, None, name))
    if missing:
        _refuse_missing(source, missing, len(rows), skip_missing)
    return ClipList(tuple(records), class_names)


def _locate(root: Path, names: set[str]) -> dict[str, list[Path]]:
    """Video files and folders of frames below a folder, by their names without ending."""
    found = defaultdict(list)
    for folder, folders, files in os.walk(root, followlinks=True):
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)  # noqa: PTH122 (of hundreds of thousands of names)
            if stem in names and suffix.lower() in SUFFIXES:
                found[stem].append(Path(folder, file))
        for name in sorted(names.intersection(folders)):
            found[name].append(Path(folder, name))
        # What holds the frames of a video holds no videos, but very many files.
        folders[:] = sorted(name for name in folders if name not in names and not name.startswith("."))
    return found


def _refuse_missing(source: Path, missing: Sequence[str], expected: int, skip_missing: bool) -> None:
    if not skip_missing or len(missing) == expected:
        raise InputError(
            f"{source}: {len(missing)} of {expected} videos are missing (first: {missing[0]}), "
            "expected each as a video file or a folder of frames"
        )


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in SUFFIXES else name


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not is_clutter(Path(path.name)))


def _files(root: Path, pattern: str) -> list[Path]:
    """Annotation files; only some folders are looked into, as others may hold millions of frames."""
    return [path for place in _PLACES for path in sorted((root / place).glob(pattern)) if path.is_file()]


def _only(root: Path, pattern: str) -> Path:
    if not (files := _files(root, pattern)):
        raise InputError(f"{root}: found no file {pattern}, expected the annotations of the data set")
    return files[0]


def _split_folders(root: Path) -> tuple[str, ...]:
    """The splits that a folder is divided into; a class may be called "test" as well, but it holds videos."""
    return tuple(
        split
        for split in SPLITS
        if (root / split).is_dir() and any(path.is_dir() and not _holds_frames(path) for path in _entries(root / split))
    )


def _class_folders(folder: Path) -> list[Path]:
    folders = [path for path in _entries(existing_folder(folder)) if path.is_dir()]
    if not folders:
        raise InputError(f"{folder}: found no folders, expected one folder of videos for each class")
    return folders


def _videos_in(folder: Path) -> list[Path]:
    paths = _entries(folder)
    for path in paths:
        if path.is_dir() and not _holds_frames(path):
            raise InputError(f"{path}: found a folder without images, expected a video or a folder of its frames")
        if path.is_file() and path.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"{path}: found the ending {path.suffix!r}, expected a video ({' '.join(sorted(SUFFIXES))})"
            )
    if not paths:
        raise InputError(f"{folder}: found no videos, expected at least one for the class {folder.name!r}")
    return paths


def _holds_frames(folder: Path) -> bool:
    return any(
        path.suffix.lower() in IMAGE_SUFFIXES and path.suffix.lower() not in SUFFIXES for path in folder.iterdir()
    )


def _first_line(file: Path) -> list[str]:
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        return re.findall(r"\w+", stream.readline())
