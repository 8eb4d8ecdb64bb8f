"""NDDR-CNN: Layerwise Feature Fusing in Multi-Task CNNs by Neural Discriminative Dimensionality Reduction
(arXiv:1801.08297, CVPR 2019).

Classes and surface normals of one image want some of the same features, and nobody knows which. Instead of deciding by
hand where two networks share and where they part, each keeps its own, and after every stage a layer projects the
features of both onto as many as one has, for each task by itself (E1-E3). It begins as nearly nothing, nine parts own
and one part other (E4). First the networks of single tasks are trained, then all together (E8). Cross-stitch and sluice
units are special cases, one backbone for both tasks the usual alternative. Equation numbers refer to
docs/methods/nddr-cnn.md.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.dense.multi_task import SceneBatch, SceneMaps
from ommatid.dense.scene_method import Images, SceneMethod, preprocessed
from ommatid.engine.checkpoint import read_checkpoint
from ommatid.engine.claim import Arm, Claim, Criterion
from ommatid.engine.data import DataModule
from ommatid.engine.recipe import Phase, Recipe
from ommatid.engine.runs import RunDir
from ommatid.errors import CheckpointError, InputError
from ommatid.nn.layerwise_fusion import (
    FUSIONS,
    LR_FACTORS,
    CrossStitch,
    Fusion,
    LayerwiseFusionNet,
    Map,
    NDDRLayer,
    SharedTrunkNet,
    Shortcut,
    SluiceUnit,
    published_network,
    resized,
)
from ommatid.nn.staged_backbones import (
    LargeFOVHead,
    StagedBackbone,
    deeplab_vgg16,
    plain_stages,
    published_head,
    timm_stages,
)

Kind = Literal["nddr", "own", "cross-stitch", "channel-stitch", "sluice", "none"]
TASKS = ("semantic", "normals")
SINGLE = ("network.backbones.", "network.heads.", "network.shortcuts.")
"""How names of parameters begin that are of single networks."""


class OwnLayers(nn.Module):
    """NDDR layers without exchange: each projects the features of its own task alone."""

    def __init__(self, channels: int, num_tasks: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList([NDDRLayer(channels, num_tasks=1, alpha=1.0) for _ in range(num_tasks)])

    def forward(self, features: list[Map]) -> list[Map]:
        return [layer([each])[0] for layer, each in zip(self.layers, features, strict=True)]


def taken(layer: nn.Module) -> Float[Tensor, "task task"] | None:
    """Norm of what each task (row) takes of each task's features (column); None of layers without exchange."""
    if isinstance(layer, NDDRLayer):
        blocks = rearrange(layer.project.weight, "(t o) (f i) 1 1 -> t f (o i)", t=layer.num_tasks, f=layer.num_tasks)
    elif isinstance(layer, SluiceUnit):
        blocks = rearrange(layer.weight, "(t o) (f i) -> t f (o i)", t=layer.num_tasks, f=layer.num_tasks)
    elif isinstance(layer, CrossStitch):
        blocks = layer.weight
    else:
        return None
    return blocks.detach().float().norm(dim=-1)


