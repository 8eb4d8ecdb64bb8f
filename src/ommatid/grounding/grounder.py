"""`Grounder`: the base of every method that finds a sentence's moment in a video."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.data.text import Vocabulary, tokenize
from ommatid.data.video import SUFFIXES, read_clips
from ommatid.engine.data import DataModule
from ommatid.engine.export import Ranking
from ommatid.engine.method import Method
from ommatid.errors import InputError
from ommatid.grounding.data import GroundingData, GroundingSample, clip_features, collate, make_sample
from ommatid.grounding.draw import MOST_FRAMES, draw_comparison, draw_moments
from ommatid.grounding.encoders import WordEmbedding
from ommatid.grounding.metrics import NMS, THRESHOLDS, grounding_scores, nms_moments, with_subsets
from ommatid.grounding.task import GroundingBatch, Moments, Query, Supervision


@dataclass(frozen=True)
class GroundedSentence:
    """A prediction for a user's own video and sentence: moments in seconds, best first.

    Attributes:
        video: the video file, for the film strip of the drawing; None where features were given.
    """

    sentence: str
    duration: float
    moments: Moments
    video: Path | None = None

    def to_json(self) -> dict[str, Any]:
        spans = self.moments.seconds(torch.tensor([self.duration]))[0]
        return {
            "sentence": self.sentence,
            "duration": self.duration,
            "moments": [
                {"start": round(start, 3), "end": round(end, 3), "score": round(score, 4)}
                for (start, end), score in zip(spans.tolist(), self.moments.scores[0].tolist(), strict=True)
            ],
        }

    def draw(self, path: Path) -> None:
        frames = None if self.video is None else film_strip(self.video, self.duration)
        draw_moments(self.sentence, self.duration, self.moments, path=path, frames=frames)


class Grounder(Method):
    """Clip features and a sentence in, scored moments out.

    A subclass has `words`, a `WordEmbedding`, implements `forward(batch) -> Moments` and `training_step`.

    Class attributes:
        learns_from: what its training batches hold. Data that know more are shown without it (spans withheld, glances
            drawn inside them, pairs torn apart); data that know less are refused in one sentence.
        clips_kept: for a method that samples long videos itself: videos come with up to so many clips, whatever
            `data.steps` says. None for all others.
    """

    data_module = GroundingData
    monitor = "val/mIoU"
    learns_from: ClassVar[Supervision] = "span"
    clips_kept: ClassVar[int | None] = None
    words: WordEmbedding

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary = Vocabulary([])
        self.steps = 0
        self.max_words: int | None = None
        self.extractor: dict[str, Any] | None = None

    # -- words and features: what data and method agree on --

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, GroundingData)
        return {
            "feature_dim": data.feature_dim,
            "word_dim": data.word_vectors.shape[1],
            "vocabulary_size": len(data.word_vectors),
        }

    @classmethod
    def refuses(cls, data: DataModule) -> str | None:
        assert isinstance(data, GroundingData)
        return None if data.allows(cls.learns_from) else data.refusal(cls.learns_from)

    def adopt(self, data: DataModule) -> None:
        assert isinstance(data, GroundingData)
        data.learn_from(self.learns_from, type(self).__name__)
        self.take_over(data)

    def take_over(self, data: GroundingData) -> None:
        """Vocabulary, word vectors and lengths of the data."""
        if self.clips_kept is not None:
            data.use(data.vocabulary, self.clips_kept, data.max_words)
        vectors = data.word_vectors
        if vectors.shape != self.words.vectors.shape:
            raise InputError(
                f"word vectors of the data have the shape {tuple(vectors.shape)}, the method expects "
                f"{tuple(self.words.vectors.shape)}: give vocabulary_size and word_dim of the data"
            )
        self.words.vectors.copy_(vectors)
        self.words.tags.copy_(data.word_tags)
        self.vocabulary, self.steps, self.max_words = data.vocabulary, data.steps, data.max_words
        self.extractor = data.extractor

    def align(self, data: DataModule) -> None:
        assert isinstance(data, GroundingData)
        if not self.vocabulary.words:
            self.take_over(data)
        data.use(self.vocabulary, self.steps, self.max_words)
        if data.feature_dim != self.hparams.feature_dim:
            raise InputError(
                f"clip features of the data have {data.feature_dim} channels, this checkpoint was trained on "
                f"{self.hparams.feature_dim}"
            )

    def extras(self) -> dict[str, Any]:
        return {
            "vocabulary": self.vocabulary.to_list(),
            "steps": self.steps,
            "max_words": self.max_words,
            "extractor": self.extractor,
        }

    def restore_extras(self, extras: dict[str, Any]) -> None:
        self.vocabulary = Vocabulary.from_list(extras["vocabulary"])
        self.steps, self.max_words, self.extractor = extras["steps"], extras["max_words"], extras["extractor"]

    # -- evaluation --

    def identity(self, batch: GroundingBatch) -> Int[Tensor, "batch"]:
        return batch.query

    def score(self, batch: GroundingBatch) -> dict[str, Float[Tensor, "batch"]]:
        """Recall, mIoU (M2-M5) over all queries and over every named subset."""
        scores = grounding_scores(self(batch), batch.span, batch.duration, THRESHOLDS, nms=NMS)
        return with_subsets(scores, batch.subsets)

    # -- prediction --

    @torch.no_grad()
    def examples(self, data: DataModule, split: str, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The best moments of some queries beside the annotated one; seconds."""
        assert isinstance(data, GroundingData)
        told = []
        for index in indices:
            # One at a time: a handful of queries, whose pictures must not depend on each other.
            sample = data.dataset(split)[index]
            assert isinstance(sample, GroundingSample)
            moments = nms_moments(self.eval()(collate([sample]).to(self.device)).to("cpu"), NMS)
            query = data.queries[split][index]
            found = GroundedSentence(query.sentence, query.duration, kept(moments))
            told.append({**found.to_json(), "truth": None if query.span is None else list(query.span)})
        return told

    @classmethod
    def draw_examples(cls, examples: Mapping[str, Sequence[dict[str, Any]]], folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, of_methods in enumerate(zip(*examples.values(), strict=True)):
            best = {name: told["moments"][0] for name, told in zip(examples, of_methods, strict=True)}
            spans = {name: (found["start"], found["end"]) for name, found in best.items()}
            first, path = of_methods[0], folder / f"query_{number + 1}.png"
            draw_comparison(first["sentence"], first["duration"], spans, first["truth"], path)
            paths.append(path)
        return paths

    @torch.no_grad()
    def predict(
        self, video: str | Path, sentence: str, duration: float | None = None, top: int = 5
    ) -> GroundedSentence:
        """The moments of your own video that a sentence describes.

        Args:
            video: a feature file (.npy, .h5) of the kind the method was trained on, or a video file, from which the
                features are taken by the extractor that prepared the training data.
            sentence: what to look for.
            duration: seconds; needed for a feature file, read from a video file.
            top: how many moments.

        Raises:
            InputError: the file cannot be used, the features have another width, or no word of the sentence is known.
        """
        features, seconds = clip_features(Path(video), self.extractor, duration)
        if features.shape[1] != self.hparams.feature_dim:
            raise InputError(
                f"{video}: clip features have {features.shape[1]} channels, expected {self.hparams.feature_dim}"
            )
        if top < 1:
            raise InputError(f"top must be at least 1, found {top}")
        if not tokenize(sentence):
            raise InputError(f"sentence {sentence!r}: has no words, expected a description of a moment")
        query = Query(qid="0", vid=str(video), sentence=sentence, duration=seconds)
        sample = make_sample(query, features, self.vocabulary, self.steps, self.max_words, index=0)
        if bool((sample.words == 1).all()):
            raise InputError(f"sentence {sentence!r}: none of its words is in the vocabulary of this checkpoint")
        moments = self.eval()(collate([sample]).to(self.device)).to("cpu")
        film = Path(video) if Path(video).suffix.lower() in SUFFIXES else None
        return GroundedSentence(sentence, seconds, kept(nms_moments(moments, NMS, top)), film)

    # -- export --

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """A plain-tensor network, example inputs, and the names of inputs and outputs."""
        # Sizes are fixed in the exported graph; what is shorter is padded.
        steps, words = max(self.steps or self.clips_kept or 2, 2), self.max_words or 20
        example = (
            torch.rand(1, steps, int(self.hparams.feature_dim), generator=torch.Generator().manual_seed(0)),
            torch.ones(1, steps, dtype=torch.bool),
            (torch.arange(words) % len(self.words.vectors))[None],
            torch.ones(1, words, dtype=torch.bool),
        )
        return _PlainGrounder(self), example, ("video", "video_mask", "words", "word_mask"), ("spans", "scores")


class _PlainGrounder(Ranking):
    """The contract's dataclasses as tensors, for exporters."""

    def __init__(self, grounder: Grounder) -> None:
        super().__init__()
        self.grounder = grounder

    def forward(self, video: Tensor, video_mask: Tensor, words: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        nothing = video.new_full((video.shape[0],), float("nan"))
        span = nothing[:, None].expand(-1, 2)
        identity = torch.zeros(video.shape[0], dtype=torch.long)
        moments = self.grounder(GroundingBatch(video, video_mask, words, word_mask, nothing, span, nothing, identity))
        return moments.spans, moments.scores


def film_strip(
    video: Path, duration: float, count: int = MOST_FRAMES, height: int = 120
) -> Float[Tensor, "frame 3 height width"]:
    """About `count` frames evenly spaced over a video, small, in [0, 1]."""
    # One after the other: a video's full-size frames would not all fit into memory.
    frames = [
        F.interpolate(
            torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255,
            (height, max(round(height * image.shape[1] / image.shape[0]), 1)),
            mode="bilinear",
            antialias=True,
        )
        for _, image in read_clips(video, count / duration)
    ]
    return torch.cat(frames)


def kept(moments: Moments) -> Moments:
    """Without the fillers of a suppression that left fewer moments than asked for (a batch of one)."""
    return moments.top(max(int(torch.isfinite(moments.scores[0]).sum()), 1))
