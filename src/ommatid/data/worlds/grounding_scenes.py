"""Scenes of the grounding world: where events lie, how clips show them, and how sentences speak of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ommatid.data.worlds.grounding_lexicon import CHANNELS, FILLERS, POS, Lexicon, rounded

CLIP_SECONDS = 0.4
MOST_EVENTS = 5
FEWEST_EVENTS = 3
ROLES = ("verb", "noun", "adj", "prep", "noun2", "adv")
# What clips show; prepositional phrases and adverbs are said and true, but leave no trace in the features.
VISIBLE = ("verb", "noun", "adj")
_ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmnopqrstuvwxyz_-"))


@dataclass(frozen=True)
class Event:
    """What happens from `start` to `end` (seconds): role -> concept."""

    start: float
    end: float
    meaning: dict[str, str]


@dataclass(frozen=True, eq=False)
class Video:
    """Clip features (n, 48) float32 of 0.4 s each, and the truth about them."""

    vid: str
    features: np.ndarray
    duration: float
    events: tuple[Event, ...]


@dataclass(frozen=True)
class WorldQuery:
    """A sentence that is true of exactly one event of its video.

    Attributes:
        span: start and end in seconds; `glance` lies inside.
        event: index of the event in its video.
        meaning: role -> concept of what the sentence says.
        roles: role of each word (`subject` and `det` for the words that carry no concept); `pos`: its part of speech.
        rare: the sentence has a noun, verb or adjective that occurs less than ten times in the training sentences.
        novels: word pairs never seen together, by type (`v-n`); `news`: words never seen, by part of speech.
    """

    qid: str
    vid: str
    sentence: str
    span: tuple[float, float]
    glance: float
    event: int
    meaning: dict[str, str]
    roles: tuple[str, ...]
    pos: tuple[str, ...]
    rare: bool = False
    novels: dict[str, list[list[str]]] | None = None
    news: dict[str, list[str]] | None = None


@dataclass(frozen=True)
class Split:
    """Videos and the queries about them."""

    videos: tuple[Video, ...]
    queries: tuple[WorldQuery, ...]

    def queries_of(self) -> dict[str, list[WorldQuery]]:
        """Video id -> its queries, in the order of the videos."""
        grouped: dict[str, list[WorldQuery]] = {video.vid: [] for video in self.videos}
        for query in self.queries:
            grouped[query.vid].append(query)
        return grouped


def holds(meaning: Mapping[str, str], scene: Mapping[str, str]) -> bool:
    """Whether everything a sentence means is true of an event: `scene` is `Event.meaning`.

    Examples:
        >>> event = {"verb": "opens", "noun": "door", "adj": "red"}
        >>> holds({"verb": "opens", "noun": "door"}, event), holds({"verb": "opens", "noun": "box"}, event)
        (True, False)
    """
    return all(scene.get(role) == concept for role, concept in meaning.items())


@dataclass
class Layout:
    """Where the events of many videos lie, in clips; `(videos, 5)` arrays padded where `valid` is False."""

    clips: np.ndarray
    begin: np.ndarray
    length: np.ndarray
    valid: np.ndarray

    def __len__(self) -> int:
        return len(self.clips)

    def span(self, video: int, event: int) -> tuple[float, float]:
        """Seconds; 0.4 s a clip gives one exact decimal."""
        begin, length = int(self.begin[video, event]), int(self.length[video, event])
        return round(begin * CLIP_SECONDS, 1), round((begin + length) * CLIP_SECONDS, 1)


Concepts = dict[str, np.ndarray]


def draw_layout(rng: np.random.Generator, videos: int, lengths: tuple[float, float]) -> Layout:
    """96-160 clips, 3-5 events of log-uniform length, at least one background clip between them."""
    low, high = lengths
    clips = rng.integers(96, 161, videos)
    length = np.zeros((videos, MOST_EVENTS), dtype=np.int64)
    redo = np.ones(videos, dtype=bool)
    while redo.any():
        fraction = np.exp(rng.uniform(np.log(low), np.log(high), (int(redo.sum()), MOST_EVENTS)))
        n = clips[redo, None]
        shortest = np.ceil(low * n - 1e-9)
        length[redo] = np.clip(np.round(fraction * n), shortest, np.maximum(shortest, np.floor(high * n + 1e-9)))
        redo = length[:, :FEWEST_EVENTS].sum(1) > 0.92 * clips
    count = np.full(videos, FEWEST_EVENTS)
    desired = rng.integers(FEWEST_EVENTS, MOST_EVENTS + 1, videos)
    for events in range(FEWEST_EVENTS + 1, MOST_EVENTS + 1):
        fits = length[:, :events].sum(1) + events - 1 <= 0.95 * clips
        count = np.where((count == events - 1) & (desired >= events) & fits, events, count)
    valid = np.arange(MOST_EVENTS) < count[:, None]
    # The events that were drawn first are longer than the later, which must fit; a shuffle unties length from place.
    order = np.argsort(np.where(valid, rng.random(valid.shape), 2.0), axis=1)
    length = np.where(valid, np.take_along_axis(length, order, axis=1), 0)
    free = clips - length.sum(1) - (count - 1)
    shares = rng.exponential(size=(videos, MOST_EVENTS + 1)) * (np.arange(MOST_EVENTS + 1) <= count[:, None])
    before = np.floor(free[:, None] * np.cumsum(shares, axis=1) / shares.sum(1, keepdims=True)).astype(np.int64)
    begin = before[:, :MOST_EVENTS] + np.cumsum(length, axis=1) - length + np.arange(MOST_EVENTS)
    return Layout(clips, np.where(valid, begin, 0), length, valid)


def render(
    rng: np.random.Generator, lexicon: Lexicon, layout: Layout, concepts: Concepts, rho: float, sigma: float
) -> list[np.ndarray]:
    """Clip features of every video: scene + what the events look like + noise."""
    offsets = np.concatenate([[0], np.cumsum(layout.clips)])
    features = np.repeat(lexicon.scene(rng, len(layout)), layout.clips, axis=0)
    video, event = np.nonzero(layout.valid)
    length = layout.length[video, event]
    inside = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    phase = (inside + 0.5) / np.repeat(length, length)
    rows = np.repeat(offsets[video] + layout.begin[video, event], length) + inside
    verb, noun, adj = (concepts[role][video, event] for role in VISIBLE)
    moving, constant = lexicon.appearance(verb, noun, adj)
    still = (1 - rho) * constant + rho * lexicon.shared_code(verb, noun)
    swing = (1 - rho) * (0.8 + 0.4 * np.sin(np.pi * phase))
    features[rows] += np.repeat(moving, length, axis=0) * swing[:, None] + np.repeat(still, length, axis=0)
    features += sigma * rng.standard_normal((len(features), CHANNELS), dtype=np.float32)
    return np.split(rounded(features), offsets[1:-1])


def draw_by(rng: np.random.Generator, probs: np.ndarray) -> np.ndarray:
    """One index a row of `probs` (..., choices)."""
    cumulative = np.cumsum(probs, axis=-1)
    below = cumulative < rng.random(probs.shape[:-1])[..., None] * cumulative[..., -1:]
    return below.sum(-1)


def draw_scenes(rng: np.random.Generator, layout: Layout, draw: Callable[[np.ndarray], Concepts]) -> Concepts:
    """Concepts of all events such that no two events of a video look the same.

    `draw` gets the indices of videos and gives their concepts, (videos, 5) each; videos with twins are drawn again.
    """
    concepts = draw(np.arange(len(layout)))
    redo = _twins(concepts, layout.valid)
    while len(redo):
        again = draw(redo)
        for role, values in again.items():
            concepts[role][redo] = values
        redo = redo[_twins(again, layout.valid[redo])]
    return concepts


def _twins(concepts: Concepts, valid: np.ndarray) -> np.ndarray:
    """Videos of which two events agree in everything visible."""
    key = (concepts["verb"] * 1000 + concepts["noun"]) * 10 + concepts["adj"]
    key = np.sort(np.where(valid, key, -1 - np.arange(key.shape[1])), axis=1)
    return np.nonzero((key[:, 1:] == key[:, :-1]).any(1))[0]


def draw_modifiers(
    rng: np.random.Generator, lexicon: Lexicon, noun: np.ndarray, seconds: int | None = None
) -> Concepts:
    """Adjective, preposition, second noun and adverb of events; the second noun is another one.

    `seconds` keeps the second noun among that many most frequent ones.
    """
    chosen = {kind: rng.integers(len(lexicon.words[kind]), size=noun.shape) for kind in ("adj", "prep", "adv")}
    probs = np.where(
        np.arange(len(lexicon.probs["noun"])) < (seconds or len(lexicon.probs["noun"])), lexicon.probs["noun"], 0.0
    )
    others = np.broadcast_to(probs, (*noun.shape, len(probs))).copy()
    np.put_along_axis(others, noun[..., None], 0.0, axis=-1)
    return chosen | {"noun2": draw_by(rng, others)}


@dataclass
class Saying:
    """A query in the making: which event of which video, and which word says which role."""

    video: int
    event: int
    words: dict[str, str]
    kept: dict[str, int] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)

    def spoken(self) -> list[tuple[str, str]]:
        """(role, word) of the template: person VERB the [ADJ] NOUN [PREP the NOUN2] [ADV]."""
        said = [("subject", "person"), ("verb", self.words["verb"]), ("det", "the")]
        said += [("adj", self.words["adj"])] if "adj" in self.words else []
        said += [("noun", self.words["noun"])]
        if "prep" in self.words:
            said += [("prep", self.words["prep"]), ("det", "the"), ("noun2", self.words["noun2"])]
        return said + ([("adv", self.words["adv"])] if "adv" in self.words else [])

    @property
    def sentence(self) -> str:
        return " ".join(word for _, word in self.spoken())


def choose_events(
    rng: np.random.Generator, layout: Layout, queries_per_video: int, early_share: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which events are asked for: every event of a video before one is asked for again.

    With `early_share`, each query asks for an event that starts in the first half of its video with that probability.
    """
    key = np.where(layout.valid, rng.random(layout.valid.shape), 2.0)
    order = np.argsort(key, axis=1)
    turns = np.arange(queries_per_video) % layout.valid.sum(1)[:, None]
    events = np.take_along_axis(order, turns, axis=1)
    if early_share is not None:
        early = layout.valid & (layout.begin < layout.clips[:, None] / 2)
        wanted = rng.random((*events.shape, 1)) < early_share
        pool = np.where(wanted, early[:, None], (layout.valid & ~early)[:, None])
        pool = np.where(pool.any(-1, keepdims=True), pool, layout.valid[:, None])
        events = draw_by(rng, pool.astype(np.float64))
    return np.repeat(np.arange(len(layout)), queries_per_video), events.reshape(-1)


