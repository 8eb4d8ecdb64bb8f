from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ommatid.data.surface_samples import IGNORE
from ommatid.dense.multi_task_data import SceneData
from ommatid.dense.nddr_cnn import NDDRCNN, OwnLayers, taken
from ommatid.dense.scene_method import preprocessed
from ommatid.engine.export import export_method
from ommatid.engine.fit import evaluate, fit
from ommatid.engine.recipe import build_optimizer
from ommatid.engine.runs import RunDir
from ommatid.engine.settings import build, merge
from ommatid.engine.sweep import Job, run_job
from ommatid.errors import CheckpointError, InputError
from ommatid.losses.surface_normals import surface_normal_loss
from ommatid.nn.layerwise_fusion import FUSIONS, NDDRLayer, resized

WORLD = {"train": 16, "val": 4, "test": 6, "size": 12}
SMALL = {
    **NDDRCNN.embedded["model"],
    "num_classes": 5,
    "widths": [4, 6],
    "single_steps": 3,
    "joint_steps": 4,
}
CLAIM = NDDRCNN.claims[0]


def method(**settings):
    torch.manual_seed(0)
    return build(NDDRCNN, merge(SMALL, settings))


def scenes(**settings):
    return SceneData(**{"world": WORLD, "batch_size": 4, **settings})


def parameters(network):
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def trained(method, data=None, run=None, resume=False, **trainer):
    options = {"max_epochs": -1, "limit_val_batches": 0, **trainer}
    torch.manual_seed(1)
    return fit(method, scenes() if data is None else data, run, options, resume=resume)


@pytest.fixture(scope="module")
def batch():
    return scenes().first_batch("train")


# --- the network ---


def test_the_published_size_builds():
    with torch.device("meta"):
        method = build(NDDRCNN, {})
    fusions = [layer.project.weight.numel() for layer in method.network.fusions]
    assert sum(fusions) == 2_441_216, "2.44 M"
    convolutions = sum(parameter.numel() for parameter in method.network.backbones["semantic"].parameters())
    head = sum(parameter.numel() for parameter in method.network.heads["semantic"].parameters())
    # Thirteen convolutions of VGG-16 and their norms; fc6 and fc7 with norms, fc8 with biases.
    assert convolutions == 14_710_464 + 2 * 4_224
    assert head == 9 * 512 * 1024 + 1024**2 + 4 * 1024 + 1025 * 40
    # Both networks, and a layer's norms have as many channels as its features.
    assert method.parameter_count() == 2 * (convolutions + head) - 37 * 1025 + 2_441_216 + 4 * 1_472


def test_maps_have_the_size_of_the_image_and_its_corners(batch):
    made = method().eval()
    seen = preprocessed(batch.images, "imagenet")
    found = made.maps(batch.images, joined=True)
    assert found.logits.shape == (4, 5, 12, 12)
    torch.testing.assert_close(found.logits, resized(made.network(seen)["semantic"], (12, 12)))
    torch.testing.assert_close(found.normals[:, :, 0, 0], made.network(seen)["normals"][:, :, 0, 0])


@pytest.mark.parametrize("fusion", ["nddr", "own", "cross-stitch", "channel-stitch", "sluice"])
def test_single_networks_begin_alike_whatever_joins_them(fusion):
    plain, joined = method(fusion="none"), method(fusion=fusion)
    for task, network in plain.alone.items():
        for name, value in network.state_dict().items():
            assert torch.equal(value, joined.alone[task].state_dict()[name])
    assert set(parameters(plain)) < set(parameters(joined))


def test_every_parameter_belongs_to_one_network_and_is_named_once():
    made = method()
    assert {id(value) for network in made.alone.values() for value in network.parameters()} < {
        id(value) for value in made.parameters()
    }
    assert all(name.startswith("network.") for name, _ in made.named_parameters())


