"""MHST: Hypotheses Tree Building for One-Shot Temporal Sentence Localization (arXiv:2301.01871, AAAI 2023).

Training knows one instant inside each moment, a glance. Every step of a video is told the sentence (E1-E3); steps that
are alike and equally relevant merge into segments, segments into larger ones, and irrelevant ones are pruned: the
segments of this tree are the hypotheses (E4-E8). Losses that need nothing but the glance and the pairing score and
rank them (E9-E15). Equation numbers refer to docs/methods/mhst.md.
"""

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ommatid.data.tagging import NOUN, VERB
from ommatid.data.text import UNKNOWN
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.encoders import Encoder, WordEmbedding
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.metrics import temporal_iou
from ommatid.grounding.relevance_runs import Pairs, RelevanceRuns, ToldSteps, glance_step, masked_mean, relevance_loss
from ommatid.grounding.task import GroundingBatch, Moments, Supervision, sort_moments
from ommatid.nn.segment_tree import SegmentNodes, SegmentTree
from ommatid.nn.word_reconstruction import MaskedQueryReconstructor, draw_masked_words

Steps = Float[Tensor, "batch time dim"]
Mask = Bool[Tensor, "batch time"]
NodeMask = Bool[Tensor, "batch node"]
Scalar = Float[Tensor, ""]

LESS_THAN_WHOLE, LESS_THAN_REST = 0.1, 0.2
"""By how much the glance's root must reconstruct better than the whole video, and than the rest of it (E13)."""
SERVING_TEMPERATURE = 0.2
"""Of the reconstruction in the target of the ranking (E14)."""


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
        "model": {**RelevanceRuns.embedded["model"], "projection": 48, "candidates": 8},
        "data": RelevanceRuns.embedded["data"],
        "trainer": RelevanceRuns.embedded["trainer"],
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
        glance = glance_step(batch.glance, batch.video_mask)
        own = self.told.encode(self.words(batch.words), batch)
        both = own.and_others()
        leaves = self.told.tell(both)
        here = F.one_hot(glance, leaves.shape[1]).bool()
        kept = torch.cat([here, torch.zeros_like(here)])
        grown = self.grow(leaves, both, settings.prune and not first_stage, kept)
        nodes, others = grown.halves()
        chosen = nodes.containing(glance) & nodes.root

        relevance = relevance_loss(self.told.relevance_logits(leaves, both.sentence), glance, batch)
        contrast = self.contrast_loss(nodes, others, chosen, own)
        smoothness = tree_loss(nodes, chosen, settings.boundary)
        reconstruction, ranking = self.hypothesis_losses(nodes, chosen, glance, own, batch)
        # Weights of 0 instead of left-out losses: several processes must agree on which parameters have a gradient.
        settled = (
            settings.tree_weight * smoothness
            + settings.reconstruction_weight * reconstruction
            + settings.ranking_weight * ranking
        )
        loss = relevance + contrast + float(not first_stage) * settled
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
        shown = nodes.steps() & batch.video_mask[:, None]
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
        half or more; and the mean share of the video that this root takes.
        """
        assert isinstance(data, GroundingData)
        if "test" not in data.queries:
            return {}
        self.eval()
        batches = DataLoader(data.dataset("test"), data.batch_size, collate_fn=data.collate)
        measured = [self.measure(batch.to(self.device)) for batch in batches]
        return {name: float(torch.cat([part[name] for part in measured]).nanmean()) for name in measured[0]}

    @torch.no_grad()
    def measure(self, batch: GroundingBatch) -> dict[str, Float[Tensor, "batch"]]:
        """What `read_outs` averages, for each query; NaN without an annotated moment."""
        pairs = self.told.encode(self.words(batch.words), batch)
        nodes = self.grow(self.told.tell(pairs), pairs, self.hparams.prune)
        moments = self.best(nodes, self.rank_logits(nodes, pairs), batch.video_mask)
        # Where nobody gave one, the middle of the moment is as good a glance as any.
        glance = torch.where(batch.glance.isnan(), batch.span.mean(dim=1), batch.glance)
        around = nodes.root & nodes.containing(glance_step(glance, batch.video_mask))
        found = {"oracle recall": (moments.spans, moments.scores.isfinite())}
        found["glance root recall"] = (node_spans(nodes, batch.video_mask), around)
        values = {
            name: ((temporal_iou(spans, batch.span[:, None]) >= 0.5) & which).any(dim=1).float()
            for name, (spans, which) in found.items()
        }
        values["glance root length"] = root_length(nodes, around, batch.video_mask)
        unlabelled = batch.span.isnan().any(dim=1)
        return {name: value.masked_fill(unlabelled, float("nan")).cpu() for name, value in values.items()}


def node_spans(nodes: SegmentNodes, mask: Mask) -> Float[Tensor, "batch node 2"]:
    """Start and end of every node in [0, 1] of its video."""
    steps = mask.sum(dim=1)[:, None, None].clamp(min=1)
    return torch.stack([nodes.first, nodes.last + 1], dim=-1) / steps


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


_TREE: dict[str, Any] = {"projection": 48, "candidates": 8}
# The baseline's own knobs: the best of what was tried on the validation split.
_VIGA: dict[str, Any] = {
    "heads": 4,
    "sigma_factor": 0.3,
    "clip_steps": (4,),
    "stride": 2,
    "guidance_scale": 1000.0,
    "lengths": (0.1, 0.15, 0.2, 0.25, 0.3),
}
_ONE_LENGTH: dict[str, Any] = {"world": {"lengths": (0.2, 0.2)}}

MHST.claims = (
    Claim(
        name="mhst",
        statement="From one glance a sentence, hypotheses of a segment tree localise better (mIoU, R@1,IoU=0.5) than a "
        "Gaussian of fixed width with sliding windows, and their advantage grows with the spread of lengths.",
        arms={
            "tree": Arm("method", _TREE),
            "viga": Arm("baseline", _VIGA, method="ommatid.grounding.viga:ViGA"),
            "no pruning": Arm("ablation", {**_TREE, "prune": False}),
            "no tree": Arm("ablation", method="ommatid.grounding.relevance_runs:RelevanceRuns"),
            "tree, one length": Arm("reported", _TREE, _ONE_LENGTH),
            "viga, one length": Arm("reported", _VIGA, _ONE_LENGTH, method="ommatid.grounding.viga:ViGA"),
            "all moments known": Arm(
                "reported",
                {"video_dim": 48, "graph_layers": 1, "memory": "mlp"},
                {"view": "standard"},
                method="ommatid.grounding.mgsl_net:MGSLNet",
            ),
        },
        criteria=(
            Criterion("mIoU", versus="viga"),
            Criterion("R@1,IoU=0.5", versus="viga"),
            Criterion("mIoU", versus="viga", beyond_arms=("tree, one length", "viga, one length")),
            Criterion("short/mIoU", versus="viga", beyond="medium/mIoU"),
        ),
        model=RelevanceRuns.embedded["model"],
        data={**MHST.embedded["data"], "by_length": True},
        trainer=MHST.embedded["trainer"],
        tuning={"recipe.lr": (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)},
        shown=(
            "mIoU",
            "R@1,IoU=0.5",
            "R@1,IoU=0.7",
            "short/mIoU",
            "medium/mIoU",
            "long/mIoU",
            "oracle recall",
            "glance root recall",
            "glance root length",
        ),
        source="docs/methods/mhst.md, claim",
    ),
)
