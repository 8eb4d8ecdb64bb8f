"""What training images go through, one by one: from nothing to the recipe that transformers are trained with."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Image = Float[Tensor, "channel height width"]
Augment = Literal["none", "shift", "base", "elite"]
"""
"shift" rolls an image by up to an eighth and mirrors it, for small pictures whose ground goes on;
"base" shows a random part of it, mirrored or not, as ImageNet's residual networks are trained;
"elite" also draws two changes of colour or shape (RandAugment, magnitude 9) and erases a part of every fourth image
(arXiv:2104.12533). Labels are mixed by the method, see `mixed`.
"""


def training_transform(kind: Augment, size: int) -> Callable[[Image], Image]:
    """A function that changes an image in [0, 1] at random and gives it the size.

    Examples:
        >>> image = torch.rand(3, 40, 50)
        >>> [tuple(training_transform(kind, 32)(image).shape) for kind in ("base", "elite")]
        [(3, 32, 32), (3, 32, 32)]
    """
    if kind == "none":
        return lambda image: image
    if kind == "shift":
        return _shifted
    from torchvision.transforms import v2

    base = [v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC), v2.RandomHorizontalFlip()]
    if kind == "base":
        return v2.Compose([*base, _unit])
    bytes_ = v2.ToDtype(torch.uint8, scale=True)
    floats = v2.ToDtype(torch.float32, scale=True)
    return v2.Compose([*base, _unit, bytes_, v2.RandAugment(), floats, v2.RandomErasing(0.25, value="random"), _unit])


def mixed(
    num_classes: int, mixup: float = 0.8, cutmix: float = 1.0
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function of images and labels that mixes pairs of images, by weight or by a rectangle, and their labels alike.

    Args:
        mixup, cutmix: parameters of the Beta distributions of the shares; 0 leaves one of them out.

    Examples:
        >>> images, labels = mixed(5)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
        >>> labels.shape, bool((labels.sum(dim=1) - 1).abs().max() < 1e-6)
        (torch.Size([4, 5]), True)
    """
    from torchvision.transforms import v2

    kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
    chosen = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
    if not chosen:
        return lambda images, labels: (images, torch.nn.functional.one_hot(labels, num_classes).float())
    return v2.RandomChoice(chosen)


def _shifted(image: Image) -> Image:
    height, width = image.shape[1:]
    down, right = (int(torch.randint(-(side // 8), side // 8 + 1, ())) for side in (height, width))
    rolled = image.roll((down, right), dims=(1, 2))
    return rolled.flip(-1) if float(torch.rand(())) < 0.5 else rolled


def _unit(image: Image) -> Image:
    """Bicubic resizing and random erasing leave [0, 1]."""
    return image.clamp(0, 1)
