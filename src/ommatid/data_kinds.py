"""The kinds of data that `ommatid data check` knows: how each is told by its files, its faults, and its records."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ommatid.classification.data import FORMATS as IMAGE_FORMATS
from ommatid.classification.data import ImageData, detect_image_format
from ommatid.data.clip_lists import CLIP_FORMATS, ClipList, clip_splits, detect_clip_format, open_clips
from ommatid.data.clips import count_frames
from ommatid.data.few_shot import FEW_SHOT_FORMATS, FewShotImages, detect_few_shot_format, read_few_shot
from ommatid.data.images import SUFFIXES as IMAGE_SUFFIXES
from ommatid.data.images import ImageSet, read_image
from ommatid.data.label_lists import LABEL_FORMATS, LabelledImages, detect_label_format, label_splits, open_labels
from ommatid.data.masks import MASK_FORMATS, MaskedImages, detect_mask_format, mask_splits, open_masks
from ommatid.data.nyu import NYU_FORMATS, detect_nyu_format, nyu_splits, open_nyu
from ommatid.data.rated_videos import RATED_FORMATS, RatedVideo, detect_rated_format, open_rated, rated_splits
from ommatid.data.saliency_videos import (
    SALIENCY_FORMATS,
    SaliencyVideo,
    check_same_size,
    detect_saliency_format,
    frame_chunks,
    map_files,
    open_saliency,
    read_map,
    saliency_splits,
)
from ommatid.data.video import SUFFIXES as VIDEO_SUFFIXES
from ommatid.data.volumes import VOLUME_FORMATS, VolumeFiles, detect_volume_format, open_volumes, volume_splits
from ommatid.data.zero_shot import ZERO_SHOT_FORMATS, detect_zero_shot_format, open_zero_shot
from ommatid.errors import InputError
from ommatid.grounding.emotions import check_emotions, holds_emotions, read_emotions, summarise_emotions
from ommatid.grounding.formats import FORMATS as GROUNDING_FORMATS
from ommatid.grounding.formats import Fault, check_annotations, detect_format, read_annotations, summarise
from ommatid.recognition.face_data import FACE_FORMATS, FaceData, FaceSet

Splits = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of data.

    Attributes:
        read: the splits as they are read; it raises what makes all of them useless.
        faults: single records of a split that are no good.
        count: how many records of which kind a split has.
        expected: what is said where the splits cannot be read.
    """

    read: Callable[[Path, str], Splits]
    faults: Callable[[Path, str, Any], Iterator[Fault]]
    count: Callable[[Any], dict[str, Any]]
    expected: str

    def examine(self, root: Path, format: str) -> tuple[list[Fault], Splits]:
        """All faults, and the counts of every split where nothing is wrong."""
        try:
            splits = self.read(root, format)
        except InputError as error:
            return [Fault(str(root), "data set", str(error), self.expected)], {}
        faults = [fault for split, part in splits.items() for fault in self.faults(root, split, part)]
        return faults, {} if faults else {split: self.count(part) for split, part in splits.items()}


def kinds_of_data() -> dict[str, Callable[[Path, str], tuple[list[Fault], Splits]]]:
    """For every format what finds its faults and, unless one of them cannot be mended, counts its records."""
    faces = Kind(_read_faces, _face_faults, _count_faces, f"faces in {_one_of(FACE_FORMATS)}")
    episodes = Kind(_read_episodes, _episode_faults, _count_classes, _one_of(FEW_SHOT_FORMATS))
    clips = Kind(_read_clips, _clip_faults, _count_clips, _one_of(CLIP_FORMATS))
    return {
        **dict.fromkeys(GROUNDING_FORMATS, _examine_grounding),
        "emotion": _examine_emotions,
        **{name: Kind(_read_images, _image_faults, _count_images, _of(name)).examine for name in IMAGE_FORMATS},
        "clips": clips.examine,
        **{name: Kind(_read_labels, _label_faults, _count_labels, _of(name)).examine for name in LABEL_FORMATS},
        "faces": faces.examine,
        "few-shot": episodes.examine,
        **{name: Kind(_read_scenes, _scene_faults, _count_classes, _of(name)).examine for name in NYU_FORMATS},
        **{name: Kind(_read_rated, _rated_faults, _count_rated, _of(name)).examine for name in RATED_FORMATS},
        "saliency": Kind(_read_saliency, _saliency_faults, _count_saliency, _one_of(SALIENCY_FORMATS)).examine,
        **{name: Kind(_read_volumes, _volume_faults, _count_volumes, _of(name)).examine for name in VOLUME_FORMATS},
        "masks": Kind(_read_masks, _mask_faults, _count_masks, _one_of(MASK_FORMATS)).examine,
        **{name: Kind(_read_described, _no_faults, _count_described, _of(name)).examine for name in ZERO_SHOT_FORMATS},
    }


def _one_of(formats: Iterable[str]) -> str:
    return f"one of the formats {', '.join(formats)}"


def _of(format: str) -> str:
    return f"a data set of the format {format}"


def detect(root: Path) -> str:
    """The kind of data that the files in a folder are."""
    if holds_emotions(root):
        return "emotion"
    try:
        return detect_format(root)
    except InputError:
        if (described := _format_of(detect_zero_shot_format, root)) is not None:
            return described
        if _holds_new_classes(root):
            return "few-shot"
        if (format := _format_of(detect_nyu_format, root)) is not None:
            return format
        if (format := _format_of(detect_volume_format, root)) is not None:
            return format
        if (format := _format_of(detect_rated_format, root)) is not None:
            return format
        if _holds_saliency(root):
            return "saliency"
        if _holds_masks(root):
            return "masks"
        if _holds_faces(root):
            return "faces"
        if _holds_clips(root):
            return "clips"
        if (format := _format_of(detect_label_format, root)) is not None:
            return format
        if detect_image_format(root) == "folder" and not any(path.is_dir() for path in root.iterdir()):
            raise
        return detect_image_format(root)


def _format_of(detect: Callable[[Path], str], root: Path) -> str | None:
    """What a kind's own detection finds, or None where the folder is not of that kind."""
    try:
        return detect(root)
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


def _holds_saliency(root: Path) -> bool:
    """Official lists, or maps beside the videos; videos alone look like clips, and are checked so."""
    try:
        return detect_saliency_format(root) == "wild360" or any(root.rglob("maps"))
    except InputError:
        return False


def _holds_masks(root: Path) -> bool:
    """Images with masks; boxes and polygons of COCO are more often used as labels, and are checked so."""
    try:
        return detect_mask_format(root) != "coco"
    except InputError:
        return False


def _holds_clips(root: Path) -> bool:
    """Official lists, or videos in folders; a folder of pictures looks the same without them."""
    try:
        if detect_clip_format(root) != "folder":
            return True
    except InputError:
        return False
    return any(path.suffix.lower() in VIDEO_SUFFIXES - {".gif"} for path in root.rglob("*"))


def _examine_grounding(root: Path, format: str) -> tuple[list[Fault], Splits]:
    faults = list(_grounding_faults(root, format))
    if not all(fault.mended for fault in faults):
        return faults, {}
    return faults, {split: vars(summarise(queries)) for split, queries in read_annotations(root, format).items()}


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


def _examine_emotions(root: Path, format: str) -> tuple[list[Fault], Splits]:
    faults = list(check_emotions(root))
    if not all(fault.mended for fault in faults):
        return faults, {}
    return faults, {split: summarise_emotions(clips) for split, clips in read_emotions(root).items()}


def _read_images(root: Path, format: str) -> Splits:
    return dict(ImageData(str(root), format).sets)


def _image_faults(root: Path, split: str, images: ImageSet) -> Iterator[Fault]:
    return _unreadable(root, images, f"{split} image")


def _count_images(images: ImageSet) -> dict[str, Any]:
    return {"images": len(images)}


def _unreadable(root: Path, images: Any, name: str) -> Iterator[Fault]:
    """Every image is decoded once; one that cannot be is one fault."""
    for index in range(len(images)):
        try:
            images[index]
        except InputError as error:
            yield Fault(str(root), f"{name} {index}", str(error), "a readable image")


def _read_labels(root: Path, format: str) -> Splits:
    return {split: open_labels(root, split, format) for split in label_splits(root, format)}


def _label_faults(root: Path, split: str, images: LabelledImages) -> Iterator[Fault]:
    for path in images.paths:
        try:
            read_image(path)
        except InputError as error:
            yield Fault(str(root), f"{split} image {path.name}", str(error), "a readable image")


def _count_labels(images: LabelledImages) -> dict[str, Any]:
    return {"images": len(images), "labels": len(images.class_names)}


def _read_faces(root: Path, format: str) -> Splits:
    return dict(FaceData(str(root)).sets)


def _face_faults(root: Path, split: str, faces: FaceSet) -> Iterator[Fault]:
    return _unreadable(root, faces, f"{split} face")


