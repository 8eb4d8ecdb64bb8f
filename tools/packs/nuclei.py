"""Nuclei with a number for each, out of the source archive of stardist.

The picture is of fluorescence microscopy, of the 2018 Data Science Bowl as stardist's `test_image_nuclei_2d` has it.
"""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

ARCHIVE = "stardist-0.9.2.tar.gz"
FOLDER = "stardist-0.9.2/stardist/data/images"


def pack(packages: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The picture (512, 512) and the nuclei's numbers from 1 on, without gaps, both of bytes, and what they come from.

    Args:
        packages: folder with the source archive.
    """
    with tarfile.open(packages / ARCHIVE) as files:
        picture, nuclei = (_tiff(files, f"{FOLDER}/{name}2d.tif") for name in ("img", "mask"))
    if picture.max() > 255 or picture.shape != nuclei.shape:
        raise ValueError(f"{ARCHIVE}: found a picture of {picture.shape} up to {picture.max()}, expected bytes")
    numbers, instances = np.unique(nuclei, return_inverse=True)
    if numbers[0] != 0 or len(numbers) > 256:
        raise ValueError(f"{ARCHIVE}: found {len(numbers)} numbers from {numbers[0]} on, expected 0 and up to 255 more")
    arrays = {"image": picture.astype(np.uint8), "instances": instances.reshape(nuclei.shape).astype(np.uint8)}
    return arrays, [f"{ARCHIVE} (BSD-3-Clause)"]


def _tiff(files: tarfile.TarFile, name: str) -> np.ndarray:
    member = files.extractfile(name)
    assert member is not None
    with Image.open(io.BytesIO(member.read())) as file:
        return np.array(file)
