"""SSRN: Siamese Sampling and Reasoning Network for temporal sentence grounding (arXiv:2301.00514, EMNLP Findings 2022).

Every grounder thins a long video to T steps. The annotated boundaries are then usually among the dropped clips, and the
nearest surviving step becomes the target, whether it shows the activity or not. SSRN samples K further frames beside
every kept one (E4) and lets the frames of a step inform one another (E6-E8). Its targets are soft: a boundary is shared
by the two steps around it (E10), and frames tell each other what they predict (E9). Equation numbers refer to
docs/methods/ssrn.md.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.encoders import Encoder, LocalSelfAttention, WordEmbedding, context
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.metrics import NMS, THRESHOLDS, grounding_scores, temporal_iou, with_subsets
from ommatid.grounding.sampling import (
    boundary_error,
    clips_touched,
    decode_spans,
    interleave_scores,
    siamese_indices,
    snap_sequences,
    snapping_error,
    soft_boundary_labels,
    soft_foreground,
    stride,
    take_means,
)
from ommatid.grounding.task import GroundingBatch, Moments, sort_moments
from ommatid.grounding.timeindex import take
from ommatid.nn.attention import AdditiveAttention
from ommatid.nn.context_query import ContextQueryAttention
from ommatid.nn.cross_graph import CrossModalGraphLayer
from ommatid.nn.siamese import SiameseAggregator, propagate_soft_labels

Frames = Literal["between", "around", "copies"]
Labels = Literal["soft", "snapped"]
Steps = Literal["frame", "mean"]
Interaction = Literal["graph", "context_query"]

Video = Float[Tensor, "batch time dim"]
Query = Float[Tensor, "batch word dim"]
PerStep = Float[Tensor, "batch frame time"]


class GraphInteraction(nn.Module):
    """Frames and words on a graph, then every frame with a sentence of its own (E5, as in the method's family)."""

    def __init__(self, dim: int, encoder: Encoder, dropout: float) -> None:
        super().__init__()
        self.graph = CrossModalGraphLayer(dim, dropout=dropout)
        self.tell = AdditiveAttention(dim)
        self.fusion = context(encoder, 2 * dim, dim, dropout)

    def forward(
        self, video: Video, query: Query, video_mask: Bool[Tensor, "batch time"], query_mask: Bool[Tensor, "batch word"]
    ) -> Video:
        video, query = self.graph(video, query, video_mask, query_mask)
        return self.fusion(torch.cat([video, self.tell(video, query, query_mask)], dim=-1), video_mask)


class ContextQueryInteraction(nn.Module):
    """Context-query attention and an encoder behind it (E5, the lighter choice)."""

    def __init__(self, dim: int, encoder: Encoder, dropout: float) -> None:
        super().__init__()
        self.attention = ContextQueryAttention(dim, dropout)
        self.fusion = context(encoder, dim, dim, dropout)

    def forward(
        self, video: Video, query: Query, video_mask: Bool[Tensor, "batch time"], query_mask: Bool[Tensor, "batch word"]
    ) -> Video:
        return self.fusion(self.attention(video, query, video_mask, query_mask), video_mask)


INTERACTIONS = {"graph": GraphInteraction, "context_query": ContextQueryInteraction}


@dataclass
class Located:
    """What the network says of every step of every sequence; sequence 0 holds the anchors.

    Attributes:
        start, end: log-probabilities over the steps of a sequence, to hold the first and the last clip of the moment.
        inside_logits: to lie in the moment.
        affinity: how the frames of a step resemble one another; None where there is one sequence.
        index: the dense clip that each step shows.
        clips: how many the video has.
        stride: clips from one anchor to the next.
    """

    start: PerStep
    end: PerStep
    inside_logits: PerStep
    affinity: Float[Tensor, "batch time frame frame"] | None
    index: Int[Tensor, "batch frame time"]
    clips: Int[Tensor, "batch"]
    stride: Float[Tensor, "batch"]

    @property
    def reach(self) -> Float[Tensor, "batch"]:
        """A stride in whole clips, which are what lies between two steps at most."""
        return self.stride.ceil()


@dataclass
class Targets:
    """What every step should say: distributions for both ends, shares for the foreground, and the span itself.

    Attributes:
        ends: positions of the first and the last clip that the anchor sequence can know of.
    """

    start: PerStep
    end: PerStep
    inside: PerStep
    ends: Float[Tensor, "batch 2"]


class SSRN(Grounder):
    """Siamese frames beside every sampled one, and boundaries that need not lie on a sample (arXiv:2301.00514).

    Videos come with all their clips (up to 1024); the method samples by itself.

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them.
        hidden_dim: width of everything behind the inputs.
        steps: anchor frames T of a video (E1); the data decide where they are known.
        siamese: further frames K beside every anchor (E4); 0 leaves only the anchors.
        frames: where they lie: "between" an anchor and the next one, "around" the anchor, or "copies" of the anchor,
            which adds the parameters and the work of siamese frames, but nothing new to see.
        sampling: a step shows one "frame", or the "mean" of the clips up to the next step (E2).
        labels: "soft" (E9-E12), or "snapped" to the nearest step inside the moment, as the field does (E3).
        infer_anchor_only: siamese frames inform the anchors before the encoders, in training and after it, so that a
            prediction runs the encoders once instead of K + 1 times.
        interaction: how frames meet words: on a "graph", or by "context_query" attention (E5).
        omega: share of the other frames where frames are mixed (E8, E9).
        propagation: share of what the frames say in the targets, after the first third of the training (E11).
        inside_weight, regression_weight, siamese_weight: of the losses of foreground, span and agreement (E14).
        heads: of every attention.
        window: steps to either side that the self-attention of the frames sees.
        encoder: "gru" is the paper's; "conv" is several times faster on a CPU.
        dropout: of inputs, encoders and attention.
        recipe: optimiser and schedule.
    """

    clips_kept = 1024
    embedded = {
        "model": {
            "hidden_dim": 48,
            "interaction": "context_query",
            "encoder": "conv",
            "dropout": 0.0,
            "recipe": {"lr": 4e-3, "weight_decay": 0.0, "schedule": "onecycle", "warmup_steps": 0},
        },
        "data": {"steps": 16, "batch_size": 16},
        "trainer": {"max_steps": 800, "max_epochs": -1},
    }

    eta: Tensor

    def __init__(
        self,
        feature_dim: int = 500,
        word_dim: int = 300,
        vocabulary_size: int = 2,
        hidden_dim: int = 512,
        steps: int = 200,
        siamese: int = 4,
        frames: Frames = "between",
        sampling: Steps = "frame",
        labels: Labels = "soft",
        infer_anchor_only: bool = False,
        interaction: Interaction = "graph",
        omega: float = 0.5,
        propagation: float = 0.3,
        inside_weight: float = 2.0,
        regression_weight: float = 1.0,
        siamese_weight: float = 1.0,
        heads: int = 4,
        window: int = 3,
        encoder: Encoder = "gru",
        dropout: float = 0.2,
        recipe: Recipe = Recipe("adamw", lr=8e-4, weight_decay=1e-7, schedule="inverse_sqrt", warmup_steps=300),
    ) -> None:
        super().__init__()
        _check(steps, siamese, omega, propagation)
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        # Compared in every step; torch.compile stops at a comparison that goes through hparams.
        self.anchors, self.siamese = steps, siamese
        self.frames, self.sampling, self.labels, self.informed_before = frames, sampling, labels, infer_anchor_only
        self.words = WordEmbedding(vocabulary_size, word_dim)
        self.dropout = nn.Dropout(dropout)

        self.video_input = nn.Linear(feature_dim, hidden_dim)
        self.video_local = nn.ModuleList(LocalSelfAttention(hidden_dim, heads, window, dropout) for _ in range(2))
        self.video_encoder = context(encoder, hidden_dim, hidden_dim, dropout)
        self.query_encoder = context(encoder, word_dim, hidden_dim, dropout)
        self.query_local = LocalSelfAttention(hidden_dim, heads, window=10_000, dropout=dropout)
        self.interaction = INTERACTIONS[interaction](hidden_dim, encoder, dropout)
        self.aggregate = SiameseAggregator(hidden_dim, omega) if siamese else None
        self.head = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 3))
        # A tensor, set outside of the step, because a compiled step would be compiled anew for a new number.
        self.register_buffer("eta", torch.zeros(()), persistent=False)

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, GroundingData)
        return {**super().arguments_from(data), "steps": data.steps}

    def forward(self, batch: GroundingBatch) -> Moments:
        """Spans between the steps: both ends on the fine grid of all sequences, then refined (E15, E16)."""
        located = self.locate(batch, only_anchors=self.informed_before)
        start, positions = interleave_scores(located.start, located.index)
        end, _ = interleave_scores(located.end, located.index)
        ends, scores = decode_spans(start, end, positions, located.reach, block=located.index.shape[1])
        return sort_moments(self.spans(ends, located).clamp(0, 1), scores.exp())

    def training_step(self, batch: GroundingBatch, _: int) -> Tensor:
        """Boundaries, foreground and span against their targets, and agreement with the siamese frames (E13, E14)."""
        located, settings = self.locate(batch), self.hparams
        targets = self.targets(batch.span, located)
        start, end, agreement = targets.start, targets.end, located.start.new_zeros(())
        if self.aggregate is not None and located.affinity is not None and self.labels == "soft":
            omega = self.aggregate.omega
            told_start = propagate_soft_labels(located.start.exp(), located.affinity, omega)
            told_end = propagate_soft_labels(located.end.exp(), located.affinity, omega)
            start, end = torch.lerp(start, told_start, self.eta), torch.lerp(end, told_end, self.eta)
            agreement = cross_entropy(located.start[:, :1], told_start[:, :1])
            agreement = (agreement + cross_entropy(located.end[:, :1], told_end[:, :1])) / 2
        boundary = cross_entropy(located.start, start) + cross_entropy(located.end, end)
        inside = F.binary_cross_entropy_with_logits(located.inside_logits, targets.inside)
        span = self.span_loss(located, targets)
        loss = (
            boundary
            + settings.inside_weight * inside
            + settings.regression_weight * span
            + settings.siamese_weight * agreement
        )
        snapping = snapping_error(batch.span, located.index[:, 0], located.clips).mean()
        self.report(loss=loss, boundary=boundary, inside=inside, span=span, siamese=agreement, snapping=snapping)
        return loss

    # -- the network --

    def locate(self, batch: GroundingBatch, only_anchors: bool = False) -> Located:
        """What the network says of every step of every sequence (E1-E8), or of the anchor sequence only."""
        index = self.sample(batch.video_mask)
        shown = take(batch.video, index) if self.sampling == "frame" else take_means(batch.video, index)
        video, affinity = self.video_input(self.dropout(shown)), None
        if self.aggregate is not None and self.informed_before:
            video, affinity = self.aggregate(video)
        if only_anchors:
            video, index, affinity = video[:, :1], index[:, :1], None
        video = self.read(video, batch)
        if self.aggregate is not None and not self.informed_before:
            video, affinity = self.aggregate(video)
        start, end, inside = self.head(video).float().unbind(dim=-1)
        return Located(
            start=start.log_softmax(dim=-1),
            end=end.log_softmax(dim=-1),
            inside_logits=inside,
            affinity=affinity,
            index=index,
            clips=batch.video_mask.sum(dim=1),
            stride=stride(batch.video_mask, self.anchors),
        )

    def sample(self, mask: Bool[Tensor, "batch clip"]) -> Int[Tensor, "batch frame time"]:
        """The clips that every sequence shows (E1, E4)."""
        index = siamese_indices(mask, self.anchors, self.siamese, self.frames == "around")
        return index[:, :1].expand_as(index) if self.frames == "copies" else index

    def read(
        self, video: Float[Tensor, "batch frame time dim"], batch: GroundingBatch
    ) -> Float[Tensor, "batch frame time dim"]:
        """Every sequence with the sentence, by the same weights (E5)."""
        count = video.shape[1]
        query = self.query_encoder(self.dropout(self.words(batch.words)), batch.word_mask)
        query = repeat(self.query_local(query, batch.word_mask), "b n d -> (b k) n d", k=count)
        query_mask = repeat(batch.word_mask, "b n -> (b k) n", k=count)
        video = rearrange(video, "b k t d -> (b k) t d")
        # Sampling leaves no padding: short videos show their clips more than once.
        video_mask = torch.ones(video.shape[:2], dtype=torch.bool, device=video.device)
        for layer in self.video_local:
            video = layer(video, video_mask)
        video = self.interaction(self.video_encoder(video, video_mask), query, video_mask, query_mask)
        return rearrange(video, "(b k) t d -> b k t d", k=count)

    # -- targets and spans --

    def targets(self, span: Float[Tensor, "batch 2"], located: Located) -> Targets:
        """Labels of every sequence on its own steps: soft (E10, E12) or snapped (E3)."""
        edges = span * located.clips[:, None]
        if self.labels == "soft":
            # The last clip of a moment begins one clip before the moment ends.
            ends = torch.stack([edges[:, 0], edges[:, 1] - 1], dim=1).clamp(min=0)
            first, last = repeat(ends, "b e -> e b k", k=located.index.shape[1])
            inside = soft_foreground(repeat(edges, "b e -> b k e", k=located.index.shape[1]), located.index)
            labels = soft_boundary_labels(first, located.index), soft_boundary_labels(last, located.index)
            return Targets(*labels, inside, ends)
        snapped = snap_sequences(clips_touched(span, located.clips), located.index)
        position = torch.arange(located.index.shape[2], device=span.device)
        first, last = (edge[..., None] == position for edge in snapped.unbind(dim=-1))
        inside = (first.cumsum(dim=-1) - last.cumsum(dim=-1) + last.int()).to(edges.dtype)
        ends = located.index[:, 0].gather(1, snapped[:, 0]).to(edges.dtype)
        return Targets(first.to(edges.dtype), last.to(edges.dtype), inside, ends)

    def spans(self, ends: Float[Tensor, "batch span 2"], located: Located) -> Float[Tensor, "batch span 2"]:
        """Positions of the first and the last clip as a span in [0, 1] of the video (E15)."""
        first, last = ends.unbind(dim=-1)
        # Snapping moves both ends inwards, by anything up to a stride: on average by half of what lies between steps.
        lost = ((located.stride - 1) / 2).clamp(min=0)[:, None] if self.labels == "snapped" else 0
        return torch.stack([first - lost, last + 1 + lost], dim=-1) / located.clips[:, None, None]

    def span_loss(self, located: Located, targets: Targets) -> Float[Tensor, ""]:
        """1 - tIoU of the anchors' best span, and the distance of its ends (E13)."""
        positions = located.index[:, 0].to(located.start.dtype)
        every, scores = decode_spans(located.start[:, 0], located.end[:, 0], positions, located.reach)
        best = every.gather(1, scores.argmax(dim=1)[:, None, None].expand(-1, -1, 2))
        found, wanted = self.spans(best, located), self.spans(targets.ends[:, None], located)
        return (1 - temporal_iou(found, wanted)).mean() + F.smooth_l1_loss(found, wanted)

    # -- training goes on, and how it is judged --

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Targets listen to the siamese frames after a third of the training (E11)."""
        self.eta.fill_(self.hparams.propagation if self.share_done >= 1 / 3 else 0.0)

    def score(self, batch: GroundingBatch) -> dict[str, Float[Tensor, "batch"]]:
        """As every grounder, and what tells close boundaries apart: recall at 0.9, and the error in seconds."""
        moments = self(batch)
        scores = grounding_scores(moments, batch.span, batch.duration, (*THRESHOLDS, 0.9), nms=NMS)
        scores["boundary error"] = boundary_error(moments.spans[:, 0], batch.span, batch.duration)
        return with_subsets(scores, batch.subsets)


def cross_entropy(log_probs: PerStep, target: PerStep) -> Float[Tensor, ""]:
    """Of distributions over time, mean over sequences and videos."""
    return -(target * log_probs).sum(dim=-1).mean()


def _check(steps: int, siamese: int, omega: float, propagation: float) -> None:
    if steps < 2:
        raise InputError(f"steps must be at least 2, found {steps}")
    if siamese < 0:
        raise InputError(f"siamese must be at least 0, found {siamese}")
    for name, value in {"omega": omega, "propagation": propagation}.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name} must lie in [0, 1], found {value}")


_METRIC = "R@1,IoU=0.7"

SSRN.claims = (
    Claim(
        name="ssrn",
        statement="At equal T and equal updates, siamese frames and soft boundary labels raise R@1,IoU=0.7 above the "
        "same grounder trained on the boundaries that T frames leave, and the gain shrinks as T grows.",
        arms={
            "siamese + soft": Arm("method"),
            "base": Arm("baseline", {"siamese": 0, "labels": "snapped"}),
            "base, equal capacity": Arm("control", {"frames": "copies", "labels": "snapped"}),
            "base-soft": Arm("control", {"siamese": 0}),
            "base-mean": Arm("control", {"siamese": 0, "labels": "snapped", "sampling": "mean"}),
            "+frames": Arm("ablation", {"labels": "snapped"}),
            "T=64 siamese + soft": Arm("reported", data={"steps": 64}),
            "T=64 base": Arm("reported", {"siamese": 0, "labels": "snapped"}, {"steps": 64}),
        },
        criteria=(
            Criterion(_METRIC, versus="base"),
            Criterion(_METRIC, versus="base, equal capacity"),
            Criterion(_METRIC, versus="base-soft"),
            Criterion(_METRIC, versus="base", beyond_arms=("T=64 siamese + soft", "T=64 base")),
        ),
        model=SSRN.embedded["model"],
        data={**SSRN.embedded["data"], "by_length": True},
        trainer={"max_steps": 400, "max_epochs": -1},
        tuning={"recipe.lr": (2e-3, 4e-3, 8e-3)},
        shown=(_METRIC, "R@1,IoU=0.5", "R@1,IoU=0.9", f"short/{_METRIC}", "mIoU", "boundary error"),
        source="docs/methods/ssrn.md, claim",
    ),
)
