"""A memory of the most recent rows: features, keys, prototypes, and what belongs to each of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from ommatid.errors import InputError


class Rows(NamedTuple):
    """Some rows of a memory, and their fields by name."""

    values: Tensor
    fields: dict[str, Tensor]


class RingMemory(nn.Module):
    """The last `capacity` rows that were added; a newer row takes the place of the oldest.

    The rows are buffers: they move, are saved and are resumed with the module that holds them, bit for bit. How many
    rows were written is a Python integer (saved as extra state), so that adding never waits for the device.

    Args:
        shape: of one row; an integer is the length of a vector.
        fields: names and types of scalars kept with each row, such as `{"label": torch.long}`.

    Examples:
        >>> memory = RingMemory(capacity=4, shape=2, fields={"label": torch.long})
        >>> memory.add(torch.arange(12.0).reshape(6, 2), label=torch.arange(6))
        >>> len(memory)
        4
        >>> memory.all().fields["label"]
        tensor([2, 3, 4, 5])
        >>> values, fields = memory.sample(2, generator=torch.Generator().manual_seed(0))
        >>> values.shape
        torch.Size([2, 2])
    """

    values: Tensor

    def __init__(
        self,
        capacity: int,
        shape: int | tuple[int, ...],
        fields: Mapping[str, torch.dtype] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if capacity < 1:
            raise InputError(f"capacity: found {capacity}, expected at least one row")
        self.capacity = capacity
        self.fields = tuple(fields or ())
        self.register_buffer(
            "values", torch.zeros(capacity, *((shape,) if isinstance(shape, int) else shape), dtype=dtype)
        )
        for name, kind in (fields or {}).items():
            self.register_buffer(f"field_{name}", torch.zeros(capacity, dtype=kind))
        self._written = 0

    def __len__(self) -> int:
        return min(self._written, self.capacity)

    @torch.no_grad()
    def add(self, values: Shaped[Tensor, "row ..."], **fields: Shaped[Tensor, " row"]) -> None:
        """Append rows; of a batch larger than the memory the last rows stay.

        Raises:
            InputError: the rows have another shape, or the fields are not those of the memory.
        """
        self._check(values, fields)
        kept = min(len(values), self.capacity)
        self._written += len(values)
        slots = torch.arange(self._written - kept, self._written, device=self.values.device) % self.capacity
        for name, new in {"values": values, **{f"field_{name}": field for name, field in fields.items()}}.items():
            buffer = getattr(self, name)
            buffer[slots] = new[len(new) - kept :].to(buffer)

    def sample(self, k: int, generator: torch.Generator | None = None) -> Rows:
        """`k` different rows, or all of them in random order if there are fewer."""
        device = generator.device if generator else self.values.device
        return self._take(torch.randperm(len(self), generator=generator, device=device)[:k])

    def all(self) -> Rows:
        """A copy of every row, oldest first."""
        return self._take(torch.arange(self._written - len(self), self._written) % self.capacity)

    def clear(self) -> None:
        """Forget every row."""
        self._written = 0

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self._written)

    def set_extra_state(self, state: Any) -> None:
        self._written = int(state)

    def extra_repr(self) -> str:
        return f"capacity={self.capacity}, shape={tuple(self.values.shape[1:])}, fields={self.fields}, rows={len(self)}"

    def _take(self, slots: Tensor) -> Rows:
        slots = slots.to(self.values.device)
        return Rows(self.values[slots], {name: getattr(self, f"field_{name}")[slots] for name in self.fields})

    def _check(self, values: Tensor, fields: Mapping[str, Tensor]) -> None:
        if values.shape[1:] != self.values.shape[1:]:
            found, expected = tuple(values.shape[1:]), tuple(self.values.shape[1:])
            raise InputError(f"values: found rows of shape {found}, expected {expected} as in the memory")
        if set(fields) != set(self.fields):
            raise InputError(f"fields: found {sorted(fields)}, expected {sorted(self.fields)} as in the memory")
