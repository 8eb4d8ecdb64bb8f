import pytest
import torch
from torch import nn

from ommatid.nn.boundary import PatchCritic, background_tuple, boundary_tuple, published_critic


def drawn(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_a_tuple_is_image_cut_out_and_three_masks():
    images, masks = drawn(2, 3, 8, 8), drawn(2, 1, 8, 8)
    found = boundary_tuple(images, masks)
    assert torch.equal(found[:, :3], images)
    assert torch.equal(found[:, 3:6], images * masks)
    for channel in range(6, 9):
        assert torch.equal(found[:, channel], masks[:, 0])


def test_another_mask_can_be_shown_than_the_one_that_cut():
    images, masks = drawn(2, 3, 8, 8), drawn(2, 1, 8, 8)
    found = boundary_tuple(images, masks, shown=torch.ones_like(masks))
    assert torch.equal(found[:, 3:6], images * masks)
    assert found[:, 6:].eq(1).all()


def test_the_background_is_what_the_mask_leaves_out():
    images, masks = drawn(2, 3, 8, 8), (drawn(2, 1, 8, 8) > 0.5).float()
    both = boundary_tuple(images, masks)[:, 3:6] + background_tuple(images, masks)[:, 3:6]
    torch.testing.assert_close(both, images)


@pytest.mark.parametrize(("size", "blocks", "side"), [(128, 6, 2), (32, 3, 4)])
def test_a_critic_scores_patches_with_widths_that_double(size, blocks, side):
    critic = PatchCritic(blocks=blocks)
    assert critic(drawn(2, 9, size, size)).shape == (2, 1, side, side)
    widths = [layer.out_channels for layer in critic.blocks if isinstance(layer, nn.Conv2d)]
    assert widths == [16 * 2**number for number in range(blocks)]
    assert critic.head.bias is None
    assert not any(isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d) for module in critic.modules())


def test_a_sigmoid_keeps_scores_between_0_and_1():
    torch.manual_seed(0)
    critic = PatchCritic(blocks=2)
    linear = PatchCritic(blocks=2, sigmoid=False)
    linear.load_state_dict(critic.state_dict())
    tuples = 100 * drawn(2, 9, 16, 16)
    torch.testing.assert_close(critic(tuples), linear(tuples).sigmoid())
    assert linear(tuples).abs().max() > 1


def test_weights_begin_as_published():
    torch.manual_seed(0)
    critic = PatchCritic(base=32, blocks=4)
    for layer in (module for module in critic.modules() if isinstance(module, nn.Conv2d)):
        area = layer.kernel_size[0] * layer.kernel_size[1]
        expected = (2 / (area * (layer.in_channels + layer.out_channels))) ** 0.5
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.1)
        assert layer.bias is None or float(layer.bias.detach().std()) == pytest.approx(1, rel=0.3)


def test_released_names_become_ours():
    critic = PatchCritic(blocks=2)
    theirs = {
        name.replace("blocks.", "model.").replace("head.", "out1.0."): value
        for name, value in critic.state_dict().items()
    }
    assert published_critic(theirs).keys() == critic.state_dict().keys()


def test_half_precision_is_finite():
    critic, tuples = PatchCritic(blocks=2), drawn(2, 9, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(critic(tuples)).all()
