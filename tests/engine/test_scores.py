"""Every sample counts once, on however many processes."""

import math

import pytest
import torch

from ommatid.engine.scores import SampleScores

NAN = float("nan")


def test_mean_over_all_batches():
    scores = SampleScores()
    scores.update(torch.tensor([0, 1, 2]), {"hit": torch.tensor([1.0, 0.0, 1.0]), "iou": torch.tensor([0.5, 0.1, 0.3])})
    scores.update(torch.tensor([3]), {"hit": torch.tensor([1.0]), "iou": torch.tensor([0.1])})
    assert scores.compute() == pytest.approx({"hit": 0.75, "iou": 0.25})


def test_a_sample_that_a_sampler_repeats_counts_once():
    scores = SampleScores()
    scores.update(torch.tensor([0, 1]), {"hit": torch.tensor([1.0, 0.0])})
    scores.update(torch.tensor([1, 0]), {"hit": torch.tensor([0.0, 1.0])})
    scores.update(torch.tensor([2]), {"hit": torch.tensor([0.0])})
    assert scores.compute()["hit"] == pytest.approx(1 / 3)


def test_samples_without_a_metric_are_left_out_of_its_mean():
    scores = SampleScores()
    scores.update(torch.tensor([0, 1]), {"rare": torch.tensor([NAN, 0.5]), "all": torch.tensor([0.0, 0.5])})
    assert scores.compute() == {"rare": 0.5, "all": 0.25}


def test_a_metric_that_no_sample_has_is_nan():
    scores = SampleScores()
    scores.update(torch.tensor([0]), {"rare": torch.tensor([NAN])})
    assert math.isnan(scores.compute()["rare"])


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_samples_there_are_no_metrics():
    assert SampleScores().compute() == {}


def test_table_has_every_sample_in_the_order_of_its_identity():
    scores = SampleScores()
    scores.update(torch.tensor([5, 2]), {"hit": torch.tensor([0.5, 0.2])})
    scores.update(torch.tensor([3, 2]), {"hit": torch.tensor([0.3, 0.2])})
    identity, values = scores.table()
    assert identity.tolist() == [2, 3, 5]
    assert values[:, 0].tolist() == pytest.approx([0.2, 0.3, 0.5])


def test_gathered_states_score_like_the_parts():
    """After a reduction over processes the states are single tensors."""
    scores = SampleScores()
    scores.update(torch.tensor([0, 1]), {"hit": torch.tensor([1.0, 0.0])})
    parts = scores.compute()
    scores._computed = None
    scores.identity, scores.values = torch.cat(scores.identity), torch.cat(scores.values)
    assert scores.compute() == parts


def test_reset_forgets_the_samples():
    scores = SampleScores()
    scores.update(torch.tensor([0]), {"hit": torch.tensor([1.0])})
    scores.reset()
    scores.update(torch.tensor([0]), {"hit": torch.tensor([0.0])})
    assert scores.compute() == {"hit": 0.0}
