"""An exported program gives the method's numbers, or is not handed out."""

import sys

import pytest
import torch

import tiny
from engine.toy import DIM, Toy
from ommatid import api, catalogue
from ommatid.engine import export
from ommatid.engine.export import TOLERANCE, Ranking, export_method
from ommatid.engine.settings import merge
from ommatid.errors import InputError, MissingDependency

SIZES = {
    "cmi": {"teacher": "digits_cnn", "student": "digits_cnn", "image_size": 16, "generator_channels": 8},
    "deepstationing": {"dimensions": 2, "num_organs": 8, "num_classes": 5, "anchors": [1, 2]},
    "evs-net": {"image_size": 32},
    "paver": {"height": 32, "window": 3},
    "ref-net": {"image_size": 32},
    "trans-net": {"image_size": 32},
    "mgsl-net": {"feature_dim": 6, "word_dim": 5, "vocabulary_size": 9, "hidden_dim": 8, "video_dim": 8},
}
METHODS = catalogue.names()


class Exported(Toy):
    """The line as a plain network."""

    def exportable(self):
        return self.line, (torch.rand(4, DIM, generator=torch.Generator().manual_seed(0)),), ("inputs",), ("value",)


def made(name: str):
    small = merge(api.method_class(name).embedded["model"], tiny.TINY[name]["model"], SIZES.get(name, {}))
    return api.create(name, **small).eval()


@pytest.mark.parametrize("name", METHODS)
def test_torch_program_gives_the_numbers_of_the_method(name, tmp_path):
    method, path = made(name), tmp_path / "method.pt2"
    assert export_method(method, path, "torch") <= TOLERANCE
    network, inputs, _, names = method.exportable()
    with torch.no_grad():
        wanted = export._tuple(network(*inputs))
        found = export._tuple(torch.export.load(path).module()(*inputs))
    assert len(found) == len(names)
    same_answers(wanted, found, isinstance(network, Ranking), 1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_onnx_program_gives_the_numbers_of_the_method(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX is not installed: pip install 'ommatid[export]'")
    method, path = made(name), tmp_path / "method.onnx"
    assert export_method(method, path, "onnx") <= TOLERANCE
    network, inputs, input_names, output_names = method.exportable()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(output_names)
    assert {given.name for given in session.get_inputs()} <= set(input_names)
    wanted = {given.name for given in session.get_inputs()}
    feeds = {name: tensor.numpy() for name, tensor in zip(input_names, inputs, strict=True) if name in wanted}
    with torch.no_grad():
        expected = export._tuple(network(*inputs))
    found = [torch.from_numpy(array) for array in session.run(None, feeds)]
    same_answers(expected, found, isinstance(network, Ranking), 1e-3)


def same_answers(expected, found, ranked, tolerance):
    """Of a ranking, scores rank by rank, and the candidates in whatever order equal scores put them."""
    torch.testing.assert_close(expected[-1], found[-1], rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(expected[:-1], found[:-1], strict=True):
        if ranked:
            ours, theirs = ours.sort(dim=1).values, theirs.sort(dim=1).values
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_program_that_differs_is_reported_and_not_left(tmp_path, monkeypatch, format):
    path = tmp_path / "method.out"

    def wrong(network, inputs, *_):
        path.write_text("a program")
        return (network(*inputs) + 0.5,)

    monkeypatch.setattr(export, f"_to_{format}", wrong)
    with pytest.raises(InputError, match=r"differs from the method by 5.00e-01, expected 0.001") as caught:
        export_method(Exported(), path, format)
    assert str(caught.value).startswith(f"{path}: ")
    assert not path.exists()


def test_a_program_of_another_shape_or_of_nan_is_reported(tmp_path, monkeypatch):
    for answer in (torch.full((4, 1), float("nan")), torch.zeros(3, 1), torch.zeros(4, 2)):
        monkeypatch.setattr(export, "_to_torch", lambda *_, answer=answer: (answer,))
        with pytest.raises(InputError, match="differs from the method"):
            export_method(Exported(), tmp_path / "method.pt2", "torch")


class Ranked(Exported):
    """Spans and scores, best first; the second and the third score alike."""

    spans = torch.tensor([[0.0, 0.25], [0.5, 0.75], [0.25, 1.0], [0.0, 1.0]])
    scores = torch.tensor([0.9, 0.5, 0.5, float("-inf")])

    def exportable(self):
        class Best(Ranking):
            def forward(self, inputs):
                return Ranked.spans[None], Ranked.scores[None]

        return Best(), (torch.rand(1, 2),), ("inputs",), ("spans", "scores")


@pytest.mark.parametrize(
    ("order", "changed", "same"),
    [
        pytest.param([0, 2, 1, 3], {}, True, id="equal scores in another order"),
        pytest.param([1, 0, 2, 3], {}, False, id="unequal scores in another order"),
        pytest.param([0, 1, 1, 3], {}, False, id="one candidate twice"),
        pytest.param([0, 1, 2, 3], {"spans": 0.1}, False, id="another span"),
        pytest.param([0, 1, 2, 3], {"spans": float("nan")}, False, id="a span of nan"),
        pytest.param([0, 1, 2, 3], {"scores": float("nan")}, False, id="a score of nan"),
        pytest.param([0, 1, 2, 3], {"scores": -9.0}, False, id="another score"),
    ],
)
def test_only_candidates_of_equal_scores_may_change_places(order, changed, same, tmp_path, monkeypatch):
    answer = {"spans": Ranked.spans[order][None].clone(), "scores": Ranked.scores[order][None].clone()}
    for name, value in changed.items():
        answer[name][0, 3] = value
    monkeypatch.setattr(export, "_to_torch", lambda *_: tuple(answer.values()))
    if same:
        assert export_method(Ranked(), tmp_path / "method.pt2", "torch") == 0
        return
    with pytest.raises(InputError, match="differs from the method"):
        export_method(Ranked(), tmp_path / "method.pt2", "torch")


def test_infinite_scores_that_agree_do_not_differ(tmp_path):
    """Masked steps score minus infinity, in both programs."""

    class Masking(torch.nn.Module):
        def forward(self, inputs):
            return inputs.masked_fill(inputs > 0.5, float("-inf"))

    class Masked(Exported):
        def exportable(self):
            return Masking(), *super().exportable()[1:]

    assert export_method(Masked(), tmp_path / "method.pt2", "torch") == 0


def test_equal_scores_keep_their_order_in_onnx(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX is not installed: pip install 'ommatid[export]'")

    class Sorting(torch.nn.Module):
        def forward(self, inputs):
            scores = (inputs * 3).round()
            return scores.sort(dim=1, descending=True, stable=True).indices, scores.sort(dim=-1, stable=True).indices

    class Sorted(Exported):
        def exportable(self):
            return Sorting(), (torch.rand(4, 40, generator=torch.Generator().manual_seed(0)),), ("inputs",), ("a", "b")

    assert export_method(Sorted(), tmp_path / "method.onnx", "onnx") == 0


def test_what_onnx_cannot_say_is_answered_in_one_sentence(tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX is not installed: pip install 'ommatid[export]'")

    class Strange(torch.nn.Module):
        def forward(self, inputs):
            return torch.linalg.lstsq(inputs, inputs).solution

    class Unwritable(Exported):
        def exportable(self):
            return Strange(), *super().exportable()[1:]

    with pytest.raises(InputError, match=r"cannot be written as ONNX .*lstsq.*, expected --format torch") as caught:
        export_method(Unwritable(), tmp_path / "method.onnx", "onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"pip install 'ommatid\[export\]'"):
        export_method(Exported(), tmp_path / "method.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []
