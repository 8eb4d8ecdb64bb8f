"""`ommatid data`: write embedded sets in official formats, check a user's data, take clip features from videos."""

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ommatid.classification.data import FORMATS as IMAGE_FORMATS
from ommatid.classification.data import ImageData, detect_image_format
from ommatid.data.clip_lists import CLIP_FORMATS, ClipList, clip_splits, detect_clip_format, open_clips
from ommatid.data.clips import count_frames
from ommatid.data.features import save_array
from ommatid.data.few_shot import FEW_SHOT_FORMATS, detect_few_shot_format, read_few_shot
from ommatid.data.images import SUFFIXES as IMAGE_SUFFIXES
from ommatid.data.images import read_image
from ommatid.data.label_lists import LABEL_FORMATS, detect_label_format, label_splits, open_labels
from ommatid.data.new_folder import new_folder
from ommatid.data.sentences import ENCODERS, SentenceEncoder
from ommatid.data.video import SUFFIXES as VIDEO_SUFFIXES
from ommatid.data.zero_shot import ZERO_SHOT_FORMATS, detect_zero_shot_format, open_zero_shot
from ommatid.engine.checkpoint import write_aside
from ommatid.engine.settings import json_text, to_plain
from ommatid.errors import InputError, unknown
from ommatid.grounding.emotion_data import write_subtitles
from ommatid.grounding.emotions import check_emotions, holds_emotions, read_emotions, summarise_emotions
from ommatid.grounding.formats import FORMATS as GROUNDING_FORMATS
from ommatid.grounding.formats import Fault, check_annotations, detect_format, read_annotations, summarise
from ommatid.recognition.face_data import FACE_FORMATS, FaceData


def make(arguments: Namespace) -> int:
    """Write an embedded set to disk."""
    makers: dict[str, Callable[[Namespace], dict[str, Any]]] = {
        "world-grounding": _make_world,
        "world-motion": _make_motion,
        "world-labels": _make_labels,
        "world-shapes": _make_shapes,
        "world-faces": _make_faces,
        "world-glyphs": _make_glyphs,
        "world-attributes": _make_attributes,
        "digits": _make_images,
        "fashion-mnist": _make_images,
    }
    if arguments.name not in makers:
        raise unknown("embedded data set", arguments.name, makers)
    made = makers[arguments.name](arguments)
    _tell(arguments, {"out": arguments.out, **made}, [f"{arguments.out}: {_sizes(made)}"])
    return 0


def _make_world(arguments: Namespace) -> dict[str, Any]:
    from ommatid.data.worlds.grounding import GroundingWorld

    view = arguments.view or {"cg": "cg", "glance": "glance", "unsupervised": "unsupervised", "emotion": "emotion"}.get(
        str(arguments.format), "standard"
    )
    manifest = GroundingWorld(view=view, seed=arguments.seed).write(arguments.out, format=arguments.format)
    return {"view": view, "counts": manifest["counts"]}


def _make_motion(arguments: Namespace) -> dict[str, Any]:
    from ommatid.data.worlds.motion import MotionWorld

    return {"counts": MotionWorld(seed=arguments.seed).write(arguments.out, arguments.format or "list")}


def _make_labels(arguments: Namespace) -> dict[str, Any]:
    from ommatid.data.worlds.labels import LabelWorld

    return {"counts": LabelWorld(seed=arguments.seed).write(arguments.out, arguments.format or "csv")}


def _make_shapes(arguments: Namespace) -> dict[str, Any]:
    from ommatid.data.worlds.shapes import ShapeWorld

    return {"counts": ShapeWorld(seed=arguments.seed).write(arguments.out, arguments.format or "folder")}


def _make_faces(arguments: Namespace) -> dict[str, Any]:
    from ommatid.data.worlds.faces import FaceWorld

    return {"counts": FaceWorld(seed=arguments.seed).write(arguments.out, arguments.format or "folder")}


def _make_glyphs(arguments: Namespace) -> dict[str, Any]:
    from ommatid.data.worlds.glyphs import GlyphWorld

    format = arguments.format or "folder"
    # CUB is divided by the number of a class: half of all to learn from, a quarter each to validate on and to test on.
    seed = arguments.seed
    world = GlyphWorld(train=32, val=16, test=16, seed=seed) if format == "cub" else GlyphWorld(seed=seed)
    return {"counts": world.write(arguments.out, format)}


def _make_attributes(arguments: Namespace) -> dict[str, Any]:
    from ommatid.data.worlds.attributes import AttributeWorld

    return {"counts": AttributeWorld(seed=arguments.seed).write(arguments.out, arguments.format or "table")}


