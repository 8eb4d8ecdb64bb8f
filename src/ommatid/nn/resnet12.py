"""The two networks of the few-shot literature, as maps of features: ResNet-12 and four plain convolutions."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError, unknown

Images = Float[Tensor, "batch channel height width"]
Maps = Float[Tensor, "batch feature rows columns"]


class ResNet12(nn.Module):
    """Four residual blocks of three convolutions, each halving the map: 84 x 84 pixels become 5 x 5 places.

    Args:
        channels: of the four blocks.

    Examples:
        >>> import torch
        >>> ResNet12((8, 16, 24, 32))(torch.zeros(2, 3, 84, 84)).shape
        torch.Size([2, 32, 5, 5])
    """

    def __init__(self, channels: Sequence[int] = (64, 160, 320, 640), in_channels: int = 3) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_Block(*widths) for widths in pairwise([in_channels, *channels])))
        self.out_channels = channels[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, images: Images) -> Maps:
        return self.blocks(images)


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (in_channels, out_channels, out_channels):
            layers += [nn.Conv2d(inputs, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)]
            layers.append(nn.LeakyReLU(0.1))
        self.residual = nn.Sequential(*layers[:-1])
        shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))
        self.end = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, features: Tensor) -> Tensor:
        return self.end(self.residual(features) + self.shortcut(features))


class Conv4(nn.Module):
    """Four times convolution, batch norm, ReLU and pooling by two.

    Examples:
        >>> import torch
        >>> Conv4()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 64, 2, 2])
    """

    def __init__(self, channels: Sequence[int] = (64, 64, 64, 64), in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([in_channels, *channels]):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers)
        self.out_channels = channels[-1]

    def forward(self, images: Images) -> Maps:
        return self.layers(images)


BACKBONES: dict[str, Callable[[], "ResNet12 | Conv4"]] = {
    "resnet12": ResNet12,
    "conv4": Conv4,
    "conv4-32": lambda: Conv4((32,) * 4),
}


def few_shot_backbone(name: str) -> "ResNet12 | Conv4":
    """A network from images to maps of features: "resnet12", "conv4" (64 channels) or "conv4-32".

    Raises:
        InputError: the name is not known.

    Examples:
        >>> few_shot_backbone("conv4-32").out_channels
        32
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    return BACKBONES[name]()


def published_backbone(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A released backbone's weights under our names, told by their order and shapes.

    Releases of few-shot code name the layers of one architecture in many ways but keep their order: the convolutions
    of a block with their norms, then its shortcut. What belongs to another part of a checkpoint (a head, a momentum
    copy, a queue) is left out: the first run of tensors with the shapes of `network` is taken.

    Raises:
        InputError: there is no such run of tensors.
    """
    ours = {name: value for name, value in network.state_dict().items() if not _counter(name)}
    theirs = {name: value for name, value in state.items() if value.ndim and not _copy(name)}
    wanted = [tuple(value.shape) for value in ours.values()]
    shapes = [tuple(value.shape) for value in theirs.values()]
    for start in range(len(shapes) - len(wanted) + 1):
        if shapes[start : start + len(wanted)] == wanted:
            chosen = list(theirs.values())[start : start + len(wanted)]
            counters = {name: value for name, value in network.state_dict().items() if _counter(name)}
            return {**counters, **dict(zip(ours, chosen, strict=True))}
    raise _other_network(theirs, list(zip(ours, wanted, strict=True)), type(network).__name__)


def _counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _copy(name: str) -> bool:
    """Of a momentum encoder, whose weights lag behind."""
    return any(word in name for word in ("encoder_k", "momentum", "_ema", "key_encoder"))


def _other_network(theirs: dict[str, Tensor], wanted: list[tuple[str, tuple[int, ...]]], network: str) -> InputError:
    for (name, value), (ours, shape) in zip(theirs.items(), wanted, strict=False):
        if tuple(value.shape) != shape:
            found = f"{name} of the shape {tuple(value.shape)} in the place of {ours}, expected {shape}"
            return InputError(f"released weights: found {found} as in the {network}")
    return InputError(f"released weights: found {len(theirs)} tensors, expected the {len(wanted)} of the {network}")
