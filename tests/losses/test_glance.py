"""Glance supervision against its definitions, spelled out in loops; recorded numbers are in tests/parity."""

import math

import pytest
import torch

from ommatid.errors import InputError
from ommatid.losses.glance import attention_guidance_kl, clip_nce_loss, gaussian_glance_weight, sliding_clips

LENGTHS = torch.tensor([9, 4, 12])


@pytest.fixture
def mask():
    return torch.arange(12) < LENGTHS[:, None]


@pytest.fixture
def video():
    torch.manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(3, 12, 5), dim=-1)


# --- weights ---


def test_weights_are_a_gaussian_in_the_own_time_of_the_video(mask):
    glance, factor = torch.tensor([2.2, 1.5, 11.9]), 0.4
    weight = gaussian_glance_weight(glance, mask, factor)
    for row, steps in enumerate(LENGTHS.tolist()):
        places = [(t + 0.5) / steps for t in range(steps)]
        bell = [math.exp(-((p - float(glance[row]) / steps) ** 2) / (2 * (factor / 2) ** 2)) for p in places]
        torch.testing.assert_close(weight[row, :steps], torch.tensor(bell) / max(bell))
    assert weight.amax(dim=1).tolist() == [1.0] * 3
    assert not weight[~mask].any()


def test_weights_do_not_depend_on_the_padding(mask):
    glance = torch.tensor([2.2, 1.5, 7.0])
    weight = gaussian_glance_weight(glance, mask, 0.3)
    torch.testing.assert_close(gaussian_glance_weight(glance[1:2], mask[1:2, :4], 0.3), weight[1:2, :4])


def test_as_released_the_padding_moves_the_weights(mask):
    glance = torch.tensor([2.0, 1.0, 7.0])
    weight = gaussian_glance_weight(glance, mask, 0.3, mode="viga")
    alone = gaussian_glance_weight(glance[1:2], mask[1:2, :4], 0.3, mode="viga")
    assert not torch.allclose(alone, weight[1:2, :4])


def test_a_glance_far_outside_is_still_nearest_to_something(mask):
    weight = gaussian_glance_weight(torch.tensor([500.0, -500.0, 500.0]), mask, 0.01)
    assert weight.argmax(dim=1).tolist() == [8, 0, 11]
    assert weight.isfinite().all()


# --- clips ---


@pytest.mark.parametrize("mode", ["normalised", "viga"])
@pytest.mark.parametrize(("sizes", "stride"), [([3], 2), ([2, 5], 1), ([4, 6], 3)])
def test_clips_are_the_maxima_of_their_windows(video, mask, sizes, stride, mode):
    weight = torch.rand(3, 12)
    clips, weights, inside = sliding_clips(video, weight, mask, sizes, stride, mode)
    at = 0
    for size in sizes:
        for start in range(0, 12 - size + 1, stride):
            for row, steps in enumerate(LENGTHS.tolist()):
                begins, whole = start < steps, start + size <= steps or start == 0
                assert bool(inside[row, at]) == (begins if mode == "viga" else whole)
                if inside[row, at]:
                    expected = video[row, start : min(start + size, steps)].amax(dim=0)
                    torch.testing.assert_close(clips[row, at], expected)
                    middle = start + size // 2
                    middle = middle if mode == "viga" else min(middle, steps - 1)
                    assert weights[row, at] == weight[row, middle]
                else:
                    assert not clips[row, at].any()
            at += 1
    assert at == clips.shape[1]


def test_a_video_shorter_than_the_window_has_one_clip(video):
    mask = torch.ones(3, 12, dtype=torch.bool)
    clips, _, inside = sliding_clips(video, torch.ones(3, 12), mask, [20], stride=10)
    assert inside.tolist() == [[True]] * 3
    torch.testing.assert_close(clips[:, 0], video.amax(dim=1))


# --- contrast ---


def test_contrast_is_the_cross_entropy_with_soft_labels(video):
    torch.manual_seed(1)
    sentence, clips = torch.nn.functional.normalize(torch.randn(3, 5), dim=-1), video[:, :4]
    weight, inside = torch.rand(3, 4), torch.rand(3, 4) < 0.7
    losses = []
    for row in range(3):
        for n in range(4):
            if inside[row, n]:
                label = torch.full((3,), float(1 - weight[row, n]) / 2)
                label[row] = weight[row, n]
                logits = torch.stack([clips[row, n] @ each / 0.07 for each in sentence])
                losses.append(-(label * logits.log_softmax(dim=0)).sum())
    torch.testing.assert_close(clip_nce_loss(sentence, clips, weight, inside), torch.stack(losses).mean())


def test_a_batch_of_one_has_nothing_to_contrast_with(video):
    loss = clip_nce_loss(video[:1, 0], video[:1], torch.rand(1, 12), torch.ones(1, 12, dtype=torch.bool))
    assert float(loss) == 0


# --- guidance ---


def test_guidance_is_the_divergence_of_two_softmaxes(mask):
    torch.manual_seed(2)
    attention, weight = torch.rand(3, 12), torch.rand(3, 12)
    total = 0.0
    for row, steps in enumerate(LENGTHS.tolist()):
        found, wanted = attention[row, :steps].softmax(dim=0), weight[row, :steps].softmax(dim=0)
        total += float((wanted * (wanted / found).log()).sum())
    loss = attention_guidance_kl(attention, weight, mask, scale=100.0)
    assert float(loss) == pytest.approx(100 * total / int(LENGTHS.sum()), rel=1e-4)
    padded = torch.where(mask, attention, 7.0), torch.where(mask, weight, 3.0)
    torch.testing.assert_close(attention_guidance_kl(*padded, mask, scale=100.0), loss)


def test_guidance_pulls_attention_to_the_glance(mask):
    attention = torch.full((3, 12), 1 / 12, requires_grad=True)
    weight = gaussian_glance_weight(torch.tensor([2.5, 1.5, 6.5]), mask, 0.2)
    attention_guidance_kl(attention, weight, mask).backward()
    assert attention.grad.masked_fill(~mask, 9).argmin(dim=1).tolist() == [2, 1, 6]
    assert not attention.grad[~mask].any()


# --- half precision, and what is refused ---


def test_half_precision_stays_finite(video, mask):
    video = video.bfloat16().requires_grad_()
    weight = gaussian_glance_weight(torch.tensor([2.5, 1.5, 6.5]), mask, 0.2)
    clips, weights, inside = sliding_clips(video, weight, mask, [4], 2)
    attention = video.float().sum(dim=-1).softmax(dim=1)
    loss = clip_nce_loss(video[:, 0], clips, weights, inside) + attention_guidance_kl(attention, weight, mask)
    loss.backward()
    assert loss.isfinite()
    assert video.grad.isfinite().all()


def test_settings_outside_their_range_are_refused(video, mask):
    with pytest.raises(InputError, match="sigma_factor must be above 0, found 0"):
        gaussian_glance_weight(torch.zeros(3), mask, 0.0)
    with pytest.raises(InputError, match="clip_steps and stride must be at least 1"):
        sliding_clips(video, torch.ones(3, 12), mask, [4], 0)
