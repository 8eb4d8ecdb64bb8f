"""The sphere: places and distances, patches that look the same at every latitude, hills and neighbourhoods."""

import copy
import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.sphere import (
    SphericalPatchEmbed,
    cartesian_adjacency,
    great_circle_distance,
    patch_centres,
    pixel_to_sphere,
    sphere_to_pixel,
    spherical_adjacency,
    spherical_gaussian_basis,
    spherical_patch_offsets,
    spherical_sampling,
)

IMAGES = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))


def embedding(**settings):
    torch.manual_seed(0)
    return SphericalPatchEmbed(nn.Conv2d(3, 12, kernel_size=8, stride=8), 32, **settings)


def directions(places):
    latitude, longitude = places.unbind(-1)
    return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=-1)


def tap_places(height, patch_size, **settings):
    """Rows and columns of (tap, patch down, patch across), out of the offsets."""
    offsets = spherical_patch_offsets(height, patch_size, **settings).double()
    rows = height // patch_size
    dy, dx = offsets.view(patch_size**2, 2, rows, 2 * rows).unbind(1)
    tap, down, across = torch.arange(patch_size**2), torch.arange(rows), torch.arange(2 * rows)
    row = dy + patch_size * down[:, None] + (tap // patch_size)[:, None, None]
    return row, dx + patch_size * across + (tap % patch_size)[:, None, None]


def test_pixels_and_places_are_each_others_inverse():
    row, column = torch.rand(2, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 32
    latitude, longitude = pixel_to_sphere(row, 2 * column, height=32)
    found = sphere_to_pixel(latitude, longitude + 4 * math.pi, height=32)
    torch.testing.assert_close(torch.stack(found), torch.stack([row, 2 * column]))
    assert latitude.abs().max() <= math.pi / 2


def test_distances_are_angles_between_directions_and_precise_for_near_places():
    places = torch.randn(2, 50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = (directions(places[0]) * directions(places[1])).sum(dim=-1).clamp(-1, 1).acos()
    torch.testing.assert_close(great_circle_distance(*places), expected)
    near = torch.tensor([[0.3, 0.2], [0.3 + 1e-4, 0.2]])
    assert float(great_circle_distance(*near)) == pytest.approx(1e-4, rel=2e-2)  # single precision of 0.3 itself
    assert not great_circle_distance(near[0], near[0]).any()


@pytest.mark.parametrize(("rows", "patch_size"), [(4, 8), (5, 6), (8, 16)])
def test_exact_patches_lie_on_tangent_planes_that_cover_their_cell(rows, patch_size):
    row, column = tap_places(rows * patch_size, patch_size, exact=True)
    latitude, longitude = pixel_to_sphere(row, column, rows * patch_size)
    found = directions(torch.stack([latitude, longitude], dim=-1))
    middle = directions(patch_centres(rows)).view(rows, 2 * rows, 3)
    on_plane = found / (found * middle).sum(dim=-1, keepdim=True)
    grid = on_plane.unflatten(0, (patch_size, patch_size))
    step = 2 * math.tan(math.pi / (2 * rows)) / (patch_size - 1)
    for steps in (grid.diff(dim=0), grid.diff(dim=1)):
        torch.testing.assert_close(steps.norm(dim=-1), torch.full_like(steps[..., 0], step), rtol=1e-3, atol=1e-5)
    assert (grid.mean(dim=(0, 1)) - middle).abs().max() < 1e-5
    # Taps run to the right, the way longitude grows, and down.
    east = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).double().expand_as(middle), middle)
    assert ((grid[:, -1] - grid[:, 0]) * east).sum(dim=-1).min() > 0
    assert (grid[0, ..., 2] - grid[-1, ..., 2]).min() > 0


def test_released_patches_leave_a_gap_at_the_seam_and_exact_ones_do_not():
    def gap(**settings):
        column = tap_places(32, 8, **settings)[1]
        planar = 8 * torch.arange(8) + 4
        middle = planar + ((column - planar + 32) % 64 - 32).mean(dim=(0, 1))
        return float(64 - middle[-1] + middle[0] - (middle[1] - middle[0]))

    assert abs(gap(exact=True)) < 1e-3
    assert gap(exact=False) == pytest.approx(64 - 8 * 2 * math.atan(math.pi / 8) * 32 / math.pi, abs=0.1)


def test_discrete_places_are_whole_pixels():
    row, column = tap_places(32, 8, sampling="discrete")
    torch.testing.assert_close(row, row.round(), rtol=0, atol=1e-5)
    fine = tap_places(32, 8)
    assert ((fine[0] - row) >= -1e-5).all()
    assert ((fine[1] - column) < 1).all()


def test_a_constant_picture_stays_constant_where_reads_wrap_and_darkens_at_the_seam_where_they_do_not():
    white = torch.ones(1, 3, 32, 64)
    torch.testing.assert_close(embedding().tangent(white), white)
    assert embedding(circular=False).tangent(white).amin() < 0.9


def test_sampling_is_that_of_a_bilinear_grid():
    embed = embedding(circular=False)
    row, column = tap_places(32, 8, exact=True)
    grid = torch.stack([(column + 0.5) / 32 - 1, (row + 0.5) / 16 - 1], dim=-1)
    grid = grid.unflatten(0, (8, 8)).permute(2, 0, 3, 1, 4).reshape(1, 32, 64, 2).float()
    expected = F.grid_sample(IMAGES, grid.expand(2, -1, -1, -1), align_corners=False)
    torch.testing.assert_close(embed.tangent(IMAGES), expected, rtol=1e-3, atol=1e-4)


def test_turning_the_picture_by_whole_patches_turns_the_tokens():
    """Exact and circular: there is no seam."""
    embed = embedding()
    torch.testing.assert_close(embed(IMAGES.roll(24, dims=3)), embed(IMAGES).roll(3, dims=3), rtol=1e-4, atol=1e-4)
    released = embedding(exact=False, circular=False)
    assert (released(IMAGES.roll(24, dims=3)) - released(IMAGES).roll(3, dims=3)).abs().max() > 0.1


def disc(latitude, seed, height=128):
    """A disc of 14 degrees with smooth waves on it, at a latitude in the column of patch 5, on black."""
    generator = torch.Generator().manual_seed(seed)
    rate, phase = 6 * torch.randn(3, 2, generator=generator), 6 * torch.rand(3, 1, 1, generator=generator)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(2 * height), indexing="ij")
    places = torch.stack(pixel_to_sphere(row.float(), column.float(), height), dim=-1)
    middle = torch.tensor([math.radians(latitude), 11 * math.pi / 16])
    seen, centre = directions(places), directions(middle)
    east = torch.tensor([-middle[1].sin(), middle[1].cos(), 0.0])
    north = torch.linalg.cross(centre, east)
    depth = seen @ centre
    u, v = seen @ east / depth, seen @ north / depth
    waves = (rate[:, :1, None] * u + rate[:, 1:, None] * v + phase).sin()
    return torch.where(depth > math.cos(math.radians(14)), waves, 0.0)


