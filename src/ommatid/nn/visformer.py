"""Visformer, a backbone between convolutions and attention, and the eight networks on the way to it from DeiT-S.

Paper: arXiv:2104.12533. Early stages are convolutional, late ones attend; batch norm before every block, a convolution
between the stages, and the mean over the last map before the classifier (E1-E7).
"""

import re
from collections.abc import Callable, Sequence
from itertools import islice
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ommatid.errors import InputError, unknown
from ommatid.nn.convolutional_attention import (
    ChannelLayerNorm2d,
    ConvolutionalAttention,
    PointwiseFeedForward,
    SpatialFeedForward,
)

Maps = Float[Tensor, "batch channel height width"]
NewMaps = Float[Tensor, "batch _ _ _"]
Sides = tuple[int, int]

NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "layer": ChannelLayerNorm2d}


class VisformerBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``; without attention only the second (E3).

    Args:
        norm: makes the norm of a width, see `NORMS`.
        drop_path: how often a sample skips a branch in training.

    Examples:
        >>> block = VisformerBlock(16, None, SpatialFeedForward(16, hidden=32), nn.BatchNorm2d)
        >>> block(torch.randn(2, 16, 6, 6)).shape
        torch.Size([2, 16, 6, 6])
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module | None,
        feed_forward: nn.Module,
        norm: Callable[[int], nn.Module],
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.attention_norm = None if attention is None else norm(dim)
        self.attention = attention
        self.feed_forward_norm = norm(dim)
        self.feed_forward = feed_forward

    def forward(self, maps: Maps) -> Maps:
        if self.attention is not None and self.attention_norm is not None:
            maps = maps + self._dropped(self.attention(self.attention_norm(maps)))
        return maps + self._dropped(self.feed_forward(self.feed_forward_norm(maps)))

    def _dropped(self, branch: Maps) -> Maps:
        if not self.training or self.drop_path == 0:
            return branch
        return branch * F.dropout(branch.new_ones(len(branch), 1, 1, 1), self.drop_path)


class VisformerStage(nn.Module):
    """A patch embedding, a learned position for every pixel, and blocks at one resolution (E2).

    Args:
        position: (channel, height, width) of the learned positions, or None for none. At any other resolution they are
            resized, bicubically.
    """

    def __init__(
        self, embedding: nn.Module, blocks: Sequence[nn.Module], position: tuple[int, int, int] | None
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.position = None if position is None else nn.Parameter(torch.empty(1, *position))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, maps: Maps) -> NewMaps:
        maps = self.embedding(maps)
        if self.position is not None:
            maps = maps + resize_positions(self.position, (maps.shape[2], maps.shape[3]))
        return self.blocks(maps)


