"""Icons of one concept as several designers drew it, from packages of open icon sets."""

import io
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

SETS = {
    "akar-icons": "1.2.7",
    "ant-design": "1.2.9",
    "bi": "1.2.7",
    "bx": "1.2.3",
    "carbon": "1.2.29",
    "clarity": "1.2.4",
    "eva": "1.2.3",
    "fluent": "1.2.60",
    "gg": "1.2.2",
    "grommet-icons": "1.2.4",
    "heroicons": "1.2.3",
    "hugeicons": "1.2.35",
    "iconoir": "1.2.11",
    "ion": "1.2.7",
    "jam": "1.2.3",
    "lucide": "1.2.137",
    "majesticons": "1.2.5",
    "material-symbols": "1.2.98",
    "mdi": "1.2.3",
    "mingcute": "1.2.8",
    "mynaui": "1.2.19",
    "octicon": "1.2.36",
    "ph": "1.2.2",
    "ri": "1.2.10",
    "tabler": "1.2.41",
    "uil": "1.2.3",
}
PERMISSIVE = ("MIT", "Apache-2.0", "ISC")
SIZE, DESIGNS, SETS_OF_A_CONCEPT, ALIKE = 32, 10, 12, 0.03
STYLE = re.compile(
    r"-(line|outline|outlined|fill|filled|solid|bold|thin|light|duotone|rounded|sharp|regular|alt|o|f|\d+)$"
)
# Trademarks, and letters of a text editor.
LEFT_OUT = re.findall(
    r"\S+",
    "airplay amazon android apple behance bitcoin bluetooth chrome codepen codesandbox discord dribbble dropbox "
    "facebook figma firefox git-branch github gitlab google google-play instagram linkedin medium messenger microsoft "
    "paypal pinterest reddit skype slack snapchat spotify telegram tiktok twitch twitter usb whatsapp windows x "
    "youtube bold italic strikethrough underline text",
)


def pack(packages: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The pictures of all concepts that enough sets draw, and what they come from.

    Args:
        packages: folder with the archives `iconify-json-<set>-<version>.tgz`.
    """
    sets = {name: _read(packages / f"iconify-json-{name}-{version}.tgz") for name, version in SETS.items()}
    drawn: dict[str, dict[str, str]] = defaultdict(dict)
    for name, icons in sets.items():
        for icon in sorted([*icons["icons"], *icons.get("aliases", {})], key=len):
            drawn[_concept(icon)].setdefault(name, icon)
    concepts, masks, designs = [], [], []
    for concept, by_set in sorted(drawn.items()):
        if len(by_set) >= SETS_OF_A_CONCEPT and concept not in LEFT_OUT:
            chosen = list(_different((name, _picture(sets[name], icon)) for name, icon in by_set.items()))[:DESIGNS]
            if len(chosen) == DESIGNS:
                concepts.append(concept)
                masks.append([picture for _, picture in chosen])
                designs.append([sorted(sets).index(name) for name, _ in chosen])
    # Sixteen levels are enough for the edge of a shape, and two pixels share a byte.
    levels = (np.array(masks, dtype=np.uint16) * 15 + 127) // 255
    arrays = {
        "pixels": (levels[..., ::2] * 16 + levels[..., 1::2]).astype(np.uint8),
        "concepts": np.array(concepts),
        "designs": np.array(designs, dtype=np.uint8),
        "sets": np.array(sorted(sets)),
    }
    return arrays, [f"@iconify-json/{name} {version} ({sets[name]['licence']})" for name, version in SETS.items()]


def _read(archive: Path) -> dict[str, Any]:
    with tarfile.open(archive) as files:
        icons, info = (json.load(files.extractfile(f"package/{name}.json")) for name in ("icons", "info"))  # type: ignore[arg-type]
    if (licence := info["license"]["spdx"]) not in PERMISSIVE:
        raise SystemExit(f"{archive}: licence {licence}, expected one of {', '.join(PERMISSIVE)}")
    return {**icons, "licence": licence}


def _concept(icon: str) -> str:
    """The name without what tells its style.

    Examples:
        >>> _concept("heart-24-filled"), _concept("arrow-up")
        ('heart', 'arrow-up')
    """
    while style := STYLE.search(icon):
        icon = icon[: style.start()]
    return icon


def _picture(icons: dict[str, Any], name: str) -> np.ndarray:
    """How much of every pixel the icon covers, 0 to 255; nothing if the set turns another icon for it."""
    alias: dict[str, Any] = {}
    while name not in icons["icons"]:
        alias = icons["aliases"][name]
        if alias.keys() - {"parent", "hidden"}:
            return np.zeros((SIZE, SIZE), np.uint8)
        name = alias["parent"]
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    left, top = icon.get("left", 0), icon.get("top", 0)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    ).replace("currentColor", "#000")
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
    return np.array(Image.open(io.BytesIO(png)).convert("RGBA").resize((SIZE, SIZE)))[..., 3]


def _different(pictures: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Pictures that show something, and none that an earlier set drew almost the same."""
    seen: list[np.ndarray] = []
    for name, picture in pictures:
        values = picture / 255
        if values.mean() > ALIKE and all(np.abs(values - other).mean() > ALIKE for other in seen):
            seen.append(values)
            yield name, picture
