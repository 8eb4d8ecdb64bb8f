"""Optimisers and schedules are what their recipe says."""

import math

import pytest
import torch
from torch import nn

from ommatid.engine.recipe import Phase, Recipe, build_optimizer, build_schedule, expected_updates
from ommatid.errors import InputError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.head = nn.Linear(2, 1, bias=False)


def groups(recipe: Recipe, net: Net) -> dict[str, tuple[float, float]]:
    """Parameter name -> its learning rate and its weight decay."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    optimizer = build_optimizer(Phase([net], recipe))
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def trace(recipe: Recipe, total: int, updates: int | None = None) -> list[float]:
    """The learning rate at every update."""
    optimizer = build_optimizer(Phase([nn.Linear(1, 1, bias=False)], recipe))
    schedule = build_schedule(optimizer, recipe, total)
    rates = []
    for _ in range(total if updates is None else updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


# -- parameters --


def test_first_matching_pattern_multiplies_the_learning_rate():
    recipe = Recipe("sgd", lr=0.5, lr_multipliers={"head.*": 10.0, "*.weight": 0.1})
    found = {name: lr for name, (lr, _) in groups(recipe, Net()).items()}
    assert found == pytest.approx(
        {"body.weight": 0.05, "body.bias": 0.5, "norm.weight": 0.05, "norm.bias": 0.5, "head.weight": 5.0}
    )


def test_norms_and_biases_do_not_decay():
    found = {name: decay for name, (_, decay) in groups(Recipe("adamw", weight_decay=0.3), Net()).items()}
    assert found == {"body.weight": 0.3, "head.weight": 0.3, "body.bias": 0.0, "norm.weight": 0.0, "norm.bias": 0.0}


def test_everything_decays_where_the_recipe_says_so():
    found = groups(Recipe("adamw", weight_decay=0.3, decay_vectors=True), Net())
    assert {decay for _, decay in found.values()} == {0.3}


def test_frozen_parameters_have_no_optimizer():
    net = Net()
    net.body.requires_grad_(False)
    assert groups(Recipe(), net).keys() == {"norm.weight", "norm.bias", "head.weight"}


def test_betas_and_momentum_reach_the_optimizer():
    adam = build_optimizer(Phase([Net()], Recipe("adam", betas=(0.5, 0.999))))
    assert all(group["betas"] == (0.5, 0.999) for group in adam.param_groups)
    own = build_optimizer(Phase([Net()], Recipe("adam")))
    assert all(group["betas"] == (0.9, 0.999) for group in own.param_groups)
    assert build_optimizer(Phase([Net()], Recipe("sgd", momentum=0.7))).param_groups[0]["momentum"] == 0.7


@pytest.mark.parametrize(("name", "nesterov"), [("sgd", False), ("nesterov", True)])
def test_sgd_is_what_torch_and_the_papers_call_it(name, nesterov):
    """timm's own "sgd" has Nesterov's momentum."""
    optimizer = build_optimizer(Phase([Net()], Recipe(name, momentum=0.9, weight_decay=0.0)))
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["nesterov"] is nesterov


def test_a_phase_updates_its_modules_only_and_names_them_by_position():
    first, second, other = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
    phase = Phase([first, second], Recipe("sgd"))
    assert [name for name, _ in phase.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert [name for name, _ in Phase([first], Recipe()).named_parameters()] == ["weight", "bias"]
    moved = {id(p) for group in build_optimizer(phase).param_groups for p in group["params"]}
    assert moved == {id(p) for p in (*first.parameters(), *second.parameters())}
    assert not moved & {id(p) for p in other.parameters()}


def test_misspelt_optimizer_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"^unknown optimizer 'adamww': did you mean .*'adamw'.*\?$"):
        build_optimizer(Phase([Net()], Recipe("adamww")))


def test_impossible_value_names_the_optimizer():
    with pytest.raises(InputError, match=r"^recipe of optimizer 'sgd': .*-1"):
        build_optimizer(Phase([Net()], Recipe("sgd", lr=-1.0)))


def test_a_phase_without_anything_to_train_is_refused():
    net = Net().requires_grad_(False)
    with pytest.raises(InputError, match="recipe of optimizer 'adamw'"):
        build_optimizer(Phase([net], Recipe()))


# -- schedules, in closed form --

TOTAL = 10


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", lambda step: 1.0),
        ("linear", lambda step: 1 - step / TOTAL),
        ("cosine", lambda step: (1 + math.cos(math.pi * step / TOTAL)) / 2),
        ("step", lambda step: 0.1 ** sum(step >= round(at * TOTAL) for at in (0.6, 0.75, 0.9))),
        ("inverse_sqrt", lambda step: (step + 1) ** -0.5),
    ],
)
def test_schedule_without_warm_up(schedule, expected):
    found = trace(Recipe("sgd", lr=2.0, schedule=schedule), TOTAL)
    assert found == pytest.approx([2.0 * expected(step) for step in range(TOTAL)], abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        ("constant", lambda step: 1.0),
        ("linear", lambda step: 1 - (step - 3) / 7),
        ("cosine", lambda step: (1 + math.cos(math.pi * (step - 3) / 7)) / 2),
        ("step", lambda step: 0.1 ** sum(step >= round(at * TOTAL) for at in (0.2, 0.6))),
        ("inverse_sqrt", lambda step: (3 / (step + 1)) ** 0.5),
    ],
)
def test_warm_up_rises_linearly_and_the_schedule_takes_over(schedule, after):
    found = trace(Recipe("sgd", lr=2.0, schedule=schedule, warmup_steps=3, milestones=(0.2, 0.6)), TOTAL)
    rise = [(step + 1) / (3 if schedule == "inverse_sqrt" else 4) for step in range(3)]
    assert found == pytest.approx([2.0 * value for value in [*rise, *map(after, range(3, TOTAL))]], abs=1e-6)


@pytest.mark.parametrize("warmup", [0, 3])
def test_one_cycle_rises_to_the_rate_and_falls_to_almost_nothing(warmup):
    found = trace(Recipe("sgd", lr=2.0, schedule="onecycle", warmup_steps=warmup), 40)
    peak = found.index(max(found))
    assert max(found) == pytest.approx(2.0, rel=0.02)
    assert found[:peak] == sorted(found[:peak])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[-1] < 0.02 * 2.0


def test_one_cycle_keeps_the_multipliers():
    recipe = Recipe("sgd", lr=1.0, schedule="onecycle", lr_multipliers={"head.*": 0.1})
    optimizer = build_optimizer(Phase([Net()], recipe))
    schedule = build_schedule(optimizer, recipe, 20)
    highest = [0.0] * len(optimizer.param_groups)
    for _ in range(20):
        highest = [max(old, group["lr"]) for old, group in zip(highest, optimizer.param_groups, strict=True)]
        optimizer.step()
        schedule.step()
    assert sorted(highest) == pytest.approx([0.1, 1.0], rel=0.02)


@pytest.mark.parametrize("schedule", ["constant", "linear", "poly", "cosine", "onecycle", "step", "inverse_sqrt"])
def test_a_schedule_takes_the_step_that_lightning_makes_behind_the_last_update(schedule):
    for warmup in (0, 2, 5):
        assert len(trace(Recipe("sgd", schedule=schedule, warmup_steps=warmup), 5)) == 5
    assert all(math.isfinite(rate) for rate in trace(Recipe("sgd", schedule=schedule), 1))


def test_misspelt_schedule_is_answered_with_the_nearest():
    recipe = Recipe("sgd")
    # As without run-time type checks: the constructor takes any string.
    object.__setattr__(recipe, "schedule", "cosin")
    with pytest.raises(InputError, match=r"^unknown schedule 'cosin': did you mean 'cosine'"):
        trace(recipe, 5)


def test_a_recipe_cannot_be_changed():
    with pytest.raises(AttributeError):
        Recipe().lr = 1.0


def test_weights_without_gradient_do_not_move():
    line = nn.Linear(2, 1)
    before = line.weight.clone()
    build_optimizer(Phase([line], Recipe("adamw", weight_decay=0.5))).step()
    assert torch.equal(line.weight, before)


@pytest.mark.parametrize(
    ("batches", "steps", "expected"),
    [
        (100, math.inf, (100, [100, 70])),
        # 30 steps of one phase, then 70 of both.
        (math.inf, 100, (65, [65, 35])),
        (100, 100, (65, [65, 35])),
        (40, 100, (40, [40, 28])),
        # By steps the first 30 % would end after 30 batches, by batches after 15, and so they do.
        (50, 100, (50, [50, 35])),
        # The other way round: 30 % of the steps are done long before 30 % of the batches.
        (1000, 100, (65, [65, 35])),
        # Steps lag behind at first and overtake.
        (70, 100, (60.5, [60.5, 39.5])),
    ],
)
def test_a_training_ends_where_the_first_limit_is(batches, steps, expected):
    phases = [Phase([], Recipe()), Phase([], Recipe(), updates=0, later={0.3: 1.0})]
    found = expected_updates(phases, float(batches), float(steps))
    assert (found[0], *found[1]) == pytest.approx((expected[0], *expected[1]))


def test_phases_that_act_now_and_then_are_counted_by_their_rate():
    phases = [Phase([], Recipe(), updates=3), Phase([], Recipe(), every=2, later={0.5: 0.5})]
    assert expected_updates(phases, 8.0, math.inf) == (8.0, [24.0, 6.0])
    assert expected_updates([], math.inf, math.inf)[0] == math.inf
