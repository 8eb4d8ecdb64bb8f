"""Data of the field: official formats, your own, or the embedded world, as one batch that every method takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.data.features import read_feature_file
from ommatid.data.tagging import word_tags
from ommatid.data.text import Vocabulary
from ommatid.data.video import SUFFIXES, Extractor
from ommatid.engine.batch import Batch
from ommatid.engine.data import DataModule, pad_first
from ommatid.errors import InputError, unknown
from ommatid.grounding.baselines import trivial_baselines
from ommatid.grounding.metrics import NMS, THRESHOLDS, grounding_scores, rare_query_split, with_subsets
from ommatid.grounding.sources import FolderSource, Source, WorldSource, distinct_videos
from ommatid.grounding.task import GroundingBatch, Query, Supervision, UnpairedBatch
from ommatid.grounding.timeindex import pool_to_length

View = Literal["standard", "rare", "cg", "glance", "unsupervised"]
SHORT, LONG = 0.15, 0.25
_NEEDS = {
    "span": ("annotated moments", "a moment for every training query"),
    "glance": ("glances", "a moment, or one instant inside it, for every training query"),
    "unpaired": ("videos and sentences", "some to train on"),
}


@dataclass
class GroundingSample:
    """One query with its video, before padding."""

    video: Float[Tensor, "time channel"]
    words: Int[Tensor, "word"]
    duration: float
    span: tuple[float, float]
    glance: float
    query: int
    subsets: dict[str, bool]


class GroundingData(DataModule):
    """Videos as clip features, sentences, moments.

    Args:
        root: folder of a data set in one of the field's official formats or in ours (see `docs/data/grounding.md`); the
            embedded world where None.
        format: "auto" looks at the files.
        protocol: which of the three test conventions of ActivityNet Captions holds.
        features: folder or HDF5 file of clip features; found below `root` where None.
        glove: word vectors in GloVe's text format; `glove.txt` below `root` where None; without any, fixed random
            vectors tell words apart.
        steps: longer videos are averaged to so many steps (D1), shorter ones keep their length.
        max_words: longer sentences are cut.
        view: which view of the embedded world ("rare" tests rarely seen words, "cg" novel compositions, ...).
        world_seed: the embedded world is a function of it.
        train_videos, test_videos: sizes of the embedded world; the view's own where None.
        world: further settings of the embedded world by name (`sigma`, `rho`, `lengths`, `early_share`, ...).
        rare_below: a word seen fewer times in training is rare.
        by_length: score queries of short (below 15 % of the video), medium and long (above 25 %) moments also apart.
    """

    # Text and clips share some of their code, or a method without pairs would have nothing to learn.
    compared = {
        "data": {"view": "standard", "steps": 32, "batch_size": 32, "world": {"rho": 0.3}},
        "trainer": {"max_steps": 600, "max_epochs": -1},
    }

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        protocol: str = "2dtan",
        features: str | None = None,
        glove: str | None = None,
        steps: int = 200,
        max_words: int = 20,
        view: View = "standard",
        world_seed: int = 0,
        train_videos: int | None = None,
        test_videos: int | None = None,
        world: dict[str, Any] | None = None,
        rare_below: int = 10,
        by_length: bool = False,
        batch_size: int = 64,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        if steps < 2:
            raise InputError(f"steps must be at least 2, found {steps}")
        if max_words < 1:
            raise InputError(f"max_words must be at least 1, found {max_words}")
        self.root = Path(root) if root else None
        self.steps, self.max_words, self.rare_below, self.by_length = steps, max_words, rare_below, by_length
        self._source: Source = (
            FolderSource(self.root, format, protocol, features, glove, seed)
            if self.root
            else WorldSource(view, world_seed, train_videos=train_videos, test_videos=test_videos, **(world or {}))
        )
        self._learns_from: Supervision = "span"
        self._vocabulary: Vocabulary | None = None

    # -- what there is --

    @cached_property
    def queries(self) -> dict[str, list[Query]]:
        """Every split's annotated sentences; the test parts of a compositional format are joined as "test"."""
        return self._source.queries()

    @cached_property
    def store(self) -> Any:
        """Video id -> clip features."""
        return self._source.store()

    @property
    def feature_dim(self) -> int:
        return int(self.store.dim)

    @property
    def vocabulary(self) -> Vocabulary:
        """Words of the sentences that have a vector, unless a trained method has brought its own vocabulary.

        Vectors are frozen and come from elsewhere, so that words of the test sentences may have theirs.
        """
        if self._vocabulary is None:
            sentences = [query.sentence for queries in self.queries.values() for query in queries]
            self._vocabulary = self._source.vocabulary(sentences)
        return self._vocabulary

    @cached_property
    def word_vectors(self) -> Float[Tensor, "vocabulary channel"]:
        return self._source.word_vectors(self.vocabulary)

    @cached_property
    def word_tags(self) -> Int[Tensor, "vocabulary"]:
        """Part of speech of each word, an index into `ommatid.data.tagging.PARTS_OF_SPEECH`."""
        sentences = [query.sentence for queries in self.queries.values() for query in queries]
        return word_tags(self.vocabulary.words, sentences, self._source.parts_of_speech())

    @property
    def extractor(self) -> dict[str, Any] | None:
        """How the clip features were taken from videos, if it is known (`ommatid data features` writes it down)."""
        return self._source.extractor()

    @cached_property
    def supervision(self) -> str:
        """What the training queries are annotated with: all of them with a "span", all with a "glance", or "none".

        "partial" where only some have a span or a glance.
        """
        train = self.queries.get("train", [])
        if train and all(query.span is not None for query in train):
            return "span"
        if train and all(query.glance is not None for query in train):
            return "glance"
        return "partial" if any(query.span or query.glance is not None for query in train) else "none"

    def allows(self, learns_from: Supervision) -> bool:
        """Whether a method that learns from spans, from glances or without pairs can be trained on these data.

        Glances can be drawn from spans, and pairs can be torn apart.
        """
        if learns_from == "unpaired":
            return bool(self.queries.get("train"))
        return self.supervision == "span" or learns_from == self.supervision

    def refusal(self, learns_from: Supervision) -> str:
        """Why a method that learns from this cannot be trained on these data, as the rest of a sentence about it."""
        what, expected = _NEEDS[learns_from]
        return f"learns from {what}, these data have supervision {self.supervision!r}: expected {expected}"

    def learn_from(self, learns_from: Supervision, who: str = "the method") -> None:
        """Show training queries with this and nothing more.

        Raises:
            InputError: the data do not have it; `who` is named as the one that needs it.
        """
        if not self.allows(learns_from):
            raise InputError(f"{who} {self.refusal(learns_from)}")
        self._learns_from = learns_from
        self._datasets.pop("train", None)

    def use(self, vocabulary: Vocabulary, steps: int, max_words: int | None) -> None:
        """Encode sentences and videos as a trained method expects them."""
        self._vocabulary, self.steps = vocabulary, steps
        self.max_words = max_words or self.max_words
        for name in ("word_vectors", "word_tags"):
            self.__dict__.pop(name, None)
        self._datasets.clear()

    # -- the contract of every data module --

    @cached_property
    def _datasets(self) -> dict[str, "GroundingSet | UnpairedSet"]:
        return {}

    def dataset(self, split: str) -> "GroundingSet | UnpairedSet":
        if self.check_split(split) not in self.queries:
            raise unknown("split", split, self.queries)
        if split not in self._datasets:
            queries = self.queries[split]
            if split == "train" and self._learns_from == "unpaired":
                videos = distinct_videos(queries) or self._source.unpaired_videos()
                words = [self.vocabulary.encode(query.sentence, self.max_words) for query in queries]
                self._datasets[split] = UnpairedSet(videos, self.store, words, self.steps, self.seed)
                return self._datasets[split]
            if split == "train" and self._learns_from == "glance":
                queries = glances_only(queries, self.seed)
            if any(not query.vid for query in queries):
                raise InputError(
                    f"{self._source.name}: the sentences of {split!r} belong to no video, expected pairs of both"
                )
            self._datasets[split] = GroundingSet(
                queries, self.store, self.vocabulary, self.steps, self.max_words, self.subsets(split)
            )
        return self._datasets[split]

    def collate(self, samples: Sequence[Any]) -> Batch:
        if isinstance(samples[0], UnpairedSample):
            return collate_unpaired(samples)
        return collate(samples)

    def subsets(self, split: str) -> dict[str, np.ndarray]:
        """Named parts of a split: rare and common queries, the parts of a compositional test, types of composition.

        Without training sentences nothing says what is rare.
        """
        queries, train = self.queries[split], [query.sentence for query in self.queries.get("train", [])]
        parts = {}
        if train:
            sentences = [query.sentence for query in queries]
            rare = rare_query_split(train, sentences, self.rare_below, tags=self._source.parts_of_speech()).numpy()
            parts = {"rare": rare, "common": ~rare}
        if self.by_length:
            share = np.array([_share(query) for query in queries])
            parts |= {"short": share < SHORT, "medium": (share >= SHORT) & (share <= LONG), "long": share > LONG}
        named = [(query.tags or {}).get("part", "") for query in queries]
        parts |= {part: np.array([name == part for name in named]) for part in sorted(set(named) - {""})}
        # A query counts for every type of composition that it carries.
        novel = [(query.tags or {}).get("novels") or {} for query in queries]
        kinds = sorted({kind for found in novel for kind in found if found[kind]})
        return parts | {f"novel {kind}": np.array([bool(found.get(kind)) for found in novel]) for kind in kinds}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Random span, mean span of training, whole video (M7)."""
        queries = self.queries[split]
        duration = torch.tensor([query.duration for query in queries])
        span = torch.tensor([query.span or (float("nan"),) * 2 for query in queries]) / duration[:, None]
        members = {name: torch.from_numpy(member) for name, member in self.subsets(split).items()}
        means = {}
        for name, moments in trivial_baselines(queries, self.queries.get("train", []), self.seed).items():
            scores = with_subsets(grounding_scores(moments, span, duration, THRESHOLDS, nms=NMS), members)
            means[name] = {metric: float(score.nanmean()) for metric, score in scores.items()}
        return means

    def describe(self) -> dict[str, Any]:
        sizes = {split: len(queries) for split, queries in self.queries.items()}
        return {"name": self._source.name, "queries": sizes, "feature_dim": self.feature_dim, "steps": self.steps}


class GroundingSet(Dataset[GroundingSample]):
    """The queries of one split; every video is pooled once and kept."""

    def __init__(
        self,
        queries: Sequence[Query],
        store: Any,
        vocabulary: Vocabulary,
        steps: int,
        max_words: int | None,
        subsets: dict[str, np.ndarray],
    ) -> None:
        self.queries, self.store, self.vocabulary = queries, store, vocabulary
        self.steps, self.max_words, self.subsets = steps, max_words, subsets
        self._pooled: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> GroundingSample:
        query = self.queries[index]
        if query.vid not in self._pooled:
            self._pooled[query.vid] = pool_to_length(self.store[query.vid], self.steps, keep_short=True)
        video = self._pooled[query.vid]
        subsets = {name: bool(member[index]) for name, member in self.subsets.items()}
        return make_sample(query, video, self.vocabulary, self.steps, self.max_words, index, subsets)


@dataclass
class UnpairedSample:
    """A video and a sentence that have nothing to do with each other."""

    video: Float[Tensor, "time channel"]
    video_number: int
    words: Int[Tensor, "word"]
    sentence_number: int


class UnpairedSet(Dataset[UnpairedSample]):
    """A pile of videos and a pile of sentences, side by side in random order; the shorter one begins anew.

    What belongs together is not in here, so that nothing of it can leak.
    """

    def __init__(
        self, videos: Sequence[str], store: Any, words: Sequence[Int[Tensor, "_"]], steps: int, seed: int
    ) -> None:
        self.videos, self.words = list(videos), list(words)
        self._pooled = [pool_to_length(store[vid], steps, keep_short=True) for vid in videos]
        self._order = torch.randperm(len(words), generator=torch.Generator().manual_seed(seed)).tolist()

    def __len__(self) -> int:
        return max(len(self._pooled), len(self.words))

    def __getitem__(self, index: int) -> UnpairedSample:
        return self._sample(index, self._order[index % len(self.words)])

    def in_order(self, index: int) -> UnpairedSample:
        """The video and the sentence of this number, the shorter pile begun anew."""
        return self._sample(index, index % len(self.words))

    def _sample(self, index: int, sentence: int) -> UnpairedSample:
        video = index % len(self._pooled)
        return UnpairedSample(self._pooled[video], video, self.words[sentence], sentence)


def glances_only(queries: Sequence[Query], seed: int) -> list[Query]:
    """The queries without their spans; a glance that is missing is drawn inside the span, uniformly (a function of
    `seed`).
    """
    draws = torch.rand(len(queries), generator=torch.Generator().manual_seed(seed)).tolist()
    return [replace(query, span=None, glance=_glance(query, draw)) for query, draw in zip(queries, draws, strict=True)]


def _glance(query: Query, draw: float) -> float | None:
    if query.glance is not None or query.span is None:
        return query.glance
    start, end = query.span
    return start + draw * (end - start)


def _share(query: Query) -> float:
    """How much of its video the annotated moment takes."""
    return math.nan if query.span is None else (query.span[1] - query.span[0]) / query.duration


def make_sample(
    query: Query,
    features: Float[Tensor, "clip channel"],
    vocabulary: Vocabulary,
    steps: int,
    max_words: int | None,
    index: int,
    subsets: dict[str, bool] | None = None,
) -> GroundingSample:
    """A query and its clip features as a method sees them: pooled video, word indices, times in [0, 1]."""
    nan = float("nan")
    start, end = query.span or (nan, nan)
    return GroundingSample(
        video=pool_to_length(features, steps, keep_short=True),
        words=vocabulary.encode(query.sentence, max_words),
        duration=query.duration,
        span=(start / query.duration, end / query.duration),
        glance=nan if query.glance is None else query.glance / query.duration,
        query=index,
        subsets=subsets or {},
    )


def collate(samples: Sequence[GroundingSample]) -> GroundingBatch:
    """Samples as one padded batch."""
    video, video_mask = pad_first([sample.video for sample in samples])
    words, word_mask = pad_first([sample.words for sample in samples])
    subsets = {
        name: torch.tensor([sample.subsets[name] for sample in samples])
        for name in (samples[0].subsets if samples else ())
    }
    return GroundingBatch(
        video=video,
        video_mask=video_mask,
        words=words,
        word_mask=word_mask,
        duration=torch.tensor([sample.duration for sample in samples], dtype=torch.float32),
        span=torch.tensor([sample.span for sample in samples], dtype=torch.float32),
        glance=torch.tensor([sample.glance for sample in samples], dtype=torch.float32),
        query=torch.tensor([sample.query for sample in samples]),
        subsets=subsets,
    )


def collate_unpaired(samples: Sequence[UnpairedSample]) -> UnpairedBatch:
    """Videos and sentences as one padded batch."""
    video, video_mask = pad_first([sample.video for sample in samples])
    words, word_mask = pad_first([sample.words for sample in samples])
    return UnpairedBatch(
        video=video,
        video_mask=video_mask,
        video_number=torch.tensor([sample.video_number for sample in samples]),
        words=words,
        word_mask=word_mask,
        sentence_number=torch.tensor([sample.sentence_number for sample in samples]),
    )


def clip_features(
    path: Path, extractor: dict[str, Any] | None, duration: float | None
) -> tuple[Float[Tensor, "clip channel"], float]:
    """Clip features and duration of one file of the user's: features themselves, or a video.

    Raises:
        InputError: a feature file without `duration`, a video without a known extractor, or an unreadable file.
    """
    if path.suffix.lower() in SUFFIXES:
        if extractor is None:
            raise InputError(
                f"{path}: this checkpoint was trained on features of unknown origin, expected a feature file "
                "(.npy); a data set prepared by 'ommatid data features' remembers how its features were taken"
            )
        features, seconds = Extractor(**extractor)(path)
        return features, seconds
    features = read_feature_file(path)
    if duration is None or not 0 < duration < math.inf:
        raise InputError(f"{path}: a feature file needs its duration in seconds (above 0), found {duration}")
    return features, float(duration)
