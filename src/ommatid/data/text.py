"""Sentences to indices, and word vectors from GloVe's text format.

One tokeniser for the whole library: lower case, punctuation to blanks, split at blanks. Published code differs
here, and a plain split loses the vector of every word before a full stop.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ommatid.errors import InputError

PAD, UNKNOWN = 0, 1
FIRST_WORD = 2
_PUNCTUATION = re.compile(r"[^\w\s]|_")
# A line of 840B.300d has about 3,500 bytes; far beyond that it is no text file, and is not read into memory whole.
_LONGEST_LINE = 1 << 20


def tokenize(sentence: str) -> list[str]:
    """The words of a sentence: lower case, punctuation to blanks, split at blanks.

    Examples:
        >>> tokenize(" A man's dog, on the table.")
        ['a', 'man', 's', 'dog', 'on', 'the', 'table']
    """
    return _PUNCTUATION.sub(" ", sentence.lower()).split()


class Vocabulary:
    """Word -> index: 0 pads, 1 stands for every unknown word, `words[i]` has index `i + 2`.

    Args:
        words: distinct words; their order is the order of the indices and of the rows of `read_glove`.

    Raises:
        InputError: a word is empty, not a text, or given twice.

    Examples:
        >>> vocabulary = Vocabulary.build(["A person opens the door.", "the person sits"])
        >>> vocabulary.words
        ['a', 'door', 'opens', 'person', 'sits', 'the']
        >>> vocabulary.encode("The person eats").tolist()
        [7, 5, 1]
    """

    def __init__(self, words: Sequence[str]) -> None:
        _check_words(words)
        self.words = list(words)
        self._index = {word: index for index, word in enumerate(self.words, start=FIRST_WORD)}
        if len(self._index) != len(self.words):
            twice = next(word for i, word in enumerate(self.words) if self._index[word] != i + FIRST_WORD)
            raise InputError(f"vocabulary: the word {twice!r} occurs twice, expected distinct words")

    @classmethod
    def build(cls, sentences: Iterable[str], min_count: int = 1) -> "Vocabulary":
        """The words that occur at least `min_count` times in the sentences, in alphabetical order."""
        counts = word_counts(sentences)
        return cls(sorted(word for word, count in counts.items() if count >= min_count))

    @classmethod
    def from_list(cls, words: object) -> "Vocabulary":
        """The vocabulary that `to_list` gave, for instance after a way through JSON."""
        if not isinstance(words, list):
            raise InputError(f"vocabulary: found a {type(words).__name__}, expected a list of words")
        _check_words(words)
        return cls(words)

    def to_list(self) -> list[str]:
        """The words as a plain list, for JSON."""
        return list(self.words)

    def encode(self, sentence: str, max_words: int | None = None) -> Int[Tensor, "word"]:
        """The indices of a sentence's first `max_words` words; a sentence without any word is one unknown word."""
        indices = [self._index.get(word, UNKNOWN) for word in tokenize(sentence)[:max_words]]
        return torch.tensor(indices or [UNKNOWN], dtype=torch.long)

    def __len__(self) -> int:
        """Number of indices, the two special ones included: the rows an embedding needs."""
        return len(self.words) + FIRST_WORD

    def __contains__(self, word: object) -> bool:
        return word in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.words)} words)"


def _check_words(words: Sequence[Any]) -> None:
    for position, word in enumerate(words):
        if not isinstance(word, str) or not word:
            raise InputError(f"vocabulary: entry {position} is {word!r}, expected a non-empty word")


def word_counts(sentences: Iterable[str]) -> dict[str, int]:
    """How often each word occurs in the sentences (after `tokenize`; no lemmas)."""
    counts: dict[str, int] = {}
    for sentence in sentences:
        for word in tokenize(sentence):
            counts[word] = counts.get(word, 0) + 1
    return counts


class WordVectors(NamedTuple):
    """An embedding matrix in the order of a `Vocabulary`, and the words the file had no vector for.

    Rows 0 (padding) and 1 (unknown) are zero, row `i + 2` is the vector of `words[i]`, zero where the word is in
    `missing`.
    """

    matrix: Float[Tensor, "row dim"]
    missing: list[str]


