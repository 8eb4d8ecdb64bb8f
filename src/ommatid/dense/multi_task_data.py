"""Images with classes and normals of every pixel: the embedded world, NYUv2 in two formats, or your own pictures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.data.nyu import NYU_FORMATS, detect_nyu_format, nyu_splits, open_nyu
from ommatid.data.surface_augment import RandomView
from ommatid.data.surface_samples import IGNORE, SurfaceSample
from ommatid.data.worlds.surfaces import SurfaceWorld
from ommatid.dense.data import held_out
from ommatid.dense.multi_task import SceneBatch
from ommatid.dense.normals_metrics import DenseTaskScores, angular_errors
from ommatid.dense.segmentation_metrics import confusion_matrices
from ommatid.engine.data import DataModule
from ommatid.engine.settings import build
from ommatid.errors import InputError, unknown

SceneSample = tuple[SurfaceSample, int]


class SceneData(DataModule):
    """Images in [0, 1] with classes, normals and, where they are known, depths.

    Args:
        root: folder of the data set; the embedded world where None.
        format: "nyu" or "nyu-mat", see "Scenes" in the documentation, or "auto", which looks at the files.
        decode: how bytes become normals in the format "nyu": "unit", or "raw" as the authors of NDDR-CNN did, see
            `open_nyu`; then `negate_x` must be False and `degrees` 0.
        mapping: file with the class of each label of the format "nyu-mat", see `open_nyu`.
        embedded: "world-surfaces", textured planes.
        world: settings of the world.
        size: height and width that images are resized to; as they are where None.
        augment: "view" shows training images at a random scale, mirrored or not, turned, and cropped.
        crop: height and width of that view.
        scales: smallest and largest scale.
        flip: share of mirrored images.
        degrees: largest turn to either side.
        negate_x: mirrored normals point to where their surfaces now do; False leaves them, as the authors' code does.
    """

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        decode: Literal["unit", "raw"] = "unit",
        mapping: str | None = None,
        embedded: Literal["world-surfaces"] = "world-surfaces",
        world: Mapping[str, Any] | None = None,
        size: list[int] | None = None,
        augment: Literal["none", "view"] = "none",
        crop: list[int] = [321, 321],  # noqa: B006  (plain values for the command line; never changed)
        scales: list[float] = [0.5, 1.5],  # noqa: B006
        flip: float = 0.5,
        degrees: float = 0.0,
        negate_x: bool = True,
        batch_size: int = 10,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        for name, pair in (("size", size), ("crop", crop)):
            if pair is not None and (len(pair) != 2 or min(pair) < 1):
                raise InputError(f"{name}: found {pair}, expected height and width, at least 1 each")
        if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
            raise InputError(f"scales: found {scales}, expected a smallest and a largest scale above 0")
        if not 0 <= flip <= 1:
            raise InputError(f"flip must lie in [0, 1], found {flip}")
        if degrees < 0:
            raise InputError(f"degrees must be at least 0, found {degrees}")
        if augment == "view" and decode == "raw" and flip and negate_x:
            raise InputError("negate_x is true, but decode 'raw' has no negative x, expected negate_x false or flip 0")
        if augment == "view" and decode == "raw" and degrees:
            raise InputError(f"degrees is {degrees}, but decode 'raw' has no negative x and y to turn to, expected 0")
        self.root, self.format, self.decode, self.mapping = root, format, decode, mapping
        self.embedded, self._world = embedded, dict(world or {})
        self.size, self.augment = size, augment
        self.view = RandomView((crop[0], crop[1]), (scales[0], scales[1]), flip, degrees, negate_x)

    @cached_property
    def sets(self) -> dict[str, "SceneSet"]:
        """train, val and test, images as they come from the world or the files."""
        if self.root is not None:
            return read_scenes(self.root, self.format, self.decode, self.mapping)
        world = build(SurfaceWorld, {"seed": self.seed, **self._world})
        return {
            split: SceneSet.of(world.split(split).sample, getattr(world, split), world.class_names)
            for split in self.splits
        }

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.sets["train"].class_names

    def use(self, size: Sequence[int] | None) -> None:
        """Give images as a trained method expects them."""
        self.size = None if size is None else list(size)

    def dataset(self, split: str) -> "SceneSet":
        scenes = self.sets[self.check_split(split)].resized(self.size)
        return scenes.seen_through(self.view) if split == "train" and self.augment == "view" else scenes

    def collate(self, samples: Sequence[SceneSample]) -> SceneBatch:
        return scene_batch(samples)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Every pixel has the most frequent class of training; or the mean normal of training."""
        counts, normal = self.sets["train"].resized(self.size).totals()
        usual = int(counts.argmax())
        by_class, by_normal = DenseTaskScores(), DenseTaskScores()
        for sample, index in self.sets[self.check_split(split)].resized(self.size).each():
            place, truth = torch.tensor([index]), sample.semantic[None]
            table = confusion_matrices(torch.full_like(truth, usual), truth, len(counts), truth != IGNORE)
            by_class.update(place, {"confusion": table})
            guess = normal[:, None, None].expand_as(sample.normals)
            by_normal.update(place, {"angles": angular_errors(guess[None], sample.normals[None])})
        return {"most frequent class": by_class.compute(), "mean normal": by_normal.compute()}

    def describe(self) -> dict[str, Any]:
        name: str = self.embedded
        if self.root is not None:
            format = detect_nyu_format(self.root) if self.format == "auto" else self.format
            name = f"{Path(self.root).name} ({format})"
        images = {split: len(each) for split, each in self.sets.items()}
        return {"name": name, "images": images, "classes": len(self.class_names), "size": self.size}


