"""Protocols against scikit-learn and plain loops; recorded numbers are in tests/parity."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import KFold

from ommatid.errors import InputError
from ommatid.recognition.verification import auc, ijb_templates, kfold_accuracy, roc, tar_at_far, template_scores


def pairs(count=400, step=None, seed=0, dtype=torch.float32):
    """Overlapping scores; with a step many of them are equal."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(count, generator=generator) < 0.4
    scores = (0.3 * labels + 0.25 * torch.randn(count, generator=generator)).clamp(-1, 1)
    return (scores if step is None else (scores / step).round() * step).to(dtype), labels


# the curve


@pytest.mark.parametrize("step", [None, 0.05, 0.5])
@pytest.mark.parametrize("every_point", [False, True])
def test_the_curve_is_that_of_scikit_learn(step, every_point):
    scores, labels = pairs(step=step)
    found = roc(scores, labels, every_point)
    far, tar, thresholds = roc_curve(labels.numpy(), scores.numpy(), drop_intermediate=not every_point)
    np.testing.assert_array_equal(found.far.numpy(), far)
    np.testing.assert_array_equal(found.tar.numpy(), tar)
    np.testing.assert_allclose(found.thresholds.numpy(), thresholds)


@pytest.mark.parametrize("step", [None, 0.05, 0.5, 10.0])
def test_the_area_counts_ties_half(step):
    scores, labels = pairs(step=step)
    assert float(auc(scores, labels)) == pytest.approx(roc_auc_score(labels.numpy(), scores.numpy()), abs=1e-12)


def test_curves_of_very_few_pairs():
    labels = torch.tensor([True, False])
    assert float(auc(torch.tensor([0.9, 0.1]), labels)) == 1
    assert float(auc(torch.tensor([0.1, 0.9]), labels)) == 0
    assert float(auc(torch.tensor([0.5, 0.5]), labels)) == 0.5


@pytest.mark.parametrize("step", [None, 0.05])
@pytest.mark.parametrize("every_point", [False, True])
def test_rates_are_read_at_the_nearest_point_and_the_larger_one_on_ties(step, every_point):
    scores, labels = pairs(step=step)
    far, tar, _ = roc_curve(labels.numpy(), scores.numpy(), drop_intermediate=not every_point)
    wanted = [0.0, 1e-3, 0.01, 0.1, 0.5, 1.0, *far[:20], *(far[1:20] + far[:19]) / 2]
    for rate, found in zip(wanted, tar_at_far(scores, labels, wanted, every_point).tolist(), strict=True):
        distance = np.abs(far - rate)
        assert found == tar[distance == distance.min()].max()


def test_every_point_answers_with_a_rate_that_is_nearer():
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    labels = torch.tensor([True, False, False, False, False, True])
    assert tar_at_far(scores, labels, [0.7]).tolist() == [1.0]
    assert tar_at_far(scores, labels, [0.7], every_point=True).tolist() == [0.5]


# accuracy over folds


@pytest.mark.parametrize(("count", "folds"), [(600, 10), (403, 10), (100, 4)])
def test_the_rule_of_arcface_by_its_definition(count, folds):
    scores, labels = (values.numpy() for values in pairs(count, dtype=torch.float64))
    distance, thresholds, accuracy, chosen = 2 - 2 * scores, np.arange(0, 4, 0.01), [], []
    for train, test in KFold(folds).split(scores):
        shares = [((distance[train] < each) == labels[train]).mean() for each in thresholds]
        chosen.append(thresholds[np.argmax(shares)])
        accuracy.append(((distance[test] < chosen[-1]) == labels[test]).mean())
    found = kfold_accuracy(torch.from_numpy(scores), torch.from_numpy(labels), folds)
    np.testing.assert_allclose(found.thresholds, 1 - np.array(chosen) / 2, rtol=1e-12)
    assert float(found.mean) == pytest.approx(np.mean(accuracy), abs=1e-12)
    assert float(found.standard_error) == pytest.approx(np.std(accuracy, ddof=1) / folds**0.5, abs=1e-12)


@pytest.mark.parametrize(("count", "folds", "step"), [(600, 10, None), (403, 10, 0.05), (100, 4, None)])
def test_the_rule_of_the_toolbox_by_its_definition(count, folds, step):
    scores, labels = (values.numpy() for values in pairs(count, step))
    accuracy, chosen = [], []
    for train, test in KFold(folds).split(scores):
        low, high = scores[train].min(), scores[train].max()
        thresholds = low + (high - low) / 1000 * np.arange(1, 1001)
        genuine, impostor = scores[train][labels[train]], scores[train][~labels[train]]
        gain = [(genuine > each).mean() - (impostor > each).mean() for each in thresholds]
        best = thresholds[np.argmax(gain)]
        chosen.append(best)
        right = (scores[test][labels[test]] > best).sum() + (scores[test][~labels[test]] < best).sum()
        accuracy.append(right / len(test))
    found = kfold_accuracy(torch.from_numpy(scores), torch.from_numpy(labels), folds, rule="toolbox")
    np.testing.assert_array_equal(found.thresholds, chosen)
    assert float(found.mean) == pytest.approx(np.mean(accuracy), abs=1e-12)
    assert float(found.standard_error) == pytest.approx(np.std(accuracy, ddof=1) / folds**0.5, abs=1e-12)


