"""The virtual attention module of KDExplainer (arXiv:2105.04181, IJCAI 2021) in ordinary students.

What the expert hierarchy showed, that students of a teacher specialise, is built into any convolutional student: its
filters stand in blocks, and every block weighs the blocks of channels that it reads (E8, E9), pushed to few of them by
their entropy (E10, E11). After training the weights are multiplied into the filters, and the student costs what it did.
It stands beside five ways to teach: soft targets, FitNets, factor transfer, similarity preserving, and contrastive
representations. Equation numbers refer to docs/methods/vam.md.
"""

from copy import deepcopy
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.classification.data import ImageData
from ommatid.classification.task import ImageBatch
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.losses.distillation import distillation_loss
from ommatid.losses.feature_distillation import (
    ContrastiveRepresentationLoss,
    FactorLoss,
    HintLoss,
    similarity_loss,
)
from ommatid.nn.classifiers import CIFAR_CLASSIFIERS, CifarClassifier
from ommatid.nn.views import crop_flip
from ommatid.nn.virtual_attention import add_virtual_attention, attention_entropy, fold_virtual_attention
from ommatid.transfer.distilled import Distilled
from ommatid.transfer.networks import build_classifier
from ommatid.transfer.published import network_of

Features = dict[str, Any]
Lesson = Literal["kd", "fitnets", "ft", "sp", "crd"]
WEIGHTS: dict[Lesson, tuple[float, float, float]] = {
    "kd": (0.1, 0.9, 0.0),
    "fitnets": (1.0, 0.0, 100.0),
    "ft": (1.0, 0.0, 200.0),
    "sp": (1.0, 0.0, 3000.0),
    "crd": (1.0, 0.0, 0.8),
}
"""Of labels, of soft targets and of features, as distillation studies set them."""


