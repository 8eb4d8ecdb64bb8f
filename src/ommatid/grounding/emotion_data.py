"""Clips with subtitles and emotions: the official files, or the embedded world, as one batch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from ommatid.data.features import read_feature_file, save_array
from ommatid.data.sentences import ENCODER_FILE, SentenceEncoder
from ommatid.data.worlds.grounding import GroundingWorld
from ommatid.data.worlds.grounding_emotion import FRAMES_PER_SECOND, EmotionClip
from ommatid.engine.data import DataModule, pad_first
from ommatid.engine.settings import build
from ommatid.errors import InputError, unknown
from ommatid.files import read_json, write_aside
from ommatid.grounding.detection import DetectionScores
from ommatid.grounding.emotion_task import EmotionBatch, EmotionMoments
from ommatid.grounding.emotions import Clause, EmotionalClip, Instances, classes_of, emotion_instances, read_emotions

SILENCE = 2.0
"""A gap of more seconds between two clauses is a unit of its own, where there is a video."""


@dataclass
class EmotionSample:
    """One clip before padding; the attributes of `EmotionBatch`."""

    video: Float[Tensor, "time video"]
    text: Float[Tensor, "time text"]
    seen: Tensor
    heard: Tensor
    times: Float[Tensor, "time 2"]
    labels: Float[Tensor, "label"]
    votes: Float[Tensor, "label"]
    true_spans: Float[Tensor, "moment 2"]
    true_labels: Int[Tensor, "moment"]
    clip: int


@runtime_checkable
class EmotionSource(Protocol):
    """What `EmotionData` asks of a data set."""

    name: str

    @property
    def encoder(self) -> SentenceEncoder | None: ...

    def clips(self) -> dict[str, list[EmotionalClip]]: ...

    def video(self, clip: EmotionalClip) -> tuple[Float[Tensor, "frame channel"], float] | None: ...

    def text(self, clip: EmotionalClip) -> Float[Tensor, "clause channel"]: ...


class EmotionData(DataModule):
    """Clips with subtitles, clip-level emotions to learn from, marked clauses to be scored on (TEL).

    Args:
        root: folder with `train.json` and `test.json` in the official format (see `docs/data/grounding.md`); the
            embedded world where None.
        features: folder of video features, `<movie>/<clip>.npy` of (frames, channels); `features` below `root` where it
            exists, no video at all otherwise.
        fps: frames a second of these features; `fps.json` beside `train.json` may tell each clip's own.
        subtitles: folder of subtitle features, `<movie>/<clip>.npy` of (clauses, channels), such as `ommatid data
            subtitles` writes; `subtitles` below `root` where it exists, hashed words of the clauses otherwise.
        instances: what counts as one true moment: "runs" of consecutive clauses, or the "hull" of each annotation.
        held_out: training movies that are kept for validation, which has labels of whole clips only.
        world_seed, train_clips, test_clips: of the embedded world.
    """

    dividing = ("seed", "held_out")

    def __init__(
        self,
        root: str | None = None,
        features: str | None = None,
        fps: float = FRAMES_PER_SECOND,
        subtitles: str | None = None,
        instances: Instances = "runs",
        held_out: int = 4,
        world_seed: int = 0,
        train_clips: int | None = None,
        test_clips: int | None = None,
        batch_size: int = 16,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        if not fps > 0:
            raise InputError(f"fps must be above 0, found {fps}")
        if held_out < 1:
            raise InputError(f"held_out must be at least 1, found {held_out}")
        self.instances, self.held_out = instances, held_out
        self._source: EmotionSource = (
            FolderEmotions(Path(root), features, fps, subtitles)
            if root
            else WorldEmotions(world_seed, train_clips, test_clips)
        )
        self._classes: list[str] | None = None
        self._datasets: dict[str, EmotionSet] = {}

    @cached_property
    def clips(self) -> dict[str, list[EmotionalClip]]:
        """Every split's clips; validation movies are cut from training."""
        splits = dict(self._source.clips())
        if "train" in splits and "val" not in splits:
            movies = sorted({clip.movie for clip in splits["train"]})
            if len(movies) <= self.held_out:
                raise InputError(f"{self._source.name}: has {len(movies)} training movies, expected more than held_out")
            order = np.random.default_rng(self.held_out).permutation(len(movies))
            held = {movies[place] for place in order[: self.held_out]}
            splits["val"] = [_unmarked(clip) for clip in splits["train"] if clip.movie in held]
            splits["train"] = [clip for clip in splits["train"] if clip.movie not in held]
        return splits

    @property
    def classes(self) -> list[str]:
        """Names of the emotions, those of a trained method if it has brought its own."""
        if self._classes is None:
            self._classes = classes_of(clip for clips in self.clips.values() for clip in clips)
        return self._classes

    def use(self, classes: Sequence[str]) -> None:
        """Number the emotions as a trained method does."""
        surplus = set(classes_of(clip for clips in self.clips.values() for clip in clips)) - set(classes)
        if surplus:
            raise InputError(
                f"{self._source.name}: has the emotion {sorted(surplus)[0]!r}, which the checkpoint does not know"
            )
        self._classes = list(classes)
        self._datasets.clear()

    @property
    def text_dim(self) -> int:
        return int(self.dataset(next(iter(self.clips)))[0].text.shape[1])

    @property
    def video_dim(self) -> int:
        return int(self.dataset(next(iter(self.clips)))[0].video.shape[1])

    @property
    def encoder(self) -> SentenceEncoder | None:
        """How the subtitle features were made, if it is known."""
        return self._source.encoder

    def dataset(self, split: str) -> "EmotionSet":
        if self.check_split(split) not in self.clips:
            raise unknown("split", split, self.clips)
        if split not in self._datasets:
            self._datasets[split] = EmotionSet(self.clips[split], self._source, self.classes, self.instances)
        return self._datasets[split]

    def collate(self, samples: Sequence[EmotionSample]) -> EmotionBatch:
        return collate(samples)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """What needs no model: random runs of clauses, and all clauses, for every emotion."""
        train = self.clips.get("train", [])
        counts = [sum(name in clip.votes for clip in train) / max(len(train), 1) for name in self.classes]
        batch = self.collate([self.dataset(split)[index] for index in range(len(self.dataset(split)))])
        prior = torch.tensor(counts, dtype=torch.float32)
        found = {
            "random runs": random_runs(batch, prior, self.seed),
            "all clauses": all_clauses(batch, prior),
        }
        return {name: self._scored(batch, moments) for name, moments in found.items()}

    def _scored(self, batch: EmotionBatch, moments: EmotionMoments) -> dict[str, float]:
        scores = DetectionScores()
        scores.classes = tuple(self.classes)
        scores.update(batch.clip, scores.rows(batch, moments))
        return scores.compute()

    def describe(self) -> dict[str, Any]:
        sizes = {split: len(clips) for split, clips in self.clips.items()}
        return {
            "name": self._source.name,
            "clips": sizes,
            "emotions": len(self.classes),
            "instances": self.instances,
            "text": "features" if self.encoder is None else self.encoder.kind,
        }


