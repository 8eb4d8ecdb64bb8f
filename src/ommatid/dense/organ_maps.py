"""Maps of the organs in a volume, found one stage after the other (DeepStationing, arXiv:2109.09271, E1-E3).

Anchors are organs that show by themselves. The others are found with the maps of the anchors beside the volume. What
reads maps of organs later on is trained with maps as they are found, mistakes included; where such maps would cost too
much, true ones are disturbed.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ommatid.dense.volume_task import UNKNOWN
from ommatid.errors import InputError, MissingDependency
from ommatid.nn.unet_nd import UNetND

Images = Float[Tensor, "batch 1 *space"]
Labels = Int[Tensor, "batch *space"]
Maps = Float[Tensor, "batch _ *space"]
Stages = tuple[tuple[int, ...], ...]
LAYER = 256
"""Labels that one layer of packed labels can have."""
AT_ONCE = 2**17
"""Voxels that pass through a network together, in windows: of small ones several, as single ones are slow."""
POOL = {2: F.max_pool2d, 3: F.max_pool3d}
DROPPED, CHANGED = 0.1, 0.6
"""Share of organs that a disturbed map lacks, and of those that are eroded or dilated."""


class OrganNetworks(nn.Module):
    """One network for each stage of organs; a later one also sees the maps of those before it (E1, E2).

    Args:
        stages: numbers of the organs that each stage finds; a volume's organs are numbered from 1.
        dimensions, widths, in_plane: of `UNetND`.
        mode: "onehot" shows later networks the likeliest organ of every voxel, "prob" the probabilities.

    Examples:
        >>> networks = OrganNetworks(((2, 3), (1,)), dimensions=2, widths=(4, 8))
        >>> networks(torch.rand(1, 1, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(
        self,
        stages: Stages,
        dimensions: int,
        widths: Sequence[int],
        in_plane: int = 0,
        mode: Literal["onehot", "prob"] = "onehot",
    ) -> None:
        super().__init__()
        self.stages, self.mode = stages, mode
        self.dimensions, self.widths, self.in_plane = dimensions, tuple(widths), in_plane
        self.networks = nn.ModuleList(self.build(stage) for stage in range(len(stages)))
        found = [number for stage in stages for number in stage]
        self.order = [found.index(number) for number in sorted(found)]

    def build(self, stage: int) -> UNetND:
        """A network for a stage."""
        before = sum(len(organs) for organs in self.stages[:stage])
        return UNetND(self.dimensions, 1 + before, len(self.stages[stage]) + 1, self.widths, self.in_plane)

    def forward(self, images: Images, patch: Sequence[int] | None = None) -> Maps:
        """A map of every organ, in the order of their numbers.

        Args:
            patch: size of the window that slides over the volumes; each at once where None.
        """
        found = self.findings(images, patch)
        return self.sorted([self.shown(each, stage) for stage, each in enumerate(found)])

    def findings(self, images: Images, patch: Sequence[int] | None = None) -> list[Tensor]:
        """What every stage finds, see `found`."""
        maps: list[Tensor] = []
        findings: list[Tensor] = []
        for stage, network in enumerate(self.networks):
            logits = windowed(network, torch.cat([images, *maps], dim=1), patch)
            findings.append(self.found(logits))
            maps.append(self.shown(findings[-1], stage))
        return findings

    def found(self, logits: Float[Tensor, "batch _ *space"]) -> Tensor:
        """What is kept of the logits of a stage: the label of every voxel, or probabilities of organs."""
        return logits.float().softmax(dim=1)[:, 1:] if self.mode == "prob" else logits.argmax(dim=1)

    def shown(self, found: Tensor, stage: int) -> Maps:
        """The maps that later networks see."""
        return found.float() if self.mode == "prob" else one_hot(found, len(self.stages[stage]))

    def sorted(self, found: Sequence[Maps]) -> Maps:
        """Maps of all stages in the order of organ numbers."""
        return torch.cat(list(found), dim=1)[:, self.order]


def organ_stages(kind: Literal["stratified", "joint"], organs: int, anchors: Sequence[int]) -> Stages:
    """Numbers of the organs that each stage finds.

    Raises:
        InputError: an anchor is none of the organs.

    Examples:
        >>> organ_stages("stratified", 4, [1, 3]), organ_stages("joint", 4, [1, 3])
        (((1, 3), (2, 4)), ((1, 2, 3, 4),))
    """
    numbers = range(1, organs + 1)
    for anchor in anchors:
        if anchor not in numbers:
            raise InputError(f"anchors: found {anchor}, expected numbers of organs, from 1 to {organs}")
    if kind == "joint":
        return (tuple(numbers),)
    others = tuple(number for number in numbers if number not in anchors)
    return tuple(stage for stage in (tuple(sorted(set(anchors))), others) if stage)


def stage_labels(organs: Labels, stage: Sequence[int]) -> Labels:
    """Classes of a stage: its organs as 1, 2, ..., all others background; what is unknown stays so.

    Examples:
        >>> stage_labels(torch.tensor([[0, 1, 2, 3, 255]]), (3, 1))
        tensor([[  0,   2,   0,   1, 255]])
    """
    table = torch.zeros(LAYER, dtype=torch.long, device=organs.device)
    table[list(stage)] = torch.arange(1, len(stage) + 1, device=organs.device)
    table[UNKNOWN] = UNKNOWN
    return table[organs.long()]


def one_hot(labels: Labels, classes: int) -> Maps:
    """A map for each class but background.

    Examples:
        >>> one_hot(torch.tensor([[0, 2, 255]]), 2)
        tensor([[[0., 0., 0.],
                 [0., 1., 0.]]])
    """
    numbers = torch.arange(1, classes + 1, device=labels.device).view(-1, *[1] * (labels.ndim - 1))
    return (labels[:, None] == numbers).float()


def disturbed(maps: Maps) -> Maps:
    """True maps with the mistakes of found ones: organs eroded or dilated by a voxel, and some missing.

    What happens to an organ is drawn for each volume, from torch's global generator.
    """
    pool = POOL[maps.ndim - 2]
    dilated = pool(maps, 3, stride=1, padding=1)
    eroded = -pool(-maps, 3, stride=1, padding=1)
    drawn = torch.rand(*maps.shape[:2], *[1] * (maps.ndim - 2), device=maps.device)
    changed = torch.where(drawn < DROPPED + CHANGED / 2, eroded, torch.where(drawn < DROPPED + CHANGED, dilated, maps))
    return torch.where(drawn < DROPPED, 0.0, changed)


def windowed(
    network: Callable[[Tensor], Tensor], images: Float[Tensor, "batch _ *space"], patch: Sequence[int] | None
) -> Float[Tensor, "batch _ *space"]:
    """Logits of whole volumes from windows of the size of a patch, half overlapping, weighted by a Gaussian.

    Raises:
        MissingDependency: windows without monai.
    """
    if patch is None:
        return network(images)
    try:
        from monai.inferers import sliding_window_inference
    except ImportError as error:
        raise MissingDependency("patches of volumes need monai: pip install 'ommatid[volumes]'") from error
    together = max(AT_ONCE // math.prod(patch), 1)
    found = sliding_window_inference(images, tuple(patch), together, network, overlap=0.5, mode="gaussian")
    assert isinstance(found, Tensor)
    return found