class SceneSet(Dataset[SceneSample]):
    """Scenes of one split.

    Args:
        read: a scene by its number in the source.
        numbers: those of the split.
        size: height and width that scenes are resized to.
        view: a random change of the scene.
    """

    def __init__(
        self,
        read: Callable[[int], SurfaceSample],
        numbers: Sequence[int],
        class_names: tuple[str, ...],
        size: Sequence[int] | None = None,
        view: RandomView | None = None,
    ) -> None:
        self.read, self.numbers, self.class_names = read, numbers, class_names
        self.size, self.view = size, view
        self.draws = view is not None

    @classmethod
    def of(cls, read: Callable[[int], SurfaceSample], count: int, class_names: tuple[str, ...]) -> "SceneSet":
        """All scenes of a source."""
        return cls(read, range(count), class_names)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> SceneSample:
        sample = self.read(self.numbers[index])
        if self.size is not None:
            sample = resized_scene(sample, self.size)
        return (sample if self.view is None else self.view(sample, torch.default_generator)), index

    def each(self) -> Iterator[SceneSample]:
        """One scene after the other: there may be more than memory holds."""
        return (self[index] for index in range(len(self)))

    def select(self, places: Iterable[int]) -> "SceneSet":
        """Some of the scenes."""
        return SceneSet(self.read, [self.numbers[place] for place in places], self.class_names, self.size, self.view)

    def resized(self, size: Sequence[int] | None) -> "SceneSet":
        return SceneSet(self.read, self.numbers, self.class_names, size, self.view)

    def seen_through(self, view: RandomView) -> "SceneSet":
        return SceneSet(self.read, self.numbers, self.class_names, self.size, view)

    def totals(self) -> tuple[Int[Tensor, " class"], Float[Tensor, "3"]]:
        """How many pixels each class has, and the sum of all normals."""
        counts, normal = torch.zeros(IGNORE + 1, dtype=torch.long), torch.zeros(3, dtype=torch.double)
        for sample, _ in self.each():
            counts += sample.semantic.flatten().bincount(minlength=len(counts))
            normal += sample.normals.double().sum(dim=(1, 2))
        return counts[: len(self.class_names)], normal.float()


def read_scenes(root: str, format: str, decode: str = "unit", mapping: str | None = None) -> dict[str, SceneSet]:
    """The splits of a data set on disk; a tenth of the training images is val, and a fifth test where there is none.

    Raises:
        InputError: the folder is missing, is no data set of the format, or has no training part.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected images with classes and normals")
    format = detect_nyu_format(folder) if format == "auto" else format
    if format not in NYU_FORMATS:
        raise unknown("format of scenes", format, NYU_FORMATS)
    opened = {split: open_nyu(folder, split, format, decode, mapping) for split in nyu_splits(folder, format)}
    if "train" not in opened:
        raise InputError(f"{folder}: found the parts {', '.join(opened) or 'none'}, expected one to train with")
    found = {split: SceneSet.of(each.__getitem__, len(each), each.class_names) for split, each in opened.items()}
    if "test" not in found:
        found["train"], found["test"] = held_out(found["train"], every=5)
    found["train"], found["val"] = held_out(found["train"], every=10)
    return found


def resized_scene(sample: SurfaceSample, size: Sequence[int]) -> SurfaceSample:
    """At another height and width: the image smoothed, all else by the nearest pixel.

    Examples:
        >>> blank = SurfaceSample(
        ...     torch.rand(3, 40, 60), torch.zeros(40, 60, dtype=torch.long), torch.zeros(3, 40, 60), None, "1"
        ... )
        >>> resized_scene(blank, (20, 30)).semantic.shape
        torch.Size([20, 30])
    """
    size = tuple(size)
    if sample.semantic.shape == size:
        return sample

    def nearest(maps: Tensor) -> Tensor:
        return F.interpolate(maps[None].float(), size, mode="nearest-exact")[0]

    image = F.interpolate(sample.image[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    return replace(
        sample,
        image=image.clamp(0, 1),
        semantic=nearest(sample.semantic[None])[0].long(),
        normals=nearest(sample.normals),
        depth=None if sample.depth is None else nearest(sample.depth),
    )


def scene_batch(samples: Sequence[SceneSample]) -> SceneBatch:
    """Scenes of one size as a batch.

    Raises:
        InputError: they differ in size.
    """
    scenes, indices = zip(*samples, strict=True)
    height, width = scenes[0].semantic.shape
    for each in scenes:
        if each.semantic.shape != (height, width):
            found = " x ".join(map(str, each.semantic.shape))
            raise InputError(f"image {each.id}: found {found} pixels, expected {height} x {width} as before: set size")
    nowhere = torch.zeros(1, height, width)
    return SceneBatch(
        torch.stack([each.image for each in scenes]),
        torch.stack([each.semantic for each in scenes]),
        torch.stack([each.normals for each in scenes]),
        torch.stack([each.normals_valid for each in scenes]),
        torch.stack([nowhere if each.depth is None else each.depth for each in scenes]),
        torch.tensor(indices),
    )
