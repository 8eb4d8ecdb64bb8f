"""SA-GAN: Structure-Aware Feature Generation for Zero-Shot Learning (arXiv:2108.07032).

A class without images has attributes, and a generator that turned attributes into features could make up training
samples of it. Generators that only learn to tell seen classes apart forget how classes and samples lie relative to each
other, which is what carries over. Here features are first mapped into a latent space in which relative distances are
kept (E1-E6); a generator learns in it, criticised for its samples and for how near these are to each seen class
(E7-E10), and has to lead back to features (E11); last, an ordinary classifier learns from made-up samples.
Without the latent space, the second critic and the way back this is f-CLSWGAN. The paper's abstract names the parts;
the equations are this project's reading of it, see docs/methods/sa-gan.md, to which their numbers refer.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.engine.claim import Arm, Claim, Criterion, Role
from ommatid.engine.data import DataModule
from ommatid.engine.method import frozen
from ommatid.engine.recipe import Phase, Recipe
from ommatid.errors import InputError
from ommatid.losses.relative_distance import relative_distance_loss
from ommatid.losses.wasserstein import critic_loss, generator_loss, gradient_penalty
from ommatid.nn.feature_generator import FeatureCritic, FeatureGenerator
from ommatid.nn.prototype_affinity import affinity_temperature, prototype_affinity
from ommatid.transfer.zero_shot_classifier import Linear, ZeroShotClassifiers, fit_softmax
from ommatid.transfer.zero_shot_data import ZeroShotData
from ommatid.transfer.zero_shot_draw import draw_latent_map
from ommatid.transfer.zero_shot_learner import ZeroShotLearner, plane
from ommatid.transfer.zero_shot_task import CHOOSING, TESTING, FeatureBatch, LatentMap

Features = Float[Tensor, "batch feature"]
Latents = Float[Tensor, "batch latent"]
Attributes = Float[Tensor, "batch attribute"]
CHUNK = 4096
"""Samples that are embedded at once outside of training."""


class SAGAN(ZeroShotLearner):
    """Samples of unseen classes from a generator that keeps structure (arXiv:2108.07032, E1-E13).

    One training has three stages: `embedding_steps` batches for the latent space, `generator_steps` rounds of the
    adversaries, each of `critic_steps` batches for the critics and one for the generator, and then the classifiers. It
    ends by itself, whatever `max_epochs` allows beyond that.

    Args:
        feature_dim, attribute_dim, num_seen, num_back, num_unseen: as the data have them; `num_back` classes are kept
            back for choosing settings.
        latent: "learned" is the method's space; "none" works on the features themselves, as f-CLSWGAN does.
        latent_dim, embedding_dim: width of the latent space, and between it and the features (E1, E5).
        hidden_dim, structure_dim: hidden width of generator and critic (E7, E8), and of the structure critic (E10).
        constraint_weight: of the relative distances (E4).
        decoding_weight: of the way back to features while the latent space is learnt (E5); 0 for no decoder.
        penalty: weight of the critics' gradient penalty.
        structure_weight: of the structure critic (E10, E13); 0 for none.
        reconstruction_weight: of the way back from made-up latents (E11).
        class_weight: of the seen classes' classifier as a judge of made-up samples (E12).
        embedding_steps, generator_steps, critic_steps: lengths of the stages, see above.
        classify_in: "latent" compares samples in the latent space, "feature" after the way back.
        zsl_samples, gzsl_samples: made-up samples of a class, for the classifier among new classes and among all.
        classifier_steps, classifier_batch, classifier_lr: updates of the last stage.
        recipe: of generator and critics; embedding_recipe: of the latent space.
    """

    several_optimizers = True
    embedded = {
        "model": {
            "latent_dim": 32,
            "embedding_dim": 128,
            "hidden_dim": 256,
            "structure_dim": 128,
            "constraint_weight": 1.0,
            "embedding_steps": 1000,
            "generator_steps": 300,
            "critic_steps": 3,
            "class_weight": 0.1,
            "zsl_samples": 100,
            "gzsl_samples": 200,
            "classifier_steps": 300,
            "classifier_lr": 1e-2,
            "recipe": {"lr": 3e-3},
        },
        "data": {"protocol": "validation"},
        "trainer": {"max_epochs": -1, "check_val_every_n_epoch": 25},
    }

    class_means: Tensor
    prototypes: Tensor
    scale: Tensor
    temperature: Tensor
    in_place: Tensor

    def __init__(
        self,
        feature_dim: int = 2048,
        attribute_dim: int = 85,
        num_seen: int = 40,
        num_back: int = 0,
        num_unseen: int = 10,
        latent: Literal["learned", "none"] = "learned",
        latent_dim: int = 512,
        embedding_dim: int = 1024,
        hidden_dim: int = 4096,
        structure_dim: int = 1024,
        constraint_weight: float = 10.0,
        decoding_weight: float = 10.0,
        penalty: float = 10.0,
        structure_weight: float = 0.3,
        reconstruction_weight: float = 0.5,
        class_weight: float = 0.01,
        embedding_steps: int = 10_000,
        generator_steps: int = 10_000,
        critic_steps: int = 5,
        classify_in: Literal["latent", "feature"] = "latent",
        zsl_samples: int = 300,
        gzsl_samples: int = 1800,
        classifier_steps: int = 10_000,
        classifier_batch: int = 100,
        classifier_lr: float = 1e-3,
        recipe: Recipe = Recipe("adam", lr=1e-4, betas=(0.5, 0.999), schedule="constant"),
        embedding_recipe: Recipe = Recipe("adam", lr=1e-3, schedule="constant"),
    ) -> None:
        super().__init__(feature_dim, attribute_dim, num_seen, num_back, num_unseen)
        counts = {"critic_steps": critic_steps, "generator_steps": generator_steps, "embedding_steps": embedding_steps}
        counts |= {"zsl_samples": zsl_samples, "gzsl_samples": gzsl_samples, "classifier_steps": classifier_steps}
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")
        learned = latent == "learned"
        if learned and not decoding_weight and (reconstruction_weight or classify_in == "feature"):
            raise InputError(
                "decoding_weight is 0: there is no way back from the latent space, expected reconstruction_weight 0 "
                "and classify_in 'latent'"
            )
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        width = latent_dim if learned else feature_dim
        self.embed: nn.Module = _two_layers(feature_dim, embedding_dim, latent_dim) if learned else nn.Identity()
        self.decode: nn.Module | None = None if learned else nn.Identity()
        if learned and decoding_weight:
            # Scaled features are not negative, and neither is what leads back to them (E5).
            self.decode = nn.Sequential(*_two_layers(latent_dim, embedding_dim, feature_dim), nn.ReLU())
        self.judge = nn.Linear(width, num_seen)
        self.generator = FeatureGenerator(attribute_dim, width, hidden_dim, final="linear" if learned else "relu")
        self.critic = FeatureCritic(width, attribute_dim, hidden_dim)
        self.structure_critic = FeatureCritic(num_seen, attribute_dim, structure_dim) if structure_weight else None
        self.classifiers = ZeroShotClassifiers(
            width if classify_in == "latent" else feature_dim, num_seen, num_back, num_unseen
        )
        self.register_buffer("class_means", torch.zeros(num_seen, feature_dim))
        self.register_buffer("prototypes", torch.zeros(num_seen, width))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("in_place", torch.tensor(False))
        self.training_set: tuple[Tensor, Tensor] | None = None

    def adopt(self, data: DataModule) -> None:
        """Also the training samples: their class means (E2), and what whole stages are measured on."""
        super().adopt(data)
        assert isinstance(data, ZeroShotData)
        features, labels = self.training_set = data.tensors("train")
        sums = torch.zeros_like(self.class_means).index_add_(0, labels.to(self.device), features.to(self.device))
        self.class_means.copy_(sums / labels.bincount(minlength=len(sums)).to(sums)[:, None])

    # -- training --

    def phases(self) -> dict[str, Phase]:
        settings, critics = self.hparams, self.hparams.generator_steps * self.hparams.critic_steps
        space = [module for module in (self.embed, self.decode, self.judge) if module is not None]
        found = {
            "embedding": Phase(space, settings.embedding_recipe, total=settings.embedding_steps),
            "generator": Phase([self.generator], self.recipe, total=settings.generator_steps),
            "critic": Phase([self.critic], self.recipe, updates=settings.critic_steps, total=critics),
        }
        if self.structure_critic is not None:
            found["structure"] = Phase([self.structure_critic], self.recipe, settings.critic_steps, total=critics)
        return found

    def on_train_start(self) -> None:
        epochs, batches = self.trainer.max_epochs or 0, self.trainer.num_training_batches
        if 0 < epochs * batches <= self.hparams.embedding_steps:
            raise InputError(
                f"embedding_steps is {self.hparams.embedding_steps}, but the training has {epochs * batches} batches, "
                "expected more, or the generator would never learn"
            )

    def training_step(self, batch: FeatureBatch, batch_idx: int) -> None:
        """One batch for whoever's turn it is."""
        settings, number = self.hparams, self.batch_number(batch_idx)
        if number < settings.embedding_steps:
            loss, parts = self.embedding_loss(batch.features, batch.labels)
            self.update("embedding", loss=loss)
            self.report(loss=loss, **parts)
            return
        if number == settings.embedding_steps:
            self.put_in_place()
            self.in_place.fill_(True)
        done, turn = divmod(number - settings.embedding_steps, settings.critic_steps + 1)
        if done < settings.generator_steps and turn < settings.critic_steps:
            loss, parts = self.criticism_loss(batch)
            self.update(*self.critics, loss=loss)
            if turn == 0:
                self.report(**parts)
        elif done < settings.generator_steps:
            loss, parts = self.generation_loss(batch)
            self.update("generator", loss=loss)
            self.report(**parts)
        if done + (turn == settings.critic_steps) >= settings.generator_steps:
            self.trainer.should_stop = True

    def embedding_loss(
        self, features: Features, labels: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """What makes the latent space (E6), and its parts (E3, E4, E5)."""
        latents, settings = self.embed(features), self.hparams
        parts = {"classes": F.cross_entropy(self.judge(latents).float(), labels)}
        loss = parts["classes"]
        if settings.latent == "learned" and settings.constraint_weight:
            moved = self.embed(self.class_means)
            parts["constraint"] = relative_distance_loss(features, self.class_means, latents, moved)
            loss = loss + settings.constraint_weight * parts["constraint"]
        if settings.latent == "learned" and self.decode is not None:
            parts["decoding"] = F.mse_loss(self.decode(latents).float(), features)
            loss = loss + settings.decoding_weight * parts["decoding"]
        return loss, parts

    @torch.no_grad()
    def put_in_place(self) -> None:
        """What is measured once on the finished space: its scale, prototypes, and the width of affinities (E2, E9)."""
        assert self.training_set is not None
        self.scale.fill_(1.0)
        latents = self.latents_of(self.training_set[0])
        if self.hparams.latent == "learned":
            self.scale.copy_(latents.std(dim=0).mean())
        self.prototypes.copy_(self.place(self.class_means))
        self.temperature.copy_(affinity_temperature(latents / self.scale, self.prototypes))

    def place(self, features: Features) -> Latents:
        """Features in the latent space, at its standard scale."""
        return self.embed(features) / self.scale

    def lead_back(self, latents: Latents) -> Features:
        assert self.decode is not None
        return self.decode(latents * self.scale)

    def affinity(self, latents: Latents) -> Float[Tensor, "batch seen"]:
        """How near samples are to each seen class (E9)."""
        return prototype_affinity(latents, self.prototypes, self.temperature)

    @property
    def critics(self) -> tuple[str, ...]:
        """Names of the critics' optimisers."""
        return ("critic",) if self.structure_critic is None else ("critic", "structure")

    def criticism_loss(self, batch: FeatureBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """What the critics minimise: real latents of the batch against made-up ones of the same classes (E8, E10)."""
        told = self.attributes[batch.labels]
        with torch.no_grad():
            real, fake = self.place(batch.features), self.generator(told)
        parts = {"critic": self.critic_value(self.critic, real, fake, told)}
        if self.structure_critic is not None:
            near = self.affinity(real), self.affinity(fake)
            parts["structure"] = self.critic_value(self.structure_critic, *near, told)
        # They share no weights: the sum gives each its own gradient.
        return torch.stack(list(parts.values())).sum(), parts

    def critic_value(self, critic: FeatureCritic, real: Tensor, fake: Tensor, told: Attributes) -> Float[Tensor, ""]:
        value = critic_loss(critic(real, told), critic(fake, told))
        return value + self.hparams.penalty * gradient_penalty(critic, real, fake, told)

    def generation_loss(self, batch: FeatureBatch) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """What the generator minimises (E13), and its parts."""
        told, settings = self.attributes[batch.labels], self.hparams
        judges = (self.critic, self.structure_critic, self.decode, self.judge)
        with ExitStack() as resting:
            for module in judges:
                if module is not None:
                    resting.enter_context(frozen(module))
            fake = self.generator(told)
            parts = {"generator": generator_loss(self.critic(fake, told))}
            loss = parts["generator"]
            if self.structure_critic is not None:
                parts["affinity"] = generator_loss(self.structure_critic(self.affinity(fake), told))
                loss = loss + settings.structure_weight * parts["affinity"]
            if settings.reconstruction_weight:
                parts["reconstruction"] = F.mse_loss(self.lead_back(fake).float(), batch.features)
                loss = loss + settings.reconstruction_weight * parts["reconstruction"]
            if settings.class_weight:
                parts["judged"] = F.cross_entropy(self.judge(fake * self.scale).float(), batch.labels)
                loss = loss + settings.class_weight * parts["judged"]
        return loss, parts

    # -- the last stage --

    def on_validation_start(self) -> None:
        if self.trainer.training or self.trainer.validating:
            self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Classifiers from made-up samples of new classes, and real ones of seen classes."""
        assert self.training_set is not None
        if not bool(self.in_place):
            self.put_in_place()
        features, labels = self.training_set
        seen = self.compared(self.latents_of(features)), labels.to(self.device)
        for task in (CHOOSING, TESTING):
            new = self.classifiers.new[task]
            described = self.attributes[new.start : new.stop]
            self.classifiers.keep(task, 0, self.fit_classifier(described, seen))
            if len(new):
                self.classifiers.keep(task, 1, self.fit_classifier(described, None))

    def fit_classifier(self, attributes: Float[Tensor, "new attribute"], seen: tuple[Tensor, Tensor] | None) -> Linear:
        """A classifier of new classes alone, or of seen classes, by their samples, and new ones behind them."""
        settings, known = self.hparams, 0 if seen is None else self.group_sizes[0]
        samples, labels = self.made_up(attributes, settings.zsl_samples if seen is None else settings.gzsl_samples)
        samples, labels = self.compared(samples), labels + known
        if seen is not None:
            samples, labels = torch.cat([seen[0], samples]), torch.cat([seen[1], labels])
        steps, size, lr = settings.classifier_steps, settings.classifier_batch, settings.classifier_lr
        return fit_softmax(samples, labels, known + len(attributes), steps, size, lr)

    def made_up(
        self, attributes: Float[Tensor, "class attribute"], samples: int
    ) -> tuple[Float[Tensor, "sample latent"], Int[Tensor, "sample"]]:
        """So many latents of every class; the same for the same generator."""
        labels = torch.arange(len(attributes), device=self.device).repeat_interleave(samples)
        drawn = torch.Generator().manual_seed(0)
        noise = torch.randn(len(labels), self.generator.noise_dim, generator=drawn).to(self.device)
        return self.generator(attributes[labels], noise), labels

    def latents_of(self, features: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample latent"]:
        """Many samples in the latent space, not all at once."""
        return torch.cat([self.place(chunk.to(self.device)) for chunk in features.split(CHUNK)])

    def compared(self, latents: Float[Tensor, "sample latent"]) -> Float[Tensor, "sample compared"]:
        """What classifiers see."""
        return latents if self.hparams.classify_in == "latent" else self.lead_back(latents)

    # -- inference --

    def decide(self, features: Features, task: Int[Tensor, "batch"]) -> tuple[Tensor, Tensor]:
        seen = self.place(features) if self.hparams.classify_in == "latent" else features
        return self.classifiers(seen, task)

    @torch.no_grad()
    def decide_among(
        self, features: Features, attributes: Float[Tensor, "new attribute"], only_new: bool
    ) -> Float[Tensor, "batch candidate"]:
        """A classifier for these classes; samples of seen ones are made up, too: training's are not at hand."""
        seen = None
        if not only_new:
            samples, labels = self.made_up(self.attributes[: self.group_sizes[0]], self.hparams.gzsl_samples)
            seen = self.compared(samples), labels
        weight, bias = self.fit_classifier(attributes, seen)
        inputs = self.place(features) if self.hparams.classify_in == "latent" else features
        return inputs @ weight.T + bias

    @torch.no_grad()
    def latent_map(
        self, features: Features, attributes: Float[Tensor, "new attribute"], class_names: list[str]
    ) -> LatentMap:
        made_up, labels = self.made_up(attributes, 40)
        classes = torch.cat([self.prototypes, made_up.unflatten(0, (-1, 40)).mean(dim=1)])
        seen, generated, given = plane(classes, self.prototypes, made_up, self.place(features))
        return LatentMap(class_names, seen, generated, labels.cpu(), given)

    def draw_training(self, folder: Path) -> list[Path]:
        """The latent space: prototypes of seen classes, and samples made up of unseen ones."""
        start = sum(self.group_sizes[:2])
        if start == len(self.attributes):
            return []
        nothing = self.class_means[:0]
        draw_latent_map(self.latent_map(nothing, self.attributes[start:], self._names()[start:]), folder / "latent.png")
        return [folder / "latent.png"]

    @torch.no_grad()
    def read_outs(self, data: DataModule) -> dict[str, float]:
        """How much the latent space changes relative distances of test samples to seen classes and among these (E4)."""
        assert isinstance(data, ZeroShotData)
        features = data.tensors("test")[0].to(self.device)
        change = relative_distance_loss(features, self.class_means, self.latents_of(features), self.prototypes)
        return {"distances_changed": float(change)}


def _two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, outputs))