def read_glove(path: str | Path, words: Sequence[str]) -> WordVectors:
    """The vectors of `words` from a file in GloVe's text format (`word number number ...` a line).

    The file is streamed: only the wanted vectors are ever held. Lines are read from the right, because some tokens of
    840B.300d contain blanks. Where a word occurs twice, its first vector counts. Every line is checked for its encoding
    and its number of values, the values themselves only where the word is wanted.

    Args:
        path: the text file, UTF-8.
        words: usually `Vocabulary.words`.

    Raises:
        InputError: the file is missing, empty, truncated, not UTF-8, or a line has another dimension than the first
            line or a value that is not a finite float32.
    """
    path = Path(path)
    wanted = {word.encode(): word for word in words}
    found: dict[str, np.ndarray] = {}
    dim = 0
    try:
        with path.open("rb") as file:
            for number, line in _lines(file, path):
                ended = line.endswith(b"\n")
                line = line.rstrip(b"\r\n")
                if number == 1:
                    dim = _dimension(line, path)
                token, values = _split(line, dim, number, path, ended)
                word = wanted.get(token)
                if word is not None and word not in found:
                    found[word] = _numbers(values or line[len(token) + 1 :], number, path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or 'cannot be read'}, expected a GloVe text file") from error
    if not dim:
        raise InputError(f"{path}: the file is empty, expected lines of a word and its numbers")
    matrix = torch.zeros(len(words) + FIRST_WORD, dim)
    for row, word in enumerate(words, start=FIRST_WORD):
        if word in found:
            matrix[row] = torch.from_numpy(found[word])
    return WordVectors(matrix, [word for word in words if word not in found])


def write_glove(path: str | Path, vectors: Mapping[str, np.ndarray]) -> None:
    """Writes word vectors in GloVe's text format; float32 values survive the way through the file exactly.

    Raises:
        InputError: there are no vectors, their widths differ, a value is not finite, or a word holds a line break.
    """
    path = Path(path)
    dims = {np.shape(vector) for vector in vectors.values()}
    if len(dims) != 1 or any(len(shape) != 1 or shape[0] == 0 for shape in dims):
        raise InputError(f"{path}: found vectors of shapes {sorted(dims)}, expected vectors of one width")
    aside = path.with_name(path.name + ".part")
    with aside.open("w", encoding="utf-8", newline="\n") as file:
        for word, vector in vectors.items():
            if (
                word != word.strip()
                or len(word.splitlines()) != 1
                or (" " in word and _is_number(word.split(" ")[-1].encode()))
            ):
                raise InputError(
                    f"{path}: found the word {word!r}, expected no line break, outer blank or number at its end"
                )
            values = np.asarray(vector, dtype=np.float32)
            if not np.isfinite(values).all():
                raise InputError(f"{path}: the vector of {word!r} holds NaN or infinity, expected finite numbers")
            # `str` of a float32 is the shortest text that reads back as the same float32.
            file.write(f"{word} {' '.join(map(str, values))}\n")
    aside.replace(path)


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, checked for length and encoding; a blank last line is left out."""
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise InputError(f"{path}: line {number} is longer than {_LONGEST_LINE} bytes, expected a GloVe text file")
        if not line.isascii():
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise InputError(f"{path}: line {number} is not UTF-8, expected a UTF-8 text file") from error
        if not line.strip() and not file.read(1):
            return
        yield number, line


def _dimension(line: bytes, path: Path) -> int:
    """How many numbers end the first line."""
    fields = line.split(b" ")
    dim = 0
    for field in reversed(fields[1:]):
        if not _is_number(field):
            break
        dim += 1
    if not dim or not fields[0]:
        raise InputError(f"{path}: line 1 is {line[:40].decode(errors='replace')!r}, expected a word and its numbers")
    return dim


def _split(line: bytes, dim: int, number: int, path: Path, ended: bool) -> tuple[bytes, list[bytes]]:
    """Token and values of a line; where the token holds no blank, as nearly always, the values stay unsplit."""
    blanks = line.count(b" ")
    if blanks == dim:
        token, values = line[: line.index(b" ")], []
    else:
        fields = line.rsplit(b" ", dim)
        token, values = fields[0], fields[1:]
        # A token of 840B may hold blanks ("at name@domain.com"); one that ends in a number is a line with too many.
        if blanks < dim or _is_number(token.rsplit(b" ", 1)[-1]):
            state = "" if ended or blanks > dim else " and is cut off"
            raise InputError(f"{path}: line {number} has {blanks} numbers{state}, expected {dim} as on line 1")
    if not token:
        raise InputError(f"{path}: line {number} begins with a blank, expected a word and its {dim} numbers")
    return token, values


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    # Python reads 1_000 as a number, a text file does not mean it.
    return b"_" not in field


def _numbers(values: list[bytes] | bytes, number: int, path: Path) -> np.ndarray:
    """The values of a wanted word as float32."""
    fields = values.split(b" ") if isinstance(values, bytes) else values
    for field in fields:
        if not _is_number(field):
            shown = field[:20].decode(errors="replace")
            raise InputError(f"{path}: line {number} holds {shown!r}, expected a number")
    exact = np.array([float(field) for field in fields])
    if not (np.abs(exact) <= np.finfo(np.float32).max).all():
        raise InputError(
            f"{path}: line {number} holds NaN, infinity or a number beyond float32, expected finite numbers"
        )
    return exact.astype(np.float32)