class VAM(Distilled):
    """Virtual attention (arXiv:2105.04181, Part 2): blocks of a student's filters choose what they read (E8-E11).

    Args:
        num_classes, channels, image_size, mean, std, samples: as the data have them; `samples` of the training set.
        teacher: name (see `build_classifier`), or a module of yours that takes images in [0, 1].
        teacher_weights: file of the teacher's weights. Without it the teacher is first trained on the data.
        teacher_steps: updates of a teacher that has no weights yet.
        student, student_width: name of the student and multiplier of its channels.
        block_size: channels of a block of filters; None for an ordinary student.
        entropy_weight: of the attention's entropy (gamma).
        lesson: "kd" soft targets, "fitnets" projected maps, "ft" factors, "sp" similarities of samples, "crd"
            contrast of pooled features.
        weights: of labels, soft targets and features; those of `WEIGHTS` where None.
        kd_temperature: of the soft targets (tau).
        factor_steps: updates of the teacher's autoencoder, for "ft".
        negatives: earlier samples that "crd" compares with.
        crop_pad, flip: augmentation.
        recipe: optimiser and schedule.
    """

    trained_elsewhere = ("teacher", "lesson.paraphraser", "lesson.decoder")
    embedded = {
        "model": {
            "teacher": "digits_cnn",
            "student": "digits_cnn",
            "student_width": 0.5,
            "block_size": 4,
            "factor_steps": 200,
            "negatives": 1024,
            "crop_pad": 2,
            "flip": False,
            "recipe": {"schedule": "cosine", "per": "step", "warmup_steps": 30},
        },
        "data": {"embedded": "fashion-mnist", "size": 20, "channels": 1, "batch_size": 64},
        "trainer": {"max_steps": 800, "max_epochs": -1},
    }

    def __init__(
        self,
        num_classes: int = 10,
        channels: int = 3,
        image_size: int = 32,
        mean: list[float] = [0.4914, 0.4822, 0.4465],  # noqa: B006  (plain values for the command line; never changed)
        std: list[float] = [0.2023, 0.1994, 0.2010],  # noqa: B006
        samples: int = 50_000,
        teacher: str | nn.Module = "resnet50",
        teacher_weights: str | None = None,
        teacher_steps: int = 800,
        student: str = "resnet18",
        student_width: float = 1.0,
        block_size: int | None = 8,
        entropy_weight: float = 1e-3,
        lesson: Lesson = "kd",
        weights: tuple[float, float, float] | None = None,
        kd_temperature: float = 4.0,
        factor_steps: int = 2000,
        negatives: int = 16_384,
        crop_pad: int = 4,
        flip: bool = True,
        recipe: Recipe = Recipe(
            "sgd",
            lr=0.05,
            momentum=0.9,
            weight_decay=5e-4,
            schedule="step",
            per="epoch",
            milestones=(0.625, 0.75, 0.875),
        ),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["teacher"] if isinstance(teacher, nn.Module) else [])
        self.recipe = recipe
        self.student = build_classifier(student, num_classes, channels, mean, std, student_width)
        self.take_teacher(teacher, teacher_weights, num_classes, channels, mean, std)
        self.lesson = self._feature_loss(lesson, samples, negatives)
        self.factors_are_trained = lesson != "ft"
        for part in self._autoencoder():
            part.requires_grad_(False)
        if block_size is not None:
            # The stem reads an image, whose colours are no blocks.
            add_virtual_attention(self.student, block_size)

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, ImageData)
        return {**super().arguments_from(data), "samples": len(data.sets["train"])}

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        return self.student(images)

    # -- training --

    def training_step(self, batch: ImageBatch, _: int) -> Tensor:
        """Labels, the lesson of the teacher, and few choices of every block (E11)."""
        images = crop_flip(batch.images, self.hparams.crop_pad, self.hparams.flip)
        with torch.no_grad():
            taught, wanted = _features(self.teacher.eval(), images)
        learnt, logits = _features(self.student, images)
        for_labels, for_targets, for_features = self.hparams.weights or WEIGHTS[self.hparams.lesson]
        loss = distillation_loss(logits, wanted, batch.labels, for_labels, for_targets, self.hparams.kd_temperature)
        if for_features:
            loss = loss + for_features * self.feature_loss(learnt, taught, batch)
        if self.hparams.block_size is not None:
            loss = loss + self.hparams.entropy_weight * attention_entropy(self.student)
        self.report(loss=loss)
        return loss

    def feature_loss(self, learnt: Features, taught: Features, batch: ImageBatch) -> Float[Tensor, ""]:
        """What the lesson says about inner layers: the last maps, or what is pooled from them."""
        if isinstance(self.lesson, ContrastiveRepresentationLoss):
            return self.lesson(learnt["pooled"], taught["pooled"], batch.index)
        if self.lesson is None:
            return similarity_loss(learnt["maps"][-1], taught["maps"][-1])
        return self.lesson(learnt["maps"][-1], taught["maps"][-1])

    def _feature_loss(self, lesson: Lesson, samples: int, negatives: int) -> nn.Module | None:
        """The lesson's own layers, which learn beside the student."""
        if lesson in ("kd", "sp"):
            return None
        ours, theirs = (network_of(each)[0] for each in (self.student, self.teacher))
        if not isinstance(ours, CifarClassifier) or not isinstance(theirs, CifarClassifier):
            raise InputError(
                f"lesson {lesson!r} needs networks that show their inner layers, expected student and teacher among "
                f"{', '.join(CIFAR_CLASSIFIERS)}"
            )
        # As many channels have the last maps, and as many numbers what is pooled from them.
        widths = ours.feature_dim, theirs.feature_dim
        if lesson == "crd":
            return ContrastiveRepresentationLoss(*widths, samples=samples, negatives=negatives)
        return HintLoss(*widths) if lesson == "fitnets" else FactorLoss(*widths)

    def adopt(self, data: DataModule) -> None:
        super().adopt(data)
        assert isinstance(data, ImageData)
        if isinstance(self.lesson, FactorLoss) and not self.factors_are_trained:
            self._train_factors(data.tensors("train")[0])
            self.factors_are_trained = True

    def _train_factors(self, images: Float[Tensor, "image channel height width"]) -> None:
        """The autoencoder of the teacher's maps, before the student begins."""
        assert isinstance(self.lesson, FactorLoss)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            parameters = [each for part in self._autoencoder() for each in part.requires_grad_(True).parameters()]
            optimizer = torch.optim.Adam(parameters, lr=1e-3)
            for _ in range(self.hparams.factor_steps):
                chosen = images[torch.randint(len(images), (64,))]
                with torch.no_grad():
                    taught, _ = _features(self.teacher.eval(), chosen)
                loss = self.lesson.reconstruction(taught["maps"][-1])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        for part in self._autoencoder():
            part.requires_grad_(False)

    def _autoencoder(self) -> list[nn.Module]:
        return [self.lesson.paraphraser, self.lesson.decoder] if isinstance(self.lesson, FactorLoss) else []

    def extras(self) -> dict[str, Any]:
        return {**super().extras(), "factors_are_trained": self.factors_are_trained}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        super().restore_extras(extras)
        self.factors_are_trained = extras["factors_are_trained"]

    # -- what came of it --

    def read_outs(self, data: DataModule) -> dict[str, float]:
        """The attention's entropy as a share of the largest, mean over layers and blocks (E10)."""
        if self.hparams.block_size is None:
            return {}
        return {"entropy": float(attention_entropy(self.student, normalise=True))}

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """The student alone, its attention multiplied into the filters."""
        _, example, inputs, outputs = super().exportable()
        student = deepcopy(self.student)
        fold_virtual_attention(student)
        return student, example, inputs, outputs


