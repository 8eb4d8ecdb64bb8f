"""PAVER's maps follow its equations, its losses move the block alone, and its encoder stays what it is."""

import math

import pytest
import torch

from dense.made_saliency import SMALL, WORLD, batch, data, paver
from ommatid.dense.paver import PAVER
from ommatid.engine.fit import evaluate, fit
from ommatid.engine.recipe import Recipe
from ommatid.engine.settings import build, merge
from ommatid.engine.sweep import Job, run_job
from ommatid.errors import CheckpointError, InputError
from ommatid.losses.feature_consistency import (
    cls_consistency_loss,
    released_cls_consistency_loss,
    released_spatial_consistency_loss,
    released_temporal_consistency_loss,
    spatial_consistency_loss,
    temporal_consistency_loss,
)
from ommatid.nn.space_time_attention import SpaceBlock, SpaceTimeBlock
from ommatid.nn.sphere import cartesian_adjacency, patch_centres, spherical_adjacency, spherical_gaussian_basis


def loss(method, windows):
    found = {}
    method.report = lambda **parts: found.update(parts)
    return method.training_step(windows, 0), found


def test_maps_are_squared_scores_spread_over_the_sphere():
    method, windows = paver(local=0.5, temporal=2.0, spatial=0.0).eval(), batch()
    with torch.no_grad():
        patches = method.fusion(windows.patches, windows.valid)
        cls = method.cls_mlp(windows.cls)
        local = ((patches - cls[:, :, None]) ** 2).mean(dim=-1)
        temporal = ((patches - patches.mean(dim=1, keepdim=True)) ** 2).mean(dim=-1)
        scores = 0.5 * local + 2.0 * temporal
        heat = torch.einsum("btn,nhw->bthw", scores**2, spherical_gaussian_basis(32, patch_centres(4), 3.0))
        low, high = heat.amin(dim=(2, 3), keepdim=True), heat.amax(dim=(2, 3), keepdim=True)
        torch.testing.assert_close(method(windows), (heat - low) / (high - low), rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_weighted_sum_of_the_three():
    method, windows = paver(spatial_loss=2.0, temporal_loss=3.0, cls_loss=5.0), batch()
    total, _ = loss(method, windows)
    patches, cls = method.fusion(windows.patches, windows.valid), method.cls_mlp(windows.cls)
    expected = (
        2.0 * spatial_consistency_loss(patches, spherical_adjacency(4))
        + 3.0 * temporal_consistency_loss(patches)
        + 5.0 * cls_consistency_loss(cls)
    )
    torch.testing.assert_close(total, expected)


def test_losses_can_be_those_of_the_release():
    method, windows = paver(released_losses=True), batch()
    _, parts = loss(method, windows)
    patches, cls = method.fusion(windows.patches, windows.valid), method.cls_mlp(windows.cls)
    torch.testing.assert_close(parts["space"], released_spatial_consistency_loss(patches))
    torch.testing.assert_close(parts["time"], released_temporal_consistency_loss(patches))
    torch.testing.assert_close(parts["cls"], released_cls_consistency_loss(cls))


@pytest.mark.parametrize("settings", [{}, {"attention": "space"}, {"adjacency": "cartesian"}])
def test_parts_can_be_chosen(settings):
    method = paver(**settings)
    assert type(method.fusion) is (SpaceBlock if "attention" in settings else SpaceTimeBlock)
    wanted = cartesian_adjacency(4) if "adjacency" in settings else spherical_adjacency(4)
    assert torch.equal(method.neighbours, wanted)


@pytest.mark.parametrize("released", [False, True])
def test_padding_changes_no_map_and_no_loss_as_intended(released):
    method, windows = paver(released_losses=released).eval(), batch()
    padded = batch(frames=5)
    for name in ("patches", "cls"):
        getattr(padded, name)[:, :3] = getattr(windows, name)
        getattr(padded, name)[:, 3:] = 9.0
    padded.valid[:, 3:] = False
    with torch.no_grad():
        torch.testing.assert_close(method(padded)[:, :3], method(windows), rtol=1e-4, atol=1e-5)
        same = torch.allclose(loss(method, padded)[0], loss(method, windows)[0], rtol=1e-4)
    assert same is not released, "the release counts padded frames"


def test_training_moves_the_block_and_leaves_the_encoder():
    method, module = paver(), data()
    method.adopt(module)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    fit(method, module, trainer={"max_steps": 2, "limit_val_batches": 0})
    for name, value in method.state_dict().items():
        assert torch.equal(before[name], value) is name.startswith("encoder."), name


def test_an_encoder_without_weights_learns_views_once():
    method, module = paver(), data()
    drawn = method.encoder.fingerprint()
    assert not method.encoder_is_trained
    method.adopt(module)
    learnt = method.encoder.fingerprint()
    assert learnt != drawn
    method.adopt(module)
    assert method.encoder.fingerprint() == learnt
    assert not any(parameter.requires_grad for parameter in method.encoder.parameters())
    other = paver(geometry="planar")
    other.adopt(data())
    shared = zip(method.encoder.state_dict().values(), other.encoder.state_dict().values(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in shared), "arms differ in geometry alone"


def test_an_encoder_that_would_have_learnt_nothing_is_refused():
    with pytest.raises(
        InputError, match="encoder_weights: found none, expected 'pretrained', a file, or encoder_steps"
    ):
        paver(encoder_steps=0).adopt(data())


def test_weights_of_a_file_are_in_the_checkpoint(tmp_path):
    torch.save(paver(geometry="planar").encoder.network.state_dict(), tmp_path / "flat.pt")
    method = paver(encoder_weights=str(tmp_path / "flat.pt"))
    assert method.encoder_is_trained
    path = method.save(tmp_path / "method.safetensors")
    (tmp_path / "flat.pt").unlink()
    loaded = PAVER.load(path)
    assert loaded.encoder_is_trained
    assert loaded.encoder.fingerprint() == method.encoder.fingerprint()


def test_released_decoders_come_under_our_names(tmp_path):
    source, method = paver(), paver()
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter) if parameter.requires_grad else None
    state = {
        name.replace("fusion.", "attn_layer.").replace("cls_mlp.", "cls_encoder."): value
        for name, value in source.state_dict().items()
        if not name.startswith("encoder.")
    }
    unused = {"sph_basis": torch.zeros(2), "adjacency_matrix": torch.zeros(2), "temp_score_weight": torch.ones(1)}
    torch.save({"epoch": 4, "model": {**state, **unused}}, tmp_path / "04_ckpt.pt")
    before = method.encoder.fingerprint()
    method.load_published(tmp_path / "04_ckpt.pt")
    windows = batch()
    with torch.no_grad():
        assert torch.equal(method.eval()(windows), source.eval()(windows))
    assert method.encoder.fingerprint() == before
    torch.save({"model": {"attn_layer.norm1.weight": torch.ones(64), **unused}}, tmp_path / "part.pt")
    with pytest.raises(CheckpointError, match=r"part\.pt: weights do not fit PAVER"):
        method.load_published(tmp_path / "part.pt")


def test_scores_tell_what_the_tokens_are_worth_untrained():
    method, module = paver(), data()
    method.adopt(module)
    found = method.score(module.first_batch("test", 6))
    again = paver()
    again.encoder.load_state_dict(method.encoder.state_dict())
    torch.nn.init.normal_(again.fusion.attn.proj.weight)
    other = again.score(module.first_batch("test", 6))
    assert torch.equal(found["frozen_CC"], other["frozen_CC"])
    assert not torch.equal(found["CC"], other["CC"])
    assert torch.equal(found["frozen_CC_high"].isnan(), found["CC_high"].isnan())


def test_read_outs_are_nearer_to_one_where_patches_touch_the_sphere():
    arms = {name: paver(geometry=name, height=64).read_outs(data()) for name in ("spherical", "planar")}
    for name in ("similarity", "similarity_56", "similarity_79"):
        assert arms["spherical"][name] > arms["planar"][name], (name, arms)


def test_the_published_size_builds_as_published():
    with torch.device("meta"):
        method = build(PAVER, {"geometry": "planar"})
    assert (method.encoder.dim, method.encoder.rows) == (768, 14)
    width = 768
    block = 3 * width * width + width * width + width + 8 * width * width + 5 * width + 4 * width
    assert sum(parameter.numel() for parameter in method.fusion.parameters()) == block
    assert sum(parameter.numel() for parameter in method.cls_mlp.parameters()) == 2 * (width * width + width)
    assert method.encoder.network.pos_embed.shape == (1, 1 + 14 * 28, width)


def test_both_claims_share_their_trainings():
    first, second = PAVER.claims
    assert first.arms == second.arms
    assert (first.model, first.data, first.trainer, first.tuning) == (
        second.model,
        second.data,
        second.trainer,
        second.tuning,
    )
    assert {name for arm in first.arms.values() for name in arm.model} == {"geometry", "exact", "circular"}


@pytest.mark.parametrize("arm", PAVER.claims[0].arms)
def test_every_arm_trains_and_is_scored(arm):
    claim = PAVER.claims[0]
    tiny = {"encoder_steps": 1, "encoder_views": 10, "sigma": 3.0}
    model = merge(claim.model, claim.arms[arm].model, tiny)
    world = {"world": {**WORLD, "frames": 6}, "height": 32, "window": 3}
    job = Job(
        "ommatid.dense.paver:PAVER", model, merge(claim.data, world), {"max_steps": 2, "max_epochs": -1}, 0, "test"
    )
    found = run_job(job)
    assert {criterion.metric for criterion in claim.criteria} - {"CC_high"} <= set(found.metrics)
    assert {criterion.metric for criterion in PAVER.claims[1].criteria} <= set(found.read_outs)
    assert all(math.isfinite(value) for value in found.read_outs.values())


def test_training_makes_moving_discs_stand_out():
    """At the size of the embedded setting, with an encoder that has hardly learnt anything."""
    recipe = Recipe("adam", lr=1e-3, weight_decay=1e-3, schedule="constant", decay_vectors=True)
    settings = {"height": 64, "sigma": 4.0, "recipe": recipe, "released_losses": True}
    method, module = paver(**settings), data(height=64, world={**WORLD, "frames": 6}, batch_size=4)
    method.adopt(module)
    before = evaluate(method, module, "train")["CC"]
    fit(method, module, trainer={"max_steps": 40, "max_epochs": -1, "limit_val_batches": 0})
    assert evaluate(method, module, "train")["CC"] > before + 0.05


def test_unknown_parts_are_refused():
    for name in ("attention", "adjacency", "geometry"):
        with pytest.raises(InputError, match=name):
            build(PAVER, {**SMALL, name: "round"})
