"""What a decoder that names labels one after another is to say in each step, and how wrong it was.

Equation numbers: order-free RNN (arXiv:1707.05495), docs/methods/order-free-rnn.md. Targets of a sequence are labels
0 to C-1, then the end symbol C, then -1, which no loss counts.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ommatid.errors import unknown
from ommatid.nn.label_decoder import best_remaining

StepLogits = Float[Tensor, "batch step label"]
SequenceLogits = Float[Tensor, "batch step output"]
Labels = Bool[Tensor, "batch label"]
Sequence = Int[Tensor, "batch step"]


def all_label_loss(logits: StepLogits, labels: Labels) -> Float[Tensor, ""]:
    """Binary cross-entropy of every step with the whole label vector, a mean over steps and labels (E8).

    Examples:
        >>> all_label_loss(torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool))
        tensor(0.6931)
    """
    return _step_bce(logits, labels[:, None].expand(logits.shape))


def remaining_label_loss(logits: StepLogits, labels: Labels, sequence: Sequence) -> Float[Tensor, ""]:
    """Binary cross-entropy of every step with the labels that were not named before it (E10).

    Args:
        sequence: the labels that were named, right or wrong.
    """
    return _step_bce(logits, remaining_targets(labels, sequence))


def remaining_targets(labels: Labels, sequence: Sequence) -> Bool[Tensor, "batch step label"]:
    """At each step the true labels that no earlier step has named (E10).

    Examples:
        >>> labels = torch.tensor([[True, True, False]])
        >>> remaining_targets(labels, torch.tensor([[1, 2, 0]])).int()
        tensor([[[1, 1, 0],
                 [1, 0, 0],
                 [1, 0, 0]]], dtype=torch.int32)
    """
    named = sequence[..., None] == torch.arange(labels.shape[1], device=labels.device)
    before = named.cumsum(dim=1) - named.long()
    return labels[:, None] & (before == 0)


def sequence_loss(logits: SequenceLogits, targets: Sequence) -> Float[Tensor, ""]:
    """Negative log-likelihood of the targets under a softmax, a mean over all that are not -1.

    Examples:
        >>> sequence_loss(torch.zeros(1, 3, 4), torch.tensor([[2, 3, -1]]))
        tensor(1.3863)
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-1, reduction="sum")
    return total / (targets >= 0).sum().clamp(min=1)


def best_remaining_loss(logits: SequenceLogits, labels: Labels, as_released: bool = False) -> Float[Tensor, ""]:
    """Negative log-likelihood of the best remaining labels and of the end symbol after them (E11).

    Args:
        logits: of a decoder that was told the same targets, such as `LabelDecoder.unroll_remaining` gives them.
        as_released: the steps after the end count, too, with the end symbol as their target: the released code takes
            the mean before it applies its mask.
    """
    targets = best_remaining_targets(logits, labels)
    return sequence_loss(logits, torch.where(targets < 0, labels.shape[1], targets) if as_released else targets)


@torch.no_grad()
def best_remaining_targets(log_probs: SequenceLogits, labels: Labels) -> Sequence:
    """At each step the most probable true label that is left, then the end symbol (E11), then -1.

    Where there are more labels than steps, the end is not reached.

    Args:
        log_probs: of labels and end symbol; logits do as well.

    Examples:
        >>> log_probs = torch.tensor([[[0.1, 0.3, 0.2, 0.0]] * 4])
        >>> best_remaining_targets(log_probs, torch.tensor([[True, True, False]]))
        tensor([[ 1,  0,  3, -1]])
    """
    every_label = torch.arange(labels.shape[1], device=labels.device)
    remaining, targets = labels, []
    # Step after step, because a label that is used up is no target again; there are a handful.
    for scores in log_probs.unbind(dim=1):
        targets.append(best_remaining(scores, remaining))
        remaining = remaining & (targets[-1][:, None] != every_label)
    return _until_end(torch.stack(targets, dim=1), labels)


def fixed_order_targets(labels: Labels, priority: Float[Tensor, "label"], steps: int) -> Sequence:
    """The true labels in one order for all samples, then the end symbol, then -1.

    Where there are more labels than steps, the last in the order are left out.

    Args:
        priority: labels of high priority come first: their frequency in training for frequent-first, its negative for
            rare-first. Of equal ones the lower index comes first.

    Examples:
        >>> labels = torch.tensor([[True, False, True], [False, True, False]])
        >>> fixed_order_targets(labels, torch.tensor([0.1, 0.5, 0.4]), steps=4)
        tensor([[ 2,  0,  3, -1],
                [ 1,  3, -1, -1]])
    """
    order = priority.argsort(descending=True, stable=True)
    # True labels first, each group in the common order.
    first = labels[:, order].long().argsort(dim=1, descending=True, stable=True)
    sequence = F.pad(order[first], (0, max(0, steps - len(order))), value=-1)[:, :steps]
    step = torch.arange(steps, device=labels.device)
    return _until_end(torch.where(step < labels.sum(dim=1, keepdim=True), sequence, labels.shape[1]), labels)


@torch.no_grad()
def align_targets(log_probs: SequenceLogits, labels: Labels, mode: str = "mla") -> Sequence:
    """The true labels in the order that suits a decoder's own steps best, then the end symbol, then -1.

    Orderless recurrent models (arXiv:1911.09996). Only the steps that the labels fill are looked at, as many as there
    are labels; where there are more labels than steps, those that suit worst are left out.

    Args:
        log_probs: of labels and end symbol at every step.
        mode: "mla" minimises the cross-entropy over all orders; "pla" leaves a true label at the first step whose most
            probable output it is, and does so for the others.

    Raises:
        InputError: another mode.

    Examples:
        >>> probs = torch.tensor([[[0.5, 0.4, 0.1], [0.45, 0.15, 0.4], [0.1, 0.1, 0.8]]])
        >>> labels = torch.tensor([[True, True]])
        >>> align_targets(probs.log(), labels, "mla"), align_targets(probs.log(), labels, "pla")
        (tensor([[1, 0, 2]]), tensor([[0, 1, 2]]))
    """
    if mode not in ("mla", "pla"):
        raise unknown("mode", mode, ("mla", "pla"))
    num_labels = labels.shape[1]
    cost = -log_probs[..., :num_labels].double().clamp(min=-1e6)
    if mode == "pla":
        # Cheaper than all else together can cost.
        cost = cost - 1e9 * _first_hits(log_probs, labels)
    targets = np.full(log_probs.shape[:2], num_labels)
    # Sample after sample, because there is no assignment solver for batches, and problems differ in size.
    for row, each, truth in zip(targets, cost.cpu().numpy(), labels.cpu().numpy(), strict=True):
        true = truth.nonzero()[0]
        step, column = linear_sum_assignment(each[: len(true), true])
        row[step] = true[column]
    return _until_end(torch.from_numpy(targets).to(labels.device), labels)


def _first_hits(log_probs: SequenceLogits, labels: Labels) -> Bool[Tensor, "batch step label"]:
    """Where a true label is the most probable output for the first time."""
    best = log_probs.argmax(dim=-1)[..., None] == torch.arange(labels.shape[1], device=labels.device)
    hits = best & labels[:, None]
    return hits & (hits.cumsum(dim=1) == 1)


def _until_end(targets: Sequence, labels: Labels) -> Sequence:
    """-1 after the step that follows the last label."""
    step = torch.arange(targets.shape[1], device=targets.device)
    return targets.masked_fill(step > labels.sum(dim=1, keepdim=True), -1)


def _step_bce(logits: StepLogits, targets: Bool[Tensor, "batch step label"]) -> Float[Tensor, ""]:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
