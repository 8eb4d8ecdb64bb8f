"""How images and masks lie on disk: lists of pairs, and folders of both, one's own and those of saliency sets.

For every format `FORMATS` has how it is told by its files, and what reads each of its parts. Official sets with lists
of another kind are in `ommatid.data.mask_benchmarks`; `ommatid.data.masks` is what opens all of them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ommatid.data.images import SPLITS, SUFFIXES, is_clutter, subfolders
from ommatid.data.label_lists import refuse_repeated
from ommatid.data.mask_maps import FileMap, LabelMap, MapSource, class_ids, own_mask, soft_mask
from ommatid.errors import InputError, shortened
from ommatid.files import numbered_lines

FOREGROUND = ("foreground",)
TILE = re.compile(r"(?P<slide>.+)_(?P<x>\d+)_(?P<y>\d+)")
Decode = Callable[[Path], LabelMap]


class Origin(NamedTuple):
    """Where a tile lies on its slide: its left upper corner, in pixels."""

    slide: str
    x: int
    y: int


class Record(NamedTuple):
    """One image; `map` is None where it is unlabelled, `category` 0 where it has none."""

    image: Path
    map: MapSource | None
    category: int = 0
    origin: Origin | None = None


class Listing(NamedTuple):
    """The images of one part, and the file or folder that tells of them."""

    source: Path
    records: list[Record]
    class_names: tuple[str, ...] = FOREGROUND


Parts = dict[str, Callable[[], Listing]]


@dataclass(frozen=True)
class MaskFormat:
    """One format.

    Attributes:
        found: whether the files in a folder are of this format.
        parts: what reads train, val and test, as many as there are, and other parts that the format has by name.
    """

    found: Callable[[Path], Any]
    parts: Callable[[Path], Parts]


# Folders of images and of masks.


SALIENCY_SETS: Mapping[str, tuple[str, str]] = {
    "dut-omron": ("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
    "hku-is": ("imgs", "gt"),
    "ecssd": ("images", "ground_truth_mask"),
}


def both(root: Path, images: str, masks: str) -> bool:
    return (root / images).is_dir() and (root / masks).is_dir()


def _set_parts(root: Path, images: str, masks: str) -> Parts:
    return {"train": partial(_paired, root / images, root / masks, soft_mask, complete=True)}


def _own_found(root: Path, images: str) -> bool:
    return any(both(place, images, "masks") for place in (root, *(root / split for split in SPLITS)))


def _own_parts(root: Path, images: str) -> Parts:
    """One's own folders; without splits all is to train with."""
    places = {split: root / split for split in SPLITS if (root / split / images).is_dir()}
    if not places and (root / images).is_dir():
        places = {"train": root}
    return {split: partial(_own_listing, root, place, images) for split, place in places.items()}


def _own_listing(root: Path, place: Path, images: str) -> Listing:
    class_names, decode = _own_classes(root)
    listing = _paired(place / images, place / "masks", decode, complete=False)
    records = listing.records if images != "tiles" else [_with_origin(record) for record in listing.records]
    return Listing(place / images, records, class_names)


def _own_classes(root: Path) -> tuple[tuple[str, ...], Decode]:
    """The lines of classes.txt, less a first one that is background, and what reads the masks beside it."""
    given = root / "classes.txt"
    if not given.is_file():
        return FOREGROUND, own_mask
    names = tuple(text for _, text in numbered_lines(given))
    if names and names[0].strip("_").lower() == "background":
        names = names[1:]
    if not names:
        raise InputError(f"{given}: found no classes, expected the name of one on every line")
    refuse_repeated(given, names)
    return names, partial(class_ids, classes=len(names))


def _with_origin(record: Record) -> Record:
    named = TILE.fullmatch(record.image.stem)
    if named is None:
        raise InputError(f"{record.image}: found another name, expected <slide>_<x>_<y>{record.image.suffix}")
    return record._replace(origin=Origin(named["slide"], int(named["x"]), int(named["y"])))


