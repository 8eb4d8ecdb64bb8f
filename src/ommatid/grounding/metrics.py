"""How grounding is scored: temporal IoU, suppression of overlapping moments, recall at rank and IoU, mean IoU (M1-M5).

The library's convention is recall at tIoU >= m on spans in seconds, after one suppression threshold. Two others stand
behind published tables and are offered by `recall_at`; never mix conventions in one table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ommatid.data.text import tokenize, word_counts
from ommatid.errors import InputError, unknown
from ommatid.grounding.task import Moments, sort_moments

THRESHOLDS = (0.1, 0.3, 0.5, 0.7)
"""Every tIoU that a table of the field uses; 0.1 is TACoS's."""
NMS = 0.5


def temporal_iou(
    first: Float[Tensor, "... 2"], second: Float[Tensor, "... 2"], inclusive: bool = False
) -> Float[Tensor, "..."]:
    """Overlap of two spans divided by the time from the first start to the last end (M1); shapes broadcast.

    A span that ends at or before its start overlaps nothing: its IoU is 0.

    Args:
        inclusive: spans are first and last frame, both inside, so that lengths count one more.

    Examples:
        >>> temporal_iou(torch.tensor([0.0, 4.0]), torch.tensor([[2.0, 6.0], [4.0, 5.0], [3.0, 3.0]]))
        tensor([0.3333, 0.0000, 0.0000])
        >>> temporal_iou(torch.tensor([0.0, 4.0]), torch.tensor([4.0, 5.0]), inclusive=True)
        tensor(0.1667)
    """
    extra = int(inclusive)
    start, end = first.unbind(-1)
    other_start, other_end = second.unbind(-1)
    overlap = (torch.minimum(end, other_end) - torch.maximum(start, other_start) + extra).clamp(min=0)
    hull = torch.maximum(end, other_end) - torch.minimum(start, other_start) + extra
    # Two empty spans have no hull; whatever overlaps has one.
    return overlap / torch.where(overlap > 0, hull, 1)


def temporal_nms(
    spans: Float[Tensor, "batch moment 2"], threshold: float, count: int | None = None
) -> Bool[Tensor, "batch moment"]:
    """Greedy suppression: True for each moment that overlaps no better survivor by more than `threshold`.

    Args:
        spans: best first.
        count: stop after so many survivors per query.

    Examples:
        >>> temporal_nms(torch.tensor([[[0.0, 4.0], [0.0, 5.0], [6.0, 9.0]]]), threshold=0.5)
        tensor([[ True, False,  True]])
    """
    rows = torch.arange(len(spans), device=spans.device)
    alive = torch.ones(spans.shape[:2], dtype=torch.bool, device=spans.device)
    kept = torch.zeros_like(alive)
    # One pass per survivor, because whether a moment survives depends on every better survivor.
    for _ in range(spans.shape[1] if count is None else min(count, spans.shape[1])):
        found = alive.any(dim=1)
        if not found.any():
            break
        best = alive.int().argmax(dim=1)
        kept[rows, best] |= found
        alive &= temporal_iou(spans[rows, best][:, None], spans) <= threshold
        alive[rows, best] = False
    return kept


def nms_moments(moments: Moments, threshold: float = 0.5, count: int = 5) -> Moments:
    """The first `count` moments that survive suppression; where fewer survive, empty spans of score -inf fill up."""
    kept = temporal_nms(moments.spans, threshold, count)
    chosen = sort_moments(
        torch.where(kept[..., None], moments.spans, 0), torch.where(kept, moments.scores, float("-inf"))
    )
    return chosen.top(count)


def metric_name(rank: int, threshold: float) -> str:
    """The field's name of a recall.

    Examples:
        >>> metric_name(1, 0.5)
        'R@1,IoU=0.5'
    """
    return f"R@{rank},IoU={threshold:g}"


def grounding_scores(
    moments: Moments,
    span: Float[Tensor, "batch 2"],
    duration: Float[Tensor, "batch"],
    thresholds: Sequence[float] = (0.3, 0.5, 0.7),
    ranks: Sequence[int] = (1, 5),
    nms: float | None = 0.5,
) -> dict[str, Float[Tensor, "batch"]]:
    """Scores of every single query: 0 or 1 as `R@n,IoU=m` (M2, tIoU >= m), the IoU of the first moment as `mIoU` (M4).

    Averages over queries (never over videos, M5) are left to the caller. Moments are clipped to the video, degenerate
    ones score 0, and a query without an annotated span scores NaN throughout.

    Args:
        span: the annotated moment in [0, 1] of the video.
        nms: moments that overlap a better one by more than this are left out of the ranks (M3); None counts all.

    Examples:
        >>> moments = Moments(torch.tensor([[[0.0, 0.2], [0.5, 1.0]]]), torch.tensor([[0.9, 0.4]]))
        >>> scores = grounding_scores(moments, torch.tensor([[0.5, 0.9]]), torch.tensor([30.0]), thresholds=[0.7])
        >>> {name: score.item() for name, score in scores.items()}
        {'R@1,IoU=0.7': 0.0, 'R@5,IoU=0.7': 1.0, 'mIoU': 0.0}
    """
    seconds = moments.seconds(duration)
    iou = temporal_iou(seconds, (span * duration[:, None])[:, None])
    rank = _survivor_rank(seconds, nms, max(ranks))
    hits = {metric_name(n, m): ((iou >= m) & (rank < n)).any(dim=1).to(iou.dtype) for m in thresholds for n in ranks}
    unlabelled = span.isnan().any(dim=1)
    return {name: score.masked_fill(unlabelled, float("nan")) for name, score in {**hits, "mIoU": iou[:, 0]}.items()}


