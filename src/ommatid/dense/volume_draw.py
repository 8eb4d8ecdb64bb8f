"""Pictures of volumes: planes through what was found, classes in colours over grey."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from ommatid.classification.draw import save_figure
from ommatid.dense.multi_task import class_colours
from ommatid.dense.volume_task import UNKNOWN, VolumePrediction

COVER = 0.55
"""How much of a voxel's colour is that of its class."""
MOST_NAMED = 16
"""Classes in the legend, those of most voxels."""
PLANES = ("sagittal", "coronal", "axial")
"""By the axis that they are perpendicular to."""


def draw_volume(found: VolumePrediction, path: Path | None = None) -> Figure:
    """A sagittal, a coronal and an axial plane, each where most of the classes is; of a slice the slice itself.

    The patient is seen from the feet, from the front and from the left: the right side is on the left of a picture, the
    front on its top or left.

    Examples:
        >>> from ommatid.data.volume_files import Volume
        >>> volume = Volume(torch.rand(6, 8, 4), torch.eye(4, dtype=torch.double))
        >>> labels = torch.zeros(6, 8, 4, dtype=torch.long)
        >>> labels[2, 3:5, 1] = 2
        >>> figure = draw_volume(VolumePrediction(volume, labels, ("4L", "4R"), (0.0, 1.0)))
        >>> [axis.get_title() for axis in figure.axes]
        ['sagittal, 2', 'coronal, 3', 'axial, 1']
    """
    volume, flat = found.volume, found.volume.flat
    labels = found.labels.cpu().reshape(volume.voxels.shape)
    low, high = found.window
    grey = ((volume.voxels.cpu().float() - low) / (high - low)).clamp(0, 1)
    axes = [flat] if flat is not None else [0, 1, 2]
    places = fullest(labels)
    counts = labels[labels != UNKNOWN].bincount(minlength=1 + len(found.class_names))[1:]
    named = [int(each) for each in counts.argsort(descending=True, stable=True)[:MOST_NAMED] if counts[each]]
    rows = -(-len(named) // 4)
    figure = Figure(figsize=(3.4 * max(len(axes), 1.4), 3.5 + 0.22 * rows), layout="constrained")
    colours = class_colours(max(len(found.class_names), 1))
    for panel, axis in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes, strict=True):
        picture = covered(grey.select(axis, places[axis]), labels.select(axis, places[axis]), colours)
        across, up = (volume.spacing[each].item() for each in range(3) if each != axis)
        # Rows go down in a picture, and the head, or the front, is up.
        panel.imshow(_seen(picture), interpolation="nearest", aspect=up / across)
        panel.set_title(f"{PLANES[axis]}, {places[axis]}" if flat is None else "", fontsize=9)
        panel.set_axis_off()
    shades = [tuple((colours[number] / 255).tolist()) for number in named]
    patches = [
        Patch(color=shade, label=found.class_names[number])  # type: ignore[arg-type]
        for number, shade in zip(named, shades, strict=True)
    ]
    if patches:
        figure.legend(handles=patches, ncols=4, fontsize=7, frameon=False, loc="outside lower center")
    return save_figure(figure, path)


def fullest(labels: Int[Tensor, "x y z"]) -> list[int]:
    """Along every axis, the plane with most voxels of a class; the middle one where there are none.

    Examples:
        >>> fullest(torch.zeros(4, 4, 9, dtype=torch.long))
        [2, 2, 4]
    """
    there = (labels > 0) & (labels != UNKNOWN)
    if not bool(there.any()):
        return [length // 2 for length in labels.shape]
    others = [[1, 2], [0, 2], [0, 1]]
    return [int(there.sum(dim=each).argmax()) for each in others]


def covered(
    grey: Float[Tensor, "across up"], labels: Int[Tensor, "across up"], colours: UInt8[Tensor, "class 3"]
) -> UInt8[Tensor, "across up 3"]:
    """Grey voxels, those of a class covered with its colour.

    Examples:
        >>> covered(torch.zeros(1, 2), torch.tensor([[0, 1]]), torch.tensor([[200, 0, 0]], dtype=torch.uint8)).tolist()
        [[[0, 0, 0], [110, 0, 0]]]
    """
    there = (labels > 0) & (labels <= len(colours))
    shade = colours[(labels - 1).clamp(0, len(colours) - 1)].float()
    plain = grey[..., None].expand(*grey.shape, 3) * 255
    return torch.where(there[..., None], (1 - COVER) * plain + COVER * shade, plain).round().to(torch.uint8)


def _seen(picture: UInt8[Tensor, "across up 3"]) -> np.ndarray:
    """As a picture has it, rows from the top: right is left where x goes across, the front is left where y does."""
    return picture.transpose(0, 1).flip(0, 1).numpy()
