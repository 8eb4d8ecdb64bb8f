"""Contrast with the keys of other classes."""

import pytest
import torch
import torch.nn.functional as F

from ommatid.losses.exemplar import exemplar_loss


def unit(count, seed):
    return F.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_it_is_that_of_plain_loops():
    query, key, queue = unit(3, 0), unit(3, 1), unit(7, 2)
    labels, queue_labels = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1, 3, 2, 0, 4])
    losses = []
    for each, own, label in zip(query, key, labels, strict=True):
        positive = (each @ own / 0.2).exp()
        others = (queue[queue_labels != label] @ each / 0.2).exp().sum()
        losses.append(-torch.log(positive / (positive + others)))
    found = exemplar_loss(query, key, queue, labels, queue_labels, 0.2)
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_keys_of_the_same_class_do_not_matter():
    query, key, queue = unit(2, 0), unit(2, 1), unit(4, 2)
    labels = torch.tensor([0, 1])
    some = exemplar_loss(query, key, queue, labels, torch.tensor([2, 2, 3, 3]))
    more = torch.cat([queue, query[:1]]), torch.tensor([2, 2, 3, 3, 0])
    first = exemplar_loss(query[:1], key[:1], *(more[0], labels[:1], more[1]))
    assert float(first) == pytest.approx(
        float(exemplar_loss(query[:1], key[:1], queue, labels[:1], torch.tensor([2, 2, 3, 3])))
    )
    assert some.isfinite()


def test_an_empty_queue_and_gradients():
    query, key = unit(3, 0).requires_grad_(), unit(3, 1).requires_grad_()
    labels = torch.arange(3)
    assert float(exemplar_loss(query, key, torch.zeros(0, 6), labels, torch.zeros(0, dtype=torch.long)).detach()) == 0
    exemplar_loss(query, key, unit(5, 2), labels, torch.full((5,), 9)).backward()
    assert query.grad.abs().sum() > 0
    assert key.grad is None


def test_half_precision_is_computed_in_single():
    with torch.autocast("cpu", torch.bfloat16):
        loss = exemplar_loss(unit(3, 0).bfloat16(), unit(3, 1), unit(5, 2), torch.arange(3), torch.full((5,), 9))
    assert loss.isfinite()
