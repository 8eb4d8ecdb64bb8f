"""Videos shot all around, with maps of where people looked: Wild360's layout, and folders of one's own.

Frames are equirectangular, twice as wide as high. A map belongs to one frame, as `.npy` file of two dimensions or as a
grey picture, named by the frame's number.

Examples:
    >>> import tempfile
    >>> from ommatid.data.worlds.sphere import SphereWorld
    >>> root = Path(tempfile.mkdtemp()) / "world"
    >>> _ = SphereWorld(train=1, test=1, frames=3, height=32).write(root)
    >>> [video] = wild360(root, "test")
    >>> video.length(), video.frames([0, 1], height=16).shape, video.maps([0, 1], size=(12, 24)).shape
    (3, torch.Size([2, 3, 16, 32]), torch.Size([2, 12, 24]))
"""

import itertools
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from ommatid.data.clips import count_frames, read_frames
from ommatid.data.images import SUFFIXES as IMAGE_SUFFIXES
from ommatid.data.images import read_image
from ommatid.data.video import SUFFIXES as VIDEO_SUFFIXES
from ommatid.data.video import decode_video
from ommatid.errors import InputError, unknown
from ommatid.files import numbered_lines

SPLITS = ("train", "test")
SALIENCY_FORMATS = ("wild360", "folder")
PARTS = ("train", "val", "test")
"""Of a folder of one's own."""
WILD360_MAPS = "Wild360_GT_29"
ASPECT = (1.8, 2.2)
"""Frames whose width divided by their height lies outside are not equirectangular."""


@dataclass(frozen=True)
class SaliencyVideo:
    """One video, and where its maps are.

    Attributes:
        name: without its suffix.
        path: file of the video.
        map_folder: folder with one map a frame, numbered from 0 or 1; None where there are no maps.
    """

    name: str
    path: Path
    map_folder: Path | None = None

    def length(self) -> int:
        """Number of frames that can be read, of those with a map where there are maps.

        Raises:
            InputError: the video cannot be read, or as `map_files` does.
        """
        frames = count_frames(self.path)
        return frames if self.map_folder is None else min(frames, len(map_files(self.map_folder)))

    def frames(self, indices: Sequence[int], height: int) -> UInt8[Tensor, "time 3 {height} {2*height}"]:
        """Frames by number from 0, resized (bilinear, antialiased).

        Raises:
            InputError: the video cannot be read, or its frames are not about twice as wide as high.
        """
        pictures = read_frames(self.path, indices, size=height)
        check_aspect(self.path, pictures)
        return _fitted(pictures, (height, 2 * height))

    @property
    def has_maps(self) -> bool:
        return self.map_folder is not None

    def chunks(self, height: int, length: int = 32) -> Iterator[UInt8[Tensor, "time 3 {height} {2*height}"]]:
        """All frames in order, at most `length` at a time; the file is decoded once.

        Raises:
            InputError: as `frames` does.
        """
        return frame_chunks(self.path, height, length)

    def maps(self, indices: Sequence[int], size: tuple[int, int] = (120, 240)) -> Float[Tensor, "time _ _"]:
        """Maps of frames by number from 0.

        Args:
            size: height and width that maps are resized to: bilinear, not antialiased, as Wild360 is evaluated.

        Raises:
            InputError: the video has no maps or none of such a frame, or as `read_map` does.
        """
        if self.map_folder is None:
            raise InputError(f"{self.path}: found no maps of this video, expected a folder of them")
        files = map_files(self.map_folder)
        for index in indices:
            if not 0 <= index < len(files):
                raise InputError(f"{self.map_folder}: found {len(files)} maps, expected one of frame {index}")
        # One after the other: a file cannot be read in batches, and its full size need not stay in memory.
        maps = [_resized(read_map(files[index]), size) for index in indices]
        return torch.stack(maps) if maps else torch.zeros(0, *size)


def frame_chunks(
    path: str | Path, height: int | None = None, length: int = 32, start: int = 0
) -> Iterator[UInt8[Tensor, "time 3 _ _"]]:
    """Frames of an equirectangular video in order, at most `length` at a time, whatever the video's size.

    Args:
        path: a video file, or a folder of numbered frames.
        height: rows that frames are resized to (bilinear, antialiased); their own size where None.
        start: number of the first frame, from 0.

    Raises:
        InputError: the video cannot be read, its frames are not about twice as wide as high, or it has none from
            `start` on.
    """
    path = Path(path)
    size = None if height is None else (height, 2 * height)
    held: list[Tensor] = []
    found = False
    for picture in itertools.islice(_pictures(path), start, None):
        image = picture()[None]
        check_aspect(path, image)
        held.append(image if size is None else _fitted(image, size))
        found = True
        if len(held) == length:
            yield torch.cat(held)
            held = []
    if held:
        yield torch.cat(held)
    if not found:
        raise InputError(f"{path}: found no frame of number {start}, expected a longer video")