def say(
    rng: np.random.Generator,
    lexicon: Lexicon,
    layout: Layout,
    concepts: Concepts,
    asked: tuple[np.ndarray, np.ndarray],
    usable: Mapping[str, list[tuple[str, ...]]] | None = None,
    always: Mapping[tuple[int, int], str] | None = None,
) -> list[Saying]:
    """Sentences for the asked events; modifiers are dropped at random, but no adjective that tells two events apart.

    Args:
        usable: the words to choose from, those of the lexicon unless given.
        always: (video, event) -> a role that must be said.
    """
    usable, always = usable or lexicon.words, always or {}
    pair = np.where(layout.valid, concepts["verb"] * 1000 + concepts["noun"], -1)
    alike = (pair[:, :, None] == pair[:, None, :]).sum(-1) > 1
    keep = rng.random((len(asked[0]), 3)) < 0.5
    pick = rng.random((len(asked[0]), len(ROLES)))
    sayings = []
    # One sentence at a time: each has its own words.
    for row, (video, event) in enumerate(zip(*map(np.ndarray.tolist, asked), strict=True)):
        roles = ["verb", "noun"]
        roles += ["adj"] if keep[row, 0] or alike[video, event] or always.get((video, event)) == "adj" else []
        roles += ["prep", "noun2"] if keep[row, 1] else []
        roles += ["adv"] if keep[row, 2] else []
        kept = {role: int(concepts[role][video, event]) for role in roles}
        words = {}
        for role, concept in kept.items():
            choices = usable[kind_of(role)][concept]
            words[role] = choices[int(pick[row, ROLES.index(role)] * len(choices))]
        sayings.append(Saying(video, event, words, kept))
    return sayings


