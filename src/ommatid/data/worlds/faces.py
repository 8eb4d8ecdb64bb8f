"""`world-faces`: rendered heads of many identities in many poses, lights and expressions, in grey; seeded.

An identity is a shape (local directions and phenotypes of `HeadModel`) and what its skin looks like (`SKIN`); a picture
of it adds a pose, a light, an expression (`EXPRESSIONS`), a background and noise. None of these knows of another, and
no identity is in two splits.
"""

import io
import math
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from ommatid.data.faces import HEADER, MAGIC
from ommatid.data.images import SPLITS
from ommatid.data.new_folder import new_folder
from ommatid.data.worlds.heads import HeadModel, head_model, render, turned, vertex_normals
from ommatid.errors import InputError, unknown

SKIN: Mapping[str, tuple[float, float]] = {
    "skin": (0.5, 0.9),
    "lips": (0.55, 0.95),
    "brows": (0.0, 0.7),
    "brow height": (30.0, 36.0),
    "brow width": (2.5, 5.0),
    "iris": (0.1, 0.5),
    "hair": (0.08, 0.75),
    "hair line": (62.0, 100.0),
    "hair volume": (0.0, 15.0),
    "beard": (-1.5, 0.6),
}
"""What an identity looks like, each drawn evenly between two ends: brightness of skin and hair, of iris, lips and brows
(as shares of that of the skin), places and thickness in millimetres, and how much of the skin a beard hides."""
EXPRESSIONS: Mapping[str, tuple[str, ...]] = {
    "smile": ("mouthSmileLeft", "mouthSmileRight", "cheekSquintLeft", "cheekSquintRight"),
    "frown": ("mouthFrownLeft", "mouthFrownRight"),
    "open mouth": ("jawOpen",),
    "raised brows": ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    "knitted brows": ("browDownLeft", "browDownRight"),
    "narrow eyes": ("eyeSquintLeft", "eyeSquintRight"),
}
"""The facial actions of every expression."""
YAW, PITCH = math.radians(23), math.radians(11)
AMBIENT = 0.35
FORMATS = ("folder", "list", "bin", "records")
WAVES = 10
# Pictures that are rendered at once.
_CHUNK = 32


@dataclass(frozen=True, eq=False)
class FaceScenes:
    """Pictures of faces, and what each is made of.

    Attributes:
        labels: the identity of every picture, numbered within the split.
        poses: yaw to the head's left and pitch down, in radians.
        lights: where the light comes from: to the right, up and to the viewer of the picture; of length one.
        expressions: how strong each of `EXPRESSIONS` is, from 0 to 1.
        shapes, phenotypes: weights of the directions of `HeadModel`, one row an identity.
        skins: the values of `SKIN`, one row an identity.
    """

    images: UInt8[Tensor, "picture 1 height width"]
    labels: Int[Tensor, "picture"]
    poses: Float[Tensor, "picture 2"]
    lights: Float[Tensor, "picture 3"]
    expressions: Float[Tensor, "picture 6"]
    shapes: Float[Tensor, "identity shape"]
    phenotypes: Float[Tensor, "identity phenotype"]
    skins: Float[Tensor, "identity 10"]


