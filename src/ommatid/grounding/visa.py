"""VISA: Compositional Temporal Grounding with Structured Variational Cross-Graph Correspondence (arXiv:2203.13049,
CVPR 2022).

A query may combine known words in a way that training never showed. VISA reads a sentence as a graph of the event, its
actions and their atoms (E1-E3), a video as windows, steps and slots (E4-E5), lets both exchange messages (E6-E7),
and infers for every node of the sentence which video node of its own level it is about, given where its parent is
(E8-E10). A step is good if all parts of the sentence are evidenced there (E11-E13). Equation numbers refer to
docs/methods/visa.md.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.engine.checkpoint import rename
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.grounding.encoders import Encoder, WordEmbedding, context
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.heads import DenseRegression, DenseRegressionHead, decode_dense, dense_loss, steps_inside
from ommatid.grounding.task import GroundingBatch, Moments
from ommatid.nn.context_query import ContextQueryAttention
from ommatid.nn.correspondence import (
    HierarchicalVideoNodes,
    Levels,
    Prior,
    VideoGraphAttention,
    VideoNodes,
    correspondence_logits,
    mass_by_step,
    matched_content,
    posterior,
    relaxed_samples,
    slot_similarity,
    step_evidence,
    structured_correspondence,
    structured_prior,
    uniform_prior,
)
from ommatid.nn.semantic_graph import (
    NODE_KINDS,
    NOTHING,
    VERB,
    GraphAttentionLayer,
    SemanticGraph,
    conjunctive_evidence,
    masked_softmax,
    rule_parse,
)

PRIORS: dict[str, Prior | None] = {"structured": structured_prior, "uniform": uniform_prior, "none": None}
DIVERSITY_WEIGHT = 0.1
DROP = 0.2
"""How much worse a wrong word must make the evidence (E17)."""
LEAST_MASS = 1e-6

Words = Float[Tensor, "batch word channel"]
Nodes = Float[Tensor, "batch node dim"]
NodeMask = Bool[Tensor, "batch node"]
NodeSteps = Float[Tensor, "batch node time"]
Scalar = Float[Tensor, ""]


class SentenceGraph(nn.Module):
    """Words as nodes of a semantic graph that exchange messages (E2, E3, E6, E7)."""

    def __init__(self, word_dim: int, dim: int, key_dim: int, layers: int, encoder: Encoder, dropout: float) -> None:
        super().__init__()
        self.encoder = context(encoder, word_dim, dim, dropout)
        self.pool = nn.Linear(dim, 1, bias=False)
        self.kind = nn.Embedding(len(NODE_KINDS), dim)
        self.layers = nn.ModuleList(GraphAttentionLayer(dim, key_dim, dropout) for _ in range(layers))

    def forward(
        self, words: Words, tags: Int[Tensor, "batch word"], mask: Bool[Tensor, "batch word"]
    ) -> tuple[SemanticGraph, Nodes]:
        graph, read = rule_parse(tags, mask), self.encoder(words, mask)
        share = masked_softmax(self.pool(read)[:, None, :, 0].expand_as(graph.words), graph.words)
        nodes = share.to(read.dtype) @ read + self.kind(graph.kind)
        for layer in self.layers:
            nodes = layer(nodes, graph.edges)
        return graph, nodes


class Conjunction(nn.Module):
    """How much each part of a sentence matters, and whether a step shows all of them (E12)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)
        self.bias = nn.Embedding(len(NODE_KINDS), 1)

    def forward(
        self, nodes: Nodes, kind: Int[Tensor, "batch node"], evidence: NodeSteps
    ) -> tuple[Float[Tensor, "batch time"], NodeSteps]:
        """Joint evidence R of every step, and every part's own, weighted (in [0, 1])."""
        mask, logits = kind != NOTHING, evidence + self.bias(kind)
        weights = masked_softmax(self.score(nodes)[..., 0], mask)
        return conjunctive_evidence(logits, weights, mask), weights[..., None] * logits.sigmoid()


@dataclass
class Understood:
    """What the network makes of a batch.

    Attributes:
        evidence: joint evidence R of every step (E12).
        mass: how much of each node's correspondence lies on each step.
        divergence: of the correspondence from its prior (E15).
        similarity: of the slots of a step (E4).
    """

    prediction: DenseRegression
    graph: SemanticGraph
    video: VideoNodes
    evidence: Float[Tensor, "batch time"]
    mass: NodeSteps
    divergence: Float[Tensor, "batch"]
    similarity: Scalar


