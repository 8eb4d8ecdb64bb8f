"""Fashion-MNIST's official test part, from Debian's package of it."""

import gzip
import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np

PACKAGE = "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb"
FOLDER = "./usr/share/datasets/fashion-mnist"


def pack(packages: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Its 10,000 images and labels, and what they come from.

    Args:
        packages: folder with Debian's package.
    """
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", packages / PACKAGE], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as files:
        images, labels = (
            np.frombuffer(_unpacked(files, f"t10k-{name}.gz"), np.uint8, offset=offset)
            for name, offset in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))
        )
    return {"images": images.reshape(-1, 28, 28), "labels": labels}, [f"{PACKAGE} (MIT, Zalando SE)"]


def _unpacked(files: tarfile.TarFile, name: str) -> bytes:
    member = files.extractfile(f"{FOLDER}/{name}")
    assert member is not None
    return gzip.decompress(member.read())
