"""Softmax over identities with a margin, so that embeddings also tell apart people who were never trained on.

ArcFace (arXiv:1801.07698, E9), CosFace (arXiv:1801.09414, E10) and their variants guided by mis-classified vectors
(MV-softmax, arXiv:1912.00833, E10). Equation numbers: docs/methods/scan-cnn.md. The functions change cosines, for use
behind a head of one's own; `MarginHead` holds the identities' vectors and gives scaled logits (E8) for cross-entropy.
Everything is computed in single precision or better.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.errors import InputError, unknown

KINDS = ("arcface", "cosface", "mv-arcface", "mv-cosface", "softmax")
LAYOUTS = ("toolbox", "arcface")
Cosines = Float[Tensor, "batch identity"]
Targets = Float[Tensor, "batch 1"]
Labels = Int[Tensor, "batch"]


def arcface(cosines: Cosines, labels: Labels, margin: float = 0.5, easy: bool = False) -> Cosines:
    """Cosines whose target is that of an angle larger by the margin (E9).

    Past a half turn the cosine would rise again. A target whose angle has no room for the margin falls by
    `margin * sin(margin)` instead, which keeps the order of all angles.

    Args:
        margin: in radians.
        easy: a target with no room for the margin keeps its cosine, as in FaceX-Zoo.

    Examples:
        >>> cosines, labels = torch.tensor([[0.5, 0.2], [-0.9, 0.2]]), torch.tensor([0, 0])
        >>> arcface(cosines, labels)
        tensor([[ 0.0236,  0.2000],
                [-1.1397,  0.2000]])
        >>> arcface(cosines, labels, easy=True)
        tensor([[ 0.0236,  0.2000],
                [-0.9000,  0.2000]])
    """
    cosines = _precise(cosines)
    return _with_target(cosines, labels, _arcface_target(_target(cosines, labels), margin, easy))


def cosface(cosines: Cosines, labels: Labels, margin: float = 0.35) -> Cosines:
    """Cosines whose target is smaller by the margin (E10).

    Examples:
        >>> cosface(torch.tensor([[0.5, 0.2]]), torch.tensor([0]))
        tensor([[0.1500, 0.2000]])
    """
    cosines = _precise(cosines)
    return _with_target(cosines, labels, _target(cosines, labels) - margin)


def mv_arcface(
    cosines: Cosines, labels: Labels, margin: float = 0.5, weight: float = 1.12, easy: bool = False
) -> Cosines:
    """`arcface` in which other identities count more where they come closer than the target with its margin (E10).

    Args:
        margin: in radians.
        weight: t in t * cosine + t - 1, what such an identity's cosine becomes; 1 leaves it.
        easy: only a positive target has a margin, as in FaceX-Zoo.

    Examples:
        >>> mv_arcface(torch.tensor([[0.5, 0.2, 0.0]]), torch.tensor([0]))
        tensor([[0.0236, 0.3440, 0.0000]])
    """
    cosines = _precise(cosines)
    target = _target(cosines, labels)
    widened = _widened(target, margin)
    wanted = torch.where(target > 0, widened, target) if easy else _arcface_target(target, margin, easy)
    return _with_target(_hard_raised(cosines, widened, weight), labels, wanted)


def mv_cosface(
    cosines: Cosines, labels: Labels, margin: float = 0.35, weight: float = 1.12, easy: bool = False
) -> Cosines:
    """`cosface` in which other identities count more where they come closer than the target with its margin (E10).

    Args:
        weight: as of `mv_arcface`.
        easy: only a target above the margin has it taken off, as in FaceX-Zoo.

    Examples:
        >>> mv_cosface(torch.tensor([[0.5, 0.2, 0.1]]), torch.tensor([0]))
        tensor([[0.1500, 0.3440, 0.1000]])
    """
    cosines = _precise(cosines)
    target = _target(cosines, labels)
    wanted = torch.where(target > margin, target - margin, target) if easy else target - margin
    return _with_target(_hard_raised(cosines, target - margin, weight), labels, wanted)


class MarginHead(nn.Module):
    """Logits of identities: scaled cosines of an embedding with one vector for each, the target's with a margin (E8).

    Embeddings and vectors are normalised inside, in single precision also under autocast.

    Args:
        dim: of the embedding.
        num_classes: identities to train with.
        kind: one of `KINDS`; "softmax" has no margin.
        scale: what the cosines are multiplied by.
        margin: in radians for the kinds of ArcFace, in units of the cosine for those of CosFace; 0.5 and 0.35 if None.
        mv_weight: how much closer identities count, in the kinds that begin with "mv".
        easy: what becomes of targets far from their identity, see `arcface`, `mv_arcface` and `mv_cosface`.

    Raises:
        InputError: an unknown kind, or a number out of range.

    Examples:
        >>> head = MarginHead(dim=8, num_classes=5, kind="cosface", scale=16.0, margin=0.2)
        >>> embedding, identity = torch.randn(3, 8), torch.tensor([0, 4, 2])
        >>> logits = head(embedding, identity)
        >>> loss = F.cross_entropy(logits, identity)
        >>> (head(embedding) - logits).gather(1, identity[:, None])
        tensor([[3.2000],
                [3.2000],
                [3.2000]], grad_fn=<GatherBackward0>)
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        kind: str = "arcface",
        scale: float = 64.0,
        margin: float | None = None,
        mv_weight: float = 1.12,
        easy: bool = False,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
        if min(dim, num_classes) < 1:
            raise InputError(f"dim and num_classes must be at least 1, found {dim} and {num_classes}")
        if scale <= 0:
            raise InputError(f"scale must be above 0, found {scale}")
        margin = (0.5 if kind.endswith("arcface") else 0.35) if margin is None else margin
        widest = math.pi if kind.endswith("arcface") else 2
        if not 0 <= margin < widest:
            raise InputError(f"margin must lie from 0 to below {widest:.4g} for {kind}, found {margin}")
        if mv_weight < 1:
            raise InputError(f"mv_weight must be at least 1, found {mv_weight}")
        self.kind, self.scale, self.margin, self.mv_weight, self.easy = kind, scale, margin, mv_weight, easy
        self.weight = nn.Parameter(F.normalize(torch.randn(num_classes, dim)))

    def forward(
        self, embedding: Float[Tensor, "batch dim"], labels: Labels | None = None
    ) -> Float[Tensor, "batch identity"]:
        """Scaled logits; without labels nothing has a margin."""
        with torch.autocast(embedding.device.type, enabled=False):
            cosines = self.cosines(embedding)
            return self.scale * (cosines if labels is None else self.with_margin(cosines, labels))

    def cosines(self, embedding: Float[Tensor, "batch dim"]) -> Cosines:
        """Of every embedding with the vector of every identity."""
        vectors = _precise(self.weight)
        return F.linear(F.normalize(embedding.to(vectors.dtype)), F.normalize(vectors)).clamp(-1, 1)

    def with_margin(self, cosines: Cosines, labels: Labels) -> Cosines:
        if self.kind == "arcface":
            return arcface(cosines, labels, self.margin, self.easy)
        if self.kind == "cosface":
            return cosface(cosines, labels, self.margin)
        if self.kind == "mv-arcface":
            return mv_arcface(cosines, labels, self.margin, self.mv_weight, self.easy)
        if self.kind == "mv-cosface":
            return mv_cosface(cosines, labels, self.margin, self.mv_weight, self.easy)
        return cosines

    def extra_repr(self) -> str:
        classes, dim = self.weight.shape
        return f"{dim}, {classes}, kind={self.kind}, scale={self.scale:g}, margin={self.margin:g}"


