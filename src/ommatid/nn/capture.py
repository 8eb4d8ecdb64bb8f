"""Read what flows through the layers of anybody's model, and leave no trace."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

from torch import nn

from ommatid.errors import InputError, unknown

Layer = str | nn.Module | type[nn.Module]


@contextmanager
def capture(
    model: nn.Module, layers: Iterable[Layer] | Layer, what: Literal["input", "output"] = "output"
) -> Iterator[dict[str, Any]]:
    """Collect the inputs or outputs of some layers while the model runs, by layer name.

    Each forward overwrites what the last one left (`acts.clear()` forgets it earlier). On exit the hooks are removed
    and the dictionary is emptied, so that no activation, and no graph behind it, outlives the block by accident.

    Args:
        layers: modules of the model, name patterns such as `"layer3.*"`, module types, or a mixture of them.
        what: the first argument a layer is called with, or what it returns.

    Raises:
        InputError: a layer is not part of the model, or a pattern matches no layer.

    Examples:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with capture(model, nn.Linear, what="input") as acts:
        ...     _ = model(torch.zeros(5, 4))
        ...     {name: tuple(value.shape) for name, value in acts.items()}
        {'0': (5, 4), '2': (5, 3)}
        >>> acts
        {}
    """
    acts: dict[str, Any] = {}
    handles = [_attach(layer, what, partial(acts.__setitem__, name)) for name, layer in select(model, layers).items()]
    try:
        yield acts
    finally:
        for handle in handles:
            handle.remove()
        acts.clear()


def select(model: nn.Module, layers: Iterable[Layer] | Layer) -> dict[str, nn.Module]:
    """The layers that modules, name patterns or module types stand for, in the order of the model.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(select(model, [nn.ReLU, "2"]))
        ['1', '2']
    """
    wanted = [layers] if isinstance(layers, str | nn.Module | type) else list(layers)
    modules = dict(model.named_modules())
    chosen = {name for layer in wanted for name in _names(modules, layer)}
    return {name: module for name, module in modules.items() if name in chosen}


def _names(modules: dict[str, nn.Module], layer: Layer) -> list[str]:
    if isinstance(layer, str):
        names = [name for name in modules if name and fnmatchcase(name, layer)]
        if not names:
            raise unknown("layer", layer, filter(None, modules))
        return names
    if isinstance(layer, type):
        names = [name for name, module in modules.items() if isinstance(module, layer)]
        if not names:
            raise InputError(f"layers: the model has no {layer.__name__}, expected a type of layer that it has")
        return names
    names = [name for name, module in modules.items() if module is layer]
    if not names:
        raise InputError(f"layers: found a {type(layer).__name__} that is not part of the model")
    return names


def _attach(layer: nn.Module, what: str, keep: Any) -> Any:
    if what == "output":
        return layer.register_forward_hook(lambda module, args, output: keep(output))
    return layer.register_forward_pre_hook(
        lambda module, args, kwargs: keep(args[0] if args else next(iter(kwargs.values()))), with_kwargs=True
    )
