"""VisformerV2: four stages, attention with a relative position bias, in windows where the maps are large (E8)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ommatid.nn.convolutional_attention import WindowAttention
from ommatid.nn.visformer import Sides, StagedClassifier, feed_forward, head_dim_ratio, one_per_stage, rename_published


class VisformerV2(StagedClassifier):
    """Logits, and maps at 1/4, 1/8, 1/16 and 1/32 of the resolution (later revision of arXiv:2104.12533, E8).

    The defaults are VisformerV2-S. At the resolution it is built for, the window is the whole map wherever the map is
    not larger. At larger resolutions the maps are cut, and the windows of every other block (odd, counted through all
    stages from 0) are shifted by half.

    Args:
        num_heads: heads of each stage.
        windows: side of the attention windows of each stage, in pixels of its map.

    The other arguments are those of `Visformer`.

    Examples:
        >>> import torch
        >>> model = VisformerV2(img_size=64, stem_channels=8, embed_dim=32, depths=(1, 1, 1, 1), num_classes=5).eval()
        >>> [tuple(maps.shape) for maps in model.stages(torch.zeros(1, 3, 64, 64))]
        [(1, 8, 16, 16), (1, 16, 8, 8), (1, 32, 4, 4), (1, 64, 2, 2)]
        >>> model(torch.zeros(1, 3, 160, 128)).shape
        torch.Size([1, 5])
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        stem_channels: int | None = 32,
        embed_dim: int = 256,
        depths: Sequence[int] = (1, 10, 14, 3),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        attention_stages: Sequence[bool] = (False, False, True, True),
        convolution_stages: Sequence[bool] = (True, True, False, False),
        groups: int = 8,
        norm: str = "batch",
        position_embedding: bool = True,
        patch_strides: Sequence[int] = (2, 2, 2, 2),
        windows: Sequence[int] = (56, 28, 14, 7),
        num_classes: int = 1000,
        drop_path: float = 0.0,
        mlp_ratio: float = 4.0,
        embedding_norm: bool = True,
        in_channels: int = 3,
    ) -> None:
        one_per_stage(
            depths,
            num_heads=num_heads,
            attention_stages=attention_stages,
            convolution_stages=convolution_stages,
            windows=windows,
        )

        def attention(stage: int, dim: int, sides: Sides, block: int) -> nn.Module | None:
            if not attention_stages[stage]:
                return None
            window = min(windows[stage], *sides)
            shift = window // 2 if block % 2 else 0
            return WindowAttention(dim, num_heads[stage], window, shift, head_dim_ratio(stage, len(depths)))

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


def visformer_v2_tiny(**settings: Any) -> VisformerV2:
    """VisformerV2-Ti: 9.4 M parameters, 1.3 G multiply-adds at 224; `settings` replace arguments of `VisformerV2`.

    Examples:
        >>> visformer_v2_tiny(num_classes=10).widths
        [48, 96, 192, 384]
    """
    tiny = {"stem_channels": 24, "embed_dim": 192, "depths": (1, 4, 6, 3), "num_heads": (1, 3, 6, 12)}
    return VisformerV2(**{**tiny, **settings})


def visformer_v2_small(**settings: Any) -> VisformerV2:
    """VisformerV2-S: 23.6 M parameters, 4.3 G multiply-adds at 224; `settings` replace arguments of `VisformerV2`."""
    return VisformerV2(**settings)


def visformer_v2_medium(**settings: Any) -> VisformerV2:
    """VisformerV2-M: 44.5 M parameters, 8.5 G multiply-adds at 224; `settings` replace arguments of `VisformerV2`."""
    return VisformerV2(**{"embed_dim": 384, "depths": (1, 8, 14, 2), **settings})


def load_published_visformer_v2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `VisformerV2` from weights that its authors released for classification.

    Raises:
        InputError: the weights are not those of a VisformerV2.

    Examples:
        >>> import torch
        >>> list(load_published_visformer_v2({"patch_embed0.proj.bias": torch.zeros(2), "pos_embed3": torch.zeros(1)}))
        ['levels.0.embedding.0.bias', 'levels.3.position']
    """
    return rename_published(state, first_stage=0)
