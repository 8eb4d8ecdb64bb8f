"""How a long sequence reads a short one: context-query attention, and highlighting of what the query is about."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Context = Float[Tensor, "batch time dim"]
Query = Float[Tensor, "batch word dim"]
ContextMask = Bool[Tensor, "batch time"]
QueryMask = Bool[Tensor, "batch word"]


class ContextQueryAttention(nn.Module):
    """Every step of a context meets the words that concern it, and the steps that concern those words.

    BiDAF and QANet's attention in both directions, as VSLNet uses it (arXiv:2004.13931, B8): similarity
    S_ij = w_c c_i + w_q q_j + w_m (c_i * q_j), A = softmax of S over words, B = softmax of S over time,
    output = W [c; A q; c * A q; c * A B^T c]. Outputs of padded steps mean nothing.

    Args:
        dim: width of context, query and output.
        dropout: of context and query where their similarity is measured, in training.

    Examples:
        >>> attention = ContextQueryAttention(8)
        >>> masks = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
        >>> attention(torch.randn(2, 5, 8), torch.randn(2, 3, 8), *masks).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.context, self.query = nn.Linear(dim, 1, bias=False), nn.Linear(dim, 1, bias=False)
        self.product = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, dim)))
        self.join = nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, context: Context, query: Query, context_mask: ContextMask, query_mask: QueryMask) -> Context:
        similarity = self.similarity(context, query)
        to_words = similarity.masked_fill(~query_mask[:, None], float("-inf")).softmax(dim=2)
        to_time = similarity.masked_fill(~context_mask[..., None], float("-inf")).softmax(dim=1)
        told = to_words @ query
        # The words fetch their steps first: (B^T c) is as short as the query, A B^T would be time by time.
        echoed = to_words @ (to_time.transpose(1, 2) @ context)
        return self.join(torch.cat([context, told, context * told, context * echoed], dim=-1))

    def similarity(self, context: Context, query: Query) -> Float[Tensor, "batch time word"]:
        """The trilinear similarity S of every step with every word."""
        context, query = self.dropout(context), self.dropout(query)
        together = (context * self.product) @ query.transpose(1, 2)
        return together + self.context(context) + self.query(query).transpose(1, 2)


class AttentionPool(nn.Module):
    """A padded sequence as one vector: the mean of its tokens under a softmax of w^T token.

    Examples:
        >>> AttentionPool(4)(torch.ones(1, 3, 4), torch.tensor([[True, True, False]])).tolist()
        [[1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Linear(dim, 1, bias=False)

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch dim"]:
        share = self.weight(tokens).masked_fill(~mask[..., None], float("-inf")).softmax(dim=1)
        return (share * tokens).sum(dim=1)


class QueryGuidedHighlighting(nn.Module):
    """Every step is told the whole query, says whether it belongs to what the query describes, and is scaled by that
    (VSLNet, arXiv:2004.13931, B8-B9): f = W [c; pooled query], h = sigmoid(w f), output f * h.

    Returns the scaled steps, zero where padded, and the logits of h, which the foreground supervises.

    Examples:
        >>> highlighting = QueryGuidedHighlighting(8)
        >>> masks = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
        >>> highlighted, logits = highlighting(torch.randn(2, 5, 8), torch.randn(2, 3, 8), *masks)
        >>> highlighted.shape, logits.shape
        (torch.Size([2, 5, 8]), torch.Size([2, 5]))
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pool = AttentionPool(dim)
        self.join = nn.Linear(2 * dim, dim)
        self.score = nn.Linear(dim, 1)

    def forward(
        self, context: Context, query: Query, context_mask: ContextMask, query_mask: QueryMask
    ) -> tuple[Context, Float[Tensor, "batch time"]]:
        sentence = self.pool(query, query_mask)[:, None].expand_as(context)
        features = self.join(torch.cat([context, sentence], dim=-1))
        logits = self.score(features)[..., 0]
        return features * (logits.sigmoid() * context_mask)[..., None], logits
