"""A sentence as one vector from which it can be rebuilt (DSCNet, arXiv:2201.05307, E1-E2)."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Words = Float[Tensor, "batch word dim"]
WordMask = Bool[Tensor, "batch word"]


class SentenceAutoencoder(nn.Module):
    """Word vectors to a unit code, and the code back to words; a code that must rebuild its sentence keeps its content.

    The code is a mean of the word vectors, cut to its own width; how much each word counts follows from its sentence
    and is learnt. Whatever shares the space of the word vectors therefore shares that of the codes.

    Args:
        dim: width of the word vectors.
        code_dim: width of the code.
        vocabulary_size: how many words the decoder knows.
        encoder: `(words, mask) -> states` of width `hidden_dim`.

    Examples:
        >>> from ommatid.nn.recurrent import BidirectionalGRU
        >>> model = SentenceAutoencoder(8, 4, 20, BidirectionalGRU(8, 6), hidden_dim=6)
        >>> codes = model.encode(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
        >>> codes.norm(dim=-1).allclose(torch.ones(2))
        True
    """

    mean: Tensor

    def __init__(self, dim: int, code_dim: int, vocabulary_size: int, encoder: nn.Module, hidden_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.attention = nn.Linear(hidden_dim, 1, bias=False)
        self.code = nn.Linear(dim, code_dim, bias=False)
        shared_space(self.code)
        # Nothing else would hold the codes in the space of the word vectors while they learn to be rebuilt.
        self.code.weight.requires_grad_(False)
        self.register_buffer("mean", torch.zeros(code_dim))
        self.start = nn.Linear(code_dim, hidden_dim)
        self.decoder = nn.GRU(dim + code_dim, hidden_dim, batch_first=True)
        self.word = nn.Linear(hidden_dim, vocabulary_size)

    def encode(self, words: Words, mask: WordMask) -> Float[Tensor, "batch code"]:
        """Unit codes (E1)."""
        return F.normalize(self.raw_code(words, mask) - self.mean, dim=-1)

    def raw_code(self, words: Words, mask: WordMask) -> Float[Tensor, "batch code"]:
        """Codes before what all sentences have in common (`mean`, zero until it is set) is taken off."""
        states = self.encoder(words, mask)
        weight = self.attention(states)[..., 0].float().masked_fill(~mask, float("-inf")).softmax(dim=1)
        return self.code((words * weight[..., None].to(words.dtype)).sum(dim=1)).float()

    def reconstruct(
        self,
        code: Float[Tensor, "batch code"],
        words: Words,
        indices: Int[Tensor, "batch word"],
        weight: Float[Tensor, "batch word"],
    ) -> Float[Tensor, "batch"]:
        """Weighted mean negative log-likelihood of a sentence, word after word, told its code alone (E2).

        Args:
            words: vectors of the same sentence, which the decoder is told one word later.
            weight: of every word; 0 where padded.
        """
        before = F.pad(words[:, :-1], (0, 0, 1, 0))
        told = torch.cat([before, code[:, None].expand(-1, words.shape[1], -1).to(words.dtype)], dim=-1)
        states, _ = self.decoder(told, torch.tanh(self.start(code))[None].to(told.dtype))
        logits = self.word(states).float()
        loss = F.cross_entropy(logits.transpose(1, 2), indices, reduction="none")
        return (loss * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-6)


@torch.no_grad()
def shared_space(layer: nn.Linear, noise: float = 0.02) -> None:
    """Start a projection as the identity on the channels that input and output share, with a little noise (E5)."""
    layer.weight.copy_(torch.eye(*layer.weight.shape) + noise * torch.randn_like(layer.weight))
