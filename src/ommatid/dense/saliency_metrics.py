"""How well a saliency map tells where people look (Wild360's protocol, PAVER, arXiv:2209.08956, E15-E17).

Maps come as (map, height, width), and every measure as one number a map. A map that is the same everywhere says
nothing: its correlation is 0, its area under the curve 0.5, and no measure is NaN. A prediction that is not finite
everywhere is worse than that, see `saliency_metrics`. All is computed in double precision on the CPU.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.errors import unknown

Maps = Float[Tensor, "map height width"]
Fixations = Bool[Tensor, "map height width"]
Values = Float[Tensor, "map"]
Weights = Float[Tensor, "height width"]

MEASURES = ("cc", "sim", "auc_judd", "auc_borji", "nss", "kld")
JITTER = 1e-7
"""Standard deviation of the noise that breaks ties."""
KLD_EPS = 1e-7
WORST = {"cc": -1.0, "sim": 0.0, "auc_judd": 0.0, "auc_borji": 0.0, "kld": -math.log(KLD_EPS)}
"""Ends of the ranges of the measures; that of NSS depends on the number of fixations."""
_EPS = 1e-12


def saliency_metrics(
    predicted: Maps,
    density: Maps,
    which: Sequence[str] = MEASURES,
    sphere_weighted: bool = False,
    seed: int = 0,
) -> dict[str, Values]:
    """Every measure of every map; the worst there is of a prediction that holds NaN or infinity.

    Args:
        predicted: any values, the higher the more salient.
        density: of fixations; fixations themselves are its peaks, see `fixations_from_density`.
        which: "cc" (E15), "sim" (E16), "auc_judd" (E17), "auc_borji", "nss" and "kld".
        sphere_weighted: pixels count by the cosine of their latitude, as large as they are on the sphere; published
            protocols do without.
        seed: of the noise that breaks ties for "auc_judd", and of the pixels that "auc_borji" draws.

    Raises:
        InputError: a measure is unknown.

    Examples:
        >>> map = torch.linspace(0, 1, 8 * 16).view(1, 8, 16) ** 8
        >>> {name: round(value.item(), 2) for name, value in saliency_metrics(map, map, ("cc", "sim")).items()}
        {'cc': 1.0, 'sim': 1.0}
    """
    for name in which:
        if name not in MEASURES:
            raise unknown("saliency measure", name, MEASURES)
    weights = latitude_weights(*predicted.shape[1:]) if sphere_weighted else None
    fixations = fixations_from_density(density)
    finite = predicted.isfinite().flatten(1).all(dim=1)
    # No map has less NSS than one that is low at the fixations and high everywhere else.
    predicted = torch.where(finite[:, None, None], predicted, (~fixations).to(predicted))

    def noise() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    measures = {
        "cc": lambda: correlation(predicted, density, weights),
        "sim": lambda: similarity(predicted, density, weights),
        "kld": lambda: kl_divergence(predicted, density, weights),
        "nss": lambda: normalised_scanpath_saliency(predicted, fixations, weights),
        "auc_judd": lambda: auc_judd(predicted, fixations, weights, noise()),
        "auc_borji": lambda: auc_borji(predicted, fixations, weights, noise()),
    }
    found = {name: measures[name]() for name in which}
    return {
        name: values.where(finite.cpu(), WORST[name]) if name in WORST else values for name, values in found.items()
    }


def video_means(values: Values, videos: Int[Tensor, "map"]) -> Float[Tensor, "video"]:
    """Mean over the frames of each video, in the order of the videos' numbers; a score of a split is the mean of these.

    Examples:
        >>> video_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([7, 7, 2]))
        tensor([5., 2.])
    """
    _, place, frames = videos.unique(return_inverse=True, return_counts=True)
    return values.new_zeros(len(frames)).index_add(0, place, values) / frames


def latitude_weights(height: int, width: int) -> Weights:
    """Cosine of the latitude at the middle of every pixel of an equirectangular map.

    Examples:
        >>> latitude_weights(3, 1).flatten()
        tensor([0.5000, 1.0000, 0.5000])
    """
    latitude = ((torch.arange(height) + 0.5) / height - 0.5) * math.pi
    return latitude.cos()[:, None].expand(height, width)


def fixations_from_density(density: Maps, deviations: float = 2.0) -> Fixations:
    """Pixels that lie so many standard deviations above the mean of their map (E17).

    Examples:
        >>> int(fixations_from_density(torch.eye(8)[None]).sum())
        8
    """
    flat = _flat(density)
    bound = flat.mean(dim=1) + deviations * flat.std(dim=1, correction=0)
    return (flat > bound[:, None]).view(density.shape)


def correlation(predicted: Maps, density: Maps, weights: Weights | None = None) -> Values:
    """Pearson's correlation over the pixels (CC, E15); 0 where a map is constant.

    Examples:
        >>> map = torch.rand(1, 4, 8)
        >>> round(correlation(map, 3 - 2 * map).item(), 4), correlation(map, torch.ones(1, 4, 8)).item()
        (-1.0, 0.0)
    """
    share = _share(predicted, weights)
    first, second = _standardised(predicted, share), _standardised(density, share)
    return (first * second * share).sum(dim=1).float()


def similarity(predicted: Maps, density: Maps, weights: Weights | None = None) -> Values:
    """What two maps have in common, once each is scaled from 0 on and to a sum of 1 (SIM, E16); a constant map lies
    evenly everywhere.

    Examples:
        >>> left, right = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
        >>> similarity(left, right).item(), similarity(left, left).item()
        (0.0, 1.0)
    """
    share = _share(predicted, weights)
    first, second = (_distribution(_stretched(maps), share) for maps in (predicted, density))
    return torch.minimum(first, second).sum(dim=1).float()


def kl_divergence(predicted: Maps, density: Maps, weights: Weights | None = None, eps: float = KLD_EPS) -> Values:
    """How badly the prediction explains the density, both with a sum of 1: sum of G log(eps + G / (P + eps)) (KLD).

    Maps that hold negative values are shifted to start at 0.

    Examples:
        >>> map = torch.rand(1, 4, 8)
        >>> bool(kl_divergence(map, map).abs() < 1e-4 < kl_divergence(1 - map, map))
        True
    """
    share = _share(predicted, weights)
    first, second = (_distribution(_not_negative(maps), share) for maps in (predicted, density))
    return (second * (second / (first + eps) + eps).log()).sum(dim=1).float()


def normalised_scanpath_saliency(predicted: Maps, fixations: Fixations, weights: Weights | None = None) -> Values:
    """Mean of the standardised prediction at the fixations (NSS); 0 for a constant map, and without fixations.

    Examples:
        >>> map = torch.tensor([[[0.0, 0.0, 0.0, 2.0]]])
        >>> round(normalised_scanpath_saliency(map, map > 1).item(), 4)
        1.7321
    """
    share = _share(predicted, weights)
    fixated = share * fixations.cpu().flatten(1)
    return ((_standardised(predicted, share) * fixated).sum(dim=1) / fixated.sum(dim=1).clamp(min=_EPS)).float()


def auc_judd(
    predicted: Maps,
    fixations: Fixations,
    weights: Weights | None = None,
    generator: torch.Generator | None = None,
) -> Values:
    """Area under the curve whose thresholds are the predictions at the fixations, in falling order (AUC-J, E17).

    At the k-th of n thresholds, counted from 0, k/n fixations are found, and of the other pixels those at or above the
    threshold, less k. 0.5 for a constant map, and where no pixel or every pixel is a fixation.

    Args:
        generator: draws the noise that breaks ties; without it, all pixels of one value are reached together, which is
            the worst that can happen.

    Examples:
        >>> predicted = torch.linspace(0, 1, 100).view(1, 10, 10)
        >>> round(auc_judd(predicted, predicted > 0.9).item(), 3), auc_judd(0 * predicted, predicted > 0.9).item()
        (0.939, 0.5)
    """
    values, fixated, share = _stretched(predicted), fixations.cpu().flatten(1), _share(predicted, weights)
    flat = values.amax(dim=1) == values.amin(dim=1)
    if generator is not None:
        values = values + JITTER * torch.randn(values.shape, dtype=values.dtype, generator=generator)
    values, order = values.sort(dim=1, descending=True)
    # Sorted along: how much is found up to each pixel, and up to the last one of its value.
    reached, weight = fixated.gather(1, order), share.expand_as(values).gather(1, order)
    total_found, total = (reached * weight).sum(dim=1, keepdim=True), weight.sum(dim=1, keepdim=True)
    last = torch.searchsorted(-values, -values, right=True) - 1
    # Before the k-th fixation, k are found; without weights each is one pixel.
    found = (reached * weight).cumsum(dim=1) - reached * weight
    seen = weight.cumsum(dim=1).gather(1, last)
    hits = found / total_found.clamp(min=_EPS)
    alarms = (seen - found) / (total - total_found).clamp(min=_EPS)
    area = _area(_held(alarms, reached), _held(hits, reached))
    senseless = flat | (total_found <= _EPS)[:, 0] | (total - total_found <= _EPS)[:, 0]
    return torch.where(senseless, 0.5, area).float()


def _held(curve: Float[Tensor, "map pixel"], at: Bool[Tensor, "map pixel"]) -> Float[Tensor, "map pixel"]:
    """The curve's value at the last marked pixel so far, 0 before the first: pixels in between add no area."""
    place = torch.arange(curve.shape[1]).expand_as(curve)
    latest = torch.where(at, place, -1).cummax(dim=1).values
    return torch.where(latest < 0, 0.0, curve.gather(1, latest.clamp(min=0)))


