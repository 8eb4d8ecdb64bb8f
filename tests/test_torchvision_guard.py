"""torchvision imports, trains and predicts whether or not its compiled operators load."""

import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ommatid import torchvision_guard


def run(script: str, tmp_path: Path) -> str:
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def lookalike(tmp_path, monkeypatch):
    """A package named torchvision with a library file `_C.so`, as seen while it is being imported."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("loaded = True")
    (package / f"_C{importlib.machinery.EXTENSION_SUFFIXES[-1]}").touch()
    finder = torchvision_guard._TorchvisionFinder()
    others = [other for other in sys.meta_path if not isinstance(other, torchvision_guard._TorchvisionFinder)]
    monkeypatch.setattr(sys, "meta_path", [finder, *others])
    spec = finder.find_spec("torchvision", [str(tmp_path)])
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "torchvision", module)
    monkeypatch.setattr(torchvision_guard, "_declared", [])
    return module


def refuse(*_):
    raise AssertionError("nothing may be declared or changed")


def test_operators_that_load_are_left_alone(lookalike, monkeypatch):
    loaded = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    monkeypatch.setattr(torch.library, "Library", refuse)
    monkeypatch.setattr(torchvision_guard, "_admit_operators", refuse)
    finder = sys.meta_path[0]

    lookalike.__spec__.loader.exec_module(lookalike)

    assert lookalike.loaded
    assert [Path(path).stem for path in loaded] == ["_C"]
    assert torchvision_guard._declared == []
    assert finder not in sys.meta_path


@pytest.mark.parametrize("error", [OSError, ImportError])
def test_operators_that_do_not_load_are_declared_once(lookalike, monkeypatch, error):
    defined = []

    class Recorder:
        def __init__(self, namespace, kind):
            assert (namespace, kind) == ("torchvision", "FRAGMENT")

        def define(self, schema):
            defined.append(schema.split("(")[0])

        def impl(self, name, kernel, key):
            assert callable(kernel)

    def fail(_):
        raise error("undefined symbol")

    monkeypatch.setattr(torch.ops, "load_library", fail)
    monkeypatch.setattr(torch.library, "Library", Recorder)
    monkeypatch.setattr(torch.ops, "torchvision", object())

    assert torchvision_guard.declare_missing_operators()
    assert torchvision_guard.declare_missing_operators()
    assert defined == ["nms", "qnms", "roi_align"]


def test_a_build_without_any_library_counts_as_not_loading(lookalike, monkeypatch):
    monkeypatch.setattr(torch.ops, "load_library", refuse)
    for library in Path(lookalike.__file__).parent.glob("_C*"):
        library.unlink()
    assert not torchvision_guard._compiled_operators_load()


def test_other_imports_are_not_touched():
    assert torchvision_guard._TorchvisionFinder().find_spec("torchvision.ops") is None
    assert torchvision_guard._TorchvisionFinder().find_spec("json") is None


def test_install_watches_at_most_once_and_not_after_the_import(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setitem(sys.modules, "torchvision", sys)
    torchvision_guard.install()
    assert sys.meta_path == []

    monkeypatch.delitem(sys.modules, "torchvision")
    torchvision_guard.install()
    torchvision_guard.install()
    assert len(sys.meta_path) == 1


def test_importing_the_package_is_light_and_lightning_works_afterwards(tmp_path):
    script = """
import sys, importlib.util
import ommatid
assert not {"torch", "torchvision"} & set(sys.modules), "the guard must not import what it guards"
assert importlib.util.find_spec("torchvision").origin.endswith("__init__.py")
assert "torch" not in sys.modules, "looking for torchvision must not load anything"
import lightning.pytorch, torchvision, torch
assert not any("Torchvision" in type(finder).__name__ for finder in sys.meta_path)
print(torchvision.ops.nms(torch.tensor([[0., 0, 2, 2], [0, 0, 2, 2]]), torch.tensor([0.1, 0.2]), 0.5).tolist())
"""
    assert run(script, tmp_path).strip() == "[1]"


def test_an_import_that_failed_before_the_guard_can_be_repeated(tmp_path):
    script = """
try:
    import torchvision
except RuntimeError:
    pass
import ommatid, torch
from torchvision.ops import roi_align
print(tuple(roi_align(torch.rand(1, 1, 4, 4), torch.tensor([[0., 0, 0, 2, 2]]), 2).shape))
"""
    assert run(script, tmp_path).strip() == "(1, 1, 2, 2)"


def test_faster_rcnn_trains_a_step_and_predicts():
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

    torch.manual_seed(0)
    model = fasterrcnn_mobilenet_v3_large_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=96, max_size=96, box_score_thresh=0.0
    )
    image = torch.rand(3, 96, 96)
    target = {"boxes": torch.tensor([[10.0, 10, 60, 70]]), "labels": torch.tensor([1])}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = model([image], [target])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert model.roi_heads.box_head.fc6.weight.grad.abs().sum() > 0
    assert model.backbone.fpn.inner_blocks[0][0].weight.grad.abs().sum() > 0
    optimizer.step()

    model.eval()
    with torch.no_grad():
        (prediction,) = model([image])
    assert prediction["boxes"].shape == (len(prediction["scores"]), 4)
    assert (prediction["scores"].diff() <= 0).all()
