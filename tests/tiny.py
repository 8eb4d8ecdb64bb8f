"""Both methods of the catalogue, so small that they train in a second."""

from pathlib import Path
from typing import Any

from ommatid import api

TINY: dict[str, dict[str, dict[str, Any]]] = {
    "cmi": {
        "model": {"generator_steps": 2, "kd_steps": 2, "synthesis_batch": 16, "kd_batch": 16, "teacher_steps": 5},
        "data": {},
        "trainer": {"max_epochs": 1},
    },
    "mgsl-net": {
        "model": {"hidden_dim": 16, "video_dim": 16, "memory_slots": 8},
        "data": {"train_videos": 24, "test_videos": 12, "batch_size": 8, "steps": 16},
        "trainer": {"max_epochs": 1, "max_steps": -1},
    },
}


def train_tiny(name: str, runs: Path, **more: Any) -> api.Trained:
    return api.train(name, **TINY[name], runs=runs, **more)


def options(name: str) -> list[str]:
    """The same on the command line."""
    return [
        word
        for group, values in TINY[name].items()
        for key, value in values.items()
        for word in (f"--{group}.{key}", str(value))
    ]
