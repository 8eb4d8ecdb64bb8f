"""Finding the object of images of one class without a box: what most images of the class have in common (COS)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ommatid.errors import InputError
from ommatid.nn.crops import random_crop_boxes, whole_box

LEAST_AREA = 0.08
"""Share of a whole image that a training crop shows at least."""


class CropDistances(NamedTuple):
    """How far the crops of one class are from what its images have in common.

    Attributes:
        to_object: to the nearest cluster that is met in most images (E5).
        to_any: to the nearest cluster of all.
        coverage: share of the images with a crop in each cluster (E4).
    """

    to_object: Float[Tensor, "image crop"]
    to_any: Float[Tensor, "image crop"]
    coverage: Float[Tensor, "cluster"]


class FoundCrops(NamedTuple):
    """The crops of each image that most probably show its object, nearest first.

    Attributes:
        crops: their numbers.
        distances: to the nearest kept cluster.
        probabilities: with which training chooses them (E7); what is left of 1 is for the image as it is.
    """

    crops: Int[Tensor, "image top"]
    distances: Float[Tensor, "image top"]
    probabilities: Float[Tensor, "image top"]


def crop_distances(
    features: Float[Tensor, "image crop feature"], clusters: int = 5, coverage: float = 0.5, seed: int = 0
) -> CropDistances:
    """Clusters of the crops of ONE class, and how far each crop is from those met in most images (E3-E5).

    COSOC (arXiv:2107.07746): background differs from image to image, so that a cluster which most images reach is one
    of objects. Where no cluster is met in more than `coverage` of the images, the most frequent one counts.

    Args:
        features: unit vectors of the crops.
        clusters: of k-means; fewer where there are fewer crops.

    Examples:
        >>> features = torch.eye(4)[torch.tensor([[0, 1], [0, 2], [0, 3]])]
        >>> found = crop_distances(features, clusters=4)
        >>> found.coverage.sort(descending=True).values, found.to_object[:, 0]
        (tensor([1.0000, 0.3333, 0.3333, 0.3333]), tensor([0., 0., 0.]))
    """
    from sklearn.cluster import KMeans

    images, crops, width = features.shape
    rows = features.detach().float().cpu().reshape(-1, width)
    known = KMeans(min(clusters, len(rows)), n_init=10, random_state=seed).fit(rows.numpy())
    centres = torch.from_numpy(known.cluster_centers_).float()
    members = torch.from_numpy(known.labels_).long().view(images, crops)
    reached = torch.zeros(images, len(centres)).scatter(1, members, 1.0).mean(dim=0)
    kept = reached > coverage
    kept = torch.where(kept.any(), kept, reached == reached.max())
    distances = torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist").view(images, crops, -1)
    to_object = distances.masked_fill(~kept, float("inf")).amin(dim=-1)
    return CropDistances(to_object, distances.amin(dim=-1), reached)


def choose_crops(
    to_object: Float[Tensor, "image crop"],
    largest: float,
    top: int = 3,
    as_released: bool = False,
) -> FoundCrops:
    """The nearest crops of each image and how often training is to use them (E5-E7).

    Args:
        to_object: of images of any classes.
        largest: distance to the nearest cluster of the crop, of all classes, for which it is largest (E6).
        as_released: leave a score below zero as it is. A crop farther away than `largest` has one, and E7 then gives
            numbers that are no probabilities; here such a crop is never chosen.
    """
    distances, chosen = to_object.topk(min(top, to_object.shape[1]), dim=1, largest=False, sorted=True)
    scores = 1 - distances / max(largest, 1e-12)
    if not as_released:
        scores = scores.clamp(min=0)
    total = scores.sum(dim=1, keepdim=True)
    total = torch.where(total == 0, 1.0, total)
    return FoundCrops(chosen, distances, scores.amax(dim=1, keepdim=True) * scores / total)


def seek_objects(
    classes: Sequence[Float[Tensor, "_ crop feature"]],
    clusters: int = 5,
    coverage: float = 0.5,
    top: int = 3,
    as_released: bool = False,
) -> list[FoundCrops]:
    """Clustering-based object seeking (COSOC, arXiv:2107.07746, E3-E7): each class apart, on one scale of scores.

    Args:
        classes: for every class the unit vectors of the crops of its images.

    Raises:
        InputError: there is no class, or the coverage is no share.

    Examples:
        >>> crops = torch.nn.functional.normalize(torch.randn(6, 8, 4), dim=-1)
        >>> found = seek_objects([crops, -crops])
        >>> found[0].crops.shape, bool(found[0].probabilities.sum(dim=1).max() <= 1)
        (torch.Size([6, 3]), True)
    """
    if not classes:
        raise InputError("classes: found none, expected the crops of at least one")
    if not 0 <= coverage < 1:
        raise InputError(f"coverage: found {coverage}, expected a share from 0 to below 1")
    found = [crop_distances(features, clusters, coverage) for features in classes]
    largest = float(torch.stack([each.to_any.max() for each in found]).max())
    return [choose_crops(each.to_object, largest, top, as_released) for each in found]


def relax_box(
    boxes: Float[Tensor, "*box 4"], ratio: float, height: int, width: int
) -> tuple[Float[Tensor, "*box 4"], Float[Tensor, "*box"]]:
    """Boxes (top, left, height, width) grown about their centre inside an image, and their share of its area (E8).

    A box that leaves the image above or on the left is moved inside; one that does below or on the right is cut. A box
    of -1 is the whole image.

    Examples:
        >>> boxes, share = relax_box(torch.tensor([[10.0, 20.0, 30.0, 40.0]]), 1.2, 84, 100)
        >>> boxes, share
        (tensor([[ 7., 16., 36., 48.]]), tensor([0.2057]))
    """
    corner, extent = boxes[..., :2], boxes[..., 2:]
    image = torch.tensor([height, width], device=boxes.device, dtype=boxes.dtype)
    whole = (boxes < 0).all(dim=-1, keepdim=True)
    grown = extent * ratio
    moved = (corner - (grown - extent) / 2).clamp(min=0)
    moved, grown = torch.where(whole, 0.0, moved), torch.where(whole, image, grown)
    grown = torch.minimum(grown, image - moved)
    return torch.cat([moved, grown], dim=-1), grown.prod(dim=-1) / image.prod()


def fusion_boxes(
    found: Float[Tensor, "image top 4"],
    probabilities: Float[Tensor, "image top"],
    height: int,
    width: int,
    relax: float = 1.2,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "image 4"]:
    """Where a training crop of each image is taken: in a found crop, by its probability, or anywhere (E8).

    Args:
        found: boxes (top, left, height, width) of the found crops.
        probabilities: of choosing each; what is left of 1 is that of the whole image.
        relax: factor by which a found crop is grown.

    Examples:
        >>> object = torch.tensor([[[30.0, 30.0, 10.0, 10.0]]])
        >>> never, always = torch.zeros(1, 1), torch.ones(1, 1)
        >>> box = fusion_boxes(object, always, 48, 48)[0]
        >>> bool((box[:2] >= 29).all() and (box[:2] + box[2:] <= 41.001).all())
        True
        >>> fusion_boxes(object, never, 48, 48).shape
        torch.Size([1, 4])
    """
    device = generator.device if generator is not None else found.device
    chances = probabilities.clamp(min=0)
    bounds = (chances / chances.sum(dim=1, keepdim=True).clamp(min=1)).cumsum(dim=1)
    draw = torch.rand(len(found), 1, device=device, generator=generator).to(bounds)
    # The number of bounds below the draw: the crop, or behind all of them the whole image.
    choice = (draw >= bounds).sum(dim=1)[:, None]
    grown, share = relax_box(found, relax, height, width)
    whole = whole_box(height, width, found.device).to(found.dtype).expand(len(found), 1, 4)
    regions = torch.cat([grown, whole], dim=1).gather(1, choice[..., None].expand(-1, -1, 4))[:, 0]
    share = torch.cat([share, torch.ones_like(share[:, :1])], dim=1).gather(1, choice)[:, 0]
    smallest = (LEAST_AREA / share.clamp(min=1e-6)).clamp(max=1)
    return random_crop_boxes(regions, smallest=smallest, generator=generator)
