"""DeepStationing: Thoracic Lymph Node Station Parsing in CT Scans using Anatomical Context Encoding and Key Organ
Auto-Search (arXiv:2109.09271, MICCAI 2021).

A lymph node station is a region of fat whose borders are planes and surfaces of the organs around it; it can hardly be
seen itself. So the organs are segmented first, those that show by themselves before those that do not (E1, E2), and the
station network sees their maps beside the volume (E3). Which organs matter is searched: gates on their maps learn by
turns with the network (E5-E7), and the final network is trained with the organs whose gates are most open. Equation
numbers refer to docs/methods/deepstationing.md.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ommatid.data.volume_files import read_volume, to_size
from ommatid.dense.gate_draw import draw_gates
from ommatid.dense.organ_context import OrganContext, Organs
from ommatid.dense.organ_maps import Images, Maps, windowed
from ommatid.dense.organ_scores import organ_dice, rank_auc
from ommatid.dense.organ_training import OrganTraining
from ommatid.dense.station_batches import FINAL, GATES, WEIGHTS, StageBatch, divided, stage_loader
from ommatid.dense.volume_data import VolumeData
from ommatid.dense.volume_metrics import VolumeScores, volume_scores
from ommatid.dense.volume_task import VolumeBatch, VolumePrediction
from ommatid.dense.volume_views import file_labels, network_input
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.method import Method, frozen
from ommatid.engine.recipe import Phase, Recipe
from ommatid.errors import InputError
from ommatid.losses.dice_cross_entropy import deeply_supervised
from ommatid.nn.channel_gate import ChannelGate
from ommatid.nn.unet_nd import UNetND

MOMENTS = 100
"""Of a search, at which the gates are remembered."""
FOLDER = "organ-maps"
AUC_ASKED, CHANCE = 0.8, 0.5
"""What a search is asked to rank organs with, and what organs that nobody ranked have."""
NNUNET = Recipe("nesterov", lr=0.01, momentum=0.99, weight_decay=3e-5, schedule="poly")


class DeepStationing(Method):
    """DeepStationing (arXiv:2109.09271): stations by the maps of the organs that matter (E1-E7).

    First the organ networks learn, unless their files are there already. One training has two stages then: a search of
    `search_steps` updates, where `kept` organs are looked for, and `steps` updates of the final network. It ends by
    itself, whatever `max_epochs` allows beyond that.

    Args:
        num_classes: stations and background.
        num_organs, dimensions, spacing, patch, window: as the data have them.
        anchors: numbers of the organs that are found first, from 1 on.
        organs: whose maps the station network sees: "stratified", anchors found first, the others with their maps (E1,
            E2); "joint", all by one network; "truth", those of the data; "shuffled", stratified ones of another volume;
            or "none".
        maps: "onehot", the likeliest organ of each voxel, or "prob", probabilities, for volumes that are neither cut
            into patches nor augmented.
        kept: how many organs a search keeps; all, without a search, where None.
        search_steps: updates of the network in the search.
        search_warmup: share of them that leaves the gates alone.
        search_share: share of the training volumes that teach the gates, not the weights.
        gate: "gumbel" draws gates, 0 or 1; "softmax" multiplies by their probabilities (E5).
        gate_start: logit of being on minus logit of being off before the search.
        temperatures: of the draws, when gates begin to learn and at the end.
        sparsity: what an open gate costs.
        oof: station and later organ networks learn from maps of `folds` networks that did not see the volume; else from
            true maps, disturbed.
        folds: parts of the training volumes.
        widths: channels of every level of every network.
        in_plane: how many of the first halvings leave the last axis of a volume as it is.
        organ_steps: updates of each organ network.
        steps: updates of the final station network.
        organ_folder: where organ maps and networks are kept, for a resumed run and for others with the same organs;
            where None the folder `organ-maps` of the data, and none of a rendered world.
        recipe: of the station network, in the search and after it; organ_recipe: of organ networks; gate_recipe: of
            gates.
    """

    data_module = VolumeData
    monitor = "val/Dice"
    several_optimizers = True
    trained_elsewhere = ("context",)
    embedded = {
        "model": {
            "kept": 4,
            "search_steps": 250,
            "folds": 2,
            "widths": [10, 20, 40],
            "organ_steps": 100,
            "steps": 200,
            "recipe": {"optimizer": "adam", "lr": 3e-3, "weight_decay": 0.0},
            "organ_recipe": {"optimizer": "adam", "lr": 6e-3, "weight_decay": 0.0},
            "gate_recipe": {"lr": 0.05},
        },
        "data": {"batch_size": 8, "world": {"dimensions": 2}},
        "trainer": {"max_epochs": -1, "check_val_every_n_epoch": 5},
    }

    chosen: Tensor
    """Positions of the organs that the station network sees."""
    gate_path: Tensor
    """Logit differences of the gates during the search."""

    def __init__(
        self,
        num_classes: int = 13,
        num_organs: int = 22,
        anchors: list[int] = [2, 5, 6, 7, 8, 9, 10, 11, 12, 13],  # noqa: B006  (plain values for the command line)
        dimensions: int = 3,
        spacing: list[float] | None = None,
        patch: list[int] | None = None,
        window: list[float] = [-160.0, 240.0],  # noqa: B006
        organs: Organs = "stratified",
        maps: Literal["onehot", "prob"] = "onehot",
        kept: int | None = 6,
        search_steps: int = 50_000,
        search_warmup: float = 0.25,
        search_share: float = 0.2,
        gate: Literal["gumbel", "softmax"] = "gumbel",
        gate_start: float = 2.0,
        temperatures: list[float] = [1.0, 0.5],  # noqa: B006
        sparsity: float = 0.002,
        oof: bool = True,
        folds: int = 4,
        widths: list[int] = [32, 64, 128, 256, 320],  # noqa: B006
        in_plane: int = 2,
        organ_steps: int = 250_000,
        steps: int = 250_000,
        organ_folder: str | None = None,
        recipe: Recipe = NNUNET,
        organ_recipe: Recipe = NNUNET,
        gate_recipe: Recipe = Recipe("adam", lr=1e-3, betas=(0.5, 0.999), schedule="constant"),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        _check(self.hparams)
        self.recipe = recipe
        self.class_names: list[str] = []
        self.organ_names: list[str] = []
        # All axes of a slice are alike.
        flat = in_plane if dimensions == 3 else 0
        shown = None if patch is None else tuple(patch)
        self.context = OrganContext(organs, num_organs, anchors, dimensions, widths, flat, maps, shown)
        seen = kept or self.context.channels
        self.network = UNetND(dimensions, 1 + seen, num_classes, widths, flat)
        self.searcher = UNetND(dimensions, 1 + num_organs, num_classes, widths, flat) if kept else None
        self.gate = ChannelGate(num_organs, gate, gate_start, temperatures[0]) if kept else None
        self.register_buffer("chosen", torch.arange(seen))
        self.register_buffer("gate_path", torch.zeros(min(self.search_steps, MOMENTS), num_organs if kept else 0))

    @property
    def search_steps(self) -> int:
        """Updates of the search; 0 without one."""
        return int(self.hparams.search_steps) if self.hparams.kept else 0

    @property
    def warmup(self) -> int:
        """Updates of the search that leave the gates alone."""
        return round(self.search_steps * self.hparams.search_warmup)

    # -- organs --

    def adopt(self, data: DataModule) -> None:
        """Train the organ networks, or take them from their files."""
        assert isinstance(data, VolumeData)
        settings = self.hparams
        if settings.maps == "prob" and (data.patch is not None or data.augment != "none"):
            raise InputError("maps is 'prob', but the data give patches or augmented volumes, expected 'onehot'")
        self.agree(data)
        self.data, self.class_names, self.organ_names = data, list(data.class_names), list(data.organ_names)
        folds = settings.folds if settings.oof else 0
        how = OrganTraining(settings.organ_recipe, settings.organ_steps, folds, self.context.patch, data.seed)
        root = None if data.root is None else str(Path(data.root) / FOLDER)
        folder = settings.organ_folder or root
        self.context.learn(data, how, None if folder is None else Path(folder))
        self.context.borrow(data)

    def align(self, data: DataModule) -> None:
        assert isinstance(data, VolumeData)
        self.agree(data)
        self.context.borrow(data)

    def agree(self, data: VolumeData) -> None:
        """Show volumes as they were trained with, and refuse those with other stations or organs."""
        settings = self.hparams
        data.use(settings.spacing, settings.window)
        counts = {"stations": (len(data.class_names), settings.num_classes - 1)}
        if settings.organs != "none":
            counts["organs"] = len(data.organ_names), settings.num_organs
        for name, (found, expected) in counts.items():
            if found != expected:
                raise InputError(
                    f"{data.describe()['name']}: found {found} {name}, expected the {expected} of training"
                )

    # -- training --

    def training_loader(self) -> DataLoader[Any]:
        every = range(len(self.data.volumes("train")))
        parts = {FINAL: list(every)}
        if self.search_steps:
            parts[WEIGHTS], parts[GATES] = divided(len(every), self.hparams.search_share, self.data.seed)
        return stage_loader(self.data, self.context.training_maps, parts, self.search_steps, self.warmup)

    def phases(self) -> dict[str, Phase]:
        settings, found = self.hparams, {}
        if self.searcher is not None and self.gate is not None:
            found["search"] = Phase([self.searcher], self.recipe, total=self.search_steps)
            found["gates"] = Phase([self.gate], settings.gate_recipe, total=self.search_steps - self.warmup)
        return {**found, "stations": Phase([self.network], self.recipe, total=settings.steps)}

    def on_train_start(self) -> None:
        steps = self.search_steps
        if steps:
            updates = 2 * steps - self.warmup
            self.refuse_short("search_steps", steps, updates, "the station network would never learn")

    def training_step(self, batch: StageBatch, batch_idx: int) -> None:
        """One update: of the search, or of the final network."""
        number = self.batch_number(batch_idx)
        if number < self.search_steps:
            self.search(batch, number)
        elif batch.final is not None and number < self.search_steps + self.hparams.steps:
            seen = self.context.taught(batch.final)[:, self.chosen]
            loss = self.station_loss(self.network, batch.final, seen)
            self.update("stations", loss=loss)
            self.report(loss=loss)
        if number + 1 >= self.search_steps + self.hparams.steps:
            self.trainer.should_stop = True

    def search(self, batch: StageBatch, number: int) -> None:
        """Weights by one part of the volumes, then gates by the other (E7)."""
        searcher, gate, weights = self.searcher, self.gate, batch.weights
        assert searcher is not None
        assert gate is not None
        assert weights is not None
        begin, end = self.hparams.temperatures
        done = max(number - self.warmup, 0) / max(self.search_steps - self.warmup, 1)
        gate.temperature = begin + (end - begin) * done
        with frozen(gate):
            loss = self.station_loss(searcher, weights, gate(self.context.taught(weights)))
            self.update("search", loss=loss)
        self.report(loss=loss)
        if batch.gates is not None:
            with frozen(searcher):
                loss = self.station_loss(searcher, batch.gates, gate(self.context.taught(batch.gates)))
                self.update("gates", loss=loss + self.hparams.sparsity * gate.probs().sum())
            self.report(gates=loss)
        self.gate_path[number * len(self.gate_path) // self.search_steps] = gate.differences()
        if number + 1 == self.search_steps:
            self.chosen.copy_(gate.kept(self.hparams.kept))

    def station_loss(self, network: UNetND, batch: VolumeBatch, maps: Maps) -> Float[Tensor, ""]:
        """Dice and cross-entropy on several scales (E4)."""
        return deeply_supervised(network.supervised(torch.cat([batch.images, maps], dim=1)), batch.labels)

    # -- inference --

    def forward(self, batch: VolumeBatch) -> Float[Tensor, "batch class *space"]:
        """Logits of stations (E3)."""
        return self.stations(batch.images, self.context(batch))

    def stations(self, images: Images, maps: Maps) -> Float[Tensor, "batch class *space"]:
        """Logits by volumes and the maps of all organs."""
        return windowed(self.network, torch.cat([images, maps[:, self.chosen]], dim=1), self.context.patch)

    @torch.no_grad()
    def predict(self, volume: str | Path, organs: str | Path | None = None) -> VolumePrediction:
        """Stations of your own volume, on the grid of its file.

        Args:
            volume: NIfTI file, or folder of a DICOM series.
            organs: NIfTI file with the organ numbers of its voxels, for a method that was trained with true maps.

        Raises:
            InputError: a file is missing or damaged, or organs are given or missing where they should not be.
            MissingDependency: without nibabel.
        """
        settings, read = self.hparams, read_volume(volume)
        image, _ = network_input(read, settings.spacing, settings.window)
        if image.ndim - 1 != settings.dimensions:
            raise InputError(f"{volume}: found {image.ndim - 1} axes, expected {settings.dimensions} as in training")
        images = image[None].to(self.eval().device)
        logits = self.stations(images, self.context.of_file(images, read, organs)).float().cpu()
        names = self.class_names or [f"station {number}" for number in range(1, settings.num_classes)]
        low, high = settings.window
        return VolumePrediction(read, file_labels(logits, read), tuple(names), (low, high))

    def identity(self, batch: VolumeBatch) -> Int[Tensor, "batch"]:
        return batch.index

    def new_scores(self) -> VolumeScores:
        return VolumeScores()

    def score(self, batch: VolumeBatch) -> dict[str, Tensor]:
        """What `volume_scores` tells of every class, on the grid of the file."""
        logits = to_size(self(batch).float(), tuple(batch.truth.shape[1:]), smooth=True)
        return volume_scores(logits.argmax(dim=1), batch.truth, batch.truth_spacing, self.hparams.num_classes - 1)

    def read_outs(self, data: DataModule) -> dict[str, float]:
        """How well organs are found in the test volumes, and how well the search ranks those that define stations."""
        assert isinstance(data, VolumeData)
        found, networks = {}, self.context.networks
        if networks is not None:
            dice = organ_dice(networks, data, "test", self.context.patch)
            first = torch.zeros_like(dice, dtype=torch.bool)
            first[[number - 1 for number in self.hparams.anchors]] = True
            parts = {"organ Dice": dice, "anchor Dice": dice[first], "other organ Dice": dice[~first]}
            found = {name: float(each.nanmean()) for name, each in parts.items() if len(each)}
        defining = [number - 1 for number in data.defining]
        if not 0 < len(defining) < self.hparams.num_organs:
            return found
        if self.gate is None:
            return {**found, "rank AUC": CHANCE, "rank AUC asked": CHANCE}
        gates = self.gate.differences().cpu()
        others = [number for number in range(len(gates)) if number not in defining]
        found |= {
            "lowest defining gate": float(gates[defining].min()),
            "highest other gate": float(gates[others].max()),
        }
        return {**found, "rank AUC": rank_auc(gates, data.defining), "rank AUC asked": AUC_ASKED}

    def draw_training(self, folder: Path) -> list[Path]:
        """How gates opened and closed."""
        if self.gate is None:
            return []
        rows = len(self.gate_path)
        updates = [(row + 1) * self.search_steps // rows for row in range(rows)]
        names = self.organ_names or [f"organ {number + 1}" for number in range(self.gate_path.shape[1])]
        draw_gates(self.gate_path.cpu(), updates, names, self.chosen.tolist(), folder / "gates.png")
        return [folder / "gates.png"]

    # -- settings --

    @classmethod
    def arguments_from(cls, data: DataModule) -> dict[str, Any]:
        assert isinstance(data, VolumeData)
        found = {"num_classes": 1 + len(data.class_names), "num_organs": len(data.organ_names)}
        shown = {"spacing": data.spacing, "patch": data.patch, "window": data.window}
        return {**found, **shown, "anchors": list(data.anchor_numbers), "dimensions": data.dimensions}

    def extras(self) -> dict[str, Any]:
        return {"class_names": self.class_names, "organ_names": self.organ_names}

    def restore_extras(self, extras: dict[str, Any]) -> None:
        self.class_names, self.organ_names = list(extras["class_names"]), list(extras["organ_names"])

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """A plain-tensor network, example inputs, and the names of inputs and outputs."""
        settings, generator = self.hparams, torch.Generator().manual_seed(0)
        size = settings.patch or [2 ** len(settings.widths)] * settings.dimensions
        images = torch.rand(1, 1, *size, generator=generator)
        if settings.organs not in ("truth", "shuffled"):
            return _PlainNetwork(self), (images,), ("images",), ("logits",)
        maps = torch.rand(1, settings.num_organs, *size, generator=generator).round()
        return _PlainStations(self), (images, maps), ("images", "maps"), ("logits",)


class _PlainStations(nn.Module):
    """Volumes and the maps of all organs in, logits out."""

    def __init__(self, method: DeepStationing) -> None:
        super().__init__()
        self.method, self.chosen = method, method.chosen.tolist()

    def forward(self, images: Tensor, maps: Tensor) -> Tensor:
        return self.method.network(torch.cat([images, maps[:, self.chosen]], dim=1))


class _PlainNetwork(_PlainStations):
    """Volumes in, logits out; of the size of a patch where the method has one."""

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        networks = self.method.context.networks
        return super().forward(images, images[:, :0] if networks is None else networks(images))


def _check(settings: Any) -> None:
    organs, kept, most = settings.organs, settings.kept, settings.num_organs
    if organs != "none" and most < 1:
        raise InputError(f"num_organs is {most}, expected organ maps in the data, or organs 'none'")
    if kept is not None and (organs == "none" or not 1 <= kept <= most):
        there = 0 if organs == "none" else most
        raise InputError(f"kept is {kept}, but there are maps of {there} organs, expected at most as many, or None")
    if kept is not None and settings.search_steps < 1:
        raise InputError(f"search_steps must be at least 1, found {settings.search_steps}")
    if settings.steps < 1:
        raise InputError(f"steps must be at least 1, found {settings.steps}")
    for name in ("search_warmup", "search_share"):
        if not 0 <= settings[name] < 1:
            raise InputError(f"{name} must lie from 0 to below 1, found {settings[name]}")
    if settings.folds < 2:
        raise InputError(f"folds must be at least 2, found {settings.folds}: for none, set oof to False")
    temperatures = settings.temperatures
    if len(temperatures) != 2 or min(temperatures) <= 0:
        raise InputError(f"temperatures: found {temperatures}, expected two above 0, of the beginning and the end")


_ALL: dict[str, Any] = {"kept": None}
_COMMON: dict[str, Any] = {
    # Files of organ networks serve several arms, so they may cost more.
    "model": {
        **DeepStationing.embedded["model"],
        "folds": 4,
        "organ_steps": 200,
        "organ_folder": "runs/organ-maps",
    },
    "data": DeepStationing.embedded["data"],
    "trainer": {"max_epochs": -1},
    # Without maps large rates win on validation, and lose some of the trainings.
    "tuning": {"recipe.lr": (3e-3, 6e-3, 1.2e-2, 2.4e-2, 4.8e-2, 9.6e-2)},
    "tuning_seeds": (1000, 1001),
}

DeepStationing.claims = (
    Claim(
        name="deepstationing",
        statement="Maps of organs that were found anchors first raise the Dice of stations over the CT alone, and over "
        "the CT with as many maps that tell nothing of it.",
        arms={
            "stratified organs": Arm("method", _ALL),
            "CT only": Arm("baseline", {**_ALL, "organs": "none"}),
            "organs of another volume": Arm("control", {**_ALL, "organs": "shuffled"}),
            "joint organs": Arm("reported", {**_ALL, "organs": "joint"}),
            "true organs": Arm("reported", {**_ALL, "organs": "truth"}),
        },
        criteria=(
            Criterion("Dice", versus="CT only", margin=0.03),
            Criterion("Dice", versus="organs of another volume", margin=0.03),
        ),
        shown=("Dice", "HD", "HD95", "ASD", "missed", "organ Dice", "anchor Dice", "other organ Dice"),
        source="docs/methods/deepstationing.md, claim 1",
        **_COMMON,
    ),
    Claim(
        name="deepstationing-search",
        statement="The search ranks organs that define stations above those that do not, with an AUC above 0.8, and "
        "stations by the first organs of the ranking are not worse than stations by all.",
        arms={
            "searched organs": Arm("method"),
            "all organs": Arm("baseline", _ALL),
            "searched by soft gates": Arm("reported", {"gate": "softmax"}),
            "searched among organs of another volume": Arm("reported", {"organs": "shuffled"}),
        },
        criteria=(
            Criterion("rank AUC", versus="all organs", beyond="rank AUC asked", margin=0.05),
            Criterion("Dice", versus="all organs", kind="not worse", margin=0.02),
        ),
        tuning_metric="Dice",
        shown=("Dice", "rank AUC", "lowest defining gate", "highest other gate", "organ Dice"),
        source="docs/methods/deepstationing.md, claim 2",
        **_COMMON,
    ),
)
