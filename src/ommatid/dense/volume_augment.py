"""What a training volume goes through together with its labels: a crop, a turn, a scale, noise, another gamma.

Nothing is mirrored: left and right are classes of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from ommatid.dense.volume_task import UNKNOWN

TURN, SCALES = 15.0, (0.85, 1.2)
"""Largest turn in degrees, and by how much organs are smaller or larger at most."""
NOISE, GAMMAS = 0.05, (0.7, 1.5)
FOREGROUND_SHARE = 1 / 3
"""Share of patches that have a class in their middle, as nnU-Net draws them."""


@dataclass(frozen=True, eq=False)
class VolumeSample:
    """One volume as it is shown; attributes as of `VolumeBatch`."""

    image: Float[Tensor, "1 *space"]
    labels: Integer[Tensor, "*space"]
    organs: Integer[Tensor, "*space"]
    spacing: Float[Tensor, "axis"]
    truth: Integer[Tensor, "*grid"]
    truth_spacing: Float[Tensor, "axis"]
    index: int


def of_patch(sample: VolumeSample) -> VolumeSample:
    """A sample whose truth is that of its own voxels."""
    return replace(sample, truth=sample.labels, truth_spacing=sample.spacing)


def patch_start(labels: Integer[Tensor, "*space"], size: Sequence[int]) -> list[int]:
    """Where a training patch begins, drawn from torch's global generator: in the middle of a voxel of a class, drawn
    first, in a third of the cases; else anywhere. It never leaves the volume where the volume is large enough.
    """
    known = (labels > 0) & (labels != UNKNOWN)
    spare = [max(length - side, 0) for length, side in zip(labels.shape, size, strict=True)]
    forced, *share = torch.rand(1 + len(spare)).tolist()
    if forced < FOREGROUND_SHARE and bool(known.any()):
        present = labels[known].unique()
        places = (labels == present[int(torch.randint(len(present), ()))]).nonzero()
        middle = places[int(torch.randint(len(places), ()))].tolist()
        wanted = [place - side // 2 for place, side in zip(middle, size, strict=True)]
    else:
        wanted = [int(part * (rest + 1)) for part, rest in zip(share, spare, strict=True)]
    return [
        min(max(start, 0), rest) if rest else (length - side) // 2
        for start, rest, length, side in zip(wanted, spare, labels.shape, size, strict=True)
    ]


def cropped(sample: VolumeSample, start: Sequence[int], size: Sequence[int]) -> VolumeSample:
    """A part of the volume; beyond its ends it is dark, and nobody knows what is there.

    Examples:
        >>> plain = torch.ones(4, 4, dtype=torch.long)
        >>> sample = VolumeSample(torch.ones(1, 4, 4), plain, plain, torch.ones(2), plain, torch.ones(2), 0)
        >>> cropped(sample, [2, 1], [3, 2]).labels.tolist()
        [[1, 1], [1, 1], [255, 255]]
    """

    def part(maps: Tensor, beyond: int) -> Tensor:
        lead = maps.ndim - len(size)
        inner = maps[(slice(None),) * lead + tuple(_within(*each) for each in zip(start, size, strict=True))]
        missing: list[int] = []
        for first, side, length in reversed(list(zip(start, size, maps.shape[lead:], strict=True))):
            missing += [max(-first, 0), max(first + side - length, 0)]
        return F.pad(inner, missing, value=beyond) if any(missing) else inner

    return of_patch(
        replace(
            sample,
            image=part(sample.image, 0),
            labels=part(sample.labels, UNKNOWN),
            organs=part(sample.organs, UNKNOWN),
        )
    )


def _within(first: int, side: int) -> slice:
    return slice(max(first, 0), max(first + side, 0))


def augmented(sample: VolumeSample, size: Sequence[int] | None = None) -> VolumeSample:
    """Turned, scaled, with noise and another gamma; all drawn from torch's global generator.

    Turns are about the middle, in mm, so that voxels of unequal sides turn as the body does.

    Args:
        size: of the part in the middle that is kept; all where None.

    Examples:
        >>> blank = torch.zeros(8, 8, dtype=torch.long)
        >>> sample = VolumeSample(torch.rand(1, 8, 8), blank, blank, torch.ones(2), blank, torch.ones(2), 0)
        >>> augmented(sample, [4, 4]).image.shape
        torch.Size([1, 4, 4])
    """
    size = sample.labels.shape if size is None else size
    places = _places(sample, _drawn_matrix(len(size)), size)
    image = F.grid_sample(sample.image[None], places, mode="bilinear", align_corners=False)[0]
    # One more than the label itself: what lies outside comes back as 0.
    maps = torch.stack([sample.labels, sample.organs])[None].float() + 1
    labels, organs = F.grid_sample(maps, places, mode="nearest", align_corners=False)[0].long() - 1
    labels, organs = (torch.where(each < 0, UNKNOWN, each) for each in (labels, organs))
    strength, power = torch.rand(2).tolist()
    gamma = GAMMAS[0] * (GAMMAS[1] / GAMMAS[0]) ** power
    image = image.clamp(0, 1).pow(gamma) + NOISE * strength * torch.randn(image.shape)
    return of_patch(replace(sample, image=image.clamp(0, 1), labels=labels, organs=organs))


def margin(size: Sequence[int], spacing: Float[Tensor, "axis"]) -> list[int]:
    """How many voxels beyond a part, on every side, `augmented` may need.

    Examples:
        >>> margin([32, 32], torch.ones(2))
        [8, 8]
    """
    halves = [side * step / 2 for side, step in zip(size, spacing.tolist(), strict=True)]
    aslant = math.sin(math.radians(TURN))
    return [
        math.ceil(((half + aslant * (sum(halves) - half)) / SCALES[0] - half) / step)
        for half, step in zip(halves, spacing.tolist(), strict=True)
    ]


def _drawn_matrix(axes: int) -> Float[Tensor, "axis axis"]:
    """From places that are shown to places in the volume, both in mm from the middle."""
    matrix = torch.eye(axes)
    for first in range(axes):
        for second in range(first + 1, axes):
            angle = math.radians(TURN) * float(2 * torch.rand(()) - 1)
            turn = torch.eye(axes)
            turn[first, first] = turn[second, second] = math.cos(angle)
            turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ turn
    scale = SCALES[0] * (SCALES[1] / SCALES[0]) ** float(torch.rand(()))
    return matrix / scale


def _places(
    sample: VolumeSample, matrix: Float[Tensor, "axis axis"], size: Sequence[int]
) -> Float[Tensor, "1 *part axis"]:
    """Where each voxel of the part is taken from, as `grid_sample` wants it: from -1 to 1, the last axis first."""
    axes = [torch.arange(side) - (side - 1) / 2 for side in size]
    voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    from_middle = (voxels * sample.spacing) @ matrix.T / sample.spacing
    return (from_middle * 2 / torch.tensor(sample.labels.shape)).flip(-1)[None]
