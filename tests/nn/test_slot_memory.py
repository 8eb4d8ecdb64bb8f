import copy

import numpy as np
import pytest
import torch

from ommatid.nn.slot_memory import FrozenMemory, ParameterMemory, ResidualMLP, SlotMemory

DIM, SLOTS, TAU, ETA = 4, 3, 0.2, 0.5
MASK = torch.tensor([[True, True, True], [True, False, False]])


@pytest.fixture
def tokens():
    return torch.randn(2, 3, DIM, generator=torch.Generator().manual_seed(0))


def made(write="sequential", **settings):
    torch.manual_seed(1)
    return SlotMemory(DIM, SLOTS, TAU, write=write, eta=ETA, **settings).double()


def arrays(linear):
    return linear.weight.detach().numpy(), linear.bias.detach().numpy()


def per_token(memory, token, slots):
    """E10-E12 of one token, spelt out: write weights, erase vector, content."""
    (wk, bk), (we, be), (wa, ba) = arrays(memory.write_key), arrays(memory.erase), arrays(memory.add)
    key = wk @ token + bk
    similarity = np.array([key @ slot / (np.linalg.norm(key) * np.linalg.norm(slot)) for slot in slots])
    weights = np.exp(similarity / TAU) / np.exp(similarity / TAU).sum()
    return weights, 1 / (1 + np.exp(-(we @ token + be))), wa @ token + ba


def test_sequential_write_is_one_token_after_the_other(tokens):
    memory = made()
    slots = memory.memory.numpy().copy()
    for token in tokens[MASK].double().numpy():
        weights, erase, content = per_token(memory, token, slots)
        for slot in range(SLOTS):
            slots[slot] = slots[slot] * (1 - weights[slot] * erase) + weights[slot] * content
    # The write is in single precision whatever the tokens are.
    memory.float().write(tokens, MASK)
    np.testing.assert_allclose(memory.memory.numpy(), slots, atol=1e-5)


def test_batched_write_takes_weighted_means_of_all_tokens_at_once(tokens):
    memory = made("batched")
    before = memory.memory.numpy().copy()
    expected = np.zeros_like(before)
    parts = [per_token(memory, token, before) for token in tokens[MASK].double().numpy()]
    for slot in range(SLOTS):
        total = sum(weights[slot] for weights, _, _ in parts)
        erase = sum(weights[slot] * e for weights, e, _ in parts) / total
        content = sum(weights[slot] * u for weights, _, u in parts) / total
        gate = 1 - np.exp(-total * ETA)
        expected[slot] = before[slot] * (1 - gate * erase) + gate * content
    memory.float().write(tokens, MASK)
    np.testing.assert_allclose(memory.memory.numpy(), expected, atol=1e-5)


def test_reading_mixes_slots_by_cosine_and_adds_a_projection(tokens):
    memory = made()
    (wk, bk), (wo, bo), slots = arrays(memory.reader.key), arrays(memory.reader.out), memory.memory.numpy()
    found, address = memory.read(tokens.double(), MASK)
    for b, t in MASK.nonzero().tolist():
        token = tokens[b, t].double().numpy()
        key = wk @ token + bk
        energy = np.exp([key @ slot / (np.linalg.norm(key) * np.linalg.norm(slot)) / TAU for slot in slots])
        np.testing.assert_allclose(address[b, t].detach().numpy(), energy / energy.sum(), rtol=1e-9)
        recalled = (energy / energy.sum()) @ slots
        expected = wo @ np.concatenate([token, recalled]) + bo + token
        np.testing.assert_allclose(found[b, t].detach().numpy(), expected, rtol=1e-9)
    assert (found[~MASK] == 0).all()