@pytest.mark.parametrize("fusion", ["own", "none"])
def test_without_exchange_a_task_knows_nothing_of_the_other(fusion, batch):
    made = method(fusion=fusion)
    made.maps(batch.images, joined=True).logits.sum().backward()
    assert all(each.grad is None for each in made.network.backbones["normals"].parameters())


def test_layers_without_exchange_begin_as_a_norm():
    layer = OwnLayers(4)
    features = [torch.randn(2, 4, 3, 3) for _ in range(2)]
    for found, given in zip(layer.eval()(features), features, strict=True):
        torch.testing.assert_close(found, F.relu(given / (1 + 1e-3) ** 0.5))


def test_a_shared_trunk_is_one_backbone_joined_from_the_start(batch):
    made = method(shared_trunk=True)
    assert made.alone == {}
    assert list(made.phases()) == ["joint"]
    assert made.phases()["joint"].total == 7, "as many updates as both stages"
    found = made.eval()(batch.images)
    stages = made.network.features(preprocessed(batch.images, "imagenet"))
    torch.testing.assert_close(found.logits, resized(made.network.heads["semantic"](stages[-1]), (12, 12)))


def test_heads_can_read_all_stages():
    made = method(shortcut=True, joint_steps=1)
    assert made.network.shortcuts["normals"].project.in_channels == 10
    assert not len(method().network.shortcuts)
    assert list(method(shortcut=True, shared_trunk=True).network.shortcuts) == ["semantic", "normals"]


def test_backbones_of_timm_are_joined_too():
    made = method(backbone="resnet10t", head="large-fov", output_stride=16)
    assert len(made.network.fusions) == len(made.network.backbones["semantic"].stages)
    found = made.eval()(torch.rand(1, 3, 48, 64))
    assert found.logits.shape == (1, 5, 48, 64)


# --- losses ---


def test_the_loss_is_a_weighted_sum_over_pixels_that_are_known(batch):
    made, batch = method(), replace(batch, semantic=batch.semantic.clone(), normals_valid=batch.normals_valid.clone())
    batch.semantic[:, :4], batch.normals_valid[:, 5:] = IGNORE, False
    maps = made.maps(batch.images, joined=False)
    loss, parts = made.losses(maps, batch, 5.0)
    classes = F.cross_entropy(maps.logits, batch.semantic, ignore_index=IGNORE)
    normals = surface_normal_loss(maps.normals, batch.normals, batch.normals_valid)
    torch.testing.assert_close(parts["semantic"], classes)
    torch.testing.assert_close(loss, classes + 5 * normals)


def test_a_batch_without_labels_teaches_nothing_and_breaks_nothing(batch):
    made = method()
    unknown = torch.full_like(batch.semantic, IGNORE)
    empty = replace(batch, semantic=unknown, normals_valid=torch.zeros_like(batch.normals_valid))
    loss, _ = made.losses(made.maps(batch.images, joined=True), empty, 5.0)
    loss.backward()
    assert loss == 0
    assert all(not each.grad.any() for each in made.parameters())


# --- training ---


def test_the_first_stage_is_that_of_networks_apart():
    made, apart = method(single_steps=4), method(fusion="none", single_steps=4, joint_steps=0)
    layers = {name: value.clone() for name, value in made.network.fusions.state_dict().items()}
    made.refuse_short = lambda *_: None
    # Two optimisers make a step in each of four batches.
    trained(made, max_steps=8)
    trained(apart)
    assert not bool(made.joined)
    for name, value in made.network.fusions.state_dict().items():
        assert torch.equal(value, layers[name]), name
    for task, network in apart.alone.items():
        for name, value in network.state_dict().items():
            assert torch.equal(value, made.alone[task].state_dict()[name]), name


@pytest.mark.parametrize("limit", [{"max_steps": 8}, {"max_steps": 1}, {"max_epochs": 1}])
def test_a_training_that_ends_before_networks_are_joined_is_refused(limit):
    with pytest.raises(InputError, match=r"single_steps is 40, but the training has \d+ batches, expected more"):
        trained(method(single_steps=40), **limit)


