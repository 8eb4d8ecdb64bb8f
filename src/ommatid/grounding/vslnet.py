"""VSLNet: Span-based Localizing Network for Natural Language Video Localization (arXiv:2004.13931, ACL 2020).

A video is read like a passage of text, and a moment is the answer span in it. Clips and words pass one shared encoder
(B6, B7), every clip reads the sentence by context-query attention (B8), query-guided highlighting dims what the
sentence does not speak of (B9), and a predictor points at the first and the last step of the moment, the last one
conditioned on the first (B10). A baseline of the field. Block numbers refer to the field's card.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, digits
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.data.text import FIRST_WORD
from ommatid.engine.checkpoint import rename
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.encoders import WordEmbedding
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.task import GroundingBatch, Moments, sort_moments
from ommatid.grounding.timeindex import seconds_to_steps
from ommatid.nn.context_query import ContextQueryAttention, QueryGuidedHighlighting
from ommatid.nn.qanet import CHANNELS, CharacterConvolution, FeatureEncoder

Predictor = Literal["rnn", "transformer"]
Sequences = Float[Tensor, "batch time dim"]
Mask = Bool[Tensor, "batch time"]

IMPOSSIBLE = -1e30
"""Logit of a padded step: finite, so that sums of two of them stay numbers."""
UNKNOWN_CHARACTER, FIRST_CHARACTER = 1, 2


class RecurrentStates(nn.Module):
    """States for the start from an LSTM, states for the end from a second one that reads the first (B10)."""

    def __init__(self, dim: int, **_: Any) -> None:
        super().__init__()
        self.start = nn.LSTM(dim, dim, batch_first=True)
        self.end = nn.LSTM(dim, dim, batch_first=True)

    def forward(self, features: Sequences, mask: Mask) -> tuple[Sequences, Sequences]:
        # Both run forwards only, so that the padding behind a video never reaches its states.
        start = self.start(features)[0] * mask[..., None]
        return start, self.end(start)[0] * mask[..., None]


class EncodedStates(nn.Module):
    """States for the start from a feature encoder, states for the end from the same one applied once more (B10)."""

    def __init__(self, dim: int, **encoder: Any) -> None:
        super().__init__()
        self.encoder = FeatureEncoder(dim, **encoder)
        self.start_norm, self.end_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)

    def forward(self, features: Sequences, mask: Mask) -> tuple[Sequences, Sequences]:
        start = self.encoder(features, mask)
        return self.start_norm(start), self.end_norm(self.encoder(start, mask))


PREDICTORS = {"rnn": RecurrentStates, "transformer": EncodedStates}


class ConditionedSpanPredictor(nn.Module):
    """Logits of every step to be the first and the last of the moment, the last knowing of the first (B10)."""

    def __init__(self, kind: Predictor, dim: int, **encoder: Any) -> None:
        super().__init__()
        self.states = PREDICTORS[kind](dim, **encoder)
        self.start, self.end = _pointer(dim), _pointer(dim)

    def forward(
        self, features: Sequences, mask: Mask
    ) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
        start, end = self.states(features, mask)
        logits = self.start(torch.cat([start, features], dim=-1)), self.end(torch.cat([end, features], dim=-1))
        first, last = (logit[..., 0].float().masked_fill(~mask, IMPOSSIBLE) for logit in logits)
        return first, last


@dataclass
class Located:
    """What the network says of every step; logits of padded steps are `IMPOSSIBLE` for start and end.

    Attributes:
        start_logits, end_logits: to be the first, and the last step of the moment.
        highlight_logits: to lie in the moment or near it; anything where padded.
        mask: valid steps.
    """

    start_logits: Float[Tensor, "batch time"]
    end_logits: Float[Tensor, "batch time"]
    highlight_logits: Float[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]


class VSLNet(Grounder):
    """A moment as an answer span: context-query attention, highlighting, pointers to start and end (arXiv:2004.13931).

    Args:
        feature_dim, word_dim, vocabulary_size: as the data have them.
        hidden_dim: width of everything behind the inputs.
        character_dim: width of a character's vector.
        alphabet: the characters that have a vector of their own; all others share one.
        word_length: longer words are cut where they are spelled.
        positions: longest video or sentence, in steps; the data decide where they are known.
        heads: of every attention.
        predictor: "rnn" is the paper's pair of LSTMs; "transformer" applies one feature encoder twice.
        extend: the highlighted foreground reaches so much of the moment's length beyond either end.
        highlight_weight: of the loss of the highlighting.
        dropout: of inputs, encoders and similarities.
        as_released: the encoder's convolutions also read what is padded, as in the authors' PyTorch code, so that a
            prediction depends on the longest video of its batch.
        recipe: optimiser and schedule.
    """

    embedded = {
        "model": {
            "hidden_dim": 48,
            "character_dim": 16,
            "heads": 4,
            "dropout": 0.1,
            "recipe": {"lr": 2e-3, "weight_decay": 0.0, "schedule": "onecycle", "clip_norm": 1.0},
        },
        "data": {"steps": 32, "batch_size": 32},
        "trainer": {"max_steps": 800, "max_epochs": -1},
    }

    spelling: Tensor

    def __init__(
        self,
        feature_dim: int = 1024,
        word_dim: int = 300,
        vocabulary_size: int = 2,
        hidden_dim: int = 128,
        character_dim: int = 50,
        alphabet: str = ascii_lowercase + digits,
        word_length: int = 16,
        positions: int = 128,
        heads: int = 8,
        predictor: Predictor = "rnn",
        extend: float = 0.1,
        highlight_weight: float = 5.0,
        dropout: float = 0.2,
        as_released: bool = False,
        recipe: Recipe = Recipe("adamw", lr=1e-4, weight_decay=0.01, schedule="linear", clip_norm=1.0),
    ) -> None:
        super().__init__()
        _check(hidden_dim, heads, alphabet, word_length, positions, extend)
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.dropout = nn.Dropout(dropout)

        self.words = WordEmbedding(vocabulary_size, word_dim)
        self.characters = CharacterConvolution(FIRST_CHARACTER + len(alphabet), character_dim, dropout)
        self.query_input = nn.Linear(word_dim + CharacterConvolution.width, hidden_dim)
        self.video_input = nn.Linear(feature_dim, hidden_dim)
        # How each word of the vocabulary is spelled. Floats, because an average of the weights rounds integers down.
        # Four spare places: the widest convolution always sees an empty window, so that a word's vector does not
        # depend on the length of other words.
        self.register_buffer("spelling", torch.zeros(vocabulary_size, word_length + len(CHANNELS)), persistent=False)

        encoder: dict[str, Any] = {
            "heads": heads,
            "positions": positions,
            "dropout": dropout,
            "as_released": as_released,
        }
        self.encoder = FeatureEncoder(hidden_dim, **encoder)
        self.context_query = ContextQueryAttention(hidden_dim, dropout)
        self.highlighting = QueryGuidedHighlighting(hidden_dim)
        self.predictor = ConditionedSpanPredictor(predictor, hidden_dim, **encoder)
        self.apply(_initialise)

    def forward(self, batch: GroundingBatch) -> Moments:
        located = self.locate(batch.video, self.embed(batch.words), batch.video_mask, batch.word_mask)
        return decode_spans(located)

    def training_step(self, batch: GroundingBatch, _: int) -> Tensor:
        """Cross-entropy of start and end, and the highlighting against the slightly extended moment (B9, B10)."""
        located = self.locate(batch.video, self.embed(batch.words), batch.video_mask, batch.word_mask)
        moment = seconds_to_steps(batch.span, torch.ones_like(batch.duration), batch.video_mask.sum(dim=1))
        span = span_loss(located, moment)
        highlight = highlight_loss(located, extended_foreground(moment, batch.video_mask, self.hparams.extend))
        loss = span + self.hparams.highlight_weight * highlight
        self.report(loss=loss, span=span, highlight=highlight)
        return loss

    def embed(
        self, words: Int[Tensor, "batch word"], spelling: Int[Tensor, "batch word character"] | None = None
    ) -> Float[Tensor, "batch word dim"]:
        """Word vectors and spelled vectors of a sentence (B6); words are spelled as the vocabulary has them."""
        if spelling is None:
            spelling = F.embedding(words, self.spelling).long()
        return self.query_input(torch.cat([self.dropout(self.words(words)), self.characters(spelling)], dim=-1))

    def locate(
        self,
        video: Float[Tensor, "batch time channel"],
        query: Float[Tensor, "batch word dim"],
        video_mask: Bool[Tensor, "batch time"],
        query_mask: Bool[Tensor, "batch word"],
    ) -> Located:
        """Logits of every step (B7-B10), from clip features and embedded words."""
        query = self.encoder(query, query_mask)
        context = self.encoder(self.video_input(self.dropout(video)), video_mask)
        context = self.context_query(context, query, video_mask, query_mask)
        highlighted, highlight_logits = self.highlighting(context, query, video_mask, query_mask)
        start_logits, end_logits = self.predictor(highlighted, video_mask)
        return Located(start_logits, end_logits, highlight_logits, video_mask)

    # -- what the data decide --

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, GroundingData)
        return {**super().arguments_from(data), "positions": max(data.steps, data.max_words)}

    def take_over(self, data: GroundingData) -> None:
        super().take_over(data)
        self._spell()

    def restore_extras(self, extras: dict[str, Any]) -> None:
        super().restore_extras(extras)
        self._spell()

    def _spell(self) -> None:
        words, most = self.vocabulary.words, len(self.spelling) - FIRST_WORD
        if len(words) > most:
            raise InputError(f"vocabulary: found {len(words)} words, expected at most {most} (vocabulary_size)")
        table = spell(words, self.hparams.alphabet, self.spelling.shape[1], self.hparams.word_length)
        self.spelling[FIRST_WORD : FIRST_WORD + len(words)] = table

    # -- released weights --

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' PyTorch weights; `alphabet` and `vocabulary_size` must be those they were trained with."""
        own = self.state_dict()
        ours = {published_name(name): tensor for name, tensor in state.items()}
        ours["words.tags"] = own["words.tags"]
        padding, known = ours.pop("words.padding", None), ours.pop("words.known", None)
        if padding is not None and known is not None:
            ours["words.vectors"] = torch.cat([padding, torch.zeros_like(padding), known])
        # Their linear layers are convolutions of width one.
        return {
            name: tensor.reshape(own[name].shape) if name in own and own[name].numel() == tensor.numel() else tensor
            for name, tensor in ours.items()
        }