def kind_of(role: str) -> str:
    return "noun" if role == "noun2" else role


def assemble(
    rng: np.random.Generator,
    name: str,
    lexicon: Lexicon,
    layout: Layout,
    concepts: Concepts,
    features: list[np.ndarray],
    sayings: list[Saying],
    vids: list[str],
) -> Split:
    """Arrays to the videos and queries that users see."""
    videos = []
    for index, vid in enumerate(vids):
        events = tuple(
            Event(
                *layout.span(index, event), _names(lexicon, {role: int(concepts[role][index, event]) for role in ROLES})
            )
            for event in range(int(layout.valid[index].sum()))
        )
        videos.append(Video(vid, features[index], round(int(layout.clips[index]) * CLIP_SECONDS, 1), events))
    places = rng.random(len(sayings))
    queries = [
        _query(f"{name}-{row:05d}", lexicon, saying, vids[saying.video], layout.span(saying.video, saying.event), place)
        for row, (saying, place) in enumerate(zip(sayings, places.tolist(), strict=True))
    ]
    return Split(tuple(videos), tuple(queries))


def _names(lexicon: Lexicon, concepts: Mapping[str, int]) -> dict[str, str]:
    return {role: lexicon.name(kind_of(role), concept) for role, concept in concepts.items()}


def _query(qid: str, lexicon: Lexicon, saying: Saying, vid: str, span: tuple[float, float], place: float) -> WorldQuery:
    spoken = saying.spoken()
    glance = min(max(round(span[0] + place * (span[1] - span[0]), 1), span[0]), span[1])
    roles = tuple(role for role, _ in spoken)
    pos = tuple(POS[role] if role in POS else FILLERS[word] for role, word in spoken)
    return WorldQuery(
        qid, vid, saying.sentence, span, glance, saying.event, _names(lexicon, saying.kept), roles, pos, **saying.tags
    )


