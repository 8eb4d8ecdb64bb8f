"""Weighted PSNR counts errors where the map is, and agreement with opinions is what statistics' own functions say."""

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, pearsonr, spearmanr

from ommatid.dense.quality_metrics import agreement, logistic_fit, weighted_psnr
from ommatid.errors import InputError

REFERENCE = torch.rand(2, 3, 6, 12, generator=torch.Generator().manual_seed(0)) * 255
NOISY = REFERENCE + 5 * torch.randn(2, 3, 6, 12, generator=torch.Generator().manual_seed(1))


def opinions(noise=0.0, falling=False):
    generator = np.random.default_rng(0)
    scores = generator.uniform(20, 45, 60)
    curve = 1 / (1 + np.exp(-(scores - 33) / 3))
    return scores, 20 + 60 * (1 - curve if falling else curve) + noise * generator.standard_normal(60)


def test_even_weights_give_plain_psnr():
    expected = 10 * torch.log10(255**2 / ((REFERENCE - NOISY) ** 2).mean(dim=(1, 2, 3)))
    for level in (0.0, 1.0, 7.0):
        torch.testing.assert_close(weighted_psnr(REFERENCE, NOISY, torch.full((2, 6, 12), level)), expected)


def test_only_errors_under_the_map_count():
    weight = torch.zeros(2, 6, 12)
    weight[:, :, :6] = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(2))
    changed = NOISY.clone()
    changed[..., 6:] = 0
    torch.testing.assert_close(weighted_psnr(REFERENCE, changed, weight), weighted_psnr(REFERENCE, NOISY, weight))
    errors = ((REFERENCE - NOISY) ** 2).mean(dim=1)
    expected = 10 * torch.log10(255**2 * weight.sum(dim=(1, 2)) / (weight * errors).sum(dim=(1, 2)))
    torch.testing.assert_close(weighted_psnr(REFERENCE, NOISY, weight), expected)


def test_equal_frames_are_infinitely_good():
    assert weighted_psnr(REFERENCE, REFERENCE, torch.ones(2, 6, 12)).isposinf().all()


@pytest.mark.parametrize("parameters", [4, 5])
@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_a_logistic_relation_is_found_on_any_scale(parameters, falling, scale):
    scores, opinion = opinions(falling=falling)
    found = agreement(scale * scores, opinion, parameters)
    assert found["plcc"] > 0.9999
    assert found["rmse"] < 0.5
    assert found["srocc"] == pytest.approx(-1.0 if falling else 1.0)


def test_agreement_is_what_scipy_says_after_the_fit():
    scores, opinion = opinions(noise=8.0)
    found, mapped = agreement(scores, opinion), logistic_fit(scores, opinion)(scores)
    assert found["plcc"] == pytest.approx(pearsonr(mapped, opinion).statistic)
    assert found["srocc"] == pytest.approx(spearmanr(scores, opinion).statistic)
    assert found["krocc"] == pytest.approx(kendalltau(scores, opinion).statistic)
    assert found["rmse"] == pytest.approx(np.sqrt(((mapped - opinion) ** 2).mean()))
    assert found["mae"] == pytest.approx(np.abs(mapped - opinion).mean())
    assert found["plcc"] > pearsonr(scores, opinion).statistic


@pytest.mark.parametrize("parameters", [4, 5])
def test_constant_scores_and_opinions_agree_with_nothing_and_are_finite(parameters):
    scores, opinion = opinions(noise=8.0)
    for first, second in ((0 * scores + 3, opinion), (scores, 0 * opinion + 3)):
        found = agreement(first, second, parameters)
        assert all(np.isfinite(value) for value in found.values())
        assert (found["srocc"], found["krocc"]) == (0.0, 0.0)
        assert abs(found["plcc"]) < 1e-6


@pytest.mark.parametrize(
    ("predicted", "opinion", "parameters", "message"),
    [
        (np.arange(6.0), np.arange(5.0), 4, "opinion: found 5 values, expected 6, one for every score"),
        (np.arange(4.0), np.arange(4.0), 5, "predicted: found 4 scores, expected at least 5"),
        (np.array([0, 1, 2, np.nan]), np.arange(4.0), 4, "predicted: found nan among the values, expected numbers"),
    ],
)
def test_what_cannot_be_fitted_is_refused(predicted, opinion, parameters, message):
    with pytest.raises(InputError, match=message):
        logistic_fit(predicted, opinion, parameters)
