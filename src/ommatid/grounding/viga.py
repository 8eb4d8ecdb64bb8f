"""ViGA: Video Moment Retrieval from Text Queries via Single Frame Annotation (arXiv:2204.09409, SIGIR 2022).

The baseline of glance supervision: training knows one instant inside each moment. Around it lies a Gaussian of fixed
width (B1); clips recognise their sentence as far as they are under it (B2, B3), attention gathers there (B4), and at
test the best of many windows around the attention's peak is the moment (B5). Block numbers refer to
docs/methods/mhst.md, whose method is compared with it.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.grounding.encoders import Encoder, WordEmbedding, context
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.task import GroundingBatch, Moments, Supervision, sort_moments
from ommatid.losses.glance import Mode, attention_guidance_kl, clip_nce_loss, gaussian_glance_weight, sliding_clips
from ommatid.nn.proposal_map import span_max

Video = Float[Tensor, "batch time dim"]
Words = Float[Tensor, "batch word dim"]
Attention = Float[Tensor, "batch time"]


class CrossModalLayer(nn.Module):
    """Words attend to steps and steps to words, each before a residual feed-forward; also gives the words' attention.

    Args:
        dim: width of both modalities.
        heads: of both attentions, a divisor of `dim`.
        dropout: of the feed-forward.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.word_norm, self.video_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_video = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.to_words = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.word_forward, self.video_forward = _feed_forward(dim, dropout), _feed_forward(dim, dropout)

    def forward(
        self, words: Words, video: Video, word_mask: Bool[Tensor, "batch word"], video_mask: Bool[Tensor, "batch time"]
    ) -> tuple[Words, Video, Attention]:
        words, video = self.word_norm(words), self.video_norm(video)
        seen, attention = self.to_video(words, video, video, key_padding_mask=~video_mask)
        told, _ = self.to_words(video, words, words, key_padding_mask=~word_mask, need_weights=False)
        share = word_mask / word_mask.sum(dim=1, keepdim=True).clamp(min=1)
        words, video = words + seen, video + told
        words = (words + self.word_forward(words)) * word_mask[..., None]
        video = (video + self.video_forward(video)) * video_mask[..., None]
        return words, video, torch.einsum("bn,bnt->bt", share.to(attention.dtype), attention)


class ViGA(Grounder):
    """Glance supervision by a Gaussian of one width, and windows around the attention's peak (arXiv:2204.09409, B1-B5).

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them.
        hidden_dim: width of everything behind the encoders.
        layers, heads: of the exchange between words and steps.
        sigma_factor: standard deviation of the Gaussian in halves of the video; 0.3 for Charades-STA, 1.0 for TACoS.
        clip_steps, stride: lengths of the training clips in steps, and from one to the next (B2).
        temperature: of the clips' contrast (B3).
        guidance_scale: weight of the attention's divergence (B4).
        lengths: of the windows that are tried at test, as shares of the video (B5).
        overlaps: of neighbouring windows of one length.
        encoder: "gru" for the benchmarks, "conv" is several times faster on a CPU.
        dropout: of encoders and feed-forwards.
        as_released: count places from the padded length, as the authors' code does.
        recipe: optimiser and schedule.
    """

    learns_from: ClassVar[Supervision] = "glance"
    embedded = {
        "model": {
            "hidden_dim": 48,
            "heads": 4,
            "sigma_factor": 0.3,
            "clip_steps": [4],
            "stride": 2,
            "guidance_scale": 1000.0,
            "lengths": [0.1, 0.15, 0.2, 0.25, 0.3],
            "encoder": "conv",
            "recipe": {"lr": 8e-3, "schedule": "onecycle"},
        },
        "data": {"view": "glance", "steps": 32, "batch_size": 32},
        "trainer": {"max_steps": 600, "max_epochs": -1},
    }

    def __init__(
        self,
        feature_dim: int = 500,
        word_dim: int = 300,
        vocabulary_size: int = 2,
        hidden_dim: int = 512,
        layers: int = 2,
        heads: int = 8,
        sigma_factor: float = 0.4,
        clip_steps: tuple[int, ...] = (16,),
        stride: int = 8,
        temperature: float = 0.07,
        guidance_scale: float = 10_000.0,
        lengths: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0),
        overlaps: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        encoder: Encoder = "gru",
        dropout: float = 0.1,
        as_released: bool = False,
        recipe: Recipe = Recipe("adamw", lr=1e-4, weight_decay=1e-2, schedule="constant", clip_norm=1.0),
    ) -> None:
        super().__init__()
        if not (lengths and all(0 < length <= 1 for length in lengths)):
            raise InputError(f"lengths must be shares of the video above 0 and up to 1, found {tuple(lengths)}")
        if not (overlaps and all(0 <= overlap < 1 for overlap in overlaps)):
            raise InputError(f"overlaps must lie in [0, 1), found {tuple(overlaps)}")
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.words = WordEmbedding(vocabulary_size, word_dim)
        self.dropout = nn.Dropout(dropout)
        self.video_encoder = context(encoder, feature_dim, hidden_dim, dropout)
        self.query_encoder = context(encoder, word_dim, hidden_dim, dropout)
        self.exchange = nn.ModuleList(CrossModalLayer(hidden_dim, heads, dropout) for _ in range(layers))

    def forward(self, batch: GroundingBatch) -> Moments:
        sentence, video, attention = self.represent(batch)
        return guided_moments(sentence, video, attention, batch.video_mask, self.hparams.lengths, self.hparams.overlaps)

    def training_step(self, batch: GroundingBatch, _: int) -> Tensor:
        """Contrast of clips and guidance of the attention (B3, B4)."""
        sentence, video, attention = self.represent(batch)
        settings, mask = self.hparams, batch.video_mask
        mode: Mode = "viga" if settings.as_released else "normalised"
        steps = mask.sum(dim=1)
        glance = batch.glance * steps
        if settings.as_released:
            glance = glance.round().clamp(min=0).minimum(steps - 1)
        weight = gaussian_glance_weight(glance, mask, settings.sigma_factor, mode)
        clips = sliding_clips(video, weight, mask, settings.clip_steps, settings.stride, mode)
        contrast = clip_nce_loss(sentence, *clips, temperature=settings.temperature)
        guidance = attention_guidance_kl(attention, weight, mask, settings.guidance_scale, mode)
        self.report(loss=contrast + guidance, contrast=contrast, guidance=guidance)
        return contrast + guidance

    def represent(self, batch: GroundingBatch) -> tuple[Float[Tensor, "batch dim"], Video, Attention]:
        """Sentence and steps of length one in one space, and how much the words attend to each step."""
        words = self.query_encoder(self.dropout(self.words(batch.words)), batch.word_mask)
        video = self.video_encoder(self.dropout(batch.video), batch.video_mask)
        attention = video.new_zeros(video.shape[:2])
        for layer in self.exchange:
            words, video, attention = layer(words, video, batch.word_mask, batch.video_mask)
        sentence = words.float().masked_fill(~batch.word_mask[..., None], float("-inf")).amax(dim=1)
        return F.normalize(sentence, dim=-1), F.normalize(video.float(), dim=-1), attention.float()


