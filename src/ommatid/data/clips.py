"""Clips for video classification: which frames (sampling), reading just those (decoding), what of them is seen (crops).

The three are apart: sampling knows a number of frames only, decoding knows indices only, so that either can be changed,
tested and reused alone.

Examples:
    >>> indices = clip_indices(frames=300, clip_length=8, interval=8, clips=10)
    >>> indices.shape, indices[0].tolist()
    (torch.Size([10, 8]), [11, 19, 27, 35, 43, 51, 59, 67])
    >>> clips = torch.zeros(10, 8, 3, 256, 340, dtype=torch.uint8)  # read_frames("film.mp4", indices, size=256)
    >>> three_crops(clips, 256).shape
    torch.Size([30, 8, 3, 256, 256])
"""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int, Num, UInt8
from torch import Tensor

from ommatid.data.images import SUFFIXES as IMAGE_SUFFIXES
from ommatid.data.images import read_image
from ommatid.data.video import decode_video, import_pyav
from ommatid.errors import InputError

TEMPLATES = ("img_%05d.jpg", "%06d.jpg", "image_%04d.jpg", "image_%06d.jpg")
"""How the frames of Kinetics, Something-Something v2, UCF101 and HMDB51 are usually named, from 1 on."""

# Their packets hold one shown picture each, by the rules of these containers for these codecs.
_ONE_PICTURE_A_PACKET = {"mov", "matroska"}
_CODECS = {"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "libaom-av1"}


def clip_indices(
    frames: int, clip_length: int, interval: int, clips: int, offset_sets: int = 1
) -> Int[Tensor, "clip time"]:
    """Frames of evenly spread clips, as videos are tested with (arXiv:2012.06977, E6).

    The starts of the clips have the distance `tick = (frames - clip_length * interval + 1) / clips`, the first one is
    at half of it. Clips of a video that is too short start at its first frame; what would lie behind the last frame
    is the last frame.

    Args:
        interval: from one frame of a clip to its next; dense sampling has clips of several frames, sparse (segment)
            sampling clips of one frame with the interval 1.
        offset_sets: 2 for as many clips again that start at the multiples of `tick` themselves.

    Raises:
        InputError: a number is below 1, or `offset_sets` is neither 1 nor 2.

    Examples:
        >>> clip_indices(57, clip_length=1, interval=1, clips=8, offset_sets=2).flatten().tolist()
        [3, 10, 17, 24, 32, 39, 46, 53, 0, 7, 14, 21, 28, 35, 42, 49]
        >>> clip_indices(10, clip_length=4, interval=4, clips=1).tolist()
        [[0, 4, 8, 9]]
    """
    if offset_sets not in (1, 2):
        raise InputError(f"offset_sets: found {offset_sets}, expected 1 or 2")
    tick = _tick(frames, clip_length, interval, clips)
    starts = tick * torch.arange(clips, dtype=torch.float64)
    starts = torch.cat((tick / 2 + starts, starts)[:offset_sets])
    return _frames_from(starts, frames, clip_length, interval)


def random_clip_indices(
    frames: int, clip_length: int, interval: int, clips: int, generator: torch.Generator | None = None
) -> Int[Tensor, "{clips} {clip_length}"]:
    """Frames of clips with random starts, as video networks are trained with (arXiv:2012.06977, E6).

    Each clip starts anywhere within its own tick (see `clip_indices`), all places being equally likely. One clip is
    dense sampling with a random start; clips of one frame are sparse sampling, a random frame of every segment.

    Raises:
        InputError: a number is below 1.

    Examples:
        >>> random_clip_indices(300, clip_length=8, interval=8, clips=1, generator=torch.Generator().manual_seed(0))
        tensor([[...]])
    """
    tick = _tick(frames, clip_length, interval, clips)
    drawn = torch.rand(clips, dtype=torch.float64, generator=generator)
    return _frames_from(tick * (torch.arange(clips) + drawn), frames, clip_length, interval)


def _tick(frames: int, clip_length: int, interval: int, clips: int) -> float:
    given = {"frames": frames, "clip_length": clip_length, "interval": interval, "clips": clips}
    for name, number in given.items():
        if number < 1:
            raise InputError(f"{name}: found {number}, expected at least 1")
    return max(0.0, (frames - clip_length * interval + 1) / clips)


def _frames_from(
    starts: Float[Tensor, " clip"], frames: int, clip_length: int, interval: int
) -> Int[Tensor, "clip {clip_length}"]:
    return (starts.long()[:, None] + interval * torch.arange(clip_length)).clamp(max=frames - 1)


def read_frames(
    path: str | Path,
    indices: Int[Tensor, "*time"] | Sequence[int],
    size: int | None = None,
    template: str | None = None,
) -> UInt8[Tensor, "*time 3 height width"]:
    """Frames of a video file, or of a folder of frame images, by index from 0; upright, in the shape of the indices.

    A video is decoded from its beginning up to the last frame asked for, each frame once and without trusting its
    header; only frames that are asked for become pictures. Indices beyond the last frame that can be decoded, of a file
    that breaks off too, give that last frame. In a folder, index 0 is the image numbered 1.

    Args:
        indices: in any order, with repetitions; several clips, (clip, time), are read in one pass.
        size: pixels that the shorter side is resized to (bilinear, antialiased); without it frames keep theirs.
        template: how the images of a folder are named, such as "img_%05d.jpg"; `frame_template` finds it out if None.

    Raises:
        InputError: the video is missing, no video, or damaged before its first frame; an image is missing, unreadable
            or of another size than the others; an index is negative, or there is none.
    """
    path, indices = Path(path), torch.as_tensor(indices)
    if indices.numel() == 0 or indices.min() < 0:
        raise InputError(f"indices: found {indices.tolist()}, expected one or more, each at least 0")
    if size is not None and size < 1:
        raise InputError(f"size: found {size}, expected at least 1 pixel")
    wanted, places = indices.unique(return_inverse=True)
    if path.is_dir():
        pictures = _from_folder(path, wanted.tolist(), size, template)
    else:
        pictures = _from_video(path, wanted.tolist(), size)
    clips = torch.stack([pictures[place] for place in places.flatten().tolist()])
    return clips.reshape(*indices.shape, *clips.shape[1:])


def _from_video(path: Path, wanted: list[int], size: int | None) -> list[Tensor]:
    pictures: list[Tensor] = []
    last = None
    for number, (_, image, _) in enumerate(decode_video(path)):
        last = image
        if number == wanted[len(pictures)]:
            pictures.append(_picture(torch.from_numpy(image()).permute(2, 0, 1), size))
        if len(pictures) == len(wanted):
            return pictures
    assert last is not None
    final = _picture(torch.from_numpy(last()).permute(2, 0, 1), size)
    return pictures + [final] * (len(wanted) - len(pictures))


def _from_folder(folder: Path, wanted: list[int], size: int | None, template: str | None) -> list[Tensor]:
    template = _checked(template) if template else frame_template(folder)
    pictures: list[Tensor] = []
    for index in wanted:  # one file after the other: decoding cannot be batched
        path = folder / (template % (index + 1))
        if not path.is_file():
            raise InputError(f"{path}: found no such frame, expected an image numbered {index + 1}")
        pictures.append(_picture(read_image(path), size))
        if pictures[-1].shape != pictures[0].shape:
            found, expected = (" x ".join(map(str, each.shape[1:])) for each in (pictures[-1], pictures[0]))
            raise InputError(f"{path}: found {found} pixels, expected {expected} as in the frames before")
    return pictures


def _picture(image: UInt8[Tensor, "3 height width"], size: int | None) -> UInt8[Tensor, "3 _ _"]:
    """Resized at once: a clip of large frames would fill the memory before it shrinks."""
    if size is None:
        return image
    from torchvision.transforms.v2 import functional

    return functional.resize(image, [size], antialias=True)


def count_frames(path: str | Path, template: str | None = None) -> int:
    """Number of frames that can be read from a video file or a folder of frame images, whatever the header says.

    H.264, HEVC, VP9 and AV1 in mp4, mov, mkv and webm are counted without decoding: there every packet is one frame.
    All other files are decoded, and so are those where a packet is cut off, is not meant to be shown, or refers to a
    key frame that is missing. Damage within a picture shows only when it is decoded; behind it `read_frames` repeats
    the last good frame. Of a folder it is the highest number of a frame.

    Raises:
        InputError: the video is missing, no video or damaged before its first frame; the folder holds no such images.
    """
    path = Path(path)
    if path.is_dir():
        return _count_images(path, _checked(template) if template else frame_template(path))
    packets = _count_packets(path)
    return sum(1 for _ in decode_video(path)) if packets is None else packets


def _count_packets(path: Path) -> int | None:
    """Packets of the video where each is a frame; None where only decoding can tell."""
    av = import_pyav()
    count, first = 0, 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            known = container.format.name.split(",")[0] in _ONE_PICTURE_A_PACKET
            if not known or stream.codec_context.name not in _CODECS:
                return None
            for packet in container.demux(stream):
                if not packet.size:  # what PyAV ends with
                    continue
                if packet.is_corrupt or packet.is_discard or packet.pts is None:
                    return None
                if not count:
                    first = packet.pts
                # Pictures before the first key frame, stored or shown, refer to frames that are not there.
                if packet.pts < first or not (count or packet.is_keyframe):
                    return None
                count += 1
            return count or None
    except (av.error.FFmpegError, OSError, ValueError, IndexError):
        return None


def frame_template(folder: str | Path) -> str:
    """How the frames in a folder are named: one of `TEMPLATES`, or as the first numbered image is.

    Raises:
        InputError: the folder is missing, holds no numbered images, or numbers them from 0.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "frame_001.png").touch()
        >>> frame_template(folder)
        'frame_%03d.png'
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: found {'a file' if folder.exists() else 'nothing'}, expected a folder of frames")
    template = next((each for each in TEMPLATES if (folder / (each % 1)).is_file()), None)
    template = template or _template_of_first(folder)
    if (zeroth := folder / (template % 0)).exists():
        raise InputError(f"{zeroth}: found a frame numbered 0, expected the first one to have the number 1")
    return template


def _template_of_first(folder: Path) -> str:
    for name in sorted(path.name for path in folder.iterdir()):
        numbered = re.fullmatch(r"(.*?)(\d+)(\.\w+)", name)
        if numbered and numbered[3].lower() in IMAGE_SUFFIXES:
            before, digits, suffix = numbered.groups()
            return f"{before.replace('%', '%%')}%0{len(digits)}d{suffix}"
    raise InputError(f"{folder}: found no numbered images, expected frames named like {TEMPLATES[0] % 1}")


def _checked(template: str) -> str:
    try:
        usable = template % 1 != template % 2
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise InputError(f"template: found {template!r}, expected one place for a number as in {TEMPLATES[0]!r}")
    return template


def _count_images(folder: Path, template: str) -> int:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    numbers = [int(run) for name in names for run in re.findall(r"\d+", name) if template % int(run) == name]
    if not numbers:
        raise InputError(f"{folder}: found no images named like {template % 1}, expected at least one")
    return max(numbers)


def three_crops(
    clips: Num[Tensor, "clip time channel height width"], size: int
) -> Num[Tensor, "view time channel {size} {size}"]:
    """Three squares of every clip along its longer side, centred on the shorter one; views of a clip follow each other.

    Left, centre and right of films that lie, top, centre and bottom of those that stand: the spatial views of
    Kinetics' protocol (arXiv:2012.06977).

    Raises:
        InputError: the frames are smaller than the squares.
    """
    top, left = _centre(clips, size)
    height, width = clips.shape[-2:]
    if width >= height:
        corners = [(top, 0), (top, left), (top, width - size)]
    else:
        corners = [(0, left), (top, left), (height - size, left)]
    views = torch.stack([clips[..., y : y + size, x : x + size] for y, x in corners])
    return rearrange(views, "crop clip ... -> (clip crop) ...")


def centre_crop(
    clip: Num[Tensor, "*frame channel height width"], size: int
) -> Num[Tensor, "*frame channel {size} {size}"]:
    """The square in the middle of every frame.

    Raises:
        InputError: the frames are smaller than the square.
    """
    top, left = _centre(clip, size)
    return clip[..., top : top + size, left : left + size]


def _centre(clip: Tensor, size: int) -> tuple[int, int]:
    height, width = clip.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise InputError(f"size: found {size}, expected 1 to {min(height, width)} for frames of {height} x {width}")
    return (height - size) // 2, (width - size) // 2


def random_resized_crop(
    clip: Num[Tensor, "*frame channel height width"],
    size: int,
    generator: torch.Generator | None = None,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Num[Tensor, "*frame channel {size} {size}"]:
    """One random part of the picture, the same in all frames, resized to a square (bilinear, antialiased).

    Area and the logarithm of the aspect ratio are drawn evenly, ten times; the first draw that fits into the frame
    counts. If none fits, it is the largest part in the middle whose aspect ratio is allowed.

    Args:
        area: smallest and largest share of the frame.
        aspect: smallest and largest width divided by height.

    Raises:
        InputError: `size` is below 1.
    """
    if size < 1:
        raise InputError(f"size: found {size}, expected at least 1 pixel")
    from torchvision.transforms.v2 import functional

    top, left, height, width = _random_part(clip.shape[-2], clip.shape[-1], generator, area, aspect)
    return functional.resize(clip[..., top : top + height, left : left + width], [size, size], antialias=True)


def _random_part(
    height: int,
    width: int,
    generator: torch.Generator | None,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Top, left, height and width."""
    draws = torch.rand(2, 10, dtype=torch.float64, generator=generator)
    pixels = height * width * (area[0] + (area[1] - area[0]) * draws[0])
    ratios = (math.log(aspect[0]) + math.log(aspect[1] / aspect[0]) * draws[1]).exp()
    sizes = torch.stack([(pixels / ratios).sqrt().round(), (pixels * ratios).sqrt().round()], dim=1)
    fits = ((sizes >= 1) & (sizes <= torch.tensor([height, width]))).all(dim=1)
    places = torch.rand(2, dtype=torch.float64, generator=generator).tolist()
    if fits.any():
        part_height, part_width = map(int, sizes[fits][0].tolist())
    else:
        part_height, part_width = min(height, round(width / aspect[0])), min(width, round(height * aspect[1]))
        places = [0.5, 0.5]
    top, left = int(places[0] * (height - part_height + 1)), int(places[1] * (width - part_width + 1))
    return top, left, part_height, part_width
