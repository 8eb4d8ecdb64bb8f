"""Competing critics and the band of edges against recorded numbers of the authors' code."""

import pytest

from ommatid.losses.boundary import critic_loss_on_patches
from ommatid.losses.equivariance import equivariance_loss
from ommatid.losses.wasserstein import generator_loss, gradient_penalty
from ommatid.nn.boundary import background_tuple, boundary_tuple
from ommatid.nn.morphology import dilate, edge_band, erode
from parity.critics import assert_critic_gradients, critic
from parity.fixture import load_fixture

NAMES = ("vessel", "background")


@pytest.fixture(scope="module")
def recorded():
    return load_fixture("evs-net")


def shown(fixture, predicted=None):
    """Fake and certain tuples of either critic."""
    predicted = fixture.tensor("in/pred_mask") if predicted is None else predicted
    images, sources, masks = (fixture.tensor(f"in/{key}") for key in ("image", "source_image", "source_mask"))
    kernel = fixture.config["kernel_pseudo"]
    fake = {"vessel": boundary_tuple(images, predicted), "background": background_tuple(images, predicted)}
    certain = {
        "vessel": boundary_tuple(sources, erode(masks, kernel)),
        "background": background_tuple(sources, dilate(masks, kernel)),
    }
    return fake, certain


def test_tuples(recorded):
    fake, certain = shown(recorded)
    for name in NAMES:
        recorded.assert_close(fake[name], f"out/{name}_tuple")
        recorded.assert_close(certain[name], f"out/pseudo_{name}")


@pytest.mark.parametrize("name", NAMES)
def test_scores_penalty_loss_and_gradients_of_a_critic(recorded, name):
    made, (fake, certain) = critic(recorded, name), shown(recorded)
    share = recorded.tensor(f"in/gp_alpha_{name}").flatten()
    recorded.assert_close(made(fake[name]), f"out/{name}_score_fake")
    recorded.assert_close(made(certain[name]), f"out/{name}_score_pseudo")
    recorded.assert_close(gradient_penalty(made, certain[name], fake[name], share=share), f"out/{name}_gp")
    loss = critic_loss_on_patches(made, certain[name], fake[name], penalty=recorded.config["lambda_gp"], share=share)
    recorded.assert_close(loss, f"out/{name}_critic_loss")
    loss.backward()
    assert_critic_gradients(recorded, name, made)


def test_what_critics_tell_the_segmenter(recorded):
    predicted = recorded.tensor("in/pred_mask").requires_grad_()
    fake, _ = shown(recorded, predicted)
    loss = sum(generator_loss(critic(recorded, name)(fake[name])) for name in NAMES)
    recorded.assert_close(loss, "out/g_adv")
    loss.backward()
    recorded.assert_close(predicted.grad, "grad/g_adv/pred_mask")


@pytest.mark.parametrize("quarters", [1, 2])
def test_the_band_of_edges_and_its_loss(recorded, quarters):
    predicted = recorded.tensor("in/pred_mask").requires_grad_()
    turned = recorded.tensor("in/pred_mask_rotated").requires_grad_()
    kernel = recorded.config["kernel_edge"]
    recorded.assert_close(edge_band(predicted, kernel), "out/edge_band")
    loss = equivariance_loss(predicted, turned, quarters, kernel)
    recorded.assert_close(loss, f"out/edge_self_loss_rot{quarters}")
    loss.backward()
    recorded.assert_close(predicted.grad, f"grad/edge_self_loss_rot{quarters}/pred_mask")
    recorded.assert_close(turned.grad, f"grad/edge_self_loss_rot{quarters}/pred_mask_rotated")
