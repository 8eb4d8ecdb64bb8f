"""Every test runs with shapes and types checked at run time: a wrong shape fails where it arises."""

import os
from pathlib import Path

import jaxtyping

# Servers of new processes import what they preload: without this they do not find what tests define.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
jaxtyping.install_import_hook("ommatid", "beartype.beartype")

import ommatid  # noqa: E402, F401  (guards torchvision before anything imports it)
import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    """One thread a test: sums in one order, and no fight for cores between parallel workers."""
    torch.set_num_threads(1)
