"""What a training image goes through together with its mask."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ommatid.errors import unknown

Augment = Literal["none", "turns", "scale-crop"]
Image, Mask = UInt8[Tensor, "3 height width"], UInt8[Tensor, "height width"]
Changed = tuple[UInt8[Tensor, "3 rows columns"], UInt8[Tensor, "rows columns"]]
SCALES = (0.5, 2.0)


def mask_transform(name: str, size: int, base_size: int | None = None) -> Callable[[Image, Mask], Changed]:
    """A random change of an image and its mask, drawn from torch's global generator.

    Args:
        name: "turns" are quarters of a circle and mirrors, of images that have their size already. "scale-crop" is how
            Trans-Net and EVS-Net were trained: mirrored left to right, the shorter side 0.5 to 2 times `base_size`, a
            crop (black where the image ends), blurred half of the time by up to a pixel.
        size: height and width of the outcome.
        base_size: of which scales are shares; 1.5 times the size where None, 192 for 128 as published.

    Examples:
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> pixels = torch.zeros(3, 40, 60, dtype=torch.uint8)
        >>> image, mask = mask_transform("scale-crop", 32)(pixels, pixels[0])
        >>> image.shape, mask.shape
        (torch.Size([3, 32, 32]), torch.Size([32, 32]))
    """
    if name not in get_args(Augment):
        raise unknown("augment", name, get_args(Augment))
    if name == "none":
        return lambda image, mask: (image, mask)
    return _turned if name == "turns" else _Scaled(size, base_size or round(1.5 * size))


def _turned(image: Image, mask: Mask) -> Changed:
    quarters, mirrored = int(torch.randint(4, ())), bool(torch.rand(()) < 0.5)
    pair = (torch.rot90(each, quarters, dims=(-2, -1)) for each in (image, mask))
    image, mask = (each.flip(-1) if mirrored else each for each in pair)
    return image, mask


class _Scaled:
    """Geometry acts on both, colour on the image alone; torchvision knows which is which."""

    def __init__(self, size: int, base: int) -> None:
        low, high = (max(round(scale * base), 1) for scale in SCALES)
        self.change = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomShortestSize(list(range(low, high + 1)), antialias=True),
                v2.RandomCrop(size, pad_if_needed=True),
                v2.RandomApply([v2.GaussianBlur(5, sigma=(0.1, 1.0))], p=0.5),
            ]
        )

    def __call__(self, image: Image, mask: Mask) -> Changed:
        changed, moved = self.change(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return changed.as_subclass(Tensor), moved.as_subclass(Tensor)
