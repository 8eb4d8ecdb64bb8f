"""A classified image, and a sheet of many images."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ommatid.files import write_aside


def draw_classification(
    image: Float[Tensor, "channel height width"], classes: Sequence[tuple[str, float]], path: Path | None = None
) -> Figure:
    """An image beside the probabilities of its most probable classes."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    left.imshow(picture(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    left.set_axis_off()
    draw_bars(right, classes)
    return save_figure(figure, path)


def draw_bars(axis: Axes, classes: Sequence[tuple[str, float]]) -> None:
    """Probabilities of classes as bars, the first one on top."""
    names, values = zip(*reversed(classes), strict=True)
    axis.barh(names, values, color="#0072b2")
    axis.set(xlim=(0, 1), xlabel="probability")
    for row, value in enumerate(values):
        axis.text(min(value + 0.02, 0.86), row, f"{value:.2f}", va="center", fontsize=9)


def draw_sheet(
    images: Float[Tensor, "image channel height width"],
    title: str,
    path: Path | None = None,
    captions: Sequence[str] | None = None,
) -> Figure:
    """Many small images on one sheet, captions below."""
    columns = math.ceil(math.sqrt(len(images) * 1.6))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(0.62 * columns, 0.62 * rows * (1.25 if captions else 1) + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    for position, image in enumerate(images):
        axes[position].imshow(picture(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if captions:
            axes[position].set_title(captions[position], fontsize=6, pad=1)
    figure.suptitle(title, fontsize=10)
    return save_figure(figure, path)


def picture(image: Float[Tensor, "channel height width"]) -> np.ndarray:
    """An image as matplotlib wants it: colours last, grey without them."""
    array = image.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] == 1 else array


def save_figure(figure: Figure, path: Path | None) -> Figure:
    """Write a picture in the format of its ending, where there is a path; nothing is left half-written."""
    if path is not None:
        kind = path.suffix.lstrip(".") or "png"
        write_aside(path, lambda aside: figure.savefig(aside, format=kind, dpi=140))
    return figure