def with_subsets(
    scores: Mapping[str, Float[Tensor, "batch"]], subsets: Mapping[str, Bool[Tensor, "batch"]]
) -> dict[str, Float[Tensor, "batch"]]:
    """The scores, and each once more for every subset, NaN for queries outside of it.

    Examples:
        >>> with_subsets({"mIoU": torch.tensor([0.2, 0.4])}, {"rare": torch.tensor([True, False])})["rare/mIoU"]
        tensor([0.2000,    nan])
    """
    parts = {
        f"{subset}/{name}": score.masked_fill(~member, float("nan"))
        for subset, member in subsets.items()
        for name, score in scores.items()
    }
    return {**scores, **parts}


@dataclass(frozen=True)
class RecallConvention:
    """What published tables do differently.

    Attributes:
        strict: a moment is found at tIoU > m instead of >=.
        inclusive: spans are first and last frame.
        nms_margin: suppress anew for every m, at threshold m - margin, instead of at one threshold for all.
    """

    strict: bool = False
    inclusive: bool = False
    nms_margin: float | None = None


CONVENTIONS = {
    "ommatid": RecallConvention(),
    "seconds": RecallConvention(strict=True),
    "frames": RecallConvention(inclusive=True, nms_margin=0.05),
}


def recall_at(
    moments: Moments,
    span: Float[Tensor, "batch 2"],
    thresholds: Sequence[float] = (0.3, 0.5, 0.7),
    ranks: Sequence[int] = (1, 5),
    nms: float = 0.5,
    convention: str = "ommatid",
) -> Float[Tensor, "threshold rank"]:
    """Recall at rank n and tIoU m over a set of queries, as one of three conventions of the field counts it (M2, M3).

    Args:
        span: annotated moments in the unit of `moments.spans`: seconds, or first and last frame for "frames".
        nms: suppression threshold of "ommatid" and "seconds"; "frames" takes m - 0.05 for every m.
        convention: "ommatid" is tIoU >= m, "seconds" tIoU > m (2D-TAN), "frames" inclusive frames (CSMGAN, IA-Net).
    """
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    rule = CONVENTIONS[convention]
    iou = temporal_iou(moments.spans, span[:, None], inclusive=rule.inclusive)

    def recall(threshold: float) -> Tensor:
        # Suppression always measures with exclusive lengths, also where the test against the annotation does not.
        limit = nms if rule.nms_margin is None else threshold - rule.nms_margin
        rank = _survivor_rank(moments.spans, limit, max(ranks))
        enough = iou > threshold if rule.strict else iou >= threshold
        return torch.stack([(enough & (rank < n)).any(dim=1).to(iou.dtype).mean() for n in ranks])

    return torch.stack([recall(threshold) for threshold in thresholds])


def _survivor_rank(
    spans: Float[Tensor, "batch moment 2"], nms: float | None, count: int
) -> Float[Tensor, "batch moment"]:
    """Position of each moment among the survivors of its query, infinite for the suppressed."""
    kept = spans.new_ones(spans.shape[:2]).bool() if nms is None else temporal_nms(spans, nms, count)
    return torch.where(kept, (kept.cumsum(dim=1) - 1).to(spans.dtype), float("inf"))


# What is certainly no noun, verb or adjective, for sentences that come without a table of parts of speech.
_STOP_TEXT = (
    "a about above across after again against all along also although am an and another any are aren around as at "
    "be because been before behind being below beside between both but by can could did didn do does doesn don down "
    "during each every for from had has have he her hers herself him himself his how i if in inside into is isn it "
    "its itself ll may me might must my near no nor not of off on one onto or other our out outside over re s shall "
    "she should so some t than that the their theirs them themselves then these they this those though through to "
    "toward towards under until up upon us ve was wasn we were weren what when where which while who whom whose why "
    "will with without would you your "
)
STOP_WORDS = frozenset(_STOP_TEXT.split())


def rare_query_split(
    train_sentences: Sequence[str],
    test_sentences: Sequence[str],
    threshold: int = 10,
    pos: Sequence[str] = ("NOUN", "VERB", "ADJ"),
    tags: Mapping[str, str] | None = None,
) -> Bool[Tensor, "query"]:
    """Which test sentences hold a noun, verb or adjective that is rare in training (MGSL-Net, arXiv:2201.00454).

    Rare is a word that occurs fewer than `threshold` times in the training sentences, possibly never. Words are
    compared as `tokenize` gives them, without lemmatising.

    Args:
        pos: the parts of speech that count.
        tags: part of speech of each word, from whatever tagger wrote it. A word that is not in the table, or any word
            where there is no table, counts as content unless it is one of `STOP_WORDS`.

    Examples:
        >>> rare_query_split(["open the door"] * 10, ["open the door", "open the skylight"])
        tensor([False,  True])
    """
    if threshold < 0:
        raise InputError(f"threshold: found {threshold}, expected a word count of at least 0")
    seen = word_counts(train_sentences)
    tags, counted = tags or {}, set(pos)

    def content(word: str) -> bool:
        return tags[word] in counted if word in tags else word not in STOP_WORDS

    rare = [any(seen.get(word, 0) < threshold and content(word) for word in tokenize(text)) for text in test_sentences]
    return torch.tensor(rare, dtype=torch.bool)
