"""A trained method as a program that needs neither this library nor Python."""

from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.engine.fit import quiet
from ommatid.errors import InputError, MissingDependency
from ommatid.files import write_aside

TOLERANCE = 1e-3
"""Of the largest number of the method, or of 1 where all are smaller: single precision knows no more."""


class Ranking(nn.Module):
    """A network that gives candidates and their scores, best first.

    Its outputs are values (batch, candidate, ...) and scores (batch, candidate). Candidates whose scores are equal but
    for rounding may stand in another order in a program that rounds in another way; that is no difference.
    """


def export_method(method: Any, path: Path, format: str) -> float:
    """Write the method's plain-tensor network to `path`, run the file, and compare; the largest absolute difference.

    Args:
        method: offers `exportable() -> (network, example inputs, input names, output names)`.
        format: "torch" (torch.export, .pt2) or "onnx".

    Raises:
        InputError: the exported program gives other numbers than the method.
    """
    network, inputs, input_names, output_names = method.eval().exportable()
    # Archives of torch.export hold weights whose channels do not come last.
    network = network.cpu().eval().to(memory_format=torch.contiguous_format)
    with torch.no_grad(), quiet():
        expected = _tuple(network(*inputs))
        run = {"torch": _to_torch, "onnx": _to_onnx}[format](network, inputs, input_names, output_names, path)
    # The maximum of a tensor keeps a NaN wherever it stands.
    difference = float(torch.tensor([_difference(*pair) for pair in _compared(network, expected, run)]).max())
    allowed = TOLERANCE * max(1.0, *(_largest(each) for each in expected))
    if not difference <= allowed:
        path.unlink(missing_ok=True)
        raise InputError(
            f"{path}: the exported program differs from the method by {difference:.2e}, expected {allowed:g} at most"
        )
    return difference


def _largest(values: Tensor) -> float:
    finite = values[torch.isfinite(values)] if values.is_floating_point() else values[:0]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _compared(
    network: nn.Module, expected: tuple[Tensor, ...], run: tuple[Tensor, ...]
) -> Iterable[tuple[Tensor, Tensor]]:
    """What of both sides has to be equal."""
    if not isinstance(network, Ranking) or any(a.shape != b.shape for a, b in zip(expected, run, strict=True)):
        return zip(expected, run, strict=True)
    ours, theirs = (torch.cat([values.flatten(2), scores[..., None]], -1) for values, scores in (expected, run))
    return (expected[1], run[1]), (ours, _nearest(ours, theirs)), (theirs, _nearest(theirs, ours))


def _nearest(rows: Tensor, others: Tensor) -> Tensor:
    """For each candidate the most alike of the others."""
    # Suppressed candidates score minus infinity on both sides, which no distance knows.
    ours, theirs = (each.nan_to_num(neginf=torch.finfo(each.dtype).min / 4) for each in (rows, others))
    return others.gather(1, torch.cdist(ours, theirs, p=inf).argmin(dim=2)[..., None].expand_as(rows))


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference; infinite where shapes or infinities differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    # The score of a masked step is minus infinity on both sides.
    return float(torch.where(ours == theirs, 0.0, (ours - theirs).abs()).max())


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
    try:
        program = torch.onnx.export(
            network,
            inputs,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamo=True,
            verbose=False,
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
        )
    except torch.onnx.OnnxExporterError as error:
        # The exporter's report has many lines; the first exception of its summary is the cause.
        causes = [line.partition(": ")[2] for line in str(error).splitlines() if line.startswith("<class")]
        cause = causes[0] if causes else type(error).__name__
        raise InputError(
            f"{path}: the method cannot be written as ONNX ({cause}), expected --format torch for it"
        ) from error
    write_aside(path, lambda aside: program.save(str(aside)))  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in zip(input_names, inputs, strict=True)}
    wanted = {given.name for given in session.get_inputs()}
    found = session.run(None, {name: array for name, array in feeds.items() if name in wanted})
    return tuple(torch.from_numpy(array) for array in found)


def _stable_sort(values: Any, *, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """A stable sort for ONNX, whose TopK puts the earlier of two equal values first."""
    from onnxscript import opset18

    op: Any = opset18
    size = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)


def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
