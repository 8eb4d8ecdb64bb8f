"""Curves to segments, against a plain walk over every curve."""

import pytest
import torch

from ommatid.grounding.curves import curve_to_segments, min_max


def walk(curve, levels, band, shortest):
    """Every distinct maximal run of one curve, with its score, best first."""
    found = {}
    for level in levels:
        start = None
        for step, value in enumerate([*curve, float("-inf")]):
            if value >= level and start is None:
                start = step
            if value < level and start is not None:
                if step - start >= shortest:
                    found[start, step] = stands_out(curve, start, step, band)
                start = None
    return sorted(found.items(), key=lambda item: -item[1])


def stands_out(curve, start, end, band):
    width = max(round((end - start) * band), 1)
    around = curve[max(start - width, 0) : start] + curve[end : end + width]
    inside = curve[start:end]
    return sum(inside) / len(inside) - (sum(around) / len(around) if around else 0.0)


@pytest.mark.parametrize("shortest", [1, 3])
def test_segments_are_those_of_a_plain_walk(shortest):
    generator = torch.Generator().manual_seed(0)
    curve = torch.nn.functional.avg_pool1d(torch.rand(20, 1, 34, generator=generator), 5, 1)[:, 0]
    lengths = torch.randint(1, 31, (20,), generator=generator)
    mask = torch.arange(30) < lengths[:, None]
    curve = min_max(curve, mask)
    levels = (0.3, 0.5, 0.7, 0.9)
    runs, scores = curve_to_segments(curve, mask, levels, band=0.25, shortest=shortest, count=40)
    for row, length in enumerate(lengths.tolist()):
        expected = walk(curve[row, :length].tolist(), levels, 0.25, shortest)
        found = torch.isfinite(scores[row])
        assert int(found.sum()) == len(expected)
        assert scores[row][found].tolist() == pytest.approx([score for _, score in expected], abs=1e-5)
        assert {tuple(run) for run in runs[row][found].tolist()} == {run for run, _ in expected}
        assert (runs[row][~found] == 0).all()


def test_only_the_best_are_kept():
    curve, mask = torch.tensor([[1.0, 0.0, 0.6, 0.0, 0.8]]), torch.ones(1, 5, dtype=torch.bool)
    runs, scores = curve_to_segments(curve, mask, levels=(0.5,), count=2)
    assert runs[0].tolist() == [[0, 1], [4, 5]]
    assert scores[0].tolist() == pytest.approx([1.0, 0.8])


def test_curves_are_stretched_over_valid_steps_only():
    curve = torch.tensor([[2.0, 4.0, 100.0], [5.0, 5.0, 5.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert min_max(curve, mask).tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
