"""Consistency losses compare with neighbours, frames beside and the clip's mean; padding has no part in them."""

import pytest
import torch

from ommatid.losses.feature_consistency import (
    cls_consistency_loss,
    released_cls_consistency_loss,
    released_spatial_consistency_loss,
    released_temporal_consistency_loss,
    spatial_consistency_loss,
    temporal_consistency_loss,
)
from ommatid.nn.sphere import cartesian_adjacency, spherical_adjacency

GENERATOR = torch.Generator().manual_seed(0)
PATCHES = torch.randn(2, 4, 8, 6, generator=GENERATOR)
CLS = torch.randn(2, 4, 6, generator=GENERATOR)
VALID = torch.tensor([[True] * 4, [True, True, False, False]])
ADJACENCY = spherical_adjacency(2)


def spatial(patches, valid=None):
    return spatial_consistency_loss(patches, ADJACENCY, valid)


def on_cls(loss):
    """A loss of CLS tokens, taken of the first patch."""
    return lambda patches, valid=None: loss(patches[:, :, 0], valid)


INTENDED = [spatial, temporal_consistency_loss, on_cls(cls_consistency_loss)]
RELEASED = [
    released_spatial_consistency_loss,
    released_temporal_consistency_loss,
    on_cls(released_cls_consistency_loss),
]


@pytest.mark.parametrize("adjacency", [ADJACENCY, cartesian_adjacency(2)])
def test_patches_are_compared_with_the_weighted_mean_of_their_neighbours(adjacency):
    distances = []
    for patch in range(8):
        average = sum(adjacency[other, patch] * PATCHES[:, :, other] for other in range(8))
        distances.append(((PATCHES[:, :, patch] - average) ** 2).mean())
    torch.testing.assert_close(spatial_consistency_loss(PATCHES, adjacency), torch.stack(distances).mean())


def test_frames_are_compared_with_the_mean_of_those_beside_them():
    first, second, third, last = PATCHES.unbind(dim=1)
    pairs = [(first, second), (second, (first + third) / 2), (third, (second + last) / 2), (last, third)]
    expected = torch.stack([((frame - beside) ** 2).mean() for frame, beside in pairs]).mean()
    torch.testing.assert_close(temporal_consistency_loss(PATCHES), expected)


def test_cls_tokens_are_compared_with_their_mean_over_the_clip():
    torch.testing.assert_close(cls_consistency_loss(CLS), CLS.var(dim=1, correction=0).mean())


@pytest.mark.parametrize("loss", INTENDED)
@pytest.mark.parametrize("filling", [0.0, 1e3, float("nan")])
def test_padded_frames_do_not_change_a_loss(loss, filling):
    padded = PATCHES.clone()
    padded[1, 2:] = filling
    torch.testing.assert_close(loss(padded[1:], VALID[1:]), loss(PATCHES[1:, :2]))
    # Every real frame weighs the same, in whatever clip it is.
    together = (4 * loss(PATCHES[:1]) + 2 * loss(PATCHES[1:, :2])) / 6
    torch.testing.assert_close(loss(padded, VALID), together)


@pytest.mark.parametrize("loss", INTENDED)
def test_padded_frames_get_no_gradient(loss):
    patches = PATCHES.clone().requires_grad_()
    loss(patches, VALID).backward()
    assert not patches.grad[1, 2:].any()
    assert patches.grad[1, :2].any()


def test_gradients_are_those_of_distances_to_something_fixed():
    tokens = PATCHES.clone().requires_grad_()
    temporal_consistency_loss(tokens).backward()
    beside = torch.stack([PATCHES[:, 1], (PATCHES[:, 0] + PATCHES[:, 2]) / 2], dim=1)
    torch.testing.assert_close(tokens.grad[:, :2], 2 * (PATCHES[:, :2] - beside) / PATCHES.numel())
    tokens = CLS.clone().requires_grad_()
    cls_consistency_loss(tokens).backward()
    torch.testing.assert_close(tokens.grad, 2 * (CLS - CLS.mean(dim=1, keepdim=True)) / CLS.numel())
    tokens = PATCHES.clone().requires_grad_()
    spatial(tokens).backward()
    average = torch.einsum("ji,btjc->btic", ADJACENCY, PATCHES)
    torch.testing.assert_close(tokens.grad, 2 * (PATCHES - average) / PATCHES.numel())


@pytest.mark.parametrize("loss", INTENDED)
def test_what_never_changes_costs_nothing(loss):
    assert loss(torch.full((2, 3, 8, 4), 7.0)) < 1e-9


@pytest.mark.parametrize("loss", INTENDED)
def test_a_single_frame_and_an_empty_clip_are_finite(loss):
    for valid in (None, torch.zeros(2, 1, dtype=torch.bool)):
        patches = PATCHES[:, :1].clone().requires_grad_()
        found = loss(patches, valid)
        found.backward()
        assert found.isfinite()
        assert patches.grad.isfinite().all()


def test_a_single_frame_has_nothing_to_be_compared_with_in_time():
    assert temporal_consistency_loss(PATCHES[:, :1]) == 0
    torch.testing.assert_close(released_temporal_consistency_loss(PATCHES[:, :1]), PATCHES[:, :1].square().mean())


def test_the_released_losses_are_other_losses():
    torch.testing.assert_close(released_spatial_consistency_loss(PATCHES), PATCHES.square().mean())
    torch.testing.assert_close(released_cls_consistency_loss(CLS), (0.75 * CLS).square().mean())
    torch.testing.assert_close(released_temporal_consistency_loss(PATCHES), temporal_consistency_loss(PATCHES))
    padded = PATCHES * VALID[..., None, None]
    assert released_temporal_consistency_loss(padded, VALID) != temporal_consistency_loss(padded, VALID)


@pytest.mark.parametrize("loss", [*INTENDED, *RELEASED])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single_precision(loss, dtype):
    tokens = PATCHES.to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        found = loss(tokens, VALID)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(tokens.float(), VALID))


@pytest.mark.parametrize("loss", [RELEASED[0], RELEASED[2]])
def test_gradients_of_losses_without_a_reference_are_those_of_finite_differences(loss):
    torch.autograd.gradcheck(lambda each: loss(each, VALID), PATCHES[:, :, :2, :2].double().requires_grad_())
