"""`ommatid data`: write embedded sets in official formats, check a user's data, take clip features from videos."""

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ommatid.data.features import save_array
from ommatid.data.new_folder import new_folder
from ommatid.data.sentences import ENCODERS, SentenceEncoder
from ommatid.data.video import SUFFIXES as VIDEO_SUFFIXES
from ommatid.data_kinds import detect, kinds_of_data
from ommatid.engine.data import check_seed
from ommatid.engine.settings import json_text, to_plain
from ommatid.errors import InputError, unknown
from ommatid.files import read_json, write_aside
from ommatid.grounding.emotion_data import write_subtitles

WORLDS = {
    "world-motion": ("motion", "MotionWorld", "list"),
    "world-labels": ("labels", "LabelWorld", "csv"),
    "world-shapes": ("shapes", "ShapeWorld", "folder"),
    "world-faces": ("faces", "FaceWorld", "folder"),
    "world-attributes": ("attributes", "AttributeWorld", "table"),
    "world-cutouts": ("cutouts", "CutoutWorld", "folder"),
    "world-duos": ("duos", "DuoWorld", "folder"),
    "world-tissue": ("tissue", "TissueWorld", "folder"),
    "world-phantoms": ("phantoms", "PhantomWorld", "nnunet"),
    "world-sphere": ("sphere", "SphereWorld", "wild360"),
    "world-surfaces": ("surfaces", "SurfaceWorld", "nyu"),
}
"""Worlds by name: module and class in `ommatid.data.worlds`, and the format that is written where none is named."""


def make(arguments: Namespace) -> int:
    """Write an embedded set to disk."""
    makers: dict[str, Callable[[Namespace], dict[str, Any]]] = {
        "world-grounding": _make_grounding,
        "world-glyphs": _make_glyphs,
        "digits": _make_images,
        "fashion-mnist": _make_images,
        **dict.fromkeys(WORLDS, _make_world),
    }
    if arguments.name not in makers:
        raise unknown("embedded data set", arguments.name, makers)
    _refuse_unheeded(arguments)
    arguments.seed = arguments.seed or 0
    check_seed(arguments.seed)
    made = makers[arguments.name](arguments)
    _tell(arguments, {"out": arguments.out, **made}, [f"{arguments.out}: {_sizes(made)}"])
    return 0


def _refuse_unheeded(arguments: Namespace) -> None:
    """Options that the named set would pass by."""
    if arguments.view is not None and arguments.name != "world-grounding":
        raise InputError(f"--view: {arguments.name} has no views, expected none")
    if arguments.seed is not None and arguments.name in ("digits", "fashion-mnist"):
        raise InputError(f"--seed: {arguments.name} holds real images, which no seed draws, expected none")


def _make_grounding(arguments: Namespace) -> dict[str, Any]:
    from ommatid.data.worlds.grounding import GroundingWorld

    view = arguments.view or {"cg": "cg", "glance": "glance", "unsupervised": "unsupervised", "emotion": "emotion"}.get(
        str(arguments.format), "standard"
    )
    manifest = GroundingWorld(view=view, seed=arguments.seed).write(arguments.out, format=arguments.format)
    return {"view": view, "counts": manifest["counts"]}


def _make_world(arguments: Namespace) -> dict[str, Any]:
    module, name, usual = WORLDS[arguments.name]
    world = getattr(import_module(f"ommatid.data.worlds.{module}"), name)(seed=arguments.seed)
    return {"counts": world.write(arguments.out, arguments.format or usual)}


def _make_glyphs(arguments: Namespace) -> dict[str, Any]:
    from ommatid.data.worlds.glyphs import GlyphWorld

    format = arguments.format or "folder"
    # CUB is divided by the number of a class: half of all to learn from, a quarter each to validate on and to test on.
    seed = arguments.seed
    world = GlyphWorld(train=32, val=16, test=16, seed=seed) if format == "cub" else GlyphWorld(seed=seed)
    return {"counts": world.write(arguments.out, format)}


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
    format = detect(root) if arguments.format == "auto" else arguments.format
    kinds = kinds_of_data()
    if format not in kinds:
        raise unknown("format", format, kinds)
    faults, splits = kinds[format](root, format)
    broken = [fault for fault in faults if not fault.mended]
    summary: dict[str, Any] = {"root": str(root), "format": format, "faults": len(faults), "not_mended": len(broken)}
    if not broken:
        summary["splits"] = splits
    lines = [str(fault) for fault in faults]
    lines.append(f"{root} ({format}): {len(faults)} faults, {len(faults) - len(broken)} of them mended on reading")
    lines += [f"  {name}: {_show(value)}" for name, value in summary.get("splits", {}).items()]
    records = [{name: str(value) for name, value in vars(fault).items()} for fault in faults]
    _tell(arguments, {**summary, "records": records}, lines)
    return 1 if faults else 0


def features(arguments: Namespace) -> int:
    """Clip features of every video of a folder, one .npy each; a video that has newer features is left out."""
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
    _refuse_equal_names(videos)
    extractor = Extractor(arguments.backbone, arguments.weights, arguments.fps)
    out.mkdir(parents=True, exist_ok=True)
    _refuse_mixture(out, extractor)
    shapes, durations = _read_table(out / "feature_shapes.json"), _read_table(out / "durations.json")
    written = 0
    for video in videos:
        target = out / f"{video.stem}.npy"
        known = target.is_file() and video.stem in durations
        if known and target.stat().st_mtime >= video.stat().st_mtime:
            continue
        clips, seconds = extractor(video)
        # Before the first features: a folder that an interruption leaves still tells whose they are.
        extractor.write(out)
        write_aside(target, lambda aside, clips=clips: save_array(aside, clips.numpy().astype(np.float32)))  # type: ignore[misc]
        written += 1
        shapes[video.stem], durations[video.stem] = len(clips), round(seconds, 3)
        for name, table in {"feature_shapes.json": shapes, "durations.json": durations}.items():
            write_aside(out / name, lambda aside, table=table: aside.write_text(json.dumps(table, indent=1)))  # type: ignore[misc]
    summary = {"out": str(out), "videos": len(videos), "written": written, "clips": sum(shapes.values())}
    said = f"{out}: features of {len(videos)} videos, {written} of them written now, {summary['clips']} clips"
    _tell(arguments, summary, [said])
    return 0


def _refuse_equal_names(videos: Sequence[Path]) -> None:
    """Features are kept by the name of their video: of two videos of one name those of the second would be lost."""
    first: dict[str, Path] = {}
    for video in videos:
        if first.setdefault(video.stem, video) != video:
            raise InputError(f"{video}: found {first[video.stem]} of the same name, expected a name for each video")


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
    table = read_json(path, "one object; delete the folder to start anew", missing={})
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
