"""What grounding does per sample and per batch outside of a network: pooling, padding, suppression, scores, memory."""

import pytest
import torch

from ommatid.data.worlds.grounding import GroundingWorld
from ommatid.grounding.data import GroundingData
from ommatid.grounding.metrics import grounding_scores, nms_moments, temporal_nms
from ommatid.grounding.task import Moments, sort_moments
from ommatid.grounding.timeindex import pool_to_length
from ommatid.nn.slot_memory import SlotMemory

BATCH, STEPS = 64, 200


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
