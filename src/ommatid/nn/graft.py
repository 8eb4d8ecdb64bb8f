"""Put a block into anybody's model: found by layer name, sized by one dry run, and taken out again."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ommatid.errors import InputError, unknown
from ommatid.nn.capture import Layer, capture, select

Block = Callable[..., nn.Module]
Layout = Literal["map", "channels last", "tokens"]
ON_MAPS = nn.Conv2d | nn.BatchNorm2d


@dataclass(frozen=True)
class Site:
    """Where a block goes: the layer, and what flows into it and out of it.

    Attributes:
        module: the layer.
        layout: of what the block reads: "map" (B, C, H, W), "channels last" (B, H, W, C) or "tokens" (B, N, C).
        prefix: tokens before those of the grid (class token, registers).
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    layout: Layout
    prefix: int

    @property
    def in_channels(self) -> int:
        return self.input_shape[1 if self.layout == "map" else -1]

    @property
    def out_channels(self) -> int:
        return self.output_shape[1 if self.layout == "map" else -1]

    @property
    def stride(self) -> int:
        """By how much the layer coarsens its input."""
        if self.layout == "tokens":
            return 1
        first = 2 if self.layout == "map" else 1
        return -(-self.input_shape[first] // self.output_shape[first])


def graft(
    model: nn.Module,
    block: Block,
    at: Iterable[Layer] | Layer,
    how: str = "after",
    example: Tensor | None = None,
    gated: bool = False,
    **settings: Any,
) -> dict[str, nn.Module]:
    """Put a block of its own at every chosen layer of a model; `ungraft` takes them out.

    A block says by the names of its arguments what it wants to know of its place: `channels` (or `dim`) of what it
    reads; `in_channels`, `out_channels`, `stride`, `kernel_size` and `groups` of the layer; `module`, the layer itself.
    Blocks on maps also work where a model has tokens or channels last: what they read and give is turned for them.
    Which of the two layouts of maps it is, their sides tell: they are to each other as those of the image.

    Args:
        block: a module class, or a function that makes a module.
        at: layers, name patterns such as `"layer3.*.conv1"`, types of layers, or a mixture.
        how: put it "before" or "after" the layer, let it "replace" the layer, or let it "wrap" the layer.
        example: what the model is run on once to see sizes (default: one image of the size that the model is for).
        gated: scale what the block changes by a learned number that begins at zero, so that the model is at first
            what it was; only before and after a layer.
        **settings: of the block.

    Returns:
        Name of the layer -> its new block, to be trained on its own or frozen.

    Raises:
        InputError: a layer is not found, grafted already or never run, the model does not run on the example, the
            example leaves open which sides are those of a map, a setting is unknown to the block, or the block changes
            the shape where it must not.

    Examples:
        >>> from ommatid.nn.multi_view_fusion import MultiViewFusion
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
        >>> clip = torch.randn(4, 3, 16, 16)
        >>> list(graft(model, MultiViewFusion, at="2", how="before", example=clip, clip_length=4, alpha=0.5))
        ['2']
        >>> model(clip).shape
        torch.Size([4, 2, 16, 16])
        >>> ungraft(model)
        >>> [type(layer).__name__ for layer in model]
        ['Conv2d', 'ReLU', 'Conv2d']
    """
    if how not in PLACES:
        raise unknown("how", how, PLACES)
    if gated and how not in ("before", "after"):
        raise InputError(f"gated: a block that does {how} a layer has no input to fall back on, expected gated=False")
    layers = select(model, at)
    for name, layer in layers.items():
        if isinstance(layer, Grafted) or any(isinstance(parent, Grafted) for parent in _parents(model, name)):
            raise InputError(f"at: {name} is grafted already, expected a layer of the model itself")
    example = _image(model) if example is None else example
    sites = _sites(model, layers, example)
    blocks = {name: _build(block, site, how, settings) for name, site in sites.items()}
    try:
        for name, site in sites.items():
            fitted = _turned(blocks[name], site, how)
            _replace(model, name, PLACES[how](site.module, Gated(fitted) if gated else fitted))
        _run(model, example)
    except Exception as error:
        # Not `ungraft`: what was grafted before stays.
        for name, site in sites.items():
            _replace(model, name, site.module)
        told = f"block: {_named(block)} does not fit {how} {', '.join(sites)}: {_said(error)}"
        raise InputError(told) from error
    return blocks


def ungraft(model: nn.Module) -> None:
    """Take all blocks out again: every layer is what it was, with the weights that it has by now."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Grafted):
            _replace(model, name, module.original)


class Grafted(nn.Module):
    """A layer together with a block, in the layer's place.

    What a model asks of the layer itself (its weight, its channels) is answered by the layer.
    """

    def __init__(self, layer: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        # In a list it is no part of this module: a layer that was replaced is neither trained nor saved.
        self._kept = [layer]
        if (example := next(layer.parameters(), None)) is not None:
            self.block.to(device=example.device, dtype=example.dtype if example.is_floating_point() else None)
        self.train(layer.training)

    @property
    def original(self) -> nn.Module:
        """The layer, where the new one is, and training where that is."""
        layer, example = self._kept[0], next(self.parameters(), None)
        if layer not in self.modules():
            layer.train(self.training)
        return layer if example is None else layer.to(example.device)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_kept" not in self.__dict__ or name.startswith("__"):
                raise
            return getattr(self._kept[0], name)


class Before(Grafted):
    """The block, then the layer."""

    def __init__(self, layer: nn.Module, block: nn.Module) -> None:
        super().__init__(layer, block)
        self.layer = layer

    def forward(self, first: Tensor, *others: Any, **named: Any) -> Any:
        return self.layer(self.block(first), *others, **named)


class After(Grafted):
    """The layer, then the block."""

    def __init__(self, layer: nn.Module, block: nn.Module) -> None:
        super().__init__(layer, block)
        self.layer = layer

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.block(self.layer(*inputs, **named))


class Instead(Grafted):
    """The block alone; it may hold the layer."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.block(*inputs, **named)


PLACES: dict[str, type[Grafted]] = {"before": Before, "after": After, "replace": Instead, "wrap": Instead}


class Gated(nn.Module):
    """What a block changes, times a learned number that begins at zero."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, value: Tensor) -> Tensor:
        return torch.lerp(value, self.block(value), self.gate)


class TokensAsMap(nn.Module):
    """Show a block on maps the tokens of a square grid; tokens before the grid pass by."""

    def __init__(self, block: nn.Module, prefix: int) -> None:
        super().__init__()
        self.block, self.prefix = block, prefix

    def forward(self, tokens: Tensor) -> Tensor:
        first, grid = tokens[:, : self.prefix], tokens[:, self.prefix :]
        side = round(grid.shape[1] ** 0.5)
        if side * side != grid.shape[1]:
            raise InputError(f"tokens: found {grid.shape[1]} in the grid, expected a square number")
        changed = self.block(grid.transpose(1, 2).unflatten(2, (side, side)))
        return torch.cat([first, changed.flatten(2).transpose(1, 2)], dim=1)


class ChannelsLastAsMap(nn.Module):
    """Show a block on maps (B, C, H, W) what a model keeps as (B, H, W, C)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, values: Tensor) -> Tensor:
        changed: Tensor = self.block(values.permute(0, 3, 1, 2))
        return changed.permute(0, 2, 3, 1)


