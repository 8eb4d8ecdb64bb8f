"""Parts of speech of vocabulary words."""

from ommatid.data.tagging import PARTS_OF_SPEECH, word_tags

SENTENCES = ["a person quickly opens the red door", "the man is opening a window with a knife", "they open the door"]


def tagged(words, sentences=SENTENCES, table=None):
    tags = word_tags(words, sentences, table)
    assert tags[:2].tolist() == [0, 0]
    return {word: PARTS_OF_SPEECH[tag] for word, tag in zip(words, tags[2:].tolist(), strict=True)}


def test_words_are_tagged_as_the_sentences_use_them():
    words = ["opens", "opening", "door", "window", "red", "quickly", "with", "the"]
    parts = ["verb", "verb", "noun", "noun", "adjective", "adverb", "preposition", "other"]
    assert tagged(words) == dict(zip(words, parts, strict=True))


def test_the_table_beside_the_data_has_the_last_word():
    assert tagged(["opens", "door"], table={"opens": "NOUN", "door": "X"}) == {"opens": "noun", "door": "other"}


def test_auxiliaries_are_no_activities():
    assert tagged(["is", "opening"]) == {"is": "other", "opening": "verb"}


def test_the_most_frequent_use_decides():
    uses = ["they walk the dog", "they walk home", "a walk in the park"]
    assert tagged(["walk"], uses) == {"walk": "verb"}


def test_a_word_that_no_sentence_has_is_of_no_kind():
    assert tagged(["skylight"]) == {"skylight": "other"}
