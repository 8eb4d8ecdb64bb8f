"""Records as the library writes them, small."""

from typing import Any


def claim_record() -> dict[str, Any]:
    """A claim's record, laid out as `ommatid.engine.experiment.run_claim` returns it."""
    arm: dict[str, Any] = {
        "role": "method",
        "model": {},
        "tuned": {"recipe.lr": 0.005},
        "tried": [{"recipe.lr": 0.002, "top1": 0.8}, {"recipe.lr": 0.005, "top1": 0.9}],
        "metrics": {"top1": [0.8, 0.9, 1.0], "nearest_similarity": [0.97, 0.98, None]},
        "seconds": [11.0, 13.0],
        "peak_memory": [1048576, 3145728],
        "parameters": 1234,
    }
    return {
        "claim": "cmi-student",
        "statement": "The student is at least as accurate, <b>even so</b>.",
        "source": "docs/methods/cmi.md",
        "verdict": "holds",
        "criteria": [
            {
                "criterion": {"metric": "top1", "versus": "no contrast"},
                "reads": "top1 (higher is better), against no contrast: effect above -0.01",
                "values": [0.01, 0.02, 0.03],
                "mean": 0.02,
                "low": -0.005,
                "high": 0.045,
                "bootstrap_low": 0.01,
                "bootstrap_high": 0.03,
                "verdict": "holds",
            }
        ],
        "seeds": [0, 1, 2],
        "arms": {"contrastive": arm, "no contrast": {**arm, "role": "baseline", "tuned": {}, "tried": []}},
        "shown": ["top1", "nearest_similarity"],
        "model": {"teacher": "digits_cnn"},
        "data": {"size": 16},
        "trainer": {"max_epochs": 12},
        "tuning_seeds": [1000],
        "tuning_metric": "top1",
        "tuning_direction": "higher",
        "environment": {"ommatid": "0.1.0"},
    }


def comparison_record() -> dict[str, Any]:
    """What `ommatid.compare` returns."""
    return {
        "data": {"name": "digits", "images": {"train": 850}},
        "seeds": [0, 1],
        "methods": {
            "cmi": {
                "metrics": {"top1": [0.8, 1.0], "top5": [1.0, 1.0]},
                "seconds": [1.0, 2.0],
                "peak_memory": [2**20, 2**21],
                "parameters": 5000,
            },
            "other": {"metrics": {"top1": [0.5, 0.5]}, "seconds": [1.0, 1.0], "peak_memory": [0, 0], "parameters": 70},
        },
        "baselines": {"chance": {"top1": 0.1}},
        "left_out": {"third": "learns from videos, these data are images"},
        "examples": {"cmi": [], "other": []},
        "pictures": [],
        "plans": {"cmi": {"data": {"size": 16}}, "other": {"data": {"size": 16}}},
        "environment": {"ommatid": "0.1.0"},
    }
