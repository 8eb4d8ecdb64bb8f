"""Sentences as graphs against a parser in plain Python, messages along edges node by node, evidence of all parts."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.data import tagging
from ommatid.nn.semantic_graph import (
    ADJECTIVE,
    ADVERB,
    NODE_KINDS,
    NOTHING,
    NOUN,
    PREPOSITION,
    SENTENCE,
    VERB,
    GraphAttentionLayer,
    conjunctive_evidence,
    masked_softmax,
    rule_parse,
)

KINDS = {"o": NOTHING, "v": VERB, "n": NOUN, "a": ADJECTIVE, "d": ADVERB, "p": PREPOSITION}


def test_kinds_are_the_parts_of_speech_of_the_data():
    assert NODE_KINDS[1:-1] == tagging.PARTS_OF_SPEECH[1:]
    assert (VERB, NOUN, ADJECTIVE) == (tagging.VERB, tagging.NOUN, tagging.ADJECTIVE)
    assert (ADVERB, PREPOSITION, NOTHING) == (tagging.ADVERB, tagging.PREPOSITION, tagging.OTHER)


# --- the parser ---


def slow_parse(tags):
    """E1 and E3 word after word: kinds, parents, edges as pairs, and the words of every node."""
    verbs = [i for i, tag in enumerate(tags) if tag == VERB]
    parents, edges, about = [0], set(), [set(range(len(tags)))]
    for i, tag in enumerate(tags):
        before, after = [v for v in verbs if v < i], [v for v in verbs if v > i]
        if tag in (NOTHING, VERB):
            parents.append(0)
        else:
            parents.append((before[-1] if before else after[0]) + 1 if verbs else 0)
        about.append({i} if tag != NOTHING else set())
        if tag != NOTHING:
            edges |= {(i + 1, parents[-1]), (parents[-1], i + 1)}
        if tag == ADJECTIVE:
            nouns = [j for j in range(i + 1, len(tags)) if tags[j] == NOUN]
            edges |= {(i + 1, nouns[0] + 1), (nouns[0] + 1, i + 1)} if nouns else set()
    for i, tag in enumerate(tags):
        if tag not in (NOTHING, VERB) and parents[i + 1]:
            about[parents[i + 1]].add(i)
    return [SENTENCE, *tags], parents, edges, about


def padded(sentences):
    longest = max(map(len, sentences))
    # Whatever stands in the padding must not matter.
    tags = torch.tensor([[*sentence, *[VERB, NOUN, ADJECTIVE] * longest][:longest] for sentence in sentences])
    return tags, torch.arange(longest) < torch.tensor([[len(sentence)] for sentence in sentences])


sentences = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=11), min_size=1, max_size=5)


@settings(deadline=None, max_examples=150)
@given(sentences)
def test_sentences_are_parsed_like_one_after_the_other(sentences):
    graph = rule_parse(*padded(sentences))
    for row, tags in enumerate(sentences):
        kind, parents, edges, about = slow_parse(tags)
        count = len(tags) + 1
        assert graph.kind[row].tolist() == kind + [NOTHING] * (graph.kind.shape[1] - count)
        assert graph.parent[row, :count].tolist() == parents
        assert {tuple(edge) for edge in graph.edges[row].nonzero().tolist()} == edges
        assert [set(words.nonzero()[:, 0].tolist()) for words in graph.words[row, :count]] == about
        assert not graph.words[row, count:].any()
        assert not graph.parent[row, count:].any()


@pytest.mark.parametrize(
    ("sentence", "tags", "parents", "tied"),
    [
        ("person opens the red door slowly", "nvoand", [2, 0, 0, 2, 2, 2], {(4, 5)}),
        # The subject of the first verb belongs to it, that of the second to the verb before it.
        ("man opens door and dog runs away", "nvnonvd", [2, 0, 2, 0, 2, 0, 6], set()),
        ("slowly the old red car stops near trees", "doaanvpn", [6, 0, 6, 6, 6, 0, 6, 6], {(3, 5), (4, 5)}),
        # Without a verb everything belongs to the sentence.
        ("a red door", "oan", [0, 0, 0], {(2, 3)}),
        # An adjective without a noun behind it is tied to none.
        ("the door is red", "onoa", [0, 0, 0, 0], set()),
        ("jump", "v", [0], set()),
        ("the of it", "ooo", [0, 0, 0], set()),
    ],
)
def test_known_sentences_are_parsed_as_by_hand(sentence, tags, parents, tied):
    assert len(sentence.split()) == len(tags)
    graph = rule_parse(torch.tensor([[KINDS[tag] for tag in tags]]), torch.ones(1, len(tags), dtype=torch.bool))
    assert graph.parent[0, 1:].tolist() == parents
    assert graph.actions[0].tolist() == [tag == "v" for tag in tags]
    among = {(i, j) for i, j in graph.edges[0].nonzero().tolist() if i < j} - {
        tuple(sorted((node, parent))) for node, parent in enumerate(parents, start=1) if KINDS[tags[node - 1]]
    }
    assert among == tied


def test_edges_have_no_loops_and_both_directions():
    edges = rule_parse(torch.randint(0, 6, (50, 9)), torch.ones(50, 9, dtype=torch.bool)).edges
    assert torch.equal(edges, edges.transpose(1, 2))
    assert not edges.diagonal(dim1=1, dim2=2).any()


# --- messages ---


def test_softmax_without_a_choice_is_zero_and_has_a_gradient():
    logits = torch.randn(3, 4, requires_grad=True)
    mask = torch.tensor([[True, True, False, True], [False] * 4, [True] * 4])
    found = masked_softmax(logits, mask)
    assert not found[1].any()
    torch.testing.assert_close(found[0][mask[0]], logits[0][mask[0]].softmax(0))
    found.square().sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[~mask].any()


def slow_attention(layer, nodes, edges):
    """E6 and E7, node after node."""
    rows = []
    for i, node in enumerate(nodes):
        neighbours = edges[i].nonzero()[:, 0].tolist()
        message = torch.zeros_like(node)
        if neighbours:
            logits = [layer.query(node) @ layer.key(nodes[j]) / math.sqrt(layer.key.out_features) for j in neighbours]
            for weight, j in zip(torch.stack(logits).softmax(0), neighbours, strict=True):
                message = message + weight * nodes[j]
        rows.append(layer.norm(node + layer.content(message)))
    return torch.stack(rows)


def test_nodes_attend_to_their_neighbours_only():
    torch.manual_seed(0)
    layer, nodes = GraphAttentionLayer(6, key_dim=3).eval(), torch.randn(4, 7, 6)
    edges = torch.rand(4, 7, 7) < 0.4
    edges[0, 2] = False
    expected = torch.stack([slow_attention(layer, n, e) for n, e in zip(nodes, edges, strict=True)])
    torch.testing.assert_close(layer(nodes, edges), expected)


def test_isolated_nodes_are_only_normalised():
    layer, nodes = GraphAttentionLayer(6, key_dim=3), torch.randn(1, 3, 6)
    torch.testing.assert_close(layer(nodes, torch.zeros(1, 3, 3, dtype=torch.bool)), F.layer_norm(nodes, (6,)))


def test_messages_are_dropped_in_training_only():
    layer, nodes, edges = GraphAttentionLayer(6, 3, dropout=0.5), torch.randn(1, 3, 6), torch.ones(1, 3, 3).bool()
    assert not torch.equal(layer(nodes, edges), layer(nodes, edges))
    layer.eval()
    assert torch.equal(layer(nodes, edges), layer(nodes, edges))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype):
    torch.manual_seed(0)
    layer, nodes, edges = GraphAttentionLayer(6, 3), torch.randn(2, 4, 6), torch.rand(2, 4, 4) < 0.5
    expected = layer(nodes, edges)
    found = layer.to(dtype)(nodes.to(dtype), edges)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


# --- evidence ---


def test_evidence_is_the_weighted_sum_of_logarithms():
    torch.manual_seed(0)
    logits, weights, mask = torch.randn(2, 4, 5), torch.rand(2, 4), torch.rand(2, 4) < 0.7
    found = conjunctive_evidence(logits, weights, mask)
    for row in range(2):
        for t in range(5):
            parts = [
                weights[row, i] * math.log(1 / (1 + math.exp(-logits[row, i, t]))) for i in range(4) if mask[row, i]
            ]
            assert found[row, t].item() == pytest.approx(float(sum(parts)), abs=1e-5)


def test_a_missing_part_cannot_be_made_up_for():
    """Average evidence is equal, but only the first step shows both parts."""
    logits = torch.tensor([[[2.0, 10.0], [2.0, -6.0]]])
    both, one = conjunctive_evidence(logits, torch.full((1, 2), 0.5), torch.ones(1, 2).bool())[0]
    assert both > one + 2


def test_parts_that_do_not_exist_say_nothing_however_large():
    logits = torch.tensor([[[1.0, -1.0], [-1e30, 1e30]]], requires_grad=True)
    weights, mask = torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])
    found = conjunctive_evidence(logits, weights, mask)
    torch.testing.assert_close(found, F.logsigmoid(logits[:, 0]))
    found.sum().backward()
    assert logits.grad.isfinite().all()


def test_strong_evidence_against_a_part_stays_finite():
    logits = torch.full((1, 1, 2), -1e4, requires_grad=True)
    found = conjunctive_evidence(logits, torch.ones(1, 1), torch.ones(1, 1).bool())
    found.sum().backward()
    assert found.tolist() == [[-1e4, -1e4]]
    assert logits.grad.tolist() == [[[1.0, 1.0]]]
