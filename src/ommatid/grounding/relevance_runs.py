"""Steps of a video that are told a sentence, and what one glance teaches about them: what MHST plants its tree on.

The leaves (E1-E3) and the first loss (E10) of MHST (arXiv:2301.01871), and what is left of it without a tree, an arm of
its claim. Equation numbers refer to docs/methods/mhst.md.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.engine.recipe import Recipe
from ommatid.grounding.encoders import ConvContext, Encoder, LocalSelfAttention, WordEmbedding, context
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.task import GroundingBatch, Moments, Supervision
from ommatid.nn.attention import sinusoid
from ommatid.nn.context_query import AttentionPool

Steps = Float[Tensor, "batch time dim"]
Sentence = Float[Tensor, "batch dim"]
Mask = Bool[Tensor, "batch time"]
Scalar = Float[Tensor, ""]


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


class RelevanceRuns(Grounder):
    """MHST without its tree: the run of relevant steps around the most relevant one (E1-E3, E10); an arm of its claim.

    Args:
        threshold: relevance that every step of the run has, but for the most relevant one.
        feature_dim, word_dim, vocabulary_size, hidden_dim, encoder, window, dropout, recipe: as MHST has them.
    """

    learns_from: ClassVar[Supervision] = "glance"
    embedded = {
        "model": {
            "hidden_dim": 48,
            "encoder": "conv",
            "dropout": 0.1,
            "recipe": {"lr": 2e-3, "schedule": "onecycle"},
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
        threshold: float = 0.5,
        encoder: Encoder = "gru",
        window: int = 3,
        dropout: float = 0.2,
        recipe: Recipe = Recipe("adamw", lr=1e-4, schedule="constant"),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.words = WordEmbedding(vocabulary_size, word_dim)
        self.told = ToldSteps(feature_dim, word_dim, hidden_dim, encoder, window, dropout)

    def forward(self, batch: GroundingBatch) -> Moments:
        pairs = self.told.encode(self.words(batch.words), batch)
        relevance = self.told.relevance_logits(self.told.tell(pairs), pairs.sentence).sigmoid()
        relevance = relevance.masked_fill(~batch.video_mask, -1)
        first, last = run_around_best(relevance, self.hparams.threshold)
        steps = batch.video_mask.sum(dim=1, keepdim=True)
        return Moments((torch.stack([first, last + 1], dim=1) / steps)[:, None], relevance.amax(dim=1, keepdim=True))

    def training_step(self, batch: GroundingBatch, _: int) -> Tensor:
        both = self.told.encode(self.words(batch.words), batch).and_others()
        logits = self.told.relevance_logits(self.told.tell(both), both.sentence)
        loss = relevance_loss(logits, glance_step(batch.glance, batch.video_mask), batch)
        self.report(loss=loss)
        return loss


def glance_step(glance: Float[Tensor, "batch"], mask: Mask) -> Int[Tensor, "batch"]:
    """The step in which a glance lies, given in [0, 1] of the video."""
    steps = mask.sum(dim=1)
    return (glance * steps).nan_to_num().long().clamp(min=0).minimum(steps - 1)


def run_around_best(
    relevance: Float[Tensor, "batch time"], threshold: float
) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch"]]:
    """First and last step of the longest run that holds the largest value and nothing else below the threshold.

    Examples:
        >>> run_around_best(torch.tensor([[0.6, 0.1, 0.7, 0.9, 0.5, 0.2]]), 0.5)
        (tensor([2]), tensor([4]))
    """
    step = torch.arange(relevance.shape[1], device=relevance.device)
    best = relevance.argmax(dim=1, keepdim=True)
    stop = (relevance < threshold) & (step != best)
    first = torch.where(stop & (step < best), step, -1).amax(dim=1) + 1
    last = torch.where(stop & (step > best), step, relevance.shape[1]).amin(dim=1) - 1
    return first, last


def relevance_loss(logits: Float[Tensor, "pair time"], glance: Int[Tensor, "batch"], batch: GroundingBatch) -> Scalar:
    """The glance and the steps beside it are relevant, nothing is to another sentence; the rest is unknown (E10).

    Args:
        logits: of the batch's own pairs, and after them of its videos with the sentence of the pair before.
    """
    own, other = logits.chunk(2)
    step = torch.arange(own.shape[1], device=own.device)
    near = ((step - glance[:, None]).abs() <= 1) & batch.video_mask
    # Two videos of a batch may be asked for with the same sentence.
    far = batch.video_mask & (batch.words != batch.words.roll(1, dims=0)).any(dim=1, keepdim=True)
    return masked_mean(F.softplus(-own), near) + masked_mean(F.softplus(other), far)


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Scalar:
    """Mean of what is marked, 0 where nothing is."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def _neighbours(encoder: Encoder, dim: int, window: int, dropout: float) -> list[nn.Module]:
    """Two layers in which each step sees its neighbours."""
    if encoder == "gru":
        return [LocalSelfAttention(dim, 4, window, dropout) for _ in range(2)]
    return [ConvContext(dim, dim, layers=2, kernel=2 * window + 1, dropout=dropout)]
