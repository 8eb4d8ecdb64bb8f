"""A real CT of an abdomen and pelvis with a map of its organs, cut into slabs: vessels to find between the organs.

The map is what another network, TotalSegmentator, found in the volume; nobody drew it. Scores on it say how well that
network is imitated. There is one patient: slabs to train and to test with are neighbours, so scores say nothing of
other patients either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ommatid.data.embedded import read
from ommatid.data.volume_files import Volume
from ommatid.data.volumes import LabelledVolume, VolumesInMemory
from ommatid.errors import unknown

LOWEST, STEP = -160, 4
SLAB = 8
"""Slices of a slab, 24 mm."""
SPLITS = {"train": (0, 1, 3, 6, 7, 8, 11, 13), "val": (4, 10), "test": (2, 5, 9, 12)}
"""Numbers of slabs, from the feet up; every class is in every split."""
CLASSES = {
    "aorta": ("aorta",),
    "inferior vena cava": ("inferior_vena_cava",),
    "left iliac artery": ("iliac_artery_left",),
    "right iliac artery": ("iliac_artery_right",),
    "left iliac vein": ("iliac_vena_left",),
    "right iliac vein": ("iliac_vena_right",),
}
"""Vessels without contrast agent, as bright as the muscles beside them; and what they are called in the map."""
ANCHORS = {
    "spine": ("vertebrae", "sacrum"),
    "left hip": ("hip_left",),
    "right hip": ("hip_right",),
    "left femur": ("femur_left",),
    "right femur": ("femur_right",),
    "ribs": ("rib_", "costal_cartilages"),
    "lungs": ("lung",),
    "liver": ("liver",),
}
"""Organs that show by themselves."""
OTHERS = {
    "spleen": ("spleen",),
    "left kidney": ("kidney_left",),
    "right kidney": ("kidney_right",),
    "left iliopsoas": ("iliopsoas_left",),
    "right iliopsoas": ("iliopsoas_right",),
    "stomach and duodenum": ("stomach", "duodenum"),
    "small bowel": ("small_bowel",),
    "colon": ("colon",),
    "bladder": ("urinary_bladder",),
    "gluteal muscles": ("gluteus",),
    "back muscles": ("autochthon",),
    "spinal cord": ("spinal_cord",),
}


@dataclass(frozen=True, eq=False)
class ComputedTomography:
    """The volume, axes x to the patient's right, y to the front, z to the head.

    Attributes:
        hu: from -160 to 240, in steps of 4; what is less or more has these.
        organs: number of the organ, from 1 on; 0 where there is none.
        names: of organs 1, 2, ... as TotalSegmentator has them.
        affine: from indices to mm.
    """

    hu: Float[Tensor, "x y z"]
    organs: UInt8[Tensor, "x y z"]
    names: tuple[str, ...]
    affine: Float[Tensor, "4 4"]

    def grouped(self, groups: Mapping[str, tuple[str, ...]]) -> Int[Tensor, "x y z"]:
        """Another map: 1 for the organs whose names begin like those of the first group, 2 for the second, ..."""
        table = torch.zeros(1 + len(self.names), dtype=torch.long)
        for number, beginnings in enumerate(groups.values(), start=1):
            for place, name in enumerate(self.names, start=1):
                if name.startswith(beginnings):
                    table[place] = number
        return table[self.organs.long()]


@cache
def ct() -> ComputedTomography:
    """A CT at 3 mm and the organs that TotalSegmentator found in it (Apache-2.0 licence).

    Examples:
        >>> found = ct()
        >>> tuple(found.hu.shape), len(found.names), found.affine.diagonal()[:3].tolist()
        ((112, 80, 112), 61, [3.0, 3.0, 3.0])
    """
    arrays = read("ct")
    return ComputedTomography(
        torch.from_numpy(arrays["hu"]).float() * STEP + LOWEST,
        torch.from_numpy(arrays["organs"]),
        tuple(arrays["names"].tolist()),
        torch.from_numpy(arrays["affine"]),
    )


def ct_slabs(split: str) -> VolumesInMemory:
    """The slabs of one split, with vessels as classes and what is around them as organs.

    Raises:
        InputError: there is no such split.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    whole, groups = ct(), {**ANCHORS, **OTHERS}
    labels, organs = whole.grouped(CLASSES), whole.grouped(groups)
    slabs = []
    for number in SPLITS[split]:
        part = (..., slice(number * SLAB, (number + 1) * SLAB))
        shift = torch.eye(4, dtype=torch.double)
        shift[2, 3] = number * SLAB
        image = Volume(whole.hu[part], whole.affine @ shift, name=f"slab {number}")
        slabs.append(LabelledVolume(f"slab_{number:02d}", image, labels[part], organs[part]))
    return VolumesInMemory(tuple(slabs), tuple(CLASSES), tuple(groups), tuple(ANCHORS))
