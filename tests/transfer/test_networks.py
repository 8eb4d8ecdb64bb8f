"""Classifiers by name, their weights from files, their training in memory."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ommatid.classification.data import ImageData
from ommatid.errors import CheckpointError, InputError
from ommatid.nn.normalise import Normalise
from ommatid.transfer.networks import accuracy, build_classifier, load_classifier, train_classifier

MEAN, STD = [0.5], [0.25]


def digits_cnn(**settings):
    torch.manual_seed(0)
    return build_classifier("digits_cnn", 10, 1, MEAN, STD, **settings)


@pytest.fixture(scope="module")
def digits():
    data = ImageData(size=8, channels=1)
    return data.tensors("train"), data.tensors("test")


def test_images_are_normalised_before_the_network():
    model = digits_cnn().eval()
    images = torch.rand(2, 1, 8, 8)
    assert isinstance(model[0], Normalise)
    torch.testing.assert_close(model(images), model[1]((images - 0.5) / 0.25))


@pytest.mark.parametrize("name", ["wrn16_1", "resnet20", "test_resnet", "torchvision:squeezenet1_1"])
def test_networks_of_every_library_are_known_by_name(name):
    size = 64 if "torchvision" in name else 32
    model = build_classifier(name, 7, 3, [0.5] * 3, [0.25] * 3).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, size, size)).shape == (1, 7)


def test_width_multiplies_the_channels_of_our_networks_only():
    assert digits_cnn(width=0.5)[1].feature_dim == digits_cnn()[1].feature_dim // 2
    with pytest.raises(InputError, match=r"width 0\.5 is only for digits_cnn, .*found network 'test_resnet'"):
        build_classifier("test_resnet", 7, 3, MEAN, STD, width=0.5)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(InputError, match="unknown classifier 'wrn40-2': did you mean 'wrn40_2'"):
        build_classifier("wrn40-2", 7, 3, MEAN, STD)
    with pytest.raises(InputError, match="unknown torchvision model 'resnet81': did you mean 'resnet18'"):
        build_classifier("torchvision:resnet81", 7, 3, MEAN, STD)


# --- weights from files ---


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_a_file_give_the_network_that_wrote_them(tmp_path, suffix):
    first, second = digits_cnn(), build_classifier("digits_cnn", 10, 1, MEAN, STD)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in first[1].state_dict().items()}}, path)
    else:
        save_file(first[1].state_dict(), path)
    load_classifier(second, path)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(first.eval()(images), second.eval()(images))


def test_normalisation_is_kept_from_the_data_and_not_from_the_file(tmp_path):
    first, second = digits_cnn(), build_classifier("digits_cnn", 10, 1, [0.1], [0.9])
    torch.save(first[1].state_dict(), tmp_path / "weights.pth")
    load_classifier(second, tmp_path / "weights.pth")
    assert second[0].mean.item() == pytest.approx(0.1)


def test_weights_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    state = digits_cnn()[1].state_dict()
    name = next(iter(state))
    cases = {
        "narrow": ({**state, name: state[name][:1]}, f"found the shape .* for {name}"),
        "less": ({key: value for key, value in state.items() if key != name}, f"found nothing for {name}"),
        "more": ({**state, "stranger.weight": torch.zeros(1)}, "found stranger.weight, expected only what"),
        "numbers": ({"a": 5}, "expected a dict of tensors"),
    }
    for case, (content, told) in cases.items():
        torch.save(content, tmp_path / f"{case}.pth")
        with pytest.raises(CheckpointError, match=told) as caught:
            load_classifier(digits_cnn(), tmp_path / f"{case}.pth")
        assert str(caught.value).startswith(str(tmp_path / case))
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_classifier(digits_cnn(), tmp_path / "none.pth")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"weights": pytest.fail}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="would run code"):
        load_classifier(digits_cnn(), tmp_path / "code.pth")


# --- training ---


def test_a_teacher_learns_digits(digits):
    (images, labels), (unseen, truth) = digits
    model = digits_cnn()
    before = accuracy(model, unseen, truth)
    train_classifier(model, images, labels, steps=80, batch_size=64)
    assert accuracy(model, unseen, truth) > max(0.8, before)
    assert not model.training


def test_training_follows_its_seed_and_leaves_the_global_generator_alone(digits):
    (images, labels), _ = digits
    outcomes = []
    for seed in (0, 0, 1):
        model = digits_cnn()
        state = torch.random.get_rng_state()
        train_classifier(model, images, labels, steps=3, batch_size=16, pad=1, flip=True, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        outcomes.append(model[1].head.weight.detach().clone())
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


def test_accuracy_counts_every_image_whatever_the_batch():
    model = nn.Sequential(nn.Flatten(), nn.Identity())
    images = torch.eye(10).view(10, 1, 2, 5)
    labels = torch.arange(10)
    labels[[2, 7, 9]] = 0
    for batch_size in (1, 3, 256):
        assert accuracy(model, images, labels, batch_size) == pytest.approx(0.7)


def test_accuracy_is_measured_in_evaluation_mode():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(1.0)).train()
    assert accuracy(model, torch.eye(10).view(10, 1, 2, 5), torch.arange(10)) == 1.0
    assert not model.training
