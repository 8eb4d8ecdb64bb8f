"""Anchors and their targets against those of the public loader, to the last bit."""

import pytest
import torch

from ommatid.grounding.anchors import anchor_targets, half_widths, temporal_anchors
from parity.fixture import load_fixture

# Overlap from which an anchor learns to shift, and whether in units of the best anchor's; absolute in all other data.
RELATIVE, ABSOLUTE = (0.8, True), (0.45, False)


@pytest.fixture
def fixture():
    return load_fixture("field-anchors")


def made_anchors(fixture, data):
    config = fixture.config
    reach = half_widths(config["anchor_widths"][data], config["half_width_factor"][data])
    return temporal_anchors(config["T"][data], reach)


def test_anchors_are_the_recorded_ones(fixture):
    for data in fixture.config["T"]:
        anchors = made_anchors(fixture, data)
        fixture.assert_close(anchors, f"out/{data}_anchors")
        assert torch.equal(anchors.float(), fixture.tensor(f"out/{data}_anchors"))


def test_targets_are_the_recorded_ones(fixture):
    for data, length in fixture.config["T"].items():
        # In double precision, as recorded: an overlap may lie exactly on the limit of the regression set.
        label = fixture.tensor(f"in/{data}_label").double()
        steps = torch.full((len(label),), length)
        rule = RELATIVE if data == "anet" else ABSOLUTE
        targets = anchor_targets(made_anchors(fixture, data).flatten(0, 1), label, steps, *rule)
        for name, found in {
            "score": targets.score,
            "valid": targets.valid.float(),
            "regress": targets.regress,
        }.items():
            fixture.assert_close(found, f"out/{data}_{name}")
            torch.testing.assert_close(found.float(), fixture.tensor(f"out/{data}_{name}"), rtol=1e-6, atol=0)


def test_every_recorded_array_is_compared(fixture):
    compared = {f"{data}_{name}" for data in fixture.config["T"] for name in ("anchors", "score", "valid", "regress")}
    assert set(fixture.tensors("out")) == compared
