"""Frames with heat on them: a picture of some, or a video of all."""

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from ommatid.classification.draw import save_figure
from ommatid.data.video import write_video
from ommatid.files import write_aside

MOST_FRAMES = 6
SHARE = 0.75
"""How much of the colour is heat where a map is 1."""
COLOURS = "inferno"


def heated(
    frames: UInt8[Tensor, "time 3 height width"], maps: Float[Tensor, "time height width"]
) -> UInt8[Tensor, "time height width 3"]:
    """Frames, covered by the colour of their maps as far as these are high.

    Examples:
        >>> frames = torch.full((1, 3, 2, 4), 100, dtype=torch.uint8)
        >>> heated(frames, torch.zeros(1, 2, 4)).unique().tolist()
        [100]
    """
    maps = maps.detach().float().cpu().clamp(0, 1)
    colours = torch.from_numpy(colormaps[COLOURS](maps.numpy())[..., :3]).float() * 255
    share = SHARE * maps[..., None]
    pictures = frames.cpu().permute(0, 2, 3, 1).float()
    return (pictures * (1 - share) + colours * share).round().to(torch.uint8)


def draw_saliency(
    frames: UInt8[Tensor, "time 3 height width"],
    maps: Float[Tensor, "time height width"],
    first: int = 0,
    path: Path | None = None,
) -> Figure:
    """At most six frames, evenly spread, with heat on them and their numbers above.

    Examples:
        >>> figure = draw_saliency(torch.zeros(9, 3, 8, 16, dtype=torch.uint8), torch.rand(9, 8, 16), first=5)
        >>> [axis.get_title() for axis in figure.axes]
        ['frame 5', 'frame 7', 'frame 8', 'frame 10', 'frame 11', 'frame 13']
    """
    chosen = torch.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().long()
    pictures = heated(frames[chosen], maps[chosen]).numpy()
    rows = -(-len(chosen) // 2)
    figure = Figure(figsize=(7.2, 2.0 * rows), layout="constrained")
    axes = figure.subplots(rows, 2 if len(chosen) > 1 else 1, squeeze=False).flatten()
    for axis in axes[len(chosen) :]:
        figure.delaxes(axis)
    for axis, picture, number in zip(axes, pictures, chosen.tolist(), strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(f"frame {first + number}", fontsize=9)
        axis.set_axis_off()
    return save_figure(figure, path)


def write_saliency_video(
    frames: UInt8[Tensor, "time 3 height width"], maps: Float[Tensor, "time height width"], fps: int, path: Path
) -> None:
    """All frames with heat on them, as an H.264 video."""
    height, width = frames.shape[2] // 2 * 2, frames.shape[3] // 2 * 2

    def write(aside: Path) -> None:
        # The container is chosen by the ending, which the file aside does not have.
        named = aside.with_name(f"{aside.name}.mp4")
        try:
            write_video(named, heated(frames, maps)[:, :height, :width].numpy(), fps)
            named.replace(aside)
        finally:
            named.unlink(missing_ok=True)

    write_aside(path, write)
