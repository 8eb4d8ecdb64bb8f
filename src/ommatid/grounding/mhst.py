"""MHST: Hypotheses Tree Building for One-Shot Temporal Sentence Localization (arXiv:2301.01871, AAAI 2023).

Training knows one instant inside each moment, a glance. Every step of a video is told the sentence (E1-E3); steps that
are alike and equally relevant merge into segments, segments into larger ones, and irrelevant ones are pruned: the
segments of this tree are the hypotheses (E4-E8). Losses that need nothing but the glance and the pairing score and
rank them (E9-E15). Equation numbers refer to docs/methods/mhst.md.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.data.tagging import NOUN, VERB
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.encoders import ConvContext, Encoder, LocalSelfAttention, WordEmbedding, context
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.metrics import temporal_iou
from ommatid.grounding.task import GroundingBatch, Moments, Supervision, sort_moments
from ommatid.nn.attention import sinusoid
from ommatid.nn.context_query import AttentionPool
from ommatid.nn.segment_tree import SegmentNodes, SegmentTree
from ommatid.nn.word_reconstruction import MaskedQueryReconstructor, draw_masked_words

Steps = Float[Tensor, "batch time dim"]
Sentence = Float[Tensor, "batch dim"]
Mask = Bool[Tensor, "batch time"]
NodeMask = Bool[Tensor, "batch node"]
Scalar = Float[Tensor, ""]

UNKNOWN = 1
"""Index of every word that the vocabulary lacks."""
LESS_THAN_WHOLE, LESS_THAN_REST = 0.1, 0.2
"""By how much the glance's root must reconstruct better than the whole video, and than the rest of it (E13)."""
SERVING_TEMPERATURE = 0.2
"""Of the reconstruction in the target of the ranking (E14)."""


@dataclass
class Pairs:
    """Videos and sentences after the encoders: steps alone, words alone, and the sentence as one vector (E1)."""

    video: Steps
    video_mask: Mask
    words: Float[Tensor, "batch word dim"]
    word_mask: Bool[Tensor, "batch word"]
    sentence: Sentence

    def and_others(self) -> "Pairs":
        """The pairs, and after them the same videos with the sentence of the pair before."""
        video = {name: torch.cat([part, part]) for name, part in vars(self).items() if name.startswith("video")}
        query = {name: part for name, part in vars(self).items() if name not in video}
        return Pairs(**video, **{name: torch.cat([part, part.roll(1, dims=0)]) for name, part in query.items()})


