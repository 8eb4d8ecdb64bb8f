"""Blocks that graft, beside the layer that they change: forward and backward of 16 maps of 128 channels, 28 x 28."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ommatid.nn.convolutional_attention import ConvolutionalAttention, SpatialFeedForward
from ommatid.nn.multi_view_fusion import MultiViewFusion, TemporalShift
from ommatid.nn.scale_attention import ScaleAttentionConv2d
from ommatid.nn.virtual_attention import VirtualAttention

CHANNELS, CLIP = 128, 8


def pointwise() -> nn.Module:
    return nn.Conv2d(CHANNELS, CHANNELS, 1)


def spatial() -> nn.Module:
    return nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "1x1 convolution": pointwise,
    "1x1 convolution behind multi-view fusion, an eighth": lambda: nn.Sequential(
        MultiViewFusion(CHANNELS, CLIP), pointwise()
    ),
    "1x1 convolution behind multi-view fusion, a half": lambda: nn.Sequential(
        MultiViewFusion(CHANNELS, CLIP, alpha=0.5), pointwise()
    ),
    "1x1 convolution behind a temporal shift": lambda: nn.Sequential(TemporalShift(CHANNELS, CLIP), pointwise()),
    "3x3 convolution": spatial,
    "3x3 convolution with virtual attention": lambda: VirtualAttention(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)),
    "3x3 scale attention": lambda: ScaleAttentionConv2d(CHANNELS, CHANNELS),
    "attention over all places": lambda: ConvolutionalAttention(CHANNELS, num_heads=4),
    "feed-forward with a grouped 3x3 convolution": lambda: SpatialFeedForward(CHANNELS, 2 * CHANNELS),
}


WAYS: dict[str, tuple[torch.memory_format, torch.dtype, bool]] = {
    "channels first": (torch.contiguous_format, torch.float32, False),
    "channels last": (torch.channels_last, torch.float32, False),
    "channels last, bfloat16": (torch.channels_last, torch.bfloat16, False),
    "channels last, compiled": (torch.channels_last, torch.float32, True),
    "channels last, bfloat16, compiled": (torch.channels_last, torch.bfloat16, True),
}
"""Layout, precision of autocast, and whether through torch.compile."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BLOCKS)
def test_one_update(benchmark, name, way):
    layout, precision, compiled = WAYS[way]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    block = BLOCKS[name]().to(device, memory_format=layout)
    run = torch.compile(block) if compiled else block
    maps = torch.randn(2 * CLIP, CHANNELS, 28, 28, device=device).to(memory_format=layout).requires_grad_()

    def update() -> None:
        with torch.autocast(device, dtype=precision, enabled=precision != torch.float32):
            loss = run(maps).square().mean()
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark(update)