def _pictures(path: Path) -> Iterator[Callable[[], UInt8[Tensor, "3 height width"]]]:
    """Every frame, as a function: those that are skipped are not converted."""
    if path.is_dir():
        for number in range(count_frames(path)):
            yield partial(_picture_of_folder, path, number)
        return
    for _, image, _ in decode_video(path):
        yield partial(_picture_of_video, image)


def _picture_of_folder(folder: Path, number: int) -> UInt8[Tensor, "3 height width"]:
    return read_frames(folder, [number])[0]


def _picture_of_video(image: Callable[[], np.ndarray]) -> UInt8[Tensor, "3 height width"]:
    return torch.from_numpy(image()).permute(2, 0, 1)


def check_aspect(path: Path, pictures: UInt8[Tensor, "time 3 height width"]) -> None:
    """
    Raises:
        InputError: the frames are not about twice as wide as high.
    """
    aspect = pictures.shape[-1] / pictures.shape[-2]
    if not ASPECT[0] <= aspect <= ASPECT[1]:
        raise InputError(
            f"{path}: found frames {aspect:.2f} times as wide as high, expected 2 times for views all around"
        )


def check_same_size(path: Path, size: Sequence[int], reference: Path, expected: Sequence[int]) -> None:
    """
    Raises:
        InputError: frames of a video have another size than those of its reference.
    """
    if tuple(size) != tuple(expected):
        found, wanted = (" x ".join(map(str, each)) for each in (size, expected))
        raise InputError(f"{path}: found frames of {found}, expected {wanted} as in {reference.name}")


def _fitted(pictures: UInt8[Tensor, "time 3 height width"], size: tuple[int, int]) -> UInt8[Tensor, "time 3 _ _"]:
    if pictures.shape[-2:] == size:
        return pictures
    wanted = F.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
    return wanted.round().clamp(0, 255).to(torch.uint8)


