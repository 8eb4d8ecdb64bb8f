"""`LabelRecogniser`: the base of every method that names all that an image shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ommatid.classification.classifier import Classifier
from ommatid.data.images import Fit, read_image
from ommatid.engine.data import DataModule
from ommatid.engine.scores import SampleScores
from ommatid.recognition.label_data import LabelData
from ommatid.recognition.multilabel import multilabel_scores
from ommatid.recognition.task import FoundLabels, LabelBatch

Labels = Bool[Tensor, "batch label"]
Scores = Float[Tensor, "batch label"]


class LabelScores(SampleScores):
    """CP to OF1 and mAP of a whole split, and the recall of labels whose object is hard to see, where that is known."""

    def update(self, identity: Int[Tensor, "batch"], scores: Mapping[str, Float[Tensor, "batch label"]]) -> None:
        """Add the tables `predicted`, `labels`, `scores` and `hard` of some images."""
        columns = {
            f"{name}/{place}": each for name, table in scores.items() for place, each in enumerate(table.unbind(1))
        }
        super().update(identity, columns)

    def compute(self) -> dict[str, float]:
        identity, values = self.table()
        if not len(identity):
            return {}
        predicted, labels, scores, hard = values.view(len(values), 4, -1).unbind(1)
        found = multilabel_scores(predicted > 0, labels > 0, scores)
        if (hard > 0).any():
            seen = (predicted > 0) & (hard > 0)
            found["hard recall"] = seen.sum().double() / (hard > 0).sum()
        return {name: float(value) for name, value in found.items()}


class LabelRecogniser(Classifier):
    """Images in [0, 1] in, a set of labels out: a subclass implements `decide` and `training_step`."""

    data_module = LabelData
    monitor = "val/OF1"

    def __init__(self) -> None:
        super().__init__()
        self.fit: Fit = "crop"

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, LabelData)
        return {"num_labels": len(data.class_names), "image_size": data.size}

    def adopt(self, data: DataModule) -> None:
        super().adopt(data)
        assert isinstance(data, LabelData)
        self.fit = data.fit

    def align(self, data: DataModule) -> None:
        super().align(data)
        assert isinstance(data, LabelData)
        data.use(int(self.hparams.image_size), self.fit)

    def extras(self) -> dict[str, Any]:
        return {**super().extras(), "fit": self.fit}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        super().restore_extras(extras)
        self.fit = extras["fit"]

    def decide(self, images: Float[Tensor, "batch 3 height width"]) -> tuple[Labels, Scores]:
        """The labels of every image, and a score of every label by which images can be ranked."""
        raise NotImplementedError

    def score(self, batch: LabelBatch) -> dict[str, Float[Tensor, "batch label"]]:
        """What `LabelScores` gathers."""
        predicted, scores = self.decide(batch.images)
        return {
            "predicted": predicted.float(),
            "labels": batch.labels.float(),
            "scores": scores.float(),
            "hard": batch.hard.float(),
        }

    def new_scores(self) -> LabelScores:
        return LabelScores()

    @torch.no_grad()
    def predict(self, image: str | Path) -> FoundLabels:
        """The labels of your own image.

        Args:
            image: picture file; it comes to its size as those of training did.

        Raises:
            InputError: the file is missing or no readable picture.
        """
        pixels = read_image(image, 3, int(self.hparams.image_size), self.fit).float() / 255
        named, attention = self.eval().explain(pixels.to(self.device))
        names = self.class_names or [str(number) for number in range(int(self.hparams.num_labels))]
        return FoundLabels(pixels, [(names[label], value) for label, value in named], attention)

    def explain(
        self, image: Float[Tensor, "3 height width"]
    ) -> tuple[list[tuple[int, float]], Float[Tensor, "label rows columns"] | None]:
        """The labels of one image with their scores, best first, and where the method looked for each, if it does."""
        predicted, scores = self.decide(image[None])
        order = scores[0].argsort(descending=True)
        return [(int(label), float(scores[0, label])) for label in order if predicted[0, label]], None
