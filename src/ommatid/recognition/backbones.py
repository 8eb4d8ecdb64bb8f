"""Networks of timm without their classifier, as several methods of the field build on them."""

from pathlib import Path
from typing import Any

from torch import nn

from ommatid.data.video import load_backbone
from ommatid.errors import InputError


def timm_backbone(name: str, weights: str | None, **settings: Any) -> tuple[nn.Module, int]:
    """A network of timm, and the number of its features.

    Args:
        weights: None for random ones, "pretrained" for timm's, or a file of them.
        **settings: of `timm.create_model`.

    Raises:
        InputError: timm has no such network, or the file is none of its weights.

    Examples:
        >>> timm_backbone("resnet18", None)[1]
        512
    """
    import timm

    if not timm.is_model(name):
        raise InputError(f"backbone: found {name!r}, expected 'small' or a name that timm.list_models() has")
    network = timm.create_model(name, pretrained=weights == "pretrained", num_classes=0, **settings)
    if weights not in (None, "pretrained"):
        load_backbone(network, Path(str(weights)))
    # Mobile networks widen their features behind the mean.
    width: Any = getattr(network, "head_hidden_size", None) or network.num_features
    return network, int(width)
