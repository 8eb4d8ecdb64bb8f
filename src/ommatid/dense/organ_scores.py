"""How well organs are found, and how well a search ranks those that matter."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ommatid.dense.organ_maps import OrganNetworks, one_hot
from ommatid.dense.volume_data import VolumeData
from ommatid.dense.volume_views import volume_batch


@torch.no_grad()
def organ_dice(
    networks: OrganNetworks, data: VolumeData, split: str, patch: Sequence[int] | None = None
) -> Float[Tensor, "organ"]:
    """Dice of every organ, as a mean over the volumes that have it or in which it is found; NaN where none has."""
    organs = len(networks.order)
    device = next(networks.parameters()).device
    overlaps = []
    for sample in data.volumes(split).each():  # volumes may differ in size
        batch = volume_batch([sample])
        found = (networks(batch.images.to(device), patch)[0] > 0.5).flatten(1).cpu()
        truth = one_hot(batch.organs, organs)[0].bool().flatten(1)
        overlaps.append(2 * (found & truth).sum(dim=1) / (found.sum(dim=1) + truth.sum(dim=1)))
    return torch.stack(overlaps).nanmean(dim=0)


def rank_auc(scores: Float[Tensor, "organ"], defining: Sequence[int]) -> float:
    """How likely an organ that matters ranks above one that does not; ties count half.

    Args:
        defining: numbers of those that matter, from 1 on; some, but not all.

    Examples:
        >>> rank_auc(torch.tensor([3.0, -1.0, 2.0, -1.0]), (1, 2))
        0.625
    """
    matters = torch.zeros(len(scores), dtype=torch.bool)
    matters[[number - 1 for number in defining]] = True
    apart = scores[matters][:, None] - scores[~matters]
    return float((apart.sign() + 1).mean() / 2)
