"""A sequence as a tree of segments: neighbours that are alike merge, level by level; features stay differentiable.

Every sample of a batch grows its own tree, all of them at once. Leaves are the steps of the sequence. A merge dissolves
the boundary between two neighbours, and a boundary can be dissolved only once: the segment that closes the boundary
behind step j has the number T + j, so that 2 T - 1 places hold any tree.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.errors import InputError
from ommatid.nn.running import running_maximum

Features = Float[Tensor, "batch node dim"]
Values = Float[Tensor, "batch node"]
Relevance = Callable[[Features], Values]
"""How relevant nodes are, in [0, 1], from their features."""
NOWHERE = float("-inf")
MORE_LEVELS = 2
"""How many levels a tree may have beyond those of a balanced one (E7)."""


@dataclass
class SegmentNodes:
    """Every node of every tree, leaves first; what stands at places where `exists` is False means nothing.

    Attributes:
        first, last: the leaves that a node spans, both inside.
        relevance: of each node, in [0, 1].
        affinity: how alike its two children were when they merged; for a leaf -inf.
        before, after: how alike a root and its neighbour on either side are at the end; -inf where it has none.
        parent: number of the node that it became part of, -1 for a node without.
        exists: steps of the sequence, and what was merged.
        root: what is left at the end, neither merged nor pruned.
    """

    features: Features
    first: Int[Tensor, "batch node"]
    last: Int[Tensor, "batch node"]
    relevance: Values
    affinity: Values
    before: Values
    after: Values
    parent: Int[Tensor, "batch node"]
    exists: Bool[Tensor, "batch node"]
    root: Bool[Tensor, "batch node"]

    @property
    def length(self) -> Int[Tensor, "batch node"]:
        return self.last - self.first + 1

    @property
    def leaves(self) -> int:
        """Steps of the longest sequence."""
        return (self.exists.shape[1] + 1) // 2

    def halves(self) -> tuple["SegmentNodes", "SegmentNodes"]:
        """The trees of the first and of the second half of the batch."""
        first, second = ({name: part.chunk(2)[half] for name, part in vars(self).items()} for half in (0, 1))
        return SegmentNodes(**first), SegmentNodes(**second)

    def steps(self) -> Bool[Tensor, "batch node time"]:
        """Which steps each node spans."""
        step = torch.arange(self.leaves, device=self.first.device)
        return self.exists[..., None] & (self.first[..., None] <= step) & (step <= self.last[..., None])

    def above_parent(self) -> Bool[Tensor, "batch node"]:
        """Merged segments inside a larger one whose relevance is at least that of the larger one."""
        larger = self.relevance.gather(1, self.parent.clamp(min=0))
        inner = torch.arange(self.exists.shape[1], device=self.exists.device) >= self.leaves
        return self.exists & inner & (self.parent >= 0) & (self.relevance >= larger)

    def containing(self, step: Int[Tensor, "batch"]) -> Bool[Tensor, "batch node"]:
        """Nodes that span a step."""
        return self.exists & (self.first <= step[:, None]) & (step[:, None] <= self.last)


@dataclass
class _Frontier:
    """Nodes that stand side by side, from left to right; those of a level begin at the first place of each row."""

    number: Int[Tensor, "batch place"]
    first: Int[Tensor, "batch place"]
    last: Int[Tensor, "batch place"]
    features: Float[Tensor, "batch place dim"]
    relevance: Float[Tensor, "batch place"]
    valid: Bool[Tensor, "batch place"]

    def take(self, place: Int[Tensor, "batch taken"]) -> "_Frontier":
        return _Frontier(**{name: part.gather(1, _wide(place, part)) for name, part in vars(self).items()})

    def put(self, place: Int[Tensor, "batch taken"], nodes: "_Frontier") -> "_Frontier":
        """With the valid ones of `nodes` at their places, which hold a valid node each."""
        parts = {}
        for name, part in vars(self).items():
            if name != "valid":
                here = _wide(place, part)
                new = torch.where(_wide(nodes.valid, part), getattr(nodes, name), part.gather(1, here))
                parts[name] = part.scatter(1, here, new)
        return replace(self, **parts)

    def spans(self, leaf: Bool[Tensor, "batch time"]) -> Bool[Tensor, "batch place"]:
        """Nodes with at least one of the marked leaves."""
        count = F.pad(leaf.long().cumsum(dim=1), (1, 0))
        return count.gather(1, self.last + 1) > count.gather(1, self.first)

    def neighbours(self) -> Bool[Tensor, "batch pair"]:
        """Whether a node and the next one touch: what was pruned between two nodes keeps them apart."""
        touch = self.last[:, :-1] + 1 == self.first[:, 1:]
        return touch & self.valid[:, :-1] & self.valid[:, 1:]


@dataclass
class _Births:
    """The new nodes of a level, the numbers of their children, and how alike these were."""

    nodes: _Frontier
    left: Int[Tensor, "batch place"]
    right: Int[Tensor, "batch place"]
    affinity: Float[Tensor, "batch place"]


class SegmentTree(nn.Module):
    """Merges neighbouring segments bottom-up and prunes irrelevant ones (MHST, arXiv:2301.01871, E4-E8).

    Without a relevance it is a pooling for any sequence: neighbours merge where their projected features, seen from the
    mean of the sequence, point into the same direction. The shape of a tree is not differentiated, what it holds is.

    Args:
        dim: width of the leaves.
        projection: width of the space in which neighbours are compared (E4).
        threshold: least affinity of a merge on the first level (E5).
        decay, lowest: the threshold of level l is `threshold * decay**l`, but not below `lowest`.
        irrelevant: nodes of a smaller relevance are pruned (E8).
        doubtful: nodes of a smaller relevance are kept, but weigh less in what they merge into.
        levels: how often neighbours merge at most; log2 of the steps, rounded up, plus two where None (E7).

    Raises:
        InputError: a threshold outside its range.

    Examples:
        >>> tree = SegmentTree(dim=4)
        >>> leaves = torch.tensor([[[1.0, 0, 0, 0]] * 3 + [[0, 1.0, 0, 0]] * 2])
        >>> nodes = tree(leaves, torch.ones(1, 5, dtype=torch.bool))
        >>> sorted(zip(nodes.first[nodes.root].tolist(), nodes.last[nodes.root].tolist()))
        [(0, 2), (3, 4)]
    """

    def __init__(
        self,
        dim: int,
        projection: int = 128,
        threshold: float = 0.6,
        decay: float = 0.97,
        lowest: float = 0.5,
        irrelevant: float = 0.2,
        doubtful: float = 0.5,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        if not (-1 <= threshold <= 1 and -1 <= lowest <= 1 and 0 < decay <= 1):
            raise InputError(
                f"threshold and lowest must lie in [-1, 1] and decay in (0, 1], found {threshold}, {lowest} and {decay}"
            )
        if not 0 <= irrelevant <= doubtful <= 1:
            raise InputError(f"expected 0 <= irrelevant <= doubtful <= 1, found {irrelevant} and {doubtful}")
        self.threshold, self.decay, self.lowest = threshold, decay, lowest
        self.irrelevant, self.doubtful, self.levels = irrelevant, doubtful, levels
        self.project = nn.Linear(dim, projection, bias=False)
        self.join = nn.Linear(2 * dim, dim)
        # A parent begins as the mean of its children: an untrained layer would turn it away from its neighbours.
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)

    def forward(
        self,
        leaves: Float[Tensor, "batch time dim"],
        mask: Bool[Tensor, "batch time"],
        relevance: Relevance | None = None,
        kept: Bool[Tensor, "batch time"] | None = None,
        prune: bool = True,
    ) -> SegmentNodes:
        """
        Args:
            relevance: how relevant nodes are, asked again on every level; everything is where None.
            kept: leaves that must not be pruned, nor any node that spans one of them.
            prune: False removes nothing and weighs all alike.
        """
        judge: Relevance = relevance or _all_relevant
        centre = _mean(leaves, mask)
        front = _leaf_level(leaves, _full(judge(leaves)), mask)
        nodes = _planted(front)
        most = self.most_levels(mask)
        growing = most > 0
        # A level needs the one before it; there are about as many as the number of steps has binary digits.
        for level in range(_depth(mask.shape[1]) if self.levels is None else self.levels):
            growing = growing & (level < most)
            if prune:
                doomed = (front.relevance < self.irrelevant) & growing
                front = replace(front, valid=front.valid & ~(doomed if kept is None else doomed & ~front.spans(kept)))
            affinity = self.affinity(front, centre)
            merged = merge_adjacent(affinity, self.threshold_at(level), front.neighbours() & growing)
            growing = merged.any(dim=1, keepdim=True)
            front, births = self._merge(front, merged, affinity, judge, prune)
            nodes = _with(nodes, births)
        return _harvested(nodes, front, self.affinity(front, centre))

    def most_levels(self, mask: Bool[Tensor, "batch time"]) -> Int[Tensor, "batch 1"]:
        """After how many levels each tree has its height at the latest, by its own number of leaves (E7)."""
        steps = mask.sum(dim=1, keepdim=True)
        if self.levels is not None:
            return torch.full_like(steps, self.levels)
        powers = 2 ** torch.arange(_depth(mask.shape[1]), device=mask.device)
        return (powers < steps).sum(dim=1, keepdim=True) + MORE_LEVELS

    def threshold_at(self, level: int) -> float:
        """Least affinity of a merge on a level (E5)."""
        return max(self.threshold * self.decay**level, self.lowest)

    def affinity(self, front: _Frontier, centre: Float[Tensor, "batch 1 dim"]) -> Float[Tensor, "batch pair"]:
        """Cosine of projected neighbours, less where one is more relevant than the other (E4); -inf for no pair."""
        direction = F.normalize(_full(self.project(front.features - centre)), dim=-1)
        alike = (direction[:, :-1] * direction[:, 1:]).sum(dim=-1)
        agreement = 1 - (front.relevance[:, :-1] - front.relevance[:, 1:]).abs()
        return (alike * agreement).masked_fill(~front.neighbours(), NOWHERE)

    def _merge(
        self,
        front: _Frontier,
        merged: Bool[Tensor, "batch pair"],
        affinity: Float[Tensor, "batch pair"],
        judge: Relevance,
        prune: bool,
    ) -> tuple[_Frontier, _Births]:
        """The next level, and what is new on it."""
        # At most every second pair merges, which halves the work of the layers.
        pair = _to_the_left(merged)[:, : (merged.shape[1] + 1) // 2]
        left, right = front.take(pair), front.take(pair + 1)
        features = self._parent(left, right, prune)
        number = left.last + front.valid.shape[1]
        parents = _Frontier(number, left.first, right.last, features, _full(judge(features)), merged.gather(1, pair))
        after = front.put(pair, parents)
        after = replace(after, valid=after.valid & ~F.pad(merged, (1, 0)))
        births = _Births(parents, left.number, right.number, affinity.gather(1, pair))
        return after.take(_to_the_left(after.valid)), births

    def _parent(self, left: _Frontier, right: _Frontier, prune: bool) -> Float[Tensor, "batch place dim"]:
        """Mean and maximum of two children through a layer, and the mean itself (E6)."""
        first, second = self._weight(left, prune), self._weight(right, prune)
        share = (first / (first + second).clamp(min=1e-12))[..., None].to(left.features.dtype)
        mean = share * left.features + (1 - share) * right.features
        largest = torch.maximum(left.features, right.features)
        return self.join(torch.cat([mean, largest], dim=-1)).to(mean.dtype) + mean

    def _weight(self, front: _Frontier, prune: bool) -> Float[Tensor, "batch place"]:
        """Leaves under each node, times its relevance where that is in doubt (E6, E8)."""
        length = (front.last - front.first + 1).to(front.relevance.dtype)
        return torch.where(front.relevance < self.doubtful, front.relevance, 1.0) * length if prune else length


def merge_adjacent(
    affinity: Float[Tensor, "batch pair"], threshold: float, mask: Bool[Tensor, "batch pair"]
) -> Bool[Tensor, "batch pair"]:
    """Which neighbours merge: pair i is node i with node i + 1 (MHST, arXiv:2301.01871, E5).

    A pair merges if its affinity reaches the threshold and neither of the two pairs beside it is more alike; of pairs
    that are equally alike the left one goes first, so that no node merges twice.

    Args:
        mask: pairs that may merge at all.

    Examples:
        >>> affinity = torch.tensor([[0.7, 0.9, 0.8, 0.1, 0.6]])
        >>> merge_adjacent(affinity, 0.5, torch.ones(1, 5, dtype=torch.bool)).int().tolist()
        [[0, 1, 0, 0, 1]]
        >>> merge_adjacent(torch.ones(1, 4), 0.5, torch.ones(1, 4, dtype=torch.bool)).int().tolist()
        [[1, 0, 1, 0]]
    """
    affinity = affinity.masked_fill(~mask, NOWHERE)
    before = F.pad(affinity, (1, 0), value=NOWHERE)[:, :-1]
    after = F.pad(affinity, (0, 1), value=NOWHERE)[:, 1:]
    peak = (affinity >= threshold) & (affinity >= before) & (affinity >= after) & mask
    # Peaks side by side are ties: every second one of such a run merges, counted from its left end.
    position = torch.arange(affinity.shape[1], device=affinity.device)
    return peak & ((position - _last_before(~peak)) % 2 == 1)


def _last_before(mark: Bool[Tensor, "batch pair"]) -> Int[Tensor, "batch pair"]:
    """The nearest marked position at or before each position, -1 where there is none."""
    position = torch.arange(mark.shape[1], device=mark.device).expand(mark.shape)
    return running_maximum(torch.where(mark, position, -1))


def _full(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """At least in single precision: what is compared decides the shape of a tree."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _all_relevant(nodes: Features) -> Values:
    return nodes.new_ones(nodes.shape[:2])


