"""Where training crops are taken (E8): anywhere, around the boxes of the data, or around what clustering found."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from ommatid.errors import InputError
from ommatid.nn.crops import overlap, whole_box
from ommatid.nn.object_seeking import choose_crops, crop_distances
from ommatid.transfer.episode_views import Crops, Images, drawn_crops, upright
from ommatid.transfer.few_shot_data import BaseImages, EpisodeData
from ommatid.transfer.few_shot_task import BaseClassBatch

Fusion = Literal["none", "cos", "boxes"]
Chances = Float[Tensor, "image crop"]
Look = Callable[[Images, Crops], Float[Tensor, "image crop feature"]]
"""From images and crops to unit vectors."""


class KnownBoxes(nn.Module):
    """The boxes of the data, where there are some.

    Args:
        probability: with which a box is used; 0 leaves every crop to chance.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, batch: BaseClassBatch) -> tuple[Float[Tensor, "image crop 4"], Chances]:
        """Where the objects of images may be, and how often crops are taken there."""
        known = batch.boxes.isfinite().all(dim=1, keepdim=True)
        return torch.where(known, batch.boxes, 0.0)[:, None], self.probability * known.float()


class FoundObjects(nn.Module):
    """What clustering found in each training image (E3-E7): a part of the weights, one row an image.

    Args:
        images: of the training set.
        seek_crops: random crops of each image, among which and the whole image its object is sought.
        clusters, coverage, top: of `ommatid.nn.object_seeking`.
    """

    boxes: Tensor
    probabilities: Tensor
    labels: Tensor

    def __init__(
        self, images: int, seek_crops: int, clusters: int, coverage: float, top: int, as_released: bool = False
    ) -> None:
        super().__init__()
        self.seek_crops, self.clusters, self.coverage, self.top = seek_crops, clusters, coverage, top
        self.as_released = as_released
        kept = min(top, seek_crops + 1)
        self.register_buffer("boxes", torch.zeros(images, kept, 4))
        self.register_buffer("probabilities", torch.zeros(images, kept))
        # -1 for an image whose object was not sought yet.
        self.register_buffer("labels", torch.full((images,), -1))

    def forward(self, batch: BaseClassBatch) -> tuple[Float[Tensor, "image crop 4"], Chances]:
        """Where the objects of images may be, and how often crops are taken there."""
        return self.boxes[batch.index], self.probabilities[batch.index]

    @property
    def sought(self) -> bool:
        """Whether the objects of all images were sought."""
        return bool((self.labels >= 0).all())

    def forget(self) -> None:
        """As if nothing was sought yet."""
        self.labels.fill_(-1)

    def check(self, labels: Int[Tensor, "image"]) -> None:
        """Refuse to go on with other training images.

        Raises:
            InputError: objects were sought in images of other classes.
        """
        labels = labels.to(self.labels.device)
        if len(labels) != len(self.labels) or ((self.labels >= 0) & (self.labels != labels)).any():
            raise InputError("fusion: objects were sought in other training images, expected the same to go on with")

    @torch.no_grad()
    def seek(self, data: EpisodeData, look: Look) -> None:
        """Find the objects of all training images (E3-E7); the random crops follow from the seed of the data."""
        images, device = data.dataset("train"), self.boxes.device
        assert isinstance(images, BaseImages)
        found = []
        # Class by class: clusters are those of a class, and the crops of all images need not be kept.
        for label in range(len(data.class_names)):
            members = (images.labels == label).nonzero()[:, 0]
            boxes = self.candidates(members, data)
            parts = zip(in_batches(images, members, data), boxes.to(device).split(data.batch_size), strict=True)
            features = torch.cat([look(batch.images.to(device), upright(part)) for batch, part in parts])
            found.append((members, boxes, crop_distances(features, self.clusters, self.coverage)))
        largest = float(torch.stack([distances.to_any.max() for _, _, distances in found]).max())
        for members, boxes, distances in found:
            chosen = choose_crops(distances.to_object, largest, self.top, self.as_released)
            self.boxes[members] = boxes.gather(1, chosen.crops[..., None].expand(-1, -1, 4)).to(device)
            self.probabilities[members] = chosen.probabilities.to(device)
            self.labels[members] = images.labels[members].to(device)

    def candidates(self, members: Int[Tensor, "image"], data: EpisodeData) -> Float[Tensor, "image crop 4"]:
        """The boxes among which objects are sought: the whole image, and random crops that follow from its number."""
        drawn = drawn_crops(members, self.seek_crops, data.size, data.size, data.seed).boxes
        return torch.cat([whole_box(data.size, data.size).expand(len(members), 1, 4), drawn], dim=1)

    def overlaps(self, data: EpisodeData) -> dict[str, float]:
        """Intersection over union with the objects: of the crops kept, the nearest of them, and all random ones."""
        images = data.sets["train"]
        if images.boxes is None or not self.sought:
            return {}
        numbers = torch.arange(len(images))
        truth = torch.stack([images.box(number, data.size) for number in numbers.tolist()])[:, None]
        found, drawn = overlap(self.boxes.cpu(), truth), overlap(self.candidates(numbers, data)[:, 1:], truth)
        used = self.probabilities.clamp(min=0).sum(dim=1).clamp(max=1)
        return {
            "iou/found": float(found.mean()),
            "iou/nearest": float(found[:, 0].mean()),
            "iou/random": float(drawn.mean()),
            "fusion probability": float(used.mean()),
        }


def in_batches(images: BaseImages, members: Int[Tensor, "image"], data: EpisodeData) -> Iterator[BaseClassBatch]:
    """Some images in batches, in order."""
    # A generator of its own: opening a loader draws, and training must draw the same with and without it.
    yield from DataLoader(
        Subset(images, members.tolist()),
        data.batch_size,
        collate_fn=data.collate,
        num_workers=data.workers,
        generator=torch.Generator(),
    )
