"""Exemplar pre-training: the momentum copy follows, keys queue up with their labels, and images are told apart."""

import torch

from ommatid.nn.resnet12 import Conv4
from ommatid.transfer.exemplar import ExemplarPretraining, exemplar_view


def made(**settings):
    torch.manual_seed(0)
    encoder = Conv4((8, 8, 8, 8))
    return encoder, ExemplarPretraining(encoder, 8, 4, queue=20, **settings)


def test_the_copy_begins_as_the_encoder_and_follows_it_slowly():
    encoder, exemplar = made(momentum=0.9)
    before = [each.clone() for each in exemplar.key_encoder.parameters()]
    for ours, theirs in zip(exemplar.key_encoder.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad
    with torch.no_grad():
        for each in encoder.parameters():
            each.add_(1.0)
    exemplar.follow(encoder)
    for ours, old in zip(exemplar.key_encoder.parameters(), before, strict=True):
        torch.testing.assert_close(ours, old + 0.1)


def test_keys_stand_in_the_queue_with_their_labels():
    encoder, exemplar = made()
    images, labels = torch.rand(6, 3, 16, 16), torch.arange(6)
    assert exemplar.loss(encoder, images, images, labels) == 0
    assert len(exemplar.queue) == 6
    assert torch.equal(exemplar.queue.all().fields["label"], labels)
    loss = exemplar.loss(encoder, images, images, labels + 6)
    loss.backward()
    assert loss > 0
    assert all(each.grad is not None for each in [*encoder.parameters(), *exemplar.head.parameters()])
    assert all(each.grad is None for each in exemplar.key_encoder.parameters())


def test_images_of_one_class_are_no_negatives():
    encoder, exemplar = made()
    images, labels = torch.rand(6, 3, 16, 16), torch.zeros(6, dtype=torch.long)
    exemplar.loss(encoder, images, images, labels)
    assert exemplar.loss(encoder, images, images, labels) == 0


def test_views_differ_and_stay_in_range():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 20, 24)
    first, second = (exemplar_view(images, 16) for _ in range(2))
    assert first.shape == (4, 3, 16, 16)
    assert 0 <= first.min() <= first.max() <= 1
    assert (first - second).flatten(1).abs().amax(dim=1).min() > 0.01
