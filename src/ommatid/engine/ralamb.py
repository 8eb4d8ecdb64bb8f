"""Rectified Adam with layer-wise trust ratios and a look-ahead: what Trans-Net and EVS-Net are trained with."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ommatid.errors import InputError


class Ralamb(Optimizer):
    """RAdam's step, scaled layer by layer, with slow weights behind it (Trans-Net, arXiv:2108.00379, E11-E13).

    The trust ratio is the norm of the weights, at most `trust_clip`, over that of the weights after the step: near 1 in
    practice, as in the optimiser of this name that is passed around, and unlike LAMB's.

    Args:
        lookahead_steps: steps after which slow weights follow (k).
        lookahead_share: how much of the way they follow (alpha); above 1 they overshoot. The authors' code has the two
            arguments swapped: 0.5 steps and a share of 6.

    Raises:
        InputError: a rate, a step or a share is not positive.

    Examples:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = Ralamb([weight], lr=0.1)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> bool((weight < 1).all())
        True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.0, 0.9),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lookahead_steps: float = 6,
        lookahead_share: float = 0.5,
        trust_clip: float = 10.0,
    ) -> None:
        positive = {"lr": lr, "lookahead_steps": lookahead_steps, "lookahead_share": lookahead_share}
        for name, value in positive.items():
            if value <= 0:
                raise InputError(f"{name} must be above 0, found {value}")
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "lookahead_steps": lookahead_steps,
            "lookahead_share": lookahead_share,
            "trust_clip": trust_clip,
        }
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._fast(parameter, group)
                    self._slow(parameter, group)
        return loss

    def _fast(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """E11, E12."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        assert parameter.grad is not None
        gradient = parameter.grad.float()
        if "step" not in state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(parameter, dtype=torch.float32)
            state["square"] = torch.zeros_like(parameter, dtype=torch.float32)
        state["step"] += 1
        state["mean"].mul_(beta1).add_(gradient, alpha=1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size, rectified = step_size(state["step"], beta1, beta2)
        direction = state["mean"] / (state["square"].sqrt() + group["eps"]) if rectified else state["mean"]
        weights = parameter.float()
        if group["weight_decay"]:
            weights = weights * (1 - group["lr"] * group["weight_decay"])
        moved = weights - group["lr"] * size * direction
        before, after = weights.norm().clamp(max=group["trust_clip"]), moved.norm()
        trust = torch.where((before == 0) | (after == 0), 1.0, before / after.clamp(min=1e-30))
        parameter.copy_(weights - group["lr"] * size * trust * direction)

    def _slow(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """E13: every so many steps, the slow weights go a part of the way, and the fast ones go back to them."""
        state = self.state[parameter]
        turn = state.get("turn", 0)
        if turn == 0:
            slow = state.setdefault("slow", parameter.detach().clone())
            slow.lerp_(parameter, group["lookahead_share"])
            parameter.copy_(slow)
        state["turn"] = 0 if turn + 1 >= group["lookahead_steps"] else turn + 1


def step_size(step: int, beta1: float, beta2: float) -> tuple[float, bool]:
    """Factor on the learning rate in so many steps, and whether the variance is known well enough to divide by (E11).

    Examples:
        >>> step_size(1, 0.0, 0.9)
        (1.0, False)
    """
    most = 2 / (1 - beta2) - 1
    faded = beta2**step
    length = most - 2 * step * faded / (1 - faded)
    if length < 5:
        return 1 / (1 - beta1**step), False
    ratio = (length - 4) * (length - 2) * most / ((most - 4) * length * (most - 2))
    return math.sqrt((1 - faded) * ratio) / (1 - beta1**step), True