# -- sizes -------------------------------------------------------------------------------------------------------------


def _sites(model: nn.Module, layers: dict[str, nn.Module], example: Tensor) -> dict[str, Site]:
    chosen = list(layers.values())
    with capture(model, chosen, "input") as inputs, capture(model, chosen) as outputs:
        try:
            _run(model, example)
        except Exception as error:
            told = f"example: found a tensor {tuple(example.shape)}, expected one that the model reads: {_said(error)}"
            raise InputError(told) from error
        shapes = {name: (_shape(inputs.get(name)), _shape(outputs.get(name))) for name in layers}
    # Sides of maps are to each other as those of the images; where the model reads none, they are mostly alike.
    height, width = _sides(example)
    sites = {}
    for name, (read, given) in shapes.items():
        if read is None or given is None:
            raise InputError(f"at: {name} did not read and give one tensor in the dry run, expected a layer that does")
        prefix = int(getattr(model, "num_prefix_tokens", 0))
        sites[name] = Site(layers[name], read, given, _layout(layers[name], read, given, height / width, name), prefix)
    return sites


def _sides(example: Tensor) -> tuple[int, int]:
    """Height and width of what a model reads; alike where it reads no images or maps."""
    if example.ndim < 4:
        return 1, 1
    if example.ndim == 4 and example.shape[1] == example.shape[2] != example.shape[3]:
        return example.shape[1], example.shape[2]
    return example.shape[-2], example.shape[-1]


