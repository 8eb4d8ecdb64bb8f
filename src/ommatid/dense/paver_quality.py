"""Quality of distorted videos all around, weighed by where people look (PAVER, arXiv:2209.08956, G)."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ommatid.data.clips import read_frames
from ommatid.data.rated_videos import RatedVideo
from ommatid.data.saliency_videos import check_same_size, frame_chunks
from ommatid.dense.quality_metrics import agreement, weighted_psnr
from ommatid.dense.saliency_predictor import WINDOWS, SaliencyPredictor, first_frames
from ommatid.errors import InputError

HIGHEST = 100.0
"""Decibels of a frame without any difference, so that a video with such frames has a mean."""
PARAMETERS: Literal[4] = 4
"""Of the curve from scores to opinions."""


@dataclass(frozen=True)
class WatchedQuality:
    """Peak signal-to-noise ratios of every frame, in decibels.

    Attributes:
        weighted: pixels count by how salient they are in the reference.
        plain: all pixels count alike.
    """

    weighted: Float[Tensor, "frame"]
    plain: Float[Tensor, "frame"]

    @property
    def psnr(self) -> float:
        """The weighted score of the video: the mean over its frames."""
        return float(self.weighted.mean())

    @property
    def plain_psnr(self) -> float:
        return float(self.plain.mean())

    def to_json(self) -> dict[str, Any]:
        return {
            "frames": len(self.weighted),
            "weighted_psnr": round(self.psnr, 3),
            "psnr": round(self.plain_psnr, 3),
        }


@dataclass(frozen=True)
class OpinionAgreement:
    """How well peak signal-to-noise ratios agree with what people thought of the videos.

    Attributes:
        videos: each with its ratios.
        weighted, plain: agreement of either, see `ommatid.dense.quality_metrics.agreement`.
        skipped: videos whose frames have another size than those of their reference, as other projections have.
    """

    videos: list[tuple[RatedVideo, WatchedQuality]]
    weighted: dict[str, float]
    plain: dict[str, float]
    skipped: list[RatedVideo]

    def to_json(self) -> dict[str, Any]:
        videos = [
            {"distorted": str(rated.distorted), "opinion": rated.opinion, **quality.to_json()}
            for rated, quality in self.videos
        ]
        skipped = [str(rated.distorted) for rated in self.skipped]
        return {"weighted": self.weighted, "plain": self.plain, "videos": videos, "skipped": skipped}


def opinion_agreement(
    predictor: SaliencyPredictor, rated: Sequence[RatedVideo], frames: int | None = None
) -> OpinionAgreement:
    """Agreement of PSNR, weighed by saliency and plain, with opinions; a reference is watched once for all its videos.

    All videos are looked at first; those that are not of their reference's size are skipped, with one warning.

    Raises:
        InputError: as of `watched_qualities`, or fewer videos can be compared than the curve of the agreement has
            parameters.
    """
    compared, skipped = comparable(rated)
    if skipped:
        warnings.warn(
            f"{len(skipped)} of {len(rated)} rated videos are skipped: their frames have another size than those of "
            f"their reference, as other projections have (first: {skipped[0].distorted})",
            stacklevel=2,
        )
    if len(compared) < PARAMETERS:
        raise InputError(
            f"rated: found {len(compared)} videos of their reference's size, expected at least {PARAMETERS} to fit a "
            "curve to opinions"
        )
    distorted: dict[Path, list[RatedVideo]] = {}
    for each in compared:
        distorted.setdefault(each.reference, []).append(each)
    videos = [
        pair
        for reference, group in distorted.items()
        for pair in zip(
            group, watched_qualities(predictor, reference, [each.distorted for each in group], frames), strict=True
        )
    ]
    opinion = np.array([each.opinion for each, _ in videos])
    scores = {
        "weighted": np.array([quality.psnr for _, quality in videos]),
        "plain": np.array([quality.plain_psnr for _, quality in videos]),
    }
    found = {name: agreement(each, opinion, PARAMETERS) for name, each in scores.items()}
    return OpinionAgreement(videos, **found, skipped=skipped)


def comparable(rated: Sequence[RatedVideo]) -> tuple[list[RatedVideo], list[RatedVideo]]:
    """The videos whose first frame has the size of their reference's, and the others.

    Raises:
        InputError: a video cannot be read, or frames of a reference are not about twice as wide as high.
    """
    references = dict.fromkeys(video.reference for video in rated)
    expected = {path: next(frame_chunks(path, length=1)).shape for path in references}
    same: list[RatedVideo] = []
    others: list[RatedVideo] = []
    for video in rated:
        fits = read_frames(video.distorted, [0]).shape == expected[video.reference]
        (same if fits else others).append(video)
    return same, others


def watched_quality(
    predictor: SaliencyPredictor, reference: Path, distorted: Path, frames: int | None = None
) -> WatchedQuality:
    """`watched_qualities` of one distorted video."""
    return watched_qualities(predictor, reference, [distorted], frames)[0]


@torch.no_grad()
def watched_qualities(
    predictor: SaliencyPredictor, reference: Path, distorted: Sequence[Path], frames: int | None = None
) -> list[WatchedQuality]:
    """PSNR of distorted videos against their reference, weighed by the saliency of the reference (G).

    Frames are compared in their own size, and maps resized to it. A frame without difference counts 100 dB.

    Args:
        frames: how many are compared, from the first one on; all where None.

    Raises:
        InputError: a video cannot be read, or one differs from the reference in its size or number of frames.
    """
    length = WINDOWS * int(predictor.hparams.window)
    maps = (chunk for _, chunk in predictor.watch(reference, 0, frames))
    weighted: list[list[Tensor]] = [[] for _ in distorted]
    plain: list[list[Tensor]] = [[] for _ in distorted]
    for (first, *others), weight in zip(_together(reference, distorted, length, frames), maps, strict=True):
        fitted = F.interpolate(weight[:, None], tuple(first.shape[2:]), mode="bilinear", align_corners=False)[:, 0]
        true = first.float()
        # One video after the other: as bytes all of them are a quarter as large.
        for place, other in enumerate(others):
            seen = other.float()
            for found, counted in ((weighted, fitted), (plain, torch.ones_like(fitted))):
                found[place].append(weighted_psnr(true, seen, counted).clamp(max=HIGHEST))
    return [WatchedQuality(torch.cat(first), torch.cat(second)) for first, second in zip(weighted, plain, strict=True)]


def _together(
    reference: Path, distorted: Sequence[Path], length: int, frames: int | None
) -> Iterator[tuple[Tensor, ...]]:
    """The same frames of all videos, some at a time; those of the reference come first."""
    every = (first_frames(frame_chunks(path, None, length), frames) for path in (reference, *distorted))
    for chunks in zip_longest(*every):
        first = chunks[0]
        for path, chunk in zip(distorted, chunks[1:], strict=True):
            if chunk is None or first is None or len(chunk) != len(first):
                raise InputError(f"{path}: found another number of frames, expected that of {reference.name}")
            check_same_size(path, chunk.shape[2:], reference, first.shape[2:])
        yield chunks
