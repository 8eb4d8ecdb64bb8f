"""Official segmentation sets with lists of their own: CUB, Oxford's flowers, GlaS, PASCAL VOC, SBD and COCO.

For every format `FORMATS` has how it is told by its files, and what reads each of its parts.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ommatid.data.images import SPLITS
from ommatid.data.label_lists import (
    coco_classes,
    coco_files,
    coco_images,
    json_records,
)
from ommatid.data.mask_formats import Listing, MaskFormat, Parts, Record, both, existing, file_map, refuse_strays
from ommatid.data.mask_maps import (
    CocoMap,
    FileMap,
    any_instance,
    class_ids,
    mat_entries,
    not_blue,
    sbd_classes,
    soft_mask,
)
from ommatid.errors import InputError, shortened
from ommatid.files import numbered_lines, read_json

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
VOC_PARTS = (*SPLITS, "trainval")
VOC_MAP = partial(class_ids, classes=len(VOC_CLASSES))
SBD_PARTS = ("train", "val", "train_noval")
SBD_MAP = partial(sbd_classes, classes=len(VOC_CLASSES))
FLOWER_PARTS = {"train": "trnid", "val": "valid", "test": "tstid"}
GLAS_FOLDER = "Warwick QU Dataset*"
GLAS_PARTS = {"train": "train", "test": "test[AB]", "testA": "testA", "testB": "testB"}


# CUB-200-2011, Oxford's flowers, GlaS.


def _cub_folders(root: Path) -> tuple[Path, Path] | None:
    """Where the lists lie, and where the separate archive of segmentations was unpacked."""
    folder = root / "CUB_200_2011" if (root / "CUB_200_2011").is_dir() else root
    if not (folder / "images.txt").is_file() or not (folder / "train_test_split.txt").is_file():
        return None
    masks = (place / "segmentations" for place in (folder, root, folder.parent))
    return next(((folder, place) for place in masks if place.is_dir()), None)


def _cub_parts(root: Path) -> Parts:
    found = _cub_folders(root)
    return {} if found is None else {split: partial(_cub_listing, *found, split) for split in ("train", "test")}


def _cub_listing(folder: Path, masks: Path, split: str) -> Listing:
    names, flags = (_cub_table(folder / name) for name in ("images.txt", "train_test_split.txt"))
    records = []
    for number, (where, name) in names.items():
        if number not in flags or flags[number][1] not in ("0", "1"):
            found = "no line" if number not in flags else shortened(flags[number][1])
            raise InputError(
                f"{folder / 'train_test_split.txt'}: found {found} for the image {number}, expected 1 (train) or 0"
            )
        if (flags[number][1] == "1") == (split == "train"):
            mask = existing(masks / Path(name).with_suffix(".png"), where, "the segmentation of an image")
            records.append(Record(existing(folder / "images" / name, where, "an image"), FileMap(mask, soft_mask)))
    return Listing(folder / "images.txt", records)


def _cub_table(file: Path) -> dict[str, tuple[str, str]]:
    """Place and second word of every line by its first."""
    rows: dict[str, tuple[str, str]] = {}
    for line, text in numbered_lines(file):
        words = text.split()
        if len(words) != 2:
            raise InputError(
                f"{file}, line {line}: found {shortened(text)}, expected the number of an image and a word"
            )
        rows[words[0]] = (f"{file}, line {line}", words[1])
    return rows


def _flower_parts(root: Path) -> Parts:
    """The official parts where `setid.mat` is there, else all to train with."""
    splits = SPLITS if (root / "setid.mat").is_file() else ("train",)
    return {split: partial(_flowers, root, split) for split in splits} if (root / "jpg").is_dir() else {}


def _flowers(root: Path, split: str) -> Listing:
    lists = root / "setid.mat"
    if not lists.is_file():
        images = sorted((root / "jpg").glob("image_*.jpg"))
        return Listing(root / "jpg", [_flower(root, image) for image in images])
    numbers = mat_entries(lists, *FLOWER_PARTS.values())[FLOWER_PARTS[split]].ravel()
    if numbers.dtype.kind not in "ui":
        raise InputError(f"{lists}: found {FLOWER_PARTS[split]} of {numbers.dtype}, expected numbers of images")
    images = [root / "jpg" / f"image_{number:05d}.jpg" for number in numbers.tolist()]
    where = f"{lists}, {FLOWER_PARTS[split]}"
    return Listing(lists, [_flower(root, existing(image, where, "an image")) for image in images])


def _flower(root: Path, image: Path) -> Record:
    mask = root / "segmim" / f"{image.stem.replace('image_', 'segmim_')}.jpg"
    return Record(image, FileMap(mask, not_blue) if mask.is_file() else None)


def _glas_folder(root: Path) -> Path:
    inner = sorted(root.glob(GLAS_FOLDER))
    return inner[0] if inner and not any(root.glob("*_anno.bmp")) else root


def _glas_found(root: Path) -> bool:
    folder = _glas_folder(root)
    return any(folder.glob("train_[0-9]*_anno.bmp")) or any(folder.glob("test[AB]_[0-9]*_anno.bmp"))


def _glas_parts(root: Path) -> Parts:
    folder = _glas_folder(root)
    return {
        part: partial(_glas, folder, pattern)
        for part, pattern in GLAS_PARTS.items()
        if any(folder.glob(f"{pattern}_[0-9]*.bmp"))
    }


def _glas(folder: Path, pattern: str) -> Listing:
    """Images in the order of their numbers; those without annotations are unlabelled."""
    files = sorted(folder.glob(f"{pattern}_[0-9]*.bmp"), key=_number)
    images = {path.stem: path for path in files if not path.stem.endswith("_anno")}
    masks = {path.stem.removesuffix("_anno"): path for path in files if path.stem.endswith("_anno")}
    refuse_strays(images, masks, folder)
    return Listing(folder, [Record(image, file_map(masks.get(stem), any_instance)) for stem, image in images.items()])


def _number(path: Path) -> tuple[str, int, str]:
    part, number, *_ = path.stem.split("_")
    return part, int(number) if number.isdecimal() else 0, number


# PASCAL VOC, SBD, COCO.


def _voc_folders(root: Path) -> list[Path]:
    """The folder of every year whose segmentations are there."""
    places = [root, *(path for place in (root, root / "VOCdevkit") for path in sorted(place.glob("VOC[0-9]*")))]
    return [
        place
        for place in places
        if (place / "SegmentationClass").is_dir() and (place / "ImageSets" / "Segmentation").is_dir()
    ]


def _voc_parts(root: Path) -> Parts:
    years = _voc_folders(root)
    if len(years) > 1:
        raise InputError(f"{root}: found {' and '.join(path.name for path in years)}, expected the folder of one year")
    lists = {part: place / "ImageSets" / "Segmentation" / f"{part}.txt" for place in years for part in VOC_PARTS}
    return {part: partial(_voc, years[0], file) for part, file in lists.items() if file.is_file()}


def _voc(folder: Path, lists: Path) -> Listing:
    """Maps of the test part are kept back in some years, so that it is unlabelled."""
    records = []
    for number, name in numbered_lines(lists):
        where, mask = f"{lists}, line {number}", folder / "SegmentationClass" / f"{name}.png"
        image = existing(folder / "JPEGImages" / f"{name}.jpg", where, "an image")
        known = mask.is_file() or lists.stem != "test"
        records.append(Record(image, FileMap(existing(mask, where, "its map"), VOC_MAP) if known else None))
    return Listing(lists, records, VOC_CLASSES)


def _sbd_folder(root: Path) -> Path | None:
    places = (root, root / "dataset", root / "benchmark_RELEASE" / "dataset")
    return next((place for place in places if both(place, "img", "cls")), None)


def _sbd_parts(root: Path) -> Parts:
    folder = _sbd_folder(root)
    if folder is None:
        return {}
    return {
        part: partial(_sbd, folder, folder / f"{part}.txt") for part in SBD_PARTS if (folder / f"{part}.txt").is_file()
    }


def _sbd(folder: Path, lists: Path) -> Listing:
    records = []
    for number, name in numbered_lines(lists):
        where = f"{lists}, line {number}"
        image = existing(folder / "img" / f"{name}.jpg", where, "an image")
        mask = existing(folder / "cls" / f"{name}.mat", where, "its map")
        records.append(Record(image, FileMap(mask, SBD_MAP)))
    return Listing(lists, records, VOC_CLASSES)


def _coco_parts(root: Path) -> Parts:
    return {split: partial(_coco, file) for split, file in coco_files(root).items()}


def _coco(file: Path) -> Listing:
    """Every image with the objects it shows; classes are numbered in the order of their ids, whose gaps close."""
    content = read_json(file, "annotations of COCO")
    if not isinstance(content, dict):
        raise InputError(f"{file}: found a {type(content).__name__}, expected an object with images and annotations")
    names = coco_classes(file, content)
    class_of = {category: label for label, category in enumerate(names, start=1)}
    images = dict(_coco_records(file, content))
    objects: dict[int, list[tuple[str, int, Any]]] = {image: [] for image in images}
    for number, record in json_records(file, content, "annotations", {"image_id": int, "category_id": int}):
        where = f"{file}, annotations {number}"
        for field, known in (("image_id", images), ("category_id", class_of)):
            if record[field] not in known:
                raise InputError(f"{where}: found the {field} {record[field]}, expected one that the file describes")
        if not record.get("segmentation"):
            raise InputError(f"{where}: found no segmentation, expected polygons or run lengths")
        objects[record["image_id"]].append((where, class_of[record["category_id"]], record["segmentation"]))
    folder = coco_images(file)
    records = [
        Record(
            existing(folder / record["file_name"], where, "an image"),
            CocoMap(where, record["height"], record["width"], tuple(objects[image])),
        )
        for image, (where, record) in images.items()
    ]
    return Listing(file, records, tuple(names.values()))


def _coco_records(file: Path, content: dict[str, Any]) -> Iterator[tuple[int, tuple[str, dict[str, Any]]]]:
    fields = {"id": int, "file_name": str, "height": int, "width": int}
    seen: set[int] = set()
    for number, record in json_records(file, content, "images", fields):
        if record["id"] in seen:
            raise InputError(f"{file}, images {number}: found the id {record['id']} again, expected one of its own")
        if min(record["height"], record["width"]) < 1:
            raise InputError(
                f"{file}, images {number}: found {record['height']} x {record['width']} pixels, expected 1 or more"
            )
        seen.add(record["id"])
        yield record["id"], (f"{file}, images {number}", record)


FORMATS = {
    "voc": MaskFormat(_voc_folders, _voc_parts),
    "sbd": MaskFormat(_sbd_folder, _sbd_parts),
    "coco": MaskFormat(coco_files, _coco_parts),
    "cub": MaskFormat(_cub_folders, _cub_parts),
    "flowers": MaskFormat(partial(both, images="jpg", masks="segmim"), _flower_parts),
    "glas": MaskFormat(_glas_found, _glas_parts),
}
