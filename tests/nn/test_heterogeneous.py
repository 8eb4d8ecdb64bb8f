import pytest
import torch

from ommatid.nn.heterogeneous import HeterogeneousAttention

VIDEO_MASK = torch.tensor([[True, True, True, False], [True] * 4])
QUERY_MASK = torch.tensor([[True, True, True], [True, False, False]])


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    return torch.randn(2, 4, 6), torch.randn(2, 3, 6)


def half(block, own, other, own_mask, other_mask):
    within, between = block.intra(own, own, own_mask), block.inter(own, other, other_mask)
    gate = (torch.cat([within, between], dim=-1) @ block.gate.weight.T + block.gate.bias).sigmoid()
    mixed = block.norm(own + gate * within + (1 - gate) * between)
    return mixed + block.feed_forward(mixed)


def test_a_gate_mixes_attention_within_and_between(inputs):
    video, query = inputs
    block = HeterogeneousAttention(6, heads=2).eval()
    found = block(video, query, VIDEO_MASK, QUERY_MASK)
    torch.testing.assert_close(found[0], half(block.video, video, query, VIDEO_MASK, QUERY_MASK))
    torch.testing.assert_close(found[1], half(block.query, query, video, QUERY_MASK, VIDEO_MASK))


def test_masked_frames_and_words_never_matter(inputs):
    video, query = inputs
    block = HeterogeneousAttention(6, heads=2).eval()
    other = torch.where(VIDEO_MASK[..., None], video, 9.0), torch.where(QUERY_MASK[..., None], query, -9.0)
    plain, changed = block(video, query, VIDEO_MASK, QUERY_MASK), block(*other, VIDEO_MASK, QUERY_MASK)
    torch.testing.assert_close(plain[0][VIDEO_MASK], changed[0][VIDEO_MASK])
    torch.testing.assert_close(plain[1][QUERY_MASK], changed[1][QUERY_MASK])


def test_the_halves_share_no_weights_and_every_weight_learns(inputs):
    block = HeterogeneousAttention(6, heads=2)
    video, query = block(*inputs, VIDEO_MASK, QUERY_MASK)
    video.square().sum().backward()
    assert all(parameter.grad is None for parameter in block.query.parameters())
    query.square().sum().backward()
    # A bias of the keys moves all energies of a query alike: the softmax does not see it.
    silent = [name for name, p in block.named_parameters() if not p.grad.abs().sum() > 1e-6 and "key.bias" not in name]
    assert silent == []
