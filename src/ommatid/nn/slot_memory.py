"""Persistent slot memories: content-addressed reading, erase-and-add writing."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

Tokens = Float[Tensor, "batch token dim"]


class SlotMemory(nn.Module):
    """A memory that outlives the batch: tokens read from it by content, and write into it while training.

    MGSL-Net (arXiv:2201.00454), E9-E14. The slots are a buffer, not a parameter: the optimiser never moves them, the
    write does. Gradients flow through one write and the read that follows it, not further back. In evaluation the
    memory is frozen.

    Args:
        dim: width of tokens and slots.
        slots: number of slots.
        tau: temperature of reading and writing addresses.
        write: "sequential" writes one token after the other (E13); "batched" writes all of them at once (E14).
        eta: how fast a slot saturates in the batched write.

    Examples:
        >>> memory = SlotMemory(dim=8, slots=4)
        >>> tokens, mask = torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)
        >>> memory(tokens, mask, tokens, mask).shape
        torch.Size([2, 3, 8])
    """

    memory: Tensor

    def __init__(
        self,
        dim: int,
        slots: int,
        tau: float = 0.1,
        write: Literal["sequential", "batched"] = "batched",
        eta: float = 0.5,
        key_bias: bool = True,
    ) -> None:
        super().__init__()
        self.tau, self.eta = tau, eta
        self._written = {"sequential": self._write_in_turn, "batched": self._write_at_once}[write]
        self.reader = SlotReader(dim, tau, key_bias)
        self.write_key = nn.Linear(dim, dim, bias=key_bias)
        self.erase = nn.Linear(dim, dim)
        self.add = nn.Linear(dim, dim)
        self.register_buffer("memory", torch.empty(slots, dim))
        self.reset()

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Forget everything: slots are drawn anew from N(0, 0.5^2)."""
        self.memory.normal_(0, 0.5, generator=generator)

    def forward(
        self,
        tokens: Tokens,
        mask: Bool[Tensor, "batch token"],
        written: Float[Tensor, "batch written dim"] | None = None,
        written_mask: Bool[Tensor, "batch written"] | None = None,
    ) -> Tokens:
        """Tokens enriched by what they read; in training, `written` enters the memory first."""
        memory = self.memory
        if self.training and written is not None and written_mask is not None:
            memory = self.write(written, written_mask)
        return self.reader(tokens, memory)[0] * mask[..., None]

    def read(
        self, tokens: Tokens, mask: Bool[Tensor, "batch token"]
    ) -> tuple[Tokens, Float[Tensor, "batch token slot"]]:
        """Enriched tokens and the reading addresses (E9), from the stored memory."""
        enriched, address = self.reader(tokens, self.memory)
        return enriched * mask[..., None], address

    def write(self, tokens: Tokens, mask: Bool[Tensor, "batch token"]) -> Float[Tensor, "slot dim"]:
        """Write the valid tokens and store the new memory; it is returned with its gradient."""
        # Slots accumulate over thousands of small writes, which half precision would swallow.
        with torch.autocast(tokens.device.type, enabled=False):
            memory = self._written(tokens.float(), mask)
        with torch.no_grad():
            self.memory.copy_(memory)
        return memory

    def _write_at_once(self, tokens: Tokens, mask: Bool[Tensor, "batch token"]) -> Float[Tensor, "slot dim"]:
        memory = self.memory.clone()  # the backward pass needs the old slots after the buffer has moved on
        # Masked tokens weigh zero instead of being cut out: shapes stay those of the batch, and nothing waits for a
        # count.
        address = write_address(self.write_key(tokens), memory, self.tau)[1] * mask[..., None]
        weight = address.flatten(0, 1)
        total = weight.sum(dim=0)
        share = weight / total.clamp(min=1e-8)
        gate = -torch.expm1(-total * self.eta)[:, None]
        erase = share.T @ self.erase(tokens).sigmoid().flatten(0, 1)
        add = share.T @ self.add(tokens).flatten(0, 1)
        return memory * (1 - gate * erase) + gate * add

    def _write_in_turn(self, tokens: Tokens, mask: Bool[Tensor, "batch token"]) -> Float[Tensor, "slot dim"]:
        return self.trace(tokens[mask])[2][-1] if mask.any() else self.memory.clone()

    def trace(
        self, tokens: Float[Tensor, "token dim"]
    ) -> tuple[Float[Tensor, "token slot"], Float[Tensor, "token slot"], Float[Tensor, "token slot dim"]]:
        """Similarities, write weights and the memory after each of the tokens, written in turn (E10-E13)."""
        memory = self.memory.clone()
        keys, erase, add = self.write_key(tokens), self.erase(tokens).sigmoid(), self.add(tokens)
        similarities, weights, states = [], [], []
        # One token after the other, because each is addressed by the memory that its predecessors left.
        for key, forget, content in zip(keys, erase, add, strict=True):
            similarity, weight = write_address(key, memory, self.tau)
            memory = memory * (1 - weight[:, None] * forget) + weight[:, None] * content
            similarities.append(similarity)
            weights.append(weight)
            states.append(memory)
        return torch.stack(similarities), torch.stack(weights), torch.stack(states)


