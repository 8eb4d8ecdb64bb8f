"""Lets torchvision import and detect where its compiled operators do not load (a build for another torch or CUDA).

Without its compiled library torchvision stops at its first line, "operator torchvision::nms does not exist", and takes
timm and lightning with it. `install` costs nothing until torchvision is imported; then torchvision's own library is
tried first, and only if that fails are its operators declared, with `ommatid.nn.region_ops` computing them.
"""

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
}
_declared: list[Any] = []  # a torch.library.Library takes its operators back when it is collected


def install() -> None:
    """Watch for the first import of torchvision; does nothing if torchvision is already imported."""
    watched = any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not watched:
        sys.meta_path.insert(0, _TorchvisionFinder())


def declare_missing_operators() -> bool:
    """Declare `torchvision::nms` and `torchvision::roi_align` unless torchvision's own library loads; True if declared.

    Only what torchvision's Python code needs is declared: it describes `nms` and `qnms` to torch when it is imported.
    Operators without a substitute (`deform_conv2d`, `roi_pool`, ...) keep torchvision's own error message.
    """
    if _declared:
        return True
    if _compiled_operators_load():
        return False
    import torch

    from ommatid.nn.region_ops import nms, roi_align

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + schema)
    library.impl("nms", nms, "CompositeExplicitAutograd")
    library.impl("roi_align", roi_align, "CompositeImplicitAutograd")
    _declared.append(library)
    return True


def _compiled_operators_load() -> bool:
    """Whether torchvision's library loads, found the way torchvision finds it but without importing torchvision."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    folder = str(Path(spec.origin).parent) if spec and spec.origin else ""
    library = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_C") if folder else None
    if library is None or library.origin is None:
        return False
    if hasattr(os, "add_dll_directory"):
        os.add_dll_directory(folder)
    try:
        torch.ops.load_library(library.origin)
    except (ImportError, OSError):
        return False
    return True


class _TorchvisionFinder(MetaPathFinder):
    """Finds torchvision as the other finders do, and wraps its loading.

    The work waits for the loading because packages also look for torchvision without importing it.
    """

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec and spec.loader:
            self._wrap(spec.loader)
        return spec

    def _wrap(self, loader: Any) -> None:
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            declared = declare_missing_operators()
            load(module)
            if declared:
                _admit_operators()
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        loader.exec_module = (
            exec_module  # on this one loader object: its class, and so resource reading, stays as it is
        )


def _admit_operators() -> None:
    """Let `torchvision.ops.nms` and `roi_align` reach the declared operators.

    Both first ask whether torchvision's library was loaded, and `roi_align` would otherwise compile a substitute at its
    first call. Only their own modules are told yes: everywhere else torchvision knows that its library is missing.
    """
    boxes: Any = sys.modules["torchvision.ops.boxes"]
    roi_align: Any = sys.modules["torchvision.ops.roi_align"]
    boxes._assert_has_ops = roi_align._assert_has_ops = _assert_has_ops
    roi_align._has_ops = _has_ops


def _has_ops() -> bool:
    return True


def _assert_has_ops() -> None:
    return None
