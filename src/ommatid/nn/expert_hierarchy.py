"""A hierarchical mixture of experts whose classes are tasks, each with its own path (arXiv:2105.04181, E1-E4, E7)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError
from ommatid.nn.task_attention import TaskAttention, mixed

Tree = list[list[int]]
"""For every step from one level to the next, the parent of each child; the last children are the classes."""
Score = Literal["single", "difference", "max"]
Stem = Literal["none", "large", "shared"]


class ExpertHierarchy(nn.Module):
    """Levels of expert blocks under one head a class; what feeds what is learned, or given as a tree.

    All blocks of a level run as one grouped convolution.

    Args:
        num_classes: K heads, each the task "is it this class?".
        in_channels: of the images.
        experts: blocks of every level (N_l).
        width: channels inside a block and between levels.
        last_width: channels behind the last level; `width` where None.
        head_hidden: width of the two hidden layers of a head.
        head_size: height and width that a head pools its input to.
        pooled: for every level, whether its blocks halve the resolution.
        dropout: of the heads' hidden layers.
        score: "single" has one output a head, "difference" is positive minus negative, "max" the larger of the two as
            in the authors' code.
        stem: what the first level reads: "none" the image, "large" a strided convolution of 64 channels for large
            images, "shared" one block of experts' kind, as in the paper's figure.
        tree: parents instead of attention; blocks that nobody listens to are left out.

    Raises:
        InputError: the tree does not fit the levels.

    Examples:
        >>> network = ExpertHierarchy(num_classes=10, width=4, head_hidden=8)
        >>> images = torch.randn(2, 3, 32, 32)
        >>> network(images, temperature=1.0).shape
        torch.Size([2, 10])
        >>> tree = ExpertHierarchy(num_classes=10, width=4, head_hidden=8, tree=network.tree())
        >>> tree(images).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        experts: Sequence[int] = (2, 4, 8),
        width: int = 64,
        last_width: int | None = 32,
        head_hidden: int = 128,
        head_size: int = 7,
        pooled: Sequence[bool] | None = None,
        dropout: float = 0.15,
        score: Score = "single",
        stem: Stem = "none",
        tree: Tree | None = None,
    ) -> None:
        super().__init__()
        pooled = [True] * len(experts) if pooled is None else list(pooled)
        if len(pooled) != len(experts):
            raise InputError(f"pooled: found {len(pooled)} levels, expected {len(experts)} as experts has")
        if tree is not None:
            experts, tree = pruned(tree, experts, num_classes)
        self.score, self.head_size = score, head_size
        self.stem, channels = _stem(stem, in_channels, width)
        widths = [width] * (len(experts) - 1) + [last_width or width]
        self.levels = nn.ModuleList(
            _Experts(count, before, width, after, pool, shared=not level)
            for level, (count, before, after, pool) in enumerate(
                zip(experts, [channels, *widths[:-1]], widths, pooled, strict=True)
            )
        )
        steps = list(pairwise([*experts, num_classes]))
        self.attention = nn.ModuleList() if tree else nn.ModuleList(TaskAttention(c, p) for p, c in steps)
        self.parents = tree
        for step, parents in enumerate(tree or []):
            self.register_buffer(f"parent_{step}", torch.tensor(parents), persistent=False)
        self.heads = _Heads(num_classes, widths[-1] * head_size**2, head_hidden, 1 if score == "single" else 2, dropout)

    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        temperature: float | Float[Tensor, ""] = 1.0,
        hard: bool = False,
    ) -> Float[Tensor, "batch class"]:
        """Class scores; `hard` lets every child listen to its first parent only."""
        features = self.stem(images)
        for step, level in enumerate(self.levels):
            features = self._mixed(level(features), step, temperature, hard)
        pooled = F.adaptive_avg_pool2d(features.flatten(0, 1), self.head_size)
        outputs = self.heads(pooled.flatten(1).unflatten(0, (len(images), -1)))
        if self.score == "max":
            return outputs.max(dim=2).values
        return outputs[..., 0] if self.score == "single" else outputs[..., 1] - outputs[..., 0]

    def _mixed(
        self,
        features: Float[Tensor, "batch parent channel height width"],
        step: int,
        temperature: float | Tensor,
        hard: bool,
    ) -> Float[Tensor, "batch child channel height width"]:
        if self.parents is not None:
            return features[:, getattr(self, f"parent_{step}")]
        if hard:
            return features[:, self.attentions()[step].parent()]
        return mixed(features, self.attentions()[step](temperature))

    def attentions(self) -> list[TaskAttention]:
        """From one level to the next; none of a tree."""
        return [each for each in self.attention if isinstance(each, TaskAttention)]

    @torch.no_grad()
    def tree(self) -> Tree:
        """The parent of every child, level after level, the classes' last (E2 as the temperature goes to zero)."""
        return self.parents or [attention.parent().tolist() for attention in self.attentions()]

    def entropy(self, temperature: float | Float[Tensor, ""] = 1.0, normalise: bool = False) -> Float[Tensor, ""]:
        """Of the attention, mean over children and then over levels (E7).

        Raises:
            InputError: a tree has no attention.
        """
        if self.parents is not None:
            raise InputError("entropy: a tree has no attention, expected a hierarchy without one")
        return torch.stack([each.entropy(temperature, normalise).mean() for each in self.attentions()]).mean()


