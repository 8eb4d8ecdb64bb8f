"""CMI: Contrastive Model Inversion for Data-Free Knowledge Distillation (arXiv:2105.08584, IJCAI 2021).

A trained network is all there is: no image, no label. A generator, born anew for every batch, draws images that the
teacher's batch norms take for its training data (E2), that it classifies as wished (E3) and that the student
still has to learn from (E4). Left to itself this draws the same few images again and again; a contrastive loss
makes every new image recognisable among all earlier ones (E6-E8). The student is distilled on the growing pool
(E10). Equation numbers refer to docs/methods/cmi.md.

Inverted images can reveal training data: treat a pool like the data that the teacher was trained on.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ommatid.classification.draw import draw_sheet
from ommatid.engine.checkpoint import Checkpoint
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.method import frozen
from ommatid.engine.recipe import Phase, Recipe
from ommatid.losses.contrastive import instance_contrastive_loss
from ommatid.losses.distillation import disagreement_loss, kd_loss
from ommatid.losses.statistics import BatchNormStatistics
from ommatid.nn.image_generator import ImageGenerator
from ommatid.nn.memory import RingMemory
from ommatid.nn.projection_head import ProjectionHead
from ommatid.nn.views import crop_flip, resized_crop_flip
from ommatid.transfer.distilled import Distilled
from ommatid.transfer.networks import build_classifier
from ommatid.transfer.pool import pool_diversity, read_pool, write_pool


class CMI(Distilled):
    """Contrastive model inversion (arXiv:2105.08584): a student learns from a teacher and nothing else (E1-E10).

    Args:
        num_classes, channels, image_size, mean, std: as the teacher was trained; the data module gives them.
        teacher, student: names (see `build_classifier`), or a module of yours that takes images in [0, 1] as the
            teacher.
        teacher_weights: file of the teacher's weights. Without it the teacher is first trained on the data's training
            split, `teacher_steps` updates; the student never sees that split.
        teacher_steps: updates of a teacher that has no weights yet.
        student_width: multiplies the student's channels.
        latent_dim, generator_channels: of the generator; its widest layer has twice so many channels.
        head_dim: width of the projection head's output, in which the contrast is measured (E7).
        rounds_per_epoch, kd_steps: an epoch synthesises so many batches, each followed by so many student updates.
        generator_steps: iterations of the inversion of one batch (E9).
        synthesis_batch, kd_batch: images synthesised at once, and images per student update.
        bn_weight, class_weight, adversarial_weight, contrastive_weight: of E2, E3, E4, E8.
        kd_temperature: of the distillation's soft targets (E10).
        contrastive_temperature: of the similarities (E8).
        bank_size, negatives: features kept of earlier images, and how many of them each iteration is compared with.
        feature_layers: patterns of the layers whose inputs are the features (E6); all batch norms where None. For a
            ResNet with many batch norms use its stages.
        crop_pad, flip: the global view (E6) and the student's augmentation.
        synthesis: "inverted" images are the method; "noise" images are the floor that it must beat.
        pool_rounds: rounds whose images the pool can hold; older images give way.
        initial_pool: `recovered.npz` of an earlier run, to start from a pre-inverted pool.
        recipe, generator_recipe: optimiser and schedule of the student, and of generator and projection head.
    """

    several_optimizers = True
    # Each process inverts a batch of its own.
    each_its_own = ("generator.", "latents.")
    embedded = {
        "model": {
            "teacher": "digits_cnn",
            "student": "digits_cnn",
            "student_width": 0.5,
            "latent_dim": 64,
            "generator_channels": 24,
            "generator_steps": 150,
            "synthesis_batch": 64,
            "kd_batch": 64,
            "kd_steps": 60,
            "kd_temperature": 5.0,
            "crop_pad": 1,
            "flip": False,
            "contrastive_weight": 0.1,
            "head_dim": 64,
            "negatives": 512,
            "generator_recipe": {"lr": 5e-3},
        },
        "data": {"size": 16, "batch_size": 256},
        "trainer": {"max_epochs": 12},
    }

    def __init__(
        self,
        num_classes: int = 10,
        channels: int = 3,
        image_size: int = 32,
        mean: list[float] = [0.4914, 0.4822, 0.4465],  # noqa: B006  (plain values for the command line; never changed)
        std: list[float] = [0.2023, 0.1994, 0.2010],  # noqa: B006
        teacher: str | nn.Module = "wrn40_2",
        student: str = "wrn16_1",
        teacher_weights: str | None = None,
        teacher_steps: int = 800,
        student_width: float = 1.0,
        latent_dim: int = 256,
        generator_channels: int = 64,
        head_dim: int = 256,
        rounds_per_epoch: int = 1,
        generator_steps: int = 200,
        synthesis_batch: int = 256,
        kd_steps: int = 400,
        kd_batch: int = 128,
        kd_temperature: float = 20.0,
        bn_weight: float = 1.0,
        class_weight: float = 1.0,
        adversarial_weight: float = 0.5,
        contrastive_weight: float = 0.8,
        contrastive_temperature: float = 0.1,
        bank_size: int = 40_960,
        negatives: int = 4_096,
        feature_layers: list[str] | None = None,
        crop_pad: int = 4,
        flip: bool = True,
        synthesis: Literal["inverted", "noise"] = "inverted",
        pool_rounds: int = 200,
        initial_pool: str | None = None,
        recipe: Recipe = Recipe(
            "sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, schedule="cosine", per="epoch", decay_vectors=True
        ),
        generator_recipe: Recipe = Recipe("adam", lr=1e-3, betas=(0.5, 0.999), schedule="constant"),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=["teacher"] if isinstance(teacher, nn.Module) else [])
        self.recipe = recipe
        # The outer loop's three lifetimes: reborn with every batch (generator, latents), kept for the whole run
        # (head, bank, pool), and the training target (student).
        self.take_teacher(teacher, teacher_weights, num_classes, channels, mean, std)
        self.student = build_classifier(student, num_classes, channels, mean, std, student_width)
        self.generator = ImageGenerator(latent_dim, generator_channels, image_size, channels)
        for network in (self.teacher, self.student, self.generator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on CPUs
        self.latents = nn.ParameterList([nn.Parameter(torch.randn(synthesis_batch, latent_dim))])
        self.statistics = BatchNormStatistics(self.teacher, feature_layers=feature_layers)
        feature_dim = self._feature_dim()
        self.head = ProjectionHead(feature_dim, head_dim)
        self.bank = RingMemory(bank_size, 2 * feature_dim)
        self.pool = RingMemory(pool_rounds * synthesis_batch, (channels, image_size, image_size), dtype=torch.uint8)
        if initial_pool is not None:
            self.pool.add(read_pool(Path(initial_pool), tuple(self.pool.values.shape[1:])))

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch class"]:
        return self.student(images)

    # -- training --

    def phases(self) -> dict[str, Phase]:
        settings = self.hparams
        return {
            "generator": Phase([self.generator, self.latents], settings.generator_recipe),
            "head": Phase([self.head], replace(settings.generator_recipe, betas=None)),
            "student": Phase([self.student], self.recipe),
        }

    def training_loader(self) -> DataLoader[int]:
        """Rounds instead of data: nothing real is ever drawn."""
        return DataLoader(range(self.hparams.rounds_per_epoch), batch_size=1)  # type: ignore[arg-type]

    def training_step(self, batch: Tensor, _: int) -> None:
        """One round of the outer loop: synthesise a batch, then teach the student on the pool."""
        self.teacher.eval()
        images, features = self.invert() if self.hparams.synthesis == "inverted" else self.draw_noise()
        # The published pool is a folder of PNG files: 8 bits are part of the method.
        self.pool.add((images * 255).round().to(torch.uint8))
        if self.hparams.contrastive_weight and features is not None:
            self.bank.add(features)
        self.student.train()
        for _ in range(self.hparams.kd_steps):
            loss = self.distillation_loss()
            self.update("student", loss=loss)
        self.report(loss=loss)

    def distillation_loss(self) -> Float[Tensor, ""]:
        """The student imitates the teacher on augmented images of the pool (E10)."""
        pictures = self.pool.sample(self.hparams.kd_batch).values.float() / 255
        pictures = crop_flip(pictures, self.hparams.crop_pad, self.hparams.flip)
        with torch.no_grad():
            wanted = self.teacher(pictures)
        return kd_loss(self.student(pictures), wanted, self.hparams.kd_temperature)

    def invert(self) -> tuple[Float[Tensor, "batch channel height width"], Float[Tensor, "batch feature"]]:
        """One batch of images and their features, of the iteration with the lowest loss (E1-E9)."""
        self.rebirth()
        targets = torch.randint(self.hparams.num_classes, (self.hparams.synthesis_batch,), device=self.device)
        self.student.eval()
        lowest = torch.full((), float("inf"), device=self.device)
        kept: tuple[Tensor, Tensor] | None = None
        with frozen(self.student), self.statistics:
            for _ in range(self.hparams.generator_steps):
                images = self.generator(self.latents[0])
                loss, parts, features = self.inversion_loss(images, targets)
                self.update("generator", "head", loss=loss)
                # Chosen on the device: asking for the value of the loss would wait for it in every iteration.
                better, found = loss.detach() < lowest, (images.detach(), features.detach())
                kept = found if kept is None else _choose(better, found, kept)
                lowest = torch.minimum(lowest, loss.detach())
        assert kept is not None
        self.report(inversion=loss, **parts)
        return kept

    def rebirth(self) -> None:
        """A generator and latents that have seen nothing, and an optimiser that forgot their forerunners."""
        self.generator.reset_parameters()
        self.generator.train()
        with torch.no_grad():
            self.latents[0].normal_()
        self.forget("generator")

    def inversion_loss(
        self, images: Float[Tensor, "batch channel height width"], targets: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]], Float[Tensor, "batch feature"]]:
        """The loss of images under random views (E5, E9), its parts, and what the bank keeps of the images (E6)."""
        settings = self.hparams
        global_view = crop_flip(images, settings.crop_pad, settings.flip)
        local_view = resized_crop_flip(images, flip=settings.flip)
        bank = self.bank.sample(settings.negatives).values
        parts, features = inversion_losses(self.teacher, self.student, self.statistics, global_view, targets)
        loss = (
            settings.bn_weight * parts["statistics"]
            + settings.class_weight * parts["classes"]
            + settings.adversarial_weight * parts["disagreement"]
        )
        if settings.contrastive_weight:
            parts["contrast"], features = contrast(
                self.teacher, self.head, self.statistics, local_view, features, bank, settings.contrastive_temperature
            )
            loss = loss + settings.contrastive_weight * parts["contrast"]
        return loss, parts, features

    def draw_noise(self) -> tuple[Float[Tensor, "batch channel height width"], None]:
        """Uniform noise in place of images: what the teacher's answers alone are worth."""
        return torch.rand(self.hparams.synthesis_batch, *self.pool.values.shape[1:], device=self.device), None

    def _feature_dim(self) -> int:
        """Width of E6, from one dry run."""
        training = self.teacher.training
        blank = torch.zeros(1, self.hparams.channels, self.hparams.image_size, self.hparams.image_size)
        with torch.no_grad(), self.statistics:
            self.teacher.eval()(blank)
            width = self.statistics.features().shape[1]
        self.teacher.train(training)
        return int(width)

    # -- checkpoints and export --

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """The student alone: teacher, memory bank and recovered images stay behind."""
        _, example, inputs, outputs = super().exportable()
        return self.student, example, inputs, outputs

    def checkpoint(self) -> Checkpoint:
        written = super().checkpoint()
        return replace(written, settings={**written.settings, "initial_pool": None})

    # -- what came of it --

    def read_outs(self, data: DataModule) -> dict[str, float]:
        """How diverse the pool is."""
        return pool_diversity(self.teacher, self.pool.all().values.float() / 255)

    def draw_training(self, folder: Path) -> list[Path]:
        """A sheet of recovered images, and the pool itself as `recovered.npz`."""
        images = self.pool.all().values
        if not len(images):
            return []
        shown = images[torch.linspace(0, len(images) - 1, min(len(images), 60)).long()].float() / 255
        with torch.no_grad():
            classes = self.teacher.eval()(shown.to(self.device)).argmax(dim=1).tolist()
        names = self.class_names or [str(number) for number in range(self.hparams.num_classes)]
        draw_sheet(
            shown, "recovered from the teacher, without data", folder / "recovered.png", [names[c] for c in classes]
        )
        return [folder / "recovered.png", write_pool(folder / "recovered.npz", images)]


