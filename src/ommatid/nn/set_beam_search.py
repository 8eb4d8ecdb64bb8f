"""Beam search whose beams are sets: two orders of the same labels are one hypothesis."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.errors import InputError, unknown

State = TypeVar("State", bound=tuple)
Step = Callable[[State, Tensor], tuple[Tensor, State]]

# A label of probability 0 stays a candidate, the last one: only what is outside the pool has a score of -inf.
_IMPOSSIBLE = -1e6


class FoundSets(NamedTuple):
    """The label set found for every sample.

    Attributes:
        labels: multi-hot, never empty.
        sequence: the same labels in the order they were chosen, -1 after the last.
        confidence: geometric mean of the probabilities along that path (E12).
    """

    labels: Bool[Tensor, "batch label"]
    sequence: Int[Tensor, "batch step"]
    confidence: Float[Tensor, "batch"]


class _Beams(NamedTuple):
    """Hypotheses of every sample: labels, their order, and the sum of their log-probabilities (-inf: none is left)."""

    chosen: Bool[Tensor, "batch beam label"]
    sequence: Int[Tensor, "batch beam step"]
    score: Float[Tensor, "batch beam"]


@torch.no_grad()
def set_beam_search(
    step: Step[State],
    state: State,
    num_labels: int,
    width: int = 3,
    max_steps: int = 10,
    threshold: float = 0.5,
    end_symbol: bool = False,
    stop: str = "all",
) -> FoundSets:
    """The label set with the most confident path (order-free RNN, arXiv:1707.05495, E12 and E13).

    Every beam is extended by its `width` best labels among those it does not have yet; extensions that reach the same
    set are merged, the more confident order stays, and of what is left the `width` most confident go on. A beam whose
    extensions are not confident enough stops and keeps its labels. The answer is the most confident beam that stopped
    or is left after the last step, of equal ones the larger; where none has a label, it is the best label of step 1.

    Args:
        step: `(state, chosen) -> (log_probs, state)`: log-probabilities (batch, beam, label) of the next label for
            beams that already have the labels `chosen` (batch, beam, label), and the state that comes after.
        state: a (named) tuple of tensors (batch, ...) to start from; `step` is given them as (batch, beam, ...).
        width: number of beams; 1 is greedy decoding.
        max_steps: largest set that can be found.
        threshold: least confidence of a path, the geometric mean of its probabilities.
        end_symbol: log-probabilities have one more column, last, which ends a beam; it counts in the confidence, and
            is no choice in the first step, because an empty set is never the answer.
        stop: a beam stops when "all" of its extensions fall below the threshold, or as soon as "any" does.

    Raises:
        InputError: `width` or `max_steps` is below 1, or `stop` is neither.

    Examples:
        >>> class Nothing(NamedTuple):
        ...     memory: Tensor
        >>> probs = torch.tensor([[0.9, 0.2, 0.8], [0.1, 0.3, 0.2]])
        >>> step = lambda state, chosen: (probs.log()[:, None].expand(chosen.shape), state)
        >>> found = set_beam_search(step, Nothing(torch.zeros(2)), num_labels=3, width=2, max_steps=3)
        >>> found.sequence
        tensor([[ 0,  2,  1],
                [ 1, -1, -1]])
        >>> set_beam_search(step, Nothing(torch.zeros(2)), 3, max_steps=3, threshold=0.6).labels.int()
        tensor([[1, 0, 1],
                [0, 1, 0]], dtype=torch.int32)
    """
    for name, size in {"width": width, "max_steps": max_steps}.items():
        if size < 1:
            raise InputError(f"{name}: found {size}, expected at least 1")
    if stop not in ("all", "any"):
        raise unknown("stop", stop, ("all", "any"))
    state = _each(state, Tensor.unsqueeze, 1)
    batch, device = len(state[0]), state[0].device
    chosen = torch.zeros(batch, 1, num_labels, dtype=torch.bool, device=device)
    sequence = torch.full((batch, 1, max_steps), -1, device=device)
    beams = _Beams(chosen, sequence, torch.zeros(batch, 1, device=device))
    answer = fallback = beams
    # Step after step, because the labels of a beam decide what follows; samples and beams run side by side.
    for steps in range(1, max_steps + 1):
        log_probs, state = step(state, beams.chosen)
        log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32)).clamp(min=_IMPOSSIBLE)
        if steps == 1:
            fallback = _first_label(log_probs[..., :num_labels], beams)
            answer = fallback._replace(score=torch.full_like(fallback.score, float("-inf")))
        total, label = _extensions(beams, log_probs, width, may_end=steps > 1)
        valid = ~total.isneginf()
        reaches = valid & ((total / steps).exp() >= threshold)
        if steps > 1:
            stopped = ~reaches.any(dim=-1) if stop == "all" else (valid & ~reaches).any(dim=-1) | ~valid.any(dim=-1)
            answer = _better(answer, beams, torch.where(stopped, beams.score / (steps - 1), float("-inf")))
        if end_symbol:
            ends = reaches & (label == num_labels)
            answer = _better(answer, beams, total.masked_fill(~ends, float("-inf")).amax(dim=-1) / steps)
            reaches = reaches & ~ends
        beams, parent = _grow(beams, total.masked_fill(~reaches, float("-inf")), label, steps, width)
        state = _each(state, _rows, parent)
    answer = _better(answer, beams, beams.score / max_steps)
    confidence = torch.where(answer.score.isneginf(), fallback.score, answer.score).exp()
    return FoundSets(answer.chosen[:, 0], answer.sequence[:, 0], confidence[:, 0])


def _extensions(
    beams: _Beams, log_probs: Float[Tensor, "batch beam output"], width: int, may_end: bool
) -> tuple[Float[Tensor, "batch beam branch"], Int[Tensor, "batch beam branch"]]:
    """Scores and labels of the best extensions of every beam within its own pool; -inf for what is outside of it."""
    extra = log_probs.shape[-1] - beams.chosen.shape[-1]
    end = beams.chosen.new_full((*beams.chosen.shape[:2], extra), not may_end)
    closed = torch.cat([beams.chosen, end], dim=-1)
    total = beams.score[..., None] + log_probs.masked_fill(closed, float("-inf"))
    score, label = total.topk(min(width, total.shape[-1]), dim=-1)
    return score, label


def _grow(
    beams: _Beams,
    total: Float[Tensor, "batch beam branch"],
    label: Int[Tensor, "batch beam branch"],
    steps: int,
    width: int,
) -> tuple[_Beams, Int[Tensor, "batch grown"]]:
    """The best extensions that are different sets, and which beam each comes from."""
    total, best = total.flatten(1).sort(dim=1, descending=True, stable=True)
    label, parent = label.flatten(1).gather(1, best), best // label.shape[2]
    sets = _rows(beams.chosen, parent) | _one_hot(label, beams.chosen.shape[2])
    # All sets have as many labels as there were steps: they are equal if they share that many.
    shared = sets.float() @ sets.float().mT
    repeated = (shared == steps).tril(diagonal=-1).any(dim=-1)
    score, kept = total.masked_fill(repeated, float("-inf")).topk(min(width, total.shape[1]), dim=1)
    parent, label = parent.gather(1, kept), label.gather(1, kept)
    sequence = _rows(beams.sequence, parent)
    sequence[..., steps - 1] = label
    return _Beams(_rows(sets, kept), sequence, score), parent


def _better(answer: _Beams, beams: _Beams, confidence: Float[Tensor, "batch beam"]) -> _Beams:
    """The best beam where it is no worse than the answer so far, whose set cannot be larger."""
    score, best = confidence.max(dim=1, keepdim=True)
    wins = ~score.isneginf() & (score >= answer.score)
    chosen, sequence = _rows(beams.chosen, best), _rows(beams.sequence, best)
    return _Beams(
        torch.where(wins[..., None], chosen, answer.chosen),
        torch.where(wins[..., None], sequence, answer.sequence),
        torch.where(wins, score, answer.score),
    )


def _first_label(log_probs: Float[Tensor, "batch 1 label"], beams: _Beams) -> _Beams:
    """The single best label of the first step."""
    score, label = log_probs.max(dim=-1)
    sequence = beams.sequence.clone()
    sequence[..., 0] = label
    return _Beams(_one_hot(label, log_probs.shape[-1]), sequence, score)


def _one_hot(label: Int[Tensor, "batch beam"], num_labels: int) -> Bool[Tensor, "batch beam label"]:
    return label[..., None] == torch.arange(num_labels, device=label.device)


def _rows(tensor: Tensor, index: Int[Tensor, "batch row"]) -> Tensor:
    """Of every sample the rows that its indices name."""
    return tensor[torch.arange(len(tensor), device=tensor.device)[:, None], index]


def _each(state: State, change: Callable[..., Tensor], argument: Tensor | int) -> State:
    """A tuple of the same kind, every tensor changed."""
    return getattr(state, "_make", type(state))(change(tensor, argument) for tensor in state)
