"""Images with the class, the surface normal and the depth of every pixel; normals from bytes and from depths."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.errors import InputError

IGNORE = 255
"""Label of pixels that have none."""


@dataclass(frozen=True)
class Camera:
    """A pinhole: focal lengths and principal point in pixels, counted from the middle of the first pixel.

    Examples:
        >>> Camera.of_nyu(240, 320).fx
        259.42895...
    """

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def of_nyu(cls, height: int = 480, width: int = 640) -> "Camera":
        """That of NYUv2's photographs, to which its depths are projected, for images resized to a height and width."""
        down, across = height / 480, width / 640
        return cls(
            518.85790117 * across,
            519.46961112 * down,
            (325.58244941 + 0.5) * across - 0.5,
            (253.73616633 + 0.5) * down - 0.5,
        )

    def rays(self, height: int, width: int) -> Float[Tensor, "3 height width"]:
        """Where every pixel looks: right, down and ahead, the latter 1."""
        y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
        return torch.stack([(x - self.cx) / self.fx, (y - self.cy) / self.fy, torch.ones_like(x)])


@dataclass(frozen=True, eq=False)
class SurfaceSample:
    """One image with what is to be predicted of every pixel.

    Attributes:
        image: in [0, 1].
        semantic: classes, 255 where a pixel has none.
        normals: unit vectors, zero where there is none.
        depth: in metres, 0 where unknown; None in the release's layout.
    """

    image: Float[Tensor, "3 height width"]
    semantic: Int[Tensor, "height width"]
    normals: Float[Tensor, "3 height width"]
    depth: Float[Tensor, "1 height width"] | None
    id: str

    @property
    def normals_valid(self) -> Bool[Tensor, "height width"]:
        return (self.normals != 0).any(dim=0)


class SurfaceImages(Dataset[SurfaceSample]):
    """Images of one split, read when asked for."""

    class_names: tuple[str, ...]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> SurfaceSample:
        raise NotImplementedError


def decoded_normals(encoded: UInt8[Tensor, "3 height width"], decode: str = "unit") -> Float[Tensor, "3 height width"]:
    """Unit vectors of bytes, see `open_nyu`; zero where all three bytes are 255.

    Examples:
        >>> pixels = torch.tensor([[128, 255], [128, 255], [255, 255]], dtype=torch.uint8)[:, None]
        >>> decoded_normals(pixels)[:, 0]
        tensor([[0.0039, 0.0000],
                [0.0039, 0.0000],
                [1.0000, 0.0000]])
        >>> decoded_normals(pixels, "raw")[:, 0, 0]
        tensor([0.4093, 0.4093, 0.8154])
    """
    values = encoded.float()
    vectors = F.normalize(values if decode == "raw" else 2 * values / 255 - 1, dim=0)
    return vectors.masked_fill((encoded == 255).all(dim=0), 0.0)


def encoded_normals(normals: Float[Tensor, "3 height width"]) -> UInt8[Tensor, "3 height width"]:
    """Bytes of unit vectors, 255 where a vector is zero."""
    valid = (normals != 0).any(dim=0)
    return ((normals + 1) * 127.5).round().clamp(0, 255).masked_fill(~valid, 255.0).to(torch.uint8)


def normals_from_depth(
    depth: Float[Tensor, "1 height width"], camera: Camera, window: int = 5, steepest: float = 80.0
) -> Float[Tensor, "3 height width"]:
    """Normals of the planes through the points around every pixel (x to the right, y up, z to the viewer).

    In an image of a plane, inverse depth is linear in the pixels: it is fitted by least squares, exact for planes.

    Args:
        depth: in metres, 0 where unknown.
        window: side in pixels of what is fitted, odd.
        steepest: neighbours count that a plane could reach which turns away from the line of sight by so many degrees:
            others are of another surface.

    Returns:
        Unit vectors; zero where the depth is unknown or too few neighbours count.

    Examples:
        >>> camera = Camera(100.0, 100.0, 3.5, 3.5)
        >>> normals_from_depth(torch.full((1, 8, 8), 2.0), camera)[:, 4, 4]
        tensor([-0., 0., 1.])
    """
    if window < 3 or window % 2 == 0:
        raise InputError(f"window: found {window}, expected an odd number from 3 on")
    height, width = depth.shape[1:]
    inverse = torch.where(depth > 0, 1 / depth.clamp(min=1e-6), 0.0)
    around = F.unfold(inverse[None], window, padding=window // 2)[0].unflatten(1, (height, width))
    step = torch.arange(window, dtype=depth.dtype) - window // 2
    y, x = (each.flatten() for each in torch.meshgrid(step, step, indexing="ij"))
    reach = math.tan(math.radians(steepest)) * torch.hypot(x / camera.fx, y / camera.fy)
    known = (around > 0) & ((around - inverse).abs() <= reach[:, None, None] * inverse)
    one = torch.ones_like(x)

    def sums(values: Tensor, *weights: Tensor) -> list[Tensor]:
        return list(torch.einsum("khw,fk->fhw", values, torch.stack(weights)))

    n, sx, sy, sxx, sxy, syy = sums(known.to(depth), one, x, y, x * x, x * y, y * y)
    t, tx, ty = sums((around - inverse) * known, one, x, y)
    n = n.clamp(min=1)
    cxx, cxy, cyy = sxx - sx * sx / n, sxy - sx * sy / n, syy - sy * sy / n
    cx, cy = tx - sx * t / n, ty - sy * t / n
    determinant = cxx * cyy - cxy * cxy
    # Three pixels in an angle have a third; those in a line, none.
    fitted = determinant > 0.1
    determinant = determinant.where(fitted, 1.0)
    across, down = (cyy * cx - cxy * cy) / determinant, (cxx * cy - cxy * cx) / determinant
    middle = inverse[0] + (t - across * sx - down * sy) / n
    rays = camera.rays(height, width)
    right, below = across * camera.fx, down * camera.fy
    vectors = torch.stack([-right, below, middle - right * rays[0] - below * rays[1]])
    return F.normalize(vectors, dim=0).where(fitted & (inverse[0] > 0), 0.0)
