"""Clusters of sentences, and which of them a video shows (DSCNet, arXiv:2201.05307, E3, E8)."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.cluster import KMeans
from torch import Tensor

from ommatid.errors import InputError


def cluster_codes(
    codes: Float[Tensor, "sentence code"], clusters: int, seed: int = 0
) -> tuple[Float[Tensor, "cluster code"], Float[Tensor, "cluster"]]:
    """Unit centres of unit codes by k-means (ten starts), and the share of the codes in each (E3).

    Raises:
        InputError: fewer codes than clusters.
    """
    if len(codes) < clusters:
        raise InputError(f"clusters: found {clusters}, expected at most the number of training sentences, {len(codes)}")
    found = KMeans(clusters, n_init=10, random_state=seed).fit(codes.cpu().numpy())
    centres = torch.from_numpy(found.cluster_centers_.astype(np.float32))
    share = torch.from_numpy(np.bincount(found.labels_, minlength=clusters) / len(codes)).float()
    return torch.nn.functional.normalize(centres, dim=-1).to(codes.device), share.to(codes.device)


def balanced_pseudo_labels(
    scores: Float[Tensor, "video cluster"],
    marginal: Float[Tensor, "cluster"],
    rounds: int = 3,
    sharpness: float = 0.05,
    most: int = 3,
) -> Float[Tensor, "video cluster"]:
    """The clusters that each video most likely shows, so that all together are as frequent as their sentences (E8).

    Sinkhorn's alternating scaling of exp(scores / sharpness) to rows of equal mass and columns of `marginal`; each
    video keeps its `most` largest entries, scaled to add up to one.

    Examples:
        >>> scores = torch.tensor([[1.0, 0.9], [1.0, 0.2]])
        >>> balanced_pseudo_labels(scores, torch.tensor([0.5, 0.5]), rounds=20, most=1)
        tensor([[0., 1.],
                [1., 0.]])
    """
    plan = ((scores - scores.max()) / sharpness).double().exp().clamp(min=1e-30)
    for _ in range(rounds):
        # A cluster without sentences is an empty column from the first round on.
        plan = plan / plan.sum(dim=0, keepdim=True).clamp(min=1e-300) * marginal.double()
        plan = plan / plan.sum(dim=1, keepdim=True) / len(plan)
    return most_likely(plan, most).to(scores.dtype)


def most_likely(scores: Float[Tensor, "video cluster"], most: int) -> Float[Tensor, "video cluster"]:
    """Only the `most` largest entries of each row, scaled to add up to one; entries must not be negative."""
    best = scores.topk(min(most, scores.shape[1]), dim=1)
    kept = torch.zeros_like(scores).scatter(1, best.indices, best.values)
    return kept / kept.sum(dim=1, keepdim=True)


def mean_over_time(
    values: Float[Tensor, "batch time dim"], weight: Float[Tensor, "batch time"] | Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch dim"]:
    """Weighted mean over time."""
    return (values * weight[..., None]).sum(dim=1) / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)
