"""What a student is taught by a teacher's inner layers: four losses that distillation papers compare with.

| loss | what is to agree | weight in the comparison |
|---|---|---|
| `HintLoss` | maps, after a trained projection (FitNets, arXiv:1412.6550) | 100 |
| `FactorLoss` | factors of maps, made by an autoencoder of the teacher's (arXiv:1802.04977) | 200 |
| `similarity_loss` | which samples of a batch are alike (arXiv:1907.09682) | 3000 |
| `ContrastiveRepresentationLoss` | pooled features of the same sample (arXiv:1910.10699) | 0.8 |

Maps of another height and width than the teacher's are pooled to the teacher's.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.nn.memory import RingMemory

Ours = Float[Tensor, "batch channel height width"]
Theirs = Float[Tensor, "batch teacher_channel teacher_height teacher_width"]
Pooled = Float[Tensor, "batch feature"]


class HintLoss(nn.Module):
    """Squared distance of the student's maps, projected to the teacher's channels, from the teacher's.

    Examples:
        >>> HintLoss(4, 8)(torch.zeros(2, 4, 6, 6), torch.zeros(2, 8, 3, 3)).shape
        torch.Size([])
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False), nn.BatchNorm2d(teacher_channels)
        )

    def forward(self, student: Ours, teacher: Theirs) -> Float[Tensor, ""]:
        projected = self.projection(as_large_as(student, teacher))
        return F.mse_loss(projected.float(), teacher.detach().float())


class FactorLoss(nn.Module):
    """Distance of unit-length factors: an autoencoder's of the teacher's maps, a translator's of the student's.

    Args:
        rate: channels of a factor, as a part of the teacher's.

    Examples:
        >>> loss = FactorLoss(4, 8)
        >>> teacher = torch.randn(2, 8, 3, 3)
        >>> loss(torch.randn(2, 4, 6, 6), teacher).shape, loss.reconstruction(teacher).shape
        (torch.Size([]), torch.Size([]))
    """

    def __init__(self, student_channels: int, teacher_channels: int, rate: float = 0.5) -> None:
        super().__init__()
        factors = max(1, round(teacher_channels * rate))
        self.paraphraser = _convolutions(teacher_channels, teacher_channels, factors)
        self.decoder = _convolutions(factors, teacher_channels, teacher_channels)
        self.translator = _convolutions(student_channels, student_channels, factors)

    def reconstruction(self, teacher: Theirs) -> Float[Tensor, ""]:
        """What autoencoder and decoder are trained with, before the student is."""
        teacher = teacher.detach()
        return F.mse_loss(self.decoder(self.paraphraser.train()(teacher)).float(), teacher.float())

    def forward(self, student: Ours, teacher: Theirs) -> Float[Tensor, ""]:
        with torch.no_grad():
            wanted = self.paraphraser.eval()(teacher)
        found = self.translator(as_large_as(student, teacher))
        found, wanted = (F.normalize(factor.float().flatten(1), dim=1) for factor in (found, wanted))
        return (found - wanted).abs().mean()


def similarity_loss(student: Ours, teacher: Theirs) -> Float[Tensor, ""]:
    """Squared distance between the two tables of how alike the samples of a batch are, over their number of entries.

    Examples:
        >>> maps = torch.randn(3, 4, 2, 2)
        >>> similarity_loss(2 * maps, maps)
        tensor(0.)
    """
    tables = [F.normalize(table @ table.T, dim=1) for table in (each.float().flatten(1) for each in (student, teacher))]
    return (tables[0] - tables[1].detach()).square().mean()


class ContrastiveRepresentationLoss(nn.Module):
    """Tell which student's and which teacher's features belong to one sample, among those of earlier samples.

    Both are embedded on the unit sphere; memories hold the embeddings of the samples seen last. Each side is an
    anchor for the other, by noise-contrastive estimation.

    Args:
        samples: size of the training set.
        embed_dim: of the embeddings.
        negatives: rows of the memories.
        temperature: of the similarities.

    Examples:
        >>> loss = ContrastiveRepresentationLoss(4, 8, samples=100, negatives=16)
        >>> student, teacher, index = torch.randn(2, 4), torch.randn(2, 8), torch.tensor([3, 5])
        >>> bool(loss(student, teacher, index) > 0), len(loss.memory)
        (True, 2)
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        samples: int,
        embed_dim: int = 128,
        negatives: int = 16_384,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.samples, self.temperature = samples, temperature
        self.student, self.teacher = nn.Linear(student_dim, embed_dim), nn.Linear(teacher_dim, embed_dim)
        self.memory = RingMemory(negatives, 2 * embed_dim, {"index": torch.long})

    def forward(
        self, student: Pooled, teacher: Float[Tensor, "batch teacher_feature"], index: Int[Tensor, "batch"]
    ) -> Float[Tensor, ""]:
        ours = F.normalize(self.student(student).float(), dim=1)
        theirs = F.normalize(self.teacher(teacher.detach()).float(), dim=1)
        rows, fields = self.memory.all()
        # An earlier view of the same sample is no negative of it.
        other = fields["index"][None] != index[:, None]
        our_memory, their_memory = rows.chunk(2, dim=1)
        positive = (ours * theirs).sum(dim=1)
        loss = self._estimate(positive, ours @ their_memory.T, other) + self._estimate(
            positive, theirs @ our_memory.T, other
        )
        if self.training:
            self.memory.add(torch.cat([ours, theirs], dim=1).detach(), index=index)
        return loss

    def _estimate(self, positive: Tensor, negative: Tensor, other: Tensor) -> Float[Tensor, ""]:
        """Minus the log-likelihood of which pairs are real, the noise being `m` of `samples` equally likely others."""
        # A pair is real with the odds e^s : m/n.
        noise = math.log(max(negative.shape[1], 1) / self.samples)
        real = -F.logsigmoid(positive / self.temperature - noise)
        drawn = -F.logsigmoid(noise - negative / self.temperature)
        return (real + (drawn * other).sum(dim=1)).mean()


def as_large_as(student: Ours, teacher: Theirs) -> Float[Tensor, "batch channel teacher_height teacher_width"]:
    """Maps pooled to the height and width of others."""
    height, width = teacher.shape[-2:]
    return student if student.shape[-2:] == (height, width) else F.adaptive_avg_pool2d(student, (height, width))


def _convolutions(before: int, inner: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, inner, 3, padding=1),
        nn.BatchNorm2d(inner),
        nn.LeakyReLU(0.1),
        nn.Conv2d(inner, after, 3, padding=1),
        nn.BatchNorm2d(after),
        nn.LeakyReLU(0.1),
    )
