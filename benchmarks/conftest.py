"""Benchmarks run on one thread, so that numbers compare between machines of different width."""

from pathlib import Path

import pytest
import torch

import ommatid  # noqa: F401  (guards torchvision before anything imports it)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """`bench_*.py` are benchmarks; pytest alone looks for `test_*.py`."""
    if file_path.name.startswith("bench_") and file_path.suffix == ".py":
        return pytest.Module.from_parent(parent, path=file_path)
    return None


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
