"""The encoder's blocks: padding never matters, characters are pooled over windows, sequences have a longest length."""

import pytest
import torch
import torch.nn.functional as F

from ommatid.errors import InputError
from ommatid.nn.qanet import CHANNELS, AttentionBlock, CharacterConvolution, FeatureEncoder, SeparableConvolution


def padded(length=6, valid=4, dim=8, batch=2):
    torch.manual_seed(0)
    mask = (torch.arange(length) < valid).expand(batch, length)
    return torch.randn(batch, length, dim), mask


def encoder(as_released=False):
    torch.manual_seed(1)
    return FeatureEncoder(8, heads=2, positions=10, dropout=0.0, as_released=as_released).eval()


def test_what_stands_in_the_padding_does_not_matter():
    sequence, mask = padded()
    changed = torch.where(mask[..., None], sequence, 100 * torch.randn_like(sequence))
    model = encoder()
    assert torch.allclose(model(sequence, mask)[mask], model(changed, mask)[mask], atol=1e-6)
    assert torch.allclose(model(sequence, mask)[:, :4], model(sequence[:, :4], mask[:, :4]), atol=1e-6)


def test_as_released_the_convolutions_read_the_padding():
    sequence, mask = padded()
    changed = torch.where(mask[..., None], sequence, -sequence)
    model = encoder(as_released=True)
    assert not torch.allclose(model(sequence, mask)[mask], model(changed, mask)[mask], atol=1e-3)


def test_a_sequence_longer_than_the_positions_is_refused():
    sequence, mask = padded(length=11)
    with pytest.raises(InputError, match="found a video or sentence of 11 steps, expected at most 10"):
        encoder()(sequence, mask)


def test_a_separable_convolution_sees_three_steps_to_either_side():
    block = SeparableConvolution(8, dropout=0.0).eval()
    sequence = torch.randn(1, 15, 8, requires_grad=True)
    block(sequence, torch.ones(1, 15, dtype=torch.bool))[0, 7].sum().backward()
    seen = sequence.grad.abs().sum(dim=2)[0] > 0
    assert seen.nonzero().flatten().tolist() == list(range(4, 11))


def test_attention_is_the_softmax_over_valid_steps():
    sequence, mask = padded(batch=1)
    block = AttentionBlock(8, heads=1, dropout=0.0).eval()
    normed = block.norm(sequence)[0]
    q, k, v = block.query(normed), block.key(normed)[:4], block.value(normed)[:4]
    mixed = sequence[0] + (q @ k.T / 8**0.5).softmax(dim=1) @ v
    expected = mixed + block.out(block.out_norm(mixed))
    assert torch.allclose(block(sequence, mask)[0], expected, atol=1e-6)


def test_characters_are_the_largest_response_of_any_window():
    model = CharacterConvolution(characters=12, dim=4, dropout=0.0).eval()
    spelling = torch.randint(0, 12, (1, 1, 7))
    letters = model.embedding(spelling)[0, 0].T
    expected = torch.cat([F.relu(conv(letters[None])).amax(dim=-1)[0] for conv in model.convolutions])
    found = model(spelling)
    assert found.shape == (1, 1, sum(CHANNELS))
    assert torch.allclose(found[0, 0], expected, atol=1e-6)
    assert model.embedding(torch.tensor(0)).abs().sum() == 0


def test_gradients_reach_every_parameter():
    sequence, mask = padded()
    model = encoder().train()
    (model(sequence, mask) ** 2).sum().backward()
    # Every key gets the same addend from the key's bias, which the softmax does not see.
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-7]
    assert without in ([], ["attention.key.bias"])
