"""Stored clip features of videos: one array (clips, channels) per video id, whatever file layout holds it.

| layout | example |
|---|---|
| folder of `<vid>.npy`, shape (n, D) or (n, 1, 1, D) | I3D and C3D features of ActivityNet, Charades, TACoS |
| folder of `<vid>.h5` or `.hdf5` with dataset `feature` | per-video C3D features |
| one hdf5, a group per video with `c3d_features` | `sub_activitynet_v1-3.c3d.hdf5` |
| one hdf5, a dataset per video | `tall_c3d_features.hdf5`, `vgg_rgb_features.hdf5` |

The last two may be given as the file or as the folder in which it is the only one.

A `feature_shapes.json` beside the features (video id -> number of clips) gives lengths without opening them, and is
checked against what is read. Video ids are given with or without the ending of the video file (`s13-d21.avi`).
"""

import difflib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ommatid.errors import InputError, MissingDependency

SHAPES_FILE = "feature_shapes.json"
_SUFFIXES = (".h5", ".hdf5")
_VIDEO_ENDINGS = (".avi", ".mp4", ".mkv", ".webm", ".mov")
# Values in the features of one video; a damaged header can promise any number.
_LARGEST = 1 << 30
_DATASETS = ("feature", "features", "c3d_features")


class FeatureStore:
    """Clip features by video id, read when asked for.

    Safe to hand to the workers of a data loader: it pickles without open files, and each process opens its own.

    Args:
        root: a folder or a single hdf5 file, in one of the layouts above.

    Raises:
        InputError: the folder or file is missing, empty, of no known layout or damaged. `store[vid]` raises it for an
            unknown video, and for features that have no clips, other axes than (clip, channel), another width than
            those of the first video, or NaN or infinite values.
        MissingDependency: hdf5 files without h5py installed.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> np.save(f"{folder}/v_abc.npy", np.ones((7, 1, 1, 4)))
        >>> store = FeatureStore(folder)
        >>> "v_abc" in store, len(store), store.dim, store["v_abc"].shape
        (True, 1, 4, torch.Size([7, 4]))
    """

    def __init__(self, root: str | Path) -> None:
        self.root = _one_file_of_all(Path(root))
        self._entries = _index(self.root)
        self._names = {_bare(vid): vid for vid in self._entries} | {vid: vid for vid in self._entries}
        self._lengths = _read_shapes(self.root)
        self._dim: int | None = None
        self._open: tuple[int, Any] | None = None

    def __contains__(self, vid: object) -> bool:
        return isinstance(vid, str) and self._find(vid) is not None

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        """The video ids, without the ending of a video file, in alphabetical order."""
        return iter(sorted(map(_bare, self._entries)))

    def __getitem__(self, vid: str) -> Float[Tensor, "clip channel"]:
        features = self._load(vid)
        if features.shape[1] != self.dim:
            wanted = f"{self.dim} as in {next(iter(self))!r}"
            raise InputError(f"{self.root}: video {vid!r} has features of width {features.shape[1]}, expected {wanted}")
        return features

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.root)!r}, {len(self)} videos)"

    @property
    def dim(self) -> int:
        """Width of the features, that of the first video."""
        if self._dim is None:
            self._dim = _as_matrix(*self._read(next(iter(self)))).shape[1]
        return self._dim

    def length(self, vid: str) -> int:
        """Number of clips of a video, from the side file where there is one."""
        stated = self._stated_length(vid)
        return len(self[vid]) if stated is None else stated

    def _load(self, vid: str) -> Tensor:
        array, where = self._read(vid)
        features = _as_features(array, where)
        stated = self._stated_length(vid)
        if stated is not None and stated != len(features):
            raise InputError(f"{where}: found {len(features)} clips, expected {stated} as in {SHAPES_FILE}")
        return features

    def _read(self, vid: str) -> tuple[np.ndarray, str]:
        """What is stored for a video, unchecked, and where."""
        name = self._find(vid)
        if name is None:
            near = difflib.get_close_matches(vid, list(self), n=3, cutoff=0.5) or list(self)[:3]
            names = ", ".join(map(repr, near))
            raise InputError(f"{self.root}: no features of video {vid!r} among {len(self)}, the nearest are {names}")
        path = self._entries[name]
        where = f"{self.root}: video {vid!r}" if path == self.root else str(path)
        return (_read_npy(path) if path.suffix == ".npy" else self._read_hdf5(path, name, where)), where

    def _find(self, vid: str) -> str | None:
        return self._names.get(vid, self._names.get(_bare(vid)))

    def _stated_length(self, vid: str) -> int | None:
        return self._lengths.get(_bare(vid))

    def _read_hdf5(self, path: Path, name: str, where: str) -> np.ndarray:
        if path == self.root:
            return _read_dataset(self._handle(), name, where)
        with _hdf5(path) as file:
            return _read_dataset(file, None, where)

    def _handle(self) -> Any:
        # An hdf5 handle does not survive a fork: whoever finds another process's handle opens his own.
        if self._open is None or self._open[0] != os.getpid():
            h5py = _h5py()
            with _damage(str(self.root), "a complete hdf5 file"):
                self._open = (os.getpid(), h5py.File(self.root, "r"))
        return self._open[1]


def _one_file_of_all(root: Path) -> Path:
    """The hdf5 file of all videos where `root` is the folder around it, otherwise `root`."""
    files = [path for path in root.glob("*") if path.suffix in (".npy", *_SUFFIXES)] if root.is_dir() else []
    if len(files) != 1 or files[0].suffix not in _SUFFIXES:
        return root
    with _hdf5(files[0]) as file:
        return root if any(name in file for name in _DATASETS) else files[0]


