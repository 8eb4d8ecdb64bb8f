"""Scores of single samples, averaged once over the whole split, on one process or on many."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class SampleScores(Metric):
    """Mean over the samples of a split of each named score; NaN marks a score that a sample does not have.

    Every sample carries an identity. Distributed samplers repeat samples so that all processes get equally many; a
    repeated identity counts once, so the mean on two processes is the mean on one.

    Examples:
        >>> scores = SampleScores()
        >>> scores.update(torch.tensor([0, 1]), {"hit": torch.tensor([1.0, 0.0])})
        >>> scores.update(torch.tensor([1, 2]), {"hit": torch.tensor([0.0, float("nan")])})
        >>> scores.compute()
        {'hit': 0.5}
    """

    full_state_update = False
    identity: list[Tensor]
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.add_state("identity", default=[], dist_reduce_fx="cat")
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def update(self, identity: Int[Tensor, "batch"], scores: Mapping[str, Float[Tensor, "batch"]]) -> None:
        self.names = tuple(scores)
        self.identity.append(identity.detach())
        self.values.append(torch.stack([score.detach().float() for score in scores.values()], dim=1))

    def compute(self) -> dict[str, float]:
        identity, values = self.table()
        means = values.double().nanmean(dim=0)
        return {name: float(mean) for name, mean in zip(self.names, means, strict=True)} if len(identity) else {}

    def table(self) -> tuple[Int[Tensor, "sample"], Float[Tensor, "sample score"]]:
        """Every sample once, in the order of its identity, with its scores."""
        if not self.names:
            return torch.zeros(0, dtype=torch.long), torch.zeros(0, 0)
        identity = self.identity if isinstance(self.identity, Tensor) else torch.cat(self.identity)
        values = self.values if isinstance(self.values, Tensor) else torch.cat(self.values)
        unique, inverse = identity.unique(return_inverse=True)
        first = torch.full_like(unique, len(identity))
        first.scatter_reduce_(0, inverse, torch.arange(len(identity), device=identity.device), reduce="amin")
        return unique, values[first]
