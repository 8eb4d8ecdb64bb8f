"""The rare view of the grounding world: words that training hardly says, of events that clips show like any other."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ommatid.data.worlds.grounding_lexicon import Lexicon
from ommatid.data.worlds.grounding_scenes import (
    MOST_EVENTS,
    VISIBLE,
    Concepts,
    Layout,
    Saying,
    choose_events,
    draw_by,
    draw_modifiers,
    draw_scenes,
    say,
)

RARE = 10
# Second nouns leave no trace in clips; taken from the frequent ones, they make no query rare that is not hard to find.
COMMON_SECONDS = 12
COMMON, RARE_CONCEPT, RARE_SYNONYM = range(3)
SHARES = (0.5, 0.25, 0.25)


class Synonym(NamedTuple):
    """A word that replaces the usual ones of a concept in a few sentences."""

    role: str
    concept: int
    word: str


def plant_synonyms(rng: np.random.Generator, lexicon: Lexicon, sayings: list[Saying]) -> list[Synonym]:
    """Puts a synonym into 1-9 sentences of each frequent concept, which stays frequent without them."""
    mentions: dict[tuple[str, int], list[Saying]] = {}
    for saying in sayings:
        for role in VISIBLE:
            if role in saying.kept:
                mentions.setdefault((role, saying.kept[role]), []).append(saying)
    synonyms = []
    for (role, concept), found in sorted(mentions.items(), key=lambda item: item[0]):
        if len(found) < 2 * RARE:
            continue
        synonyms.append(Synonym(role, concept, lexicon.reserved[role][concept]))
        for place in rng.permutation(len(found))[: rng.integers(1, RARE)]:
            found[place].words[role] = synonyms[-1].word
    return synonyms


def speak_rarely(
    rng: np.random.Generator,
    lexicon: Lexicon,
    layout: Layout,
    counts: Mapping[str, int],
    synonyms: list[Synonym],
    queries_per_video: int,
) -> tuple[Concepts, list[Saying]]:
    """Half of the events common, a quarter with a rare noun, a quarter spoken of with a rare synonym.

    Within each part, nouns, verbs and synonyms are as frequent as each other.

    Args:
        counts: how often training says each word.
    """
    usable = {
        kind: [tuple(word for word in words if counts.get(word, 0) >= RARE) or words for words in groups]
        for kind, groups in lexicon.words.items()
    }
    common = {kind: np.array([counts.get(words[0], 0) >= RARE for words in usable[kind]]) for kind in ("noun", "verb")}
    # A noun that training never says is not rare but unknown.
    heard = np.array([any(word in counts for word in words) for words in lexicon.words["noun"]])
    # Index of the synonym by which each event is called, -1 where it is called as usual.
    called = np.full(layout.valid.shape, -1)

    def draw(videos: np.ndarray) -> Concepts:
        shape = (len(videos), MOST_EVENTS)
        part = draw_by(rng, np.broadcast_to(SHARES if synonyms else SHARES[:2], (*shape, 3 if synonyms else 2)))
        which = rng.integers(max(len(synonyms), 1), size=shape)
        called[videos] = np.where(part == RARE_SYNONYM, which, -1)
        table = np.where(part == RARE_SYNONYM, RARE_SYNONYM + which, part)
        return _draw_evenly(rng, lexicon, table, heard, common, synonyms)

    concepts = draw_scenes(rng, layout, draw)
    asked = choose_events(rng, layout, queries_per_video, None)
    planted = {(int(video), int(event)): synonyms[called[video, event]] for video, event in np.argwhere(called >= 0)}
    always = {place: synonym.role for place, synonym in planted.items()}
    sayings = say(rng, lexicon, layout, concepts, asked, usable, always)
    for saying in sayings:
        if synonym := planted.get((saying.video, saying.event)):
            saying.words[synonym.role] = synonym.word
    return concepts, sayings


def _draw_evenly(
    rng: np.random.Generator,
    lexicon: Lexicon,
    table: np.ndarray,
    heard: np.ndarray,
    common: Mapping[str, np.ndarray],
    synonyms: list[Synonym],
) -> Concepts:
    """Concepts of events; `table` says of what part each is: common, rare concept, or from 2 on one of the synonyms."""
    pairs = lexicon.admitted_pairs()
    # A small training set may leave one of them without any pair.
    usual = _first_possible(pairs * common["noun"][:, None] * common["verb"], pairs)
    seldom = _first_possible(pairs * (heard & ~common["noun"])[:, None], pairs)
    tables = [usual, seldom]
    for role, concept, _ in synonyms:
        keep = np.ones_like(pairs)
        if role == "noun":
            keep = np.arange(len(pairs))[:, None] == concept
        elif role == "verb":
            keep = np.arange(pairs.shape[1]) == concept
        tables.append(_first_possible(usual * keep, pairs * keep))
    probs = np.stack([_even_nouns(one).reshape(-1) for one in tables])
    noun, verb = np.divmod(draw_by(rng, probs[table]), pairs.shape[1])
    concepts = {"noun": noun, "verb": verb} | draw_modifiers(rng, lexicon, noun, COMMON_SECONDS)
    for index, (role, concept, _) in enumerate(synonyms):
        if role == "adj":
            concepts["adj"] = np.where(table == RARE_SYNONYM + index, concept, concepts["adj"])
    return concepts


def _first_possible(wanted: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    return wanted if wanted.any() else otherwise


def _even_nouns(table: np.ndarray) -> np.ndarray:
    """Every noun that has a verb at all is as likely as any other."""
    total = table.sum(1, keepdims=True)
    return np.divide(table, total, out=np.zeros_like(table), where=total > 0)