def _index(root: Path) -> dict[str, Path]:
    """Where each video's features are; for a single hdf5 file it is the file itself."""
    if not root.exists():
        raise InputError(f"{root}: no such folder or file, expected clip features")
    if root.is_dir():
        entries = {path.stem: path for path in sorted(root.iterdir()) if path.suffix in (".npy", *_SUFFIXES)}
        expected = "<video>.npy or <video>.h5 files"
    elif root.suffix in _SUFFIXES:
        with _hdf5(root) as file:
            for vid in file:
                if not isinstance(vid, str):
                    raise InputError(f"{root}: found the video id {vid!r}, expected UTF-8 text")
            entries = dict.fromkeys(file, root)
        expected = "one dataset or group per video"
    else:
        raise InputError(f"{root}: found a file that is neither .h5 nor .hdf5, expected a folder or an hdf5 file")
    if not entries:
        raise InputError(f"{root}: no clip features found, expected {expected}")
    return entries


def _bare(vid: str) -> str:
    """The id without the ending of a video file."""
    return next((vid.removesuffix(ending) for ending in _VIDEO_ENDINGS if vid.endswith(ending)), vid)


def _read_shapes(root: Path) -> dict[str, int]:
    path = (root if root.is_dir() else root.parent) / SHAPES_FILE
    if not path.exists():
        return {}
    try:
        shapes = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {_reason(error)}, expected a JSON object from video id to number of clips") from None
    if not isinstance(shapes, dict):
        raise InputError(
            f"{path}: found a {type(shapes).__name__}, expected an object from video id to number of clips"
        )
    for vid, clips in shapes.items():
        if type(clips) is not int:
            raise InputError(f"{path}: video {vid!r} has {clips!r:.40}, expected a number of clips")
    return {_bare(vid): clips for vid, clips in shapes.items()}


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise MissingDependency("reading hdf5 features needs h5py: pip install 'ommatid[video]'") from None
    return h5py


@contextmanager
def _hdf5(path: Path) -> Iterator[Any]:
    """The open file; whatever goes wrong with it becomes one sentence."""
    h5py = _h5py()
    with _damage(str(path), "a complete hdf5 file"), h5py.File(path, "r") as file:
        yield file


@contextmanager
def _damage(where: str, expected: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (
        Exception
    ) as error:  # parsers of damaged files leak RuntimeError, KeyError, SyntaxError, MemoryError and more
        raise InputError(f"{where}: {_reason(error)}, expected {expected}") from None


def _read_dataset(file: Any, name: str | None, where: str) -> np.ndarray:
    """The array under `name`, or in the one group where the file belongs to a single video."""
    with _damage(where, "a readable dataset of clip features"):
        node = file if name is None else file[name]
        if hasattr(node, "keys"):
            known = [key for key in _DATASETS if key in node] or (list(node) if len(node) == 1 else [])
            if not known:
                found = ", ".join(map(repr, list(node)[:5])) or "nothing"
                raise InputError(f"{where}: found {found}, expected a dataset called one of {', '.join(_DATASETS)}")
            node = node[known[0]]
        if not hasattr(node, "shape"):
            raise InputError(f"{where}: found a group, expected a dataset of clip features")
        if node.size and node.size > _LARGEST:
            raise InputError(f"{where}: found an array of shape {node.shape}, expected the clips of one video")
        return np.asarray(node[()])


def _read_npy(path: Path) -> np.ndarray:
    # Mapped, not loaded: a header that promises more than the file holds fails before memory is asked for.
    with _damage(str(path), "an .npy file of clip features"):
        return np.lib.format.open_memmap(path, mode="r")


def _as_matrix(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{where}: found values of type {array.dtype}, expected numbers")
    if array.ndim > 2 and set(array.shape[1:-1]) == {1}:
        array = array.reshape(array.shape[0], array.shape[-1])
    if array.ndim != 2:
        raise InputError(f"{where}: found an array of shape {array.shape}, expected (clips, channels)")
    if not array.size:
        raise InputError(f"{where}: found no features (shape {array.shape}), expected at least one clip")
    return array


def _as_features(array: np.ndarray, where: str) -> Tensor:
    array = _as_matrix(array, where)
    with np.errstate(over="ignore"):
        features = torch.from_numpy(array.astype(np.float32))
    broken = ~features.isfinite().all(dim=1)
    if broken.any():
        clip = int(broken.int().argmax())
        raise InputError(f"{where}: found NaN or infinite values in clip {clip}, expected finite features")
    return features


def _reason(error: BaseException) -> str:
    """A parser's own words, short enough for one sentence."""
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")[:160]


def read_feature_file(path: str | Path) -> Float[Tensor, "clip channel"]:
    """The clip features of one video from one .npy file, or from an .h5 file with the data set `feature`.

    Raises:
        InputError: the file is missing or damaged, or holds anything but finite (clips, channels).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such feature file")
    if path.suffix == ".npy":
        return _as_features(_read_npy(path), str(path))
    if path.suffix in (".h5", ".hdf5"):
        with _hdf5(path) as file:
            return _as_features(_read_dataset(file, "feature", str(path)), str(path))
    raise InputError(f"{path}: not a feature file, expected .npy or .h5")


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array to exactly this path; numpy would add an ending of its own."""
    with path.open("wb") as file:
        np.save(file, array)
