"""The dense regression head: every step votes for a span (H3)."""

import math

import pytest
import torch

from ommatid.grounding.heads import (
    DenseRegression,
    DenseRegressionHead,
    decode_dense,
    dense_loss,
    step_centres,
    steps_inside,
)

MASK = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
SPAN = torch.tensor([[0.2, 0.7], [0.4, 0.45]])


@pytest.fixture
def prediction():
    torch.manual_seed(0)
    with torch.no_grad():
        return DenseRegressionHead(8)(torch.randn(2, 6, 8), MASK)


def test_every_step_votes_for_a_span_around_itself(prediction):
    centre = step_centres(MASK)
    assert (prediction.spans[..., 0] < centre).all()
    assert (prediction.spans[..., 1] > centre).all()


def test_first_guesses_reach_a_sixth_of_the_video_to_both_sides():
    head = DenseRegressionHead(8)
    for layer in head.distance:
        if hasattr(layer, "weight"):
            torch.nn.init.zeros_(layer.weight)
    spans = head(torch.randn(1, 4, 8), torch.ones(1, 4, dtype=torch.bool)).spans
    reach = (spans - step_centres(torch.ones(1, 4, dtype=torch.bool))[..., None]).abs()
    assert reach.flatten().tolist() == pytest.approx([1 / 6] * 8, abs=0.01)


def slow_iou(a, b):
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return overlap / (max(a[1], b[1]) - min(a[0], b[0])) if overlap else 0.0


def slow_loss(prediction, spans):
    """The three parts, one video and one step after the other."""
    parts = torch.zeros(3, dtype=torch.float64)
    for row, (start, end) in enumerate(spans.tolist()):
        steps = int(prediction.mask[row].sum())
        middles = [(step + 0.5) / steps for step in range(steps)]
        inside = [start <= middle <= end for middle in middles]
        nearest = min(range(steps), key=lambda step: abs(middles[step] - (start + end) / 2))
        inside[nearest] = True
        for step in range(steps):
            logit = float(prediction.inside_logits[row, step])
            parts[0] += math.log1p(math.exp(-logit if inside[step] else logit)) / steps / len(spans)
            if inside[step]:
                iou = slow_iou(prediction.spans[row, step].tolist(), (start, end))
                quality = 1 / (1 + math.exp(-float(prediction.quality_logits[row, step])))
                parts[1] += (1 - iou) / sum(inside) / len(spans)
                parts[2] += 0.5 * (quality - iou) ** 2 / sum(inside) / len(spans)
    return parts.tolist()


def test_losses_equal_the_slow_ones(prediction):
    loss = dense_loss(prediction, SPAN)
    found = [loss.classification.item(), loss.regression.item(), loss.quality.item()]
    assert found == pytest.approx(slow_loss(prediction, SPAN), abs=1e-6)


def test_padded_steps_neither_count_nor_learn(prediction):
    def with_padding(value):
        return DenseRegression(
            prediction.inside_logits.masked_fill(~MASK, value),
            prediction.spans.masked_fill(~MASK[..., None], value),
            prediction.quality_logits.masked_fill(~MASK, value),
            MASK,
        )

    first, second = (dense_loss(with_padding(value), SPAN) for value in (0.0, 50.0))
    assert vars(first) == vars(second)


def test_a_perfect_prediction_has_no_loss_and_a_wrong_one_has():
    inside = steps_inside(MASK, SPAN)
    perfect = DenseRegression(
        torch.where(inside, 40.0, -40.0), SPAN[:, None].expand(-1, 6, -1), torch.full((2, 6), 40.0), MASK
    )
    assert sum(part.item() for part in vars(dense_loss(perfect, SPAN)).values()) < 1e-6
    wrong = DenseRegression(-perfect.inside_logits, perfect.spans + 1, perfect.quality_logits, MASK)
    assert all(part.item() > 0.4 for part in vars(dense_loss(wrong, SPAN)).values())


def test_the_quality_target_is_no_way_to_learn_spans(prediction):
    spans = prediction.spans.clone().requires_grad_()
    quality = prediction.quality_logits.clone().requires_grad_()
    loss = dense_loss(DenseRegression(prediction.inside_logits, spans, quality, MASK), SPAN).quality
    to_spans, to_quality = torch.autograd.grad(loss, (spans, quality), allow_unused=True)
    assert to_spans is None
    assert to_quality.any()


def test_half_precision_gives_a_finite_loss_in_single_precision(prediction):
    halves = DenseRegression(
        prediction.inside_logits.bfloat16(), prediction.spans.bfloat16(), prediction.quality_logits.bfloat16(), MASK
    )
    for part in vars(dense_loss(halves, SPAN)).values():
        assert part.dtype == torch.float32
        assert part.isfinite()


def test_candidates_are_ranked_by_foreground_times_quality(prediction):
    moments = decode_dense(prediction)
    expected = (prediction.inside_logits.sigmoid() * prediction.quality_logits.sigmoid())[0]
    assert moments.scores[0].tolist() == pytest.approx(sorted(expected.tolist(), reverse=True))
    best = int(expected.argmax())
    torch.testing.assert_close(moments.spans[0, 0], prediction.spans[0, best].clamp(0, 1))


def test_candidates_lie_within_the_video_and_padded_steps_come_last(prediction):
    moments = decode_dense(prediction)
    assert moments.spans.min() >= 0
    assert moments.spans.max() <= 1
    assert moments.scores[1, 4:].tolist() == [0.0, 0.0]
    assert (moments.scores[1, :4] > 0).all()


def test_middles_of_steps_follow_the_length_of_each_video():
    assert step_centres(MASK)[1].tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875, 1.125, 1.375])
    assert step_centres(torch.zeros(1, 2, dtype=torch.bool)).isfinite().all()


@pytest.mark.parametrize("span", [(0.0, 0.0), (0.3, 0.31), (1.0, 1.0), (0.99, 1.0)])
def test_the_shortest_moment_has_one_valid_step(span):
    inside = steps_inside(MASK, torch.tensor([span, span]))
    assert inside.sum(dim=1).tolist() == [1, 1]
    assert not (inside & ~MASK).any()


def test_the_whole_video_is_inside_itself():
    assert torch.equal(steps_inside(MASK, torch.tensor([[0.0, 1.0], [0.0, 1.0]])), MASK)
