"""Overlap and distances are those of their definitions, on voxels of any sides."""

import math

import numpy as np
import pytest
import torch

from ommatid.dense.volume_metrics import METRICS, VolumeScores, volume_scores
from ommatid.dense.volume_task import UNKNOWN

pytest.importorskip("monai")


def blobs(shape, seed, classes=2):
    """Label maps with a box of each class somewhere; boxes may touch the border."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(shape, dtype=torch.long)
    for number in range(1, classes + 1):
        start = [int(torch.randint(0, length - 2, (), generator=generator)) for length in shape]
        side = [int(torch.randint(2, 5, (), generator=generator)) for _ in shape]
        labels[tuple(slice(a, a + b) for a, b in zip(start, side, strict=True))] = number
    holes = torch.rand(shape, generator=generator) < 0.1
    return labels.masked_fill(holes, 0)


def surface(mask):
    """Places of voxels that lack a neighbour of their class along an axis."""
    padded = np.pad(mask, 1)
    inner = np.ones_like(mask)
    for axis in range(mask.ndim):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)[(slice(1, -1),) * mask.ndim]
    return np.argwhere(mask & ~inner)


def by_definition(predicted, truth, spacing):
    dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    first, second = (surface(each) * spacing for each in (predicted, truth))
    apart = np.linalg.norm(first[:, None] - second[None], axis=-1)
    there, back = apart.min(axis=1), apart.min(axis=0)
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return dice, max(there.max(), back.max()), hd95, np.concatenate([there, back]).mean()


@pytest.mark.parametrize(
    ("shape", "spacing"), [((12, 10), [0.7, 3.0]), ((9, 8, 7), [0.8, 1.3, 5.0]), ((8, 8, 8), [1.0, 1.0, 1.0])]
)
def test_scores_are_those_of_their_definitions(shape, spacing):
    predicted = torch.stack([blobs(shape, seed) for seed in range(4)])
    truth = torch.stack([blobs(shape, seed) for seed in range(10, 14)])
    found = volume_scores(predicted, truth, torch.tensor([spacing] * 4), classes=2)
    assert tuple(found) == METRICS
    checked = 0
    for case in range(4):
        for number in (1, 2):
            masks = [(each[case] == number).numpy() for each in (predicted, truth)]
            if masks[0].any() and masks[1].any():
                expected = by_definition(*masks, np.array(spacing))
                values = [float(found[name][case, number - 1]) for name in METRICS]
                np.testing.assert_allclose(values, [*expected, 0.0], rtol=1e-5, atol=1e-6)
                checked += 1
    assert checked >= 5


def test_scores_are_those_of_monai():
    from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

    predicted, truth = (blobs((9, 8, 7), seed, 1)[None] for seed in (0, 1))
    spacing = [0.8, 1.3, 5.0]
    found = volume_scores(predicted, truth, torch.tensor([spacing]), classes=1)
    pair = [(each == 1).float()[:, None] for each in (predicted, truth)]
    settings = {"include_background": True, "spacing": spacing}
    for name, expected in (
        ("Dice", compute_dice(*pair)),
        ("HD", compute_hausdorff_distance(*pair, **settings)),
        ("HD95", compute_hausdorff_distance(*pair, percentile=95, **settings)),
        ("ASD", compute_average_surface_distance(*pair, symmetric=True, **settings)),
    ):
        torch.testing.assert_close(found[name], expected.float(), atol=1e-5, rtol=1e-5)


def test_what_is_missing_has_no_distances():
    truth, predicted = torch.zeros(2, 6, 6, dtype=torch.long), torch.zeros(2, 6, 6, dtype=torch.long)
    truth[0, 2, 2], predicted[0, 3, 3] = 1, 2
    found = volume_scores(predicted, truth, torch.ones(2, 2), classes=3)
    assert found["Dice"][0, :2].tolist() == [0.0, 0.0]
    assert found["missed"][0, :2].tolist() == [1.0, 1.0]
    assert all(found[name][0].isnan().all() for name in ("HD", "HD95", "ASD"))
    assert all(each[:, 2].isnan().all() and each[1].isnan().all() for each in found.values())


def test_voxels_that_nobody_knows_do_not_count():
    truth, predicted = blobs((10, 10), 0)[None], blobs((10, 10), 1)[None]
    truth[:, :4] = UNKNOWN
    found = volume_scores(predicted, truth, torch.ones(1, 2), classes=2)
    expected = volume_scores(
        predicted.masked_fill(truth == UNKNOWN, 0), truth.masked_fill(truth == UNKNOWN, 0), torch.ones(1, 2), classes=2
    )
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_means_are_over_cases_then_classes():
    nothing = float("nan")
    scores = VolumeScores()
    tables = torch.tensor([[0.9, nothing], [0.7, 0.2], [0.5, nothing]])
    scores.update(torch.tensor([0, 1]), {"Dice": tables[:2], "HD": torch.full((2, 2), nothing)})
    scores.update(torch.tensor([1, 2]), {"Dice": tables[1:], "HD": torch.full((2, 2), nothing)})
    found = scores.compute()
    assert found["Dice"] == pytest.approx((0.7 + 0.2) / 2), "a repeated case counts once"
    assert math.isnan(found["HD"])
    torch.testing.assert_close(scores.by_class()["Dice"], torch.tensor([0.7, 0.2]))
    assert VolumeScores().compute() == {}


def test_means_on_two_processes_are_those_on_one():
    """What torchmetrics does when it gathers: lists of all processes, one behind the other."""
    tables = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    whole, parts = VolumeScores(), [VolumeScores(), VolumeScores()]
    whole.update(torch.arange(5), {"Dice": tables})
    for part, places in zip(parts, ([0, 2, 4], [1, 3, 0]), strict=True):
        part.update(torch.tensor(places), {"Dice": tables[places]})
    parts[0].identity = torch.cat([*parts[0].identity, *parts[1].identity])
    parts[0].values = torch.cat([*parts[0].values, *parts[1].values])
    assert parts[0].compute() == pytest.approx(whole.compute())
