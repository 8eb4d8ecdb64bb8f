"""A generator of features from a description and noise, and a critic of features beside their description."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FeatureGenerator(nn.Module):
    """Features from a condition and noise by two linear layers (f-CLSWGAN's; SA-GAN, arXiv:2108.07032, E7).

    Args:
        final: "relu" for features that are never negative, such as pooled activations; "linear" for any others.

    Examples:
        >>> generator = FeatureGenerator(condition_dim=3, feature_dim=8, hidden_dim=16)
        >>> generator(torch.rand(5, 3)).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        condition_dim: int,
        feature_dim: int,
        hidden_dim: int = 4096,
        noise_dim: int | None = None,
        final: Literal["linear", "relu"] = "linear",
    ) -> None:
        super().__init__()
        self.noise_dim = condition_dim if noise_dim is None else noise_dim
        self.layers = nn.Sequential(
            nn.Linear(condition_dim + self.noise_dim, hidden_dim),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden_dim, feature_dim),
            nn.ReLU() if final == "relu" else nn.Identity(),
        )
        self.apply(_start_small)

    def forward(
        self, condition: Float[Tensor, "batch condition"], noise: Float[Tensor, "batch noise"] | None = None
    ) -> Float[Tensor, "batch feature"]:
        """
        Args:
            noise: standard normal numbers; drawn from torch's global generator where None.
        """
        if noise is None:
            noise = torch.randn(len(condition), self.noise_dim, device=condition.device, dtype=condition.dtype)
        return self.layers(torch.cat([condition, noise], dim=1))


class FeatureCritic(nn.Module):
    """A number for every feature vector beside its condition, without bound (SA-GAN, arXiv:2108.07032, E8, E10).

    Examples:
        >>> FeatureCritic(8, 3, hidden_dim=16)(torch.rand(5, 8), torch.rand(5, 3)).shape
        torch.Size([5])
    """

    def __init__(self, feature_dim: int, condition_dim: int, hidden_dim: int = 4096) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(feature_dim + condition_dim, hidden_dim),
            nn.LeakyReLU(0.2),
            # Only differences of scores count: a bias would never get a gradient.
            nn.Linear(hidden_dim, 1, bias=False),
        )
        self.apply(_start_small)

    def forward(
        self, features: Float[Tensor, "batch feature"], condition: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, " batch"]:
        return self.layers(torch.cat([features, condition], dim=1))[:, 0]


@torch.no_grad()
def _start_small(module: nn.Module) -> None:
    """Weights from N(0, 0.02), as networks of this family begin."""
    if isinstance(module, nn.Linear):
        module.weight.normal_(0.0, 0.02)
        if module.bias is not None:
            module.bias.zero_()
