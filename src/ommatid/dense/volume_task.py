"""The contract of volumes: intensities in, the class of every voxel out; slices are volumes of two axes."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from ommatid.engine.batch import Batch

UNKNOWN = 255
"""Label of voxels whose class nobody knows."""


@dataclass
class VolumeBatch(Batch):
    """Volumes with the classes of their voxels, and the organs around them.

    Attributes:
        images: intensities in [0, 1] of the window that the data module shows.
        labels: classes, 0 is background.
        organs: the organ of every voxel, 0 where there is none.
        spacing: of voxels along every axis, in mm.
        truth: classes on the grid of the file, where volumes are resampled; the labels themselves where they are not.
        truth_spacing: of that grid, in mm.
        index: position of the volume in its split: it identifies a prediction, also across processes.
    """

    images: Float[Tensor, "batch 1 *space"]
    labels: Int[Tensor, "batch *space"]
    organs: Int[Tensor, "batch *space"]
    spacing: Float[Tensor, "batch axis"]
    truth: Int[Tensor, "batch *grid"]
    truth_spacing: Float[Tensor, "batch axis"]
    index: Int[Tensor, "batch"]
