"""Is this installation able to work? Each answer is one line that says what to do if not."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ommatid import catalogue

EXTRAS = {
    "av": "video",
    "h5py": "video",
    "transformers": "text",
    "torch_geometric": "graphs",
    "monai": "volumes",
    "tifffile": "slides",
    "imagecodecs": "slides",
    "ray": "cluster",
    "onnx": "export",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    text: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """Packages, devices, compiled operators, extras, and whether every method of the catalogue imports."""
    checks: tuple[Callable[[], list[Finding]], ...] = (_packages, _devices, _operators, _extras, _methods)
    return [finding for check in checks for finding in check()]


def _packages() -> list[Finding]:
    found = []
    for name in ("torch", "torchvision", "timm", "lightning", "torchmetrics", "jsonargparse", "safetensors"):
        try:
            found.append(Finding(name, True, version(name)))
        except PackageNotFoundError:
            found.append(Finding(name, False, f"not installed: pip install {name}"))
    return found


def _devices() -> list[Finding]:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [Finding("devices", True, f"{torch.get_num_threads()} CPU threads, GPUs: {', '.join(gpus) or 'none'}")]


def _operators() -> list[Finding]:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1], [5.0, 5.0, 6.0, 6.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    from ommatid.torchvision_guard import declare_missing_operators

    substituted = declare_missing_operators()
    which = "no matching compiled operators, pure-PyTorch ones serve" if substituted else "compiled operators"
    return [Finding("torchvision operators", kept == [0, 2], which)]


def _extras() -> list[Finding]:
    found = []
    for module, extra in EXTRAS.items():
        try:
            text = version(module.replace("_", "-"))
        except PackageNotFoundError:
            text = f"not installed (optional): pip install 'ommatid[{extra}]'"
        found.append(Finding(f"extra {extra}: {module}", True, text))
    return found


def _methods() -> list[Finding]:
    from ommatid.api import method_class

    found = []
    for entry in catalogue.CATALOGUE:
        try:
            method_class(entry.name)
            found.append(Finding(entry.name, True, entry.target))
        except Exception as error:  # whatever breaks an import is what the user wants to read
            found.append(Finding(entry.name, False, str(error)))
    return found
