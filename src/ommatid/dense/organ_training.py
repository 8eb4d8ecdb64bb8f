"""Training of organ networks, and the maps that they find in volumes they were not trained on (DeepStationing, E1-E2).

Maps of training volumes are out-of-fold: those of each fold come from networks that saw the others. They and the
weights are kept as files under a name that tells settings, volumes and code, so that a resumed run and other trainings
with the same organs use them again.
"""

import copy
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ommatid import __version__
from ommatid.dense import organ_maps, volume_augment
from ommatid.dense.case_maps import Found, MappedVolumes, Part, TrainingMaps, unpacked
from ommatid.dense.organ_maps import OrganNetworks, stage_labels, windowed
from ommatid.dense.volume_data import VolumeData
from ommatid.dense.volume_task import VolumeBatch
from ommatid.dense.volume_views import volume_batch
from ommatid.engine.recipe import Phase, Recipe, build_optimizer, build_schedule
from ommatid.engine.settings import to_plain
from ommatid.engine.streams import stream_loader
from ommatid.errors import InputError
from ommatid.files import write_aside
from ommatid.losses import dice_cross_entropy
from ommatid.losses.dice_cross_entropy import deeply_supervised
from ommatid.nn import unet_nd

Arrays = dict[str, np.ndarray]
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class OrganTraining:
    """How organ networks are trained.

    Attributes:
        steps: updates of each network.
        folds: parts of the training volumes, each mapped by networks that saw the others; 0 trains on true maps that
            are disturbed.
        patch: size of the window that slides over volumes.
    """

    recipe: Recipe
    steps: int
    folds: int
    patch: tuple[int, ...] | None
    seed: int


class MapStore:
    """Arrays by name, in files of a folder that a key tells; in memory without a folder.

    Raises:
        InputError: the folder cannot be written.

    Examples:
        >>> store = MapStore(None, {})
        >>> store.keep("a", {"labels": np.ones(3)})
        >>> store.find("a")["labels"].sum(), store.find("b")
        (np.float64(3.0), None)
    """

    def __init__(self, root: Path | None, key: Mapping[str, Any]) -> None:
        self.memory: dict[str, Arrays] = {}
        text = json.dumps({**key, "library": __version__}, sort_keys=True, indent=1)
        self.folder = None if root is None else root / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        if self.folder is not None and not (self.folder / MANIFEST).is_file():
            self._write(MANIFEST, lambda aside: aside.write_text(text, encoding="utf-8"))

    def find(self, name: str) -> Arrays | None:
        """None where nothing is, or a file is damaged: then it is made anew."""
        if self.folder is None:
            return self.memory.get(name)
        try:
            with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None

    def keep(self, name: str, arrays: Arrays) -> None:
        if self.folder is None:
            self.memory[name] = arrays
        else:
            self._write(f"{name}.npz", lambda aside: _save(aside, arrays))

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        assert self.folder is not None
        try:
            write_aside(self.folder / name, write)
        except OSError as error:
            raise InputError(
                f"{self.folder}: {error.strerror or error}, expected a folder that can be written: name one as "
                "organ_folder"
            ) from error


def train_organs(networks: OrganNetworks, data: VolumeData, how: OrganTraining, root: Path | None) -> Found | None:
    """Train every stage, one after the other, unless that was done before.

    Args:
        networks: given the weights that they have after training.
        root: where maps and weights are kept; in memory where None.

    Returns:
        What every stage finds in every training volume, each by networks that did not see it; None without folds.

    Raises:
        InputError: there are fewer training volumes than folds, or the folder cannot be written.
    """
    volumes, names = data.volumes("train"), data.case_names("train")
    if how.folds and len(volumes) < max(how.folds, 2):
        raise InputError(f"folds: found {how.folds} for {len(volumes)} training volumes, expected fewer, at least 2")
    store = MapStore(root, _key(networks, data, how))
    found: list[list[Tensor]] = [[] for _ in names]
    folds = fold_numbers(len(names), how.folds, how.seed) if how.folds else []
    for stage in range(len(networks.stages)):
        trainer = _StageTrainer(networks, stage, data, how, found if how.folds else None)
        maps: dict[int, Tensor] = {}
        for fold in range(how.folds):
            maps |= _mapped_fold(trainer, fold, folds, names, store)
        weights = store.find(f"stage {stage}")
        if weights is None:
            weights = {name: value.numpy() for name, value in trainer.trained(range(len(names)), how.folds).items()}
            store.keep(f"stage {stage}", weights)
        networks.networks[stage].load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        if how.folds:
            found = [[*before, maps[number]] for number, before in enumerate(found)]
    return found if how.folds else None


