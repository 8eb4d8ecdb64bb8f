import math
from itertools import pairwise

import pytest
import torch

from dense.made import Constant, evs_net, masked, step, trans_net
from ommatid.dense.data import BoundaryData
from ommatid.engine.fit import fit
from ommatid.engine.recipe import Recipe, expected_updates
from ommatid.errors import InputError
from ommatid.losses.dice import dice_loss
from ommatid.losses.equivariance import equivariance_loss, turn


class Recorded:
    """A method whose updates are noted instead of made."""

    def __init__(self, method, share=1.0):
        self.method, self.updates, self.parts = method, [], {}
        kind = type(method)
        method.update = lambda *names, loss: self.updates.append((names, float(loss.detach())))
        method.report = lambda **parts: self.parts.update(parts)
        method.__class__ = type("At", (kind,), {"share_done": property(lambda _: share)})


def run(settings, batch_idx=0, share=1.0, make=trans_net):
    recorded = Recorded(make(**settings), share)
    recorded.method.training_step(step(), batch_idx)
    return recorded


def names(recorded):
    return [found for (found,), _ in recorded.updates]


def test_critics_labels_and_unlabelled_images_take_turns():
    assert names(run({})) == ["critics", "segmenter", "segmenter"]
    for number in (1, 2, 3, 4):
        assert names(run({}, number)) == ["critics", "segmenter"]
    assert names(run({}, 5)) == ["critics", "segmenter", "segmenter"]


def test_together_there_is_one_update_of_all_terms():
    recorded = run({"together": True, "adversarial_every": 1})
    assert names(recorded) == ["critics", "segmenter"]
    total = sum(float(recorded.parts[name].detach()) for name in ("loss", "turned", "adversarial"))
    assert recorded.updates[-1][1] == pytest.approx(total, rel=1e-5)


def test_critics_start_when_asked_and_are_listened_to_later():
    settings = {"critics_from": 0.3, "adversarial_from": 0.4, "adversarial_every": 1, "self_weight": 0.0}
    assert names(run(settings, share=0.2)) == ["segmenter"]
    assert names(run(settings, share=0.35)) == ["critics", "segmenter"]
    late = run(settings, share=0.45)
    assert names(late) == ["critics", "segmenter", "segmenter"]
    assert "adversarial" in late.parts


def test_without_judges_there_are_labels_alone():
    method = trans_net(judges=[], self_weight=0.0, together=True)
    assert list(method.phases()) == ["segmenter"]
    assert names(run({"judges": [], "self_weight": 0.0, "together": True, "adversarial_every": 1})) == ["segmenter"]
    assert names(run({"judges": [], "self_weight": 1.0, "adversarial_every": 1})) == ["segmenter", "segmenter"]


def test_the_labelled_loss_is_overlap_and_equivariance():
    method, batch = trans_net(self_weight=0.7), masked(3)
    torch.manual_seed(1)
    found = method.labelled_loss(batch)
    torch.manual_seed(1)
    quarters = int(torch.randint(1, 3, ()))
    predicted, of_turned = method(batch.images), method(turn(batch.images, quarters))
    expected = dice_loss(predicted, batch.masks, batch.valid) + 0.7 * equivariance_loss(predicted, of_turned, quarters)
    torch.testing.assert_close(found, expected)


def test_quarter_and_half_turns_are_drawn():
    method, seen = trans_net(), set()

    class Corner(torch.nn.Module):
        def forward(self, images):
            seen.add(tuple(torch.round(images[0, 0, ::15, ::15], decimals=3).flatten().tolist()))
            return images[:, :1]

    method.network = Corner()
    part = masked(1)
    for seed in range(8):
        torch.manual_seed(seed)
        method.self_loss(part, part.images[:, :1])
    corners = {
        tuple(torch.round(turn(part.images, q)[0, 0, ::15, ::15], decimals=3).flatten().tolist()) for q in (1, 2)
    }
    assert seen == corners


