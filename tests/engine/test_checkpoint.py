"""A checkpoint is whole or absent, says what it is, and never runs anything."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from engine.toy import Toy
from ommatid import __version__, api
from ommatid.engine.checkpoint import (
    FORMAT,
    Checkpoint,
    read_checkpoint,
    read_foreign,
    write_checkpoint,
)
from ommatid.errors import CheckpointError


def one_sentence(error: Exception, path: Path) -> str:
    """The message, which must be one line that begins with the file."""
    message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def header(**changes) -> dict[str, str]:
    content = {"format": FORMAT, "library": "9.9.9", "method": "Toy", "settings": {}, "extras": {}, **changes}
    return {"ommatid": json.dumps(content)}


class Bomb:
    """Reading this pickle makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


# -- writing --


def test_a_checkpoint_is_safetensors_with_its_settings_in_the_header(tmp_path):
    path = Toy(bias=False).save(tmp_path / "toy.safetensors")
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["ommatid"])
        assert list(file.keys()) == ["line.weight"]
    assert (content["method"], content["library"], content["format"]) == ("Toy", __version__, FORMAT)
    assert content["settings"]["bias"] is False
    assert content["settings"]["recipe"]["optimizer"] == "momentum"
    assert content["extras"] == {"names": ["a", "b"]}


def test_round_trip_keeps_every_bit(tmp_path):
    weights = {
        "half": torch.randn(3).bfloat16(),
        "count": torch.tensor(7),
        "strided": torch.randn(4, 5).t(),
        "nan": torch.tensor([float("nan"), float("inf")]),
    }
    write_checkpoint(tmp_path / "c", Checkpoint("Toy", {"a": [1, None]}, {"b": "ü"}, weights))
    read = read_checkpoint(tmp_path / "c")
    assert (read.method, read.settings, read.extras, read.library) == ("Toy", {"a": [1, None]}, {"b": "ü"}, __version__)
    for name, tensor in weights.items():
        torch.testing.assert_close(read.weights[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_tied_weights_are_kept_under_both_names(tmp_path):
    tied = nn.Parameter(torch.randn(2, 2))
    write_checkpoint(tmp_path / "c", Checkpoint("Toy", {}, {}, {"first": tied, "second": tied}))
    read = read_checkpoint(tmp_path / "c").weights
    assert torch.equal(read["first"], tied)
    assert torch.equal(read["second"], tied)


# -- reading --


def test_missing_file(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="no such checkpoint file") as caught:
            read_checkpoint(path)
        one_sentence(caught.value, path)


@pytest.mark.parametrize("pickled", [pickle.dump, lambda content, file: torch.save(content, file)])
def test_a_pickle_is_refused_and_its_code_does_not_run(tmp_path, pickled):
    path, flag = tmp_path / "toy.safetensors", tmp_path / "it ran"
    with path.open("wb") as file:
        pickled({"state_dict": {"weight": torch.zeros(1)}, "bomb": Bomb(flag)}, file)
    for read in (read_checkpoint, api.load, Toy.load):
        with pytest.raises(CheckpointError, match=r"pickled PyTorch file, expected a .safetensors") as caught:
            read(path)
        one_sentence(caught.value, path)
    assert not flag.exists()


@pytest.mark.parametrize("protocol", [0, 1])
def test_an_old_pickle_is_refused_too(tmp_path, protocol):
    path, flag = tmp_path / "toy.safetensors", tmp_path / "it ran"
    path.write_bytes(pickle.dumps(Bomb(flag), protocol=protocol))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    one_sentence(caught.value, path)
    assert not flag.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>404</html>" * 100, bytes(1000)])
def test_what_is_no_checkpoint_at_all(tmp_path, content):
    path = tmp_path / "toy.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a complete safetensors file") as caught:
        read_checkpoint(path)
    one_sentence(caught.value, path)


def test_truncated_at_any_byte(tmp_path):
    whole = Toy().save(tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in [*range(0, len(whole), 29), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="not a complete safetensors file") as caught:
            read_checkpoint(path)
        one_sentence(caught.value, path)


def test_safetensors_of_somebody_else(tmp_path):
    path = tmp_path / "toy.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="without ommatid's settings; expected one that ommatid saved") as caught:
        read_checkpoint(path)
    one_sentence(caught.value, path)


def test_newer_format_names_both_versions(tmp_path):
    path = tmp_path / "toy.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata=header(format=FORMAT + 1))
    with pytest.raises(CheckpointError, match=f"ommatid 9.9.9 .* format {FORMAT + 1}.* up to {FORMAT}: ") as caught:
        read_checkpoint(path)
    assert __version__ in one_sentence(caught.value, path)


def test_a_newer_format_may_have_another_header(tmp_path):
    path = tmp_path / "toy.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata={"ommatid": json.dumps({"format": 99})})
    with pytest.raises(CheckpointError, match="please upgrade"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"ommatid": "{"},
        {"ommatid": "[1]"},
        {"ommatid": "null"},
        {"ommatid": "{}"},
        header(format="new"),
        header(format=None),
        header(settings=[1]),
        header(extras="none"),
        header(method=3),
    ],
)
def test_header_that_cannot_be_read(tmp_path, metadata):
    path = tmp_path / "toy.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="the settings in the header cannot be read") as caught:
        read_checkpoint(path)
    one_sentence(caught.value, path)


