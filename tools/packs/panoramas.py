"""Panoramas photographed all around, from an npm package of open assets."""

import base64
import io
import json
import re
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image

ARCHIVE = "pmndrs-assets-1.7.0.tgz"
SCENES = re.compile(r"package/hdri/(\w+)\.exr\.js")
LICENCE = "CC0-1.0"
HEIGHT, WIDTH, QUALITY = 256, 512, 80
GLARE, CONTRAST = 5, 5000
"""Pixels around a lamp, and how much darker than it they are at most: lossy compression damaged its surroundings."""
MIDDLE, BRIGHT = 0.18, 0.99
"""Which light becomes a middle grey, by the geometric mean, and which share of the pixels stays below white."""


def pack(packages: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Eighteen places as equirectangular JPEG pictures, and what they come from.

    | array | what |
    |---|---|
    | `names` | what each place is called |
    | `jpeg` | uint8: the files of all pictures, one behind the other |
    | `ends` | int64: where each file ends |

    Args:
        packages: folder with the archive that `npm pack @pmndrs/assets@1.7.0` leaves.
    """
    with tarfile.open(packages / ARCHIVE) as files:
        licence = json.loads(_content(files, "package/package.json"))["license"]
        if licence != LICENCE:
            raise SystemExit(f"{ARCHIVE}: licence {licence}, expected {LICENCE}")
        names = sorted(found[1] for name in files.getnames() if (found := SCENES.fullmatch(name)))
        pictures = [_jpeg(_shown(_light(_content(files, f"package/hdri/{name}.exr.js")))) for name in names]
    arrays = {
        "names": np.array(names),
        "jpeg": np.frombuffer(b"".join(pictures), np.uint8),
        "ends": np.cumsum([len(picture) for picture in pictures]),
    }
    return arrays, [f"@pmndrs/assets 1.7.0 ({LICENCE}: panoramas of Poly Haven)"]


def _content(files: tarfile.TarFile, name: str) -> bytes:
    member = files.extractfile(name)
    assert member is not None
    return member.read()


def _light(script: bytes) -> np.ndarray:
    """Linear light of every pixel, (height, width, 3), out of the EXR file that the script holds in base 64."""
    encoded = re.search(rb"base64,([^'\"]+)", script)
    assert encoded is not None
    # OpenEXR reads from paths only.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scene.exr")
        path.write_bytes(base64.b64decode(encoded[1]))
        with OpenEXR.File(str(path)) as scene:
            light = scene.channels()["RGB"].pixels.astype(np.float32)
    if light.shape != (HEIGHT, WIDTH, 3):
        raise SystemExit(f"{ARCHIVE}: found a panorama of shape {light.shape}, expected {(HEIGHT, WIDTH, 3)}")
    return _mended(light)


def _mended(light: np.ndarray) -> np.ndarray:
    """Around lamps and the sun, colours that fell towards black are as bright as the lamp."""
    edge = GLARE // 2
    brightest = np.pad(light.max(axis=2), ((edge, edge), (0, 0)), mode="edge")
    brightest = np.pad(brightest, ((0, 0), (edge, edge)), mode="wrap")
    near = np.lib.stride_tricks.sliding_window_view(brightest, (GLARE, GLARE)).max(axis=(2, 3))
    damaged = (light.min(axis=2) <= near / CONTRAST) & (near > 1)
    return np.where(damaged[..., None], near[..., None], light).clip(0)


def _shown(light: np.ndarray) -> np.ndarray:
    """Light as a screen shows it: exposed by its mean, highlights compressed, sRGB."""
    brightness = light @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    exposed = light * (MIDDLE / np.exp(np.log(brightness + 1e-4).mean()))
    white = np.quantile(exposed, BRIGHT)
    compressed = (exposed * (1 + exposed / max(white, 1.0) ** 2) / (1 + exposed)).clip(0, 1)
    encoded = np.where(compressed <= 0.0031308, 12.92 * compressed, 1.055 * compressed ** (1 / 2.4) - 0.055)
    return (encoded * 255).round().astype(np.uint8)


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, optimize=True, progressive=True)
    return file.getvalue()