def auc_borji(
    predicted: Maps,
    fixations: Fixations,
    weights: Weights | None = None,
    generator: torch.Generator | None = None,
    repetitions: int = 100,
    step: float = 0.01,
    clip_above: float | None = None,
) -> Values:
    """Area under the curve that separates fixations from as many pixels drawn anywhere, as a mean over draws (AUC-B).

    The prediction is scaled to [0, 1]; thresholds go down from 1 by `step`. 0.5 for a constant map, and without
    fixations.

    Args:
        weights: how likely a pixel is drawn, and how much a fixation counts.
        generator: of the draws; torch's global one where None.
        repetitions: how often pixels are drawn.
        clip_above: before the scaling, predictions so many standard deviations above their mean become 1; PAVER's
            release takes 2, for predictions that lie in [0, 1].

    Examples:
        >>> predicted = torch.linspace(0, 1, 10_000).view(1, 100, 100)
        >>> round(auc_borji(predicted, predicted > 0.9, generator=torch.Generator().manual_seed(0)).item(), 1)
        0.9
    """
    if clip_above is not None:
        predicted = torch.where(fixations_from_density(predicted, clip_above), 1.0, predicted)
    values, fixated, share = _stretched(predicted), fixations.cpu().flatten(1), _share(predicted, weights)
    steps = max(1, round(1 / step))
    # How many thresholds each value reaches; none lies at 1 itself.
    level = torch.bucketize(values, torch.arange(steps, dtype=torch.float64) * step, right=True) - 1
    hits = _reach(_per_level(level, share * fixated, steps))

    count = fixated.sum(dim=1)
    # Pixels that are drawn one by one fall onto the levels as one draw of how many fall onto each.
    chances = _per_level(level, share.expand_as(values), steps)
    noise = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    drawn = noise.multinomial(
        count[:, None].expand(-1, repetitions).numpy(), (chances / chances.sum(dim=1, keepdim=True))[:, None].numpy()
    )
    alarms = _reach(torch.from_numpy(drawn).double())
    area = _area(alarms, hits[:, None].expand_as(alarms)).mean(dim=1)
    senseless = (values.amax(dim=1) == values.amin(dim=1)) | (count == 0)
    return torch.where(senseless, 0.5, area).float()


