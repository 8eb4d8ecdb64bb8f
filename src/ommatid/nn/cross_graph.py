"""A graph over the frames of a video and the words of a sentence."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ommatid.nn.attention import sinusoid

Video = Float[Tensor, "batch time dim"]
Query = Float[Tensor, "batch word dim"]
Normalise = Literal["sender", "receiver"]


class GRUNodeUpdate(nn.Module):
    """A node takes in its message through an update gate and a reset gate (MGSL-Net, arXiv:2201.00454, E5)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gates = nn.Linear(2 * dim, 2 * dim)
        self.content = nn.Linear(2 * dim, dim)
        for gate in (*self.gates.weight.split(dim), self.content.weight):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(self.gates.bias)
        nn.init.zeros_(self.content.bias)

    def forward(
        self, node: Float[Tensor, "batch node dim"], message: Float[Tensor, "batch node dim"]
    ) -> Float[Tensor, "batch node dim"]:
        update, reset = self.gates(torch.cat([message, node], dim=-1)).sigmoid().chunk(2, dim=-1)
        content = torch.tanh(self.content(torch.cat([message, reset * node], dim=-1)))
        return torch.lerp(node, content, update)


class CrossModalGraphLayer(nn.Module):
    """Frames and words exchange messages, then each kind among its own (MGSL-Net, arXiv:2201.00454, E3-E6).

    Args:
        dim: width of frames and words.
        normalise: "sender": a node's weights over the nodes that send to it sum to one. "receiver": each sender's
            weights over its receivers sum to one, as the code released for the ancestor of the method has it.
        self_modal: whether the second exchange, among frames and among words, takes place.
        dropout: on the position-coded nodes of the second exchange, in training.

    Examples:
        >>> layer = CrossModalGraphLayer(8)
        >>> video, query = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
        >>> masks = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
        >>> [nodes.shape for nodes in layer(video, query, *masks)]
        [torch.Size([2, 5, 8]), torch.Size([2, 3, 8])]
    """

    def __init__(
        self, dim: int, normalise: Normalise = "sender", self_modal: bool = True, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.message = {"sender": message_by_sender, "receiver": message_by_receiver}[normalise]
        self.align = nn.Linear(dim, dim, bias=False)
        self.video_update, self.query_update = GRUNodeUpdate(dim), GRUNodeUpdate(dim)
        self.dropout = nn.Dropout(dropout)
        self.video_self = GRUNodeUpdate(dim) if self_modal else None
        self.query_self = GRUNodeUpdate(dim) if self_modal else None

    def forward(
        self, video: Video, query: Query, video_mask: Bool[Tensor, "batch time"], query_mask: Bool[Tensor, "batch word"]
    ) -> tuple[Video, Query]:
        aligned = self.align(video)
        to_video = self.message(aligned, query, query, query_mask, video_mask)
        to_query = self.message(query, aligned, aligned, video_mask, query_mask)
        video, query = self.video_update(video, to_video), self.query_update(query, to_query)
        if self.video_self is not None and self.query_self is not None:
            video = self.video_self(video, self._among(video, video_mask))
            query = self.query_self(query, self._among(query, query_mask))
        return video, query

    def _among(self, nodes: Float[Tensor, "batch node dim"], mask: Bool[Tensor, "batch node"]) -> Tensor:
        placed = self.dropout(nodes + sinusoid(nodes.shape[1], nodes.shape[2], nodes.device).to(nodes.dtype))
        return self.message(placed, placed, nodes, mask, mask)


def message_by_sender(
    receiver: Float[Tensor, "batch to dim"],
    sender: Float[Tensor, "batch from dim"],
    content: Float[Tensor, "batch from dim"],
    sender_mask: Bool[Tensor, "batch from"],
    receiver_mask: Bool[Tensor, "batch to"],
) -> Float[Tensor, "batch to dim"]:
    """What each node receives, with weights that sum to one over the senders (E4); similarities are not scaled."""
    # One head: exporters know attention with a head axis only.
    receiver, sender, content = receiver[:, None], sender[:, None], content[:, None]
    mask = sender_mask[:, None, None]
    return F.scaled_dot_product_attention(receiver, sender, content, attn_mask=mask, scale=1.0)[:, 0]


def message_by_receiver(
    receiver: Float[Tensor, "batch to dim"],
    sender: Float[Tensor, "batch from dim"],
    content: Float[Tensor, "batch from dim"],
    sender_mask: Bool[Tensor, "batch from"],
    receiver_mask: Bool[Tensor, "batch to"],
) -> Float[Tensor, "batch to dim"]:
    """What each node receives, with each sender's weights summing to one over the receivers (E4, as released)."""
    similarity = receiver @ sender.transpose(1, 2)
    weights = similarity.masked_fill(~receiver_mask[..., None], float("-inf")).softmax(dim=1)
    return (weights * sender_mask[:, None]) @ content
