"""The emotion view of the grounding world: subtitled clips, clip-level labels to learn from, clause sets as truth."""

from dataclasses import dataclass

import numpy as np

from ommatid.data.worlds.grounding_lexicon import CHANNELS, CONCEPT_NOISE, LATENT, WORD_NOISE, WORD_SCALE, rounded

EMOTION_CHANNELS = 24
FRAMES_PER_SECOND = 2.0
# Shortest and longest run, in clauses. One name ends with a blank, as in the published labels.
RUN_LENGTHS = {
    "surprise": (1, 2), "excitement": (1, 2), "anger": (4, 6), "happiness": (4, 6),
    "peace": (10, 16), "aversion ": (10, 16),
}  # fmt: skip
CLASSES = tuple(RUN_LENGTHS)
MISSING, WRONG = 0.35, 0.10
EVIDENCE = 0.8
UNSORTED = 0.1
CLIPS_PER_MOVIE = 15
_CLASS_WORDS = {
    "surprise": "wow unbelievable gosh sudden", "excitement": "hurray awesome thrilling finally",
    "anger": "damn furious liar enough", "happiness": "wonderful laugh smile lovely",
    "peace": "calm quiet rest gentle", "aversion ": "disgusting awful filthy gross",
}  # fmt: skip
_FILLERS = """
    i you we they he she it is are was do did have had go come see know think want tell give take make say look here
    there now then today again maybe about with from this that what who where how
"""


@dataclass(frozen=True)
class EmotionWords:
    """Words of the subtitles with their vectors, and the code of each class in either modality."""

    vectors: dict[str, np.ndarray]
    pos: dict[str, str]
    by_class: dict[str, list[str]]
    video_codes: np.ndarray
    subtitle_codes: np.ndarray


@dataclass(frozen=True, eq=False)
class EmotionClip:
    """A movie clip cut into subtitle clauses.

    Attributes:
        times: start and end of each clause in seconds; `dialog`: its text.
        frames: (n, 24) float32 video features, two a second.
        video, subtitles: (clauses, 24) float32, the mean of the frames of each clause and a code of its text.
        counts: class -> votes, the label to learn from.
        segments: class -> indices of its clauses, now and then unsorted.
    """

    movie: str
    clip: str
    duration: float
    times: list[tuple[float, float]]
    dialog: list[str]
    frames: np.ndarray
    video: np.ndarray
    subtitles: np.ndarray
    counts: dict[str, int]
    segments: dict[str, list[int]]


def make_emotion_words(rng: np.random.Generator) -> EmotionWords:
    """Class words share their class's latent; all other words mean nothing."""
    projection = rng.standard_normal((CHANNELS, LATENT)) * WORD_SCALE
    noise = (CONCEPT_NOISE**2 + WORD_NOISE**2) ** 0.5
    vectors = {word: rounded(noise * rng.standard_normal(CHANNELS)) for word in _FILLERS.split()}
    by_class = {name: _CLASS_WORDS[name].split() for name in CLASSES}
    for words in by_class.values():
        latent = rng.standard_normal(LATENT)
        centre = 2 * np.einsum("cl,l->c", projection, latent / np.linalg.norm(latent))
        centre += CONCEPT_NOISE * rng.standard_normal(CHANNELS)
        vectors |= {word: rounded(centre + WORD_NOISE * rng.standard_normal(CHANNELS)) for word in words}
    codes = EVIDENCE * rng.standard_normal((2, len(CLASSES), EMOTION_CHANNELS))
    pos = dict.fromkeys(_FILLERS.split(), "X") | {word: "ADJ" for words in by_class.values() for word in words}
    return EmotionWords(vectors, dict(sorted(pos.items())), by_class, codes[0], codes[1])


