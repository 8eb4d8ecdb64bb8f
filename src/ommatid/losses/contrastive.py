"""Contrastive losses between two views of the same instances."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError

Embeddings = Float[Tensor, "row embed"]


def instance_contrastive_loss(
    anchor: Embeddings,
    target: Embeddings,
    temperature: float = 0.1,
    split: int | None = None,
    detach_target: bool = True,
) -> Float[Tensor, ""]:
    """Recognise each anchor's own target among all targets (CMI, arXiv:2105.08584, E8).

    Args:
        anchor, target: two views, row by row, usually of length one.
        split: the first `split` rows are the current batch, the others come from a memory. The two parts are averaged
            apart and added, so that the batch's gradient does not shrink as the memory grows. Default: one part.
        detach_target: gradients reach the anchors only.

    Raises:
        InputError: the split lies outside the rows.

    Examples:
        >>> views = torch.eye(3)
        >>> instance_contrastive_loss(views, views, temperature=1.0)
        tensor(0.5514)
        >>> instance_contrastive_loss(views, views, temperature=1.0, split=1)
        tensor(1.1029)
    """
    if split is not None and not 0 < split <= len(anchor):
        raise InputError(f"split: found {split}, expected 1 to {len(anchor)}, the number of rows")
    losses = instance_contrast(anchor, target.detach() if detach_target else target, temperature)
    current, remembered = losses[:split], losses[len(losses) if split is None else split :]
    return current.mean() + remembered.sum() / max(1, len(remembered))


def instance_contrast(anchor: Embeddings, target: Embeddings, temperature: float = 0.1) -> Float[Tensor, " row"]:
    """Cross-entropy of every anchor against all targets, the row's own target being the right one."""
    logits = anchor @ target.T / temperature
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.to(dtype), torch.arange(len(anchor), device=anchor.device), reduction="none")


class InstanceContrastiveLoss(nn.Module):
    """`instance_contrastive_loss` at a fixed temperature."""

    def __init__(self, temperature: float = 0.1, detach_target: bool = True) -> None:
        super().__init__()
        self.temperature = temperature
        self.detach_target = detach_target

    def forward(self, anchor: Embeddings, target: Embeddings, split: int | None = None) -> Float[Tensor, ""]:
        return instance_contrastive_loss(anchor, target, self.temperature, split, self.detach_target)
