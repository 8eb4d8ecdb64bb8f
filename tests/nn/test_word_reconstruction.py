"""Guessing masked words: what may be looked at, what it costs nothing to leave out, and that looking helps."""

import math

import pytest
import torch

from ommatid.nn.word_reconstruction import FAINT, MaskedQueryReconstructor, draw_masked_words

DIM, ROWS = 8, 12


@pytest.fixture
def reconstructor():
    torch.manual_seed(0)
    return MaskedQueryReconstructor(ROWS, DIM, heads=2)


@pytest.fixture
def given():
    torch.manual_seed(1)
    words = torch.tensor([[2, 3, 4, 5], [6, 7, 0, 0], [8, 9, 10, 0]])
    masked = torch.tensor([[False, True, False, True], [True, False, False, False], [False, True, True, False]])
    weight = torch.rand(3, 5, 6) * (torch.rand(3, 5, 6) < 0.7)
    return torch.randn(3, 6, DIM), weight, words, masked


def one_by_one(module, video, weight, words, masked):
    """E13 for one sentence and one selection of steps, word after word and head after head."""
    told = module._words(words[None], masked[None])[0]
    losses = []
    for n in range(len(words)):
        if not masked[n]:
            continue
        query, seen = module.query(told[n]).view(2, -1), []
        for head in range(2):
            score = [query[head] @ module.key(step).view(2, -1)[head] / (DIM / 2) ** 0.5 for step in video]
            share = [float(w) * math.exp(float(s)) for w, s in zip(weight, score, strict=True)]
            total = sum(share) + math.exp(FAINT)
            seen.append(
                sum(s / total * module.value(step).view(2, -1)[head] for s, step in zip(share, video, strict=True))
            )
        hidden = module.norms[1](told[n] + module.out(torch.cat(seen)))
        guess = module.norms[2](hidden + module.feed_forward(hidden))
        losses.append(-(guess @ module.words.T).log_softmax(dim=0)[words[n]])
    return torch.stack(losses).mean()


@torch.no_grad()
def test_likelihood_is_that_of_the_words_taken_one_by_one(reconstructor, given):
    video, weight, words, masked = given
    nll = reconstructor(*given)
    for row in range(3):
        known = words[row] != 0
        for selection in range(5):
            expected = one_by_one(
                reconstructor, video[row], weight[row, selection], words[row][known], masked[row][known]
            )
            torch.testing.assert_close(nll[row, selection], expected, rtol=1e-4, atol=1e-5)


def test_selections_side_by_side_are_judged_like_one_alone(reconstructor, given):
    video, weight, words, masked = given
    together = reconstructor(*given)
    for selection in range(5):
        torch.testing.assert_close(reconstructor(video, weight[:, selection], words, masked), together[:, selection])


def test_steps_without_weight_are_not_seen(reconstructor, given):
    video, weight, words, masked = given
    hidden = weight[:, 0] == 0
    other = torch.where(hidden[..., None], 30.0, video).requires_grad_()
    nll = reconstructor(other, weight[:, 0], words, masked)
    torch.testing.assert_close(nll, reconstructor(video, weight[:, 0], words, masked))
    nll.sum().backward()
    assert other.grad[hidden].abs().max() == 0
    assert other.grad[~hidden].abs().sum(dim=-1).min() > 0


def test_a_scaled_selection_is_the_same_selection(reconstructor, given):
    video, weight, words, masked = given
    torch.testing.assert_close(reconstructor(video, 5 * weight, words, masked), reconstructor(*given))


def test_what_is_masked_is_not_read(reconstructor, given):
    _, _, words, masked = given
    other = torch.where(masked, 11, words)
    assert torch.equal(reconstructor._words(other, masked), reconstructor._words(words, masked))


def test_padded_words_do_not_matter(reconstructor, given):
    video, weight, words, masked = given
    alone = reconstructor(video[1:2], weight[1:2], words[1:2, :2], masked[1:2, :2])
    torch.testing.assert_close(alone, reconstructor(*given)[1:2])


def test_without_any_step_or_masked_word_it_stays_finite(reconstructor, given):
    video, weight, words, masked = given
    video.requires_grad_()
    blind = reconstructor(video, torch.zeros(3, 6), words, masked)
    blind.sum().backward()
    assert blind.isfinite().all()
    assert video.grad.isfinite().all()
    assert torch.equal(reconstructor(video, weight, words, torch.zeros_like(masked)), torch.zeros(3, 5))


def test_looking_at_the_right_steps_helps_after_training():
    """Each video shows one word in its first half; only who looks there can know it."""
    torch.manual_seed(0)
    reconstructor, codes = MaskedQueryReconstructor(ROWS, DIM), torch.randn(ROWS, DIM)
    optimizer = torch.optim.Adam(reconstructor.parameters(), lr=1e-2)
    half = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0.0, 0, 0, 1, 1, 1]])

    def draw(count):
        words = torch.stack([torch.full((count,), 2), torch.randint(3, ROWS, (count,))], dim=1)
        shown = codes[words[:, 1]][:, None].expand(-1, 3, -1)
        video = torch.cat([shown, torch.zeros_like(shown)], dim=1) + 0.1 * torch.randn(count, 6, DIM)
        return video, half.expand(count, 2, 6), words, torch.tensor([[False, True]]).expand(count, 2)

    for _ in range(150):
        optimizer.zero_grad()
        reconstructor(*draw(32))[:, 0].mean().backward()
        optimizer.step()
    right, wrong = reconstructor(*draw(200)).mean(dim=0)
    assert right < 0.5 < 1.5 < wrong


def test_every_parameter_gets_a_gradient(reconstructor, given):
    reconstructor(*given).sum().backward()
    assert [name for name, p in reconstructor.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_half_precision_is_close(reconstructor, given):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll = reconstructor(*given)
    torch.testing.assert_close(nll, reconstructor(*given), rtol=0.1, atol=0.1)


# --- which words are masked ---


def test_a_share_of_the_words_is_masked_and_at_least_one():
    lengths = torch.arange(1, 16)
    mask = torch.arange(15) < lengths[:, None]
    masked = draw_masked_words(mask, torch.ones(15, 15))
    assert masked.sum(dim=1).tolist() == [max(round(n / 3), 1) for n in lengths.tolist()]
    assert not (masked & ~mask).any()


def test_words_without_weight_are_never_masked():
    mask = torch.ones(500, 4, dtype=torch.bool)
    weight = torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(500, 4)
    masked = draw_masked_words(mask, weight, share=1.0)
    assert masked.tolist() == [[True, False, True, False]] * 500
    assert not draw_masked_words(mask, torch.zeros(500, 4)).any()


def test_a_word_of_double_weight_is_masked_twice_as_often():
    generator = torch.Generator().manual_seed(0)
    weight = torch.tensor([2.0, 1.0, 1.0]).expand(8000, 3)
    masked = draw_masked_words(torch.ones(8000, 3, dtype=torch.bool), weight, generator=generator)
    torch.testing.assert_close(masked.float().mean(dim=0), torch.tensor([0.5, 0.25, 0.25]), atol=0.02, rtol=0)


def test_the_same_generator_masks_the_same_words():
    mask = torch.ones(20, 9, dtype=torch.bool)
    first, second, other = (
        draw_masked_words(mask, torch.ones(20, 9), generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
