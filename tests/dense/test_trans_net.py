from itertools import pairwise

import pytest
import torch

from dense.made import masked, step, trans_net
from ommatid.dense.trans_net import INNER, OUTER, TransNet
from ommatid.engine.settings import build, merge
from ommatid.engine.sweep import Job, run_job
from ommatid.errors import InputError
from ommatid.losses.boundary import critic_loss_on_patches
from ommatid.nn.boundary import boundary_tuple
from ommatid.nn.morphology import dilate, erode


def normalised(images):
    """In the units of ImageNet, written out."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]


@pytest.mark.parametrize("pseudo_mask", ["source", "morphed"])
def test_critics_compare_source_cut_outs_with_predicted_and_with_wrong_ones(pseudo_mask):
    method, batch = trans_net(pseudo_mask=pseudo_mask, kernels=[3, 3], negative_weight=0.5), step()
    predicted = torch.rand(4, 1, 16, 16)
    torch.manual_seed(5)
    found = method.criticism(batch, predicted)
    torch.manual_seed(5)
    images, masks = normalised(batch.source.images), batch.source.masks
    real, fake = boundary_tuple(images, masks), boundary_tuple(normalised(batch.unlabelled.images), predicted)
    expected = 0.0
    for name, wrong in ((INNER, erode), (OUTER, dilate)):
        # As many draws as the method makes: one window each.
        if name == INNER:
            torch.randint(1, ()), torch.randint(1, ())
        cut = wrong(masks, 3)
        pseudo = boundary_tuple(images, cut, masks if pseudo_mask == "source" else None)
        expected = expected + critic_loss_on_patches(
            method.critics[name], real, fake, pseudo, penalty=10.0, negative_weight=0.5
        )
    torch.testing.assert_close(found, expected)


def test_both_critics_see_the_same_of_a_prediction():
    method, batch = trans_net(), masked(2)
    found = method.cut_outs(batch.images, batch.masks)
    assert list(found) == [INNER, OUTER]
    assert torch.equal(found[INNER], boundary_tuple(normalised(batch.images), batch.masks))
    assert found[INNER] is found[OUTER]
    assert list(trans_net(judges=[OUTER]).cut_outs(batch.images, batch.masks)) == [OUTER]


def test_windows_are_odd_and_between_the_two():
    method = trans_net(kernels=[3, 9])
    torch.manual_seed(0)
    assert {method.kernel() for _ in range(60)} == {3, 5, 7, 9}
    with pytest.raises(InputError, match="kernel must be odd and at least 1, found 4"):
        trans_net(kernels=[4, 9])
    for kernels in ([9, 3], [3], [3, 5, 7]):
        with pytest.raises(InputError, match="kernels must be a smallest and a largest side, found"):
            trans_net(kernels=kernels)


def test_critics_learn_to_tell_clean_cut_outs_from_wrong_ones():
    """With the sources' own masks as fakes nothing but the pseudo samples tells."""
    settings = {"critic_sigmoid": False, "pseudo_mask": "morphed", "critic_base": 8, "kernels": [5, 5], "penalty": 1.0}
    settings["negative_weight"] = 0.5
    method, batch = trans_net(**settings), step(16, 16, 1)
    batch.source.images = batch.source.masks * 0.8 + (1 - batch.source.masks) * 0.2 + 0.02 * torch.randn(16, 3, 16, 16)
    batch.unlabelled = batch.source
    optimizer = torch.optim.Adam(method.critics.parameters(), 2e-3, betas=(0.0, 0.9))
    for _ in range(100):
        loss = method.criticism(batch, batch.source.masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, masks = method.normalise(batch.source.images), batch.source.masks
    clean = boundary_tuple(images, masks)
    for name, wrong in ((INNER, erode), (OUTER, dilate)):
        critic = method.critics[name]
        assert critic(clean).mean() > critic(boundary_tuple(images, wrong(masks, 5))).mean()


def test_the_published_size_builds():
    with torch.device("meta"):
        method = build(TransNet, {})
    critic = method.critics[INNER]
    widths = [9, 16, 32, 64, 128, 256, 512]
    expected = sum(16 * a * b + b for a, b in pairwise(widths)) + 9 * 512
    assert sum(parameter.numel() for parameter in critic.parameters()) == expected
    assert method.hparams.kernels == [15, 73]


def test_arms_differ_in_judges_turns_and_labels_alone():
    (claim,) = TransNet.claims
    assert {key for arm in claim.arms.values() for key in arm.model} == {"boundary"}
    changed = {key for arm in claim.arms.values() for key in arm.model.get("boundary", {})}
    assert changed == {"judges", "self_weight"}
    assert {key for arm in claim.arms.values() for key in arm.data} == {"shots"}


@pytest.mark.parametrize("arm", TransNet.claims[0].arms)
def test_every_arm_trains_and_is_scored(arm):
    claim = TransNet.claims[0]
    model = merge(claim.model, claim.arms[arm].model, {"widths": [4, 8], "boundary": {"critic_base": 4}})
    world = {"train": 12, "val": 2, "test": 3, "source": 6}
    data = merge(
        claim.data, claim.arms[arm].data, {"world": world, "steps_per_epoch": 2, "batch_size": 4, "labelled_batch": 2}
    )
    job = Job("ommatid.dense.trans_net:TransNet", model, data, {"max_epochs": 5}, 0, "test")
    assert {"IoU", "mIoU", "Dice", "image_IoU", "area_error"} <= set(run_job(job).metrics)
