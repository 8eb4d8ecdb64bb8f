"""COSOC: Rectifying the Shortcut Learning of Background for Few-Shot Learning (arXiv:2107.07746, NeurIPS 2021).

Background helps to tell classes apart that one has learnt, and misleads about new ones. Nobody says where the objects
are; they are found twice. Among training images by clustering (COS): a cluster of crops that most images of a class
reach is one of objects, and training crops are taken around them (E3-E8), once an encoder was trained that tells
images apart rather than classes (E2). In an episode by comparing (SOC): what the crops of all pictures of a class
share is its object, and queries are matched with it crop by crop (E10-E13). Equation numbers refer to
docs/methods/cosoc.md.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.data.few_shot import MINI_IMAGENET
from ommatid.engine.checkpoint import Checkpoint, read_foreign
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Phase, Recipe
from ommatid.errors import InputError
from ommatid.nn.cosine_classifier import CosineClassifier
from ommatid.nn.crops import take_crops
from ommatid.nn.normalise import Normalise
from ommatid.nn.object_concentrator import (
    SharedObjectConcentrator,
    greedy_matching,
    shared_prototypes,
    unit_vectors,
)
from ommatid.nn.object_seeking import fusion_boxes
from ommatid.nn.resnet12 import few_shot_backbone, published_backbone
from ommatid.transfer.episode_views import (
    Crops,
    Images,
    View,
    drawn_crops,
    middle_boxes,
    upright,
    views_in_parts,
)
from ommatid.transfer.episodes import cosine_prototype_scores, episode_accuracy, interval
from ommatid.transfer.exemplar import ExemplarPretraining, exemplar_view
from ommatid.transfer.few_shot_data import BaseImages, EpisodeData
from ommatid.transfer.few_shot_learner import FewShotLearner
from ommatid.transfer.few_shot_task import BaseClassBatch, CropMatch, EpisodeBatch
from ommatid.transfer.fusion import FoundObjects, Fusion, KnownBoxes, in_batches

Evaluate = Literal["whole", "average", "soc", "boxes"]
VIEWS: dict[Evaluate, View] = {"whole": "whole", "average": "crops", "soc": "crops", "boxes": "boxes"}
"""What each way of deciding looks at; "average" and "soc" see the same crops."""
Vectors = Float[Tensor, "image crop feature"]


class COSOC(FewShotLearner):
    """Objects found by clustering in training and by comparing in episodes (arXiv:2107.07746, E1-E13).

    Args:
        num_classes, num_images, image_size: as the data have them: base classes, their images, pixels of a side.
        crop_size: pixels that the encoder sees of a crop.
        backbone: "resnet12", "conv4" or "conv4-32".
        mean, std: of every channel; those of miniImageNet.
        exemplar_share: share of the updates in which the encoder learns to tell images apart (E2); 0 for none.
        exemplar_weights: file of an encoder that has learnt that, the authors' or of this library; it then learns
            classes from the first update on.
        embed_dim, queue, momentum, temperature: of the contrast (E2).
        seek_crops, clusters, coverage, top: random crops of each training image, clusters of a class, share of its
            images that must reach a cluster of objects, crops kept of each image (E3-E5).
        fusion: training crops are taken around crops found by clustering ("cos"), around the boxes of the data
            ("boxes"), or anywhere ("none") (E8).
        box_probability: with which a box of the data is used.
        relax: factor by which a found crop is grown.
        evaluate: what episodes are decided by: "soc" (E10-E13), the "average" of the same crops, the "whole" image, or
            the "boxes" of the data, where objects are known.
        crops: random crops of every image of an episode.
        alpha, beta: weights of later rounds (E11) and of later matches (E13).
        centre: share of each side that "whole" shows; the paper resizes to 92 pixels and cuts the middle 84.
        scale: of the cosine classifier at the start (E9).
        as_released: match crops, choose prototypes and weigh found crops as the released code does.
        recipe, exemplar_recipe: of the classifier's training and of the contrast.
    """

    several_optimizers = True
    trained_elsewhere = ("exemplar.key_",)
    embedded = {
        "model": {
            "crop_size": 32,
            "backbone": "conv4-32",
            "exemplar_share": 0.25,
            "embed_dim": 32,
            "queue": 1024,
            "momentum": 0.99,
            "temperature": 0.1,
            "seek_crops": 8,
            "centre": 1.0,
            "recipe": {"optimizer": "adam", "lr": 3e-3, "weight_decay": 0.0},
            "exemplar_recipe": {"optimizer": "adam", "lr": 3e-3, "weight_decay": 0.0},
        },
        "data": {
            "size": 48,
            "batch_size": 64,
            "queries": 8,
            "episodes": 300,
            "val_episodes": 100,
            "world": {"train": 40, "images": 30},
        },
        "trainer": {"max_steps": 1200, "max_epochs": -1, "check_val_every_n_epoch": 16},
    }

    def __init__(
        self,
        num_classes: int = 64,
        num_images: int = 38_400,
        image_size: int = 168,
        crop_size: int = 84,
        backbone: str = "resnet12",
        mean: tuple[float, ...] = MINI_IMAGENET[0],
        std: tuple[float, ...] = MINI_IMAGENET[1],
        exemplar_share: float = 0.98,
        exemplar_weights: str | None = None,
        embed_dim: int = 128,
        queue: int = 65_536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        seek_crops: int = 30,
        clusters: int = 5,
        coverage: float = 0.5,
        top: int = 3,
        fusion: Fusion = "cos",
        box_probability: float = 0.7,
        relax: float = 1.2,
        evaluate: Evaluate = "soc",
        crops: int = 7,
        alpha: float = 1.0,
        beta: float = 0.8,
        centre: float = 84 / 92,
        scale: float = 10.0,
        as_released: bool = False,
        recipe: Recipe = Recipe("nesterov", lr=5e-3, weight_decay=5e-4, schedule="cosine", decay_vectors=True),
        exemplar_recipe: Recipe = Recipe("nesterov", lr=0.1, weight_decay=5e-4, schedule="cosine", decay_vectors=True),
    ) -> None:
        super().__init__()
        _check_shares(exemplar_share=exemplar_share, coverage=coverage, box_probability=box_probability, centre=centre)
        for name, value in {"crops": crops, "seek_crops": seek_crops, "clusters": clusters, "top": top}.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.normalise = Normalise(mean, std)
        self.encoder = few_shot_backbone(backbone)
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs
        self.classifier = CosineClassifier(self.encoder.out_channels, num_classes, scale)
        self.concentrator = SharedObjectConcentrator(alpha, beta, as_released)
        if exemplar_weights is not None:
            self.encoder.load_state_dict(published_backbone(read_foreign(Path(exemplar_weights)), self.encoder))
        self._table: Vectors | None = None
        self._to_seek = False
        self.exemplar: ExemplarPretraining | None = None
        if exemplar_weights is None and exemplar_share > 0:
            self.exemplar = ExemplarPretraining(
                self.encoder, self.encoder.out_channels, embed_dim, queue, momentum, temperature
            )
        self.fusion = _fusion(fusion, num_images, seek_crops, clusters, coverage, top, box_probability, as_released)

    def adopt(self, data: DataModule) -> None:
        super().adopt(data)
        assert isinstance(data, EpisodeData)
        for setting in ("fusion", "evaluate"):
            if self.hparams[setting] == "boxes" and not data.has_boxes:
                raise InputError(f"{setting}: found 'boxes', expected another, since these data have none")

    # -- seeing --

    def encode(self, views: Float[Tensor, "view 3 side side"]) -> Float[Tensor, "view feature rows columns"]:
        """The encoder's map of crops in [0, 1]."""
        return self.encoder(self.normalise(views).contiguous(memory_format=torch.channels_last))

    def vectors(self, images: Images, crops: Crops) -> Vectors:
        """A unit vector of every crop (E1)."""
        size = int(self.hparams.crop_size)
        # In parts: the crops of some episodes would not fit into memory at once.
        found = [unit_vectors(self.encode(views)) for views in views_in_parts(images, crops, size)]
        return torch.cat(found).unflatten(0, crops.boxes.shape[:2])

    def crops(
        self, view: View, images: Images, boxes: Float[Tensor, "image 4"], numbers: Int[Tensor, "image"], seed: int
    ) -> Crops:
        """Which parts of images are looked at."""
        height, width = images.shape[2:]
        middle = middle_boxes(len(images), height, width, self.hparams.centre).to(images.device)
        if view == "crops":
            return drawn_crops(numbers, self.hparams.crops, height, width, seed).to(images.device)
        if view == "boxes":
            known = boxes.isfinite().all(dim=1)[:, None, None]
            return upright(torch.where(known, boxes[:, None], middle))
        return upright(middle)

    def classify(self, images: Images) -> Float[Tensor, "image class"]:
        """Logits of the base classes, of whole images (E9)."""
        height, width = images.shape[2:]
        crops = upright(middle_boxes(len(images), height, width, self.hparams.centre).to(images.device))
        return self.classifier(self.vectors(images, crops)[:, 0])

    # -- training --

    def phases(self) -> dict[str, Phase]:
        first = self.exemplar_updates
        rest = None if self._trainer is None else self._updates - first
        phases = {"classifier": Phase([self.encoder, self.classifier], self.recipe, total=rest)}
        if self.exemplar is not None:
            modules = [self.encoder, self.exemplar.head]
            phases["exemplar"] = Phase(modules, self.hparams.exemplar_recipe, total=None if rest is None else first)
        return phases

    @property
    def exemplar_updates(self) -> int:
        """Updates in which the encoder learns to tell images apart; none without a trainer."""
        if self.exemplar is None or self._trainer is None:
            return 0
        return round(self.hparams.exemplar_share * self._updates)

    @property
    def _updates(self) -> int:
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise InputError(
                "exemplar_share is a share of the training, expected trainer.max_steps or max_epochs above 0"
            )
        return int(total)

    def on_train_start(self) -> None:
        """What was found in other images is not used."""
        if not isinstance(self.fusion, FoundObjects):
            return
        if self.global_step == 0:
            self.fusion.forget()
        self._to_seek = not self.fusion.sought
        self.fusion.check(self.trainer.datamodule.sets["train"].labels)  # type: ignore[attr-defined]

    def training_step(self, batch: BaseClassBatch, _: int) -> None:
        """The contrast of images (E2), later classes from crops around what was found (E8, E9)."""
        if self.exemplar is not None and self.global_step < self.exemplar_updates:
            loss = self.exemplar_loss(batch)
            # A training on several processes expects a gradient of every parameter.
            self.update("exemplar", loss=loss + _nothing(self.classifier))
            self.exemplar.follow(self.encoder)
            self.report(loss=loss, exemplar=loss)
            return
        if self._to_seek:
            self.seek(self.trainer.datamodule)  # type: ignore[attr-defined]
        loss = self.classifier_loss(batch)
        unused = [self.exemplar.head] if self.exemplar is not None else []
        self.update("classifier", loss=loss + _nothing(*unused))
        self.report(loss=loss, classifier=loss)

    def exemplar_loss(self, batch: BaseClassBatch) -> Float[Tensor, ""]:
        """Two views of every image, one through the encoder and one through its momentum copy (E2)."""
        assert self.exemplar is not None
        query, key = (
            self.normalise(exemplar_view(batch.images, self.hparams.crop_size)).contiguous(
                memory_format=torch.channels_last
            )
            for _ in range(2)
        )
        return self.exemplar.loss(self.encoder, query, key, batch.labels)

    def classifier_loss(self, batch: BaseClassBatch) -> Float[Tensor, ""]:
        """Base classes from one crop of every image (E8, E9)."""
        boxes, chances = self.fusion(batch)
        height, width = batch.images.shape[2:]
        crops = fusion_boxes(boxes, chances, height, width, self.hparams.relax)[:, None]
        mirrored = torch.rand(len(crops), 1, device=crops.device) < 0.5
        views = take_crops(batch.images, crops, self.hparams.crop_size, mirrored)[:, 0]
        return F.cross_entropy(self.classifier(unit_vectors(self.encode(views))), batch.labels)

    @torch.no_grad()
    def seek(self, data: EpisodeData) -> None:
        """Find the objects of all training images with the encoder as it is (E3-E7)."""
        assert isinstance(self.fusion, FoundObjects)
        training = self.training
        self.eval()
        self.fusion.seek(data, self.vectors)
        self._to_seek = False
        self.train(training)

    # -- episodes --

    def forward(self, batch: EpisodeBatch) -> Float[Tensor, "episode query way"]:
        images, view = batch.images, VIEWS[self.hparams.evaluate]
        parts = (images.flatten(0, 1), batch.boxes.flatten(0, 1), batch.numbers.flatten())
        vectors = self.vectors(parts[0], self.crops(view, *parts, int(batch.seed[0]))).unflatten(0, images.shape[:2])
        return self.decide(self.hparams.evaluate, vectors, batch)

    def decide(
        self, way: Evaluate, vectors: Float[Tensor, "episode image crop feature"], batch: EpisodeBatch
    ) -> Float[Tensor, "episode query way"]:
        """Scores from the vectors of the crops of supports and queries."""
        classes, shot = batch.support.shape[1:3]
        support = vectors[:, : classes * shot].unflatten(1, (classes, shot))
        decided = self.concentrator if way == "soc" else average_scores
        return decided(support, vectors[:, classes * shot :])

    def score(self, batch: BaseClassBatch | EpisodeBatch) -> dict[str, Float[Tensor, "batch"]]:
        """As of every few-shot learner; episodes of few different images are put together of their vectors."""
        if self._table is None or isinstance(batch, BaseClassBatch):
            return super().score(batch)
        scores = self.decide(self.hparams.evaluate, self._table[batch.numbers], batch)
        return {"accuracy": episode_accuracy(scores, batch.labels)}

    def on_validation_epoch_start(self) -> None:
        self._table = self._tabulated("val")

    def on_test_epoch_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        self._table = self._tabulated(data.evaluated_split) if data is not None else None

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._table = None

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._table = None

    def _tabulated(self, split: str) -> Vectors | None:
        """Vectors of all images of a part, where its episodes show each of them several times."""
        data = getattr(self.trainer, "datamodule", None)
        if data is None or split == "train" or not data.repeats(split):
            return None
        return self.table(data, split, VIEWS[self.hparams.evaluate])

    @torch.no_grad()
    def table(self, data: EpisodeData, split: str, view: View) -> Vectors:
        """Vectors of the crops of all images of a part."""
        images = BaseImages(data.sets[split], data.size)
        found = []
        for batch in in_batches(images, torch.arange(len(images)), data):
            batch = batch.to(self.device)
            found.append(
                self.vectors(batch.images, self.crops(view, batch.images, batch.boxes, batch.index, data.seed))
            )
        return torch.cat(found)

    @torch.no_grad()
    def answer(
        self, image: Float[Tensor, "3 height width"], supports: Sequence[Float[Tensor, "_ 3 height width"]]
    ) -> tuple[Float[Tensor, "way"], dict[int, tuple[CropMatch, ...]]]:
        """Scores of one image against classes of any number of pictures each, the best possible being 1."""
        view, concentrates = VIEWS[self.hparams.evaluate], self.hparams.evaluate == "soc"
        sizes = [1, *(len(support) for support in supports)]
        images = torch.cat([image[None], *supports])
        unknown_boxes = torch.full((len(images), 4), torch.nan, device=images.device)
        crops = self.crops(view, images, unknown_boxes, torch.arange(len(images)), 0)
        asked, *boxes = crops.boxes.split(sizes)
        query, *vectors = self.vectors(images, crops).split(sizes)
        scores, matches = [], {}
        # Class by class: the user may have more pictures of one than of another.
        for number, known in enumerate(vectors):
            decided = self.concentrator if concentrates else average_scores
            scores.append(decided(known[None, None], query[None])[0, 0, 0])
            if concentrates:
                matches[number] = self._matches(known, query[0], boxes[number], asked[0])
        best = self.concentrator.highest(int(self.hparams.crops)) if concentrates else 1.0
        return torch.stack(scores) / best, matches

    def _matches(
        self,
        known: Float[Tensor, "shot crop feature"],
        query: Float[Tensor, "crop feature"],
        boxes: Float[Tensor, "shot crop 4"],
        asked: Float[Tensor, "crop 4"],
    ) -> tuple[CropMatch, ...]:
        """Which crops a score rests on, the most similar first."""
        prototypes = shared_prototypes(known, self.hparams.alpha, self.hparams.as_released)
        found = greedy_matching(prototypes.vectors @ query.T, self.hparams.as_released)
        return tuple(
            CropMatch(
                tuple(asked[column].tolist()),
                tuple(tuple(each[crop].tolist()) for each, crop in zip(boxes, crops, strict=True)),
                float(value),
            )
            for value, crops, column in zip(
                found.values, prototypes.crops[found.rows].tolist(), found.columns.tolist(), strict=True
            )
        )

    # -- what came of it --

    @torch.no_grad()
    def read_outs(self, data: DataModule) -> dict[str, float]:
        """Accuracy by every way of deciding, on the same episodes and crops; what is known of images of base classes
        that were not learnt from; and how well the found crops meet the objects.
        """
        assert isinstance(data, EpisodeData)
        self.eval()
        found = self.fusion.overlaps(data) if isinstance(self.fusion, FoundObjects) else {}
        return {**self._accuracies(data), **self._base_accuracies(data), **found}

    def _accuracies(self, data: EpisodeData) -> dict[str, float]:
        split = data.evaluated_split
        if split == "train":
            return {}
        tables = {view: self.table(data, split, view) for view in ("whole", "crops", "boxes")}
        found: dict[Evaluate, list[Tensor]] = {way: [] for way in VIEWS}
        for batch in data.test_dataloader():
            batch = batch.to(self.device)
            for way, view in VIEWS.items():
                scores = self.decide(way, tables[view][batch.numbers], batch)
                found[way].append(episode_accuracy(scores, batch.labels))
        values = {way: torch.cat(each) for way, each in found.items() if way != "boxes" or data.has_boxes}
        gain = interval(values["soc"] - values["average"])
        accuracies = {f"accuracy/{way}": interval(each).mean for way, each in values.items()}
        return {**accuracies, "soc over average": gain.mean, "soc over average ci95": gain.ci95}

    def _base_accuracies(self, data: EpisodeData) -> dict[str, float]:
        images = data.held_out
        if images is None:
            return {}
        right: dict[View, list[Tensor]] = {"whole": [], "boxes": []}
        for batch in in_batches(images, torch.arange(len(images)), data):
            batch = batch.to(self.device)
            for view, each in right.items():
                crops = self.crops(view, batch.images, batch.boxes, batch.index, data.seed)
                logits = self.classifier(self.vectors(batch.images, crops)[:, 0])
                each.append(logits.argmax(dim=1) == batch.labels)
        found = {f"base/{view}": float(torch.cat(each).float().mean()) for view, each in right.items()}
        own = f"base/{VIEWS[self.hparams.evaluate]}"
        return {**found, "base": found[own]} if own in found else found

    # -- checkpoints and export --

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' backbone, told by the order of its layers; whatever else they release stays behind."""
        encoder = published_backbone(state, self.encoder)
        return {**self.state_dict(), **{f"encoder.{name}": value for name, value in encoder.items()}}

    def checkpoint(self) -> Checkpoint:
        """The encoder stands among the weights; its file need not exist any more when the checkpoint is loaded."""
        written = super().checkpoint()
        if self.hparams.exemplar_weights is None:
            return written
        return replace(written, settings={**written.settings, "exemplar_weights": None, "exemplar_share": 0.0})

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """The encoder: unit vectors and base-class logits of crops in [0, 1], from which episodes are scored."""
        size = int(self.hparams.crop_size)
        example = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        return _Encoder(self), (example,), ("images",), ("vectors", "logits")


