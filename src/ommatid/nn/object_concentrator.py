"""What the crops of some images share, and how well a query shows it (SOC)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.errors import InputError

EXHAUSTIVE = 20_000
"""So many combinations of crops are tried one and all; of more only the most promising are followed."""
BEAM = 64


def unit_vectors(maps: Float[Tensor, "*batch channel height width"]) -> Float[Tensor, "*batch channel"]:
    """One unit vector of a map of features: every place normalised, averaged, normalised again (E1).

    Examples:
        >>> unit_vectors(torch.rand(2, 8, 3, 3)).norm(dim=-1)
        tensor([1.0000, 1.0000])
    """
    places = F.normalize(maps.float(), dim=-3)
    return F.normalize(places.mean(dim=(-2, -1)), dim=-1)


class Prototypes(NamedTuple):
    """What the crops of some supports share, most common first, and which crops each of it was made of."""

    vectors: Float[Tensor, "*class prototype feature"]
    weights: Float[Tensor, "prototype"]
    crops: Int[Tensor, "*class prototype shot"]


class Matches(NamedTuple):
    """Pairs of a row and a column, the most similar first; no row and no column twice."""

    values: Float[Tensor, "*batch pair"]
    rows: Int[Tensor, "*batch pair"]
    columns: Int[Tensor, "*batch pair"]


def greedy_matching(similarity: Float[Tensor, "*batch row column"], as_released: bool = False) -> Matches:
    """The most similar pair, then the most similar of what is left, and so on (COSOC, arXiv:2107.07746, E13).

    Args:
        as_released: pair all that the first match leaves in its original order, as the released code does.

    Examples:
        >>> found = greedy_matching(torch.tensor([[0.9, 0.8], [0.7, 0.1]]))
        >>> found.values, found.rows, found.columns
        (tensor([0.9000, 0.1000]), tensor([0, 1]), tensor([0, 1]))
    """
    rows, columns = similarity.shape[-2:]
    left, found = similarity, []
    rounds = 1 if as_released else min(rows, columns)
    # As many rounds as there are crops: each depends on what the one before has removed.
    for _ in range(rounds):
        value, place = left.flatten(-2).max(dim=-1)
        row, column = place // columns, place % columns
        found.append((value, row, column))
        taken = F.one_hot(row, rows).bool()[..., :, None] | F.one_hot(column, columns).bool()[..., None, :]
        left = left.masked_fill(taken, float("-inf"))
    if as_released:
        found += _in_order(similarity, *found[0][1:])
    return Matches(*(torch.stack(part, dim=-1) for part in zip(*found, strict=True)))


def _in_order(
    similarity: Float[Tensor, "*batch row column"], row: Int[Tensor, "*batch"], column: Int[Tensor, "*batch"]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Rows and columns without those of the first match, paired as they stand, the most similar first."""
    pairs = torch.arange(min(similarity.shape[-2:]) - 1, device=similarity.device)
    rows, columns = (pairs + (pairs >= taken[..., None]) for taken in (row, column))
    values = similarity.flatten(-2).gather(-1, rows * similarity.shape[-1] + columns)
    values, order = values.sort(dim=-1, descending=True)
    rows, columns = rows.gather(-1, order), columns.gather(-1, order)
    return list(zip(values.unbind(-1), rows.unbind(-1), columns.unbind(-1), strict=True))


def greedy_matching_score(
    similarity: Float[Tensor, "*batch row column"], beta: float = 0.8, as_released: bool = False
) -> Float[Tensor, "*batch"]:
    """How well rows and columns match: the sum of beta^u times the positive part of the u-th match (E13).

    Examples:
        >>> greedy_matching_score(torch.tensor([[0.9, 0.8], [0.7, 0.1]]), beta=0.5)
        tensor(0.9500)
    """
    values = greedy_matching(similarity, as_released).values.relu()
    return (values * beta ** torch.arange(values.shape[-1], device=values.device)).sum(dim=-1)


def shared_prototypes(
    support: Float[Tensor, "*class shot crop feature"], alpha: float = 1.0, as_released: bool = False
) -> Prototypes:
    """What the crops of a class's supports share: in each round one crop of every support, all alike (E10, E11).

    One support alone shares nothing: every crop of it is a prototype of weight 1.

    Args:
        support: unit vectors of the crops.
        alpha: weight of each round over that of the round before.
        as_released: with several supports the last round repeats the one before it, as the released code does.
    """
    *classes, shots, crops, _ = support.shape
    rounds = torch.arange(crops, device=support.device)
    if shots == 1:
        numbers = rounds[:, None].expand(*classes, crops, 1)
        return Prototypes(support.squeeze(-3), torch.ones_like(rounds, dtype=support.dtype), numbers)
    flat = support.reshape(-1, *support.shape[-3:])
    choose = _all_combinations if crops**shots <= EXHAUSTIVE else _promising_combinations
    numbers = choose(flat)
    if as_released and crops > 1:
        numbers = torch.cat([numbers[:, :-1], numbers[:, -2:-1]], dim=1)
    index = rearrange(numbers, "n round shot -> n shot round 1").expand(-1, -1, -1, flat.shape[-1])
    means = F.normalize(flat.gather(2, index).mean(dim=1), dim=-1)
    return Prototypes(
        means.view(*classes, crops, -1), (alpha**rounds).to(support.dtype), numbers.view(*classes, crops, shots)
    )


