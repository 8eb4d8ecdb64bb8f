"""Labelled images for classification: embedded digits, CIFAR and Tiny-ImageNet as distributed, and one's own folders.

| function | layout |
|---|---|
| `digits` | comes with scikit-learn |
| `fashion_mnist` | ships with the library |
| `cifar10` | `cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}` |
| `cifar100` | `cifar-100-python/{train,test,meta}` |
| `tiny_imagenet` | `tiny-imagenet-200/{train/<wnid>/images/*,val/images/*,val/val_annotations.txt,words.txt}` |
| `image_folder` | `<root>/{train,val,test}/<class>/*` or `<root>/<class>/*` |

Every set has its class names and the channel means and deviations that classifiers of it are trained with.
"""

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.data.embedded import fashion_mnist_test
from ommatid.data.pickles import as_text, unpickled_dictionary
from ommatid.errors import InputError, unknown
from ommatid.files import numbered_lines

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = ("train", "val", "test")
Fit = Literal["squash", "crop"]
"""How an image comes to its size: both sides resized, or the middle of it after the shorter side was resized a little
larger (256 for 224), as ImageNet's networks are tested."""
MARGIN = 256 / 224
Constants = tuple[tuple[float, ...], tuple[float, ...]]
CIFAR_PICKLE = "found nothing, expected a file of the unpacked archive", "a CIFAR batch"
CIFAR10: Constants = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100: Constants = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
TINY_IMAGENET: Constants = ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
IMAGENET: Constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class ImageFiles:
    """Image files that are decoded when asked for, as bytes (channel, height, width)."""

    def __init__(
        self, paths: Sequence[Path], channels: int = 3, size: int | tuple[int, int] | None = None, fit: Fit = "squash"
    ) -> None:
        self.paths = paths
        self.channels = channels
        self.size = size
        self.fit = fit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> UInt8[Tensor, "channel height width"]:
        return read_image(self.paths[index], self.channels, self.size, self.fit)


@dataclass(eq=False)
class ImageSet(Dataset[tuple[Tensor, int]]):
    """Images in [0, 1] with the index of their class.

    Args:
        images: a tensor of bytes or of floats in [0, 1], or files that are read when asked for.
        mean, std: of every channel, as classifiers of this set are trained with; the images are NOT normalised.

    Raises:
        InputError: there are more labels than images or the other way round, or a label without a class name.

    Examples:
        >>> test = digits("test", size=16, channels=1)
        >>> image, label = test[0]
        >>> len(test), tuple(image.shape), test.class_names[label]
        (797, (1, 16, 16), ...)
    """

    images: Tensor | ImageFiles
    labels: Int[Tensor, " image"]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split: str | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise InputError(f"labels: found {len(self.labels)}, expected {len(self.images)}, one for each image")
        classes = len(self.class_names)
        for label in self.labels[(self.labels < 0) | (self.labels >= classes)][:1].tolist():
            raise InputError(f"labels: found class {label}, expected 0 to {classes - 1} for {classes} class names")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "channel height width"], int]:
        return unit_interval(self.images[index]), int(self.labels[index])

    def tensors(self) -> tuple[Float[Tensor, "image channel height width"], Int[Tensor, " image"]]:
        """All images and labels in memory.

        Raises:
            InputError: the images differ in size, or a file cannot be read.
        """
        if isinstance(self.images, Tensor):
            return unit_interval(self.images), self.labels
        images = [
            self.images[index] for index in range(len(self))
        ]  # one file after the other: decoding cannot be batched
        for path, image in zip(self.images.paths, images, strict=True):
            if image.shape != images[0].shape:
                found, expected = (" x ".join(map(str, each.shape[1:])) for each in (image, images[0]))
                raise InputError(
                    f"{path}: found {found} pixels, expected {expected} as in the first image: pass a size"
                )
        return unit_interval(torch.stack(images)), self.labels


