import pytest
import torch

from ommatid.nn.attention import sinusoid
from ommatid.nn.cross_graph import CrossModalGraphLayer, GRUNodeUpdate, message_by_receiver, message_by_sender

FROM_MASK = torch.tensor([[True, True, False], [True, True, True]])
TO_MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


@pytest.fixture
def nodes():
    torch.manual_seed(0)
    return torch.randn(2, 4, 5), torch.randn(2, 3, 5), torch.randn(2, 3, 5)


def softmax_over(energies):
    total = sum(energy.exp() for energy in energies.values())
    return {key: energy.exp() / total for key, energy in energies.items()}


def test_sender_weights_sum_to_one_over_the_valid_senders(nodes):
    receiver, sender, content = nodes
    expected = torch.zeros_like(receiver)
    for b in range(2):
        senders = [n for n in range(3) if FROM_MASK[b, n]]
        for t in range(4):
            weights = softmax_over({n: receiver[b, t] @ sender[b, n] for n in senders})
            expected[b, t] = sum(weights[n] * content[b, n] for n in senders)
    torch.testing.assert_close(message_by_sender(receiver, sender, content, FROM_MASK, TO_MASK), expected)


def test_receiver_weights_of_each_sender_sum_to_one_over_the_valid_receivers(nodes):
    receiver, sender, content = nodes
    found = message_by_receiver(receiver, sender, content, FROM_MASK, TO_MASK)
    for b in range(2):
        receivers = [t for t in range(4) if TO_MASK[b, t]]
        weights = {
            n: softmax_over({t: receiver[b, t] @ sender[b, n] for t in receivers}) for n in range(3) if FROM_MASK[b, n]
        }
        for t in receivers:
            torch.testing.assert_close(found[b, t], sum(weights[n][t] * content[b, n] for n in weights))


def test_the_update_interpolates_between_the_node_and_its_new_content():
    torch.manual_seed(0)
    update, node, message = GRUNodeUpdate(4), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    gate_u, gate_r = (weight @ torch.cat([message, node], dim=-1)[..., None] for weight in update.gates.weight.split(4))
    u, r = gate_u[..., 0].sigmoid(), gate_r[..., 0].sigmoid()
    c = torch.tanh((update.content.weight @ torch.cat([message, r * node], dim=-1)[..., None])[..., 0])
    torch.testing.assert_close(update(node, message), (1 - u) * node + u * c)


def test_every_gate_starts_orthogonal_and_without_bias():
    update = GRUNodeUpdate(6)
    for gate in (*update.gates.weight.split(6), update.content.weight):
        torch.testing.assert_close(gate @ gate.T, torch.eye(6), atol=1e-5, rtol=0)
    assert (update.gates.bias == 0).all()
    assert (update.content.bias == 0).all()


@pytest.mark.parametrize("normalise", ["sender", "receiver"])
def test_the_layer_is_a_cross_exchange_and_then_one_among_each_kind(nodes, normalise):
    video, query, _ = nodes
    masks = (TO_MASK, FROM_MASK)
    layer = CrossModalGraphLayer(5, normalise).eval()
    message = {"sender": message_by_sender, "receiver": message_by_receiver}[normalise]
    aligned = video @ layer.align.weight.T
    first_video = layer.video_update(video, message(aligned, query, query, FROM_MASK, TO_MASK))
    first_query = layer.query_update(query, message(query, aligned, aligned, TO_MASK, FROM_MASK))
    placed_video, placed_query = first_video + sinusoid(4, 5), first_query + sinusoid(3, 5)
    second_video = layer.video_self(first_video, message(placed_video, placed_video, first_video, TO_MASK, TO_MASK))
    second_query = layer.query_self(first_query, message(placed_query, placed_query, first_query, FROM_MASK, FROM_MASK))
    for found, expected in zip(layer(video, query, *masks), (second_video, second_query), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("normalise", ["sender", "receiver"])
def test_masked_nodes_change_nothing(nodes, normalise):
    video, query, _ = nodes
    layer = CrossModalGraphLayer(5, normalise).eval()
    other = torch.where(TO_MASK[..., None], video, 9.0), torch.where(FROM_MASK[..., None], query, -9.0)
    plain, changed = layer(video, query, TO_MASK, FROM_MASK), layer(*other, TO_MASK, FROM_MASK)
    torch.testing.assert_close(plain[0][TO_MASK], changed[0][TO_MASK])
    torch.testing.assert_close(plain[1][FROM_MASK], changed[1][FROM_MASK])


def test_dropout_acts_in_training_only(nodes):
    video, query, _ = nodes
    layer = CrossModalGraphLayer(5, dropout=0.5)
    assert not torch.equal(layer(video, query, TO_MASK, FROM_MASK)[0], layer(video, query, TO_MASK, FROM_MASK)[0])
    layer.eval()
    assert torch.equal(layer(video, query, TO_MASK, FROM_MASK)[0], layer(video, query, TO_MASK, FROM_MASK)[0])


def test_without_the_second_exchange_frames_do_not_hear_of_each_other(nodes):
    video, query, _ = nodes
    every = torch.ones(2, 4, dtype=torch.bool)
    layer = CrossModalGraphLayer(5, self_modal=False)
    changed = video.clone()
    changed[:, 0] += 1
    plain, moved = (layer(frames, query, every, FROM_MASK)[0] for frames in (video, changed))
    torch.testing.assert_close(plain[:, 1:], moved[:, 1:])


@pytest.mark.parametrize("normalise", ["sender", "receiver"])
def test_gradients_are_right(normalise):
    torch.manual_seed(0)
    layer = CrossModalGraphLayer(2, normalise, dropout=0.0).double()
    video, query = (torch.randn(1, count, 2, dtype=torch.double, requires_grad=True) for count in (3, 2))
    masks = torch.tensor([[True, True, False]]), torch.tensor([[True, True]])
    assert torch.autograd.gradcheck(lambda v, q: layer(v, q, *masks)[0][:, :2], (video, query))
