"""A real picture whose nuclei are numbered one by one, for instance segmentation and for counting."""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from ommatid.data.embedded import read


@dataclass(frozen=True, eq=False)
class Nuclei:
    """A grey picture and its nuclei.

    Attributes:
        instances: the number of the nucleus that a pixel is of, from 1 on; 0 is background.
    """

    image: UInt8[Tensor, "height width"]
    instances: UInt8[Tensor, "height width"]

    def __len__(self) -> int:
        return int(self.instances.max())

    @property
    def mask(self) -> Bool[Tensor, "height width"]:
        """True where there is a nucleus."""
        return self.instances > 0


@cache
def nuclei() -> Nuclei:
    """Fluorescence microscopy of the 2018 Data Science Bowl, as distributed with StarDist (BSD 3-Clause licence).

    Examples:
        >>> found = nuclei()
        >>> tuple(found.image.shape), len(found)
        ((512, 512), 125)
    """
    arrays = read("nuclei")
    return Nuclei(torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["instances"]))