def guided_moments(
    sentence: Float[Tensor, "batch dim"],
    video: Video,
    attention: Attention,
    mask: Bool[Tensor, "batch time"],
    lengths: Sequence[float],
    overlaps: Sequence[float],
) -> Moments:
    """Windows of several lengths around the peak of the attention, ranked by their max-pooled similarity (B5).

    Windows of length l start at most l before the peak, none after it, and neighbours overlap by a given share of l.
    A window is at least one step long.

    Examples:
        >>> video = torch.eye(4)[None]
        >>> attention, mask = torch.tensor([[0.1, 0.6, 0.2, 0.1]]), torch.ones(1, 4, dtype=torch.bool)
        >>> guided_moments(torch.tensor([[0.0, 0.6, 0.8, 0.0]]), video, attention, mask, [0.5], [0.5]).top(2).spans[0]
        tensor([[0.2500, 0.7500],
                [0.0000, 0.5000]])
    """
    start, end, valid = _windows(attention, mask, lengths, overlaps)
    last = torch.where(valid, end - 1, start).clamp(max=mask.shape[1] - 1)
    # Windows differ from video to video, what answers them is the same.
    pooled = torch.vmap(span_max)(video[:, None], start.clamp(max=mask.shape[1] - 1), last)[:, 0]
    similarity = torch.einsum("bcd,bd->bc", pooled, sentence)
    steps = mask.sum(dim=1)[:, None, None].clamp(min=1)
    spans = torch.stack([start, end], dim=-1) / steps
    return sort_moments(torch.where(valid[..., None], spans, 0), similarity.masked_fill(~valid, float("-inf")))


Candidates = Int[Tensor, "batch window"]


def _windows(
    attention: Attention, mask: Bool[Tensor, "batch time"], lengths: Sequence[float], overlaps: Sequence[float]
) -> tuple[Candidates, Candidates, Bool[Tensor, "batch window"]]:
    """First step and end of every window that is tried, and which of them exist."""
    steps = mask.sum(dim=1)
    anchor = attention.masked_fill(~mask, -1).argmax(dim=1)
    # The authors round in double precision, which not every device has: a table over all lengths of a video.
    share, overlap = (torch.tensor(list(values), dtype=torch.float64) for values in (lengths, overlaps))
    size = (torch.arange(mask.shape[1] + 1)[:, None] * share).round().clamp(min=1)
    shift = size[..., None] - (size[..., None] * overlap).round()
    size, shift = size.long().to(steps.device)[steps], shift.long().to(steps.device)[steps]
    number = torch.arange(most_windows(overlaps), device=steps.device)
    size, anchor, steps = size[:, :, None, None], anchor[:, None, None, None], steps[:, None, None, None]
    begin = (anchor - size).clamp(min=0) + number * shift[..., None]
    end = begin + size
    valid = (shift[..., None] > 0) & (begin <= anchor) & (end <= torch.minimum(steps, anchor + size))
    start, end, valid = (rearrange(part, "b l o n -> b (l o n)") for part in torch.broadcast_tensors(begin, end, valid))
    # Where a video is too short for any shift, its first window is tried all the same.
    return start, end, valid | (F.pad(~valid.any(dim=1, keepdim=True), (0, valid.shape[1] - 1)))


def most_windows(overlaps: Sequence[float]) -> int:
    """How many windows of one length and overlap fit before the peak, whatever the length.

    Neighbours lie at least one step and at least l (1 - overlap) - 1/2 apart, so that a window of l steps has the most
    of them before it where both bounds meet.

    Examples:
        >>> most_windows([0.0, 0.5]), most_windows([0.9])
        (4, 16)
    """
    return math.floor(1.5 / (1 - max(overlaps)) + 1e-6) + 1


def _feed_forward(dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
    )
