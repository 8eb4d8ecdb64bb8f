"""The expert hierarchy against numbers recorded from the authors' implementation."""

import pytest
import torch

from ommatid.nn.expert_hierarchy import ExpertHierarchy, published_hierarchy
from parity.fixture import load_fixture


@pytest.mark.parametrize("name", ["kdexplainer-hme-ce", "kdexplainer-hme-nce"])
def test_hierarchy_reproduces_the_recorded_scores_attention_and_gradients(name):
    fixture = load_fixture(name)
    config = fixture.config
    network = ExpertHierarchy(
        config["classes"],
        fixture.array("in/x").shape[1],
        config["blocks_per_level"],
        config["width"],
        config["last_width"],
        config["head_hidden"],
        config["pool"],
        score="single" if config["head_outputs"] == 1 else "max",
    ).eval()
    state = published_hierarchy(fixture.tensors("state"), len(config["blocks_per_level"]))
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    network.load_state_dict(counters | state)
    images, temperature = fixture.tensor("in/x"), config["temperature"]

    logits = network(images, temperature)
    fixture.assert_close(logits, "out/logits_soft")
    fixture.assert_close(network(images, hard=True), "out/logits_hard")
    fixture.assert_close(network.entropy(temperature), "out/mean_attention_entropy")
    logits.square().sum().backward()
    for level, attention in enumerate(network.attention, start=2):
        fixture.assert_close(attention(temperature), f"out/attention_soft_level{level}")
        hard = torch.nn.functional.one_hot(attention.parent(), attention.shape[1])
        fixture.assert_close(hard.float(), f"out/attention_hard_level{level}")
        fixture.assert_close(attention.logits.grad, f"grad/branch_{level}")
