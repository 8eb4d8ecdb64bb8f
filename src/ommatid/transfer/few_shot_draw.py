"""A query, the pictures of its class, and the parts of them that were matched."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ommatid.classification.draw import draw_bars, save_figure
from ommatid.transfer.few_shot_task import FewShotPrediction

SHOWN = 3
COLOURS = ("#d55e00", "#0072b2", "#009e73")
"""Of the first matches; the crop of a query and those of the supports have the same one."""


def draw_few_shot(prediction: FewShotPrediction, path: Path | None = None) -> Figure:
    """The query, the best classes, and the supports of the best one, with the crops that match.

    Examples:
        >>> import torch
        >>> from ommatid.transfer.few_shot_task import CropMatch
        >>> match = CropMatch((1.0, 2.0, 8.0, 8.0), ((0.0, 0.0, 9.0, 9.0),), 0.8)
        >>> image = torch.rand(3, 16, 16)
        >>> figure = draw_few_shot(FewShotPrediction(image, [("cup", 0.8), ("hat", 0.1)], image[None], (match,)))
        >>> [axis.get_title() for axis in figure.axes]
        ['query', '', 'cup']
    """
    supports = list(prediction.supports)
    figure = Figure(figsize=(max(6.4, 1.8 * len(supports)), 5.2), layout="constrained")
    rows = figure.add_gridspec(2, 1, height_ratios=[1.2, 1])
    above, below = rows[0].subgridspec(1, 2, width_ratios=[1, 1.3]), rows[1].subgridspec(1, len(supports))
    query, bars = figure.add_subplot(above[0]), figure.add_subplot(above[1])
    matches = prediction.matches[:SHOWN]
    _show(query, prediction.image, [match.query_box for match in matches])
    query.set_title("query", fontsize=9)
    draw_bars(bars, prediction.classes[:5])
    bars.set(xlabel="score", xlim=(0, 1))
    for number, support in enumerate(supports):
        axis = figure.add_subplot(below[number])
        _show(axis, support, [match.support_boxes[number] for match in matches])
        axis.set_title(prediction.classes[0][0], fontsize=9)
    return save_figure(figure, path)


def _show(axis: Axes, image: Tensor, boxes: Sequence[Sequence[float]]) -> None:
    picture: np.ndarray = image.float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    axis.imshow(picture, interpolation="nearest")
    axis.set_axis_off()
    for (top, left, height, width), colour in zip(boxes, COLOURS, strict=False):
        corner = left - 0.5, top - 0.5
        axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=1.8))