class VISA(Grounder):
    """Structured variational correspondence between a sentence's and a video's graph (arXiv:2203.13049, E1-E18).

    Parts of speech of the words come with the data; sentences are parsed by rules (E1).

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them.
        hidden_dim: width of all nodes.
        key_dim: width in which neighbours in a graph are compared (E6).
        graph_layers: how often nodes of both graphs exchange messages (E6-E7).
        slots: atom nodes of a step (E4).
        prior: "structured" expects a node where its parent is (E9), "uniform" anywhere; "none" has no variational part:
            neither samples (E10) nor a divergence (E15).
        temperatures: of the relaxed samples, at the beginning and at the end of the training (E10).
        divergence_weight: of the divergence from the prior, after a linear rise (E18).
        rise: share of the training in which that weight rises from 0.
        inside_weight: of the loss that wants correspondences inside the moment (E16).
        negative_weight: of the loss that wants less evidence after one atom is replaced (E17); the card has 0.5.
        encoder: of words and of told steps; "gru" for the benchmarks, "conv" is several times faster on a CPU.
        dropout: of inputs, encoders and messages.
        recipe: optimiser and schedule.
    """

    embedded = {
        "model": {
            "hidden_dim": 48,
            "key_dim": 24,
            "graph_layers": 1,
            "encoder": "conv",
            "dropout": 0.1,
            "recipe": {"lr": 4e-3, "schedule": "onecycle"},
        },
        "data": {"view": "cg", "steps": 32, "batch_size": 32},
        "trainer": {"max_steps": 800, "max_epochs": -1},
    }

    temperature: Tensor
    divergence_weight: Tensor

    def __init__(
        self,
        feature_dim: int = 500,
        word_dim: int = 300,
        vocabulary_size: int = 2,
        hidden_dim: int = 512,
        key_dim: int = 256,
        graph_layers: int = 2,
        slots: int = 4,
        prior: Literal["structured", "uniform", "none"] = "structured",
        temperatures: tuple[float, float] = (1.0, 0.3),
        divergence_weight: float = 0.1,
        rise: float = 0.2,
        inside_weight: float = 1.0,
        negative_weight: float = 0.0,
        encoder: Encoder = "gru",
        dropout: float = 0.2,
        recipe: Recipe = Recipe("adam", lr=4e-4, schedule="constant"),
    ) -> None:
        super().__init__()
        _check(slots, temperatures, rise)
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.words = WordEmbedding(vocabulary_size, word_dim)
        self.dropout = nn.Dropout(dropout)
        self.prior = PRIORS[prior]
        # What changes while training goes on: as tensors, so that a compiled step need not be compiled anew.
        self.register_buffer("temperature", torch.tensor(float(temperatures[0])), persistent=False)
        self.register_buffer("divergence_weight", torch.zeros(()), persistent=False)

        self.sentence = SentenceGraph(word_dim, hidden_dim, key_dim, graph_layers, encoder, dropout)
        self.video = HierarchicalVideoNodes(feature_dim, hidden_dim, slots)
        self.video_graph = nn.ModuleList(VideoGraphAttention(hidden_dim, key_dim, dropout) for _ in range(graph_layers))
        self.look, self.seen = (nn.Linear(hidden_dim, hidden_dim, bias=False) for _ in range(2))
        self.show = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.conjunction = Conjunction(hidden_dim)
        self.join = nn.Linear(2 * hidden_dim + 1, hidden_dim)
        self.fusion = context(encoder, hidden_dim, hidden_dim, dropout)
        self.head = DenseRegressionHead(hidden_dim)

    def forward(self, batch: GroundingBatch) -> Moments:
        return decode_dense(self.understand(batch).prediction)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.schedule(self.share_done)

    def schedule(self, done: float) -> None:
        """Samples get colder (E10), and the divergence weighs more and more (E18); `done` of the training is over."""
        settings, (first, last) = self.hparams, self.hparams.temperatures
        self.temperature.fill_(first + done * (last - first))
        self.divergence_weight.fill_(min(done / settings.rise, 1.0) * settings.divergence_weight)

    def training_step(self, batch: GroundingBatch, _: int) -> Tensor:
        """Location, divergence from the prior, correspondences inside the moment, and differing slots (E18)."""
        settings, found = self.hparams, self.understand(batch)
        inside = steps_inside(batch.video_mask, batch.span)
        parts = dense_loss(found.prediction, batch.span)
        location = parts.classification + parts.regression + parts.quality
        divergence, mass = found.divergence.mean(), mass_inside_loss(found.mass, inside, found.graph.mask)
        loss = (
            location
            + self.divergence_weight * divergence
            + settings.inside_weight * mass
            + DIVERSITY_WEIGHT * found.similarity
        )
        if settings.negative_weight:
            loss = loss + settings.negative_weight * self.contradiction(batch, found, inside)
        self.report(loss=loss, location=location, divergence=divergence, inside=mass)
        return loss

    def understand(self, batch: GroundingBatch) -> Understood:
        """Both graphs, what corresponds, and what every step votes for (E1-E14)."""
        mask = batch.video_mask
        graph, nodes = self.read(batch.words, batch.word_mask)
        video = parts = self.video(self.dropout(batch.video), mask)
        for layer in self.video_graph:
            video = layer(video)
        probs, used, divergence = self.correspond(nodes, graph, video)
        evidence, gates = self.judge(nodes, graph, video)
        # Every step is told what the parts that it shows were matched with (E13).
        told = gates.transpose(1, 2).to(nodes.dtype) @ matched_content(used, graph, video)
        steps = torch.cat([video.steps, told, evidence[..., None].to(told.dtype)], dim=-1)
        steps = self.fusion(F.relu(self.join(steps)), mask)
        mass = mass_by_step(probs, graph, video)
        return Understood(self.head(steps, mask), graph, video, evidence, mass, divergence, slot_similarity(parts))

    def read(self, words: Int[Tensor, "batch word"], mask: Bool[Tensor, "batch word"]) -> tuple[SemanticGraph, Nodes]:
        """Sentences as graphs (E1-E3, E6-E7)."""
        return self.sentence(self.dropout(self.words(words)), self.words.tags[words], mask)

    def correspond(
        self, nodes: Nodes, graph: SemanticGraph, video: VideoNodes
    ) -> tuple[Levels, Levels, Float[Tensor, "batch"]]:
        """Posterior, what is used of it (a relaxed sample in training), and its divergence from the prior (E8-E10)."""
        logits = correspondence_logits(self.look(nodes), video.each(self.seen))
        if self.prior is None:
            probs = posterior(logits, video)
            return probs, probs, logits.windows.new_zeros(len(nodes))
        probs, divergence = structured_correspondence(logits, graph, video, self.prior)
        if not self.training:
            return probs, probs, divergence
        return probs, relaxed_samples(logits, video, self.temperature), divergence

    def judge(
        self, nodes: Nodes, graph: SemanticGraph, video: VideoNodes
    ) -> tuple[Float[Tensor, "batch time"], NodeSteps]:
        """Joint and single evidence of every step (E11, E12)."""
        logits = correspondence_logits(self.show(nodes), video)
        return self.conjunction(nodes, graph.kind, step_evidence(logits, graph, video))

    def contradiction(self, batch: GroundingBatch, found: Understood, inside: Bool[Tensor, "batch time"]) -> Scalar:
        """The moment must lose evidence when one atom of its sentence is replaced (E17)."""
        words, replaced = replace_one_atom(batch.words, batch.word_mask, self.words.tags)
        graph, nodes = self.read(words, batch.word_mask)
        wrong = self.judge(nodes, graph, found.video)[0]
        lost = ((found.evidence - wrong) * inside).sum(dim=1) / inside.sum(dim=1)
        return (F.relu(DROP - lost) * replaced).sum() / replaced.sum().clamp(min=1)

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sentence's graph layers from the names of public code; nobody released a complete network."""
        layers = {f"sentence.layers.{name}": tensor for name, tensor in published_graph_attention(state).items()}
        return {**self.state_dict(), **layers}