def _choose(better: Tensor, new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.where(better, new[0], old[0]), torch.where(better, new[1], old[1])


def inversion_losses(
    teacher: nn.Module,
    student: nn.Module,
    statistics: BatchNormStatistics,
    global_view: Float[Tensor, "batch channel height width"],
    targets: Int[Tensor, "batch"],
) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, "batch feature"]]:
    """E2, E3 and E4 of a view, and its features (E6); `statistics` must be entered."""
    logits = teacher(global_view)
    parts = {
        "statistics": statistics.distance(),
        "classes": F.cross_entropy(logits.float(), targets),
        "disagreement": disagreement_loss(student(global_view), logits),
    }
    return parts, statistics.features()


def contrast(
    teacher: nn.Module,
    head: ProjectionHead,
    statistics: BatchNormStatistics,
    local_view: Float[Tensor, "batch channel height width"],
    global_features: Float[Tensor, "batch feature"],
    bank: Float[Tensor, "row pair"],
    temperature: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch pair"]]:
    """E8: each local view is recognised by its global view among the batch's and the bank's; also both features (E6).

    Args:
        bank: rows of earlier images, local features beside global ones.
    """
    teacher(local_view)
    local_features = statistics.features()
    remembered_local, remembered_global = bank.chunk(2, dim=1)
    loss = instance_contrastive_loss(
        head(torch.cat([local_features, remembered_local])),
        head(torch.cat([global_features, remembered_global])),
        temperature,
        split=len(local_view),
    )
    return loss, torch.cat([local_features, global_features], dim=1)


def _arms(**method: Any) -> dict[str, Arm]:
    return {
        "contrastive": Arm("method", method),
        "no contrast": Arm("baseline", {"contrastive_weight": 0.0}),
        "paper's weight": Arm("reported", {"contrastive_weight": 0.8}),
        "noise images": Arm("reported", {"synthesis": "noise"}),
    }


_BUDGET: dict[str, Any] = {
    "model": CMI.embedded["model"],
    "data": CMI.embedded["data"],
    "trainer": CMI.embedded["trainer"],
    "tuning": {"generator_recipe.lr": (1e-3, 2e-3, 5e-3, 1e-2)},
    "tuning_metric": "top1",
    "shown": ("top1", "nearest_similarity", "mean_similarity", "class_entropy", "teacher_top1"),
}

CMI.claims = (
    Claim(
        name="cmi-diversity",
        statement="At the same number of images, a pool inverted with the contrastive term is more diverse: lower "
        "nearest-neighbour and lower mean cosine similarity of the teacher's last features.",
        arms=_arms(contrastive_weight=0.1),
        criteria=(
            Criterion("nearest_similarity", versus="no contrast", direction="lower", margin=0.002),
            Criterion("mean_similarity", versus="no contrast", direction="lower", margin=0.005),
        ),
        source="docs/methods/cmi.md, claim, first half",
        **_BUDGET,
    ),
    Claim(
        name="cmi-student",
        statement="The student trained on the contrastive pool is at least as accurate as one trained on a pool "
        "without the contrastive term.",
        arms=_arms(contrastive_weight=0.1),
        criteria=(Criterion("top1", versus="no contrast", kind="not worse", margin=0.01),),
        source="docs/methods/cmi.md, claim, second half",
        **_BUDGET,
    ),
)