class EmotionSet(Dataset[EmotionSample]):
    """The clips of one split; features are read once and kept."""

    def __init__(
        self, clips: Sequence[EmotionalClip], source: EmotionSource, classes: Sequence[str], instances: Instances
    ) -> None:
        self.clips, self.source, self.classes, self.instances = clips, source, list(classes), instances
        self._kept: dict[int, EmotionSample] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> EmotionSample:
        if index not in self._kept:
            clip = self.clips[index]
            rows, spans = emotion_instances([clip], self.classes, self.instances)
            self._kept[index] = make_sample(
                clip.clauses,
                self.source.text(clip),
                self.source.video(clip),
                torch.tensor([float(clip.votes.get(name, 0)) for name in self.classes]),
                (torch.from_numpy(spans).float(), torch.from_numpy(rows[:, 1])),
                index,
            )
        return self._kept[index]


def make_sample(
    clauses: Sequence[Clause],
    text: Float[Tensor, "clause text"],
    video: tuple[Float[Tensor, "frame video"], float] | None,
    votes: Float[Tensor, "label"],
    truth: tuple[Float[Tensor, "moment 2"], Int[Tensor, "moment"]],
    index: int,
) -> EmotionSample:
    """A clip as a method sees it: one unit a clause, and one a longer silence where there is a video."""
    if len(text) != len(clauses):
        raise InputError(f"subtitle features: found {len(text)} rows, expected one for each of {len(clauses)} clauses")
    times = torch.tensor([(clause.start, clause.end) for clause in clauses], dtype=torch.float32).reshape(-1, 2)
    heard = torch.ones(len(times), dtype=torch.bool)
    if video is None:
        # An absent video is one channel of zeros that is never seen.
        features, seen = text.new_zeros(len(times), 1), torch.zeros(len(times), dtype=torch.bool)
    else:
        silent = silences(times)
        times = torch.cat([times, silent])
        order = times[:, 0].argsort(stable=True)
        times, heard = times[order], torch.cat([heard, heard.new_zeros(len(silent))])[order]
        text = torch.cat([text, text.new_zeros(len(silent), text.shape[1])])[order]
        features, seen = mean_over_units(video[0], video[1], times)
    return EmotionSample(features, text, seen, heard, times, (votes > 0).float(), votes, *truth, index)


