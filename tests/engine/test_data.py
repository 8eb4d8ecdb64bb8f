"""Which sample comes when follows from seed and epoch alone."""

import pickle
from dataclasses import dataclass

import pytest
import torch
from torch.utils.data import Dataset

from engine.toy import PointData
from ommatid.engine.batch import Batch
from ommatid.engine.data import DataModule, EpochSampler, SeededSamples, epoch_seed, pad_first
from ommatid.errors import InputError


def order(data: PointData, epoch: int) -> list[int]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [index for batch in loader for index in batch.index.tolist()]


def test_order_depends_on_seed_and_epoch_and_nothing_before():
    first = order(PointData(seed=3), epoch=5)
    torch.rand(100)
    data = PointData(seed=3)
    order(data, epoch=4)
    assert order(data, epoch=5) == first
    assert sorted(first) == list(range(24))
    assert order(data, epoch=6) != first
    assert order(PointData(seed=4), epoch=5) != first


def test_evaluation_keeps_the_order_of_the_split():
    data = PointData(batch_size=7)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert [index for batch in loader for index in batch.index.tolist()] == list(range(24))


def test_incomplete_batch_is_dropped_in_training_only():
    data = PointData(count=20, batch_size=8)
    assert [len(batch) for batch in data.train_dataloader()] == [8, 8]
    assert [len(batch) for batch in data.test_dataloader()] == [8, 8, 4]


def test_fewer_samples_than_a_batch_still_train():
    assert [len(batch) for batch in PointData(count=5, batch_size=8).train_dataloader()] == [5]


def test_processes_share_the_samples_and_draw_their_own_numbers():
    data = PointData()
    parts = [EpochSampler(data.dataset("train"), 2, rank, shuffle=True, seed=0) for rank in (0, 1)]
    for part in parts:
        part.set_epoch(1)
    assert sorted([*parts[0], *parts[1]]) == list(range(24))
    assert parts[0].generator.initial_seed() != parts[1].generator.initial_seed()


def test_the_largest_seed_is_one_that_generators_take():
    largest = 2**32 - 1
    assert sorted(order(PointData(seed=largest), epoch=10_000)) == list(range(24))
    for seed in (-1, largest + 1):
        with pytest.raises(InputError, match=f"seed must be from 0 to {largest}, found {seed}"):
            DataModule(seed=seed)


def test_epoch_seeds_do_not_meet():
    seeds = {epoch_seed(seed, epoch, rank) for seed in range(5) for epoch in range(50) for rank in range(8)}
    assert len(seeds) == 5 * 50 * 8


@dataclass
class Values(Batch):
    values: torch.Tensor


class Noisy(Dataset):
    """Samples that draw."""

    draws = True

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return index + torch.rand(())


def test_what_a_sample_draws_depends_on_seed_epoch_and_index_alone():
    samples = SeededSamples(Noisy(), seed=3)
    torch.manual_seed(0)
    first = samples[2]
    after = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(torch.rand(()), after)  # nobody else's draws have moved on
    torch.manual_seed(5)
    assert torch.equal(samples[2], first)
    assert int(samples[2]) == int(samples[8]) == 2  # the same sample in the next epoch
    assert len({float(samples[2]), float(samples[8]), float(samples[3]), float(SeededSamples(Noisy(), 4)[2])}) == 4
    assert len(samples) == 6


def test_drawing_a_sample_leaves_the_numbers_of_devices_alone(monkeypatch):
    begun_anew = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", begun_anew.append)
    SeededSamples(Noisy(), seed=3)[2]
    assert begun_anew == []
    torch.manual_seed(0)
    assert begun_anew == [0]  # what a sample must not do


@pytest.mark.parametrize("workers", [0, 1])
def test_random_samples_are_alike_in_every_process_and_after_a_restart(workers):
    class Random(PointData):
        def dataset(self, split):
            return Noisy()

        def collate(self, samples):
            return Values(torch.stack(samples))

    def epochs(first):
        loader = Random(batch_size=2, workers=workers).train_dataloader()
        found = []
        for epoch in range(first, 3):
            loader.sampler.set_epoch(epoch)
            found.append(torch.cat([batch.values for batch in loader]))
        return found

    whole = epochs(0)
    assert not torch.equal(whole[1].sort().values, whole[2].sort().values)
    for ours, theirs in zip(whole[1:], epochs(1), strict=True):
        assert torch.equal(ours, theirs)
    if workers:
        alone = Random(batch_size=2).train_dataloader()
        alone.sampler.set_epoch(2)
        assert torch.equal(torch.cat([batch.values for batch in alone]), whole[2])


def test_worker_processes_bring_the_same_batches():
    alone, helped = PointData(), PointData(workers=1)
    for ours, theirs in zip(alone.val_dataloader(), helped.val_dataloader(), strict=True):
        assert torch.equal(ours.inputs, theirs.inputs)


def test_collate_can_be_sent_to_a_spawned_worker():
    loader = PointData().val_dataloader()
    assert len(pickle.loads(pickle.dumps(loader.collate_fn))([loader.dataset[0]])) == 1


def test_first_batch_is_the_head_of_the_split():
    data = PointData(batch_size=6)
    assert data.first_batch("val").index.tolist() == list(range(6))
    assert data.first_batch("test", 2).index.tolist() == [0, 1]
    assert len(data.first_batch("test", 1000)) == 24


@pytest.mark.parametrize("size", [0, -1])
def test_empty_batches_are_refused(size):
    with pytest.raises(InputError, match=f"^batch_size must be at least 1, found {size}$"):
        PointData(batch_size=size)


def test_misspelt_split_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"^unknown split 'tets': did you mean 'test'"):
        PointData().check_split("tets")
    assert PointData().check_split("val") == "val"


def test_a_field_must_say_what_its_samples_are():
    with pytest.raises(NotImplementedError):
        DataModule().dataset("train")
    with pytest.raises(NotImplementedError):
        DataModule().collate([])
    assert DataModule().baselines("test") == {}
    assert DataModule(seed=4).describe() == {"seed": 4}


def test_padding_is_behind_and_masked():
    padded, mask = pad_first([torch.ones(2, 3), torch.ones(1, 3), torch.ones(0, 3)])
    assert padded.shape == (3, 2, 3)
    assert mask.tolist() == [[True, True], [True, False], [False, False]]
    assert padded.sum() == 9


def test_padding_to_a_given_length():
    padded, mask = pad_first([torch.ones(2), torch.ones(1)], length=4)
    assert padded.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert mask.sum(dim=1).tolist() == [2, 1]
