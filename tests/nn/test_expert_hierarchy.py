"""A hierarchy of experts: grouped blocks equal single ones, trees equal cold attention, unused blocks cost nothing."""

import pytest
import torch
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.expert_hierarchy import ExpertHierarchy, path_overlap, pruned, published_hierarchy


def small(**settings):
    torch.manual_seed(0)
    given = {"num_classes": 4, "in_channels": 1, "width": 3, "last_width": 2, "head_hidden": 5, "head_size": 2}
    return ExpertHierarchy(**{**given, **settings}).eval()


def test_blocks_side_by_side_equal_one_block_after_the_other():
    network, images = small(), torch.rand(2, 1, 16, 16)
    level = network.levels[1]
    features = torch.rand(2, 4, 3, 8, 8)
    together = level(features)
    for block in range(4):
        rows = slice(3 * block, 3 * block + 3)
        alone = features[:, block]
        for convolution, norm in ((level.conv1, level.norm1), (level.conv2, level.norm2)):
            alone = nn.functional.conv2d(alone, convolution.weight[rows], convolution.bias[rows], padding=1)
            statistics = norm.running_mean[rows], norm.running_var[rows]
            alone = nn.functional.batch_norm(alone, *statistics, norm.weight[rows], norm.bias[rows]).relu()
        torch.testing.assert_close(together[:, block], nn.functional.max_pool2d(alone, 2))
    assert network(images).shape == (2, 4)


def test_hard_scores_are_those_of_attention_at_no_temperature():
    network, images = small(), torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(network(images, hard=True), network(images, 1e-4), rtol=1e-3, atol=1e-4)


def test_a_tree_gives_the_hard_scores_with_the_weights_of_its_blocks_and_leaves_the_others_out():
    network, images = small(), torch.rand(3, 1, 16, 16)
    tree = network.tree()
    alone = small(tree=tree)
    used, alive = [], range(4)
    for step in reversed(tree):
        alive = sorted({step[child] for child in alive})
        used.insert(0, alive)
    for whole, mine, blocks in zip(network.levels, alone.levels, used, strict=True):
        assert mine.count == len(blocks)
        for name, tensor in mine.state_dict().items():
            every = whole.state_dict()[name]
            tensor.copy_(every if every.ndim == 0 else every.unflatten(0, (whole.count, -1))[blocks].flatten(0, 1))
    alone.heads.load_state_dict(network.heads.state_dict())
    torch.testing.assert_close(alone(images), network(images, hard=True))
    assert not [name for name, _ in alone.named_parameters() if "attention" in name]


def test_every_parameter_gets_a_gradient():
    network = small().train()
    network(torch.rand(4, 1, 16, 16)).square().sum().backward()
    assert not [name for name, each in network.named_parameters() if each.grad is None]


@pytest.mark.parametrize("score", ["single", "difference", "max"])
def test_scores_of_a_head_become_one_number_a_class(score):
    assert small(score=score)(torch.rand(2, 1, 16, 16)).shape == (2, 4)


def test_difference_is_positive_minus_negative():
    network, images = small(score="difference"), torch.rand(2, 1, 16, 16)
    larger = small(score="max")
    larger.load_state_dict(network.state_dict())
    swapped = small(score="difference")
    swapped.load_state_dict(network.state_dict())
    last = swapped.heads.layers[-1]
    with torch.no_grad():
        last.weight.copy_(last.weight.flip(1))
        last.bias.copy_(last.bias.flip(1))
    torch.testing.assert_close(swapped(images), -network(images))
    assert (larger(images) >= -network(images).abs() - 10).all()


@pytest.mark.parametrize(("stem", "size"), [("large", 64), ("shared", 16)])
def test_stems_stand_in_front_of_the_experts(stem, size):
    assert small(stem=stem)(torch.rand(2, 1, size, size)).shape == (2, 4)


def test_the_published_size_is_the_authors_for_small_images():
    network = ExpertHierarchy()
    first = 2 * (3 * 64 * 9 + 64 + 64 * 64 * 9 + 64)
    middle = 4 * 2 * (64 * 64 * 9 + 64)
    last = 8 * (64 * 64 * 9 + 64 + 64 * 32 * 9 + 32)
    norms = 2 * (2 * 2 * 64 + 4 * 2 * 64 + 8 * (64 + 32))
    heads = 10 * (1568 * 128 + 128 + 128 * 128 + 128 + 128 + 1)
    attention = 4 * 2 + 8 * 4 + 10 * 8
    assert sum(each.numel() for each in network.parameters()) == first + middle + last + norms + heads + attention


def test_entropy_is_a_mean_over_levels():
    network = small()
    expected = sum(each.entropy(0.7).mean() for each in network.attention) / 3
    torch.testing.assert_close(network.entropy(0.7), expected)


def test_a_tree_has_no_entropy():
    with pytest.raises(InputError, match="a tree has no attention"):
        small(tree=small().tree()).entropy()


@pytest.mark.parametrize(
    "tree", [[[0, 0, 0, 0]], [[0] * 4, [0] * 8, [8] * 4], [[0] * 4, [0] * 7, [0] * 4], [[0] * 4, [0] * 8, [-1] * 4]]
)
def test_a_tree_that_does_not_fit_is_refused(tree):
    with pytest.raises(InputError, match="tree: found"):
        small(tree=tree)


def test_levels_that_pool_must_be_as_many_as_levels():
    with pytest.raises(InputError, match="pooled: found 1 levels, expected 3"):
        small(pooled=[True])


def test_a_level_that_keeps_the_resolution_does():
    network = small(pooled=[False, True, True])
    assert network.levels[0](torch.rand(1, 1, 16, 16)).shape[-2:] == (16, 16)


def test_pruning_keeps_every_way():
    tree = [[1, 0, 1], [2, 0, 2, 1], [3, 3, 1, 0]]
    counts, kept = pruned(tree, (2, 3, 4), 4)

    def ways(steps):
        places, found = list(range(4)), []
        for step in reversed(steps):
            places = [step[place] for place in places]
            found.append(places)
        return found

    for before, after in zip(ways(tree), ways(kept), strict=True):
        assert len(set(zip(before, after, strict=True))) == len(set(before)) == len(set(after))
    assert counts == [2, 3, 3]


def test_overlap_counts_the_shared_part_of_two_ways():
    overlap = path_overlap([[0, 1, 1], [0, 1, 1, 2]])
    assert overlap[1, 2] == 1
    assert overlap[0, 1] == 0
    assert overlap[1, 3] == 0.5


def test_foreign_weights_without_experts_are_refused():
    with pytest.raises(InputError, match="expected those of an expert hierarchy"):
        published_hierarchy({"conv.weight": torch.zeros(1)}, 3)
