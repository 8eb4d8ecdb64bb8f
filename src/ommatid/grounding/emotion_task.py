"""The contract of temporal emotion localisation: a subtitled clip in, moments of every emotion out.

A clip is a sequence of units, one a line of subtitles (a clause), and one for every longer silence where there is a
video. There is no query: every emotion that occurs may have several moments. Times are seconds throughout.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.engine.batch import Batch


@dataclass
class EmotionBatch(Batch):
    """Padded clips; masks are True where something is.

    Attributes:
        video, text: features of each unit; zero where `seen` or `heard` is False.
        mask: units that exist.
        seen: units with a video feature.
        heard: units with a line of subtitles; only these can be part of a moment.
        times: start and end of each unit in seconds.
        labels: 1 for emotions that occur in the clip.
        votes: how many marks each emotion has; 0 where it does not occur.
        true_spans, true_labels: annotated moments; label -1 pads, and all is padding where only clips are annotated.
        clip: position of the clip in its split.
    """

    video: Float[Tensor, "batch time video"]
    text: Float[Tensor, "batch time text"]
    mask: Bool[Tensor, "batch time"]
    seen: Bool[Tensor, "batch time"]
    heard: Bool[Tensor, "batch time"]
    times: Float[Tensor, "batch time 2"]
    labels: Float[Tensor, "batch label"]
    votes: Float[Tensor, "batch label"]
    true_spans: Float[Tensor, "batch moment 2"]
    true_labels: Int[Tensor, "batch moment"]
    clip: Int[Tensor, "batch"]


@dataclass
class EmotionMoments(Batch):
    """Moments of each clip with their emotion, best first, and how likely each emotion occurs at all.

    Attributes:
        spans: seconds.
        labels: index of the emotion; -1 fills up.
        scores: any monotone unit; -inf fills up.
        presence: probability that each emotion occurs in the clip.
    """

    spans: Float[Tensor, "batch moment 2"]
    labels: Int[Tensor, "batch moment"]
    scores: Float[Tensor, "batch moment"]
    presence: Float[Tensor, "batch label"]
