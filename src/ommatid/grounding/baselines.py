"""What needs no model: long segments make these strong, so every table prints them next to the model (M7).

They see the duration of a video at most, never its clips or the sentence.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ommatid.errors import InputError
from ommatid.grounding.task import Moments, Query


def random_span(queries: Sequence[Query], seed: int = 0, count: int = 5) -> Moments:
    """`count` random moments per query, each between two uniform draws.

    Examples:
        >>> queries = [Query("0", "a", "a dog barks", 10.0), Query("1", "b", "a cat sleeps", 20.0)]
        >>> random_span(queries, seed=1).spans.shape
        torch.Size([2, 5, 2])
    """
    if count < 1:
        raise InputError(f"count: found {count}, expected at least one moment per query")
    draws = torch.rand(len(queries), count, 2, generator=torch.Generator().manual_seed(seed))
    return Moments(draws.sort(dim=-1).values, torch.zeros(len(queries), count))


def mean_span(queries: Sequence[Query], train: Sequence[Query]) -> Moments:
    """The mean normalised start and end of the training queries, for every query.

    Raises:
        InputError: no training query has a span.

    Examples:
        >>> train = [Query("0", "a", "a dog barks", 10.0, (0.0, 4.0)), Query("1", "a", "it runs", 20.0, (4.0, 20.0))]
        >>> mean_span(train[:1], train).spans
        tensor([[[0.1000, 0.7000]]])
    """
    known = [[time / query.duration for time in query.span] for query in train if query.span is not None]
    if not known:
        raise InputError("train: found no query with a span, expected some to take the mean of")
    return _the_same(torch.tensor(known, dtype=torch.float64).mean(dim=0).float(), len(queries))


def whole_video(queries: Sequence[Query]) -> Moments:
    """The video from beginning to end, for every query.

    Examples:
        >>> whole_video([Query("0", "a", "a dog barks", 10.0)]).seconds(torch.tensor([10.0]))
        tensor([[[ 0., 10.]]])
    """
    return _the_same(torch.tensor([0.0, 1.0]), len(queries))


def trivial_baselines(queries: Sequence[Query], train: Sequence[Query], seed: int = 0) -> dict[str, Moments]:
    """All three by name; the mean span is left out where the training queries have no spans."""
    found = {"random span": random_span(queries, seed)}
    if any(query.span is not None for query in train):
        found["mean span"] = mean_span(queries, train)
    return found | {"whole video": whole_video(queries)}


def _the_same(span: Tensor, count: int) -> Moments:
    return Moments(span.expand(count, 1, 2).clone(), torch.zeros(count, 1))
