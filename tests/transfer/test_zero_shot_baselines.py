import pytest
import torch

from ommatid.transfer.zero_shot_baselines import eszsl, regressed_means, tuned, tuned_eszsl, tuned_means


@pytest.fixture
def classes():
    """Features that are a linear function of attributes, with little noise; the last three classes have no samples."""
    generator = torch.Generator().manual_seed(0)
    attributes = torch.nn.functional.normalize(torch.randn(15, 4, generator=generator), dim=1)
    labels = torch.arange(15).repeat_interleave(20)
    features = attributes[labels] @ torch.randn(4, 10, generator=generator)
    return features + 0.05 * torch.randn(features.shape, generator=generator), labels, attributes


@pytest.mark.parametrize("form", [tuned_eszsl, tuned_means])
def test_classes_without_samples_are_recognised_by_their_attributes(classes, form):
    features, labels, attributes = classes
    known = labels < 12
    scores = form(features[known], labels[known], attributes)(features[~known])
    assert scores.shape == (60, 15)
    assert float((scores[:, 12:].argmax(dim=1) + 12 == labels[~known]).float().mean()) > 0.9


def test_eszsl_solves_its_normal_equations(classes):
    """Minimum of |X W A' - Y|^2 + c |W A'|^2 + r |X W|^2 + c r |W|^2."""
    features, labels, attributes = (each.double() if each.is_floating_point() else each for each in classes)
    known, (r, c) = labels < 12, (0.7, 0.3)
    x, a = features[known] - features[known].mean(dim=0), attributes[:12]
    y = 2 * torch.nn.functional.one_hot(labels[known], 12).double() - 1
    form = eszsl(x.float(), labels[known], attributes.float(), r, c)
    scores = form(torch.eye(10)) - form(torch.zeros(1, 10))
    weight = (scores.double() @ torch.linalg.pinv(attributes).T).requires_grad_()
    loss = (x @ weight @ a.T - y).square().sum() + r * (weight @ a.T).square().sum()
    loss = loss + c * (x @ weight).square().sum() + r * c * weight.square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.abs().max() < 1e-2 * (x.T @ y @ a).abs().max()


def test_known_classes_keep_their_own_means(classes):
    features, labels, attributes = classes
    known = labels < 12
    means = torch.stack([features[labels == number].mean(dim=0) for number in range(12)])
    scores = regressed_means(features[known], labels[known], attributes)(means)
    torch.testing.assert_close(scores[:, :12].diagonal(), torch.zeros(12), atol=1e-5, rtol=0)


def test_settings_are_chosen_on_classes_held_out_of_the_seen_ones(classes):
    features, labels, attributes = classes
    shown = []

    def form(x, y, a, ridge=0.0):
        shown.append((ridge, y.unique().tolist()))
        return lambda given: torch.full((len(given), len(a)), ridge).index_fill(1, torch.tensor([4]), 1.5)

    tuned(form, [{"ridge": 1.0}, {"ridge": 2.0}], features[labels < 12], labels[labels < 12], attributes)
    assert [each for each, _ in shown[:2]] == [1.0, 2.0]
    assert shown[0][1] == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]
    assert shown[-1] == (1.0, list(range(12)))
    # Too few classes to hold any out: the defaults.
    few = labels < 3
    assert tuned(regressed_means, [{"ridge": 1.0}], features[few], labels[few], attributes)(features).shape == (300, 15)
