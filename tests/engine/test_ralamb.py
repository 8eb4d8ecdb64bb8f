from copy import deepcopy

import pytest
import torch
from torch import nn

from ommatid.engine.ralamb import Ralamb, step_size
from ommatid.engine.recipe import Phase, Recipe, build_optimizer
from ommatid.errors import InputError


def descend(optimizer_of, steps=60):
    torch.manual_seed(0)
    layer = nn.Linear(4, 1)
    inputs = torch.randn(64, 4)
    wanted = inputs @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    optimizer = optimizer_of(layer.parameters())
    losses = []
    for _ in range(steps):
        loss = (layer(inputs) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, layer, optimizer


def test_it_descends():
    losses, _, _ = descend(lambda p: Ralamb(p, lr=0.1))
    assert losses[-1] < 0.3 * losses[0]


def test_the_released_look_ahead_goes_six_times_as_far():
    """After every step fast weights move six times their step from the slow ones."""
    moved = {}
    for name, options in {"plain": {"lookahead_share": 1.0}, "released": {"lookahead_share": 6.0}}.items():
        weight = nn.Parameter(torch.ones(3))
        optimizer = Ralamb([weight], lr=1e-3, lookahead_steps=0.5, **options)
        for _ in range(2):
            weight.grad = torch.ones(3)
            optimizer.step()
        moved[name] = 1 - weight[0].item()
    first = 1e-3
    assert moved["plain"] == pytest.approx(2 * first, rel=0.05)
    assert moved["released"] == pytest.approx(first + 6 * first, rel=0.05)


def test_slow_weights_follow_every_so_many_steps():
    weight = nn.Parameter(torch.ones(1))
    optimizer = Ralamb([weight], lr=1e-2, lookahead_steps=3.0, lookahead_share=0.5)
    seen = []
    for _ in range(5):
        weight.grad = torch.ones(1)
        optimizer.step()
        seen.append(weight.item())
    # The slow copy is made after the first step; the fourth goes half of the way from it.
    assert seen[0] > seen[1] > seen[2]
    assert seen[3] > seen[2]
    assert seen[4] < seen[3]


def test_the_variance_counts_once_enough_steps_were_made():
    assert not step_size(1, 0.0, 0.9)[1]
    assert step_size(30, 0.0, 0.9)[1]


def test_its_state_is_saved_and_goes_on_as_if_nothing_had_happened():
    _, layer, optimizer = descend(lambda p: Ralamb(p, lr=0.1), steps=7)
    copied = nn.Linear(4, 1)
    copied.load_state_dict(layer.state_dict())
    other = Ralamb(copied.parameters(), lr=0.1)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for _ in range(4):
        for parameter, twin in zip(layer.parameters(), copied.parameters(), strict=True):
            parameter.grad = torch.ones_like(parameter)
            twin.grad = torch.ones_like(twin)
        optimizer.step()
        other.step()
    for parameter, twin in zip(layer.parameters(), copied.parameters(), strict=True):
        assert torch.equal(parameter, twin)


def test_recipes_know_it_by_name():
    for name, share in {"ralamb": 0.5, "ralamb-released": 6.0}.items():
        optimizer = build_optimizer(Phase([nn.Linear(2, 1)], Recipe(name, lr=0.3, betas=(0.0, 0.9))))
        assert isinstance(optimizer, Ralamb)
        assert {group["lookahead_share"] for group in optimizer.param_groups} == {share}
        assert {group["betas"] for group in optimizer.param_groups} == {(0.0, 0.9)}


def test_weight_decay_shrinks_weights():
    weight = nn.Parameter(torch.ones(2))
    optimizer = Ralamb([weight], lr=0.1, weight_decay=0.5)
    weight.grad = torch.zeros(2)
    optimizer.step()
    assert float(weight[0].detach()) == pytest.approx(0.95, abs=1e-6)


@pytest.mark.parametrize("name", ["lr", "lookahead_steps", "lookahead_share"])
def test_what_is_not_positive_is_refused(name):
    with pytest.raises(InputError, match=f"{name} must be above 0, found 0"):
        Ralamb([nn.Parameter(torch.ones(1))], **{name: 0.0})
