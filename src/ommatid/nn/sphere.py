"""The sphere behind equirectangular pictures: places, tangent planes, neighbourhoods (PAVER, arXiv:2209.08956).

A picture of `height` rows has twice as many columns. Row 0 is at the north pole and column 0 at longitude 0; a step of
one row or column is pi / height (E3). Latitudes run from pi/2 in the north to -pi/2 in the south, longitudes from 0 to
2 pi. Patches are numbered row by row from the north.
"""

import math
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.errors import InputError

Sampling = Literal["interpolated", "discrete"]
Images = Float[Tensor, "batch channel height width"]


def sphere_to_pixel(
    latitude: Float[Tensor, "*place"], longitude: Float[Tensor, "*place"], height: int
) -> tuple[Float[Tensor, "*place"], Float[Tensor, "*place"]]:
    """Row and column, as fractions, where a place is seen in a picture of `height` rows (E3).

    Args:
        longitude: in radians, of any number of turns.

    Examples:
        >>> row, column = sphere_to_pixel(torch.tensor([0.0]), torch.tensor([-math.pi / 2]), height=32)
        >>> row.item(), round(column.item(), 4)
        (16.0, 48.0)
    """
    per_radian = height / math.pi
    return (math.pi / 2 - latitude) * per_radian, longitude.remainder(2 * math.pi) * per_radian


def pixel_to_sphere(
    row: Float[Tensor, "*place"], column: Float[Tensor, "*place"], height: int
) -> tuple[Float[Tensor, "*place"], Float[Tensor, "*place"]]:
    """Latitude and longitude that a picture of `height` rows shows there; the inverse of `sphere_to_pixel`.

    Examples:
        >>> latitude, longitude = pixel_to_sphere(torch.tensor([0.0]), torch.tensor([32.0]), height=32)
        >>> round(latitude.item(), 4), round(longitude.item(), 4)
        (1.5708, 3.1416)
    """
    per_pixel = math.pi / height
    return math.pi / 2 - row * per_pixel, column * per_pixel


def great_circle_distance(
    first: Float[Tensor, "*#place 2"], second: Float[Tensor, "*#place 2"]
) -> Float[Tensor, "*#place"]:
    """Angle between places of latitude and longitude, by haversine, which is exact for near ones, too (E11).

    Examples:
        >>> pole, equator = torch.tensor([math.pi / 2, 0.3]), torch.tensor([0.0, 2.0])
        >>> round(great_circle_distance(pole, equator).item(), 4)
        1.5708
    """
    (north, east), (other_north, other_east) = first.unbind(-1), second.unbind(-1)
    chord = ((north - other_north) / 2).sin() ** 2
    chord = chord + north.cos() * other_north.cos() * ((east - other_east) / 2).sin() ** 2
    return 2 * chord.clamp(0, 1).sqrt().asin()


def patch_centres(rows: int) -> Float[Tensor, "patch 2"]:
    """Latitude and longitude of the middles of `rows` x `2 rows` patches, in double precision (E11).

    Examples:
        >>> (patch_centres(2) * 4 / math.pi).tolist()
        [[1.0, 1.0], [1.0, 3.0], [1.0, 5.0], [1.0, 7.0], [-1.0, 1.0], [-1.0, 3.0], [-1.0, 5.0], [-1.0, 7.0]]
    """
    half = math.pi / (2 * rows)
    latitude = math.pi / 2 - half * (2 * torch.arange(rows, dtype=torch.float64) + 1)
    longitude = half * (2 * torch.arange(2 * rows, dtype=torch.float64) + 1)
    return torch.cartesian_prod(latitude, longitude)


def spherical_patch_offsets(
    height: int, patch_size: int, exact: bool = False, sampling: Sampling = "interpolated"
) -> Float[Tensor, "offset row column"]:
    """How far from its place in the picture each tap of a patch lies on the tangent plane (E1-E4): what a deformable
    convolution takes whose kernel and stride are `patch_size`.

    Args:
        height: rows of the picture.
        exact: patches that meet their neighbours, of pi / rows each; otherwise as released, a little smaller and
            closer together, so that a gap remains where the last column should meet the first.
        sampling: "discrete" for whole pixels, rounded down.

    Returns:
        (2 `patch_size`^2, patches down, patches across): rows and columns of one tap after the other in turn.

    Raises:
        InputError: the height is no multiple of the patch size.

    Examples:
        >>> spherical_patch_offsets(32, patch_size=8).shape
        torch.Size([128, 4, 8])
    """
    places = _tap_places(height, patch_size, exact, sampling)
    rows = height // patch_size
    step = torch.arange(patch_size)
    planar = torch.stack(
        [
            (patch_size * torch.arange(rows)[:, None, None, None] + step[:, None]).expand(places.shape[:-1]),
            (patch_size * torch.arange(2 * rows)[:, None, None] + step).expand(places.shape[:-1]),
        ],
        dim=-1,
    )
    return rearrange(places - planar, "i j u v place -> (u v place) i j").float()


