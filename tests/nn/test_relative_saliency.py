"""Relative saliency: what stands out from its frame, its past and its surroundings scores, padding does not."""

import jaxtyping
import pytest
import torch

from ommatid.nn.relative_saliency import combined_saliency, relative_saliency, saliency_heatmap
from ommatid.nn.sphere import patch_centres, spherical_gaussian_basis

GENERATOR = torch.Generator().manual_seed(0)
PATCHES = torch.randn(2, 3, 8, 6, generator=GENERATOR)
CLS = torch.randn(2, 3, 6, generator=GENERATOR)
VALID = torch.tensor([[True, True, True], [True, True, False]])
BASIS = spherical_gaussian_basis(8, patch_centres(2), sigma=1.0)


def test_scores_are_mean_squared_distances():
    scores = relative_saliency(PATCHES, CLS)
    for clip, frame, patch in ((0, 0, 0), (1, 2, 5)):
        token = PATCHES[clip, frame, patch]
        expected = {
            "local": CLS[clip, frame],
            "temporal": PATCHES[clip, :, patch].mean(dim=0),
            "spatial": PATCHES[clip, frame].mean(dim=0),
        }
        for name, reference in expected.items():
            torch.testing.assert_close(scores[name][clip, frame, patch], ((token - reference) ** 2).mean())


@pytest.mark.parametrize("filling", [0.0, 1e3, float("nan")])
def test_padded_frames_do_not_change_real_ones_and_score_nothing(filling):
    patches, cls = PATCHES.clone(), CLS.clone()
    patches[1, 2], cls[1, 2] = filling, filling
    found = relative_saliency(patches, cls, VALID)
    alone = relative_saliency(PATCHES[1:, :2], CLS[1:, :2])
    for name in ("local", "temporal", "spatial"):
        torch.testing.assert_close(found[name][1:, :2], alone[name])
        assert not found[name][1, 2].any()


def test_a_patch_that_differs_from_all_others_has_the_highest_score():
    patches = torch.zeros(1, 4, 8, 6)
    patches[0, 2, 3] = 1
    scores = relative_saliency(patches, torch.zeros(1, 4, 6))
    for score in [*scores.values(), combined_saliency(scores)]:
        assert divmod(int(score.argmax()), 8) == (2, 3)


def test_weights_choose_among_the_scores():
    scores = relative_saliency(PATCHES, CLS)
    only = combined_saliency(scores, {"local": 0.0, "spatial": 0.0, "temporal": 2.0})
    torch.testing.assert_close(only, 2 * scores["temporal"])
    torch.testing.assert_close(combined_saliency(scores), scores["local"] + scores["temporal"] + scores["spatial"])


def test_heat_maps_fill_the_range_of_every_frame():
    maps = saliency_heatmap(combined_saliency(relative_saliency(PATCHES, CLS)), BASIS)
    assert maps.shape == (2, 3, 8, 16)
    assert (maps.amin(dim=(2, 3)) == 0).all()
    assert (maps.amax(dim=(2, 3)) == 1).all()


def test_scores_are_squared_before_they_are_spread():
    maps = saliency_heatmap(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.eye(3)[:, None])
    torch.testing.assert_close(maps, torch.tensor([[[[0.0, 3 / 8, 1.0]]]]))


def test_heat_maps_are_highest_where_the_score_is():
    scores = torch.zeros(1, 1, 8)
    scores[..., 6] = 1
    [[map]] = saliency_heatmap(scores, BASIS)
    torch.testing.assert_close(map, (BASIS[6] - BASIS[6].min()) / (BASIS[6].max() - BASIS[6].min()))


def test_a_frame_without_scores_has_an_empty_map_and_a_finite_gradient():
    scores = torch.zeros(1, 2, 8)
    scores[0, 0, 3] = 1
    scores.requires_grad_()
    maps = saliency_heatmap(scores, BASIS)
    assert not maps[0, 1].any()
    maps.sum().backward()
    assert scores.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    def total(patches, cls):
        return combined_saliency(relative_saliency(patches, cls, VALID))

    torch.autograd.gradcheck(total, (PATCHES[:, :, :2].double().requires_grad_(), CLS.double().requires_grad_()))
    basis = torch.rand(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = torch.tensor([[[0.5, 2.0, 1.0]]], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda each: saliency_heatmap(each, basis), scores)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single_precision(dtype):
    patches, cls = PATCHES.to(dtype), CLS.to(dtype)
    expected = saliency_heatmap(combined_saliency(relative_saliency(patches.float(), cls.float())), BASIS)
    with torch.autocast("cpu", dtype=dtype):
        found = saliency_heatmap(combined_saliency(relative_saliency(patches, cls)), BASIS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


class Scores(torch.nn.Module):
    def forward(self, patches, cls, valid):
        return saliency_heatmap(combined_saliency(relative_saliency(patches, cls, valid)), BASIS)


@pytest.fixture
def unchecked():
    """Without checks of types, which no compiler can trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
def test_it_compiles_as_one_graph_and_can_be_exported():
    inputs, expected = (PATCHES, CLS, VALID), Scores()(PATCHES, CLS, VALID)
    torch.testing.assert_close(torch.compile(Scores(), fullgraph=True, backend="eager")(*inputs), expected)
    torch.testing.assert_close(torch.export.export(Scores(), inputs).module()(*inputs), expected)
