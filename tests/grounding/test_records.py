"""One record of an annotation file: what is mended, what is refused, how a fault is told."""

import math
from pathlib import Path

import pytest

from ommatid.errors import InputError
from ommatid.grounding.records import (
    CHARADES_TEST,
    CHARADES_TRAIN,
    OFFICIAL,
    OWN,
    Fault,
    Record,
    Rules,
    as_number,
    decode_text,
    load_bytes,
    load_object,
    note_repeated,
    one_line,
    parse_json,
    read_bytes,
    show,
    text_lines,
)
from ommatid.grounding.task import Query

PATH = Path("set.json")


@pytest.fixture
def record():
    return Record(PATH, "query 3")


def found(record):
    return [(fault.found, fault.mended) for fault in record.faults]


def test_a_fault_is_one_sentence_with_file_record_and_what_becomes_of_it():
    fault = Fault("set.json", "query 3", "5", "a text", "kept")
    assert str(fault) == "set.json: query 3: found 5, expected a text (kept)"
    assert str(Fault("set.json", "", "5", "a text")) == "set.json: found 5, expected a text"


def test_a_record_is_broken_by_faults_that_nothing_mends(record):
    record.fault("a", "b", "kept")
    assert not record.broken
    assert record.fault("a", "b") is None
    assert record.broken


def test_spans_in_order_pass_unchanged(record):
    assert record.span((1.5, 4), 10.0, OFFICIAL) == (1.5, 4.0)
    assert record.span((10, 20), 10.0, OFFICIAL, unit=0.1) == (1.0, 2.0)
    assert not record.faults


@pytest.mark.parametrize(
    ("raw", "rules", "span", "mended"),
    [
        ((6, 2), OFFICIAL, (2.0, 6.0), "swapped"),
        ((6, 2), OWN, (2.0, 6.0), ""),
        ((3, 3), OFFICIAL, (3.0, 3.0), "kept, matches nothing"),
        ((3, 3), OWN, (3.0, 3.0), ""),
        ((3, 99), OFFICIAL, (3.0, 10.0), "clipped"),
        ((3, 10.5), OWN, (3.0, 10.0), "clipped"),
        ((3, 11.5), OWN, (3.0, 10.0), ""),
        ((12, 14), OFFICIAL, (10.0, 10.0), ""),
        ((12, 14), CHARADES_TEST, (10.0, 10.0), "clipped"),
        ((6, 2), CHARADES_TRAIN, None, "dropped from training"),
        ((12, 14), CHARADES_TRAIN, None, "dropped from training"),
        ((6, 2), CHARADES_TEST, (2.0, 6.0), "swapped"),
    ],
)
def test_each_format_mends_what_its_files_need(record, raw, rules, span, mended):
    assert record.span(raw, 10.0, rules) == span
    assert [fault.mended for fault in record.faults] == [mended]
    assert str(raw[0]) in record.faults[0].found


@pytest.mark.parametrize("value", [True, "3", None, math.nan, math.inf, -1, 1e13, 10**400, [1]])
def test_what_is_no_usual_number_is_refused(record, value):
    assert record.number(value, "start") is None
    assert record.broken
    assert "start" in record.faults[0].found


@pytest.mark.parametrize("value", [0, 1e-9, 1e8])
def test_durations_have_a_usual_size(record, value):
    assert record.duration(value) is None
    assert "0.001 to 10000000 seconds" in record.faults[0].expected


def test_glances_move_into_the_span_of_official_files_only(record):
    assert record.glance(3.0, (2.0, 4.0), OFFICIAL) == 3.0
    assert not record.faults
    assert record.glance(5, (2.0, 4.0), OFFICIAL) == 4.0
    assert not record.broken
    assert record.glance(5, (2.0, 4.0), OWN) == 4.0
    assert record.broken
    assert record.glance("x", (2.0, 4.0), Rules()) is None


