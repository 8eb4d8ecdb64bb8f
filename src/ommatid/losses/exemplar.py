"""Contrast of two views of an image against a queue of other images, of other classes only."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def exemplar_loss(
    query: Float[Tensor, "batch embed"],
    key: Float[Tensor, "batch embed"],
    queue: Float[Tensor, "row embed"],
    labels: Int[Tensor, "batch"],
    queue_labels: Int[Tensor, "row"],
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """Each query recognises its own key among the queued keys of other classes (COSOC, arXiv:2107.07746, E2).

    Two pictures of a class are never pushed apart, but neither are they drawn together: what a network may learn is
    what makes an image itself.

    Args:
        query, key: unit vectors of two views of the same images; no gradient goes to the key.
        queue, queue_labels: unit vectors of earlier images and their classes; none at the start.

    Examples:
        >>> views, others = torch.eye(3)[:2], torch.eye(3)
        >>> exemplar_loss(views, views, others, torch.tensor([0, 1]), torch.tensor([0, 1, 2]), temperature=1.0)
        tensor(0.5514)
    """
    query = query.float()
    positive = (query * key.detach().float()).sum(dim=1, keepdim=True)
    same = labels[:, None] == queue_labels[None]
    negative = (query @ queue.detach().float().T).float().masked_fill(same, float("-inf"))
    logits = torch.cat([positive, negative], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros_like(labels))
