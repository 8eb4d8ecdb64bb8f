import pytest
import torch

from dense.made import evs_net, masked, step
from ommatid.dense.evs_net import BACKGROUND, VESSEL, EVSNet
from ommatid.engine.settings import build, merge
from ommatid.engine.sweep import Job, run_job
from ommatid.losses.boundary import critic_loss_on_patches
from ommatid.nn.boundary import background_tuple, boundary_tuple


def test_one_critic_sees_vessels_and_the_other_what_is_left():
    method, batch = evs_net(), masked(2)
    found = method.cut_outs(batch.images, batch.masks)
    images = method.normalise(batch.images)
    assert torch.equal(found[VESSEL], boundary_tuple(images, batch.masks))
    assert torch.equal(found[BACKGROUND], background_tuple(images, batch.masks))
    assert list(evs_net(judges=[BACKGROUND]).cut_outs(batch.images, batch.masks)) == [BACKGROUND]


def test_what_is_certain_is_smaller_than_the_vessel_and_than_the_background():
    method, batch = evs_net(kernel=3), masked(1)
    certain = method.certain(batch.images, batch.masks)
    vessel, background = certain[VESSEL][0, 8], certain[BACKGROUND][0, 8]
    assert vessel.sum() == 4 * 5
    assert (1 - background).sum() == 8 * 9
    assert (vessel * background).sum() == 0


def test_certain_samples_are_true_and_predictions_are_not():
    method, batch = evs_net(), step()
    predicted = torch.rand(4, 1, 16, 16)
    torch.manual_seed(2)
    found = method.criticism(batch, predicted)
    torch.manual_seed(2)
    certain = method.certain(batch.source.images, batch.source.masks)
    fake = method.cut_outs(batch.unlabelled.images, predicted)
    expected = sum(critic_loss_on_patches(method.critics[name], certain[name], fake[name]) for name in fake)
    torch.testing.assert_close(found, expected)


def test_the_published_size_builds():
    with torch.device("meta"):
        method = build(EVSNet, {})
    assert method.hparams.kernel == 11
    assert method.boundary.edge_kernel == 5
    assert method.boundary.paste == 1
    assert set(method.critics) == {VESSEL, BACKGROUND}


def test_arms_differ_in_judges_turns_and_labels_alone():
    first, second = EVSNet.claims
    assert first.arms is second.arms
    assert {key for arm in first.arms.values() for key in arm.model} == {"boundary"}
    changed = {key for arm in first.arms.values() for key in arm.model.get("boundary", {})}
    assert changed == {"judges", "self_weight"}
    assert {key for arm in first.arms.values() for key in arm.data} == {"shots"}


@pytest.mark.parametrize("arm", EVSNet.claims[0].arms)
def test_every_arm_trains_and_is_scored(arm):
    claim = EVSNet.claims[0]
    model = merge(claim.model, claim.arms[arm].model, {"widths": [4, 8], "boundary": {"critic_base": 4}})
    world = {"unlabelled": 4, "val": 2, "test": 3, "source": 0}
    data = merge(
        claim.data, claim.arms[arm].data, {"world": world, "steps_per_epoch": 2, "batch_size": 4, "labelled_batch": 2}
    )
    job = Job("ommatid.dense.evs_net:EVSNet", model, data, {"max_epochs": 5}, 0, "test")
    assert {"Dice", "IoU", "area_error"} <= set(run_job(job).metrics)
