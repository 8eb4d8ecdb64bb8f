"""Which block goes into which backbone: every pair is built, stepped once, and taken out again; the added cost as JSON.

python benchmarks/grafts.py --out results/grafts.json
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ommatid
from ommatid.errors import InputError
from ommatid.nn.convolutional_attention import ConvolutionalAttention, SpatialFeedForward
from ommatid.nn.graft import graft, ungraft
from ommatid.nn.label_decoder import LabelDecoder
from ommatid.nn.macs import count_macs, count_parameters
from ommatid.nn.multi_view_fusion import MultiViewFusion, TemporalShift
from ommatid.nn.scale_attention import fold_scale_attention, use_scale_attention
from ommatid.nn.video import first_convolutions, residual_units
from ommatid.nn.virtual_attention import add_virtual_attention, fold_virtual_attention

SIZE, FRAMES, CLASSES = 64, 4, 5
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnet50": {},
    "densenet121": {},
    "regnety_002": {},
    "mobilenetv2_050": {},
    "mobilenetv3_small_050": {},
    "efficientnet_b0": {},
    "tf_efficientnet_lite0": {},
    "ghostnet_050": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"img_size": SIZE},
    "swin_tiny_patch4_window7_224": {"img_size": SIZE, "window_size": 2},
}
Undo = Callable[[], None]


def build(backbone: str) -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model(backbone, pretrained=False, num_classes=CLASSES, **BACKBONES[backbone])


def images() -> Tensor:
    return torch.randn(FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


LAST: dict[str, list[str]] = {
    "DenseNet": ["features.norm5"],
    "VisionTransformer": ["blocks.10", "blocks.11"],
    "SwinTransformer": ["layers.3.blocks.0", "layers.3.blocks.1"],
}
"""Last layers that read and give one tensor, where they are no residual units known by name."""


def before_units(network: nn.Module, block: Callable[..., nn.Module]) -> Undo:
    """In front of the first convolutions of the last two stages, or of the last blocks of a transformer."""
    transformer = type(network).__name__.endswith("Transformer")
    at = LAST[type(network).__name__] if transformer else first_convolutions(network, 2, images())
    graft(network, block, at=at, how="before", example=images(), clip_length=FRAMES)
    return partial(ungraft, network)


def after_last(network: nn.Module, block: Callable[..., nn.Module]) -> Undo:
    kind = type(network).__name__
    at = LAST[kind][-1] if kind in LAST else residual_units(network)[-1]
    graft(network, block, at=at, how="after", example=images(), gated=True)
    return partial(ungraft, network)


def virtual_attention(network: nn.Module) -> Undo:
    add_virtual_attention(network, block_size=8)
    return partial(fold_virtual_attention, network)


def scale_attention(network: nn.Module) -> Undo:
    use_scale_attention(network)
    return partial(fold_scale_attention, network)


BLOCKS: dict[str, Callable[[nn.Module], Undo]] = {
    "MultiViewFusion": partial(before_units, block=MultiViewFusion),
    "TemporalShift": partial(before_units, block=TemporalShift),
    "VirtualAttention": virtual_attention,
    "ScaleAttentionConv2d": scale_attention,
    "ConvolutionalAttention": partial(after_last, block=partial(ConvolutionalAttention, num_heads=1)),
    "SpatialFeedForward": partial(after_last, block=partial(SpatialFeedForward, hidden=64)),
}
FOLDING = ("VirtualAttention", "ScaleAttentionConv2d")
SAME_AT_FIRST = ("VirtualAttention", "ConvolutionalAttention", "SpatialFeedForward")
"""Blocks that leave the outputs as they are until they learn."""


def try_graft(backbone: str, block: str) -> dict[str, int] | str:
    """Parameters and multiply-adds of one image that a block adds, or why it has no place in this backbone.

    A block that folds away has no multiply-adds of its own: it changes weights, not images.

    Raises:
        AssertionError: the model does not step, is changed where it must not be, or is not whole afterwards.
    """
    network, batch = build(backbone).eval(), images()
    plain, size, cost = network(batch), count_parameters(network), count_macs(network, batch)
    try:
        undo = BLOCKS[block](network)
    except InputError as error:
        return str(error)
    grafted = network(batch)
    assert grafted.shape == plain.shape
    if block in SAME_AT_FIRST:
        torch.testing.assert_close(grafted, plain, rtol=1e-3, atol=1e-4)
    added = {
        "parameters": count_parameters(network) - size,
        "macs": 0 if block in FOLDING else round((count_macs(network, batch) - cost) / len(batch)),
    }
    optimizer = torch.optim.SGD(network.train().parameters(), lr=1e-3)
    network(batch).square().mean().backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in network.parameters())
    optimizer.step()
    network.eval()
    scores = network(batch)
    undo()
    assert count_parameters(network) == size
    if block in FOLDING:
        assert count_macs(network, batch) == cost
        torch.testing.assert_close(network(batch), scores, rtol=1e-2, atol=1e-3)
    return added


def try_label_decoder(backbone: str) -> dict[str, int]:
    """The decoder reads the regions that a backbone leaves before it pools them."""
    network, batch = build(backbone).eval(), images()
    features = network.forward_features(batch)  # type: ignore[operator]
    if features.ndim == 4:
        last = features.shape[1] == features.shape[2] != features.shape[3]
        features = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
    decoder = LabelDecoder(CLASSES, features.shape[2], hidden_dim=64, attention_dim=32)
    unrolled = decoder.unroll(features, network(batch).sigmoid(), steps=3)
    unrolled.logits.square().mean().backward()
    assert unrolled.labels.shape == (FRAMES, 3)
    assert next(network.parameters()).grad is not None
    return {"parameters": count_parameters(decoder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="file to write instead of printing")
    settings = parser.parse_args()
    record: dict[str, Any] = {"library": ommatid.__version__, "torch": torch.__version__, "timm": version("timm")}
    record |= {"size": SIZE, "backbones": {}}
    for backbone in BACKBONES:
        found: dict[str, Any] = {block: try_graft(backbone, block) for block in BLOCKS}
        record["backbones"][backbone] = found | {"LabelDecoder": try_label_decoder(backbone)}
        print(backbone, file=sys.stderr)
    text = json.dumps(record, indent=2) + "\n"
    if settings.out is None:
        print(text, end="")
    else:
        settings.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
