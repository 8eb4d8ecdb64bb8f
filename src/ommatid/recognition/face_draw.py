"""Pictures of face recognition: two faces and how alike they are, and a face before those of a gallery."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ommatid.classification.draw import save_figure

MOST_PEOPLE = 7
SAME, OTHER = "#009e73", "#d55e00"
Face = Float[Tensor, "channel height width"]


def draw_comparison(images: Sequence[Face], cosine: float, threshold: float, path: Path | None = None) -> Figure:
    """Two faces side by side, and between them how alike they are.

    Examples:
        >>> import torch
        >>> draw_comparison([torch.rand(1, 8, 8)] * 2, 0.61, 0.4).get_suptitle()
        'same person: 0.61 (from 0.40)'
    """
    same = cosine >= threshold
    figure = Figure(figsize=(4.8, 2.8), layout="constrained")
    for axis, image in zip(figure.subplots(1, 2), images, strict=True):
        _show(axis, image, SAME if same else OTHER)
    words = "same person" if same else "two people"
    figure.suptitle(f"{words}: {cosine:.2f} (from {threshold:.2f})", color=SAME if same else OTHER)
    return save_figure(figure, path)


def draw_ranking(
    image: Face,
    people: Sequence[tuple[str, float]],
    faces: Sequence[Face],
    threshold: float,
    path: Path | None = None,
) -> Figure:
    """A face, and at most seven of a gallery, the most alike first.

    Examples:
        >>> import torch
        >>> figure = draw_ranking(torch.rand(1, 8, 8), [("ann", 0.7), ("bob", 0.1)], [torch.rand(1, 8, 8)] * 2, 0.4)
        >>> [axis.get_title() for axis in figure.axes]
        ['who?', '1. ann 0.70', '2. bob 0.10']
    """
    shown = min(len(people), MOST_PEOPLE)
    figure = Figure(figsize=(1.7 * (shown + 1), 2.2), layout="constrained")
    axes = figure.subplots(1, shown + 1, squeeze=False)[0]
    _show(axes[0], image, "black")
    axes[0].set_title("who?", fontsize=9)
    for place, (axis, (name, value), face) in enumerate(zip(axes[1:], people, faces, strict=False), start=1):
        _show(axis, face, SAME if value >= threshold else OTHER)
        axis.set_title(f"{place}. {name} {value:.2f}", fontsize=9)
    return save_figure(figure, path)


def _show(axis: Axes, image: Face, colour: str) -> None:
    pixels = image.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    axis.imshow(pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    for side in axis.spines.values():
        side.set(edgecolor=colour, linewidth=2)
