"""Which images a multi-label data set has and which labels each of them shows: official files, and one's own.

| format | what lies in the folder |
|---|---|
| `coco` | `annotations/instances_{train,val}<year>.json` of 2014 or 2017, images in `{train,val}<year>` |
| `nus-wide` | `ImageList/*Imagelist.txt`, `ConceptsList/Concepts81.txt`, `Groundtruth/TrainTestLabels/*`, `Flickr/*` |
| `csv` | csv files with train, val or test in their names, or a single one, and perhaps `classes.txt` |

One's own csv has a header and comes in either of two forms, files named from its folder on:

    file,labels                      file,cat,dog,a red chair
    images/1.jpg,cat;a red chair     images/1.jpg,1,0,1
    images/2.jpg,                    images/2.jpg,0,0,0

`open_labels` finds the format and reads a split; each reader can be called with files of its own as well. COCO and
NUS-WIDE are used without the images that show none of their labels, so these are left out unless `keep_empty`; one's
own csv is taken as it is. An image that is listed but not there is an error, unless `skip_missing` leaves it out:
then the number of images that were used should be reported, as it differs between copies of NUS-WIDE.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ommatid.data.images import SPLITS, SUFFIXES, existing_folder, is_clutter
from ommatid.errors import InputError, shortened, unknown
from ommatid.files import csv_rows, numbered_lines, read_json, read_text

LABEL_FORMATS = ("coco", "nus-wide", "csv")
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_LABEL_COLUMNS = ("label", "labels")


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """The images of one split.

    Attributes:
        labels: True where an image shows a class.

    Raises:
        InputError: labels are not one row for each image and one column for each class.

    Examples:
        >>> images = LabelledImages((Path("1.jpg"),), torch.tensor([[True, False, True]]), ("cat", "dog", "chair"))
        >>> len(images), images.names(0)
        (1, ('cat', 'chair'))
    """

    paths: tuple[Path, ...]
    labels: Bool[Tensor, "image class"]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        found, expected = tuple(self.labels.shape), (len(self.paths), len(self.class_names))
        if found != expected:
            raise InputError(f"labels: found the shape {found}, expected {expected}, images and classes")

    def __len__(self) -> int:
        return len(self.paths)

    def names(self, index: int) -> tuple[str, ...]:
        """The classes that an image shows."""
        return tuple(self.class_names[label] for label in self.labels[index].nonzero()[:, 0].tolist())


def open_labels(
    root: str | Path,
    split: str = "train",
    format: str | None = None,
    keep_empty: bool | None = None,
    skip_missing: bool = False,
) -> LabelledImages:
    """The images of one split of a data set's folder; classes are numbered alike in all its splits.

    Args:
        split: "train", "val" or "test", one of `label_splits`.
        format: one of `LABEL_FORMATS`; `detect_label_format` finds it out if None.
        keep_empty: keep images without any label; if None, only in one's own csv.
        skip_missing: leave out images that are listed but not there.

    Raises:
        InputError: the folder is missing or in no known format, has no such split, a record is faulty (file and line
            or number of the record are named), images are missing, or none is left.
    """
    splits = _splits(Path(root), format or detect_label_format(root))
    if split not in splits:
        raise InputError(f"split: found {split!r}, expected one of those in {root}: {', '.join(splits)}")
    read, habit = splits[split]
    return read(keep_empty=habit if keep_empty is None else keep_empty, skip_missing=skip_missing)


def label_splits(root: str | Path, format: str | None = None) -> tuple[str, ...]:
    """Those of train, val and test that a data set's folder has with labels; a csv named otherwise is all "train".

    Raises:
        InputError: the folder is missing or in no known format.
    """
    return tuple(_splits(Path(root), format or detect_label_format(root)))


def detect_label_format(root: str | Path) -> str:
    """The one of `LABEL_FORMATS` that a folder is in.

    Raises:
        InputError: the folder is missing, or in none of the formats.
    """
    root = existing_folder(Path(root))
    marks: dict[str, Callable[[Path], Any]] = {"coco": coco_files, "nus-wide": _concepts_file, "csv": _csv_files}
    for format, found in marks.items():
        if found(root):
            return format
    raise InputError(
        f"{root}: found no annotations/instances_*.json, no Concepts81.txt and no csv, "
        f"expected one of the formats {', '.join(LABEL_FORMATS)}"
    )


def read_coco(
    file: str | Path, images: str | Path | None = None, keep_empty: bool = False, skip_missing: bool = False
) -> LabelledImages:
    """COCO's `instances_*.json`: an image's labels are the categories of its annotations, those of crowds included.

    Categories are numbered in the order of their ids, whose gaps close: 80 classes for ids up to 90.

    Args:
        images: the folder of the images; if None, the one named like the file (`train2014` for
            `instances_train2014.json`) beside the folder of annotations, perhaps in `images`.
        keep_empty: keep images without annotations.

    Raises:
        InputError: the file is no such json, a record lacks what is needed or names an unknown image or category
            (its number, from 1, is named), images are missing, or none is left.
    """
    file = Path(file)
    content = read_json(file, "annotations of COCO")
    if not isinstance(content, dict):
        raise InputError(f"{file}: found a {type(content).__name__}, expected an object with images and annotations")
    names = coco_classes(file, content)
    label_of = {category: label for label, category in enumerate(names)}
    index_of: dict[int, int] = {}
    paths: list[Path] = []
    folder = Path(images) if images is not None else coco_images(file)
    for number, record in json_records(file, content, "images", {"id": int, "file_name": str}):
        if record["id"] in index_of:
            raise InputError(f"{file}, images {number}: found the id {record['id']} again, expected one of its own")
        index_of[record["id"]] = len(paths)
        paths.append(folder / record["file_name"])
    shown = []
    for number, record in json_records(file, content, "annotations", {"image_id": int, "category_id": int}):
        for field, known in (("image_id", index_of), ("category_id", label_of)):
            if record[field] not in known:
                where = f"{file}, annotations {number}"
                raise InputError(f"{where}: found the {field} {record[field]}, expected one that the file describes")
        shown.append((index_of[record["image_id"]], label_of[record["category_id"]]))
    labels = _label_table(shown, len(paths), len(names))
    return _chosen(file, LabelledImages(tuple(paths), labels, tuple(names.values())), keep_empty, skip_missing)


def read_nus_wide(
    root: str | Path, split: str = "train", keep_empty: bool = False, skip_missing: bool = False
) -> LabelledImages:
    r"""NUS-WIDE: the list of a split's images and, for each concept, a file with 0 or 1 for each image of it.

    Lists name images as `actor\0001_2124494179.jpg`; they are looked for in `Flickr`, in `images`, and in the folder.

    Args:
        split: "train" or "test"; NUS-WIDE has no other.
        keep_empty: keep images with none of the 81 labels, which the protocol of tagging drops.

    Raises:
        InputError: a file is missing, has a row too many or too few or one that is neither 0 nor 1 (file and line are
            named), images are missing, or none is left.
    """
    root = existing_folder(Path(root))
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    concepts = _concepts_file(root)
    if concepts is None:
        raise InputError(f"{root}: found no ConceptsList/Concepts81.txt, expected the concepts of NUS-WIDE")
    names = tuple(text for _, text in numbered_lines(concepts))
    refuse_repeated(concepts, names)
    part = split.capitalize()
    source = _nus_wide_file(root, "ImageList", f"{part}Imagelist.txt")
    folder = next((root / name for name in ("Flickr", "images") if (root / name).is_dir()), root)
    paths = tuple(folder / _nus_wide_image(source, line, text) for line, text in numbered_lines(source))
    columns = [
        _flags(_nus_wide_file(root, "Groundtruth/TrainTestLabels", f"Labels_{name}_{part}.txt"), len(paths), source)
        for name in names
    ]
    if not columns:
        raise InputError(f"{concepts}: found nothing in it, expected the concepts of NUS-WIDE")
    labels = torch.from_numpy(np.stack(columns, axis=1))
    return _chosen(source, LabelledImages(paths, labels, names), keep_empty, skip_missing)


def read_label_csv(
    file: str | Path,
    images: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    keep_empty: bool = True,
    skip_missing: bool = False,
) -> LabelledImages:
    """One's own csv: `file,labels` with labels separated by semicolons, or `file` and a column of 0 and 1 per class.

    The first column is the image's file, whatever it is called; a second and last one called `label` or `labels`
    holds names, else every further column is a class.

    Args:
        images: folder that the files start from; that of the csv if None.
        class_names: the columns in their order, or the labels of all rows in alphabetical order, if None.
        keep_empty: keep images without labels.

    Raises:
        InputError: the header or a row is of another form, an image has a second row, a label is none of the classes
            (file and line are named), images are missing, or none is left.

    Examples:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "1.jpg").touch()
        >>> _ = (root / "mine.csv").write_text("file,labels\\n1.jpg,dog; cat\\n")
        >>> read_label_csv(root / "mine.csv").names(0)
        ('cat', 'dog')
    """
    table = _Table.read(Path(file))
    names = _table_classes([table]) if class_names is None else tuple(class_names)
    refuse_repeated(Path(file), names)
    label_of = {name: label for label, name in enumerate(names)}
    _refuse_other_columns(table, names)
    shown = []
    for index, row in enumerate(table.rows):
        for name in row.labels:
            if name not in label_of:
                raise InputError(
                    f"{table.file}, line {row.line}: found the label {name!r}, expected one of {len(names)} classes"
                )
            shown.append((index, label_of[name]))
    labels = _label_table(shown, len(table.rows), len(names))
    folder = Path(images) if images is not None else table.file.parent
    paths = tuple(folder / row.image for row in table.rows)
    return _chosen(table.file, LabelledImages(paths, labels, names), keep_empty, skip_missing)


def _splits(root: Path, format: str) -> dict[str, tuple[Callable[..., LabelledImages], bool]]:
    """What reads each split that there is, and whether it keeps images without labels unless told."""
    existing_folder(root)
    if format == "coco":
        readers: dict[str, Any] = {split: partial(read_coco, file) for split, file in coco_files(root).items()}
    elif format == "nus-wide":
        readers = {split: partial(read_nus_wide, root, split) for split in ("train", "test")}
    elif format == "csv":
        files = _csv_files(root)
        readers = {split: partial(_read_csv_of_several, file, root, files) for split, file in files.items()}
    else:
        raise unknown("label format", format, LABEL_FORMATS)
    if not readers:
        raise InputError(f"{root}: found no split with labels, expected one in the format {format}")
    return {split: (readers[split], format == "csv") for split in SPLITS if split in readers}


def _read_csv_of_several(
    file: Path, root: Path, files: dict[str, Path], keep_empty: bool, skip_missing: bool
) -> LabelledImages:
    """A csv whose classes are those of all splits."""
    given = root / "classes.txt"
    if given.is_file():
        names = tuple(text for _, text in numbered_lines(given))
        refuse_repeated(given, names)
    else:
        names = _table_classes([_Table.read(files[split]) for split in SPLITS if split in files])
    return read_label_csv(file, class_names=names, keep_empty=keep_empty, skip_missing=skip_missing)


def _label_table(shown: Sequence[tuple[int, int]], images: int, classes: int) -> Bool[Tensor, "image class"]:
    """True where a pair of image and class says so."""
    labels = torch.zeros(images, classes, dtype=torch.bool)
    if shown:
        image, label = torch.tensor(shown).unbind(dim=1)
        labels[image, label] = True
    return labels


def _chosen(source: Path, images: LabelledImages, keep_empty: bool, skip_missing: bool) -> LabelledImages:
    """The images that have labels, or all, and whose files are there."""
    if len(images) and not images.class_names:
        raise InputError(f"{source}: found no labels, expected at least one")
    wanted = (images.labels.any(dim=1) | keep_empty).nonzero()[:, 0].tolist()
    if not wanted:
        raise InputError(f"{source}: found no images{'' if keep_empty else ' with labels'}, expected at least one")
    there = [index for index in wanted if images.paths[index].is_file()]
    missing = len(wanted) - len(there)
    if missing and (not skip_missing or not there):
        first = next(images.paths[index] for index in wanted if not images.paths[index].is_file())
        raise InputError(
            f"{source}: {missing} of {len(wanted)} images are missing, expected each as a file (first: {first})"
        )
    return LabelledImages(tuple(images.paths[index] for index in there), images.labels[there], images.class_names)


# COCO.


def coco_files(root: Path) -> dict[str, Path]:
    """The annotations of every split; a folder may hold those of one year only."""
    found: dict[str, Path] = {}
    for file in (file for place in ("annotations", "") for file in sorted((root / place).glob("instances_*.json"))):
        named = re.fullmatch(rf"instances_({'|'.join(SPLITS)})\d*", file.stem)
        if named and named[1] in found:
            raise InputError(f"{file}: found a second list of {named[1]}, expected {found[named[1]].name} alone")
        if named:
            found[named[1]] = file
    return found


def coco_images(file: Path) -> Path:
    """The folder of the images that a file of annotations is of."""
    name, root = file.stem.removeprefix("instances_"), file.parent
    root = root.parent if root.name == "annotations" else root
    for folder in (root / name, root / "images" / name):
        if folder.is_dir():
            return folder
    raise InputError(f"{root}: found no folder {name} and no images/{name}, expected the images of {file.name}")


def coco_classes(file: Path, content: dict[str, Any]) -> dict[int, str]:
    """Names by id, ids ascending."""
    found: dict[int, str] = {}
    for number, record in json_records(file, content, "categories", {"id": int, "name": str}):
        if record["id"] in found:
            raise InputError(f"{file}, categories {number}: found the id {record['id']} again, expected one of its own")
        found[record["id"]] = record["name"]
    refuse_repeated(file, tuple(found.values()))
    return dict(sorted(found.items()))


def json_records(
    file: Path, content: dict[str, Any], key: str, fields: dict[str, type]
) -> Iterable[tuple[int, dict[str, Any]]]:
    """Number, from 1, and content of every record of a list, with the fields that are needed."""
    records = content.get(key)
    if not isinstance(records, list):
        raise InputError(f"{file}: found no list {key!r}, expected annotations of COCO")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or any(type(record.get(name)) is not kind for name, kind in fields.items()):
            expected = " and ".join(f"{name} ({_KINDS[kind]})" for name, kind in fields.items())
            raise InputError(f"{file}, {key} {number}: found {shortened(record)}, expected {expected}")
        yield number, record


_KINDS = {int: "a whole number", str: "a text"}


# NUS-WIDE.


def _concepts_file(root: Path) -> Path | None:
    files = (root / place / "Concepts81.txt" for place in ("ConceptsList", ""))
    return next((file for file in files if file.is_file()), None)


def _nus_wide_file(root: Path, folder: str, name: str) -> Path:
    """A file where the archive has it, or with the last folder of its place at the root."""
    places = (root / folder / name, root / Path(folder).name / name)
    return next((file for file in places if file.is_file()), places[0])


def _nus_wide_image(file: Path, line: int, text: str) -> str:
    name = text.replace("\\", "/")
    if Path(name).suffix.lower() not in SUFFIXES:
        raise InputError(f"{file}, line {line}: found {shortened(text)}, expected concept\\number_id.jpg")
    return name


def _flags(file: Path, count: int, images: Path) -> Bool[np.ndarray, "image"]:
    rows = read_text(file, "labels of NUS-WIDE").rstrip().splitlines()
    # Of 81 files with more than a hundred thousand rows each: compared as arrays, and searched only if one is faulty.
    flags = np.array([row.strip() for row in rows], dtype=str)
    known = (flags == "0") | (flags == "1")
    if not known.all():
        line = int((~known).argmax())
        raise InputError(f"{file}, line {line + 1}: found {shortened(rows[line])}, expected 0 or 1")
    if len(flags) != count:
        raise InputError(f"{file}: found {len(flags)} rows, expected {count}, one for each image of {images.name}")
    return flags == "1"


# One's own csv.


@dataclass(frozen=True)
class _Row:
    line: int
    image: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    """A csv of either form; `columns` are its classes if it has a column for each."""

    file: Path
    columns: tuple[str, ...] | None
    rows: tuple[_Row, ...]

    @classmethod
    def read(cls, file: Path) -> "_Table":
        (line, header), *rows = _csv_rows(file)
        where = f"{file}, line {line}"
        if len(header) < 2 or not all(header) or Path(header[0]).suffix.lower() in SUFFIXES:
            raise InputError(
                f"{where}: found {shortened(','.join(header))}, expected a header, file,labels or file,class,..."
            )
        columns = None if len(header) == 2 and header[1].lower() in _LABEL_COLUMNS else tuple(header[1:])
        refuse_repeated(file, columns or ())
        parsed: list[_Row] = []
        first: dict[str, int] = {}
        for line, cells in rows:
            row = cls._row(f"{file}, line {line}", line, cells, columns)
            if row.image in first:
                raise InputError(
                    f"{file}, line {line}: found {row.image} again, expected one row for each image "
                    f"(the first is line {first[row.image]})"
                )
            first[row.image] = line
            parsed.append(row)
        return cls(file, columns, tuple(parsed))

    @staticmethod
    def _row(where: str, line: int, cells: list[str], columns: tuple[str, ...] | None) -> _Row:
        image, *values = cells
        expected = len(columns or ("labels",))
        if not image or len(values) != expected:
            found = f"{len(values)} cells after {shortened(image)}" if image else "no file"
            raise InputError(f"{where}: found {found}, expected a file and {expected} more as in the header")
        if columns is None:
            labels = tuple(label.strip() for label in values[0].split(";")) if values[0] else ()
            if not all(labels):
                raise InputError(f"{where}: found {shortened(values[0])}, expected labels with one ; between them")
            return _Row(line, image, labels)
        for name, value in zip(columns, values, strict=True):
            if value not in ("0", "1"):
                raise InputError(f"{where}: found {shortened(value)} for {name}, expected 0 or 1")
        return _Row(line, image, tuple(name for name, value in zip(columns, values, strict=True) if value == "1"))


def _csv_files(root: Path) -> dict[str, Path]:
    """The csv of every split, by a word of its name; one that is alone and named otherwise is that of training."""
    files = [file for file in sorted(root.glob("*.csv")) if file.is_file() and not is_clutter(Path(file.name))]
    found: dict[str, Path] = {}
    for file in files:
        for split in {_SPLIT_NAMES[word] for word in re.findall("[a-z]+", file.stem.lower()) if word in _SPLIT_NAMES}:
            if split in found:
                raise InputError(f"{file}: found a second list of {split}, expected one beside {found[split].name}")
            found[split] = file
    if not found and len(files) > 1:
        raise InputError(f"{files[0]}: found one of {len(files)} csv files, expected train, val or test in their names")
    return found if found or not files else {"train": files[0]}


def _table_classes(tables: Sequence[_Table]) -> tuple[str, ...]:
    """The columns of the first table that has some, or all labels in alphabetical order."""
    columns = next((table.columns for table in tables if table.columns is not None), None)
    return columns or tuple(sorted({name for table in tables for row in table.rows for name in row.labels}))


def _refuse_other_columns(table: _Table, names: Sequence[str]) -> None:
    """A class without a column would be taken for one that no image shows."""
    if table.columns is None:
        return
    for name in table.columns:
        if name not in names:
            raise InputError(f"{table.file}: found the column {name!r}, expected one of the {len(names)} classes")
    for name in names:
        if name not in table.columns:
            raise InputError(f"{table.file}: found no column {name!r}, expected one for each of {len(names)} classes")


def _csv_rows(file: Path) -> list[tuple[int, list[str]]]:
    """Number and cells of every line that is not blank, the header at least."""
    rows = csv_rows(file, "a csv of images and labels")
    if not rows:
        raise InputError(f"{file}: found nothing in it, expected a csv of images and labels")
    return rows


# Files.


def refuse_repeated(file: Path, names: Sequence[str]) -> None:
    """Classes of equal names could not be told apart.

    Raises:
        InputError: a name occurs twice.
    """
    if len(set(names)) < len(names):
        name = next(name for index, name in enumerate(names) if name in names[:index])
        raise InputError(f"{file}: found the class {name!r} twice, expected classes of different names")
