"""A real CT with a map of organs, out of the source archive of TotalSegmentator.

The volume is `tests/reference_files/example_ct.nii.gz` of TotalSegmentator's repository, the map beside it what that
network found in it; nobody drew it by hand.
"""

import ast
import gzip
import tarfile
from pathlib import Path

import nibabel
import numpy as np

ARCHIVE = "totalsegmentator-2.18.0.tar.gz"
FOLDER = "totalsegmentator-2.18.0"
LICENCE = "Apache-2.0"
LOW, HIGH, STEP = -160, 240, 4
"""HU that are kept, and how finely."""
CROP = (slice(3, 115), slice(8, 88), slice(0, 112))
"""Around everything that the map names, in voxels along x, y, z."""


def pack(packages: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The volume and its map, axes x to the right, y to the front, z to the head, and what they come from.

    | array | what |
    |---|---|
    | `hu` | uint8: (HU + 160) / 4, from 0 at -160 HU and below to 100 at 240 HU and above |
    | `organs` | uint8: number of the organ from 1 on, without gaps, in the order of TotalSegmentator's; 0 for none |
    | `names` | of organ 1, 2, ... as TotalSegmentator has them |
    | `affine` | from indices to mm |

    Args:
        packages: folder with the source archive.
    """
    with tarfile.open(packages / ARCHIVE) as files:
        image, found = (_nifti(files, f"{name}.nii.gz") for name in ("example_ct", "example_seg_fast_force_split"))
        names = _names(_content(files, "totalsegmentator/map_to_binary.py").decode())
    if not np.allclose(image.affine, found.affine) or nibabel.aff2axcodes(image.affine) != ("R", "A", "S"):
        raise SystemExit(f"{ARCHIVE}: found another grid, expected one of volume and map, RAS")
    numbers = np.asarray(found.dataobj)
    voxels = (image.get_fdata(dtype=np.float32).clip(LOW, HIGH) - LOW) / STEP
    outside = numbers.astype(bool)
    outside[CROP] = False
    if outside.any():
        raise SystemExit(f"{ARCHIVE}: found organs outside of the crop, expected all within")
    known, organs = np.unique(numbers[CROP], return_inverse=True)
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in CROP]
    arrays = {
        "hu": voxels[CROP].round().astype(np.uint8),
        "organs": organs.reshape(voxels[CROP].shape).astype(np.uint8),
        "names": np.array([names[number] for number in known[1:].tolist()]),
        "affine": affine,
    }
    return arrays, [f"{ARCHIVE} ({LICENCE}: CT and organ map of TotalSegmentator's tests)"]


def _nifti(files: tarfile.TarFile, name: str) -> nibabel.Nifti1Image:
    packed = _content(files, f"tests/reference_files/{name}")
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(packed))


def _content(files: tarfile.TarFile, name: str) -> bytes:
    member = files.extractfile(f"{FOLDER}/{name}")
    assert member is not None
    return member.read()


def _names(source: str) -> dict[int, str]:
    """The names of the task "total", read from the source without running it."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", None) == "class_map":
            assert isinstance(statement.value, ast.Dict)
            for key, value in zip(statement.value.keys, statement.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "total":
                    return ast.literal_eval(value)
    raise SystemExit(f"{ARCHIVE}: found no names of organs in map_to_binary.py")