@pytest.mark.parametrize("write", ["sequential", "batched"])
def test_masked_tokens_write_nothing(tokens, write):
    first, second = made(write).float(), made(write).float()
    first.write(tokens, MASK)
    second.write(torch.where(MASK[..., None], tokens, 77.0), MASK)
    torch.testing.assert_close(first.memory, second.memory)
    before = first.memory.clone()
    first.write(tokens, torch.zeros_like(MASK))
    torch.testing.assert_close(first.memory, before)


@pytest.mark.parametrize("write", ["sequential", "batched"])
def test_gradients_flow_through_this_write_and_not_into_the_old_memory(tokens, write):
    memory = made(write).float().train()
    for _ in range(2):  # the second backward would fail if it reached into the first write
        memory.zero_grad()
        memory(tokens, MASK, tokens, MASK).square().sum().backward()
        for layer in (memory.write_key, memory.erase, memory.add, memory.reader.key, memory.reader.out):
            assert layer.weight.grad.abs().sum() > 0
        assert not memory.memory.requires_grad


@pytest.mark.parametrize("write", ["sequential", "batched"])
def test_training_reads_what_was_just_written(tokens, write):
    memory = made(write).float().train()
    found = memory(tokens, MASK, tokens, MASK)
    torch.testing.assert_close(found, memory.read(tokens, MASK)[0])


def test_the_memory_is_frozen_in_evaluation(tokens):
    memory = made().float().eval()
    before = memory.memory.clone()
    first, again = memory(tokens, MASK, tokens, MASK), memory(tokens, MASK, tokens, MASK)
    assert torch.equal(memory.memory, before)
    assert torch.equal(first, again)


def test_the_state_carries_the_slots_but_no_optimiser_sees_them(tokens):
    memory = made().float()
    memory.write(tokens, MASK)
    other = SlotMemory(DIM, SLOTS, TAU)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.memory, memory.memory)
    assert "memory" not in dict(memory.named_parameters())


def test_a_copy_writes_into_its_own_slots(tokens):
    memory = made().float()
    twin, before = copy.deepcopy(memory), memory.memory.clone()
    twin.write(tokens, MASK)
    assert torch.equal(memory.memory, before)
    assert not torch.equal(twin.memory, before)


def test_reset_forgets_and_follows_its_generator(tokens):
    memory = SlotMemory(16, 64)
    memory.reset(torch.Generator().manual_seed(3))
    first = memory.memory.clone()
    memory.write(torch.randn(1, 2, 16), torch.ones(1, 2, dtype=torch.bool))
    memory.reset(torch.Generator().manual_seed(3))
    assert torch.equal(memory.memory, first)
    assert first.std().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("dim", [16, 48, 512])
def test_the_control_without_a_memory_has_the_same_capacity(dim):
    def size(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert size(ResidualMLP(dim)) == pytest.approx(size(SlotMemory(dim, 8)), rel=0.01)


def test_the_control_is_a_residual_network_of_the_token_alone(tokens):
    mlp = ResidualMLP(DIM)
    found = mlp(tokens, MASK, tokens, MASK)
    expected = tokens + mlp.mlp(torch.cat([tokens, mlp.project(tokens)], dim=-1))
    torch.testing.assert_close(found[MASK], expected[MASK])
    assert (found[~MASK] == 0).all()


def test_parameter_slots_are_moved_by_the_optimiser_and_frozen_ones_never(tokens):
    for memory, moves in ((ParameterMemory(DIM, SLOTS), True), (FrozenMemory(DIM, SLOTS), False)):
        optimizer, before = torch.optim.SGD(memory.parameters(), lr=0.1), memory.memory.clone()
        memory.train()(tokens, MASK, tokens, MASK).square().sum().backward()
        optimizer.step()
        assert torch.equal(memory.memory, before) != moves


def test_half_precision_writes_in_single_precision(tokens):
    memory = made("batched").float()
    twin = copy.deepcopy(memory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        written = memory.write(tokens, MASK)
    twin.write(tokens, MASK)
    assert written.dtype == torch.float32
    torch.testing.assert_close(memory.memory, twin.memory)
