"""The grounding world as files: the published layouts in miniature, byte for byte the same for the same settings."""

import csv
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ommatid.data.text import write_glove
from ommatid.data.worlds.grounding_emotion import FRAMES_PER_SECOND, EmotionClip
from ommatid.data.worlds.grounding_scenes import Split, Video, WorldQuery, video_ids
from ommatid.errors import InputError, MissingDependency, unknown

TACOS_FPS = 29.4
_OWN_FORMAT = {
    "standard": "activitynet", "rare": "activitynet", "cg": "cg", "glance": "glance", "unsupervised": "unsupervised",
    "emotion": "emotion",
}  # fmt: skip
_BOUND_FORMATS = ("cg", "unsupervised", "emotion")
_HDF5_NAMES = {
    "activitynet": "sub_activitynet_v1-3.c3d.hdf5", "tacos": "tall_c3d_features.hdf5",
    "charades": "vgg_rgb_features.hdf5", "glance": "vgg_rgb_features.hdf5", "cg": "vgg_rgb_features.hdf5",
}  # fmt: skip
_ID_STYLES = {"charades": "charades", "glance": "charades", "cg": "charades", "tacos": "tacos"}
_CSV_COLUMNS = (
    "id", "subject", "scene", "quality", "relevance", "verified", "script", "objects", "descriptions", "actions",
    "length",
)  # fmt: skip

Features = dict[str, np.ndarray]
Splits = Mapping[str, Split]


def write_world(
    root: Path,
    header: Mapping[str, Any],
    *,
    format: str | None,
    features: str,
    splits: Splits,
    clips: Mapping[str, tuple[EmotionClip, ...]],
    word_vectors: Mapping[str, np.ndarray],
    pos: Mapping[str, str],
) -> dict[str, Any]:
    """Writes everything beside `root` and moves it there at once; see `GroundingWorld.write`."""
    view = header["settings"]["view"]
    format = format or _OWN_FORMAT[view]
    _check_format(view, format, features, splits)
    # Through JSON and back, so that it compares equal to what a file says.
    header = json.loads(_to_json({**header, "format": format, "features": features}))
    if (kept := _existing(root, header)) is not None:
        return kept
    aside = root.parent / f".{root.name}.{uuid.uuid4().hex}.part"
    try:
        aside.mkdir(parents=True)
        if format == "emotion":
            counts = _write_emotion(aside, clips, features)
        else:
            seed = header["settings"]["seed"]
            counts = _write_grounding(aside, _renamed(splits, _ID_STYLES.get(format), seed), format, features, seed)
        write_glove(aside / "glove.txt", dict(sorted(word_vectors.items())))
        _dump(aside / "pos.json", pos)
        hashes = {
            path.relative_to(aside).as_posix(): _sha256(path) for path in sorted(aside.rglob("*")) if path.is_file()
        }
        manifest = {**header, "counts": counts, "files": hashes}
        _dump(aside / "manifest.json", manifest)
        if root.exists():
            root.rmdir()
        aside.rename(root)
    except OSError as error:
        # Another process may have written the same world in the meantime.
        if (kept := _existing(root, header)) is not None:
            return kept
        raise InputError(f"{root}: {error.strerror or error}, expected a folder that can be written") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _check_format(view: str, format: str, features: str, splits: Splits) -> None:
    known = {*_BOUND_FORMATS, *_WRITERS}
    if format not in known:
        raise unknown("format of world-grounding", format, known)
    if features not in ("npy", "hdf5"):
        raise unknown("feature layout of world-grounding", features, ("npy", "hdf5"))
    own = _OWN_FORMAT[view]
    if format != own and (format in _BOUND_FORMATS or own in ("cg", "emotion")):
        raise InputError(f"world-grounding: the view {view!r} cannot be written as {format!r}, expected {own!r}")


