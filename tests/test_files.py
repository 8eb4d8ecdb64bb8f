from pathlib import Path

import pytest

from ommatid.errors import InputError
from ommatid.files import csv_rows, numbered_lines, read_json, read_text, write_aside

# -- reading --


@pytest.mark.parametrize("read", [read_text, read_json, numbered_lines, csv_rows])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param(None, r": found no such file, expected things$", id="missing"),
        pytest.param(b"\xff\xfe\x00", r": found bytes that are no text \(UTF-8\), expected things$", id="bytes"),
    ],
)
def test_what_is_no_text_is_named_in_one_sentence(read, content, found, tmp_path):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{path}{found}"):
        read(path, "things")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}: Is a directory, expected things$"):
        read_text(tmp_path, "things")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param('{\n"a": }', r": not readable as JSON \(line 2: Expecting value\), expected things$", id="value"),
        pytest.param("[" * 100_000, r": not readable as JSON \(RecursionError\), expected things$", id="deep"),
        pytest.param("1" * 5000, r": not readable as JSON \(ValueError\), expected things$", id="huge number"),
    ],
)
def test_what_is_no_json_is_named_in_one_sentence(text, found, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}{found}"):
        read_json(path, "things")


def test_json_and_lines_are_read_with_and_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "file"
    for mark in ("", "\ufeff"):
        path.write_text(f"{mark}[1, 2]", encoding="utf-8")
        assert read_json(path, "things") == [1, 2]
        path.write_text(f"{mark}a\n\n  b c \n", encoding="utf-8")
        assert numbered_lines(path) == [(1, "a"), (3, "b c")]


def test_rows_of_a_table_keep_their_line_numbers(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('a,b\n\n , \n"1,5", 2\n"two\nlines",3\n')
    assert csv_rows(path, "things") == [(1, ["a", "b"]), (4, ["1,5", "2"]), (6, ["two\nlines", "3"])]


def test_quotes_that_do_not_end_are_named(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('a,b\n"1,2\n')
    with pytest.raises(InputError, match=f"^{path}, line 2: found unexpected end of data, expected things$"):
        csv_rows(path, "things")


def test_a_file_that_may_be_missing_has_a_default(tmp_path):
    assert read_json(tmp_path / "nothing.json", "things", missing={}) == {}
    with pytest.raises(InputError, match="Is a directory"):
        read_json(tmp_path, "things", missing={})


# -- writing --


@pytest.mark.parametrize("before", [None, "the old content"])
def test_failed_writing_leaves_what_was_there_and_nothing_else(tmp_path, before):
    path = tmp_path / "file.txt"
    if before:
        path.write_text(before)

    def fail(aside: Path) -> None:
        aside.write_text("half of the new con")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_aside(path, fail)
    assert [file.name for file in tmp_path.iterdir()] == ([path.name] if before else [])
    assert not before or path.read_text() == before


def test_the_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    seen = []
    write_aside(path, lambda aside: (aside.write_text("all"), seen.append(path.exists())))
    assert seen == [False]
    assert path.read_text() == "all"
    assert path.stat().st_mode & 0o777 == 0o644
