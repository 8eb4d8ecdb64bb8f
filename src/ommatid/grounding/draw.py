"""A grounded sentence as a picture: candidate moments and the annotated one on a time line in seconds."""

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ommatid.errors import InputError
from ommatid.grounding.task import Moments

# Okabe and Ito's palette: told apart with every kind of colour vision, and in grey by lightness.
TRUTH, BEST, OTHER, INK = "#009E73", "#0072B2", "#56B4E9", "#222222"
WIDTH, ROW, STRIP = 4.5, 0.42, 0.85
MOST_FRAMES = 6


def draw_moments(
    sentence: str,
    duration: float,
    moments: Moments,
    truth: Sequence[float] | None = None,
    path: str | Path | None = None,
    frames: Shaped[Tensor, "frame 3 height width"] | None = None,
    count: int = 5,
) -> Figure:
    """The best moments of one query as bars with their scores, above them the annotated moment and a film strip.

    Sized for a phone held upright: 4.5 inches wide, no text below 9 points.

    Args:
        duration: seconds.
        moments: a batch of one query, best first.
        truth: start and end of the annotated moment in seconds.
        path: where the picture goes, in the format of its ending; nothing is left half-written.
        frames: pictures evenly spaced over the video, 0-255 or 0-1.
        count: how many moments are shown.

    Raises:
        InputError: `moments` is not a batch of one, `duration` is not a positive number, or `path` cannot be written.

    Examples:
        >>> moments = Moments(torch.tensor([[[0.2, 0.5], [0.6, 0.9]]]), torch.tensor([[0.8, 0.3]]))
        >>> figure = draw_moments("a person opens the door", 30.0, moments, truth=(7.0, 15.0))
        >>> [round(float(bar.get_width()), 3) for bar in figure.axes[0].patches]
        [8.0, 9.0, 9.0]
    """
    if not (math.isfinite(duration) and duration > 0):
        raise InputError(f"duration: found {duration}, expected seconds above zero")
    if len(moments) != 1:
        raise InputError(f"moments: found a batch of {len(moments)} queries, expected one")
    spans = moments.seconds(torch.tensor([duration], dtype=moments.spans.dtype))[0, :count].tolist()
    scores = moments.scores[0, :count].tolist()
    bars = [
        Bar(f"{rank}", start, end, BEST if rank == 1 else OTHER, f"{score:.2f}")
        for rank, ((start, end), score) in enumerate(zip(spans, scores, strict=True), 1)
    ]
    return _draw_bars(sentence, duration, _with_truth(bars, truth), path, frames)


def draw_comparison(
    sentence: str,
    duration: float,
    spans: Mapping[str, Sequence[float]],
    truth: Sequence[float] | None = None,
    path: str | Path | None = None,
) -> Figure:
    """The best moment of several methods for one query, a row a method, below the annotated moment; seconds.

    Examples:
        >>> best = {"first": (2.0, 5.0), "second": (9.0, 12.0)}
        >>> figure = draw_comparison("a dog barks", 20.0, best, truth=(2.0, 6.0))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['truth', 'first', 'second']
    """
    bars = [Bar(name, float(start), float(end), BEST) for name, (start, end) in spans.items()]
    return _draw_bars(sentence, duration, _with_truth(bars, truth), path)


@dataclass(frozen=True)
class Bar:
    """A row of a time line; seconds."""

    name: str
    start: float
    end: float
    colour: str
    note: str = ""


def _with_truth(bars: list[Bar], truth: Sequence[float] | None) -> list[Bar]:
    return bars if truth is None else [Bar("truth", float(truth[0]), float(truth[1]), TRUTH), *bars]