def test_an_object_has_one_token_at_all_latitudes_where_patches_are_exact_and_the_released_ones_beat_planar_ones():
    """The mechanism of the method: random patch weights, one disc centred on patches at 11, 34, 56 and 79 degrees."""
    torch.manual_seed(0)
    planar = nn.Conv2d(3, 64, 16, 16, bias=False)
    arms = {
        "planar": planar,
        "released": SphericalPatchEmbed(planar, 128, exact=False, circular=False),
        "exact": SphericalPatchEmbed(planar, 128),
    }
    pictures = torch.stack([disc(latitude, seed) for seed in range(10) for latitude in (11.25, 33.75, 56.25, 78.75)])
    alike = {}
    with torch.no_grad():
        for name, embed in arms.items():
            tokens = embed(pictures)[..., 5].unflatten(0, (10, 4))
            at = torch.stack([tokens[:, place, :, 3 - place] for place in range(4)])
            alike[name] = F.cosine_similarity(at[:1], at[1:], dim=-1).mean(dim=1)
    assert (alike["exact"] > 0.99).all(), alike
    assert (alike["released"] > alike["planar"])[1:].all(), alike
    assert (alike["exact"] > alike["released"]).all(), alike


def test_the_wrapper_stands_in_for_a_vision_transformers_patch_embedding():
    import timm

    torch.manual_seed(0)
    settings = {"img_size": (32, 64), "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 0}
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, **settings).eval()
    planar = network(IMAGES)
    network.patch_embed = SphericalPatchEmbed(network.patch_embed, height=32)
    assert network.patch_embed.num_patches == 32
    assert network.patch_embed.grid_size == (4, 8)
    assert network.forward_features(IMAGES).shape == (2, 33, 16)
    assert not torch.allclose(network(IMAGES), planar)
    torch.testing.assert_close(copy.deepcopy(network)(IMAGES), network(IMAGES))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        network.patch_embed.nothing_like_it  # noqa: B018


def test_the_planes_are_no_parameters_and_not_saved():
    embed = embedding()
    assert set(embed.state_dict()) == {"patch_embed.weight", "patch_embed.bias"}


