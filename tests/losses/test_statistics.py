import pytest
import torch
from torch import nn

from ommatid.errors import InputError
from ommatid.losses.statistics import BatchNormStatistics, statistic_distance


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5),
        nn.Flatten(),
        nn.Linear(80, 2),
    )
    network(torch.randn(16, 3, 8, 8))
    return network.eval()


def test_distance_is_the_sum_of_two_plain_norms():
    inputs = torch.randn(6, 4, 3, 2, dtype=torch.float64)
    mean, var = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    columns = inputs.permute(1, 0, 2, 3).reshape(4, -1)
    centred = columns - columns.mean(1, keepdim=True)
    expected = (centred.square().mean(1) - var).square().sum().sqrt() + (columns.mean(1) - mean).square().sum().sqrt()
    torch.testing.assert_close(statistic_distance(inputs, mean, var), expected)


def test_distance_passes_gradcheck():
    mean, var = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    inputs = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: statistic_distance(x, mean, var), inputs)


def test_distance_of_a_perfect_match_has_a_finite_gradient():
    inputs = torch.zeros(4, 3, requires_grad=True)
    statistic_distance(inputs, torch.zeros(3), torch.zeros(3)).backward()
    assert inputs.grad.isfinite().all()


def test_half_precision_inputs_are_summed_in_single_precision():
    inputs = torch.tensor([400.0, -400.0], dtype=torch.float16).repeat(64)[:, None]  # their variance is no half number
    assert statistic_distance(inputs, torch.zeros(1), torch.tensor([160_000.0])).item() == pytest.approx(0.0, abs=0.1)


def test_the_model_in_evaluation_mode_is_only_watched(model):
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain = model(images)
    with BatchNormStatistics(model) as statistics:
        assert torch.equal(model(images), plain)
        statistics.distance().backward()
    assert not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert images.grad.abs().sum() > 0
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_two_forwards_give_the_distance_of_one_and_the_features_of_the_other(model):
    first, second = torch.randn(2, 3, 8, 8), torch.randn(3, 3, 8, 8)
    with BatchNormStatistics(model) as statistics:
        model(first)
        distance = statistics.distance()
        model(second)
        features = statistics.features()
    inner = model[0](first)
    expected = statistic_distance(inner, model[1].running_mean, model[1].running_var) + statistic_distance(
        model[3](model[2](model[1](inner))), model[4].running_mean, model[4].running_var
    )
    torch.testing.assert_close(distance, expected)
    later = model[0](second)
    expected = torch.cat([later.mean((2, 3)), model[3](model[2](model[1](later))).mean((2, 3))], dim=1)
    torch.testing.assert_close(features, expected)


def test_features_can_come_from_other_layers(model):
    images = torch.randn(2, 3, 8, 8)
    with BatchNormStatistics(model, layers="4", feature_layers=["3", "0"]) as statistics:
        model(images)
        distance, features = statistics.distance(), statistics.features()
    assert list(statistics.norms) == ["4"]
    torch.testing.assert_close(features[:, :3], images.mean((2, 3)))
    assert features.shape == (2, 7)
    assert distance > 0


def test_the_context_can_be_entered_again_and_while_entered(model):
    first, second = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    statistics = BatchNormStatistics(model)
    with statistics:
        model(first)
        expected = statistics.features()
        with statistics:
            model(second)
            assert not torch.equal(statistics.features(), expected)
        model(first)
        assert torch.equal(statistics.features(), expected)
    with statistics:
        model(first)
        assert torch.equal(statistics.features(), expected)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_vectors_are_watched_like_maps():
    model = nn.Sequential(nn.BatchNorm1d(3)).eval()
    with BatchNormStatistics(model) as statistics:
        inputs = torch.randn(4, 3)
        model(inputs)
        assert torch.equal(statistics.features(), inputs)


def test_reading_before_a_forward_or_without_any_norm_is_refused(model):
    with BatchNormStatistics(model) as statistics, pytest.raises(RuntimeError, match="has seen no forward"):
        statistics.distance()
    with pytest.raises(RuntimeError, match="has seen no forward"):
        statistics.features()
    for network in (nn.Linear(2, 2), nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False))):
        with pytest.raises(InputError, match="model: found no batch norm with running statistics"):
            BatchNormStatistics(network)