RAW = {"latent": "none", "structure_weight": 0.0, "reconstruction_weight": 0.0}
"""f-CLSWGAN: no latent space, one critic, no way back."""
LATENT = {"constraint_weight": 0.0, "decoding_weight": 0.0, "structure_weight": 0.0, "reconstruction_weight": 0.0}


def _arms(method: str) -> dict[str, Arm]:
    """Each arm but the last adds one part to the one before it."""
    parts: dict[str, Mapping[str, Any]] = {
        "raw features": RAW,
        "latent": LATENT,
        "+ constraint": {**LATENT, "constraint_weight": 10.0},
        "+ structure critic": {**LATENT, "constraint_weight": 10.0, "structure_weight": 0.3},
        "+ reconstruction": {"constraint_weight": 10.0},
        "mild constraint": {**LATENT, "constraint_weight": 1.0},
    }
    roles: dict[str, Role] = {method: "method"}
    before = list(parts)[list(parts).index(method) - 1]
    roles[before] = "baseline"
    return {name: Arm(roles.get(name, "reported"), dict(part)) for name, part in parts.items()}


_BUDGET: dict[str, Any] = {
    "model": SAGAN.embedded["model"],
    "data": SAGAN.embedded["data"],
    "trainer": {"max_epochs": -1},
    "tuning": {"recipe.lr": (1e-3, 3e-3), "generator_steps": (200, 400), "embedding_steps": (150, 1000)},
    "tuning_metric": "H",
    "shown": ("H", "U", "S", "T1", "distances_changed"),
}

SAGAN.claims = (
    Claim(
        name="sa-gan",
        statement="Keeping relative distances between samples and class prototypes in the latent space raises the "
        "harmonic mean H of seen and unseen accuracy over the same latent GAN without that constraint.",
        arms=_arms("+ constraint"),
        criteria=(Criterion("H", versus="latent"),),
        source="docs/methods/sa-gan.md, claim",
        **_BUDGET,
    ),
    Claim(
        name="sa-gan-structure",
        statement="A second critic that judges made-up samples by their affinity to the seen classes raises H further.",
        arms=_arms("+ structure critic"),
        criteria=(Criterion("H", versus="+ constraint"),),
        source="docs/methods/sa-gan.md, second claim",
        **_BUDGET,
    ),
)
