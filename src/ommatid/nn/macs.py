"""What a network costs: multiply-adds of one forward pass, and parameters."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Shape = Sequence[int]


def count_macs(model: nn.Module, *inputs: Any) -> int:
    """Multiply-adds of ``model(*inputs)``: convolutions, matrix products and both products of attention.

    Norms, activations and other work per element are not counted, as in the tables of papers. The whole batch is
    counted: give one image for the cost of an image. The pass runs without gradients and in evaluation mode; afterwards
    the model is as it was. A model and inputs on the meta device (``with torch.device("meta"):``) cost no computation.

    Args:
        model: any module; compiled code and kernels of one's own are counted only where torch has a formula for them.
        inputs: what the model is called with.

    Examples:
        >>> count_macs(nn.Linear(4, 5), torch.zeros(1, 4))
        20
        >>> count_macs(nn.Conv2d(8, 8, 3, padding=1, groups=4), torch.zeros(1, 8, 10, 10))
        14400
    """
    training = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False, custom_mapping=_MORE_FORMULAS)
    model.eval()
    try:
        with torch.no_grad(), _no_opaque_attention(), counter:
            model(*inputs)
    finally:
        for module, mode in training.items():
            module.training = mode
    return counter.get_total_flops() // 2


def count_parameters(model: nn.Module) -> int:
    """Numbers in all parameters, learned or frozen; shared ones once, buffers not at all.

    Examples:
        >>> count_parameters(nn.Linear(4, 5))
        25
    """
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def _no_opaque_attention() -> Iterator[None]:
    """In evaluation mode torch's own attention layers run as one operation whose products no counter sees."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _by_shapes(operands: int, macs: Callable[..., int]) -> Callable[..., int]:
    """A formula as torch's counter calls it: with every argument, tensors by their shapes, and in operations."""
    return lambda *shapes, **_: 2 * macs(*shapes[:operands])


def _bilinear(first: Shape, weight: Shape, second: Shape) -> int:
    return prod(first[:-1]) * prod(weight)


def _attention(query: Shape, key: Shape, value: Shape) -> int:
    return sdpa_flop_count(query, key, value) // 2


def _recurrent_layer(steps: Shape, input_weight: Shape, hidden_weight: Shape) -> int:
    return prod(steps[:-1]) * (prod(input_weight) + prod(hidden_weight))


def _recurrent_stack(steps: Shape, weights: Sequence[Shape]) -> int:
    return prod(steps[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


_aten = torch.ops.aten
# An operation that torch has no formula for would count as nothing.
_MORE_FORMULAS = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _by_shapes(3, _attention),
    _aten._scaled_dot_product_fused_attention_overrideable: _by_shapes(3, _attention),
    _aten.mv: _by_shapes(1, prod),
    _aten.addmv: _by_shapes(2, lambda added, matrix: prod(matrix)),
    _aten.dot: _by_shapes(1, prod),
    _aten.addbmm: _by_shapes(3, lambda added, first, second: prod(first) * second[-1]),
    _aten._trilinear: _by_shapes(3, _bilinear),
    _aten.mkldnn_rnn_layer: _by_shapes(3, _recurrent_layer),
    _aten._cudnn_rnn: _by_shapes(2, _recurrent_stack),
}
