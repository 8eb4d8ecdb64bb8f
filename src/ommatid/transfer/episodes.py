"""Episodes of few-shot learning: which images they are made of, and how answers are scored."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Sampler

from ommatid.engine.data import epoch_seed
from ommatid.errors import InputError


class EpisodicBatchSampler(Sampler[list[int]]):
    """The images of every episode, classes in turn: c1 c2 c3 c1 c2 c3 ..., supports before queries.

    Which images an episode has is a function of the seed and its number alone: methods that are evaluated with the same
    seed answer the same episodes, in whatever batches and on however many processes.

    Args:
        labels: class of every image.
        episodes: how many there are.
        way: classes of an episode.
        images: of each class, supports and queries together.
        episodes_per_batch: whose images follow each other in a batch.

    Raises:
        InputError: there are fewer than `way` classes with `images` images, or a number is below 1.

    Examples:
        >>> labels = torch.arange(4).repeat_interleave(5)
        >>> sampler = EpisodicBatchSampler(labels, episodes=10, way=3, images=2, seed=1)
        >>> labels[sampler.episode(0)].tolist()
        [0, 1, 2, 0, 1, 2]
        >>> next(iter(sampler)) == sampler.episode(0).tolist()
        True
    """

    def __init__(
        self,
        labels: Int[Tensor, "image"],
        episodes: int,
        way: int,
        images: int,
        episodes_per_batch: int = 1,
        seed: int = 0,
    ) -> None:
        for name, value in {"episodes": episodes, "way": way, "images": images, "batch": episodes_per_batch}.items():
            if value < 1:
                raise InputError(f"{name}: found {value}, expected at least 1")
        self.episodes, self.way, self.images = episodes, way, images
        self.episodes_per_batch, self.seed = episodes_per_batch, seed
        numbers = [(labels == label).nonzero()[:, 0] for label in labels.unique().tolist()]
        self.members = [each for each in numbers if len(each) >= images]
        if len(self.members) < way:
            raise InputError(
                f"way: found {way}, expected {len(self.members)} at most, the classes with {images} images (supports "
                "and queries of an episode)"
            )

    def __len__(self) -> int:
        return math.ceil(self.episodes / self.episodes_per_batch)

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(0, self.episodes, self.episodes_per_batch):
            numbers = range(first, min(first + self.episodes_per_batch, self.episodes))
            yield torch.cat([self.episode(number) for number in numbers]).tolist()

    def episode(self, number: int) -> Int[Tensor, "image"]:
        """Positions of the images of one episode."""
        generator = torch.Generator().manual_seed(episode_seed(self.seed, number))
        chosen = torch.randperm(len(self.members), generator=generator)[: self.way].sort().values.tolist()
        # Classes have different numbers of images: each is shuffled on its own.
        drawn = [
            self.members[label][torch.randperm(len(self.members[label]), generator=generator)[: self.images]]
            for label in chosen
        ]
        return torch.stack(drawn, dim=1).flatten()


def episode_seed(seed: int, number: int) -> int:
    """One seed for what is drawn in an episode."""
    return epoch_seed(seed, number, 77)


def episode_labels(way: int, images: int) -> Int[Tensor, "image"]:
    """The classes of an episode's images in their order, counted from 0.

    Examples:
        >>> episode_labels(3, 2)
        tensor([0, 1, 2, 0, 1, 2])
    """
    return torch.arange(way).repeat(images)


class FewShotAccuracy(NamedTuple):
    """Mean over episodes, and half the width of its 95 % interval, 1.96 standard errors."""

    mean: float
    ci95: float


def episode_accuracy(
    scores: Float[Tensor, "episode query way"], labels: Int[Tensor, "episode query"]
) -> Float[Tensor, "episode"]:
    """Share of the queries of every episode whose best class is the right one."""
    return (scores.argmax(dim=-1) == labels).float().mean(dim=1)


def few_shot_accuracy(
    scores: Float[Tensor, "episode query way"], labels: Int[Tensor, "episode query"]
) -> FewShotAccuracy:
    """Accuracy over episodes with its interval, as few-shot tables report it.

    Examples:
        >>> labels = episode_labels(2, 2).expand(3, 4)
        >>> few_shot_accuracy(torch.eye(2)[labels], labels)
        FewShotAccuracy(mean=1.0, ci95=0.0)
    """
    return interval(episode_accuracy(scores, labels))


def interval(values: Float[Tensor, "episode"]) -> FewShotAccuracy:
    """Mean and half width of the 95 % interval; NaN for the width of a single episode.

    Examples:
        >>> mean, ci95 = interval(torch.tensor([0.5, 0.7, 0.6]))
        >>> round(mean, 3), round(ci95, 3)
        (0.6, 0.113)
    """
    values = values.double()
    spread = float(values.std(correction=1)) if len(values) > 1 else math.nan
    return FewShotAccuracy(float(values.mean()), 1.96 * spread / math.sqrt(len(values)))


def class_means(support: Float[Tensor, "*episode way shot feature"]) -> Float[Tensor, "*episode way feature"]:
    """One prototype a class (arXiv:1703.05175, eq. 1)."""
    return support.mean(dim=-2)


def cosine_prototype_scores(
    support: Float[Tensor, "*episode way shot feature"], query: Float[Tensor, "*episode query feature"]
) -> Float[Tensor, "*episode query way"]:
    """Cosine between every query and the mean of every class.

    Examples:
        >>> cosine_prototype_scores(torch.eye(3)[:, None], torch.eye(3)).argmax(dim=-1)
        tensor([0, 1, 2])
    """
    prototypes = F.normalize(class_means(support).float(), dim=-1)
    return F.normalize(query.float(), dim=-1) @ prototypes.mT


def euclidean_prototype_scores(
    support: Float[Tensor, "*episode way shot feature"], query: Float[Tensor, "*episode query feature"]
) -> Float[Tensor, "*episode query way"]:
    """Minus the squared distance between every query and the mean of every class (arXiv:1703.05175, eq. 2).

    Examples:
        >>> euclidean_prototype_scores(torch.tensor([[[0.0]], [[3.0]]]), torch.tensor([[1.0]]))
        tensor([[-1., -4.]])
    """
    return -torch.cdist(query.float(), class_means(support).float()).square()