def _count_faces(faces: FaceSet) -> dict[str, Any]:
    if faces.listed:
        return {"images": len(faces), "pairs": len(faces) // 2}
    return {"images": len(faces), "identities": len(faces.labels.unique())}


def _read_episodes(root: Path, format: str) -> Splits:
    return dict(read_few_shot(root))


def _episode_faults(root: Path, split: str, part: FewShotImages) -> Iterator[Fault]:
    return _unreadable(root, part.images, f"{split} image")


def _count_classes(part: Any) -> dict[str, Any]:
    return {"images": len(part), "classes": len(part.class_names)}


def _read_masks(root: Path, format: str) -> Splits:
    return {split: open_masks(root, split) for split in mask_splits(root)}


def _mask_faults(root: Path, split: str, pictures: MaskedImages) -> Iterator[Fault]:
    """Every image and every mask is decoded once."""
    masked = frozenset(pictures.labelled)
    for number, path in enumerate(pictures.images):
        try:
            pictures.pixels(number)
            if number in masked:
                pictures.label_map(number)
        except InputError as error:
            yield Fault(str(root), f"{split} image {path.name}", str(error), "a readable image and a mask of its size")


def _count_masks(pictures: MaskedImages) -> dict[str, Any]:
    return {"images": len(pictures), "masks": len(pictures.labelled), "classes": len(pictures.class_names)}


def _read_scenes(root: Path, format: str) -> Splits:
    return {split: open_nyu(root, split, format) for split in nyu_splits(root, format)}


def _scene_faults(root: Path, split: str, part: Any) -> Iterator[Fault]:
    return _unreadable(root, part, f"{split} image")


def _read_volumes(root: Path, format: str) -> Splits:
    return {split: open_volumes(root, split, format) for split in volume_splits(root)}


def _volume_faults(root: Path, split: str, part: VolumeFiles) -> Iterator[Fault]:
    return _unreadable(root, part, f"{split} volume")


def _count_volumes(part: VolumeFiles) -> dict[str, Any]:
    return {"volumes": len(part), "classes": len(part.class_names), "organs": len(part.organ_names)}


def _read_saliency(root: Path, format: str) -> Splits:
    return {split: open_saliency(root, split) for split in saliency_splits(root)}


def _saliency_faults(root: Path, split: str, videos: list[SaliencyVideo]) -> Iterator[Fault]:
    """The frames of every video are counted, and its maps are read."""
    expected = "a readable video all around, with a map for each frame"
    for video in videos:
        try:
            video.frames([0], 16)
            frames = video.length()
            for path in map_files(video.map_folder)[:frames] if video.map_folder else ():
                read_map(path)
        except InputError as error:
            yield Fault(str(root), f"{split} video {video.name}", str(error), expected)


def _count_saliency(videos: list[SaliencyVideo]) -> dict[str, Any]:
    return {"videos": len(videos), "with maps": sum(video.has_maps for video in videos)}


def _read_rated(root: Path, format: str) -> Splits:
    return {split: open_rated(root, split, format) for split in rated_splits(root, format)}


def _rated_faults(root: Path, split: str, videos: list[RatedVideo]) -> Iterator[Fault]:
    """The first frame of every distorted video is read, and has to be of the size of its reference's."""
    expected = "a readable video all around, of the size of its reference"
    size = cache(lambda path: tuple(next(frame_chunks(path, length=1)).shape[2:]))
    for video in videos:
        try:
            check_same_size(video.distorted, size(video.distorted), video.reference, size(video.reference))
        except InputError as error:
            yield Fault(str(root), f"{split} video {video.distorted.name}", str(error), expected)


def _count_rated(videos: list[RatedVideo]) -> dict[str, Any]:
    return {"videos": len(videos), "references": len({video.reference for video in videos})}


def _read_described(root: Path, format: str) -> Splits:
    """The classes of the samples of every split; reading them checks them."""
    source = open_zero_shot(root, format)
    return {split: source.labels[rows] for split, rows in source.splits.items()}


def _no_faults(root: Path, split: str, part: Any) -> Iterator[Fault]:
    return iter(())


def _count_described(labels: Tensor) -> dict[str, Any]:
    return {"samples": len(labels), "classes": len(labels.unique())}


def _read_clips(root: Path, format: str) -> Splits:
    return {split: open_clips(root, split) for split in clip_splits(root)}


def _clip_faults(root: Path, split: str, videos: ClipList) -> Iterator[Fault]:
    """The frames of every video are counted once."""
    for record in videos.records:
        try:
            count_frames(record.path)
        except InputError as error:
            yield Fault(str(root), f"{split} video {record.name}", str(error), "a readable video")


def _count_clips(videos: ClipList) -> dict[str, Any]:
    return {"videos": len(videos), "classes": len(videos.class_names)}
