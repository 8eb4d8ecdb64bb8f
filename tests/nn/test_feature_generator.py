import pytest
import torch

from ommatid.nn.feature_generator import FeatureCritic, FeatureGenerator


def test_conditions_and_noise_both_matter():
    torch.manual_seed(0)
    generator = FeatureGenerator(3, 8, hidden_dim=16)
    told, noise = torch.rand(4, 3), torch.randn(4, 3)
    same = generator(told, noise)
    assert same.shape == (4, 8)
    assert torch.equal(same, generator(told, noise))
    assert not torch.allclose(same, generator(told, torch.randn(4, 3)))
    assert not torch.allclose(same, generator(torch.rand(4, 3), noise))


def test_noise_is_as_wide_as_the_condition_unless_told():
    assert FeatureGenerator(3, 8, 16).noise_dim == 3
    assert FeatureGenerator(3, 8, 16, noise_dim=5)(torch.rand(2, 3), torch.randn(2, 5)).shape == (2, 8)


def test_noise_that_is_not_given_comes_from_the_global_seed():
    generator, told = FeatureGenerator(3, 8, 16), torch.rand(2, 3)
    torch.manual_seed(1)
    first = generator(told)
    torch.manual_seed(1)
    assert torch.equal(first, generator(told))


@pytest.mark.parametrize(("final", "lowest"), [("relu", 0.0), ("linear", -1e9)])
def test_pooled_activations_are_not_negative_and_latents_may_be(final, lowest):
    torch.manual_seed(0)
    features = FeatureGenerator(3, 8, 16, final=final)(torch.rand(50, 3))
    assert features.min() >= lowest
    assert bool((features < 0).any()) == (final == "linear")


def test_networks_start_small():
    torch.manual_seed(0)
    for network in (FeatureGenerator(30, 80, 200), FeatureCritic(80, 30, 200)):
        for name, value in network.named_parameters():
            expected = 0.02 if name.endswith("weight") else 0.0
            assert value.std().item() == pytest.approx(expected, rel=0.2)


def test_every_weight_of_a_critic_gets_a_gradient_from_a_difference_of_scores():
    torch.manual_seed(0)
    critic, told = FeatureCritic(8, 3, 16), torch.rand(5, 3)
    scores = critic(torch.rand(5, 8), told)
    assert scores.shape == (5,)
    (scores.mean() - critic(torch.rand(5, 8), told).mean()).backward()
    assert all(value.grad.abs().sum() > 0 for value in critic.parameters())