class StagedClassifier(nn.Module):
    """What both Visformers are: a stem, stages of falling resolution and doubling width, norm, mean, linear (E1-E7).

    The middle stage has `embed_dim` channels (with four stages the third), each stage before half of the next. Fresh
    weights are He-normal (fan-out) in convolutions and truncated normal with deviation 0.02 in the classifier and the
    positions.

    Args:
        img_size: side of the images, or (height, width): the size of the learned positions. Other sizes can be given
            to the network.
        in_channels: channels of the images.
        stem_channels: of the 7x7 convolution of stride 2 that images pass first (E1); None for no stem.
        depths: blocks of each stage.
        patch_strides: side of the patches of each stage.
        attention: makes the attention of a block from the stage, the width, the sides of the map and the number of the
            block, counted through all stages; None for a block without.
        feed_forward: makes the feed-forward layer of a block from the stage and the width.
        norm: "batch" or "layer" (over channels), before attention, feed-forward layer and head.
        embedding_norm: whether a batch norm follows each patch embedding.
        drop_path: how often a sample skips a branch of the last block in training; rises linearly from 0.

    Raises:
        InputError: a setting is not usable.
    """

    def __init__(
        self,
        *,
        img_size: int | Sides,
        in_channels: int,
        stem_channels: int | None,
        embed_dim: int,
        depths: Sequence[int],
        patch_strides: Sequence[int],
        attention: Callable[[int, int, Sides, int], nn.Module | None],
        feed_forward: Callable[[int, int], nn.Module],
        norm: str,
        embedding_norm: bool,
        position_embedding: bool,
        num_classes: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        one_per_stage(depths, patch_strides=patch_strides)
        self.widths = [_stage_width(embed_dim, stage, len(depths)) for stage in range(len(depths))]
        self.feature_dim = self.widths[-1]
        self.reduction = (1 if stem_channels is None else 2) * prod(patch_strides)
        self.stem = nn.Identity() if stem_channels is None else _stem(in_channels, stem_channels)
        sides = _map_sides(img_size, patch_strides, stem_channels is not None)
        inputs = [in_channels if stem_channels is None else stem_channels, *self.widths]
        numbered_rates = enumerate(_rising(drop_path, sum(depths)))
        self.levels = nn.ModuleList()
        for stage, (dim, side, depth) in enumerate(zip(self.widths, sides, depths, strict=True)):
            embedding = _patch_embedding(inputs[stage], dim, patch_strides[stage], embedding_norm)
            blocks = [
                VisformerBlock(dim, attention(stage, dim, side, block), feed_forward(stage, dim), NORMS[norm], rate)
                for block, rate in islice(numbered_rates, depth)
            ]
            self.levels.append(VisformerStage(embedding, blocks, (dim, *side) if position_embedding else None))
        self.norm = NORMS[norm](self.feature_dim)
        self.head = nn.Linear(self.feature_dim, num_classes)
        _initialise(self)

    def stages(self, images: Maps) -> list[NewMaps]:
        """The maps behind each stage, the finest first.

        Raises:
            InputError: the images are smaller than one pixel of the last map.
        """
        if min(images.shape[2:]) < self.reduction:
            found = "x".join(map(str, images.shape[2:]))
            raise InputError(f"images: found {found} pixels, expected at least {self.reduction}x{self.reduction}")
        maps = self.stem(images)
        return [maps := level(maps) for level in self.levels]

    def forward(self, images: Maps) -> Float[Tensor, "batch class"]:
        return self.head(self.norm(self.stages(images)[-1]).mean(dim=(2, 3)))


class Visformer(StagedClassifier):
    """Logits, and maps at 1/8, 1/16 and 1/32 of the resolution (Visformer, arXiv:2104.12533, E1-E7).

    The defaults are Visformer-S. Stages with attention use E4, at half the width of a head before the middle stage;
    a stage with convolutions has a 3x3 one inside each feed-forward layer, of twice the channels, or of 5/6 of them
    where it is not grouped.

    Args:
        attention_stages: which stages attend.
        convolution_stages: which stages have a 3x3 convolution in the feed-forward layer.
        groups: of those convolutions.
        mlp_ratio: hidden channels of the other feed-forward layers, in units of the width.
        patch_strides: side of the patches of each stage. For small images take (2, 2, 2).

    The other arguments are those of `StagedClassifier`.

    Examples:
        >>> model = Visformer(img_size=32, stem_channels=16, embed_dim=64, depths=(2, 2, 2), num_heads=4,
        ...                   patch_strides=(2, 2, 2), num_classes=10).eval()
        >>> [tuple(maps.shape) for maps in model.stages(torch.zeros(1, 3, 32, 32))]
        [(1, 32, 8, 8), (1, 64, 4, 4), (1, 128, 2, 2)]
        >>> model(torch.zeros(1, 3, 48, 40)).shape
        torch.Size([1, 10])
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        stem_channels: int | None = 32,
        embed_dim: int = 384,
        depths: Sequence[int] = (7, 4, 4),
        num_heads: int = 6,
        attention_stages: Sequence[bool] = (False, True, True),
        convolution_stages: Sequence[bool] = (True, False, False),
        groups: int = 8,
        norm: str = "batch",
        position_embedding: bool = True,
        patch_strides: Sequence[int] = (4, 2, 2),
        num_classes: int = 1000,
        drop_path: float = 0.0,
        mlp_ratio: float = 4.0,
        embedding_norm: bool = True,
        in_channels: int = 3,
    ) -> None:
        one_per_stage(depths, attention_stages=attention_stages, convolution_stages=convolution_stages)

        def attention(stage: int, dim: int, sides: Sides, block: int) -> nn.Module | None:
            if not attention_stages[stage]:
                return None
            return ConvolutionalAttention(dim, num_heads, head_dim_ratio(stage, len(depths)))

        super().__init__(
            img_size=img_size,
            in_channels=in_channels,
            stem_channels=stem_channels,
            embed_dim=embed_dim,
            depths=depths,
            patch_strides=patch_strides,
            attention=attention,
            feed_forward=lambda stage, dim: feed_forward(dim, convolution_stages[stage], groups, mlp_ratio),
            norm=norm,
            embedding_norm=embedding_norm,
            position_embedding=position_embedding,
            num_classes=num_classes,
            drop_path=drop_path,
        )


def visformer_tiny(**settings: Any) -> Visformer:
    """Visformer-Ti: 10.3 M parameters, 1.3 G multiply-adds at 224; `settings` replace arguments of `Visformer`.

    Examples:
        >>> visformer_tiny(num_classes=10).head
        Linear(in_features=384, out_features=10, bias=True)
    """
    return Visformer(**{"stem_channels": 16, "embed_dim": 192, "num_heads": 3, **settings})


def visformer_small(**settings: Any) -> Visformer:
    """Visformer-S: 40.2 M parameters, 4.9 G multiply-adds at 224; `settings` replace arguments of `Visformer`."""
    return Visformer(**settings)


_ON, _OFF = (True, True, True), (False, False, False)
_NET2: dict[str, Any] = {
    "depths": (0, 12, 0),
    "attention_stages": _ON,
    "convolution_stages": _OFF,
    "norm": "layer",
    "embedding_norm": False,
}
_NET3 = _NET2 | {"depths": (4, 4, 4)}
_NET4 = _NET3 | {"norm": "batch"}
_NET5 = _NET4 | {"convolution_stages": _ON, "groups": 1}
_NET6 = _NET5 | {"position_embedding": False}
TRANSITION: dict[str, dict[str, Any]] = {
    "net1": {
        "stem_channels": None,
        "patch_strides": (16,),
        "depths": (12,),
        "attention_stages": (True,),
        "convolution_stages": (False,),
        "norm": "layer",
        "embedding_norm": False,
    },
    "net2": _NET2,
    "net3": _NET3,
    "net4": _NET4,
    "net5": _NET5,
    "net6": _NET6,
    "net7": _NET6 | {"depths": (6, 7, 7), "attention_stages": _OFF},
    "visformer": {},
}
"""Step of the transition study -> what differs from Visformer-S."""


def transition_net(step: str, **settings: Any) -> nn.Module:
    """A network of the walk from DeiT-S to Visformer-S, for ablations (Visformer, arXiv:2104.12533).

    "deit-s" is timm's; "net1" replaces its class token by the mean, "net2" its patches by a stem and steps, "net3" has
    three stages, "net4" batch norm, "net5" a 3x3 convolution in every feed-forward layer, "net6" no positions, "net7"
    no attention; "visformer" attends where the resolution is low and convolves, in groups, where it is high.

    Args:
        step: "deit-s", "net1" to "net7", or "visformer".
        settings: replace arguments of the network, such as ``num_classes`` and ``img_size``.

    Raises:
        InputError: no step has that name.

    Examples:
        >>> type(transition_net("net1", embed_dim=48, num_classes=10).norm).__name__
        'ChannelLayerNorm2d'
    """
    if step == "deit-s":
        import timm

        return timm.create_model("deit_small_patch16_224", pretrained=False, **settings)
    if step not in TRANSITION:
        raise unknown("step", step, ["deit-s", *TRANSITION])
    return Visformer(**TRANSITION[step] | settings)


def load_published_visformer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `Visformer` from weights that its authors, or timm, released: names change, numbers do not.

    Raises:
        InputError: the weights are not those of a Visformer.

    Examples:
        >>> released = {"patch_embed1.norm.bn.bias": torch.zeros(2), "stage1.0.mlp.conv1.weight": torch.zeros(4, 2)}
        >>> list(load_published_visformer(released))
        ['levels.0.embedding.1.bias', 'levels.0.blocks.0.feed_forward.expand.weight']
    """
    return rename_published(state, first_stage=1)


_PARTS = [
    # The authors keep each norm inside a module of its own.
    (r"\.(bn|ln)\.", "."),
    (r"^patch_embed(\d+)\.proj\.", r"stage\1.embedding.0."),
    (r"^patch_embed(\d+)\.norm\.", r"stage\1.embedding.1."),
    (r"^pos_embed(\d+)$", r"stage\1.position"),
    (r"^stage(\d+)\.(\d+)\.", r"stage\1.blocks.\2."),
    (r"\.norm1\.", ".attention_norm."),
    (r"\.attn\.", ".attention."),
    (r"\.norm2\.", ".feed_forward_norm."),
    (r"\.mlp\.conv1\.", ".feed_forward.expand."),
    (r"\.mlp\.conv2\.", ".feed_forward.spatial."),
    (r"\.mlp\.conv3\.", ".feed_forward.project."),
]
_COMPUTED = re.compile(r"(relative_position_index|attn_mask)$")


def rename_published(state: dict[str, Tensor], first_stage: int) -> dict[str, Tensor]:
    """Released weights under our names; tables that are computed here are left out.

    Args:
        first_stage: the number that the release gives to the first stage.

    Raises:
        InputError: there is no such stage among the weights.
    """
    if not any(name.startswith(f"patch_embed{first_stage}.") for name in state):
        found = ", ".join(list(state)[:3]) or "nothing"
        raise InputError(f"state: found {found}, expected released weights with a patch_embed{first_stage}")
    return {
        _renamed(name, first_stage): value.flatten() if ".ln." in name else value
        for name, value in state.items()
        if not _COMPUTED.search(name)
    }


def _renamed(name: str, first_stage: int) -> str:
    for pattern, replacement in _PARTS:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"^stage(\d+)\.", lambda found: f"levels.{int(found[1]) - first_stage}.", name)