def test_the_second_stage_moves_everything():
    made = method()
    before = parameters(made)
    trained(made)
    assert bool(made.joined)
    for name, value in made.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_in_the_first_stage_tasks_do_not_meet():
    """Without normals in its data the network of classes learns the same."""

    class Blind(SceneData):
        def collate(self, samples):
            found = super().collate(samples)
            return replace(found, normals_valid=torch.zeros_like(found.normals_valid))

    settings = {"fusion": "none", "joint_steps": 0}
    seeing, blind = method(**settings), method(**settings)
    trained(seeing)
    trained(blind, Blind(world=WORLD, batch_size=4))
    for name, value in seeing.alone["semantic"].state_dict().items():
        assert torch.equal(value, blind.alone["semantic"].state_dict()[name]), name
    normals = blind.alone["normals"].state_dict()
    assert not torch.equal(
        seeing.alone["normals"].state_dict()["heads.normals.weight"], normals["heads.normals.weight"]
    )


def test_training_ends_by_itself():
    made = method()
    trainer = trained(made)
    # Four batches an epoch: three updates of two networks, then four of one.
    assert trainer.current_epoch == 2
    assert trainer.global_step == 3 * 2 + 4
    assert trained(method(single_steps=1, joint_steps=3)).current_epoch == 1, "with the last update, not a batch later"


