"""ViGA: the windows it tries, what it learns from, and that padding changes nothing."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grounding.made import made_batch, silent
from ommatid.engine.fit import fit
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData
from ommatid.grounding.viga import ViGA, guided_moments, most_windows

SMALL = {"feature_dim": 6, "word_dim": 5, "vocabulary_size": 9, "hidden_dim": 8, "heads": 2, "clip_steps": (2, 3)}


def small(**options):
    torch.manual_seed(0)
    return silent(ViGA(**{**SMALL, "stride": 1, "dropout": 0.0, "encoder": "conv", **options}))


@pytest.fixture
def batch():
    made = made_batch()
    made.glance, made.span = torch.tensor([0.3, 0.6, 0.99]), torch.full((3, 2), torch.nan)
    made.words = torch.where(made.word_mask, made.words, 0)
    return made


# --- windows (B5) ---


def windows_one_by_one(steps, anchor, lengths, overlaps):
    found = set()
    for share in lengths:
        size = max(round(steps * share), 1)
        for overlap in overlaps:
            shift = size - round(size * overlap)
            if not shift:
                continue
            start = max(0, anchor - size)
            while start <= anchor and start + size <= min(steps, anchor + size):
                found.add((start, start + size))
                start += shift
    return found


shares = st.lists(st.sampled_from([0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.9, 1.0]), min_size=1, max_size=4, unique=True)
overlapping = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8, 0.9]), min_size=1, max_size=3, unique=True)


@settings(deadline=None, max_examples=60)
@given(shares, overlapping, st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(0, 10**6))
def test_every_window_around_the_peak_is_tried_and_the_best_wins(lengths, overlaps, counts, seed):
    overlaps = [0.0, *(overlap for overlap in overlaps if overlap)]
    torch.manual_seed(seed)
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    video, sentence = torch.randn(len(counts), max(counts), 3), torch.randn(len(counts), 3)
    attention = torch.rand(len(counts), max(counts))
    moments = guided_moments(sentence, video, attention, mask, lengths, overlaps)
    for row, steps in enumerate(counts):
        expected = windows_one_by_one(steps, int(attention[row, :steps].argmax()), lengths, overlaps)
        real = moments.scores[row].isfinite()
        spans = (moments.spans[row, real] * steps).round().long()
        assert {tuple(span) for span in spans.tolist()} == expected
        for (start, end), score in zip(spans.tolist(), moments.scores[row, real].tolist(), strict=True):
            pooled = video[row, start:end].amax(dim=0)
            assert score == pytest.approx(float(pooled @ sentence[row]), abs=1e-4)
        assert (moments.scores[row, real].diff() <= 0).all()


def test_no_length_has_more_windows_than_there_is_room_for():
    for overlap in (0.0, 0.3, 0.5, 0.75, 0.9):
        shifts = {size: size - round(size * overlap) for size in range(1, 300)}
        assert max(size // shift for size, shift in shifts.items() if shift) + 1 <= most_windows([overlap])


def test_a_video_too_short_for_any_shift_still_has_a_window():
    moments = guided_moments(
        torch.ones(1, 2), torch.ones(1, 2, 2), torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), [0.5], [0.9]
    )
    assert moments.scores[0, 0].isfinite()
    assert moments.spans[0, 0].tolist() == [0.0, 0.5]


# --- the method ---


def test_full_size_settings_are_the_authors_and_take_one_step(batch):
    method = silent(ViGA())
    settings = method.hparams
    assert (settings.hidden_dim, settings.layers, settings.temperature) == (512, 2, 0.07)
    assert (settings.clip_steps, settings.stride, settings.sigma_factor) == ((16,), 8, 0.4)
    batch.video, batch.words = torch.randn(3, 7, 500), torch.where(batch.word_mask, 1, 0)
    loss = method.train().training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert [name for name, parameter in method.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("encoder", ["gru", "conv"])
def test_padding_changes_nothing(batch, encoder):
    method = small(encoder=encoder).eval()
    noisy = copy.copy(batch)
    noisy.video = torch.where(batch.video_mask[..., None], batch.video, 50.0)
    noisy.words = torch.where(batch.word_mask, batch.words, 8)
    torch.testing.assert_close(method(noisy).scores, method(batch).scores)
    # Alone, without the longer videos and sentences of the others.
    alone = batch[1:2]
    alone.video, alone.video_mask = alone.video[:, :4], alone.video_mask[:, :4]
    both = [method(each) for each in (alone, batch[1:2])]
    torch.testing.assert_close(both[0].scores, both[1].scores)
    torch.testing.assert_close(both[0].spans, both[1].spans)
    losses = [method.training_step(each, 0) for each in (alone, batch[1:2])]
    torch.testing.assert_close(*losses)


def test_the_release_counts_places_from_the_padded_length(batch):
    method = small(as_released=True).eval()
    alone = batch[1:2]
    alone.video, alone.video_mask = alone.video[:, :4], alone.video_mask[:, :4]
    assert not torch.allclose(method.training_step(alone, 0), method.training_step(batch[1:2], 0))


def test_the_loss_is_finite_and_needs_no_span(batch):
    for released in (False, True):
        loss = small(as_released=released).train().training_step(batch, 0)
        assert loss.isfinite()


def test_training_draws_attention_to_the_glance(batch):
    method = small().train()
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        method.training_step(batch, 0).backward()
        optimizer.step()
    attention = method.eval().represent(batch)[2]
    peak = attention.masked_fill(~batch.video_mask, 0).argmax(dim=1)
    assert ((peak - (batch.glance * batch.video_mask.sum(dim=1)).floor()).abs() <= 1).all()


def test_attention_is_a_share_of_the_valid_steps(batch):
    sentence, video, attention = small().eval().represent(batch)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(3))
    assert not attention[~batch.video_mask].any()
    torch.testing.assert_close(sentence.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(video.norm(dim=2)[batch.video_mask], torch.ones(int(batch.video_mask.sum())))


def test_half_precision_step_is_finite(batch):
    method = small().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters() if parameter.grad is not None)


def test_shares_outside_their_range_are_refused():
    with pytest.raises(InputError, match="lengths must be shares"):
        small(lengths=(0.0, 0.5))
    with pytest.raises(InputError, match=r"overlaps must lie in \[0, 1\)"):
        small(overlaps=(1.0,))


def test_embedded_settings_learn_from_glances():
    data = GroundingData(view="glance", train_videos=24, test_videos=4, steps=16, batch_size=16)
    torch.manual_seed(0)
    method = build(ViGA, {**ViGA.arguments_from(data), **ViGA.embedded["model"], "hidden_dim": 24})
    losses = []
    method.report = lambda **parts: losses.append(float(parts["loss"].detach()))
    fit(method, data, trainer={"max_steps": 40, "max_epochs": -1, "limit_val_batches": 0})
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
