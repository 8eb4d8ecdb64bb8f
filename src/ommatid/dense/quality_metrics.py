"""Quality of distorted pictures, weighed by where people look, and how well a measure of it agrees with them
(PAVER, arXiv:2209.08956, section G of its card)."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import least_squares
from scipy.special import expit
from scipy.stats import kendalltau, spearmanr
from torch import Tensor

from ommatid.errors import InputError

Pictures = Float[Tensor, "frame channel height width"]
Values = Float[np.ndarray, "sequence"]
Opinions = Float[np.ndarray, "opinion"]
Parameters = Float[np.ndarray, "parameter"]


def weighted_psnr(
    reference: Pictures, distorted: Pictures, weight: Float[Tensor, "frame height width"], peak: float = 255.0
) -> Float[Tensor, "frame"]:
    """Peak signal-to-noise ratio of every frame in dB, its pixels weighed by a saliency map (PSNR_S).

    Frames without difference are infinite; where a map is zero everywhere, all pixels count alike. A video's score is
    the mean over its frames.

    Args:
        weight: not negative, of any scale.
        peak: the largest value that pixels can have.

    Examples:
        >>> reference, weight = torch.zeros(1, 3, 2, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
        >>> distorted = reference.clone()
        >>> distorted[..., 0, 0] = 25.5
        >>> round(weighted_psnr(reference, distorted, weight).item(), 2)
        20.0
        >>> round(weighted_psnr(reference, distorted, 0 * weight).item(), 2)
        26.02
    """
    errors = ((reference.double() - distorted.double()) ** 2).mean(dim=1).flatten(1)
    flat = weight.double().flatten(1)
    flat = torch.where(flat.sum(dim=1, keepdim=True) > 0, flat, 1.0)
    mean = (errors * flat).sum(dim=1) / flat.sum(dim=1)
    return (10 * torch.log10(peak**2 / mean)).float()


def agreement(predicted: Values, opinion: Opinions, parameters: Literal[4, 5] = 4) -> dict[str, float]:
    """How well scores agree with what people said, as quality measures are compared.

    Ranks are compared as they are: Spearman's "srocc" and Kendall's "krocc". Pearson's "plcc", "rmse" and "mae" are of
    the scores after a logistic curve has mapped them to opinions. Correlations of constant values are 0.

    Args:
        predicted: one score a sequence, of any scale, rising or falling with the opinion.
        opinion: mean opinion scores, or differences of them.
        parameters: of the curve, see `logistic_fit`.

    Raises:
        InputError: as `logistic_fit` does.

    Examples:
        >>> opinion = np.linspace(0, 100, 20)
        >>> found = agreement(1 / (1 + np.exp(-(opinion - 50) / 20)), opinion)
        >>> sorted(found), found["srocc"], found["plcc"] > 0.99
        (['krocc', 'mae', 'plcc', 'rmse', 'srocc'], 1.0, True)
    """
    mapped = logistic_fit(predicted, opinion, parameters)(predicted)
    ranked = bool(np.ptp(predicted) and np.ptp(opinion))
    return {
        "plcc": _pearson(mapped, opinion),
        "srocc": float(spearmanr(predicted, opinion).statistic) if ranked else 0.0,
        "krocc": float(kendalltau(predicted, opinion).statistic) if ranked else 0.0,
        "rmse": float(np.sqrt(np.mean((mapped - opinion) ** 2))),
        "mae": float(np.mean(np.abs(mapped - opinion))),
    }


def logistic_fit(predicted: Values, opinion: Opinions, parameters: Literal[4, 5] = 4) -> Callable[[Values], Values]:
    """The logistic curve from scores to opinions with the least squared error.

    With 4 parameters it is monotone, with two levels, a middle and a slope; with 5, a straight line is added to a curve
    of height, slope and middle.

    Raises:
        InputError: the numbers of scores and opinions differ, there are fewer than the curve has parameters, or one is
            no number.

    Examples:
        >>> curve = logistic_fit(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([5.0, 5.0, 3.0, 1.0, 1.0]))
        >>> curve(np.array([2.0])).round(2)
        array([3.])
    """
    if parameters not in _CURVES:
        raise InputError(f"parameters: found {parameters}, expected 4 or 5")
    if len(predicted) != len(opinion):
        raise InputError(f"opinion: found {len(opinion)} values, expected {len(predicted)}, one for every score")
    if len(predicted) < parameters:
        raise InputError(
            f"predicted: found {len(predicted)} scores, expected at least {parameters} to fit the curve to"
        )
    for name, values in (("predicted", predicted), ("opinion", opinion)):
        if not np.isfinite(values).all():
            raise InputError(f"{name}: found {values[~np.isfinite(values)][0]} among the values, expected numbers")
    # In units of the scores' own spread, one start suits every scale.
    middle, spread = float(np.mean(predicted)), float(np.std(predicted)) or 1.0
    floor, height = float(np.min(opinion)), float(np.ptp(opinion)) or 1.0
    curve = _CURVES[parameters]
    scaled, target = (predicted - middle) / spread, (opinion - floor) / height
    direction = 1.0 if _pearson(predicted, opinion) >= 0 else -1.0
    start = [0.0, 1.0, 0.0, direction] if parameters == 4 else [1.0, direction, 0.0, 0.0, float(np.mean(target))]

    def residuals(values: Parameters) -> Values:
        return curve(values, scaled) - target

    found = least_squares(residuals, start).x
    return lambda scores: floor + height * curve(found, (scores - middle) / spread)


def _four(parameters: Parameters, scores: Values) -> Values:
    low, high, middle, slope = parameters
    return low + (high - low) * expit((scores - middle) * slope)


def _five(parameters: Parameters, scores: Values) -> Values:
    height, slope, middle, tilt, level = parameters
    return height * (expit((scores - middle) * slope) - 0.5) + tilt * scores + level


_CURVES: dict[int, Callable[[Parameters, Values], Values]] = {4: _four, 5: _five}


def _pearson(first: Values, second: Values) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / scale) if scale > 1e-12 else 0.0