def spherical_sampling(
    height: int, patch_size: int, exact: bool = True, sampling: Sampling = "interpolated", circular: bool = True
) -> tuple[Int[Tensor, "corner pixel"], Float[Tensor, "corner pixel"]]:
    """Which pixels of an equirectangular picture, and how much of each, make the picture whose planar patches are those
    of tangent planes (E1-E4).

    Args:
        circular: reads beyond the last column are those of the first one, and beyond the last row its own; otherwise
            what lies outside is zero, as released.

    Returns:
        Numbers of pixels, counted row by row, and their weights: four for every pixel ("interpolated"), or one.

    Raises:
        InputError: the height is no multiple of the patch size.

    Examples:
        >>> pixels, weights = spherical_sampling(32, patch_size=8)
        >>> pixels.shape, bool(weights.sum(dim=0).allclose(torch.ones(2048)))
        (torch.Size([4, 2048]), True)
    """
    places = rearrange(_tap_places(height, patch_size, exact, sampling), "i j u v place -> place (i u j v)")
    row, column = places.floor().long()
    down, right = places - places.floor()
    width = 2 * height
    rows, columns = torch.stack([row, row, row + 1, row + 1]), torch.stack([column, column + 1] * 2)
    weights = torch.stack([1 - down, 1 - down, down, down]) * torch.stack([1 - right, right] * 2)
    if circular:
        columns = columns % width
    else:
        weights = weights * ((rows < height) & (columns < width))
    pixels = rows.clamp(max=height - 1) * width + columns.clamp(max=width - 1)
    used = weights.any(dim=1)
    return pixels[used], weights[used].float()


def _tap_places(height: int, patch_size: int, exact: bool, sampling: Sampling) -> Float[Tensor, "i j u v 2"]:
    """Rows and columns of every tap of every patch (E1-E3), in double precision: the seam and the poles are exact."""
    if patch_size < 1 or height < patch_size or height % patch_size:
        raise InputError(f"height: found {height}, expected a multiple of the patch size {patch_size}")
    rows = height // patch_size
    # The angle for which the release stands both as half a step and as half the extent on the plane.
    released = math.atan(math.pi / (2 * rows))
    half_step, extent = (math.pi / (2 * rows), math.tan(math.pi / (2 * rows))) if exact else (released, released)
    taps = torch.linspace(-extent, extent, patch_size, dtype=torch.float64)
    across, up = taps.view(1, 1, 1, -1), taps.flip(0).view(1, 1, -1, 1)
    elevation = half_step * (rows - 1 - 2 * torch.arange(rows, dtype=torch.float64)).view(-1, 1, 1, 1)
    azimuth = half_step * (4 * rows - 1 - 2 * torch.arange(2 * rows, dtype=torch.float64)).view(1, -1, 1, 1)
    # The plane touches the sphere in front, is raised to the elevation, and then turned back by the azimuth.
    ahead, height_above = elevation.cos() - up * elevation.sin(), elevation.sin() + up * elevation.cos()
    latitude = torch.atan2(height_above, torch.hypot(ahead, across))
    longitude = torch.atan2(across, ahead) - azimuth
    latitude, longitude = torch.broadcast_tensors(latitude, longitude)
    places = torch.stack(sphere_to_pixel(latitude, longitude, height), dim=-1)
    return places.trunc() if sampling == "discrete" else places


