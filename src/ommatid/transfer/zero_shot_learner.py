"""`ZeroShotLearner`: what methods share that recognise classes of which they have seen a description only."""

from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.classification.classifier import Classifier
from ommatid.data.zero_shot import MinMax, read_attributes, read_feature_rows, unit_attributes
from ommatid.engine.data import DataModule
from ommatid.errors import InputError
from ommatid.transfer.zero_shot_data import ZeroShotData
from ommatid.transfer.zero_shot_metrics import ZeroShotScores
from ommatid.transfer.zero_shot_task import TESTING, FeatureBatch, FoundClasses, LatentMap

Features = Float[Tensor, "batch feature"]
Logits = Float[Tensor, "batch class"]


class ZeroShotLearner(Classifier):
    """Features in, a class out, among all classes or among those without training samples.

    A subclass implements `decide`, `decide_among` and `training_step`. Classes are numbered as the data module does:
    seen ones, those kept back for choosing settings, unseen ones.
    """

    data_module = ZeroShotData
    monitor = "val/H"

    attributes: Tensor
    minimum: Tensor
    extent: Tensor

    def __init__(self, feature_dim: int, attribute_dim: int, num_seen: int, num_back: int, num_unseen: int) -> None:
        super().__init__()
        self.group_sizes = (num_seen, num_back, num_unseen)
        self.register_buffer("attributes", torch.zeros(sum(self.group_sizes), attribute_dim))
        self.register_buffer("minimum", torch.zeros(feature_dim))
        self.register_buffer("extent", torch.ones(feature_dim))

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, ZeroShotData)
        groups, (features, attributes) = data.groups, (data.source.features, data.source.attributes)
        return {
            "feature_dim": features.shape[1],
            "attribute_dim": attributes.shape[1],
            "num_seen": len(groups.seen),
            "num_back": len(groups.kept_back),
            "num_unseen": len(groups.unseen),
        }

    def adopt(self, data: DataModule) -> None:
        """Attributes of all classes, and how features are scaled."""
        super().adopt(data)
        assert isinstance(data, ZeroShotData)
        self.attributes.copy_(data.attributes)
        self.minimum.copy_(data.scaler.minimum)
        self.extent.copy_(data.scaler.extent)

    def align(self, data: DataModule) -> None:
        super().align(data)
        assert isinstance(data, ZeroShotData)
        groups = data.groups
        found = tuple(len(group) for group in (groups.seen, groups.kept_back, groups.unseen))
        if found != self.group_sizes:
            raise InputError(
                f"the data have {found[0]} seen, {found[1]} kept back and {found[2]} unseen classes, expected "
                f"{self.group_sizes[0]}, {self.group_sizes[1]} and {self.group_sizes[2]} as in training; is the "
                "protocol another one?"
            )
        width = data.source.features.shape[1]
        if width != len(self.minimum):
            raise InputError(f"the data have {width} features a sample, expected {len(self.minimum)} as in training")
        if self.class_names:
            data.use(MinMax(self.minimum.cpu(), self.extent.cpu()))

    def decide(self, features: Features, task: Int[Tensor, "batch"]) -> tuple[Logits, Logits]:
        """Logits among all and among new classes of each sample's task, minus infinity for any other class."""
        raise NotImplementedError

    def decide_among(
        self, features: Features, attributes: Float[Tensor, "new attribute"], only_new: bool
    ) -> Float[Tensor, "batch candidate"]:
        """Logits of other new classes, given by their attributes, behind those of the seen ones unless `only_new`."""
        raise NotImplementedError

    def latent_map(
        self, features: Features, attributes: Float[Tensor, "new attribute"], class_names: list[str]
    ) -> LatentMap | None:
        """Where samples lie among what the method expects of new classes; None where it has no such space."""
        return None

    def forward(self, batch: FeatureBatch) -> Logits:
        """Logits among all classes of the task."""
        return self.decide(batch.features, batch.task)[0]

    def score(self, batch: FeatureBatch) -> dict[str, Float[Tensor, "batch"]]:
        """What `ZeroShotScores` gathers."""
        among_all, among_new = self.decide(batch.features, batch.task)
        return {
            "labels": batch.labels.float(),
            "is_seen": (batch.labels < self.group_sizes[0]).float(),
            "among_all": among_all.argmax(dim=1).float(),
            "among_new": among_new.argmax(dim=1).float(),
        }

    def new_scores(self) -> ZeroShotScores:
        return ZeroShotScores()

    def scaled(self, features: Features) -> Features:
        """Features of a network as the method sees them."""
        return MinMax(self.minimum, self.extent)(features.to(self.minimum))

    @torch.no_grad()
    def predict(
        self,
        features: str | Path,
        attributes: str | Path | None = None,
        classes: Literal["all", "unseen"] = "all",
        top: int = 3,
    ) -> FoundClasses:
        """The classes of your own samples, most probable first.

        Args:
            features: file of features, one row a sample, of the network whose features were trained on: .npy, .npz or
                .csv. They are scaled as those of training were.
            attributes: table of new classes of your own that take the place of the unseen ones: a .csv with a header,
                and in each line a name and as many numbers as the classes of training have.
            classes: "all", seen and unseen, or "unseen" (or your own) alone.
            top: how many classes a sample.

        Raises:
            InputError: a file is missing or damaged, or has rows of another width; a class of yours is called like a
                seen one; `top` is below 1.
        """
        self.eval()
        inputs = self.scaled(read_feature_rows(features, len(self.minimum)))
        only_new, seen = classes == "unseen", self._names()[: self.group_sizes[0]]
        if attributes is None:
            new, described = self._names()[sum(self.group_sizes[:2]) :], self.attributes[sum(self.group_sizes[:2]) :]
            task = torch.full((len(inputs),), TESTING, device=self.device)
            logits, names = self.decide(inputs, task)[int(only_new)], self._names()
        else:
            new, described = self._read_classes(Path(attributes), seen)
            logits = self.decide_among(inputs, described, only_new)
            names = new if only_new else seen + new
        probs = logits.softmax(dim=1).cpu()
        found = [self._best(row, names, top) for row in probs]
        return FoundClasses(found, self.latent_map(inputs, described, new) if new else None)

    def _read_classes(self, path: Path, seen: list[str]) -> tuple[list[str], Float[Tensor, "new attribute"]]:
        names, described = read_attributes(path, self.attributes.shape[1])
        known = sorted(set(names) & set(seen))
        if known:
            raise InputError(f"{path}: {known[0]!r} is a class with training samples, expected new classes only")
        return list(names), unit_attributes(described).to(self.attributes)

    def _names(self) -> list[str]:
        return self.class_names or [str(number) for number in range(len(self.attributes))]

    @staticmethod
    def _best(probs: Float[Tensor, " candidate"], names: list[str], top: int) -> list[tuple[str, float]]:
        """The most probable candidates by name; those that cannot be the answer have a probability of 0."""
        if top < 1:
            raise InputError(f"top must be at least 1, found {top}")
        values, places = probs.topk(min(top, int((probs > 0).sum())))
        return [(names[place], float(value)) for value, place in zip(values, places.tolist(), strict=True)]

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """Features of the network in, logits among all classes of the test out."""
        example = torch.rand(1, len(self.minimum), generator=torch.Generator().manual_seed(0))
        return _Plain(self), (example,), ("features",), ("logits",)


class _Plain(nn.Module):
    def __init__(self, method: ZeroShotLearner) -> None:
        super().__init__()
        self.method = method

    def forward(self, features: Tensor) -> Tensor:
        task = torch.full((features.shape[0],), TESTING, device=features.device)
        return self.method.decide(self.method.scaled(features), task)[0]


def plane(spread: Float[Tensor, "_ latent"], *groups: Float[Tensor, "_ latent"]) -> list[Float[Tensor, "_ 2"]]:
    """All groups of points in the plane in which `spread` varies most (principal components).

    Examples:
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> [each.shape for each in plane(points, points, points[:1])]
        [torch.Size([3, 2]), torch.Size([1, 2])]
    """
    middle = spread.mean(dim=0)
    directions = torch.linalg.svd(spread - middle, full_matrices=False).Vh[:2]
    return [((group - middle) @ directions.T).cpu() for group in groups]
