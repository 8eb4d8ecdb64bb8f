"""Visformer, VisformerV2 and their attention against the numbers recorded from the authors' networks."""

import pytest
import torch

from ommatid.nn.convolutional_attention import ConvolutionalAttention
from ommatid.nn.visformer import Visformer, load_published_visformer
from ommatid.nn.visformer_v2 import VisformerV2, load_published_visformer_v2
from parity.fixture import load_fixture


def settings(config):
    """The authors' arguments under our names; a stage is switched on by a 1 at its place."""
    ours = {
        "img_size": config["img_size"],
        "stem_channels": config["init_channels"],
        "embed_dim": config["embed_dim"],
        "depths": tuple(config["depth"]),
        "num_heads": config["num_heads"],
        "mlp_ratio": config["mlp_ratio"],
        "groups": config["group"],
        "attention_stages": tuple(stage == "1" for stage in config["attn_stage"]),
        "convolution_stages": tuple(stage == "1" for stage in config["spatial_conv"]),
        "num_classes": config["num_classes"],
        "norm": "layer" if "LayerNorm" in config.get("norm", "") else "batch",
    }
    if not isinstance(ours["num_heads"], int):
        ours["num_heads"] = tuple(ours["num_heads"])
    return ours


def rebuilt(fixture, network, rename):
    state = fixture.tensors("state")
    embedding_norm = any(name.startswith("patch_embed1.norm.") for name in state)
    position_embedding = "pos_embed1" in state
    model = network(**settings(fixture.config), embedding_norm=embedding_norm, position_embedding=position_embedding)
    model.load_state_dict(rename(state))
    return model.eval()


@pytest.mark.parametrize(
    ("name", "network", "rename", "first"),
    [
        ("visformer", Visformer, load_published_visformer, 1),
        ("visformer-v2", VisformerV2, load_published_visformer_v2, 0),
    ],
)
def test_every_stage_and_the_logits_are_the_authors(name, network, rename, first):
    fixture = load_fixture(name)
    model = rebuilt(fixture, network, rename)
    images = fixture.tensor("in/x")
    with torch.no_grad():
        for number, maps in enumerate(model.stages(images), start=first):
            fixture.assert_close(maps, f"out/stage{number}")
        fixture.assert_close(model(images), "out/logits")


def test_attention_and_its_input_gradient_are_the_authors():
    fixture = load_fixture("visformer-attention")
    attention = ConvolutionalAttention(**fixture.config)
    attention.load_state_dict(fixture.tensors("state"))
    maps = fixture.tensor("in/x").requires_grad_()
    mixed = attention(maps)
    fixture.assert_close(mixed, "out/y")
    mixed.backward(fixture.tensor("in/cotangent"))
    fixture.assert_close(maps.grad, "grad/x")
