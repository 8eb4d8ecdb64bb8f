"""The blocks of CMI give the numbers that the authors' implementation gave."""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ommatid.losses.contrastive import instance_contrast, instance_contrastive_loss
from ommatid.losses.distillation import agreement, disagreement_loss, kd_loss
from ommatid.losses.statistics import BatchNormStatistics
from ommatid.nn.image_generator import load_published_generator
from ommatid.nn.projection_head import load_published_head
from parity.fixture import load_fixture


@pytest.fixture(scope="module")
def generator():
    return load_fixture("cmi-generator")


@pytest.fixture(scope="module")
def losses():
    return load_fixture("cmi-losses")


def test_the_generator_has_the_recorded_sizes(generator):
    model, settings = load_published_generator(generator.tensors("state")), generator.config
    assert model.latent_dim == settings["latent_dim"]
    assert model.start_size * 4 == settings["image_size"]
    assert model.layers[7].num_features == settings["base_channels"]
    assert model.layers[9].out_channels == settings["out_channels"]
    assert model.layers[4].negative_slope == settings["leaky_slope"]


def test_the_generator_draws_the_published_images_in_training(generator):
    model = load_published_generator(generator.tensors("state")).train()
    generator.assert_close(model(generator.tensor("in/z")), "out/images_train")


def test_the_generator_draws_the_published_images_in_evaluation(generator):
    """The state was recorded behind the training pass, the images in front of it: that pass is taken back."""
    latents = generator.tensor("in/z")
    recorded = load_published_generator(generator.tensors("state")).eval()
    drawn = [recorded(latents), before_the_training_pass(recorded, latents)(latents)]
    distance = [np.abs(images.detach().numpy() - generator.array("out/images_eval")).max() for images in drawn]
    generator.assert_close(drawn[int(np.argmin(distance))], "out/images_eval")


@torch.no_grad()
def before_the_training_pass(model, latents):
    earlier, later = copy.deepcopy(model), copy.deepcopy(model).train()
    later(latents)
    for norm, updated in zip(earlier.modules(), later.modules(), strict=True):
        if isinstance(norm, nn.BatchNorm2d):
            for name in ("running_mean", "running_var"):
                now, step = getattr(norm, name), norm.momentum
                batch = (getattr(updated, name) - (1 - step) * now) / step
                now.copy_((now - step * batch) / (1 - step))
    return earlier


class SmallClassifier(nn.Module):
    """The recorded teacher or student: convolution, batch norm, ReLU, repeated; mean; linear."""

    def __init__(self, state, strides):
        super().__init__()
        kernels = [value for key, value in sorted(state.items(), key=position) if value.ndim == 4]
        layers = []
        for kernel, stride in zip(kernels, strides, strict=True):
            out_channels, in_channels, size, _ = kernel.shape
            convolution = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(*reversed(state["fc.weight"].shape))
        missing, unexpected = self.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(key.endswith("num_batches_tracked") for key in missing)

    def forward(self, images):
        return self.fc(self.features(images).mean((2, 3)))


def position(item):
    found = re.match(r"features\.(\d+)\.", item[0])
    return int(found[1]) if found else -1


def part(losses, name):
    state = losses.tensors("state")
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def strides(config):
    return [int(stride) for stride in re.search(r"strides? ([\d, ]*\d)", config["teacher"])[1].split(",")]


@pytest.fixture(scope="module")
def synthesis(losses):
    """One synthesis step on the recorded views: every loss, and the gradients of the total."""
    steps, weights, config = strides(losses.config), losses.config["weights"], losses.config
    teacher = SmallClassifier(part(losses, "teacher"), steps).eval().requires_grad_(False)
    student = SmallClassifier(part(losses, "student"), steps).eval().requires_grad_(False)
    head = load_published_head(part(losses, "head"))
    global_view, local_view = (losses.tensor(f"in/{name}_view").requires_grad_() for name in ("global", "local"))
    targets = losses.tensor("in/targets").long()
    bank_local, bank_global = losses.tensor("in/bank").chunk(2, dim=1)

    with BatchNormStatistics(teacher) as statistics:
        teacher_logits = teacher(global_view)
        loss_bn, global_feature = statistics.distance(), statistics.features()
        teacher(local_view)
        local_feature = statistics.features()
    student_logits = student(global_view)

    anchors, positives = head(torch.cat([local_feature, bank_local])), head(torch.cat([global_feature, bank_global]))
    batch, temperature = len(targets), config["temperature"]
    result = {
        "global_feature": global_feature,
        "local_feature": local_feature,
        "loss_bn": loss_bn,
        "loss_oh": F.cross_entropy(teacher_logits, targets),
        "loss_adv": disagreement_loss(student_logits, teacher_logits),
        "agreement_mask": agreement(student_logits, teacher_logits).float(),
        "loss_cr_with_bank": instance_contrastive_loss(anchors, positives, temperature, split=batch),
        "loss_cr_empty_bank": instance_contrastive_loss(anchors[:batch], positives[:batch], temperature),
        "cr_per_sample": instance_contrast(anchors, positives.detach(), temperature),
        "kd_T20": kd_loss(student_logits, teacher_logits, temperature=20.0),
    }
    result["total"] = (
        weights["bn"] * result["loss_bn"]
        + weights["oh"] * result["loss_oh"]
        + weights["adv"] * result["loss_adv"]
        + weights["cr"] * result["loss_cr_with_bank"]
    )
    result["total"].backward()
    gradients = {"global_view": global_view.grad, "local_view": local_view.grad}
    gradients |= {f"head.{key.replace('layers.', 'head.')}": value.grad for key, value in head.named_parameters()}
    return {f"out/{key}": value for key, value in result.items()} | {f"grad/{key}": g for key, g in gradients.items()}


def test_every_recorded_number_is_checked(losses, synthesis):
    assert {key for key in losses.arrays if key.startswith(("out/", "grad/"))} == set(synthesis)


@pytest.mark.parametrize(
    "key",
    [
        *("global_feature", "local_feature", "loss_bn", "loss_oh", "loss_adv", "agreement_mask"),
        *("loss_cr_with_bank", "loss_cr_empty_bank", "cr_per_sample", "total", "kd_T20"),
    ],
)
def test_losses_are_the_published_ones(losses, synthesis, key):
    losses.assert_close(synthesis[f"out/{key}"], f"out/{key}")


def test_gradients_are_the_published_ones(losses, synthesis):
    for key in losses.arrays:
        if key.startswith("grad/"):
            losses.assert_close(synthesis[key], key)


def test_the_memory_bank_is_as_wide_as_two_features(losses, synthesis):
    assert losses.array("in/bank").shape[1] == 2 * synthesis["out/global_feature"].shape[1]
    assert len(losses.array("in/bank")) == losses.config["bank_rows"]