def detect_saliency_format(root: str | Path) -> str:
    """The one of `SALIENCY_FORMATS` that a folder is in.

    Raises:
        InputError: the folder is missing, or holds neither Wild360's lists nor videos.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected videos shot all around")
    if (root / "data").is_dir() and any((root / f"{split}.txt").is_file() for split in SPLITS):
        return "wild360"
    if any(_videos_of(folder) for folder in (root, *(root / split for split in PARTS))):
        return "folder"
    raise InputError(f"{root}: found no videos, expected some in videos/ or in train/videos/, or the layout of Wild360")


def saliency_splits(root: str | Path, format: str | None = None) -> tuple[str, ...]:
    """Those of train, val and test that a folder has; a folder of videos without parts is all to train with.

    Raises:
        InputError: as `detect_saliency_format` does, or the format is unknown.
    """
    root = Path(root)
    format = _known_format(root, format)
    if format == "wild360":
        return tuple(split for split in SPLITS if (root / f"{split}.txt").is_file())
    return tuple(split for split in PARTS if _videos_of(root / split)) or ("train",)


def open_saliency(root: str | Path, split: str, format: str | None = None) -> list[SaliencyVideo]:
    """The videos of one of `saliency_splits`; a folder of one's own holds `videos` and perhaps `maps`, see
    `video_folder`, or the videos themselves.

    Raises:
        InputError: as `wild360`, `video_folder` and `detect_saliency_format` do, or there is no such split.
    """
    root, splits = Path(root), saliency_splits(root, format)
    if split not in splits:
        raise InputError(f"split: found {split!r}, expected one of those in {root}: {', '.join(splits)}")
    if _known_format(root, format) == "wild360":
        return wild360(root, split)
    folder = root / split if _videos_of(root / split) else root
    maps = folder / "maps"
    videos = folder / "videos"
    return video_folder(videos if videos.is_dir() else folder, maps if maps.is_dir() else None)


def _known_format(root: Path, format: str | None) -> str:
    if format is None:
        return detect_saliency_format(root)
    if format not in SALIENCY_FORMATS:
        raise unknown("format of saliency", format, SALIENCY_FORMATS)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected videos shot all around")
    return format


def _videos_of(folder: Path) -> bool:
    """Whether a folder holds videos, itself or in `videos`."""
    inside = folder / "videos" if (folder / "videos").is_dir() else folder
    return inside.is_dir() and any(path.suffix.lower() in VIDEO_SUFFIXES for path in inside.iterdir())


def wild360(root: str | Path, split: str) -> list[SaliencyVideo]:
    """Videos of a split of Wild360, those of "test" with their maps.

    | path | holds |
    |---|---|
    | `train.txt`, `test.txt` | names of the videos, one a line |
    | `data/<split>/<video>.mp4` | the videos |
    | `Wild360_GT_29/<video>.mp4/<frame>.npy` | maps of the test videos' frames, numbered from 00000 |

    Raises:
        InputError: the split is neither, the list is missing, empty or names a video twice, or a video or its folder of
            maps is missing.
    """
    root = Path(root)
    if split not in SPLITS:
        raise unknown("split of Wild360", split, SPLITS)
    listed = _names(root / f"{split}.txt")
    videos = [root / "data" / split / f"{name}.mp4" for name in listed]
    for path in videos:
        if not path.is_file():
            raise InputError(f"{path}: found no such video, expected the one that {split}.txt names")
    folders: list[Path | None] = [None] * len(listed)
    if split == "test":
        folders = [root / WILD360_MAPS / path.name for path in videos]
        for folder in folders:
            if folder is not None and not folder.is_dir():
                raise InputError(f"{folder}: found no such folder, expected the maps of a test video")
    return [SaliencyVideo(*each) for each in zip(listed, videos, folders, strict=True)]


def video_folder(videos: str | Path, maps: str | Path | None = None) -> list[SaliencyVideo]:
    """Videos of a folder, by name, and their maps where there are any.

    Args:
        videos: folder with the files.
        maps: folder that holds one folder for every video, named as its file is, with or without the suffix.

    Raises:
        InputError: a folder is missing, there is no video, two have one name, or one has no folder of maps.
    """
    videos = _folder(Path(videos))
    paths = sorted(
        (path for path in videos.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES), key=lambda path: path.stem
    )
    if not paths:
        raise InputError(f"{videos}: found no video, expected at least one ({', '.join(sorted(VIDEO_SUFFIXES))})")
    for first, second in itertools.pairwise(paths):
        if first.stem == second.stem:
            raise InputError(f"{second}: found another video of this name ({first.name}), expected each name once")
    if maps is None:
        return [SaliencyVideo(path.stem, path) for path in paths]
    within = _folder(Path(maps))
    return [SaliencyVideo(path.stem, path, _maps_of(path, within)) for path in paths]


def _maps_of(video: Path, maps: Path) -> Path:
    folder = next((maps / name for name in (video.name, video.stem) if (maps / name).is_dir()), None)
    if folder is None:
        raise InputError(f"{maps / video.stem}: found no such folder, expected the maps of {video.name}")
    return folder


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"{path}: found {'a file' if path.exists() else 'nothing'}, expected a folder")
    return path


def _names(path: Path) -> list[str]:
    names = [line for _, line in numbered_lines(path, "names of videos, one a line")]
    if not names:
        raise InputError(f"{path}: found no names, expected those of videos, one a line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: found {twice!r} twice, expected every video once")
    return names


def map_files(folder: Path) -> list[Path]:
    """Files of the maps of one video, in the order of its frames.

    Raises:
        InputError: the folder is missing or holds no numbered maps, their numbers do not start at 0 or 1, or one is
            missing or there twice.
    """
    numbered: dict[int, Path] = {}
    for path in sorted(_folder(folder).iterdir()):
        digits = re.search(r"\d+$", path.stem)
        if digits is None or path.suffix.lower() not in {".npy", *IMAGE_SUFFIXES}:
            continue
        if (number := int(digits[0])) in numbered:
            raise InputError(
                f"{path}: found another map of this number ({numbered[number].name}), expected one a frame"
            )
        numbered[number] = path
    if not numbered:
        raise InputError(f"{folder}: found no numbered maps, expected some like 00000.npy")
    first, last = min(numbered), max(numbered)
    if first > 1:
        raise InputError(f"{folder}: found {first} as the first map's number, expected 0 or 1")
    if last - first + 1 > len(numbered):
        missing = next(number for number in range(first, last) if number not in numbered)
        raise InputError(f"{folder}: found no map of number {missing}, expected all from {first} to {last}")
    return [numbered[number] for number in range(first, last + 1)]


def read_map(path: str | Path) -> Float[Tensor, "height width"]:
    """One map from an `.npy` file, or from a picture's grey levels between 0 and 1.

    Raises:
        InputError: the file cannot be read, has not two dimensions, or holds what is no number.
    """
    path = Path(path)
    if path.suffix.lower() != ".npy":
        return read_image(path, channels=1)[0].float() / 255
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: found no readable array ({type(error).__name__}), expected one of a map") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size or values.dtype.kind not in "fiub":
        found = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else "several arrays"
        raise InputError(f"{path}: found {found}, expected numbers of height x width")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: found {values[~np.isfinite(values)][0]} in the map, expected numbers only")
    return torch.from_numpy(values.astype(np.float32))


def _resized(map: Float[Tensor, "height width"], size: tuple[int, int]) -> Float[Tensor, "_ _"]:
    return F.interpolate(map[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def window_starts(frames: int, length: int) -> list[int]:
    """First frames of windows without overlap; the last one is moved back to end where the video ends (PAVER's F).

    A video shorter than a window has one, which reaches beyond its end.

    Raises:
        InputError: a number is below 1.

    Examples:
        >>> window_starts(12, 5), window_starts(10, 5), window_starts(3, 5)
        ([0, 5, 7], [0, 5], [0])
    """
    for name, number in (("frames", frames), ("length", length)):
        if number < 1:
            raise InputError(f"{name}: found {number}, expected at least 1")
    return [max(0, min(start, frames - length)) for start in range(0, frames, length)]
