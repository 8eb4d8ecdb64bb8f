"""A sample described by how near it is to each of the known classes."""

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "batch latent"]
Prototypes = Float[Tensor, "class latent"]


def prototype_affinity(
    latents: Latents, prototypes: Prototypes, temperature: float | Float[Tensor, ""] = 1.0
) -> Float[Tensor, "batch class"]:
    """Softmax over minus the mean squared distances to all prototypes (SA-GAN, arXiv:2108.07032, E9).

    Also a sample of a class without prototype has a description, by the classes that have one.

    Args:
        temperature: of the softmax, in units of a squared distance divided by the number of dimensions.

    Examples:
        >>> prototypes = torch.eye(2)
        >>> prototype_affinity(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), prototypes, temperature=0.1)
        tensor([[9.9995e-01, 4.5398e-05],
                [5.0000e-01, 5.0000e-01]])
    """
    return (-prototype_distances(latents, prototypes) / temperature).softmax(dim=1)


def affinity_temperature(latents: Latents, prototypes: Prototypes) -> Float[Tensor, ""]:
    """One third of the mean distance of samples to all prototypes, in the same units (T_s of E9)."""
    return prototype_distances(latents, prototypes).mean() / 3


def prototype_distances(latents: Latents, prototypes: Prototypes) -> Float[Tensor, "batch class"]:
    """Squared distances, divided by the number of dimensions."""
    dtype = torch.promote_types(latents.dtype, torch.float32)
    return torch.cdist(latents.to(dtype), prototypes.to(dtype)).square() / latents.shape[1]