def span_loss(located: Located, moment: Int[Tensor, "batch 2"]) -> Float[Tensor, ""]:
    """Cross-entropy of the first step plus that of the last one (B10).

    Args:
        moment: first and last step of each annotated moment.
    """
    first, last = moment.unbind(dim=1)
    return F.cross_entropy(located.start_logits, first) + F.cross_entropy(located.end_logits, last)


def highlight_loss(located: Located, foreground: Bool[Tensor, "batch time"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of the highlighting, foreground counted twice, mean over all valid steps (B9)."""
    logits = located.highlight_logits.float()
    loss = F.binary_cross_entropy_with_logits(
        logits, foreground.to(logits.dtype), pos_weight=logits.new_tensor(2.0), reduction="none"
    )
    return (loss * located.mask).sum() / located.mask.sum().clamp(min=1)


def extended_foreground(
    moment: Int[Tensor, "batch 2"], mask: Bool[Tensor, "batch time"], extend: float = 0.1
) -> Bool[Tensor, "batch time"]:
    """Valid steps of the moment and, to both sides, `extend` of its length, rounded (B9).

    Examples:
        >>> extended_foreground(torch.tensor([[2, 3]]), torch.ones(1, 6, dtype=torch.bool), 0.5).int().tolist()
        [[0, 1, 1, 1, 1, 0]]
    """
    first, last = moment[:, :1], moment[:, 1:]
    margin = ((last - first + 1) * extend).round()
    position = torch.arange(mask.shape[1], device=mask.device)
    return (position >= first - margin) & (position <= last + margin) & mask


def decode_spans(located: Located) -> Moments:
    """Every pair of a first and a later or equal last step, by the product of their probabilities, best first (B10).

    A step reaches from its beginning to its end (D3). Pairs that end in the padding come last: empty, with score 0.
    """
    mask = located.mask
    length, steps = mask.shape[1], mask.sum(dim=1, keepdim=True)
    first, last = torch.triu_indices(length, length, device=mask.device)
    log_probs = located.start_logits.log_softmax(dim=1)[:, first] + located.end_logits.log_softmax(dim=1)[:, last]
    spans = torch.stack([first, last + 1], dim=-1) / steps[..., None]
    # Ranked by logarithms: products of small probabilities would vanish and tie.
    moments = sort_moments(spans.masked_fill((last >= steps)[..., None], 0), log_probs)
    return Moments(moments.spans, moments.scores.exp())


def spell(words: Sequence[str], alphabet: str, width: int, longest: int) -> Float[Tensor, "word width"]:
    """Words as rows of character indices: 0 pads, 1 is any character that the alphabet lacks, 2 its first one.

    Examples:
        >>> spell(["ab", "bé"], "abc", width=4, longest=3).tolist()
        [[2.0, 3.0, 0.0, 0.0], [3.0, 1.0, 0.0, 0.0]]
    """
    index = {character: position for position, character in enumerate(alphabet, start=FIRST_CHARACTER)}
    table = torch.zeros(len(words), width)
    # Words are texts of different lengths; this runs once a training, not once a batch.
    for row, word in enumerate(words):
        spelled = [index.get(character, UNKNOWN_CHARACTER) for character in word[:longest]]
        table[row, : len(spelled)] = torch.tensor(spelled, dtype=table.dtype)
    return table


_PUBLISHED = (
    (r"\.conv1d\.(weight|bias)$", r".\1"),
    (r"^embedding_net\.word_emb\.pad_vec$", "words.padding"),
    (r"^embedding_net\.word_emb\.unk_vec$", "words.unknown"),
    (r"^embedding_net\.word_emb\.glove_vec$", "words.known"),
    (r"^embedding_net\.char_emb\.char_emb\.", "characters.embedding."),
    (r"^embedding_net\.char_emb\.char_convs\.(\d+)\.0\.", r"characters.convolutions.\1."),
    (r"^embedding_net\.linear\.", "query_input."),
    (r"^video_affine\.linear\.", "video_input."),
    (r"^feature_encoder\.", "encoder."),
    (r"^predictor\.(encoder|start_layer_norm|end_layer_norm)\.", r"predictor.states.\1."),
    (r"_layer_norm\.", "_norm."),
    (r"encoder\.pos_embedding\.position_embeddings\.", "encoder.positions."),
    (r"encoder\.conv_block\.depthwise_separable_conv\.(\d+)\.0\.", r"encoder.convolutions.\1.across."),
    (r"encoder\.conv_block\.depthwise_separable_conv\.(\d+)\.1\.", r"encoder.convolutions.\1.within."),
    (r"encoder\.conv_block\.layer_norms\.(\d+)\.", r"encoder.convolutions.\1.norm."),
    (r"encoder\.attention_block\.layer_norm1\.", "encoder.attention.norm."),
    (r"encoder\.attention_block\.layer_norm2\.", "encoder.attention.out_norm."),
    (r"encoder\.attention_block\.out_layer\.", "encoder.attention.out."),
    (r"encoder\.attention_block\.", "encoder.attention."),
    (r"^cq_attention\.w4C$", "context_query.context.weight"),
    (r"^cq_attention\.w4Q$", "context_query.query.weight"),
    (r"^cq_attention\.w4mlu$", "context_query.product"),
    (r"^cq_attention\.cqa_linear\.", "context_query.join."),
    (r"^cq_concat\.weighted_pool\.weight$", "highlighting.pool.weight.weight"),
    (r"^cq_concat\.conv1d\.", "highlighting.join."),
    (r"^highlight_layer\.conv1d\.", "highlighting.score."),
    (r"^predictor\.(start|end)_encoder\.lstm\.", r"predictor.states.\1."),
    (r"^predictor\.(start|end)_block\.", r"predictor.\1."),
)


def published_name(name: str) -> str:
    """Our name of one of the authors' parameters.

    Examples:
        >>> published_name("feature_encoder.attention_block.query.conv1d.weight")
        'encoder.attention.query.weight'
    """
    return rename(name, _PUBLISHED)


def _pointer(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1))


def _initialise(module: nn.Module) -> None:
    """Glorot's uniform weights and zero biases, as the authors start."""
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(hidden_dim: int, heads: int, alphabet: str, word_length: int, positions: int, extend: float) -> None:
    if heads < 1 or hidden_dim % heads:
        raise InputError(f"heads: found {heads}, expected a divisor of hidden_dim, which is {hidden_dim}")
    if len(set(alphabet)) != len(alphabet):
        raise InputError(f"alphabet: found {alphabet!r}, expected every character once")
    for name, value in {"word_length": word_length, "positions": positions}.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, found {value}")
    if extend < 0:
        raise InputError(f"extend must be at least 0, found {extend}")
