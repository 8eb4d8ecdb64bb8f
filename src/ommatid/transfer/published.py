"""Released weights of CIFAR networks under the names of ours."""

import re

from torch import Tensor, nn

from ommatid.engine.checkpoint import rename
from ommatid.errors import InputError
from ommatid.nn.normalise import Normalise

Rules = list[tuple[str, str]]

# A residual branch of ours is convolution, norm, ReLU in turn.
_RESIDUAL: Rules = [
    (r"^conv1\.", "stem.0."),
    (r"^bn1\.", "stem.1."),
    *((rf"^layer{stage + 1}\.", f"stages.{stage}.") for stage in range(4)),
    *((rf"\.conv{number + 1}\.", f".residual.{3 * number}.") for number in range(3)),
    *((rf"\.bn{number + 1}\.", f".residual.{3 * number + 1}.") for number in range(3)),
    (r"\.downsample\.", ".shortcut."),
    (r"^(linear|fc)\.", "head."),
]
_WIDE: Rules = [
    (r"^conv1\.", "stem."),
    *((rf"^block{stage + 1}\.layer\.", f"stages.{stage}.") for stage in range(3)),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.convShortcut\.", ".shortcut."),
    (r"^(linear|fc)\.", "head."),
]


def published_classifier(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A released network's weights under our names: wide residual networks (pre-activation) and residual networks.

    Weights that have the names of `network` already stay as they are. Old files do not count the batches of their
    norms; those counts are taken from `network`.

    Raises:
        InputError: a weight is missing, has another shape, or belongs to no layer of `network`.
    """
    ours, name = network.state_dict(), type(network).__name__
    theirs = {key: tensor for key, tensor in state.items() if not key.startswith("normalizer")}
    found = theirs if theirs.keys() <= ours.keys() else renamed(theirs)
    found = {key: tensor for key, tensor in ours.items() if key.endswith(".num_batches_tracked")} | found
    for key, tensor in ours.items():
        if key not in found:
            raise InputError(f"released weights: found nothing for {key} of the {name}, expected a tensor")
        if found[key].shape != tensor.shape:
            shape, expected = tuple(found[key].shape), tuple(tensor.shape)
            raise InputError(f"released weights: found the shape {shape} for {key} of the {name}, expected {expected}")
    for key in sorted(found.keys() - ours.keys()):
        raise InputError(f"released weights: found {key}, expected only what the {name} has")
    return {key: found[key] for key in ours}


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of a released residual network under our name.

    Examples:
        >>> import torch
        >>> list(renamed({"layer2.0.bn2.bias": torch.zeros(1)}))
        ['stages.1.0.residual.4.bias']
    """
    last = [int(found[1]) for key in state if (found := re.match(r"block3\.layer\.(\d+)\.", key))]
    # The norm behind all blocks stands at the end of our last stage.
    rules = [(r"^bn1\.", f"stages.2.{max(last) + 1}."), *_WIDE] if last else _RESIDUAL
    return {rename(key, rules): tensor for key, tensor in state.items()}


def network_of(classifier: nn.Module) -> tuple[nn.Module, str]:
    """The network behind the normalisation of `build_classifier` and the prefix of its names, else the whole module."""
    if isinstance(classifier, nn.Sequential) and len(classifier) == 2 and isinstance(classifier[0], Normalise):
        return classifier[1], "1."
    return classifier, ""
