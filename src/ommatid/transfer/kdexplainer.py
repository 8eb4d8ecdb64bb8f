"""KDExplainer: A Task-oriented Attention Model for Explaining Knowledge Distillation (arXiv:2105.04181, IJCAI 2021).

A student that can be read: levels of expert blocks (E1), and every class a task with its own way through them, by
attention that no input changes (E2, E3). Taught by a teacher's soft targets (E5) while the attention sharpens (E6), it
shows what these targets change: how sharply a class chooses (E7), and which classes share their way. Keeping every
child's first parent only leaves a tree. Equation numbers refer to docs/methods/kdexplainer.md; the block that the
paper derives from this, attention inside ordinary convolutions, is `ommatid.transfer.vam`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.classification.task import ImageBatch
from ommatid.engine.checkpoint import Checkpoint, read_checkpoint
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import CheckpointError
from ommatid.losses.distillation import distillation_loss
from ommatid.nn.expert_hierarchy import ExpertHierarchy, Score, Stem, Tree, path_overlap, published_hierarchy
from ommatid.nn.normalise import Normalise
from ommatid.nn.views import crop_flip
from ommatid.transfer.distilled import Distilled
from ommatid.transfer.draw import draw_tree
from ommatid.transfer.task import ExplainedClassification


class KDExplainer(Distilled):
    """KDExplainer (arXiv:2105.04181): a hierarchy of experts in which every class chooses its own way (E1-E7).

    Args:
        num_classes, channels, image_size, mean, std: as the data have them.
        teacher: name (see `build_classifier`), a module of yours that takes images in [0, 1], or None to learn from
            labels alone.
        teacher_weights: file of the teacher's weights. Without it the teacher is first trained on the data.
        teacher_steps: updates of a teacher that has no weights yet.
        experts: blocks of every level (N_l).
        width, last_width: channels of a block, and behind the last level.
        head_hidden, head_size: hidden width of a class's head, and the height and width that it pools to.
        pooled: for every level, whether it halves the resolution; all where None.
        dropout: of the heads.
        score: "single" output a head, or "difference" or "max" of a positive and a negative one; the authors' code has
            "max".
        stem: in front of the experts, see `ExpertHierarchy`; "large" for images of 64 pixels and more.
        tree_of: checkpoint of a trained hierarchy, whose tree is then trained alone from fresh weights.
        tree: the same as numbers: for every step between levels the parent of each child.
        ce_weight, kd_weight: of labels and of soft targets, where there is a teacher (E5).
        kd_temperature: of the soft targets (tau).
        smoothing: of the labels.
        temperature: of the attention at first (E6).
        annealing: "inverse" divides it by the epoch, "linear" goes down to `last_temperature`.
        rest_epochs: epochs in which the attention does not learn yet.
        crop_pad, flip: augmentation, of the teacher's training, too.
        recipe: optimiser and schedule; the attention's parameters are `network.attention.*`.
    """

    embedded = {
        "model": {
            "teacher": "digits_cnn",
            "teacher_steps": 800,
            "width": 8,
            "last_width": 8,
            "head_hidden": 24,
            "head_size": 2,
            "temperature": 5.0,
            "annealing": "linear",
            "rest_epochs": 0,
            "crop_pad": 2,
            "flip": False,
            "recipe": {
                "lr": 3e-3,
                "weight_decay": 0.0,
                "schedule": "cosine",
                "per": "step",
                "warmup_steps": 30,
                "lr_multipliers": {"network.attention*": 6.0},
            },
        },
        "data": {"embedded": "fashion-mnist", "size": 20, "channels": 1, "batch_size": 64},
        "trainer": {"max_steps": 800, "max_epochs": -1},
    }

    temperature: Tensor

    def __init__(
        self,
        num_classes: int = 10,
        channels: int = 3,
        image_size: int = 32,
        mean: list[float] = [0.4914, 0.4822, 0.4465],  # noqa: B006  (plain values for the command line; never changed)
        std: list[float] = [0.2023, 0.1994, 0.2010],  # noqa: B006
        teacher: str | nn.Module | None = "resnet50",
        teacher_weights: str | None = None,
        teacher_steps: int = 800,
        experts: list[int] = [2, 4, 8],  # noqa: B006
        width: int = 64,
        last_width: int = 32,
        head_hidden: int = 128,
        head_size: int = 7,
        pooled: list[bool] | None = None,
        dropout: float = 0.15,
        score: Score = "single",
        stem: Stem = "none",
        tree_of: str | None = None,
        tree: list[list[int]] | None = None,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        kd_temperature: float = 4.0,
        smoothing: float = 0.0,
        temperature: float = 10.0,
        annealing: Literal["inverse", "linear"] = "inverse",
        last_temperature: float = 0.3,
        rest_epochs: int = 2,
        crop_pad: int = 4,
        flip: bool = True,
        recipe: Recipe = Recipe(
            "adam",
            lr=5e-2,
            weight_decay=5e-4,
            schedule="linear",
            per="epoch",
            warmup_steps=2,
            decay_vectors=True,
            lr_multipliers={"network.attention*": 0.2},
        ),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["teacher"] if isinstance(teacher, nn.Module) else [])
        self.recipe = recipe
        self.chosen = read_tree(Path(tree_of)) if tree_of is not None else tree
        self.normalise = Normalise(mean, std)
        self.network = ExpertHierarchy(
            num_classes,
            channels,
            experts,
            width,
            last_width,
            head_hidden,
            head_size,
            pooled,
            dropout,
            score,
            stem,
            self.chosen,
        )
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.take_teacher(teacher, teacher_weights, num_classes, channels, mean, std)

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        return self.network(self.normalise(images), self.temperature)

    # -- training --

    def on_train_epoch_start(self) -> None:
        self.network.attention.requires_grad_(self.current_epoch >= self.hparams.rest_epochs)

    def training_step(self, batch: ImageBatch, _: int) -> Tensor:
        """Labels and soft targets, at the temperature of the moment (E5, E6)."""
        self.temperature.fill_(self.annealed())
        images = crop_flip(batch.images, self.hparams.crop_pad, self.hparams.flip)
        logits = self(images)
        if not self.taught:
            loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.hparams.smoothing)
        else:
            with torch.no_grad():
                wanted = self.teacher.eval()(images)
            weights = self.hparams.ce_weight, self.hparams.kd_weight
            loss = distillation_loss(
                logits, wanted, batch.labels, *weights, self.hparams.kd_temperature, self.hparams.smoothing
            )
        self.report(loss=loss)
        return loss

    def annealed(self) -> float:
        """Temperature of the attention at this moment of the training (E6)."""
        first, last = self.hparams.temperature, self.hparams.last_temperature
        if self.hparams.annealing == "inverse":
            return first / (self.current_epoch + 1)
        return first + (last - first) * self.share_done

    # -- the tree --

    def checkpoint(self) -> Checkpoint:
        """The tree stands among the settings; the checkpoint that it came from need not exist any more."""
        written = super().checkpoint()
        return replace(written, settings={**written.settings, "tree_of": None, "tree": self.chosen})

    def score(self, batch: ImageBatch) -> dict[str, Float[Tensor, "batch"]]:
        """Accuracy, and that of the tree which is left where every child keeps its first parent only."""
        tree = self.network(self.normalise(batch.images), hard=True).argmax(dim=1)
        return {**super().score(batch), "tree_top1": (tree == batch.labels).float()}

    @torch.no_grad()
    def read_outs(self, data: DataModule) -> dict[str, float]:
        """How sharply children choose (E7), at temperature 1 and at the last one, and how much classes share."""
        tree = self.network.tree()
        overlap = path_overlap(tree)
        others = ~torch.eye(len(overlap), dtype=torch.bool)
        found = {"path_overlap": float(overlap[others].mean()), "leaves": float(len(set(tree[-1])))}
        if self.chosen is None:
            found |= {
                "entropy": float(self.network.entropy(1.0, normalise=True)),
                "last_entropy": float(self.network.entropy(self.temperature, normalise=True)),
                "entropy_nats": float(self.network.entropy(1.0)),
                "class_entropy": float(self.network.attentions()[-1].entropy(1.0, normalise=True).mean()),
            }
        return found

    def draw_training(self, folder: Path) -> list[Path]:
        """The tree of the strongest choices, classes by name."""
        draw_tree(self.network.tree(), self.names(), path=folder / "tree.png")
        return [folder / "tree.png"]

    def names(self) -> list[str]:
        """Of the classes, or their numbers."""
        return self.class_names or [str(number) for number in range(self.hparams.num_classes)]

    def predict(self, image: str | Path, top: int = 5) -> ExplainedClassification:
        """The classes of your own image, and the way of the first one through the blocks.

        Args:
            image: picture file; it is resized to what the classifier was trained on.
            top: how many classes.

        Raises:
            InputError: the file is missing or no readable picture.
        """
        pixels, probs = self.recognise(image)
        return ExplainedClassification(
            pixels, self.named(probs, top), self.network.tree(), self.names(), int(probs.argmax())
        )

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """The student alone, at its last temperature."""
        _, example, inputs, outputs = super().exportable()
        return _Student(self), example, inputs, outputs

    def holds_teacher(self, state: dict[str, Tensor]) -> bool:
        """Whether released weights are those of a teacher, not of a hierarchy."""
        return not any(name.startswith("branch_") for name in state)

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' hierarchy, or a trained teacher (CIFAR networks), under our names."""
        if self.holds_teacher(state):
            return super().published_state(state)
        found = published_hierarchy(state, len(self.hparams.experts))
        return {**self.state_dict(), **{f"network.{name}": tensor for name, tensor in found.items()}}