def published_head(state: Mapping[str, Tensor], layout: str = "toolbox") -> dict[str, Tensor]:
    """Published vectors of identities as parameters of `MarginHead`, out of a head's state or of a whole model's.

    Args:
        layout: "toolbox" (FaceX-Zoo, MV-softmax) keeps one identity a column, "arcface" (InsightFace) one a row.

    Raises:
        InputError: there is no matrix called `weight`, `head.weight` or `fc7_weight`, or more than one.

    Examples:
        >>> {name: tuple(value.shape) for name, value in published_head({"head.weight": torch.ones(8, 5)}).items()}
        {'weight': (5, 8)}
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    names = ("weight", "head.weight", "fc7_weight")
    found = [key for key, value in state.items() if key.removeprefix("module.") in names and value.ndim == 2]
    if len(found) != 1:
        expected = "expected one matrix called weight, head.weight or fc7_weight"
        raise InputError(f"state: found {' and '.join(found) or 'no head'}, {expected}")
    weight = state[found[0]]
    return {"weight": (weight.mT if layout == "toolbox" else weight).contiguous()}


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _target(cosines: Cosines, labels: Labels) -> Targets:
    return cosines.gather(1, labels[:, None])


def _with_target(cosines: Cosines, labels: Labels, target: Targets) -> Cosines:
    return cosines.scatter(1, labels[:, None], target)


def _widened(target: Targets, margin: float) -> Targets:
    """Cosine of the angle plus the margin."""
    # Where the angle is 0 the sine's derivative is infinite; the least value keeps it from becoming NaN.
    sine = ((1 - target) * (1 + target)).clamp(min=1e-12).sqrt()
    return target * math.cos(margin) - sine * math.sin(margin)


def _arcface_target(target: Targets, margin: float, easy: bool) -> Targets:
    far = target if easy else target - margin * math.sin(margin)
    return torch.where(target > math.cos(math.pi - margin), _widened(target, margin), far)


def _hard_raised(cosines: Cosines, threshold: Targets, weight: float) -> Cosines:
    return torch.where(cosines > threshold, weight * cosines + weight - 1, cosines)
