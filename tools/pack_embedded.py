"""Rebuild the embedded data sets from the packages that they come from.

    python tools/pack_embedded.py PACKAGES [NAME ...]

PACKAGES is a folder with the archives that `sources` of the manifest names: `npm pack @iconify-json/<set>@<version>`
for icons (drawn by `resvg-py`), `npm pack @pmndrs/assets@<version>` for panoramas (decoded by `OpenEXR`), `apt-get
download` for Debian's, `pip download --no-deps` for Python's. Every file is an .npz archive inside .xz; its checksum,
its sources and their licences go into `manifest.json`, which a test compares.
"""

import argparse
import hashlib
import io
import json
import lzma
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from packs import ct, fashion_mnist, heads, icons, nuclei, panoramas

PACKS = {
    "ct": ct.pack,
    "fashion_mnist": fashion_mnist.pack,
    "heads": heads.pack,
    "icons": icons.pack,
    "nuclei": nuclei.pack,
    "panoramas": panoramas.pack,
}
OUT = Path(__file__).parents[1] / "src/ommatid/data/embedded"


def main() -> None:
    parser = argparse.ArgumentParser(description="rebuild the embedded data sets from their packages")
    parser.add_argument("packages", type=Path, help="folder with the archives")
    parser.add_argument("names", nargs="*", default=list(PACKS), help="data sets, all by default")
    arguments = parser.parse_args()
    record = OUT / "manifest.json"
    manifest = json.loads(record.read_text()) if record.exists() else {}
    for name in arguments.names:
        arrays, sources = PACKS[name](arguments.packages)
        packed = _compressed(arrays)
        (OUT / f"{name}.npz.xz").write_bytes(packed)
        manifest[f"{name}.npz.xz"] = {"sha256": hashlib.sha256(packed).hexdigest(), "sources": sources}
        print(f"{name}: {len(packed)} bytes, {', '.join(f'{key} {value.shape}' for key, value in arrays.items())}")
    record.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _compressed(arrays: dict[str, np.ndarray]) -> bytes:
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    return lzma.compress(archive.getvalue(), preset=9 | lzma.PRESET_EXTREME)


if __name__ == "__main__":
    main()
