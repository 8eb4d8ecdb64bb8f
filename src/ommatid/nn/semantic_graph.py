"""A sentence as a graph of actions and what takes part in them: parsing, messages along edges, joint evidence.

Node 0 is the whole sentence, node 1 + i is word i, if it is an action (a verb) or an atom (what a verb takes).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

NODE_KINDS = ("nothing", "verb", "noun", "adjective", "adverb", "preposition", "sentence")
"""What a node can be: parts of speech in the order of `ommatid.data.tagging.PARTS_OF_SPEECH`, then the sentence."""
NOTHING, VERB, NOUN, ADJECTIVE, ADVERB, PREPOSITION, SENTENCE = range(len(NODE_KINDS))
# Finite, so that a row without any choice stays without NaN.
IMPOSSIBLE = -1e30


@dataclass
class SemanticGraph:
    """Sentences as graphs of one size; there is no node where `kind` is 0.

    Attributes:
        kind: index into `NODE_KINDS`.
        parent: an atom's action, an action's sentence (0); 0 also for the sentence, and where there is no node.
        edges: symmetric, without loops.
        words: the words that a node is about: the sentence about all, an action about its verb and what it takes, an
            atom about itself.
    """

    kind: Int[Tensor, "batch node"]
    parent: Int[Tensor, "batch node"]
    edges: Bool[Tensor, "batch node node"]
    words: Bool[Tensor, "batch node word"]

    @property
    def mask(self) -> Bool[Tensor, "batch node"]:
        """Which nodes exist."""
        return self.kind != NOTHING

    @property
    def actions(self) -> Bool[Tensor, "batch word"]:
        """Which words are actions; every other node behind the sentence is an atom."""
        return self.kind[:, 1:] == VERB


def rule_parse(tags: Int[Tensor, "batch word"], mask: Bool[Tensor, "batch word"]) -> SemanticGraph:
    """Graphs from parts of speech alone, all sentences at once (VISA, arXiv:2203.13049, E1 and E3).

    Every verb is an action of the sentence. Nouns, adjectives, adverbs and prepositions belong to the nearest verb
    before them, to the next one where none comes before, and to the sentence where there is no verb. An adjective is
    also tied to the next noun. Other words become no node.

    Args:
        tags: part of speech of every word, from 0 ("other") to 5 as in `NODE_KINDS`.
        mask: valid words.

    Examples:
        >>> graph = rule_parse(torch.tensor([[2, 1, 0, 3, 2]]), torch.ones(1, 5, dtype=torch.bool))
        >>> graph.parent[0].tolist()  # person opens the red door
        [0, 2, 0, 0, 2, 2]
        >>> graph.edges[0, 4].int().tolist()  # red: opens, door
        [0, 0, 1, 0, 0, 1]
    """
    tags = tags.masked_fill(~mask, NOTHING)
    parent = _parents(tags)
    sentence = torch.full_like(tags[:, :1], SENTENCE)
    kind, parent = torch.cat([sentence, tags], dim=1), F.pad(parent, (1, 0))
    node = torch.arange(kind.shape[1], device=tags.device)
    below = (parent[..., None] == node) & ((kind != NOTHING) & (kind != SENTENCE))[..., None]
    modifies = (F.pad(_next_noun(tags), (1, 0))[..., None] == node) & (kind == ADJECTIVE)[..., None] & (node > 0)
    edges = below | modifies
    itself = (node[:, None] == node) & (kind != NOTHING)[..., None]
    taken = below.transpose(1, 2) & (kind == VERB)[..., None]
    words = torch.cat([mask[:, None], (itself | taken)[:, 1:, 1:]], dim=1)
    return SemanticGraph(kind, parent, edges | edges.transpose(1, 2), words)


def _parents(tags: Int[Tensor, "batch word"]) -> Int[Tensor, "batch word"]:
    """The node that each word's node belongs to."""
    before, after = _nearest(tags == VERB)
    owner = torch.where(before > 0, before, after)
    return torch.where((tags == NOTHING) | (tags == VERB), 0, owner)


