import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, jaccard_score

from ommatid.dense.segmentation_metrics import (
    SegmentationScores,
    confusion_matrices,
    image_scores,
    segmentation_scores,
)


def drawn(classes, images=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(classes, (images, 6, 7), generator=generator) for _ in range(2))


@pytest.mark.parametrize("classes", [2, 5])
def test_matrices_are_those_of_scikit_learn(classes):
    truth, predicted = drawn(classes)
    found = confusion_matrices(predicted, truth, classes)
    for number in range(len(truth)):
        expected = confusion_matrix(truth[number].flatten(), predicted[number].flatten(), labels=range(classes))
        np.testing.assert_array_equal(found[number].numpy(), expected)


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_are_those_of_scikit_learn_over_all_pixels(classes):
    truth, predicted = drawn(classes)
    found = segmentation_scores(confusion_matrices(predicted, truth, classes).sum(dim=0))
    t, p = truth.flatten().numpy(), predicted.flatten().numpy()
    overlaps = jaccard_score(t, p, average=None)
    assert float(found["PA"]) == pytest.approx(accuracy_score(t, p))
    assert float(found["MPA"]) == pytest.approx(balanced_accuracy_score(t, p))
    assert float(found["mIoU"]) == pytest.approx(overlaps.mean())
    assert float(found["FWIoU"]) == pytest.approx(jaccard_score(t, p, average="weighted"))
    assert ("IoU" in found) == (classes == 2)
    if classes == 2:
        assert float(found["IoU"]) == pytest.approx(overlaps[1])
        assert float(found["Dice"]) == pytest.approx(f1_score(t, p))


def test_pixels_that_are_not_valid_do_not_count():
    truth, predicted = drawn(2)
    valid = torch.rand(5, 6, 7) > 0.3
    found = confusion_matrices(predicted, truth, 2, valid)
    assert float(found.sum()) == int(valid.sum())
    assert torch.equal(found, confusion_matrices(predicted, torch.where(valid, truth, 0), 2, valid))


def test_a_class_that_never_occurs_is_left_out_of_means():
    matrix = torch.zeros(3, 3)
    matrix[0, 0], matrix[0, 1], matrix[1, 1] = 6, 1, 3
    found = segmentation_scores(matrix)
    assert float(found["mIoU"]) == pytest.approx((6 / 7 + 3 / 4) / 2)
    assert float(found["MPA"]) == pytest.approx((6 / 7 + 1) / 2)


def test_single_images_have_overlap_and_signed_error_of_area():
    matrices = torch.tensor([[[4.0, 2.0], [1.0, 3.0]], [[10.0, 0.0], [0.0, 0.0]], [[9.0, 1.0], [0.0, 0.0]]])
    found = image_scores(matrices)
    assert found["image_IoU"][0] == pytest.approx(3 / 6)
    assert found["area_error"][0] == pytest.approx(0.25)
    assert found["image_IoU"][1].isnan()
    assert found["image_IoU"][2] == 0
    assert found["area_error"][1:].isnan().all()


def test_a_split_is_one_matrix_and_a_repeated_sample_counts_once():
    truth, predicted = drawn(2)
    matrices = confusion_matrices(predicted, truth, 2)
    scores = SegmentationScores()
    scores.update(torch.arange(3), {"confusion": matrices[:3]})
    scores.update(torch.tensor([2, 3, 4]), {"confusion": matrices[2:]})
    found, expected = scores.compute(), segmentation_scores(matrices.sum(dim=0))
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value))
    assert found["image_IoU"] == pytest.approx(float(image_scores(matrices)["image_IoU"].mean()))
    assert found["IoU"] != pytest.approx(found["image_IoU"], abs=1e-6)


def test_nothing_seen_is_no_score():
    assert SegmentationScores().compute() == {}


def test_more_than_two_classes_are_gathered_too():
    truth, predicted = drawn(4)
    scores = SegmentationScores()
    scores.update(torch.arange(5), {"confusion": confusion_matrices(predicted, truth, 4)})
    assert set(scores.compute()) == {"PA", "MPA", "mIoU", "FWIoU"}
