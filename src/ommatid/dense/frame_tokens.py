"""Tokens of all frames of a video by a frozen encoder: made once, kept beside the videos, never stale.

An encoder belongs to a method, and what it sees in a video to the data. The data ask the encoder when their frames are
first needed, which is after a resumed run has its weights back. Tokens of files lie on disk under a name that tells
encoder (weights and settings) and video (its bytes): whatever changes gives another name, and nothing is overwritten.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ommatid.errors import InputError
from ommatid.files import write_aside

Tokens = Float[Tensor, "time token dim"]
MANIFEST = "manifest.json"
STORED = np.float16


@runtime_checkable
class FrameEncoder(Protocol):
    """What turns frames into tokens."""

    height: int

    def encode(
        self, frames: UInt8[Tensor, "frame 3 height width"]
    ) -> tuple[Float[Tensor, "frame patch dim"], Float[Tensor, "frame dim"]]: ...

    def fingerprint(self) -> str: ...

    def describe(self) -> dict[str, Any]: ...


@runtime_checkable
class Footage(Protocol):
    """A video all around, on disk or rendered."""

    @property
    def name(self) -> str: ...

    @property
    def has_maps(self) -> bool: ...

    def length(self) -> int: ...

    def chunks(self, height: int, length: int = 32) -> Iterator[UInt8[Tensor, "time 3 height width"]]: ...

    def maps(self, indices: Sequence[int], size: tuple[int, int]) -> Float[Tensor, "time map_height map_width"]: ...


def frame_tokens(video: Footage, encoder: FrameEncoder) -> Tokens:
    """CLS token and patch tokens of every frame, one after the other."""
    return torch.cat(list(_token_parts(video, encoder)))


def _token_parts(video: Footage, encoder: FrameEncoder) -> Iterator[Tokens]:
    for frames in video.chunks(encoder.height):
        patches, cls = encoder.encode(frames)
        yield torch.cat([cls[:, None], patches], dim=1)


class StoredTokens:
    """Tokens of one video in a file, of which a window is read at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape = _mapped(path).shape

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, window: slice) -> Tokens:
        return torch.from_numpy(_mapped(self.path)[window].astype(np.float32))


class TokenFolder:
    """Tokens of videos in a folder, in half precision; those that are missing are made when asked for.

    Args:
        root: each encoder has a folder in it, with a `manifest.json` that says which encoder it is.
    """

    def __init__(self, root: Path, encoder: FrameEncoder) -> None:
        self.encoder = encoder
        self.fingerprint = encoder.fingerprint()
        self.folder = root / self.fingerprint

    def path(self, video: Path) -> Path:
        """Where the tokens of a video lie."""
        return self.folder / f"{video.stem}-{file_digest(video)}.npy"

    def all_of(self, videos: Sequence[Footage], paths: Sequence[Path], share: float = 0.0) -> list[StoredTokens]:
        """Tokens of all videos.

        Several processes that ask for the same videos share the work: each begins in another place of the list, and
        leaves out what is there when it arrives.

        Args:
            paths: their files.
            share: how far into the list this process begins.

        Raises:
            InputError: a video cannot be read, or the folder cannot be written.
        """
        start, places = int(share * len(videos)), [self.path(path) for path in paths]
        for number in [*range(start, len(videos)), *range(start)]:
            self.make(videos[number], places[number])
        return [StoredTokens(place) for place in places]

    def make(self, video: Footage, path: Path) -> None:
        """The tokens of a video, unless they are there and whole."""
        if _whole(path):
            return
        manifest = {"fingerprint": self.fingerprint, **self.encoder.describe(), "values": np.dtype(STORED).name}
        text = json.dumps({**manifest, "axes": ["time", "CLS token and patch tokens", "dim"]}, indent=1)
        try:
            write_aside(self.folder / MANIFEST, lambda aside: aside.write_text(text, encoding="utf-8"))
            write_aside(path, lambda aside: _save_parts(aside, _token_parts(video, self.encoder)))
        except OSError as error:
            raise InputError(
                f"{self.folder}: {error.strerror or error}, expected a folder that can be written: name one as cache"
            ) from error


def file_digest(path: Path) -> str:
    """A number of the bytes of a file.

    Raises:
        InputError: the file cannot be read.
    """
    told = hashlib.blake2b(digest_size=8)
    try:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                told.update(part)
        return told.hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}, expected a readable video") from error


def _save_parts(path: Path, parts: Iterator[Tokens]) -> None:
    """All parts, one after the other, as one array in a file; no more than one of them is in memory."""
    frames = 0
    with path.open("wb") as file:
        for part in parts:
            if not frames:
                _write_header(file, part.shape)
            part.numpy().astype(STORED).tofile(file)
            frames += len(part)
        # Only now it is known how many frames there are; numpy leaves room for that number to grow.
        file.seek(0)
        _write_header(file, (frames, *part.shape[1:]))


def _write_header(file: BinaryIO, shape: Sequence[int]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(STORED)), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, described)


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        return _mapped(path).ndim == 3
    except (OSError, ValueError, EOFError):
        return False
