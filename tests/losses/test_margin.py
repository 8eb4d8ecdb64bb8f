"""Margins by their definition on angles; recorded numbers are in tests/parity."""

import math

import pytest
import torch
import torch.nn.functional as F

from ommatid.errors import InputError
from ommatid.losses.margin import MarginHead, arcface, cosface, mv_arcface, mv_cosface, published_head

KINDS = ("arcface", "cosface", "mv-arcface", "mv-cosface", "softmax")
FUNCTIONS = (arcface, cosface, mv_arcface, mv_cosface)


@pytest.fixture
def angles():
    """Targets from nearest to farthest, and far enough that some have no room for the margin."""
    angles = torch.rand(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * math.pi
    labels = torch.arange(9) % 6
    return angles.scatter(1, labels[:, None], torch.linspace(0.05, 3.1, 9, dtype=torch.float64)[:, None]), labels


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(9, 8, generator=generator) * 3, torch.randint(6, (9,), generator=generator)


def target(values, labels):
    return values.gather(1, labels[:, None])[:, 0]


def others(values, labels):
    return values.scatter(1, labels[:, None], 0)


def test_arcface_widens_the_angle_of_the_target_alone(angles):
    theta, labels = angles
    found = arcface(theta.cos(), labels, margin=0.4)
    near = target(theta, labels) < math.pi - 0.4
    assert 0 < near.sum() < len(near)
    torch.testing.assert_close(target(found, labels)[near], (target(theta, labels)[near] + 0.4).cos())
    torch.testing.assert_close(others(found, labels), others(theta.cos(), labels))


def test_arcface_keeps_the_order_of_all_angles_unless_easy():
    cosines, labels = torch.linspace(1, -1, 201, dtype=torch.float64)[:, None], torch.zeros(201, dtype=torch.long)
    assert (arcface(cosines, labels, margin=0.5).diff(dim=0) < 0).all()
    assert (arcface(cosines, labels, margin=0.5, easy=True).diff(dim=0) > 0).any()
    far = cosines < math.cos(math.pi - 0.5)
    torch.testing.assert_close(arcface(cosines, labels, 0.5, easy=True)[far], cosines[far])
    torch.testing.assert_close(arcface(cosines, labels, 0.5)[far], cosines[far] - 0.5 * math.sin(0.5))


def test_cosface_lowers_the_target_alone(angles):
    theta, labels = angles
    found = cosface(theta.cos(), labels, margin=0.3)
    torch.testing.assert_close(target(found, labels), target(theta.cos(), labels) - 0.3)
    torch.testing.assert_close(others(found, labels), others(theta.cos(), labels))


@pytest.mark.parametrize(("guided", "plain"), [(mv_arcface, arcface), (mv_cosface, cosface)])
def test_guided_variants_raise_exactly_those_that_come_closer_than_the_target_with_its_margin(guided, plain, angles):
    theta, labels = angles
    cosines, near = theta.cos(), target(theta, labels) < math.pi - 0.4
    found, without = guided(cosines, labels, 0.4, weight=1.2), plain(cosines, labels, 0.4)
    torch.testing.assert_close(target(found, labels), target(without, labels))
    closer = cosines > without.gather(1, labels[:, None])
    expected = others(torch.where(closer, 1.2 * cosines + 0.2, cosines), labels)
    torch.testing.assert_close(others(found, labels)[near], expected[near])
    assert closer[near].any()
    assert not closer[near].all()
    torch.testing.assert_close(guided(cosines, labels, 0.4, weight=1.0), without)


def test_easy_guided_variants_leave_far_targets_as_they_are(angles):
    theta, labels = angles
    cosines = theta.cos()
    aim = target(cosines, labels)
    widened = torch.where(aim > 0, (target(theta, labels) + 0.4).cos(), aim)
    torch.testing.assert_close(target(mv_arcface(cosines, labels, 0.4, easy=True), labels), widened)
    lowered = torch.where(aim > 0.4, aim - 0.4, aim)
    torch.testing.assert_close(target(mv_cosface(cosines, labels, 0.4, easy=True), labels), lowered)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_cosines_passed_in_are_not_changed(function, angles):
    theta, labels = angles
    cosines = theta.cos()
    function(cosines, labels)
    assert torch.equal(cosines, theta.cos())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradcheck(function, angles):
    theta, labels = angles
    assert torch.autograd.gradcheck(lambda angle: function(angle.cos(), labels), theta.requires_grad_())


@pytest.mark.parametrize("kind", KINDS)
def test_targets_at_both_ends_of_the_range_have_finite_gradients(kind):
    head = MarginHead(4, 3, kind)
    embedding = torch.cat([head.weight, -head.weight]).detach().requires_grad_()
    labels = torch.arange(6) % 3
    F.cross_entropy(head(embedding, labels), labels).backward()
    assert embedding.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_is_scaled_cosines_with_the_margin_of_its_kind(kind, embeddings):
    embedding, labels = embeddings
    head = MarginHead(8, 6, kind, scale=16.0, margin=0.2, mv_weight=1.3)
    cosines = torch.stack([F.cosine_similarity(embedding, vector[None]) for vector in head.weight], dim=1)
    expected = {
        "arcface": lambda: arcface(cosines, labels, 0.2),
        "cosface": lambda: cosface(cosines, labels, 0.2),
        "mv-arcface": lambda: mv_arcface(cosines, labels, 0.2, 1.3),
        "mv-cosface": lambda: mv_cosface(cosines, labels, 0.2, 1.3),
        "softmax": lambda: cosines,
    }[kind]()
    torch.testing.assert_close(head(embedding, labels), 16 * expected)
    torch.testing.assert_close(head(embedding), 16 * cosines)
    torch.testing.assert_close(head(7 * embedding, labels), head(embedding, labels))


def test_easy_reaches_every_kind_that_knows_it():
    embedding, labels = torch.tensor([[-1.0, 0.01]]), torch.tensor([0])
    for kind in ("arcface", "mv-arcface", "mv-cosface"):
        strict, easy = MarginHead(2, 2, kind, scale=1.0), MarginHead(2, 2, kind, scale=1.0, easy=True)
        for head in (strict, easy):
            head.load_state_dict({"weight": torch.eye(2)})
        assert easy(embedding, labels)[0, 0] > strict(embedding, labels)[0, 0] + 0.2
        torch.testing.assert_close(easy(embedding, labels)[0, 0], easy.cosines(embedding)[0, 0])


def test_the_margin_of_each_kind_is_its_usual_one():
    assert [MarginHead(2, 2, kind).margin for kind in KINDS] == [0.5, 0.35, 0.5, 0.35, 0.35]


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_changes_no_logit(kind, embeddings):
    embedding, labels = embeddings
    head = MarginHead(8, 6, kind)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(embedding, labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, head(embedding, labels))
    assert head(embedding.to(torch.bfloat16), labels).dtype == torch.float32
    for function in FUNCTIONS:
        assert function(embedding.half(), labels.clamp(max=5)).dtype == torch.float32


def test_a_margin_separates_training_identities_more_widely():
    generator = torch.Generator().manual_seed(3)
    centres = F.normalize(torch.randn(4, 6, generator=generator))
    labels = torch.arange(4).repeat(8)
    points = centres[labels] + 0.4 * torch.randn(32, 6, generator=generator)

    def gap(margin):
        torch.manual_seed(0)
        layer, head = torch.nn.Linear(6, 3), MarginHead(3, 4, "cosface", scale=8.0, margin=margin)
        optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.05)
        for _ in range(150):
            optimiser.zero_grad()
            F.cross_entropy(head(layer(points), labels), labels).backward()
            optimiser.step()
        cosines = head.cosines(layer(points)).detach()
        return (target(cosines, labels) - cosines.scatter(1, labels[:, None], -1).amax(dim=1)).min()

    assert gap(0.4) > gap(0.0) + 0.02


