"""How alike the tokens of one object are wherever on the sphere it is (PAVER, arXiv:2209.08956, claim 1)."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ommatid.nn.sphere import patch_centres, pixel_to_sphere

RADIUS = 14.0
FINER = 3
"""Rendered pixels for one of the picture, along each side: edges are smooth, as a camera's are."""
LATITUDES = (34, 56, 79)
REFERENCE = 11
"""Degrees: middles of patches where there are eight rows of them, and of the nearest row elsewhere."""
Pictures = Float[Tensor, "picture 3 height width"]


def object_similarity(
    embed: Callable[[Pictures], Float[Tensor, "picture patch dim"]], height: int, rows: int, textures: int = 10
) -> dict[str, float]:
    """Mean cosine between the token of a textured disc near 11 degrees of latitude, and near 34, 56 and 79 degrees.

    The discs are of 14 degrees, have smooth waves on them, and lie around the middle of a patch, upright, on grey; the
    same ones in every call. `similarity` is the mean of the three.

    Args:
        embed: patch tokens of equirectangular pictures in [0, 1] of `height` rows, `rows` patches from pole to pole.

    Examples:
        >>> from ommatid.nn.sphere import SphericalPatchEmbed
        >>> patches = SphericalPatchEmbed(torch.nn.Conv2d(3, 32, 8, 8), height=64)
        >>> found = object_similarity(lambda images: patches(images - 0.5).flatten(2).mT, height=64, rows=8)
        >>> sorted(found), found["similarity"] > 0.9
        (['similarity', 'similarity_34', 'similarity_56', 'similarity_79'], True)
    """
    centres = patch_centres(rows)
    middles = centres.view(rows, 2 * rows, 2)[:, 0, 0].rad2deg()
    nearest = [int((middles - degrees).abs().argmin()) for degrees in (REFERENCE, *LATITUDES)]
    # One column for all: what is compared differs in latitude alone.
    patches = torch.tensor([row * 2 * rows + rows // 2 for row in nearest])
    tokens = embed(textured_discs(centres[patches], height, textures).flatten(0, 1))
    own = tokens.detach().unflatten(0, (len(patches), textures))[torch.arange(len(patches)), :, patches]
    alike = F.cosine_similarity(own[:1].float(), own[1:].float(), dim=-1).mean(dim=1)
    each = {f"similarity_{degrees}": float(value) for degrees, value in zip(LATITUDES, alike, strict=True)}
    return {"similarity": float(alike.mean()), **each}


def textured_discs(
    centres: Float[Tensor, "place 2"], height: int, textures: int, seed: int = 0
) -> Float[Tensor, "place {textures} 3 {height} {2*height}"]:
    """Pictures of one disc each, on grey: every texture at every place, north being up on all."""
    generator = torch.Generator().manual_seed(seed)
    rate = 6 * torch.randn(textures, 3, 2, generator=generator)
    phase = 2 * math.pi * torch.rand(textures, 3, generator=generator)
    fine = FINER * height
    row, column = torch.meshgrid(torch.arange(fine) + 0.5, torch.arange(2 * fine) + 0.5, indexing="ij")
    # A picture's pixel numbers are places of their middles.
    latitude, longitude = pixel_to_sphere(row / FINER - 0.5, column / FINER - 0.5, height)
    # Place by place: finer pictures of all of them would fill the memory.
    return torch.stack([_discs_at(centre.float(), latitude, longitude, rate, phase) for centre in centres])


def _discs_at(
    centre: Float[Tensor, "2"],
    latitude: Float[Tensor, "rows columns"],
    longitude: Float[Tensor, "rows columns"],
    rate: Float[Tensor, "texture 3 2"],
    phase: Float[Tensor, "texture 3"],
) -> Float[Tensor, "texture 3 height width"]:
    north, turned = centre[0], longitude - centre[1]
    ahead = north.sin() * latitude.sin() + north.cos() * latitude.cos() * turned.cos()
    up = north.cos() * latitude.sin() - north.sin() * latitude.cos() * turned.cos()
    right = latitude.cos() * turned.sin()
    # On the plane that touches the sphere in the disc's middle; what is behind it is not painted.
    plane = torch.stack([right, up], dim=-1) / ahead.clamp(min=0.1)[..., None]
    waves = (torch.einsum("hwa,tca->tchw", plane, rate) + phase[:, :, None, None]).sin()
    inside = ahead > math.cos(math.radians(RADIUS))
    return F.avg_pool2d(torch.where(inside, 0.5 + 0.5 * waves, 0.5), FINER)
