"""Classifiers by name, from this library, timm or torchvision, and their training on labelled images."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.engine.checkpoint import read_foreign
from ommatid.errors import CheckpointError, InputError, unknown
from ommatid.nn.classifiers import CIFAR_CLASSIFIERS, build_cifar_classifier
from ommatid.nn.normalise import Normalise
from ommatid.nn.views import crop_flip
from ommatid.transfer.published import network_of, published_classifier


def build_classifier(
    name: str, num_classes: int, channels: int, mean: Sequence[float], std: Sequence[float], width: float = 1.0
) -> nn.Sequential:
    """A classifier of images in [0, 1]: normalisation, then the network `name`.

    Args:
        name: one of `CIFAR_CLASSIFIERS`, a timm model, or "torchvision:<model>".
        width: channel multiplier, for `CIFAR_CLASSIFIERS` only.

    Raises:
        InputError: no library knows the name.

    Examples:
        >>> build_classifier("digits_cnn", 10, 3, [0.5] * 3, [0.5] * 3)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 10])
    """
    return nn.Sequential(Normalise(mean, std), _network(name, num_classes, channels, width))


def _network(name: str, num_classes: int, channels: int, width: float) -> nn.Module:
    if name in CIFAR_CLASSIFIERS:
        return build_cifar_classifier(name, num_classes, channels, width)
    if width != 1.0:
        raise InputError(f"width {width} is only for {', '.join(CIFAR_CLASSIFIERS)}, found network {name!r}")
    if name.startswith("torchvision:"):
        import torchvision

        wanted = name.partition(":")[2]
        if wanted not in torchvision.models.list_models(module=torchvision.models):
            raise unknown("torchvision model", wanted, torchvision.models.list_models(module=torchvision.models))
        return torchvision.models.get_model(wanted, weights=None, num_classes=num_classes)
    import timm

    if not timm.is_model(name):
        raise unknown("classifier", name, [*CIFAR_CLASSIFIERS, *timm.list_models()])
    return timm.create_model(name, num_classes=num_classes, in_chans=channels)


def load_classifier(model: nn.Sequential, path: Path) -> None:
    """Weights of the network behind the normalisation, from a file; nothing in it is executed.

    Args:
        path: a state dict with the names of the network, or with those of a released CIFAR network.

    Raises:
        CheckpointError: the file cannot be read, or its weights do not fit.
    """
    state = read_foreign(path)
    network, _ = network_of(model)
    try:
        network.load_state_dict(published_classifier(state, network))
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error


def train_classifier(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    steps: int,
    lr: float = 1e-2,
    batch_size: int = 128,
    pad: int = 0,
    flip: bool = False,
    seed: int = 0,
) -> None:
    """Supervised training in memory: Adam, one cycle, cross-entropy. The model ends in eval mode.

    Args:
        pad, flip: augmentation by shifts of so many pixels, and by mirroring.
        seed: of order and augmentation; the global generator is left as it was.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps + 1)
        model.train()
        for _ in range(steps):
            chosen = torch.randint(len(images), (batch_size,))
            batch = crop_flip(images[chosen], pad, flip) if pad else images[chosen]
            loss = F.cross_entropy(model(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """Share of images whose most probable class is right."""
    model.eval()
    right = sum(
        (model(batch).argmax(dim=1) == truth).sum()
        for batch, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True)
    )
    return float(right) / len(images)
