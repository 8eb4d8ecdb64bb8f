"""A folder is there as a whole or not at all, and never instead of something else."""

import pytest

from ommatid.data.new_folder import new_folder
from ommatid.errors import InputError


def test_what_was_written_is_there_at_the_end_and_not_before(tmp_path):
    root = tmp_path / "deep" / "world"
    with new_folder(root) as aside:
        (aside / "one.txt").write_text("1")
        assert not root.exists()
    assert [path.name for path in root.iterdir()] == ["one.txt"]
    assert list(root.parent.iterdir()) == [root]


def test_an_empty_folder_is_taken(tmp_path):
    with new_folder(tmp_path / "empty") as _:
        pass
    with new_folder(tmp_path / "empty") as aside:
        (aside / "one.txt").write_text("1")
    assert (tmp_path / "empty" / "one.txt").exists()


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "world") as aside:
        (aside / "one.txt").write_text(str(1 // 0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "found"), [("full", "files in it"), ("full/file", "a file")])
def test_nothing_is_written_over(name, found, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("kept")
    with pytest.raises(InputError, match=f"{name}: found {found}, expected a new folder"), new_folder(tmp_path / name):
        pass
    assert (tmp_path / "full" / "file").read_text() == "kept"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder that can be written"), new_folder(tmp_path / "file" / "x"):
        pass
