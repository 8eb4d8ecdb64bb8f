"""MGSL-Net's blocks against the numbers recorded from published code."""

import torch

from ommatid.grounding.mgsl_net import published_fusion, published_graph_layer, published_memory
from ommatid.nn.attention import AdditiveAttention
from ommatid.nn.cross_graph import CrossModalGraphLayer
from ommatid.nn.recurrent import BidirectionalGRU
from ommatid.nn.slot_memory import SlotMemory
from parity.fixture import load_fixture


def test_graph_layers_and_fusion_reproduce_the_ancestor():
    fixture = load_fixture("mgsl-net-crossgraph")
    state = fixture.tensors("state")
    video, query = fixture.tensor("in/video").requires_grad_(), fixture.tensor("in/query")
    dim = video.shape[-1]
    query_mask = fixture.tensor("in/query_mask").bool()
    every_frame = torch.ones(video.shape[:2], dtype=torch.bool)
    every_word = torch.ones(query.shape[:2], dtype=torch.bool)

    layer = CrossModalGraphLayer(dim, normalise="receiver").eval()
    layer.load_state_dict(published_graph_layer(state))
    messages = {}
    for name, module in {"cross_v": layer.video_update, "cross_q": layer.query_update}.items():
        module.register_forward_hook(
            lambda _, given, made, name=name: messages.update({name: given[1], f"{name}>": made})
        )
    for name, module in {"self_v": layer.video_self, "self_q": layer.query_self}.items():
        module.register_forward_hook(lambda _, given, made, name=name: messages.update({name: given[1]}))

    hidden_video, hidden_query = video, query
    for _ in range(fixture.config["layers"]):
        hidden_video, hidden_query = layer(hidden_video, hidden_query, every_frame, every_word)
    for key, found in {
        "out/cross_v": messages["cross_v"],
        "out/cross_q": messages["cross_q"],
        "out/video1": messages["cross_v>"],
        "out/query1": messages["cross_q>"],
        "out/self_v": messages["self_v"],
        "out/self_q": messages["self_q"],
        "out/video2": hidden_video,
        "out/query2": hidden_query,
    }.items():
        fixture.assert_close(found, key)

    attention, gru = AdditiveAttention(dim), BidirectionalGRU(2 * dim, dim)
    attention_state, gru_state = published_fusion(state)
    attention.load_state_dict(attention_state)
    gru.load_state_dict(gru_state)
    told = attention(hidden_video, hidden_query, query_mask)
    fused = gru(torch.cat([hidden_video, told], dim=-1), every_frame)
    fixture.assert_close(fused, "out/fused")
    (fused * torch.linspace(-1, 1, fused.shape[-1])).sum().backward()
    fixture.assert_close(video.grad, "grad/video")


def test_sequential_write_reproduces_every_state_of_the_memory():
    fixture = load_fixture("mgsl-net-memory")
    config = fixture.config
    memory = SlotMemory(config["dim"], config["slots"], tau=config["temperature"], write="sequential")
    memory.load_state_dict(published_memory(fixture.tensors("state")), strict=False)
    tokens = fixture.tensor("in/tokens")
    similarity, weight, trace = memory.trace(tokens)
    fixture.assert_close(similarity, "out/similarity")
    fixture.assert_close(weight, "out/weight")
    fixture.assert_close(trace, "out/memory_trace")

    memory.write(tokens[None], torch.ones(1, len(tokens), dtype=torch.bool))
    torch.testing.assert_close(memory.memory, trace[-1])
