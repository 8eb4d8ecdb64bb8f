"""How far a batch is from the data a network was trained on, judged by what its batch norms remember."""

from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ommatid.errors import InputError
from ommatid.nn.capture import Layer, capture, select


def statistic_distance(
    inputs: Float[Tensor, "batch channel *space"],
    running_mean: Float[Tensor, " channel"],
    running_var: Float[Tensor, " channel"],
) -> Float[Tensor, ""]:
    """Distance of a batch's mean and (biased) variance from stored ones: the sum of two L2 norms over channels.

    One term of CMI's E2 (arXiv:2105.08584); the norms are not squared.

    Examples:
        >>> statistic_distance(torch.zeros(2, 3, 4, 4), torch.zeros(3), torch.zeros(3))
        tensor(0.)
    """
    inputs = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    variance, mean = torch.var_mean(inputs, dim=[0, *range(2, inputs.ndim)], correction=0)
    return torch.linalg.vector_norm(variance - running_var) + torch.linalg.vector_norm(mean - running_mean)


class BatchNormStatistics:
    """Watches the inputs of a model's batch norms (CMI, arXiv:2105.08584): distance E2 and features E6.

    While entered, every forward replaces what was seen before: read `distance()` and `features()` between forwards. The
    model may be in eval mode and stays as it is; leaving removes all hooks and forgets the activations. The context can
    be entered again, also while it is entered.

    Args:
        layers: the batch norms to match (modules, name patterns or types); default: all of them.
        feature_layers: the layers whose inputs make the features; default: the same.

    Raises:
        InputError: the model has no batch norm with running statistics among the layers.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)).eval()
        >>> with BatchNormStatistics(model) as statistics:
        ...     _ = model(torch.zeros(2, 3, 8, 8))
        ...     statistics.features().shape
        torch.Size([2, 6])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[Layer] | Layer | None = None,
        feature_layers: Iterable[Layer] | Layer | None = None,
    ) -> None:
        self.model = model
        self.norms = {
            name: layer
            for name, layer in (dict(model.named_modules()) if layers is None else select(model, layers)).items()
            if isinstance(layer, _BatchNorm) and layer.track_running_stats
        }
        if not self.norms:
            raise InputError("model: found no batch norm with running statistics, expected at least one")
        self.feature_layers = self.norms if feature_layers is None else select(model, feature_layers)
        self._entered: list[tuple[ExitStack, dict[str, Any]]] = []

    def __enter__(self) -> "BatchNormStatistics":
        stack = ExitStack()
        watched = [*self.norms.values(), *self.feature_layers.values()]
        self._entered.append((stack, stack.enter_context(capture(self.model, watched, what="input"))))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.pop()[0].close()

    def distance(self) -> Float[Tensor, ""]:
        """E2: the distances of all watched batch norms, added up; differentiable in the model's input."""
        seen = self._seen()
        return torch.stack([statistic_distance(seen[name], *_stored(norm)) for name, norm in self.norms.items()]).sum()

    def features(self) -> Float[Tensor, "batch feature"]:
        """E6: the spatial means of every feature layer's input, side by side in the order of the model."""
        seen = self._seen()
        return torch.cat([reduce(seen[name], "b c ... -> b c", "mean") for name in self.feature_layers], dim=1)

    def _seen(self) -> dict[str, Any]:
        if not self._entered or not self._entered[-1][1]:
            raise RuntimeError("BatchNormStatistics has seen no forward: run the model inside the with block first")
        return self._entered[-1][1]


def _stored(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    return norm.get_buffer("running_mean"), norm.get_buffer("running_var")
