"""Promises of tokenisation, vocabularies and word-vector files."""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ommatid.data.text import Vocabulary, WordVectors, read_glove, tokenize, word_counts, write_glove
from ommatid.errors import InputError

WORDS = ["cat", "dog", "owl"]
VALUES = {"cat": [1.0, -2.5], "dog": [0.25, 3e-5], "owl": [7.0, 8.0]}


@pytest.fixture
def glove(tmp_path):
    """Writes lines to a file and gives its path."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "glove.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def vectors() -> dict[str, np.ndarray]:
    return {word: np.array(values, dtype=np.float32) for word, values in VALUES.items()}


def test_tokenize_keeps_words_before_punctuation():
    assert tokenize("  The man's re-run,on a TABLE.\n") == ["the", "man", "s", "re", "run", "on", "a", "table"]
    assert tokenize("Über_alles: 2 cafés!") == ["über", "alles", "2", "cafés"]
    assert tokenize(" .,;! ") == []


def test_word_counts_are_of_lower_case_words():
    assert word_counts(["The cat. the", "CAT"]) == {"the": 2, "cat": 2}


def test_vocabulary_reserves_pad_and_unknown():
    vocabulary = Vocabulary.build(["a cat sits", "a dog"], min_count=1)
    assert vocabulary.words == ["a", "cat", "dog", "sits"]
    assert vocabulary.encode("a DOG, flies").tolist() == [2, 4, 1]
    assert len(vocabulary) == 6
    assert Vocabulary.build(["a cat sits", "a dog"], min_count=2).words == ["a"]


def test_encoding_stops_at_max_words_and_is_never_empty():
    vocabulary = Vocabulary(["a", "b"])
    assert vocabulary.encode("a b a b", max_words=3).tolist() == [2, 3, 2]
    assert vocabulary.encode("?!").tolist() == [1]


def test_vocabulary_survives_json():
    vocabulary = Vocabulary(["zebra", "ape"])
    assert Vocabulary.from_list(json.loads(json.dumps(vocabulary.to_list()))) == vocabulary


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b", "a"], "vocabulary: the word 'a' occurs twice, expected distinct words"),
        (["a", ""], "vocabulary: entry 1 is '', expected a non-empty word"),
        ({"a": 1}, "vocabulary: found a dict, expected a list of words"),
        (["a", 3], "vocabulary: entry 1 is 3, expected a non-empty word"),
    ],
)
def test_a_bad_word_list_is_said_in_one_sentence(words, message):
    with pytest.raises(InputError) as error:
        Vocabulary.from_list(words)
    assert str(error.value) == message


def test_written_vectors_read_back_exactly(tmp_path):
    generator = np.random.default_rng(0)
    written = {f"w{i}": generator.standard_normal(7).astype(np.float32) * 10.0 ** (i - 5) for i in range(10)}
    write_glove(tmp_path / "g.txt", written)
    matrix, missing = read_glove(tmp_path / "g.txt", list(written))
    assert missing == []
    assert np.array_equal(matrix[2:].numpy(), np.stack(list(written.values())))
    assert not matrix[:2].any()
    assert [path.name for path in tmp_path.iterdir()] == ["g.txt"]


def test_rows_follow_the_words_and_missing_words_are_zero_and_named(glove):
    path = glove("dog 1 2\ncat 3 4\ndog 9 9\n")
    matrix, missing = read_glove(path, ["cat", "yak", "dog"])
    assert missing == ["yak"]
    assert matrix.tolist() == [[0, 0], [0, 0], [3, 4], [0, 0], [1, 2]]


def test_tokens_with_blanks_are_read_from_the_right(glove):
    path = glove("cat 1 2\n. . . 3 4\nat name@domain.com 5 6\ndog 7 8")
    matrix, missing = read_glove(path, ["dog", "at name@domain.com", ". . .", "at"])
    assert matrix[2:].tolist() == [[7, 8], [5, 6], [3, 4], [0, 0]]
    assert missing == ["at"]


def test_a_first_line_that_names_a_number_has_its_dimension_from_the_rest(glove):
    assert read_glove(glove("5 1 2\ncat 3 4\n"), ["5"]).matrix[2].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty, expected lines of a word and its numbers"),
        ("cat 1 2\ndog 1\n", "line 2 has 1 numbers, expected 2 as on line 1"),
        ("cat 1 2\ndog 1 2 3\n", "line 2 has 3 numbers, expected 2 as on line 1"),
        ("cat 1 2\ndog 1", "line 2 has 1 numbers and is cut off, expected 2 as on line 1"),
        (b"cat 1 2\n\xff\xfe 1 2\n", "line 2 is not UTF-8, expected a UTF-8 text file"),
        ("cat 1 2\ndog nan 2\n", "line 2 holds NaN, infinity or a number beyond float32, expected finite numbers"),
        ("cat 1 2\ndog 1e39 2\n", "line 2 holds NaN, infinity or a number beyond float32, expected finite numbers"),
        ("cat 1 2\ndog 1e999 2\n", "line 2 holds NaN, infinity or a number beyond float32, expected finite numbers"),
        ("cat 1 2\ndog one 2\n", "line 2 holds 'one', expected a number"),
        ("cat 1 2\ndog 1_0 2\n", "line 2 holds '1_0', expected a number"),
        ("cat\t1\t2\n", "line 1 is 'cat\\t1\\t2', expected a word and its numbers"),
        ("cat 1 2\n 1 2\n", "line 2 begins with a blank, expected a word and its 2 numbers"),
        ("cat 1 2\n\ndog 1 2\n", "line 2 has 0 numbers, expected 2 as on line 1"),
        (b"cat 1 2\n" + b"x" * (1 << 20), "line 2 is longer than 1048576 bytes, expected a GloVe text file"),
    ],
)
def test_a_damaged_file_is_said_in_one_sentence(glove, content, message):
    path = glove(content)
    with pytest.raises(InputError) as error:
        read_glove(path, WORDS)
    assert str(error.value) == f"{path}: {message}"


def test_a_missing_file_is_said_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.txt: No such file or directory, expected a GloVe text file"):
        read_glove(tmp_path / "nowhere.txt", WORDS)
    with pytest.raises(InputError, match="expected a GloVe text file"):
        read_glove(tmp_path, WORDS)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "found vectors of shapes []"),
        ({"a": np.ones(2), "b": np.ones(3)}, "found vectors of shapes [(2,), (3,)]"),
        ({"a": np.array([1.0, math.nan])}, "the vector of 'a' holds NaN or infinity"),
        ({"a\nb": np.ones(2)}, "found the word 'a\\nb'"),
        ({"route 66": np.ones(2)}, "found the word 'route 66'"),
        ({"": np.ones(2)}, "found the word ''"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, written, message):
    with pytest.raises(InputError) as error:
        write_glove(tmp_path / "g.txt", written)
    assert message in str(error.value)
    assert not (tmp_path / "g.txt").exists()


def test_memory_does_not_grow_with_the_file(tmp_path):
    import tracemalloc

    path = tmp_path / "big.txt"
    line = " 0.25" * 50 + "\n"
    path.write_text("".join(f"w{i}{line}" for i in range(20_000)))
    tracemalloc.start()
    read_glove(path, ["w5", "w19999"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 5e6
    assert peak < 5e5


def damaged(content: bytes, cut: int, place: int, junk: bytes) -> bytes:
    """The file with its end cut off and junk written over a part of it."""
    content = content[: cut % (len(content) + 1)]
    place %= len(content) + 1
    return content[:place] + junk + content[place + len(junk) :]


def read_or_sentence(path: Path, words: list[str]) -> WordVectors | str:
    try:
        return read_glove(path, words)
    except InputError as error:
        return str(error)


NUMBERS = st.one_of(st.floats(width=32), st.floats(), st.just("1e400"), st.just("-0"), st.just("x"), st.just(""))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    order=st.permutations(WORDS),
    cut=st.integers(0, 10_000),
    place=st.integers(0, 10_000),
    junk=st.one_of(st.binary(max_size=4), st.sampled_from([b" ", b"\n", b"\r\n", b"nan", b"\xff", b"9" * 50])),
)
def test_damage_ends_in_one_sentence_or_leaves_finite_vectors(order, cut, place, junk):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "glove.txt"
        write_glove(path, {word: vectors()[word] for word in order})
        intact = path.read_bytes()
        path.write_bytes(content := damaged(intact, cut, place, junk))
        outcome = read_or_sentence(path, WORDS)
        if isinstance(outcome, str):
            assert outcome.startswith(f"{path}: ")
            assert "\n" not in outcome
            return
        matrix, missing = outcome
        assert matrix.isfinite().all()
        assert len(matrix) == len(WORDS) + 2
        whole = {line for line in intact.split(b"\n") if line} & {line.rstrip(b"\r") for line in content.split(b"\n")}
        for row, word in enumerate(WORDS, start=2):
            line = next(line for line in intact.split(b"\n") if line.startswith(word.encode()))
            assert (word in missing) <= (line not in whole)
            if whole == set(intact.split(b"\n")) - {b""}:
                assert matrix[row].tolist() == vectors()[word].tolist()


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=1, max_size=4))
def test_any_numbers_give_their_float32_or_one_sentence(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "glove.txt"
        lines = ["first 0 0", *(f"w{i} {' '.join(map(str, row))}" for i, row in enumerate(rows))]
        path.write_text("\n".join(lines))
        outcome = read_or_sentence(path, [f"w{i}" for i in range(len(rows))])
        if isinstance(outcome, str):
            assert outcome.startswith(f"{path}: line ")
            return
        matrix, missing = outcome
        assert not missing
        for read, row in zip(matrix[2:], rows, strict=True):
            assert np.array_equal(read.numpy(), np.array([float(value) for value in row]).astype(np.float32))
