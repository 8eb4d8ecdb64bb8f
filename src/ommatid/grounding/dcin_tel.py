"""DCIN-TEL: Dilated Context Integrated Network for Temporal Emotion Localization (arXiv:2208.01954, ACM MM 2022).

Emotions last from a moment to minutes, show in the picture or in what is said, and only whole clips are labelled. Each
modality gathers context at several dilations (coarse stream, E3-E4) and mixes the scales unit by unit (fine stream,
E5-E8); multiple-instance losses learn from the clip's labels (E10-E12), and video and subtitles, which describe the
same moment, teach each other where an emotion is (E13-E16). Equation numbers refer to docs/methods/dcin-tel.md.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.recipe import Recipe
from ommatid.grounding.curves import curve_to_segments, min_max
from ommatid.grounding.emotion_localizer import EmotionLocalizer
from ommatid.grounding.emotion_task import EmotionBatch, EmotionMoments
from ommatid.grounding.metrics import temporal_nms
from ommatid.grounding.task import sort_moments
from ommatid.losses.consensus import agreement_pseudo_labels, aligned_contrast, over_time, temporal_consensus_loss
from ommatid.losses.multiple_instance import (
    background_guide_loss,
    mil_bce_loss,
    mil_softmax_loss,
    mutual_attention_loss,
    suppress,
    topk_mean,
)
from ommatid.nn.dilated_context import DilatedContextStack, GranularityAttention

LEVELS = tuple(level / 10 for level in range(1, 10))
NMS = 0.6
MOST_EMOTIONS, LEAST_PRESENCE = 6, 0.1


@dataclass
class Reading:
    """What a modality, or both together, say of every unit.

    Attributes:
        coarse, fine: logits of the two streams (E4, E8).
        logits: both joined (E9).
        attention: how emotional the unit is (E8).
        features: of the fine stream (E7).
        mask: units in which the modality is there.
    """

    coarse: Float[Tensor, "batch time label"]
    fine: Float[Tensor, "batch time label"]
    logits: Float[Tensor, "batch time label"]
    attention: Float[Tensor, "batch time"]
    features: Float[Tensor, "batch time dim"]
    mask: Bool[Tensor, "batch time"]


class ModalityStream(nn.Module):
    """One modality's coarse and fine stream with its own classifiers (E2-E9)."""

    def __init__(self, channels: int, dim: int, labels: int, dilations: tuple[int, ...], fine: bool, dropout: float):
        super().__init__()
        self.input = nn.Linear(channels, dim)
        self.missing = nn.Parameter(torch.empty(dim).normal_(0, 0.1))
        self.dropout = nn.Dropout(dropout)
        self.contexts = DilatedContextStack(dim, dilations)
        self.coarse = nn.ModuleList(nn.Linear(dim, labels) for _ in dilations)
        self.segment = nn.Linear(dim, dim) if fine else None
        self.integrate = GranularityAttention(dim) if fine else None
        self.fine = nn.Linear(dim, labels) if fine else None
        self.attention = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(
        self,
        features: Float[Tensor, "batch time channel"],
        present: Bool[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"],
    ) -> Reading:
        units = torch.where(present[..., None], self.input(self.dropout(features)), self.missing)
        contexts = self.contexts(units, mask)
        # The mean over scales (E4), one scale after the other: each has its own classifier.
        scales = [classify(contexts[:, level]) for level, classify in enumerate(self.coarse)]
        coarse = torch.stack(scales).mean(dim=0)
        if self.segment is None or self.integrate is None or self.fine is None:
            mixed, fine, logits = contexts.mean(dim=1), coarse, coarse
        else:
            mixed, _ = self.integrate(contexts, self.segment(units))
            fine = self.fine(mixed)
            logits = fine + 0.5 * coarse
        attention = self.attention(mixed)[..., 0].sigmoid()
        return Reading(coarse, fine, logits, attention, mixed, present & mask)


class DCINTEL(EmotionLocalizer):
    """Dilated contexts and cross-modal consensus (arXiv:2208.01954): emotions of moments from labels of clips.

    Args:
        video_dim, text_dim, classes: as the data have them.
        hidden_dim: width of both modalities.
        dilations: of the coarse stream, one a scale (E3); all ones is a single scale of the same depth.
        fine: the fine stream (E5-E8); without it a unit's evidence is the coarse stream's.
        modalities: "both", or one of them alone.
        ratio: a clip's evidence is the mean over its T / `ratio` strongest units (E10).
        losses: "dcin" is the paper's; "co2" are the published two-modality losses it is compared with (E12).
        distribution_weight, attention_weight, pseudo_weight, feature_weight: of the four consensus losses (E13-E16).
        sparsity_weight: of the mean attention (E11).
        dropout: of the input features.
        recipe: optimiser and schedule.
    """

    embedded = {
        "model": {
            "hidden_dim": 48,
            "dropout": 0.1,
            "recipe": {"lr": 2e-3, "weight_decay": 0.0, "schedule": "onecycle"},
        },
        "data": {"batch_size": 32},
        "trainer": {"max_steps": 400, "max_epochs": -1},
    }

    def __init__(
        self,
        video_dim: int = 1024,
        text_dim: int = 768,
        classes: int = 18,
        hidden_dim: int = 512,
        dilations: tuple[int, ...] = (1, 2, 4, 8),
        fine: bool = True,
        modalities: Literal["both", "video", "subtitles"] = "both",
        ratio: int = 8,
        losses: Literal["dcin", "co2"] = "dcin",
        distribution_weight: float = 1.0,
        attention_weight: float = 1.0,
        pseudo_weight: float = 0.5,
        feature_weight: float = 0.1,
        sparsity_weight: float = 0.1,
        dropout: float = 0.5,
        recipe: Recipe = Recipe("adam", lr=1e-4, weight_decay=5e-4, schedule="constant"),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        # The public losses know a class for whatever shows no emotion.
        labels = classes + (losses == "co2")
        options = (hidden_dim, labels, tuple(dilations), fine, dropout)
        self.video = ModalityStream(video_dim, *options) if modalities != "subtitles" else None
        self.subtitles = ModalityStream(text_dim, *options) if modalities != "video" else None

    def forward(self, batch: EmotionBatch) -> EmotionMoments:
        return decode(self.together(self.read(batch), batch.mask), batch, self.hparams.classes, self.hparams.ratio)

    def read(self, batch: EmotionBatch) -> list[Reading]:
        """What each modality says: video, subtitles."""
        return self.read_units(batch.video, batch.text, batch.mask, batch.seen, batch.heard)

    def read_units(self, video: Tensor, text: Tensor, mask: Tensor, seen: Tensor, heard: Tensor) -> list[Reading]:
        """The same from the tensors that it depends on (see `EmotionBatch`)."""
        readings = []
        if self.video is not None:
            readings.append(self.video(video, seen, mask))
        if self.subtitles is not None:
            readings.append(self.subtitles(text, heard, mask))
        return readings

    @staticmethod
    def together(readings: list[Reading], mask: Bool[Tensor, "batch time"]) -> Reading:
        """The mean over the modalities that a unit has; over all of them where it has none (E18)."""
        present = torch.stack([reading.mask for reading in readings], dim=-1)
        weight = (present | ~present.any(dim=-1, keepdim=True)).float()
        weight = weight / weight.sum(dim=-1, keepdim=True)

        def mean(name: str) -> Tensor:
            stacked = torch.stack([getattr(reading, name) for reading in readings], dim=-1)
            return (stacked * weight.view(*weight.shape[:2], *[1] * (stacked.ndim - 3), -1)).sum(dim=-1)

        names = ("coarse", "fine", "logits", "attention", "features")
        return Reading(**{name: mean(name) for name in names}, mask=mask)

    # -- training --

    def training_step(self, batch: EmotionBatch, _: int) -> Tensor:
        readings = self.read(batch)
        joined = self.together(readings, batch.mask)
        parts = (
            self.co2_losses(readings, joined, batch)
            if self.hparams.losses == "co2"
            else self.clip_losses(readings, joined, batch)
        )
        if self.hparams.losses == "dcin" and len(readings) == 2:
            parts |= self.consensus_losses(readings[0], readings[1], batch)
        loss = torch.stack(list(parts.values())).sum()
        self.report(loss=loss, **parts)
        return loss

    def clip_losses(self, readings: list[Reading], joined: Reading, batch: EmotionBatch) -> dict[str, Tensor]:
        """The clip's labels explained by its strongest units, with and without attention (E10, E11)."""
        # A label that few marks stand behind weighs less.
        weights = torch.where(batch.labels > 0, (0.5 + 0.25 * batch.votes).clamp(max=1), 1.0)

        def loss(logits: Tensor, mask: Tensor) -> Tensor:
            return mil_bce_loss(logits, batch.labels, mask, self.hparams.ratio, weights).mean()

        each = [loss(logits, reading.mask) for reading in readings for logits in _streams(reading)]
        focused = [
            loss(suppress(reading.logits, reading.attention, reading.mask), reading.mask) for reading in readings
        ]
        emotional = [(reading.attention * reading.mask).sum() / reading.mask.sum().clamp(min=1) for reading in readings]
        return {
            "clip": torch.stack(each).sum() + loss(joined.logits, joined.mask),
            "focused": torch.stack(focused).sum(),
            "sparsity": self.hparams.sparsity_weight * torch.stack(emotional).mean(),
        }

    def consensus_losses(self, video: Reading, text: Reading, batch: EmotionBatch) -> dict[str, Tensor]:
        """Both modalities agree where an emotion is (E13-E16)."""
        settings, both, done = self.hparams, video.mask & text.mask, self.share_done
        ramp = min(done / 0.3, 1.0)
        parts = {
            "distribution": ramp
            * settings.distribution_weight
            * temporal_consensus_loss(video.logits, text.logits, batch.labels, both),
            "attention": ramp
            * settings.attention_weight
            * mutual_attention_loss(video.attention, text.attention, both),
            "features": settings.feature_weight * aligned_contrast(video.features, text.features, both),
        }
        if settings.pseudo_weight and done >= 0.5:
            parts["pseudo"] = settings.pseudo_weight * pseudo_label_loss(video, text, batch)
        return parts

    def co2_losses(self, readings: list[Reading], joined: Reading, batch: EmotionBatch) -> dict[str, Tensor]:
        """The public two-modality losses: softmax over classes and background, mutual attention, guided background."""
        occurs = F.pad(batch.labels, (0, 1), value=1.0)
        emotional = F.pad(batch.labels, (0, 1), value=0.0)
        focused = suppress(joined.logits, joined.attention, joined.mask, over="labels")
        parts = {
            "clip": mil_softmax_loss(joined.logits, occurs, joined.mask, self.hparams.ratio).mean(),
            "focused": mil_softmax_loss(focused, emotional, joined.mask, self.hparams.ratio).mean(),
            "guide": 0.8 * background_guide_loss(joined.logits, joined.attention, joined.mask),
        }
        if len(readings) == 2:
            both = readings[0].mask & readings[1].mask
            parts["attention"] = mutual_attention_loss(readings[0].attention, readings[1].attention, both)
        return parts

    # -- export --

    def plain_network(self) -> nn.Module:
        return _PlainLocalizer(self)


def pseudo_label_loss(video: Reading, text: Reading, batch: EmotionBatch) -> Float[Tensor, ""]:
    """Units on which both modalities agree are labels for both (E15); where one is absent, the other counts half."""
    where = [over_time(reading.logits.detach(), reading.mask) for reading in (video, text)]
    only_video, only_text = (video.mask & ~text.mask)[..., None], (text.mask & ~video.mask)[..., None]
    first, second = torch.where(only_text, where[1], where[0]), torch.where(only_video, where[0], where[1])
    positive, weight = agreement_pseudo_labels(first, second, batch.labels, batch.mask)
    weight = torch.where(only_video | only_text, 0.5 * weight, weight)
    total = weight.new_zeros(())
    for reading in (video, text):
        counted = weight * reading.mask[..., None]
        loss = F.binary_cross_entropy_with_logits(reading.logits.float(), positive, reduction="none")
        total = total + (loss * counted).sum() / counted.sum().clamp(min=1)
    return total


def decode(reading: Reading, batch: EmotionBatch, classes: int, ratio: int, count: int = 50) -> EmotionMoments:
    """Runs of clauses above nine levels of each likely emotion's curve, scored by contrast and presence (E18)."""
    logits, attention = reading.logits[..., :classes].float(), reading.attention.float()
    presence = topk_mean(logits, batch.mask, ratio).sigmoid()
    likely, labels = presence.topk(min(MOST_EMOTIONS, classes), dim=1)

    # Moments consist of clauses: silences between them are left out before runs are looked for.
    order = (~batch.heard).to(torch.uint8).argsort(dim=1, stable=True)
    heard = batch.heard.gather(1, order)
    strength = (attention[..., None] * logits.sigmoid()).transpose(1, 2)
    chosen = strength.gather(1, labels[..., None].expand(-1, -1, strength.shape[2]))
    chosen = chosen.gather(2, order[:, None].expand_as(chosen)).flatten(0, 1)
    valid = heard.repeat_interleave(labels.shape[1], dim=0)
    runs, contrast = curve_to_segments(min_max(chosen, valid), valid, LEVELS, count=count)

    times = batch.times.gather(1, order[..., None].expand(-1, -1, 2)).repeat_interleave(labels.shape[1], dim=0)
    last = (runs[..., 1] - 1).clamp(min=0)
    spans = torch.stack([times[..., 0].gather(1, runs[..., 0]), times[..., 1].gather(1, last)], dim=-1)
    scores = (contrast + 0.2 * likely.flatten()[:, None]).masked_fill(
        (likely < LEAST_PRESENCE).flatten()[:, None], float("-inf")
    )
    ranked = sort_moments(spans, scores)
    survivors = ranked.scores.masked_fill(~temporal_nms(ranked.spans, NMS), float("-inf"))

    rows = len(batch)
    spans, scores = ranked.spans.view(rows, -1, 2), survivors.view(rows, -1)
    named = labels[..., None].expand(-1, -1, count).reshape(rows, -1)
    best = scores.argsort(dim=1, descending=True, stable=True)
    scores = scores.gather(1, best)
    named = named.gather(1, best).masked_fill(~torch.isfinite(scores), -1)
    return EmotionMoments(spans.gather(1, best[..., None].expand(-1, -1, 2)), named, scores, presence)


def _streams(reading: Reading) -> tuple[Tensor, ...]:
    """The streams that are trained on their own: two, or one where there is no fine stream."""
    return (reading.fine,) if reading.fine is reading.coarse else (reading.fine, reading.coarse)


class _PlainLocalizer(nn.Module):
    """The method from tensors to tensors, for exporters."""

    def __init__(self, method: DCINTEL) -> None:
        super().__init__()
        self.method = method

    def forward(self, video: Tensor, text: Tensor, mask: Tensor, seen: Tensor, heard: Tensor) -> tuple[Tensor, ...]:
        method = self.method
        joined = method.together(method.read_units(video, text, mask, seen, heard), mask)
        logits = joined.logits[..., : method.hparams.classes]
        return logits.sigmoid(), joined.attention, topk_mean(logits, mask, method.hparams.ratio).sigmoid()


_EMOTIONS: dict[str, Any] = {
    **DCINTEL.embedded,
    "tuning": {"recipe.lr": (1e-3, 2e-3, 4e-3)},
    # Only whole clips are labelled in validation.
    "tuning_metric": "clip_mAP",
}
_NO_CONSENSUS = dict.fromkeys(("distribution_weight", "attention_weight", "pseudo_weight", "feature_weight"), 0.0)

DCINTEL.claims = (
    Claim(
        name="dcin-tel",
        statement="With labels of whole clips only, contexts at several dilations locate emotions better (mAP over "
        "overlaps from 0.1 to 0.7) than a single scale of the same depth and parameters.",
        arms={
            "several dilations": Arm("method"),
            "one dilation": Arm("control", {"dilations": (1, 1, 1, 1)}),
            "no fine stream": Arm("ablation", {"fine": False}),
        },
        criteria=(Criterion("mAP", versus="one dilation"),),
        shown=("mAP", "mAP@0.3", "mAP@0.5", "clip_mAP"),
        source="docs/methods/dcin-tel.md, sentence A",
        **_EMOTIONS,
    ),
    Claim(
        name="dcin-tel-consensus",
        statement="Training video and subtitles to agree locates emotions better than training each alone and "
        "averaging both at test.",
        arms={
            "consensus": Arm("method"),
            "late fusion": Arm("baseline", _NO_CONSENSUS),
            "published two-modality losses": Arm("baseline", {"losses": "co2"}),
            "video only": Arm("reported", {"modalities": "video"}),
            "subtitles only": Arm("reported", {"modalities": "subtitles"}),
        },
        criteria=(Criterion("mAP", versus="late fusion"), Criterion("mAP", versus="published two-modality losses")),
        shown=("mAP", "mAP@0.3", "mAP@0.5", "clip_mAP"),
        source="docs/methods/dcin-tel.md, sentence B",
        **_EMOTIONS,
    ),
)
