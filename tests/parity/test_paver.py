"""PAVER's sphere, fusion, scores, losses and metrics against the numbers recorded from the authors' code."""

import pytest
import torch
from torch import nn

from ommatid.dense.saliency_metrics import auc_judd, correlation, fixations_from_density, similarity
from ommatid.losses.feature_consistency import (
    cls_consistency_loss,
    released_cls_consistency_loss,
    released_spatial_consistency_loss,
    released_temporal_consistency_loss,
    spatial_consistency_loss,
)
from ommatid.nn.relative_saliency import combined_saliency, relative_saliency, saliency_heatmap
from ommatid.nn.space_time_attention import SpaceBlock, SpaceTimeBlock, TokenMLP
from ommatid.nn.sphere import (
    SphericalPatchEmbed,
    cartesian_adjacency,
    patch_centres,
    spherical_adjacency,
    spherical_gaussian_basis,
    spherical_patch_offsets,
)
from parity.fixture import load_fixture


@pytest.mark.parametrize(("name", "sampling"), [("bilinear", "interpolated"), ("nearest", "discrete")])
def test_offsets_and_tokens_are_the_authors(name, sampling):
    fixture = load_fixture("paver-embed")
    height, patch_size = fixture.config["resolution"], fixture.config["patch_size"]
    offsets = spherical_patch_offsets(height, patch_size, exact=False, sampling=sampling)
    fixture.assert_close(offsets, f"out/offset_{name}")
    embed = SphericalPatchEmbed(planar_embed(fixture), height, exact=False, circular=False, sampling=sampling)
    fixture.assert_close(embed(fixture.tensor("in/image")).flatten(2).mT, f"out/tokens_{name}")


def test_the_wrapped_embedding_is_the_planar_one():
    fixture = load_fixture("paver-embed")
    embed = SphericalPatchEmbed(planar_embed(fixture), fixture.config["resolution"])
    fixture.assert_close(embed.patch_embed(fixture.tensor("in/image")).flatten(2).mT, "out/tokens_planar")


def planar_embed(fixture):
    width, channels, patch_size, _ = fixture.array("state/proj.weight").shape
    embed = nn.Conv2d(channels, width, patch_size, patch_size)
    embed.load_state_dict({name.removeprefix("proj."): value for name, value in fixture.tensors("state").items()})
    return embed


class Decoder(nn.Module):
    """What the release trains, under its names."""

    def __init__(self, fixture):
        super().__init__()
        config = fixture.config
        block = {"fused": SpaceTimeBlock}.get(config["block"], SpaceBlock)
        self.attn_layer = block(config["dim"], config["num_heads"], float(config["mlp_ratio"]), config["qkv_bias"])
        self.cls_encoder = TokenMLP(config["dim"], config["dim"])
        self.load_state_dict(fixture.tensors("state"))
        # The release does not tell its attention which frames are padded.
        self.patches = self.attn_layer(fixture.tensor("in/patch_tokens"))
        self.cls = self.cls_encoder(fixture.tensor("in/cls_tokens"))


@pytest.fixture(scope="module")
def decoder():
    fixture = load_fixture("paver-decoder")
    return fixture, Decoder(fixture)


def test_fused_features_are_the_authors(decoder):
    fixture, model = decoder
    fixture.assert_close(model.patches, "out/fused_features")
    fixture.assert_close(model.cls, "out/fused_cls")


def test_adjacency_basis_and_scores_and_heat_map_are_the_authors(decoder):
    fixture, model = decoder
    height, rows = fixture.config["resolution"], fixture.config["resolution"] // fixture.config["patch_size"]
    fixture.assert_close(adjacency(fixture), "out/adjacency")
    basis = spherical_gaussian_basis(height, patch_centres(rows), float(fixture.config["sigma"]))
    for key in fixture.arrays:
        if key.startswith("out/basis_"):
            fixture.assert_close(basis[int(key.rsplit("_", 1)[1])], key)
    fixture.assert_close(patch_centres(rows)[:, 0].cos(), "out/spatial_weight")
    scores = relative_saliency(model.patches, model.cls)
    for name, score in scores.items():
        fixture.assert_close(score, f"out/score_{name}")
    fixture.assert_close(combined_saliency(scores), "out/score")
    fixture.assert_close(saliency_heatmap(combined_saliency(scores), basis), "out/heatmap")


def adjacency(fixture):
    rows = fixture.config["resolution"] // fixture.config["patch_size"]
    return {"spherical": spherical_adjacency, "cartesian": cartesian_adjacency}[fixture.config["adjacency"]](rows)


def released_losses(fixture, model):
    valid = fixture.tensor("in/mask") > 0
    return {
        "cls": released_cls_consistency_loss(model.cls, valid),
        "spatial": released_spatial_consistency_loss(model.patches, valid),
        "temporal": released_temporal_consistency_loss(model.patches, valid),
    }


def test_released_losses_are_the_authors(decoder):
    fixture, model = decoder
    losses = released_losses(fixture, model)
    fixture.assert_close(losses["cls"], "out/loss_cls_released")
    fixture.assert_close(losses["spatial"], "out/loss_spatial_released")
    fixture.assert_close(losses["temporal"], "out/loss_temporal")


def test_losses_as_intended_are_those_of_the_neighbour_average_and_the_temporal_mean(decoder):
    fixture, model = decoder
    valid = fixture.tensor("in/mask") > 0
    neighbours = torch.einsum("ji,btjc->btic", adjacency(fixture), model.patches)
    fixture.assert_close(neighbours, "out/neighbour_average")
    # Recorded as a mean in which padded frames count as zero; here they do not count.
    spatial = spatial_consistency_loss(model.patches, adjacency(fixture), valid) * valid.float().mean()
    fixture.assert_close(spatial, "out/loss_spatial_intended")
    fixture.assert_close(cls_consistency_loss(model.cls, valid), "out/loss_cls_intended")


def test_gradients_of_the_released_total_are_the_authors():
    fixture = load_fixture("paver-decoder")
    model = Decoder(fixture)
    total = sum(fixture.config[f"lambda_{name}"] * loss for name, loss in released_losses(fixture, model).items())
    fixture.assert_close(total, "out/loss_total_released")
    total.backward()
    for name, parameter in model.named_parameters():
        fixture.assert_close(parameter.grad, f"grad/loss_total_released/{name}")


def test_metrics_are_the_authors():
    fixture = load_fixture("paver-metrics")
    predicted, density = fixture.tensor("in/saliency"), fixture.tensor("in/ground_truth")
    fixture.assert_close(correlation(predicted, density), "out/cc")
    fixture.assert_close(similarity(predicted, density), "out/similarity")
    assert not fixture.config["jitter"]
    fixture.assert_close(auc_judd(predicted, fixations_from_density(density)), "out/auc_judd")
