"""2D-TAN as a whole against the numbers recorded from the authors' network."""

import re

import pytest
import torch

from ommatid.grounding.tan import TAN2D
from ommatid.grounding.task import GroundingBatch
from parity.fixture import load_fixture


@pytest.fixture
def fixture():
    return load_fixture("field-2dtan")


@pytest.fixture
def batch(fixture):
    """Every recorded word is a word of its own, so that the vocabulary holds the recorded vectors."""
    text, duration = fixture.tensor("in/text"), fixture.tensor("in/duration")
    count, longest, _ = text.shape
    video = fixture.tensor("in/visual").requires_grad_()
    return GroundingBatch(
        video=video,
        video_mask=torch.ones(video.shape[:2], dtype=torch.bool),
        words=torch.arange(count * longest).view(count, longest) + 2,
        word_mask=fixture.tensor("in/text_mask")[..., 0].bool(),
        duration=duration,
        span=fixture.tensor("in/gt") / duration[:, None],
        glance=torch.full((count,), torch.nan),
        query=torch.arange(count),
    )


@pytest.fixture
def method(fixture):
    text, state, config = fixture.tensor("in/text"), fixture.tensors("state"), fixture.config
    low, high = config["minmax"]
    method = TAN2D(
        feature_dim=config["D"],
        word_dim=config["E"],
        vocabulary_size=text.shape[0] * text.shape[1] + 2,
        clips=config["T"],
        map_size=config["T"] // config["K"],
        scales=tuple(config["scales"]),
        hidden_dim=config["H"],
        query_dim=config["LH"],
        query_layers=numbered(state, r"fusion_layer\.textual_encoder\.weight_ih_l\d+"),
        kernel=config["ks"],
        map_layers=numbered(state, r"map_layer\.convs\.\d+\.weight"),
        dilation=config["dil"],
        min_iou=low,
        max_iou=high,
    )
    method.words.vectors[2:] = text.flatten(0, 1)
    method.load_state_dict(method.published_state(state))
    method.report = lambda **_: None
    return method.eval()


def numbered(state, pattern):
    return sum(re.fullmatch(pattern, name) is not None for name in state)


def on_the_map(method, cells):
    return method.proposals.scatter(cells[..., None])


def test_the_same_cells_exist(fixture, method):
    expected = fixture.tensor("out/map_mask")
    fixture.assert_close(method.proposals.mask.float().expand_as(expected), "out/map_mask")


def test_every_score_on_the_map_is_the_authors(fixture, method, batch):
    logits = method.cell_logits(batch)
    fixture.assert_close(on_the_map(method, logits), "out/prediction")
    fixture.assert_close(on_the_map(method, logits.sigmoid()), "out/joint_prob")


def test_moments_are_the_cells_with_the_authors_scores(fixture, method, batch):
    moments = method(batch)
    size = len(method.proposals.mask)
    start = (moments.spans[..., 0] * size).round().long()
    end = (moments.spans[..., 1] * size).round().long() - 1
    row = torch.arange(len(start))[:, None].expand_as(start)
    torch.testing.assert_close(
        moments.scores, fixture.tensor("out/joint_prob")[:, 0][row, start, end], rtol=fixture.rtol, atol=fixture.atol
    )


def test_targets_are_the_rescaled_overlaps(fixture, method, batch):
    low, high = fixture.config["minmax"]
    iou = method.proposals.gather(fixture.tensor("in/map_gt"))[..., 0]
    expected = ((iou - low) / (high - low)).clamp(0, 1)
    torch.testing.assert_close(method.targets(batch), expected, rtol=fixture.rtol, atol=fixture.atol)


def test_loss_and_gradients_are_the_authors(fixture, method, batch):
    loss = method.training_step(batch, 0)
    fixture.assert_close(loss[None], "out/loss")
    loss.backward()
    for key, gradient in {
        "grad/visual": batch.video.grad,
        "grad/frame_layer.vis_conv.weight": method.clip_input.weight.grad,
        "grad/fusion_layer.vis_conv.weight": method.cell_input.weight.grad,
        "grad/map_layer.convs.0.weight": method.adjacent.convs[0].weight.grad,
        "grad/pred_layer.weight": method.head.weight.grad,
    }.items():
        fixture.assert_close(gradient, key)
        # Small gradients are equal within any absolute tolerance: compare them in units of the largest one, too.
        expected = fixture.tensor(key).view_as(gradient)
        unit = expected.abs().max()
        torch.testing.assert_close(gradient / unit, expected / unit, rtol=fixture.rtol, atol=fixture.atol)
