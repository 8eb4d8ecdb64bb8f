"""Every method of the catalogue, so small that they train in a second."""

from pathlib import Path
from typing import Any

from ommatid import api

# Videos, sentences and steps that every method of grounding takes.
GROUNDING: dict[str, dict[str, Any]] = {
    "data": {"train_videos": 24, "test_videos": 12, "batch_size": 8, "steps": 16, "world": {"val_videos": 6}},
    "trainer": {"max_epochs": 1, "max_steps": -1},
}
# For methods that learn from less: their training samples, too, can be scored.
STANDARD = {**GROUNDING, "data": {**GROUNDING["data"], "view": "standard"}}
# Critics from the first step on, so that one epoch moves them, too; and a step of few images.
LISTENING = {
    "boundary": {"critic_base": 4, "critic_blocks": 2, "critics_from": 0.0, "adversarial_from": 0.0},
    "recipe": {"lr": 1e-2},
}
STREAMS = {"shots": 8, "labelled_batch": 4, "batch_size": 4, "steps_per_epoch": 4}
TINY: dict[str, dict[str, dict[str, Any]]] = {
    "2d-tan": {
        "model": {
            "clips": 16,
            "map_size": 8,
            "scales": [4, 2],
            "hidden_dim": 32,
            "query_dim": 32,
            "recipe": {"lr": 5e-3},
        },
        **GROUNDING,
    },
    "cmi": {
        "model": {"generator_steps": 2, "kd_steps": 2, "synthesis_batch": 16, "kd_batch": 16, "teacher_steps": 5},
        "data": {},
        "trainer": {"max_epochs": 1},
    },
    "cosoc": {
        "model": {
            "num_classes": 6,
            "num_images": 48,
            "image_size": 24,
            "crop_size": 16,
            "backbone": "conv4-32",
            "exemplar_share": 0.4,
            "embed_dim": 8,
            "queue": 32,
            "seek_crops": 3,
            "crops": 2,
            "recipe": {"lr": 1e-2},
        },
        "data": {
            "size": 24,
            "way": 3,
            "queries": 2,
            "episodes": 8,
            "val_episodes": 4,
            "batch_size": 8,
            "world": {"train": 6, "val": 3, "test": 3, "images": 8, "object_size": 12},
        },
        "trainer": {"max_epochs": 1, "max_steps": -1, "check_val_every_n_epoch": 1},
    },
    "dcin-tel": {
        "model": {"hidden_dim": 8},
        "data": {"train_clips": 40, "test_clips": 8, "held_out": 1, "batch_size": 8},
        "trainer": {"max_epochs": 1, "max_steps": -1},
    },
    "deepstationing": {
        "model": {
            "kept": 3,
            "widths": [4, 8],
            "folds": 2,
            "organ_steps": 3,
            "search_steps": 2,
            "steps": 4,
            "recipe": {"lr": 1e-2},
        },
        "data": {"world": {"dimensions": 2, "train": 12, "val": 2, "test": 6, "size": 16}, "batch_size": 2},
        "trainer": {"max_epochs": 1, "check_val_every_n_epoch": 1},
    },
    "dscnet": {
        "model": {"hidden_dim": 16, "code_dim": 16, "clusters": 4},
        **STANDARD,
    },
    "evs-net": {
        "model": {"widths": [8, 16], **LISTENING},
        "data": {"size": 24, "world": {"unlabelled": 6, "val": 4, "test": 8}, **STREAMS},
        "trainer": {"max_epochs": 1},
    },
    "ecrl": {"model": {"hidden_dim": 16, "projection_dim": 8}, **GROUNDING},
    "lgi": {"model": {"hidden_dim": 16, "attention_dim": 8, "head_dim": 16, "kernel": 3}, **GROUNDING},
    "kdexplainer": {
        "model": {"width": 4, "last_width": 4, "head_hidden": 8, "teacher_steps": 5},
        "data": {"embedded": "digits", "size": 16, "train_share": 0.3, "batch_size": 64},
        "trainer": {"max_epochs": 1, "max_steps": -1},
    },
    "mhst": {"model": {"hidden_dim": 16, "projection": 16, "candidates": 6}, **STANDARD},
    "ssrn": {"model": {"hidden_dim": 16, "siamese": 2}, **GROUNDING},
    "mgsl-net": {"model": {"hidden_dim": 16, "video_dim": 16, "memory_slots": 8}, **GROUNDING},
    "mvfnet": {
        "model": {"num_classes": 12, "backbone": "small", "stages": 4, "alpha": 0.5},
        "data": {"batch_size": 12, "world": {"train": 48, "val": 12, "test": 24}},
        "trainer": {"max_epochs": 1, "max_steps": -1},
    },
    "nddr-cnn": {
        "model": {
            "num_classes": 5,
            "widths": [16, 32],
            "single_steps": 2,
            "joint_steps": 1000,
            "recipe": {"lr": 0.05, "lr_multipliers": {"*fusions.*": 1.0}},
        },
        "data": {"batch_size": 8, "world": {"train": 96, "val": 8, "test": 12, "size": 16}},
        "trainer": {"max_epochs": 1, "check_val_every_n_epoch": 1},
    },
    "order-free-rnn": {
        "model": {"num_labels": 16, "image_size": 48, "backbone": "small", "hidden_dim": 16, "attention_dim": 8},
        "data": {"batch_size": 16, "world": {"train": 64, "val": 16, "test": 16}},
        "trainer": {"max_epochs": 1, "max_steps": -1},
    },
    "paver": {
        "model": {"encoder_steps": 3, "encoder_views": 20, "recipe": {"lr": 1e-3}},
        "data": {"window": 3, "world": {"train": 4, "val": 2, "test": 4, "frames": 6}},
        "trainer": {"max_epochs": 1, "max_steps": -1},
    },
    "sa-gan": {
        "model": {
            "latent_dim": 8,
            "embedding_dim": 16,
            "hidden_dim": 16,
            "structure_dim": 8,
            "embedding_steps": 4,
            "generator_steps": 1000,
            "critic_steps": 1,
            "zsl_samples": 10,
            "gzsl_samples": 10,
            "classifier_steps": 20,
        },
        "data": {
            "batch_size": 16,
            "world": {"seen": 6, "kept_back": 2, "unseen": 3, "train": 20, "test": 10},
        },
        "trainer": {"max_epochs": 1, "check_val_every_n_epoch": 1},
    },
    "scan-cnn": {
        "model": {
            "num_identities": 8,
            "channels": 1,
            "image_size": 24,
            "backbone": "small",
            "kernel_size": 3,
            "embedding_dim": 16,
            "scale": 16.0,
            "margin": 0.2,
            "mirror": False,
            "recipe": {"lr": 0.1, "schedule": "constant"},
        },
        "data": {
            "size": 24,
            "channels": 1,
            "batch_size": 12,
            "world": {"train": 8, "val": 4, "test": 4, "train_pictures": 6, "pictures": 4, "size": 24},
        },
        "trainer": {"max_epochs": 1, "max_steps": -1},
    },
    "ref-net": {
        "model": {"widths": [8, 16], **LISTENING},
        "data": {
            "size": 24,
            "world": {"categories": 3, "unlabelled": 6, "val": 3, "test": 6, "source": 8},
            **STREAMS,
            "shots": 2,
        },
        "trainer": {"max_epochs": 1},
    },
    "trans-net": {
        "model": {"widths": [8, 16], **LISTENING},
        "data": {"size": 24, "world": {"train": 12, "val": 4, "test": 8, "source": 8}, **STREAMS},
        "trainer": {"max_epochs": 1},
    },
    "vam": {
        "model": {"teacher_steps": 5},
        "data": {"embedded": "digits", "size": 16, "train_share": 0.3, "batch_size": 64},
        "trainer": {"max_epochs": 1, "max_steps": -1},
    },
    "viga": {"model": {"hidden_dim": 16}, **STANDARD},
    "visa": {"model": {"hidden_dim": 16, "key_dim": 8}, **GROUNDING},
    "visformer": {
        "model": {
            "num_classes": 32,
            "image_size": 32,
            "network": "plain",
            "settings": {
                "stem_channels": 8,
                "embed_dim": 32,
                "depths": [1, 1, 1],
                "patch_strides": [2, 2, 2],
                "num_heads": 4,
            },
        },
        "data": {"batch_size": 8, "world": {"train": 48, "val": 16, "test": 24}},
        "trainer": {"max_epochs": 1, "max_steps": -1},
    },
    "vslnet": {"model": {"hidden_dim": 16, "character_dim": 8}, **GROUNDING},
}


def train_tiny(name: str, runs: Path, **more: Any) -> api.Trained:
    return api.train(name, **TINY[name], runs=runs, **more)


class Runs(dict[str, api.Trained]):
    """A small training of each method; it takes place when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> api.Trained:
        self[name] = train_tiny(name, self.folder)
        return self[name]


def options(name: str) -> list[str]:
    """The same on the command line."""
    return [
        word
        for group, values in TINY[name].items()
        for key, value in values.items()
        for word in (f"--{group}.{key}", str(value))
    ]
