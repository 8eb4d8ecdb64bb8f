"""One object on the sphere has nearly one token where patches touch the sphere."""

import torch
from torch import nn

from ommatid.dense.geometry_probe import object_similarity, textured_discs
from ommatid.nn.sphere import SphericalPatchEmbed, great_circle_distance, patch_centres, pixel_to_sphere


def test_planes_beat_flat_patches_at_every_latitude():
    torch.manual_seed(0)
    flat = nn.Conv2d(3, 64, 16, 16, bias=False)
    arms = {
        "planar": flat,
        "released": SphericalPatchEmbed(flat, 128, exact=False, circular=False),
        "exact": SphericalPatchEmbed(flat, 128),
    }
    found = {
        name: object_similarity(lambda images, embed=embed: embed(images - 0.5).flatten(2).mT.detach(), 128, 8)
        for name, embed in arms.items()
    }
    for name in ("similarity", "similarity_34", "similarity_56", "similarity_79"):
        assert found["exact"][name] > found["planar"][name], (name, found)
    for name in ("similarity_34", "similarity_56", "similarity_79"):
        assert found["exact"][name] > 0.99
        assert found["released"][name] > found["planar"][name]


def test_discs_lie_around_their_middle_on_grey():
    centres = patch_centres(8)[[20, 100]]
    pictures = textured_discs(centres, 64, textures=3)
    assert pictures.shape == (2, 3, 3, 64, 128)
    row, column = torch.meshgrid(torch.arange(64), torch.arange(128), indexing="ij")
    places = torch.stack(pixel_to_sphere(row.double(), column.double(), 64), dim=-1)
    for number, centre in enumerate(centres):
        away = great_circle_distance(places, centre).rad2deg()
        painted = (pictures[number] != 0.5).flatten(0, 1).any(dim=0)
        assert not painted[away > 17].any()
        assert painted[away < 11].all()
    assert pictures.amin() >= 0
    assert pictures.amax() <= 1
