"""The classes found for a user's samples, beside a map of where these lie."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ommatid.classification.draw import draw_bars, save_figure
from ommatid.transfer.zero_shot_task import LatentMap

SHOWN = 6
"""Samples whose probabilities are drawn."""


def draw_found_classes(
    classes: Sequence[Sequence[tuple[str, float]]], map: LatentMap | None = None, path: Path | None = None
) -> Figure:
    """Probabilities of the first samples, and the map with all of them."""
    shown = classes[:SHOWN]
    rows = (len(shown) + 1) // 2
    width = 3.2 * min(len(shown), 2)
    figure = Figure(figsize=(width + (4.4 if map else 0), max(1.7 * rows, 3.4 if map else 0)), layout="constrained")
    parts = figure.subfigures(1, 2 if map else 1, width_ratios=[width, 4.4][: 2 if map else 1], squeeze=False)[0]
    axes = parts[0].subplots(rows, min(len(shown), 2), squeeze=False).flatten()
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    for number, (axis, found) in enumerate(zip(axes, shown, strict=False)):
        draw_bars(axis, found)
        axis.set_title(f"sample {number}", fontsize=9)
    if map is not None:
        draw_map(parts[1].subplots(), map)
    return save_figure(figure, path)


def draw_latent_map(map: LatentMap, path: Path | None = None) -> Figure:
    """The map alone."""
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    draw_map(figure.subplots(), map)
    return save_figure(figure, path)


def draw_map(axis: Axes, map: LatentMap) -> None:
    axis.scatter(*_xy(map.seen), marker="+", color="0.35", label="seen classes")
    colours = [f"C{number % 10}" for number in range(len(map.class_names))]
    for number, (name, colour) in enumerate(zip(map.class_names, colours, strict=True)):
        points = map.generated[map.labels == number]
        axis.scatter(*_xy(points), s=7, alpha=0.35, color=colour, linewidths=0)
        axis.annotate(name, tuple(points.mean(dim=0).tolist()), color=colour, fontsize=8, ha="center")
    if len(map.given):
        axis.scatter(*_xy(map.given), marker="*", s=70, color="black", label="your samples", zorder=3)
    axis.set(xticks=[], yticks=[], title="generated samples of classes without images")
    axis.title.set_fontsize(9)
    axis.legend(fontsize=7, loc="best")


def _xy(points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    array = points.detach().cpu().numpy()
    return array[:, 0], array[:, 1]