def test_checkpoint_of_another_method_names_both(tmp_path):
    path = tmp_path / "other.safetensors"
    write_checkpoint(path, Checkpoint("Stranger", {}, {}, {}))
    with pytest.raises(CheckpointError, match="a checkpoint of Stranger, expected one of Toy") as caught:
        Toy.load(path)
    one_sentence(caught.value, path)
    with pytest.raises(CheckpointError, match="a checkpoint of Stranger, which this ommatid does not have") as caught:
        api.load(path)
    one_sentence(caught.value, path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_a_sentence_or_a_checkpoint(tmp_path, data):
    path = tmp_path / "damaged.safetensors"
    content = bytearray(Toy().save(path).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        one_sentence(error, path)


# -- other people's weights --


@pytest.mark.parametrize(
    "wrap", [lambda s: s, *(lambda s, k=k: {k: s, "epoch": 3} for k in ("state_dict", "model", "net"))]
)
def test_foreign_weights_are_unwrapped(tmp_path, wrap):
    path = tmp_path / "theirs.pth"
    torch.save(wrap({"module.weight": torch.ones(1, 3), "module.bias": torch.zeros(1)}), path)
    assert {name: tensor.tolist() for name, tensor in read_foreign(path).items()} == {
        "weight": [[1.0, 1.0, 1.0]],
        "bias": [0.0],
    }


def test_foreign_safetensors_are_unwrapped_alike(tmp_path):
    save_file({"module.weight": torch.ones(1)}, tmp_path / "theirs.safetensors")
    assert list(read_foreign(tmp_path / "theirs.safetensors")) == ["weight"]


def test_published_weights_reach_the_method_by_its_own_names(tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save({"weight": torch.full((1, 3), 5.0), "bias": torch.ones(1)}, path)
    method = Toy()
    method.load_published(path)
    assert method.line.weight.tolist() == [[5.0] * 3]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("pickled", [pickle.dump, lambda content, file: torch.save(content, file)])
def test_code_in_foreign_weights_does_not_run(tmp_path, pickled):
    path, flag = tmp_path / "theirs.pth", tmp_path / "it ran"
    with path.open("wb") as file:
        pickled({"weight": torch.zeros(1), "bomb": Bomb(flag)}, file)
    with pytest.raises(CheckpointError, match="refused, because reading it would run code") as caught:
        read_foreign(path)
    one_sentence(caught.value, path)
    assert not flag.exists()


def test_foreign_files_that_are_no_weights(tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save({"weight": torch.zeros(500)}, whole)
    cases = {
        "list.pth": lambda path: torch.save([torch.zeros(1)], path),
        "numbers.pth": lambda path: torch.save({"weight": 3}, path),
        "cut.pth": lambda path: path.write_bytes(whole.read_bytes()[:700]),
        "text.pth": lambda path: path.write_text("not weights"),
        "empty.pth": lambda path: path.write_bytes(b""),
        "cut.safetensors": lambda path: path.write_bytes(b"\x08\0\0\0\0\0\0\0{"),
    }
    for name, write in cases.items():
        write(tmp_path / name)
        with pytest.raises(CheckpointError) as caught:
            read_foreign(tmp_path / name)
        one_sentence(caught.value, tmp_path / name)
    with pytest.raises(CheckpointError, match="no such weights file"):
        read_foreign(tmp_path / "none.pth")


def test_a_header_as_long_as_a_pickle_begins_is_no_pickle(tmp_path):
    """Its length is the first thing in the file: 640 bytes are written as 80 02."""
    seen = set()
    for size in range(200, 720):
        path = tmp_path / "some.safetensors"
        write_checkpoint(path, Checkpoint("Toy", {"text": "x" * size}, {}, {"weight": torch.zeros(1)}))
        seen.add(path.read_bytes()[:2])
        assert read_checkpoint(path).settings["text"] == "x" * size
    assert b"\x80\x02" in seen