def test_a_killed_training_goes_on_in_the_stage_where_it_was(tmp_path):
    settings = {"single_steps": 6, "joint_steps": 8}
    whole, part, rest = (method(**settings) for _ in range(3))
    run = RunDir(tmp_path)
    trained(whole)
    trained(part, run=run, max_epochs=2)
    assert bool(part.joined)
    trained(rest, run=run, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name


def test_fusion_layers_and_the_last_layer_of_heads_learn_faster():
    with torch.device("meta"):
        phase = build(NDDRCNN, {"backbone": "plain"}).phases()["joint"]
    rates = {id(p): group["lr"] for group in build_optimizer(phase).param_groups for p in group["params"]}
    found = {name: rates[id(value)] for name, value in phase.named_parameters()}
    assert found["fusions.0.project.weight"] == found["fusions.2.norm.weight"] == pytest.approx(0.1)
    assert found["heads.normals.fc8.weight"] == pytest.approx(0.01)
    assert found["heads.normals.fc8.bias"] == pytest.approx(0.02)
    assert found["backbones.semantic.stages.0.0.weight"] == pytest.approx(0.001)


def test_a_training_too_short_for_the_second_stage_is_refused():
    with pytest.raises(InputError, match="single_steps is 40, but the training has 8 batches, expected more"):
        trained(method(single_steps=40), max_epochs=2)


# --- single networks of a former training ---


@pytest.fixture(scope="module")
def singles(tmp_path_factory):
    run = RunDir(tmp_path_factory.mktemp("singles"))
    run.write_config({"method": "nddr-cnn", "model": {}, "data": {}, "trainer": {}, "seed": 0})
    made = method(fusion="none", joint_steps=0)
    trained(made, run=run)
    return made, run


@pytest.mark.parametrize("whole_run", [True, False])
def test_networks_of_a_former_training_are_taken_over(singles, whole_run):
    former, run = singles
    made = method(singles=str(run.path if whole_run else run.last))
    layers = parameters(made.network.fusions)
    made.adopt(scenes())
    for task, network in former.alone.items():
        for name, value in network.state_dict().items():
            assert torch.equal(value, made.alone[task].state_dict()[name])
    assert all(torch.equal(value, layers[name]) for name, value in made.network.fusions.named_parameters())
    assert made.stages == (0, 4)
    assert list(made.phases()) == ["joint"]


def test_networks_that_were_taken_over_predict_as_before(singles, batch):
    former, run = singles
    made = method(singles=str(run.path))
    made.adopt(scenes())
    assert torch.equal(made.eval()(batch.images).logits, former.eval()(batch.images).logits)


def test_a_checkpoint_does_not_need_the_file_that_its_networks_came_from(singles, tmp_path):
    _, run = singles
    former = tmp_path / "former.safetensors"
    former.write_bytes(run.last.read_bytes())
    made = method(singles=str(former))
    made.adopt(scenes())
    path = made.save(tmp_path / "joined.safetensors")
    former.unlink()
    for name, value in NDDRCNN.load(path).state_dict().items():
        assert torch.equal(value, made.state_dict()[name])


def test_what_cannot_be_taken_over_is_named(singles, tmp_path):
    _, run = singles
    with pytest.raises(CheckpointError, match=r"last\.safetensors: network\.backbones.* has the shape"):
        method(singles=str(run.last), widths=[4, 8]).adopt(scenes())
    joined = method()
    joined.joined.fill_(True)
    path = joined.save(tmp_path / "joined.safetensors")
    with pytest.raises(CheckpointError, match="joined already, expected a training with joint_steps 0"):
        method(singles=str(path)).adopt(scenes())


# --- inference ---


def test_a_picture_is_answered_in_its_own_size(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    made = method()
    made.adopt(scenes())
    found = made.predict(tmp_path / "a.png")
    assert found.classes.shape == (20, 30)
    torch.testing.assert_close(found.normals.norm(dim=0), torch.ones(20, 30))
    assert found.class_names == scenes().class_names
    whole = made(found.image[None])
    assert torch.equal(found.classes, whole.logits[0].argmax(dim=0))
    small = method(image_size=[10, 12]).predict(tmp_path / "a.png")
    assert small.classes.shape == (20, 30)
    assert small.class_names[0] == "class 0"
    with pytest.raises(InputError, match=r"b\.png"):
        made.predict(tmp_path / "b.png")


def test_a_split_is_scored_as_a_whole():
    made, data = method().eval(), scenes()
    found = evaluate(made, data, "test")
    batch = data.first_batch("test", 6)
    with torch.no_grad():
        maps = made(batch.images)
    assert found["PA"] == pytest.approx(float((maps.logits.argmax(dim=1) == batch.semantic).float().mean()))
    cosine = F.cosine_similarity(maps.normals, batch.normals, dim=1).clamp(-1, 1)
    assert found["mean angle"] == pytest.approx(float(torch.rad2deg(cosine.acos()).mean()), abs=1e-2)
    wanted = {"PA", "mIoU", "mean angle", "median angle", "rmse angle", "within 11.25", "within 22.5", "within 30"}
    assert wanted <= set(found)


def test_data_of_other_classes_are_refused():
    with pytest.raises(InputError, match="world-surfaces: found 5 classes, expected the 7 of training"):
        evaluate(method(num_classes=7), scenes(), "test")


def test_what_the_data_decide_is_taken_from_them():
    assert NDDRCNN.arguments_from(scenes(size=[8, 8])) == {"num_classes": 5, "image_size": [8, 8]}
    data = scenes()
    method(image_size=[8, 10]).align(data)
    assert data.first_batch("test").images.shape[2:] == (8, 10)


@pytest.mark.parametrize(
    ("fusion", "told"), [("nddr", 1 / 9), ("cross-stitch", 1 / 9), ("sluice", 1 / 9), ("none", None)]
)
def test_what_tasks_take_of_each_other_is_read_out(fusion, told):
    expected = {} if told is None else {"cross_1": pytest.approx(told), "cross_2": pytest.approx(told)}
    assert method(fusion=fusion).read_outs(scenes()) == expected


def test_blocks_are_told_apart():
    layer = NDDRLayer(2, alpha=1.0)
    with torch.no_grad():
        layer.project.weight[:2, 2:] = 3.0
    # The first task takes 3 of every feature of the second, which takes nothing back.
    torch.testing.assert_close(taken(layer), torch.tensor([[2**0.5, 6.0], [0.0, 2**0.5]]))
    assert taken(FUSIONS["none"](2)) is None


def test_a_network_of_the_authors_is_read(batch):
    ours = method().eval()
    with torch.no_grad():
        for each in ours.parameters():
            each.add_(0.1 * torch.randn(each.shape))
    state = {}
    for number, task in enumerate(("semantic", "normals"), start=1):
        stages = ours.network.backbones[task].stages.state_dict()
        state |= {f"net{number}.stages.{name[:2]}feature.{name[2:]}": value for name, value in stages.items()}
        state |= {f"net{number}.head.{name}": value for name, value in ours.network.heads[task].state_dict().items()}
        for stage, layer in enumerate(ours.network.fusions):
            start = f"nddrs.nddrs.{stage}"
            state[f"{start}.conv{number}.weight"] = layer.kernels()[number - 1]
            for name in ("weight", "bias", "running_mean", "running_var"):
                state[f"{start}.bn{number}.{name}"] = getattr(layer.norm, name).chunk(2)[number - 1]
    state = {name: value for name, value in state.items() if "num_batches" not in name}
    theirs = build(NDDRCNN, SMALL).eval()
    theirs.load_weights(theirs.published_state(state), Path("theirs.pth"))
    assert torch.equal(theirs(batch.images).logits, ours.maps(batch.images, joined=True).logits)
    assert torch.equal(theirs(batch.images).normals, ours.maps(batch.images, joined=True).normals)
    with pytest.raises(CheckpointError, match="missing"):
        theirs.load_weights(theirs.published_state({}), Path("theirs.pth"))


def test_a_trained_network_can_be_exported(tmp_path):
    made = method(image_size=[12, 12])
    made.joined.fill_(True)
    assert export_method(made, tmp_path / "scene.pt2", "torch") < 1e-4


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"single_steps": -1}, "single_steps must be at least 0, found -1"),
        ({"joint_steps": 0}, "joint_steps is 0: layers of 'nddr' would never learn, expected fusion 'none'"),
        ({"single_steps": 0, "joint_steps": 0, "fusion": "none"}, "single_steps and joint_steps are 0"),
        ({"singles": "runs/x", "shared_trunk": True}, "a shared trunk has no single networks, expected None"),
        ({"backbone": "resnet1"}, "backbone: found 'resnet1'"),
        (
            {"pretrained": True},
            "pretrained and output_stride are of networks of timm, found them with backbone 'plain'",
        ),
        ({"backbone": "vgg16-largefov", "output_stride": 16}, "found them with backbone 'vgg16-largefov'"),
        ({"fusion": "glue"}, "fusion"),
    ],
)
def test_mistakes_are_told_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        method(**settings)