def _per_level(
    level: Int[Tensor, "map pixel"], weight: Float[Tensor, "map pixel"], steps: int
) -> Float[Tensor, "map {steps}"]:
    return torch.zeros(len(level), steps, dtype=weight.dtype).scatter_add(1, level, weight)


def _reach(per_level: Float[Tensor, "*map level"]) -> Float[Tensor, "*map level"]:
    """Which share lies at or above each level, from the highest down."""
    reached = per_level.flip(-1).cumsum(dim=-1)
    return reached / reached[..., -1:].clamp(min=_EPS)


def _area(across: Float[Tensor, "*map point"], up: Float[Tensor, "*map point"]) -> Float[Tensor, "*map"]:
    """Under the curve from (0, 0) through the points to (1, 1), by trapezoids."""
    ends = torch.zeros_like(across[..., :1]), torch.ones_like(across[..., :1])
    return torch.trapezoid(torch.cat([ends[0], up, ends[1]], dim=-1), torch.cat([ends[0], across, ends[1]], dim=-1))


def _share(maps: Maps, weights: Weights | None) -> Float[Tensor, "1 pixel"]:
    """How much every pixel counts, with a sum of 1."""
    height, width = maps.shape[1:]
    weights = torch.ones(height, width) if weights is None else weights
    flat = _flat(weights[None])
    return flat / flat.sum()


def _standardised(maps: Maps, share: Float[Tensor, "1 pixel"]) -> Float[Tensor, "map pixel"]:
    """Mean 0 and variance 1 of the population; a constant map is 0."""
    flat = _flat(maps)
    centred = flat - (flat * share).sum(dim=1, keepdim=True)
    deviation = (centred**2 * share).sum(dim=1, keepdim=True).sqrt()
    # What is left of a constant map is rounding.
    constant = deviation <= _EPS * flat.abs().amax(dim=1, keepdim=True)
    return torch.where(constant, 0.0, centred / deviation.clamp(min=torch.finfo(torch.float64).tiny))


def _stretched(maps: Maps) -> Float[Tensor, "map pixel"]:
    """From 0 to 1; a constant map is 0."""
    flat = _flat(maps)
    flat = flat - flat.amin(dim=1, keepdim=True)
    return flat / flat.amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def _flat(maps: Maps) -> Float[Tensor, "map pixel"]:
    return maps.detach().cpu().double().flatten(1)


def _not_negative(maps: Maps) -> Float[Tensor, "map pixel"]:
    flat = _flat(maps)
    return flat - flat.amin(dim=1, keepdim=True).clamp(max=0)


def _distribution(flat: Float[Tensor, "map pixel"], share: Float[Tensor, "1 pixel"]) -> Float[Tensor, "map pixel"]:
    """Weighted and scaled to a sum of 1; a map of zeros lies evenly."""
    weighted = flat * share
    total = weighted.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weighted / total.clamp(min=torch.finfo(torch.float64).tiny), share)
