"""Benchmarks run on one thread, so that numbers compare between machines of different width."""

import pytest
import torch

import ommatid  # noqa: F401  (guards torchvision before anything imports it)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
