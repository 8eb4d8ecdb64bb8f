"""`world-attributes`: features of classes whose means are a smooth function of their attributes; drawn, seeded.

Classes with similar attributes have means near each other, so that a class without samples can be told from what
others look like. Noise has a part of few directions that every class shares and that no class has to do with.

    a_k = normalise(u_k - mean u),  u_k uniform in [0, 1]^12            attributes of class k
    mu_k = relu(a_k W1) W2,         W1 ~ 2/sqrt(12) N, W2 ~ 1/sqrt(48) N
    x = relu(mu_y + U n + 0.2 e),   U ~ 0.2 N, n of 8 dimensions        samples of class y

Few classes are seen: what tells these apart is then less than what tells all classes apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ommatid.data.zero_shot import ZeroShotSet, write_table, write_xlsa17
from ommatid.errors import InputError, unknown

COUNTS = ("seen", "unseen", "train", "test", "attribute_dim", "feature_dim", "hidden_dim")


@dataclass(frozen=True)
class AttributeWorld:
    """Classes described by attributes, and features of their samples.

    Attributes:
        seen, kept_back, unseen: classes to train on; to choose settings on, which are trained on in the end; and of
            which there is a description only.
        train, test: samples of a class, for training (not of unseen ones) and for testing.
        hidden_dim: of the function from attributes to means.
        nuisance_dim, nuisance: directions of the noise that classes share, and its strength.
        noise: strength of the noise of every dimension alone.

    Raises:
        InputError: a number is too small.

    Examples:
        >>> data = AttributeWorld(seen=4, kept_back=1, unseen=2, train=3, test=2).draw()
        >>> data.features.shape, data.attributes.shape, len(data.seen), len(data.unseen)
        (torch.Size([29, 96]), torch.Size([7, 12]), 5, 2)
    """

    seen: int = 14
    kept_back: int = 6
    unseen: int = 6
    train: int = 50
    test: int = 40
    attribute_dim: int = 12
    feature_dim: int = 96
    hidden_dim: int = 48
    nuisance_dim: int = 8
    nuisance: float = 0.2
    noise: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected at least 1")
        for name in ("kept_back", "nuisance_dim", "nuisance", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}: found {getattr(self, name)}, expected a number from 0 on")

    @property
    def class_names(self) -> tuple[str, ...]:
        groups = {"seen": self.seen, "kept back": self.kept_back, "unseen": self.unseen}
        return tuple(f"{group} {number + 1}" for group, count in groups.items() for number in range(count))

    def draw(self) -> ZeroShotSet:
        """All samples: those of training, class by class, then those of testing."""
        generator = torch.Generator().manual_seed(self.seed)
        classes, trained = len(self.class_names), self.seen + self.kept_back
        labels = torch.cat(
            [torch.arange(trained).repeat_interleave(self.train), torch.arange(classes).repeat_interleave(self.test)]
        )
        attributes = torch.rand(classes, self.attribute_dim, generator=generator)
        attributes = torch.nn.functional.normalize(attributes - attributes.mean(dim=0), dim=1)
        features = self._features(self._means(attributes, generator)[labels], generator)
        row = torch.arange(len(labels))
        tested = row >= trained * self.train
        rows = {
            "trainval": ~tested,
            "train": ~tested & (labels < self.seen),
            "val": ~tested & (labels >= self.seen),
            "test_seen": tested & (labels < trained),
            "test_unseen": tested & (labels >= trained),
        }
        splits = {name: row[chosen] for name, chosen in rows.items() if self.kept_back or name not in ("train", "val")}
        return ZeroShotSet(features, labels, attributes, splits, self.class_names)

    def write(self, root: str | Path, format: str = "table") -> dict[str, int]:
        """Write the world as the files of a zero-shot data set, see `ommatid.data.zero_shot`.

        Returns:
            Number of samples of every split.

        Raises:
            InputError: the folder is not empty, or there is no such format.
        """
        if format not in WRITERS:
            raise unknown("format of world-attributes", format, WRITERS)
        data = self.draw()
        WRITERS[format](data, Path(root))
        return {name: len(rows) for name, rows in data.splits.items()}

    def _means(
        self, attributes: Float[Tensor, "class attribute"], generator: torch.Generator
    ) -> Float[Tensor, "class feature"]:
        first = 2 * torch.randn(self.attribute_dim, self.hidden_dim, generator=generator)
        second = torch.randn(self.hidden_dim, self.feature_dim, generator=generator) / math.sqrt(self.hidden_dim)
        return (attributes @ first / math.sqrt(self.attribute_dim)).relu() @ second

    def _features(
        self, means: Float[Tensor, "sample feature"], generator: torch.Generator
    ) -> Float[Tensor, "sample feature"]:
        directions = self.nuisance * torch.randn(self.nuisance_dim, self.feature_dim, generator=generator)
        shared = torch.randn(len(means), self.nuisance_dim, generator=generator) @ directions
        alone = self.noise * torch.randn(means.shape, generator=generator)
        return (means + shared + alone).relu()


WRITERS: dict[str, Callable[[ZeroShotSet, Path], Path]] = {
    "table": write_table,
    "xlsa17": lambda data, root: write_xlsa17(data, root, "WORLD"),
}
