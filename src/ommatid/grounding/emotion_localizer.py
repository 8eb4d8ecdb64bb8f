"""`EmotionLocalizer`: the base of methods that find when in a subtitled clip which emotion occurs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ommatid.data.features import read_feature_file
from ommatid.data.sentences import SentenceEncoder, Subtitle, read_subtitles
from ommatid.engine.data import DataModule
from ommatid.engine.method import Method
from ommatid.engine.settings import build
from ommatid.errors import InputError
from ommatid.grounding.detection import DetectionScores
from ommatid.grounding.draw import draw_emotions
from ommatid.grounding.emotion_data import EmotionData, collate, make_sample
from ommatid.grounding.emotion_task import EmotionBatch
from ommatid.grounding.emotions import Clause


@dataclass(frozen=True)
class FoundEmotion:
    """One moment of one emotion; seconds."""

    emotion: str
    start: float
    end: float
    score: float


@dataclass(frozen=True)
class EmotionalScene:
    """A prediction for a user's own subtitles: moments of emotions, best first."""

    duration: float
    moments: Sequence[FoundEmotion]

    def to_json(self) -> dict[str, Any]:
        return {
            "duration": round(self.duration, 3),
            "moments": [
                {
                    "emotion": found.emotion,
                    "start": round(found.start, 3),
                    "end": round(found.end, 3),
                    "score": round(found.score, 4),
                }
                for found in self.moments
            ],
        }

    def draw(self, path: Path) -> None:
        bars = [(found.emotion, found.start, found.end, found.score) for found in self.moments]
        draw_emotions(self.duration, bars, path)


class EmotionLocalizer(Method):
    """A subtitled clip in, moments of every emotion out; learns from emotions of whole clips.

    A subclass implements `forward(batch) -> EmotionMoments` and `training_step`.
    """

    data_module = EmotionData
    monitor = "val/clip_mAP"

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.encoder: SentenceEncoder | None = None

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, EmotionData)
        return {"video_dim": data.video_dim, "text_dim": data.text_dim, "classes": len(data.classes)}

    def adopt(self, data: DataModule) -> None:
        assert isinstance(data, EmotionData)
        self._learn_names(data.classes)
        self.encoder = data.encoder

    def align(self, data: DataModule) -> None:
        assert isinstance(data, EmotionData)
        if not self.names:
            self.adopt(data)
        data.use(self.names)
        for what, found in {"video": data.video_dim, "text": data.text_dim}.items():
            expected = self.hparams[f"{what}_dim"]
            if found != expected:
                raise InputError(f"{what} features of the data have {found} channels, the method expects {expected}")

    def extras(self) -> dict[str, Any]:
        return {"names": self.names, "encoder": None if self.encoder is None else asdict(self.encoder)}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        self._learn_names(extras["names"])
        self.encoder = None if extras["encoder"] is None else build(SentenceEncoder, extras["encoder"])

    def _learn_names(self, names: Sequence[str]) -> None:
        self.names = list(names)
        for scores in (self._val_scores, self._test_scores):
            assert isinstance(scores, DetectionScores)
            scores.classes = tuple(names)

    # -- evaluation --

    def new_scores(self) -> DetectionScores:
        return DetectionScores()

    def identity(self, batch: EmotionBatch) -> Int[Tensor, "batch"]:
        return batch.clip

    def score(self, batch: EmotionBatch) -> dict[str, Tensor]:
        return DetectionScores.rows(batch, self(batch))

    # -- prediction --

    @torch.no_grad()
    def predict(
        self,
        subtitles: str | Path,
        subtitle_features: str | Path | None = None,
        video: str | Path | None = None,
        fps: float | None = None,
        top: int = 10,
    ) -> EmotionalScene:
        """When which emotion occurs in your own subtitles.

        Args:
            subtitles: a subtitle file (.srt, .vtt).
            subtitle_features: .npy of (lines, channels) for a method that was trained on features of unknown making.
            video: .npy of video features of the kind the method was trained on, (frames, channels).
            fps: frames a second of `video`.
            top: how many moments at most.

        Raises:
            InputError: a file cannot be used, or features have another width.
        """
        if top < 1:
            raise InputError(f"top must be at least 1, found {top}")
        lines = read_subtitles(subtitles)
        text = self._text(lines, subtitles, subtitle_features)
        clauses = [Clause(line.start, line.end, line.text) for line in lines]
        nothing = torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)
        sample = make_sample(clauses, text, self._video(video, fps), torch.zeros(len(self.names)), nothing, 0)
        if sample.video.shape[1] != self.hparams.video_dim:
            sample.video = sample.video.new_zeros(len(sample.video), self.hparams.video_dim)
        moments = self.eval()(collate([sample]).to(self.device)).to("cpu")
        kept = torch.isfinite(moments.scores[0]).nonzero()[:top, 0].tolist()
        spans, labels, scores = moments.spans[0].tolist(), moments.labels[0].tolist(), moments.scores[0].tolist()
        found = [
            FoundEmotion(self.names[labels[place]], start=spans[place][0], end=spans[place][1], score=scores[place])
            for place in kept
        ]
        return EmotionalScene(lines[-1].end, found)

    def _text(self, lines: Sequence[Subtitle], path: str | Path, features: str | Path | None) -> Tensor:
        if features is not None:
            text = read_feature_file(Path(features))
        elif self.encoder is not None:
            text = self.encoder([line.text for line in lines])
        else:
            raise InputError(
                f"{path}: this checkpoint was trained on subtitle features of unknown making, expected such features "
                "as subtitle_features"
            )
        if text.shape[1] != self.hparams.text_dim:
            raise InputError(
                f"{features or path}: subtitle features have {text.shape[1]} channels, expected {self.hparams.text_dim}"
            )
        return text

    def _video(self, path: str | Path | None, fps: float | None) -> tuple[Tensor, float] | None:
        if path is None:
            return None
        if fps is None or not fps > 0:
            raise InputError(f"{path}: video features need their frames a second (fps above 0), found {fps}")
        features = read_feature_file(Path(path))
        if features.shape[1] != self.hparams.video_dim:
            raise InputError(
                f"{path}: video features have {features.shape[1]} channels, expected {self.hparams.video_dim}"
            )
        return features, fps

    # -- export --

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """A plain-tensor network from features of units to the class activations that moments are read from."""
        units, generator = 48, torch.Generator().manual_seed(0)
        example = (
            torch.rand(1, units, int(self.hparams.video_dim), generator=generator),
            torch.rand(1, units, int(self.hparams.text_dim), generator=generator),
            *(torch.ones(1, units, dtype=torch.bool) for _ in range(3)),
        )
        inputs = ("video", "text", "mask", "seen", "heard")
        return self.plain_network(), example, inputs, ("probability", "attention", "presence")

    def plain_network(self) -> nn.Module:
        """`(video, text, mask, seen, heard) -> (probability of each unit and emotion, attention, presence)`."""
        raise NotImplementedError
