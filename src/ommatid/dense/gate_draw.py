"""How the gates of organs opened and closed in a search."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from ommatid.classification.draw import save_figure


def draw_gates(
    differences: Float[Tensor, "moment organ"],
    updates: Sequence[int],
    names: Sequence[str],
    kept: Sequence[int],
    path: Path | None = None,
) -> Figure:
    """A line for each organ, solid where it is kept.

    Args:
        differences: logit of being on minus logit of being off.
        updates: number of the update of every moment.
        kept: positions of the organs that are kept.

    Examples:
        >>> import torch
        >>> figure = draw_gates(torch.tensor([[2.0, 2.0], [3.0, -1.0]]), [0, 10], ["heart", "rib"], [0])
        >>> [line.get_linestyle() for line in figure.axes[0].lines[:2]]
        ['-', ':']
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for number in differences[-1].argsort(descending=True).tolist():  # the legend as the lines end
        style = "-" if number in kept else ":"
        axis.plot(list(updates), differences[:, number].tolist(), style, color=f"C{number % 10}", label=names[number])
    axis.axhline(0, color="0.7", linewidth=0.8)
    axis.set(xlabel="updates of the search", ylabel="on minus off (logits)", title="gates of organs, kept ones solid")
    axis.title.set_fontsize(9)
    axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1), ncols=1 + len(names) // 16)
    return save_figure(figure, path)
