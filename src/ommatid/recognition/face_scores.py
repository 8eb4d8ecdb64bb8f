"""How well embeddings tell people apart: every pair of a split, or its listed pairs, in any condition (a blur)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.engine.scores import SampleScores
from ommatid.recognition.verification import auc, kfold_accuracy, tar_at_far

MOST_IMAGES = 5000
"""Of a split without listed pairs; of a larger one every n-th identity is compared."""
FEWEST_STRANGERS = 10_000
"""Pairs of strangers from which one false accept in a thousand can be measured."""
FOLDS = 10


class FaceScores(SampleScores):
    """Verification of a whole split, from the embeddings of its images in one or several conditions."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: dict[str, int] = {}

    def update(self, identity: Int[Tensor, "batch"], scores: Mapping[str, Float[Tensor, "batch dim"]]) -> None:
        """Add tables of some images: "labels" and "listed" (one column), and embeddings by the name of a condition.

        The condition without a name is that of images as they are.
        """
        self.widths = {name: table.shape[1] for name, table in scores.items()}
        columns = {
            f"{name}/{place}": each for name, table in scores.items() for place, each in enumerate(table.unbind(1))
        }
        super().update(identity, columns)

    def compute(self) -> dict[str, float]:
        _, values = self.table()
        if not len(values):
            return {}
        tables = dict(zip(self.widths, values.split(list(self.widths.values()), dim=1), strict=True))
        labels, listed = (tables.pop(name)[:, 0].long() for name in ("labels", "listed"))
        found: dict[str, float] = {}
        for condition, embeddings in tables.items():
            measured = verification_scores(embeddings, labels, bool(listed.any()))
            found |= {f"{condition}/{name}".lstrip("/"): value for name, value in measured.items()}
        return found


def verification_scores(
    embeddings: Float[Tensor, "image dim"], labels: Int[Tensor, "image"], listed: bool = False
) -> dict[str, float]:
    """True accept rates at one false accept in a hundred and a thousand, AUC, and the accuracy over folds.

    Args:
        labels: identities.
        listed: compare images 2i and 2i + 1 only, in folds as they are listed.

    Returns:
        What the pairs are enough for: no rate at 1e-3 with fewer than `FEWEST_STRANGERS` pairs of strangers, and no
        numbers at all (NaN) where all pairs are of one kind, or embeddings are no finite numbers.

    Examples:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> verification_scores(embeddings, torch.tensor([0, 0, 1, 1]))
        {'TAR@FAR=1e-2': 1.0, 'auc': 1.0}
    """
    scores, same = compared(embeddings, labels, listed)
    if not 0 < int(same.sum()) < len(same):
        return {"TAR@FAR=1e-2": float("nan"), "auc": float("nan")}
    rates = {"TAR@FAR=1e-2": 1e-2}
    if int((~same).sum()) >= FEWEST_STRANGERS:
        rates["TAR@FAR=1e-3"] = 1e-3
    if not bool(scores.isfinite().all()):
        return dict.fromkeys([*rates, "auc"], float("nan"))
    found = tar_at_far(scores, same, list(rates.values()), every_point=True)
    measured = {name: float(value) for name, value in zip(rates, found, strict=True)}
    measured["auc"] = float(auc(scores, same))
    if listed and len(same) >= FOLDS:
        folds = kfold_accuracy(scores, same, FOLDS)
        measured |= {"accuracy": float(folds.mean), "accuracy, standard error": float(folds.standard_error)}
    return measured


def compared(
    embeddings: Float[Tensor, "image dim"], labels: Int[Tensor, "image"], listed: bool = False
) -> tuple[Float[Tensor, "pair"], Bool[Tensor, "pair"]]:
    """Cosines of all pairs of images, or of the listed ones, and which are of one person."""
    unit = F.normalize(embeddings.float())
    if listed:
        # An image whose partner is missing was cut off by a limit on batches.
        pairs = len(unit) // 2
        first, second = unit[: 2 * pairs : 2], unit[1 : 2 * pairs : 2]
        return (first * second).sum(dim=1), labels[: 2 * pairs : 2] == labels[1 : 2 * pairs : 2]
    if len(unit) > MOST_IMAGES:
        step = -(-len(unit) // MOST_IMAGES)
        kept = labels.unique(return_inverse=True)[1] % step == 0
        unit, labels = unit[kept], labels[kept]
    above = torch.ones(len(unit), len(unit), dtype=torch.bool, device=unit.device).triu(diagonal=1)
    return (unit @ unit.T)[above], (labels[:, None] == labels)[above]
