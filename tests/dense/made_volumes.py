"""Small stations, organs and steps for the tests of this field."""

import torch

from ommatid.dense.deep_stationing import DeepStationing
from ommatid.dense.volume_data import VolumeData
from ommatid.engine.fit import fit
from ommatid.engine.settings import build, merge

WORLD = {"dimensions": 2, "train": 6, "val": 2, "test": 4, "size": 16}
SMALL = {
    **DeepStationing.embedded["model"],
    "kept": 3,
    "widths": [4, 6],
    "folds": 2,
    "organ_steps": 2,
    "search_steps": 4,
    "steps": 3,
}


def phantoms(**settings):
    return VolumeData(**{"world": WORLD, "batch_size": 2, **settings})


def stationing(data=None, **settings):
    """A small method; what data decide is theirs."""
    torch.manual_seed(0)
    data = phantoms() if data is None else data
    return build(DeepStationing, merge(DeepStationing.arguments_from(data), SMALL, settings))


def trained(method, data=None, run=None, resume=False, **trainer):
    options = {"max_epochs": -1, "limit_val_batches": 0, **trainer}
    torch.manual_seed(1)
    return fit(method, phantoms() if data is None else data, run, options, resume=resume)


def parameters(network):
    return {name: value.detach().clone() for name, value in network.named_parameters()}
