"""Seconds, clips and steps: every vectorised rule against its definition in plain Python."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ommatid.errors import InputError
from ommatid.grounding.timeindex import (
    anchor_indices,
    by_length,
    dense_span,
    mean_between,
    padded_anchors,
    pool_padded,
    pool_to_length,
    sample_to_length,
    seconds_to_steps,
    snap_span,
    steps_to_seconds,
    take,
    target_map,
)

LENGTHS = st.integers(1, 300)
STEPS = st.integers(1, 64)


def ramp(clips):
    return torch.stack([torch.arange(clips).float(), torch.arange(clips).float() ** 2 / 100], dim=1)


def slow_means(features, edges):
    return np.stack([features[a:b].mean(0) if b > a else features[a] for a, b in pairwise(edges)])


@given(LENGTHS, STEPS)
def test_pooling_is_the_mean_between_rounded_edges(clips, steps):
    features = ramp(clips)
    edges = np.minimum(np.round(np.arange(steps + 1) / steps * clips).astype(int), clips - 1)
    pooled = pool_to_length(features, steps)
    assert pooled.shape == (steps, 2)
    np.testing.assert_allclose(pooled.numpy(), slow_means(features.numpy(), edges), rtol=1e-5, atol=1e-4)


def test_short_sequences_are_kept_only_on_request():
    features = ramp(5)
    assert torch.equal(pool_to_length(features, 5, keep_short=True), features)
    assert pool_to_length(features, 8).shape == (8, 2)
    assert pool_to_length(features, 4, keep_short=True).shape == (4, 2)


@pytest.mark.parametrize("steps", [1, 2, 7, 16, 20, 26, 64])
def test_a_padded_batch_is_pooled_video_by_video(steps):
    # Every length at once: among them are the exact halves, and those that double precision misses.
    clips = torch.arange(1, 151)
    mask = torch.arange(150) < clips[:, None]
    video = torch.where(mask[..., None], ramp(150), 1e6)
    pooled = pool_padded(video, mask, steps)
    for row, count in enumerate(clips.tolist()):
        edges = np.minimum(np.round(np.arange(steps + 1) / steps * count).astype(int), count - 1)
        np.testing.assert_allclose(pooled[row].numpy(), slow_means(ramp(count).numpy(), edges), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(pooled[row], pool_to_length(ramp(count), steps))


@pytest.mark.parametrize("steps", [1, 2, 16, 50, 64])
def test_anchors_of_a_padded_batch_are_those_of_every_video(steps):
    clips = torch.arange(1, 301)
    anchors = padded_anchors(torch.arange(300) < clips[:, None], steps)
    assert anchors.tolist() == [anchor_indices(count, steps).tolist() for count in clips.tolist()]


def test_what_depends_on_the_length_alone_is_looked_up():
    mask = torch.arange(5) < torch.tensor([5, 1, 3])[:, None]
    squares = by_length(lambda clips: torch.stack([clips, clips**2], dim=1).long(), mask)
    assert squares.tolist() == [[5, 25], [1, 1], [3, 9]]


def test_means_between_many_sequences_of_edges_are_those_of_each():
    torch.manual_seed(0)
    video = torch.randn(3, 20, 2)
    edges = torch.randint(20, (3, 4, 6)).sort(dim=-1).values
    means = mean_between(video, edges, longest=20)
    assert means.shape == (3, 4, 5, 2)
    for row in range(3):
        for sequence in range(4):
            expected = slow_means(video[row].numpy(), edges[row, sequence].tolist())
            np.testing.assert_allclose(means[row, sequence].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_clips_are_taken_by_number_from_their_own_video():
    video = torch.arange(12.0).reshape(2, 3, 2)
    assert take(video, torch.tensor([2, 0])).tolist() == [[4, 5], [6, 7]]
    assert take(video, torch.tensor([[[1], [1]], [[0], [2]]]))[..., 0].tolist() == [[[2], [2]], [[6], [10]]]


@given(LENGTHS, STEPS)
def test_anchors_are_numpys_truncated_linspace(clips, steps):
    assert anchor_indices(clips, steps).tolist() == np.linspace(0, clips - 1, steps).astype(int).tolist()


@given(LENGTHS, st.integers(2, 64))
def test_sampling_averages_between_anchors_and_ends_with_the_last_clip(clips, steps):
    features = ramp(clips)
    edges = np.linspace(0, clips - 1, steps).astype(int)
    expected = np.concatenate([slow_means(features.numpy(), edges), features.numpy()[-1:]])
    np.testing.assert_allclose(sample_to_length(features, steps).numpy(), expected, rtol=1e-5, atol=1e-4)


@given(st.data())
def test_snapping_finds_the_surviving_steps_inside_the_span(data):
    steps = data.draw(st.integers(1, 40))
    videos = data.draw(st.lists(st.integers(1, 120), min_size=1, max_size=4))
    spans = [sorted((data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1)))) for n in videos]
    index = torch.stack([anchor_indices(n, steps) for n in videos])
    snapped = snap_span(torch.tensor(spans), index)
    for grid, (s, e), found in zip(index.tolist(), spans, snapped.tolist(), strict=True):
        end = max(i for i in range(steps) if grid[i] <= e)
        start = next((i for i in range(steps) if grid[i] >= s), steps - 1)
        assert found == [min(start, end), end]


def test_the_released_slip_sends_one_end_label_to_the_video_end():
    index = anchor_indices(30, 8)[None]
    span = torch.tensor([[0, 7]])
    assert snap_span(span, index).tolist() == [[0, 1]]
    assert snap_span(span, index, as_released=True).tolist() == [[0, 7]]
    assert snap_span(torch.tensor([[0, 8]]), index, as_released=True).tolist() == [[0, 2]]


def test_dense_labels_are_truncated_and_stay_inside_the_video():
    span = torch.tensor([[1.9, 10.0], [0.0, 99.0]])
    index = dense_span(span, torch.tensor([10.0, 10.0]), torch.tensor([10, 20]))
    assert index.tolist() == [[1, 9], [0, 19]]


@given(st.data())
def test_steps_have_the_largest_overlap_in_a_batch_of_different_lengths(data):
    steps = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    duration = [data.draw(st.integers(4, 40)) / 2 for _ in steps]
    spans = [sorted(data.draw(st.tuples(st.floats(0, d, width=32), st.floats(0, d, width=32)))) for d in duration]
    found = seconds_to_steps(torch.tensor(spans), torch.tensor(duration), torch.tensor(steps))
    for (s, e), d, n, (i, j) in zip(spans, duration, steps, found.tolist(), strict=True):
        overlaps = {
            (a, b): max(0, min(e, (b + 1) * d / n) - max(s, a * d / n)) / (max(e, (b + 1) * d / n) - min(s, a * d / n))
            for a in range(n)
            for b in range(a, n)
        }
        assert 0 <= i <= j < n
        if e > s:
            assert overlaps[i, j] >= max(overlaps.values()) - 1e-5


def test_a_span_beyond_the_end_stays_inside_the_steps_of_its_own_video():
    span = torch.tensor([[5.0, 30.0], [5.0, 30.0]])
    index = seconds_to_steps(span, torch.tensor([10.0, 40.0]), torch.tensor([4, 16]))
    assert index.tolist() == [[2, 3], [2, 11]]


@given(st.integers(1, 30), st.data())
def test_steps_survive_the_way_to_seconds_and_back(steps, data):
    i, j = sorted(data.draw(st.tuples(st.integers(0, steps - 1), st.integers(0, steps - 1))))
    duration, length = torch.tensor([23.7]), torch.tensor([steps])
    seconds = steps_to_seconds(torch.tensor([[i, j]]), duration, length)
    assert seconds_to_steps(seconds, duration, length).tolist() == [[i, j]]


def test_target_map_is_one_at_the_annotated_moment_and_zero_below_the_diagonal():
    iou = target_map(torch.tensor([[0.25, 0.75], [0.0, 1.0]]), torch.ones(2), 8)
    assert iou[0, 2, 5] == 1
    assert iou[1, 0, 7] == 1
    assert not iou.tril(-1).any()
    assert torch.allclose(iou[0, 2, 2], torch.tensor(0.25))


def test_target_map_is_the_same_in_seconds_and_normalised():
    span, duration = torch.tensor([[3.0, 11.0]]), torch.tensor([32.0])
    assert torch.allclose(target_map(span, duration, 16), target_map(span / duration, torch.ones(1), 16), atol=1e-6)


def test_empty_sequences_and_lengths_are_refused():
    with pytest.raises(InputError, match="found 0 clips"):
        pool_to_length(torch.zeros(0, 4), 8)
    with pytest.raises(InputError, match="steps: found 0"):
        sample_to_length(torch.zeros(3, 4), 0)
