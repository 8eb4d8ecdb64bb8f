"""Targets against plain loops and against all orders; recorded numbers are in tests/parity."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from ommatid.errors import InputError
from ommatid.losses.label_order import (
    align_targets,
    all_label_loss,
    best_remaining_loss,
    best_remaining_targets,
    fixed_order_targets,
    remaining_label_loss,
    remaining_targets,
    sequence_loss,
)
from ommatid.nn.label_decoder import LabelDecoder

BATCH, STEPS, LABELS = 5, 4, 6


@pytest.fixture
def labels():
    """None, one, some, as many as steps, more than steps."""
    counts = torch.tensor([0, 1, 3, STEPS, STEPS + 1])
    rank = torch.rand(BATCH, LABELS, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    return rank < counts[:, None]


@pytest.fixture
def logits():
    return torch.randn(BATCH, STEPS, LABELS, generator=torch.Generator().manual_seed(7)) * 3


@pytest.fixture
def log_probs():
    return (torch.randn(BATCH, STEPS, LABELS + 1, generator=torch.Generator().manual_seed(8)) * 3).log_softmax(dim=-1)


def true(labels, row):
    return labels[row].nonzero()[:, 0].tolist()


# --- E8, E10 ---


def test_every_step_is_to_say_all_labels(logits, labels):
    expected = torch.stack([F.binary_cross_entropy(logits[:, t].sigmoid(), labels.float()) for t in range(STEPS)])
    torch.testing.assert_close(all_label_loss(logits, labels), expected.mean())


def test_what_was_named_is_no_target_afterwards(logits, labels):
    sequence = torch.stack([torch.randperm(LABELS)[:STEPS] for _ in range(BATCH)])
    sequence[0, 2:] = -1
    found, losses = remaining_targets(labels, sequence), []
    for row, step in itertools.product(range(BATCH), range(STEPS)):
        left = set(true(labels, row)) - set(sequence[row, :step].tolist())
        assert true(found[row], step) == sorted(left)
        target = torch.tensor([float(label in left) for label in range(LABELS)])
        losses.append(F.binary_cross_entropy_with_logits(logits[row, step], target))
    torch.testing.assert_close(remaining_label_loss(logits, labels, sequence), torch.stack(losses).mean())


# --- E11 ---


def test_the_best_remaining_label_is_the_target_until_the_end(log_probs, labels):
    found = best_remaining_targets(log_probs, labels)
    for row in range(BATCH):
        left = true(labels, row)
        for step in range(STEPS):
            ended = not left and step > labels[row].sum()
            best = max(left, key=lambda label: float(log_probs[row, step, label])) if left else LABELS
            assert int(found[row, step]) == (-1 if ended else best)
            left = [label for label in left if label != best]


def test_the_loss_is_a_mean_over_labels_and_ends_only(log_probs, labels):
    targets = best_remaining_targets(log_probs, labels)
    terms = [
        -log_probs[row, step, targets[row, step]]
        for row, step in itertools.product(range(BATCH), range(STEPS))
        if targets[row, step] >= 0
    ]
    torch.testing.assert_close(best_remaining_loss(log_probs, labels), torch.stack(terms).mean())


def test_as_released_steps_after_the_end_count(log_probs, labels):
    targets = best_remaining_targets(log_probs, labels)
    targets = torch.where(targets < 0, LABELS, targets)
    expected = -log_probs.gather(2, targets[..., None]).mean()
    torch.testing.assert_close(best_remaining_loss(log_probs, labels, as_released=True), expected)


def test_the_targets_are_what_the_decoder_was_told(labels):
    torch.manual_seed(9)
    decoder = LabelDecoder(LABELS, 5, 8, 4, end_symbol=True)
    told = decoder.unroll_remaining(torch.randn(BATCH, 9, 5), torch.rand(BATCH, LABELS), labels, STEPS)
    assert torch.equal(best_remaining_targets(told.logits, labels), told.labels)
    torch.testing.assert_close(best_remaining_loss(told.logits, labels), sequence_loss(told.logits, told.labels))


def test_steps_after_the_end_have_no_gradient(log_probs, labels):
    logits = log_probs.clone().requires_grad_()
    best_remaining_loss(logits, labels).backward()
    after = torch.arange(STEPS) > labels.sum(dim=1, keepdim=True)
    assert after.any()
    assert torch.equal(logits.grad.any(dim=-1), ~after)


def test_a_sequence_without_targets_has_no_loss():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    loss = sequence_loss(logits, torch.full((2, 3), -1))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


# --- a fixed order ---


@pytest.mark.parametrize("steps", [2, STEPS, LABELS + 3])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_frequent_first_and_rare_first(labels, steps, sign):
    frequency = torch.tensor([0.3, 0.1, 0.5, 0.2, 0.9, 0.4])
    found = fixed_order_targets(labels, sign * frequency, steps)
    for row in range(BATCH):
        order = sorted(true(labels, row), key=lambda label: -sign * float(frequency[label]))
        assert found[row].tolist() == (order + [LABELS] + [-1] * steps)[:steps]


# --- alignment ---


def cost(log_probs, row, order):
    return -sum(float(log_probs[row, step, label]) for step, label in enumerate(order))


def test_mla_is_the_cheapest_of_all_orders(log_probs, labels):
    found = align_targets(log_probs, labels, "mla")
    for row in range(BATCH):
        size = min(STEPS, int(labels[row].sum()))
        best = min(itertools.permutations(true(labels, row), size), key=lambda order: cost(log_probs, row, order))
        assert found[row].tolist() == ([*best, LABELS] + [-1] * STEPS)[:STEPS]


def test_pla_is_the_cheapest_of_the_orders_that_keep_right_predictions(log_probs, labels):
    found, kept = align_targets(log_probs, labels, "pla"), 0
    for row in range(BATCH):
        size = min(STEPS, int(labels[row].sum()))
        fixed = {}
        for step, best in enumerate(log_probs[row, :size].argmax(dim=-1).tolist()):
            if best in true(labels, row) and best not in fixed.values():
                fixed[step] = best
        kept += len(fixed)
        orders = [
            order
            for order in itertools.permutations(true(labels, row), size)
            if all(order[step] == label for step, label in fixed.items())
        ]
        best = min(orders, key=lambda order: cost(log_probs, row, order))
        assert found[row].tolist() == ([*best, LABELS] + [-1] * STEPS)[:STEPS]
    assert kept


def test_pla_and_mla_may_disagree():
    probs = torch.tensor([[[0.5, 0.4, 0.1], [0.45, 0.15, 0.4], [0.1, 0.1, 0.8]]])
    labels = torch.tensor([[True, True]])
    assert align_targets(probs.log(), labels, "mla").tolist() == [[1, 0, 2]]
    assert align_targets(probs.log(), labels, "pla").tolist() == [[0, 1, 2]]


def test_an_impossible_label_can_be_aligned():
    log_probs = torch.tensor([[[0.0, -torch.inf, -torch.inf], [0.0, -torch.inf, -torch.inf]]])
    assert sorted(align_targets(log_probs, torch.tensor([[True, True]])).tolist()[0]) == [0, 1]


def test_an_unknown_alignment_is_refused(log_probs, labels):
    with pytest.raises(InputError, match="unknown mode 'best': expected one of 'mla', 'pla'"):
        align_targets(log_probs, labels, "best")


# --- gradients and precision ---


def test_gradients_are_those_of_finite_differences(logits, log_probs, labels):
    sequence = torch.stack([torch.randperm(LABELS)[:STEPS] for _ in range(BATCH)])
    one, two = (tensor.double().requires_grad_() for tensor in (logits, log_probs))
    assert torch.autograd.gradcheck(lambda x: all_label_loss(x, labels), one)
    assert torch.autograd.gradcheck(lambda x: remaining_label_loss(x, labels, sequence), one)
    assert torch.autograd.gradcheck(lambda x: best_remaining_loss(x, labels), two)


def test_half_precision_is_summed_in_single(logits, log_probs, labels):
    half = logits.bfloat16()
    torch.testing.assert_close(all_label_loss(half, labels), all_label_loss(half.float(), labels))
    half = log_probs.bfloat16()
    loss = best_remaining_loss(half, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, best_remaining_loss(half.float(), labels))
    assert align_targets(half, labels).shape == (BATCH, STEPS)
