"""`world-grounding`: videos as clip features, sentences as words, and an exact answer to where each sentence is true.

No reachable corpus with moment annotations exists, so this world makes one, in six views: `standard`, `rare` (half of
the test queries hold a rarely seen word), `cg` (compositions and words never seen in training), `glance` (one frame a
query), `unsupervised` (videos and sentences without pairs), and `emotion` (subtitle clauses, clip-level labels).
Scenes come from concepts with random codes; nothing in them is taken from a method.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ommatid.data.text import word_counts
from ommatid.data.worlds.grounding_emotion import EmotionClip, make_clips, make_emotion_words
from ommatid.data.worlds.grounding_formats import write_world
from ommatid.data.worlds.grounding_lexicon import POS, make_lexicon
from ommatid.data.worlds.grounding_rare import COMMON_SECONDS, RARE, plant_synonyms, speak_rarely
from ommatid.data.worlds.grounding_scenes import (
    MOST_EVENTS,
    Concepts,
    Event,
    Layout,
    Saying,
    Split,
    Video,
    WorldQuery,
    assemble,
    choose_events,
    draw_by,
    draw_layout,
    draw_modifiers,
    draw_scenes,
    holds,
    mark_rare,
    render,
    say,
    video_ids,
)
from ommatid.errors import InputError, unknown

__all__ = ["EmotionClip", "Event", "GroundingWorld", "Split", "Video", "WorldQuery", "WorldSettings", "holds"]

VERSION = 1
PARTNER_SHARE = {"train": 0.1, "test": 0.7}
_SPLIT_NUMBER = {"train": 0, "val": 1, "test": 2, "test_trivial": 2, "novel_composition": 3, "novel_word": 4}

View = Literal["standard", "rare", "cg", "glance", "unsupervised", "emotion"]
# For `cg`, `test_videos` is the size of test_trivial and of novel_composition each; for `emotion`, of movie clips.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "standard": {"train_videos": 400, "val_videos": 150, "test_videos": 500},
    "rare": {"train_videos": 350, "val_videos": 150, "test_videos": 1150},
    "cg": {"train_videos": 400, "val_videos": 0, "test_videos": 600},
    "glance": {"train_videos": 400, "val_videos": 150, "test_videos": 500},
    "unsupervised": {
        "train_videos": 600, "val_videos": 60, "test_videos": 170, "rho": 0.3, "sigma": 0.6, "verbs": 12, "nouns": 20,
    },
    "emotion": {"train_videos": 600, "val_videos": 0, "test_videos": 200},
}  # fmt: skip


@dataclass(frozen=True)
class WorldSettings:
    """Everything that decides what a `GroundingWorld` holds."""

    view: str
    seed: int
    train_videos: int
    val_videos: int
    test_videos: int
    queries_per_video: int
    rho: float
    sigma: float
    verbs: int
    nouns: int
    lengths: tuple[float, float]
    early_share: float | None


class GroundingWorld:
    """A made-up corpus for temporal grounding, the same for the same settings on every machine.

    A split depends on the settings that concern it and on the seed, not on the size of the other splits (only what
    is rare follows what training has said). Numbers left at None take the value of the view.

    Args:
        view: which of the six corpora.
        train_videos, val_videos, test_videos: sizes; `cg` has no validation split, as its originals.
        queries_per_video: sentences a video; `cg` test videos have one target each.
        rho: share of the word vectors' own code in the clips, 0-1: what text and video share before any training; 0.3
            in the `unsupervised` view, 0 in the others.
        sigma: standard deviation of the noise in every feature.
        verbs, nouns: concepts that exist, at most 20 and 60.
        lengths: shortest and longest event, as shares of the video; log-uniform between them.
        early_share: probability that a training query asks for an event that starts in the first half of its video (a
            location bias); None asks for all events alike.

    Attributes:
        splits: name -> videos and queries (empty for `emotion`).
        clips: name -> movie clips (`emotion` only).
        word_vectors: word -> 48 numbers; `pos`: word -> part of speech.

    Raises:
        InputError: an unknown view or a number outside its range.

    Examples:
        >>> world = GroundingWorld(train_videos=2, val_videos=1, test_videos=1)
        >>> query = world.splits["train"].queries[0]
        >>> video = world.splits["train"].videos[0]
        >>> [holds(query.meaning, event.meaning) for event in video.events].count(True)
        1
    """

    def __init__(
        self,
        view: View | str = "standard",
        seed: int = 0,
        train_videos: int | None = None,
        val_videos: int | None = None,
        test_videos: int | None = None,
        queries_per_video: int = 3,
        rho: float | None = None,
        sigma: float | None = None,
        verbs: int | None = None,
        nouns: int | None = None,
        lengths: tuple[float, float] = (0.06, 0.45),
        early_share: float | None = None,
    ) -> None:
        if view not in _DEFAULTS:
            raise unknown("view of world-grounding", view, _DEFAULTS)
        given: dict[str, Any] = {"train_videos": train_videos, "val_videos": val_videos, "test_videos": test_videos}
        given |= {"rho": rho, "sigma": sigma, "verbs": verbs, "nouns": nouns}
        chosen = {"rho": 0.0, "sigma": 1.1, "verbs": 20, "nouns": 60} | _DEFAULTS[view]
        chosen |= {name: value for name, value in given.items() if value is not None}
        lengths = (float(lengths[0]), float(lengths[1]))
        self.settings = WorldSettings(
            view=view,
            seed=seed,
            queries_per_video=queries_per_video,
            lengths=lengths,
            early_share=early_share,
            **chosen,
        )
        _check(self.settings)
        self.splits: dict[str, Split] = {}
        self.clips: dict[str, tuple[EmotionClip, ...]] = {}
        if view == "emotion":
            words = make_emotion_words(self._generator("words"))
            self.word_vectors, self.pos = words.vectors, words.pos
            sizes = {"train": self.settings.train_videos, "test": self.settings.test_videos}
            self.clips = {name: make_clips(self._generator(name), words, name, size) for name, size in sizes.items()}
            return
        self.lexicon = make_lexicon(self._generator("words"), self.settings.verbs, self.settings.nouns)
        self.word_vectors, self.pos = dict(self.lexicon.word_vectors), self.lexicon.pos()
        builders = {"rare": self._build_rare, "cg": self._build_compositional}
        builders.get(view, self._build_standard)()
        counts = word_counts(query.sentence for query in self.splits["train"].queries)
        self.splits = {name: mark_rare(split, counts, RARE) for name, split in self.splits.items()}

    @property
    def view(self) -> str:
        return self.settings.view

    def write(self, root: str | Path, format: str | None = None, features: str = "npy") -> dict[str, Any]:
        """Writes the world as a benchmark's files under `root`; gives the manifest (counts and sha256 of every file).

        Args:
            root: a folder that does not exist or is empty; one that holds this very world is checked and left as it is.
            format: `activitynet`, `charades`, `tacos`, `glance` or `jsonl` for the views with train and test
                splits, `cg`, `unsupervised` and `emotion` for the views of that name; the view's own unless given.
            features: `npy` (a file a video) or `hdf5` (one file).

        Raises:
            InputError: the format does not fit the view, or `root` holds something else.
        """
        return write_world(
            Path(root).absolute(),
            {"world": "grounding", "version": VERSION, "settings": asdict(self.settings)},
            format=format,
            features=features,
            splits=self.splits,
            clips=self.clips,
            word_vectors=self.word_vectors,
            pos=self.pos,
        )

    def _generator(self, part: str) -> np.random.Generator:
        """Random numbers of one part, which no other part shifts; parts of all views but these share their lexicon."""
        number = 100 if part == "words" else _SPLIT_NUMBER[part]
        return np.random.default_rng([self.settings.seed, number])

    def _layout(self, rng: np.random.Generator, videos: int) -> Layout:
        return draw_layout(rng, videos, self.settings.lengths)

    def _finish(
        self, rng: np.random.Generator, name: str, layout: Layout, concepts: Concepts, sayings: list[Saying]
    ) -> Split:
        settings = self.settings
        features = render(rng, self.lexicon, layout, concepts, settings.rho, settings.sigma)
        taken = {video.vid for split in self.splits.values() for video in split.videos}
        vids = video_ids(rng, len(layout), "activitynet", taken)
        return assemble(rng, name, self.lexicon, layout, concepts, features, sayings, vids)

    def _draw_usual(self, rng: np.random.Generator, shape: tuple[int, int]) -> Concepts:
        """Nouns and verbs as frequent as they are, in admitted pairs."""
        lexicon = self.lexicon
        noun = draw_by(rng, np.broadcast_to(lexicon.probs["noun"], (*shape, self.settings.nouns)))
        seconds = COMMON_SECONDS if self.view == "rare" else None
        verb = draw_by(rng, lexicon.verb_probs()[noun])
        return {"noun": noun, "verb": verb} | draw_modifiers(rng, lexicon, noun, seconds)

    def _usual_sayings(self, rng: np.random.Generator, name: str, size: int) -> tuple[Layout, Concepts, list[Saying]]:
        layout = self._layout(rng, size)
        concepts = draw_scenes(rng, layout, lambda videos: self._draw_usual(rng, (len(videos), MOST_EVENTS)))
        early_share = self.settings.early_share if name == "train" else None
        asked = choose_events(rng, layout, self.settings.queries_per_video, early_share)
        return layout, concepts, say(rng, self.lexicon, layout, concepts, asked)

    def _build_standard(self) -> None:
        sizes = {
            "train": self.settings.train_videos,
            "val": self.settings.val_videos,
            "test": self.settings.test_videos,
        }
        for name, size in sizes.items():
            rng = self._generator(name)
            if size:
                self.splits[name] = self._finish(rng, name, *self._usual_sayings(rng, name, size))

    def _build_rare(self) -> None:
        """Training by frequency with a few rare synonyms; test half rare, half common, uniform within each."""
        rng = self._generator("train")
        layout, concepts, sayings = self._usual_sayings(rng, "train", self.settings.train_videos)
        synonyms = plant_synonyms(rng, self.lexicon, sayings)
        self.word_vectors |= {synonym.word: self.lexicon.noisy_vectors[synonym.word] for synonym in synonyms}
        self.splits["train"] = self._finish(rng, "train", layout, concepts, sayings)
        if self.settings.val_videos:
            rng = self._generator("val")
            self.splits["val"] = self._finish(rng, "val", *self._usual_sayings(rng, "val", self.settings.val_videos))
        rng = self._generator("test")
        counts = word_counts(query.sentence for query in self.splits["train"].queries)
        layout = self._layout(rng, self.settings.test_videos)
        concepts, sayings = speak_rarely(rng, self.lexicon, layout, counts, synonyms, self.settings.queries_per_video)
        self.splits["test"] = self._finish(rng, "test", layout, concepts, sayings)

    def _build_compositional(self) -> None:
        settings = self.settings
        rng = self._generator("train")
        layout = self._layout(rng, settings.train_videos)
        first, second = _two_events(rng, layout)
        shared = rng.random(len(layout)) < PARTNER_SHARE["train"]
        concepts = draw_scenes(rng, layout, lambda v: self._draw_distinct(rng, first[v], second[v], shared[v], None))
        asked = choose_events(rng, layout, settings.queries_per_video, settings.early_share)
        self.splits["train"] = self._finish(
            rng, "train", layout, concepts, say(rng, self.lexicon, layout, concepts, asked)
        )
        for name, withheld in (("test_trivial", False), ("novel_composition", True)):
            self.splits[name], layout, concepts, targets = self._compositional_split(name, withheld)
            if name == "test_trivial":
                seen = (layout, concepts, targets)
        self.splits["novel_word"] = self._novel_words(*seen)

    def _compositional_split(self, name: str, withheld: bool) -> tuple[Split, Layout, Concepts, np.ndarray]:
        """One target a video; in 70 % a partner has the target's noun with a verb of the other kind."""
        rng = self._generator(name)
        layout = self._layout(rng, self.settings.test_videos)
        target, partner = _two_events(rng, layout)
        shared = rng.random(len(layout)) < PARTNER_SHARE["test"]
        concepts = draw_scenes(
            rng, layout, lambda v: self._draw_distinct(rng, target[v], partner[v], shared[v], withheld)
        )
        sayings = say(rng, self.lexicon, layout, concepts, (np.arange(len(layout)), target))
        if withheld:
            for saying in sayings:
                saying.tags = {"novels": {"v-n": [[saying.words["verb"], saying.words["noun"]]]}}
        return self._finish(rng, name, layout, concepts, sayings), layout, concepts, target

    def _draw_distinct(
        self, rng: np.random.Generator, first: np.ndarray, second: np.ndarray, shared: np.ndarray, withheld: bool | None
    ) -> Concepts:
        """Events of different nouns, but for the second one where `shared`.

        `withheld`: whether the first event's pair is one that training never has (the sharing second one's then is one
        it has, and the other way round); None where every pair is admitted.
        """
        lexicon, rows = self.lexicon, np.arange(len(first))
        # The largest of log-frequency + Gumbel noise: drawing without replacement.
        keys = np.log(lexicon.probs["noun"]) + rng.gumbel(size=(len(rows), self.settings.nouns))
        noun = np.argsort(-keys, axis=1)[:, :MOST_EVENTS]
        # The first draw follows the frequencies exactly, and is the target's.
        noun[rows, first], noun[rows, 0] = noun[rows, 0].copy(), noun[rows, first].copy()
        noun[rows, second] = np.where(shared, noun[rows, first], noun[rows, second])
        tables = np.stack([lexicon.verb_probs(), lexicon.verb_probs(withheld=True)])
        other = np.zeros(noun.shape, dtype=np.int64)
        if withheld is not None:
            other[rows, first] = int(withheld)
            other[rows, second] = np.where(shared, int(not withheld), 0)
        verb = draw_by(rng, tables[other, noun])
        return {"noun": noun, "verb": verb} | draw_modifiers(rng, lexicon, noun)

    def _novel_words(self, layout: Layout, concepts: Concepts, target: np.ndarray) -> Split:
        """The videos of test_trivial, each target named with one word that training never has."""
        rng = self._generator("novel_word")
        roles = [("verb", "noun", "adj")[choice] for choice in rng.integers(3, size=len(layout))]
        always = {(video, int(event)): role for video, (event, role) in enumerate(zip(target, roles, strict=True))}
        sayings = say(rng, self.lexicon, layout, concepts, (np.arange(len(layout)), target), always=always)
        for saying, role in zip(sayings, roles, strict=True):
            word = self.lexicon.reserved[role][saying.kept[role]]
            saying.words[role] = word
            saying.tags = {"news": {POS[role]: [word]}}
        videos = self.splits["test_trivial"].videos
        features, vids = [video.features for video in videos], [video.vid for video in videos]
        split = assemble(rng, "novel_word", self.lexicon, layout, concepts, features, sayings, vids)
        return Split(videos, split.queries)


def _two_events(rng: np.random.Generator, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Two different events of every video."""
    order = np.argsort(np.where(layout.valid, rng.random(layout.valid.shape), 2.0), axis=1)
    return order[:, 0], order[:, 1]


def _check(settings: WorldSettings) -> None:
    ranges: dict[str, tuple[float, float]] = {
        "seed": (0, 2**63), "train_videos": (1, 10**6), "val_videos": (0, 10**6), "test_videos": (1, 10**6),
        "queries_per_video": (1, 100), "rho": (0, 1), "sigma": (0, 1e3), "verbs": (7, 20), "nouns": (13, 60),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            raise InputError(f"world-grounding: {name} is {value}, expected a number from {low} to {high}")
    low, high = settings.lengths
    if not 0.02 <= low <= high <= 0.9 or low > 0.28:
        raise InputError(
            f"world-grounding: lengths is {settings.lengths}, expected shortest in [0.02, 0.28], longest up to 0.9"
        )
    if settings.early_share is not None and not 0 <= settings.early_share <= 1:
        raise InputError(f"world-grounding: early_share is {settings.early_share}, expected a probability")