class ToldSteps(nn.Module):
    """Every step of a video told the sentence (E1, E2), and how relevant steps and segments are to it (E3).

    Args:
        feature_dim, word_dim: width of clip features and word vectors.
        dim: width of everything else.
        encoder: "gru" reads video and sentence with GRUs, and told steps with attention to their neighbours; "conv" has
            depth-wise convolutions in both places.
        window: steps to either side that a told step sees in each of its two layers.
        dropout: of inputs, encoders and attention.
    """

    def __init__(
        self, feature_dim: int, word_dim: int, dim: int, encoder: Encoder, window: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.video_encoder = context(encoder, feature_dim, dim, dropout)
        self.query_encoder = context(encoder, word_dim, dim, dropout)
        self.pool = AttentionPool(dim)
        self.align = nn.Linear(dim, dim, bias=False)
        self.fuse = nn.Linear(3 * dim, dim)
        self.neighbours = nn.ModuleList(_neighbours(encoder, dim, window, dropout))
        self.node, self.sentence = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.weight = nn.Linear(dim, 1)

    def encode(self, words: Float[Tensor, "batch word channel"], batch: GroundingBatch) -> Pairs:
        """Video and sentence, each for itself (E1)."""
        video = self.video_encoder(self.dropout(batch.video), batch.video_mask)
        query = self.query_encoder(self.dropout(words), batch.word_mask)
        return Pairs(video, batch.video_mask, query, batch.word_mask, self.pool(query, batch.word_mask))

    def tell(self, pairs: Pairs) -> Steps:
        """Leaves: each step with the words that concern it, in view of its neighbours (E2)."""
        video, words = pairs.video, pairs.words
        similarity = self.align(video) @ words.transpose(1, 2) / video.shape[-1] ** 0.5
        told = similarity.masked_fill(~pairs.word_mask[:, None], float("-inf")).softmax(dim=-1) @ words
        steps = F.relu(self.fuse(torch.cat([video, told, video * told], dim=-1)))
        steps = steps + sinusoid(video.shape[1], video.shape[2], video.device)
        for layer in self.neighbours:
            steps = layer(steps, pairs.video_mask)
        return steps

    def relevance_logits(
        self, nodes: Float[Tensor, "batch node dim"], sentence: Sentence
    ) -> Float[Tensor, "batch node"]:
        """How much each node is about the sentence, before the sigmoid (E3)."""
        return self.weight(torch.tanh(self.node(nodes) + self.sentence(sentence)[:, None]))[..., 0].float()


class MHST(Grounder):
    """Hypotheses from a segment tree, learned from one glance a sentence (arXiv:2301.01871, E1-E15).

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them.
        hidden_dim: width of everything behind the inputs.
        projection: width of the space in which segments are compared with each other and with the sentence (E4, E11).
        threshold: least affinity of neighbours that merge, on the first level (E5); the sensitive setting.
        prune: remove irrelevant nodes, and let doubtful ones weigh less (E8); False keeps all alike.
        irrelevant, doubtful: relevance below which a node is removed or weighs less (E8).
        hypotheses: "roots" takes what is left at the end; "roots+internal" also segments inside a root that are at
            least as relevant as what they became part of.
        candidates: most hypotheses of a video, best first.
        temperature: of the contrast between hypotheses (E11).
        boundary: affinity that neighbours of the glance's root may have (E12).
        warmup: share of the updates without pruning, and with the losses of relevance and contrast alone (E15).
        tree_weight, reconstruction_weight, ranking_weight: of E12, E13 and E14.
        encoder: "gru" for the benchmarks, "conv" is several times faster on a CPU.
        window: steps to either side that a step sees once it knows the sentence (E2).
        dropout: of inputs and encoders.
        recipe: optimiser and schedule.
    """

    learns_from: ClassVar[Supervision] = "glance"
    embedded = {
        "model": {
            "hidden_dim": 48,
            "projection": 48,
            "candidates": 8,
            "encoder": "conv",
            "dropout": 0.1,
            "recipe": {"lr": 2e-3, "schedule": "onecycle"},
        },
        "data": {"view": "glance", "steps": 32, "batch_size": 32},
        "trainer": {"max_steps": 800, "max_epochs": -1},
    }

    def __init__(
        self,
        feature_dim: int = 500,
        word_dim: int = 300,
        vocabulary_size: int = 2,
        hidden_dim: int = 512,
        projection: int = 128,
        threshold: float = 0.6,
        prune: bool = True,
        irrelevant: float = 0.2,
        doubtful: float = 0.5,
        hypotheses: Literal["roots", "roots+internal"] = "roots+internal",
        candidates: int = 30,
        temperature: float = 0.1,
        boundary: float = 0.3,
        warmup: float = 0.25,
        tree_weight: float = 0.5,
        reconstruction_weight: float = 0.5,
        ranking_weight: float = 1.0,
        encoder: Encoder = "gru",
        window: int = 3,
        dropout: float = 0.2,
        recipe: Recipe = Recipe("adamw", lr=1e-4, schedule="constant"),
    ) -> None:
        super().__init__()
        if candidates < 1:
            raise InputError(f"candidates must be at least 1, found {candidates}")
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.words = WordEmbedding(vocabulary_size, word_dim)
        self.told = ToldSteps(feature_dim, word_dim, hidden_dim, encoder, window, dropout)
        self.tree = SegmentTree(hidden_dim, projection, threshold, irrelevant=irrelevant, doubtful=doubtful)
        self.rank = nn.Sequential(nn.Linear(3 * hidden_dim + 1, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 1))
        self.reconstruct = MaskedQueryReconstructor(vocabulary_size, hidden_dim)

    def forward(self, batch: GroundingBatch) -> Moments:
        pairs = self.told.encode(self.words(batch.words), batch)
        nodes = self.grow(self.told.tell(pairs), pairs, self.hparams.prune)
        return self.best(nodes, self.rank_logits(nodes, pairs), batch.video_mask)

    def training_step(self, batch: GroundingBatch, _: int) -> Tensor:
        """Both stages; in the first one the losses that need a settled tree have no weight (E15)."""
        settings, first_stage = self.hparams, self.first_stage()
        glance = glance_step(batch)
        own = self.told.encode(self.words(batch.words), batch)
        both = own.and_others()
        leaves = self.told.tell(both)
        here = F.one_hot(glance, leaves.shape[1]).bool()
        kept = torch.cat([here, torch.zeros_like(here)])
        grown = self.grow(leaves, both, settings.prune and not first_stage, kept)
        nodes, others = split(grown)
        chosen = nodes.containing(glance) & nodes.root

        relevance = self.relevance_loss(leaves, both, glance, batch)
        contrast = self.contrast_loss(nodes, others, chosen, own)
        smoothness = tree_loss(nodes, chosen, settings.boundary)
        reconstruction, ranking = self.hypothesis_losses(nodes, chosen, glance, own, batch)
        # Weights of 0 instead of left-out losses: several processes must agree on which parameters have a gradient.
        later = float(not first_stage)
        loss = (
            relevance
            + contrast
            + later
            * (
                settings.tree_weight * smoothness
                + settings.reconstruction_weight * reconstruction
                + settings.ranking_weight * ranking
            )
        )
        self.report(
            loss=loss,
            relevance=relevance,
            contrast=contrast,
            tree=smoothness,
            reconstruction=reconstruction,
            ranking=ranking,
            root_length=root_length(nodes, chosen, batch.video_mask).mean(),
        )
        return loss

    # -- the tree and its hypotheses --

    def grow(self, leaves: Steps, pairs: Pairs, prune: bool, kept: Mask | None = None) -> SegmentNodes:
        """A tree over every video, merged and pruned in view of its sentence (E3-E8)."""
        return self.tree(
            leaves,
            pairs.video_mask,
            lambda nodes: self.told.relevance_logits(nodes, pairs.sentence).sigmoid(),
            kept,
            prune,
        )

    def hypotheses(self, nodes: SegmentNodes) -> NodeMask:
        """Which nodes are hypotheses: roots, and what inside them is at least as relevant as what it became part of."""
        return nodes.root if self.hparams.hypotheses == "roots" else nodes.root | nodes.above_parent()

    def rank_logits(self, nodes: SegmentNodes, pairs: Pairs) -> Float[Tensor, "batch node"]:
        """The score of every node as an answer, before the sigmoid (E9)."""
        sentence = pairs.sentence[:, None].expand_as(nodes.features)
        share = nodes.length / pairs.video_mask.sum(dim=1, keepdim=True).clamp(min=1)
        parts = [nodes.features, sentence, nodes.features * sentence, share[..., None].to(sentence.dtype)]
        return self.rank(torch.cat(parts, dim=-1))[..., 0].float()

    def best(self, nodes: SegmentNodes, logits: Float[Tensor, "batch node"], mask: Mask) -> Moments:
        """The best hypotheses as moments; empty ones of score -inf fill up where there are fewer."""
        hypothesis = self.hypotheses(nodes)
        spans = torch.where(hypothesis[..., None], node_spans(nodes, mask), 0)
        scores = logits.sigmoid().masked_fill(~hypothesis, float("-inf"))
        return sort_moments(spans, scores).top(self.hparams.candidates)

    # -- losses --

    def relevance_loss(
        self, leaves: Float[Tensor, "pair time dim"], both: Pairs, glance: Int[Tensor, "batch"], batch: GroundingBatch
    ) -> Scalar:
        """The glance and the steps beside it are relevant, to another sentence nothing is; the rest is not known (E10)."""
        own, other = self.told.relevance_logits(leaves, both.sentence).chunk(2)
        step = torch.arange(own.shape[1], device=own.device)
        near = ((step - glance[:, None]).abs() <= 1) & batch.video_mask
        # Two videos of a batch may be asked for with the same sentence.
        far = batch.video_mask & (batch.words != batch.words.roll(1, dims=0)).any(dim=1, keepdim=True)
        return masked_mean(F.softplus(-own), near) + masked_mean(F.softplus(other), far)

    def contrast_loss(self, nodes: SegmentNodes, others: SegmentNodes, chosen: NodeMask, own: Pairs) -> Scalar:
        """The glance's root is closer to the sentence than other roots, and than roots found for another one (E11)."""
        every = torch.cat([nodes.features, others.features], dim=1)
        address = F.normalize(self.tree.project(every).float(), dim=-1)
        sentence = F.normalize(self.tree.project(own.sentence).float(), dim=-1)
        logits = torch.einsum("bnd,bd->bn", address, sentence) / self.hparams.temperature
        root = torch.cat([nodes.root, others.root], dim=1)
        overlap = torch.cat([overlap_with(nodes, chosen, tree) for tree in (nodes, others)], dim=1)
        right = F.pad(chosen, (0, others.root.shape[1]))
        compared = logits.masked_fill(~(right | (root & (overlap <= 0.5))), float("-inf"))
        return (compared.logsumexp(dim=1) - (logits * right).sum(dim=1)).mean()

    def hypothesis_losses(
        self, nodes: SegmentNodes, chosen: NodeMask, glance: Int[Tensor, "batch"], own: Pairs, batch: GroundingBatch
    ) -> tuple[Scalar, Scalar]:
        """The glance's root tells most about masked words (E13); hypotheses rank as they help to guess them (E14)."""
        masked = self.draw_words(batch)
        shown = steps_under(nodes) & batch.video_mask[:, None]
        inside = (shown & chosen[..., None]).any(dim=1)
        views = torch.stack([inside, batch.video_mask, batch.video_mask & ~inside], dim=1)
        root, whole, rest = self.reconstruct(own.video, views.float(), batch.words, masked).unbind(dim=1)
        reconstruction = root + F.relu(LESS_THAN_WHOLE + root - whole) + F.relu(LESS_THAN_REST + root - rest)

        logits, contains = self.rank_logits(nodes, own), nodes.containing(glance)
        # What contains the glance comes before everything else: only that may get a share of the target.
        key = logits.detach() + 1e4 * contains
        key = key.masked_fill(~self.hypotheses(nodes), float("-inf"))
        key, place = key.topk(min(self.hparams.candidates, key.shape[1]), dim=1)
        views = shown.gather(1, place[..., None].expand(-1, -1, shown.shape[2]))
        with torch.no_grad():
            nll = self.reconstruct(own.video, views.float(), batch.words, masked)
        ranking = ranking_loss(logits.gather(1, place), nll, key.isfinite(), contains.gather(1, place))
        return reconstruction.mean(), ranking

    def draw_words(self, batch: GroundingBatch) -> Bool[Tensor, "batch word"]:
        """A third of the words, nouns and verbs twice as likely; unknown words are never asked for (E13)."""
        tags = self.words.tags[batch.words]
        weight = 1.0 + ((tags == NOUN) | (tags == VERB)).float()
        return draw_masked_words(batch.word_mask, weight * (batch.words != UNKNOWN))

    @torch.compiler.disable
    def first_stage(self) -> bool:
        """Whether training is in its first part; a training without an end, or none at all, is not (E15)."""
        trainer = self._trainer
        if trainer is None or math.isinf(trainer.estimated_stepping_batches):
            return False
        return trainer.global_step < self.hparams.warmup * trainer.estimated_stepping_batches

    # -- what the mechanism does --

    def read_outs(self, data: DataModule) -> dict[str, float]:
        """Of the test queries: how often a hypothesis, and how often the root around the glance, overlaps the moment by
        half or more; the mean share of the video that this root takes.
        """
        assert isinstance(data, GroundingData)
        if "test" not in data.queries:
            return {}
        self.eval()
        parts = [self._read(batch.to(self.device)) for batch in data._loader("test", shuffle=False)]
        names = ("oracle recall", "glance root recall", "glance root length")
        columns = zip(*parts, strict=True)
        return {name: float(torch.cat(part).nanmean()) for name, part in zip(names, columns, strict=True)}

    @torch.no_grad()
    def _read(self, batch: GroundingBatch) -> tuple[Tensor, Tensor, Tensor]:
        pairs = self.told.encode(self.words(batch.words), batch)
        nodes = self.grow(self.told.tell(pairs), pairs, self.hparams.prune)
        iou = temporal_iou(node_spans(nodes, batch.video_mask), batch.span[:, None])
        batch.glance = torch.where(batch.glance.isnan(), batch.span.mean(dim=1), batch.glance)
        chosen = nodes.containing(glance_step(batch)) & nodes.root
        unlabelled = batch.span.isnan().any(dim=1)
        found = [((iou >= 0.5) & which).any(dim=1).float() for which in (self.hypotheses(nodes), chosen)]
        length = root_length(nodes, chosen, batch.video_mask)
        oracle, around, share = (part.masked_fill(unlabelled, float("nan")).cpu() for part in (*found, length))
        return oracle, around, share


def glance_step(batch: GroundingBatch) -> Int[Tensor, "batch"]:
    """The step in which the glance lies."""
    steps = batch.video_mask.sum(dim=1)
    return (batch.glance * steps).nan_to_num().long().clamp(min=0).minimum(steps - 1)


def split(nodes: SegmentNodes) -> tuple[SegmentNodes, SegmentNodes]:
    """The trees of the first and of the second half of a batch."""
    halves = {name: part.chunk(2) for name, part in vars(nodes).items()}
    return (
        SegmentNodes(**{name: part[0] for name, part in halves.items()}),
        SegmentNodes(**{name: part[1] for name, part in halves.items()}),
    )


def node_spans(nodes: SegmentNodes, mask: Mask) -> Float[Tensor, "batch node 2"]:
    """Start and end of every node in [0, 1] of its video."""
    steps = mask.sum(dim=1)[:, None, None].clamp(min=1)
    return torch.stack([nodes.first, nodes.last + 1], dim=-1) / steps


def steps_under(nodes: SegmentNodes) -> Bool[Tensor, "batch node time"]:
    """Which steps each node spans."""
    step = torch.arange((nodes.exists.shape[1] + 1) // 2, device=nodes.first.device)
    return nodes.exists[..., None] & (nodes.first[..., None] <= step) & (step <= nodes.last[..., None])


def overlap_with(nodes: SegmentNodes, chosen: NodeMask, tree: SegmentNodes) -> Float[Tensor, "batch node"]:
    """Temporal IoU of a tree's nodes with the one chosen node of `nodes`."""
    mine = torch.stack([(part * chosen).sum(dim=1) for part in (nodes.first, nodes.last + 1)], dim=-1)
    spans = torch.stack([tree.first, tree.last + 1], dim=-1)
    return temporal_iou(mine[:, None].float(), spans.float())


def root_length(nodes: SegmentNodes, chosen: NodeMask, mask: Mask) -> Float[Tensor, "batch"]:
    """The share of the video that the chosen node takes, NaN without one."""
    length = (nodes.length * chosen).sum(dim=1) / mask.sum(dim=1)
    return length.masked_fill(~chosen.any(dim=1), float("nan"))


def tree_loss(nodes: SegmentNodes, chosen: NodeMask, boundary: float) -> Scalar:
    """What merged inside the chosen root is alike, its neighbours are not (E12)."""
    first, last = ((part * chosen).sum(dim=1, keepdim=True) for part in (nodes.first, nodes.last))
    inside = nodes.affinity.isfinite() & nodes.exists & (nodes.first >= first) & (nodes.last <= last)
    beside = torch.stack([nodes.before, nodes.after], dim=-1)
    borders = beside.isfinite() & chosen[..., None]
    return masked_mean(1 - nodes.affinity, inside) + masked_mean(F.relu(beside - boundary), borders)


def ranking_loss(
    logits: Float[Tensor, "batch hypothesis"],
    nll: Float[Tensor, "batch hypothesis"],
    valid: Bool[Tensor, "batch hypothesis"],
    contains: Bool[Tensor, "batch hypothesis"],
) -> Scalar:
    """Cross-entropy of normalised scores with how well hypotheses around the glance reconstruct the sentence (E14)."""
    right = valid & contains
    even = right / right.sum(dim=1, keepdim=True).clamp(min=1)
    serving = (-nll / SERVING_TEMPERATURE).masked_fill(~right, -1e4).softmax(dim=1)
    target = (even + serving * right) / 2
    log_score = F.logsigmoid(logits).masked_fill(~valid, -1e4)
    log_share = log_score - log_score.logsumexp(dim=1, keepdim=True)
    return -(target * log_share).sum(dim=1).mean()


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Scalar:
    """Mean of what is marked, 0 where nothing is."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def _neighbours(encoder: Encoder, dim: int, window: int, dropout: float) -> list[nn.Module]:
    """Two layers in which each step sees its neighbours."""
    if encoder == "gru":
        return [LocalSelfAttention(dim, 4, window, dropout) for _ in range(2)]
    return [ConvContext(dim, dim, layers=2, kernel=2 * window + 1, dropout=dropout)]
