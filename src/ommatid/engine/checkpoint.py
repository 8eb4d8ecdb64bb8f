"""Checkpoints: one safetensors file that holds the weights and, in its header, the settings that rebuild the method."""

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ommatid import __version__
from ommatid.errors import CheckpointError
from ommatid.files import write_aside

FORMAT = 1
"""Raised whenever an older library could not read what this one writes."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        method: name of the method.
        settings: constructor arguments, JSON values only.
        extras: what is neither weight nor setting (class names, a vocabulary), JSON values only.
        weights: the state dict.
        library: version of ommatid that wrote the file.
    """

    method: str
    settings: dict[str, Any]
    extras: dict[str, Any]
    weights: dict[str, Tensor]
    library: str = __version__


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    # safetensors refuses tensors that share memory (tied weights), hence the copies.
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.weights.items()}
    header = {
        "format": FORMAT,
        "library": checkpoint.library,
        "method": checkpoint.method,
        "settings": checkpoint.settings,
        "extras": checkpoint.extras,
    }
    metadata = {"ommatid": json.dumps(header, sort_keys=True)}
    write_aside(Path(path), lambda aside: save_file(weights, aside, metadata=metadata))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that ommatid wrote.

    Raises:
        CheckpointError: the file is missing, truncated, a pickle, not written by ommatid, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    if _is_pickle(path):
        raise CheckpointError(
            f"{path}: this is a pickled PyTorch file, expected a .safetensors checkpoint of ommatid; "
            "the authors' released weights are read with load_published"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a complete safetensors file ({error})") from error
    return _parse_header(path, metadata.get("ommatid"), weights)


def _parse_header(path: Path, text: str | None, weights: dict[str, Tensor]) -> Checkpoint:
    if text is None:
        raise CheckpointError(f"{path}: a safetensors file without ommatid's settings; expected one that ommatid saved")
    try:
        header = json.loads(text)
        version = int(header["format"])
        if version <= FORMAT:
            kinds = {"method": str, "settings": dict, "extras": dict, "library": str}
            for name, kind in kinds.items():
                if not isinstance(header[name], kind):
                    raise TypeError(f"{name} is a {type(header[name]).__name__}")
            return Checkpoint(weights=weights, **{name: header[name] for name in kinds})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the settings in the header cannot be read ({error!r})") from error
    raise CheckpointError(
        f"{path}: written by ommatid {header.get('library', '?')} in checkpoint format {version}, "
        f"this is ommatid {__version__} which reads formats up to {FORMAT}: please upgrade"
    )


def rename(key: str, rules: Sequence[tuple[str, str]]) -> str:
    r"""A released weight's name under ours: regular expressions and what replaces them, one after the other.

    Examples:
        >>> rename("layer1.conv1.weight", [(r"^layer(\d)\.", r"stages.\1."), (r"conv1", "stem")])
        'stages.1.stem.weight'
    """
    for pattern, ours in rules:
        key = re.sub(pattern, ours, key)
    return key


def read_foreign(path: Path) -> dict[str, Tensor]:
    """State dict of somebody else's .pth, .pt or .safetensors file; nothing in the file is executed.

    A dict that wraps the state dict under `state_dict`, `model` or `net` is unwrapped, a `module.` prefix removed.

    Raises:
        CheckpointError: the file is missing, damaged, or could only be read by running code from it.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return _state_dict(path, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a complete safetensors file ({error})") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because reading it would run code stored in the file; expected a dict of tensors"
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise CheckpointError(f"{path}: not a readable PyTorch file ({type(error).__name__})") from error
    return _state_dict(path, content)


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    for key in ("state_dict", "model", "net"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: found a {type(content).__name__}, expected a dict of tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _is_pickle(path: Path) -> bool:
    """A zip archive of torch.save, or a bare pickle.

    A safetensors file begins with the length of its header, whose bytes may be a pickle's; then comes the header.
    """
    with path.open("rb") as file:
        start = file.read(9)
    marks = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    return start.startswith(marks) and start[8:] != b"{"