class _Encoder(nn.Module):
    def __init__(self, method: COSOC) -> None:
        super().__init__()
        self.normalise, self.encoder, self.classifier = method.normalise, method.encoder, method.classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vectors = unit_vectors(self.encoder(self.normalise(images)))
        return vectors, self.classifier(vectors)


def average_scores(
    support: Float[Tensor, "*episode way shot crop feature"], query: Float[Tensor, "*episode query crop feature"]
) -> Float[Tensor, "*episode query way"]:
    """What SOC is compared with: cosines between the mean of a query's crops and that of all crops of a class."""
    support, query = (F.normalize(each.mean(dim=-2), dim=-1) for each in (support, query))
    return cosine_prototype_scores(support, query)


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name} must lie from 0 to 1, found {value}")


def _fusion(
    kind: Fusion,
    images: int,
    seek_crops: int,
    clusters: int,
    coverage: float,
    top: int,
    box_probability: float,
    as_released: bool,
) -> FoundObjects | KnownBoxes:
    if kind == "cos":
        return FoundObjects(images, seek_crops, clusters, coverage, top, as_released)
    return KnownBoxes(box_probability if kind == "boxes" else 0.0)


def _nothing(*modules: nn.Module) -> Float[Tensor, ""] | float:
    return 0.0 * sum(each.sum() for module in modules for each in module.parameters())