def _existing(root: Path, header: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a folder that already holds this world; None where there is nothing yet."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
        same = {key: manifest[key] for key in header} == header
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise InputError(
            f"{root}: already holds something else, expected an empty folder or this world with the same settings"
        )
    for name, digest in files.items():
        if not (root / name).is_file() or _sha256(root / name) != digest:
            raise InputError(f"{root / name}: is not as it was written, expected the sha256 that manifest.json gives")
    return manifest


def _renamed(splits: Splits, style: str | None, seed: int) -> dict[str, Split]:
    """The splits with ids in the style of another benchmark."""
    if style is None:
        return dict(splits)
    old = list(dict.fromkeys(video.vid for split in splits.values() for video in split.videos))
    new = dict(zip(old, video_ids(np.random.default_rng([seed, 200]), len(old), style), strict=True))
    return {name: _renamed_split(split, new) for name, split in splits.items()}


def _renamed_split(split: Split, new: Mapping[str, str]) -> Split:
    videos = tuple(Video(new[v.vid], v.features, v.duration, v.events) for v in split.videos)
    return Split(videos, tuple(WorldQuery(**{**vars(query), "vid": new[query.vid]}) for query in split.queries))


def _write_grounding(folder: Path, splits: Splits, format: str, features: str, seed: int) -> dict[str, dict[str, int]]:
    written = _WRITERS[format](folder, splits, seed)
    arrays = {video.vid.removesuffix(".avi"): video.features for name in written for video in splits[name].videos}
    hdf5 = _HDF5_NAMES.get(format, "features.hdf5")
    _write_features(
        folder, arrays, hdf5 if features == "hdf5" else None, "c3d_features" if format == "activitynet" else ""
    )
    _dump(folder / "truth.json", {name: _truth(splits[name]) for name in written})
    return {name: {"videos": len(splits[name].videos), "queries": len(splits[name].queries)} for name in written}


def _write_activitynet(folder: Path, splits: Splits, seed: int, glance: bool = False) -> list[str]:
    names = {"train": "train", "val": "val_1", "test": "val_2"}
    for name, split in splits.items():
        _dump(folder / f"{names[name]}.json", _moments(split, _caption, glance=glance))
    return list(splits)


def _write_cg(folder: Path, splits: Splits, seed: int) -> list[str]:
    for name, split in splits.items():
        _dump(folder / f"{name}.json", _moments(split, _plain_stop))
    return list(splits)


def _write_charades(folder: Path, splits: Splits, seed: int, glance: bool = False) -> list[str]:
    """No validation split, as in the original."""
    written = [name for name in ("train", "test") if name in splits]
    for name in written:
        lines = [_charades_line(query, glance) for query in splits[name].queries]
        _write_text(folder / f"charades_sta_{name}.txt", lines)
        with (folder / f"Charades_v1_{name}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, _CSV_COLUMNS, restval="", lineterminator="\n")
            table.writeheader()
            grouped = splits[name].queries_of()
            for video in splits[name].videos:
                script = " ".join(_plain_stop(query.sentence, 0) for query in grouped[video.vid])
                table.writerow({"id": video.vid, "script": script, "length": f"{video.duration:.2f}"})
    return written


def _charades_line(query: WorldQuery, glance: bool) -> str:
    seen = f"##{query.glance:.1f}" if glance else ""
    return f"{query.vid} {query.span[0]:.1f} {query.span[1]:.1f}{seen}##{query.sentence}."


def _write_glance(folder: Path, splits: Splits, seed: int) -> list[str]:
    """Both published forms: a third field in the Charades lines, a third list in the ActivityNet files."""
    _write_charades(folder, splits, seed, glance=True)
    return _write_activitynet(folder, splits, seed, glance=True)


def _write_tacos(folder: Path, splits: Splits, seed: int) -> list[str]:
    for name, split in splits.items():
        moments = _moments(split, _plain_stop)
        for record in moments.values():
            record["timestamps"] = [[round(second * TACOS_FPS) for second in span] for span in record["timestamps"]]
            record |= {"fps": TACOS_FPS, "num_frames": round(record.pop("duration") * TACOS_FPS)}
        _dump(folder / f"{name}.json", moments)
    return list(splits)


def _write_unsupervised(folder: Path, splits: Splits, seed: int) -> list[str]:
    """Training videos and training sentences, and nothing that says which belong together."""
    _dump(folder / "videos.json", {video.vid: {"duration": video.duration} for video in splits["train"].videos})
    sentences = [query.sentence for query in splits["train"].queries]
    order = np.random.default_rng([seed, 300]).permutation(len(sentences))
    _write_text(folder / "queries.txt", [sentences[place] for place in order])
    for name in ("val", "test"):
        if name in splits:
            _dump(folder / f"{name}.json", _moments(splits[name], _plain))
    return list(splits)


def _write_jsonl(folder: Path, splits: Splits, seed: int) -> list[str]:
    for name, split in splits.items():
        duration = {video.vid: video.duration for video in split.videos}
        records = [
            {"video": q.vid, "sentence": q.sentence, "start": q.span[0], "end": q.span[1], "duration": duration[q.vid]}
            for q in split.queries
        ]
        _write_text(folder / f"{name}.jsonl", [json.dumps(record, sort_keys=True) for record in records])
    return list(splits)


_WRITERS: dict[str, Callable[[Path, Splits, int], list[str]]] = {
    "activitynet": _write_activitynet,
    "charades": _write_charades,
    "tacos": _write_tacos,
    "cg": _write_cg,
    "glance": _write_glance,
    "unsupervised": _write_unsupervised,
    "jsonl": _write_jsonl,
}


def _plain(sentence: str, place: int) -> str:
    return sentence


def _plain_stop(sentence: str, place: int) -> str:
    return sentence + "."


def _caption(sentence: str, place: int) -> str:
    """As ActivityNet Captions writes them: a capital, a full stop, and a blank before all but the first."""
    return (" " if place else "") + sentence.capitalize() + "."


def _moments(split: Split, style: Callable[[str, int], str], glance: bool = False) -> dict[str, dict[str, Any]]:
    """Video id -> duration and parallel lists of its sentences, spans and what else its queries have."""
    records = {}
    for video, queries in zip(split.videos, split.queries_of().values(), strict=True):
        record: dict[str, Any] = {
            "duration": video.duration,
            "timestamps": [list(query.span) for query in queries],
            "sentences": [style(query.sentence, place) for place, query in enumerate(queries)],
        }
        if glance:
            record["glance"] = [query.glance for query in queries]
        for key in ("novels", "news"):
            tags = [getattr(query, key) for query in queries]
            if any(tag is not None for tag in tags):
                record[key] = tags
        records[video.vid] = record
    return records


def _truth(split: Split) -> dict[str, Any]:
    """What no published format holds: every event, and what every sentence means."""
    events = {video.vid: [vars(event) for event in video.events] for video in split.videos}
    return {"events": events, "queries": [vars(query) for query in split.queries]}


def _write_emotion(
    folder: Path, clips: Mapping[str, tuple[EmotionClip, ...]], features: str
) -> dict[str, dict[str, int]]:
    """Counts of clip-level labels for training, clause sets for test; `subtitles/` holds one feature a clause."""
    records = {"train": _train_labels, "test": _test_labels}
    for name, split in clips.items():
        movies: dict[str, dict[str, Any]] = {}
        for clip in split:
            movies.setdefault(clip.movie, {})[clip.clip] = records[name](clip)
        _dump(folder / f"{name}.json", movies)
    every = [clip for split in clips.values() for clip in split]
    arrays = {f"{clip.movie}/{clip.clip}": clip.frames for clip in every}
    _write_features(folder, arrays, "features.hdf5" if features == "hdf5" else None, "")
    _write_npy(folder / "subtitles", {f"{clip.movie}/{clip.clip}": clip.subtitles for clip in every})
    _dump(folder / "fps.json", dict.fromkeys(arrays, FRAMES_PER_SECOND))
    segments = {name: {f"{clip.movie}/{clip.clip}": clip.segments for clip in split} for name, split in clips.items()}
    _dump(folder / "truth.json", segments)
    return {name: {"clips": len(split), "labels": sum(len(c.counts) for c in split)} for name, split in clips.items()}


def _train_labels(clip: EmotionClip) -> dict[str, Any]:
    return {"emo": clip.counts, "time": [_stamp(*time) for time in clip.times], "dialog": clip.dialog}


def _test_labels(clip: EmotionClip) -> dict[str, Any]:
    times = [_stamp(*time) for time in clip.times]
    labels = {
        name: {"time": [times[i] for i in clauses], "dialog": [clip.dialog[i] for i in clauses], "segment": clauses}
        for name, clauses in clip.segments.items()
    }
    return {"emo": labels, "dialog": clip.dialog, "dialog_name": times}


def _stamp(start: float, end: float) -> str:
    return f"{_clock(start)}-->{_clock(end)}"


def _clock(seconds: float) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


def _write_features(folder: Path, arrays: Features, hdf5: str | None, dataset: str) -> None:
    """The features, and beside them the number of clips of each video."""
    beside = folder / "features" if hdf5 is None else folder
    if hdf5 is None:
        _write_npy(beside, arrays)
    else:
        _write_hdf5(folder / hdf5, {f"{vid}/{dataset}".rstrip("/"): array for vid, array in arrays.items()})
    _dump(beside / "feature_shapes.json", {vid: len(array) for vid, array in arrays.items()})


def _write_npy(folder: Path, arrays: Features) -> None:
    for vid, array in arrays.items():
        path = folder / f"{vid}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array, allow_pickle=False)


def _write_hdf5(path: Path, arrays: Features) -> None:
    try:
        import h5py
    except ImportError as error:
        raise MissingDependency("features='hdf5' needs h5py, which pip install 'ommatid[video]' brings") from error
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for name, array in sorted(arrays.items()):
            file.create_dataset(name, data=array, track_times=False)


def _to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _dump(path: Path, value: Any) -> None:
    _write_text(path, [_to_json(value)])


def _write_text(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
