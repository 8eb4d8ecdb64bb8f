"""A tree of experts, and an image with the way of its class through it."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ommatid.classification.draw import draw_bars, picture, save_figure
from ommatid.transfer.task import ExplainedClassification

PLAIN, MARKED = "#9aa5b1", "#d55e00"


def draw_tree(
    tree: Sequence[Sequence[int]], names: Sequence[str], winner: int | None = None, path: Path | None = None
) -> Figure:
    """Blocks level by level from the image down to the classes; the way to one class may be marked."""
    figure = Figure(figsize=(max(6.4, 0.55 * len(names)), 4.2), layout="constrained")
    _tree(figure.subplots(), tree, names, winner)
    return save_figure(figure, path)


def draw_explained(found: ExplainedClassification, path: Path | None = None) -> Figure:
    """The image beside its classes, and below them the tree with the way to the first one."""
    figure = Figure(figsize=(max(7.2, 0.55 * len(found.names)), 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.4], height_ratios=[1, 1.3])
    left, right, below = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, :])
    left.imshow(picture(found.image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    left.set_axis_off()
    draw_bars(right, found.classes)
    _tree(below, found.tree, found.names, found.winner)
    return save_figure(figure, path)


def _tree(axis: Axes, tree: Sequence[Sequence[int]], names: Sequence[str], winner: int | None) -> None:
    order, places = _places(tree)
    on_way = {} if winner is None else _way(tree, winner)
    for level, step in enumerate(tree):
        for child, parent in enumerate(step):
            if level == len(tree) - 1 or child in places[level + 1]:
                marked = on_way.get(level + 1) == child
                ends = [places[level][parent], places[level + 1][child]]
                colour, width = (MARKED, 2.4) if marked else (PLAIN, 1.0)
                axis.plot(ends, [-level, -level - 1], color=colour, linewidth=width, zorder=1 + marked)
    for level, blocks in enumerate(places[:-1]):
        for number, x in blocks.items():
            colour = MARKED if on_way.get(level) == number else "#0072b2"
            axis.scatter([x], [-level], s=190, color=colour, zorder=3)
            axis.text(x, -level, str(number), color="white", ha="center", va="center", fontsize=8, zorder=4)
    for rank, number in enumerate(order):
        colour = MARKED if number == winner else "black"
        axis.text(rank, -len(tree) - 0.08, names[number], rotation=90, ha="center", va="top", fontsize=8, color=colour)
    axis.set(xlim=(-0.7, len(names) - 0.3), ylim=(-len(tree) - 1.4, 0.5))
    axis.set_axis_off()


def _places(tree: Sequence[Sequence[int]]) -> tuple[list[int], list[dict[int, float]]]:
    """An order of the classes in which no two ways cross, and where every used block stands: above its classes."""

    def way(number: int) -> tuple[int, ...]:
        return tuple(_way(tree, number)[level] for level in range(len(tree) + 1))

    order = sorted(range(len(tree[-1])), key=way)
    places: list[dict[int, float]] = [{} for _ in range(len(tree) + 1)]
    for level in range(len(tree) + 1):
        below: dict[int, list[int]] = {}
        for rank, number in enumerate(order):
            below.setdefault(way(number)[level], []).append(rank)
        places[level] = {block: sum(ranks) / len(ranks) for block, ranks in below.items()}
    return order, places


def _way(tree: Sequence[Sequence[int]], number: int) -> dict[int, int]:
    """Level -> block on the way to a class, the class itself last."""
    way, place = {len(tree): number}, number
    for level in range(len(tree) - 1, -1, -1):
        place = tree[level][place]
        way[level] = place
    return way