class WordEvidence(nn.Module):
    """Every word is a typed part of the sentence and gives evidence at every step (E12 without graphs)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.kind = nn.Embedding(len(NODE_KINDS), dim)
        self.show = nn.Linear(dim, dim, bias=False)
        self.conjunction = Conjunction(dim)

    def forward(
        self,
        words: Nodes,
        kind: Int[Tensor, "batch node"],
        video: Float[Tensor, "batch time dim"],
        mask: Bool[Tensor, "batch time"],
    ) -> tuple[Float[Tensor, "batch time"], NodeSteps]:
        """Joint evidence of every step, and each word's distribution over steps."""
        nodes = words + self.kind(kind)
        logits = (self.show(nodes) @ video.transpose(1, 2)).float() * video.shape[-1] ** -0.5
        return self.conjunction(nodes, kind, logits)[0], masked_softmax(logits, mask[:, None])


class WordFusion(Grounder):
    """The claim's grounder without graphs: every step meets the words that concern it (B8), and votes for a span.

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them.
        hidden_dim: width of everything behind the inputs.
        conjunctive: steps are also told the joint evidence of all words (E12), which is to be found inside the moment
            (E16).
        encoder: of clips, words and told steps.
        dropout: of inputs, encoders and similarities.
        recipe: optimiser and schedule.
    """

    def __init__(
        self,
        feature_dim: int = 500,
        word_dim: int = 300,
        vocabulary_size: int = 2,
        hidden_dim: int = 512,
        conjunctive: bool = False,
        encoder: Encoder = "gru",
        dropout: float = 0.2,
        recipe: Recipe = Recipe("adam", lr=4e-4, schedule="constant"),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.words = WordEmbedding(vocabulary_size, word_dim)
        self.dropout = nn.Dropout(dropout)
        self.video_encoder = context(encoder, feature_dim, hidden_dim, dropout)
        self.query_encoder = context(encoder, word_dim, hidden_dim, dropout)
        self.context_query = ContextQueryAttention(hidden_dim, dropout)
        self.evidence = WordEvidence(hidden_dim) if conjunctive else None
        self.join = nn.Linear(hidden_dim + conjunctive, hidden_dim)
        self.fusion = context(encoder, hidden_dim, hidden_dim, dropout)
        self.head = DenseRegressionHead(hidden_dim)

    def forward(self, batch: GroundingBatch) -> Moments:
        return decode_dense(self.understand(batch)[0])

    def training_step(self, batch: GroundingBatch, _: int) -> Tensor:
        """Location, and the words' evidence inside the moment where there is any."""
        prediction, evidence_loss = self.understand(batch)
        parts = dense_loss(prediction, batch.span)
        loss = parts.classification + parts.regression + parts.quality + evidence_loss
        self.report(loss=loss, inside=evidence_loss)
        return loss

    def understand(self, batch: GroundingBatch) -> tuple[DenseRegression, Scalar]:
        """What every step votes for, and how much of the words' evidence lies outside the moment."""
        mask, word_mask = batch.video_mask, batch.word_mask
        video = self.video_encoder(self.dropout(batch.video), mask)
        words = self.query_encoder(self.dropout(self.words(batch.words)), word_mask)
        told, outside = self.context_query(video, words, mask, word_mask), video.new_zeros(())
        if self.evidence is not None:
            kind = self.words.tags[batch.words].masked_fill(~word_mask, NOTHING)
            joint, mass = self.evidence(words, kind, video, mask)
            told = torch.cat([told, joint[..., None].to(told.dtype)], dim=-1)
            outside = mass_inside_loss(mass, steps_inside(mask, batch.span.nan_to_num()), kind != NOTHING)
        steps = self.fusion(F.relu(self.join(told)), mask)
        return self.head(steps, mask), outside


def mass_inside_loss(mass: NodeSteps, inside: Bool[Tensor, "batch time"], nodes: NodeMask) -> Scalar:
    """-log of how much of each node's distribution lies inside the moment, mean over the sentence's nodes (E16)."""
    found = (mass * inside[:, None]).sum(dim=2).clamp(min=LEAST_MASS).log()
    return -((found * nodes).sum(dim=1) / nodes.sum(dim=1).clamp(min=1)).mean()


def replace_one_atom(
    words: Int[Tensor, "batch word"],
    mask: Bool[Tensor, "batch word"],
    tags: Int[Tensor, "vocabulary"],
    noise: tuple[Float[Tensor, "batch word"], Float[Tensor, "batch vocabulary"]] | None = None,
) -> tuple[Int[Tensor, "batch word"], Bool[Tensor, "batch"]]:
    """Sentences with one atom exchanged for a word of its kind from another sentence of the batch (E17).

    Args:
        tags: part of speech of every word of the vocabulary.
        noise: numbers in [0, 1) that choose the atom, and the word in its place; drawn where None.

    Returns:
        The words, and whether there was anything to exchange.
    """
    if noise is None:
        noise = torch.rand_like(words, dtype=torch.float32), torch.rand(len(words), len(tags), device=words.device)
    kind = tags[words].masked_fill(~mask, NOTHING)
    atom = (kind != NOTHING) & (kind != VERB)
    place = noise[0].masked_fill(~atom, -1).argmax(dim=1, keepdim=True)
    said = torch.zeros(len(words), len(tags), dtype=torch.bool, device=words.device)
    # Padding says word 0, which is of no kind.
    said = said.scatter(1, words.masked_fill(~mask, 0), True)
    usable = said.any(dim=0) & ~said & (tags == kind.gather(1, place))
    possible = usable.any(dim=1) & atom.any(dim=1)
    other = noise[1].masked_fill(~usable, -1).argmax(dim=1, keepdim=True)
    return torch.where(possible[:, None], words.scatter(1, place, other), words), possible


def published_graph_attention(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layers of `GraphAttentionLayer` from the names of the public code that E6-E7 were read in.

    Examples:
        >>> list(published_graph_attention({"layers.0.ctx_layer.weight": torch.ones(1)}))
        ['0.content.weight']
    """
    return {rename(name, _PUBLISHED): tensor for name, tensor in state.items()}


_PUBLISHED = (
    (r"^layers\.", ""),
    (r"\.ctx_layer\.", ".content."),
    (r"\.layernorm\.", ".norm."),
    (r"\.edge_attn_query\.", ".query."),
    (r"\.edge_attn_key\.", ".key."),
)


def _check(slots: int, temperatures: tuple[float, float], rise: float) -> None:
    if slots < 1:
        raise InputError(f"slots must be at least 1, found {slots}")
    if min(temperatures) <= 0:
        raise InputError(f"temperatures must be above 0, found {temperatures}")
    if not 0 < rise <= 1:
        raise InputError(f"rise must lie in (0, 1], found {rise}")


_METRIC, _NOVEL, _TRIVIAL = (f"{part}R@1,IoU=0.5" for part in ("", "novel_composition/", "test_trivial/"))
_GRAPHS: dict[str, Any] = {name: VISA.embedded["model"][name] for name in ("hidden_dim", "key_dim", "graph_layers")}
_WORDS = "ommatid.grounding.visa:WordFusion"

VISA.claims = (
    Claim(
        name="visa",
        statement="VISA loses less R@1,IoU=0.5 between known and novel compositions than a grounder of equal size "
        "without graphs, also than one with the same conjunctive evidence of words, and is at least as good on known "
        "compositions.",
        arms={
            "visa": Arm("method", _GRAPHS),
            "flat": Arm("baseline", {"hidden_dim": 57}, method=_WORDS),
            "typed": Arm("control", {"hidden_dim": 55, "conjunctive": True}, method=_WORDS),
            "graph": Arm("ablation", {**_GRAPHS, "prior": "none"}),
            "visa-noprior": Arm("ablation", {**_GRAPHS, "prior": "uniform"}),
        },
        criteria=(
            Criterion(_NOVEL, versus="flat", beyond=_TRIVIAL),
            Criterion(_TRIVIAL, versus="flat", kind="not worse", margin=0.02),
            Criterion(_NOVEL, versus="typed", beyond=_TRIVIAL),
        ),
        model={name: value for name, value in VISA.embedded["model"].items() if name not in _GRAPHS},
        data=VISA.embedded["data"],
        trainer=VISA.embedded["trainer"],
        tuning={"recipe.lr": (2e-3, 4e-3, 8e-3)},
        tuning_metric=_METRIC,
        shown=(_TRIVIAL, _NOVEL, f"novel_word/{_METRIC}", "mIoU"),
        source="docs/methods/visa.md, claim",
    ),
)
