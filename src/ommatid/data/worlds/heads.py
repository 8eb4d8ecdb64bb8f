"""Heads whose shape and expression change linearly, and pictures of them.

`head_model` reads the embedded heads (MakeHuman's CC0 assets); `HeadModel.shapes` gives vertices of any identities and
expressions; `render` draws them in grey, a whole batch at once, by splatting a fixed set of points of their surface.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.data.embedded import read

Vertices = Float[Tensor, "head vertex 3"]
DENSITY = 7
"""Points of the surface for every pixel that is drawn."""
NEAR = 5.0
"""Millimetres behind the front within which points of a pixel are averaged."""
HOLES = 2
"""How often pixels without points are filled from their neighbours."""


@dataclass(frozen=True, eq=False)
class HeadModel:
    """Neutral vertices, and directions in which they move.

    Attributes:
        vertices: in millimetres about the middle of the head: x to its left, y up, z to its front.
        uv: places on the texture map, from its lower left.
        triangles: corners, counter-clockwise where seen from outside.
        identity, phenotype, action: moves in millimetres at a weight of 1; weights of identities and phenotypes lie
            about -1 to 1, those of actions from 0 to 1.
        regions: how much of each vertex belongs to lips, eyes, eyelids, ears, mouth (inside), teeth or tongue.
    """

    vertices: Float[Tensor, "vertex 3"]
    uv: Float[Tensor, "vertex 2"]
    triangles: Int[Tensor, "triangle 3"]
    identity: Float[Tensor, "identity vertex 3"]
    identity_names: tuple[str, ...]
    phenotype: Float[Tensor, "phenotype vertex 3"]
    phenotype_names: tuple[str, ...]
    action: Float[Tensor, "action vertex 3"]
    action_names: tuple[str, ...]
    regions: Mapping[str, Float[Tensor, "vertex"]]

    def shapes(
        self,
        identity: Float[Tensor, "head identity"],
        phenotype: Float[Tensor, "head phenotype"] | None = None,
        action: Float[Tensor, "head action"] | None = None,
    ) -> Vertices:
        """Vertices of heads from their weights.

        Examples:
            >>> model = head_model()
            >>> smile = torch.zeros(1, len(model.action_names))
            >>> smile[0, model.action_names.index("mouthSmileLeft")] = 1.0
            >>> model.shapes(torch.zeros(1, len(model.identity_names)), action=smile).shape
            torch.Size([1, 4146, 3])
        """
        moved = self.vertices + torch.einsum("hi,ivc->hvc", identity, self.identity)
        for weights, moves in ((phenotype, self.phenotype), (action, self.action)):
            if weights is not None:
                moved = moved + torch.einsum("hi,ivc->hvc", weights, moves)
        return moved

    @cached_property
    def skin(self) -> Bool[Tensor, "vertex"]:
        """Vertices of the outside, without eyes, mouth and what is in it."""
        return sum(self.regions[part] for part in ("mouth", "eyes", "teeth", "tongue")) == 0  # type: ignore[return-value]


@lru_cache(maxsize=8)
def surface_points(model: HeadModel, count: int, inside: bool = False) -> Float[Tensor, "point vertex"]:
    """Places spread over skin and eyes, or over what an open mouth shows, as shares of vertices: a sparse matrix.

    They are the same every time. Half of them lie by area, half on what faces the front.
    """
    owner = ~model.skin & (model.regions["eyes"] == 0)
    corners = model.triangles[owner[model.triangles].all(dim=1) == inside]
    first, second, third = model.vertices[corners].unbind(dim=1)
    normals = torch.linalg.cross(second - first, third - first)
    area, front = normals.norm(dim=1), normals[:, 2].clamp(min=0) * (first[:, 2] > 0)
    density = area / area.sum() + front / front.sum()
    # Evenly spread numbers through the cumulative density leave fewer holes than independent draws.
    levels = (torch.arange(count) + 0.5) / count * density.sum()
    triangle = torch.searchsorted(density.cumsum(dim=0), levels).clamp(max=len(density) - 1)
    root, along = torch.rand(2, count, generator=torch.Generator().manual_seed(0))
    root = root.sqrt()
    shares = torch.stack([1 - root, root * (1 - along), root * along], dim=1)
    places = torch.stack([torch.arange(count).repeat_interleave(3), corners[triangle].flatten()])
    shape = (count, len(model.vertices))
    return torch.sparse_coo_tensor(places, shares.flatten(), shape, check_invariants=True).coalesce()


@cache
def head_model() -> HeadModel:
    """The embedded heads: 104 local shapes, 8 phenotypes, 52 facial actions (MakeHuman, CC0 1.0).

    Examples:
        >>> model = head_model()
        >>> len(model.vertices), len(model.identity_names), model.phenotype_names[:3]
        (4146, 104, ('male', 'child', 'old'))
    """
    arrays = read("heads")
    moves = {
        kind: torch.from_numpy(arrays[kind]).float() * torch.from_numpy(arrays[f"{kind}_scale"])[:, None, None]
        for kind in ("identity", "phenotype", "action")
    }
    names = {kind: tuple(arrays[f"{kind}_names"].tolist()) for kind in moves}
    masks = torch.from_numpy(arrays["regions"]).float() / 255
    return HeadModel(
        vertices=torch.from_numpy(arrays["vertices"]),
        uv=torch.from_numpy(arrays["uv"]),
        triangles=torch.from_numpy(arrays["triangles"].astype("int64")),
        regions=dict(zip(arrays["region_names"].tolist(), masks, strict=True)),
        identity=moves["identity"],
        identity_names=names["identity"],
        phenotype=moves["phenotype"],
        phenotype_names=names["phenotype"],
        action=moves["action"],
        action_names=names["action"],
    )


def turned(vertices: Vertices, yaw: Float[Tensor, "head"], pitch: Float[Tensor, "head"]) -> Vertices:
    """Heads turned about the origin (radians): first down by the pitch, then to their left by the yaw.

    Examples:
        >>> nose = torch.tensor([[[0.0, 0.0, 1.0]]])
        >>> turned(nose, torch.tensor([torch.pi / 2]), torch.tensor([0.0])).abs().round(decimals=3)
        tensor([[[1., 0., 0.]]])
    """
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    down = _matrices([one, zero, zero, zero, pitch.cos(), -pitch.sin(), zero, pitch.sin(), pitch.cos()])
    aside = _matrices([yaw.cos(), zero, yaw.sin(), zero, one, zero, -yaw.sin(), zero, yaw.cos()])
    return vertices @ (aside @ down).mT


def vertex_normals(vertices: Vertices, triangles: Int[Tensor, "triangle 3"]) -> Vertices:
    """Of length one, pointing outside; triangles count by their area.

    Examples:
        >>> flat = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
        >>> vertex_normals(flat, torch.tensor([[0, 1, 2]]))[0, 0]
        tensor([0., 0., 1.])
    """
    first, second, third = (vertices[:, corner] for corner in triangles.unbind(dim=1))
    normals = torch.linalg.cross(second - first, third - first)
    total = torch.zeros_like(vertices)
    for corner in triangles.unbind(dim=1):
        total.index_add_(1, corner, normals)
    return F.normalize(total, dim=-1)


def render(
    model: HeadModel,
    vertices: Vertices,
    shade: Float[Tensor, "head vertex"],
    size: int,
    width: float = 200.0,
    finer: int = 2,
) -> tuple[Float[Tensor, "head size size"], Float[Tensor, "head size size"]]:
    """Pictures of heads as seen from the front, parallel to z, and how much of each pixel they cover.

    Args:
        vertices: turned, in millimetres; the origin is the middle of the picture.
        shade: how bright each vertex is; the picture has these values where a pixel is covered and 0 elsewhere.
        width: of the picture, in millimetres.
        finer: pictures are drawn so many times larger and averaged.
    """
    facing = vertex_normals(vertices, model.triangles)[..., 2:]
    drawn = torch.cat([vertices, shade[..., None], facing], dim=-1)
    drawn = rearrange(drawn, "head vertex value -> vertex (head value)")
    fine = size * finer
    skin, mouth = surface_points(model, DENSITY * fine**2), surface_points(model, DENSITY * fine**2 // 8, inside=True)
    values, covered = _splat(torch.sparse.mm(skin, drawn), len(vertices), fine, width)
    for _ in range(HOLES):
        values, covered = _without_holes(values, covered)
    behind, open_mouth = _splat(torch.sparse.mm(mouth, drawn), len(vertices), fine, width)
    values = torch.where(covered > 0, values, behind)
    covered = torch.maximum(covered, open_mouth)
    return tuple(F.avg_pool2d(each[:, None], finer)[:, 0] for each in (values, covered))  # type: ignore[return-value]


def _splat(
    points: Float[Tensor, "point value"], heads: int, size: int, width: float
) -> tuple[Float[Tensor, "head size size"], Float[Tensor, "head size size"]]:
    """The mean of all points that face the viewer and lie foremost in their pixel, and which pixels have any."""
    across, along, depth, shade, facing = rearrange(points, "point (head value) -> value head point", head=heads)
    column = ((across / width + 0.5) * size).floor().long()
    row = ((0.5 - along / width) * size).floor().long()
    seen = (facing > 0) & (column >= 0) & (column < size) & (row >= 0) & (row < size)
    picture = torch.arange(heads, device=points.device)[:, None].expand_as(row)
    pixel = ((picture * size + row) * size + column)[seen]
    depth, shade = depth[seen], shade[seen]
    front = depth.new_full((heads * size * size,), -torch.inf).scatter_reduce_(0, pixel, depth, "amax")
    near = depth > front[pixel] - NEAR
    pixel, shade = pixel[near], shade[near]
    total, count = (shade.new_zeros(len(front)).index_add_(0, pixel, each) for each in (shade, torch.ones_like(shade)))
    mean = (total / count.clamp(min=1)).view(heads, size, size)
    return mean, (count > 0).float().view(heads, size, size)


def _without_holes(
    values: Float[Tensor, "head height width"], covered: Float[Tensor, "head height width"]
) -> tuple[Float[Tensor, "head height width"], Float[Tensor, "head height width"]]:
    """Pixels that no point fell on take the mean of their neighbours where most of these are covered."""
    around, sums = (9 * F.avg_pool2d(each[:, None], 3, 1, 1)[:, 0] for each in (covered, values * covered))
    hole = (covered == 0) & (around > 4.5)
    return torch.where(hole, sums / around.clamp(min=1), values), torch.where(hole, 1.0, covered)


def _matrices(entries: list[Float[Tensor, "head"]]) -> Float[Tensor, "head 3 3"]:
    return torch.stack(entries, dim=-1).view(-1, 3, 3)