class SphericalPatchEmbed(nn.Module):
    """Any patch embedding, its patches taken from planes that touch the sphere (E1-E4).

    The planes are fixed, so that a picture is resampled by constant weights, four for every pixel, and then embedded as
    it would be without: a deformable convolution, without the operator. No parameter is added.

    Args:
        patch_embed: cuts (batch, channel, height, 2 height) into square patches by a convolution whose kernel is its
            stride, such as timm's `PatchEmbed`; its attributes are those of this module, too.
        height: rows of the pictures.
        exact, sampling, circular: as in `spherical_sampling`; `exact=False, circular=False` is what was released.

    Raises:
        InputError: the patch embedding has no such convolution, the height is no multiple of the patch size, or
            pictures have another size.

    Examples:
        >>> embed = SphericalPatchEmbed(nn.Conv2d(3, 12, kernel_size=8, stride=8), height=32)
        >>> embed(torch.randn(1, 3, 32, 64)).shape
        torch.Size([1, 12, 4, 8])
    """

    pixels: Tensor
    weights: Tensor

    def __init__(
        self,
        patch_embed: nn.Module,
        height: int,
        exact: bool = True,
        circular: bool = True,
        sampling: Sampling = "interpolated",
    ) -> None:
        super().__init__()
        self.height, self.exact, self.circular, self.sampling = height, exact, circular, sampling
        pixels, weights = spherical_sampling(height, _patch_size(patch_embed), exact, sampling, circular)
        self.register_buffer("pixels", pixels, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        self.patch_embed = patch_embed

    def forward(self, images: Images) -> Tensor:
        return self.patch_embed(self.tangent(images))

    def tangent(self, images: Images) -> Images:
        """The pictures whose planar patches are those of the tangent planes, side by side."""
        height, width = images.shape[-2:]
        if (height, width) != (self.height, 2 * self.height):
            raise InputError(f"images: found {height} x {width}, expected {self.height} x {2 * self.height}")
        read = images.flatten(2).index_select(2, self.pixels.flatten()).unflatten(2, self.pixels.shape)
        return (read * self.weights.to(images.dtype)).sum(dim=2).reshape(images.shape)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "patch_embed" not in self._modules:
                raise
            # Vision transformers ask their patch embedding for grid_size, num_patches and the like.
            return getattr(self._modules["patch_embed"], name)

    def extra_repr(self) -> str:
        return f"height={self.height}, exact={self.exact}, circular={self.circular}, sampling={self.sampling}"


def _patch_size(patch_embed: nn.Module) -> int:
    for module in patch_embed.modules():
        if isinstance(module, nn.Conv2d):
            if len({*module.kernel_size, *module.stride}) == 1:
                return module.kernel_size[0]
            kernel, stride = (" x ".join(map(str, sides)) for sides in (module.kernel_size, module.stride))
            raise InputError(
                f"patch_embed: found a convolution of kernel {kernel} and stride {stride}, expected one square for both"
            )
    raise InputError(f"patch_embed: found a {type(patch_embed).__name__} without convolution, expected one with it")


def spherical_gaussian_basis(
    height: int, centres: Float[Tensor, "patch 2"], sigma: float = 16.0
) -> Float[Tensor, "patch {height} {2*height}"]:
    """A hill on the sphere around every centre, seen in a picture of `height` rows, times the cosine of its latitude
    (E11).

    exp(k cos psi) for the angle psi from the centre, divided by sinh(k) / k, in a form without overflow for any k.

    Args:
        centres: latitude and longitude.
        sigma: width of the hill at the equator, in pixels.

    Raises:
        InputError: sigma is not above 0.

    Examples:
        >>> basis = spherical_gaussian_basis(16, patch_centres(4), sigma=1.0)
        >>> basis.shape, divmod(int(basis[9].argmax()), 32)
        (torch.Size([32, 16, 32]), (6, 6))
    """
    if not sigma > 0:
        raise InputError(f"sigma: found {sigma}, expected above 0")
    row, column = torch.cartesian_prod(
        torch.arange(height, dtype=torch.float64), torch.arange(2 * height, dtype=torch.float64)
    ).unbind(-1)
    pixels = _directions(torch.stack(pixel_to_sphere(row, column, height), dim=-1))
    sharpness = (height / (math.pi * sigma)) ** 2
    peak = 2 * sharpness / -math.expm1(-2 * sharpness)
    # A few centres at a time: in double precision, all pixels of all of them would fill the memory.
    maps = [
        (sharpness * (_directions(part) @ pixels.T - 1)).float().exp() * (peak * part[:, :1].cos()).float()
        for part in centres.double().split(64)
    ]
    return torch.cat(maps).unflatten(1, (height, 2 * height))


def _directions(places: Float[Tensor, "place 2"]) -> Float[Tensor, "place 3"]:
    latitude, longitude = places.unbind(-1)
    return torch.stack([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=-1)


def spherical_adjacency(rows: int) -> Float[Tensor, "patch patch"]:
    """How much each patch (row) counts among the neighbours of another one (column), by nearness on the sphere (E12).

    What cos(angle) exceeds cos(pi / rows) by, without the patch itself; columns sum to one. With an odd number of rows,
    patches on the equator have no neighbour that is nearer than pi / rows: theirs are those of `cartesian_adjacency`.

    Raises:
        InputError: there are fewer than two rows of patches.

    Examples:
        >>> (100 * spherical_adjacency(4)[:4, 0]).round().int().tolist()
        [0, 28, 17, 5]
    """
    planar = cartesian_adjacency(rows)
    directions = _directions(patch_centres(rows))
    nearness = (directions @ directions.T - math.cos(math.pi / rows)).fill_diagonal_(0)
    # Patches straight above and below are as far as the bound: what rounding leaves of them is no neighbour.
    nearness = nearness.masked_fill(nearness < 1e-12, 0)
    return torch.where(nearness.any(dim=0), _column_normalised(nearness), planar)


def cartesian_adjacency(rows: int) -> Float[Tensor, "patch patch"]:
    """How much each patch counts among the neighbours of another one in the picture: those above, below and beside it
    alike, beyond the last column the first one (E12).

    Raises:
        InputError: there are fewer than two rows of patches.

    Examples:
        >>> cartesian_adjacency(2)[:, 0].nonzero().flatten().tolist()
        [1, 3, 4]
    """
    if rows < 2:
        raise InputError(f"rows: found {rows}, expected at least 2")
    row, column = torch.cartesian_prod(torch.arange(rows), torch.arange(2 * rows)).unbind(-1)
    down, across = ((each[:, None] - each).abs() for each in (row, column))
    across = torch.minimum(across, 2 * rows - across)
    return _column_normalised((down + across == 1).double())


def _column_normalised(weights: Float[Tensor, "patch patch"]) -> Float[Tensor, "patch patch"]:
    return (weights / weights.sum(dim=0)).float()
