"""Sampling, soft labels and spans between the steps: every vectorised rule against its definition, one by one."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ommatid.errors import InputError
from ommatid.grounding.sampling import (
    boundary_error,
    clips_touched,
    decode_spans,
    interleave_scores,
    mean_position,
    siamese_indices,
    snap_sequences,
    snapping_error,
    soft_boundary_labels,
    soft_foreground,
    stride,
    take_means,
)

# Slow loops on a machine that others use too: fewer examples, no deadline.
FEW = settings(max_examples=40, deadline=None)
LONGEST = 90
LENGTHS = st.lists(st.integers(1, LONGEST), min_size=1, max_size=5)
STEPS, SIAMESE = st.integers(2, 24), st.integers(0, 6)


def masks(lengths):
    return torch.arange(LONGEST) < torch.tensor(lengths)[:, None]


def sequences(data):
    lengths, steps = data.draw(LENGTHS), data.draw(STEPS)
    return lengths, siamese_indices(masks(lengths), steps, data.draw(SIAMESE), data.draw(st.booleans()))


# --- which clips are seen (E1, E2, E4) ---


@FEW
@given(LENGTHS, STEPS, SIAMESE, st.booleans())
def test_sequences_are_the_anchors_shifted_by_shares_of_a_stride(lengths, steps, siamese, symmetric):
    index = siamese_indices(masks(lengths), steps, siamese, symmetric)
    before = siamese // 2 if symmetric else 0
    for row, n in enumerate(lengths):
        anchors = np.linspace(0, n - 1, steps).astype(int).tolist()
        assert index[row, 0].tolist() == anchors
        for k, place in enumerate([*range(-before, 0), *range(1, siamese - before + 1)], start=1):
            # Python rounds an exact half to the even number.
            shift = round(Fraction(place * (n - 1), (steps - 1) * (siamese + 1)))
            assert index[row, k].tolist() == [min(max(anchor + shift, 0), n - 1) for anchor in anchors]


def test_one_sided_and_symmetric_sequences_lie_where_they_should():
    mask = torch.ones(1, 31, dtype=torch.bool)
    assert siamese_indices(mask, 4, 4)[0, :, 1].tolist() == [10, 12, 14, 16, 18]
    assert siamese_indices(mask, 4, 4, symmetric=True)[0, :, 1].tolist() == [10, 6, 8, 12, 14]
    assert siamese_indices(mask, 4, 3, symmetric=True)[0, 1:, 1].tolist() == [8, 12, 15]


@FEW
@given(LENGTHS, STEPS)
def test_a_stride_is_what_lies_between_two_anchors(lengths, steps):
    expected = [(n - 1) / (steps - 1) for n in lengths]
    assert stride(masks(lengths), steps).tolist() == pytest.approx(expected)


@FEW
@given(st.data())
def test_steps_of_a_sequence_never_go_back_and_stay_inside_the_video(data):
    lengths, index = sequences(data)
    assert (index.diff(dim=-1) >= 0).all()
    assert (index >= 0).all()
    assert (index.amax(dim=(1, 2)) < torch.tensor(lengths)).all()


@FEW
@given(st.data())
def test_means_reach_from_one_step_to_the_next(data):
    lengths, index = sequences(data)
    video = torch.randn(len(lengths), LONGEST, 2, generator=torch.Generator().manual_seed(0))
    means = take_means(video, index)
    for row in range(len(lengths)):
        for k, sequence in enumerate(index[row].tolist()):
            ends = [*sequence[1:], sequence[-1]]
            expected = [video[row, a : max(b, a + 1)].mean(dim=0) for a, b in zip(sequence, ends, strict=True)]
            torch.testing.assert_close(means[row, k], torch.stack(expected))


def test_impossible_samplings_are_refused():
    with pytest.raises(InputError, match=r"steps must be at least 2 and siamese at least 0, found 1 and 4"):
        siamese_indices(torch.ones(1, 5, dtype=torch.bool), 1, 4)
    with pytest.raises(InputError, match="found 4 and -1"):
        siamese_indices(torch.ones(1, 5, dtype=torch.bool), 4, -1)


# --- labels (E3, E10, E12) ---


@FEW
@given(st.data())
def test_a_boundary_is_shared_by_the_two_steps_around_it(data):
    lengths, index = sequences(data)
    place = torch.tensor([data.draw(st.floats(0, n - 1, width=32)) for n in lengths])
    boundary = place[:, None].expand(-1, index.shape[1])
    labels = soft_boundary_labels(boundary, index)
    for row, tau in enumerate(place.tolist()):
        for k, sequence in enumerate(index[row].tolist()):
            expected = [0.0] * len(sequence)
            before = [t for t, clip in enumerate(sequence) if clip <= tau]
            if not before:
                expected[0] = 1.0
            elif before[-1] == len(sequence) - 1:
                expected[-1] = 1.0
            else:
                t = before[-1]
                share = (tau - sequence[t]) / (sequence[t + 1] - sequence[t])
                expected[t], expected[t + 1] = 1 - share, share
            assert labels[row, k].tolist() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(labels.sum(dim=-1), torch.ones(index.shape[:2]))
    inside = (boundary >= index[..., 0]) & (boundary <= index[..., -1])
    mean = (labels * index).sum(dim=-1)
    torch.testing.assert_close(mean[inside], boundary[inside], rtol=1e-5, atol=1e-4)


def test_a_boundary_beyond_the_samples_belongs_to_the_nearest_one():
    index = torch.tensor([[2, 5, 9], [2, 5, 9]])
    assert soft_boundary_labels(torch.tensor([0.5, 30.0]), index).tolist() == [[1, 0, 0], [0, 0, 1]]


@FEW
@given(st.data())
def test_foreground_is_the_share_of_the_clips_up_to_the_next_step(data):
    lengths, index = sequences(data)
    spans = [sorted(data.draw(st.tuples(st.floats(0, n, width=32), st.floats(0, n, width=32)))) for n in lengths]
    shares = soft_foreground(torch.tensor(spans)[:, None].expand(-1, index.shape[1], -1), index)
    for row, (s, e) in enumerate(spans):
        for k, sequence in enumerate(index[row].tolist()):
            for t, first in enumerate(sequence):
                clips = range(first, sequence[t + 1]) if t + 1 < len(sequence) else []
                clips = list(clips) or [first]
                covered = [max(0.0, min(c + 1, e) - max(c, s)) for c in clips]
                assert shares[row, k, t].item() == pytest.approx(sum(covered) / len(clips), abs=1e-4)


@FEW
@given(st.data())
def test_touched_clips_are_those_that_a_span_overlaps(data):
    lengths = data.draw(LENGTHS)
    spans = [sorted(data.draw(st.tuples(st.integers(0, 8 * n), st.integers(0, 8 * n)))) for n in lengths]
    normalised = torch.tensor([[s / 8 / n, e / 8 / n] for (s, e), n in zip(spans, lengths, strict=True)])
    touched = clips_touched(normalised, torch.tensor(lengths))
    for (s, e), n, found in zip(spans, lengths, touched.tolist(), strict=True):
        clips = [c for c in range(n) if min(8 * c + 8, e) > max(8 * c, s)]
        if clips:
            assert found == [clips[0], clips[-1]]
        assert 0 <= found[0] <= found[1] < n


def test_seconds_that_became_shares_still_end_between_two_clips():
    for clips in range(96, 161):
        first = torch.arange(clips - 3)
        seconds = torch.stack([first * 0.4, (first + 3) * 0.4], dim=1).double()
        touched = clips_touched((seconds / (clips * 0.4)).float(), torch.full((clips - 3,), clips))
        assert torch.equal(touched, torch.stack([first, first + 2], dim=1))


@FEW
@given(st.data())
def test_every_sequence_is_snapped_on_its_own_frames(data):
    lengths, index = sequences(data)
    touched = [sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))) for n in lengths]
    snapped = snap_sequences(torch.tensor(touched), index)
    for row, (s, e) in enumerate(touched):
        for k, sequence in enumerate(index[row].tolist()):
            last = max((t for t, clip in enumerate(sequence) if clip <= e), default=0)
            first = min((t for t, clip in enumerate(sequence) if clip >= s), default=len(sequence) - 1)
            assert snapped[row, k].tolist() == [min(first, last), last]


def test_snapping_moves_boundaries_by_up_to_a_stride():
    mask = torch.ones(1, 31, dtype=torch.bool)
    index, clips = siamese_indices(mask, 4, 0)[:, 0], torch.tensor([31])
    errors = {
        (s, e): snapping_error(torch.tensor([[s / 31, (e + 1) / 31]]), index, clips).item()
        for s, e in [(0, 30), (1, 29), (10, 20), (11, 19)]
    }
    assert errors == pytest.approx({(0, 30): 0, (1, 29): 9, (10, 20): 0, (11, 19): (1 + 9) / 2})


# --- from steps back to spans (E15, E16) ---


@FEW
@given(st.data())
def test_interleaving_keeps_every_probability_at_its_clip(data):
    lengths, index = sequences(data)
    log_probs = torch.randn(index.shape, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)
    scores, positions = interleave_scores(log_probs, index)
    assert (positions.diff(dim=1) >= 0).all()
    for row, n in enumerate(lengths):
        at = torch.zeros(n).scatter_add(0, index[row].flatten(), log_probs[row].exp().flatten() / index.shape[1])
        found = torch.zeros(n).scatter_add(0, positions[row].long(), scores[row].exp())
        torch.testing.assert_close(found, at)
        assert found.sum().item() == pytest.approx(1, abs=1e-5)


def slow_mean(probs, positions, centre, reach):
    near = [(p, x) for p, x in zip(probs, positions, strict=True) if abs(x - centre) <= reach]
    total = sum(p for p, _ in near)
    return sum(p * x for p, x in near) / total


@FEW
@given(st.data())
def test_the_best_pair_is_the_best_of_all_in_order(data):
    block, steps = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    size = block * steps
    start, end = torch.randn(2, 1, size, generator=generator).log_softmax(dim=-1)
    positions = torch.randint(40, (1, size), generator=generator).sort(dim=1).values.float()
    reach = torch.tensor([6.0])
    spans, scores = decode_spans(start, end, positions, reach, block)
    assert spans.shape == (1, steps * (steps + 1) // 2, 2)

    p, q, x = start[0].exp().tolist(), end[0].exp().tolist(), positions[0].tolist()
    best = {}
    for i in range(size):
        for j in range(i, size):
            cell = (i // block, j // block)
            best[cell] = max(best.get(cell, (-1.0,)), (p[i] * q[j], i, j))
    expected = sorted((score, slow_mean(p, x, x[i], 6), slow_mean(q, x, x[j], 6)) for score, i, j in best.values())
    order = scores[0].argsort()
    np.testing.assert_allclose(scores[0, order].exp(), [score for score, _, _ in expected], rtol=1e-4)
    np.testing.assert_allclose(spans[0, order], [ends for _, *ends in expected], rtol=1e-4, atol=1e-4)


def test_a_start_after_every_end_still_gives_a_span_in_order():
    start, end = torch.tensor([[-9.0, -9.0, -0.1]]), torch.tensor([[-0.1, -5.0, -8.0]])
    positions = torch.tensor([[0.0, 5.0, 10.0]])
    spans, scores = decode_spans(start, end, positions, torch.tensor([0.0]), block=3)
    assert spans.tolist() == [[[10.0, 10.0]]]
    assert scores.item() == pytest.approx(-8.1)


def test_where_a_span_lies_is_differentiable():
    start = torch.randn(2, 8).log_softmax(dim=-1).requires_grad_()
    end = torch.randn(2, 8).log_softmax(dim=-1).requires_grad_()
    positions = (torch.arange(8.0) * 3).expand(2, -1)
    spans, _ = decode_spans(start, end, positions, torch.tensor([3.0, 3.0]))
    spans.sum().backward()
    assert start.grad.any()
    assert end.grad.any()


def test_impossible_steps_leave_no_nan():
    scores = torch.tensor([[-300.0, 0.0, -300.0]])
    found = mean_position(scores, torch.tensor([[0.0, 50.0, 90.0]]), torch.tensor([[0.0, 90.0]]), torch.tensor([5.0]))
    assert found.tolist() == [[0.0, 90.0]]


@FEW
@given(st.data())
def test_soft_labels_decode_to_the_boundaries_they_came_from(data):
    """Labels of one sequence are enough: the mean of its two steps is the boundary, although no step shows it."""
    n, steps = data.draw(st.integers(4, LONGEST)), data.draw(STEPS)
    mask = masks([n])
    index, gap = siamese_indices(mask, steps, 0), stride(mask, steps).ceil()
    s, e = sorted(data.draw(st.tuples(st.floats(0, n - 1, width=32), st.floats(0, n - 1, width=32))))
    # Between the same two steps the likelier clips may be in the wrong order.
    assume(e - s >= gap.item())
    labels = [soft_boundary_labels(torch.tensor([[tau]]), index).clamp(min=1e-30).log() for tau in (s, e)]
    (start, positions), (end, _) = (interleave_scores(label, index) for label in labels)
    spans, scores = decode_spans(start, end, positions, gap)
    assert spans[0, scores.argmax()].tolist() == pytest.approx([s, e], abs=1e-2)


def test_boundary_errors_are_in_seconds_and_unlabelled_queries_have_none():
    predicted = torch.tensor([[0.2, 0.6], [-0.5, 1.5], [0.1, 0.2]])
    span = torch.tensor([[0.1, 0.7], [0.0, 1.0], [math.nan, math.nan]])
    error = boundary_error(predicted, span, torch.tensor([20.0, 10.0, 10.0]))
    torch.testing.assert_close(error, torch.tensor([2.0, 0.0, math.nan]), equal_nan=True)
