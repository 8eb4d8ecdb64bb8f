import torch
from torch import nn

from ommatid.nn.normalise import Normalise


def test_every_channel_gets_its_own_mean_and_deviation():
    images = torch.rand(2, 3, 4, 4)
    normalised = Normalise([0.1, 0.2, 0.3], [0.5, 1.0, 2.0])(images)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)]):
        torch.testing.assert_close(normalised[:, channel], (images[:, channel] - mean) / std)


def test_the_constants_travel_with_the_weights_but_are_not_trained():
    model = nn.Sequential(Normalise([0.1], [0.5]))
    assert not list(model.parameters())
    other = nn.Sequential(Normalise([0.0], [1.0]))
    other.load_state_dict(model.state_dict())
    assert other(torch.full((1, 1, 1), 0.6)).item() == 1.0
