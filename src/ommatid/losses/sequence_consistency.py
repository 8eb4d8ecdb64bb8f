"""Two views of one video must see the same instants alike (ECRL, arXiv:2305.04123, E10-E15)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_SLIP = 1e-6


def sequence_consistency_loss(
    first: Float[Tensor, "batch one dim"],
    second: Float[Tensor, "batch two dim"],
    first_times: Float[Tensor, "batch one"],
    second_times: Float[Tensor, "batch two"],
    first_mask: Bool[Tensor, "batch one"],
    second_mask: Bool[Tensor, "batch two"],
    tau: float = 0.1,
    sigma: float = 0.05,
    first_weight: Float[Tensor, "batch one"] | None = None,
    second_weight: Float[Tensor, "batch two"] | None = None,
    as_released: bool = False,
) -> Float[Tensor, ""]:
    """Each step's similarity to the steps of the other view should fall off with distance in time, as a Gaussian does.

    For step i the softmax over the other view's steps is compared with exp(-(u_i - u_j)^2 / 2 sigma^2), normalised over
    j, by KL divergence; both directions, mean over steps. Steps without a time (NaN) and padded ones take no part.

    Args:
        first, second: normalised embeddings of the steps.
        first_times, second_times: where each step lies in the original video, in one unit for both.
        tau: temperature of the similarities.
        sigma: width of the Gaussian, in the unit of the times.
        first_weight, second_weight: of each step; ones where None.
        as_released: as the public code of its ancestor counts: masked pairs stay in the softmax with a weight of 1e-6,
            1e-6 is added to every probability, and both directions share one denominator over the whole batch.

    Examples:
        >>> codes, times = torch.eye(6)[None], torch.linspace(0, 1, 6)[None]
        >>> mask = torch.ones(1, 6, dtype=torch.bool)
        >>> alike = sequence_consistency_loss(codes, codes, times, times, mask, mask, sigma=0.02)
        >>> shifted = sequence_consistency_loss(codes, codes.roll(1, 1), times, times, mask, mask, sigma=0.02)
        >>> bool(alike < 0.01 < shifted)
        True
    """
    first_mask, second_mask = first_mask & first_times.isfinite(), second_mask & second_times.isfinite()
    distance = first_times.nan_to_num()[:, :, None] - second_times.nan_to_num()[:, None]
    pairs = first_mask[:, :, None] & second_mask[:, None]
    similarity = first.float() @ second.float().transpose(1, 2) / tau
    closeness = (-(distance**2) / (2 * sigma**2)).float()
    there = _divergence(similarity, closeness, pairs, as_released)
    back = _divergence(similarity.transpose(1, 2), closeness.transpose(1, 2), pairs.transpose(1, 2), as_released)
    there = there if first_weight is None else there * first_weight
    back = back if second_weight is None else back * second_weight
    if as_released:
        return (there.sum() + back.sum()) / (first_mask.sum() + second_mask.sum())
    steps = first_mask.sum(dim=1).clamp(min=1), second_mask.sum(dim=1).clamp(min=1)
    return (there.sum(dim=1) / steps[0] + back.sum(dim=1) / steps[1]).mean() / 2


def gaussian_prior(
    closeness: Float[Tensor, "batch one two"], pairs: Bool[Tensor, "batch one two"]
) -> Float[Tensor, "batch one two"]:
    """Normalised weights of the other view's steps (E12); all 0 where a step has no pair.

    Args:
        closeness: logarithms of the weights.
    """
    return closeness.masked_fill(~pairs, float("-inf")).softmax(dim=2).nan_to_num(0.0)


def _divergence(
    similarity: Float[Tensor, "batch one two"],
    closeness: Float[Tensor, "batch one two"],
    pairs: Bool[Tensor, "batch one two"],
    as_released: bool,
) -> Float[Tensor, "batch one"]:
    """KL of every step's similarities from its prior (E13)."""
    prior = gaussian_prior(closeness, pairs)
    if as_released:
        weight = torch.where(pairs, 1.0, _SLIP)
        log_share = ((similarity + weight.log()).softmax(dim=2) + _SLIP).log()
    else:
        log_share = similarity.masked_fill(~pairs, -1e4).log_softmax(dim=2)
    return (torch.xlogy(prior, prior) - prior * log_share).sum(dim=2)