def test_published_vectors_of_both_layouts(embeddings):
    embedding, labels = embeddings
    columns = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    head = MarginHead(8, 6)
    head.load_state_dict(published_head({"module.head.weight": columns, "backbone.conv.weight": columns}))
    torch.testing.assert_close(head.cosines(embedding), F.normalize(embedding) @ F.normalize(columns, dim=0))
    rows = MarginHead(8, 6)
    rows.load_state_dict(published_head({"weight": columns.T}, layout="arcface"))
    assert torch.equal(rows(embedding, labels), head(embedding, labels))


def test_a_state_without_one_head_is_refused():
    expected = "expected one matrix called weight, head.weight or fc7_weight"
    with pytest.raises(InputError, match=f"^state: found no head, {expected}$"):
        published_head({"backbone.weight": torch.zeros(2, 2), "weight": torch.zeros(2)})
    with pytest.raises(InputError, match=f"^state: found weight and head.weight, {expected}$"):
        published_head({"weight": torch.zeros(2, 2), "head.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="unknown layout 'rows'"):
        published_head({"weight": torch.zeros(2, 2)}, "rows")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "arcfce"}, "unknown kind 'arcfce': did you mean 'arcface'"),
        ({"dim": 0}, "dim and num_classes must be at least 1, found 0 and 4"),
        ({"scale": 0.0}, "scale must be above 0, found 0"),
        ({"margin": 3.2}, "margin must lie from 0 to below 3.142 for arcface, found 3.2"),
        ({"margin": -0.1, "kind": "cosface"}, "margin must lie from 0 to below 2 for cosface, found -0.1"),
        ({"mv_weight": 0.9}, "mv_weight must be at least 1, found 0.9"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        MarginHead(**({"dim": 8, "num_classes": 4} | settings))
