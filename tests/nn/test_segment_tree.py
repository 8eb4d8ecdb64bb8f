"""Trees of segments, all at once, against one tree after the other grown by plain Python."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.errors import InputError
from ommatid.nn.segment_tree import SegmentTree, merge_adjacent

DIM = 6


# --- one level ---


def merge_one_by_one(affinity, threshold, allowed):
    """From left to right: a pair that no pair beside it beats merges, unless its left node is taken."""
    at = [value if ok else -math.inf for value, ok in zip(affinity, allowed, strict=True)]
    merged = [False] * len(at)
    for i, value in enumerate(at):
        beaten = (i > 0 and at[i - 1] > value) or (i + 1 < len(at) and at[i + 1] > value)
        taken = i > 0 and merged[i - 1]
        merged[i] = allowed[i] and value >= threshold and not beaten and not taken
    return merged


levels = st.lists(st.tuples(st.integers(-2, 4), st.booleans()), min_size=0, max_size=12)


@settings(deadline=None, max_examples=300)
@given(levels, st.sampled_from([-0.5, 0.25, 0.5, 0.75]))
def test_one_level_merges_like_a_walk_from_the_left(pairs, threshold):
    # Quarters make ties frequent.
    affinity, allowed = [value / 4 for value, _ in pairs], [ok for _, ok in pairs]
    merged = merge_adjacent(
        torch.tensor(affinity).view(1, -1), threshold, torch.tensor(allowed, dtype=torch.bool).view(1, -1)
    )
    assert merged[0].tolist() == merge_one_by_one(affinity, threshold, allowed)


def test_no_node_merges_twice_on_a_level():
    affinity = torch.randint(0, 3, (200, 15)) / 2.0
    merged = merge_adjacent(affinity, 0.0, torch.ones(200, 15, dtype=torch.bool))
    assert merged.any(dim=1).all()
    assert not (merged[:, :-1] & merged[:, 1:]).any()


# --- whole trees ---


class Node:
    def __init__(self, number, first, last, features, relevance):
        self.number, self.first, self.last = number, first, last
        self.features, self.relevance = features, relevance
        self.affinity, self.parent = -math.inf, -1


@torch.no_grad()
def grow(tree, leaves, judge, kept, prune):
    """E4-E8 for one sequence, node after node; gives all nodes and the roots."""
    steps = len(leaves)
    centre = leaves.mean(dim=0)
    every = [Node(t, t, t, leaves[t], judge(leaves[t])) for t in range(steps)]
    # What was pruned stays as None, so that its neighbours do not touch.
    row = list(every)
    limit = tree.levels if tree.levels is not None else math.ceil(math.log2(steps)) + 2 if steps > 1 else 2

    def affinity(a, b):
        if a is None or b is None:
            return -math.inf
        p, q = tree.project.weight @ (a.features - centre), tree.project.weight @ (b.features - centre)
        return (F.cosine_similarity(p, q, dim=0) * (1 - (a.relevance - b.relevance).abs())).item()

    def weight(node):
        doubtful = prune and float(node.relevance) < tree.doubtful
        return (node.last - node.first + 1) * (node.relevance if doubtful else 1.0)

    for level in range(limit):
        if prune:
            row = [
                None if n and float(n.relevance) < tree.irrelevant and not any(kept[n.first : n.last + 1]) else n
                for n in row
            ]
        pairs = [affinity(a, b) for a, b in pairwise(row)]
        threshold = max(tree.threshold * tree.decay**level, tree.lowest)
        merged = merge_one_by_one(pairs, threshold, [value > -math.inf for value in pairs])
        if not any(merged):
            break
        following = []
        for i, node in enumerate(row):
            if i and merged[i - 1]:
                continue
            if i < len(merged) and merged[i]:
                right = row[i + 1]
                a, b = weight(node), weight(right)
                mean = (a * node.features + b * right.features) / (a + b)
                features = tree.join(torch.cat([mean, torch.maximum(node.features, right.features)])) + mean
                parent = Node(steps + node.last, node.first, right.last, features, judge(features))
                parent.affinity = pairs[i]
                node.parent = right.parent = parent.number
                every.append(parent)
                following.append(parent)
            else:
                following.append(node)
        row = following
    roots = [node for node in row if node is not None]
    return every, roots or [max(every[:steps], key=lambda node: float(node.relevance))], row, affinity


def planted(seed, **options):
    """A tree whose layers do something, leaves that change slowly, and a judge of relevance."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    tree = SegmentTree(DIM, projection=5, **options)
    torch.nn.init.normal_(tree.join.weight, 0, 0.2)
    torch.nn.init.normal_(tree.join.bias, 0, 0.2)
    lengths = torch.tensor([9, 13, 1, 2, 13, 6, 10, 8])
    leaves = torch.randn(len(lengths), 13, DIM, generator=generator)
    leaves = leaves + 1.5 * torch.randn(len(lengths), 4, DIM, generator=generator).repeat_interleave(4, dim=1)[:, :13]
    direction = torch.randn(DIM, generator=generator)
    mask = torch.arange(13) < lengths[:, None]
    kept = torch.zeros_like(mask)
    kept[:, 0] = True
    return tree, leaves, mask, kept, lambda nodes: (nodes @ direction).sigmoid()


