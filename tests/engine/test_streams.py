from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ommatid.engine.streams import Drawn, Streams, StreamSampler
from ommatid.errors import InputError


class Numbers(Dataset):
    def __init__(self, size, draws=False):
        self.size, self.draws = size, draws

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return (index, float(torch.rand(()))) if self.draws else (index, 0.0)


SIZES, COUNTS = {"few": 10, "many": 33}, {"few": 8, "many": 4}


def indices(sampler, name):
    return [drawn.number for drawn in sampler if drawn.stream == name]


def test_a_step_has_so_many_samples_of_every_stream():
    sampler = StreamSampler(SIZES, COUNTS, steps=5)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 60
    for step in range(5):
        assert Counter(each.stream for each in drawn[12 * step : 12 * step + 12]) == {"few": 8, "many": 4}


def test_a_stream_shows_everything_before_it_shows_anything_again():
    found = indices(StreamSampler(SIZES, COUNTS, steps=10), "few")
    for start in range(0, 80, 10):
        assert sorted(found[start : start + 10]) == list(range(10))
    assert found[:10] != found[10:20]


def test_epochs_differ_and_come_again_as_they_were():
    sampler = StreamSampler(SIZES, COUNTS, steps=4, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(StreamSampler(SIZES, COUNTS, steps=4, seed=4)) != first


def test_processes_share_what_one_would_see():
    alone = indices(StreamSampler(SIZES, {"few": 8, "many": 4}, steps=3), "many")
    shared = [indices(StreamSampler(SIZES, {"few": 4, "many": 2}, 3, replicas=2, rank=rank), "many") for rank in (0, 1)]
    mixed = [shared[rank][2 * step + place] for step in range(3) for rank in (0, 1) for place in (0, 1)]
    assert mixed == alone


def test_a_stream_of_which_nothing_is_taken_may_be_empty():
    assert indices(StreamSampler({"few": 2, "none": 0}, {"few": 1, "none": 0}, steps=3), "none") == []
    with pytest.raises(InputError, match="none: found no samples, expected at least 1 to draw 2 from in a step"):
        StreamSampler({"few": 2, "none": 0}, {"few": 1, "none": 2}, steps=3)


def test_what_a_sample_draws_depends_on_its_seed_alone():
    streams = Streams({"still": Numbers(3), "moving": Numbers(3, draws=True)})
    torch.manual_seed(0)
    first = streams[Drawn("moving", 1, 7)]
    state = torch.random.get_rng_state()
    assert streams[Drawn("moving", 1, 7)] == first != streams[Drawn("moving", 1, 8)]
    assert torch.equal(torch.random.get_rng_state(), state), "drawing left the global generator alone"
    assert streams[Drawn("still", 2, 7)] == ("still", (2, 0.0))
    assert len(streams) == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gives_whole_steps(workers):
    sampler = StreamSampler({"still": 3, "moving": 5}, {"still": 2, "moving": 1}, steps=4)
    loader = DataLoader(
        Streams({"still": Numbers(3), "moving": Numbers(5, draws=True)}),
        sampler=sampler,
        batch_size=sampler.batch,
        collate_fn=list,
        num_workers=workers,
    )
    batches = list(loader)
    assert [[name for name, _ in batch] for batch in batches] == [["still", "still", "moving"]] * 4
    assert list(loader) == batches