def digits(split: str = "train", size: int = 16, channels: int = 3) -> ImageSet:
    """Handwritten digits (UCI, in scikit-learn), resized: 1,000 to train with and 797 to test, classes in balance.

    Examples:
        >>> train = digits(size=16)
        >>> len(train), tuple(train.images.shape[1:])
        (1000, (3, 16, 16))
    """
    _one_of(split, ("train", "test"))
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    chosen = train_test_split(
        np.arange(len(data.target)), train_size=1000, test_size=797, stratify=data.target, random_state=0
    )
    train, test = (torch.from_numpy(np.sort(part)) for part in chosen)
    images = torch.from_numpy(data.images).float()[:, None] / 16
    images = F.interpolate(images, size=(size, size), mode="bilinear").expand(-1, channels, -1, -1)
    mean, std = images[train].mean().item(), images[train].std().item()
    part = train if split == "train" else test
    names = tuple(map(str, data.target_names))
    labels = torch.from_numpy(data.target).long()[part]
    return ImageSet(images[part].contiguous(), labels, names, (mean,) * channels, (std,) * channels, split)


FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def fashion_mnist(split: str = "train", size: int = 28, channels: int = 1) -> ImageSet:
    """The official test part of Fashion-MNIST, resized: 8,000 to train with and 2,000 to test, classes in balance.

    Scores are those of small training sets; they do not compare with those of its 60,000 training images.

    Examples:
        >>> test = fashion_mnist("test")
        >>> len(test), tuple(test.images.shape[1:]), test.class_names[0]
        (2000, (1, 28, 28), 't-shirt')
    """
    _one_of(split, ("train", "test"))
    from sklearn.model_selection import train_test_split

    images, labels = fashion_mnist_test()
    chosen = train_test_split(np.arange(len(labels)), test_size=2000, stratify=labels.numpy(), random_state=0)
    part = torch.from_numpy(np.sort(chosen[split == "test"]))
    pixels = images[part, None]
    if size != pixels.shape[-1]:
        scaled = F.interpolate(pixels.float(), size=(size, size), mode="bilinear", antialias=True)
        pixels = scaled.round().to(torch.uint8)
    mean, std = 0.2860, 0.3530
    pixels = pixels.expand(-1, channels, -1, -1).contiguous()
    return ImageSet(pixels, labels.long()[part], FASHION, (mean,) * channels, (std,) * channels, split)


def cifar10(root: str | Path, split: str = "train") -> ImageSet:
    """CIFAR-10 from its Python archive, unpacked: 50,000 or 10,000 images of 32 x 32.

    The archive is pickled; only arrays and plain containers are read from it, nothing in it is executed.

    Raises:
        InputError: a file is missing, damaged, or carries anything else.
    """
    files = {"train": [f"data_batch_{part}" for part in range(1, 6)], "test": ["test_batch"]}
    return _cifar(Path(root), "cifar-10-batches-py", files, split, "labels", ("batches.meta", "label_names"), CIFAR10)


def cifar100(root: str | Path, split: str = "train") -> ImageSet:
    """CIFAR-100 (fine labels) from its Python archive, unpacked; read and refused as `cifar10`."""
    files, meta = {"train": ["train"], "test": ["test"]}, ("meta", "fine_label_names")
    return _cifar(Path(root), "cifar-100-python", files, split, "fine_labels", meta, CIFAR100)


def tiny_imagenet(
    root: str | Path, split: str = "train", size: int | tuple[int, int] | None = None, channels: int = 3
) -> ImageSet:
    """Tiny-ImageNet as unpacked: 200 classes of 500 images, 64 x 64; "test" is its labelled validation part.

    Raises:
        InputError: the folders or the annotations are not those of Tiny-ImageNet.
    """
    _one_of(split, ("train", "test"))
    folder = _inside(Path(root), "tiny-imagenet-200")
    wnids = [path.name for path in class_folders(folder / "train")]
    if split == "train":
        images = [images_in(folder / "train" / wnid / "images") for wnid in wnids]
        found = [(path, label) for label, paths in enumerate(images) for path in paths]
    else:
        found = _annotated(folder / "val", wnids)
    words = _words(folder / "words.txt")
    names = tuple(words.get(wnid, wnid) for wnid in wnids)
    return of_files(found, names, TINY_IMAGENET, split, size, channels)