class NDDRCNN(SceneMethod):
    """NDDR-CNN (arXiv:1801.08297): two networks that learn, channel by channel, what to take of each other (E1-E8).

    One training has two stages: `single_steps` updates of the networks of single tasks, and `joint_steps` of all
    together. It ends by itself, whatever `max_epochs` allows beyond that.

    Args:
        num_classes, image_size: as the data have them; images keep their size where None.
        backbone: "vgg16-largefov" as published, "plain", or a network of timm, see `timm_stages`.
        pretrained, output_stride: of a network of timm: its weights of ImageNet, which are downloaded once, and by how
            much its last map is smaller than the image, where the network leaves a choice.
        widths: of the stages of "plain".
        head: "large-fov" as published, or "linear", one convolution of 1x1.
        dropout: of "large-fov".
        preprocessing: what images go through first, see `preprocessed`.
        fusion: the layers between stages: "nddr"; "own", the same without exchange; "cross-stitch" with one coefficient
            for all channels, "channel-stitch" with one for each, "sluice" with one for each half of the channels; or
            "none".
        alpha: what a task takes of itself before training, sharing the rest among the others (E4).
        init: of "nddr": "diagonal" (E4), or "random".
        shortcut: heads read the maps of all stages (E5).
        shared_trunk: one backbone for both tasks instead, trained by `recipe` for as many updates as both stages have.
        normal_weight, single_normal_weight: of the loss of normals, in the joint stage and in the single one (E8).
        singles: checkpoint or run folder of a training with joint_steps 0, whose networks take the first stage's place.
        single_steps, joint_steps: updates of the stages; with joint_steps 0 the networks stay apart.
        recipe, single_recipe: of the joint stage and of the single one. The factors on the learning rate are part of
            the method: fusion layers hardly move without.
    """

    several_optimizers = True
    embedded = {
        "model": {
            "backbone": "plain",
            "head": "linear",
            "preprocessing": "imagenet",
            "normal_weight": 5.0,
            "single_normal_weight": 5.0,
            "single_steps": 400,
            "joint_steps": 400,
            "recipe": {"lr": 0.01, "lr_multipliers": {"*fusions.*": 10.0}},
            "single_recipe": {"lr": 0.05, "lr_multipliers": {}},
        },
        "data": {"batch_size": 16},
        "trainer": {"max_epochs": -1, "check_val_every_n_epoch": 4},
    }

    joined: Tensor
    """Whether the networks are one by now."""

    def __init__(
        self,
        num_classes: int = 40,
        image_size: list[int] | None = None,
        backbone: str = "vgg16-largefov",
        pretrained: bool = False,
        output_stride: int | None = None,
        widths: list[int] = [16, 32, 32],  # noqa: B006  (plain values for the command line; never changed)
        head: Literal["large-fov", "linear"] = "large-fov",
        dropout: float = 0.5,
        preprocessing: Literal["caffe", "imagenet", "none"] = "caffe",
        fusion: Kind = "nddr",
        alpha: float = 0.9,
        init: Literal["diagonal", "random"] = "diagonal",
        shortcut: bool = False,
        shared_trunk: bool = False,
        normal_weight: float = 20.0,
        single_normal_weight: float = 10.0,
        singles: str | None = None,
        single_steps: int = 20_001,
        joint_steps: int = 20_001,
        recipe: Recipe = Recipe("sgd", lr=1e-3, weight_decay=2.5e-4, schedule="poly", lr_multipliers=dict(LR_FACTORS)),
        single_recipe: Recipe = Recipe(
            "sgd", lr=1e-3, weight_decay=2.5e-4, schedule="poly", lr_multipliers=dict(LR_FACTORS)
        ),
    ) -> None:
        super().__init__()
        for name, steps in (("single_steps", single_steps), ("joint_steps", joint_steps)):
            if steps < 0:
                raise InputError(f"{name} must be at least 0, found {steps}")
        if singles is not None and shared_trunk:
            raise InputError(f"singles is {singles!r}, but a shared trunk has no single networks, expected None")
        if not joint_steps and fusion != "none" and not shared_trunk:
            raise InputError(f"joint_steps is 0: layers of {fusion!r} would never learn, expected fusion 'none'")
        self.save_hyperparameters(logger=False)
        self.recipe = recipe
        self.alone: dict[str, SharedTrunkNet] = {}
        """The network of each task by itself. Their modules are those of `network`, and registered there."""
        self.network: LayerwiseFusionNet | SharedTrunkNet
        if shared_trunk:
            self.network = self.build_network(TASKS)
        else:
            self.alone = {task: self.build_network([task]) for task in TASKS}
            self.network = LayerwiseFusionNet.joined(self.alone, self.fusion())
        self.register_buffer("joined", torch.tensor(shared_trunk))
        if not sum(self.stages):
            raise InputError("single_steps and joint_steps are 0: nothing would ever learn, expected updates")
        # Fusion reads all channels of a place: side by side in memory they are read a third faster.
        self.to(memory_format=torch.channels_last)

    def build_network(self, tasks: Sequence[str]) -> SharedTrunkNet:
        """One backbone with a head for each of the tasks."""
        settings = self.hparams
        backbone = self.build_backbone()
        width = backbone.out_channels[-1]
        outputs = {"semantic": settings.num_classes, "normals": 3}
        heads: dict[str, nn.Module] = {
            task: LargeFOVHead(width, outputs[task], dropout=settings.dropout)
            if settings.head == "large-fov"
            else nn.Conv2d(width, outputs[task], 1)
            for task in tasks
        }
        shortcuts = {task: Shortcut(backbone.out_channels) for task in tasks} if settings.shortcut else None
        return SharedTrunkNet(backbone, heads, shortcuts)

    def build_backbone(self) -> StagedBackbone:
        settings = self.hparams
        own = settings.backbone in ("vgg16-largefov", "plain")
        if own and (settings.pretrained or settings.output_stride is not None):
            raise InputError(
                f"pretrained and output_stride are of networks of timm, found them with backbone {settings.backbone!r}"
            )
        if settings.backbone == "vgg16-largefov":
            return deeplab_vgg16()
        if settings.backbone == "plain":
            return plain_stages(settings.widths)
        stride = {} if settings.output_stride is None else {"output_stride": settings.output_stride}
        return timm_stages(settings.backbone, settings.pretrained, **stride)

    def fusion(self) -> Fusion:
        """What makes a fusion layer."""
        settings = self.hparams
        begin: dict[str, Any] = {"alpha": settings.alpha}
        if settings.fusion == "nddr":
            return partial(NDDRLayer, **begin, init=settings.init)
        if settings.fusion == "own":
            return OwnLayers
        layer = FUSIONS[settings.fusion]
        return layer if settings.fusion == "none" else partial(layer, **begin)

    # -- training --

    @property
    def stages(self) -> tuple[int, int]:
        """Updates of the single and of the joint stage."""
        settings = self.hparams
        if settings.shared_trunk:
            return 0, settings.single_steps + settings.joint_steps
        return (0 if settings.singles else settings.single_steps), settings.joint_steps

    def phases(self) -> dict[str, Phase]:
        single, joint = self.stages
        found = {}
        if single:
            recipe = self.hparams.single_recipe
            found = {task: Phase([network], recipe, total=single) for task, network in self.alone.items()}
        if joint:
            found["joint"] = Phase([self.network], self.recipe, total=joint)
        return found

    def adopt(self, data: DataModule) -> None:
        super().adopt(data)
        if self.hparams.singles is not None:
            self.take_over(Path(self.hparams.singles))

    def take_over(self, path: Path) -> None:
        """The networks of single tasks from a former training.

        Raises:
            CheckpointError: it is of another method or size, or its networks are joined already.
        """
        file = RunDir.open(path).last if path.is_dir() else path
        former = read_checkpoint(file)
        if former.method != type(self).__name__:
            raise CheckpointError(f"{file}: a checkpoint of {former.method}, expected one of {type(self).__name__}")
        if bool(former.weights.get("joined", False)):
            raise CheckpointError(f"{file}: its networks are joined already, expected a training with joint_steps 0")
        own = {name: value for name, value in self.state_dict().items() if not name.startswith(SINGLE)}
        theirs = {name: value for name, value in former.weights.items() if name.startswith(SINGLE)}
        self.load_weights({**own, **theirs}, file)

    def on_train_start(self) -> None:
        single, joint = self.stages
        if single and joint:
            self.refuse_short("single_steps", single, single * len(TASKS), "the networks would never be joined")

    def training_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """One update: of each single network in the first stage, of all in the second (E8)."""
        number, (single, joint) = self.batch_number(batch_idx), self.stages
        if number < single:
            loss, parts = self.losses(self.maps(batch.images, joined=False), batch, self.hparams.single_normal_weight)
            # They share no weights: the sum gives each its own gradient.
            self.update(*TASKS, loss=loss)
            self.report(loss=loss, **parts)
        elif number < single + joint:
            self.joined.fill_(True)
            loss, parts = self.losses(self.maps(batch.images, joined=True), batch, self.hparams.normal_weight)
            self.update("joint", loss=loss)
            self.report(loss=loss, **parts)
        if number + 1 >= single + joint:
            self.trainer.should_stop = True

    # -- inference --

    def forward(self, images: Images) -> SceneMaps:
        return self.maps(images, joined=bool(self.joined))

    def maps(self, images: Images, joined: bool) -> SceneMaps:
        """Logits and vectors, as the networks of single tasks or the joined one give them, upsampled (E6)."""
        seen = preprocessed(images, self.hparams.preprocessing)
        found = self.network(seen) if joined else {task: self.alone[task](seen)[task] for task in TASKS}
        logits, normals = (resized(found[task], images.shape[2:]) for task in TASKS)
        return SceneMaps(logits, normals)

    def read_outs(self, data: DataModule) -> dict[str, float]:
        """Norm of what tasks take of each other, relative to what they take of themselves, after every stage."""
        fusions = self.network.fusions if isinstance(self.network, LayerwiseFusionNet) else ()
        found = {}
        for number, layer in enumerate(fusions, start=1):
            norms = taken(layer)
            if norms is not None:
                own = norms.diagonal().square().sum()
                found[f"cross_{number}"] = float(((norms.square().sum() - own) / own).sqrt())
        return found

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A joined network of the authors' PyTorch code, their first task being the classes, their second normals."""
        try:
            theirs = published_network(state, TASKS, published_head if self.hparams.head == "large-fov" else dict)
        except KeyError as error:
            raise CheckpointError(f"found the layer {error} of a head, expected those of DeepLab-LargeFOV") from error
        # Files of theirs may lack what norms count.
        counts = {name: value for name, value in self.state_dict().items() if name.endswith("num_batches_tracked")}
        own = {f"network.{name}": value for name, value in theirs.items()}
        return {**counts, **own, "joined": torch.ones_like(self.joined)}

    def exportable(self) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]:
        """A plain-tensor network, example inputs, and the names of inputs and outputs."""
        size = self.hparams.image_size or (64, 64)
        example = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
        return _PlainNetwork(self), (example,), ("images",), ("logits", "normals")


