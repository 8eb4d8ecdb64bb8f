"""Episodes are a function of seed and number, and accuracies come with the interval of few-shot tables."""

import math

import pytest
import torch

from ommatid.errors import InputError
from ommatid.transfer.episodes import (
    EpisodicBatchSampler,
    cosine_prototype_scores,
    episode_accuracy,
    episode_labels,
    euclidean_prototype_scores,
    few_shot_accuracy,
)

LABELS = torch.randint(8, (200,), generator=torch.Generator().manual_seed(0))


def test_classes_come_in_turn_and_no_image_comes_twice():
    sampler = EpisodicBatchSampler(LABELS, episodes=20, way=5, images=4)
    for number in range(20):
        images = sampler.episode(number)
        assert len(images.unique()) == 20
        classes = LABELS[images].view(4, 5)
        assert (classes == classes[0]).all()
        assert len(classes[0].unique()) == 5


def test_an_episode_is_a_function_of_seed_and_number_alone():
    first = EpisodicBatchSampler(LABELS, 10, 5, 4, seed=3)
    more = EpisodicBatchSampler(LABELS, 50, 5, 4, episodes_per_batch=7, seed=3)
    assert torch.equal(first.episode(6), more.episode(6))
    batches = list(more)
    assert len(batches) == len(more) == 8
    assert batches[0] == torch.cat([first.episode(number) for number in range(7)]).tolist()
    assert not torch.equal(first.episode(6), EpisodicBatchSampler(LABELS, 10, 5, 4, seed=4).episode(6))
    assert not torch.equal(first.episode(6), first.episode(7))


def test_all_classes_and_images_take_part():
    sampler = EpisodicBatchSampler(LABELS, 200, 5, 4)
    seen = torch.cat([sampler.episode(number) for number in range(200)])
    assert len(seen.unique()) == 200
    assert LABELS[seen].bincount(minlength=8).min() > 400


def test_small_classes_take_no_part_and_too_few_classes_are_refused():
    labels = torch.tensor([0] * 2 + [1] * 5 + [2] * 5)
    sampler = EpisodicBatchSampler(labels, 5, 2, 4)
    assert labels[sampler.episode(0)].unique().tolist() == [1, 2]
    with pytest.raises(InputError, match="way: found 3, expected 2 at most, the classes with 4 images"):
        EpisodicBatchSampler(labels, 5, 3, 4)
    with pytest.raises(InputError, match="episodes: found 0, expected at least 1"):
        EpisodicBatchSampler(labels, 0, 2, 2)


def test_the_interval_is_that_of_episodes():
    labels = episode_labels(2, 5).expand(4, 10)
    scores = torch.eye(2)[labels].clone()
    scores[0, :5] = scores[0, :5].flip(-1)
    scores[1, :2] = scores[1, :2].flip(-1)
    accuracies = episode_accuracy(scores, labels)
    assert accuracies.tolist() == pytest.approx([0.5, 0.8, 1.0, 1.0])
    found = few_shot_accuracy(scores, labels)
    assert found.mean == pytest.approx(0.825)
    assert found.ci95 == pytest.approx(1.96 * accuracies.std().item() / 2)
    assert math.isnan(few_shot_accuracy(scores[:1], labels[:1]).ci95)


@pytest.mark.parametrize("scored", [cosine_prototype_scores, euclidean_prototype_scores])
def test_the_nearest_mean_wins(scored):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 5, 16, generator=generator)
    support = centres[:, :, None] + 0.1 * torch.randn(3, 5, 2, 16, generator=generator)
    query = centres + 0.1 * torch.randn(3, 5, 16, generator=generator)
    assert (scored(support, query).argmax(dim=-1) == torch.arange(5)).all()


def test_euclidean_scores_are_squared_distances():
    support, query = torch.randn(4, 3, 2, 8), torch.randn(4, 6, 8)
    expected = -(query[:, :, None] - support.mean(dim=2)[:, None]).square().sum(dim=-1)
    torch.testing.assert_close(euclidean_prototype_scores(support, query), expected, rtol=1e-4, atol=1e-4)