def _mean(leaves: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]) -> Float[Tensor, "batch 1 dim"]:
    valid = mask[..., None].to(leaves.dtype)
    return (leaves * valid).sum(dim=1, keepdim=True) / valid.sum(dim=1, keepdim=True).clamp(min=1)


def _depth(steps: int) -> int:
    return math.ceil(math.log2(steps)) + MORE_LEVELS


def _leaf_level(
    leaves: Float[Tensor, "batch time dim"], relevance: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
) -> _Frontier:
    step = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    return _Frontier(step, step, step, leaves, relevance, mask)


def _to_the_left(stays: Bool[Tensor, "batch place"]) -> Int[Tensor, "batch place"]:
    """The order that brings what stays to the first places."""
    return torch.sort((~stays).to(torch.uint8), dim=1, stable=True).indices


def _planted(front: _Frontier) -> SegmentNodes:
    """The leaves, room for all nodes that can come, and one last place for what is none."""
    count = front.valid.shape[1]
    nowhere = torch.full_like(front.relevance, NOWHERE)
    parts = {
        "features": front.features,
        "first": front.first,
        "last": front.last,
        "relevance": front.relevance,
        "affinity": nowhere,
        "before": nowhere,
        "after": nowhere,
        "parent": torch.full_like(front.first, -1),
        "exists": front.valid,
        "root": torch.zeros_like(front.valid),
    }
    empty = {"affinity": NOWHERE, "before": NOWHERE, "after": NOWHERE, "parent": -1}
    return SegmentNodes(
        **{
            name: torch.cat([part, part.new_full((len(part), count, *part.shape[2:]), empty.get(name, 0))], dim=1)
            for name, part in parts.items()
        }
    )


