"""Pictures of the field: a clip above its most probable classes, and where a method looked for each label."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from ommatid.classification.draw import draw_bars, save_figure

MOST_FRAMES = 8


def draw_clip(
    frames: Float[Tensor, "time 3 height width"], classes: Sequence[tuple[str, float]], path: Path | None = None
) -> Figure:
    """At most eight frames of a clip in their order, and the probabilities of its most probable classes.

    Examples:
        >>> figure = draw_clip(torch.rand(4, 3, 16, 16), [("grow", 0.8), ("shrink", 0.1)])
        >>> [text.get_text() for text in figure.axes[-1].get_yticklabels()]
        ['shrink', 'grow']
    """
    shown = frames[torch.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().long()]
    figure = Figure(figsize=(7.2, 1.6 + 0.3 * len(classes)), layout="constrained")
    grid = figure.add_gridspec(2, len(shown), height_ratios=[1, 0.6 + 0.25 * len(classes)])
    for place, frame in enumerate(shown):
        strip = figure.add_subplot(grid[0, place])
        strip.imshow(frame.float().cpu().clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
        strip.set_axis_off()
    draw_bars(figure.add_subplot(grid[1, :]), classes)
    return save_figure(figure, path)


def draw_labels(
    image: Float[Tensor, "3 height width"],
    labels: Sequence[tuple[str, float]],
    attention: Float[Tensor, "label rows columns"] | None = None,
    path: Path | None = None,
) -> Figure:
    """An image once for every label, lit where the method looked when it named it; once alone without attention.

    Examples:
        >>> figure = draw_labels(torch.rand(3, 16, 16), [("cat", 0.9), ("sofa", 0.6)], torch.rand(2, 4, 4))
        >>> [axis.get_title() for axis in figure.axes]
        ['1. cat 0.90', '2. sofa 0.60']
    """
    titles = [f"{place}. {name} {value:.2f}" for place, (name, value) in enumerate(labels, start=1)]
    if attention is None or not titles:
        titles, attention = ["\n".join(titles) or "no label"], None
    figure = Figure(figsize=(2.4 * len(titles), 2.8), layout="constrained")
    picture = image.float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    for place, (axis, title) in enumerate(zip(figure.subplots(1, len(titles), squeeze=False)[0], titles, strict=True)):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
        if attention is not None:
            light = attention[place].float().cpu()[None, None]
            shade = torch.nn.functional.interpolate(light, image.shape[1:], mode="bilinear")[0, 0]
            axis.imshow(1 - shade / shade.max().clamp(min=1e-6), cmap="gray_r", alpha=0.55, vmin=0, vmax=1)
    return save_figure(figure, path)
