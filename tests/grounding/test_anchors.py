"""Anchors cover the video, their targets say what they overlap, and a head of them learns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grounding.made import learn_by_heart, made_batch, silent
from ommatid.errors import InputError
from ommatid.grounding.anchors import (
    AnchorHead,
    anchor_loss,
    anchor_targets,
    decode_anchors,
    half_widths,
    label_in_steps,
    temporal_anchors,
)
from ommatid.grounding.encoders import WordEmbedding
from ommatid.grounding.grounder import Grounder
from ommatid.grounding.heads import DenseRegressionHead, dense_loss
from ommatid.grounding.metrics import temporal_iou

WIDTHS = (1, 3, 5)


@pytest.fixture
def batch():
    return made_batch()


@pytest.fixture
def features(batch):
    torch.manual_seed(0)
    return torch.randn(*batch.video_mask.shape, 8, requires_grad=True)


def head(dim=8):
    torch.manual_seed(0)
    return AnchorHead(dim, WIDTHS)


# --- anchors (A1) ---


def test_an_anchor_is_as_many_steps_wide_as_listed_around_every_step():
    anchors = temporal_anchors(9, half_widths([1, 4, 6]))
    assert anchors.shape == (9, 3, 2)
    torch.testing.assert_close(anchors.mean(dim=-1), torch.arange(9).double()[:, None].expand(-1, 3))
    torch.testing.assert_close(anchors[..., 1] - anchors[..., 0] + 1, torch.tensor([[1.0, 4, 6]]).double().expand(9, 3))


def test_the_smaller_factor_makes_anchors_of_a_quarter():
    assert half_widths([16, 24, 32, 40], 0.125).mul(2).add(1).tolist() == [4.75, 6.75, 8.75, 10.75]


@pytest.mark.parametrize(
    ("widths", "factor", "sentence"),
    [
        ([], 0.5, r"widths: found \(\), expected at least one width, each at least 1"),
        ([4, 0], 0.5, r"widths: found \(4, 0\), expected at least one width, each at least 1"),
        ([4], 0.0, "factor must be above 0, found 0.0"),
    ],
)
def test_widths_that_make_no_anchors_are_refused(widths, factor, sentence):
    with pytest.raises(InputError, match=sentence):
        AnchorHead(4, widths, factor)


# --- targets (A2, A3) ---


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.integers(1, 14), min_size=1, max_size=3),
    ends=st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)),
    relative=st.booleans(),
)
def test_targets_are_those_of_one_anchor_after_the_other(steps, ends, relative):
    count = torch.tensor(steps)
    first, last = sorted(ends)
    label = torch.tensor([[first, last]]) * (count[:, None] - 1)
    anchors = temporal_anchors(14, half_widths(WIDTHS)).flatten(0, 1).float()
    found = anchor_targets(anchors, label, count, 0.6, relative)
    for row, length in enumerate(steps):
        overlaps = []
        for start, end in anchors.tolist():
            inside = start >= 0 and end < length
            overlap = temporal_iou(torch.tensor([start, end]), label[row], inclusive=True).item()
            overlaps.append(overlap if inside else 0.0)
        best = max(overlaps)
        limit = 0.6 * best if relative else 0.6
        for column, overlap in enumerate(overlaps):
            assert found.score[row, column] == pytest.approx(overlap / best if best else 0, abs=1e-6)
            if abs(overlap - limit) > 1e-5:
                assert found.regress[row, column] == pytest.approx(overlap if overlap >= limit else 0, abs=1e-6)


def test_the_best_anchor_of_every_video_has_target_one(batch):
    anchors = temporal_anchors(7, half_widths(WIDTHS)).flatten(0, 1).float()
    steps = batch.video_mask.sum(dim=1)
    targets = anchor_targets(anchors, label_in_steps(batch.span, steps), steps)
    assert targets.score.amax(dim=1).tolist() == [1, 1, 1]
    assert (targets.regress > 0).any(dim=1).all()
    assert not targets.valid[1].view(7, 3)[4:].any()


def test_a_video_shorter_than_every_anchor_has_no_targets_and_no_loss():
    wide = AnchorHead(8, (9,))
    prediction = wide(torch.randn(1, 7, 8), torch.ones(1, 7, dtype=torch.bool))
    loss = anchor_loss(prediction, torch.tensor([[0.1, 0.5]]))
    assert (loss.score, loss.offset) == (0, 0)
    assert decode_anchors(prediction).scores.tolist() == [[0.0] * 7]


# --- head ---


def test_the_loss_is_the_one_of_every_anchor_by_itself(batch, features):
    prediction = head()(features, batch.video_mask)
    steps = batch.video_mask.sum(dim=1)
    label = label_in_steps(batch.span, steps)
    targets = anchor_targets(prediction.anchors.flatten(0, 1), label, steps)
    scores, offsets = [], []
    for row in range(3):
        total = 0.0
        for column in range(21):
            if targets.valid[row, column]:
                p, target = prediction.logits[row, column].sigmoid(), targets.score[row, column]
                total = total - target * p.log() - (1 - target) * (1 - p).log()
            if targets.regress[row, column] > 0:
                distance = (prediction.spans[row, column] - label[row]).abs()
                offsets.append(torch.where(distance < 1, distance**2 / 2, distance - 0.5).mean())
        scores.append(total / (3 * steps[row]))
    loss = anchor_loss(prediction, batch.span)
    torch.testing.assert_close(loss.score, torch.stack(scores).mean())
    torch.testing.assert_close(loss.offset, torch.stack(offsets).mean())


def test_an_anchor_without_offset_is_decoded_as_its_steps():
    plain = head()
    nn.init.zeros_(plain.offset.weight)
    nn.init.zeros_(plain.offset.bias)
    mask = torch.tensor([[True] * 4 + [False] * 3])
    moments = decode_anchors(plain(torch.randn(1, 7, 8), mask))
    found = {tuple(span) for span, score in zip(moments.spans[0].tolist(), moments.scores[0], strict=True) if score}
    assert found == {(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1), (0, 0.75), (0.25, 1)}


def test_a_label_and_its_steps_are_the_same_moment():
    span, steps = torch.tensor([[0.13, 0.58]]), torch.tensor([7])
    label = label_in_steps(span, steps)
    torch.testing.assert_close((label + torch.tensor([0, 1])) / steps, span)


def test_padding_changes_nothing(batch, features):
    module, mask = head(), batch.video_mask
    noisy = module(torch.where(mask[..., None], features, 50.0), mask)
    expected = anchor_loss(module(features, mask), batch.span)
    torch.testing.assert_close(vars(anchor_loss(noisy, batch.span)), vars(expected))

    one = slice(1, 2)
    long, short = module(features[one], mask[one]), module(features[one, :4], mask[one, :4])
    torch.testing.assert_close(vars(anchor_loss(short, batch.span[one])), vars(anchor_loss(long, batch.span[one])))
    among, alone = decode_anchors(long), decode_anchors(short)
    known = int((alone.scores > 0).sum())
    assert known == int((among.scores > 0).sum()) > 0
    torch.testing.assert_close(among.spans[:, :known], alone.spans[:, :known])
    torch.testing.assert_close(among.scores[:, :known], alone.scores[:, :known])


def test_moments_come_best_first_and_inside_the_video(batch, features):
    moments = decode_anchors(head()(features, batch.video_mask))
    assert moments.spans.shape == (3, 21, 2)
    assert (moments.scores.diff(dim=1) <= 0).all()
    assert torch.equal(moments.spans, moments.spans.clamp(0, 1))


def test_a_half_precision_loss_is_finite(batch, features):
    module = head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = anchor_loss(module(features, batch.video_mask), batch.span)
    (loss.score + loss.offset).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in module.parameters())


# --- as a second head ---


class TwoHeads(Grounder):
    """Anchors beside the field's dense head, on features that know the words."""

    def __init__(self):
        super().__init__()
        self.words = WordEmbedding(9, 5)
        self.video, self.query = nn.Linear(6, 32), nn.Linear(5, 32)
        self.anchors, self.dense = AnchorHead(32, WIDTHS), DenseRegressionHead(32)

    def features(self, batch):
        words = (self.words(batch.words) * batch.word_mask[..., None]).sum(dim=1)
        return torch.relu(self.video(batch.video) + self.query(words)[:, None])

    def forward(self, batch):
        return decode_anchors(self.anchors(self.features(batch), batch.video_mask))

    def training_step(self, batch, _):
        features = self.features(batch)
        loss = anchor_loss(self.anchors(features, batch.video_mask), batch.span)
        dense = dense_loss(self.dense(features, batch.video_mask), batch.span)
        return loss.score + 1e-1 * loss.offset + dense.classification + dense.regression + dense.quality


def test_beside_the_dense_head_it_learns_a_batch_by_heart(batch):
    torch.manual_seed(0)
    method = silent(TwoHeads())
    method.words.vectors[2:].normal_()
    best = learn_by_heart(method, batch, torch.optim.Adam(method.parameters(), 1e-2), 150)
    assert (temporal_iou(best, batch.span) > 0.9).all()