def silences(times: Float[Tensor, "clause 2"], longest: float = SILENCE) -> Float[Tensor, "gap 2"]:
    """Gaps of more than `longest` seconds between clauses.

    Examples:
        >>> silences(torch.tensor([[0.0, 1.0], [1.5, 2.0], [6.0, 7.0]]))
        tensor([[2., 6.]])
    """
    until = times[:, 1].cummax(dim=0).values[:-1]
    gaps = torch.stack([until, times[1:, 0]], dim=1)
    return gaps[gaps[:, 1] - gaps[:, 0] > longest]


def mean_over_units(
    frames: Float[Tensor, "frame channel"], fps: float, times: Float[Tensor, "time 2"]
) -> tuple[Float[Tensor, "time channel"], Bool[Tensor, "time"]]:
    """Mean of the frames whose middle lies in each unit, and which units have any; of a shorter unit the nearest frame.

    Examples:
        >>> features, seen = mean_over_units(torch.tensor([[1.0], [3.0]]), 1.0, torch.tensor([[0.0, 2.0], [5.0, 6.0]]))
        >>> features.tolist(), seen.tolist()
        ([[2.0], [0.0]], [True, False])
    """
    middle = (torch.arange(len(frames)) + 0.5) / fps
    inside = (middle >= times[:, :1]) & (middle < times[:, 1:])
    # A clause shorter than a frame may lie between the middles of two.
    nearest = ((times.mean(dim=1) * fps).long().clamp(min=0), times[:, 0] < len(frames) / fps)
    alone = ~inside.any(dim=1) & nearest[1]
    inside[alone, nearest[0][alone].clamp(max=len(frames) - 1)] = True
    seen = inside.any(dim=1)
    return inside.float() @ frames / inside.sum(dim=1, keepdim=True).clamp(min=1), seen


def collate(samples: Sequence[EmotionSample]) -> EmotionBatch:
    """Clips as one padded batch."""

    def padded(name: str) -> tuple[Tensor, Tensor]:
        return pad_first([getattr(sample, name) for sample in samples])

    true_spans, known = padded("true_spans")
    return EmotionBatch(
        **{name: padded(name)[0] for name in ("video", "text", "seen", "heard", "times")},
        mask=padded("times")[1],
        labels=torch.stack([sample.labels for sample in samples]),
        votes=torch.stack([sample.votes for sample in samples]),
        true_spans=true_spans,
        true_labels=padded("true_labels")[0].masked_fill(~known, -1),
        clip=torch.tensor([sample.clip for sample in samples]),
    )


# -- what needs no model -----------------------------------------------------------------------------------------------


