"""Any vision transformer sees the sphere, with its own weights."""

import pytest
import timm
import torch

from ommatid.dense.panoramic_encoder import TINY, PanoramicEncoder, stretch
from ommatid.errors import CheckpointError, InputError

FRAMES = torch.randint(0, 255, (3, 3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def encoder(**settings):
    torch.manual_seed(0)
    return PanoramicEncoder("tiny", 32, **settings)


def test_tokens_are_those_of_the_transformer():
    found = encoder(geometry="planar")
    patches, cls = found.encode(FRAMES)
    network = found.network.eval()
    with torch.no_grad():
        whole = network.forward_features((FRAMES.float() / 255 - 0.5) / 0.5)
    torch.testing.assert_close(patches, whole[:, 1:])
    torch.testing.assert_close(cls, whole[:, 0])
    assert patches.shape == (3, 32, 64)


def test_geometries_share_weights_and_differ_in_tokens():
    arms = [encoder(geometry="planar"), encoder(), encoder(exact=False, circular=False)]
    weights = [[value for name, value in arm.state_dict().items()] for arm in arms]
    for other in weights[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights[0], other, strict=True))
    tokens = [arm.encode(FRAMES)[0] for arm in arms]
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-3)
    assert not torch.allclose(tokens[1], tokens[2], atol=1e-3)
    assert len({arm.fingerprint() for arm in arms}) == 3


def test_a_fingerprint_is_that_of_weights_and_settings():
    first, second = encoder(), encoder()
    assert first.fingerprint() == second.fingerprint()
    with torch.no_grad():
        second.network.cls_token += 1e-4
    assert first.fingerprint() != second.fingerprint()


def test_the_position_embedding_is_stretched_to_twice_as_many_columns():
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=64, **TINY)
    square = network.pos_embed.detach().clone()
    stretch(network, (64, 128))
    assert network.patch_embed.grid_size == (8, 16)
    grid = square[:, 1:].mT.unflatten(2, (8, 8))
    expected = torch.nn.functional.interpolate(grid, (8, 16), mode="bicubic", align_corners=False)
    torch.testing.assert_close(network.pos_embed[:, 1:].mT.unflatten(2, (8, 16)), expected)
    assert torch.equal(network.pos_embed[:, :1], square[:, :1])


def test_weights_come_from_a_file_of_flat_pictures(tmp_path):
    torch.manual_seed(1)
    flat = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=7, img_size=48, **TINY)
    torch.save(flat.state_dict(), tmp_path / "flat.pt")
    found = encoder(weights=str(tmp_path / "flat.pt"))
    assert torch.equal(found.network.patch_embed.patch_embed.proj.weight, flat.patch_embed.proj.weight)
    assert torch.equal(found.network.blocks[3].mlp.fc2.weight, flat.blocks[3].mlp.fc2.weight)
    assert found.network.pos_embed.shape == (1, 33, 64)
    torch.save(found.network.state_dict() | {"patch_embed.proj.weight": torch.zeros(1)}, tmp_path / "stretched.pt")
    with pytest.raises(CheckpointError, match=r"stretched\.pt: .*expected weights of the encoder"):
        encoder(weights=str(tmp_path / "stretched.pt"))
    torch.save({"pos_embed": torch.zeros(1, 8, 64)}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt: found a position embedding of 7 patches"):
        encoder(weights=str(tmp_path / "odd.pt"))
    torch.save({"something": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: .*expected weights of the encoder"):
        encoder(weights=str(tmp_path / "other.pt"))


@pytest.mark.parametrize("geometry", ["spherical", "planar"])
def test_views_teach_the_encoder_and_nothing_else(geometry):
    found = encoder(geometry=geometry)
    before = found.fingerprint()
    views = torch.zeros(20, 3, 16, 16, dtype=torch.uint8)
    labels = torch.arange(20) % 2
    views[labels == 1] = 200
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    found.learn_from_views(views, labels, steps=3, batch_size=8)
    assert torch.equal(torch.rand(1), expected), "what others draw must not change"
    assert found.fingerprint() != before
    again = encoder(geometry=geometry)
    again.learn_from_views(views, labels, steps=3, batch_size=8)
    assert again.fingerprint() == found.fingerprint()
    assert found.encode(FRAMES)[0].shape == (3, 32, 64)
    assert (found.network.pos_embed.shape, found.height) == ((1, 33, 64), 32)


def test_all_geometries_learn_the_same_from_views():
    views, labels = torch.randint(0, 255, (10, 3, 16, 16), dtype=torch.uint8), torch.arange(10) % 2
    arms = [encoder(geometry="planar"), encoder()]
    for arm in arms:
        arm.learn_from_views(views, labels, steps=2, batch_size=4)
    first, second = (list(arm.state_dict().values()) for arm in arms)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "no_such_net"}, "encoder: found 'no_such_net'"),
        ({"name": "resnet18"}, "found 'resnet18', expected a vision transformer with CLS token"),
        ({"height": 36}, "height: found 36, expected a multiple of the encoder's patches, 8"),
        ({"height": 8}, "height: found 8"),
        ({"weights": "pretrained"}, "expected a file or none for the encoder 'tiny'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        PanoramicEncoder(**{"name": "tiny", "height": 32, **settings})