def _next_noun(tags: Int[Tensor, "batch word"]) -> Int[Tensor, "batch word"]:
    return _nearest(tags == NOUN)[1]


def _nearest(there: Bool[Tensor, "batch word"]) -> tuple[Int[Tensor, "batch word"], Int[Tensor, "batch word"]]:
    """Nodes of the nearest marked words before and after each word; 0 where there is none."""
    count = there.shape[1]
    node = torch.arange(1, count + 1, device=there.device)
    before = torch.where(there[:, None] & (node < node[:, None]), node, 0).amax(dim=2)
    after = torch.where(there[:, None] & (node > node[:, None]), node, count + 1).amin(dim=2)
    return before, torch.where(after > count, 0, after)


def masked_softmax(
    logits: Float[Tensor, "*shape"], mask: Bool[Tensor, "*#shape"], dim: int = -1
) -> Float[Tensor, "*shape"]:
    """Softmax over what is allowed, in single precision; 0 elsewhere, and all 0 where nothing is.

    Examples:
        >>> masked_softmax(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    return logits.float().masked_fill(~mask, IMPOSSIBLE).softmax(dim=dim) * mask


class GraphAttentionLayer(nn.Module):
    """Nodes attend to their neighbours in a graph (as VISA does, arXiv:2203.13049, E6-E7).

    a_ij = softmax over neighbours j of <W_q x_i, W_k x_j> / sqrt(key_dim), 0 for nodes without any;
    x_i <- LayerNorm(x_i + dropout(W_c sum_j a_ij x_j)).

    Args:
        dim: width of the nodes.
        key_dim: width in which a node and its neighbour are compared.
        dropout: of the message, in training.

    Examples:
        >>> layer = GraphAttentionLayer(8, key_dim=4)
        >>> layer(torch.randn(2, 5, 8), torch.ones(2, 5, 5, dtype=torch.bool)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, key_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(dim, key_dim), nn.Linear(dim, key_dim)
        self.content = nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, nodes: Float[Tensor, "batch node dim"], edges: Bool[Tensor, "batch node node"]
    ) -> Float[Tensor, "batch node dim"]:
        query, key = self.compared(nodes)
        weights = masked_softmax(query @ key.transpose(1, 2), edges)
        return self.receive(nodes, weights.to(nodes.dtype) @ nodes)

    def compared(
        self, nodes: Float[Tensor, "*node dim"]
    ) -> tuple[Float[Tensor, "*node key"], Float[Tensor, "*node key"]]:
        """What a node looks for and what it is found by; their inner product is the logit of the attention."""
        return self.query(nodes) * self.query.out_features**-0.5, self.key(nodes)

    def receive(self, nodes: Float[Tensor, "*node dim"], message: Float[Tensor, "*node dim"]) -> Tensor:
        """Nodes after their messages, the weighted sums of neighbours, have come in (E7)."""
        return self.norm(nodes + self.dropout(self.content(message)))


def conjunctive_evidence(
    logits: Float[Tensor, "batch node time"], weights: Float[Tensor, "batch node"], mask: Bool[Tensor, "batch node"]
) -> Float[Tensor, "batch time"]:
    """How well a step shows ALL parts of a sentence: sum_i w_i log sigmoid(e_it), at most 0 (VISA, E12).

    A sum of logarithms is the logarithm of a product: one part that is missing cannot be made up for by others.

    Args:
        logits: evidence of every part at every step, the bias of its kind included.
        weights: how much each part matters.
        mask: parts that exist.

    Examples:
        >>> logits, both = torch.tensor([[[9.0, 9.0], [9.0, -9.0]]]), torch.tensor([[0.5, 0.5]])
        >>> conjunctive_evidence(logits, both, both > 0).round(decimals=1).abs().tolist()
        [[0.0, 4.5]]
    """
    parts = F.logsigmoid(logits.float()).masked_fill(~mask[..., None], 0)
    return (weights.float()[..., None] * parts).sum(dim=1)