def pruned(tree: Tree, experts: Sequence[int], num_classes: int) -> tuple[list[int], Tree]:
    """How many blocks of every level are left, and the tree between them, where nobody listens to the others.

    Raises:
        InputError: the tree does not fit the levels.

    Examples:
        >>> pruned([[0, 1, 1], [2, 2]], experts=(2, 3), num_classes=2)
        ([1, 1], [[0], [0, 0]])
    """
    sizes = [*experts, num_classes]
    fits = len(tree) == len(experts) and all(
        len(step) == children and all(0 <= parent < parents for parent in step)
        for step, (parents, children) in zip(tree, pairwise(sizes), strict=True)
    )
    if not fits:
        raise InputError(
            f"tree: found {[len(step) for step in tree]} children, expected {sizes[1:]} whose parents are below "
            f"{list(experts)}"
        )
    alive, kept = list(range(num_classes)), []
    for step in reversed(tree):
        used = sorted({step[child] for child in alive})
        kept.append([used.index(step[child]) for child in alive])
        alive = used
    steps = kept[::-1]
    return [max(step) + 1 for step in steps], steps


def path_overlap(tree: Tree) -> Float[Tensor, "class class"]:
    """Which part of their way through the blocks every two classes share (E7).

    Examples:
        >>> path_overlap([[0, 1], [0, 1, 1]])
        tensor([[1., 0., 0.],
                [0., 1., 1.],
                [0., 1., 1.]])
    """
    places = torch.arange(len(tree[-1]))
    shared = torch.zeros(len(places), len(places))
    # A handful of levels, from the classes to the image.
    for step in reversed(tree):
        places = torch.tensor(step)[places]
        shared += places[:, None] == places
    return shared / len(tree)


class _Experts(nn.Module):
    """The blocks of one level (E1), as one grouped convolution after the other."""

    def __init__(self, count: int, before: int, width: int, after: int, pool: bool, shared: bool) -> None:
        super().__init__()
        self.count, self.shared = count, shared
        inputs, groups = (before, 1) if shared else (count * before, count)
        self.conv1 = nn.Conv2d(inputs, count * width, 3, padding=1, groups=groups)
        self.norm1 = nn.BatchNorm2d(count * width)
        self.conv2 = nn.Conv2d(count * width, count * after, 3, padding=1, groups=count)
        self.norm2 = nn.BatchNorm2d(count * after)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, features: Tensor) -> Float[Tensor, "batch expert channel height width"]:
        features = features if self.shared else features.flatten(1, 2)
        features = F.relu(self.norm1(self.conv1(features)))
        features = self.pool(F.relu(self.norm2(self.conv2(features))))
        return features.unflatten(1, (self.count, -1))


class _Heads(nn.Module):
    """One small network a class, all in one batched product a layer (E4)."""

    def __init__(self, tasks: int, inputs: int, hidden: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _Linears(tasks, before, after) for before, after in pairwise([inputs, hidden, hidden, outputs])
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Float[Tensor, "batch task inputs"]) -> Float[Tensor, "batch task outputs"]:
        *hidden, last = self.layers
        for layer in hidden:
            features = self.dropout(F.relu(layer(features)))
        return last(features)


class _Linears(nn.Module):
    """A linear layer a task, initialised as torch's."""

    def __init__(self, tasks: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(tasks, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(tasks, outputs).uniform_(-bound, bound))

    def forward(self, features: Float[Tensor, "batch task inputs"]) -> Float[Tensor, "batch task outputs"]:
        return torch.einsum("bti,toi->bto", features, self.weight) + self.bias


def _stem(kind: Stem, channels: int, width: int) -> tuple[nn.Module, int]:
    if kind == "large":
        convolution = nn.Conv2d(channels, 64, 7, stride=2, padding=3)
        return nn.Sequential(convolution, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)), 64
    if kind == "shared":
        return nn.Sequential(_Experts(1, channels, width, width, pool=False, shared=True), nn.Flatten(1, 2)), width
    return nn.Identity(), channels


def published_hierarchy(state: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Weights of the authors' hierarchy under the names of `ExpertHierarchy`.

    Their blocks stand one by one (`conv<level>_<block>`, levels from 2; `branch_<level>.0` the attention;
    `fc1_<class>`, `fc2_<class>` the heads); the stem for large images is in every file and is left out.
    """
    found: dict[str, Tensor] = {}
    for level in range(levels):
        names = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2"}
        blocks = _count(state, f"conv{level + 2}_")
        for place, name in names.items():
            prefix = f"conv{level + 2}_0.{place}."
            for kind in (key.removeprefix(prefix) for key in state if key.startswith(prefix)):
                tensors = [state[f"conv{level + 2}_{block}.{place}.{kind}"] for block in range(blocks)]
                joined = tensors[0] if kind == "num_batches_tracked" else torch.cat(tensors)
                found[f"levels.{level}.{name}.{kind}"] = joined
        found[f"attention.{level}.logits"] = state[f"branch_{level + 2}.0"].flatten()
    tasks = _count(state, "fc1_")
    for layer, theirs in enumerate(("fc1_{}.0", "fc2_{}.0", "fc2_{}.3")):
        for kind in ("weight", "bias"):
            found[f"heads.layers.{layer}.{kind}"] = torch.stack(
                [state[f"{theirs.format(task)}.{kind}"] for task in range(tasks)]
            )
    return found


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    if not numbers:
        raise InputError(f"weights: found no {prefix}..., expected those of an expert hierarchy")
    return len(numbers)