def test_gradients_are_those_of_finite_differences():
    embed = SphericalPatchEmbed(nn.Conv2d(1, 2, 2, 2), 4).double()
    torch.autograd.gradcheck(embed, torch.randn(1, 1, 4, 8, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype):
    embed = embedding()
    with torch.autocast("cpu", dtype=dtype):
        half = embed(IMAGES)
    torch.testing.assert_close(half.float(), embed(IMAGES), rtol=0.05, atol=0.05)
    torch.testing.assert_close(embed.tangent(IMAGES.to(dtype)).float(), embed.tangent(IMAGES), rtol=0.05, atol=0.05)


@pytest.fixture
def unchecked():
    """Without checks of types, which no compiler can trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
def test_it_compiles_as_one_graph_and_can_be_exported():
    embed = embedding().eval()
    compiled = torch.compile(embed, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(IMAGES), embed(IMAGES))
    torch.testing.assert_close(torch.export.export(embed, (IMAGES,)).module()(IMAGES), embed(IMAGES))


def test_hills_are_highest_at_their_centre_and_as_high_as_its_latitude_is_wide():
    centres = patch_centres(4)
    basis = spherical_gaussian_basis(32, centres, sigma=3.0)
    for number in (0, 5, 17, 31):
        row, column = divmod(int(basis[number].argmax()), 64)
        expected = [float(each) for each in sphere_to_pixel(*centres[number], height=32)]
        assert [row, column] == pytest.approx(expected, abs=0.01)
    peaks = basis.flatten(1).amax(dim=1) / centres[:, 0].cos()
    torch.testing.assert_close(peaks, peaks[:1].expand(32))


def test_hills_fall_off_with_the_angle_and_wrap_around():
    centre = torch.tensor([[0.4, 0.05]], dtype=torch.float64)
    [hill] = spherical_gaussian_basis(16, centre, sigma=2.0)
    row, column = torch.meshgrid(torch.arange(16), torch.arange(32), indexing="ij")
    places = torch.stack(pixel_to_sphere(row.double(), column.double(), 16), dim=-1)
    order = great_circle_distance(places, centre[0]).flatten().argsort()
    assert (hill.flatten()[order].diff() <= 1e-6).all()
    k = (16 / (math.pi * 2)) ** 2
    expected = k / math.sinh(k) * (k * great_circle_distance(places, centre[0]).cos()).exp() * math.cos(0.4)
    torch.testing.assert_close(hill.double(), expected, rtol=1e-4, atol=1e-6)


def test_sharp_hills_do_not_overflow():
    basis = spherical_gaussian_basis(64, patch_centres(4), sigma=0.2)
    assert basis.isfinite().all()
    assert (basis.flatten(1).amax(dim=1) > 0).all()


@pytest.mark.parametrize("adjacency", [spherical_adjacency, cartesian_adjacency])
@pytest.mark.parametrize("rows", [2, 3, 4, 5, 14])
def test_neighbourhoods_sum_to_one_leave_the_patch_out_and_turn_with_the_picture(adjacency, rows):
    found = adjacency(rows)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(2 * rows**2))
    assert not found.diagonal().any()
    grid = found.view(rows, 2 * rows, rows, 2 * rows)
    torch.testing.assert_close(grid.roll((1, 1), dims=(1, 3)), grid)
    torch.testing.assert_close(grid.flip(0, 2), grid)


def test_near_the_pole_a_patch_has_neighbours_in_all_of_its_row():
    found = spherical_adjacency(14).view(14, 28, 14, 28)
    assert (found[0, :, 0, 0] > 0).sum() > (found[6, :, 6, 0] > 0).sum() == 2


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: spherical_patch_offsets(30, 8), "height: found 30, expected a multiple of the patch size 8"),
        (lambda: spherical_sampling(0, 8), "height: found 0, expected a multiple of the patch size 8"),
        (lambda: embedding()(torch.zeros(1, 3, 32, 32)), "images: found 32 x 32, expected 32 x 64"),
        (lambda: SphericalPatchEmbed(nn.Linear(3, 2), 32), "patch_embed: found a Linear without convolution"),
        (
            lambda: SphericalPatchEmbed(nn.Conv2d(3, 2, 7, 4), 32),
            "found a convolution of kernel 7 x 7 and stride 4 x 4",
        ),
        (lambda: spherical_gaussian_basis(8, patch_centres(2), sigma=0.0), "sigma: found 0.0, expected above 0"),
        (lambda: spherical_adjacency(1), "rows: found 1, expected at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(act, message):
    with pytest.raises(InputError, match=message):
        act()
