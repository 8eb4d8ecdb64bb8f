"""Quality of distorted videos all around, weighed by where people look (PAVER, arXiv:2209.08956, G)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ommatid.data.saliency_videos import frame_chunks
from ommatid.dense.quality_metrics import weighted_psnr
from ommatid.dense.saliency_predictor import WINDOWS, SaliencyPredictor, first_frames
from ommatid.errors import InputError

HIGHEST = 100.0
"""Decibels of a frame without any difference, so that a video with such frames has a mean."""


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

    def to_json(self) -> dict[str, Any]:
        return {
            "frames": len(self.weighted),
            "weighted_psnr": round(self.psnr, 3),
            "psnr": round(float(self.plain.mean()), 3),
        }


@torch.no_grad()
def watched_quality(
    predictor: SaliencyPredictor, reference: Path, distorted: Path, frames: int | None = None
) -> WatchedQuality:
    """PSNR of a distorted video against its reference, weighed by the saliency of the reference (G).

    Frames are compared in their own size, and maps resized to it. A frame without difference counts 100 dB.

    Args:
        frames: how many are compared, from the first one on; all where None.

    Raises:
        InputError: a video cannot be read, or the two differ in their size or number of frames.
    """
    length = WINDOWS * int(predictor.hparams.window)
    maps = (chunk for _, chunk in predictor.watch(reference, 0, frames))
    pairs = zip(_pairs(reference, distorted, length, frames), maps, strict=True)
    weighted, plain = [], []
    for (first, second), weight in pairs:
        size = (int(first.shape[2]), int(first.shape[3]))
        fitted = F.interpolate(weight[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        first, second = first.float(), second.float()
        weighted.append(weighted_psnr(first, second, fitted).clamp(max=HIGHEST))
        plain.append(weighted_psnr(first, second, torch.ones_like(fitted)).clamp(max=HIGHEST))
    return WatchedQuality(torch.cat(weighted), torch.cat(plain))


def _pairs(reference: Path, distorted: Path, length: int, frames: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The same frames of both videos, some at a time."""
    both = (first_frames(frame_chunks(path, None, length), frames) for path in (reference, distorted))
    for first, second in zip_longest(*both):
        counts = [0 if chunk is None else len(chunk) for chunk in (first, second)]
        if counts[0] != counts[1]:
            raise InputError(f"{distorted}: found another number of frames, expected that of {reference.name}")
        if first.shape != second.shape:
            found, expected = (" x ".join(map(str, chunk.shape[2:])) for chunk in (second, first))
            raise InputError(f"{distorted}: found frames of {found}, expected {expected} as in {reference.name}")
        yield first, second
