"""ECRL: Transform-Equivariant Consistency Learning for Temporal Sentence Grounding (arXiv:2305.04123).

If a video is played faster outside of the described moment, cut or recoloured, the moment moves in a known way. Every
annotated pair therefore yields further ones for nothing: a changed video is grounded too (E1-E4, E16), its frames must
resemble the original's at the same instants (E9-E15), and the prediction must move as the moment does (E17). Equation
numbers refer to docs/methods/ecrl.md.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.grounding.augment import Speeds, TimePlan, perturb_features, plan_times
from ommatid.grounding.data import GroundingData
from ommatid.grounding.encoders import Encoder, WordEmbedding, context
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.heads import DenseRegression, DenseRegressionHead, decode_dense, dense_loss
from ommatid.grounding.metrics import temporal_iou
from ommatid.grounding.task import GroundingBatch, Moments
from ommatid.grounding.timeindex import pool_padded
from ommatid.losses.sequence_consistency import sequence_consistency_loss
from ommatid.nn.context_query import ContextQueryAttention
from ommatid.nn.self_refine import SelfRefine, corrupt, reconstruction_loss, seam_smoothness

Clips = Float[Tensor, "batch step channel"]
States = Float[Tensor, "batch step dim"]


@dataclass
class View:
    """One version of the videos of a batch, in steps.

    Attributes:
        video: features of each step.
        span: the moment in [0, 1] of this version.
        time: where each step lay in the original, in [0, 1].
        seams: steps after which another piece of the original begins.
    """

    video: Clips
    span: Float[Tensor, "batch 2"]
    time: Float[Tensor, "batch step"]
    seams: Bool[Tensor, "batch step"]


class ECRL(Grounder):
    """Equivariant consistency (arXiv:2305.04123): changed videos supervise and constrain the grounding of originals.

    Prediction sees the original alone and costs what it costs without any of this.

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them.
        steps: videos come with all their clips and are averaged to so many steps after they were changed.
        hidden_dim: width of everything behind the input.
        encoder: "gru" is the family's; "conv" is several times faster on a CPU.
        augment: train on changed videos at all; without, the rest is the base network.
        speeds: how videos are changed (E1, E2); `feature_noise` of their features too (E3).
        consistency_weight, tau, sigma, foreground_weight: of the sequence consistency (E10-E15): its weight, its
            temperature, the width of its prior as a share of the video, how much more steps of the moment count.
        equivariance_weight: of the moved prediction (E17).
        refine_weight: of the refinement's own losses (E6, E7); 0 leaves the refinement out.
        projection_dim: width in which frames are compared (E9).
        dropout: of encoders and features.
        recipe: optimiser and schedule.
    """

    clips_kept = 1024
    embedded = {
        "model": {
            "hidden_dim": 48,
            "projection_dim": 32,
            "encoder": "conv",
            "dropout": 0.1,
            "recipe": {"lr": 2e-3, "weight_decay": 0.0, "schedule": "onecycle", "warmup_steps": 0},
        },
        "data": {"steps": 32, "batch_size": 32},
        "trainer": {"max_steps": 600, "max_epochs": -1},
    }

    def __init__(
        self,
        feature_dim: int = 500,
        word_dim: int = 300,
        vocabulary_size: int = 2,
        steps: int = 200,
        hidden_dim: int = 512,
        encoder: Encoder = "gru",
        augment: bool = True,
        speeds: Speeds = Speeds(),
        feature_noise: float = 0.1,
        consistency_weight: float = 0.2,
        tau: float = 0.1,
        sigma: float = 0.05,
        foreground_weight: float = 0.0,
        equivariance_weight: float = 0.5,
        refine_weight: float = 0.1,
        projection_dim: int = 128,
        dropout: float = 0.2,
        recipe: Recipe = Recipe("adamw", lr=8e-4, weight_decay=1e-7, schedule="inverse_sqrt", warmup_steps=300),
    ) -> None:
        super().__init__()
        if steps < 2:
            raise InputError(f"steps must be at least 2, found {steps}")
        for name, value in {"tau": tau, "sigma": sigma}.items():
            if not value > 0:
                raise InputError(f"{name} must be above 0, found {value}")
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.words = WordEmbedding(vocabulary_size, word_dim)
        self.dropout = nn.Dropout(dropout)
        self.video_encoder = context(encoder, feature_dim, hidden_dim, dropout)
        self.query_encoder = context(encoder, word_dim, hidden_dim, dropout)
        self.interaction = ContextQueryAttention(hidden_dim, dropout)
        self.fusion = context(encoder, hidden_dim, hidden_dim, dropout)
        self.head = DenseRegressionHead(hidden_dim)
        self.refine = SelfRefine(feature_dim) if augment and refine_weight else None
        self.projection = _projection(hidden_dim, projection_dim) if augment and consistency_weight else None

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, GroundingData)
        return {**super().arguments_from(data), "steps": data.steps}

    # -- the base network --

    def forward(self, batch: GroundingBatch) -> Moments:
        return decode_dense(self.head(*self.ground(self.original(batch).video, batch.words, batch.word_mask)))

    def original(self, batch: GroundingBatch) -> View:
        """The videos as they are, averaged to steps."""
        video = pool_padded(batch.video, batch.video_mask, self.hparams.steps)
        time = (torch.arange(self.hparams.steps, device=video.device) + 0.5) / self.hparams.steps
        nowhere = torch.zeros(video.shape[:2], dtype=torch.bool, device=video.device)
        return View(video, batch.span, time.expand(len(video), -1), nowhere)

    def ground(
        self, video: Clips, words: Int[Tensor, "batch word"], word_mask: Bool[Tensor, "batch word"]
    ) -> tuple[States, Bool[Tensor, "batch step"]]:
        """Query-related states of every step (E8), all of which exist."""
        mask = torch.ones(video.shape[:2], dtype=torch.bool, device=video.device)
        frames = self.video_encoder(self.dropout(video), mask)
        query = self.query_encoder(self.dropout(self.words(words)), word_mask)
        return self.fusion(self.interaction(frames, query, mask, word_mask), mask), mask

    # -- training --

    def training_step(self, batch: GroundingBatch, _: int) -> Tensor:
        """Both versions are grounded by the same network (E16), and held together (E10-E17)."""
        original = self.original(batch)
        if not self.hparams.augment:
            loss = _total(dense_loss(self.head(*self.ground(original.video, batch.words, batch.word_mask)), batch.span))
            self.report(loss=loss)
            return loss

        plan = plan_times(batch.video_mask, batch.span, self.hparams.speeds)
        changed = self.changed(batch, plan)
        parts = self.refine_losses(original, changed)
        both = torch.cat([original.video, changed.video])
        states, mask = self.ground(both, batch.words.repeat(2, 1), batch.word_mask.repeat(2, 1))
        found = self.head(states, mask)
        parts["grounding"] = 2 * _total(dense_loss(found, torch.cat([original.span, changed.span])))
        if self.projection is not None:
            parts["consistency"] = self.consistency(self.projection(states), original, changed)
        if self.hparams.equivariance_weight:
            first, second = best_spans(found).chunk(2)
            moved = equivariance_loss(first, second, original.span, changed.span, plan)
            parts["equivariance"] = self.hparams.equivariance_weight * moved
        loss = torch.stack(list(parts.values())).sum()
        self.report(loss=loss, **parts)
        return loss

    def changed(self, batch: GroundingBatch, plan: TimePlan) -> View:
        """Another version of the videos: changed in time and features, averaged to steps, refined (E1-E5)."""
        clips = perturb_features(plan.show(batch.video), plan.piece, plan.mask, *[self.hparams.feature_noise] * 3)
        told = torch.stack([plan.time, plan.piece.to(plan.time.dtype)], dim=-1)
        pooled = pool_padded(torch.cat([clips, told], dim=-1), plan.mask, self.hparams.steps)
        video, time, piece = pooled[..., :-2], pooled[..., -2], pooled[..., -1].round()
        seams = F.pad(piece[:, 1:] != piece[:, :-1], (0, 1))
        if self.refine is not None:
            video = self.refine(video, torch.ones_like(seams))
        return View(video, plan.span, time, seams)

    def refine_losses(self, original: View, changed: View) -> dict[str, Tensor]:
        """The refinement repairs what was corrupted and leaves no jump at seams (E6, E7)."""
        if self.refine is None:
            return {}
        mask = torch.ones_like(original.seams)
        corrupted, which = corrupt(original.video, mask)
        repaired = reconstruction_loss(self.refine(corrupted, mask), original.video, which)
        smooth = seam_smoothness(changed.video, changed.seams, mask, original.video, mask)
        return {"refinement": self.hparams.refine_weight * (repaired + smooth)}

    def consistency(self, codes: States, original: View, changed: View) -> Float[Tensor, ""]:
        """Steps of both versions resemble each other as far as they show the same instant (E9-E15)."""
        first, second = F.normalize(codes.float(), dim=-1).chunk(2)
        mask = torch.ones_like(original.seams)
        extra = self.hparams.foreground_weight
        weights = [1 + extra * self._inside(view, original.span) for view in (original, changed)]
        loss = sequence_consistency_loss(
            first, second, original.time, changed.time, mask, mask, self.hparams.tau, self.hparams.sigma, *weights
        )
        return self.hparams.consistency_weight * loss

    @staticmethod
    def _inside(view: View, span: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch step"]:
        return ((view.time >= span[:, :1]) & (view.time <= span[:, 1:])).to(view.time.dtype)

    # -- measurements --

    @torch.no_grad()
    def read_outs(self, data: DataModule) -> dict[str, float]:
        """How far a prediction is from moving with its moment: mean error of both ends over changed test videos."""
        self.eval()
        errors = []
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for batch in data.test_dataloader():
                batch = batch[~batch.span.isnan().any(dim=1)].to(self.device)
                plan = plan_times(batch.video_mask, batch.span, self.hparams.speeds)
                views = [self.original(batch).video, pool_padded(plan.show(batch.video), plan.mask, self.hparams.steps)]
                found = [best_spans(self.head(*self.ground(view, batch.words, batch.word_mask))) for view in views]
                errors.append((plan.move(found[0].clamp(0, 1)) - found[1].clamp(0, 1)).abs().sum(dim=1).cpu())
        return {"equivariance_error": float(torch.cat(errors).mean())}


def best_spans(found: DenseRegression) -> Float[Tensor, "batch 2"]:
    """The span of the step with the highest score, unclipped, so that gradients pass."""
    score = found.inside_logits.float().sigmoid() * found.quality_logits.float().sigmoid()
    best = score.masked_fill(~found.mask, -1).argmax(dim=1)
    return found.spans.float()[torch.arange(len(best), device=best.device), best]


def equivariance_loss(
    first: Float[Tensor, "batch 2"],
    second: Float[Tensor, "batch 2"],
    first_span: Float[Tensor, "batch 2"],
    second_span: Float[Tensor, "batch 2"],
    plan: TimePlan,
) -> Float[Tensor, ""]:
    """The original's prediction, moved as the plan moves instants, should be that of the changed video (E17).

    Of each pair the prediction that overlaps its own annotated moment better stands still.
    """
    better = temporal_iou(first, first_span) >= temporal_iou(second, second_span)
    first = torch.where(better[:, None], first.detach(), first)
    second = torch.where(better[:, None], second, second.detach())
    return F.smooth_l1_loss(plan.move(first), second)


def _total(parts: Any) -> Float[Tensor, ""]:
    return parts.classification + parts.regression + parts.quality


def _projection(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out))


_METRIC, _STRICT = "R@1,IoU=0.5", "R@1,IoU=0.7"
_ALONE: dict[str, Any] = {"consistency_weight": 0.0, "equivariance_weight": 0.0, "refine_weight": 0.0}

ECRL.claims = (
    Claim(
        name="ecrl",
        statement="With few annotated pairs, a grounder trained on changed videos with consistency has higher "
        "R@1,IoU=0.5 and R@1,IoU=0.7 and a smaller equivariance error than the same grounder trained on the originals.",
        arms={
            "equivariant consistency": Arm("method"),
            "originals only": Arm("baseline", {"augment": False}),
            "originals only, twice the updates": Arm("control", {"augment": False}, trainer={"max_steps": 1200}),
            "changed videos, no consistency": Arm("ablation", _ALONE),
        },
        criteria=(
            Criterion(_METRIC, versus="originals only"),
            Criterion(_STRICT, versus="originals only"),
            Criterion(_METRIC, versus="originals only, twice the updates"),
            Criterion("equivariance_error", versus="originals only", direction="lower"),
        ),
        model=ECRL.embedded["model"],
        # Few pairs, and moments that begin in the first half of the training videos four times out of five; not so in
        # test.
        data={"steps": 32, "batch_size": 32, "train_videos": 100, "world": {"early_share": 0.8}},
        trainer=ECRL.embedded["trainer"],
        tuning={"recipe.lr": (1e-3, 2e-3, 4e-3)},
        shown=(_METRIC, _STRICT, "mIoU", "equivariance_error"),
        source="docs/methods/ecrl.md, claim",
    ),
)
