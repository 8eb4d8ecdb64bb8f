import pytest
import torch

from ommatid.losses.distillation import KDLoss, agreement, disagreement_loss, divergence, kd_loss


@pytest.fixture
def logits():
    """Of student and teacher, who agree about some samples."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    return [student, torch.cat([teacher[:3], student[3:] + 0.3 * teacher[3:]])]


def kullback_leibler(teacher, student):
    return sum(p * (p / q).log() for p, q in zip(teacher.softmax(0), student.softmax(0), strict=True))


def test_distillation_is_the_mean_divergence_of_softened_logits_times_temperature_squared(logits):
    student, teacher = logits
    expected = sum(25 * kullback_leibler(t / 5, s / 5) for t, s in zip(teacher, student, strict=True)) / 6
    torch.testing.assert_close(kd_loss(student, teacher, temperature=5.0), expected)


def test_disagreement_counts_only_agreeing_samples_and_divides_by_all(logits):
    student, teacher = logits
    agrees = [s.argmax() == t.argmax() for s, t in zip(student, teacher, strict=True)]
    assert 0 < sum(agrees) < 6
    assert agreement(student, teacher).tolist() == [bool(a) for a in agrees]
    expected = sum(kullback_leibler(t, s) for t, s, a in zip(teacher, student, agrees, strict=True) if a) / 6
    torch.testing.assert_close(disagreement_loss(student, teacher), -expected)


def test_a_student_that_agrees_nowhere_is_not_attacked():
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    disagreement_loss(student, torch.tensor([[0.0, 1.0]])).backward()
    assert not student.grad.any()


@pytest.mark.parametrize("loss", [kd_loss, disagreement_loss, lambda s, t: divergence(s, t).sum()])
def test_gradcheck(logits, loss):
    assert torch.autograd.gradcheck(loss, [each.requires_grad_() for each in logits])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(logits, dtype):
    student, teacher = (logit.to(dtype) for logit in logits)
    for loss in (kd_loss, disagreement_loss):
        half = loss(student, teacher)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half.double(), loss(*logits), rtol=0.05, atol=0.02)


def test_extreme_logits_stay_finite():
    student, teacher = torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])
    assert kd_loss(student, teacher, temperature=1.0).isfinite()


def test_the_module_is_the_function(logits):
    assert torch.equal(KDLoss(7.0)(*logits), kd_loss(*logits, temperature=7.0))