def mark_rare(split: Split, counts: Mapping[str, int], threshold: int = 10) -> Split:
    """The split with `rare` set where a noun, verb or adjective has been seen less than `threshold` times."""
    marked = []
    for query in split.queries:
        content = zip(query.sentence.split(), query.pos, strict=True)
        rare = any(counts.get(word, 0) < threshold for word, pos in content if pos in ("NOUN", "VERB", "ADJ"))
        marked.append(replace(query, rare=rare))
    return replace(split, queries=tuple(marked))


def video_ids(rng: np.random.Generator, count: int, style: str, taken: set[str] | None = None) -> list[str]:
    """Distinct ids as a benchmark writes them: `v_` + 11 characters, 5 capitals or digits, or `sNN-dMM.avi`."""
    if style == "tacos":
        return [
            f"s{10 + place // 90:02d}-d{10 + place % 90:02d}.avi" for place in rng.permutation(max(count, 8100))[:count]
        ]
    letters, length, prefix = (_ALPHABET[:36], 5, "") if style == "charades" else (_ALPHABET, 11, "v_")
    taken = set(taken or ())
    ids: list[str] = []
    while len(ids) < count:
        for row in letters[rng.integers(len(letters), size=(count, length))]:
            name = prefix + "".join(row)
            if name not in taken and len(ids) < count:
                taken.add(name)
                ids.append(name)
    return ids
