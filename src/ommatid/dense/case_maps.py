"""Organ maps that were found of training volumes, beside these volumes in training (DeepStationing, E2-E3)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.dense.organ_maps import LAYER, Maps, Stages, disturbed, one_hot, stage_labels
from ommatid.dense.volume_augment import VolumeSample
from ommatid.dense.volume_data import VolumeData
from ommatid.dense.volume_task import VolumeBatch
from ommatid.dense.volume_views import VolumeSet

Found = Sequence[Sequence[Tensor]]
"""For every training volume and stage a label map, or the probabilities of its organs."""


@dataclass(frozen=True)
class TrainingMaps:
    """What a network is shown of organs in training.

    Attributes:
        stages: numbers of the organs of every stage.
        found: what was found of the training volumes; None for true maps.
        mode: "onehot" where label maps were found, "prob" where probabilities were.
        disturb: whether true maps are disturbed.
    """

    stages: Stages
    found: Found | None = None
    mode: Literal["onehot", "prob"] = "onehot"
    disturb: bool = False

    def layers(self, case: int) -> list[Int[Tensor, "*space"]]:
        """Label maps that go through crops and turns with a volume."""
        return [] if self.found is None or self.mode == "prob" else [labels.long() for labels in self.found[case]]

    def of(self, batch: VolumeBatch) -> list[Maps]:
        """The maps of every stage for volumes that `MappedVolumes` gave."""
        if self.found is not None and self.mode == "prob":
            # Volumes of the whole split may differ in size, those of a batch do not.
            cases = [self.found[case] for case in batch.index.tolist()]
            every = [torch.stack([case[stage] for case in cases]) for stage in range(len(self.stages))]
            return [maps.to(batch.images) for maps in every]
        if self.found is not None:
            _, *layers = unpacked(batch.organs, 1 + len(self.stages))
            return [one_hot(labels, len(organs)) for labels, organs in zip(layers, self.stages, strict=True)]
        truth = unpacked(batch.organs, 1)[0]
        maps = [one_hot(stage_labels(truth, organs), len(organs)) for organs in self.stages]
        return [disturbed(each) for each in maps] if self.disturb else maps


class MappedVolumes(VolumeSet):
    """The training volumes, whose organs also hold the label maps that were found of them, see `packed`.

    Args:
        entire: volumes as they are, instead of what training draws from them.
    """

    def __init__(self, data: VolumeData, maps: TrainingMaps, entire: bool = False) -> None:
        drawn = data.dataset("train")
        patch, augment = (None, "none") if entire else (drawn.patch, drawn.augment)
        super().__init__(drawn.cases, drawn.spacing, drawn.window, patch, augment, shown=True)
        self.maps = maps

    def stored(self, index: int) -> VolumeSample:
        """The organs of more bytes where they hold several maps."""
        sample, layers = super().stored(index), self.maps.layers(index)
        return replace(sample, organs=packed([sample.organs.long(), *layers])) if layers else sample


class Part(Dataset[VolumeSample]):
    """Some of the volumes of a set.

    Args:
        numbers: their positions.
    """

    def __init__(self, volumes: VolumeSet, numbers: Sequence[int]) -> None:
        self.volumes, self.numbers, self.draws = volumes, list(numbers), volumes.draws

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> VolumeSample:
        return self.volumes[self.numbers[index]]


def packed(layers: Sequence[Int[Tensor, "*shape"]]) -> Int[Tensor, "*shape"]:
    """Several label maps as one, so that whatever crops and turns one of them treats all alike.

    Three layers are exact in single precision.

    Examples:
        >>> unpacked(packed([torch.tensor([255, 1]), torch.tensor([0, 7])]), 2)
        [tensor([255,   1]), tensor([0, 7])]
    """
    found = torch.zeros_like(layers[0], dtype=torch.long)
    for number, layer in enumerate(layers):
        found = found + layer.long() * LAYER**number
    return found


def unpacked(labels: Int[Tensor, "*shape"], layers: int) -> list[Int[Tensor, "*shape"]]:
    """The inverse of `packed`."""
    return [labels.long() // LAYER**number % LAYER for number in range(layers)]