@dataclass(frozen=True)
class FaceWorld:
    """Identities to learn from, and others to validate and to test with.

    Attributes:
        train, val, test: number of identities. A smaller split is the beginning of a larger one of the same seed.
        train_pictures: pictures of every identity to learn from.
        pictures: pictures of every other identity.
        size: height and width in pixels.
        noise: standard deviation of what is added to every pixel, of values in [0, 1].
        expression: the strongest that an expression can be.

    Raises:
        InputError: a number is below 1, or noise or expression is out of range.

    Examples:
        >>> world = FaceWorld(train=2, train_pictures=3, size=24)
        >>> scenes = world.split("train")
        >>> scenes.images.shape, scenes.labels.tolist()
        (torch.Size([6, 1, 24, 24]), [0, 0, 0, 1, 1, 1])
    """

    train: int = 70
    val: int = 30
    test: int = 40
    train_pictures: int = 20
    pictures: int = 12
    size: int = 40
    seed: int = 0
    noise: float = 0.02
    expression: float = 0.5

    def __post_init__(self) -> None:
        for name in (*SPLITS, "train_pictures", "pictures", "size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 0 <= self.noise < math.inf:
            raise InputError(f"noise must be 0 or more, found {self.noise}")
        if not 0 <= self.expression <= 1:
            raise InputError(f"expression must lie from 0 to 1, found {self.expression}")

    def split(self, name: str) -> FaceScenes:
        """All pictures of a split; kept in memory for the next time.

        Raises:
            InputError: the split is none of train, val and test.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        return _scenes(self, name)

    def write(self, root: str | Path, format: str = "folder") -> dict[str, int]:
        """Write all splits in a layout of face recognition, beside `root` first and moved there at once.

        | format | files |
        |---|---|
        | "folder" | `<split>/<identity>/<number>.png` |
        | "list" | the same pictures, and `<split>.txt` of lines `path label` |
        | "bin" | training pictures in folders, and pairs of faces in `val.bin` and `test.bin` |
        | "records" | training pictures in `train.rec`, `train.idx` and `property`, and the same pairs |

        Returns:
            Number of pictures of every split, or of pairs where it is written as pairs.

        Raises:
            InputError: the folder is not empty or cannot be written, or the format is unknown.
        """
        if format not in FORMATS:
            raise unknown("format of world-faces", format, FORMATS)
        with new_folder(root) as aside:
            counts = {name: _WRITERS[format, name](aside, name, self.split(name)) for name in SPLITS}
        return counts


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What identities are made of; the first axis counts identities, a second one their pictures."""

    shape: Float[Tensor, "identity shape"]
    phenotype: Float[Tensor, "identity phenotype"]
    skin: Float[Tensor, "identity 10"]
    waves: Float[Tensor, "identity wave 4"]
    pose: Float[Tensor, "identity picture 2"]
    light: Float[Tensor, "identity picture 3"]
    expression: Float[Tensor, "identity picture 6"]
    ground: Float[Tensor, "identity picture"]


def _draw(model: HeadModel, pictures: int, strongest: float, generator: torch.Generator) -> _Drawn:
    """One identity; the order of the draws is what a seed stands for."""

    def even(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    directions = len(model.identity_names)
    # Directions that move much (a whole skull) are drawn smaller.
    gain = (12 / model.identity.abs().amax(dim=(1, 2))).clamp(max=1)
    chosen = torch.rand(directions, generator=generator) < 0.5
    shape = gain * chosen * (0.6 * torch.randn(directions, generator=generator)).clamp(-1.2, 1.2)
    # Any mixture is as likely as any other.
    ancestry = torch.empty(3).exponential_(generator=generator)
    ancestry = ancestry / ancestry.sum()
    male, weight, muscle = even(-1.0, 1.0, 3)
    # Half of all people are no children, and half are not old.
    child, old = even(-1.0, 1.0, 2).clamp(min=0) * torch.tensor([0.4, 0.8])
    kinds = {
        "male": male,
        "child": child,
        "old": old,
        "weight": weight,
        "muscle": muscle,
        **dict(zip(("african", "asian", "caucasian"), 1.5 * ancestry, strict=True)),
    }
    phenotype = torch.stack([kinds[name] for name in model.phenotype_names])
    low, high = torch.tensor(list(SKIN.values())).unbind(dim=1)
    skin = low + (high - low) * torch.rand(len(SKIN), generator=generator)
    waves = torch.cat(
        [even(-14.0, 14.0, WAVES, 2), even(0.0, 1.0, WAVES, 2) * torch.tensor([2 * math.pi, 0.06])], dim=1
    )
    pose = even(-1.0, 1.0, pictures, 2) * torch.tensor([YAW, PITCH])
    aside, above = even(-1.1, 1.1, pictures), even(-0.2, 1.0, pictures)
    light = torch.stack([aside.sin() * above.cos(), above.sin(), aside.cos() * above.cos()], dim=-1)
    shown = torch.rand(pictures, len(EXPRESSIONS), generator=generator) < 0.4
    expression = shown * even(0.0, strongest, pictures, len(EXPRESSIONS))
    ground = even(0.05, 0.95, pictures)
    return _Drawn(*(each[None] for each in (shape, phenotype, skin, waves, pose, light, expression, ground)))


@lru_cache(maxsize=6)
def _scenes(world: FaceWorld, split: str) -> FaceScenes:
    model = head_model()
    count = getattr(world, split)
    pictures = world.train_pictures if split == "train" else world.pictures
    base = len(SPLITS) * world.seed + SPLITS.index(split)
    # A generator for each identity: a world of fewer identities is then the beginning of one with more.
    generators = [torch.Generator().manual_seed(1_000_003 * base + number) for number in range(count)]
    parts = [_draw(model, pictures, world.expression, generator) for generator in generators]
    drawn = _Drawn(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(_Drawn)))
    rest, albedo = _bodies(model, drawn)
    owner = torch.arange(count).repeat_interleave(pictures)
    pose, light, expression, ground = (
        each.flatten(0, 1) for each in (drawn.pose, drawn.light, drawn.expression, drawn.ground)
    )
    # Part after part: the renderer holds several floats for every point of every picture.
    chunks = [
        _pictures(model, rest[owner[some]], albedo[owner[some]], pose[some], light[some], expression[some], world.size)
        for some in torch.arange(len(owner)).split(_CHUNK)
    ]
    heads, covered = (torch.cat(each) for each in zip(*chunks, strict=True))
    images = heads + (1 - covered) * ground[:, None, None]
    noise = [torch.randn(pictures, world.size, world.size, generator=generator) for generator in generators]
    images = ((images + world.noise * torch.cat(noise)).clamp(0, 1) * 255).round().to(torch.uint8)
    return FaceScenes(images[:, None], owner, pose, light, expression, drawn.shape, drawn.phenotype, drawn.skin)


def _pictures(
    model: HeadModel,
    rest: Float[Tensor, "picture vertex 3"],
    albedo: Float[Tensor, "picture vertex"],
    pose: Float[Tensor, "picture 2"],
    light: Float[Tensor, "picture 3"],
    expression: Float[Tensor, "picture 6"],
    size: int,
) -> tuple[Float[Tensor, "picture size size"], Float[Tensor, "picture size size"]]:
    """Heads before nothing, and how much of each pixel they cover."""
    moves = torch.einsum("pe,evc->pvc", expression, _expression_moves())
    vertices = turned(rest + moves, pose[:, 0], pose[:, 1])
    normals = vertex_normals(vertices, model.triangles)
    lit = AMBIENT + (1 - AMBIENT) * torch.einsum("pvc,pc->pv", normals, light).clamp(min=0)
    return render(model, vertices, albedo * lit, size)


@cache
def _expression_moves() -> Float[Tensor, "6 vertex 3"]:
    model = head_model()
    return torch.stack(
        [
            torch.stack([model.action[model.action_names.index(name)] for name in names]).sum(dim=0)
            for names in EXPRESSIONS.values()
        ]
    )


def _bodies(
    model: HeadModel, drawn: _Drawn
) -> tuple[Float[Tensor, "identity vertex 3"], Float[Tensor, "identity vertex"]]:
    """Vertices at rest, hair included, and the albedo of every identity."""
    skin = dict(zip(SKIN, drawn.skin.unbind(dim=1), strict=True))
    hair = _hair(model, skin["hair line"])
    rest = model.shapes(drawn.shape, drawn.phenotype)
    outwards = vertex_normals(rest, model.triangles)
    rest = rest + (hair * skin["hair volume"][:, None])[..., None] * outwards
    return _fitted(model, rest), _albedo(model, skin, hair, drawn.waves)


def _fitted(model: HeadModel, vertices: Float[Tensor, "identity vertex 3"]) -> Float[Tensor, "identity vertex 3"]:
    """Heads as they are cut out by a detector: in the middle of the face, and of one size."""
    face = model.skin & (model.vertices[:, 2] > 20) & (model.vertices[:, 1] > -100)

    def placed(heads: Tensor) -> tuple[Tensor, Tensor]:
        middle = heads[:, face].mean(dim=1, keepdim=True)
        spread = (heads[:, face] - middle)[..., :2].norm(dim=-1).mean(dim=1)
        return middle, spread[:, None, None]

    wanted, size = placed(model.vertices[None])
    middle, spread = placed(vertices)
    return (vertices - middle) * size / spread + wanted * torch.tensor([1.0, 1.0, 0.0])


def _hair(model: HeadModel, line: Float[Tensor, "identity"]) -> Float[Tensor, "identity vertex"]:
    """How much hair grows at each vertex: above a line that falls from the forehead past the ears to the nape."""
    across, height, depth = model.vertices.unbind(dim=1)
    around = torch.atan2(across.abs(), depth)
    fall = ((around - 0.5) / 0.8).clamp(0, 1) * 90 + ((around - 1.4) / 0.3).clamp(0, 1) * 60
    covered = torch.sigmoid((height - line[:, None] + fall) / 4)
    return covered * (model.skin & (model.regions["ears"] < 0.5))


def _albedo(
    model: HeadModel,
    skin: Mapping[str, Float[Tensor, "identity"]],
    hair: Float[Tensor, "identity vertex"],
    waves: Float[Tensor, "identity wave 4"],
) -> Float[Tensor, "identity vertex"]:
    value = {name: each[:, None] for name, each in skin.items()}
    across, height, depth = model.vertices.unbind(dim=1)
    phase = torch.einsum("iwc,vc->iwv", waves[..., :2], model.uv * 2 * math.pi) + waves[..., 2:3]
    albedo = value["skin"] * (1 + (waves[..., 3:] * phase.sin()).sum(dim=1))
    beard = torch.sigmoid((-30 - height - 0.4 * (70 - depth).clamp(min=0)) / 4) * (height > -100) * (depth > 0)
    albedo = albedo * (1 - value["beard"].clamp(min=0) * beard * (1 - model.regions["lips"]))
    albedo = albedo * (1 - (1 - value["lips"]) * model.regions["lips"])
    albedo = albedo * (1 - (1 - value["brows"]) * _brows(model, value["brow height"], value["brow width"]))
    albedo = albedo + hair * (value["hair"] - albedo)
    # What is inside the mouth lies in its shadow; teeth and the white of the eye are those of everybody.
    albedo = albedo.where(model.skin, 0.15)
    albedo = albedo.where(model.regions["teeth"] == 0, 0.75)
    centre = model.vertices[model.regions["eyes"] > 0].abs().mean(dim=0)
    iris = torch.hypot(across.abs() - centre[0], height - centre[1]) < 7.5
    eyes = torch.where(iris & (depth > centre[2]), value["iris"], 0.9)
    return torch.where(model.regions["eyes"] > 0, eyes, albedo).clamp(0, 1)


def _brows(
    model: HeadModel, height: Float[Tensor, "identity 1"], width: Float[Tensor, "identity 1"]
) -> Float[Tensor, "identity vertex"]:
    across, up, depth = model.vertices.unbind(dim=1)
    along = (across.abs() - 28) / 20
    off = (up - height + 5 * along**2) / width
    return torch.exp(-(off**2) / 2) * torch.sigmoid((1 - along.abs()) / 0.08) * (depth > 0) * model.skin


def _encoded(picture: UInt8[Tensor, "1 height width"]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture[0].numpy()).save(stream, "PNG")
    return stream.getvalue()


def _write_folder(root: Path, split: str, scenes: FaceScenes) -> int:
    for path, picture in zip(_paths(split, scenes), scenes.images, strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(_encoded(picture))
    return len(scenes.labels)


def _write_list(root: Path, split: str, scenes: FaceScenes) -> int:
    rows = [f"{path} {label}\n" for path, label in zip(_paths(split, scenes), scenes.labels.tolist(), strict=True)]
    (root / f"{split}.txt").write_text("".join(rows), encoding="utf-8")
    return _write_folder(root, split, scenes)


def _paths(split: str, scenes: FaceScenes) -> list[str]:
    seen: dict[int, int] = {}
    names = []
    for label in scenes.labels.tolist():
        seen[label] = seen.get(label, 0) + 1
        names.append(f"{split}/{label:05d}/{seen[label]:04d}.png")
    return names


def _write_pairs(root: Path, split: str, scenes: FaceScenes) -> int:
    first, second, same = verification_pairs(scenes.labels)
    encoded = [_encoded(picture) for picture in scenes.images]
    images = [encoded[number] for pair in zip(first.tolist(), second.tolist(), strict=True) for number in pair]
    (root / f"{split}.bin").write_bytes(pickle.dumps((images, same.tolist())))
    return len(same)


def verification_pairs(
    labels: Int[Tensor, "picture"], pairs: int = 600
) -> tuple[Int[Tensor, "pair"], Int[Tensor, "pair"], Bool[Tensor, "pair"]]:
    """Pairs of pictures of the same and of two people in turn, in an order that never changes.

    Returns:
        First and second picture of every pair, and whether they are of one person. There are as many of both kinds, and
        of each no more than there can be.

    Examples:
        >>> first, second, same = verification_pairs(torch.tensor([0, 0, 1, 1]), pairs=4)
        >>> same.tolist(), bool((first != second).all())
        ([True, False, True, False], True)
    """
    generator = torch.Generator().manual_seed(0)
    one, other = torch.combinations(torch.arange(len(labels))).unbind(dim=1)
    alike = labels[one] == labels[other]
    kinds = [kind.nonzero()[:, 0] for kind in (alike, ~alike)]
    count = min(pairs // 2, *(len(kind) for kind in kinds))
    chosen = [kind[torch.randperm(len(kind), generator=generator)[:count]] for kind in kinds]
    order = torch.stack(chosen, dim=1).flatten()
    return one[order], other[order], alike[order]


def _write_records(root: Path, split: str, scenes: FaceScenes) -> int:
    """As MXNet packs images: record 0 says which records are images, and which belong to identities."""
    count, identities = len(scenes.labels), len(scenes.shapes)
    payloads = [HEADER.pack(2, 0.0, 0, 0) + struct.pack("<2f", count + 1, count + 1 + identities)]
    labels = scenes.labels.tolist()
    payloads += [
        HEADER.pack(0, label, key, 0) + _encoded(picture)
        for key, (label, picture) in enumerate(zip(labels, scenes.images, strict=True), start=1)
    ]
    ends = np.searchsorted(labels, np.arange(identities + 1))
    payloads += [
        HEADER.pack(2, 0.0, count + 1 + number, 0) + struct.pack("<2f", ends[number] + 1, ends[number + 1] + 1)
        for number in range(identities)
    ]
    with (root / f"{split}.rec").open("wb") as records, (root / f"{split}.idx").open("w") as index:
        for key, payload in enumerate(payloads):
            index.write(f"{key}\t{records.tell()}\n")
            records.write(MAGIC + struct.pack("<I", len(payload)) + payload + b"\0" * (-len(payload) % 4))
    height, width = scenes.images.shape[2:]
    (root / "property").write_text(f"{identities},{height},{width}\n")
    return count


_WRITERS: Mapping[tuple[str, str], Callable[[Path, str, FaceScenes], int]] = {
    **{("folder", split): _write_folder for split in SPLITS},
    **{("list", split): _write_list for split in SPLITS},
    **{(format, split): _write_pairs for format in ("bin", "records") for split in ("val", "test")},
    ("bin", "train"): _write_folder,
    ("records", "train"): _write_records,
}
