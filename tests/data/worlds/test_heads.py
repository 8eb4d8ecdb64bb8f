"""Heads move as their weights say, and pictures show what lies in front, without holes."""

import math

import pytest
import torch

from ommatid.data.worlds.heads import head_model, render, turned, vertex_normals


@pytest.fixture(scope="module")
def model():
    return head_model()


def at_rest(model):
    return model.vertices[None]


def weights(names, **values):
    return torch.tensor([[values.get(name, 0.0) for name in names]])


def test_the_pack_has_shapes_phenotypes_and_all_facial_actions(model):
    assert (len(model.identity_names), len(model.phenotype_names), len(model.action_names)) == (104, 8, 52)
    for names in (model.identity_names, model.phenotype_names, model.action_names):
        assert len(set(names)) == len(names)
    assert int(model.triangles.max()) == len(model.vertices) - 1
    for moves in (model.identity, model.phenotype, model.action):
        # Every direction moves something, and nothing by more than a few centimetres.
        assert bool((moves.norm(dim=-1).amax(dim=1) > 0.5).all())
        assert float(moves.abs().max()) < 50


def test_shapes_are_linear_in_their_weights(model):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, len(model.identity_names), generator=generator)
    together = model.shapes(first + second)
    apart = model.shapes(first) + model.shapes(second) - model.vertices
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-2)
    both = model.shapes(first, action=torch.ones(3, 52)) - model.shapes(first)
    torch.testing.assert_close(both, model.action.sum(dim=0).expand(3, -1, -1), rtol=1e-4, atol=1e-2)


def test_actions_move_what_they_are_called_after(model):
    none = torch.zeros(1, 104)
    blink = model.shapes(none, action=weights(model.action_names, eyeBlinkLeft=1.0))[0] - model.vertices
    near = (model.vertices - torch.tensor([29.0, 16.0, 70.0])).norm(dim=1) < 25
    assert float(blink[near].square().sum()) > 0.8 * float(blink.square().sum())
    opened = model.shapes(none, action=weights(model.action_names, jawOpen=1.0))[0] - model.vertices
    chin = model.vertices[:, 1].argsort()[(model.vertices[:, 2] > 60)[model.vertices[:, 1].argsort()]][:20]
    assert float(opened[chin, 1].max()) < -5
    teeth = model.regions["teeth"] > 0
    upper, lower = teeth & (opened.norm(dim=1) < 0.5), teeth & (opened.norm(dim=1) > 5)
    assert float(model.vertices[upper][:, 1].mean()) > float(model.vertices[lower][:, 1].mean())


def test_local_shapes_are_alike_on_both_sides(model):
    """Both halves grow wider by the same amount, but where mouth or nose move to one side."""
    outwards = model.identity[..., 0] * model.vertices[:, 0].sign()
    left, right = (outwards[:, side].sum(dim=1) for side in (model.vertices[:, 0] > 1, model.vertices[:, 0] < -1))
    uneven = (left - right).abs() > 20
    assert {name for name, each in zip(model.identity_names, uneven, strict=True) if each} == {
        "mouth-trans-out",
        "nose-trans-out",
    }


def test_turning_keeps_lengths_and_goes_where_it_says(model):
    yaw, pitch = torch.tensor([0.4, 0.0]), torch.tensor([0.0, 0.3])
    heads = turned(at_rest(model).expand(2, -1, -1), yaw, pitch)
    torch.testing.assert_close(heads.norm(dim=-1), at_rest(model).norm(dim=-1).expand(2, -1), rtol=1e-4, atol=1e-3)
    nose = model.vertices[:, 2].argmax()
    assert float(heads[0, nose, 0]) == pytest.approx(math.sin(0.4) * float(model.vertices[nose, 2]), abs=1)
    assert float(heads[1, nose, 1]) < float(model.vertices[nose, 1]) - 10


def test_normals_point_outside(model):
    normals = vertex_normals(at_rest(model), model.triangles)[0]
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(len(normals)), rtol=1e-4, atol=1e-4)
    nose, top = model.vertices[:, 2].argmax(), model.vertices[:, 1].argmax()
    assert float(normals[nose, 2]) > 0.8
    assert float(normals[top, 1]) > 0.8


@pytest.mark.parametrize("size", [40, 72])
def test_faces_have_no_holes(model, size):
    heads = turned(at_rest(model).expand(3, -1, -1), torch.tensor([-0.4, 0.0, 0.4]), torch.tensor([0.1, 0.0, -0.1]))
    image, covered = render(model, heads, torch.full((3, len(model.vertices)), 0.6), size)
    low, high = round(0.3 * size), round(0.7 * size)
    assert float(covered[:, low:high, low:high].min()) == 1
    torch.testing.assert_close(image[:, low:high, low:high], torch.full((3, high - low, high - low), 0.6))
    assert 0.45 < float(covered.mean()) < 0.75
    assert bool(((image > 0) == (covered > 0)).all())


def test_what_lies_behind_is_not_seen(model):
    shade = (model.vertices[:, 2] < -20).float()[None]
    image, _ = render(model, at_rest(model), shade, 40)
    assert float(image[0, 10:30, 14:26].max()) == 0
    inside = model.regions["mouth"][None]
    assert float(render(model, at_rest(model), inside, 40)[0].max()) < 0.5
    opened = model.shapes(torch.zeros(1, 104), action=weights(model.action_names, jawOpen=1.0))
    shown = sum(model.regions[part] for part in ("mouth", "teeth", "tongue"))[None]
    assert float(render(model, opened, shown, 40)[0].max()) == 1


def test_a_picture_is_seen_upright_and_not_mirrored(model):
    up, left = (model.vertices[:, axis] > 0 for axis in (1, 0))
    image, _ = render(model, at_rest(model), up.float()[None], 40)
    assert float(image[0, :15].max()) == 1
    assert float(image[0, 25:].max()) == 0
    # The head's left is on the viewer's right.
    image, _ = render(model, at_rest(model), left.float()[None], 40)
    assert float(image[0, :, 25:].max()) == 1
    assert float(image[0, :, :15].max()) == 0
