import pytest
import torch
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.image_generator import ImageGenerator, load_published_generator


def published(generator):
    """The weights as the authors would have named them."""
    return {
        key.replace("project.", "l1.0.").replace("layers.", "conv_blocks."): value
        for key, value in generator.state_dict().items()
    }


@pytest.mark.parametrize(("image_size", "out_channels"), [(16, 3), (32, 1)])
def test_images_have_the_size_asked_for_and_stay_in_the_unit_interval(image_size, out_channels):
    images = ImageGenerator(6, 4, image_size, out_channels)(torch.randn(3, 6) * 100)
    assert images.shape == (3, out_channels, image_size, image_size)
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_default_has_as_many_parameters_as_the_card_says():
    assert sum(p.numel() for p in ImageGenerator().parameters()) == pytest.approx(2.3e6, rel=0.02)


def test_reset_is_decided_by_the_generator_and_forgets_the_past():
    model = ImageGenerator(6, 4, 16)
    model(torch.randn(8, 6)).sum().backward()
    model.reset_parameters(generator=torch.Generator().manual_seed(1))
    first = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(8, 6))
    model.reset_parameters(generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(first[key], value) for key, value in model.state_dict().items())
    model.reset_parameters(generator=torch.Generator().manual_seed(2))
    assert not torch.equal(first["project.weight"], model.project.weight)


def test_reset_draws_from_the_stated_distributions():
    model = ImageGenerator(256, 64, 32)
    model.reset_parameters(std=0.05, generator=torch.Generator().manual_seed(0))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.05, rel=0.1)
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1.0, abs=0.02)
            assert module.weight.std().item() == pytest.approx(0.05, rel=0.4)
            assert not module.bias.any()


def test_latents_and_weights_both_receive_gradients():
    model, latents = ImageGenerator(6, 4, 16), torch.randn(3, 6, requires_grad=True)
    model(latents).square().sum().backward()
    assert latents.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_published_weights_give_the_same_images_with_and_without_counters():
    original = ImageGenerator(5, 3, 24, 2)
    latents = torch.randn(4, 5)
    original(latents)
    original.eval()
    state = published(original)
    for each in (state, {key: value for key, value in state.items() if "num_batches" not in key}):
        assert torch.equal(load_published_generator(each).eval()(latents), original(latents))


@pytest.mark.parametrize("damage", ["l1.0.weight", "conv_blocks.3.bias", "conv_blocks.9.weight"])
def test_weights_of_something_else_are_refused(damage):
    state = published(ImageGenerator(5, 3, 24, 2))
    del state[damage]
    with pytest.raises(InputError, match=r"state: found .*, expected the weights l1\.\* and conv_blocks\.\*"):
        load_published_generator(state)
    with pytest.raises(InputError, match="state: found nothing, expected"):
        load_published_generator({})


def test_sizes_that_cannot_be_halved_twice_are_refused():
    with pytest.raises(InputError, match="image_size: found 30, expected a multiple of 4"):
        ImageGenerator(image_size=30)
