"""The contract of volumes: intensities in, the class of every voxel out; slices are volumes of two axes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from ommatid.data.volumes import UNKNOWN as UNKNOWN
from ommatid.data.volumes import Volume
from ommatid.engine.batch import Batch


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


@dataclass(frozen=True)
class VolumePrediction:
    """The class of every voxel of a user's own volume, on the grid of its file.

    Attributes:
        labels: as many as the volume has voxels, axes (x, y, z) as these have; of a slice with or without its single
            axis.
        class_names: of the classes 1, 2, ...; 0 is background.
        window: values of the volume that are drawn black and white.

    Examples:
        >>> import torch
        >>> volume = Volume(torch.zeros(4, 4, 4), torch.diag(torch.tensor([5.0, 5, 5, 1], dtype=torch.double)))
        >>> labels = torch.zeros(4, 4, 4, dtype=torch.long)
        >>> labels[:2] = 1
        >>> VolumePrediction(volume, labels, ("4L", "4R")).to_json()["classes"]
        {'4L': {'voxels': 32, 'ml': 4.0}, '4R': {'voxels': 0, 'ml': 0.0}}
    """

    volume: Volume
    labels: Int[Tensor, "*grid"]
    class_names: tuple[str, ...]
    window: tuple[float, float] = (-160.0, 240.0)

    def to_json(self) -> dict[str, Any]:
        """Size of the volume, and voxels and millilitres of every class."""
        counts = self.labels.flatten().bincount(minlength=1 + len(self.class_names))[1:].tolist()
        voxel = abs(float(self.volume.affine[:3, :3].det())) / 1000
        return {
            "size": list(self.volume.voxels.shape),
            "spacing": [round(each, 4) for each in self.volume.spacing.tolist()],
            "classes": {
                name: {"voxels": count, "ml": round(count * voxel, 4)}
                for name, count in zip(self.class_names, counts, strict=False)
            },
        }

    def draw(self, path: Path) -> None:
        """Planes through the largest part with the classes in colours; beside it `<name>.nii.gz` of the classes, on the
        file's own grid.
        """
        from ommatid.dense.volume_draw import draw_volume

        path = Path(path)
        draw_volume(self, path)
        self.volume.save_like(self.labels, path.with_name(f"{path.stem}.nii.gz"))
