"""Fusion layers mix the features of tasks as they should, and networks of several tasks are built of them."""

from functools import partial

import jaxtyping
import pytest
import torch
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.layerwise_fusion import (
    FUSIONS,
    LR_FACTORS,
    CrossStitch,
    LayerwiseFusionNet,
    NDDRLayer,
    SharedTrunkNet,
    Shortcut,
    SluiceUnit,
    Unfused,
    mixing_matrix,
    published_layer,
    published_network,
    resized,
    scalar_stitch,
)
from ommatid.nn.staged_backbones import LargeFOVHead, deeplab_vgg16, plain_stages, published_head

CHANNELS = 6
WIDTHS = (4, 6)
OUTPUTS = {"semantic": 5, "normals": 3}
IMAGES = torch.rand(2, 3, 17, 21, generator=torch.Generator().manual_seed(0))


def features(tasks=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, CHANNELS, 3, 4, generator=generator, dtype=dtype) for _ in range(tasks)]


def layer(name, tasks=2):
    torch.manual_seed(0)
    built = FUSIONS[name](CHANNELS, tasks)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.5)
    return built.eval()


def backbones(widths=WIDTHS):
    torch.manual_seed(0)
    return {task: plain_stages(widths) for task in OUTPUTS}


def heads(channels=WIDTHS[-1]):
    return {task: nn.Conv2d(channels, count, 1) for task, count in OUTPUTS.items()}


def single(task):
    return SharedTrunkNet(backbones()[task], {task: heads()[task]})


# NDDR.


@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.parametrize("mode", [True, False])
def test_nddr_is_a_concatenation_convolution_norm_and_relu_for_each_task(tasks, mode):
    together = layer("nddr", tasks).train(mode)
    kernels, weights, biases = (
        each.detach().chunk(tasks) for each in (together.project.weight, together.norm.weight, together.norm.bias)
    )
    for task, found in enumerate(together(features(tasks))):
        norm = nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=0.05).train(mode)
        norm.load_state_dict({**norm.state_dict(), "weight": weights[task], "bias": biases[task]})
        expected = norm(nn.functional.conv2d(torch.cat(features(tasks), dim=1), kernels[task])).relu()
        torch.testing.assert_close(found, expected)
        running = together.norm.running_var.chunk(tasks)[task]
        torch.testing.assert_close(running, norm.running_var)


def test_a_channel_begins_with_itself_and_its_counterparts():
    for kernel, own in zip(NDDRLayer(CHANNELS, 3, 0.7).kernels(), range(3), strict=True):
        blocks = kernel.detach()[..., 0, 0].split(CHANNELS, dim=1)
        for task, block in enumerate(blocks):
            torch.testing.assert_close(block, (0.7 if task == own else 0.15) * torch.eye(CHANNELS))


def test_alpha_one_begins_as_networks_that_know_nothing_of_each_other():
    first = NDDRLayer(CHANNELS, alpha=1.0)
    other = features()
    other[1] = torch.zeros_like(other[1])
    torch.testing.assert_close(first(features())[0], first(other)[0])


def test_random_initialisation_is_xaviers_of_each_task():
    torch.manual_seed(0)
    for kernel in NDDRLayer(64, init="random").kernels():
        assert float(kernel.detach().abs().max()) == pytest.approx((6 / (3 * 64)) ** 0.5, rel=0.01)
        assert float(kernel.detach().std()) == pytest.approx((2 / (3 * 64)) ** 0.5, rel=0.05)


def test_what_is_left_of_one_is_shared_among_the_other_tasks():
    for tasks in (1, 2, 5):
        rows = mixing_matrix(tasks, 0.9 if tasks > 1 else 1.0, None).sum(dim=1)
        torch.testing.assert_close(rows, torch.ones(tasks))
    torch.testing.assert_close(mixing_matrix(2, 0.1, 0.7), torch.tensor([[0.1, 0.7], [0.7, 0.1]]))


# What it contains.


def as_projection(matrix):
    """Mixed features by a 1x1 convolution with the kernel of NDDR's shape."""
    mixed = nn.functional.conv2d(torch.cat(features(), dim=1), matrix[..., None, None])
    return mixed.chunk(2, dim=1)