def image_folder(
    root: str | Path,
    split: str | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
    fit: Fit = "squash",
) -> ImageSet:
    """Images in one folder per class, read with Pillow when asked for; grey, palette and alpha are converted.

    Args:
        split: "train", "val" or "test" where the root has such folders; classes are numbered as in `train`. For splits
            of different classes (few-shot sets) open `root/test` itself, without a split.
        size: height and width, or one number for both, that every image is resized to; without it images keep theirs.
        channels: 3 for colour, 1 for grey.
        fit: how images come to that size.

    Raises:
        InputError: the folder is missing, empty or of another layout, a file is no image, or a class is not one of
            `train`. A file that cannot be decoded raises it when it is read.
    """
    root = existing_folder(Path(root))
    splits = tuple(name for name in SPLITS if (root / name).is_dir() and subfolders(root / name))
    if split is None and splits:
        raise InputError(f"split: found none, expected one of {', '.join(splits)}, the folders in {root}")
    if split is not None and split not in splits:
        raise InputError(
            f"split: found {split!r}, expected one of the folders in {root}: {', '.join(splits) or 'none'}"
        )
    folder = root / split if split else root
    folders = class_folders(folder)
    names = tuple(path.name for path in (class_folders(root / "train") if "train" in splits else folders))
    for path in folders:
        if path.name not in names:
            raise InputError(f"{path}: found a class that is none of the {len(names)} classes of {root / 'train'}")
    found = [(image, names.index(path.name)) for path in folders for image in images_in(path)]
    return of_files(found, names, IMAGENET, split, size, channels, fit)


def read_image(
    path: str | Path, channels: int = 3, size: int | tuple[int, int] | None = None, fit: Fit = "squash"
) -> UInt8[Tensor, "channel height width"]:
    """One image file as bytes, upright, in colour (3 channels) or grey (1), resized if a size is given.

    Raises:
        InputError: the file is missing, truncated or no image, has floats beyond 0 to 1, or there are neither 1 nor 3
            channels.
    """
    _grey_or_colour(channels)
    try:
        with Image.open(path) as file:
            return _upright_pixels(file, str(path), channels, size, fit)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: found no such file, expected an image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: found a damaged or unreadable file ({error}), expected an image") from error


def decode_image(
    encoded: bytes, place: str, channels: int = 3, size: int | tuple[int, int] | None = None
) -> UInt8[Tensor, "channel height width"]:
    """An encoded image as `read_image` gives those of files.

    Args:
        place: where the bytes come from, for the error.

    Raises:
        InputError: the bytes are truncated, no image, or floats beyond 0 to 1, or there are neither 1 nor 3 channels.

    Examples:
        >>> encoded = io.BytesIO()
        >>> Image.new("L", (4, 6), color=9).save(encoded, "PNG")
        >>> decode_image(encoded.getvalue(), "image 0", size=(3, 2)).shape
        torch.Size([3, 3, 2])
    """
    _grey_or_colour(channels)
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            return _upright_pixels(file, place, channels, size)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise InputError(f"{place}: found {len(encoded)} damaged bytes, expected an encoded image") from error


def _grey_or_colour(channels: int) -> None:
    if channels not in (1, 3):
        raise InputError(f"channels: found {channels}, expected 1 or 3")


def _upright_pixels(
    file: Image.Image, place: str, channels: int, size: int | tuple[int, int] | None, fit: Fit = "squash"
) -> UInt8[Tensor, "channel height width"]:
    image = _eight_bits(ImageOps.exif_transpose(file), place).convert("RGB" if channels == 3 else "L")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        image = (
            image.resize((width, height), Image.Resampling.BILINEAR)
            if fit == "squash"
            else _cropped(image, width, height)
        )
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.reshape(image.height, image.width, channels).permute(2, 0, 1).contiguous()