@pytest.mark.parametrize("rule", ["arcface", "toolbox"])
def test_a_fold_is_judged_by_the_others(rule):
    # All of the first fold scores higher; a threshold that looked at it would get it right.
    labels = torch.tensor([True, False] * 20)
    scores = torch.where(labels, 0.2, -0.2)
    scores[:4] += 0.7
    found = kfold_accuracy(scores, labels, rule=rule)
    assert float(found.mean) == pytest.approx(0.95)
    assert ((found.thresholds > -0.2) & (found.thresholds < 0.2)).all()
    assert float(kfold_accuracy(scores - 2 * scores, ~labels, rule=rule).mean) == pytest.approx(0.95)


def test_who_is_as_far_as_the_threshold_is_refused():
    # Distances 0.245 and 1: the threshold is 0.25, exactly the distance of the last pair.
    scores, labels = torch.tensor([0.8775, 0.5] * 10 + [0.875, 0.875]), torch.tensor([True, False] * 10 + [False] * 2)
    found = kfold_accuracy(scores, labels, folds=11)
    assert found.thresholds[-1] == 0.875
    assert float(found.mean) == 1


def test_who_scores_the_threshold_is_wrong_for_the_toolbox():
    scores = torch.tensor([0, 0.25, 0.25, 0.5, 1000 / 1024] * 10)
    found = kfold_accuracy(scores, torch.tensor([False, False, True, True, True] * 10), rule="toolbox")
    assert (found.thresholds == 0.25).all()
    assert float(found.mean) == pytest.approx(0.6)


def test_half_precision_scores_are_judged():
    scores, labels = pairs(200)
    exact = kfold_accuracy(scores.half().float(), labels)
    assert kfold_accuracy(scores.half(), labels).mean == exact.mean


# templates


def test_templates_by_their_definition():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 5, generator=generator)
    templates, media = (torch.randint(high, (60,), generator=generator) * 3 + 1 for high in (7, 9))
    weight = torch.rand(60, generator=generator)
    found, numbers = ijb_templates(features, templates, media, weight)
    assert numbers.tolist() == sorted(set(templates.tolist()))
    for vector, number in zip(found, numbers, strict=True):
        inside = templates == number
        means = [
            (features * weight[:, None])[inside & (media == medium)].mean(dim=0) for medium in media[inside].unique()
        ]
        torch.testing.assert_close(vector, F.normalize(sum(means), dim=0))
    unweighted = ijb_templates(features, templates, media)[0]
    torch.testing.assert_close(ijb_templates(features, templates, media, torch.ones(60))[0], unweighted)
    assert not torch.allclose(found, unweighted)


def test_the_order_of_images_does_not_matter():
    features, templates = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 4
    media, order = torch.arange(12) % 5, torch.randperm(12)
    found = ijb_templates(features[order], templates[order], media[order])[0]
    torch.testing.assert_close(found, ijb_templates(features, templates, media)[0])


def test_pairs_of_templates_score_their_cosine():
    features, numbers = F.normalize(torch.randn(4, 3)), torch.tensor([2, 5, 6, 90])
    first, second = torch.tensor([90, 2, 5]), torch.tensor([6, 2, 90])
    expected = F.cosine_similarity(features[[3, 0, 1]], features[[2, 0, 3]])
    torch.testing.assert_close(template_scores(features, numbers, first, second), expected)
    many = torch.randint(4, (2, 250_001), generator=torch.Generator().manual_seed(0))
    found = template_scores(features, numbers, numbers[many[0]], numbers[many[1]])
    torch.testing.assert_close(found, (features @ features.T)[many[0], many[1]])
    assert template_scores(features, numbers, first[:0], second[:0]).shape == (0,)


# what is refused


def test_unusable_input_is_refused_in_one_sentence():
    scores, labels = pairs(20)
    with pytest.raises(InputError, match="unknown rule 'toolbx': did you mean 'toolbox'"):
        kfold_accuracy(scores, labels, rule="toolbx")
    for folds in (1, 21):
        with pytest.raises(InputError, match=f"folds: found {folds}, expected 2 to 20, the number of pairs"):
            kfold_accuracy(scores, labels, folds)
    with pytest.raises(InputError, match="labels: found 20 of 20 pairs alike, expected pairs of both kinds"):
        roc(scores, torch.ones(20, dtype=torch.bool))
    with pytest.raises(InputError, match="labels: found 0 of 20 pairs alike, expected pairs of both kinds"):
        auc(scores, torch.zeros(20, dtype=torch.bool))
    with pytest.raises(InputError, match=r"fars: found 2\.0, expected rates from 0 to 1"):
        tar_at_far(scores, labels, [2.0])
    with pytest.raises(InputError, match="features: found no images, expected at least one"):
        ijb_templates(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    with pytest.raises(InputError, match="pairs: found the template 3, expected one of the 2 that there are"):
        template_scores(torch.eye(2), torch.tensor([1, 2]), torch.tensor([1, 3]), torch.tensor([1, 1]))
    scores[3] = float("nan")
    with pytest.raises(InputError, match="scores: found 1 that are no finite numbers, expected none"):
        kfold_accuracy(scores, labels)