def make_clips(rng: np.random.Generator, words: EmotionWords, split: str, count: int) -> tuple[EmotionClip, ...]:
    """`count` clips of movies that no other split has."""
    movies = -(-count // CLIPS_PER_MOVIE)
    # Odd numbers for training, even ones for test.
    numbers = 2 * rng.choice(4_000_000, movies, replace=False) + (split == "train")
    clips = []
    # One clip at a time: each has its own number of clauses, classes and runs.
    for index in range(count):
        place = index % CLIPS_PER_MOVIE
        first = 7 * place + int(rng.integers(1, 4))
        name = f"scene-{place + 1:03d}.ss-{first:04d}.es-{first + int(rng.integers(4)):04d}"
        clips.append(_make_clip(rng, words, f"tt{numbers[index // CLIPS_PER_MOVIE]:07d}", name))
    return tuple(clips)


def _make_clip(rng: np.random.Generator, words: EmotionWords, movie: str, name: str) -> EmotionClip:
    clauses = int(rng.integers(24, 49))
    times, duration = _draw_times(rng, clauses)
    present = np.zeros((clauses, len(CLASSES)), dtype=bool)
    for label in rng.permutation(len(CLASSES))[: rng.integers(1, 4)]:
        present[_draw_runs(rng, clauses, *RUN_LENGTHS[CLASSES[label]]), label] = True
    seen, heard = (_corrupt(rng, present) for _ in range(2))
    frames, video = _draw_frames(rng, times, duration, seen @ words.video_codes)
    subtitles = rounded(heard @ words.subtitle_codes + rng.standard_normal((clauses, EMOTION_CHANNELS)))
    labels = [int(label) for label in np.nonzero(present.any(0))[0]]
    counts = {CLASSES[label]: int(min(1 + rng.poisson(0.4), 12)) for label in labels}
    segments = {CLASSES[label]: np.nonzero(present[:, label])[0].tolist() for label in labels}
    for indices in segments.values():
        if rng.random() < UNSORTED:
            rng.shuffle(indices)
    dialog = [_speak(rng, words, row) for row in heard]
    return EmotionClip(movie, name, duration, times, dialog, frames, video, subtitles, counts, segments)


def _draw_times(rng: np.random.Generator, clauses: int) -> tuple[list[tuple[float, float]], float]:
    """Clauses of 1-3.5 s in milliseconds, a long silence now and then and perhaps one at the end."""
    length = rng.integers(1000, 3501, clauses)
    gap = np.where(rng.random(clauses) < 0.08, rng.integers(2001, 5001, clauses), rng.integers(70, 401, clauses))
    ends = np.cumsum(length + gap)
    duration = int(ends[-1] + rng.integers(0, 6001))
    return [(int(end - size) / 1000, int(end) / 1000) for end, size in zip(ends, length, strict=True)], duration / 1000


def _draw_runs(rng: np.random.Generator, clauses: int, shortest: int, longest: int) -> np.ndarray:
    """Clauses of one or two separate runs of a class."""
    lengths = rng.integers(shortest, longest + 1, rng.integers(1, 3))
    free = clauses - lengths.sum() - (len(lengths) - 1)
    if free < 0:
        lengths, free = lengths[:1], clauses - lengths[0]
    before = np.sort(rng.integers(0, free + 1, len(lengths)))
    starts = before + np.cumsum(lengths) - lengths + np.arange(len(lengths))
    return np.concatenate([np.arange(start, start + size) for start, size in zip(starts, lengths, strict=True)])


def _corrupt(rng: np.random.Generator, present: np.ndarray) -> np.ndarray:
    """The evidence of one modality: some of it is missing, some speaks for another class."""
    fate = rng.random(present.shape)
    evidence = (present & (fate >= MISSING + WRONG)).astype(np.float64)
    clause, label = np.nonzero(present & (fate >= MISSING) & (fate < MISSING + WRONG))
    other = (label + rng.integers(1, len(CLASSES), len(label))) % len(CLASSES)
    evidence[clause, other] = 1.0
    return evidence


def _draw_frames(
    rng: np.random.Generator, times: list[tuple[float, float]], duration: float, evidence: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Frames whose mean over a clause is its evidence plus unit noise, and these means."""
    rows = int(np.ceil(duration * FRAMES_PER_SECOND))
    middle = (np.arange(rows) + 0.5) / FRAMES_PER_SECOND
    clause = np.searchsorted([end for _, end in times], middle, side="right")
    inside = clause < len(times)
    inside[inside] = middle[inside] >= np.array([start for start, _ in times])[clause[inside]]
    size = np.bincount(clause[inside], minlength=len(times))
    spread = np.full(rows, 2.0)
    spread[inside] = np.sqrt(size[clause[inside]])
    frames = spread[:, None] * rng.standard_normal((rows, EMOTION_CHANNELS))
    frames[inside] += evidence[clause[inside]]
    frames = rounded(frames)
    means = np.zeros((len(times), EMOTION_CHANNELS))
    np.add.at(means, clause[inside], frames[inside])
    return frames, rounded(means / size[:, None])


def _speak(rng: np.random.Generator, words: EmotionWords, evidence: np.ndarray) -> str:
    """Two to six words that mean nothing and one word for each class that is heard."""
    fillers = _FILLERS.split()
    said = [fillers[index] for index in rng.integers(len(fillers), size=rng.integers(2, 7))]
    for label in np.nonzero(evidence)[0]:
        choices = words.by_class[CLASSES[label]]
        said.insert(int(rng.integers(len(said) + 1)), choices[int(rng.integers(len(choices)))])
    # The published subtitles end with a blank.
    return " ".join(said).capitalize() + ". "
