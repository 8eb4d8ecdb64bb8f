"""A 2D network becomes a video network: a block in every residual unit, frame scores averaged (arXiv:2012.06977)."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError
from ommatid.nn.capture import Layer, capture
from ommatid.nn.graft import Block, graft

UNIT = re.compile(r"(?<!Dense)Block|Bottle|InvertedResidual|EdgeResidual|DepthwiseSeparable|MBConv|DenseLayer")
"""Class names of residual units in torchvision and timm."""
SHORTCUT = re.compile(r"proj|downsample|shortcut")


class VideoModel(nn.Module):
    """Scores of a clip: those of its frames by a network on images, averaged (E5).

    Args:
        network: of images; blocks inside it may look at neighbouring frames.
        clip_length: frames of a clip.
    """

    def __init__(self, network: nn.Module, clip_length: int) -> None:
        super().__init__()
        self.network, self.clip_length = network, clip_length

    def forward(self, clips: Float[Tensor, "batch time 3 height width"]) -> Float[Tensor, "batch score"]:
        return self.each(clips).mean(dim=1)

    def each(self, clips: Float[Tensor, "batch time 3 height width"]) -> Float[Tensor, "batch time score"]:
        """What the network says of every frame.

        Raises:
            InputError: the clips have another length than the blocks were made for.
        """
        if clips.shape[1] != self.clip_length:
            raise InputError(f"clips: found {clips.shape[1]} frames, expected clip_length {self.clip_length}")
        scores: Tensor = self.network(clips.flatten(0, 1))
        return scores.unflatten(0, (-1, self.clip_length))


def as_video_model(
    network: nn.Module,
    block: Block | None = None,
    clip_length: int = 8,
    at: Iterable[Layer] | Layer | None = None,
    stages: int = 2,
    size: int = 224,
    **settings: Any,
) -> VideoModel:
    """A network on images with a temporal block in front of the first convolution of its residual units (E4).

    `MultiViewFusion` makes it MVFNet, `TemporalShift` TSM, no block at all C2D, and
    `partial(MultiViewFusion, alpha=1, views="T")` a network with temporal convolutions alone.

    Args:
        network: any 2D network of torchvision, timm or your own; it is changed in place.
        block: made for every unit with its `channels` and `clip_length`; None for none.
        at: where, instead of the units' first convolutions.
        stages: resolutions, counted from the coarsest, whose units get a block.
        size: of the images on which the network is run once.
        **settings: of the block.

    Raises:
        InputError: no residual unit is recognised by its class's name, and `at` does not say where.

    Examples:
        >>> from torchvision.models import resnet18
        >>> from ommatid.nn.multi_view_fusion import MultiViewFusion
        >>> video = as_video_model(resnet18(), MultiViewFusion, clip_length=4, size=64)
        >>> video(torch.randn(2, 4, 3, 64, 64)).shape
        torch.Size([2, 1000])
    """
    if block is not None:
        clip = _still(network, clip_length, size)
        where = first_convolutions(network, stages, clip) if at is None else at
        graft(network, block, where, how="before", example=clip, clip_length=clip_length, **settings)
    return VideoModel(network, clip_length)


def first_convolutions(network: nn.Module, stages: int, example: Tensor) -> list[nn.Module]:
    """The first convolution, shortcuts aside, of every residual unit at the coarsest `stages` resolutions."""
    units = residual_units(network)
    with capture(network, units) as outputs, torch.no_grad():
        mode = network.training
        network.eval()(example)
        network.train(mode)
        heights = {name: value.shape[2] for name, value in outputs.items()}
    coarse = sorted(set(heights.values()))[:stages]
    names = dict(zip(heights, units, strict=True))
    return [_first_convolution(unit) for name, unit in names.items() if heights[name] in coarse]


def residual_units(network: nn.Module) -> list[nn.Module]:
    """The outermost modules that bear the name of a residual unit and hold a convolution."""
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        holds = any(isinstance(each, nn.Conv2d) for each in module.modules())
        if name and not inside and holds and UNIT.search(type(module).__name__):
            found[name] = module
    if not found:
        raise InputError(
            f"at: {type(network).__name__} has no residual units known by name, expected layers to be named"
        )
    return list(found.values())


def _first_convolution(unit: nn.Module) -> nn.Module:
    return next(
        module for name, module in unit.named_modules() if isinstance(module, nn.Conv2d) and not SHORTCUT.search(name)
    )


def _still(network: nn.Module, frames: int, size: int) -> Tensor:
    parameter = next(network.parameters())
    return torch.zeros(frames, 3, size, size, device=parameter.device, dtype=parameter.dtype)