OPTIONS = [
    {},
    {"threshold": 0.3, "lowest": 0.1},
    {"threshold": 0.8, "decay": 0.5, "lowest": 0.0, "irrelevant": 0.4, "doubtful": 0.8},
    {"threshold": 0.2, "lowest": 0.2, "irrelevant": 0.9, "doubtful": 0.95},
    {"threshold": -1.0, "lowest": -1.0, "irrelevant": 0.0},
    {"threshold": 0.3, "lowest": 0.1, "levels": 1},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("protect", [True, False])
@torch.no_grad()
def test_every_tree_is_the_one_grown_step_by_step(options, prune, protect):
    for seed in range(3):
        tree, leaves, mask, kept, judge = planted(seed, **options)
        nodes = tree(leaves, mask, judge, kept if protect else None, prune)
        for row, steps in enumerate(mask.sum(dim=1).tolist()):
            protected = kept[row, :steps].tolist() if protect else [False] * steps
            every, roots, last_row, affinity = grow(tree, leaves[row, :steps], judge, protected, prune)
            # Numbers of merged segments count from the padded length on.
            number = {node.number: node.number + (13 - steps) * (node.number >= steps) for node in every}
            found = {int(n) for n in nodes.exists[row].nonzero()}
            assert found == set(number.values())
            assert {int(n) for n in nodes.root[row].nonzero()} == {number[node.number] for node in roots}
            for node in every:
                at = number[node.number]
                assert (int(nodes.first[row, at]), int(nodes.last[row, at])) == (node.first, node.last)
                assert int(nodes.parent[row, at]) == number.get(node.parent, -1)
                torch.testing.assert_close(nodes.features[row, at], node.features)
                torch.testing.assert_close(nodes.relevance[row, at], node.relevance)
                assert float(nodes.affinity[row, at]) == pytest.approx(node.affinity, abs=1e-5)
            for left, right in pairwise(last_row):
                if left and right:
                    expected = pytest.approx(affinity(left, right), abs=1e-5)
                    assert float(nodes.after[row, number[left.number]]) == expected
                    assert float(nodes.before[row, number[right.number]]) == expected


def test_trees_of_the_comparison_are_not_trivial():
    tree, leaves, mask, kept, judge = planted(0, **OPTIONS[1])
    nodes = tree(leaves, mask, judge, kept)
    counts = nodes.root.sum(dim=1)
    assert (counts[mask.sum(dim=1) > 2] > 1).any()
    assert int(nodes.length[nodes.root].max()) >= 4
    pruned = nodes.exists & ~nodes.root & (nodes.parent < 0)
    assert pruned.any()


@pytest.mark.parametrize("prune", [True, False])
def test_roots_lie_side_by_side_and_cover_what_was_not_pruned(prune):
    tree, leaves, mask, _, judge = planted(3, threshold=0.3, lowest=0.1)
    nodes = tree(leaves, mask, judge, prune=prune)
    step = torch.arange(13)
    covered = (nodes.first[..., None] <= step) & (step <= nodes.last[..., None]) & nodes.root[..., None]
    assert int(covered.sum(dim=1).max()) == 1
    if not prune:
        assert torch.equal(covered.any(dim=1), mask)


def test_length_of_the_batch_does_not_change_a_tree():
    tree, leaves, mask, kept, judge = planted(1, threshold=0.3, lowest=0.1)
    together = tree(leaves, mask, judge, kept)
    for row, steps in enumerate(mask.sum(dim=1).tolist()):
        alone = tree(leaves[row : row + 1, :steps], mask[row : row + 1, :steps], judge, kept[row : row + 1, :steps])
        for name in ("first", "last", "relevance"):
            torch.testing.assert_close(
                getattr(alone, name)[alone.root], getattr(together, name)[row : row + 1][together.root[row : row + 1]]
            )


def test_height_is_limited_by_the_own_length():
    """E7, for a sequence alone and in the company of a longer one."""
    tree, longest = SegmentTree(2), 70
    lengths = torch.arange(1, longest + 1)
    mask = torch.arange(longest) < lengths[:, None]
    expected = [math.ceil(math.log2(steps)) + 2 for steps in lengths.tolist()]
    assert tree.most_levels(mask)[:, 0].tolist() == expected
    assert [int(tree.most_levels(mask[row : row + 1, : row + 1])) for row in range(longest)] == expected


def test_what_is_padded_does_not_matter():
    tree, leaves, mask, kept, judge = planted(2, threshold=0.3, lowest=0.1)
    noisy = torch.where(mask[..., None], leaves, 50.0)
    clean, other = tree(leaves, mask, judge, kept), tree(noisy, mask, judge, kept)
    assert torch.equal(clean.root, other.root)
    torch.testing.assert_close(clean.features[clean.exists], other.features[other.exists])


def test_neighbours_of_a_pruned_step_do_not_merge_across_it():
    tree = SegmentTree(2, projection=2, threshold=0.5)
    torch.nn.init.eye_(tree.project.weight)
    leaves = torch.tensor([[[1.0, 0.1], [1.0, 0.1], [1.0, 0.2], [1.0, 0.1], [0.0, 0.1], [0.0, 0.1]]])
    mask = torch.ones(1, 6, dtype=torch.bool)

    def judge(nodes):
        return torch.where(nodes[..., 1] > 0.15, 0.0, 1.0)

    def roots(**options):
        nodes = tree(leaves, mask, judge, **options)
        return sorted(zip(nodes.first[nodes.root].tolist(), nodes.last[nodes.root].tolist(), strict=True))

    assert roots() == [(0, 1), (3, 3), (4, 5)]
    # A kept step stays, though its neighbours are not as relevant as it.
    assert (2, 2) in roots(kept=torch.tensor([[False, False, True, False, False, False]]))


def test_a_sequence_without_any_relevance_keeps_its_most_relevant_step():
    tree, leaves, mask, _, _ = planted(0)

    def judge(nodes):
        return 0.01 * nodes[..., 0].sigmoid()

    nodes = tree(leaves, mask, judge)
    assert nodes.root.sum(dim=1).tolist() == [1] * len(mask)
    best = judge(leaves).masked_fill(~mask, -1).argmax(dim=1)
    assert torch.equal(nodes.first[nodes.root], best)
    assert torch.equal(nodes.last[nodes.root], best)


def test_segments_above_their_parent_are_those_of_the_definition():
    tree, leaves, mask, _, judge = planted(4, threshold=0.2, lowest=0.1)
    nodes = tree(leaves, mask, judge, prune=False)
    expected = torch.zeros_like(nodes.root)
    for row in range(len(mask)):
        for at in range(13, 25):
            parent = int(nodes.parent[row, at])
            if nodes.exists[row, at] and parent >= 0:
                expected[row, at] = nodes.relevance[row, at] >= nodes.relevance[row, parent]
    assert expected.any()
    assert torch.equal(nodes.above_parent(), expected)


def test_containing_finds_the_nodes_around_a_step():
    tree, leaves, mask, _, judge = planted(4, threshold=0.2, lowest=0.1)
    nodes = tree(leaves, mask, judge, prune=False)
    step = torch.tensor([4, 12, 0, 1, 3, 5, 9, 0])
    around = nodes.containing(step)
    assert torch.equal((around & nodes.root).sum(dim=1), torch.ones(8, dtype=torch.long))
    assert around.gather(1, step[:, None]).all()
    spans = torch.stack([nodes.first, nodes.last], dim=-1)[around]
    here = step[:, None].expand_as(around)[around]
    assert ((spans[:, 0] <= here) & (here <= spans[:, 1])).all()


def test_a_single_step_is_a_tree():
    nodes = SegmentTree(3)(torch.randn(2, 1, 3), torch.ones(2, 1, dtype=torch.bool))
    assert nodes.root.tolist() == [[True], [True]]
    assert nodes.length.tolist() == [[1], [1]]


def test_gradients_reach_leaves_and_layers():
    tree, leaves, mask, kept, judge = planted(1, threshold=0.3, lowest=0.1)
    leaves.requires_grad_()
    nodes = tree(leaves, mask, judge, kept)
    merged = nodes.exists & (nodes.affinity > -math.inf)
    loss = nodes.features[nodes.root].square().sum() + nodes.affinity[merged].sum()
    loss = loss + nodes.relevance[nodes.exists].sum()
    loss.backward()
    assert leaves.grad[mask].abs().sum(dim=-1).min() > 0
    assert leaves.grad[~mask].abs().max() == 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in tree.parameters())


