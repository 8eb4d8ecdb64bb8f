"""Students with virtual attention: an ordinary one at first, every lesson's own loss, and nothing left to pay for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ommatid.classification.data import ImageData
from ommatid.engine.fit import fit
from ommatid.errors import InputError
from ommatid.losses.distillation import distillation_loss
from ommatid.losses.feature_distillation import similarity_loss
from ommatid.nn.virtual_attention import VirtualAttention, attention_entropy
from ommatid.transfer.vam import VAM, WEIGHTS

TINY = {
    "channels": 1,
    "image_size": 8,
    "mean": [0.3],
    "std": [0.4],
    "samples": 850,
    "teacher": "digits_cnn",
    "teacher_steps": 5,
    "student": "digits_cnn",
    "student_width": 0.5,
    "block_size": 4,
    "factor_steps": 3,
    "negatives": 32,
    "crop_pad": 0,
    "flip": False,
}


def tiny(**settings):
    torch.manual_seed(0)
    return VAM(**{**TINY, **settings})


@pytest.fixture(scope="module")
def data():
    return ImageData(size=8, channels=1, batch_size=32)


def test_a_fresh_student_is_the_ordinary_one():
    images = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(tiny().eval()(images), tiny(block_size=None).eval()(images))


def test_every_convolution_but_the_stem_has_attention(data):
    layers = [each for each in tiny().student.modules() if isinstance(each, nn.Conv2d | VirtualAttention)]
    assert [isinstance(each, VirtualAttention) for each in layers if not isinstance(each, nn.Conv2d)] == [True] * 3
    assert tiny(block_size=None).read_outs(data) == {}


def test_soft_targets_and_entropy_are_the_loss(data):
    method, batch = tiny(entropy_weight=0.5).train(), data.first_batch()
    found = method.training_step(batch, 0)
    method.teacher.eval()
    with torch.no_grad():
        ours, theirs = method.student(batch.images), method.teacher(batch.images)
        expected = distillation_loss(ours, theirs, batch.labels) + 0.5 * attention_entropy(method.student)
    torch.testing.assert_close(found.detach(), expected)


def test_similarities_are_taught_with_labels_and_their_weight(data):
    method, batch = tiny(lesson="sp", entropy_weight=0.0).train(), data.first_batch()
    found = method.training_step(batch, 0)
    with torch.no_grad():
        ours = method.student[1].forward_features(method.student[0](batch.images))
        theirs = method.teacher[1].forward_features(method.teacher[0](batch.images))
        expected = F.cross_entropy(method.student(batch.images), batch.labels)
        expected += WEIGHTS["sp"][2] * similarity_loss(ours["maps"][-1], theirs["maps"][-1])
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lesson", WEIGHTS)
def test_every_lesson_is_learnt(lesson, data):
    method = tiny(lesson=lesson)
    before = {name: each.clone() for name, each in method.named_parameters()}
    fit(method, data, trainer={"max_steps": 3, "max_epochs": -1, "limit_val_batches": 0})
    still = [
        name
        for name, each in method.named_parameters()
        if not name.startswith(method.trained_elsewhere) and torch.equal(each, before[name])
    ]
    assert still == []


def test_the_autoencoder_is_trained_before_the_student_and_only_once(data):
    method = tiny(lesson="ft")
    before = [each.clone() for each in method.lesson.paraphraser.parameters()]
    method.adopt(data)
    after = [each.clone() for each in method.lesson.paraphraser.parameters()]
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    method.adopt(data)
    assert all(torch.equal(a, b) for a, b in zip(after, method.lesson.paraphraser.parameters(), strict=True))
    assert not any(each.requires_grad for each in method.lesson.paraphraser.parameters())


def test_a_resumed_method_does_not_train_its_autoencoder_again(data, tmp_path):
    method = tiny(lesson="ft")
    method.adopt(data)
    assert VAM.load(method.save(tmp_path / "m.safetensors")).factors_are_trained


def test_what_is_exported_has_no_attention_and_the_same_scores(data):
    method = tiny().eval()
    for layer in method.student.modules():
        if isinstance(layer, VirtualAttention):
            nn.init.normal_(layer.logits)
    network, example, _, _ = method.exportable()
    assert not any(isinstance(layer, VirtualAttention) for layer in network.modules())
    with torch.no_grad():
        torch.testing.assert_close(network(*example), method(*example), rtol=1e-4, atol=1e-5)
    assert method.read_outs(data)["entropy"] < 1


def test_inner_layers_are_needed_for_lessons_about_them():
    with pytest.raises(InputError, match="needs networks that show their inner layers"):
        tiny(lesson="fitnets", student="resnet10t", student_width=1.0, image_size=32)


def test_the_size_of_the_training_set_comes_from_the_data(data):
    assert VAM.arguments_from(data)["samples"] == 850
