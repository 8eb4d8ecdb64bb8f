"""The organ maps that a station network sees beside the volume, wherever they come from (DeepStationing, E3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.data.volume_files import Volume, read_volume, same_grid, to_size, whole_numbers
from ommatid.dense.case_maps import Found, TrainingMaps
from ommatid.dense.organ_maps import Images, Maps, OrganNetworks, one_hot, organ_stages
from ommatid.dense.organ_training import OrganTraining, train_organs
from ommatid.dense.volume_data import VolumeData
from ommatid.dense.volume_task import VolumeBatch
from ommatid.errors import InputError

Organs = Literal["stratified", "joint", "truth", "shuffled", "none"]


class OrganContext(nn.Module):
    """Maps of all organs for volumes: of networks, of the data, of another volume, or none.

    Args:
        kind: "stratified" finds the anchors first and the others with their maps (E1, E2); "joint" finds all at once;
            "truth" has the maps of the data; "shuffled" what "stratified" finds in a training volume, whatever volume
            it stands for; "none" has no maps.
        anchors: numbers of the organs that are found first, from 1 on.
        widths, in_plane, mode: of `OrganNetworks`.
        patch: size of the window that slides over volumes; each at once where None.
    """

    def __init__(
        self,
        kind: Organs,
        num_organs: int,
        anchors: Sequence[int],
        dimensions: int,
        widths: Sequence[int],
        in_plane: int = 0,
        mode: Literal["onehot", "prob"] = "onehot",
        patch: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.num_organs, self.patch = kind, num_organs, patch
        self.networks: OrganNetworks | None = None
        if kind in ("stratified", "joint", "shuffled"):
            stages = organ_stages("joint" if kind == "joint" else "stratified", num_organs, anchors)
            self.networks = OrganNetworks(stages, dimensions, widths, in_plane, mode)
            self.networks.requires_grad_(False)
        self.found: Found | None = None
        """What networks that did not see them find in the training volumes; of "shuffled" see `borrow`."""

    @property
    def channels(self) -> int:
        return 0 if self.kind == "none" else self.num_organs

    def learn(self, data: VolumeData, how: OrganTraining, root: Path | None) -> None:
        """Train the networks, or take them from their files, see `train_organs`."""
        if self.networks is not None:
            self.found = train_organs(self.networks, data, how, root)

    @torch.no_grad()
    def borrow(self, data: VolumeData) -> None:
        """For "shuffled": each training volume has what is found in the next one, in its own size."""
        if self.kind != "shuffled" or self.networks is None:
            return
        device, sizes, found = next(self.networks.parameters()).device, [], []
        for sample in data.volumes("train").each():  # volumes may differ in size
            sizes.append(tuple(sample.labels.shape))
            findings = self.networks.eval().findings(sample.image[None].to(device), self.patch)
            found.append([each[0].cpu() for each in findings])
        following = zip([*found[1:], found[0]], sizes, strict=True)
        self.found = [[resized(each, size) for each in stages] for stages, size in following]

    # -- in training --

    @property
    def training_maps(self) -> TrainingMaps:
        """What a station network is shown of organs in training."""
        if self.networks is not None:
            return TrainingMaps(self.networks.stages, self.found, self.networks.mode, disturb=True)
        every = tuple(range(1, self.num_organs + 1))
        return TrainingMaps((every,) if self.kind == "truth" else ())

    def taught(self, batch: VolumeBatch) -> Maps:
        """Maps for volumes that `MappedVolumes` gave, in the order of organ numbers."""
        maps = self.training_maps.of(batch)
        return self.networks.sorted(maps) if self.networks is not None else _joined(batch.images, maps)

    # -- in use --

    @torch.no_grad()
    def forward(self, batch: VolumeBatch) -> Maps:
        """Maps for volumes that were not trained with, in the order of organ numbers."""
        if self.kind == "shuffled":
            return self.borrowed(batch.index.tolist(), batch.images)
        if self.networks is not None:
            return self.networks(batch.images, self.patch).to(batch.images)
        return self.taught(batch)

    def borrowed(self, numbers: Sequence[int], images: Images) -> Maps:
        """Maps of "shuffled" by the numbers of the volumes, in the size of the images.

        Raises:
            InputError: there are no training volumes to borrow maps from.
        """
        if self.networks is None or self.found is None:
            raise InputError("organs is 'shuffled', which borrows maps of training volumes, expected 'stratified'")
        rows = []
        for number in numbers:  # volumes may differ in size
            stages = [resized(each, images.shape[2:])[None] for each in self.found[number % len(self.found)]]
            rows.append(self.networks.sorted([self.networks.shown(each, at) for at, each in enumerate(stages)]))
        return torch.cat(rows).to(images)

    @torch.no_grad()
    def of_file(self, images: Images, volume: Volume, organs: str | Path | None) -> Maps:
        """Maps for a volume of the user's.

        Args:
            images: the volume as networks see it.
            organs: file with organ numbers, for "truth" alone.

        Raises:
            InputError: organs are given or missing where they should not be, or are not those of the volume.
        """
        if (self.kind == "truth") != (organs is not None):
            expected = "a label map of organs" if organs is None else "none, as it does not look at given organs"
            raise InputError(f"organs: found {organs}, expected {expected}")
        if self.kind == "shuffled":
            return self.borrowed([0], images)
        if self.networks is not None:
            return self.networks(images, self.patch).to(images)
        if organs is None:
            return _joined(images, [])
        given = read_volume(organs)
        same_grid(volume, given)
        labels = whole_numbers(given, self.num_organs)
        flat = labels if volume.flat is None else labels.squeeze(volume.flat)
        return one_hot(resized(flat, images.shape[2:])[None], self.num_organs).to(images)


def resized(found: Tensor, size: Sequence[int]) -> Tensor:
    """A label map, or maps of organs, in another size, of the nearest voxels.

    Examples:
        >>> resized(torch.tensor([0, 0, 7, 7]), [2]), resized(torch.zeros(3, 4), [2]).shape
        (tensor([0, 7]), torch.Size([3, 2]))
    """
    lead = found.shape[: found.ndim - len(size)]
    maps = found.reshape(1, -1, *found.shape[len(lead) :])
    return to_size(maps, tuple(size), smooth=False).reshape(*lead, *size)


def _joined(images: Images, maps: Sequence[Maps]) -> Maps:
    return torch.cat([images[:, :0], *maps], dim=1)