def _with(nodes: SegmentNodes, births: _Births) -> SegmentNodes:
    """The nodes, and those that a level has added."""
    new, spare = births.nodes, nodes.exists.shape[1] - 1
    place, left, right = (torch.where(new.valid, number, spare) for number in (new.number, births.left, births.right))
    return replace(
        nodes,
        features=nodes.features.scatter(1, _wide(place, new.features), new.features),
        first=nodes.first.scatter(1, place, new.first),
        last=nodes.last.scatter(1, place, new.last),
        relevance=nodes.relevance.scatter(1, place, new.relevance),
        affinity=nodes.affinity.scatter(1, place, births.affinity),
        parent=nodes.parent.scatter(1, left, new.number).scatter(1, right, new.number),
        exists=nodes.exists.scatter(1, place, new.valid),
    )


def _wide(index: Tensor, values: Tensor) -> Tensor:
    """An index (or mask) of places for values that may also have channels."""
    return index[..., None].expand(*index.shape, values.shape[2]) if values.ndim == 3 else index


def _harvested(nodes: SegmentNodes, front: _Frontier, affinity: Float[Tensor, "batch pair"]) -> SegmentNodes:
    """The nodes with their roots, without the spare place."""
    spare = nodes.exists.shape[1] - 1
    place = torch.where(front.valid, front.number, spare)
    root = nodes.root.scatter(1, place, front.valid)[:, :-1]
    cut = SegmentNodes(**{name: part[:, :-1] for name, part in vars(nodes).items()})
    before = nodes.before.scatter(1, place, F.pad(affinity, (1, 0), value=NOWHERE))[:, :-1]
    after = nodes.after.scatter(1, place, F.pad(affinity, (0, 1), value=NOWHERE))[:, :-1]
    leaves = front.valid.shape[1]
    # Where everything was pruned, the most relevant leaf stands for the sequence.
    best = cut.relevance[:, :leaves].masked_fill(~cut.exists[:, :leaves], NOWHERE).argmax(dim=1)
    rescued = F.one_hot(best, root.shape[1]).bool() & ~root.any(dim=1, keepdim=True) & cut.exists
    return replace(cut, root=root | rescued, before=before, after=after)