class _PlainNetwork(nn.Module):
    def __init__(self, method: NDDRCNN) -> None:
        super().__init__()
        self.method, self.joined = method, bool(method.joined)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.method.maps(images, self.joined)
        return maps.logits, maps.normals


NDDRCNN.claims = (
    Claim(
        name="nddr-cnn",
        statement="Two networks of single tasks that are joined by NDDR layers and trained on have better normals and "
        "classes than one trunk with two heads, and better normals, at no cost to classes, than the same networks "
        "trained on apart; it is what tasks take of each other that helps, not size or the layers as such.",
        arms={
            "NDDR": Arm("method", {}),
            "shared trunk": Arm("baseline", {"shared_trunk": True}),
            "single, continued": Arm("baseline", {"fusion": "none"}),
            # As many parameters as the networks with NDDR layers have.
            "single, wider, continued": Arm("control", {"fusion": "none", "widths": [19, 36, 38]}),
            # As many layers, and none of the other task's features.
            "NDDR without exchange": Arm("control", {"fusion": "own"}),
            "NDDR, random start": Arm("ablation", {"init": "random"}),
            "cross-stitch": Arm("reported", {"fusion": "cross-stitch"}),
            "single": Arm("reported", {"fusion": "none", "joint_steps": 0}),
        },
        criteria=(
            Criterion("mean angle", versus="shared trunk", direction="lower", margin=0.2),
            Criterion("mIoU", versus="shared trunk", margin=0.005),
            Criterion("mean angle", versus="single, continued", direction="lower", margin=0.2),
            Criterion("mIoU", versus="single, continued", kind="not worse", margin=0.005),
            Criterion("mean angle", versus="single, wider, continued", direction="lower", margin=0.2),
            Criterion("mean angle", versus="NDDR without exchange", direction="lower", margin=0.2),
        ),
        model=NDDRCNN.embedded["model"],
        data=NDDRCNN.embedded["data"],
        trainer={"max_epochs": -1},
        tuning={"recipe.lr": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)},
        # By the angle alone networks apart would take a rate at which their classes are lost.
        tuning_metric="both tasks",
        shown=("mIoU", "PA", "mean angle", "median angle", "within 22.5", "cross_1", "cross_2", "cross_3"),
        source="docs/methods/nddr-cnn.md, claim",
    ),
)
