import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ommatid.errors import InputError
from ommatid.nn.memory import RingMemory


def counting(start, count):
    """Rows and labels that tell when they were written."""
    label = torch.arange(start, start + count)
    return label[:, None].expand(-1, 3) / 8, label


def fill(memory, *batches):
    start = 0
    for count in batches:
        values, label = counting(start, count)
        memory.add(values, label=label)
        start += count
    return start


@given(st.integers(1, 6), st.lists(st.integers(0, 15), max_size=6))
def test_the_last_rows_stay_in_order_whatever_the_batch_sizes(capacity, batches):
    memory = RingMemory(capacity, 3, {"label": torch.long})
    written = fill(memory, *batches)
    values, fields = memory.all()
    expected_values, expected_labels = counting(max(0, written - capacity), min(written, capacity))
    assert len(memory) == len(values) == min(written, capacity)
    torch.testing.assert_close(values, expected_values)
    assert fields["label"].tolist() == expected_labels.tolist()


def test_an_exactly_full_memory_can_be_sampled_whole():
    memory = RingMemory(6, 3, {"label": torch.long})
    fill(memory, 3, 3)
    values, fields = memory.sample(6, generator=torch.Generator().manual_seed(0))
    assert sorted(fields["label"].tolist()) == [0, 1, 2, 3, 4, 5]
    torch.testing.assert_close(values[:, 0] * 8, fields["label"].float())


def test_a_sample_never_repeats_a_row_and_is_at_most_what_is_stored():
    memory = RingMemory(10, 3, {"label": torch.long})
    fill(memory, 4)
    for seed in range(20):
        labels = memory.sample(3, generator=torch.Generator().manual_seed(seed)).fields["label"].tolist()
        assert len(set(labels)) == 3
        assert set(labels) <= {0, 1, 2, 3}
    assert len(memory.sample(99).values) == 4


def test_the_generator_decides_the_sample():
    memory = RingMemory(50, 3, {"label": torch.long})
    fill(memory, 50)
    first, again, other = (memory.sample(10, torch.Generator().manual_seed(seed)).values for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_empty_memory_gives_no_rows():
    memory = RingMemory(3, (2, 2))
    assert len(memory) == 0
    assert memory.sample(5).values.shape == (0, 2, 2)
    assert memory.all().values.shape == (0, 2, 2)


def test_a_resumed_memory_goes_on_as_if_never_stopped(tmp_path):
    memory = RingMemory(5, 3, {"label": torch.long})
    fill(memory, 7)
    torch.save(memory.state_dict(), tmp_path / "memory.pt")
    resumed = RingMemory(5, 3, {"label": torch.long})
    resumed.load_state_dict(torch.load(tmp_path / "memory.pt", weights_only=True))
    for each in (memory, resumed, copy.deepcopy(memory)):
        each.add(torch.ones(2, 3), label=torch.tensor([70, 71]))
        assert each.all().fields["label"].tolist() == [4, 5, 6, 70, 71]
        assert torch.equal(each.all().values, memory.all().values)


def test_the_state_is_tensors_only():
    assert all(isinstance(value, torch.Tensor) for value in RingMemory(2, 3).state_dict().values())


def test_rows_keep_no_graph_and_later_writes_do_not_reach_earlier_reads():
    memory = RingMemory(2, 3)
    memory.add(torch.ones(2, 3, requires_grad=True) * 2)
    read = memory.all().values
    memory.add(torch.zeros(2, 3))
    assert not read.requires_grad
    assert (read == 2).all()


def test_the_type_of_the_memory_is_kept():
    memory = RingMemory(2, 3, dtype=torch.float16)
    memory.add(torch.ones(1, 3))
    assert memory.all().values.dtype == torch.float16


def test_clearing_forgets_every_row():
    memory = RingMemory(2, 3, {"label": torch.long})
    fill(memory, 3)
    memory.clear()
    assert len(memory) == 0
    fill(memory, 1)
    assert memory.all().fields["label"].tolist() == [0]


def test_wrong_rows_are_refused_in_one_sentence():
    memory = RingMemory(2, 3, {"label": torch.long})
    with pytest.raises(InputError, match=r"values: found rows of shape \(4,\), expected \(3,\) as in the memory"):
        memory.add(torch.zeros(2, 4), label=torch.zeros(2))
    with pytest.raises(InputError, match=r"fields: found \[\], expected \['label'\] as in the memory"):
        memory.add(torch.zeros(2, 3))
    with pytest.raises(InputError, match="capacity: found 0, expected at least one row"):
        RingMemory(0, 3)
