"""Images with masks or label maps: one contract for the files of official segmentation sets and for one's own.

| format | what lies in the folder |
|---|---|
| `folder` | one's own `{train,val,test}/{images,masks}/`, or `images/` and `masks/`; perhaps `classes.txt` |
| `pairs` | `{train,val,test}.txt` with an image and its mask a line; `full_data.txt`, `shot.txt`, `test_data.txt` |
| `tiles` | as `folder`, with `tiles/<slide>_<x>_<y>.png` in place of `images/` |
| `msra10k` | `Imgs/<id>.jpg` and `<id>.png` |
| `ecssd` | `images/`, `ground_truth_mask/` |
| `dut-omron` | `DUT-OMRON-image/`, `pixelwiseGT-new-PNG/` |
| `hku-is` | `imgs/`, `gt/` |
| `thur15k` | `<class>/Src/<id>.jpg`, and `<id>.png` of those that are labelled |
| `cub` | `CUB_200_2011/{images,images.txt,train_test_split.txt}`, `segmentations/` in it or beside it |
| `flowers` | `jpg/`, `segmim/`, `setid.mat` |
| `glas` | `train_<n>.bmp`, `testA_<n>.bmp`, `testB_<n>.bmp`, each with `<name>_anno.bmp` |
| `voc` | `VOCdevkit/VOC<year>/{JPEGImages,SegmentationClass,ImageSets/Segmentation}` |
| `sbd` | `dataset/{img,cls}`, `dataset/{train,val}.txt` |
| `coco` | `annotations/instances_{train,val}<year>.json`, images in `{train,val}<year>/` |

Sets that have no parts of their own are all "train". A set of one class is a binary one, its class the foreground.

In the first three formats masks are read by what they hold. Beside a `classes.txt`, values (or indices of a palette)
are classes from 1 on, 0 is background and 255 is ignored. Else a mask of two values with 0 among them shows the
foreground where it is not 0, and a soft one where it is above 127.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ommatid.data import mask_benchmarks, mask_formats
from ommatid.data.images import SPLITS, existing_folder, read_image
from ommatid.data.mask_formats import FOREGROUND, Origin, Parts
from ommatid.data.mask_maps import IGNORE as IGNORE
from ommatid.data.mask_maps import MOST_CLASSES, AnyClass, MapSource, image_size
from ommatid.errors import InputError, unknown

# A folder is of the first that is found: one's own are the least particular.
_FORMATS = {**mask_benchmarks.FORMATS, **mask_formats.FORMATS}
MASK_FORMATS = tuple(_FORMATS)


@dataclass(frozen=True, eq=False)
class MaskedImages:
    """The images of one split and their label maps, both read when asked for.

    Attributes:
        maps: None for images that are unlabelled.
        class_names: of the classes 1, 2, ...; 0 is background.
        categories: the class that an image as a whole is known to be of, labelled or not; 0 where nothing is known.
        origins: where a tile lies on its slide; None for images that are no tiles.

    Raises:
        InputError: there are not as many maps as images, or no classes or more than 254.

    Examples:
        >>> images = MaskedImages((Path("1.jpg"), Path("2.jpg")), (None, None), ("foreground",))
        >>> len(images), images.labelled, images.unlabelled, images.binary
        (2, (), (0, 1), True)
    """

    images: tuple[Path, ...]
    maps: tuple[MapSource | None, ...]
    class_names: tuple[str, ...]
    categories: tuple[int, ...] = field(default=(), repr=False)
    origins: tuple[Origin | None, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for name, nothing in (("categories", 0), ("origins", None)):
            object.__setattr__(self, name, getattr(self, name) or (nothing,) * len(self.images))
        for name in ("maps", "categories", "origins"):
            if len(getattr(self, name)) != len(self.images):
                raise InputError(
                    f"{name}: found {len(getattr(self, name))}, expected {len(self.images)}, one for each image"
                )
        if not 1 <= len(self.class_names) <= MOST_CLASSES:
            raise InputError(f"class_names: found {len(self.class_names)}, expected 1 to {MOST_CLASSES}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def binary(self) -> bool:
        """Whether there is only one class, the foreground."""
        return len(self.class_names) == 1

    @cached_property
    def labelled(self) -> tuple[int, ...]:
        """Numbers of the images with a map."""
        return tuple(number for number, source in enumerate(self.maps) if source is not None)

    @cached_property
    def unlabelled(self) -> tuple[int, ...]:
        """Numbers of the images without a map."""
        return tuple(number for number, source in enumerate(self.maps) if source is None)

    def pixels(self, number: int) -> UInt8[Tensor, "3 height width"]:
        """An image in colour and upright, of its own size.

        Raises:
            InputError: the file is missing or damaged.
        """
        return read_image(self.images[number])

    def label_map(self, number: int) -> UInt8[Tensor, "height width"]:
        """The map of an image: 0 is background, 1 and up are classes, 255 is to be ignored.

        Raises:
            InputError: the image is unlabelled, its map is missing or damaged, of another size or with a class that is
                not known.
        """
        source = self.maps[number]
        if source is None:
            raise InputError(f"{self.images[number]}: found no mask of this image, expected a labelled one")
        labels = source.read()
        found, expected = (" x ".join(map(str, size)) for size in (labels.shape, image_size(self.images[number])))
        if found != expected:
            raise InputError(
                f"{source.place}: found a map of {found} pixels (height x width), "
                f"expected {expected} as {self.images[number].name} has"
            )
        return torch.from_numpy(np.ascontiguousarray(labels))

    def select(self, numbers: Iterable[int]) -> "MaskedImages":
        """Some of the images, in the order of their numbers given."""
        chosen = tuple(numbers)
        return MaskedImages(
            tuple(self.images[number] for number in chosen),
            tuple(self.maps[number] for number in chosen),
            self.class_names,
            tuple(self.categories[number] for number in chosen),
            tuple(self.origins[number] for number in chosen),
        )

    def as_foreground(self) -> "MaskedImages":
        """The same images with all classes as one, the foreground; what is ignored stays so."""
        maps = tuple(source if source is None else AnyClass(source) for source in self.maps)
        return replace(self, maps=maps, class_names=FOREGROUND, categories=(0,) * len(self))


def open_masks(root: str | Path, split: str = "train", format: str | None = None) -> MaskedImages:
    """The images of one split of a data set's folder.

    Lists are read and files looked for; images and maps are decoded one by one when asked for.

    Args:
        split: one of `mask_splits`. Some formats have parts besides: "testA" and "testB" of glas, "trainval" of voc,
            "train_noval" of sbd, "shot" of pairs.
        format: one of `MASK_FORMATS`; `detect_mask_format` finds it out if None.

    Raises:
        InputError: the folder is missing or in no known format, has no such split, the split is empty, a list is faulty
            (file and line or number of the record are named), or an image or mask that must be there is missing.
    """
    parts = _parts(root, format)
    if split not in parts:
        raise InputError(f"split: found {split!r}, expected one of those in {root}: {', '.join(parts)}")
    listing = parts[split]()
    if not listing.records:
        raise InputError(f"{listing.source}: found no images for {split}, expected at least one")
    images, maps, categories, origins = zip(*listing.records, strict=True)
    return MaskedImages(images, maps, listing.class_names, categories, origins)


def mask_splits(root: str | Path, format: str | None = None) -> tuple[str, ...]:
    """Those of train, val and test that a data set's folder has.

    Raises:
        InputError: the folder is missing, or in no known format.
    """
    parts = _parts(root, format)
    return tuple(split for split in SPLITS if split in parts)


def detect_mask_format(root: str | Path) -> str:
    """The one of `MASK_FORMATS` that a folder is in.

    Raises:
        InputError: the folder is missing, or in none of the formats.
    """
    root = existing_folder(Path(root))
    for name, format in _FORMATS.items():
        if format.found(root):
            return name
    raise InputError(
        f"{root}: found no folders of images and masks and no lists of them, "
        f"expected one of the formats {', '.join(sorted(MASK_FORMATS))}"
    )


def _parts(root: str | Path, format: str | None) -> Parts:
    root, name = existing_folder(Path(root)), format or detect_mask_format(root)
    if name not in _FORMATS:
        raise unknown("format of masks", name, MASK_FORMATS)
    parts = _FORMATS[name].parts(root)
    if not parts:
        raise InputError(f"{root}: found no images and masks, expected some in the format {name}")
    return parts
