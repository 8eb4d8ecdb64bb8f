"""Images of several categories, and references for each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ommatid.data.worlds.duos import DuoWorld
from ommatid.dense.augment import Augment
from ommatid.dense.data import (
    IGNORED,
    InMemory,
    MaskSet,
    Pictures,
    Views,
    hidden,
    mask_batch,
    read_pictures,
    read_source,
)
from ommatid.dense.reference_task import ReferenceBatch, ReferenceScores, query_scores
from ommatid.dense.task import BoundaryBatch
from ommatid.engine.data import DataModule
from ommatid.engine.settings import build
from ommatid.engine.streams import stream_loader
from ommatid.errors import InputError

MOST_CROPS = 10
"""How often a reference is cropped before it is taken whole."""
Place = tuple[int, int]
"""An image of the pool of references, and a category that it shows."""


class Query(NamedTuple):
    """What an image is asked for.

    Attributes:
        references: images of the pool that show the category.
        category: 0 where nobody knows what the image shows; the references are then of `of`.
        of: category of the references.
    """

    image: int
    category: int
    references: tuple[int, ...]
    of: int
    draw: int = 0


class ReferenceSample(NamedTuple):
    image: Float[Tensor, "3 height width"]
    map: Int[Tensor, "height width"]
    references: Float[Tensor, "shot 3 height width"]
    reference_masks: Float[Tensor, "shot 1 height width"]
    query: Query
    number: int


class ReferenceData(DataModule):
    """Images with label maps, asked for one category at a time by references of it.

    The training images with maps that come first, until every category has `shots`, are the labelled ones, and the pool
    of references of all splits; all training images are shown without their maps, too, asked for a category that they
    are known to show.

    Args:
        root: folder of the data set, see "Images with masks"; the embedded `world-duos` where None.
        format: of the data set, or "auto".
        world: settings of `DuoWorld`.
        source: folder of images with masks of other categories; of the embedded world its own where None. Of your own
            data the labelled images where None.
        source_format: as `format`.
        size: height and width that images are resized to, both sides on their own.
        augment: what training images and references go through, see `ommatid.dense.augment`.
        shots: labelled images of each category.
        reference_shots: references of a query where a split is evaluated.
        draws: how often every query of the test is asked, each time with other references.
        told: whether references show what is asked for, or any category: a control.
        negatives: share of labelled queries that ask for what the image does not show.
        labelled_batch: labelled queries of a step; `batch_size` are those of unlabelled images, and as many source
            images there are.
        steps_per_epoch: steps after which a validation follows.
    """

    def __init__(
        self,
        root: str | None = None,
        format: str = "auto",
        embedded: Literal["world-duos"] = "world-duos",
        world: Mapping[str, Any] | None = None,
        source: str | None = None,
        source_format: str = "auto",
        size: int = 128,
        augment: Augment = "none",
        shots: int = 5,
        reference_shots: int = 1,
        draws: int = 1,
        told: bool = True,
        negatives: float = 0.2,
        labelled_batch: int = 16,
        batch_size: int = 16,
        steps_per_epoch: int = 100,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, workers, seed)
        counts = {
            "shots": shots,
            "reference_shots": reference_shots,
            "draws": draws,
            "labelled_batch": labelled_batch,
            "steps_per_epoch": steps_per_epoch,
        }
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")
        if not 0 <= negatives < 1:
            raise InputError(f"negatives must lie in [0, 1), found {negatives}")
        self.root, self.format, self.embedded, self._world = root, format, embedded, dict(world or {})
        self.source, self.source_format = source, source_format
        self.size, self.augment, self.shots = size, augment, shots
        self.reference_shots, self.draws, self.told, self.negatives = reference_shots, draws, told, negatives
        self.labelled_batch, self.steps_per_epoch = labelled_batch, steps_per_epoch

    # -- what there is --

    @cached_property
    def pictures(self) -> dict[str, Pictures]:
        """train, val and test."""
        if self.root is not None:
            return read_pictures(self.root, self.format)
        return {"train": self._drawn("labelled", "unlabelled"), "val": self._drawn("val"), "test": self._drawn("test")}

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.pictures["train"].class_names)

    @cached_property
    def shown(self) -> dict[str, list[tuple[int, ...]]]:
        """Categories that every image of a split is known to show."""
        return {split: shown_categories(pictures) for split, pictures in self.pictures.items()}

    @cached_property
    def pool(self) -> list[int]:
        """The labelled images: numbers in the training split."""
        labelled = sorted(self.pictures["train"].labelled)
        chosen = few_of_each([self.shown["train"][number] for number in labelled], self.shots, len(self.class_names))
        if not chosen:
            raise InputError(f"{self.root}: found no training image with a map, expected some of each category")
        return [labelled[place] for place in chosen]

    @cached_property
    def by_category(self) -> dict[int, list[int]]:
        """Images of the pool that show each category."""
        found: dict[int, list[int]] = {}
        for number in self.pool:
            for category in self.shown["train"][number]:
                found.setdefault(category, []).append(number)
        return found

    @cached_property
    def source_set(self) -> MaskSet:
        """What boundaries are learnt from."""
        if self.source is not None:
            pictures = read_source(self.source, self.source_format)
            return MaskSet(pictures.select(pictures.labelled), self.size)
        if self.labels_are_source:
            return MaskSet(self.pictures["train"].select(self.pool), self.size)
        return MaskSet(self._drawn("source"), self.size)

    @property
    def labels_are_source(self) -> bool:
        """Whether the labelled images take the place of a source."""
        return self.source is None and self.root is not None

    def _drawn(self, *splits: str) -> InMemory:
        world = build(DuoWorld, {"size": self.size, "seed": self.seed, "shots": self.shots, **self._world})
        parts = [world.split(name) for name in splits]
        images, maps = torch.cat([part.images for part in parts]), torch.cat([part.maps for part in parts])
        return InMemory(images, maps, parts[0].class_names)

    def use(self, size: int) -> None:
        """Give images as a trained method expects them."""
        if size != self.size:
            self.size = size
            for name in ("pictures", "shown", "pool", "by_category", "source_set"):
                self.__dict__.pop(name, None)

    # -- queries --

    def dataset(self, split: str) -> "Queries":
        """Every image of a split, asked for each category that it shows, and for one that it does not."""
        generator = torch.Generator().manual_seed(0)
        numbers = self.pool if self.check_split(split) == "train" else list(self.pictures[split].labelled)
        found = [
            query
            for draw in range(self.draws if split == "test" else 1)
            for number in numbers
            for query in self._asked(split, number, draw, generator)
        ]
        if not any(query.category in self.shown[split][query.image] for query in found):
            raise InputError(f"{self.root}: found no image of a known category in {split}, expected at least 1")
        return Queries(self, self.pictures[split], found)

    def _asked(self, split: str, number: int, draw: int, generator: torch.Generator) -> list[Query]:
        shown = self.shown[split][number]
        absent = [category for category in self.by_category if category not in shown]
        categories = [category for category in shown if category in self.by_category]
        if absent:
            categories.append(absent[int(torch.randint(len(absent), (), generator=generator))])
        itself = number if split == "train" else None
        found = []
        for category in categories:
            of = self.outlined(category, generator)
            references = self.references(of, itself, self.reference_shots, generator)
            found.append(Query(number, category, references, of, draw))
        return found

    def outlined(self, category: int, generator: torch.Generator | None = None) -> int:
        """The category that the references show where one is asked for."""
        known = list(self.by_category)
        return category if self.told else known[int(torch.randint(len(known), (), generator=generator))]

    def references(
        self, category: int, itself: int | None, count: int, generator: torch.Generator | None = None
    ) -> tuple[int, ...]:
        """References of a category, drawn; never the image itself unless there is no other."""
        known = self.by_category[category]
        others = [number for number in known if number != itself] or known
        order = torch.randperm(len(others), generator=generator).tolist()
        return tuple(others[order[place % len(order)]] for place in range(count))

    def drawn_query(self, number: int, negatives: float) -> Query:
        """A query of a training image, drawn from torch's global generator."""
        shown = [category for category in self.shown["train"][number] if category in self.by_category]
        absent = [category for category in self.by_category if category not in shown]
        negative = bool(torch.rand(()) < negatives) and bool(absent)
        known = absent if negative else shown or list(self.by_category)
        category = known[int(torch.randint(len(known), ()))]
        of = self.outlined(category)
        return Query(number, category if shown else 0, self.references(of, number, 1), of)

    # -- batches --

    def collate(self, samples: Sequence[ReferenceSample]) -> ReferenceBatch:
        images, maps, references, reference_masks, queries, indices = zip(*samples, strict=True)
        stacked = torch.stack(maps)
        category = torch.tensor([query.category for query in queries])
        masks = (stacked == category[:, None, None])[:, None] & (category > 0)[:, None, None, None]
        return ReferenceBatch(
            torch.stack(images),
            masks.float(),
            (stacked != IGNORED)[:, None],
            torch.tensor(indices),
            stacked,
            torch.stack(references),
            torch.stack(reference_masks),
            category,
            masks.flatten(1).any(dim=1),
            torch.tensor([query.draw for query in queries]),
        )

    def streams(self) -> dict[str, Dataset[Any]]:
        """The three data sets of a training step."""
        everything = range(len(self.pictures["train"]))
        return {
            "unlabelled": DrawnQueries(self, everything, 0.0),
            "source": self.source_set.changed_by(self.augment),
            "labelled": DrawnQueries(self, self.pool, self.negatives),
        }

    def train_dataloader(self) -> DataLoader[BoundaryBatch]:
        counts = {"unlabelled": self.batch_size, "source": self.batch_size, "labelled": self.labelled_batch}
        return stream_loader(self, self.streams(), counts, self.steps_per_epoch, self.collate_streams)

    def collate_streams(self, samples: Mapping[str, Sequence[Any]]) -> BoundaryBatch:
        """One step, of its samples by stream."""
        unlabelled = self.collate(samples["unlabelled"])
        nothing = torch.full_like(unlabelled.maps, IGNORED)
        # Nobody knows the masks of these: not even a mistake of a method can use them.
        unknown = replace(hidden(unlabelled), maps=nothing, present=unlabelled.category > 0)
        source, labelled = mask_batch(samples["source"]), self.collate(samples["labelled"])
        return BoundaryBatch(unknown, source, labelled, self.labels_are_source)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Every object, whatever is asked for; everything; and nothing."""
        queries = self.dataset(split)
        scores = {name: ReferenceScores() for name in ("all background", "all foreground", "every object")}
        for start in range(0, len(queries), 64):
            batch = self.collate([queries[place] for place in range(start, min(start + 64, len(queries)))])
            objects = ((batch.maps > 0) & (batch.maps != IGNORED))[:, None]
            guesses = torch.zeros_like(objects), torch.ones_like(objects), objects
            for each, guess in zip(scores.values(), guesses, strict=True):
                each.update(batch.index, query_scores(guess, batch))
        return {name: each.compute() for name, each in scores.items()}

    def describe(self) -> dict[str, Any]:
        name = f"{Path(self.root).name}" if self.root else self.embedded
        sizes = {split: len(pictures) for split, pictures in self.pictures.items()}
        return {
            "name": name,
            "images": sizes,
            "labelled": len(self.pool),
            "categories": len(self.class_names),
            "source": len(self.source_set),
            "size": self.size,
        }


class Queries(Dataset[ReferenceSample]):
    """Images, what each is asked for, and its references; nothing is drawn."""

    draws = False

    def __init__(self, data: ReferenceData, pictures: Pictures, queries: Sequence[Query]) -> None:
        self.views, self.pool = Views(pictures, data.size), Views(data.pictures["train"], data.size)
        self.queries = list(queries)

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> ReferenceSample:
        return reference_sample(self.views, self.pool, self.queries[index], index)


class DrawnQueries(Dataset[ReferenceSample]):
    """Training images, each asked for something that is drawn anew, and augmented as its references are."""

    draws = True

    def __init__(self, data: ReferenceData, numbers: Sequence[int], negatives: float) -> None:
        self.data, self.numbers, self.negatives = data, list(numbers), negatives
        self.views = Views(data.pictures["train"], data.size, data.augment)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> ReferenceSample:
        query = self.data.drawn_query(self.numbers[index], self.negatives)
        return reference_sample(self.views, self.views, query, index)


def reference_sample(views: Views, pool: Views, query: Query, index: int) -> ReferenceSample:
    """The image of a query, and its references of the pool, at one size."""
    image, classes = views.of(query.image)
    references = [outlining(pool, number, query.of) for number in query.references]
    return ReferenceSample(
        image.float() / 255,
        classes.long(),
        torch.stack([each for each, _ in references]).float() / 255,
        torch.stack([each for _, each in references]),
        query,
        index,
    )


def outlining(
    views: Views, number: int, category: int
) -> tuple[UInt8[Tensor, "3 size size"], Float[Tensor, "1 size size"]]:
    """A view of a reference that still shows its category, and where: a crop may have lost it."""
    for _ in range(MOST_CROPS if views.changes else 1):
        image, classes = views.of(number)
        if (classes == category).any():
            return image, (classes == category)[None].float()
    # By area: an object that is smaller than a pixel is still there.
    outline = (views.pictures.label_map(number) == category)[None, None].float()
    image, _ = views.plain().of(number)
    return image, F.interpolate(outline, image.shape[1:], mode="area")[0]


def shown_categories(pictures: Pictures) -> list[tuple[int, ...]]:
    """The categories of every image: of its map, or what is said of it as a whole; none where nobody knows."""
    told = getattr(pictures, "categories", (0,) * len(pictures))
    labelled = frozenset(pictures.labelled)
    return [
        tuple(value for value in pictures.label_map(number).unique().tolist() if value not in (0, IGNORED))
        if number in labelled
        else ((told[number],) if told[number] else ())
        for number in range(len(pictures))
    ]


def few_of_each(shown: Sequence[Sequence[int]], shots: int, categories: int) -> list[int]:
    """The first images until every category has been shown so often; images that add nothing are left out.

    Examples:
        >>> few_of_each([(1,), (1,), (1, 2), (2,)], shots=1, categories=2)
        [0, 2]
    """
    left = dict.fromkeys(range(1, categories + 1), shots)
    chosen = []
    for number, each in enumerate(shown):
        if any(left[category] > 0 for category in each):
            chosen.append(number)
            for category in each:
                left[category] -= 1
    return chosen
