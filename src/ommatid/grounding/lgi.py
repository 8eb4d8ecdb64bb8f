"""LGI: Local-Global Video-Text Interactions for Temporal Grounding (arXiv:2004.07514, CVPR 2020).

The field's reference for regression. A sentence is read as a few phrases, each knowing the one before it (B11, B12).
Every phrase meets the video on its own, sees what is near by convolutions, and joins the others to see the whole video
by non-local blocks (B13). One attention over time summarises the video into a single start and end (B14). Block numbers
refer to the field's card.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.engine.checkpoint import rename
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.encoders import WordEmbedding
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.heads import step_centres, steps_inside
from ommatid.grounding.task import GroundingBatch, Moments
from ommatid.nn.bidirectional_lstm import BidirectionalLSTM, end_states
from ommatid.nn.phrase_attention import HadamardFusion, SequentialPhraseAttention, TanhAttentionPool
from ommatid.nn.temporal_context import NonLocalBlock, ResidualConvBlock

Output = Literal["relu", "sigmoid"]


@dataclass
class RegressedMoment:
    """One moment for each query, and the attention that led to it.

    Attributes:
        span: start and end in [0, 1] units as regressed, neither ordered nor clipped.
        attention_logits: of the attention over time, -inf where padded.
        phrase_weights: how much each phrase reads of each word.
    """

    span: Float[Tensor, "batch 2"]
    attention_logits: Float[Tensor, "batch time"]
    phrase_weights: Float[Tensor, "batch phrase word"]


class LGI(Grounder):
    """Local-global video-text interactions (arXiv:2004.07514): phrases read the video, one span is regressed (B11-B14).

    The defaults are the authors' for Charades-STA (with data of `steps=128`, `max_words=10`, `batch_size=100`). For
    ActivityNet Captions (`max_words=25`) they take 5 phrases, 1 non-local block of 1 head, `diversity=0.2` and
    `output="sigmoid"`.

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them.
        hidden_dim: width of sentence, phrases and video; even.
        attention_dim: width in which the three attentions compare.
        head_dim: width of the regression's hidden layer (B14).
        query_layers: of the bidirectional LSTM that reads the sentence (B11).
        phrases: how many a sentence is read as (B12).
        kernel: steps under each local convolution (B13); odd.
        global_blocks, heads: non-local blocks, and the heads of each (B13).
        positions: longest video, in steps; the data decide where they are known.
        output: what keeps start and end from being negative; "sigmoid" also keeps them below 1.
        guidance_weight, diversity_weight: of the losses on both attentions (B14).
        diversity: how concentrated a phrase's weights should be, the factor of the identity in the diversity loss.
        dropout: of the embedded video and its positions, and between the layers of the LSTM.
        as_released: convolutions and batch norms also read padded steps, as in the authors' code, so that a prediction
            depends on the longest video of its batch.
        recipe: optimiser and schedule.
    """

    embedded = {
        "model": {
            "hidden_dim": 64,
            "attention_dim": 32,
            "head_dim": 64,
            "query_layers": 1,
            "kernel": 7,
            "output": "sigmoid",
            "dropout": 0.1,
            "recipe": {"lr": 2e-3, "schedule": "onecycle"},
        },
        "data": {"steps": 32, "batch_size": 32},
        "trainer": {"max_steps": 800, "max_epochs": -1},
    }

    def __init__(
        self,
        feature_dim: int = 1024,
        word_dim: int = 300,
        vocabulary_size: int = 2,
        hidden_dim: int = 512,
        attention_dim: int = 256,
        head_dim: int = 512,
        query_layers: int = 2,
        phrases: int = 3,
        kernel: int = 15,
        global_blocks: int = 2,
        heads: int = 4,
        positions: int = 128,
        output: Output = "relu",
        guidance_weight: float = 1.0,
        diversity_weight: float = 1.0,
        diversity: float = 0.3,
        dropout: float = 0.5,
        as_released: bool = False,
        recipe: Recipe = Recipe("adam", lr=4e-4, schedule="constant"),
    ) -> None:
        super().__init__()
        _check(hidden_dim, heads, kernel, {"phrases": phrases, "positions": positions, "query_layers": query_layers})
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.words = WordEmbedding(vocabulary_size, word_dim)
        self.dropout = nn.Dropout(dropout)

        self.query_encoder = BidirectionalLSTM(word_dim, hidden_dim, query_layers, dropout)
        self.video_input = nn.Linear(feature_dim, hidden_dim)
        self.positions = nn.Embedding(positions, hidden_dim)
        self.phrase_attention = SequentialPhraseAttention(hidden_dim, phrases, attention_dim)

        self.fusion = nn.ModuleList(HadamardFusion(hidden_dim, hidden_dim, hidden_dim) for _ in range(phrases))
        self.near = nn.ModuleList(ResidualConvBlock(hidden_dim, kernel) for _ in range(phrases))
        self.phrase_pool = TanhAttentionPool(hidden_dim, attention_dim)
        self.far = nn.ModuleList(NonLocalBlock(hidden_dim, heads) for _ in range(global_blocks))

        self.time_pool = TanhAttentionPool(hidden_dim, attention_dim)
        self.summary = nn.Linear(hidden_dim, hidden_dim)
        self.head = nn.Sequential(nn.Linear(hidden_dim, head_dim), nn.ReLU(), nn.Linear(head_dim, 2))

    def forward(self, batch: GroundingBatch) -> Moments:
        """One moment for each query; its score is the share of the attention over time that lies inside it.

        The score says how far both answers of the network agree. It is no probability, and longer moments have it
        easier; there is nothing to rank within a query. A moment regressed with its end before its start is empty.
        """
        found = self.regress(batch)
        start, end = found.span.clamp(0, 1).split(1, dim=1)
        end = torch.maximum(start, end)
        centre = step_centres(batch.video_mask)
        inside = (centre >= start) & (centre <= end)
        score = (found.attention_logits.softmax(dim=1) * inside).sum(dim=1, keepdim=True)
        return Moments(torch.cat([start, end], dim=1)[:, None], score)

    def training_step(self, batch: GroundingBatch, _: int) -> Tensor:
        """Smooth L1 of start and end, attention over time on the moment, phrases unlike each other (B14)."""
        found = self.regress(batch)
        span = regression_loss(found.span, batch.span)
        guidance = guidance_loss(found.attention_logits, steps_inside(batch.video_mask, batch.span))
        diversity = diversity_loss(found.phrase_weights, self.hparams.diversity)
        loss = span + self.hparams.guidance_weight * guidance + self.hparams.diversity_weight * diversity
        self.report(loss=loss, span=span, guidance=guidance, diversity=diversity)
        return loss

    def regress(self, batch: GroundingBatch) -> RegressedMoment:
        """The whole network (B11-B14)."""
        words, sentence = self.read(batch)
        phrases, phrase_weights = self.phrase_attention(sentence, words, batch.word_mask)
        video = self.interact(self.embed(batch.video, batch.video_mask), phrases, batch.video_mask)
        pooled, attention_logits = self.time_pool(video, batch.video_mask)
        return RegressedMoment(self.locate(pooled), attention_logits, phrase_weights)

    def read(self, batch: GroundingBatch) -> tuple[Float[Tensor, "batch word hidden"], Float[Tensor, "batch hidden"]]:
        """Words in their sentence, and the sentence where each direction has read all of it (B11)."""
        words = self.query_encoder(self.words(batch.words), batch.word_mask)
        return words, end_states(words, batch.word_mask)

    def embed(
        self, video: Float[Tensor, "batch time channel"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time hidden"]:
        """Clip features and their positions, each linear and rectified, zero where padded (B11)."""
        length, most = video.shape[1], self.positions.num_embeddings
        if length > most:
            raise InputError(f"positions: found a video of {length} steps, expected at most {most}")
        position = self.dropout(F.relu(self.positions.weight[:length]))
        return (self.dropout(F.relu(self.video_input(video))) + position) * mask[..., None]

    def interact(
        self,
        video: Float[Tensor, "batch time hidden"],
        phrases: Float[Tensor, "batch phrase hidden"],
        mask: Bool[Tensor, "batch time"],
    ) -> Float[Tensor, "batch time hidden"]:
        """What each phrase finds nearby, the phrases' weighted sum, what that finds anywhere (B13)."""
        visible = torch.ones_like(mask) if self.hparams.as_released else mask
        # Every phrase has layers of its own; there are a handful.
        told = [
            near(fuse(video, phrase[:, None]), visible)
            for fuse, near, phrase in zip(self.fusion, self.near, phrases.unbind(dim=1), strict=True)
        ]
        share = self.phrase_pool(phrases)[1].softmax(dim=1).to(told[0].dtype)
        joined = torch.einsum("bn,nbtd->btd", share, torch.stack(told))
        for block in self.far:
            joined = block(joined, mask)
        return joined

    def locate(self, pooled: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch 2"]:
        """Start and end from the summarised video (B14)."""
        raw = self.head(self.summary(pooled)).float()
        return raw.sigmoid() if self.hparams.output == "sigmoid" else raw.relu()

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, GroundingData)
        return {**super().arguments_from(data), "positions": data.steps}

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' weights under our names; `vocabulary_size` must be that of their vocabulary.

        Left out is what changes no result: biases that a softmax cancels, a layer that is never used, and counters.
        """
        ours = {name: tensor for name, tensor in self.state_dict().items() if name.startswith("words.")}
        for name, tensor in state.items():
            block = _RELATION.match(name)
            if block:
                key, value = tensor.chunk(2)
                ours[f"far.{block[1]}.value.{block[2]}"] = value
                if block[2] == "weight":
                    ours[f"far.{block[1]}.key.weight"] = key
            elif not _UNUSED.search(name):
                ours[rename(name, _PUBLISHED)] = tensor
        # Their vectors are all learned, and the second row is the one of unknown words.
        return ours | {"words.unknown": ours["words.vectors"][1]}


def regression_loss(found: Float[Tensor, "batch 2"], span: Float[Tensor, "batch 2"]) -> Float[Tensor, ""]:
    """Smooth L1 of the start plus that of the end (B14).

    Examples:
        >>> regression_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.2, 0.6]]))
        tensor(0.1000)
    """
    return F.smooth_l1_loss(found, span, reduction="none").sum(dim=1).mean()


def guidance_loss(logits: Float[Tensor, "batch time"], foreground: Bool[Tensor, "batch time"]) -> Float[Tensor, ""]:
    """Attention over time should lie on the moment: minus its mean logarithm there, sum m log a / sum m (B14).

    Args:
        logits: of the attention, -inf where padded.
        foreground: valid steps of the moment.

    Examples:
        >>> guidance_loss(torch.zeros(1, 4), torch.tensor([[False, True, True, False]]))
        tensor(1.3863)
    """
    log_share = logits.log_softmax(dim=1).masked_fill(~foreground, 0)
    return -(log_share.sum(dim=1) / foreground.sum(dim=1).clamp(min=1)).mean()


def diversity_loss(weights: Float[Tensor, "batch phrase word"], diversity: float) -> Float[Tensor, ""]:
    """Phrases should read different words: || A A^T - diversity * I ||^2, Frobenius, for A the phrases' weights (B14).

    Args:
        diversity: wanted product of a phrase's weights with themselves: 1 asks for single words, less for several.

    Examples:
        >>> diversity_loss(torch.eye(3)[None], 1.0), diversity_loss(torch.ones(1, 2, 1), 1.0)
        (tensor(0.), tensor(2.))
    """
    weights = weights.float()
    wanted = diversity * torch.eye(weights.shape[1], device=weights.device)
    return (weights @ weights.transpose(1, 2) - wanted).square().sum(dim=(1, 2)).mean()


# Their "key and query" layer asks with what they call the key: its first half is our key, their value layer our query.
_RELATION = re.compile(r"^vti_fn\.global_fn\.(\d+)\.c_lin\.(weight|bias)$")
_UNUSED = re.compile(r"\.satt_fn\.fc\.|^sqan\.att_fn\.to_alpha\.bias$|\.num_batches_tracked$|^criterion\.")
_PUBLISHED = (
    (r"^query_enc\.embedding\.weight$", "words.vectors"),
    (r"^query_enc\.rnn\.(\w+)_l(\d+)_reverse$", r"query_encoder.back.\2.\1_l0"),
    (r"^query_enc\.rnn\.(\w+)_l(\d+)$", r"query_encoder.ahead.\2.\1_l0"),
    (r"^video_enc\.vid_emb_fn\.0\.", "video_input."),
    (r"^video_enc\.pos_emb_fn\.0\.", "positions."),
    (r"^sqan\.global_emb_fn\.", "phrase_attention.sentence."),
    (r"^sqan\.guide_emb_fn\.0\.", "phrase_attention.guide."),
    (r"^sqan\.att_fn\.key2att\.", "phrase_attention.key."),
    (r"^sqan\.att_fn\.feat2att\.", "phrase_attention.word."),
    (r"^sqan\.att_fn\.to_alpha\.", "phrase_attention.energy."),
    (r"^vti_fn\.fusion_fn\.(\d+)\.fc_1\.", r"fusion.\1.first."),
    (r"^vti_fn\.fusion_fn\.(\d+)\.fc_2\.", r"fusion.\1.second."),
    (r"^vti_fn\.fusion_fn\.(\d+)\.fc_3\.", r"fusion.\1.out."),
    (r"^vti_fn\.local_fn\.(\d+)\.blocks\.0\.0\.", r"near.\1.convs.0."),
    (r"^vti_fn\.local_fn\.(\d+)\.blocks\.0\.1\.", r"near.\1.norms.0."),
    (r"^vti_fn\.local_fn\.(\d+)\.blocks\.0\.3\.", r"near.\1.convs.1."),
    (r"^vti_fn\.local_fn\.(\d+)\.blocks\.0\.4\.", r"near.\1.norms.1."),
    (r"^vti_fn\.global_fn\.(\d+)\.v_lin\.", r"far.\1.query."),
    (r"^vti_fn\.satt_fn\.feat2att\.", "phrase_pool.token."),
    (r"^vti_fn\.satt_fn\.to_alpha\.", "phrase_pool.energy."),
    (r"^ta_reg_fn\.tatt\.feat2att\.", "time_pool.token."),
    (r"^ta_reg_fn\.tatt\.to_alpha\.", "time_pool.energy."),
    (r"^ta_reg_fn\.tatt\.fc\.", "summary."),
    (r"^ta_reg_fn\.MLP_reg\.", "head."),
)


def _check(hidden_dim: int, heads: int, kernel: int, counts: dict[str, int]) -> None:
    for name, value in {"hidden_dim": hidden_dim, "heads": heads, "kernel": kernel, **counts}.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, found {value}")
    if hidden_dim % 2 or hidden_dim % heads:
        raise InputError(f"hidden_dim: found {hidden_dim}, expected an even multiple of heads, which is {heads}")
    if kernel % 2 == 0:
        raise InputError(f"kernel must be odd, found {kernel}")
