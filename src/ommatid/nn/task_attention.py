"""Which parents a child listens to, by numbers that no input changes (KDExplainer, arXiv:2105.04181, E2, E3, E7)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class TaskAttention(nn.Module):
    """Every child weighs all parents; a tree is left where each keeps its first one only (E2).

    Args:
        children, parents: how many of each.

    Examples:
        >>> attention = TaskAttention(children=3, parents=2)
        >>> weights = attention(temperature=2.5)
        >>> weights.shape, bool(torch.isclose(weights.sum(dim=1), torch.ones(3)).all())
        (torch.Size([3, 2]), True)
    """

    def __init__(self, children: int, parents: int) -> None:
        super().__init__()
        # As a vector: recipes decay what has more dimensions, and a preference is not to decay.
        self.logits = nn.Parameter(torch.rand(children * parents))
        self.shape = children, parents

    def forward(self, temperature: float | Float[Tensor, ""]) -> Float[Tensor, "child parent"]:
        """Weights of the parents; rows sum to 1."""
        return (2 * self.logits.float().view(self.shape) / temperature).softmax(dim=1)

    def parent(self) -> Int[Tensor, "child"]:
        """The parent that every child listens to most."""
        return self.logits.view(self.shape).argmax(dim=1)

    def entropy(self, temperature: float | Float[Tensor, ""] = 1.0, normalise: bool = False) -> Float[Tensor, "child"]:
        """Of the weights of every child, in nats, or as a share of the largest possible (E7)."""
        entropy = torch.special.entr(self(temperature)).sum(dim=1)
        return entropy / math.log(max(self.shape[1], 2)) if normalise else entropy


def mixed(
    features: Float[Tensor, "batch parent *map"], weights: Float[Tensor, "child parent"]
) -> Float[Tensor, "batch child *map"]:
    """The input of every child: the weighted sum of its parents' outputs (E3)."""
    return torch.einsum("cp,bp...->bc...", weights.to(features.dtype), features)
