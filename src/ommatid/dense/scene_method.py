"""`SceneMethod`: the base of every method that says of each pixel its class and its normal."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ommatid.data.images import IMAGENET, read_image
from ommatid.data.surface_augment import MEAN_COLOUR
from ommatid.data.surface_samples import IGNORE
from ommatid.dense.multi_task import SceneBatch, SceneMaps, ScenePrediction
from ommatid.dense.multi_task_data import SceneData
from ommatid.dense.normals_metrics import DenseTaskScores, angular_errors
from ommatid.dense.segmentation_metrics import confusion_matrices
from ommatid.engine.data import DataModule
from ommatid.engine.method import Method
from ommatid.errors import InputError
from ommatid.losses.dice_cross_entropy import label_cross_entropy
from ommatid.losses.surface_normals import surface_normal_loss
from ommatid.nn.layerwise_fusion import resized

Images = Float[Tensor, "batch 3 height width"]


def preprocessed(images: Images, kind: str) -> Images:
    """Images in [0, 1] as a backbone was trained with them.

    Args:
        kind: "caffe" is blue, green, red, up to 255, minus their mean; "imagenet" in units of standard deviations;
            "none" as they are.

    Examples:
        >>> blue = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
        >>> preprocessed(blue, "caffe").flatten()
        tensor([ 151.0000, -116.7000, -122.7000])
    """
    if kind == "caffe":
        return 255 * (images - images.new_tensor(MEAN_COLOUR).view(3, 1, 1)).flip(1)
    if kind == "imagenet":
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in IMAGENET)
        return (images - mean) / std
    return images


class SceneMethod(Method):
    """Images in [0, 1] in; logits of classes and vectors of normals out, for every pixel.

    A subclass has the arguments `num_classes` and `image_size` and implements `forward(images) -> SceneMaps` in the
    size of the images, and `training_step`.
    """

    data_module = SceneData
    monitor = "val/mIoU"

    def __init__(self) -> None:
        super().__init__()
        self.class_names: list[str] = []

    def adopt(self, data: DataModule) -> None:
        assert isinstance(data, SceneData)
        self.class_names = list(data.class_names)

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, SceneData)
        return {"num_classes": len(data.class_names), "image_size": data.size}

    def align(self, data: DataModule) -> None:
        assert isinstance(data, SceneData)
        data.use(self.hparams.image_size)
        found, expected = len(data.class_names), self.hparams.num_classes
        if found != expected:
            raise InputError(f"{data.describe()['name']}: found {found} classes, expected the {expected} of training")

    def extras(self) -> dict[str, Any]:
        return {"class_names": self.class_names}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        self.class_names = list(extras["class_names"])

    def losses(
        self, maps: SceneMaps, batch: SceneBatch, normal_weight: float
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """What is minimised, apart from weight decay, and its parts (NDDR-CNN, E6-E8)."""
        parts = {
            "semantic": label_cross_entropy(maps.logits, batch.semantic),
            "normals": surface_normal_loss(maps.normals, batch.normals, batch.normals_valid),
        }
        return parts["semantic"] + normal_weight * parts["normals"], parts

    @torch.no_grad()
    def predict(self, image: str | Path) -> ScenePrediction:
        """Classes and normals of your own image, in its own size.

        Args:
            image: picture file.

        Raises:
            InputError: the file is missing or no readable picture.
        """
        pixels = read_image(image).float() / 255
        seen, size = pixels[None], self.hparams.image_size
        if size is not None:
            seen = F.interpolate(seen, tuple(size), mode="bilinear", antialias=True, align_corners=False)
        maps = self.eval()(seen.to(self.device))
        logits, normals = (resized(each.float(), pixels.shape[1:])[0].cpu() for each in (maps.logits, maps.normals))
        names = self.class_names or [f"class {number}" for number in range(len(logits))]
        return ScenePrediction(pixels, logits.argmax(dim=0), F.normalize(normals, dim=0), tuple(names))

    def identity(self, batch: SceneBatch) -> Int[Tensor, "batch"]:
        return batch.index

    def new_scores(self) -> DenseTaskScores:
        return DenseTaskScores()

    def score(self, batch: SceneBatch) -> dict[str, Tensor]:
        """What `DenseTaskScores` gathers (NDDR-CNN, E9-E11)."""
        maps, known = self(batch.images), batch.semantic != IGNORE
        classes = self.hparams.num_classes
        return {
            "confusion": confusion_matrices(maps.logits.argmax(dim=1), batch.semantic, classes, known),
            "angles": angular_errors(maps.normals, batch.normals, batch.normals_valid),
        }
