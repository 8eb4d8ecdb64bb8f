"""Zero-shot data: the embedded world, the benchmark layout, or tables of your own."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.classification.data import LabelledData
from ommatid.data.worlds.attributes import AttributeWorld
from ommatid.data.zero_shot import MinMax, ZeroShotSet, detect_zero_shot_format, open_zero_shot, unit_attributes
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.transfer.zero_shot_baselines import tuned_eszsl, tuned_means
from ommatid.transfer.zero_shot_metrics import ZeroShotScores
from ommatid.transfer.zero_shot_task import CHOOSING, TESTING, FeatureBatch

FeatureSample = tuple[Float[Tensor, " feature"], int, int, int]
Rows = Int[Tensor, " _"]


@dataclass(frozen=True)
class ClassGroups:
    """Numbers of the classes, as the files have them, by what is known of them in training."""

    seen: Int[Tensor, " seen"]
    kept_back: Int[Tensor, " kept"]
    unseen: Int[Tensor, " unseen"]

    @property
    def order(self) -> Int[Tensor, " class"]:
        return torch.cat([self.seen, self.kept_back, self.unseen])

    def new(self, task: int) -> Int[Tensor, " class"]:
        """The classes without training samples of a task, in our own numbers."""
        start = len(self.seen) + (len(self.kept_back) if task == TESTING else 0)
        return torch.arange(start, start + len(self.unseen if task == TESTING else self.kept_back))


class ZeroShotData(LabelledData):
    """Features of images, in [0, 1] on the training samples, and unit vectors of attributes of their classes.

    What settings and checkpoints are chosen by is never a sample or a class that is tested:

    - protocol "validation" trains on the samples of "train" classes (without a part of every class, `val_fraction`).
      That part and the classes kept back ("val" in the files, or every fifth seen class) make the validation split;
      the test split has the seen classes' test samples and the unseen classes.
    - protocol "test" trains on all seen classes, as published numbers do. Nothing is left to choose by: there is no
      validation split, no best checkpoint, and the last state counts.

    Args:
        root: folder of the data set; the embedded `world-attributes` where None.
        format: "xlsa17" (the layout of the benchmarks), "table" (your own), or "auto", which looks at the files.
        dataset: which of several data sets below the root, such as "AWA2".
        features: name of the file of features in the benchmark layout; those of another network can lie beside.
        scale: "minmax" brings every dimension to [0, 1] on the training samples; "none" takes features as they are.
        val_fraction: part of every seen class's training samples that is kept back for validation.
        world: settings of `AttributeWorld`.
    """

    dividing = ("seed", "val_fraction")

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        dataset: str | None = None,
        features: str = "res101",
        protocol: Literal["test", "validation"] = "test",
        scale: Literal["minmax", "none"] = "minmax",
        val_fraction: float = 0.2,
        world: Mapping[str, Any] | None = None,
        batch_size: int = 64,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        if not 0 < val_fraction <= 0.5:
            raise InputError(f"val_fraction must lie above 0 and at most at 0.5, found {val_fraction}")
        self.root, self.format, self.set_name, self.feature_file = root, format, dataset, features
        self.protocol, self.scale, self.val_fraction = protocol, scale, val_fraction
        self._world = dict(world or {})
        self._given_scale: MinMax | None = None

    @cached_property
    def source(self) -> ZeroShotSet:
        """The data as the files have them."""
        if self.root is None:
            return build(AttributeWorld, {"seed": self.seed, **self._world}).draw()
        return open_zero_shot(self.root, self.format, self.set_name, self.feature_file)

    @cached_property
    def groups(self) -> ClassGroups:
        seen = self.source.seen
        if self.protocol == "test":
            return ClassGroups(seen, seen[:0], self.source.unseen)
        back = self.source.kept_back()
        rest = seen[~torch.isin(seen, back)]
        if not len(back) or not len(rest):
            raise InputError(
                f"{self.root}: found {len(seen)} seen classes, expected at least 5 to keep some back for validation"
            )
        return ClassGroups(rest, back, self.source.unseen)

    @property
    def class_names(self) -> list[str]:
        """In the order of our numbers: seen classes, those kept back, unseen ones."""
        return [self.source.class_names[number] for number in self.groups.order.tolist()]

    @property
    def attributes(self) -> Float[Tensor, "class attribute"]:
        return unit_attributes(self.source.attributes[self.groups.order])

    @property
    def scaler(self) -> MinMax:
        """What brings features to the range that methods see: of a trained method's data, or of these."""
        if self._given_scale is not None:
            return self._given_scale
        width = self.source.features.shape[1]
        if self.scale == "none":
            return MinMax(torch.zeros(width), torch.ones(width))
        return MinMax.fit(self.source.features[self._rows["train"]])

    def use(self, scaler: MinMax) -> None:
        """Scale features as a trained method expects them."""
        now = self.scaler
        if not (torch.equal(now.minimum, scaler.minimum) and torch.equal(now.extent, scaler.extent)):
            self.__dict__.pop("parts", None)
        self._given_scale = scaler

    @cached_property
    def parts(self) -> dict[str, "FeatureSet"]:
        """The splits of the protocol."""
        number = torch.full((len(self.source.class_names),), -1)
        number[self.groups.order] = torch.arange(len(self.groups.order))
        scaler, source = self.scaler, self.source
        found = {
            split: FeatureSet(
                scaler(source.features[rows]), number[source.labels[rows]], CHOOSING if split == "val" else TESTING
            )
            for split, rows in self._rows.items()
        }
        for split, part in found.items():
            self._tell_absent(split, part)
        return found

    @cached_property
    def _rows(self) -> dict[str, Rows]:
        """Samples of every split of the protocol."""
        splits, labels, groups = self.source.splits, self.source.labels, self.groups
        trained, tested = splits["trainval"], splits["test_seen"]
        testing = torch.cat([tested[torch.isin(labels[tested], groups.seen)], splits["test_unseen"]])
        if self.protocol == "test":
            return {"train": trained, "test": testing}
        # The files' own "train" and "val" hold test samples, too: only what is also in "trainval" is taken.
        of_seen = trained[torch.isin(labels[trained], groups.seen)]
        of_back = trained[torch.isin(labels[trained], groups.kept_back)]
        away = held_out(labels[of_seen], self.val_fraction)
        return {"train": of_seen[~away], "val": torch.cat([of_seen[away], of_back]), "test": testing}

    def _tell_absent(self, split: str, part: "FeatureSet") -> None:
        if split == "train":
            return
        names, there = self.class_names, part.labels.unique()
        for kind, classes in {"seen": torch.arange(len(self.groups.seen)), "new": self.groups.new(part.task)}.items():
            absent = classes[~torch.isin(classes, there)].tolist()
            if absent:
                warnings.warn(
                    f"{self.root or 'world-attributes'}, {split}: {len(absent)} of {len(classes)} {kind} classes have "
                    f"no samples and are left out of means (first: {names[absent[0]]})",
                    stacklevel=2,
                )

    def check_split(self, split: str) -> str:
        super().check_split(split)
        if split == "val" and self.protocol == "test":
            raise InputError(
                "split 'val': protocol 'test' trains on all seen classes and keeps none back, expected protocol "
                "'validation'"
            )
        return split

    def dataset(self, split: str) -> "FeatureSet":
        return self.parts[self.check_split(split)]

    def val_dataloader(self) -> Any:
        """No validation where nothing may be chosen."""
        if self.protocol == "validation":
            return super().val_dataloader()
        # Lightning asks whether that was the intention; `fit` forgets this filter when it is done.
        warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
        return []

    def collate(self, samples: Sequence[FeatureSample]) -> FeatureBatch:
        features, labels, tasks, indices = zip(*samples, strict=True)
        return FeatureBatch(torch.stack(features), torch.tensor(labels), torch.tensor(tasks), torch.tensor(indices))

    def tensors(self, split: str) -> tuple[Float[Tensor, "sample feature"], Int[Tensor, " sample"]]:
        """A whole split."""
        part = self.dataset(split)
        return part.features, part.labels

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Chance, and two closed forms that are learnt from the same samples."""
        part, (features, labels) = self.dataset(split), self.tensors("train")
        groups, attributes = self.groups, self.attributes
        new, seen = groups.new(part.task), torch.arange(len(groups.seen))
        forms = {
            "ESZSL": tuned_eszsl(features, labels, attributes),
            "nearest regressed class mean": tuned_means(features, labels, attributes),
        }
        found = {"chance": _chance(len(seen), len(new), part)}
        for name, form in forms.items():
            scores, collected = form(part.features), ZeroShotScores()
            answers = {
                "labels": part.labels,
                "is_seen": part.labels < len(seen),
                "among_all": among(scores, torch.cat([seen, new])),
                "among_new": among(scores, new if len(new) else seen),
            }
            collected.update(torch.arange(len(part)), {key: value.float() for key, value in answers.items()})
            found[name] = collected.compute()
        return found

    def describe(self) -> dict[str, Any]:
        groups, sizes = self.groups, {split: len(part) for split, part in self.parts.items()}
        classes = {"seen": len(groups.seen), "kept back": len(groups.kept_back), "unseen": len(groups.unseen)}
        return {"name": self._name(), "protocol": self.protocol, "samples": sizes, "classes": classes}

    def _name(self) -> str:
        if self.root is None:
            return "world-attributes"
        format = detect_zero_shot_format(self.root) if self.format == "auto" else self.format
        return f"{self.set_name or Path(self.root).name} ({format})"


class FeatureSet(Dataset[FeatureSample]):
    """Features of one split, scaled, with our own numbers of classes."""

    def __init__(self, features: Float[Tensor, "sample feature"], labels: Int[Tensor, " sample"], task: int) -> None:
        self.features, self.labels, self.task = features, labels, task
        # Looking up single numbers in a tensor takes long.
        self._numbers = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> FeatureSample:
        return self.features[index], self._numbers[index], self.task, index


def among(scores: Float[Tensor, "sample class"], classes: Int[Tensor, " chosen"]) -> Int[Tensor, " sample"]:
    """The best of some classes.

    Examples:
        >>> among(torch.tensor([[0.9, 0.2, 0.5]]), torch.tensor([1, 2]))
        tensor([2])
    """
    return classes[scores[:, classes].argmax(dim=1)]


def held_out(labels: Int[Tensor, " sample"], fraction: float) -> Tensor:
    """True for every n-th sample of each class, n being one over the fraction; small classes may keep all.

    Examples:
        >>> held_out(torch.tensor([0, 1, 0, 0, 0]), 0.25)
        tensor([False, False, False, False,  True])
    """
    every = max(round(1 / fraction), 2)
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    within = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[order]]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order] = within % every == every - 1
    return chosen


def _chance(seen: int, new: int, part: FeatureSet) -> dict[str, float]:
    every = 1 / (seen + new)
    found: dict[str, float] = {}
    if bool((part.labels >= seen).any()):
        found |= {"T1": 1 / new, "U": every}
    if bool((part.labels < seen).any()):
        found |= {"S": every}
    return found | ({"H": every} if len(found) == 3 else {})