def _make_images(arguments: Namespace) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    from ommatid.data.images import digits, fashion_mnist

    if arguments.format not in (None, "folder"):
        raise unknown(f"format of {arguments.name}", arguments.format, ["folder"])
    counts = {}
    with new_folder(arguments.out) as aside:
        for split in ("train", "test"):
            images = (digits if arguments.name == "digits" else fashion_mnist)(split, size=32, channels=1)
            counts[split] = len(images)
            pixels, labels = images.tensors()
            for number, (picture, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
                folder = aside / split / images.class_names[label]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray((picture[0] * 255).round().numpy().astype(np.uint8)).save(folder / f"{number:04d}.png")
    return {"counts": counts}


def check(arguments: Namespace) -> int:
    """Report every faulty record of a data set and a summary; 1 if there was any fault."""
    root = Path(arguments.root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected a data set")
    format = _detect(root) if arguments.format == "auto" else arguments.format
    kinds = _kinds_of_data()
    if format not in kinds:
        raise unknown("format", format, kinds)
    find_faults, summarise_splits = kinds[format]
    faults = list(find_faults(root, format))
    broken = [fault for fault in faults if not fault.mended]
    summary: dict[str, Any] = {"root": str(root), "format": format, "faults": len(faults), "not_mended": len(broken)}
    if not broken:
        summary["splits"] = summarise_splits(root, format)
    lines = [str(fault) for fault in faults]
    lines.append(f"{root} ({format}): {len(faults)} faults, {len(faults) - len(broken)} of them mended on reading")
    lines += [f"  {name}: {_show(value)}" for name, value in summary.get("splits", {}).items()]
    records = [{name: str(value) for name, value in vars(fault).items()} for fault in faults]
    _tell(arguments, {**summary, "records": records}, lines)
    return 1 if faults else 0


def _kinds_of_data() -> dict[str, tuple[Callable[[Path, str], Iterator[Fault]], Callable[[Path, str], dict[str, Any]]]]:
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


def _detect(root: Path) -> str:
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
        for index in range(len(images)):
            try:
                images[index]
            except InputError as error:
                yield Fault(str(root), f"{split} image {index}", str(error), "a readable image")


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
        for index in range(len(faces)):
            try:
                faces[index]
            except InputError as error:
                yield Fault(str(root), f"{split} face {index}", str(error), "a readable image")


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
        for index in range(len(part)):
            try:
                part.images[index]
            except InputError as error:
                yield Fault(str(root), f"{split} image {index}", str(error), "a readable image")


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


def features(arguments: Namespace) -> int:
    """Clip features of every video of a folder, one .npy each; videos whose features exist are left out."""
    import numpy as np

    from ommatid.data.video import Extractor

    source, out = Path(arguments.videos), Path(arguments.out)
    if not source.exists():
        raise InputError(f"{source}: no such video or folder of videos")
    videos = (
        [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
    )
    if not videos:
        raise InputError(f"{source}: holds no videos, expected files ending in {', '.join(sorted(VIDEO_SUFFIXES))}")
    extractor = Extractor(arguments.backbone, arguments.weights, arguments.fps)
    out.mkdir(parents=True, exist_ok=True)
    _refuse_mixture(out, extractor)
    shapes, durations = _read_table(out / "feature_shapes.json"), _read_table(out / "durations.json")
    for video in videos:
        target = out / f"{video.stem}.npy"
        if target.is_file() and video.stem in durations:
            continue
        clips, seconds = extractor(video)
        # Before the first features: a folder that an interruption leaves still tells whose they are.
        extractor.write(out)
        write_aside(target, lambda aside, clips=clips: save_array(aside, clips.numpy().astype(np.float32)))  # type: ignore[misc]
        shapes[video.stem], durations[video.stem] = len(clips), round(seconds, 3)
        for name, table in {"feature_shapes.json": shapes, "durations.json": durations}.items():
            write_aside(out / name, lambda aside, table=table: aside.write_text(json.dumps(table, indent=1)))  # type: ignore[misc]
    summary = {"out": str(out), "videos": len(videos), "clips": sum(shapes.values())}
    _tell(arguments, summary, [f"{out}: features of {len(videos)} videos, {summary['clips']} clips"])
    return 0


def subtitles(arguments: Namespace) -> int:
    """Sentence features of the subtitles of emotion data, one .npy a clip; clips whose features exist are left out."""
    if arguments.encoder not in ENCODERS:
        raise unknown("encoder", arguments.encoder, ENCODERS)
    counts = write_subtitles(Path(arguments.root), Path(arguments.out), SentenceEncoder(arguments.encoder))
    summary = {"out": arguments.out, "encoder": arguments.encoder, **counts}
    _tell(arguments, summary, [f"{arguments.out}: {counts['clauses']} clauses of {counts['clips']} clips"])
    return 0


def _refuse_mixture(out: Path, extractor: Any) -> None:
    """Features of two extractors in one folder would be silently useless."""
    path = out / "extractor.json"
    if path.is_file() and (known := _read_table(path)) != vars(extractor):
        raise InputError(f"{path}: the folder holds features of {known}, expected the same settings or another folder")


def _read_table(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path}: not readable as JSON, expected one object; delete the folder to start anew"
        ) from error
    if not isinstance(table, dict):
        raise InputError(f"{path}: found a {type(table).__name__}, expected one JSON object")
    return table


def _show(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(
        f"{name} {number:.3g}" if isinstance(number, float) else f"{name} {number}" for name, number in value.items()
    )


def _sizes(made: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in made.items())


def _tell(arguments: Namespace, content: dict[str, Any], lines: list[str]) -> None:
    if arguments.json:
        print(json_text(to_plain(content)))  # noqa: T201
    else:
        print("\n".join(lines))  # noqa: T201
