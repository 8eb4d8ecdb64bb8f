"""Baselines without a model."""

import pytest
import torch

from ommatid.errors import InputError
from ommatid.grounding.baselines import mean_span, random_span, trivial_baselines, whole_video
from ommatid.grounding.metrics import grounding_scores
from ommatid.grounding.task import Query


def query(i, duration=20.0, span=None):
    return Query(str(i), f"v{i}", "a dog runs", duration, span)


def test_random_moments_follow_the_seed_and_lie_inside_the_video():
    queries = [query(i) for i in range(200)]
    moments = random_span(queries, seed=3)
    assert torch.equal(moments.spans, random_span(queries, seed=3).spans)
    assert not torch.equal(moments.spans, random_span(queries, seed=4).spans)
    assert (moments.spans[..., 0] <= moments.spans[..., 1]).all()
    assert (moments.spans >= 0).all()
    assert (moments.spans <= 1).all()


def test_random_moments_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    random_span([query(0)])
    assert torch.equal(torch.get_rng_state(), state)


def test_random_moments_have_the_expected_mean_of_sorted_uniform_draws():
    mean = random_span([query(i) for i in range(4000)]).spans.mean(dim=(0, 1))
    assert torch.allclose(mean, torch.tensor([1 / 3, 2 / 3]), atol=0.01)


def test_mean_span_averages_normalised_spans_of_annotated_training_queries():
    train = [query(0, 10.0, (1.0, 3.0)), query(1, 100.0, (50.0, 90.0)), query(2)]
    moments = mean_span([query(3), query(4)], train)
    assert torch.allclose(moments.spans, torch.tensor([[[0.3, 0.6]]]).expand(2, 1, 2))


def test_mean_span_without_annotated_training_queries_is_refused():
    with pytest.raises(InputError, match="train: found no query with a span"):
        mean_span([query(0)], [query(1)])


def test_whole_video_scores_the_share_that_the_segment_fills():
    moments = whole_video([query(0)])
    scores = grounding_scores(moments, torch.tensor([[0.2, 0.6]]), torch.tensor([20.0]), (0.3, 0.5))
    assert scores["mIoU"].item() == pytest.approx(0.4)
    assert (scores["R@1,IoU=0.3"].item(), scores["R@1,IoU=0.5"].item()) == (1, 0)


def test_all_baselines_come_by_name_for_every_query():
    queries = [query(i) for i in range(3)]
    found = trivial_baselines(queries, [query(9, span=(1.0, 2.0))])
    assert {name: len(moments) for name, moments in found.items()} == {
        "random span": 3,
        "mean span": 3,
        "whole video": 3,
    }
    assert "mean span" not in trivial_baselines(queries, queries)


@pytest.mark.parametrize("baseline", [random_span, whole_video])
def test_no_queries_give_no_moments(baseline):
    assert len(baseline([])) == 0


def test_no_moments_at_all_is_refused():
    with pytest.raises(InputError, match="count: found 0"):
        random_span([query(0)], count=0)
