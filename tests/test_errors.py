"""Errors are sentences that say what would have been right."""

import pytest

from ommatid.errors import CheckpointError, InputError, MissingDependency, OmmatidError, unknown


def test_users_can_catch_errors_by_their_python_kind():
    assert issubclass(InputError, ValueError)
    assert issubclass(CheckpointError, InputError)
    assert issubclass(MissingDependency, ImportError)
    assert all(issubclass(kind, OmmatidError) for kind in (InputError, CheckpointError, MissingDependency))


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("tran", ["train", "test"], "unknown verb 'tran': did you mean 'train'?"),
        ("trest", ["test", "trust"], "unknown verb 'trest': did you mean 'test' or 'trust'?"),
        ("xyz", ["b", "a"], "unknown verb 'xyz': expected one of 'a', 'b'"),
        ("", ["a"], "unknown verb '': expected one of 'a'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, known, sentence):
    error = unknown("verb", name, known)
    assert isinstance(error, InputError)
    assert str(error) == sentence


def test_at_most_three_names_are_proposed():
    assert str(unknown("verb", "name", [f"name{number}" for number in range(9)])).count("'name") == 1 + 3


def test_known_names_may_come_from_anywhere():
    assert "'a', 'b'" in str(unknown("verb", "zzz", (name for name in "ba")))
    assert "'a', 'b'" in str(unknown("verb", "zzz", {"b": 1, "a": 2}))