def _run(model: nn.Module, example: Tensor) -> None:
    """Once in evaluation mode, leaving nothing behind."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            model(example)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _image(model: nn.Module) -> Tensor:
    """One image of the size that the model was made for, as far as it says so."""
    channels, height, width = getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))
    parameter = next(model.parameters(), torch.zeros(()))
    return torch.zeros(1, channels, height, width, device=parameter.device, dtype=parameter.dtype)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _layout(layer: nn.Module, read: tuple[int, ...], given: tuple[int, ...], ratio: float, name: str) -> Layout:
    """What a layer reads, in images whose height is `ratio` times the width."""
    if len(read) == 3 and len(given) == 3:
        return "tokens"
    if len(read) != 4 or len(given) != 4:
        raise InputError(f"at: {name} reads {read} and gives {given}, expected maps (B, C, H, W) or tokens (B, N, C)")
    if isinstance(layer, ON_MAPS):
        return "map"
    as_map, as_last = (abs(math.log(first / second / ratio)) for first, second in (read[2:], read[1:3]))
    either = math.isclose(as_map, as_last, abs_tol=1e-9)
    if either and not any(isinstance(each, ON_MAPS) for each in layer.modules()):
        raise InputError(
            f"at: {name} reads {read}, which may be (B, C, H, W) or (B, H, W, C), expected an example of another size"
        )
    return "map" if either or as_map < as_last else "channels last"


# -- building ----------------------------------------------------------------------------------------------------------


def _build(block: Block, site: Site, how: str, settings: dict[str, Any]) -> nn.Module:
    """The block, told of its place what its arguments ask for."""
    arguments = inspect.signature(block).parameters
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in arguments.values())
    strange = [name for name in settings if name not in arguments and not takes_all]
    if strange:
        raise InputError(f"{_named(block)} has no argument {strange[0]!r}, expected one of {', '.join(arguments)}")
    channels = site.out_channels if how == "after" else site.in_channels
    known: dict[str, Any] = {
        "channels": channels,
        "dim": channels,
        "in_channels": channels,
        "out_channels": channels if how in ("before", "after") else site.out_channels,
        "module": site.module,
    }
    if how == "replace":
        known |= {"stride": site.stride}
        for name in ("kernel_size", "groups"):
            if (value := getattr(site.module, name, None)) is not None:
                known[name] = value[0] if isinstance(value, tuple) else value
    told = {name: value for name, value in known.items() if name in arguments}
    return block(**{**told, **settings})


def _turned(block: nn.Module, site: Site, how: str) -> nn.Module:
    """The block as the model's layout needs it; one that holds the layer reads what the layer reads."""
    if how == "wrap":
        return block
    if site.layout == "tokens":
        return TokensAsMap(block, site.prefix)
    return ChannelsLastAsMap(block) if site.layout == "channels last" else block


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _parents(model: nn.Module, name: str) -> Iterator[nn.Module]:
    parts = name.split(".")
    for length in range(1, len(parts)):
        yield model.get_submodule(".".join(parts[:length]))


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _named(block: Block) -> str:
    return getattr(block, "__name__", type(block).__name__)
