"""DCIN-TEL: which parts there are, what they learn from, and how curves become moments."""

import pytest
import torch

from grounding.made import silent, size
from ommatid.grounding.dcin_tel import DCINTEL, LEVELS, ModalityStream, Reading, decode, pseudo_label_loss
from ommatid.grounding.emotion_data import EmotionData
from ommatid.grounding.emotion_task import EmotionBatch

SMALL = {"video_dim": 5, "text_dim": 6, "classes": 3, "hidden_dim": 8, "dropout": 0.0}


def small(**settings):
    torch.manual_seed(0)
    return silent(DCINTEL(**{**SMALL, **settings}))


@pytest.fixture
def batch():
    """Three clips of up to nine clauses; the first has a silence, the second no video."""
    torch.manual_seed(1)
    lengths = torch.tensor([9, 6, 4])
    mask = torch.arange(9) < lengths[:, None]
    heard, seen = mask.clone(), mask.clone()
    heard[0, 4], seen[1] = False, False
    text, video = torch.randn(3, 9, 6) * heard[..., None], torch.randn(3, 9, 5) * seen[..., None]
    start = torch.arange(9.0).expand(3, -1) * mask
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 0]])
    return EmotionBatch(
        video=video, text=text, mask=mask, seen=seen, heard=heard, times=torch.stack([start, start + mask], dim=-1),
        labels=labels, votes=3 * labels, true_spans=torch.zeros(3, 1, 2), true_labels=torch.full((3, 1), -1),
        clip=torch.arange(3),
    )  # fmt: skip


# --- sizes and parts ---


def linear(inputs, outputs):
    return inputs * outputs + outputs


def test_full_size_streams_have_the_sizes_of_their_equations():
    dim, labels, levels = 512, 18, 4
    contexts = 2 * dim + levels * (linear(3 * dim, dim) + linear(dim, dim))
    integrate = 3 * linear(dim, dim) + linear(dim, dim) + dim * dim + dim + 2 * dim
    heads = levels * linear(dim, labels) + linear(dim, labels) + linear(dim, dim) + linear(dim, 1)
    shared = dim + contexts + linear(dim, dim) + integrate + heads
    assert size(DCINTEL()) == 2 * shared + linear(1024, dim) + linear(768, dim)


def test_the_control_differs_in_dilation_alone():
    assert size(small()) == size(small(dilations=(1, 1, 1, 1)))


def test_parts_can_be_left_out(batch):
    assert small(modalities="video").subtitles is None
    assert small(modalities="subtitles").video is None
    plain = small(fine=False)
    reading = plain.video(batch.video, batch.seen, batch.mask)
    assert reading.logits is reading.coarse
    for method in (small(modalities="video"), small(modalities="subtitles"), plain):
        assert torch.isfinite(method.training_step(batch, 0))


def test_every_parameter_learns(batch):
    method = small()
    method.training_step(batch, 0).backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name


# --- reading ---


def test_a_modality_that_is_absent_says_nothing(batch):
    method = small().eval()
    joined = method.together(method.read(batch), batch.mask)
    video, text = method.read(batch)
    torch.testing.assert_close(joined.logits[1, :6], text.logits[1, :6])  # no video
    torch.testing.assert_close(joined.logits[0, 4], video.logits[0, 4])  # silence
    torch.testing.assert_close(joined.logits[2, 0], (video.logits[2, 0] + text.logits[2, 0]) / 2)


def test_absent_features_do_not_matter():
    torch.manual_seed(0)
    stream = ModalityStream(5, 8, 3, (1, 2), fine=True, dropout=0.0)
    mask = torch.ones(1, 6, dtype=torch.bool)
    present = torch.tensor([[True, True, False, True, True, True]])
    features = torch.randn(1, 6, 5)
    other = features.clone()
    other[0, 2] = 100.0
    torch.testing.assert_close(stream(features, present, mask).logits, stream(other, present, mask).logits)


def test_padding_changes_no_moment(batch):
    method = small().eval()
    together, alone = method(batch), method(trimmed(batch[2:3], 4))
    torch.testing.assert_close(together.presence[2], alone.presence[0])
    found = torch.isfinite(together.scores[2])
    torch.testing.assert_close(together.spans[2][found], alone.spans[0][torch.isfinite(alone.scores[0])])


def trimmed(batch, steps):
    timed = ("video", "text", "mask", "seen", "heard", "times")
    return EmotionBatch(**{name: v[:, :steps] if name in timed else v for name, v in vars(batch).items()})


