"""The contract of temporal grounding: clip features and a sentence in, scored moments out.

Every method of the field takes a `GroundingBatch` and returns `Moments`; the evaluator, the drawing and the command
line see nothing else. Time is normalised to [0, 1] of the video inside the contract and becomes seconds only at its
edges.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.engine.batch import Batch

Supervision = Literal["span", "glance", "unpaired"]
"""What a method learns from: the moment of every sentence, one instant inside it, or piles of videos and sentences."""


@dataclass
class GroundingBatch(Batch):
    """Padded videos and sentences; masks are True where something is.

    Attributes:
        video: clip features.
        words: vocabulary indices, 0 where padded.
        duration: seconds.
        span: the annotated moment in [0, 1] of the video, unsnapped; NaN where the supervision has none.
        glance: one moment inside the span, in [0, 1]; NaN where absent.
        query: position of the query in its split: it identifies a prediction, also across processes.
        subsets: named parts of the split that are scored on their own ("rare", "novel_word"); True for members.
    """

    video: Float[Tensor, "batch time channel"]
    video_mask: Bool[Tensor, "batch time"]
    words: Int[Tensor, "batch word"]
    word_mask: Bool[Tensor, "batch word"]
    duration: Float[Tensor, "batch"]
    span: Float[Tensor, "batch 2"]
    glance: Float[Tensor, "batch"]
    query: Int[Tensor, "batch"]
    subsets: dict[str, Bool[Tensor, "batch"]] = field(default_factory=dict)


@dataclass
class UnpairedBatch(Batch):
    """Videos and sentences of a training without pairs: row i of the one has nothing to do with row i of the other.

    Attributes:
        video_number, sentence_number: positions in the two piles, by which a method may remember them.
    """

    video: Float[Tensor, "video time channel"]
    video_mask: Bool[Tensor, "video time"]
    video_number: Int[Tensor, "video"]
    words: Int[Tensor, "sentence word"]
    word_mask: Bool[Tensor, "sentence word"]
    sentence_number: Int[Tensor, "sentence"]


@dataclass
class Moments(Batch):
    """Candidate moments of each query, best first: spans in [0, 1] of the video, scores in any monotone unit."""

    spans: Float[Tensor, "batch moment 2"]
    scores: Float[Tensor, "batch moment"]

    def seconds(self, duration: Float[Tensor, "batch"]) -> Float[Tensor, "batch moment 2"]:
        """The spans in seconds, inside the video."""
        return self.spans.clamp(0, 1) * duration[:, None, None]

    def top(self, count: int) -> "Moments":
        return Moments(self.spans[:, :count], self.scores[:, :count])


def sort_moments(spans: Float[Tensor, "batch moment 2"], scores: Float[Tensor, "batch moment"]) -> Moments:
    """Candidates in descending order of score (stable, so that ties keep their order on every device)."""
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    return Moments(spans.gather(1, order[..., None].expand(-1, -1, 2)), scores.gather(1, order))


@dataclass(frozen=True)
class Query:
    """One annotated sentence, as the readers give it: times in seconds.

    Attributes:
        group: what must not be split between train and validation (the video, unless the format says more).
        span: None where the supervision has no span.
        tags: what only some formats know: `roles`, `novels`, `news`, ... .
    """

    qid: str
    vid: str
    sentence: str
    duration: float
    span: tuple[float, float] | None = None
    glance: float | None = None
    group: str = ""
    tags: dict[str, Any] | None = None
