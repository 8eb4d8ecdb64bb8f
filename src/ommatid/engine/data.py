"""The data side of training: splits, loaders, and an order of samples that depends on the seed alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from ommatid.engine.batch import Batch
from ommatid.errors import InputError, unknown

Split = Literal["train", "val", "test"]


class DataModule(LightningDataModule):
    """Base of every field's data module.

    A field says how a split is read (`dataset`) and how samples become its batch (`collate`). The order of the training
    samples follows from the seed and the epoch only: a resumed run, and every arm of a claim, sees the same order.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    compared: ClassVar[dict[str, dict[str, Any]]] = {}
    """Settings (`data`, `trainer`) that all methods share where they are compared on embedded data."""
    dividing: ClassVar[tuple[str, ...]] = ("seed",)
    """Arguments that say which samples of a folder are trained on and which are tested."""

    def __init__(self, batch_size: int = 32, workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, found {batch_size}")
        check_seed(seed)
        self.batch_size, self.workers, self.seed = batch_size, workers, seed
        self.evaluated_split = "test"

    def dataset(self, split: str) -> Dataset[Any]:
        """The samples of one split."""
        raise NotImplementedError

    def collate(self, samples: Sequence[Any]) -> Batch:
        """Samples as one padded batch."""
        raise NotImplementedError

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Metrics of the trivial predictors that stand next to every model; none unless the field has some."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What the data are: name, sizes, where from; printed and kept with every result."""
        return {"seed": self.seed}

    def check_split(self, split: str) -> str:
        if split not in self.splits:
            raise unknown("split", split, self.splits)
        return split

    def first_batch(self, split: str = "train", size: int | None = None) -> Batch:
        """The first samples of a split as one batch."""
        dataset = self.dataset(split)
        size = min(size or self.batch_size, len(dataset))  # type: ignore[arg-type]
        return self.collate([dataset[index] for index in range(size)])

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.evaluated_split, shuffle=False)

    def _loader(self, split: str, shuffle: bool) -> DataLoader[Any]:
        dataset, size = self.dataset(self.check_split(split)), self.batch_size_of(split)
        replicas, rank = self.processes()
        random = getattr(dataset, "draws", False)
        sampler = EpochSampler(dataset, replicas, rank, shuffle=shuffle, seed=self.seed, with_epoch=random)
        return DataLoader(
            SeededSamples(dataset, self.seed) if random else dataset,
            batch_size=size,
            sampler=sampler,
            collate_fn=_Collate(self.collate),
            generator=sampler.generator,
            **self.loading(),
            drop_last=shuffle and len(dataset) >= size * replicas,  # type: ignore[arg-type]
        )

    def batch_size_of(self, split: str) -> int:
        """Samples of a batch of a split; a field whose samples are large where they are evaluated says so here."""
        return self.batch_size

    def processes(self) -> tuple[int, int]:
        """How many processes train, and the number of this one."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def loading(self) -> dict[str, Any]:
        """Options of every loader: workers, and pinned memory for a GPU."""
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {"num_workers": self.workers, "persistent_workers": self.workers > 0, "pin_memory": pinned}


class EpochSampler(DistributedSampler[Any]):
    """The order of the samples, and the seeds of the loader's workers, as a function of seed and epoch.

    torch's sampler for several processes serves on one too: whatever was drawn before does not matter to it.

    Args:
        with_epoch: add the epoch, times the number of samples, to every index, for `SeededSamples`.
    """

    def __init__(
        self, dataset: Dataset[Any], replicas: int, rank: int, shuffle: bool, seed: int, with_epoch: bool = False
    ) -> None:
        super().__init__(dataset, replicas, rank, shuffle=shuffle, seed=seed)
        self.generator = torch.Generator()
        self.with_epoch = with_epoch

    def __iter__(self) -> Iterator[int]:
        offset = self.epoch * len(self.dataset) if self.with_epoch else 0  # type: ignore[arg-type]
        return (offset + index for index in super().__iter__())

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.generator.manual_seed(epoch_seed(self.seed, epoch, self.rank))


class SeededSamples(Dataset[Any]):
    """Samples that draw at random (a crop, a moment of a video), each a function of seed, epoch and index alone.

    So a resumed training sees what an uninterrupted one does, whatever was fetched before, and in which process. A data
    set asks for it by an attribute `draws` that is True; it draws from torch's global generator.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, number: int) -> Any:
        epoch, index = divmod(number, len(self))
        return seeded_sample(self.dataset, index, epoch_seed(self.seed, epoch, index))


def seeded_sample(dataset: Dataset[Any], index: int, seed: int) -> Any:
    """One sample of a data set that draws at random, drawn with a seed; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        # That of the processor alone: `torch.manual_seed` would begin those of devices anew with every sample.
        torch.default_generator.manual_seed(seed)
        return dataset[index]


def check_seed(seed: int) -> None:
    """Refuse what numpy's and Lightning's generators do not take.

    Raises:
        InputError: the seed is negative or has more than 32 bits.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be from 0 to {2**32 - 1}, found {seed}")


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """One seed for everything that a process, or a sample, draws in an epoch; torch's generators take 63 bits.

    Examples:
        >>> epoch_seed(0, 1, 0) != epoch_seed(0, 1, 1) != epoch_seed(1, 0, 0)
        True
    """
    return ((seed * 1_000_003 + epoch) * 10_007 + rank) % 2**63


class _Collate:
    """A picklable callable, so that loader workers may be spawned."""

    def __init__(self, function: Callable[[Sequence[Any]], Batch]) -> None:
        self.function = function

    def __call__(self, samples: Sequence[Any]) -> Batch:
        return self.function(samples)


def pad_first(tensors: Sequence[Tensor], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Stack tensors of different first axes, zero-padded behind, with the mask of what is real.

    Examples:
        >>> import torch
        >>> padded, mask = pad_first([torch.ones(1), torch.ones(3)])
        >>> padded.tolist(), mask.tolist()
        ([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]], [[True, False, False], [True, True, True]])
    """

    lengths = torch.tensor([len(tensor) for tensor in tensors])
    length = length or int(lengths.max())
    padded = torch.nn.utils.rnn.pad_sequence(list(tensors), batch_first=True)
    if padded.shape[1] < length:
        padded = torch.cat([padded, padded.new_zeros(len(padded), length - padded.shape[1], *padded.shape[2:])], dim=1)
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]
