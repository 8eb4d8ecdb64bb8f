"""Data sets of few-shot learning: the classes to learn from, to validate on and to test on are different ones.

| format | files |
|---|---|
| "folder" | `<root>/{train,val,test}/<class>/*`, as of tieredImageNet and of miniImageNet with images |
| "csv" | `<root>/{train,val,test}.csv` with lines `filename,label`; images below `images/` or the root |
| "pickle" | `mini-imagenet-cache-{train,val,test}.pkl` with `image_data` and `class_dict`; nothing in it is executed |
| "cub" | `CUB_200_2011/`: `images/`, `images.txt`, `image_class_labels.txt`, `classes.txt`, `bounding_boxes.txt` |
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from ommatid.data.images import (
    SPLITS,
    Constants,
    ImageFiles,
    class_folders,
    existing_folder,
    images_in,
)
from ommatid.data.pickles import as_text, unpickled_dictionary
from ommatid.errors import InputError, shortened, unknown
from ommatid.files import csv_rows, numbered_lines

FEW_SHOT_FORMATS = ("folder", "csv", "pickle", "cub")
MINI_IMAGENET: Constants = ((0.4712, 0.4499, 0.4031), (0.2726, 0.2634, 0.2794))
TIERED_IMAGENET: Constants = ((0.4783, 0.4564, 0.4101), (0.2634, 0.2577, 0.2709))


@dataclass(frozen=True, eq=False)
class FewShotImages:
    """Images of one part.

    Attributes:
        images: bytes in memory, or files that are read when asked for.
        labels: class of every image, counted within the part.
        class_names: of this part alone.
        boxes: top, left, height and width of the object in pixels of the image as it is stored; None where unknown.
    """

    images: Tensor | ImageFiles
    labels: Int[Tensor, "image"]
    class_names: tuple[str, ...]
    boxes: Float[Tensor, "image 4"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def box(self, index: int, size: int) -> Float[Tensor, "4"]:
        """The object's box once the image is resized to `size` by `size`; NaN where unknown."""
        if self.boxes is None:
            return torch.full((4,), torch.nan)
        height, width = self._stored_size(index)
        return self.boxes[index] * size / torch.tensor([height, width, height, width])

    def _stored_size(self, index: int) -> tuple[int, int]:
        if isinstance(self.images, Tensor):
            return int(self.images.shape[2]), int(self.images.shape[3])
        path = self.images.paths[index]
        try:
            with Image.open(path) as file:  # the header alone is read
                return file.height, file.width
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{path}: found a damaged or missing file ({error}), expected an image") from error


def detect_few_shot_format(root: str | Path) -> str:
    """The format of the files in a folder; "folder" where there is nothing else to see."""
    root = existing_folder(Path(root))
    if (root / "mini-imagenet-cache-train.pkl").is_file():
        return "pickle"
    if (root / "train.csv").is_file():
        return "csv"
    if (_cub_folder(root) / "image_class_labels.txt").is_file():
        return "cub"
    return "folder"


def read_few_shot(root: str | Path, format: str = "auto", size: int | None = None) -> dict[str, FewShotImages]:
    """All three parts, `train`, `val` and `test`.

    Args:
        format: one of `FEW_SHOT_FORMATS`, or "auto", which looks at the files.
        size: height and width that files are resized to; they keep theirs where None.

    Raises:
        InputError: the folder or a part is missing, a list or a file is damaged, or a class is in two parts.
    """
    root = existing_folder(Path(root))
    format = detect_few_shot_format(root) if format == "auto" else format
    if format not in FEW_SHOT_FORMATS:
        raise unknown("format of few-shot data", format, FEW_SHOT_FORMATS)
    if format == "cub":
        found = _read_cub(_cub_folder(root), size)
    else:
        read = {"folder": _read_folder, "csv": _read_csv, "pickle": _read_pickle}[format]
        found = {split: read(root, split, size) for split in SPLITS}
    _check_disjoint(root, found)
    return found


def _check_disjoint(root: Path, found: dict[str, FewShotImages]) -> None:
    home: dict[str, str] = {}
    for split, part in found.items():
        for name in part.class_names:
            if name in home:
                raise InputError(f"{root}: found the class {name!r} in {home[name]} and in {split}, expected it in one")
            home[name] = split


def _part(
    pairs: Sequence[tuple[Path, str]], size: int | None, boxes: Float[Tensor, "image 4"] | None = None
) -> FewShotImages:
    names = tuple(sorted({label for _, label in pairs}))
    numbers = {name: number for number, name in enumerate(names)}
    labels = torch.tensor([numbers[label] for _, label in pairs])
    return FewShotImages(ImageFiles([path for path, _ in pairs], 3, size), labels, names, boxes)


