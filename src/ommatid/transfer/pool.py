"""Pools of recovered images: how diverse they are for a teacher, and their files."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ommatid.errors import InputError
from ommatid.files import write_aside
from ommatid.nn.capture import capture


@torch.no_grad()
def pool_diversity(teacher: nn.Module, images: Float[Tensor, "image channel height width"]) -> dict[str, float]:
    """Cosine similarities of the teacher's last features inside a pool (lower is more diverse), and its class entropy
    in nats.

    `nearest_similarity` is the mean over images of the similarity to the nearest other one, `mean_similarity` that
    over all pairs.
    """
    if len(images) < 2:
        return {}
    teacher.eval()
    device = next(teacher.parameters()).device
    outputs = [(last_features(teacher, batch.to(device)), teacher(batch.to(device))) for batch in images.split(256)]
    features = F.normalize(torch.cat([feature for feature, _ in outputs]).float(), dim=1)
    probs = torch.cat([logits for _, logits in outputs]).float().softmax(dim=1).mean(dim=0)
    nearest, total = torch.zeros((), device=device), torch.zeros((), device=device)
    # In blocks: all pairs of a full-size pool would not fit into memory at once.
    for start, block in zip(range(0, len(features), 2048), features.split(2048), strict=True):
        similarity = block @ features.T
        total += similarity.sum()
        similarity[torch.arange(len(block)), torch.arange(start, start + len(block))] = float("-inf")
        nearest += similarity.max(dim=1).values.sum()
    count = len(features)
    return {
        "nearest_similarity": float(nearest) / count,
        "mean_similarity": (float(total) - count) / (count * (count - 1)),
        "class_entropy": float(torch.special.entr(probs).sum()),
    }


def last_features(
    model: nn.Module, images: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch feature"]:
    """The input of the last linear layer: a classifier's last pooled feature map."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with capture(model, last, what="input") as seen:
        model(images)
        return next(iter(seen.values())).flatten(1)


def write_pool(path: Path, images: UInt8[Tensor, "image channel height width"]) -> Path:
    """Keep a pool as a compressed .npz file with the array `images`."""

    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            np.savez_compressed(file, images=images.cpu().numpy())

    write_aside(path, write)
    return path


def read_pool(path: Path, shape: tuple[int, ...]) -> UInt8[Tensor, "image channel height width"]:
    """The images of a `recovered.npz`.

    Raises:
        InputError: the file is missing or holds anything but such images.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            images = file["images"]
    except Exception as error:  # parsers of damaged archives leak errors of zipfile, zlib and many more
        raise InputError(f"{path}: not a readable pool, expected an .npz file with 'images'") from error
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise InputError(f"{path}: found images {images.dtype}{images.shape[1:]}, expected uint8{shape}")
    return torch.from_numpy(images)