def test_labelled_images_get_backgrounds_of_the_source():
    batch = step(labelled=3)
    same = trans_net(paste=0.0).composited(batch)
    assert same is batch.labelled
    pasted = trans_net(paste=1.0).composited(batch)
    inside = batch.labelled.masks.expand(-1, 3, -1, -1) > 0
    assert torch.equal(pasted.images[inside], batch.labelled.images[inside])
    assert not torch.equal(pasted.images[~inside], batch.labelled.images[~inside])
    assert torch.equal(pasted.masks, batch.labelled.masks)
    batch.labelled.valid[0, 0, 0, 0] = False
    torch.testing.assert_close(trans_net(paste=1.0).composited(batch).images[0], batch.labelled.images[0])


def test_the_segmenter_learns_from_critics_and_they_do_not_learn_from_it():
    method = Recorded(trans_net(self_weight=0.0)).method
    losses = method.unlabelled_losses(masked(2), None)
    assert set(losses) == {"adversarial"}
    losses["adversarial"].backward()
    assert any(parameter.grad is not None for parameter in method.network.parameters())
    assert all(parameter.grad is None for parameter in method.critics.parameters())
    assert all(parameter.requires_grad for parameter in method.critics.parameters())


def test_masks_of_unlabelled_images_make_no_difference():
    """Whatever stands there: the step is the same."""
    outcomes = []
    for value in (0.0, 1.0):
        recorded, batch = Recorded(trans_net()), step()
        batch.unlabelled.masks.fill_(value)
        torch.manual_seed(0)
        recorded.method.training_step(batch, 0)
        outcomes.append(recorded.updates)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(("make", "kin"), [(trans_net, True), (evs_net, False)])
def test_what_a_ground_shows_of_the_target_teaches_nothing(make, kin):
    batch = step(source=3)
    # The objects of every ground fill its left half, so they do so in half of the corners.
    batch.source.masks = (torch.arange(16) < 8).float().expand(3, 1, 16, 16)
    batch.kin = kin
    valid, inside = [], batch.labelled.masks > 0
    for seed in range(8):
        torch.manual_seed(seed)
        valid.append(make(paste=1.0).composited(batch).valid)
        assert valid[-1][inside].all()
    outside = torch.stack([each[~inside] for each in valid])
    assert outside.any()
    assert not outside.all()


def test_objects_of_another_kind_are_background():
    batch = step(source=3)
    batch.source.masks = torch.ones(3, 1, 16, 16)
    assert trans_net(paste=1.0).composited(batch).valid.all()


def test_together_masks_are_predicted_once_for_critics_and_segmenter():
    counted = []
    recorded = Recorded(trans_net(together=True, adversarial_every=1, self_weight=0.0))
    recorded.method.network.register_forward_hook(lambda *_: counted.append(1))
    recorded.method.training_step(step(), 0)
    # Those of unlabelled images, and those of labelled ones.
    assert len(counted) == 2
    assert set(recorded.parts) == {"critics", "loss", "adversarial"}


def test_the_period_of_unlabelled_images_runs_on_over_epochs():
    recorded = Recorded(trans_net())
    type(recorded.method).batch_number = lambda _, batch_idx: 2 * 3 + batch_idx
    recorded.method.training_step(step(), 0)
    recorded.method.training_step(step(), 4)
    assert names(recorded) == ["critics", "segmenter", "critics", "segmenter", "segmenter"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 24),
        ({"adversarial_every": 2}, 30),
        ({"together": True}, 20),
        ({"judges": []}, 24),
        ({"judges": [], "self_weight": 0.0}, 20),
        ({"adversarial_from": 0.5}, 24),
        ({"adversarial_from": 0.5, "self_weight": 0.0}, 22),
    ],
)
def test_schedules_know_the_updates_of_unlabelled_images(settings, expected):
    phases = list(trans_net(**settings).phases().values())
    batches, (segmenter, *_) = expected_updates(phases, 20.0, math.inf)
    assert (batches, segmenter) == pytest.approx((20, expected))