class _Student(nn.Module):
    def __init__(self, method: KDExplainer) -> None:
        super().__init__()
        self.normalise, self.network = method.normalise, method.network
        self.temperature: Tensor
        self.register_buffer("temperature", method.temperature.clone())

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalise(images), self.temperature)


def read_tree(path: Path) -> Tree:
    """The tree of the strongest choices in a checkpoint of a trained hierarchy.

    Raises:
        CheckpointError: the file is damaged or belongs to another method.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.method != KDExplainer.__name__:
        raise CheckpointError(f"{path}: a checkpoint of {checkpoint.method}, expected one of {KDExplainer.__name__}")
    return KDExplainer.from_checkpoint(path, checkpoint).network.tree()


_ARMS = {
    "soft targets": Arm("method", {}),
    "labels": Arm("baseline", {"teacher": None}),
    "smoothed labels": Arm("control", {"teacher": None, "smoothing": 0.1}),
    "soft targets, faster attention": Arm("reported", {"recipe": {"lr_multipliers": {"network.attention*": 20.0}}}),
    "labels, faster attention": Arm(
        "reported", {"teacher": None, "recipe": {"lr_multipliers": {"network.attention*": 20.0}}}
    ),
}
_BUDGET: dict[str, Any] = {
    "arms": _ARMS,
    "model": KDExplainer.embedded["model"],
    "data": KDExplainer.embedded["data"],
    "trainer": KDExplainer.embedded["trainer"],
    "tuning": {"recipe.lr": (1.5e-3, 3e-3, 6e-3)},
    "tuning_metric": "top1",
    "shown": ("top1", "tree_top1", "entropy", "last_entropy", "class_entropy", "path_overlap", "teacher_top1"),
}

KDExplainer.claims = (
    Claim(
        name="kdexplainer",
        statement="Taught by soft targets the attention ends with lower entropy than by labels, plain or smoothed.",
        criteria=(
            Criterion("entropy", versus="labels", direction="lower"),
            Criterion("entropy", versus="smoothed labels", direction="lower"),
        ),
        source="docs/methods/kdexplainer.md, claim, first half",
        **_BUDGET,
    ),
    Claim(
        name="kdexplainer-tree",
        statement="Keeping every child's first parent only costs a student of soft targets less accuracy than one of "
        "labels.",
        criteria=(Criterion("tree_top1", versus="labels", beyond="top1"),),
        source="docs/methods/kdexplainer.md, claim, second half",
        **_BUDGET,
    ),
)
