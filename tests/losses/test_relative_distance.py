import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ommatid.losses.relative_distance import relative_distance_loss


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_a_similarity_costs_nothing(seed, scale, shift):
    """Scale, rotation and shift keep relative distances (E4)."""
    rotation = torch.linalg.qr(drawn(5, 5, seed=seed)).Q
    points, centers = drawn(8, 5, seed=seed + 1), drawn(4, 5, seed=seed + 2)
    moved = [scale * each @ rotation + shift for each in (points, centers)]
    assert float(relative_distance_loss(points, centers, *moved)) < 1e-12


def test_squeezing_one_direction_costs():
    points, centers = drawn(8, 5, seed=1), drawn(4, 5, seed=2)
    squeezed = torch.tensor([1.0, 1, 1, 1, 0.01]).double()
    little = relative_distance_loss(points, centers, points * squeezed.sqrt(), centers * squeezed.sqrt())
    much = relative_distance_loss(points, centers, points * squeezed, centers * squeezed)
    assert 0 < float(little) < float(much)


def test_it_is_the_smooth_l1_distance_of_tables_divided_by_their_means():
    points, centers, z, p = drawn(3, 2, seed=1), drawn(2, 2, seed=2), drawn(3, 4, seed=3), drawn(2, 4, seed=4)

    def table(rows, others):
        return torch.stack([torch.stack([(row - other).norm() for other in others]) for row in rows])

    before, after = table(points, centers), table(z, p)
    change = (before / before.mean() - after / after.mean()).abs()
    expected = torch.where(change < 1, change.square() / 2, change - 0.5).mean()
    # Of two classes there is one distance: divided by its mean it is 1 in both spaces.
    torch.testing.assert_close(relative_distance_loss(points, centers, z, p), expected)


def test_one_class_alone_and_coinciding_points_are_finite():
    z = torch.zeros(3, 2, requires_grad=True)
    found = relative_distance_loss(torch.ones(3, 4), torch.ones(1, 4), z, z[:1])
    several = relative_distance_loss(torch.ones(3, 4), torch.ones(2, 4), z, z[:2])
    (found + several).backward()
    assert found.item() == several.item() == 0
    assert z.grad.isfinite().all()


def test_gradcheck():
    points, centers = drawn(5, 3, seed=1), drawn(3, 3, seed=2)
    latents, moved = drawn(5, 2, seed=3).requires_grad_(), drawn(3, 2, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, p: relative_distance_loss(points, centers, z, p), [latents, moved])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    tables = [drawn(8, 5, seed=1), drawn(4, 5, seed=2), drawn(8, 3, seed=3), drawn(4, 3, seed=4)]
    half = relative_distance_loss(*(table.to(dtype) for table in tables))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), relative_distance_loss(*tables), rtol=0.05, atol=0.01)
