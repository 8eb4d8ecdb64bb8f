"""Which parts of images an episode is decided by: the whole, random crops, or a box."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.nn.crops import random_crop_boxes, take_crops
from ommatid.transfer.episodes import episode_seed

View = Literal["whole", "crops", "boxes"]
Images = Float[Tensor, "image 3 height width"]
ENCODED_AT_ONCE = 1024
"""Crops that go through an encoder together at evaluation."""


class Crops(NamedTuple):
    """Parts of images.

    Attributes:
        boxes: top, left, height and width in pixels.
        mirrored: those turned left to right.
    """

    boxes: Float[Tensor, "image crop 4"]
    mirrored: Bool[Tensor, "image crop"]

    def to(self, device: torch.device) -> "Crops":
        return Crops(self.boxes.to(device), self.mirrored.to(device))


def upright(boxes: Float[Tensor, "image crop 4"]) -> Crops:
    """Boxes that are not mirrored."""
    return Crops(boxes, torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device))


def middle_boxes(images: int, height: int, width: int, share: float) -> Float[Tensor, "image 1 4"]:
    """The middle of every image, a share of each of its sides.

    Examples:
        >>> middle_boxes(1, 92, 92, 84 / 92)
        tensor([[[ 4.,  4., 84., 84.]]])
    """
    sides = torch.tensor([height, width], dtype=torch.float32)
    return torch.cat([sides * (1 - share) / 2, sides * share]).expand(images, 1, 4)


def drawn_crops(numbers: Int[Tensor, "image"], crops: int, height: int, width: int, seed: int) -> Crops:
    """Random crops, a function of the seed and the number of their image alone.

    Examples:
        >>> alone = drawn_crops(torch.tensor([7]), 3, 48, 48, seed=0)
        >>> bool((drawn_crops(torch.tensor([2, 7]), 3, 48, 48, seed=0).boxes[1] == alone.boxes[0]).all())
        True
    """
    region = torch.tensor([0, 0, height, width], dtype=torch.float32).expand(crops, 4)
    found = []
    # Each image has a generator of its own, so that its crops do not depend on its company.
    for number in numbers.tolist():
        generator = torch.Generator().manual_seed(episode_seed(seed, number))
        boxes = random_crop_boxes(region, generator=generator)
        found.append((boxes, torch.rand(crops, generator=generator) < 0.5))
    return Crops(*(torch.stack(part) for part in zip(*found, strict=True)))


def views_in_parts(images: Images, crops: Crops, size: int) -> Iterator[Float[Tensor, "view 3 size size"]]:
    """The crops of all images, those of an image one after the other, so many at a time as memory allows."""
    count = max(1, ENCODED_AT_ONCE // crops.boxes.shape[1])
    for part in zip(images.split(count), crops.boxes.split(count), crops.mirrored.split(count), strict=True):
        yield take_crops(part[0], part[1], size, part[2]).flatten(0, 1)