def test_the_gradient_is_that_of_the_tree_with_its_shape_fixed():
    tree, leaves, mask, kept, _ = planted(5, threshold=0.3, lowest=0.1)
    tree, leaves = tree.double(), leaves.double()[:1, :9]
    direction = torch.randn(DIM).double()

    def roots(x):
        nodes = tree(x, mask[:1, :9], lambda n: (n @ direction).sigmoid(), kept[:1, :9])
        return nodes.features[nodes.root]

    # Away from ties a small step does not change which nodes merge.
    assert torch.autograd.gradcheck(roots, (leaves.requires_grad_(),), eps=1e-7, atol=1e-4)


def test_half_precision_grows_finite_trees():
    tree, leaves, mask, kept, judge = planted(1, threshold=0.3, lowest=0.1)
    leaves.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nodes = tree(leaves, mask, judge, kept)
        nodes.features[nodes.root].float().sum().backward()
    assert nodes.features[nodes.exists].isfinite().all()
    assert leaves.grad.isfinite().all()


def test_thresholds_outside_their_range_are_refused():
    with pytest.raises(InputError, match="threshold and lowest"):
        SegmentTree(4, threshold=1.5)
    with pytest.raises(InputError, match="irrelevant <= doubtful"):
        SegmentTree(4, irrelevant=0.7)
