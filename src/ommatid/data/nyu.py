"""NYUv2 for several dense tasks: label maps, surface normals and depths of indoor scenes.

| format | what lies in the folder |
|---|---|
| `nyu` | layout of the NDDR-CNN release: `nyu_v2/list/{training,testing}_{seg,normal_mask}.txt`, images, PNG labels |
| `nyu-mat` | the official `nyu_depth_v2_labeled.mat` and `splits.mat`, with `classMapping40.mat` beside them |

Every line of a list is "image label", from the folder `nyu_v2` on. A label map is a PNG of class numbers from 0 on, 255
where a pixel is not labelled; normals are a PNG of three bytes, of which 0 to 255 stand for -1 to 1, all 255 where
there is none. `nyu_v2/classes.txt`, one name a line, says which classes there are; the 40 of NYUv2 if it is missing.

The official file has depths and no normals: planes are fitted to the depths around every pixel (`normals_from_depth`).
These are not the published ground truth, which was made with another algorithm; scores of the two do not compare.

Normals are (x to the right, y up, z to the viewer) where they are made here. Those of the release come as they are.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from ommatid.data.images import existing_folder, read_image
from ommatid.data.new_folder import new_folder
from ommatid.data.surface_samples import (
    IGNORE,
    Camera,
    SurfaceImages,
    SurfaceSample,
    decoded_normals,
    encoded_normals,
    normals_from_depth,
)
from ommatid.errors import InputError, MissingDependency, shortened, unknown
from ommatid.files import numbered_lines, read_text

NYU_FORMATS = ("nyu", "nyu-mat")
LISTS = {"train": "training", "test": "testing"}
"""Splits, and how their lists begin."""
DECODINGS = ("unit", "raw")
"""How bytes become normals, see `open_nyu`."""
# fmt: off
CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture",
    "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes",
    "ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard",
    "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "other structure", "other furniture",
    "other prop",
)
# fmt: on
_FILES = {
    "data": "nyu_depth_v2_labeled.mat",
    "splits": "splits.mat",
    "mapping": "classMapping40.mat",
    "camera": "camera.txt",
}


def open_nyu(
    root: str | Path,
    split: str = "train",
    format: str | None = None,
    decode: str = "unit",
    mapping: str | Path | None = None,
) -> SurfaceImages:
    """The images of one split, "train" or "test"; there is no part for validation.

    Args:
        format: one of `NYU_FORMATS`; found out if None.
        decode: one of `DECODINGS`, how bytes become normals in the format "nyu": "unit" as described above; "raw" takes
            the bytes themselves for the vector, as the authors of NDDR-CNN did. All directions then lie within one
            octant, angles are only comparable among each other, and mirror images must not negate x.
        mapping: classes of the 894 labels of the format "nyu-mat": a MAT file with `mapClass` (and perhaps `className`)
            or a text of one number for each label, from 1 on, 0 for none; `classMapping40.mat` beside the data if None.

    Raises:
        InputError: the folder is in no known format or has no such split, or a file is missing or faulty.
        MissingDependency: the format "nyu-mat" without h5py installed.
    """
    format = detect_nyu_format(root) if format is None else format
    if format == "nyu":
        return ReleasedImages(root, split, decode)
    if format == "nyu-mat":
        return OfficialImages(root, split, mapping)
    raise unknown("format of NYUv2", format, NYU_FORMATS)


def nyu_splits(root: str | Path, format: str | None = None) -> tuple[str, ...]:
    """Those of "train" and "test" that a folder has.

    Raises:
        InputError: the folder is missing or in no known format.
    """
    format = detect_nyu_format(root) if format is None else format
    if format == "nyu-mat":
        return tuple(LISTS)
    folder = _release(existing_folder(Path(root))) / "list"
    return tuple(split for split, start in LISTS.items() if (folder / f"{start}_seg.txt").is_file())


def detect_nyu_format(root: str | Path) -> str:
    """The one of `NYU_FORMATS` that a folder is in.

    Raises:
        InputError: the folder is missing or in neither of them.
    """
    root = existing_folder(Path(root))
    if (root / _FILES["data"]).is_file():
        return "nyu-mat"
    if any((_release(root) / "list").glob("*_seg.txt")):
        return "nyu"
    raise InputError(f"{root}: found neither {_FILES['data']} nor nyu_v2/list/*_seg.txt, expected one of them")


# The layout of the release.


class ReleasedImages(SurfaceImages):
    """The format "nyu", see `open_nyu`."""

    def __init__(self, root: str | Path, split: str = "train", decode: str = "unit") -> None:
        if split not in LISTS:
            raise unknown("split", split, LISTS)
        if decode not in DECODINGS:
            raise unknown("decode", decode, DECODINGS)
        self.folder, self.decode = _release(existing_folder(Path(root))), decode
        self.class_names = _listed_classes(self.folder / "classes.txt")
        files = [self.folder / "list" / f"{LISTS[split]}_{kind}.txt" for kind in ("seg", "normal_mask")]
        maps, normals = (_pairs(file) for file in files)
        for image in maps:
            if image not in normals:
                raise InputError(f"{files[1]}: found no line for {image}, expected the images of {files[0].name}")
        for image in normals:
            if image not in maps:
                raise InputError(f"{files[0]}: found no line for {image}, expected the images of {files[1].name}")
        self.paths = [
            tuple(self.folder / name.lstrip("/") for name in (image, maps[image], normals[image])) for image in maps
        ]
        self.ids = tuple(Path(image).stem for image in maps)
        missing = [path for paths in self.paths for path in paths if not path.is_file()]
        if missing:
            raise InputError(
                f"{files[0].parent}: {len(missing)} files of {split} are missing, expected all (first: {missing[0]})"
            )

    def __getitem__(self, index: int) -> SurfaceSample:
        path, map_path, normals_path = self.paths[index]
        image = read_image(path)
        semantic = _label_map(map_path, len(self.class_names))
        encoded = read_image(normals_path)
        for place, found in ((map_path, semantic), (normals_path, encoded)):
            if found.shape[-2:] != image.shape[-2:]:
                height, width = image.shape[-2:]
                raise InputError(
                    f"{place}: found {found.shape[-2]} x {found.shape[-1]} pixels, expected {height} x {width} as of "
                    f"{path.name}"
                )
        normals = decoded_normals(encoded, self.decode)
        return SurfaceSample(image.float() / 255, semantic, normals, None, self.ids[index])


def write_nyu(root: Path, split: str, samples: Iterable[SurfaceSample], class_names: Sequence[str] = CLASSES) -> int:
    """Write one split in the layout of the release below a folder, and say how many images it has."""
    folder, place = root / "nyu_v2", "nyu_train_val"
    for name in ("list", place):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {"seg": [], "normal_mask": []}
    for sample in samples:
        pixels = (sample.image * 255).round().to(torch.uint8)
        for ending, picture in (("", pixels), ("_normal", encoded_normals(sample.normals))):
            _save(picture, folder / place / f"{sample.id}{ending}.png")
        _save(sample.semantic.to(torch.uint8)[None], folder / place / f"{sample.id}_seg.png")
        lines["seg"].append(f"/{place}/{sample.id}.png /{place}/{sample.id}_seg.png")
        lines["normal_mask"].append(f"/{place}/{sample.id}.png /{place}/{sample.id}_normal.png")
    for kind, rows in lines.items():
        (folder / "list" / f"{LISTS[split]}_{kind}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "classes.txt").write_text("\n".join(class_names) + "\n", encoding="utf-8")
    return len(lines["seg"])


def convert_nyu(source: str | Path, root: str | Path, mapping: str | Path | None = None) -> dict[str, int]:
    """The official files in the layout of the release, so that normals are computed once; depths are left behind.

    Args:
        source: folder in the format "nyu-mat".
        root: a new folder.
        mapping: see `open_nyu`.

    Returns:
        Number of images of every split.

    Raises:
        InputError: a file of the source is missing or faulty, or the folder is not new.
    """
    splits = {split: OfficialImages(source, split, mapping) for split in LISTS}
    with new_folder(root) as aside:
        return {
            split: write_nyu(aside, split, (images[index] for index in range(len(images))), images.class_names)
            for split, images in splits.items()
        }


def _release(root: Path) -> Path:
    """The folder `nyu_v2`, given itself or by a folder around it."""
    return next((each for each in (root / "nyu_v2", root / "datasets" / "nyu_v2") if each.is_dir()), root)


def _pairs(file: Path) -> dict[str, str]:
    """Label by image, of a list of the release."""
    pairs: dict[str, str] = {}
    for number, line in numbered_lines(file, "a list of images and labels"):
        names = line.split()
        if len(names) != 2:
            raise InputError(f"{file}, line {number}: found {shortened(line)}, expected an image and its label")
        if names[0] in pairs:
            raise InputError(f"{file}, line {number}: found {names[0]} again, expected one line for each image")
        pairs[names[0]] = names[1]
    if not pairs:
        raise InputError(f"{file}: found no images, expected at least one")
    return pairs


def _listed_classes(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        return CLASSES
    names = tuple(name for _, name in numbered_lines(file, "names of classes"))
    if not 0 < len(set(names)) == len(names) <= IGNORE:
        raise InputError(f"{file}: found {len(names)} classes, expected 1 to {IGNORE} different names, one a line")
    return names


def _label_map(path: Path, classes: int) -> Int[Tensor, "height width"]:
    try:
        with Image.open(path) as file:
            mode, pixels = file.mode, np.array(file)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: found a damaged or unreadable file ({error}), expected a label map") from error
    if mode not in ("L", "P"):
        raise InputError(f"{path}: found an image of mode {mode}, expected a label map, one byte a pixel")
    return _known_classes(path, torch.from_numpy(pixels).long(), classes)


def _known_classes(place: Any, labels: Int[Tensor, "height width"], classes: int) -> Int[Tensor, "height width"]:
    for found in labels[(labels >= classes) & (labels != IGNORE)][:1].tolist():
        raise InputError(f"{place}: found the class {found}, expected 0 to {classes - 1}, or {IGNORE} for none")
    return labels


def _save(pixels: UInt8[Tensor, "channel height width"], path: Path) -> None:
    image = rearrange(pixels, "c h w -> h w c").contiguous().numpy()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)


# The official files.


class OfficialImages(SurfaceImages):
    """The format "nyu-mat", see `open_nyu`.

    Labels become classes from 0 on and 255 for none. `camera.txt` beside the data, four numbers fx fy cx cy, tells of
    another camera than NYU's.
    """

    def __init__(self, root: str | Path, split: str = "train", mapping: str | Path | None = None) -> None:
        if split not in LISTS:
            raise unknown("split", split, LISTS)
        root = existing_folder(Path(root))
        self.file = root / _FILES["data"]
        count = self._check()
        self.classes, self.class_names = _mapping(Path(mapping) if mapping else root / _FILES["mapping"])
        entry, splits = f"{split}Ndxs", root / _FILES["splits"]
        self.rows = _rows(splits, entry, count)
        self.ids = tuple(f"{row + 1:04d}" for row in self.rows)
        self.camera = _camera(root / _FILES["camera"])

    def __getitem__(self, index: int) -> SurfaceSample:
        row, place = self.rows[index], f"{self.file}, image {self.ids[index]}"
        with _opened(self.file) as file:
            # MATLAB's first axis is HDF5's last.
            image, labels, depth = (
                np.asarray(file[name][row]).swapaxes(-1, -2) for name in ("images", "labels", "depths")
            )
        height, width = image.shape[-2:]
        metres = torch.from_numpy(depth.astype(np.float32)).nan_to_num(0.0, 0.0, 0.0).clamp(min=0)[None]
        normals = normals_from_depth(metres, self.camera or Camera.of_nyu(height, width))
        labels = labels.astype(np.int64)
        if labels.max(initial=0) >= len(self.classes):
            raise InputError(f"{place}: found the label {labels.max()}, expected 0 to {len(self.classes) - 1}")
        pixels = torch.from_numpy(image.astype(np.float32)) / 255
        return SurfaceSample(pixels, self.classes[torch.from_numpy(labels)], normals, metres, self.ids[index])

    def _check(self) -> int:
        """How many images there are, of which all arrays agree."""
        with _opened(self.file) as file:
            shapes: dict[str, Any] = {
                name: getattr(file.get(name), "shape", None) for name in ("images", "labels", "depths")
            }
        for name, shape in shapes.items():
            if shape is None:
                raise InputError(f"{self.file}: found no entry {name!r}, expected images, labels and depths")
            if len(shape) != (4 if name == "images" else 3):
                raise InputError(f"{self.file}: found {name} of shape {shape}, expected that of NYUv2, axes reversed")
        count, channels, *size = shapes["images"]
        if channels != 3 or any(shapes[name] != (count, *size) for name in ("labels", "depths")):
            raise InputError(
                f"{self.file}: found arrays of shapes {', '.join(map(str, shapes.values()))}, "
                "expected one label map and one depth map in the size of every image"
            )
        return count


def _opened(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingDependency(f"{path} is of MATLAB 7.3 and needs h5py: pip install 'ommatid[video]'") from error
    if not path.is_file():
        raise InputError(f"{path}: found no such file, expected the labelled images of NYUv2")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected a MAT file of version 7.3") from error


def _mat(path: Path, names: Sequence[str], expected: str) -> dict[str, np.ndarray]:
    from scipy.io import loadmat

    if not path.is_file():
        raise InputError(f"{path}: found no such file, expected {expected}")
    try:
        content = loadmat(path, variable_names=list(names))
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise InputError(f"{path}: found no readable MAT file ({type(error).__name__}), expected {expected}") from error
    if names[0] not in content:
        raise InputError(f"{path}: found no entry {names[0]!r}, expected {expected}")
    return {name: content[name] for name in names if name in content}


def _rows(path: Path, entry: str, count: int) -> list[int]:
    """Numbers of images from 0 on."""
    numbers = _mat(path, (entry,), "trainNdxs and testNdxs")[entry].ravel().astype(np.int64)
    if not len(numbers):
        raise InputError(f"{path}: found nothing in {entry}, expected numbers of images")
    for wrong in numbers[(numbers < 1) | (numbers > count)][:1].tolist():
        raise InputError(f"{path}: found image {wrong} in {entry}, expected 1 to {count}")
    return (numbers - 1).tolist()


def _mapping(path: Path) -> tuple[Int[Tensor, " label"], tuple[str, ...]]:
    """The class of every label from 0 (none) on, and the names of classes."""
    expected, names = "the class of each of the 894 labels", None
    if path.suffix == ".mat":
        content = _mat(path, ("mapClass", "className"), expected)
        numbers = content["mapClass"].ravel().astype(np.int64)
        if "className" in content:
            names = tuple(str(np.asarray(each).ravel()[0]) for each in content["className"].ravel())
    else:
        numbers = np.asarray(_numbers(path, expected), dtype=np.int64)
    if not len(numbers) or numbers.min() < 0 or not 0 < numbers.max() <= IGNORE:
        raise InputError(
            f"{path}: found classes {numbers.min(initial=0)} to {numbers.max(initial=0)}, expected 1 to 40"
        )
    count = int(numbers.max())
    if names is None or len(names) < count:
        names = CLASSES if count <= len(CLASSES) else tuple(f"class {number}" for number in range(1, count + 1))
    classes = torch.from_numpy(np.concatenate([[0], numbers])) - 1
    return classes.where(classes >= 0, IGNORE), names


def _camera(path: Path) -> Camera | None:
    if not path.is_file():
        return None
    values = _numbers(path, "fx fy cx cy")
    if len(values) != 4 or min(values[:2]) <= 0:
        raise InputError(f"{path}: found {len(values)} numbers, expected fx fy cx cy, the focal lengths above 0")
    return Camera(*values)


def _numbers(path: Path, expected: str) -> list[float]:
    try:
        return np.loadtxt(io.StringIO(read_text(path, expected)), ndmin=1, dtype=np.float64).ravel().tolist()
    except ValueError as error:
        raise InputError(f"{path}: found {error}, expected {expected}, numbers only") from error