_MODEL = {name: value for name, value in COSOC.embedded["model"].items() if not name.endswith("recipe")}


def _arm(role: Any, evaluate: Evaluate = "soc", fusion: Fusion = "cos", **settings: Any) -> Arm:
    return Arm(role, {**_MODEL, "evaluate": evaluate, "fusion": fusion, **settings})


_BUDGET: dict[str, Any] = {
    "model": {name: value for name, value in COSOC.embedded["model"].items() if name.endswith("recipe")},
    "data": COSOC.embedded["data"],
    "trainer": COSOC.embedded["trainer"],
    "tuning": {"recipe.lr": (1.5e-3, 3e-3, 6e-3)},
}

COSOC.claims = (
    Claim(
        name="cosoc",
        statement="On the same episodes of new classes, and on the same crops, the shared object concentrator is more "
        "accurate than the average of the crops.",
        arms={
            "SOC": _arm("method"),
            "average of the crops": _arm("baseline", "average"),
            "whole images": _arm("reported", "whole"),
            "object boxes": _arm("reported", "boxes"),
        },
        criteria=(Criterion("accuracy", versus="average of the crops", margin=0.005),),
        shown=("accuracy", "ci95", "soc over average", "soc over average ci95", "iou/found", "iou/random"),
        source="docs/methods/cosoc.md, claim B",
        **_BUDGET,
    ),
    Claim(
        name="cosoc-foreground",
        statement="After an ordinary training, new classes are told apart more accurately by their objects than by "
        "whole images, although the classes that were learnt are not.",
        arms={
            "object boxes": _arm("method", "boxes", "none", exemplar_share=0.0),
            "whole images": _arm("baseline", "whole", "none", exemplar_share=0.0),
            "average of crops": _arm("reported", "average", "none", exemplar_share=0.0),
        },
        criteria=(
            Criterion("accuracy", versus="whole images", margin=0.02),
            Criterion("base", versus="whole images", direction="lower", kind="not worse", margin=0.02),
        ),
        shown=("accuracy", "ci95", "base"),
        source="docs/methods/cosoc.md, claim A",
        **_BUDGET,
    ),
    Claim(
        name="cosoc-fusion",
        statement="Training crops around objects that were found by clustering raise the accuracy on episodes of new "
        "classes that the shared object concentrator decides.",
        arms={
            "found objects": _arm("method"),
            "no fusion": _arm("baseline", fusion="none"),
            "object boxes": _arm("reported", fusion="boxes"),
            "no fusion, no contrast": _arm("reported", fusion="none", exemplar_share=0.0),
        },
        criteria=(Criterion("accuracy", versus="no fusion", margin=0.01),),
        shown=("accuracy", "ci95", "accuracy/whole", "accuracy/boxes", "iou/found", "iou/random"),
        source="docs/methods/cosoc.md, claim, fusion",
        **_BUDGET,
    ),
)
