"""Several streams of samples in one training step, each endless and shuffled, whatever their sizes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ommatid.engine.batch import Batch
from ommatid.engine.data import DataModule, epoch_seed, seeded_sample
from ommatid.errors import InputError


class Drawn(NamedTuple):
    """Which sample of which stream, and what it draws at random with."""

    stream: str
    number: int
    seed: int


class Streams(Dataset[tuple[str, Any]]):
    """Data sets side by side; a sample comes with the name of its stream, and draws as `Drawn` says."""

    def __init__(self, datasets: Mapping[str, Dataset[Any]]) -> None:
        self.datasets = dict(datasets)

    def __getitem__(self, drawn: Drawn) -> tuple[str, Any]:
        dataset = self.datasets[drawn.stream]
        if not getattr(dataset, "draws", False):
            return drawn.stream, dataset[drawn.number]
        return drawn.stream, seeded_sample(dataset, drawn.number, drawn.seed)

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self.datasets.values())  # type: ignore[arg-type, misc]


class StreamSampler(Sampler[Drawn]):
    """So many samples of every stream in each step, in the order of the streams; a batch of all of them is a step.

    A stream goes through its samples in a new order each time it has shown all of them. What an epoch shows is a
    function of seed and epoch alone; processes share the samples of a step's stream among them.

    Args:
        sizes: number of samples of every stream.
        counts: how many of them one step of one process takes.
        steps: of one epoch.

    Raises:
        InputError: a stream has no samples.

    Examples:
        >>> sampler = StreamSampler({"few": 2, "many": 100}, {"few": 1, "many": 3}, steps=2)
        >>> [drawn.stream for drawn in sampler]
        ['few', 'many', 'many', 'many', 'few', 'many', 'many', 'many']
        >>> sorted(drawn.number for drawn in sampler if drawn.stream == "few")
        [0, 1]
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        counts: Mapping[str, int],
        steps: int,
        replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        for name, size in sizes.items():
            if counts[name] and not size:
                raise InputError(f"{name}: found no samples, expected at least 1 to draw {counts[name]} from in a step")
        self.sizes, self.counts, self.steps = dict(sizes), dict(counts), steps
        self.replicas, self.rank, self.seed, self.epoch = replicas, rank, seed, 0
        # Of a loader's workers.
        self.generator = torch.Generator()

    @property
    def batch(self) -> int:
        """Samples of one step."""
        return sum(self.counts.values())

    def __len__(self) -> int:
        return self.batch * self.steps

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.generator.manual_seed(epoch_seed(self.seed, epoch, self.rank))

    def __iter__(self) -> Iterator[Drawn]:
        orders = {name: self._order(number) for number, name in enumerate(self.sizes) if self.counts[name]}
        for step in range(self.steps):
            for name, order in orders.items():
                start = (step * self.replicas + self.rank) * self.counts[name]
                yield from (Drawn(name, *order[place]) for place in range(start, start + self.counts[name]))

    def _order(self, number: int) -> Sequence[tuple[int, int]]:
        """Indices of a stream in the order of this epoch, and a seed for each, for all processes."""
        name = list(self.sizes)[number]
        needed = self.steps * self.replicas * self.counts[name]
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch, number))
        passes = -(-needed // self.sizes[name])
        order = torch.cat([torch.randperm(self.sizes[name], generator=generator) for _ in range(passes)])[:needed]
        seeds = torch.randint(2**62, (needed,), generator=generator)
        return list(zip(order.tolist(), seeds.tolist(), strict=True))


def stream_loader(
    data: DataModule,
    streams: Mapping[str, Dataset[Any]],
    counts: Mapping[str, int],
    steps: int,
    collate: Callable[[dict[str, list[Any]]], Batch],
) -> DataLoader[Any]:
    """Batches of all streams, in the trainer's processes, with the data module's seed and workers.

    Args:
        counts: samples of every stream in a step of one process.
        steps: of an epoch.
        collate: the samples of a step by stream, as one batch.
    """
    sizes = {name: len(each) for name, each in streams.items()}  # type: ignore[arg-type]
    sampler = StreamSampler(sizes, counts, steps, *data.processes(), data.seed)
    return DataLoader(
        Streams(streams),  # type: ignore[arg-type]
        batch_size=sampler.batch,
        sampler=sampler,
        collate_fn=_ByStream(collate, list(streams)),
        generator=sampler.generator,
        **data.loading(),
    )


class _ByStream:
    """A picklable callable, so that loader workers may be spawned."""

    def __init__(self, collate: Callable[[dict[str, list[Any]]], Batch], names: list[str]) -> None:
        self.collate, self.names = collate, names

    def __call__(self, samples: Sequence[tuple[str, Any]]) -> Batch:
        parts: dict[str, list[Any]] = {name: [] for name in self.names}
        for name, sample in samples:
            parts[name].append(sample)
        return self.collate(parts)