def resize_positions(
    position: Float[Tensor, "1 channel height width"], sides: Sides
) -> Float[Tensor, "1 channel new_height new_width"]:
    """Learned positions for a map of another size, bicubically; the same size leaves them as they are.

    Examples:
        >>> resize_positions(torch.ones(1, 8, 14, 14), (7, 20)).shape
        torch.Size([1, 8, 7, 20])
    """
    if (position.shape[2], position.shape[3]) == sides:
        return position
    resized = F.interpolate(position.float(), size=sides, mode="bicubic", align_corners=False)
    return resized.to(position.dtype)


def feed_forward(dim: int, spatial: bool, groups: int, mlp_ratio: float) -> nn.Module:
    """The feed-forward layer of a stage; with a 3x3 convolution its hidden width is set by the groups (E3)."""
    if spatial:
        return SpatialFeedForward(dim, 2 * dim if groups > 1 else 5 * dim // 6, groups)
    return PointwiseFeedForward(dim, int(dim * mlp_ratio))


def head_dim_ratio(stage: int, count: int) -> float:
    """Width of a head against that of a whole one: halved for each stage before the middle one, as the map is (E4).

    Examples:
        >>> [head_dim_ratio(stage, 4) for stage in range(4)]
        [0.25, 0.5, 1.0, 1.0]
    """
    return 2.0 ** min(0, stage - count // 2)


def one_per_stage(depths: Sequence[int], **settings: Sequence[Any]) -> None:
    """Every setting has as many entries as there are stages, at least one.

    Raises:
        InputError: one has not.

    Examples:
        >>> one_per_stage((7, 4, 4), windows=(28, 14))
        Traceback (most recent call last):
        ommatid.errors.InputError: windows: found 2 entries, expected one for each of the 3 stages
    """
    if not depths:
        raise InputError("depths: found no stage, expected at least one")
    for name, values in settings.items():
        if len(values) != len(depths):
            raise InputError(f"{name}: found {len(values)} entries, expected one for each of the {len(depths)} stages")


def _stage_width(embed_dim: int, stage: int, count: int) -> int:
    width = embed_dim * 2**stage // 2 ** (count // 2)
    if width < 1:
        raise InputError(f"embed_dim: found {embed_dim}, expected at least {2 ** (count // 2)} for {count} stages")
    return width


def _stem(in_channels: int, channels: int) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


def _patch_embedding(in_channels: int, channels: int, stride: int, norm: bool) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, stride, stride)
    return nn.Sequential(conv, nn.BatchNorm2d(channels)) if norm else nn.Sequential(conv)


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, VisformerStage) and module.position is not None:
            nn.init.trunc_normal_(module.position, std=0.02)


def _rising(last: float, count: int) -> list[float]:
    if not 0 <= last < 1:
        raise InputError(f"drop_path: found {last}, expected a probability below 1")
    return [last * block / max(count - 1, 1) for block in range(count)]


def _map_sides(img_size: int | Sides, patch_strides: Sequence[int], has_stem: bool) -> list[Sides]:
    """Height and width of the map of each stage; the stem rounds up, patches leave a rest out."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if has_stem:
        height, width = -(-height // 2), -(-width // 2)
    sides = [(height := height // stride, width := width // stride) for stride in patch_strides]
    if not (height and width):
        needed = (2 if has_stem else 1) * prod(patch_strides)
        raise InputError(f"img_size: found {img_size}, expected at least {needed} for these strides")
    return sides
