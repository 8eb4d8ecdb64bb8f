import pytest
import torch
import torch.nn.functional as F

from ommatid.losses.dice_cross_entropy import (
    deeply_supervised,
    dice_cross_entropy,
    label_cross_entropy,
    nearest_labels,
    soft_dice_loss,
)


def case(seed=0, classes=3, size=(4, 5), count=2):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, *size, generator=generator)
    return logits, torch.randint(0, classes, (count, *size), generator=generator)


def by_hand(logits, labels):
    probs, found = logits.softmax(dim=1), []
    for volume in range(len(logits)):
        for number in range(1, logits.shape[1]):
            known = labels[volume] != 255
            p, g = probs[volume, number][known], (labels[volume] == number)[known].float()
            found.append(2 * float((p * g).sum()) / float(p.sum() + g.sum()))
    return 1 - sum(found) / len(found)


@pytest.mark.parametrize("size", [(4, 5), (3, 4, 5)])
def test_dice_is_a_mean_over_volumes_and_foreground_classes(size):
    logits, labels = case(size=size)
    assert float(soft_dice_loss(logits, labels)) == pytest.approx(by_hand(logits, labels), abs=1e-5)


def test_voxels_that_are_not_known_do_not_count():
    logits, labels = case()
    labels[0, :2] = 255
    other = logits.clone()
    other[0, :, :2] += torch.randn(3, 1, 1)
    assert float(soft_dice_loss(logits, labels)) == pytest.approx(by_hand(logits, labels), abs=1e-5)
    torch.testing.assert_close(dice_cross_entropy(logits, labels), dice_cross_entropy(other, labels))
    assert float(label_cross_entropy(logits, labels)) == pytest.approx(
        float(F.cross_entropy(logits, labels, ignore_index=255))
    )


def test_a_volume_of_which_nothing_is_known_teaches_nothing():
    logits, labels = case()
    logits.requires_grad_(True)
    dice_cross_entropy(logits, torch.full_like(labels, 255)).backward()
    assert not logits.grad.any()


def test_a_class_that_is_not_there_costs_what_is_predicted_of_it():
    labels = torch.zeros(1, 8, dtype=torch.long)
    little, much = (torch.tensor([[-value], [value]]).expand(1, 2, 8).contiguous() for value in (-20.0, 2.0))
    assert float(soft_dice_loss(little, labels)) < 0.01 < float(soft_dice_loss(much, labels))


def test_coarser_scales_count_half_as_much_each():
    logits, labels = case(size=(8, 8))
    outputs = [logits, F.avg_pool2d(logits, 2), F.avg_pool2d(logits, 4)]
    losses = [
        float(dice_cross_entropy(each, labels[:, ::step, ::step]))
        for each, step in zip(outputs, (1, 2, 4), strict=True)
    ]
    found = float(deeply_supervised(outputs, labels))
    assert found == pytest.approx((4 * losses[0] + 2 * losses[1] + losses[2]) / 7, rel=1e-5)
    assert float(deeply_supervised([logits], labels)) == pytest.approx(losses[0], rel=1e-6)


def test_odd_sizes_are_rounded_up_as_convolutions_of_stride_two_do():
    labels = torch.arange(9).view(1, 9)
    assert nearest_labels(labels.view(1, 3, 3), (2, 2)).shape == (1, 2, 2)
    assert nearest_labels(torch.tensor([[0, 1, 255, 3]]), (2,)).tolist() == [[0, 255]]


def test_gradients_are_those_of_finite_differences():
    logits, labels = case(count=1, size=(2, 3))
    logits.requires_grad_(True)
    labels[0, 0, 0] = 255
    [found] = torch.autograd.grad(dice_cross_entropy(logits, labels), logits)
    for place in [(0, 1, 0, 1), (0, 0, 1, 2), (0, 2, 0, 0)]:
        step = torch.zeros_like(logits)
        step[place] = 1e-2
        with torch.no_grad():
            slope = (dice_cross_entropy(logits + step, labels) - dice_cross_entropy(logits - step, labels)) / 2e-2
        assert float(found[place]) == pytest.approx(float(slope), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    logits, labels = case()
    assert torch.isfinite(dice_cross_entropy(1000 * logits.to(dtype), labels))
    assert dice_cross_entropy(logits.to(dtype), labels).dtype == torch.float32


def test_cross_entropy_is_of_what_has_a_class():
    logits = torch.tensor([[[[5.0, 0.0, 9.0]], [[0.0, 5.0, 0.0]]]])
    alone = label_cross_entropy(logits[..., :2], torch.tensor([[[0, 1]]]))
    torch.testing.assert_close(label_cross_entropy(logits, torch.tensor([[[0, 1, 255]]])), alone)
    halves = torch.zeros(1, 2, 1, 1, dtype=torch.bfloat16)
    assert label_cross_entropy(halves, torch.zeros(1, 1, 1).long()) > 0.69