# --- the claim ---


def test_all_arms_but_one_have_equally_many_updates():
    def updates(arm):
        return sum(build(NDDRCNN, merge(CLAIM.model, CLAIM.arms[arm].model)).stages)

    counts = {arm: updates(arm) for arm in CLAIM.arms}
    assert counts.pop("single") == 400
    assert set(counts.values()) == {800}


def test_wider_networks_have_as_many_parameters_as_joined_ones():
    def size(arm):
        return build(NDDRCNN, {**merge(CLAIM.model, CLAIM.arms[arm].model), "num_classes": 5}).parameter_count()

    assert size("single, wider, continued") == pytest.approx(size("NDDR"), rel=0.005)
    assert size("NDDR") > 1.2 * size("single, continued")


@pytest.mark.parametrize("arm", CLAIM.arms)
def test_every_arm_trains_and_is_scored(arm):
    steps = {"single_steps": 2, "joint_steps": 2}
    model = merge(CLAIM.model, steps, CLAIM.arms[arm].model)
    job = Job("ommatid.dense.nddr_cnn:NDDRCNN", model, merge(CLAIM.data, {"world": WORLD}), CLAIM.trainer, 0, "test")
    found = run_job(job)
    assert {criterion.metric for criterion in CLAIM.criteria} <= set(found.metrics)
    assert all(value == value for value in found.metrics.values())