@pytest.mark.parametrize(
    ("settings", "trainer"),
    [
        ({"together": True, "critics_from": 0.3, "adversarial_from": 0.4}, {"max_steps": 40, "max_epochs": -1}),
        ({"critics_from": 0.3, "adversarial_from": 0.4, "self_weight": 0.0}, {"max_steps": 40, "max_epochs": -1}),
        ({"critics_from": 0.5, "adversarial_from": 0.5}, {"max_steps": 30, "max_epochs": 7}),
        ({"adversarial_from": 0.5, "adversarial_every": 2, "self_weight": 0.0}, {"max_epochs": 5}),
    ],
)
def test_schedules_end_where_the_training_does_however_late_critics_begin(settings, trainer):
    recipe = Recipe("adam", lr=1.0, schedule="linear")
    method, rates = trans_net(**settings, recipe=recipe), []
    before = method.update

    def update(*names, loss):
        rates.extend(method.optimizer("segmenter").param_groups[0]["lr"] for name in names if name == "segmenter")
        before(*names, loss=loss)

    method.update = update
    world = {"train": 12, "val": 2, "test": 2, "source": 6}
    data = BoundaryData(size=16, shots=2, labelled_batch=2, batch_size=2, world=world)
    fit(method, data, trainer={**trainer, "limit_val_batches": 0})
    falls = [first - second for first, second in pairwise(rates)]
    assert min(falls) > 0, "it neither rises again nor stands still"
    # The last update is made at one part of the way, or two where a part was rounded.
    assert rates[-1] == pytest.approx(1 / len(rates), abs=1.5 / len(rates))


@pytest.mark.parametrize("make", [trans_net, evs_net])
def test_sure_predictions_still_learn_in_half_precision(make):
    """A logit of 7 is 1 in bfloat16, where a sigmoid has no gradient."""
    method, batch = make(), masked(2)
    slopes = []
    for enabled in (False, True):
        logits = torch.full((2, 1, 16, 16), 7.0, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            shown = logits.bfloat16() if enabled else logits
            method.supervision(method.activated(shown), batch).backward()
        slopes.append(logits.grad.sum())
    assert slopes[0] != 0
    torch.testing.assert_close(slopes[1], slopes[0], rtol=0.05, atol=0.0)


def test_critics_are_listened_to_after_they_learn():
    with pytest.raises(InputError, match=r"adversarial_from is 0.1, expected at least critics_from, 0.3"):
        trans_net(critics_from=0.3, adversarial_from=0.1)


def test_deeplab_needs_two_images():
    method = trans_net(network="deeplabv3plus", backbone="resnet10t", image_size=32)
    data = BoundaryData(size=32, labelled_batch=1, world={"target": 20})
    with pytest.raises(InputError, match="batch_size and labelled_batch must be at least 2"):
        method.adopt(data)


def test_a_clamp_is_the_released_activation():
    method = trans_net(activation="clamp")
    method.network = Constant(1.7)
    assert method(masked(1).images).eq(1).all()
    method.network = Constant(0.3)
    torch.testing.assert_close(method(masked(1).images), torch.full((1, 1, 16, 16), 0.3))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"judges": ["upper"]}, "unknown judge 'upper'"),
        ({"critics_from": 1.5}, r"critics_from must lie in \[0, 1\], found 1.5"),
        ({"paste": -1.0}, r"paste must lie in \[0, 1\], found -1"),
        ({"adversarial_every": 0}, "adversarial_every must be at least 1, found 0"),
        ({"critic_blocks": 6}, "critic_blocks is 6, which halves images to nothing below 64 pixels"),
    ],
)
@pytest.mark.parametrize("make", [trans_net, evs_net])
def test_impossible_settings_are_refused(make, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        make(**settings)
