"""What grounding does per sample and per batch outside of a network: pooling, padding, suppression, scores, memory."""

import numpy as np
import pytest
import torch

from ommatid.data.worlds.grounding import GroundingWorld
from ommatid.grounding.data import GroundingData
from ommatid.grounding.metrics import grounding_scores, nms_moments, recall_at, temporal_nms
from ommatid.grounding.task import Moments, sort_moments
from ommatid.grounding.timeindex import pool_to_length, target_map
from ommatid.nn.segment_tree import SegmentTree
from ommatid.nn.slot_memory import SlotMemory

BATCH, STEPS = 64, 200
QUERIES, SAMPLED = 100_000, 1_000


@pytest.fixture
def moments() -> Moments:
    return sort_moments(torch.rand(BATCH, STEPS, 2).sort(dim=-1).values, torch.rand(BATCH, STEPS))


def test_making_the_world(benchmark):
    world = benchmark(GroundingWorld, train_videos=100, val_videos=10, test_videos=10)
    assert len(world.splits["train"].videos) == 100


def test_pooling_a_long_video(benchmark):
    assert len(benchmark(pool_to_length, torch.rand(2000, 500), STEPS)) == STEPS


@pytest.mark.parametrize("met", [False, True], ids=["first epoch", "later epochs"])
def test_a_batch(benchmark, met):
    data = GroundingData(train_videos=40, test_videos=4, batch_size=BATCH)
    dataset = data.dataset("train")
    if met:
        data.first_batch("train")

    def batch():
        if not met:
            dataset._pooled.clear()
        return data.first_batch("train")

    assert len(benchmark(batch)) == BATCH


def test_suppression_to_five(benchmark, moments):
    assert benchmark(nms_moments, moments, 0.5, 5).spans.shape == (BATCH, 5, 2)


def test_suppression_of_all(benchmark, moments):
    assert benchmark(temporal_nms, moments.spans, 0.5).shape == (BATCH, STEPS)


def test_scores(benchmark, moments):
    span = torch.rand(BATCH, 2).sort(dim=-1).values
    assert "mIoU" in benchmark(grounding_scores, moments, span, torch.full((BATCH,), 30.0))


@pytest.mark.parametrize("write", ["sequential", "batched"])
def test_writing_a_memory(benchmark, write):
    memory, tokens = SlotMemory(128, 64, write=write), torch.randn(8, 20, 128)
    with torch.no_grad():
        written = benchmark(memory.write, tokens, torch.ones(8, 20, dtype=torch.bool))
    assert written.isfinite().all()


def test_target_maps(benchmark):
    span = torch.rand(BATCH, 2).sort(dim=-1).values
    assert benchmark(target_map, span, torch.ones(BATCH), 64).shape == (BATCH, 64, 64)


def test_growing_trees(benchmark):
    """One tree for each of 64 videos; steps that stay alike for a while, so that there is much to merge."""
    leaves = torch.randn(BATCH, STEPS // 10, 128).repeat_interleave(10, dim=1) + 0.3 * torch.randn(BATCH, STEPS, 128)
    tree, mask = SegmentTree(128), torch.ones(BATCH, STEPS, dtype=torch.bool)
    with torch.no_grad():
        nodes = benchmark(tree, leaves, mask)
    assert nodes.root.any(dim=1).all()


def ranked(queries: int, count: int = 20) -> tuple[Moments, torch.Tensor]:
    """Moments of many queries, best first, and the annotated one of each."""
    draw = torch.Generator().manual_seed(0)
    spans = torch.rand(queries, count, 2, generator=draw).sort(dim=-1).values
    truth = torch.rand(queries, 2, generator=draw).sort(dim=-1).values
    return Moments(spans, torch.arange(count, 0.0, -1).expand(queries, -1)), truth


def recall_query_by_query(moments: Moments, truth: torch.Tensor, nms: float = 0.5) -> np.ndarray:
    """The same recall as evaluators of the field compute it: a loop over queries, one over survivors, numpy inside."""
    hits = np.zeros((3, 2))
    for spans, true in zip(moments.spans.numpy(), truth.numpy(), strict=True):
        order, kept = np.arange(len(spans)), []
        while len(order):
            kept.append(order[0])
            order = order[1:][overlap(spans[order[0]], spans[order[1:]]) <= nms]
        found = overlap(true, spans[kept])
        for row, limit in enumerate((0.3, 0.5, 0.7)):
            for column, rank in enumerate((1, 5)):
                hits[row, column] += np.any(found[:rank] > limit)
    return hits / len(truth)


def overlap(span: np.ndarray, others: np.ndarray) -> np.ndarray:
    shared = np.minimum(span[1], others[:, 1]) - np.maximum(span[0], others[:, 0])
    return np.maximum(shared, 0) / (np.maximum(span[1], others[:, 1]) - np.minimum(span[0], others[:, 0]))


def test_recall_over_100_000_queries(benchmark):
    moments, truth = ranked(QUERIES)
    found = benchmark.pedantic(lambda: recall_at(moments, truth, convention="seconds"), rounds=3)
    assert found.shape == (3, 2)


def test_recall_over_1_000_queries_one_by_one(benchmark):
    """A hundredth of the queries above: both must agree on them."""
    moments, truth = ranked(SAMPLED)
    found = benchmark.pedantic(recall_query_by_query, (moments, truth), rounds=1)
    torch.testing.assert_close(torch.tensor(found).float(), recall_at(moments, truth, convention="seconds"))
