"""Recorded critics of cut-outs."""

import torch

from ommatid.nn.boundary import PatchCritic, published_critic


def critic(fixture, name):
    config = fixture.config
    made = PatchCritic(config["in_channels"], config["base_channels"], config["n_strided"])
    made.load_state_dict(published_critic(fixture.tensors(f"state/{name}")))
    return made


def assert_critic_gradients(fixture, name, made):
    gradients = {parameter: value.grad for parameter, value in made.named_parameters()}
    theirs = published_critic(fixture.tensors(f"grad/{name}_critic"))
    assert gradients.keys() == theirs.keys()
    for parameter, expected in theirs.items():
        torch.testing.assert_close(gradients[parameter], expected, rtol=fixture.rtol, atol=fixture.atol)
