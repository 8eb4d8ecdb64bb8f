"""Small videos, predictors and batches for the tests of saliency."""

import numpy as np
import torch

from ommatid.data.video import write_video
from ommatid.data.worlds.sphere import SphereWorld
from ommatid.dense.paver import PAVER
from ommatid.dense.saliency_data import SaliencyData
from ommatid.dense.saliency_task import SaliencyBatch

WORLD = {"train": 2, "val": 1, "test": 2, "frames": 7}
SMALL = {"height": 32, "window": 3, "encoder": "tiny", "encoder_steps": 2, "encoder_views": 20, "sigma": 3.0}


def data(**settings):
    return SaliencyData(**{"height": 32, "window": 3, "batch_size": 2, "world": WORLD, **settings})


def paver(**settings):
    torch.manual_seed(0)
    return PAVER(**{**SMALL, **settings})


def batch(frames=3, windows=2, seed=0, dim=64):
    generator = torch.Generator().manual_seed(seed)
    known = torch.ones(windows, frames, dtype=torch.bool)
    return SaliencyBatch(
        patches=torch.randn(windows, frames, 32, dim, generator=generator),
        cls=torch.randn(windows, frames, dim, generator=generator),
        valid=known,
        saliency=torch.rand(windows, frames, 32, 64, generator=generator),
        scored=known.clone(),
        video=torch.arange(windows),
        start=torch.zeros(windows, dtype=torch.long),
    )


def film(path, frames=7, height=32, seed=0, noise=0.0):
    """A rendered clip as a video file."""
    world = SphereWorld(train=1, frames=frames, height=height, seed=seed)
    pictures = world.split("train").frames[0].float()
    grain = noise * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed))
    pixels = (pictures + grain).clamp(0, 255).round().byte().permute(0, 2, 3, 1)
    return write_video(path, np.ascontiguousarray(pixels.numpy()), fps=10)


class Encoder:
    """In place of a network: the mean colour of every patch, and of the frame; it counts what it is asked for."""

    def __init__(self, height=32, shift=0.0):
        self.height, self.shift, self.frames = height, shift, 0

    def encode(self, frames):
        self.frames += len(frames)
        rows = torch.nn.functional.avg_pool2d(frames.float() / 255, self.height // 4).flatten(2).mT + self.shift
        return rows, rows.mean(dim=1)

    def fingerprint(self):
        return f"mean{self.height}{self.shift}"

    def describe(self):
        return {"encoder": "mean", "height": self.height, "shift": self.shift}
