"""The field's contract: batches, moments, queries."""

import dataclasses

import pytest
import torch

from ommatid.grounding.task import GroundingBatch, Moments, Query, sort_moments


@pytest.fixture
def batch():
    return GroundingBatch(
        video=torch.rand(3, 5, 4),
        video_mask=torch.ones(3, 5, dtype=torch.bool),
        words=torch.ones(3, 2, dtype=torch.long),
        word_mask=torch.ones(3, 2, dtype=torch.bool),
        duration=torch.tensor([1.0, 2.0, 3.0]),
        span=torch.rand(3, 2),
        glance=torch.rand(3),
        query=torch.tensor([7, 8, 9]),
        subsets={"rare": torch.tensor([True, False, True])},
    )


def test_choosing_samples_of_a_batch_also_chooses_their_subsets(batch):
    chosen = batch[torch.tensor([2, 0])]
    assert len(chosen) == 2
    assert chosen.query.tolist() == [9, 7]
    assert chosen.subsets["rare"].tolist() == [True, True]
    assert torch.equal(chosen.video, batch.video[[2, 0]])


def test_moving_a_batch_moves_its_subsets(batch):
    moved = batch.to("meta")
    assert moved.video.device.type == moved.subsets["rare"].device.type == "meta"


def test_seconds_lie_within_the_video():
    moments = Moments(torch.tensor([[[-0.5, 0.25], [0.5, 1.5]]]), torch.zeros(1, 2))
    assert moments.seconds(torch.tensor([40.0])).tolist() == [[[0.0, 10.0], [20.0, 40.0]]]


def test_top_keeps_the_first_moments():
    moments = Moments(torch.rand(2, 5, 2), torch.rand(2, 5))
    assert torch.equal(moments.top(2).spans, moments.spans[:, :2])
    assert torch.equal(moments.top(2).scores, moments.scores[:, :2])


def test_moments_are_sorted_by_score_and_ties_keep_their_order():
    spans = torch.arange(12.0).reshape(1, 6, 2)
    moments = sort_moments(spans, torch.tensor([[0.1, 0.9, 0.5, 0.9, 0.5, 0.9]]))
    assert moments.scores[0].tolist() == pytest.approx([0.9, 0.9, 0.9, 0.5, 0.5, 0.1])
    assert torch.equal(moments.spans[0], spans[0, [1, 3, 5, 2, 4, 0]])


def test_every_query_is_sorted_on_its_own():
    spans = torch.rand(4, 7, 2)
    scores = torch.rand(4, 7)
    moments = sort_moments(spans, scores)
    for row in range(4):
        assert torch.equal(moments.spans[row], spans[row, scores[row].argsort(descending=True)])


def test_a_query_knows_no_more_than_it_is_told_and_cannot_change():
    query = Query("0", "v", "a dog barks", 10.0)
    assert (query.span, query.glance, query.group, query.tags) == (None, None, "", None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        query.vid = "w"
