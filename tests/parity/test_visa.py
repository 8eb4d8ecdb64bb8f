"""The graph attention that VISA adopts against the numbers recorded from public code."""

import pytest
import torch
from torch import nn

from ommatid.grounding.visa import VISA, published_graph_attention
from ommatid.nn.semantic_graph import GraphAttentionLayer
from parity.fixture import load_fixture


@pytest.fixture
def fixture():
    return load_fixture("visa-graphattn")


@pytest.fixture
def layers(fixture):
    config = fixture.config
    layers = nn.ModuleList(GraphAttentionLayer(config["D"], config["key_dim"]) for _ in range(config["layers"]))
    layers.load_state_dict(published_graph_attention(fixture.tensors("state")))
    return layers.eval()


def test_nodes_and_their_gradient_are_the_recorded_ones(fixture, layers):
    first = nodes = fixture.tensor("in/nodes").requires_grad_()
    edges = fixture.tensor("in/edges").bool()
    for layer in layers:
        nodes = layer(nodes, edges)
    fixture.assert_close(nodes, "out/nodes")
    (nodes * torch.linspace(-1, 1, nodes.shape[-1])).sum().backward()
    fixture.assert_close(first.grad, "grad/nodes")


def test_isolated_nodes_of_the_recording_take_in_nothing(fixture, layers):
    edges = fixture.tensor("in/edges").bool()
    isolated = ~edges.any(dim=2)
    assert isolated.any()
    nodes = expected = fixture.tensor("in/nodes")
    for layer in layers:
        nodes, expected = layer(nodes, edges), layer.norm(expected)
    torch.testing.assert_close(nodes[isolated], expected[isolated])


def test_the_method_takes_the_recorded_weights_into_its_sentence_graph(fixture, layers):
    config, state = fixture.config, fixture.tensors("state")
    method = VISA(
        feature_dim=4,
        word_dim=4,
        hidden_dim=config["D"],
        key_dim=config["key_dim"],
        graph_layers=config["layers"],
        encoder="conv",
    )
    untouched = method.head.inside[0].weight.clone()
    method.load_state_dict(method.published_state(state))
    for ours, theirs in zip(method.sentence.layers.parameters(), layers.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(method.head.inside[0].weight, untouched)
