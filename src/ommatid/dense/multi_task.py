"""The contract of scenes: an image in; of every pixel the class, and the normal of the surface that it shows, out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

from ommatid.classification.draw import picture, save_figure
from ommatid.data.surface_samples import encoded_normals
from ommatid.dense.draw import save_mask
from ommatid.dense.normals_metrics import multi_task_gain
from ommatid.engine.batch import Batch
from ommatid.files import write_aside

SUMMARY = ("mIoU", "mean angle")
"""One score of each task."""
PALETTES = ("tab20", "tab20b", "tab20c")
MOST_NAMED = 12
"""Classes in the legend of a drawing, those of most pixels."""


@dataclass
class SceneBatch(Batch):
    """Images in [0, 1] with what is known of every pixel.

    Attributes:
        semantic: classes from 0 on, 255 where a pixel has none.
        normals: unit vectors, zero where there is none.
        normals_valid: pixels that have a normal.
        depth: in metres, 0 where unknown.
        index: position of the image in its split: it identifies a prediction, also across processes.
    """

    images: Float[Tensor, "batch 3 height width"]
    semantic: Int[Tensor, "batch height width"]
    normals: Float[Tensor, "batch 3 height width"]
    normals_valid: Bool[Tensor, "batch height width"]
    depth: Float[Tensor, "batch 1 height width"]
    index: Int[Tensor, "batch"]


@dataclass
class SceneMaps(Batch):
    """What a network says of every pixel of its images.

    Attributes:
        logits: of classes.
        normals: vectors of any length.
    """

    logits: Float[Tensor, "batch class height width"]
    normals: Float[Tensor, "batch 3 height width"]


@dataclass(frozen=True)
class ScenePrediction:
    """Classes and normals of a user's own image, in the image's own size.

    Attributes:
        classes: number of the class of every pixel.
        normals: unit vectors.
    """

    image: Float[Tensor, "3 height width"]
    classes: Int[Tensor, "height width"]
    normals: Float[Tensor, "3 height width"]
    class_names: tuple[str, ...]

    def shares(self) -> dict[str, float]:
        """How much of the image each class covers that occurs, the largest first."""
        counts = self.classes.flatten().bincount(minlength=len(self.class_names))
        order = counts.argsort(descending=True, stable=True).tolist()
        return {
            self.class_names[number]: int(counts[number]) / self.classes.numel() for number in order if counts[number]
        }

    def to_json(self) -> dict[str, Any]:
        """Sizes, shares of classes, and the mean direction of all normals."""
        height, width = self.classes.shape
        towards = F.normalize(self.normals.flatten(1).mean(dim=1), dim=0).tolist()
        shares = {name: round(share, 4) for name, share in self.shares().items()}
        return {"width": width, "height": height, "classes": shares, "normal": [round(each, 4) for each in towards]}

    def draw(self, path: Path) -> None:
        """The image beside its classes and normals in colours.

        Beside the drawing lie `<name>.classes.png`, the number of every pixel's class, and `<name>.normals.png`, three
        bytes for each normal as `ommatid.data.surface_samples` decodes them.
        """
        path = Path(path)
        draw_scene(self, path)
        save_mask(self.classes.to(torch.uint8), path.with_suffix(".classes.png"))
        normals = encoded_normals(self.normals).permute(1, 2, 0).contiguous().cpu().numpy()
        write_aside(path.with_suffix(".normals.png"), lambda aside: Image.fromarray(normals).save(aside, format="PNG"))


def draw_scene(scene: ScenePrediction, path: Path | None = None) -> Figure:
    """The image, its classes in colours with a legend, and its normals: red to the right, green up, blue to the viewer.

    Examples:
        >>> scene = ScenePrediction(
        ...     torch.rand(3, 8, 8), torch.arange(64).view(8, 8) // 32, torch.rand(3, 8, 8), ("wall", "floor")
        ... )
        >>> [text.get_text() for text in draw_scene(scene).axes[1].get_legend().get_texts()]
        ['wall', 'floor']
    """
    height, width = scene.classes.shape
    named, colours = list(scene.shares())[:MOST_NAMED], class_colours(len(scene.class_names))
    rows = -(-len(named) // 2)
    figure = Figure(figsize=(9.6, 3.2 * min(max(height / width, 0.3), 3.0) + 0.3 + 0.2 * rows), layout="constrained")
    pictures: dict[str, np.ndarray] = {
        "image": picture(scene.image),
        "classes": colours[scene.classes.cpu()].numpy(),
        "normals": encoded_normals(scene.normals).permute(1, 2, 0).cpu().numpy(),
    }
    axes = figure.subplots(1, len(pictures))
    for axis, (title, pixels) in zip(axes, pictures.items(), strict=True):
        axis.imshow(pixels, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    shades = {name: tuple((colours[scene.class_names.index(name)] / 255).tolist()) for name in named}
    patches = [Patch(color=shade, label=name) for name, shade in shades.items()]  # type: ignore[arg-type]
    axes[1].legend(handles=patches, ncols=2, fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.02))
    return save_figure(figure, path)


def class_colours(count: int) -> UInt8[Tensor, "class 3"]:
    """A colour for each class; from the 61st class on they come again.

    Examples:
        >>> class_colours(2)
        tensor([[ 31, 119, 180],
                [255, 127,  14]], dtype=torch.uint8)
    """
    # Every other one first: neighbours in these palettes are shades of one colour.
    every = np.array([colour for name in PALETTES for half in (0, 1) for colour in colormaps[name].colors[half::2]])  # type: ignore[attr-defined]
    return torch.from_numpy((every[np.arange(count) % len(every)] * 255).round().astype(np.uint8))


def gain_over_single(scores: Mapping[str, float], single: Mapping[str, float]) -> float:
    """Delta_m of mIoU and mean angle, in percent, from the scores of a joint training and of single networks.

    Raises:
        InputError: one of the two lacks one of the scores.

    Examples:
        >>> gain_over_single({"mIoU": 0.45, "mean angle": 15.0, "PA": 0.9}, {"mIoU": 0.4, "mean angle": 20.0})
        18.75
    """
    one, other = (_only(SUMMARY, each) for each in (scores, single))
    return round(multi_task_gain(one, other), 9)


def _only(names: Sequence[str], scores: Mapping[str, float]) -> dict[str, float]:
    return {name: scores[name] for name in names if name in scores}
