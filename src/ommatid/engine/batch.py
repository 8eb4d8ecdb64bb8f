"""Typed batches: small dataclasses that move to a device as one."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from torch import Tensor

B = TypeVar("B", bound="Batch")


@dataclass
class Batch:
    """Base of every field's batch and prediction: a dataclass whose tensors (or dicts of them) share their first axis.

    A batch may also be made of batches, one of every stream; these can differ in length, and its own is the first's.

    Lightning moves anything with a `to` method, so a batch arrives on the right device by itself.

    Examples:
        >>> import torch
        >>> @dataclass
        ... class Pair(Batch):
        ...     left: Tensor
        ...     right: Tensor
        >>> pair = Pair(torch.zeros(4, 2), torch.ones(4))
        >>> len(pair), len(pair[:3])
        (4, 3)
    """

    def to(self: B, *args: Any, **kwargs: Any) -> B:
        return self._each(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self: B) -> B:
        return self._each(lambda tensor: tensor.pin_memory())

    def __getitem__(self: B, index: slice | Tensor) -> B:
        """The samples at `index`, a slice or an index tensor."""
        return self._each(lambda tensor: tensor[index])

    def __len__(self) -> int:
        return next(len(value) for value in vars(self).values() if isinstance(value, Tensor | Batch))

    def _each(self: B, function: Any) -> B:
        def apply(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: apply(item) for name, item in value.items()}
            if isinstance(value, Batch):
                return value._each(function)
            return function(value) if isinstance(value, Tensor) else value

        return replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields(self)})
