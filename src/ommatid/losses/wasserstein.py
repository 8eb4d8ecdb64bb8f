"""Wasserstein losses of a critic and of a generator, and the penalty that keeps a critic's slope at one."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Scores = Float[Tensor, "*scores"]
Critic = Callable[..., Tensor]


def critic_loss(real_scores: Scores, fake_scores: Scores) -> Float[Tensor, ""]:
    """What a critic minimises: the mean score of fakes minus that of real samples (SA-GAN, arXiv:2108.07032, E8).

    Examples:
        >>> critic_loss(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 0.0]))
        tensor(-2.5000)
    """
    return fake_scores.float().mean() - real_scores.float().mean()


def generator_loss(fake_scores: Scores) -> Float[Tensor, ""]:
    """What a generator minimises: minus the mean score of its fakes (E13)."""
    return -fake_scores.float().mean()


def gradient_penalty(
    critic: Critic,
    real: Float[Tensor, "batch *feature"],
    fake: Float[Tensor, "batch *feature"],
    condition: Float[Tensor, "batch attribute"] | None = None,
    generator: torch.Generator | None = None,
    share: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared distance from 1 of the critic's slope, at random points between real and fake samples (E8, E10).

    The slope is that of the sum of a sample's scores along all of its features; a condition is given, and nothing moves
    between two of them.

    Args:
        critic: scores of features, one or many for each sample; under conditions where there are any.
        generator: of the points; torch's global one where None.
        share: of the real sample in every point; drawn uniformly where None.

    Examples:
        >>> weight = torch.tensor([0.6, 0.8])
        >>> points, told = torch.randn(5, 2), torch.randn(5, 3)
        >>> round(float(gradient_penalty(lambda x, a: x @ weight + a.sum(1), points, points + 1, told)), 4)
        0.0
        >>> round(float(gradient_penalty(lambda x: 3 * x @ weight, points, points + 1)), 4)
        4.0
    """
    if share is None:
        share = torch.rand(len(real), generator=generator, device=generator.device if generator else real.device)
    share = share.to(real.device, real.dtype).view(-1, *[1] * (real.ndim - 1))
    between = (share * real.detach() + (1 - share) * fake.detach()).requires_grad_()
    with torch.enable_grad():
        scores = critic(between) if condition is None else critic(between, condition)
        (slope,) = torch.autograd.grad(scores.float().sum(), between, create_graph=True)
    return (torch.linalg.vector_norm(slope.float().flatten(1), dim=1) - 1).square().mean()
