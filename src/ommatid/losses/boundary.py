"""What a critic of boundaries minimises (Trans-Net, arXiv:2108.00379, E5; EVS-Net, arXiv:2108.00384, E5, E6)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.losses.wasserstein import gradient_penalty

Tuples = Float[Tensor, "batch stacked height width"]


def critic_loss_on_patches(
    critic: nn.Module,
    real: Tuples,
    fake: Tuples,
    pseudo: Float[Tensor, "wrong stacked height width"] | None = None,
    penalty: float = 10.0,
    share: Float[Tensor, " batch"] | None = None,
    negative_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Scores of real tuples up, those of fake and pseudo ones down, means over batch and patches, at a slope of one.

    Args:
        pseudo: cut-outs that are wrong on purpose; None where a critic sees none.
        penalty: weight of the slope's distance from one, between real and fake tuples.
        share: of real tuples in the points where the slope is taken; drawn where None.
        negative_weight: of the two terms that go down where there are both; 0.5 balances them against the real one.

    Examples:
        >>> critic = nn.Conv2d(9, 1, 1)
        >>> critic_loss_on_patches(critic, *torch.rand(3, 2, 9, 8, 8)).shape
        torch.Size([])
    """
    groups = [real, fake] if pseudo is None else [real, fake, pseudo]
    # One pass for all: small batches leave a device idle.
    scores = critic(torch.cat(groups)).float().flatten(1).mean(dim=1).split([len(group) for group in groups])
    means = torch.stack([each.mean() for each in scores])
    weight = negative_weight if pseudo is not None else 1.0
    return weight * means[1:].sum() - means[0] + penalty * gradient_penalty(critic, real, fake, share=share)
