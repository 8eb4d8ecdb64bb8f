"""Scores are those of the pooled pixels of a split, each image once."""

import numpy as np
import pytest
import torch

from ommatid.dense.normals_metrics import (
    DenseTaskScores,
    angular_errors,
    class_overlaps,
    depth_scores,
    depth_sums,
    multi_task_gain,
    normal_scores,
)
from ommatid.dense.segmentation_metrics import confusion_matrices, segmentation_scores
from ommatid.errors import InputError

NAN = float("nan")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def vectors(seed, images=4):
    return torch.randn(images, 3, 5, 6, generator=generator(seed))


def test_angles_are_those_of_the_arc_cosine():
    one, other = vectors(0), vectors(1)
    cosine = torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=1)
    expected = torch.rad2deg(cosine.clamp(-1, 1).arccos())
    torch.testing.assert_close(angular_errors(one, other).double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("degrees", [0.0, 0.001, 0.02, 90.0, 179.99])
def test_small_and_large_angles_are_not_rounded(degrees):
    """An arc cosine in single precision knows no angle between 0 and 0.02 degrees."""
    angle = torch.deg2rad(torch.tensor([degrees], dtype=torch.float64))
    one = torch.stack([angle.sin(), 0 * angle, angle.cos()]).float().view(1, 3, 1, 1)
    up = torch.tensor([0.0, 0.0, 3.0]).view(1, 3, 1, 1)
    assert float(angular_errors(one, up)) == pytest.approx(degrees, abs=2e-5)


def test_angles_are_only_where_normals_are():
    normals = vectors(1)
    normals[0, :, 0, 0] = 0
    assert angular_errors(vectors(0), normals).isnan().sum() == 1
    valid = torch.rand(4, 5, 6, generator=generator()) < 0.5
    assert torch.equal(angular_errors(vectors(0), normals, valid).isnan(), ~valid)
    assert (angular_errors(0 * normals, vectors(0)) - 90).abs().max() < 1e-4


@pytest.mark.parametrize("broken", [NAN, float("inf")])
def test_normals_that_are_no_numbers_are_as_wrong_as_can_be(broken):
    normals, valid = vectors(1, images=1), torch.ones(1, 5, 6, dtype=torch.bool)
    predicted = normals.clone()
    predicted[0, 1, 2, 3], predicted[0, 2, 0, 0], valid[0, 0, 0] = broken, broken, False
    scores = DenseTaskScores()
    scores.update(torch.tensor([0]), {"angles": angular_errors(predicted, normals, valid)})
    assert scores.compute()["mean angle"] == pytest.approx(180 / 29, abs=1e-3)
    assert scores.compute()["within 30"] == pytest.approx(100 * 28 / 29)


@pytest.mark.parametrize("count", [1, 2, 101, 1000])
def test_normal_scores_are_numpys(count):
    angles = 180 * torch.rand(count, generator=generator())
    found, expected = normal_scores(angles), angles.double().numpy()
    assert found["mean angle"] == pytest.approx(expected.mean())
    assert found["median angle"] == pytest.approx(np.median(expected))
    assert found["rmse angle"] == pytest.approx(np.sqrt((expected**2).mean()))
    for limit in (11.25, 22.5, 30):
        assert found[f"within {limit:g}"] == pytest.approx(100 * (expected <= limit).mean())


def test_limits_are_within():
    assert normal_scores(torch.tensor([11.25, 22.5, 30.0]))["within 11.25"] == pytest.approx(100 / 3)
    assert normal_scores(torch.tensor([11.25, 22.5, 30.0]))["within 30"] == 100


def test_depth_scores_are_pooled_over_valid_pixels():
    depth, predicted = (
        1 + 4 * torch.rand(3, 1, 5, 6, generator=generator()),
        1 + 4 * torch.rand(3, 1, 5, 6, generator=generator(1)),
    )
    valid = torch.rand(3, 5, 6, generator=generator(2)) < 0.5
    depth[~valid[:, None]] = 0
    found = depth_scores(depth_sums(predicted, depth, valid))
    true, guess = (each[:, 0][valid].double().numpy() for each in (depth, predicted))
    assert found["depth rmse"] == pytest.approx(np.sqrt(((true - guess) ** 2).mean()))
    assert found["abs rel"] == pytest.approx((np.abs(true - guess) / true).mean())
    ratio = np.maximum(true / guess, guess / true)
    for power in (1, 2, 3):
        assert found[f"delta {power}"] == pytest.approx((ratio < 1.25**power).mean())


def test_a_prediction_that_is_not_ahead_is_no_hit():
    depth = torch.ones(1, 1, 1, 2)
    found = depth_scores(depth_sums(torch.tensor([[[[0.0, -1.0]]]]), depth, torch.ones(1, 1, 2, dtype=torch.bool)))
    assert found["delta 3"] == 0
    assert found["depth rmse"] == pytest.approx(2.5**0.5)


def test_overlaps_of_classes_are_undefined_where_there_are_none():
    found = class_overlaps(torch.tensor([[4.0, 0, 0, 0], [1, 3, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert found.tolist() == pytest.approx([0.8, 0.6, NAN, 0.0], nan_ok=True)


def test_gain_counts_lower_angles_as_gains():
    single = {"mIoU": 40.0, "mean angle": 20.0, "depth rmse": 0.5}
    assert multi_task_gain({**single, "mean angle": 18.0}, single) == pytest.approx(10 / 3)
    assert multi_task_gain({**single, "mIoU": 36.0}, single) == pytest.approx(-10 / 3)
    assert multi_task_gain(single, single) == 0
    assert multi_task_gain({"mine": 1.0}, {"mine": 2.0}, lower_is_better=["mine"]) == 50
    with pytest.raises(InputError, match="scores: found mIoU, expected those of the single tasks, mIoU, mean angle"):
        multi_task_gain({"mIoU": 1.0}, single)
    with pytest.raises(InputError, match="single: found 0 for 'mIoU'"):
        multi_task_gain({"mIoU": 1.0}, {"mIoU": 0.0})


def batches():
    """Four images in two batches, the second of another size; some pixels do not count."""
    parts = []
    for seed, (numbers, size) in enumerate((([0, 1, 2], (5, 6)), ([3], (2, 3)))):
        angles = 180 * torch.rand(len(numbers), *size, generator=generator(seed))
        angles[:, 0, :2] = NAN
        predicted, labels = (torch.randint(3, (len(numbers), *size), generator=generator(9 + seed + k)) for k in (0, 5))
        depth = torch.rand(len(numbers), 6, generator=generator(seed), dtype=torch.float64)
        scores = {"angles": angles, "confusion": confusion_matrices(predicted, labels, 3), "depth": depth}
        parts.append((torch.tensor(numbers), scores))
    return parts


def expected():
    (_, first), (_, second) = batches()
    angles = torch.cat([first["angles"].flatten(), second["angles"].flatten()])
    matrix = first["confusion"].sum(dim=0) + second["confusion"].sum(dim=0)
    classes = {name: float(value) for name, value in segmentation_scores(matrix).items()}
    normals = normal_scores(angles[~angles.isnan()])
    return {
        **classes,
        **normals,
        "both tasks": (classes["mIoU"] + (90 - normals["mean angle"]) / 90) / 2,
        **depth_scores(torch.cat([first["depth"], second["depth"]])),
    }


def test_a_split_is_scored_as_a_whole():
    scores = DenseTaskScores()
    for identity, part in batches():
        scores.update(identity, part)
    assert scores.compute() == pytest.approx(expected())


def test_an_image_that_a_sampler_repeats_counts_once():
    scores = DenseTaskScores()
    (first, part), (second, other) = batches()
    scores.update(second, other)
    scores.update(first, part)
    scores.update(first[1:2], {name: each[1:2] for name, each in part.items()})
    scores.update(second, other)
    assert scores.compute() == pytest.approx(expected())


def test_gathered_states_score_like_the_parts():
    """After a reduction over processes the states are single tensors."""
    scores = DenseTaskScores()
    for identity, part in batches() * 2:
        scores.update(identity, part)
    for name in ("identity", "confusion", "depth", "angles", "counts"):
        setattr(scores, name, torch.cat(getattr(scores, name)))
    assert scores.compute() == pytest.approx(expected())


def test_only_what_is_there_is_scored():
    scores = DenseTaskScores()
    (identity, part), _ = batches()
    scores.update(identity, {"angles": part["angles"]})
    assert set(scores.compute()) == {
        "mean angle",
        "median angle",
        "rmse angle",
        "within 11.25",
        "within 22.5",
        "within 30",
    }


def test_images_without_valid_pixels_score_nothing():
    scores = DenseTaskScores()
    scores.update(torch.tensor([0]), {"angles": torch.full((1, 2, 2), NAN), "depth": torch.zeros(1, 6)})
    assert scores.compute() == {}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_reset_forgets_the_images():
    scores = DenseTaskScores()
    identity, part = batches()[0]
    scores.update(identity, part)
    scores.reset()
    assert scores.compute() == {}
