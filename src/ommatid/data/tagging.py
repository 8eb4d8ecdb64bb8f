"""Parts of speech of words, as far as methods of the library tell them apart."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ommatid.data.text import FIRST_WORD, tokenize

PARTS_OF_SPEECH = ("other", "verb", "noun", "adjective", "adverb", "preposition")
OTHER, VERB, NOUN, ADJECTIVE, ADVERB, PREPOSITION = range(len(PARTS_OF_SPEECH))

# Universal tags, as a table beside the data has them, and the first letters of Penn Treebank's.
_UNIVERSAL = {"VERB": VERB, "NOUN": NOUN, "PROPN": NOUN, "ADJ": ADJECTIVE, "ADV": ADVERB, "ADP": PREPOSITION}
_PENN = {"VB": VERB, "NN": NOUN, "JJ": ADJECTIVE, "RB": ADVERB, "IN": PREPOSITION, "TO": PREPOSITION, "RP": PREPOSITION}
# They carry a verb's tag but no activity.
_AUXILIARY_TEXT = (
    "am is are was were be been being do does did has have had having can could will would may might must shall should "
    "begins begin starts start continues continue"
)
_AUXILIARIES = frozenset(_AUXILIARY_TEXT.split())


def word_tags(
    words: Sequence[str], sentences: Iterable[str], table: Mapping[str, str] | None = None
) -> Int[Tensor, "row"]:
    """The part of speech of every row of a vocabulary (index into `PARTS_OF_SPEECH`); padding and unknown are "other".

    A word of the table has the tag that stands there. Any other word has the tag that it carries most often in the
    sentences, as textblob's tagger reads them.

    Args:
        words: of the vocabulary, in its order.
        table: word -> universal tag ("VERB", "NOUN", "ADJ", "ADV", "ADP", ...).

    Examples:
        >>> tags = word_tags(["door", "opens", "red"], ["a person opens the red door"])
        >>> [PARTS_OF_SPEECH[tag] for tag in tags.tolist()]
        ['other', 'other', 'noun', 'verb', 'adjective']
    """
    table = table or {}
    found = {word: _UNIVERSAL.get(table[word], OTHER) for word in words if word in table}
    missing = set(words) - found.keys()
    if missing:
        found |= _most_frequent(missing, sentences)
    return torch.tensor([OTHER] * FIRST_WORD + [found.get(word, OTHER) for word in words])


def _most_frequent(words: set[str], sentences: Iterable[str]) -> dict[str, int]:
    # Reading its lexicon takes a second, which only data without a table of tags need.
    from textblob.en import tag

    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for sentence in sentences:
        tokens = tokenize(sentence)
        if words.isdisjoint(tokens):
            continue
        before = ""
        for word, penn in tag(" ".join(tokens), tokenize=False):
            # The tagger's lexicon knows "opening" as a noun; "is opening" is none.
            going_on = before in _AUXILIARIES and word.endswith("ing")
            found = VERB if going_on else _PENN.get(penn[:2], OTHER)
            counts[word][OTHER if word in _AUXILIARIES else found] += 1
            before = word
    return {word: counts[word].most_common(1)[0][0] for word in words if counts[word]}