def _all_combinations(support: Float[Tensor, "n shot crop feature"]) -> Int[Tensor, "n crop shot"]:
    """The most similar of all combinations of the remaining crops, round by round."""
    count, shots, crops, _ = support.shape
    total = support.new_zeros(count, *[crops] * shots)
    # A handful of supports: each pair adds the similarities of its crops to every combination that has them.
    for first in range(shots):
        for second in range(first + 1, shots):
            shape = [count] + [crops if axis in (first, second) else 1 for axis in range(shots)]
            total = total + (support[:, first] @ support[:, second].mT).view(shape)
    chosen = []
    for _ in range(crops):
        best = total.flatten(1).argmax(dim=1)
        digits = [(best // crops ** (shots - 1 - axis)) % crops for axis in range(shots)]
        chosen.append(torch.stack(digits, dim=1))
        for axis, digit in enumerate(digits):
            shape = [count] + [crops if other == axis else 1 for other in range(shots)]
            total = total.masked_fill(F.one_hot(digit, crops).bool().view(shape), float("-inf"))
    return torch.stack(chosen, dim=1)


def _promising_combinations(support: Float[Tensor, "n shot crop feature"]) -> Int[Tensor, "n crop shot"]:
    """The same where there are too many: support by support the combinations with the longest sum are followed."""
    count, shots, crops, width = support.shape
    used = torch.zeros(count, shots, crops, dtype=torch.bool, device=support.device)
    chosen = []
    for _ in range(crops):
        sums, numbers = support.new_zeros(count, 1, width), used.new_zeros(count, 1, 0, dtype=torch.long)
        barred = used.new_zeros(count, 1)
        for shot in range(shots):
            longer = sums[:, :, None] + support[:, None, shot]
            # What has a used crop only fills the list where there are fewer others.
            barred = (barred[:, :, None] | used[:, None, shot]).flatten(1)
            length = longer.norm(dim=-1).flatten(1).masked_fill(barred, float("-inf"))
            kept = length.topk(min(BEAM, length.shape[1]), dim=1).indices
            barred = barred.gather(1, kept)
            sums = longer.flatten(1, 2).gather(1, kept[..., None].expand(-1, -1, width))
            before = numbers.gather(1, (kept // crops)[..., None].expand(-1, -1, shot))
            numbers = torch.cat([before, (kept % crops)[..., None]], dim=-1)
        chosen.append(numbers[:, 0])
        used |= F.one_hot(numbers[:, 0], crops).bool()
    return torch.stack(chosen, dim=1)


class SharedObjectConcentrator(nn.Module):
    """Scores of queries against classes, crop by crop (COSOC, arXiv:2107.07746, E10-E13); nothing is learnt.

    Args:
        alpha: weight of what the supports share over what they share more.
        beta: weight of each match over the one before.
        as_released: match and choose as the released code does, which departs from the paper in both.

    Examples:
        >>> support, query = torch.randn(2, 5, 1, 7, 16), torch.randn(2, 10, 7, 16)
        >>> SharedObjectConcentrator()(support, query).shape
        torch.Size([2, 10, 5])
    """

    def __init__(self, alpha: float = 1.0, beta: float = 0.8, as_released: bool = False) -> None:
        super().__init__()
        for name, value in {"alpha": alpha, "beta": beta}.items():
            if not 0 <= value <= 1:
                raise InputError(f"{name}: found {value}, expected a weight from 0 to 1")
        self.alpha, self.beta, self.as_released = alpha, beta, as_released

    def forward(
        self,
        support: Float[Tensor, "episode way shot crop feature"],
        query: Float[Tensor, "episode query crop feature"],
    ) -> Float[Tensor, "episode query way"]:
        """Scores of every query; crops are unit vectors (`unit_vectors`)."""
        return greedy_matching_score(self.similarity(support, query), self.beta, self.as_released)

    def similarity(
        self,
        support: Float[Tensor, "episode way shot crop feature"],
        query: Float[Tensor, "episode query crop feature"],
    ) -> Float[Tensor, "episode query way prototype crop"]:
        """Of every prototype and every crop of a query, weighed by the prototype's round (E12)."""
        found = shared_prototypes(support, self.alpha, self.as_released)
        weighed = found.vectors * found.weights[:, None]
        return torch.einsum("ewpd,eqcd->eqwpc", weighed, query)

    def highest(self, crops: int) -> float:
        """The score of a query that shows all prototypes without a difference."""
        return sum(self.beta**place for place in range(crops))
