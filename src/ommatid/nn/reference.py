"""To find what a reference shows: its outlined features as one vector, compared with every place of an image.

Source: Ref-Net (arXiv:2108.01075), E2-E4 of docs/methods/ref-net.md.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Maps = Float[Tensor, "batch feature rows columns"]
Prototypes = Float[Tensor, "batch feature"]


def masked_average_pool(
    features: Float[Tensor, "batch shot feature rows columns"],
    masks: Float[Tensor, "batch shot 1 height width"],
    eps: float = 1e-6,
) -> Prototypes:
    """Mean of the features that masks show, over one reference or the mean over several (E2).

    Args:
        masks: of any size; each is brought to that of the features by averaging.

    Examples:
        >>> features = torch.tensor([[[[[1.0, 5.0]]]]])
        >>> round(float(masked_average_pool(features, torch.tensor([[[[[0.0, 1.0]]]]]))), 3)
        5.0
    """
    batch, shots = features.shape[:2]
    size = features.shape[3], features.shape[4]
    small = F.adaptive_avg_pool2d(masks.float().flatten(0, 1), size).unflatten(0, (batch, shots))
    pooled = (features.float() * small).sum(dim=(3, 4)) / (small.sum(dim=(3, 4)) + eps)
    return pooled.mean(dim=1).to(features.dtype)


def prototype_similarity(features: Maps, prototypes: Prototypes) -> Float[Tensor, "batch 1 rows columns"]:
    """Cosine of every place's features and the prototype, in [-1, 1] (E3).

    Examples:
        >>> prototype_similarity(torch.ones(1, 2, 1, 1), torch.tensor([[1.0, -1.0]])).flatten()
        tensor([0.])
    """
    return F.cosine_similarity(features.float(), prototypes.float()[..., None, None], dim=1)[:, None].to(features.dtype)


class ReferenceConditioning(nn.Module):
    """Between any encoder and decoder: features of an image, told what to look for (E2-E4).

    Args:
        channels: of the features, and of what comes out.

    Examples:
        >>> conditioning = ReferenceConditioning(8)
        >>> image, references = torch.rand(2, 8, 4, 4), torch.rand(2, 1, 8, 4, 4)
        >>> conditioning(image, references, torch.ones(2, 1, 1, 16, 16)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(2 * channels + 1, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(
        self,
        features: Maps,
        reference_features: Float[Tensor, "batch shot feature _ _"],
        reference_masks: Float[Tensor, "batch shot 1 _ _"],
    ) -> Maps:
        return self.told(features, masked_average_pool(reference_features, reference_masks))

    def told(self, features: Maps, prototypes: Prototypes) -> Maps:
        """The same where the prototypes are known already."""
        similarity = prototype_similarity(features, prototypes)
        tiled = prototypes[..., None, None].expand_as(features)
        return self.project(torch.cat([features, tiled, similarity], dim=1))