class SlotReader(nn.Module):
    """Tokens read slots by the cosine of a key, and add a projection of what they read (E9)."""

    def __init__(self, dim: int, tau: float, key_bias: bool = True) -> None:
        super().__init__()
        self.tau = tau
        self.key = nn.Linear(dim, dim, bias=key_bias)
        self.out = nn.Linear(2 * dim, dim)

    def forward(
        self, tokens: Tokens, memory: Float[Tensor, "slot dim"]
    ) -> tuple[Tokens, Float[Tensor, "batch token slot"]]:
        similarity = F.normalize(self.key(tokens), dim=-1) @ F.normalize(memory.to(tokens.dtype), dim=-1).T
        address = (similarity / self.tau).softmax(dim=-1)
        recalled = address @ memory.to(address.dtype)
        return tokens + self.out(torch.cat([tokens, recalled], dim=-1)), address


class ParameterMemory(nn.Module):
    """The same reading from slots that are ordinary parameters: nothing is ever written, the optimiser moves them."""

    def __init__(self, dim: int, slots: int, tau: float = 0.1) -> None:
        super().__init__()
        self.reader = SlotReader(dim, tau)
        self.memory = nn.Parameter(torch.empty(slots, dim).normal_(0, 0.5))

    def forward(self, tokens: Tokens, mask: Bool[Tensor, "batch token"], *_: Tensor) -> Tokens:
        return self.reader(tokens, self.memory)[0] * mask[..., None]


class FrozenMemory(nn.Module):
    """The same reading from random slots that never change."""

    memory: Tensor

    def __init__(self, dim: int, slots: int, tau: float = 0.1) -> None:
        super().__init__()
        self.reader = SlotReader(dim, tau)
        self.register_buffer("memory", torch.empty(slots, dim).normal_(0, 0.5))

    def forward(self, tokens: Tokens, mask: Bool[Tensor, "batch token"], *_: Tensor) -> Tokens:
        return self.reader(tokens, self.memory)[0] * mask[..., None]


class ResidualMLP(nn.Module):
    """No memory: x + MLP([x; W x]) with as many parameters as a `SlotMemory` of this width has."""

    def __init__(self, dim: int, slots: int = 0, tau: float = 0.1) -> None:
        super().__init__()
        # A SlotMemory has 6 dim^2 + 5 dim parameters; this one dim^2 + dim + 3 dim h + h + dim.
        hidden = round((5 * dim**2 + 3 * dim) / (3 * dim + 1))
        self.project = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(2 * dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, tokens: Tokens, mask: Bool[Tensor, "batch token"], *_: Tensor) -> Tokens:
        return (tokens + self.mlp(torch.cat([tokens, self.project(tokens)], dim=-1))) * mask[..., None]


def write_address(
    key: Float[Tensor, "*token dim"], memory: Float[Tensor, "slot dim"], tau: float
) -> tuple[Float[Tensor, "*token slot"], Float[Tensor, "*token slot"]]:
    """Cosine of each key with each slot (E10) and the softmax over slots (E11)."""
    similarity = F.normalize(key, dim=-1) @ F.normalize(memory, dim=-1).T
    return similarity, (similarity / tau).softmax(dim=-1)
