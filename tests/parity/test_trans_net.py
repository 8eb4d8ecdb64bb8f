"""Boundary critics, their losses and their optimiser against recorded numbers of the authors' code."""

import pytest
from torch import nn

from ommatid.engine.ralamb import Ralamb
from ommatid.losses.boundary import critic_loss_on_patches
from ommatid.losses.dice import dice_loss
from ommatid.losses.equivariance import equivariance_loss, turn
from ommatid.losses.wasserstein import generator_loss, gradient_penalty
from ommatid.nn.boundary import boundary_tuple
from ommatid.nn.morphology import dilate, erode
from parity.critics import assert_critic_gradients, critic
from parity.fixture import load_fixture


@pytest.fixture(scope="module")
def recorded():
    return load_fixture("trans-net")


def tuples(fixture):
    """Real, fake and both pseudo tuples."""
    config, source = fixture.config, fixture.tensor("in/source_mask")
    images, sources = fixture.tensor("in/image"), fixture.tensor("in/source_image")
    cut = {
        "inner": erode(source, config["kernel_erosion"]),
        "outer": dilate(source, config["kernel_dilation"]),
    }
    return (
        boundary_tuple(sources, source),
        boundary_tuple(images, fixture.tensor("in/pred_mask")),
        {name: boundary_tuple(sources, mask, shown=source) for name, mask in cut.items()},
    )


def test_tuples(recorded):
    real, fake, pseudo = tuples(recorded)
    recorded.assert_close(real, "out/real_tuple")
    recorded.assert_close(fake, "out/fake_tuple")
    recorded.assert_close(pseudo["inner"], "out/pseudo_erosion")
    recorded.assert_close(pseudo["outer"], "out/pseudo_dilation")


@pytest.mark.parametrize("name", ["inner", "outer"])
def test_scores_penalty_loss_and_gradients_of_a_critic(recorded, name):
    made, (real, fake, pseudo) = critic(recorded, name), tuples(recorded)
    share = recorded.tensor(f"in/gp_alpha_{name}").flatten()
    recorded.assert_close(made(real), f"out/{name}_score_real")
    recorded.assert_close(made(fake), f"out/{name}_score_fake")
    recorded.assert_close(made(pseudo[name]), f"out/{name}_score_pseudo")
    recorded.assert_close(gradient_penalty(made, real, fake, share=share), f"out/{name}_gp")
    penalty = recorded.config["lambda_gp"]
    loss = critic_loss_on_patches(made, real, fake, pseudo[name], penalty=penalty, share=share)
    recorded.assert_close(loss, f"out/{name}_critic_loss")
    loss.backward()
    assert_critic_gradients(recorded, name, made)


def test_what_critics_tell_the_segmenter(recorded):
    predicted = recorded.tensor("in/pred_mask").requires_grad_()
    fake = boundary_tuple(recorded.tensor("in/image"), predicted)
    loss = sum(generator_loss(critic(recorded, name)(fake)) for name in ("inner", "outer"))
    recorded.assert_close(loss, "out/g_adv")
    loss.backward()
    recorded.assert_close(predicted.grad, "grad/g_adv/pred_mask")


def test_turned_images_and_their_loss(recorded):
    predicted, turned = recorded.tensor("in/pred_mask"), recorded.tensor("in/pred_mask_rotated")
    for quarters in recorded.config["rot90_k"]:
        recorded.assert_close(turn(recorded.tensor("in/image"), quarters), f"out/rotated_image_{quarters}")
        recorded.assert_close(equivariance_loss(predicted, turned, quarters), f"out/self_loss_rot{quarters}")


def test_dice(recorded):
    """Recorded of the prediction on the target and the mask of the source."""
    loss = dice_loss(recorded.tensor("in/pred_mask"), recorded.tensor("in/source_mask"))
    recorded.assert_close(loss, "out/dice")


def test_optimizer_with_the_released_look_ahead():
    fixture = load_fixture("trans-net-ralamb")
    config = fixture.config
    parameters = [nn.Parameter(fixture.tensor(f"state/param{number}_init")) for number in range(2)]
    optimizer = Ralamb(
        parameters,
        lr=float(config["lr"]),
        betas=tuple(map(float, config["betas"])),
        eps=float(config["eps"]),
        weight_decay=float(config["weight_decay"]),
        lookahead_steps=float(config["lookahead_k"]),
        lookahead_share=float(config["lookahead_alpha"]),
        trust_clip=float(config["trust_clip"]),
    )
    for step in range(config["steps"]):
        for number, parameter in enumerate(parameters):
            parameter.grad = fixture.tensor(f"in/grad_step{step}_param{number}")
        optimizer.step()
        for number, parameter in enumerate(parameters):
            if f"out/param{number}_after{step + 1}" in fixture.arrays:
                fixture.assert_close(parameter, f"out/param{number}_after{step + 1}")
