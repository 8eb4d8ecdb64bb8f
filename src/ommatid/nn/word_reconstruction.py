"""Masked words of a sentence, guessed from a part of a video: the better, the more of the sentence the part shows."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.nn.attention import MultiHeadAttention, sinusoid

FAINT = -30.0
"""Score of the empty step that a word may look at where it is given no step at all."""


class MaskedQueryReconstructor(nn.Module):
    """How badly masked words are guessed from the other words and weighted steps of a video (arXiv:2301.01871, E13).

    One layer of a transformer decoder: the words read each other, then the steps that have a weight, then a
    feed-forward layer guesses. Serves any method that learns from pairs of videos and sentences alone. Several
    selections of steps of one video are judged side by side; only what depends on the selection is computed for each.

    Words are indices of a vocabulary, 0 is padding; their vectors are learned here, and also do the guessing.

    Args:
        vocabulary_size: rows of the vocabulary, padding included.
        dim: width of the video's features and of the words.
        heads: of both attentions, a divisor of `dim`.

    Examples:
        >>> reconstructor = MaskedQueryReconstructor(vocabulary_size=9, dim=8)
        >>> video, words = torch.randn(2, 5, 8), torch.tensor([[2, 3, 4], [5, 6, 0]])
        >>> masked = torch.tensor([[False, True, False], [True, False, False]])
        >>> reconstructor(video, torch.ones(2, 5), words, masked).shape
        torch.Size([2])
        >>> reconstructor(video, torch.rand(2, 7, 5), words, masked).shape
        torch.Size([2, 7])
    """

    def __init__(self, vocabulary_size: int, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.words = nn.Parameter(torch.empty(vocabulary_size, dim).normal_(0, dim**-0.5))
        self.hidden = nn.Parameter(torch.empty(dim).normal_(0, dim**-0.5))
        self.read = MultiHeadAttention(dim, heads)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))

    def forward(
        self,
        video: Float[Tensor, "batch time dim"],
        weight: Float[Tensor, "batch *selection time"],
        words: Int[Tensor, "batch word"],
        masked: Bool[Tensor, "batch word"],
    ) -> Float[Tensor, "batch *selection"]:
        """Mean negative log-likelihood of the masked words, 0 for a sentence without any.

        Args:
            weight: of each step, at least 0; steps of weight 0 cannot be seen, padded ones must have it.
            masked: words to guess.
        """
        selections = weight if weight.ndim == 3 else weight[:, None]
        told = self._words(words, masked)
        seen = self.norms[1](told[:, None] + self._look(told, video, selections))
        guess = self.norms[2](seen + self.feed_forward(seen))
        nll = self._nll(guess, words)
        asked = masked[:, None].to(nll.dtype)
        mean = (nll * asked).sum(dim=-1) / asked.sum(dim=-1).clamp(min=1)
        return mean if weight.ndim == 3 else mean[:, 0]

    def _words(
        self, words: Int[Tensor, "batch word"], masked: Bool[Tensor, "batch word"]
    ) -> Float[Tensor, "batch word dim"]:
        """The sentence with its masked words hidden, each word having read the others."""
        dim = self.words.shape[1]
        known = torch.where(masked[..., None], self.hidden, F.embedding(words, self.words))
        placed = known * dim**0.5 + sinusoid(words.shape[1], dim, words.device)
        return self.norms[0](placed + self.read(placed, placed, words != 0))

    def _look(
        self,
        told: Float[Tensor, "batch word dim"],
        video: Float[Tensor, "batch time dim"],
        weight: Float[Tensor, "batch selection time"],
    ) -> Float[Tensor, "batch selection word dim"]:
        """What each word sees of each selection; scores are the same for all selections."""
        query, key, value = (
            rearrange(projected, "b t (h d) -> b h t d", h=self.heads)
            for projected in (self.query(told), self.key(video), self.value(video))
        )
        score = (query @ key.transpose(-1, -2)).float() / query.shape[-1] ** 0.5
        # log 0 is -inf, and has no gradient: a step without weight cannot gain one by it.
        allowed = weight.clamp(min=torch.finfo(weight.dtype).tiny).log().masked_fill(weight <= 0, float("-inf"))
        score = score[:, None] + allowed[:, :, None, None]
        share = F.pad(score, (0, 1), value=FAINT).softmax(dim=-1)[..., :-1].to(value.dtype)
        return self.out(rearrange(torch.einsum("bshnt,bhtd->bshnd", share, value), "b s h n d -> b s n (h d)"))

    def _nll(
        self, guess: Float[Tensor, "batch selection word dim"], words: Int[Tensor, "batch word"]
    ) -> Float[Tensor, "batch selection word"]:
        logits = (guess @ self.words.T).float()
        right = words[:, None, :, None].expand(-1, guess.shape[1], -1, 1)
        return logits.logsumexp(dim=-1) - logits.gather(-1, right)[..., 0]


def draw_masked_words(
    word_mask: Bool[Tensor, "batch word"],
    weight: Float[Tensor, "batch word"],
    share: float = 1 / 3,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch word"]:
    """A share of the words of each sentence, at least one, drawn without replacement in proportion to their weight.

    Args:
        weight: above 0 for words that may be drawn; one of weight 2 is drawn first twice as often as one of weight 1.

    Examples:
        >>> words = torch.tensor([[True, True, True, True, False]])
        >>> int(draw_masked_words(words, torch.ones(1, 5), share=0.5).sum())
        2
    """
    drawable = word_mask & (weight > 0)
    # The largest of log-weight + Gumbel noise: drawing without replacement.
    noise = torch.empty_like(weight).exponential_(generator=generator).clamp(min=1e-20)
    key = (weight.clamp(min=1e-20).log() - noise.log()).masked_fill(~drawable, float("-inf"))
    rank = key.argsort(dim=1, descending=True).argsort(dim=1)
    count = (word_mask.sum(dim=1, keepdim=True) * share).round().clamp(min=1)
    return drawable & (rank < count)
