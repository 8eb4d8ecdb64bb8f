"""Any 2D network becomes a video network, and what the paper calls special cases are."""

from functools import partial

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from ommatid.errors import InputError
from ommatid.nn.multi_view_fusion import MultiViewFusion, TemporalShift
from ommatid.nn.video import VideoModel, as_video_model, first_convolutions, residual_units

CLIPS = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(**settings):
    torch.manual_seed(0)
    return models.resnet18(num_classes=5, **settings).eval()


def names(model, layers):
    known = {id(layer): name for name, layer in model.named_modules()}
    return [known[id(layer)] for layer in layers]


def test_scores_of_a_clip_are_the_mean_of_its_frames():
    video = VideoModel(network(), 4)
    expected = torch.stack([network()(clip).mean(dim=0) for clip in CLIPS])
    torch.testing.assert_close(video(CLIPS), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="clips: found 4 frames, expected clip_length 8"):
        VideoModel(network(), 8)(CLIPS)


def test_no_share_and_no_block_are_the_2d_network():
    plain = as_video_model(network(), clip_length=4)(CLIPS)
    torch.testing.assert_close(as_video_model(network(), MultiViewFusion, 4, size=32, alpha=0.0)(CLIPS), plain)


def test_fixed_kernels_make_the_network_a_shifting_one():
    moving = as_video_model(network(), TemporalShift, 4, size=32)
    fixed = as_video_model(network(), MultiViewFusion, 4, size=32, alpha=1.0, views="T", activation=False)
    with torch.no_grad():
        for block in fixed.modules():
            if isinstance(block, MultiViewFusion):
                moved = block.fused // 8
                block.time.copy_(torch.tensor([0.0, 1, 0]))
                block.time[:moved] = torch.tensor([0.0, 0, 1])
                block.time[moved : 2 * moved] = torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(fixed(CLIPS), moving(CLIPS), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(moving(CLIPS), as_video_model(network(), clip_length=4)(CLIPS))


def test_time_alone_makes_the_network_one_of_temporal_convolutions():
    class Slow(nn.Module):
        def __init__(self, channels, clip_length):
            super().__init__()
            self.clip_length = clip_length
            self.conv = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0), groups=channels, bias=False)

        def forward(self, frames):
            clips = frames.unflatten(0, (-1, self.clip_length)).transpose(1, 2)
            return self.conv(clips).transpose(1, 2).flatten(0, 1)

    slow = as_video_model(network(), Slow, 4, size=32)
    ours = as_video_model(network(), MultiViewFusion, 4, size=32, alpha=1.0, views="T", activation=False)
    kernels = (module.conv.weight for module in slow.modules() if isinstance(module, Slow))
    with torch.no_grad():
        for block in ours.modules():
            if isinstance(block, MultiViewFusion):
                block.time.copy_(next(kernels).flatten(1))
    torch.testing.assert_close(ours(CLIPS), slow(CLIPS), rtol=1e-4, atol=1e-5)


def test_the_order_of_frames_counts_only_with_a_block():
    backwards = CLIPS.flip(1)
    plain = as_video_model(network(), clip_length=4)
    torch.testing.assert_close(plain(backwards), plain(CLIPS), rtol=1e-4, atol=1e-5)
    fused = as_video_model(network(), MultiViewFusion, 4, size=32, alpha=0.5).eval()
    assert not torch.allclose(fused(backwards), fused(CLIPS), atol=1e-3)


def test_blocks_stand_in_the_last_two_stages_of_a_residual_network():
    example = torch.randn(1, 3, 64, 64)
    found = first_convolutions(network(), 2, example)
    net = network()
    assert names(net, first_convolutions(net, 2, example)) == [
        f"layer{stage}.{unit}.conv1" for stage in (3, 4) for unit in (0, 1)
    ]
    assert len(found) == 4
    assert len(first_convolutions(net, 4, example)) == 8
    video = as_video_model(models.resnet50(), partial(MultiViewFusion, alpha=0.125), 2, size=64)
    inside = [name for name, module in video.network.named_modules() if isinstance(module, MultiViewFusion)]
    assert len(inside) == 9
    assert all(name.startswith(("layer3.", "layer4.")) and name.endswith(".conv1.block") for name in inside)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("regnety_002", "s3.b1.conv1.conv"),
        ("mobilenetv3_small_100", "blocks.2.0.conv_pw"),
        ("convnext_atto", "stages.2.blocks.0.conv_dw"),
        ("efficientnet_lite0", "blocks.3.0.conv_pw"),
    ],
)
def test_units_of_other_families_are_found(name, first):
    net = timm.create_model(name, num_classes=5).eval()
    example = torch.randn(1, 3, 64, 64)
    assert names(net, first_convolutions(net, 2, example))[0] == first
    assert as_video_model(net, MultiViewFusion, 2, size=64)(torch.randn(1, 2, 3, 64, 64)).shape == (1, 5)


def test_a_network_without_known_units_asks_where():
    with pytest.raises(InputError, match="at: VGG has no residual units known by name, expected layers to be named"):
        residual_units(models.vgg11())
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert as_video_model(plain, MultiViewFusion, 4, at="1", size=32, alpha=0.5)(CLIPS).shape == (2, 8)