# --- losses ---


def test_more_marks_weigh_more(batch):
    method = small()
    readings = method.read(batch)
    joined = method.together(readings, batch.mask)
    few, many = ({**vars(batch), "votes": votes * batch.labels} for votes in (1.0, 2.0))
    losses = [method.clip_losses(readings, joined, EmotionBatch(**each))["clip"] for each in (few, many)]
    assert losses[0] != losses[1]


def test_consensus_grows_over_training(batch, monkeypatch):
    method = small()
    video, text = method.read(batch)
    parts = {}
    for done in (0.0, 0.15, 0.6):
        monkeypatch.setattr(DCINTEL, "share_done", done)
        parts[done] = method.consensus_losses(video, text, batch)
    assert parts[0.0]["distribution"] == 0
    torch.testing.assert_close(2 * parts[0.15]["distribution"], parts[0.6]["distribution"])
    assert "pseudo" not in parts[0.15]
    assert parts[0.6]["pseudo"] > 0


def test_agreement_teaches_both_and_a_lone_modality_half_as_much(batch):
    logits = torch.zeros(3, 9, 3)
    logits[:, 0] = 5.0
    readings = [
        Reading(logits, logits, value.requires_grad_(), torch.ones(3, 9), torch.zeros(3, 9, 8), mask & batch.mask)
        for value, mask in ((logits.clone(), batch.seen), (logits.clone(), batch.heard))
    ]
    pseudo_label_loss(*readings, batch).backward()
    video, text = (reading.logits.grad for reading in readings)
    assert (video[1] == 0).all()  # the clip without a video
    assert (text[1, :6, 1] != 0).all()
    # The first unit of the first clip: both agree on class 0; class 1 does not occur.
    assert video[0, 0, 0] < 0 < video[0, 0, 1]
    scale = float(text[1, 0, 0] / text[2, 0, 2])  # equal logits, neither class occurs
    assert scale == pytest.approx(0.5)


def test_published_losses_know_a_background(batch):
    method = small(losses="co2")
    assert method.video.fine.out_features == 4
    readings = method.read(batch)
    parts = method.co2_losses(readings, method.together(readings, batch.mask), batch)
    assert set(parts) == {"clip", "focused", "guide", "attention"}
    assert method.eval()(batch).presence.shape == (3, 3)
    method.train().training_step(batch, 0).backward()


# --- moments ---


def reading_of(strength, classes):
    logits = torch.logit(strength.clamp(0.02, 0.98))
    return Reading(logits, logits, logits, torch.ones(logits.shape[:2]), logits, torch.ones(logits.shape[:2]) > 0)


def test_a_clear_run_of_clauses_becomes_the_best_moment(batch):
    strength = torch.full((3, 9, 3), 0.02)
    strength[0, 2:7, 1] = 0.95  # across the silence at unit 4
    moments = decode(reading_of(strength, 3), batch, classes=3, ratio=8)
    assert moments.labels[0, 0] == 1
    assert moments.spans[0, 0].tolist() == [2.0, 7.0]
    assert (moments.scores[:, 1:] <= moments.scores[:, :-1]).all()


def test_unlikely_emotions_are_not_looked_for(batch):
    moments = decode(reading_of(torch.full((3, 9, 3), 0.05), 3), batch, classes=3, ratio=8)
    assert (moments.labels == -1).all()
    assert (moments.scores == float("-inf")).all()


def test_moments_of_one_emotion_do_not_repeat_each_other(batch):
    torch.manual_seed(3)
    moments = decode(reading_of(torch.rand(3, 9, 3), 3), batch, classes=3, ratio=2)
    for row in range(3):
        found = {
            (label, *span)
            for label, span in zip(moments.labels[row].tolist(), map(tuple, moments.spans[row].tolist()), strict=True)
            if label >= 0
        }
        assert len(found) == int((moments.labels[row] >= 0).sum())
    assert len(LEVELS) == 9


def test_one_batch_is_learnt_by_heart():
    data = EmotionData(train_clips=40, test_clips=6, held_out=1)
    batch = data.first_batch("train", 8)
    torch.manual_seed(0)
    method = silent(DCINTEL(**{**SMALL, **DCINTEL.arguments_from(data), "hidden_dim": 24}))
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        method.training_step(batch, 0).backward()
        optimizer.step()
    presence = method.eval()(batch).presence
    assert ((presence > 0.5).float() == batch.labels).float().mean() > 0.95