def _features(classifier: nn.Module, images: Tensor) -> tuple[Features, Float[Tensor, "batch class"]]:
    """Inner layers, of a network that shows them, and logits."""
    network, behind = network_of(classifier)
    if not isinstance(network, CifarClassifier):
        return {}, classifier(images)
    features = network.forward_features(classifier[0](images) if behind else images)  # type: ignore[index]
    return features, network.head(features["pooled"])


def _arm(role: Any, lesson: Lesson, **settings: Any) -> Arm:
    return Arm(role, {"lesson": lesson, **settings})


def _claim(name: str, statement: str, arms: dict[str, Arm], criteria: tuple[Criterion, ...]) -> Claim:
    return Claim(
        name=name,
        statement=statement,
        arms=arms,
        criteria=criteria,
        model=VAM.embedded["model"],
        data=VAM.embedded["data"],
        trainer=VAM.embedded["trainer"],
        tuning={"recipe.lr": (0.02, 0.05, 0.15)},
        tuning_metric="top1",
        shown=("top1", "teacher_top1", "entropy"),
        source="docs/methods/vam.md, claim",
    )


_LESSONS: dict[Lesson, str] = {
    "fitnets": "projected maps (FitNets)",
    "ft": "factors of maps (FT)",
    "sp": "similarities of samples (SP)",
    "crd": "contrasted features (CRD)",
}
_BETTER = (Criterion("top1", versus="ordinary student", margin=0.005),)
VAM.claims = (
    _claim(
        "vam",
        "A student with virtual attention and its entropy learns more from soft targets than an ordinary one.",
        {
            "virtual attention": _arm("method", "kd"),
            "ordinary student": _arm("baseline", "kd", block_size=None),
            "without entropy": _arm("ablation", "kd", entropy_weight=0.0),
            "faster attention, more entropy": _arm(
                "reported", "kd", entropy_weight=0.1, recipe={"lr_multipliers": {"*logits": 20.0}}
            ),
            "labels alone": _arm("reported", "kd", block_size=None, weights=[1.0, 0.0, 0.0]),
            "labels alone, virtual attention": _arm("reported", "kd", weights=[1.0, 0.0, 0.0]),
        },
        _BETTER,
    ),
    *(
        _claim(
            f"vam-{lesson}",
            f"A student with virtual attention learns more from {what} than an ordinary one.",
            {
                "virtual attention": _arm("method", lesson),
                "ordinary student": _arm("baseline", lesson, block_size=None),
            },
            _BETTER,
        )
        for lesson, what in _LESSONS.items()
    ),
)
