"""Order-Free RNN with Visual Attention for Multi-Label Classification (arXiv:1707.05495, AAAI 2018).

Labels of an image depend on each other, and a recurrent network that names them one after another can use that; but
which order is it to be taught? Here it is taught none: in every step it says how probable all labels are, names the
most probable one not named before, attends to the regions where it expects more, and goes on (E3-E8). At test the most
confident set is searched for (E12, E13). Equation numbers refer to docs/methods/order-free-rnn.md.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ommatid.data.images import IMAGENET
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Recipe
from ommatid.errors import InputError
from ommatid.losses.label_order import (
    all_label_loss,
    best_remaining_loss,
    fixed_order_targets,
    remaining_label_loss,
    sequence_loss,
)
from ommatid.nn.label_decoder import LabelDecoder, Unrolled
from ommatid.nn.normalise import Normalise
from ommatid.nn.set_beam_search import FoundSets
from ommatid.recognition.backbones import timm_backbone
from ommatid.recognition.label_data import LabelData
from ommatid.recognition.label_recogniser import LabelRecogniser
from ommatid.recognition.multilabel import multilabel_scores
from ommatid.recognition.task import LabelBatch

Order = Literal["free", "remaining", "best remaining", "frequent first", "rare first", "none"]
TAUGHT = ("best remaining", "frequent first", "rare first")
"""Orders that a decoder is told, with an end symbol."""
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
Regions = Float[Tensor, "batch region feature"]


class OrderFreeRNN(LabelRecogniser):
    """Labels named one after another in an order of the model's own (arXiv:1707.05495, E1-E13).

    Args:
        num_labels, image_size, steps: as the data have them; `steps` is the largest number of labels of an image.
        backbone: any CNN of timm, or "small", four convolutions for images of 48 pixels.
        weights: of the backbone: None for random ones, "pretrained" for timm's, or a file of them.
        hidden_dim, attention_dim: of the decoder.
        order: "free" is the paper's (E7, E8); "remaining" asks for labels not named yet only (E10); "best remaining"
            teaches the true label that the model itself finds most probable (E11); "frequent first" and "rare first"
            teach one order for all images; "none" leaves the first stage alone.
        attention: over regions (E3); without it the decoder sees their mean.
        first_stage: share of the training in which only the first stage learns (E9).
        frozen: keep the first stage as it is afterwards.
        beam: width of the search for the most confident set; 1 takes the best label each time.
        threshold: least confidence of a set (E12), or of a label in the first stage; None chooses it by validation.
        dropout: inside the decoder.
        recipe: optimiser and schedule.
    """

    embedded = {
        "model": {
            "backbone": "small",
            "hidden_dim": 64,
            "attention_dim": 32,
            "dropout": 0.1,
            "recipe": {"lr": 2e-3, "schedule": "onecycle", "lr_multipliers": {}},
        },
        "data": {"size": 48, "fit": "squash", "batch_size": 64},
        "trainer": {"max_steps": 1200, "max_epochs": -1},
    }

    frequencies: Tensor
    theta: Tensor

    def __init__(
        self,
        num_labels: int = 80,
        image_size: int = 224,
        steps: int = 10,
        backbone: str = "resnet152",
        weights: str | None = None,
        hidden_dim: int = 512,
        attention_dim: int = 512,
        order: Order = "free",
        attention: bool = True,
        first_stage: float = 0.4,
        frozen: bool = False,
        beam: int = 3,
        threshold: float | None = None,
        dropout: float = 0.5,
        recipe: Recipe = Recipe("adam", lr=1e-4, schedule="constant", lr_multipliers={"encoder.*": 0.1}),
    ) -> None:
        super().__init__()
        if not 0 <= first_stage < 1:
            raise InputError(f"first_stage must lie from 0 to below 1, found {first_stage}")
        if threshold is not None and not 0 < threshold < 1:
            raise InputError(f"threshold must lie between 0 and 1, found {threshold}")
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.normalise = Normalise(*IMAGENET)
        self.encoder, width = _encoder(backbone, weights)
        self.classifier = nn.Linear(width, num_labels)
        self.decoder = None
        if order != "none":
            end = order in TAUGHT
            self.decoder = LabelDecoder(num_labels, width, hidden_dim, attention_dim, dropout, end_symbol=end)
            if not attention:
                # The mean is the only region: there is nothing to weigh.
                self.decoder.attention.requires_grad_(False)
                if self.decoder.attention.gate is not None:
                    self.decoder.attention.gate.requires_grad_(True)
        self.register_buffer("frequencies", torch.full((num_labels,), 0.5))
        self.register_buffer("theta", torch.tensor(threshold or 0.5))

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, LabelData)
        return {**super().arguments_from(data), "steps": data.most_labels}

    def adopt(self, data: DataModule) -> None:
        super().adopt(data)
        assert isinstance(data, LabelData)
        self.frequencies.copy_(data.frequencies)

    # -- both stages --

    def see(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch label"], Float[Tensor, "batch feature rows columns"]]:
        """The first stage: logits of all labels from the mean of the map, and the map (E1)."""
        maps = self.encoder(self.normalise(images))
        return self.classifier(maps.mean(dim=(2, 3))).float(), maps

    def regions(self, maps: Float[Tensor, "batch feature rows columns"]) -> Regions:
        """What the decoder attends to: places of the map, or their mean alone."""
        places = maps.flatten(2).transpose(1, 2)
        return places if self.hparams.attention else places.mean(dim=1, keepdim=True)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch label"]:
        """Logits of the first stage."""
        return self.see(images)[0]

    # -- training --

    def training_step(self, batch: LabelBatch, _: int) -> Tensor:
        """The first stage alone, then both (E2, E8, E9)."""
        logits, maps = self.see(batch.images)
        seen = F.binary_cross_entropy_with_logits(logits, batch.labels.float())
        if self.decoder is None or self.in_first_stage():
            # Parameters of the decoder get a gradient of zero: a training on several processes expects one of each.
            loss = seen + (
                0.0 if self.decoder is None else 0.0 * sum(each.sum() for each in self._decoder_parameters())
            )
            self.report(loss=loss, first_stage=seen)
            return loss
        if self.hparams.frozen:
            logits, maps = logits.detach(), maps.detach()
        named = self.decoding_loss(self.regions(maps), logits.sigmoid(), batch.labels)
        loss = named if self.hparams.frozen else seen + named
        self.report(loss=loss, first_stage=seen, decoder=named)
        return loss

    def decoding_loss(
        self, regions: Regions, initial: Float[Tensor, "batch label"], labels: Bool[Tensor, "batch label"]
    ) -> Float[Tensor, ""]:
        """How wrong the decoder is in every step, by the order that it is taught (E8, E10, E11)."""
        decoder, order, steps = self.decoder, self.hparams.order, self._steps
        assert decoder is not None
        if order in ("free", "remaining"):
            unrolled = decoder.unroll(regions, initial, steps)
            if order == "free":
                return all_label_loss(unrolled.logits, labels)
            return remaining_label_loss(unrolled.logits, labels, unrolled.labels)
        if order == "best remaining":
            return best_remaining_loss(decoder.unroll_remaining(regions, initial, labels, steps + 1).logits, labels)
        priority = self.frequencies if order == "frequent first" else -self.frequencies
        targets = fixed_order_targets(labels, priority, steps + 1)
        return sequence_loss(decoder.unroll_order(regions, initial, targets).logits, targets)

    @torch.compiler.disable
    def in_first_stage(self) -> bool:
        """Whether training is in its first part; without a trainer it is not."""
        return self._trainer is not None and self.share_done < self.hparams.first_stage

    def on_train_start(self) -> None:
        if self.hparams.first_stage and math.isinf(self.trainer.estimated_stepping_batches):
            raise InputError("first_stage is a share of the training, expected trainer.max_steps or max_epochs above 0")

    def settle(self) -> None:
        """The threshold with the best O-F1 on validation data (E12)."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.hparams.threshold is None and data is not None:
            self.choose_threshold(data)

    @torch.no_grad()
    def choose_threshold(self, data: LabelData) -> None:
        training = self.training
        self.eval()
        batches = [batch.to(self.device) for batch in data.val_dataloader()]
        labels = torch.cat([batch.labels for batch in batches])
        found = []
        for value in THRESHOLDS:
            self.theta.fill_(value)
            predicted = torch.cat([self.decide(batch.images)[0] for batch in batches])
            found.append(multilabel_scores(predicted, labels)["OF1"])
        self.theta.fill_(THRESHOLDS[int(torch.stack(found).argmax())])
        self.train(training)

    # -- inference --

    @torch.no_grad()
    def decide(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Bool[Tensor, "batch label"], Float[Tensor, "batch label"]]:
        """The most confident set (E12, E13), and the probabilities by which images are ranked."""
        logits, maps = self.see(images)
        initial = logits.sigmoid()
        if self.decoder is None:
            return initial >= self.theta, initial
        regions = self.regions(maps)
        unrolled = self.decoder.unroll(regions, initial, self._steps)
        probabilities = self.decoder.log_probs(unrolled.logits)[..., : self.hparams.num_labels].exp()
        # A decoder with an end symbol gives each label its own step; one without says all of them again in every step.
        scores = probabilities.amax(dim=1) if self.decoder.end_symbol else probabilities[:, -1]
        return self.search(regions, initial).labels, scores

    def search(self, regions: Regions, initial: Float[Tensor, "batch label"]) -> FoundSets:
        decoder = self.decoder
        assert decoder is not None
        longest = self._steps + int(decoder.end_symbol)
        return decoder.search(regions, initial, self.hparams.beam, longest, float(self.theta))

    @torch.no_grad()
    def explain(
        self, image: Float[Tensor, "3 height width"]
    ) -> tuple[list[tuple[int, float]], Float[Tensor, "label rows columns"] | None]:
        """Labels in the order in which they were named, and the attention of each step."""
        if self.decoder is None:
            return super().explain(image)
        logits, maps = self.see(image[None])
        regions, initial = self.regions(maps), logits.sigmoid()
        named: Int[Tensor, "1 step"] = self.search(regions, initial).sequence
        named = named[:, named[0] >= 0]
        steps: Unrolled = self.decoder.unroll_order(regions, initial, named)
        values = self.decoder.log_probs(steps.logits).exp().gather(2, named[..., None])[0, :, 0]
        found = [(int(label), float(value)) for label, value in zip(named[0], values, strict=True)]
        return found, steps.weights[0].unflatten(1, maps.shape[2:]).cpu() if self.hparams.attention else None

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """The greedy unrolling on plain tensors: labels in the order of naming, and the confidence up to each."""
        size = int(self.hparams.image_size)
        example = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        if self.decoder is None:
            return _FirstStage(self), (example,), ("images",), ("logits",)
        return _Greedy(self), (example,), ("images",), ("labels", "confidence")

    @property
    def _steps(self) -> int:
        return min(int(self.hparams.steps), int(self.hparams.num_labels))

    def _decoder_parameters(self) -> list[nn.Parameter]:
        assert self.decoder is not None
        return [parameter for parameter in self.decoder.parameters() if parameter.requires_grad]


