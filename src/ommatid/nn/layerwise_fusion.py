"""Networks of several tasks that exchange features after every stage, and the layers by which they do.

NDDR-CNN (arXiv:1801.08297), E1-E5 of docs/methods/nddr-cnn.md; cross-stitch (arXiv:1604.03539) and sluice units
(arXiv:1705.08142) for comparison. Every layer takes one map of each task, in the order of the tasks, and gives as many
back; a class or function `(channels, num_tasks) -> layer` is what the networks here are told as `fusion`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError

Map = Float[Tensor, "batch channel height width"]
Fusion = Callable[[int, int], nn.Module]
LR_FACTORS: Mapping[str, float] = {"*fusions.*": 100.0, "*heads.*.fc8.weight": 10.0, "*heads.*.fc8.bias": 20.0}
"""Pattern of parameter names -> factor on the learning rate, as published; for `Recipe.lr_multipliers`."""


class NDDRLayer(nn.Module):
    """Each task's own projection of the features of all tasks: concatenation, 1x1 convolution, norm, ReLU (E1-E3).

    Channel by channel a task learns what it takes from whom. Weight decay on the projection is part of the method.

    Args:
        channels: of the map of one task.
        alpha: what a channel takes of itself before training (E4).
        beta: what it takes of its counterpart in each other task; None shares what alpha leaves of 1 among them.
        init: "diagonal" (E4), or "random" for Xavier's initialisation, which has no alpha and beta.
        activation: makes the layer's last part.

    Examples:
        >>> layer = NDDRLayer(channels=8)
        >>> semantic, normals = layer([torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5)])
        >>> semantic.shape
        torch.Size([2, 8, 5, 5])
        >>> layer.kernels()[0][0, :, 0, 0]
        tensor([0.9000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.1000,
                0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000],
               grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        channels: int,
        num_tasks: int = 2,
        alpha: float = 0.9,
        beta: float | None = None,
        init: Literal["diagonal", "random"] = "diagonal",
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.05,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        mixing = mixing_matrix(num_tasks, alpha, beta)
        self.num_tasks = num_tasks
        # The projections of all tasks are one convolution, and their norms, which act by channel, are one norm.
        self.project = nn.Conv2d(num_tasks * channels, num_tasks * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(num_tasks * channels, eps=bn_eps, momentum=bn_momentum)
        self.activation = activation()
        with torch.no_grad():
            if init == "diagonal":
                self.project.weight.copy_(torch.kron(mixing, torch.eye(channels))[..., None, None])
            else:
                for kernel in self.kernels():
                    nn.init.xavier_uniform_(kernel)

    def forward(self, features: list[Map]) -> list[Map]:
        together = torch.cat(_one_of_each(features, self.num_tasks), dim=1)
        return list(self.activation(self.norm(self.project(together))).chunk(self.num_tasks, dim=1))

    def kernels(self) -> tuple[Float[Tensor, "channel stacked 1 1"], ...]:
        """The projection of each task, views into one tensor."""
        return self.project.weight.chunk(self.num_tasks)


class CrossStitch(nn.Module):
    """Every task's map as a weighted sum of all tasks' maps: coefficients of channels, or one for all of them.

    Args:
        channels: coefficients for each of so many channels; None has one for all.
        alpha, beta: of a task's own map and of each other task's before training, see `NDDRLayer`.

    Examples:
        >>> unit = CrossStitch(None, alpha=0.75)
        >>> [mixed.mean().item() for mixed in unit([torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)])]
        [0.75, 0.25]
    """

    def __init__(
        self, channels: int | None = None, num_tasks: int = 2, alpha: float = 0.9, beta: float | None = None
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        mixing = mixing_matrix(num_tasks, alpha, beta)
        self.weight = nn.Parameter(mixing[..., None].repeat(1, 1, channels or 1))
        """What a task (first axis) takes from a task (second axis), by channel."""

    def forward(self, features: list[Map]) -> list[Map]:
        stacked = torch.stack(_one_of_each(features, self.num_tasks))
        weight = self.weight.expand(-1, -1, stacked.shape[2])
        return list(torch.einsum("tfc,fbchw->tbchw", weight, stacked).unbind())


class SluiceUnit(nn.Module):
    """A cross-stitch between subspaces: a block of channels draws on all blocks of all tasks.

    Args:
        subspaces: equal blocks that the channels of a task are cut into.
        alpha, beta: of a block itself and of its counterpart in each other task before training; blocks in other places
            begin at 0.

    Raises:
        InputError: the channels cannot be cut into so many equal blocks.

    Examples:
        >>> SluiceUnit(8)([torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5)])[1].shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(
        self, channels: int, num_tasks: int = 2, alpha: float = 0.9, beta: float | None = None, subspaces: int = 2
    ) -> None:
        super().__init__()
        if channels % subspaces:
            raise InputError(f"subspaces: found {subspaces} for {channels} channels, expected a divisor of them")
        self.num_tasks, self.subspaces = num_tasks, subspaces
        self.weight = nn.Parameter(torch.kron(mixing_matrix(num_tasks, alpha, beta), torch.eye(subspaces)))
        """What a block (row, blocks of the first task first) takes from a block (column)."""

    def forward(self, features: list[Map]) -> list[Map]:
        stacked = torch.stack(_one_of_each(features, self.num_tasks))
        blocks = rearrange(stacked, "task b (block c) h w -> (task block) b c h w", block=self.subspaces)
        mixed = torch.einsum("tf,fbchw->tbchw", self.weight, blocks)
        tasks = rearrange(mixed, "(task block) b c h w -> task b (block c) h w", block=self.subspaces)
        return list(tasks.unbind())


class Unfused(nn.Module):
    """No exchange: every task keeps its own features."""

    def __init__(self, channels: int, num_tasks: int = 2) -> None:
        super().__init__()

    def forward(self, features: list[Map]) -> list[Map]:
        return features


def scalar_stitch(channels: int, num_tasks: int = 2, alpha: float = 0.9, beta: float | None = None) -> CrossStitch:
    """A `CrossStitch` with one coefficient for all channels."""
    return CrossStitch(None, num_tasks, alpha, beta)


FUSIONS: Mapping[str, Fusion] = {
    "nddr": NDDRLayer,
    "cross-stitch": scalar_stitch,
    "channel-stitch": CrossStitch,
    "sluice": SluiceUnit,
    "none": Unfused,
}
"""What `fusion` can be, by name."""


class Shortcut(nn.Module):
    """All stages' maps at the size of the last: bilinearly resized, concatenated, 1x1 convolution, norm, ReLU (E5).

    Args:
        in_channels: of every stage.
        channels: of what comes out; those of the last stage where None.

    Examples:
        >>> maps = [torch.randn(2, 4, 9, 9), torch.randn(2, 6, 5, 5)]
        >>> Shortcut([4, 6])(maps).shape
        torch.Size([2, 6, 5, 5])
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int | None = None, bn_eps: float = 1e-3, bn_momentum: float = 0.05
    ) -> None:
        super().__init__()
        channels = in_channels[-1] if channels is None else channels
        self.project = nn.Conv2d(sum(in_channels), channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=bn_eps, momentum=bn_momentum)

    def forward(self, stages: list[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch channel height width"]:
        size = stages[-1].shape[2:]
        return F.relu(self.norm(self.project(torch.cat([resized(each, size) for each in stages], dim=1))))


class SharedTrunkNet(nn.Module):
    """One backbone for all tasks and a head for each; with a single head, the network of one task.

    Args:
        backbone: has `stages`, called one after the other, and `out_channels` of each.
        heads: last map -> prediction, by task.
        shortcuts: what makes the map that a head reads of the maps of all stages, by task; the last map where None.

    Examples:
        >>> from ommatid.nn.staged_backbones import plain_stages
        >>> network = SharedTrunkNet(plain_stages((4, 8)), {"semantic": nn.Conv2d(8, 5, 1)})
        >>> network(torch.rand(2, 3, 16, 16))["semantic"].shape
        torch.Size([2, 5, 4, 4])
    """

    def __init__(
        self, backbone: nn.Module, heads: Mapping[str, nn.Module], shortcuts: Mapping[str, nn.Module] | None = None
    ) -> None:
        super().__init__()
        _check_staged("backbone", backbone)
        self.backbone = backbone
        self.heads = nn.ModuleDict(dict(heads))
        self.shortcuts = nn.ModuleDict(_of_the_tasks("shortcuts", shortcuts or {}, heads) if shortcuts else {})

    def features(self, images: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch _ _ _"]]:
        """The map after every stage."""
        return _after_each(self.backbone, images)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Float[Tensor, "batch _ _ _"]]:
        stages = self.features(images)
        return {task: self.heads[task](_read(self.shortcuts, task, stages)) for task in self.heads}


class LayerwiseFusionNet(nn.Module):
    """A backbone and a head for every task, with a fusion layer after every stage (E3).

    Args:
        backbones: of equal widths, one for each task, with `stages` and `out_channels` as of `SharedTrunkNet`.
        fusion: makes a layer of a number of channels and one of tasks: `NDDRLayer`, another of `FUSIONS`, or one of
            them with settings, `functools.partial(NDDRLayer, alpha=0.5)`.
        heads: last map -> prediction, by task.
        shortcuts: as of `SharedTrunkNet`; with `Shortcut`, NDDR-CNN-Shortcut (E5).

    Raises:
        InputError: a backbone is not staged, backbones differ in width, or heads are of other tasks.

    Examples:
        >>> from ommatid.nn.staged_backbones import plain_stages
        >>> backbones = {task: plain_stages((4, 8)) for task in ("semantic", "normals")}
        >>> heads = {"semantic": nn.Conv2d(8, 5, 1), "normals": nn.Conv2d(8, 3, 1)}
        >>> network = LayerwiseFusionNet(backbones, NDDRLayer, heads)
        >>> {task: tuple(found.shape) for task, found in network(torch.rand(2, 3, 16, 16)).items()}
        {'semantic': (2, 5, 4, 4), 'normals': (2, 3, 4, 4)}
    """

    def __init__(
        self,
        backbones: Mapping[str, nn.Module],
        fusion: Fusion,
        heads: Mapping[str, nn.Module],
        shortcuts: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        widths = [_check_staged(f"backbones[{task!r}]", backbone) for task, backbone in backbones.items()]
        for task, width in zip(backbones, widths, strict=True):
            if width != widths[0]:
                raise InputError(
                    f"backbones[{task!r}]: found stages of {width} channels, expected {widths[0]} as of the first task"
                )
        self.backbones = nn.ModuleDict(dict(backbones))
        self.fusions = nn.ModuleList([fusion(channels, len(backbones)) for channels in widths[0]])
        self.heads = nn.ModuleDict(_of_the_tasks("heads", heads, backbones))
        self.shortcuts = nn.ModuleDict(_of_the_tasks("shortcuts", shortcuts or {}, backbones) if shortcuts else {})

    @classmethod
    def joined(cls, networks: Mapping[str, SharedTrunkNet], fusion: Fusion) -> "LayerwiseFusionNet":
        """The networks of single tasks, trained each for itself, joined by new fusion layers: the second stage.

        Modules are taken over, not copied.
        """
        return cls(
            {task: network.backbone for task, network in networks.items()},
            fusion,
            {task: _own(network.heads, task) for task, network in networks.items()},
            {task: network.shortcuts[task] for task, network in networks.items() if task in network.shortcuts} or None,
        )

    def features(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, list[Float[Tensor, "batch _ _ _"]]]:
        """The map of every task after the fusion of every stage."""
        tasks = list(self.backbones)
        maps = [images for _ in tasks]
        after: dict[str, list[Tensor]] = {task: [] for task in tasks}
        for number, fusion in enumerate(self.fusions):
            maps = [_stages(self.backbones[task])[number](each) for task, each in zip(tasks, maps, strict=True)]
            maps = fusion(maps)
            for task, features in zip(tasks, maps, strict=True):
                after[task].append(features)
        return after

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Float[Tensor, "batch _ _ _"]]:
        return {
            task: self.heads[task](_read(self.shortcuts, task, stages))
            for task, stages in self.features(images).items()
        }


def mixing_matrix(num_tasks: int, alpha: float, beta: float | None) -> Float[Tensor, "task task"]:
    """What a task (row) takes from a task (column): alpha from itself, beta from each other one (E4).

    Args:
        beta: None shares what alpha leaves of 1 among the other tasks.

    Raises:
        InputError: there is no task.

    Examples:
        >>> mixing_matrix(3, 0.8, None)
        tensor([[0.8000, 0.1000, 0.1000],
                [0.1000, 0.8000, 0.1000],
                [0.1000, 0.1000, 0.8000]])
    """
    if num_tasks < 1:
        raise InputError(f"num_tasks: found {num_tasks}, expected at least 1")
    if beta is None:
        beta = (1 - alpha) / max(num_tasks - 1, 1)
    eye = torch.eye(num_tasks)
    return alpha * eye + beta * (1 - eye)


def resized(maps: Map, size: Sequence[int]) -> Float[Tensor, "batch channel rows columns"]:
    """Bilinearly at another size, corners upon corners: the first and last pixels of both show the same places.

    With images of 8 n + 1 pixels and pools that halve around their first pixel, as in DeepLab, so do all others.

    Examples:
        >>> resized(torch.tensor([[[[0.0, 1.0]]]]), (1, 3))
        tensor([[[[0.0000, 0.5000, 1.0000]]]])
    """
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)


def published_layer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A layer of the authors' PyTorch code, one convolution and norm for each task, as parameters of `NDDRLayer`.

    Examples:
        >>> state = {f"conv{task}.weight": torch.zeros(4, 8, 1, 1) for task in (1, 2)}
        >>> {name: tuple(value.shape) for name, value in published_layer(state).items()}
        {'project.weight': (8, 8, 1, 1)}
    """
    names = {"conv": "project", "bn": "norm"}
    parts: dict[str, list[Tensor]] = {}
    for key in sorted(state):
        module, _, rest = key.partition(".")
        kind = module.rstrip("0123456789")
        # What a norm has seen is the same count for all tasks.
        if kind in names:
            parts.setdefault(f"{names[kind]}.{rest}", []).append(state[key])
    return {name: values[0] if values[0].ndim == 0 else torch.cat(values) for name, values in parts.items()}


def published_network(
    state: Mapping[str, Tensor],
    tasks: Sequence[str],
    head: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> dict[str, Tensor]:
    """A two-task network of the authors' PyTorch code as parameters of `LayerwiseFusionNet`.

    Args:
        tasks: names for their first network, second network, and so on.
        head: turns the parameters of their head into those of ours; for DeepLab's,
            `ommatid.nn.staged_backbones.published_head`.
    """
    own: dict[str, Tensor] = {}
    for number, task in enumerate(tasks, start=1):
        for key, value in _below(state, f"net{number}.stages").items():
            own[f"backbones.{task}.stages.{key.replace('.feature.', '.')}"] = value
        own |= {f"heads.{task}.{key}": value for key, value in head(_below(state, f"net{number}.head")).items()}
    layers = _below(state, "nddrs.nddrs")
    for stage in {key.split(".")[0] for key in layers}:
        own |= {f"fusions.{stage}.{key}": value for key, value in published_layer(_below(layers, stage)).items()}
    return own


def _below(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{start}."): value for key, value in state.items() if key.startswith(f"{start}.")}


def _after_each(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    maps = [images]
    for stage in _stages(backbone):
        maps.append(stage(maps[-1]))
    return maps[1:]


def _stages(backbone: nn.Module) -> nn.ModuleList:
    assert isinstance(backbone.stages, nn.ModuleList)
    return backbone.stages


def _read(shortcuts: nn.ModuleDict, task: str, stages: list[Tensor]) -> Tensor:
    """The map that a task's head reads."""
    return shortcuts[task](stages) if task in shortcuts else stages[-1]


def _one_of_each(features: list[Tensor], num_tasks: int) -> list[Tensor]:
    if len(features) != num_tasks:
        raise InputError(f"features: found {len(features)} maps, expected {num_tasks}, one for each task")
    return features


def _own(heads: nn.ModuleDict, task: str) -> nn.Module:
    if task not in heads:
        raise InputError(f"networks[{task!r}]: found heads for {', '.join(heads)}, expected one for {task}")
    return heads[task]


def _of_the_tasks(name: str, modules: Mapping[str, nn.Module], tasks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules in the order of the tasks."""
    if set(modules) != set(tasks):
        raise InputError(f"{name}: found some for {', '.join(modules) or 'no task'}, expected {', '.join(tasks)}")
    return {task: modules[task] for task in tasks}


def _check_staged(name: str, backbone: nn.Module) -> list[int]:
    """Channels after every stage."""
    stages, channels = getattr(backbone, "stages", None), getattr(backbone, "out_channels", None)
    if not isinstance(stages, nn.ModuleList) or channels is None or len(stages) != len(channels) or not len(stages):
        raise InputError(
            f"{name}: found {type(backbone).__name__}, expected a module with `stages`, a ModuleList of at least one, "
            f"and `out_channels` of each (see ommatid.nn.staged_backbones)"
        )
    return list(channels)
