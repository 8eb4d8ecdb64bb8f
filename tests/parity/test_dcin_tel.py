"""The published two-modality losses that DCIN-TEL is compared with, against recorded numbers."""

import pytest
import torch
import torch.nn.functional as F

from ommatid.losses.multiple_instance import (
    background_guide_loss,
    mil_softmax_loss,
    mutual_attention_loss,
    suppress,
)
from parity.fixture import load_fixture


@pytest.fixture
def fixture():
    return load_fixture("dcin-tel-mil")


@pytest.fixture
def inputs(fixture):
    cas, first, second = (fixture.tensor(f"in/{name}").requires_grad_() for name in ("cas", "attn_a", "attn_b"))
    return {"cas": cas, "attn_a": first, "attn_b": second}


def losses(fixture, inputs):
    cas, first, second = inputs["cas"], inputs["attn_a"][..., 0], inputs["attn_b"][..., 0]
    labels, mask = fixture.tensor("in/labels"), torch.ones(cas.shape[:2], dtype=torch.bool)
    attention, ratio = (first + second) / 2, fixture.config["ratio"]
    suppressed = suppress(cas, attention, mask, over="labels")
    return {
        # Every recorded clip has background; what attention leaves has none.
        "mil": mil_softmax_loss(cas, F.pad(labels, (0, 1), value=1.0), mask, ratio),
        "mil_suppressed": mil_softmax_loss(suppressed, F.pad(labels, (0, 1), value=0.0), mask, ratio),
        "mutual": mutual_attention_loss(first, second, mask)[None],
        "guide": background_guide_loss(cas, attention, mask)[None],
        "suppressed_cas": suppressed,
    }


def test_every_recorded_loss_is_reproduced(fixture, inputs):
    for name, value in losses(fixture, inputs).items():
        fixture.assert_close(value, f"out/{name}")


def test_gradients_are_reproduced(fixture, inputs):
    parts = losses(fixture, inputs)
    whole = parts["mil"].mean() + parts["mil_suppressed"].mean() + parts["mutual"].sum()
    (whole + fixture.config["guide_weight"] * parts["guide"].sum()).backward()
    for name, tensor in inputs.items():
        fixture.assert_close(tensor.grad, f"grad/{name}")
