"""Where a grounding data set comes from: a folder of the user's, or the embedded world."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ommatid.data.features import FeatureStore
from ommatid.data.sentences import hashed_vector
from ommatid.data.text import Vocabulary, read_glove, tokenize
from ommatid.data.video import Extractor
from ommatid.data.worlds.grounding import GroundingWorld, WorldQuery
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.files import read_json
from ommatid.grounding.formats import detect_format, hold_out, read_annotations, read_videos
from ommatid.grounding.task import Query

NAMELESS_DIM = 300
VAL_FRACTION = 0.1


class Source(Protocol):
    """What `GroundingData` asks of a data set."""

    name: str

    def queries(self) -> dict[str, list[Query]]: ...

    def unpaired_videos(self) -> list[str]: ...

    def store(self) -> "FeatureStore | MemoryStore": ...

    def vocabulary(self, sentences: Sequence[str]) -> Vocabulary: ...

    def word_vectors(self, vocabulary: Vocabulary) -> Float[Tensor, "row dim"]: ...

    def parts_of_speech(self) -> Mapping[str, str] | None: ...

    def extractor(self) -> dict[str, Any] | None: ...


class MemoryStore:
    """Clip features held in memory, with the reading side of a `FeatureStore`."""

    def __init__(self, features: Mapping[str, np.ndarray]) -> None:
        self.features = dict(features)

    @property
    def dim(self) -> int:
        return int(next(iter(self.features.values())).shape[1])

    def __getitem__(self, vid: str) -> Float[Tensor, "clip channel"]:
        return torch.from_numpy(self.features[vid])

    def __contains__(self, vid: object) -> bool:
        return vid in self.features


class WorldSource:
    """The embedded world in one of its views."""

    def __init__(self, view: str, seed: int, **settings: Any) -> None:
        self.name = f"world-grounding ({view})"
        self.world = build(GroundingWorld, {"view": view, "seed": seed, **settings})

    def queries(self) -> dict[str, list[Query]]:
        splits: dict[str, list[Query]] = {}
        for part, split in self.world.splits.items():
            duration = {video.vid: video.duration for video in split.videos}
            target = part if part in ("train", "val", "test") else "test"
            splits.setdefault(target, []).extend(
                _from_world(query, duration[query.vid], part) for query in split.queries
            )
        if "val" not in splits:
            splits["train"], splits["val"] = hold_out(splits["train"], VAL_FRACTION, self.world.settings.seed)
        # Withheld from training only: without them in val and test nothing could be scored.
        if self.world.view == "glance":
            splits["train"] = [replace(query, span=None) for query in splits["train"]]
        elif self.world.view == "unsupervised":
            splits["train"] = [_unpaired(query) for query in splits["train"]]
        return splits

    def unpaired_videos(self) -> list[str]:
        """Ids of the training videos that no sentence belongs to."""
        return [video.vid for video in self.world.splits["train"].videos]

    def store(self) -> MemoryStore:
        return MemoryStore(
            {video.vid: video.features for split in self.world.splits.values() for video in split.videos}
        )

    def vocabulary(self, sentences: Sequence[str]) -> Vocabulary:
        return _known_words(sentences, set(self.world.word_vectors))

    def word_vectors(self, vocabulary: Vocabulary) -> Float[Tensor, "row dim"]:
        vectors = self.world.word_vectors
        dim = len(next(iter(vectors.values())))
        nothing = np.zeros(dim, dtype=np.float32)
        rows = [nothing, nothing, *(vectors.get(word, nothing) for word in vocabulary.words)]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def parts_of_speech(self) -> Mapping[str, str]:
        return self.world.pos

    def extractor(self) -> None:
        return None


class FolderSource:
    """A data set on disk: annotations in one of the formats, clip features, and word vectors if there are any."""

    def __init__(
        self, root: Path, format: str, protocol: str, features: str | None, glove: str | None, seed: int
    ) -> None:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder, expected a data set (see docs/data/grounding.md)")
        self.root, self.protocol, self.seed = root, protocol, seed
        self.format = detect_format(root) if format == "auto" else format
        self.name = f"{root.name} ({self.format})"
        self._features, self._glove = features, glove

    def queries(self) -> dict[str, list[Query]]:
        splits: dict[str, list[Query]] = {}
        for part, queries in read_annotations(self.root, self.format, protocol=self.protocol, seed=self.seed).items():
            joined = part in ("train", "val", "test")
            target = part if joined else "test"
            splits.setdefault(target, []).extend(queries if joined else (_in_part(query, part) for query in queries))
        return splits

    def unpaired_videos(self) -> list[str]:
        """Ids of the training videos that no sentence belongs to."""
        return list(read_videos(self.root))

    def store(self) -> FeatureStore:
        return FeatureStore(self._features_path)

    @cached_property
    def _features_path(self) -> Path:
        if self._features:
            return Path(self._features)
        below = self.root / "features"
        return below if below.is_dir() else self.root

    @cached_property
    def _glove_path(self) -> Path | None:
        if self._glove:
            return Path(self._glove)
        beside = self.root / "glove.txt"
        return beside if beside.is_file() else None

    def vocabulary(self, sentences: Sequence[str]) -> Vocabulary:
        every = Vocabulary.build(sentences)
        if self._glove_path is None:
            return every
        missing = set(read_glove(self._glove_path, every.words).missing)
        return Vocabulary([word for word in every.words if word not in missing])

    def word_vectors(self, vocabulary: Vocabulary) -> Float[Tensor, "row dim"]:
        if self._glove_path is None:
            return nameless_vectors(vocabulary)
        return read_glove(self._glove_path, vocabulary.words).matrix

    def parts_of_speech(self) -> Mapping[str, str] | None:
        path = self.root / "pos.json"
        if not path.is_file():
            return None
        table = read_json(path, "word -> part of speech")
        if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
            raise InputError(f"{path}: expected one JSON object, word -> part of speech")
        return table

    def extractor(self) -> dict[str, Any] | None:
        beside = self._features_path if self._features_path.is_dir() else self._features_path.parent
        path = beside / "extractor.json"
        if not path.is_file():
            return None
        settings = read_json(path, "the settings of an extractor")
        if not isinstance(settings, dict):
            raise InputError(f"{path}: found a {type(settings).__name__}, expected the settings of an extractor")
        try:
            return asdict(build(Extractor, settings))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def nameless_vectors(vocabulary: Vocabulary, dim: int = NAMELESS_DIM) -> Float[Tensor, "row dim"]:
    """Random vectors that depend on the word alone: they tell words apart, nothing more."""
    rows = [np.zeros(dim), np.zeros(dim), *(hashed_vector(word, dim) for word in vocabulary.words)]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def distinct_videos(queries: Sequence[Query]) -> list[str]:
    """The videos that queries are about, each once, in the order of their first query."""
    return list(dict.fromkeys(query.vid for query in queries if query.vid))


def _known_words(sentences: Sequence[str], known: set[str]) -> Vocabulary:
    return Vocabulary(sorted({word for sentence in sentences for word in tokenize(sentence)} & known))


def _from_world(query: WorldQuery, duration: float, part: str) -> Query:
    return Query(
        qid=query.qid,
        vid=query.vid,
        sentence=query.sentence,
        duration=duration,
        span=query.span,
        glance=query.glance,
        group=query.vid,
        tags={
            "roles": query.roles,
            "meaning": query.meaning,
            **({"novels": query.novels} if query.novels else {}),
            **({} if part in ("train", "val", "test") else {"part": part}),
        },
    )


def _unpaired(query: Query) -> Query:
    """The sentence alone, as the files of an unsupervised set have it."""
    return Query(query.qid, "", query.sentence, math.nan, group=query.qid)


def _in_part(query: Query, part: str) -> Query:
    return replace(query, tags={**(query.tags or {}), "part": part})
