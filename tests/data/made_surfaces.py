"""Small scenes for the tests of surfaces."""

import torch
import torch.nn.functional as F

from ommatid.data.surface_samples import (
    IGNORE,
    SurfaceSample,
)

SIZE = (6, 8)


def made(number=0, size=SIZE, depth=True):
    """A sample with an unlabelled row, and a column without normals and depth."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(256, (3, *size), generator=generator)
    semantic = torch.randint(40, size, generator=generator)
    semantic[0] = IGNORE
    normals = F.normalize(torch.randn(3, *size, generator=generator), dim=0)
    normals[:, :, 1] = 0
    metres = 1 + torch.rand(1, *size, generator=generator)
    metres[:, :, 1] = 0
    return SurfaceSample(pixels / 255, semantic, normals, metres if depth else None, f"{number:04d}")
