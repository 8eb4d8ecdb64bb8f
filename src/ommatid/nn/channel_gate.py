"""Gates that find out which channels a network needs (DeepStationing, arXiv:2109.09271, E5-E6)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.errors import InputError


class ChannelGate(nn.Module):
    """Maps times a gate for each channel, on or off, that gradients open and close (DeepStationing, E5-E6).

    A gate that only scales (`"softmax"`) hardly learns, since the next convolution undoes any scale. By default each
    volume of a batch therefore draws its gates, 0 or 1, and gradients go straight through to the probabilities. Draws
    are from torch's global generator. In evaluation nothing is drawn: a gate is what is likelier, or its probability.

    Args:
        channels: number of gates.
        mode: "gumbel" draws in training; "softmax" multiplies by the probability itself.
        start: logit of being on minus logit of being off before training.
        temperature: how soft the draw's gradient is; lower it during a search.

    Examples:
        >>> gate = ChannelGate(3, start=2.0).eval()
        >>> gate(torch.ones(1, 3, 2, 2))[0, :, 0, 0].tolist()
        [1.0, 1.0, 1.0]
        >>> _ = gate.logits.data[1].copy_(torch.tensor([-3.0, 3.0]))
        >>> gate(torch.ones(1, 3, 2, 2))[0, :, 0, 0].tolist(), gate.kept(2).tolist()
        ([1.0, 0.0, 1.0], [0, 2])
    """

    def __init__(
        self,
        channels: int,
        mode: Literal["gumbel", "softmax"] = "gumbel",
        start: float = 2.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise InputError(f"channels must be at least 1, found {channels}")
        if not temperature > 0:
            raise InputError(f"temperature must be above 0, found {temperature}")
        self.mode, self.temperature = mode, temperature
        self.logits = nn.Parameter(torch.tensor([start / 2, -start / 2]).repeat(channels, 1))
        """Of being on, and of being off."""

    def forward(self, maps: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch channel *space"]:
        gates = self.gates(len(maps)).to(maps.dtype)
        return maps * gates.view(*gates.shape, *[1] * (maps.ndim - 2))

    def gates(self, count: int) -> Float[Tensor, "{count} channel"]:
        """A gate for each channel of so many volumes."""
        if self.mode == "gumbel" and self.training:
            logits = self.logits.float().expand(count, *self.logits.shape)
            return F.gumbel_softmax(logits, tau=self.temperature, hard=True)[..., 0]
        probs = self.probs()
        return (probs if self.mode == "softmax" else (probs > 0.5).float()).expand(count, -1)

    def probs(self) -> Float[Tensor, "channel"]:
        """How likely each gate is on (E5)."""
        return self.logits.float().softmax(dim=-1)[:, 0]

    def differences(self) -> Float[Tensor, "channel"]:
        """Logit of being on minus logit of being off: what channels are ranked by."""
        on, off = self.logits.detach().float().unbind(dim=-1)
        return on - off

    def ranking(self) -> Int[Tensor, "channel"]:
        """Channels, the most needed first."""
        return self.differences().argsort(descending=True, stable=True)

    def kept(self, top: int | None = None) -> Int[Tensor, "kept"]:
        """The most needed channels in their own order; those that are on where `top` is None.

        Raises:
            InputError: there are fewer channels than are to be kept.
        """
        if top is None:
            return (self.differences() > 0).nonzero()[:, 0]
        if not 1 <= top <= len(self.logits):
            raise InputError(f"top must lie from 1 to {len(self.logits)}, the number of channels, found {top}")
        return self.ranking()[:top].sort().values
