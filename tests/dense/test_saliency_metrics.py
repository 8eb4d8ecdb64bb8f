"""Saliency measures are their definitions, map by map; maps that say nothing score as such, and never NaN."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ommatid.dense.saliency_metrics import (
    MEASURES,
    auc_borji,
    auc_judd,
    correlation,
    fixations_from_density,
    kl_divergence,
    latitude_weights,
    normalised_scanpath_saliency,
    saliency_metrics,
    similarity,
    video_means,
)
from ommatid.errors import InputError

GENERATOR = torch.Generator().manual_seed(0)
PREDICTED = torch.rand(3, 12, 24, generator=GENERATOR)
DENSITY = torch.rand(3, 12, 24, generator=GENERATOR) ** 6 + 0.3 * PREDICTED**6
CONSTANT = torch.full((3, 12, 24), 0.3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_fixations_are_the_peaks_of_each_map():
    found = fixations_from_density(DENSITY)
    for map, fixated in zip(DENSITY.numpy(), found.numpy(), strict=True):
        np.testing.assert_array_equal(fixated, map > map.mean() + 2 * map.std())
    assert not fixations_from_density(CONSTANT).any()
    # One of six lies 2.24 deviations of the population above the mean, and 2.04 of a sample.
    assert fixations_from_density(torch.tensor([[[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]]), deviations=2.2).sum() == 1


def test_correlation_is_pearsons():
    found = correlation(PREDICTED, DENSITY)
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(PREDICTED, DENSITY, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_similarity_is_the_sum_of_minima():
    def share(map):
        map = (map - map.min()) / (map.max() - map.min())
        return map / map.sum()

    expected = [np.minimum(share(a), share(b)).sum() for a, b in zip(PREDICTED.numpy(), DENSITY.numpy(), strict=True)]
    np.testing.assert_allclose(similarity(PREDICTED, DENSITY), expected, rtol=1e-5)


def test_divergence_is_that_of_the_density_from_the_prediction():
    p, g = (maps.double().flatten(1) for maps in (PREDICTED, DENSITY))
    p, g = p / p.sum(dim=1, keepdim=True), g / g.sum(dim=1, keepdim=True)
    expected = (g * (g / p).log()).sum(dim=1)
    torch.testing.assert_close(kl_divergence(PREDICTED, DENSITY).double(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(kl_divergence(PREDICTED, DENSITY, eps=1e-12).double(), expected, rtol=1e-5, atol=1e-6)
    assert kl_divergence(PREDICTED - 0.5, DENSITY).isfinite().all()


def test_scanpath_saliency_is_the_mean_z_score_at_fixations():
    fixations = fixations_from_density(DENSITY)
    expected = [
        ((map - map.mean()) / map.std(correction=0))[at].mean() for map, at in zip(PREDICTED, fixations, strict=True)
    ]
    torch.testing.assert_close(normalised_scanpath_saliency(PREDICTED, fixations), torch.stack(expected))


def judd(map, at):
    """The definition, threshold by threshold."""
    thresholds = sorted(map[at].tolist(), reverse=True)
    count, points = len(thresholds), [(0.0, 0.0)]
    for k, threshold in enumerate(thresholds):
        points.append((((map >= threshold).sum() - k) / (map.size - count), k / count))
    x, y = np.array([*points, (1.0, 1.0)]).T
    return float(torch.trapezoid(torch.tensor(y), torch.tensor(x)))


@pytest.mark.parametrize("decimals", [1, 8])
def test_judds_area_is_its_definition_with_ties_too(decimals):
    maps = (PREDICTED.double() * 10**decimals).round() / 10**decimals
    fixations = fixations_from_density(DENSITY)
    expected = [judd(map, at) for map, at in zip(maps.numpy(), fixations.numpy(), strict=True)]
    np.testing.assert_allclose(auc_judd(maps, fixations), expected, rtol=1e-5)


def test_judds_area_is_near_that_of_the_full_curve_and_jitter_spreads_ties():
    fixations = fixations_from_density(DENSITY)
    expected = [roc_auc_score(at.flatten(), map.flatten()) for at, map in zip(fixations, PREDICTED, strict=True)]
    # Counting k of n found, not k + 1, costs half a step.
    np.testing.assert_allclose(auc_judd(PREDICTED, fixations), expected, atol=0.08)
    coarse = (3 * PREDICTED).round()
    together, spread = auc_judd(coarse, fixations), auc_judd(coarse, fixations, generator=seeded())
    assert (spread > together + 0.02).all()
    torch.testing.assert_close(auc_judd(coarse, fixations, generator=seeded()), spread)


def test_borjis_area_is_near_that_of_the_full_curve():
    density = torch.rand(2, 60, 120, generator=seeded()) ** 4
    predicted = 0.4 * density + 0.6 * torch.rand(2, 60, 120, generator=seeded(1))
    fixations = fixations_from_density(density)
    expected = [
        roc_auc_score(
            torch.cat([at.flatten()[at.flatten()], torch.zeros(at.numel())]), torch.cat([map[at], map.flatten()])
        )
        for at, map in zip(fixations, predicted, strict=True)
    ]
    found = auc_borji(predicted, fixations, generator=seeded())
    np.testing.assert_allclose(found, expected, atol=0.01)
    torch.testing.assert_close(auc_borji(predicted, fixations, generator=seeded()), found)
    assert not torch.equal(auc_borji(predicted, fixations, generator=seeded(1)), found)


def borji(map, at, repetitions, generator):
    """The definition, threshold by threshold, on a map from 0 to 1."""
    positive, areas = map[at], []
    for _ in range(repetitions):
        negative = generator.choice(map.ravel(), len(positive))
        points = [((negative >= t).mean(), (positive >= t).mean()) for t in np.arange(0, 1, 0.1)[::-1]]
        x, y = np.array([(0.0, 0.0), *points, (1.0, 1.0)]).T
        areas.append(float(torch.trapezoid(torch.tensor(y), torch.tensor(x))))
    return np.mean(areas)


def test_borjis_area_is_its_definition_in_the_mean():
    maps = PREDICTED.double()
    maps = (maps - maps.amin(dim=(1, 2), keepdim=True)) / (maps.amax(dim=(1, 2)) - maps.amin(dim=(1, 2)))[:, None, None]
    fixations = fixations_from_density(DENSITY)
    generator = np.random.default_rng(0)
    expected = [borji(map, at, 1000, generator) for map, at in zip(maps.numpy(), fixations.numpy(), strict=True)]
    found = auc_borji(maps, fixations, generator=seeded(), repetitions=1000, step=0.1)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_clipping_as_released_makes_peaks_alike():
    predicted = torch.zeros(1, 12, 24)
    predicted[0, 3, 4], predicted[0, 5, 6] = 0.9, 0.6
    fixations = predicted == 0.9
    plain = auc_borji(predicted, fixations, generator=seeded(), repetitions=2000)
    clipped = auc_borji(predicted, fixations, generator=seeded(), repetitions=2000, clip_above=2.0)
    assert plain > clipped > 0.9


@pytest.mark.parametrize("sphere_weighted", [False, True])
def test_a_constant_map_says_nothing_and_is_never_nan(sphere_weighted):
    for predicted, density in ((CONSTANT, DENSITY), (PREDICTED, CONSTANT), (CONSTANT, CONSTANT), (0 * CONSTANT,) * 2):
        found = saliency_metrics(predicted, density, sphere_weighted=sphere_weighted)
        assert set(found) == set(MEASURES)
        for name, values in found.items():
            assert values.isfinite().all(), name
        assert (found["cc"] == 0).all()
        assert (found["auc_judd"] == 0.5).all()
        assert (found["auc_borji"] == 0.5).all()
        assert (found["nss"] == 0).all()


@pytest.mark.parametrize("sphere_weighted", [False, True])
def test_every_map_is_scored_alone(sphere_weighted):
    def measure(predicted, density):
        which = ("cc", "sim", "nss", "kld")
        return saliency_metrics(predicted, density, which, sphere_weighted=sphere_weighted)

    together = measure(PREDICTED, DENSITY)
    for name, values in together.items():
        alone = torch.cat([measure(PREDICTED[i : i + 1], DENSITY[i : i + 1])[name] for i in range(3)])
        torch.testing.assert_close(values, alone)


@pytest.mark.parametrize("which", MEASURES)
def test_the_truth_scores_better_than_noise(which):
    good = saliency_metrics(DENSITY, DENSITY, (which,))[which]
    bad = saliency_metrics(PREDICTED.flip(2), DENSITY, (which,))[which]
    assert ((good < bad) if which == "kld" else (good > bad)).all()


def test_scaling_and_shifting_a_prediction_changes_no_ranked_measure():
    for which in ("cc", "sim", "nss", "auc_judd"):
        first, second = (saliency_metrics(maps, DENSITY, (which,))[which] for maps in (PREDICTED, 5 * PREDICTED + 2))
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("measure", ["cc", "sim"])
def test_on_the_sphere_what_is_near_the_poles_counts_less(measure):
    truth, at_pole, at_equator = torch.zeros(3, 1, 30, 60)
    truth[0, 15, 30] = 1
    at_pole[0, 0], at_equator[0, 14] = 1, 1

    def change(wrong):
        flat, weighted = (
            saliency_metrics(truth + wrong, truth, (measure,), sphere_weighted=sphere_weighted)[measure]
            for sphere_weighted in (False, True)
        )
        return float(weighted - flat)

    assert change(at_pole) > 0.05
    assert change(at_equator) < 0.05


def test_weights_act_as_repeated_pixels():
    """Whole weights are what copies of a row would be."""
    weights = torch.ones(12, 24)
    weights[3] = 2
    twice = [torch.cat([maps[:, :4], maps[:, 3:]], dim=1) for maps in (PREDICTED, DENSITY)]
    for measure in (correlation, similarity, kl_divergence):
        torch.testing.assert_close(measure(PREDICTED, DENSITY, weights), measure(*twice), rtol=1e-3, atol=1e-3)
    fixations = fixations_from_density(DENSITY)
    twice_fixated = torch.cat([fixations[:, :4], fixations[:, 3:]], dim=1)
    torch.testing.assert_close(
        normalised_scanpath_saliency(PREDICTED, fixations, weights),
        normalised_scanpath_saliency(twice[0], twice_fixated),
    )
    torch.testing.assert_close(
        auc_judd(PREDICTED, fixations, weights), auc_judd(twice[0], twice_fixated), rtol=0.05, atol=0.05
    )


def test_latitudes_weigh_as_their_circles_are_long():
    weights = latitude_weights(4, 8)
    assert weights.shape == (4, 8)
    torch.testing.assert_close(weights, weights.flip(0))
    assert (weights[1] > weights[0]).all()
    assert (weights > 0).all()


def test_videos_count_alike_however_long_they_are():
    values, videos = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 0, 1])
    assert video_means(values, videos).mean() == 0.5


def test_gradients_are_not_tracked_and_other_types_are_read():
    predicted = PREDICTED.clone().requires_grad_()
    for values in saliency_metrics(predicted.half(), DENSITY.double()).values():
        assert not values.requires_grad
        assert values.dtype == torch.float32


def test_an_unknown_measure_is_refused():
    with pytest.raises(InputError, match="unknown saliency measure 'auc_jud': did you mean 'auc_judd'"):
        saliency_metrics(PREDICTED, DENSITY, ("auc_jud",))