class _FirstStage(nn.Module):
    def __init__(self, method: OrderFreeRNN) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        return self.method(images)


class _Greedy(nn.Module):
    def __init__(self, method: OrderFreeRNN) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, maps = self.method.see(images)
        decoder = self.method.decoder
        assert decoder is not None
        unrolled = decoder.unroll(self.method.regions(maps), logits.sigmoid(), self.method._steps)
        return unrolled.labels, unrolled.confidence


def _encoder(backbone: str, weights: str | None) -> tuple[nn.Module, int]:
    """A network that gives a map of features, and their number."""
    if backbone == "small":
        return _small_encoder(), 64
    return timm_backbone(backbone, weights, global_pool="")


def _small_encoder() -> nn.Module:
    """Four convolutions: 6 x 6 places of 64 features from 48 pixels."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 32, 2), (32, 64, 2), (64, 64, 2), (64, 64, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


_METRIC = "OF1"
_MODEL = {name: value for name, value in OrderFreeRNN.embedded["model"].items() if name != "recipe"}


def _arm(role: Any, order: Order = "free", **settings: Any) -> Arm:
    return Arm(role, {**_MODEL, "order": order, **settings})


OrderFreeRNN.claims = (
    Claim(
        name="order-free-rnn",
        statement="With the same encoder and decoder, naming labels in an order of its own gives higher O-F1 and C-F1 "
        "than being taught the frequent-first or the rare-first order, and attention raises the recall of labels that "
        "are hard to see.",
        arms={
            "own order": _arm("method"),
            "frequent first": _arm("baseline", "frequent first"),
            "rare first": _arm("baseline", "rare first"),
            "own order, no attention": _arm("ablation", attention=False),
            "best remaining": _arm("reported", "best remaining"),
            "own order, no beam": _arm("reported", beam=1),
            "first stage alone": _arm("reported", "none"),
        },
        criteria=(
            Criterion(_METRIC, versus="frequent first"),
            Criterion(_METRIC, versus="rare first"),
            Criterion("CF1", versus="frequent first"),
            Criterion("CF1", versus="rare first"),
            Criterion("hard recall", versus="own order, no attention"),
        ),
        model={"recipe": OrderFreeRNN.embedded["model"]["recipe"]},
        data=OrderFreeRNN.embedded["data"],
        trainer=OrderFreeRNN.embedded["trainer"],
        tuning={"recipe.lr": (1e-3, 2e-3, 4e-3)},
        shown=(_METRIC, "CF1", "hard recall", "OP", "OR", "mAP"),
        source="docs/methods/order-free-rnn.md, claim",
    ),
)
