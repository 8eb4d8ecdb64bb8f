"""Losses between inner layers: zero where they should be, against values written out, gradients to the student only."""

import pytest
import torch
import torch.nn.functional as F

from ommatid.losses.feature_distillation import (
    ContrastiveRepresentationLoss,
    FactorLoss,
    HintLoss,
    as_large_as,
    similarity_loss,
)


def maps(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_similarity_loss_equals_its_formula():
    student, teacher = maps(5, 3, 4, 4), maps(5, 6, 2, 2)

    def table(features):
        rows = [[float((a * b).sum()) for b in features] for a in features]
        return [[value / sum(other**2 for other in row) ** 0.5 for value in row] for row in rows]

    ours, theirs = table(student), table(teacher)
    expected = sum((ours[i][j] - theirs[i][j]) ** 2 for i in range(5) for j in range(5)) / 25
    assert float(similarity_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)


def test_hint_is_zero_where_the_projection_reaches_the_teacher():
    loss = HintLoss(4, 4).eval()
    with torch.no_grad():
        loss.projection[0].weight.copy_(torch.eye(4)[..., None, None])
    teacher = maps(2, 4, 3, 3)
    assert float(loss(teacher * (1 + 1e-5) ** 0.5, teacher)) == pytest.approx(0, abs=1e-9)


def test_factors_are_compared_at_unit_length():
    loss = FactorLoss(4, 6).eval()
    student, teacher = maps(2, 4, 3, 3), maps(2, 6, 3, 3)
    ours, theirs = (
        F.normalize(each.flatten(1), dim=1) for each in (loss.translator(student), loss.paraphraser(teacher))
    )
    torch.testing.assert_close(loss(student, teacher), (ours - theirs).abs().mean())


def test_an_autoencoder_of_the_teacher_learns():
    torch.manual_seed(0)
    loss, teacher = FactorLoss(4, 6), maps(16, 6, 4, 4)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    first = float(loss.reconstruction(teacher))
    for _ in range(60):
        optimizer.zero_grad()
        value = loss.reconstruction(teacher)
        value.backward()
        optimizer.step()
    assert float(value) < 0.7 * first


def test_contrast_equals_its_formula():
    loss = ContrastiveRepresentationLoss(3, 5, samples=40, embed_dim=4, negatives=6)
    for start in (0, 3):
        loss(maps(3, 3), maps(3, 5), torch.arange(start, start + 3))
    before = loss.memory.all()
    student, teacher, index = maps(2, 3), maps(2, 5), torch.tensor([1, 20])
    ours, theirs = F.normalize(loss.student(student), dim=1), F.normalize(loss.teacher(teacher), dim=1)
    expected, noise = 0.0, 6 / 40
    for anchor, partner, memory in ((ours, theirs, before.values[:, 4:]), (theirs, ours, before.values[:, :4])):
        for row in range(2):
            odds = torch.exp(anchor[row] @ partner[row] / 0.07)
            expected -= torch.log(odds / (odds + noise)) / 2
            for other, number in zip(memory, before.fields["index"], strict=True):
                if number != index[row]:
                    odds = torch.exp(anchor[row] @ other / 0.07)
                    expected -= torch.log(noise / (odds + noise)) / 2
    torch.testing.assert_close(loss(student, teacher, index), expected, rtol=1e-4, atol=1e-4)


def test_evaluation_leaves_the_memory_alone():
    loss = ContrastiveRepresentationLoss(3, 5, samples=40, negatives=6).eval()
    loss(maps(2, 3), maps(2, 5), torch.arange(2))
    assert len(loss.memory) == 0


@pytest.mark.parametrize("kind", ["hint", "factor", "similarity", "contrast"])
def test_gradients_reach_the_student_alone(kind):
    student, teacher = maps(4, 3, 4, 4).requires_grad_(), maps(4, 5, 2, 2).requires_grad_()
    losses = {
        "hint": HintLoss(3, 5),
        "factor": FactorLoss(3, 5),
        "similarity": similarity_loss,
        "contrast": lambda a, b: ContrastiveRepresentationLoss(3, 5, 100, negatives=4)(
            a.mean(dim=(2, 3)), b.mean(dim=(2, 3)), torch.arange(4)
        ),
    }
    losses[kind](student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_larger_maps_are_pooled_and_equal_ones_left():
    student = maps(1, 2, 4, 4)
    assert as_large_as(student, maps(1, 3, 4, 4)) is student
    torch.testing.assert_close(as_large_as(student, maps(1, 3, 2, 2)), F.avg_pool2d(student, 2))