def _draw_bars(
    sentence: str,
    duration: float,
    bars: Sequence[Bar],
    path: str | Path | None,
    frames: Shaped[Tensor, "frame 3 height width"] | None = None,
) -> Figure:
    title = "\n".join(textwrap.wrap(" ".join(sentence.split()), 40, max_lines=5, placeholder=" …")) or " "
    strip = 0.0 if frames is None or not len(frames) else STRIP
    heading = 0.2 + 0.22 * (title.count("\n") + 1)
    height = heading + strip + ROW * max(len(bars), 1) + 0.6
    # Names of methods need more room than ranks.
    left = 0.05 + 0.02 * max((len(bar.name) for bar in bars), default=5)

    figure = Figure(figsize=(WIDTH, height), dpi=200, facecolor="white")
    figure.text(0.03, 1 - 0.12 / height, title, va="top", fontsize=12, fontweight="bold", color=INK, parse_math=False)
    timeline = figure.add_axes((left, 0.55 / height, 0.95 - left, ROW * max(len(bars), 1) / height))
    for row, bar in enumerate(bars):
        hatch = "//" if bar.name == "truth" else None
        timeline.barh(row, bar.end - bar.start, left=bar.start, height=0.72, color=bar.colour, hatch=hatch, ec="white")
        label = "  ".join(part for part in (f"{bar.start:.1f}–{bar.end:.1f} s", bar.note) if part)  # noqa: RUF001
        _write_beside(timeline, row, bar.start, bar.end, duration, label)
    _finish_timeline(timeline, duration, [bar.name for bar in bars])
    if frames is not None and strip:
        film = figure.add_axes((left, 1 - (heading + strip) / height, 0.95 - left, (strip - 0.1) / height))
        _draw_film(film, frames)
    if path is not None:
        _save(figure, Path(path))
    return figure


def draw_emotions(
    duration: float, moments: Sequence[tuple[str, float, float, float]], path: str | Path | None = None
) -> Figure:
    """Moments of emotions on one time line, a row an emotion, the surer the darker.

    Args:
        duration: seconds.
        moments: (emotion, start, end, score), best first.
        path: where the picture goes, in the format of its ending.

    Raises:
        InputError: `duration` is not a positive number, or `path` cannot be written.

    Examples:
        >>> moments = [("anger", 1.0, 4.0, 0.9), ("peace", 6.0, 19.0, 0.4), ("anger", 8.0, 9.0, 0.2)]
        >>> figure = draw_emotions(20.0, moments)
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['anger', 'peace']
    """
    if not (math.isfinite(duration) and duration > 0):
        raise InputError(f"duration: found {duration}, expected seconds above zero")
    names = list(dict.fromkeys(name for name, *_ in moments))
    height = ROW * max(len(names), 1) + 0.75
    figure = Figure(figsize=(WIDTH, height), dpi=200, facecolor="white")
    axes = figure.add_axes((0.29, 0.55 / height, 0.67, ROW * max(len(names), 1) / height))
    best = max((score for *_, score in moments), default=1.0) or 1.0
    for name, start, end, score in reversed(moments):
        strength = min(max(score / best, 0.15), 1.0)
        axes.barh(names.index(name), end - start, left=start, height=0.72, color=BEST, alpha=strength, ec="white")
    _finish_timeline(axes, duration, names)
    if path is not None:
        _save(figure, Path(path))
    return figure


def _finish_timeline(axes: Axes, duration: float, rows: Sequence[str]) -> None:
    axes.set_xlim(0, duration)
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=10)
    axes.set_xlabel("seconds", fontsize=10, labelpad=1)
    axes.tick_params(axis="x", labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _write_beside(axes: Axes, row: int, start: float, end: float, duration: float, label: str) -> None:
    """The label after its bar, before it where that leaves more room, or inside a bar that fills the line."""
    before, after = start / duration, 1 - end / duration
    gap = 0.012 * duration
    # Nine-point text of 17 letters takes about four tenths of the line.
    if max(before, after) < 0.025 * len(label):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}
        axes.text((start + end) / 2, row, label, ha="center", va="center", fontsize=9, color=INK, bbox=box)
    elif after >= before:
        axes.text(end + gap, row, label, ha="left", va="center", fontsize=9, color=INK)
    else:
        axes.text(start - gap, row, label, ha="right", va="center", fontsize=9, color=INK)


def _draw_film(axes: Axes, frames: Shaped[Tensor, "frame 3 height width"]) -> None:
    chosen = torch.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().long()
    pictures = frames[chosen].detach().cpu()
    if not pictures.is_floating_point():
        pictures = pictures.float() / 255
    axes.imshow(torch.cat(list(pictures.float().clamp(0, 1)), dim=2).permute(1, 2, 0).numpy(), aspect="auto")
    axes.set_axis_off()


def _save(figure: Figure, path: Path) -> None:
    kind = path.suffix.removeprefix(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise InputError(f"{path}: found the ending {path.suffix!r}, expected one of {', '.join(sorted(known))}")
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(aside, format=kind)
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}, expected a file that can be written") from None
    finally:
        aside.unlink(missing_ok=True)