def _read_folder(root: Path, split: str, size: int | None) -> FewShotImages:
    if not (root / split).is_dir():
        raise InputError(f"{root}: found no folder {split!r}, expected train, val and test, each of other classes")
    return _part([(path, folder.name) for folder in class_folders(root / split) for path in images_in(folder)], size)


def _read_csv(root: Path, split: str, size: int | None) -> FewShotImages:
    file = root / f"{split}.csv"
    folder = root / "images" if (root / "images").is_dir() else root
    (_, header), *rows = csv_rows(file, "lines of filename and label") or [(1, [])]
    if not {"filename", "label"} <= set(header):
        raise InputError(f"{file}: found the columns {header}, expected filename and label")
    pairs = []
    for number, cells in rows:
        row = dict(zip(header, cells, strict=False))
        if not row.get("filename") or not row.get("label"):
            raise InputError(f"{file}, line {number}: found an empty field, expected a file name and a label")
        pairs.append((folder / row["filename"], row["label"]))
    if not pairs:
        raise InputError(f"{file}: found no images, expected one on each line")
    if not pairs[0][0].is_file():
        raise InputError(f"{file}, line 2: found no image {pairs[0][0]}, expected the files below {folder}")
    return _part(pairs, size)


def _read_pickle(root: Path, split: str, size: int | None) -> FewShotImages:
    """Images in memory; they keep their size until they are asked for."""
    file = root / f"mini-imagenet-cache-{split}.pkl"
    record = unpickled_dictionary(file, "found no such file, expected the pickle of a part", "images")
    images, members = record.get("image_data"), record.get("class_dict")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise InputError(f"{file}: found image_data of {found}, expected bytes (n, height, width, 3)")
    if not isinstance(members, dict) or not members:
        raise InputError(f"{file}: found class_dict of {type(members).__name__}, expected lists of numbers by class")
    rows, labels, names = [], [], sorted(as_text(name) for name in members)
    by_name = {as_text(name): numbers for name, numbers in members.items()}
    for label, name in enumerate(names):
        numbers = np.asarray(by_name[name])
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise InputError(f"{file}, class {name}: found {numbers.dtype} {numbers.shape}, expected numbers of images")
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(images):
            raise InputError(f"{file}, class {name}: found image {numbers.max()}, expected 0 to {len(images) - 1}")
        rows += numbers.tolist()
        labels += [label] * len(numbers)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    # A view where all images are listed in order, as in the files that circulate: they need not be copied.
    chosen = pixels if rows == list(range(len(images))) else pixels[torch.tensor(rows, dtype=torch.long)]
    return FewShotImages(chosen, torch.tensor(labels, dtype=torch.long), tuple(names))


def _cub_folder(root: Path) -> Path:
    return root / "CUB_200_2011" if (root / "CUB_200_2011").is_dir() else root


def _read_cub(root: Path, size: int | None) -> dict[str, FewShotImages]:
    """Every second class to learn from; of the others in turn one to validate on and one to test on."""
    paths = {number: rest for number, (rest,) in _table(root / "images.txt", 1)}
    owners = {number: int(label) for number, (label,) in _table(root / "image_class_labels.txt", 1, int)}
    names = {number: rest for number, (rest,) in _table(root / "classes.txt", 1)}
    boxes = dict(_table(root / "bounding_boxes.txt", 4, float))
    pairs: dict[str, list[tuple[Path, str]]] = {split: [] for split in SPLITS}
    found: dict[str, list[list[float]]] = {split: [] for split in SPLITS}
    for number, path in paths.items():
        if owners.get(number) not in names:
            raise InputError(
                f"{root / 'image_class_labels.txt'}, image {number}: found the class {owners.get(number)}, expected "
                f"one of the {len(names)} in classes.txt"
            )
        if number not in boxes:
            raise InputError(f"{root / 'bounding_boxes.txt'}: found no box of image {number}, expected one of each")
        split = ("train", "val", "train", "test")[(owners[number] - 1) % 4]
        left, top, width, height = boxes[number]
        pairs[split].append((root / "images" / path, names[owners[number]]))
        found[split].append([top, left, height, width])
    for split, each in pairs.items():
        if not each:
            raise InputError(f"{root / 'images.txt'}: found no images of the part {split}, expected all classes of CUB")
    return {split: _part(pairs[split], size, torch.tensor(found[split])) for split in SPLITS}


def _table(file: Path, columns: int, kind: type = str) -> Iterator[tuple[int, list[Any]]]:
    """Lines of a number and what it stands for."""
    for place, line in numbered_lines(file, "a list of CUB_200_2011"):
        number, *rest = line.split()
        try:
            if len(rest) != columns:
                raise ValueError
            yield int(number), [kind(each) for each in rest]
        except ValueError:
            expected = f"a number and {columns} value{'s' * (columns > 1)}"
            raise InputError(f"{file}, line {place}: found {shortened(line)}, expected {expected}") from None