def test_a_cross_stitch_is_a_projection_by_multiples_of_the_identity():
    unit = layer("cross-stitch")
    expected = as_projection(torch.kron(unit.weight[..., 0], torch.eye(CHANNELS)))
    torch.testing.assert_close(tuple(unit(features())), expected)


def test_a_cross_stitch_of_channels_is_a_projection_by_diagonal_blocks():
    unit = layer("channel-stitch")
    rows = [torch.cat([unit.weight[to, of].diag() for of in range(2)], dim=1) for to in range(2)]
    torch.testing.assert_close(tuple(unit(features())), as_projection(torch.cat(rows)))


def test_a_sluice_unit_is_a_projection_by_multiples_of_identities_of_subspaces():
    unit = layer("sluice")
    torch.testing.assert_close(
        tuple(unit(features())), as_projection(torch.kron(unit.weight, torch.eye(CHANNELS // 2)))
    )


@pytest.mark.parametrize("tasks", [2, 3])
def test_all_units_but_nddr_begin_alike(tasks):
    expected = scalar_stitch(CHANNELS, tasks, 0.8)(features(tasks))
    for unit in (CrossStitch(CHANNELS, tasks, 0.8), SluiceUnit(CHANNELS, tasks, 0.8, subspaces=3)):
        torch.testing.assert_close(unit(features(tasks)), expected)
    assert Unfused(CHANNELS, 2)(features())[0] is not None


# Any layer.


@pytest.mark.parametrize("name", ["nddr", "cross-stitch", "channel-stitch", "sluice"])
def test_gradients_are_those_of_finite_differences(name):
    block = layer(name).double()
    torch.autograd.gradcheck(lambda *maps: tuple(block(list(maps))), tuple(x.requires_grad_() for x in small_double()))


def small_double():
    return [each[:1, :, :2, :2].contiguous() for each in features(dtype=torch.float64)]


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(name, dtype):
    block = layer(name)
    with torch.autocast("cpu", dtype=dtype):
        half = block(features())
    for found, expected in zip(half, block(features()), strict=True):
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@pytest.fixture
def unchecked():
    """Without checks of types, which no compiler can trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", FUSIONS)
def test_it_compiles_as_one_graph_and_exports(name):
    block = layer(name)
    expected = block(features())
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(features()), expected)
    torch.testing.assert_close(list(torch.export.export(block, (features(),)).module()(features())), expected)


@pytest.mark.parametrize("name", ["nddr", "cross-stitch", "sluice"])
def test_other_samples_of_a_batch_do_not_matter(name):
    block = layer(name)
    torch.testing.assert_close(block([each[:1] for each in features()])[1], block(features())[1][:1])


@pytest.mark.parametrize("name", ["nddr", "cross-stitch", "sluice"])
def test_a_map_for_each_task_is_asked_for(name):
    with pytest.raises(InputError, match="features: found 3 maps, expected 2, one for each task"):
        layer(name)(features(3))


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="subspaces: found 4 for 6 channels, expected a divisor of them"):
        SluiceUnit(6, subspaces=4)
    with pytest.raises(InputError, match="num_tasks: found 0, expected at least 1"):
        NDDRLayer(6, num_tasks=0)


# Networks.


def test_a_stage_receives_what_was_fused_before_it():
    network = LayerwiseFusionNet(backbones(), NDDRLayer, heads()).eval()
    maps = [IMAGES, IMAGES]
    for stage in range(len(WIDTHS)):
        maps = network.fusions[stage](
            [network.backbones[task].stages[stage](each) for task, each in zip(OUTPUTS, maps, strict=True)]
        )
    for (task, found), each in zip(network(IMAGES).items(), maps, strict=True):
        torch.testing.assert_close(found, network.heads[task](each))


def test_tasks_are_in_the_order_of_the_backbones():
    network = LayerwiseFusionNet(backbones(), NDDRLayer, dict(reversed(heads().items())))
    assert list(network(IMAGES)) == list(OUTPUTS)
    assert {task: found.shape[1] for task, found in network(IMAGES).items()} == OUTPUTS


def test_without_fusion_it_is_the_single_networks():
    networks = {task: single(task).eval() for task in OUTPUTS}
    joined = LayerwiseFusionNet.joined(networks, Unfused).eval()
    for task, found in joined(IMAGES).items():
        torch.testing.assert_close(found, networks[task](IMAGES)[task])
    stitched = LayerwiseFusionNet.joined(networks, partial(scalar_stitch, alpha=1.0)).eval()
    torch.testing.assert_close(stitched(IMAGES), joined(IMAGES))


def test_joining_takes_modules_over():
    networks = {task: single(task) for task in OUTPUTS}
    joined = LayerwiseFusionNet.joined(networks, NDDRLayer)
    assert all(joined.backbones[task] is networks[task].backbone for task in OUTPUTS)
    assert all(joined.heads[task] is networks[task].heads[task] for task in OUTPUTS)
    with pytest.raises(InputError, match=r"networks\['depth'\]: found heads for normals, expected one for depth"):
        LayerwiseFusionNet.joined({"depth": networks["normals"]}, NDDRLayer)


def test_a_shared_trunk_runs_once_for_all_heads():
    network = SharedTrunkNet(backbones()["semantic"], heads())
    runs = []
    network.backbone.stages[0].register_forward_hook(lambda *_: runs.append(1))
    assert {task: tuple(found.shape[1:]) for task, found in network(IMAGES).items()} == {
        "semantic": (5, 5, 6),
        "normals": (3, 5, 6),
    }
    assert len(runs) == 1
    torch.testing.assert_close(network.features(IMAGES), network.backbone(IMAGES))


@pytest.mark.parametrize("name", ["nddr", "cross-stitch", "channel-stitch", "sluice"])
def test_every_parameter_receives_a_gradient(name):
    network = LayerwiseFusionNet(backbones(), FUSIONS[name], heads())
    sum(found.square().sum() for found in network(IMAGES).values()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(fusion.grad.abs().sum() > 0 for fusion in network.fusions.parameters())


def test_shortcuts_read_all_stages_at_the_size_of_the_last():
    shortcuts = {task: Shortcut(WIDTHS, 7) for task in OUTPUTS}
    network = LayerwiseFusionNet(backbones(), NDDRLayer, heads(7), shortcuts).eval()
    after = network.features(IMAGES)["normals"]
    read = torch.cat([resized(after[0], after[1].shape[2:]), after[1]], dim=1)
    block = shortcuts["normals"]
    expected = network.heads["normals"](block.norm(block.project(read)).relu())
    torch.testing.assert_close(network(IMAGES)["normals"], expected)
    trunk = SharedTrunkNet(backbones()["semantic"], heads(7), shortcuts).eval()
    assert trunk(IMAGES)["semantic"].shape == network(IMAGES)["semantic"].shape
    networks = {
        task: SharedTrunkNet(backbones()[task], {task: heads(7)[task]}, {task: shortcuts[task]}) for task in OUTPUTS
    }
    assert LayerwiseFusionNet.joined(networks, NDDRLayer).shortcuts["normals"] is block


def test_the_shortcut_of_deeplab_reads_1472_channels():
    assert Shortcut(deeplab_vgg16().out_channels).project.weight.shape == (512, 1472, 1, 1)


def test_resizing_keeps_corners_upon_corners():
    ramp = torch.arange(5.0).expand(1, 1, 5, 5)
    torch.testing.assert_close(resized(ramp, (9, 9))[0, 0, 0], torch.arange(9.0) / 2)
    torch.testing.assert_close(resized(ramp, (3, 3))[0, 0, 0], torch.tensor([0.0, 2.0, 4.0]))
    assert resized(ramp, (5, 5)) is ramp


def full_size():
    heads = {task: LargeFOVHead(512, count) for task, count in {"semantic": 40, "normals": 3}.items()}
    return LayerwiseFusionNet({task: deeplab_vgg16() for task in heads}, NDDRLayer, heads)


def test_fusion_of_two_full_size_networks_adds_2_44_million_weights():
    with torch.device("meta"):
        network = full_size()
        found = network(torch.rand(1, 3, 321, 321))
    assert {task: tuple(each.shape) for task, each in found.items()} == {
        "semantic": (1, 40, 41, 41),
        "normals": (1, 3, 41, 41),
    }
    assert sum(fusion.project.weight.numel() for fusion in network.fusions) == 2_441_216


def test_learning_rates_of_fusion_and_last_layers_differ():
    from fnmatch import fnmatchcase

    with torch.device("meta"):
        names = [name for name, _ in full_size().named_parameters()]
    factors = {
        name: next((factor for pattern, factor in LR_FACTORS.items() if fnmatchcase(name, pattern)), 1.0)
        for name in names
    }
    assert factors["fusions.0.project.weight"] == factors["fusions.4.norm.bias"] == 100
    assert factors["heads.semantic.fc8.weight"] == 10
    assert factors["heads.normals.fc8.bias"] == 20
    assert factors["heads.normals.fc6.0.weight"] == factors["backbones.normals.stages.0.0.weight"] == 1


def test_a_published_network_fills_every_parameter():
    with torch.device("meta"):
        network = full_size()
    places = {"fc6.0": "0", "fc6.1": "1", "fc7.0": "4", "fc7.1": "5", "fc8": "8"}
    state = {"net1.features.0.weight": torch.zeros(1)}  # theirs lists the stages twice
    for name, value in network.state_dict().items():
        part, task, *rest = name.split(".")
        number = list(OUTPUTS).index(task) + 1 if part in ("backbones", "heads") else None
        if part == "backbones":
            stage, place, kind = rest[1:]
            state[f"net{number}.stages.{stage}.feature.{place}.{kind}"] = value
        elif part == "heads":
            state[f"net{number}.head.{places['.'.join(rest[:-1])]}.{rest[-1]}"] = value
        else:
            kind, parameter = rest
            halves = value.chunk(2) if value.ndim else [value] * 2
            for half, of_task in zip(halves, (1, 2), strict=True):
                state[f"nddrs.nddrs.{task}.{'conv' if kind == 'project' else 'bn'}{of_task}.{parameter}"] = half
    found = published_network(state, list(OUTPUTS), published_head)
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }


def test_a_published_layer_puts_tasks_in_their_order():
    state = {f"bn{task}.weight": torch.full((2,), float(task)) for task in (2, 1)}
    assert published_layer(state)["norm.weight"].tolist() == [1, 1, 2, 2]


def test_what_cannot_be_joined_is_refused():
    with pytest.raises(InputError, match=r"backbones\['normals'\]: found Conv2d, expected a module with `stages`"):
        LayerwiseFusionNet({"semantic": plain_stages(WIDTHS), "normals": nn.Conv2d(3, 4, 1)}, NDDRLayer, heads())
    with pytest.raises(InputError, match=r"found stages of \[4, 8\] channels, expected \[4, 6\] as of the first task"):
        LayerwiseFusionNet({"semantic": plain_stages(WIDTHS), "normals": plain_stages((4, 8))}, NDDRLayer, heads())
    with pytest.raises(InputError, match="heads: found some for semantic, expected semantic, normals"):
        LayerwiseFusionNet(backbones(), NDDRLayer, {"semantic": heads()["semantic"]})
    with pytest.raises(InputError, match="shortcuts: found some for depth, expected semantic, normals"):
        LayerwiseFusionNet(backbones(), NDDRLayer, heads(), {"depth": Shortcut(WIDTHS)})
    with pytest.raises(InputError, match="backbone: found Identity"):
        SharedTrunkNet(nn.Identity(), heads())


@pytest.mark.usefixtures("unchecked")
def test_a_network_compiles_as_one_graph_and_exports():
    network = LayerwiseFusionNet(backbones(), NDDRLayer, heads()).eval()
    expected = network(IMAGES)
    torch.testing.assert_close(torch.compile(network, fullgraph=True, backend="eager")(IMAGES), expected)
    torch.testing.assert_close(torch.export.export(network, (IMAGES,)).module()(IMAGES), expected)
