"""The kinds of data that `ommatid data check` knows: how each is told by its files, its faults, and its records."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ommatid.classification.data import FORMATS as IMAGE_FORMATS
from ommatid.classification.data import ImageData, detect_image_format
from ommatid.data.clip_lists import CLIP_FORMATS, ClipList, clip_splits, detect_clip_format, open_clips
from ommatid.data.clips import count_frames
from ommatid.data.few_shot import FEW_SHOT_FORMATS, detect_few_shot_format, read_few_shot
from ommatid.data.images import SUFFIXES as IMAGE_SUFFIXES
from ommatid.data.images import read_image
from ommatid.data.label_lists import LABEL_FORMATS, detect_label_format, label_splits, open_labels
from ommatid.data.video import SUFFIXES as VIDEO_SUFFIXES
from ommatid.data.zero_shot import ZERO_SHOT_FORMATS, detect_zero_shot_format, open_zero_shot
from ommatid.errors import InputError
from ommatid.grounding.emotions import check_emotions, holds_emotions, read_emotions, summarise_emotions
from ommatid.grounding.formats import FORMATS as GROUNDING_FORMATS
from ommatid.grounding.formats import Fault, check_annotations, detect_format, read_annotations, summarise
from ommatid.recognition.face_data import FACE_FORMATS, FaceData


def kinds_of_data() -> dict[str, tuple[Callable[[Path, str], Iterator[Fault]], Callable[[Path, str], dict[str, Any]]]]:
    """For every format what finds its faults, and what counts its records."""
    return {
        **dict.fromkeys(GROUNDING_FORMATS, (_grounding_faults, _grounding_splits)),
        **dict.fromkeys(IMAGE_FORMATS, (_image_faults, _image_splits)),
        "emotion": (_emotion_faults, _emotion_splits),
        "clips": (_clip_faults, _clip_splits),
        **dict.fromkeys(LABEL_FORMATS, (_label_faults, _label_splits)),
        "faces": (_face_faults, _face_splits),
        "few-shot": (_few_shot_faults, _few_shot_splits),
        **dict.fromkeys(ZERO_SHOT_FORMATS, (_zero_shot_faults, _zero_shot_splits)),
    }


def detect(root: Path) -> str:
    """The kind of data that the files in a folder are."""
    if holds_emotions(root):
        return "emotion"
    try:
        return detect_format(root)
    except InputError:
        if (described := _zero_shot_format(root)) is not None:
            return described
        if _holds_new_classes(root):
            return "few-shot"
        if _holds_faces(root):
            return "faces"
        if _holds_clips(root):
            return "clips"
        if (format := _label_format(root)) is not None:
            return format
        if detect_image_format(root) == "folder" and not any(path.is_dir() for path in root.iterdir()):
            raise
        return detect_image_format(root)


def _label_format(root: Path) -> str | None:
    """The format of images with several labels, where their lists lie in the folder."""
    try:
        return detect_label_format(root)
    except InputError:
        return None


def _zero_shot_format(root: Path) -> str | None:
    try:
        return detect_zero_shot_format(root)
    except InputError:
        return None


def _holds_new_classes(root: Path) -> bool:
    """Whether the classes to test on are not those to learn from."""
    format = detect_few_shot_format(root)
    if format == "csv":
        # Tables of images with several labels have other columns.
        with (root / "train.csv").open(encoding="utf-8", errors="replace") as lines:
            return next(lines, "").strip().replace(" ", "") == "filename,label"
    if format != "folder":
        return True
    parts = [{path.name for path in (root / split).glob("*") if path.is_dir()} for split in ("train", "test")]
    return all(parts) and not parts[0] & parts[1]


def _holds_faces(root: Path) -> bool:
    """Records, or a list of pictures; faces in folders by identity look like images by class, and are checked so."""
    listed = root / "train.txt"
    if not listed.is_file():
        return (root / "train.rec").is_file()
    with listed.open(encoding="utf-8", errors="replace") as lines:
        words = next((line.split() for line in lines if line.strip()), [""])
    return Path(words[0]).suffix.lower() in IMAGE_SUFFIXES


def _holds_clips(root: Path) -> bool:
    """Official lists, or videos in folders; a folder of pictures looks the same without them."""
    try:
        if detect_clip_format(root) != "folder":
            return True
    except InputError:
        return False
    return any(path.suffix.lower() in VIDEO_SUFFIXES - {".gif"} for path in root.rglob("*"))


def _grounding_faults(root: Path, format: str) -> Iterator[Fault]:
    unusable = False
    for fault in check_annotations(root, format):
        unusable |= not fault.mended
        yield fault
    if not unusable:
        yield from _feature_faults(root, format)


def _feature_faults(root: Path, format: str) -> Iterator[Fault]:
    """Videos without features, and features that cannot be used."""
    from ommatid.grounding.sources import FolderSource

    try:
        store = FolderSource(root, format, protocol="2dtan", features=None, glove=None, seed=0).store()
    except InputError as error:
        yield Fault(str(root), "clip features", str(error), "a folder or file of clip features")
        return
    vids = {query.vid for queries in read_annotations(root, format).values() for query in queries if query.vid}
    for vid in sorted(vids):
        try:
            store[vid]
        except InputError as error:
            yield Fault(str(root), f"video {vid}", str(error), "finite clip features (clips, channels)")


def _grounding_splits(root: Path, format: str) -> dict[str, Any]:
    return {split: vars(summarise(queries)) for split, queries in read_annotations(root, format).items()}


def _emotion_faults(root: Path, format: str) -> Iterator[Fault]:
    return check_emotions(root)


def _emotion_splits(root: Path, format: str) -> dict[str, Any]:
    return {split: summarise_emotions(clips) for split, clips in read_emotions(root).items()}


def _image_faults(root: Path, format: str) -> Iterator[Fault]:
    """Every image is decoded once; one that cannot be is one fault."""
    try:
        sets = ImageData(str(root), format).sets
    except InputError as error:
        yield Fault(str(root), "data set", str(error), f"a data set of the format {format}")
        return
    for split, images in sets.items():
        yield from _unreadable(root, images, f"{split} image")


def _unreadable(root: Path, images: Any, name: str) -> Iterator[Fault]:
    for index in range(len(images)):
        try:
            images[index]
        except InputError as error:
            yield Fault(str(root), f"{name} {index}", str(error), "a readable image")


def _image_splits(root: Path, format: str) -> dict[str, Any]:
    sets = ImageData(str(root), format).sets
    return {split: {"images": len(images)} for split, images in sets.items()}


def _label_faults(root: Path, format: str) -> Iterator[Fault]:
    """Lists are read, and every image is decoded once."""
    try:
        lists = {split: open_labels(root, split, format) for split in label_splits(root, format)}
    except InputError as error:
        yield Fault(str(root), "data set", str(error), f"a data set of the format {format}")
        return
    for split, images in lists.items():
        for path in images.paths:
            try:
                read_image(path)
            except InputError as error:
                yield Fault(str(root), f"{split} image {path.name}", str(error), "a readable image")


def _label_splits(root: Path, format: str) -> dict[str, Any]:
    lists = {split: open_labels(root, split, format) for split in label_splits(root, format)}
    return {split: {"images": len(images), "labels": len(images.class_names)} for split, images in lists.items()}


def _face_faults(root: Path, format: str) -> Iterator[Fault]:
    """Lists are read, and every face is decoded once."""
    try:
        sets = FaceData(str(root)).sets
    except InputError as error:
        yield Fault(str(root), "data set", str(error), f"faces in one of the formats {', '.join(FACE_FORMATS)}")
        return
    for split, faces in sets.items():
        yield from _unreadable(root, faces, f"{split} face")


def _face_splits(root: Path, format: str) -> dict[str, Any]:
    sets = FaceData(str(root)).sets
    return {
        split: {"images": len(faces), "pairs": len(faces) // 2}
        if faces.listed
        else {"images": len(faces), "identities": len(faces.labels.unique())}
        for split, faces in sets.items()
    }


def _few_shot_faults(root: Path, format: str) -> Iterator[Fault]:
    """Every image is decoded once, in its own size."""
    try:
        sets = read_few_shot(root)
    except InputError as error:
        yield Fault(str(root), "data set", str(error), f"one of the formats {', '.join(FEW_SHOT_FORMATS)}")
        return
    for split, part in sets.items():
        yield from _unreadable(root, part.images, f"{split} image")


def _few_shot_splits(root: Path, format: str) -> dict[str, Any]:
    sets = read_few_shot(root)
    return {split: {"images": len(part), "classes": len(part.class_names)} for split, part in sets.items()}


def _zero_shot_faults(root: Path, format: str) -> Iterator[Fault]:
    try:
        open_zero_shot(root, format)
    except InputError as error:
        yield Fault(str(root), "data set", str(error), f"a data set of the format {format}")


def _zero_shot_splits(root: Path, format: str) -> dict[str, Any]:
    source = open_zero_shot(root, format)
    return {
        split: {"samples": len(rows), "classes": len(source.labels[rows].unique())}
        for split, rows in source.splits.items()
    }


def _clip_faults(root: Path, format: str) -> Iterator[Fault]:
    """Lists are read, and the frames of every video are counted once."""
    try:
        lists = _clip_lists(root)
    except InputError as error:
        yield Fault(str(root), "data set", str(error), f"one of the formats {', '.join(CLIP_FORMATS)}")
        return
    for split, videos in lists.items():
        for record in videos.records:
            try:
                count_frames(record.path)
            except InputError as error:
                yield Fault(str(root), f"{split} video {record.name}", str(error), "a readable video")


def _clip_splits(root: Path, format: str) -> dict[str, Any]:
    lists = _clip_lists(root)
    return {split: {"videos": len(videos), "classes": len(videos.class_names)} for split, videos in lists.items()}


def _clip_lists(root: Path) -> dict[str, ClipList]:
    return {split: open_clips(root, split) for split in clip_splits(root)}
