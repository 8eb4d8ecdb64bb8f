"""Backbones cut into stages, so that something can happen between them (`ommatid.nn.layerwise_fusion`).

| function | backbone |
|---|---|
| `plain_stages` | small: convolution, norm, ReLU and pool in each stage |
| `deeplab_vgg16` | VGG-16 of DeepLab-LargeFOV (arXiv:1412.7062) with norms, stride 8; its head is `LargeFOVHead` |
| `timm_stages` | convolutional networks of timm, cut where their features are |

Anything with `stages`, modules that are called one after the other, and `out_channels`, one number for each, serves.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError

Images = Float[Tensor, "batch 3 height width"]


class StagedBackbone(nn.Module):
    """Modules called one after the other.

    Args:
        out_channels: of the map after every stage.

    Examples:
        >>> backbone = StagedBackbone([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3)], [4, 8])
        >>> [tuple(each.shape) for each in backbone(torch.rand(1, 3, 9, 9))]
        [(1, 4, 7, 7), (1, 8, 5, 5)]
    """

    def __init__(self, stages: Sequence[nn.Module], out_channels: Sequence[int]) -> None:
        super().__init__()
        if len(stages) != len(out_channels):
            raise InputError(f"out_channels: found {len(out_channels)}, expected {len(stages)}, one for each stage")
        self.stages = nn.ModuleList(stages)
        self.out_channels = tuple(out_channels)

    def forward(self, images: Images) -> list[Float[Tensor, "batch _ _ _"]]:
        """The map after every stage."""
        maps: list[Tensor] = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def plain_stages(
    widths: Sequence[int] = (16, 32, 32),
    strides: Sequence[int] | None = None,
    convolutions: int = 1,
    bn_eps: float = 1e-3,
    bn_momentum: float = 0.05,
) -> StagedBackbone:
    """Small stages: convolutions of 3x3 with norm and ReLU, then a 3x3 pool.

    Args:
        widths: channels of every stage.
        strides: of every stage's pool; 2 each where None.
        convolutions: of every stage.

    Examples:
        >>> plain_stages((4, 8), strides=(2, 1))(torch.rand(1, 3, 20, 24))[-1].shape
        torch.Size([1, 8, 10, 12])
    """
    strides = (2,) * len(widths) if strides is None else strides
    if len(strides) != len(widths):
        raise InputError(f"strides: found {len(strides)}, expected {len(widths)}, one for each stage")
    stages = [
        nn.Sequential(
            *_convolutions([inputs, *[width] * convolutions], 1, bn_eps, bn_momentum), nn.MaxPool2d(3, stride, 1)
        )
        for inputs, width, stride in zip([3, *widths], widths, strides, strict=False)
    ]
    return StagedBackbone(stages, widths)


class SamePool(nn.MaxPool2d):
    """A pool that is padded as TensorFlow does: even sizes are padded at their end only.

    Examples:
        >>> SamePool(3, stride=2)(torch.arange(6.0).view(1, 1, 1, 6))
        tensor([[[[2., 4., 5.]]]])
    """

    def forward(self, maps: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel rows columns"]:
        size, stride = self.kernel_size, self.stride
        assert isinstance(size, int)
        assert isinstance(stride, int)
        missing = [max((math.ceil(n / stride) - 1) * stride + size - n, 0) for n in reversed(maps.shape[2:])]
        sides = [side for n in missing for side in (n // 2, n - n // 2)]
        return F.max_pool2d(F.pad(maps, sides, value=-math.inf), size, stride)


def deeplab_vgg16(
    pools: Literal["centred", "same"] = "centred", bn_eps: float = 1e-3, bn_momentum: float = 0.05
) -> StagedBackbone:
    """The convolutions of DeepLab-LargeFOV's VGG-16, each with a norm in place of its bias; five stages, stride 8.

    Args:
        pools: how the pools of the first three stages are padded: "centred" on both sides, as in DeepLab, or "same" as
            in TensorFlow, where the authors of NDDR-CNN trained. They differ for images whose sides are even.

    Examples:
        >>> deeplab_vgg16().out_channels
        (64, 128, 256, 512, 512)
    """
    halves: list[nn.Module] = [nn.MaxPool2d(3, 2, 1) if pools == "centred" else SamePool(3, 2) for _ in range(3)]
    # Padding is not counted, or the border would fade.
    ends: list[list[nn.Module]] = [
        *([half] for half in halves),
        [nn.MaxPool2d(3, 1, 1)],
        [nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)],
    ]
    widths = [[3, 64, 64], [64, 128, 128], [128, 256, 256, 256], [256, 512, 512, 512], [512, 512, 512, 512]]
    stages = [
        nn.Sequential(*_convolutions(each, dilation, bn_eps, bn_momentum), *end)
        for each, dilation, end in zip(widths, (1, 1, 1, 1, 2), ends, strict=True)
    ]
    return StagedBackbone(stages, [each[-1] for each in widths])


class LargeFOVHead(nn.Module):
    """fc6 to fc8 of DeepLab-LargeFOV as convolutions: a wide field of view by dilation, then logits or vectors.

    Args:
        channels: of fc6 and fc7.
        dropout: share of channels' activations that is set to 0 after each of them.

    Examples:
        >>> LargeFOVHead(8, 40, channels=16).eval()(torch.randn(1, 8, 5, 5)).shape
        torch.Size([1, 40, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: int = 1024,
        dilation: int = 12,
        dropout: float = 0.5,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.05,
    ) -> None:
        super().__init__()
        wide = nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.fc6 = nn.Sequential(wide, nn.BatchNorm2d(channels, bn_eps, bn_momentum), nn.ReLU(), nn.Dropout(dropout))
        narrow = nn.Conv2d(channels, channels, 1, bias=False)
        self.fc7 = nn.Sequential(narrow, nn.BatchNorm2d(channels, bn_eps, bn_momentum), nn.ReLU(), nn.Dropout(dropout))
        self.fc8 = nn.Conv2d(channels, out_channels, 1)

    def forward(self, features: Float[Tensor, "batch _ height width"]) -> Float[Tensor, "batch _ height width"]:
        return self.fc8(self.fc7(self.fc6(features)))


def published_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head of the authors' PyTorch code, numbered layers, as parameters of `LargeFOVHead`.

    Examples:
        >>> sorted(published_head({"0.weight": torch.zeros(1), "5.bias": torch.zeros(1), "8.bias": torch.zeros(1)}))
        ['fc6.0.weight', 'fc7.1.bias', 'fc8.bias']
    """
    places = {"0": "fc6.0", "1": "fc6.1", "4": "fc7.0", "5": "fc7.1", "8": "fc8"}
    numbered = ((key.partition("."), value) for key, value in state.items())
    return {f"{places[number]}.{rest}": value for (number, _, rest), value in numbered}


def timm_stages(name: str, pretrained: bool = False, **settings: Any) -> StagedBackbone:
    """A convolutional network of timm, cut after every part whose features timm gives out.

    These work: ResNet and its kin, RegNet, ConvNeXt, VGG, DenseNet, DLA, Inception, EfficientNet, MobileNet, GhostNet,
    MobileViT, PoolFormer, PVT and others that are a sequence of modules giving maps with channels first. Whether a
    network is one is tried out on an image of 96 pixels; refused are those with several branches between stages
    (HRNet, SelecSLS), with features caught inside (ViT, LeViT, Visformer, EfficientFormer, Xception), or of one fixed
    image size (Swin, MaxViT, CoAtNet).

    Args:
        settings: of `timm.create_model`, such as `output_stride=8` or `out_indices=(1, 2, 3, 4)`.

    Raises:
        InputError: timm has no such network, or it cannot be cut.

    Examples:
        >>> timm_stages("resnet18").out_channels
        (64, 64, 128, 256, 512)
    """
    import timm

    if not timm.is_model(name):
        raise InputError(f"backbone: found {name!r}, expected a name that timm.list_models() has")
    try:
        network: Any = timm.create_model(name, pretrained=pretrained, features_only=True, **settings)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise _cannot_cut(name, "gives no features of its stages") from error
    # A stage must not write into the map before it, which is the fusion's.
    for module in network.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    stages = StagedBackbone(_cut(name, network), network.feature_info.channels())
    _check_cut(name, network, stages)
    return stages


def _cut(name: str, network: Any) -> list[nn.Module]:
    children = dict(network.named_children())
    if hasattr(network, "return_layers"):
        ends = set(network.return_layers)
    elif isinstance(children.get("blocks"), nn.Sequential) and hasattr(network, "_stage_out_idx"):
        # MobileNets and EfficientNets: a stem, and blocks that are numbered from 1 on.
        blocks = children.pop("blocks")
        stem = list(children)[-1]
        ends = {f"blocks_{index - 1}" if index else stem for index in network._stage_out_idx}
        children |= {f"blocks_{index}": block for index, block in enumerate(blocks)}
    else:
        raise _cannot_cut(name, "has no sequence of stages")
    stages: list[nn.Module] = []
    since: list[nn.Module] = []
    for child, module in children.items():
        since.append(module)
        if child in ends:
            stages.append(nn.Sequential(*since))
            since = []
    return stages


def _check_cut(name: str, network: nn.Module, stages: StagedBackbone) -> None:
    """The stages one after the other give what the network gives."""
    ramp = torch.linspace(-1, 1, 3 * 96 * 96).view(1, 3, 96, 96)
    trained = network.training
    try:
        with torch.no_grad():
            whole = network.eval()(ramp)
            cut = [ramp]
            for stage in stages.eval().stages:
                cut.append(stage(cut[-1]))
    except Exception as error:  # any network of timm may be asked for; its own error says nothing of stages
        raise _cannot_cut(name, "does not run on a small image stage by stage") from error
    finally:
        stages.train(trained)
    expected = list(stages.out_channels)
    if [each.shape[1] if isinstance(each, Tensor) and each.ndim == 4 else 0 for each in cut[1:]] != expected:
        raise _cannot_cut(name, f"does not give maps of {expected} channels, channels first")
    if not all(torch.allclose(one, other) for one, other in zip(whole, cut[1:], strict=True)):
        raise _cannot_cut(name, "gives other features stage by stage")


def _cannot_cut(name: str, reason: str) -> InputError:
    return InputError(
        f"backbone: {name!r} {reason}, expected a sequence of stages such as resnet50, convnext_tiny, efficientnet_b0 "
        f"or vgg16_bn"
    )


def _convolutions(widths: Sequence[int], dilation: int, bn_eps: float, bn_momentum: float) -> list[nn.Module]:
    """Convolutions of 3x3 that keep the size, each with norm and ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs, bn_eps, bn_momentum), nn.ReLU()]
    return layers
