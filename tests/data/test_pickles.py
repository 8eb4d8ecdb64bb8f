"""Pickled data sets: arrays and containers are read, anything else is refused by name and never run."""

import os
import pickle

import numpy as np
import pytest

from ommatid.data.pickles import ArraysOnly, as_text, unpickled, unpickled_dictionary
from ommatid.errors import InputError

ASKED = "found nothing, expected a batch", "numbers"


def test_arrays_and_containers_come_back_with_text_as_keys(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({b"data": np.arange(3), "names": ["a"]}, protocol=2))
    found = unpickled_dictionary(path, *ASKED)
    assert found["data"].tolist() == [0, 1, 2]
    assert found["names"] == ["a"]


def test_what_is_neither_is_refused_and_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(InputError, match=r"batch: found a reference to \w+\.mkdir, expected only arrays"):
        unpickled(path, *ASKED)
    assert not (tmp_path / "harm").exists()


def test_missing_damaged_and_other_files_are_named(tmp_path):
    path = tmp_path / "batch"
    with pytest.raises(InputError, match="batch: found nothing, expected a batch"):
        unpickled(path, *ASKED)
    path.write_bytes(pickle.dumps([1, 2])[:-3])
    with pytest.raises(InputError, match=r"batch: found a damaged pickle \(\w+\), expected numbers"):
        unpickled(path, *ASKED)
    path.write_bytes(pickle.dumps([1, 2]))
    assert unpickled(path, *ASKED) == [1, 2]
    with pytest.raises(InputError, match="batch: found a pickled list, expected a dictionary"):
        unpickled_dictionary(path, *ASKED)


def test_a_reader_may_allow_more(tmp_path):
    class Words(ArraysOnly):
        ALLOWED = {**ArraysOnly.ALLOWED, ("builtins", "bytearray"): bytearray}

    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(bytearray(b"ab"), protocol=4))
    assert unpickled(path, *ASKED, Words) == b"ab"


def test_bytes_of_python_2_are_text():
    assert (as_text(b"cat"), as_text("cat"), as_text(3)) == ("cat", "cat", "3")
