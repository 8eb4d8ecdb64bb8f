"""A training step and a prediction of every method, with the settings that learn on embedded data."""

import copy

import pytest
import torch

from ommatid import api, catalogue
from ommatid.engine.fit import fit

METHODS = catalogue.names()
# Rounds of a method that makes its own training data are long: shorter ones show the same operations.
SHORTER = {"cmi": {"teacher_steps": 1, "generator_steps": 10, "kd_steps": 10}}


def assembled(name):
    kind = api.method_class(name)
    return api.assemble(kind, api.plan(kind, SHORTER.get(name, {}), {}, {}))


@pytest.mark.parametrize("name", METHODS)
def test_one_training_step(benchmark, name):
    """Through the whole trainer, set-up of the run included."""
    method, data = assembled(name)
    method.adopt(data)
    options = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}
    benchmark.pedantic(
        fit, setup=lambda: ((copy.deepcopy(method), data), {"trainer": options}), rounds=3, warmup_rounds=1
    )


@pytest.mark.parametrize("name", METHODS)
def test_one_batch_is_scored(benchmark, name):
    method, data = assembled(name)
    method.adopt(data)
    batch = data.first_batch("test")
    with torch.no_grad():
        assert benchmark(method.eval().score, batch)


@pytest.mark.parametrize("name", METHODS)
def test_a_checkpoint_is_written_and_read(benchmark, name, tmp_path):
    method, _ = assembled(name)
    loaded = benchmark.pedantic(
        lambda: api.load(method.save(tmp_path / "method.safetensors")), rounds=3, warmup_rounds=1
    )
    assert type(loaded) is type(method)
