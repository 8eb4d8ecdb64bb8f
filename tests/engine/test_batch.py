"""Batches travel and are cut as one."""

from dataclasses import dataclass, field

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from ommatid.engine.batch import Batch


@dataclass
class Mixed(Batch):
    """Everything that a field's batch may hold."""

    name: str
    values: Tensor
    subsets: dict[str, Tensor] = field(default_factory=dict)
    nothing: Tensor | None = None


def mixed() -> Mixed:
    return Mixed("four", torch.arange(8.0).reshape(4, 2), {"rare": torch.tensor([True, False, True, False])})


def test_all_tensors_move_together_and_the_rest_stays():
    moved = mixed().to("meta")
    assert moved.values.device.type == moved.subsets["rare"].device.type == "meta"
    assert (moved.name, moved.nothing) == ("four", None)


def test_lightning_moves_a_batch_by_itself():
    assert move_data_to_device(mixed(), torch.device("meta")).values.device.type == "meta"


def test_moving_leaves_the_original_where_it_was():
    batch = mixed()
    batch.to("meta")
    assert batch.values.device.type == "cpu"


def test_all_tensors_are_pinned(monkeypatch):
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batch = mixed().pin_memory()
    assert len(pinned) == 2
    assert torch.equal(batch.values, mixed().values)


def test_an_index_picks_the_same_samples_of_every_tensor():
    chosen = mixed()[torch.tensor([2, 0])]
    assert chosen.values.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert chosen.subsets["rare"].tolist() == [True, True]
    assert chosen.name == "four"
    cut = mixed()[1:3]
    assert cut.values.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert cut.subsets["rare"].tolist() == [False, True]


def test_length_is_the_number_of_samples():
    assert len(mixed()) == 4
    assert len(mixed()[:0]) == 0
