"""What a student is taught by a teacher's logits, and where the two of them disagree."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Logits = Float[Tensor, "batch class"]


def kd_loss(student_logits: Logits, teacher_logits: Logits, temperature: float = 4.0) -> Float[Tensor, ""]:
    """Divergence of the student from the softened teacher, times temperature squared (arXiv:1503.02531; CMI E10).

    The square keeps the gradient's size independent of the temperature.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> kd_loss(logits, logits, temperature=20.0)
        tensor(0.)
    """
    return temperature**2 * divergence(teacher_logits / temperature, student_logits / temperature).mean()


def distillation_loss(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Int[Tensor, " batch"],
    ce_weight: float = 0.1,
    kd_weight: float = 0.9,
    temperature: float = 4.0,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of labels and divergence from the teacher, weighted (KDExplainer, arXiv:2105.04181, E5).

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> distillation_loss(logits, logits, torch.tensor([0]), ce_weight=1.0)
        tensor(0.1269)
    """
    labelled = F.cross_entropy(student_logits.float(), labels, label_smoothing=smoothing)
    return ce_weight * labelled + kd_weight * kd_loss(student_logits, teacher_logits, temperature)


def disagreement_loss(student_logits: Logits, teacher_logits: Logits) -> Float[Tensor, ""]:
    """Negative divergence of student from teacher on the samples they still classify alike (CMI, arXiv:2105.08584, E4).

    Minimised over images it finds what the student has not learnt yet. The sum is divided by the whole batch, so that
    the pressure fades as fewer samples agree.

    Examples:
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> disagreement_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), teacher)
        tensor(-0.0336)
    """
    agrees = agreement(student_logits, teacher_logits)
    return -(divergence(teacher_logits, student_logits) * agrees).mean()


def agreement(student_logits: Logits, teacher_logits: Logits) -> Bool[Tensor, " batch"]:
    """Whether student and teacher choose the same class."""
    return student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)


def divergence(teacher_logits: Logits, student_logits: Logits) -> Float[Tensor, " batch"]:
    """KL(teacher || student) of every sample, in nats, computed in single precision or better."""
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    teacher, student = (F.log_softmax(logits, dim=1, dtype=dtype) for logits in (teacher_logits, student_logits))
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


class KDLoss(nn.Module):
    """`kd_loss` at a fixed temperature."""

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student_logits: Logits, teacher_logits: Logits) -> Float[Tensor, ""]:
        return kd_loss(student_logits, teacher_logits, self.temperature)
