"""NDDR layers, a network of them, its losses and scores give the authors' numbers (arXiv:1801.08297)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ommatid.dense.normals_metrics import (
    angular_errors,
    class_overlaps,
    normal_scores,
)
from ommatid.dense.segmentation_metrics import confusion_matrices, segmentation_scores
from ommatid.losses.surface_normals import surface_normal_loss
from ommatid.nn.layerwise_fusion import (
    CrossStitch,
    LayerwiseFusionNet,
    NDDRLayer,
    published_layer,
    published_network,
    resized,
)
from ommatid.nn.staged_backbones import plain_stages
from parity.fixture import load_fixture

TASKS = ("semantic", "normals")


@pytest.fixture(scope="module")
def recorded():
    return load_fixture("nddr-cnn")


def layer_of(recorded, channels):
    config = recorded.config
    alpha, beta = config["init"]
    return NDDRLayer(channels, 2, alpha, beta, bn_eps=config["bn_eps"], bn_momentum=config["bn_momentum"])


@pytest.fixture(scope="module")
def network(recorded):
    config = recorded.config
    widths, norm = config["stage_channels"], {key: config[key] for key in ("bn_eps", "bn_momentum")}
    heads = {"semantic": nn.Conv2d(widths[-1], config["classes"], 1), "normals": nn.Conv2d(widths[-1], 3, 1)}
    backbones = {task: plain_stages(widths, **norm) for task in TASKS}
    found = LayerwiseFusionNet(backbones, lambda channels, tasks: layer_of(recorded, channels), heads)
    missing, unexpected = found.load_state_dict(published_network(recorded.tensors("state"), TASKS), strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    return found.eval()


@pytest.fixture(scope="module")
def targets(recorded):
    """Label map, normals, and which of these are valid."""
    normals = recorded.tensor("in/normals")
    return recorded.tensor("in/semantic")[:, 0].long(), normals, ~(normals == recorded.config["ignore"]).all(dim=1)


@pytest.fixture(scope="module")
def outputs(recorded, network):
    return network(recorded.tensor("in/image"))


def at_full_size(recorded, outputs):
    size = recorded.array("in/image").shape[2:]
    return {task: resized(found, size) for task, found in outputs.items()}


def losses_of(recorded, outputs, targets):
    predicted, (semantic, normals, valid) = at_full_size(recorded, outputs), targets
    segmentation = F.cross_entropy(predicted["semantic"], semantic, ignore_index=recorded.config["ignore"])
    return segmentation, surface_normal_loss(predicted["normals"], normals, valid)


def test_kernels_before_training(recorded):
    for stage, channels in enumerate(recorded.config["stage_channels"]):
        for task, kernel in enumerate(layer_of(recorded, channels).kernels(), start=1):
            recorded.assert_close(kernel, f"out/init_stage{stage}_task{task}")


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_layer(recorded, mode):
    features = [recorded.tensor(f"in/feature_task{task}") for task in (1, 2)]
    layer = layer_of(recorded, recorded.config["stage_channels"][0])
    start = "nddrs.nddrs.0."
    state = {key.removeprefix(start): each for key, each in recorded.tensors("state").items() if key.startswith(start)}
    layer.load_state_dict(published_layer(state), strict=False)
    for task, found in enumerate(layer.train(mode == "train")(features), start=1):
        recorded.assert_close(found, f"out/layer_{mode}_task{task}")


def test_cross_stitch(recorded):
    factors = recorded.config["cross_stitch"]
    unit = CrossStitch(None)
    with torch.no_grad():
        # Theirs are named from, to.
        unit.weight.copy_(torch.tensor([[[factors["a11"]], [factors["a21"]]], [[factors["a12"]], [factors["a22"]]]]))
    for task, found in enumerate(unit([recorded.tensor(f"in/feature_task{task}") for task in (1, 2)]), start=1):
        recorded.assert_close(found, f"out/cross_stitch_task{task}")


def test_the_network(recorded, outputs):
    recorded.assert_close(outputs["semantic"], "out/eval_logits")
    recorded.assert_close(outputs["normals"], "out/eval_normals")


def test_losses_and_gradients(recorded, network, targets):
    network.zero_grad()
    segmentation, normals = losses_of(recorded, network(recorded.tensor("in/image")), targets)
    total = segmentation + recorded.config["normal_loss_weight"] * normals
    recorded.assert_close(segmentation, "out/eval_seg_loss")
    recorded.assert_close(normals, "out/eval_normal_loss")
    recorded.assert_close(total, "out/eval_total")
    total.backward()
    for key in recorded.arrays:
        if key.startswith("grad/eval_total/"):
            recorded.assert_close(gradient(network, key.removeprefix("grad/eval_total/")), key)


def gradient(network, key):
    """That of the parameter which the recording calls `key`, cut out of a layer's tensor for all tasks."""
    if key.startswith("net"):
        (name,) = published_network({key: torch.zeros(())}, TASKS)
        return network.get_parameter(name).grad
    _, _, stage, module, kind = key.split(".")
    layer = network.fusions[int(stage)]
    parameter = getattr(layer.project if module.startswith("conv") else layer.norm, kind)
    return parameter.grad.chunk(len(TASKS))[int(module[-1]) - 1]


def test_scores_of_label_maps(recorded, outputs, targets):
    semantic, classes = targets[0], recorded.config["classes"]
    predicted = at_full_size(recorded, outputs)["semantic"].argmax(dim=1)
    valid = semantic != recorded.config["ignore"]
    matrix = confusion_matrices(predicted, semantic, classes, valid).sum(dim=0)
    recorded.assert_close(matrix.mT, "out/confusion_pred_by_gt")
    recorded.assert_close(matrix.trace(), "out/correct")
    recorded.assert_close(matrix.sum(), "out/valid")
    recorded.assert_close(class_overlaps(matrix).nan_to_num(0.0), "out/iou_per_class")
    # They count a class that neither occurs nor is predicted as 0.
    recorded.assert_close(class_overlaps(matrix).nan_to_num(0.0).mean(), "out/miou")
    if bool((matrix.sum(dim=0) + matrix.sum(dim=1) > 0).all()):
        recorded.assert_close(segmentation_scores(matrix)["mIoU"], "out/miou")
    recorded.assert_close(segmentation_scores(matrix)["PA"], "out/pixel_accuracy")


def test_scores_of_normals(recorded, outputs, targets):
    angles = angular_errors(at_full_size(recorded, outputs)["normals"], targets[1], targets[2])
    found = normal_scores(angles[targets[2]].detach())
    for name in ("mean", "median", "rmse"):
        recorded.assert_close(found[f"{name} angle"], f"out/angle_{name}")
    for limit in ("11.25", "22.5", "30"):
        recorded.assert_close(found[f"within {limit}"], f"out/within_{limit.replace('.', '_')}")
