"""`Distilled`: what methods share that learn from a trained classifier."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ommatid.classification.classifier import ImageClassifier
from ommatid.classification.data import ImageData
from ommatid.classification.task import ImageBatch
from ommatid.engine.checkpoint import Checkpoint, read_foreign
from ommatid.engine.data import DataModule
from ommatid.errors import InputError
from ommatid.transfer.networks import build_classifier, load_classifier, train_classifier
from ommatid.transfer.published import network_of, published_classifier


class Distilled(ImageClassifier):
    """A student with a frozen teacher; a teacher without weights is first trained on the data.

    A subclass calls `take_teacher` in its constructor, behind everything of its own that draws at random, and has the
    arguments `teacher_weights`, `teacher_steps`, `crop_pad` and `flip`.
    """

    trained_elsewhere: ClassVar[tuple[str, ...]] = ("teacher",)
    teacher: nn.Module
    taught: bool
    """Whether there is a teacher."""

    def take_teacher(
        self,
        teacher: str | nn.Module | None,
        weights: str | None,
        num_classes: int,
        channels: int,
        mean: list[float],
        std: list[float],
    ) -> None:
        """Build the teacher by its name, or take yours, and freeze it.

        Args:
            teacher: name (see `build_classifier`), a module of yours that takes images in [0, 1], or None for none.
            weights: file of its weights.
        """
        self.teacher_is_trained = not isinstance(teacher, str) or weights is not None
        self.taught = teacher is not None
        if not isinstance(teacher, str):
            self.teacher = nn.Identity() if teacher is None else teacher
        else:
            self.teacher = build_classifier(teacher, num_classes, channels, mean, std)
            if weights is not None:
                load_classifier(self.teacher, Path(weights))
        self.teacher.requires_grad_(False)

    def adopt(self, data: DataModule) -> None:
        super().adopt(data)
        assert isinstance(data, ImageData)
        if not self.teacher_is_trained:
            self.teacher.requires_grad_(True)
            images, labels = data.tensors("train")
            pad, flip = self.hparams.crop_pad, self.hparams.flip
            train_classifier(self.teacher, images, labels, self.hparams.teacher_steps, pad=pad, flip=flip)
            self.teacher.requires_grad_(False)
            self.teacher_is_trained = True

    def load_published(self, path: str | Path) -> None:
        state = read_foreign(Path(path))
        self.load_weights(self.published_state(state), Path(path))
        self.teacher_is_trained |= self.holds_teacher(state)

    def holds_teacher(self, state: dict[str, Tensor]) -> bool:
        """Whether released weights are those of a teacher: all that the authors of most methods release are."""
        return True

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors release trained teachers (CIFAR networks): their weights under the names of our teacher."""
        if not self.taught:
            raise InputError(f"{type(self).__name__}: has no teacher to load released weights into, expected one")
        network, prefix = network_of(self.teacher)
        teacher = published_classifier(state, network)
        return {**self.state_dict(), **{f"teacher.{prefix}{name}": tensor for name, tensor in teacher.items()}}

    def checkpoint(self) -> Checkpoint:
        """What a file gave stands among the weights; it need not exist any more when the checkpoint is loaded."""
        written = super().checkpoint()
        return replace(written, settings={**written.settings, "teacher_weights": None})

    def extras(self) -> dict[str, Any]:
        return {**super().extras(), "teacher_is_trained": self.teacher_is_trained}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        super().restore_extras(extras)
        self.teacher_is_trained = extras["teacher_is_trained"]

    def score(self, batch: ImageBatch) -> dict[str, Float[Tensor, "batch"]]:
        """Accuracy of the student, and beside it the teacher's where there is one."""
        if not self.taught:
            return super().score(batch)
        teacher = (self.teacher(batch.images).argmax(dim=1) == batch.labels).float()
        return {**super().score(batch), "teacher_top1": teacher}