def _paired(images: Path, masks: Path, decode: Decode, complete: bool) -> Listing:
    """Images and masks of equal names; where masks are not `complete`, images without are unlabelled."""
    pictures, known = _pictures(images), _pictures(masks)
    refuse_strays(pictures, known, images)
    if complete:
        _refuse_missing(masks, {image: stem in known for stem, image in pictures.items()})
    return Listing(images, [Record(image, file_map(known.get(stem), decode)) for stem, image in pictures.items()])


def file_map(mask: Path | None, decode: Decode) -> FileMap | None:
    return None if mask is None else FileMap(mask, decode)


def refuse_strays(images: Mapping[str, Path], masks: Mapping[str, Path], folder: Path) -> None:
    """A mask whose image is missing is more likely a misspelt name than one too many."""
    for stem in sorted(masks.keys() - images.keys()):
        raise InputError(f"{masks[stem]}: found a mask without an image, expected one called {stem} in {folder}")


def _refuse_missing(folder: Path, labelled: Mapping[Path, bool]) -> None:
    missing = [image for image, there in labelled.items() if not there]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(labelled)} masks are missing, expected one for each image "
            f"(first: that of {missing[0].name})"
        )


def _pictures(folder: Path) -> dict[str, Path]:
    """All images below a folder by their paths from there on, less the ending."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        inner = path.relative_to(folder)
        if not path.is_file() or is_clutter(inner):
            continue
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: found the ending {path.suffix!r}, expected an image ({' '.join(SUFFIXES)})")
        stem = inner.with_suffix("").as_posix()
        if stem in found:
            raise InputError(f"{path}: found a second image of this name, expected {found[stem].name} alone")
        found[stem] = path
    return found


# Lists of pairs.


PAIR_FILES = {
    "train": ("train.txt",),
    "val": ("val.txt",),
    "test": ("test.txt", "test_data.txt"),
    "shot": ("shot.txt",),
    "all": ("full_data.txt",),
}


def _pair_files(root: Path) -> dict[str, Path]:
    """The lists of pairs by what they are of; texts of other data sets may have the same names."""
    return {
        part: root / name
        for part, names in PAIR_FILES.items()
        for name in names
        if (root / name).is_file() and _has_pair(root / name)
    }


def _has_pair(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        for _, line in zip(range(1000), lines, strict=False):
            words = _words(line.strip())
            if len(words) == 2 and all(Path(word).suffix.lower() in SUFFIXES for word in words):
                return True
    return False


def _words(line: str) -> list[str]:
    return [word.strip() for word in line.split("\t")] if "\t" in line else line.split()


def _pair_parts(root: Path) -> Parts:
    """The files of parts; the few labelled pairs train where nothing else does."""
    there = {part: [root / name for name in names if (root / name).is_file()] for part, names in PAIR_FILES.items()}
    whole = there.pop("all")
    for part in SPLITS:
        files = whole + there[part]
        if len(files) > 1:
            raise InputError(f"{files[1]}: found a second list of {part}, expected {files[0].name} alone")
    readers: Parts = {part: partial(_pairs, files[0], root) for part, files in there.items() if files}
    if whole:
        readers |= {split: partial(_pairs_in_order, whole[0], root, split) for split in SPLITS}
    if "shot" in readers:
        readers.setdefault("train", readers["shot"])
    return readers


def _pairs_in_order(file: Path, root: Path, split: str) -> Listing:
    """Trans-Net's split by order: the first 80 % of the first 80 % are for training, the last 20 % for testing."""
    listing = _pairs(file, root)
    tested = int(0.8 * len(listing.records))
    trained = int(0.8 * tested)
    part = {"train": slice(0, trained), "val": slice(trained, tested), "test": slice(tested, None)}[split]
    return listing._replace(records=listing.records[part])


