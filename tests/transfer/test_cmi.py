"""CMI: the losses and their weights, the lifetimes of its parts, the pool, and the arms of its claims."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ommatid.classification.data import ImageData
from ommatid.engine.fit import evaluate, fit
from ommatid.engine.recipe import Recipe
from ommatid.engine.settings import build
from ommatid.errors import CheckpointError, InputError
from ommatid.losses.contrastive import instance_contrastive_loss
from ommatid.losses.distillation import disagreement_loss, kd_loss
from ommatid.losses.statistics import BatchNormStatistics
from ommatid.nn.classifiers import build_cifar_classifier
from ommatid.nn.projection_head import ProjectionHead
from ommatid.transfer.cmi import CMI, contrast, inversion_losses
from ommatid.transfer.networks import build_classifier
from ommatid.transfer.pool import read_pool

TINY = {
    "teacher": "digits_cnn",
    "student": "digits_cnn",
    "student_width": 0.5,
    "num_classes": 10,
    "channels": 1,
    "image_size": 8,
    "mean": [0.3],
    "std": [0.4],
    "latent_dim": 8,
    "generator_channels": 4,
    "head_dim": 8,
    "generator_steps": 2,
    "synthesis_batch": 6,
    "kd_batch": 5,
    "kd_steps": 2,
    "bank_size": 20,
    "negatives": 8,
    "pool_rounds": 3,
    "crop_pad": 1,
    "flip": False,
    "teacher_steps": 5,
}


def tiny(**settings):
    torch.manual_seed(0)
    method = CMI(**{**TINY, **settings})
    method.teacher_is_trained = True
    return method


@pytest.fixture(scope="module")
def data():
    return ImageData(size=8, channels=1)


def train(method, data, rounds=1):
    fit(method, data, trainer={"max_epochs": rounds, "limit_val_batches": 0})
    return method


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


# --- the paper's sizes ---


@pytest.fixture(scope="module")
def full():
    """Full size, but for the images at once and the iterations."""
    torch.manual_seed(0)
    settings = {"synthesis_batch": 4, "generator_steps": 1, "kd_steps": 1, "kd_batch": 4, "pool_rounds": 2}
    method = CMI(**settings)
    method.teacher_is_trained = True
    return method


def test_full_size_networks_have_the_published_sizes(full):
    assert size(full.teacher) == 2_243_546  # WRN-40-2: 2.24 M
    assert size(full.student) == 175_066  # WRN-16-1: 0.17 M
    linear = 256 * 128 * 8 * 8 + 128 * 8 * 8
    convolutions = 9 * (128 * 128 + 128 * 64 + 64 * 3) + 3
    norms = 2 * (128 + 128 + 64)
    assert size(full.generator) == linear + convolutions + norms == 2_328_899  # about 2.3 M
    widths = sum(norm.num_features for norm in full.teacher.modules() if isinstance(norm, nn.BatchNorm2d))
    assert full.bank.values.shape == (40_960, 2 * widths)
    assert size(full.head) == widths * widths + widths + widths * 256 + 256
    assert full.parameter_count() == size(full.student) + size(full.generator) + size(full.head) + 4 * 256


def test_full_size_settings_are_those_of_the_card():
    settings = build_defaults()
    assert (settings["generator_steps"], settings["kd_steps"], settings["rounds_per_epoch"]) == (200, 400, 1)
    assert (settings["synthesis_batch"], settings["kd_batch"], settings["kd_temperature"]) == (256, 128, 20.0)
    weights = ("bn_weight", "class_weight", "adversarial_weight", "contrastive_weight", "contrastive_temperature")
    assert [settings[name] for name in weights] == [1.0, 1.0, 0.5, 0.8, 0.1]
    assert (settings["bank_size"], settings["negatives"], settings["head_dim"]) == (40_960, 4_096, 256)
    student, generator = settings["recipe"], settings["generator_recipe"]
    assert (student.lr, student.momentum, student.weight_decay, student.schedule) == (0.1, 0.9, 1e-4, "cosine")
    assert (generator.lr, generator.betas, generator.schedule) == (1e-3, (0.5, 0.999), "constant")
    assert (student.per, student.decay_vectors) == ("epoch", True)


def build_defaults():
    from ommatid.engine.settings import constructor_arguments

    return {name: parameter.default for name, parameter in constructor_arguments(CMI).items()}


def test_full_size_takes_a_step(full):
    before = {name: value.clone() for name, value in full.named_parameters()}
    train(full, ImageData(size=32))
    assert all(value.isfinite().all() for value in full.parameters())
    moved = {name for name, value in full.named_parameters() if not torch.equal(before[name], value)}
    assert {name.partition(".")[0] for name in moved} == {"student", "generator", "head", "latents"}
    assert (len(full.pool), len(full.bank)) == (4, 4)


# --- losses ---


@pytest.fixture
def networks():
    torch.manual_seed(0)
    teacher = build_cifar_classifier("digits_cnn", 10, 1).eval().requires_grad_(False)
    student = build_cifar_classifier("digits_cnn", 10, 1, 0.5).eval().requires_grad_(False)
    return teacher, student, torch.rand(6, 1, 8, 8), torch.arange(6)


def test_inversion_losses_are_those_of_the_card(networks):
    teacher, student, images, targets = networks
    with BatchNormStatistics(teacher) as statistics:
        parts, features = inversion_losses(teacher, student, statistics, images, targets)
    torch.testing.assert_close(parts["classes"], F.cross_entropy(teacher(images), targets))
    torch.testing.assert_close(parts["disagreement"], disagreement_loss(student(images), teacher(images)))
    distance, means = 0.0, []
    hooks = [
        norm.register_forward_pre_hook(lambda norm, given: seen.append((norm, given[0])))
        for norm in teacher.modules()
        if isinstance(norm, nn.BatchNorm2d)
    ]
    seen = []
    teacher(images)
    for norm, given in seen:
        variance, mean = given.var((0, 2, 3), unbiased=False), given.mean((0, 2, 3))
        distance += (variance - norm.running_var).norm() + (mean - norm.running_mean).norm()
        means.append(given.mean((2, 3)))
    assert len(hooks) == 4
    torch.testing.assert_close(parts["statistics"], distance)
    torch.testing.assert_close(features, torch.cat(means, dim=1))


def test_views_are_recognised_among_the_batch_and_the_bank(networks):
    teacher, _, images, _ = networks
    head, bank = ProjectionHead(144, 8), torch.randn(7, 288)
    with BatchNormStatistics(teacher) as statistics:
        teacher(images)
        features = statistics.features()
        loss, pair = contrast(teacher, head, statistics, images.flip(3), features, bank, 0.1)
        local = statistics.features()
    expected = instance_contrastive_loss(
        head(torch.cat([local, bank[:, :144]])), head(torch.cat([features, bank[:, 144:]])), 0.1, split=6
    )
    torch.testing.assert_close(loss, expected)
    assert torch.equal(pair, torch.cat([local, features], dim=1))


def test_the_inversion_loss_is_the_weighted_sum_of_its_parts(monkeypatch):
    import ommatid.transfer.cmi as module

    monkeypatch.setattr(module, "crop_flip", lambda images, *_: images)
    monkeypatch.setattr(module, "resized_crop_flip", lambda images, **_: images)
    method = tiny(bn_weight=0.3, class_weight=0.7, adversarial_weight=1.1, contrastive_weight=0.2).eval()
    images, targets = torch.rand(6, 1, 8, 8), torch.arange(6)
    with method.statistics:
        loss, parts, features = method.inversion_loss(images, targets)
    assert features.shape == (6, method.bank.values.shape[1])
    weights = {"statistics": 0.3, "classes": 0.7, "disagreement": 1.1, "contrast": 0.2}
    torch.testing.assert_close(loss, sum(weights[name] * part for name, part in parts.items()))
    assert parts.keys() == weights.keys()


def test_without_its_weight_the_contrast_is_not_even_computed(data):
    method = train(tiny(contrastive_weight=0.0), data)
    with method.statistics:
        _, parts, _ = method.inversion_loss(torch.rand(6, 1, 8, 8), torch.arange(6))
    assert set(parts) == {"statistics", "classes", "disagreement"}
    assert len(method.bank) == 0
    assert len(method.pool) == 6


def test_images_and_latents_learn_and_neither_teacher_nor_student_does():
    method = tiny()
    method.student.requires_grad_(False).eval()
    with method.statistics:
        loss, _, _ = method.inversion_loss(method.generator(method.latents[0]), torch.arange(6))
    loss.backward()
    assert all(p.grad is not None for p in (*method.generator.parameters(), *method.latents, *method.head.parameters()))
    assert all(p.grad is None for p in (*method.teacher.parameters(), *method.student.parameters()))


def test_distillation_matches_softened_answers_on_pictures_of_the_pool(monkeypatch):
    import ommatid.transfer.cmi as module

    seen = []
    monkeypatch.setattr(module, "crop_flip", lambda images, *_: seen.append(images) or images)
    method = tiny().eval()
    method.pool.add(torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8))
    loss = method.distillation_loss()
    stored = method.pool.all().values.float() / 255
    assert all(any(torch.equal(picture, known) for known in stored) for picture in seen[0])
    torch.testing.assert_close(loss, kd_loss(method.student(seen[0]), method.teacher(seen[0]), 20.0))


# --- lifetimes ---


def test_generator_and_head_have_the_optimisers_of_the_card():
    phases = tiny(generator_recipe=Recipe("adam", lr=2e-3, betas=(0.5, 0.999), schedule="constant")).phases()
    assert list(phases) == ["generator", "head", "student"]
    assert (phases["head"].recipe.lr, phases["head"].recipe.betas) == (2e-3, None)
    moved = {name: {id(p) for _, p in phase.named_parameters()} for name, phase in phases.items()}
    assert not moved["generator"] & moved["head"]
    assert not moved["student"] & (moved["generator"] | moved["head"])


def test_every_batch_has_a_new_generator_that_forgot_its_momenta(data, monkeypatch):
    born = []
    original = CMI.rebirth

    def rebirth(self):
        original(self)
        optimizer = self.optimizer("generator")
        state = getattr(optimizer, "optimizer", optimizer).state
        born.append((self.generator.project.weight.detach().clone(), self.latents[0].detach().clone(), len(state)))

    monkeypatch.setattr(CMI, "rebirth", rebirth)
    method = train(tiny(), data, rounds=2)
    assert [momenta for _, _, momenta in born] == [0, 0]
    assert not torch.equal(born[0][0], born[1][0])
    assert not torch.equal(born[0][1], born[1][1])
    assert born[1][0].std().item() == pytest.approx(0.02, rel=0.1)
    head, student = (method.optimizer(name) for name in ("head", "student"))
    assert all(len(getattr(kept, "optimizer", kept).state) for kept in (head, student))


def test_the_images_of_the_lowest_loss_are_kept(data, monkeypatch):
    losses, images = [], []
    original = CMI.inversion_loss

    def watch(self, given, targets):
        loss, parts, features = original(self, given, targets)
        # Lowest in the second iteration, though the last one is better than its forerunner.
        loss = loss * 0 + [5.0, 1.0, 3.0, 2.0][len(losses) % 4]
        losses.append(float(loss.detach()))
        images.append(given.detach().clone())
        return loss, parts, features

    monkeypatch.setattr(CMI, "inversion_loss", watch)
    method = train(tiny(generator_steps=4), data)
    assert losses == [5.0, 1.0, 3.0, 2.0]
    assert torch.equal(method.pool.all().values, (images[1] * 255).round().to(torch.uint8))


def test_student_learns_in_training_mode_and_is_attacked_in_evaluation_mode(data, monkeypatch):
    modes = []
    invert, distil = CMI.inversion_loss, CMI.distillation_loss
    monkeypatch.setattr(
        CMI,
        "inversion_loss",
        lambda self, *given: modes.append(("invert", self.student.training)) or invert(self, *given),
    )
    monkeypatch.setattr(
        CMI, "distillation_loss", lambda self: modes.append(("distil", self.student.training)) or distil(self)
    )
    method = train(tiny(), data)
    assert modes == [("invert", False)] * 2 + [("distil", True)] * 2
    assert not method.teacher.training
    assert all(parameter.requires_grad for parameter in method.student.parameters())


def test_bank_and_pool_remember_the_newest_rounds(data):
    method = train(tiny(), data, rounds=5)
    assert (len(method.pool), len(method.bank)) == (18, 20)
    assert method.pool.values.dtype == torch.uint8


def test_negatives_come_from_the_bank_only_once_it_holds_some(data, monkeypatch):
    import ommatid.transfer.cmi as module

    rows = []
    original = module.contrast
    monkeypatch.setattr(module, "contrast", lambda *given: rows.append(len(given[5])) or original(*given))
    train(tiny(), data, rounds=3)
    assert rows == [0, 0, 6, 6, 8, 8]


def test_an_epoch_is_so_many_rounds(data):
    method = train(tiny(rounds_per_epoch=3), data)
    assert len(method.training_loader()) == 3
    assert len(method.pool) == 18


def test_no_real_image_is_drawn_while_the_student_learns(data, monkeypatch):
    monkeypatch.setattr(ImageData, "train_dataloader", lambda self: pytest.fail("real images were asked for"))
    train(tiny(), data)


# --- the teacher ---


def test_a_teacher_without_weights_is_trained_once(data, monkeypatch):
    import ommatid.transfer.distilled as module

    steps = []
    monkeypatch.setattr(module, "train_classifier", lambda *given, **_: steps.append(given[3]))
    method = tiny()
    method.teacher_is_trained = False
    method.adopt(data)
    method.adopt(data)
    assert steps == [5]
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())


def test_a_teacher_from_a_file_stays_as_it_is_and_the_file_may_go(data, tmp_path):
    teacher = build_cifar_classifier("digits_cnn", 10, 1)
    path = tmp_path / "teacher.pth"
    torch.save(teacher.state_dict(), path)
    method = CMI(**TINY, teacher_weights=str(path))
    train(method, data)
    assert torch.equal(method.teacher[1].head.weight, teacher.head.weight)
    saved = method.save(tmp_path / "m.safetensors")
    path.unlink()
    loaded = CMI.load(saved)
    assert torch.equal(loaded.teacher[1].head.weight, teacher.head.weight)
    assert loaded.teacher_is_trained
    with pytest.raises(CheckpointError, match=r"teacher\.pth: no such weights file"):
        CMI(**TINY, teacher_weights=str(path))


def test_a_module_of_the_user_s_can_be_the_teacher(data, tmp_path):
    teacher = build_classifier("digits_cnn", 10, 1, [0.3], [0.4], width=0.25)
    method = train(CMI(**{**TINY, "teacher": teacher}), data)
    assert method.teacher is teacher
    saved = method.save(tmp_path / "m.safetensors")
    again = build_classifier("digits_cnn", 10, 1, [0.3], [0.4], width=0.25)
    loaded = CMI.load(saved, teacher=again)
    assert torch.equal(again[1].head.weight, teacher[1].head.weight)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(images), method.eval()(images))


def test_a_released_teacher_is_loaded_under_our_names(tmp_path):
    teacher = build_cifar_classifier("digits_cnn", 10, 1)
    torch.save(teacher.state_dict(), tmp_path / "released.pth")
    method = CMI(**TINY)
    student = method.student[1].head.weight.clone()
    assert not method.teacher_is_trained
    method.load_published(tmp_path / "released.pth")
    assert method.teacher_is_trained
    assert torch.equal(method.teacher[1].head.weight, teacher.head.weight)
    assert torch.equal(method.student[1].head.weight, student)
    torch.save({"layer": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"^released weights: found nothing for "):
        method.load_published(tmp_path / "other.pth")


def test_features_of_chosen_layers_only_make_a_smaller_bank():
    method = tiny(feature_layers=["1.stages.2.*"])
    assert method.bank.values.shape[1] < tiny().bank.values.shape[1]
    with pytest.raises(InputError, match="nothing_of_this_name"):
        tiny(feature_layers=["nothing_of_this_name"])


def test_a_teacher_without_batch_norm_is_refused():
    with pytest.raises(InputError, match="no batch norm with running statistics"):
        tiny(teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


# --- arms of the claims ---


def test_noise_images_train_no_generator(data):
    method = tiny(synthesis="noise")
    before = {name: value.clone() for name, value in method.named_parameters()}
    train(method, data)
    moved = {
        name.partition(".")[0] for name, value in method.named_parameters() if not torch.equal(before[name], value)
    }
    assert moved == {"student"}
    pool = method.pool.all().values.float()
    assert (len(method.bank), len(pool)) == (0, 6)
    assert pool.mean().item() == pytest.approx(127.5, abs=12)
    assert pool.std().item() == pytest.approx(255 / 12**0.5, abs=12)


def test_arms_differ_from_the_method_by_the_named_part_only():
    diversity, student = CMI.claims
    assert (diversity.name, student.name) == ("cmi-diversity", "cmi-student")
    for claim in CMI.claims:
        models = {name: {**claim.model, **arm.model} for name, arm in claim.arms.items()}
        assert models["no contrast"]["contrastive_weight"] == 0
        assert models["paper's weight"]["contrastive_weight"] == 0.8
        assert models["noise images"]["synthesis"] == "noise"
        counts = {name: build(CMI, model).parameter_count() for name, model in models.items()}
        assert len(set(counts.values())) == 1, "every arm has the same capacity"
        assert {criterion.versus for criterion in claim.criteria} == {"no contrast"}
    assert [criterion.direction for criterion in diversity.criteria] == ["lower", "lower"]


# --- the pool ---


def test_the_pool_is_read_out_after_training(data):
    method = train(tiny(), data)
    assert set(method.read_outs(data)) == {"nearest_similarity", "mean_similarity", "class_entropy"}
    assert tiny().read_outs(data) == {}


def test_recovered_images_are_drawn_and_written_and_start_another_run(data, tmp_path):
    method = train(tiny(), data, rounds=2)
    assert method.draw_training(tmp_path) == [tmp_path / "recovered.png", tmp_path / "recovered.npz"]
    with Image.open(tmp_path / "recovered.png") as sheet:
        assert sheet.width > 100
    pool = method.pool.all().values
    assert torch.equal(read_pool(tmp_path / "recovered.npz", (1, 8, 8)), pool)
    later = tiny(initial_pool=str(tmp_path / "recovered.npz"))
    assert torch.equal(later.pool.all().values, pool)
    train(later, data)
    assert len(later.pool) == len(pool) + 6
    saved = later.save(tmp_path / "m.safetensors")
    (tmp_path / "recovered.npz").unlink()
    assert torch.equal(CMI.load(saved).pool.all().values, later.pool.all().values)


def test_nothing_recovered_is_nothing_drawn(tmp_path):
    assert tiny().draw_training(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def pools(folder):
    """Files that are no pool, by the way in which they are none."""
    good = folder / "good.npz"
    np.savez_compressed(good, images=np.random.default_rng(0).integers(0, 255, (4, 1, 8, 8), dtype=np.uint8))
    data = good.read_bytes()
    (folder / "truncated.npz").write_bytes(data[: len(data) // 2])
    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.npz").write_text("images")
    (folder / "flipped.npz").write_bytes(data[:90] + bytes(255 - byte for byte in data[90:130]) + data[130:])
    np.savez(folder / "nameless.npz", pictures=np.zeros((4, 1, 8, 8), np.uint8))
    np.savez(folder / "objects.npz", images=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with (folder / "single.npz").open("wb") as file:
        np.save(file, np.zeros((4, 1, 8, 8), np.uint8))
    return ("none", "truncated", "empty", "text", "flipped", "nameless", "objects", "single")


def test_files_that_are_no_pool_are_refused_in_one_sentence(tmp_path):
    for name in pools(tmp_path):
        with pytest.raises(InputError, match=r"not a readable pool, expected an \.npz file with") as caught:
            tiny(initial_pool=str(tmp_path / f"{name}.npz"))
        assert str(caught.value).startswith(str(tmp_path / f"{name}.npz"))
    np.savez(tmp_path / "floats.npz", images=np.zeros((4, 1, 8, 8), np.float32))
    np.savez(tmp_path / "large.npz", images=np.zeros((4, 3, 16, 16), np.uint8))
    for name, told in (
        ("floats", r"found images float32\(1, 8, 8\), expected uint8\(1, 8, 8\)"),
        ("large", r"found images uint8\(3, 16, 16\), expected uint8\(1, 8, 8\)"),
    ):
        with pytest.raises(InputError, match=told):
            tiny(initial_pool=str(tmp_path / f"{name}.npz"))


# --- outcome ---


def test_the_teacher_is_scored_beside_the_student(data):
    method = tiny().eval()
    batch = data.first_batch("test", 40)
    scores = method.score(batch)
    expected = method.teacher(batch.images).argmax(dim=1) == batch.labels
    assert torch.equal(scores["teacher_top1"], expected.float())
    assert {"top1", "top5", "teacher_top1"} == set(scores)
    assert set(evaluate(method, data)) == {"top1", "top5", "teacher_top1"}


def test_the_exported_graph_is_the_student_alone(tmp_path):
    from ommatid.engine.export import export_method

    method = tiny().eval()
    path = tmp_path / "graph.pt2"
    assert export_method(method, path, "torch") < 1e-5
    student = sum(value.numel() * value.element_size() for value in method.student.state_dict().values())
    program = torch.export.load(path)
    assert sum(v.numel() * v.element_size() for v in program.state_dict.values()) == student
    images = torch.rand(1, 1, 8, 8)
    torch.testing.assert_close(program.module()(images), method(images))


def test_half_sizes_and_unknown_names_are_refused():
    for settings, told in (
        ({"image_size": 10}, "image_size: found 10, expected a multiple of 4"),
        ({"student": "wrn16-1", "student_width": 1.0}, "unknown classifier 'wrn16-1': did you mean 'wrn16_1'"),
        ({"bank_size": 0}, "capacity: found 0, expected at least one row"),
    ):
        with pytest.raises(InputError, match=told):
            tiny(**settings)
    with pytest.raises(InputError, match="synthesis"):
        build(CMI, {**TINY, "synthesis": "dreams"})
