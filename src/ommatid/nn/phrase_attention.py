"""A sentence read as a few phrases, and what phrases do with a video: fusion, pooling."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

Tokens = Float[Tensor, "batch token dim"]
TokenMask = Bool[Tensor, "batch token"]


class SequentialPhraseAttention(nn.Module):
    """N phrases of a sentence, one after the other, each knowing the one before it (LGI, arXiv:2004.07514, B12).

    A guide for phrase n is made of the sentence and the previous phrase, g_n = ReLU(W [W_n s; e_(n-1)]) with e_0 = 0;
    the phrase is the mean of the words under a_n = softmax of w^T tanh(W_g g_n + W_w word).

    Returns the phrases and their weights over the words, 0 for padded ones.

    Args:
        dim: width of sentence, words and phrases.
        phrases: how many, N.
        attention_dim: width in which guide and words are compared.

    Examples:
        >>> attention = SequentialPhraseAttention(8, phrases=3, attention_dim=4)
        >>> phrases, weights = attention(torch.randn(2, 8), torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
        >>> phrases.shape, weights.shape
        (torch.Size([2, 3, 8]), torch.Size([2, 3, 5]))
    """

    def __init__(self, dim: int, phrases: int, attention_dim: int) -> None:
        super().__init__()
        self.sentence = nn.ModuleList(nn.Linear(dim, dim) for _ in range(phrases))
        self.guide = nn.Linear(2 * dim, dim)
        self.key, self.word = nn.Linear(dim, attention_dim), nn.Linear(dim, attention_dim)
        self.energy = nn.Linear(attention_dim, 1, bias=False)

    def forward(
        self, sentence: Float[Tensor, "batch dim"], words: Tokens, mask: TokenMask
    ) -> tuple[Float[Tensor, "batch phrase dim"], Float[Tensor, "batch phrase token"]]:
        keys = self.word(words)
        phrase, phrases, weights = torch.zeros_like(sentence), [], []
        # One after the other, because every phrase depends on the one before it; there are a handful.
        for project in self.sentence:
            guide = F.relu(self.guide(torch.cat([project(sentence), phrase], dim=-1)))
            energy = self.energy(torch.tanh(keys + self.key(guide)[:, None]))[..., 0].float()
            weights.append(energy.masked_fill(~mask, float("-inf")).softmax(dim=-1))
            phrase = (weights[-1][:, None].to(words.dtype) @ words)[:, 0]
            phrases.append(phrase)
        return torch.stack(phrases, dim=1), torch.stack(weights, dim=1)


class TanhAttentionPool(nn.Module):
    """Tokens as one vector: their mean under a softmax of w^T tanh(W token) (LGI, arXiv:2004.07514, B13 and B14).

    Returns the mean and the logits of the softmax, -inf where padded, because losses on attention want logits.

    Examples:
        >>> pool = TanhAttentionPool(8, attention_dim=4)
        >>> pooled, logits = pool(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
        >>> pooled.shape, logits.shape
        (torch.Size([2, 8]), torch.Size([2, 5]))
    """

    def __init__(self, dim: int, attention_dim: int) -> None:
        super().__init__()
        self.token = nn.Linear(dim, attention_dim, bias=False)
        self.energy = nn.Linear(attention_dim, 1, bias=False)

    def forward(
        self, tokens: Tokens, mask: TokenMask | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch token"]]:
        logits = self.energy(torch.tanh(self.token(tokens)))[..., 0].float()
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        share = logits.softmax(dim=-1).to(tokens.dtype)
        return (share[:, None] @ tokens)[:, 0], logits


class HadamardFusion(nn.Module):
    """Two vectors as one, ReLU(W3 (ReLU(W1 a) * ReLU(W2 b))) (LGI, arXiv:2004.07514, B13); leading shapes broadcast.

    Args:
        first, second: widths of both inputs.
        dim: width of the output.

    Examples:
        >>> HadamardFusion(6, 4, 8)(torch.randn(2, 5, 6), torch.randn(2, 1, 4)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, first: int, second: int, dim: int) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(first, dim), nn.Linear(second, dim), nn.Linear(dim, dim)

    def forward(
        self, first: Float[Tensor, "... first"], second: Float[Tensor, "... second"]
    ) -> Float[Tensor, "... dim"]:
        return F.relu(self.out(F.relu(self.first(first)) * F.relu(self.second(second))))
