"""`world-motion`: clips whose label lies in the order of their frames alone; rendered, seeded.

A textured square moves on a textured ground: in one of eight directions, turning left or right, growing or shrinking.
Where, how large, how coloured and which texture is drawn at random, and motion is centred on the middle of the clip, so
that a frame says nothing, and all of them in no order the axis at most: a clip and its reverse hold the same frames and
opposite labels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from ommatid.data.new_folder import new_folder
from ommatid.data.video import write_video
from ommatid.errors import InputError, unknown

DIRECTIONS = ("right", "up right", "up", "up left", "left", "down left", "down", "down right")
CLASSES = (*DIRECTIONS, "turn left", "turn right", "grow", "shrink")
OPPOSITE = (4, 5, 6, 7, 0, 1, 2, 3, 9, 8, 11, 10)
"""The label of the reversed clip."""
SPLITS = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class MotionWorld:
    """Clips of moving squares.

    Attributes:
        train, val, test: number of clips.
        frames, size: of a clip.
        noise: standard deviation of what is added to every pixel of every frame.

    Examples:
        >>> world = MotionWorld(train=12, size=16)
        >>> clips, labels = world.split("train")
        >>> clips.shape, clips.dtype, CLASSES[labels[0]]
        (torch.Size([12, 8, 3, 16, 16]), torch.uint8, 'right')
    """

    train: int = 2400
    val: int = 480
    test: int = 640
    frames: int = 8
    size: int = 32
    noise: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "val", "test", "frames", "size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")

    def split(self, name: str) -> tuple[UInt8[Tensor, "clip time 3 height width"], Int[Tensor, "clip"]]:
        """All clips of a split, classes in turn."""
        generator = torch.Generator().manual_seed(3 * self.seed + SPLITS[name])
        labels = torch.arange(getattr(self, name)) % len(CLASSES)
        # A few hundred at a time: the renderer holds several floats for every pixel.
        parts = [self._render(part, generator) for part in labels.split(240)]
        return torch.cat(parts), labels

    def write(self, root: str | Path, format: str = "list") -> dict[str, int]:
        """Write all splits as files: "list" has a folder of frames for every clip and a list for every split,
        "folder" a video for every clip in a folder of its class.

        Returns:
            Number of clips of every split.

        Raises:
            InputError: the folder is not empty, or the format is neither.
        """
        if format not in WRITERS:
            raise unknown("format of world-motion", format, WRITERS)
        counts = {}
        with new_folder(root) as aside:
            for name in SPLITS:
                clips, labels = self.split(name)
                WRITERS[format](aside, name, clips.permute(0, 1, 3, 4, 2).numpy(), labels.tolist())
                counts[name] = len(labels)
        return counts

    def _render(
        self, labels: Int[Tensor, "clip"], generator: torch.Generator
    ) -> UInt8[Tensor, "clip time 3 height width"]:
        count = len(labels)

        def draw(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(count, *shape, generator=generator)

        centre, speed = draw(-0.3, 0.3, 2), draw(0.07, 0.12)
        half, angle = draw(0.3, 0.5), draw(-math.pi, math.pi)
        moment = torch.arange(self.frames) - (self.frames - 1) / 2
        path = _Motion.of(labels)
        place = centre[:, None] + path.velocity[:, None] * speed[:, None, None] * moment[:, None]
        turned = angle[:, None] + path.turn[:, None] * moment
        scale = half[:, None] * torch.exp(path.growth[:, None] * moment)

        shape = (count, self.frames, 1, 1)
        x, y = self._grid
        x, y = x - place[..., 0].view(shape), y - place[..., 1].view(shape)
        cos, sin = turned.cos().view(shape), turned.sin().view(shape)
        u, v = (cos * x + sin * y) / scale.view(shape), (cos * y - sin * x) / scale.view(shape)
        # An edge as wide as a pixel, so that motion below one pixel shows.
        edge = 2 / self.size / scale.view(shape)
        inside = ((1 - torch.maximum(u.abs(), v.abs())) / edge + 0.5).clamp(0, 1)[:, :, None]
        square = self._texture(u, v, draw(1.5, 2.5), draw(0.0, 2 * math.pi, 2), draw(0.3, 1.0, 3))
        ground = self._ground(draw(2.0, 8.0, 2), draw(0.0, 2 * math.pi, 2), draw(0.1, 0.6, 3))
        clips = ground[:, None] + inside * (square - ground[:, None])
        clips = clips + self.noise * torch.randn(clips.shape, generator=generator)
        return (clips.clamp(0, 1) * 255).round().to(torch.uint8)

    @cached_property
    def _grid(self) -> tuple[Float[Tensor, "size size"], Float[Tensor, "size size"]]:
        axis = (torch.arange(self.size) + 0.5) * 2 / self.size - 1
        # Up is where the first row is.
        y, x = torch.meshgrid(-axis, axis, indexing="ij")
        return x, y

    @staticmethod
    def _texture(u: Tensor, v: Tensor, frequency: Tensor, phase: Tensor, colour: Tensor) -> Tensor:
        """A checker of two levels, in coordinates of the square."""
        wave = 6 * frequency.view(-1, 1, 1, 1)
        first, second = phase[:, 0].view(-1, 1, 1, 1), phase[:, 1].view(-1, 1, 1, 1)
        level = 0.7 + 0.3 * torch.sign(torch.sin(wave * u / 2 + first) * torch.sin(wave * v / 2 + second))
        return level[:, :, None] * colour.view(-1, 1, 3, 1, 1)

    def _ground(self, frequency: Tensor, phase: Tensor, colour: Tensor) -> Tensor:
        """A weak sinusoid in both directions."""
        x, y = self._grid
        across = torch.sin(frequency[:, 0].view(-1, 1, 1) * x + phase[:, 0].view(-1, 1, 1))
        along = torch.sin(frequency[:, 1].view(-1, 1, 1) * y + phase[:, 1].view(-1, 1, 1))
        return (0.8 + 0.2 * across * along)[:, None] * colour.view(-1, 3, 1, 1)


@dataclass(frozen=True)
class _Motion:
    """What a class does in a frame's time: direction, radians, logarithm of the factor of growth."""

    velocity: Float[Tensor, "clip 2"]
    turn: Float[Tensor, "clip"]
    growth: Float[Tensor, "clip"]

    @classmethod
    def of(cls, labels: Int[Tensor, "clip"]) -> "_Motion":
        angle = labels * math.pi / 4
        moves = (labels < len(DIRECTIONS)).float()
        velocity = torch.stack([angle.cos(), angle.sin()], dim=-1) * moves[:, None]
        turn = 0.18 * ((labels == 8).float() - (labels == 9).float())
        growth = 0.09 * ((labels == 10).float() - (labels == 11).float())
        return cls(velocity, turn, growth)


Pictures = UInt8[np.ndarray, "clip time height width 3"]


def _write_list(root: Path, split: str, clips: Pictures, labels: list[int]) -> None:
    """`frames/<clip>/img_00001.jpg` and `<split>.txt` with lines of folder, number of frames and label."""
    lines = []
    for number, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        folder = Path("frames", f"{split}_{number:04d}")
        (root / folder).mkdir(parents=True)
        for place, frame in enumerate(clip, start=1):
            Image.fromarray(frame).save(root / folder / f"img_{place:05d}.jpg", quality=95)
        lines.append(f"{folder.as_posix()} {len(clip)} {label}")
    (root / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


def _write_folder(root: Path, split: str, clips: Pictures, labels: list[int]) -> None:
    """`<split>/<class>/<number>.mp4`, eight frames a second."""
    for number, (clip, label) in enumerate(zip(clips, labels, strict=True)):
        folder = root / split / CLASSES[label].replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{number:04d}.mp4", clip, fps=8)


WRITERS: dict[str, Callable[[Path, str, Pictures, list[int]], None]] = {"list": _write_list, "folder": _write_folder}