def random_runs(batch: EmotionBatch, prior: Float[Tensor, "label"], seed: int, count: int = 2) -> EmotionMoments:
    """`count` random runs of clauses for every emotion, scored at random; the more likely emotion first.

    Args:
        prior: share of the training clips that have each emotion.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (len(batch), len(prior), count)
    ends = (torch.rand(*shape, 2, generator=generator) * batch.mask.sum(dim=1)[:, None, None, None]).long()
    spans = _spans(batch, *ends.sort(dim=-1).values.unbind(-1))
    return _by_score(spans, torch.rand(shape, generator=generator) * prior[:, None], prior)


def all_clauses(batch: EmotionBatch, prior: Float[Tensor, "label"]) -> EmotionMoments:
    """The whole clip for every emotion, scored by how often clips of training have it."""
    last = (batch.mask.sum(dim=1) - 1)[:, None, None].expand(-1, len(prior), 1)
    spans = _spans(batch, torch.zeros_like(last), last)
    return _by_score(spans, prior[None, :, None].expand(len(batch), -1, 1), prior)


def _spans(batch: EmotionBatch, first: Tensor, last: Tensor) -> Float[Tensor, "batch label run 2"]:
    start = batch.times[..., 0].gather(1, first.flatten(1)).view_as(first)
    return torch.stack([start, batch.times[..., 1].gather(1, last.flatten(1)).view_as(last)], dim=-1)


def _by_score(spans: Tensor, scores: Tensor, prior: Float[Tensor, "label"]) -> EmotionMoments:
    labels = torch.arange(spans.shape[1])[:, None].expand(spans.shape[:3])
    return EmotionMoments(spans.flatten(1, 2), labels.flatten(1), scores.flatten(1), prior.expand(len(spans), -1))


# -- where clips come from ---------------------------------------------------------------------------------------------


class WorldEmotions:
    """The emotion view of the embedded world, with its own features of clauses."""

    encoder: SentenceEncoder | None = None

    def __init__(self, seed: int, train_clips: int | None, test_clips: int | None) -> None:
        self.name = "world-grounding (emotion)"
        world = GroundingWorld("emotion", seed=seed, train_videos=train_clips, test_videos=test_clips)
        self._clips = {(clip.movie, clip.clip): clip for clips in world.clips.values() for clip in clips}
        self._splits = world.clips

    def clips(self) -> dict[str, list[EmotionalClip]]:
        return {split: [_from_world(clip, split == "test") for clip in clips] for split, clips in self._splits.items()}

    def video(self, clip: EmotionalClip) -> tuple[Float[Tensor, "frame channel"], float]:
        return torch.from_numpy(self._clips[clip.movie, clip.name].frames), FRAMES_PER_SECOND

    def text(self, clip: EmotionalClip) -> Float[Tensor, "clause channel"]:
        return torch.from_numpy(self._clips[clip.movie, clip.name].subtitles)


class FolderEmotions:
    """Official annotation files with whatever features lie beside them."""

    def __init__(self, root: Path, features: str | None, fps: float, subtitles: str | None) -> None:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder, expected emotion annotations (see docs/data/grounding.md)")
        self.root, self.name = root, f"{root.name} (emotion)"
        self._features = _folder(root / "features", features)
        self._subtitles = _folder(root / "subtitles", subtitles)
        self._fps, self._own_fps = fps, read_json(root / "fps.json", "clip -> frames a second", missing={})
        if not isinstance(self._own_fps, dict):
            raise InputError(f"{root / 'fps.json'}: expected one JSON object, clip -> frames a second")

    @cached_property
    def encoder(self) -> SentenceEncoder | None:
        if self._subtitles is None:
            return SentenceEncoder("hashed")
        path = self._subtitles / ENCODER_FILE
        settings = read_json(path, "the settings of an encoder", missing=None)
        return None if settings is None else build(SentenceEncoder, settings)

    def clips(self) -> dict[str, list[EmotionalClip]]:
        return read_emotions(self.root)

    def video(self, clip: EmotionalClip) -> tuple[Float[Tensor, "frame channel"], float] | None:
        if self._features is None:
            return None
        fps = self._own_fps.get(f"{clip.movie}/{clip.name}", self._fps)
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not fps > 0:
            raise InputError(
                f"{self.root / 'fps.json'}: {clip.movie}/{clip.name} has {fps!r}, expected a number above 0"
            )
        return read_feature_file(self._features / clip.movie / f"{clip.name}.npy"), float(fps)

    def text(self, clip: EmotionalClip) -> Float[Tensor, "clause channel"]:
        if self._subtitles is not None:
            return read_feature_file(self._subtitles / clip.movie / f"{clip.name}.npy")
        assert self.encoder is not None
        return self.encoder([clause.text for clause in clip.clauses])


def write_subtitles(root: Path, out: Path, encoder: SentenceEncoder) -> dict[str, int]:
    """Subtitle features of every clip of a data set as `<movie>/<clip>.npy`, and how they were made; what exists stays.

    Raises:
        InputError: the folder holds features of another encoder.
    """
    known = read_json(out / ENCODER_FILE, "the settings of an encoder", missing=asdict(encoder))
    if known != asdict(encoder):
        raise InputError(
            f"{out / ENCODER_FILE}: the folder holds features of {known}, expected the same or another folder"
        )
    clips = [clip for split in read_emotions(root).values() for clip in split]
    out.mkdir(parents=True, exist_ok=True)
    encoder.write(out)
    for clip in clips:
        target = out / clip.movie / f"{clip.name}.npy"
        if target.is_file():
            continue
        target.parent.mkdir(exist_ok=True)
        vectors = encoder([clause.text for clause in clip.clauses]).numpy()
        write_aside(target, lambda aside, vectors=vectors: save_array(aside, vectors))  # type: ignore[misc]
    return {"clips": len(clips), "clauses": sum(len(clip.clauses) for clip in clips)}


def _folder(beside: Path, given: str | None) -> Path | None:
    if given is not None and not Path(given).is_dir():
        raise InputError(f"{given}: no such folder, expected features as <movie>/<clip>.npy")
    return Path(given) if given else beside if beside.is_dir() else None


def _from_world(clip: EmotionClip, tested: bool) -> EmotionalClip:
    clauses = tuple(Clause(*time, text.strip()) for time, text in zip(clip.times, clip.dialog, strict=True))
    marked = {name.strip(): tuple(sorted(indices)) for name, indices in clip.segments.items()}
    if tested:
        return EmotionalClip(clip.movie, clip.clip, clauses, {name: len(run) for name, run in marked.items()}, marked)
    return EmotionalClip(clip.movie, clip.clip, clauses, {name.strip(): n for name, n in clip.counts.items()}, {})


def _unmarked(clip: EmotionalClip) -> EmotionalClip:
    return EmotionalClip(clip.movie, clip.name, clip.clauses, clip.votes, {})