def _pairs(file: Path, root: Path) -> Listing:
    """One image a line, and its mask unless it is unlabelled."""
    class_names, decode = _own_classes(root)
    records = []
    for number, line in numbered_lines(file):
        words = _words(line)
        if len(words) > 2:
            raise InputError(
                f"{file}, line {number}: found {shortened(line)}, expected an image and its mask, "
                f"with a tab between where names have blanks"
            )
        there = [
            existing(root / word.replace("\\", "/"), f"{file}, line {number}", kind)
            for word, kind in zip(words, ("the image", "the mask"), strict=False)
        ]
        records.append(Record(there[0], FileMap(there[1], decode) if len(there) == 2 else None))
    return Listing(file, records, class_names)


def existing(path: Path, where: str, kind: str) -> Path:
    if not path.is_file():
        raise InputError(f"{where}: found no file {path}, expected {kind}")
    return path


# Saliency: MSRA10K and THUR15K.


def _msra_folder(root: Path) -> Path:
    return next(
        (place for place in (root / "Imgs", root / "MSRA10K_Imgs_GT" / "Imgs") if place.is_dir()), root / "Imgs"
    )


def _msra_found(root: Path) -> bool:
    return any(path.with_suffix(".png").is_file() for path in _msra_folder(root).glob("*.jpg"))


def _msra_parts(root: Path) -> Parts:
    folder = _msra_folder(root)
    return {"train": partial(_msra_listing, folder)} if folder.is_dir() else {}


def _msra_listing(folder: Path) -> Listing:
    listing = _beside(folder, soft_mask)
    _refuse_missing(folder, {record.image: record.map is not None for record in listing.records})
    return listing


def _beside(folder: Path, decode: Decode, category: int = 0) -> Listing:
    """JPEG images and PNG masks in one folder; images without masks are unlabelled."""
    images, masks = (
        {path.stem: path for path in sorted(folder.glob(f"*{ending}")) if not is_clutter(Path(path.name))}
        for ending in (".jpg", ".png")
    )
    refuse_strays(images, masks, folder)
    return Listing(
        folder, [Record(image, file_map(masks.get(stem), decode), category) for stem, image in images.items()]
    )


def _thur_folders(root: Path) -> list[Path]:
    """`<Class>/Src` of all classes."""
    for place in (root, root / "THUR15000"):
        sources = [folder / "Src" for folder in subfolders(place)] if place.is_dir() else []
        if found := [folder for folder in sources if any(folder.glob("*.jpg"))]:
            return found
    return []


def _thur_parts(root: Path) -> Parts:
    folders = _thur_folders(root)
    return {"train": partial(_thur_listing, root, folders)} if folders else {}


def _thur_listing(root: Path, folders: list[Path]) -> Listing:
    """Folders are classes; a mask shows that of its folder, an image without a mask is still known to be of it."""
    records = [
        record
        for category, folder in enumerate(folders, start=1)
        for record in _beside(folder, partial(_soft_mask_of, category=category), category).records
    ]
    return Listing(root, records, tuple(folder.parent.name for folder in folders))


def _soft_mask_of(path: Path, category: int) -> LabelMap:
    return soft_mask(path) * np.uint8(category)


# A folder is of the first that is found.
FORMATS = {
    "thur15k": MaskFormat(_thur_folders, _thur_parts),
    **{
        name: MaskFormat(partial(both, images=images, masks=masks), partial(_set_parts, images=images, masks=masks))
        for name, (images, masks) in SALIENCY_SETS.items()
    },
    "msra10k": MaskFormat(_msra_found, _msra_parts),
    "pairs": MaskFormat(_pair_files, _pair_parts),
    "tiles": MaskFormat(partial(_own_found, images="tiles"), partial(_own_parts, images="tiles")),
    "folder": MaskFormat(partial(_own_found, images="images"), partial(_own_parts, images="images")),
}