def _cropped(image: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of an image, one eighth less than what the size could show of it."""
    scale = MARGIN * max(width / image.width, height / image.height)
    sides = max(round(scale * image.width), width), max(round(scale * image.height), height)
    left, top = (sides[0] - width) // 2, (sides[1] - height) // 2
    return image.resize(sides, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))


def _eight_bits(image: Image.Image, place: str) -> Image.Image:
    """Sixteen-bit images and floats scaled to bytes; Pillow alone would clip them to white or black."""
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise InputError(f"{place}: found floats from {values.min():g} to {values.max():g}, expected 0 to 1")
        return Image.fromarray((values * 255).round().astype(np.uint8))
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))


def unit_interval(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def of_files(
    found: list[tuple[Path, int]],
    names: tuple[str, ...],
    constants: Constants,
    split: str | None,
    size: int | tuple[int, int] | None,
    channels: int,
    fit: Fit = "squash",
) -> ImageSet:
    mean, std = constants if channels == 3 else ((sum(each) / 3,) for each in constants)
    images = ImageFiles([path for path, _ in found], channels, size, fit)
    return ImageSet(images, torch.tensor([label for _, label in found]), names, mean, std, split)


def existing_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(f"{folder}: found {'a file' if folder.exists() else 'nothing'}, expected a folder")
    return folder


def _inside(root: Path, name: str) -> Path:
    """The folder `name` of a distributed data set, given itself or by the folder that holds it."""
    return root / name if (existing_folder(root) / name).is_dir() else root


def subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def class_folders(folder: Path) -> list[Path]:
    folders = subfolders(existing_folder(folder))
    if not folders:
        raise InputError(f"{folder}: found no folders, expected one folder of images for each class")
    return folders


def images_in(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not is_clutter(path.relative_to(folder)))
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: found the ending {path.suffix!r}, expected an image ({' '.join(SUFFIXES)})")
    if not files:
        raise InputError(f"{folder}: found no images, expected at least one for the class {folder.name!r}")
    return files


def is_clutter(path: Path) -> bool:
    """What file managers and notebooks leave behind."""
    return any(part.startswith(".") for part in path.parts) or path.name.lower() in ("thumbs.db", "desktop.ini")


def _one_of(split: str, known: Sequence[str]) -> None:
    if split not in known:
        raise unknown("split", split, known)


def _annotated(folder: Path, wnids: Sequence[str]) -> list[tuple[Path, int]]:
    """The validation images of Tiny-ImageNet, whose classes are in a table: file, wnid, box."""
    table = folder / "val_annotations.txt"
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    found = []
    for number, line in numbered_lines(table, "the annotations of Tiny-ImageNet"):
        name, wnid = (*line.split("\t"), "", "")[:2]
        if wnid not in labels:
            raise InputError(
                f"{table}, line {number}: found the class {wnid!r}, expected one of the {len(labels)} in train"
            )
        found.append((folder / "images" / name, labels[wnid]))
    return found


def _words(table: Path) -> dict[str, str]:
    """Readable class names by wnid, where the table of them is there."""
    if not table.is_file():
        return {}
    lines = numbered_lines(table, "names of classes")
    return dict(line.split("\t", 1) for _, line in lines if "\t" in line)


def _cifar(
    root: Path,
    name: str,
    files: Mapping[str, Sequence[str]],
    split: str,
    label_key: str,
    names_at: tuple[str, str],
    constants: Constants,
) -> ImageSet:
    _one_of(split, tuple(files))
    folder = _inside(root, name)
    meta_file, names_key = names_at
    meta = unpickled_dictionary(folder / meta_file, *CIFAR_PICKLE)
    if not isinstance(meta.get(names_key), list):
        raise InputError(f"{folder / meta_file}: found no {names_key}, expected the list of class names")
    names = tuple(map(as_text, meta[names_key]))
    parts = [_cifar_part(folder / file, label_key, len(names)) for file in files[split]]
    images, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
    return ImageSet(images, labels, names, *constants, split)


def _cifar_part(path: Path, label_key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    record = unpickled_dictionary(path, *CIFAR_PICKLE)
    data, labels = np.asarray(record.get("data")), np.asarray(record.get(label_key))
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise InputError(f"{path}: found data of {data.dtype} {data.shape}, expected bytes (n, 3072)")
    if labels.shape != data.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{path}: found {label_key} of {labels.dtype} {labels.shape}, expected {len(data)} integers")
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise InputError(
            f"{path}: found the label {labels.max()}, expected 0 to {classes - 1} for {classes} class names"
        )
    return data.reshape(-1, 3, 32, 32), labels.astype(np.int64)
