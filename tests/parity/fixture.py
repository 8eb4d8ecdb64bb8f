"""Golden fixtures: numbers recorded from the authors' implementations, with the settings that produced them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = Path(os.environ.get("OMMATID_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
ERRORS: dict[str, dict[str, float]] = {}
"""Fixture -> key -> largest absolute error seen."""


@dataclass
class Fixture:
    """One recorded run: `config` as the authors set it, arrays under `state/`, `in/`, `out/` and `grad/`."""

    name: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def config(self) -> dict[str, Any]:
        return self.meta.get("config", {})

    @property
    def rtol(self) -> float:
        return self.meta["tolerance"]["rtol"]

    @property
    def atol(self) -> float:
        return self.meta["tolerance"]["atol"]

    def array(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key].copy())

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Everything under `prefix/`, named by what follows it."""
        start = prefix.rstrip("/") + "/"
        return {key.removeprefix(start): self.tensor(key) for key in self.arrays if key.startswith(start)}

    def assert_close(self, actual: Any, key: str) -> None:
        """`actual` equals the recorded array within the fixture's own tolerance."""
        found = actual.detach().numpy() if isinstance(actual, Tensor) else np.asarray(actual)
        expected = self.arrays[key]
        if expected.size:
            worst = float(np.abs(found.reshape(expected.shape).astype(np.float64) - expected).max())
            ERRORS.setdefault(self.name, {})[key] = worst
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=self.rtol, atol=self.atol, err_msg=key)


def load_fixture(name: str) -> Fixture:
    """The fixture `name`; the test is skipped where the recorded numbers are not at hand."""
    if not (GOLDEN / f"{name}.npz").exists():
        pytest.skip(f"the recorded numbers {name}.npz are not in {GOLDEN} (set OMMATID_GOLDEN to their folder)")
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return Fixture(name, json.loads((GOLDEN / f"{name}.json").read_text()), arrays)
