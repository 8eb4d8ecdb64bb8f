"""Real data that ship with the library; `NOTICE` names their sources and licences, `manifest.json` their checksums."""

import io
import lzma
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

FOLDER = Path(__file__).parent


def read(name: str) -> dict[str, np.ndarray]:
    """The arrays of one embedded file, rebuilt by `tools/pack_embedded.py`."""
    packed = lzma.decompress((FOLDER / f"{name}.npz.xz").read_bytes())
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return dict(arrays)


@dataclass(frozen=True)
class Icons:
    """Concepts, each as ten designers drew it.

    Attributes:
        masks: how much of a pixel an icon covers, 0 to 255.
        concepts: name of every concept.
        designs: the icon set that every picture is from.
    """

    masks: UInt8[Tensor, "concept design 32 32"]
    concepts: tuple[str, ...]
    designs: tuple[tuple[str, ...], ...]


@cache
def icons() -> Icons:
    """Concepts as designers of open icon sets drew them (MIT, ISC and Apache-2.0 licences).

    Examples:
        >>> found = icons()
        >>> found.masks.shape[1:], "umbrella" in found.concepts
        (torch.Size([10, 32, 32]), True)
    """
    arrays = read("icons")
    pairs = torch.from_numpy(arrays["pixels"])
    masks = torch.stack([pairs >> 4, pairs & 15], dim=-1).flatten(-2) * 17
    sets = arrays["sets"][arrays["designs"]]
    return Icons(masks, tuple(arrays["concepts"].tolist()), tuple(map(tuple, sets.tolist())))


@cache
def fashion_mnist_test() -> tuple[UInt8[Tensor, "10000 28 28"], UInt8[Tensor, "10000"]]:
    """The official test part of Fashion-MNIST (MIT, Zalando SE): images and labels.

    Examples:
        >>> images, labels = fashion_mnist_test()
        >>> labels.bincount().tolist() == [1000] * 10
        True
    """
    arrays = read("fashion_mnist")
    return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