class _StageTrainer:
    """Networks of one stage.

    Args:
        found: what the stages before found in the training volumes; None without folds.
    """

    def __init__(
        self, networks: OrganNetworks, stage: int, data: VolumeData, how: OrganTraining, found: Found | None
    ) -> None:
        self.networks, self.stage, self.data, self.how = networks, stage, data, how
        self.maps = TrainingMaps(networks.stages[:stage], found, networks.mode, disturb=True)

    def trained(self, cases: Sequence[int], number: int) -> dict[str, Tensor]:
        """Weights of a network that saw these volumes; `number` sets its draws apart from those of the others."""
        recipe, device, organs = self.how.recipe, training_device(), self.networks.stages[self.stage]
        with torch.random.fork_rng():
            torch.manual_seed((self.how.seed * 101 + self.stage) * 1009 + number)
            network = self.networks.build(self.stage).to(device).train()
            phase = Phase([network], recipe, total=self.how.steps)
            optimizer = build_optimizer(phase)
            schedule = build_schedule(optimizer, recipe, self.how.steps)
            for batch in self._batches(cases):
                labels = stage_labels(unpacked(batch.organs, 1)[0], organs).to(device)
                optimizer.zero_grad()
                deeply_supervised(network.supervised(self._inputs(batch).to(device)), labels).backward()
                if recipe.clip_norm is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
                optimizer.step()
                schedule.step()
        return {name: value.detach().cpu() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def found_in(self, cases: Sequence[int], weights: Mapping[str, Tensor]) -> list[Tensor]:
        """What a network finds in whole volumes, see `Found`."""
        device = training_device()
        # A copy draws no weights at random.
        network = copy.deepcopy(self.networks.networks[self.stage]).to(device).eval()
        network.load_state_dict(dict(weights))
        volumes, results = MappedVolumes(self.data, self.maps, entire=True), []
        for case in cases:  # volumes may differ in size
            inputs = self._inputs(volume_batch([volumes[case]])).to(device)
            found = self.networks.found(windowed(network, inputs, self.how.patch))[0].cpu()
            results.append(found.half() if found.is_floating_point() else found.to(torch.uint8))
        return results

    def _inputs(self, batch: VolumeBatch) -> Float[Tensor, "batch _ *space"]:
        return torch.cat([batch.images, *self.maps.of(batch)], dim=1)

    def _batches(self, cases: Sequence[int]) -> Iterator[VolumeBatch]:
        volumes = {"volumes": Part(MappedVolumes(self.data, self.maps), cases)}
        yield from stream_loader(self.data, volumes, {"volumes": self.data.batch_size}, self.how.steps, _collated)


def training_device() -> torch.device:
    """The accelerator of this process: a method that is not with its trainer yet is on none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def fold_numbers(count: int, folds: int, seed: int) -> list[int]:
    """In which part each training volume is."""
    return (torch.randperm(count, generator=torch.Generator().manual_seed(seed)) % folds).tolist()


def _mapped_fold(
    trainer: _StageTrainer, fold: int, folds: Sequence[int], names: Sequence[str], store: MapStore
) -> dict[int, Tensor]:
    """What is found in the volumes of one fold, by a network that saw all others."""
    within = [number for number, part in enumerate(folds) if part == fold]
    kept = {number: store.find(f"{names[number]}.{trainer.stage}") for number in within}
    if any(each is None for each in kept.values()):
        weights = trainer.trained([number for number, part in enumerate(folds) if part != fold], fold)
        for number, maps in zip(within, trainer.found_in(within, weights), strict=True):
            kept[number] = arrays = {"found": maps.numpy()}
            store.keep(f"{names[number]}.{trainer.stage}", arrays)
    return {number: torch.from_numpy(each["found"]) for number, each in kept.items() if each is not None}


def _key(networks: OrganNetworks, data: VolumeData, how: OrganTraining) -> dict[str, Any]:
    """Everything that maps depend on."""
    told = hashlib.blake2b(digest_size=16)
    for sample in data.volumes("train").each():
        # Where patches lie depends on the labels of stations.
        for tensor in (sample.image, sample.organs, sample.labels):
            told.update(str(tuple(tensor.shape)).encode())
            told.update(tensor.contiguous().numpy().tobytes())
        told.update(str(tuple(sample.spacing)).encode())
    settings = {"stages": networks.stages, "widths": networks.widths, "in_plane": networks.in_plane}
    settings["mode"] = networks.mode
    seen = {"patch": data.patch, "augment": data.augment, "batch_size": data.batch_size, "data_seed": data.seed}
    return {
        **to_plain(settings),
        **to_plain(seen),
        "training": to_plain(how),
        "volumes": told.hexdigest(),
        "code": _code(),
    }


def _code() -> str:
    """What the modules are written like that maps come from: maps of a former version are not to be taken."""
    told = hashlib.blake2b(digest_size=16)
    for file in (__file__, *(module.__file__ for module in (dice_cross_entropy, organ_maps, unet_nd, volume_augment))):
        told.update(Path(str(file)).read_bytes())
    return told.hexdigest()


def _collated(samples: Mapping[str, list[Any]]) -> VolumeBatch:
    return volume_batch(samples["volumes"])


def _save(path: Path, arrays: Arrays) -> None:
    """numpy would add an ending of its own to a name."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
