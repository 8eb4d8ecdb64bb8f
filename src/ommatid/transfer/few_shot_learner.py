"""`FewShotLearner`: the base of every method that tells new classes apart by a few pictures of each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ommatid.classification.classifier import Classifier
from ommatid.data.images import class_folders, images_in, read_image
from ommatid.engine.data import DataModule
from ommatid.engine.scores import SampleScores
from ommatid.errors import InputError
from ommatid.transfer.episodes import episode_accuracy, interval
from ommatid.transfer.few_shot_data import EpisodeData
from ommatid.transfer.few_shot_task import BaseClassBatch, CropMatch, EpisodeBatch, FewShotPrediction


class EpisodeScores(SampleScores):
    """The mean over episodes, and of the accuracy the half width of the 95 % interval over episodes."""

    def update(self, identity: Int[Tensor, "batch"], scores: Mapping[str, Float[Tensor, "batch"]]) -> None:
        super().update(identity, scores)

    def compute(self) -> dict[str, float]:
        found = super().compute()
        if "accuracy" in found:
            _, values = self.table()
            found["ci95"] = interval(values[:, self.names.index("accuracy")]).ci95
        return found


class FewShotLearner(Classifier):
    """Episodes in, scores of their classes out: a subclass implements `forward`, `classify`, `answer` and
    `training_step`.
    """

    data_module = EpisodeData
    monitor = "val/accuracy"

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, EpisodeData)
        return {
            "num_classes": len(data.class_names),
            "num_images": len(data.sets["train"]),
            "image_size": data.size,
        }

    def align(self, data: DataModule) -> None:
        """Classes may be any: they are not those of training."""
        assert isinstance(data, EpisodeData)
        data.use(int(self.hparams.image_size))

    def forward(self, batch: EpisodeBatch) -> Float[Tensor, "episode query way"]:
        """Scores of every query against the classes of its episode."""
        raise NotImplementedError

    def classify(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch class"]:
        """Logits of the base classes."""
        raise NotImplementedError

    def answer(
        self, image: Float[Tensor, "3 height width"], supports: Sequence[Float[Tensor, "_ 3 height width"]]
    ) -> tuple[Float[Tensor, "way"], dict[int, tuple[CropMatch, ...]]]:
        """Scores of one image against any classes, and what the decision for some of them rests on."""
        raise NotImplementedError

    def score(self, batch: BaseClassBatch | EpisodeBatch) -> dict[str, Float[Tensor, "batch"]]:
        """Accuracy of every episode; in the part that is learnt from, of every image among the base classes."""
        if isinstance(batch, EpisodeBatch):
            return {"accuracy": episode_accuracy(self(batch), batch.labels)}
        return {"accuracy": (self.classify(batch.images).argmax(dim=1) == batch.labels).float()}

    def new_scores(self) -> EpisodeScores:
        return EpisodeScores()

    @torch.no_grad()
    def predict(self, image: str | Path, support: str | Path) -> FewShotPrediction:
        """Which of your own classes an image shows; a few pictures of each are enough.

        Args:
            image: picture file.
            support: folder with one folder of pictures for each class.

        Raises:
            InputError: a file is missing or no readable picture, or there are fewer than two classes.
        """
        size = int(self.hparams.image_size)
        query = read_image(image, 3, size).float() / 255
        folders = class_folders(Path(support))
        if len(folders) < 2:
            raise InputError(f"{support}: found 1 folder, expected one for each of two or more classes")
        supports = [
            torch.stack([read_image(path, 3, size) for path in images_in(folder)]).float() / 255 for folder in folders
        ]
        self.eval()
        scores, matches = self.answer(query.to(self.device), [each.to(self.device) for each in supports])
        order = scores.argsort(descending=True).tolist()
        classes = [(folders[place].name, float(scores[place])) for place in order]
        return FewShotPrediction(query, classes, supports[order[0]], matches.get(order[0], ()))
