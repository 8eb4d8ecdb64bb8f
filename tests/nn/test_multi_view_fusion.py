"""Multi-view fusion filters along each axis, stays within its clip, and specialises to its relatives."""

import pytest
import torch
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.multi_view_fusion import MultiViewFusion, TemporalShift, along_time, as_clips, published_fusion

FRAMES = torch.randn(8, 6, 5, 7, generator=torch.Generator().manual_seed(0))


def fusion(**settings):
    torch.manual_seed(0)
    return MultiViewFusion(6, **{"clip_length": 4, "alpha": 0.5, **settings})


@pytest.mark.parametrize("views", ["T", "TH", "THW"])
@pytest.mark.parametrize("shared", [False, True])
def test_the_sum_is_that_of_three_depth_wise_convolutions_in_3d(views, shared):
    block = fusion(views=views, shared=shared, activation=False)
    clips = as_clips(FRAMES, 4).transpose(1, 2)[:, :3]
    height = block.time if shared else block.height
    width = block.time if shared else block.width
    expected = nn.functional.conv3d(clips, block.time[:, None, :, None, None], padding=(1, 0, 0), groups=3)
    if "H" in views:
        expected += nn.functional.conv3d(clips, height[:, None, None, :, None], padding=(0, 1, 0), groups=3)
    if "W" in views:
        expected += nn.functional.conv3d(clips, width[:, None, None, None, :], padding=(0, 0, 1), groups=3)
    found = block(FRAMES)
    torch.testing.assert_close(found[:, :3], expected.transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(found[:, 3:], FRAMES[:, 3:])  # the rest passes by


def test_statistics_are_those_of_a_norm_over_the_clips():
    block, norm = fusion(), nn.BatchNorm3d(3)
    summed = fusion(activation=False)(FRAMES)[:, :3]
    clips = as_clips(summed, 4).transpose(1, 2)
    expected = nn.functional.hardswish(norm(clips)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(block.train()(FRAMES)[:, :3], expected)
    torch.testing.assert_close(block.norm.running_mean, norm.running_mean)


def test_clips_do_not_see_each_other():
    block = fusion().eval()
    other = FRAMES.clone()
    other[4:] = 0
    torch.testing.assert_close(block(other)[:4], block(FRAMES)[:4])
    assert not torch.equal(block(other)[4:], block(FRAMES)[4:])
    torch.testing.assert_close(block(FRAMES[:4]), block(FRAMES)[:4])


def test_no_share_of_the_channels_leaves_the_2d_network():
    block = fusion(alpha=0.0)
    assert block(FRAMES) is FRAMES
    assert not any(value.numel() for value in block.parameters())


def test_fixed_kernels_make_it_a_temporal_shift():
    block = fusion(alpha=1.0, views="T", activation=False)
    ahead, behind, still = torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])
    with torch.no_grad():
        block.time.copy_(torch.stack([ahead, ahead, behind, behind, still, still]))
    torch.testing.assert_close(block(FRAMES), TemporalShift(6, clip_length=4, share=1 / 3)(FRAMES))


def test_time_alone_on_all_channels_is_a_temporal_convolution():
    """The depth-wise reading of a network that is slow only."""
    block = fusion(alpha=1.0, views="T", activation=False)
    slow = nn.Conv3d(6, 6, (3, 1, 1), padding=(1, 0, 0), groups=6, bias=False)
    slow.load_state_dict({"weight": block.time[:, None, :, None, None]})
    expected = slow(as_clips(FRAMES, 4).transpose(1, 2)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(block(FRAMES), expected)


def test_kernels_are_initialised_by_their_number():
    torch.manual_seed(0)
    block = MultiViewFusion(512, alpha=1.0)
    for kernel in (block.time, block.height, block.width):
        assert float(kernel.detach().std()) == pytest.approx((2 / (3 * 512)) ** 0.5, rel=0.1)


def test_channels_last_gives_the_same():
    block = fusion().eval()
    torch.testing.assert_close(block(FRAMES.to(memory_format=torch.channels_last)), block(FRAMES))


@pytest.mark.parametrize("settings", [{}, {"shared": True}, {"activation": False}])
def test_gradients_are_those_of_finite_differences(settings):
    block = fusion(**settings).double().eval()
    torch.autograd.gradcheck(block, FRAMES[:4, :, :3, :2].double().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype):
    block = fusion().eval()
    with torch.autocast("cpu", dtype=dtype):
        half = block(FRAMES)
    torch.testing.assert_close(half.float(), block(FRAMES), rtol=0.05, atol=0.05)


def test_it_can_be_exported():
    block = fusion().eval()
    torch.testing.assert_close(torch.export.export(block, (FRAMES,)).module()(FRAMES), block(FRAMES))


def test_published_parameters_have_their_place():
    state = {
        "shift_conv.weight": torch.zeros(3, 1, 3, 1, 1),
        "w_conv.weight": torch.ones(3, 1, 1, 1, 3),
        "bn.weight": torch.ones(3),
        "net.weight": torch.ones(2, 3, 1, 1),
    }
    found = published_fusion(state)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "time": (3, 3),
        "width": (3, 3),
        "norm.weight": (3,),
    }


def test_a_shift_along_time_has_no_other_neighbours():
    kernel = torch.tensor([[1.0, 0, 0]] * 6)
    found = as_clips(along_time(FRAMES, kernel, 4), 4)
    torch.testing.assert_close(found[:, 1:], as_clips(FRAMES, 4)[:, :-1])
    assert (found[:, 0] == 0).all()


def test_what_is_no_clip_is_refused():
    with pytest.raises(InputError, match="frames: found 8, expected a multiple of clip_length 3"):
        fusion(clip_length=3)(FRAMES)
    with pytest.raises(InputError, match=r"alpha must lie in \[0, 1\], found 2.0"):
        fusion(alpha=2.0)
    with pytest.raises(InputError, match=r"share must lie in \[0, 0.5\], found 0.6"):
        TemporalShift(6, share=0.6)
