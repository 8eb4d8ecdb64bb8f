"""Blocks are compiled one after the other, and none remembers the last."""

import sys

import pytest


@pytest.fixture(autouse=True)
def fresh_compiler():
    """What was compiled before counts towards the limit of recompilations, whatever block it was."""
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
