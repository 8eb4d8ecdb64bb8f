"""Batches for the search of key organs, and for the training after it (DeepStationing, E7)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ommatid.dense.case_maps import MappedVolumes, Part, TrainingMaps
from ommatid.dense.volume_augment import VolumeSample
from ommatid.dense.volume_data import VolumeData
from ommatid.dense.volume_task import VolumeBatch
from ommatid.dense.volume_views import volume_batch
from ommatid.engine.batch import Batch
from ommatid.engine.streams import Drawn, Streams, StreamSampler

FINAL, WEIGHTS, GATES = "final", "weights", "gates"
"""Streams: all training volumes; during a search those that teach weights, and those that teach gates."""


@dataclass
class StageBatch(Batch):
    """What one update reads; None of streams that have no part in it."""

    final: VolumeBatch | None = None
    weights: VolumeBatch | None = None
    gates: VolumeBatch | None = None


class StageSampler(Sampler[list[Drawn]]):
    """The samples of each update: of two streams during a search, of all volumes after it.

    What an epoch shows is a function of seed and epoch alone, as in `StreamSampler`.

    Args:
        search_steps: updates of the search.
        warmup: of these, how many leave the gates alone.
    """

    def __init__(self, data: VolumeData, sizes: Mapping[str, int], search_steps: int, warmup: int) -> None:
        self.data, self.sizes, self.search_steps, self.warmup, self.epoch = data, dict(sizes), search_steps, warmup, 0
        # Of a loader's workers.
        self.generator = torch.Generator()

    def streams(self, number: int) -> tuple[str, ...]:
        """What the update with this number reads."""
        if number >= self.search_steps:
            return (FINAL,)
        return (WEIGHTS,) if number < self.warmup else (WEIGHTS, GATES)

    def __len__(self) -> int:
        # The trainer is known later than the sampler.
        return max(self.sizes[FINAL] // (self.data.batch_size * self.data.processes()[0]), 1)

    def _taken(self) -> int:
        """Updates of an epoch; a trainer may take fewer than there are."""
        trainer = self.data.trainer
        return len(self) if trainer is None else min(int(trainer.num_training_batches), len(self))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Drawn]]:
        counts = dict.fromkeys(self.sizes, self.data.batch_size)
        inner = StreamSampler(self.sizes, counts, len(self), *self.data.processes(), self.data.seed)
        inner.set_epoch(self.epoch)
        self.generator.set_state(inner.generator.get_state())
        drawn = iter(inner)
        for step in range(len(self)):
            of_all = [next(drawn) for _ in range(inner.batch)]
            read = self.streams(self.epoch * self._taken() + step)
            yield [each for each in of_all if each.stream in read]


class _Steps(Dataset[list[tuple[str, Any]]]):
    """All samples of an update at once."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams

    def __getitem__(self, drawn: list[Drawn]) -> list[tuple[str, Any]]:
        return [self.streams[each] for each in drawn]


def stage_batch(samples: Sequence[tuple[str, VolumeSample]]) -> StageBatch:
    """Samples with the names of their streams as what one update reads."""
    parts: dict[str, list[VolumeSample]] = {}
    for name, sample in samples:
        parts.setdefault(name, []).append(sample)
    return StageBatch(**{name: volume_batch(each) for name, each in parts.items()})


def stage_loader(
    data: VolumeData,
    maps: TrainingMaps,
    parts: Mapping[str, Sequence[int]],
    search_steps: int,
    warmup: int,
) -> DataLoader[Any]:
    """Batches of a search and of the training after it.

    Args:
        maps: what organ maps volumes are shown with.
        parts: positions of the training volumes of every stream.
    """
    volumes = MappedVolumes(data, maps)
    streams = {name: Part(volumes, numbers) for name, numbers in parts.items()}
    sampler = StageSampler(data, {name: len(each) for name, each in streams.items()}, search_steps, warmup)
    return DataLoader(
        _Steps(Streams(streams)),  # type: ignore[arg-type]
        batch_size=None,
        sampler=sampler,  # type: ignore[arg-type]
        collate_fn=stage_batch,
        generator=sampler.generator,
        **data.loading(),
    )


def divided(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Positions for the weights and for the gates of a search; one of each at least, the same every time.

    Examples:
        >>> weights, gates = divided(10, 0.2, seed=0)
        >>> len(gates), sorted(weights + gates) == list(range(10))
        (2, True)
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held = min(max(round(share * count), 1), count - 1)
    return sorted(order[held:]), sorted(order[:held])