def test_texts_lose_their_outer_blanks_and_must_say_something(record):
    assert record.text("  a dog barks ", "sentence") == "a dog barks"
    assert not record.faults
    for value in (" ", 5, None, "half \ud800"):
        assert record.text(value, "sentence") is None
    assert len(record.faults) == 4


def test_lists_must_be_there_and_be_lists(record):
    assert record.array({"a": [1]}, "a") == [1]
    assert record.array({}, "a") is None
    assert record.array({"a": {}}, "a") is None
    assert found(record) == [("no key 'a'", ""), ("a {}", "")]


def test_a_repeated_query_is_noted_and_kept(record):
    query, seen = Query("0", "v", "a dog barks", 9.0, (1.0, 2.0)), set()
    note_repeated(record, query, seen)
    assert not record.faults
    note_repeated(record, query, seen)
    assert found(record) == [("the same query again", "kept")]


def test_values_are_shown_short_and_on_one_line():
    assert show("a\nb") == "'a\\nb'"
    assert len(show("x" * 5000)) < 80
    assert len(show([[[[1]]]] * 500)) < 200
    assert show("half \ud800").isprintable()


def test_numbers_in_text_are_read_and_other_text_is_left_for_the_fault():
    assert as_number("1.5") == 1.5
    assert as_number("1_5") == "1_5"
    assert as_number("five") == "five"


def test_missing_files_are_said_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: found no such file, expected an annotation file$"):
        read_bytes(tmp_path / "none.json")
    (tmp_path / "some.json").write_bytes(b"x")
    assert read_bytes(tmp_path / "some.json") == b"x"
    faults = []
    assert load_bytes(tmp_path / "none.json", "a table", faults) is None
    assert faults[0].found == "no such file"
    assert load_bytes(tmp_path, "a table", faults) is None
    assert "unreadable" in faults[1].found


def test_text_must_be_utf_8_and_may_begin_with_a_mark():
    faults = []
    assert decode_text("\ufeffä".encode(), PATH, "", faults) == "ä"
    assert decode_text(b"ab\xff", PATH, "line 2", faults) is None
    assert str(faults[0]) == "set.json: line 2: found byte 0xff at 2, expected UTF-8 text"


def test_json_with_a_key_twice_or_damage_is_a_fault():
    faults = []
    assert parse_json('{"a": 1}', PATH, "", faults) == {"a": 1}
    assert not faults
    parse_json('{"a": 1, "a": 2}', PATH, "", faults)
    parse_json('{"a": ', PATH, "", faults)
    parse_json("[" * 100_000, PATH, "", faults)
    assert [fault.found for fault in faults] == [
        "the key 'a' twice",
        "damaged JSON (Expecting value: line 1 column 7 (char 6))",
        "too deep nesting",
    ]


@pytest.mark.parametrize(("content", "told"), [("[]", "a list"), ("{}", "an empty object"), ("{", "damaged JSON")])
def test_a_file_of_objects_must_hold_one(tmp_path, content, told):
    path = tmp_path / "set.json"
    path.write_text(content)
    faults = []
    assert load_object(path, "an object", faults) == {}
    assert len(faults) == 1
    assert told in faults[0].found


def test_lines_are_numbered_and_empty_ones_left_out(tmp_path):
    path = tmp_path / "queries.txt"
    path.write_bytes("\ufeffone\n\n  two \r\n".encode() + b"\xff\nfour")
    lines = list(text_lines(path, "lines"))
    assert [(number, line) for number, line in lines if isinstance(line, str)] == [(1, "one"), (3, "two"), (5, "four")]
    assert [(number, line.record) for number, line in lines if isinstance(line, Fault)] == [(4, "line 4")]
    path.write_bytes(b"\xef\xbb\xbf \n")
    assert [line.found for _, line in text_lines(path, "lines")] == ["an empty file"]


def test_messages_of_parsers_become_one_short_line():
    assert one_line(ValueError("a\n b\t c")) == "a b c"
    assert len(one_line(ValueError("x" * 500))) == 100
