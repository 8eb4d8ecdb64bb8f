"""A trained method as a program that needs neither this library nor Python."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.engine.checkpoint import write_aside
from ommatid.engine.fit import quiet
from ommatid.errors import InputError, MissingDependency

TOLERANCE = 1e-3


def export_method(method: Any, path: Path, format: str) -> float:
    """Write the method's plain-tensor network to `path`, run the file, and compare; the largest absolute difference.

    Args:
        method: offers `exportable() -> (network, example inputs, input names, output names)`.
        format: "torch" (torch.export, .pt2) or "onnx".

    Raises:
        InputError: the exported program gives other numbers than the method.
    """
    network, inputs, input_names, output_names = method.eval().exportable()
    network = network.cpu().eval()
    with torch.no_grad(), quiet():
        expected = _tuple(network(*inputs))
        run = {"torch": _to_torch, "onnx": _to_onnx}[format](network, inputs, input_names, output_names, path)
        difference = max(float((ours - theirs).abs().max()) for ours, theirs in zip(expected, run, strict=True))
    if not difference <= TOLERANCE:
        raise InputError(
            f"{path}: the exported program differs from the method by {difference:.2e}, expected {TOLERANCE:g}"
        )
    return difference


def _to_torch(network: nn.Module, inputs: tuple[Tensor, ...], _: Any, __: Any, path: Path) -> tuple[Tensor, ...]:
    program = torch.export.export(network, inputs)
    # torch.export names its archive after the file, which must end in .pt2.
    write_aside(path, lambda aside: _save_program(program, aside))
    return _tuple(torch.export.load(path).module()(*inputs))


def _save_program(program: Any, path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file)


def _to_onnx(
    network: nn.Module, inputs: tuple[Tensor, ...], input_names: Any, output_names: Any, path: Path
) -> tuple[Tensor, ...]:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency("ONNX needs more packages: pip install 'ommatid[export]'") from error
    program = torch.onnx.export(
        network, inputs, input_names=list(input_names), output_names=list(output_names), dynamo=True, verbose=False
    )
    write_aside(path, lambda aside: program.save(str(aside)))  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in zip(input_names, inputs, strict=True)}
    wanted = {given.name for given in session.get_inputs()}
    found = session.run(None, {name: array for name, array in feeds.items() if name in wanted})
    return tuple(torch.from_numpy(array) for array in found)


def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
