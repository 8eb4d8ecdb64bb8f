"""`Classifier`: what methods share whose outcome tells classes apart; `ImageClassifier`: those of images."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.classification.data import ImageData, LabelledData
from ommatid.classification.task import Classification, ImageBatch
from ommatid.data.images import Fit, read_image
from ommatid.engine.data import DataModule
from ommatid.engine.method import Method
from ommatid.errors import InputError


class Classifier(Method):
    """Class logits out; knows what its classes are called."""

    monitor = "val/top1"

    def __init__(self) -> None:
        super().__init__()
        self.class_names: list[str] = []

    def adopt(self, data: DataModule) -> None:
        assert isinstance(data, LabelledData)
        self.class_names = list(data.class_names)

    def align(self, data: DataModule) -> None:
        assert isinstance(data, LabelledData)
        if self.class_names and list(data.class_names) != self.class_names:
            raise InputError(
                f"the data have the classes {data.class_names[:5]}..., this checkpoint was trained on "
                f"{self.class_names[:5]}..."
            )

    def extras(self) -> dict[str, Any]:
        return {"class_names": self.class_names}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        self.class_names = list(extras["class_names"])

    def identity(self, batch: Any) -> Int[Tensor, "batch"]:
        return batch.index

    def named(self, probabilities: Float[Tensor, "class"], top: int) -> list[tuple[str, float]]:
        """The most probable classes by name.

        Raises:
            InputError: `top` is below 1.
        """
        if top < 1:
            raise InputError(f"top must be at least 1, found {top}")
        values, places = probabilities.topk(min(top, len(probabilities)))
        names = self.class_names or [str(number) for number in range(len(probabilities))]
        return [(names[i], float(v)) for v, i in zip(values, places.tolist(), strict=True)]


def top_hits(scores: Float[Tensor, "batch class"], labels: Int[Tensor, "batch"]) -> dict[str, Float[Tensor, "batch"]]:
    """Top-1 and top-5 accuracy of single samples; of equal scores the class of the lower number comes first.

    Examples:
        >>> top_hits(torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3]]), torch.tensor([1, 2]))
        {'top1': tensor([1., 0.]), 'top5': tensor([1., 1.])}
    """
    ranked = scores.sort(dim=1, descending=True, stable=True).indices[:, :5]
    hits = ranked == labels[:, None]
    return {"top1": hits[:, 0].float(), "top5": hits.any(dim=1).float()}


class ImageClassifier(Classifier):
    """Images in [0, 1] in, class logits out: a subclass implements `forward(images) -> logits` and `training_step`."""

    data_module = ImageData

    def __init__(self) -> None:
        super().__init__()
        self.fit: Fit = "squash"

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, ImageData)
        return {
            "num_classes": len(data.class_names),
            "channels": data.channels,
            "image_size": data.size,
            "mean": data.mean,
            "std": data.std,
        }

    def align(self, data: DataModule) -> None:
        assert isinstance(data, ImageData)
        data.use(int(self.hparams.image_size), int(self.hparams.channels), self.fit)
        super().align(data)

    def adopt(self, data: DataModule) -> None:
        super().adopt(data)
        assert isinstance(data, ImageData)
        self.fit = data.fit

    def extras(self) -> dict[str, Any]:
        return {**super().extras(), "fit": self.fit}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        super().restore_extras(extras)
        self.fit = extras.get("fit", "squash")

    def score(self, batch: ImageBatch) -> dict[str, Float[Tensor, "batch"]]:
        """Top-1 and top-5 accuracy of single images."""
        return top_hits(self(batch.images), batch.labels)

    def predict(self, image: str | Path, top: int = 5) -> Classification:
        """The classes of your own image, most probable first.

        Args:
            image: picture file; it is resized to what the classifier was trained on.
            top: how many classes.

        Raises:
            InputError: the file is missing or no readable picture.
        """
        pixels, probs = self.recognise(image)
        return Classification(pixels, self.named(probs, top))

    @torch.no_grad()
    def recognise(self, image: str | Path) -> tuple[Float[Tensor, "channel height width"], Float[Tensor, "class"]]:
        """A picture file as the classifier sees it, and the probabilities of all classes.

        Raises:
            InputError: the file is missing or no readable picture.
        """
        pixels = read_image(image, int(self.hparams.channels), int(self.hparams.image_size), self.fit).float() / 255
        return pixels, self.eval()(pixels[None].to(self.device)).softmax(dim=1)[0].cpu()

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """A plain-tensor network, example inputs, and the names of inputs and outputs."""
        size, channels = int(self.hparams.image_size), int(self.hparams.channels)
        example = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
        return _PlainClassifier(self), (example,), ("images",), ("logits",)


class _PlainClassifier(nn.Module):
    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images)
