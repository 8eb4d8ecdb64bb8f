"""Context-query attention and highlighting against their equations, one step after the other."""

import pytest
import torch

from ommatid.nn.context_query import AttentionPool, ContextQueryAttention, QueryGuidedHighlighting

DIM = 6


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    context_mask = torch.tensor([[True, True, True, False], [True] * 4])
    query_mask = torch.tensor([[True, True, False], [True] * 3])
    return torch.randn(2, 4, DIM), torch.randn(2, 3, DIM), context_mask, query_mask


def noisy(inputs):
    """The same sequences, with something large behind their ends."""
    context, query, context_mask, query_mask = inputs
    context = torch.where(context_mask[..., None], context, 50.0)
    return context, torch.where(query_mask[..., None], query, -50.0), context_mask, query_mask


def slow_attention(attention, context, query):
    """B8 of one unpadded pair, cell by cell."""
    w_c, w_q, w_m = attention.context.weight[0], attention.query.weight[0], attention.product[0]
    steps, words = range(len(context)), range(len(query))
    similarity = torch.stack([torch.stack([w_c @ c + w_q @ q + w_m @ (c * q) for q in query]) for c in context])
    to_words = [[similarity[i, j].exp() / similarity[i].exp().sum() for j in words] for i in steps]
    to_time = [[similarity[i, j].exp() / similarity[:, j].exp().sum() for j in words] for i in steps]
    rows = []
    for i in steps:
        told = sum(to_words[i][j] * query[j] for j in words)
        echoed = sum(to_words[i][j] * to_time[k][j] * context[k] for j in words for k in steps)
        rows.append(attention.join(torch.cat([context[i], told, context[i] * told, context[i] * echoed])))
    return torch.stack(rows)


def test_attention_equals_its_equation_on_every_sequence_without_its_padding(inputs):
    attention = ContextQueryAttention(DIM)
    found = attention(*inputs)
    for row, (context, query, context_mask, query_mask) in enumerate(zip(*inputs, strict=True)):
        expected = slow_attention(attention, context[context_mask], query[query_mask])
        torch.testing.assert_close(found[row][context_mask], expected)


def test_attention_never_reads_the_padding(inputs):
    attention, mask = ContextQueryAttention(DIM), inputs[2]
    torch.testing.assert_close(attention(*noisy(inputs))[mask], attention(*inputs)[mask])


def test_only_the_similarity_is_dropped_and_in_training_only(inputs):
    attention = ContextQueryAttention(DIM, dropout=0.5)
    context, query, *_ = inputs
    assert not torch.equal(attention.similarity(context, query), attention.similarity(context, query))
    attention.eval()
    assert torch.equal(attention(*inputs), attention(*inputs))


def test_the_pool_is_a_mean_weighted_by_a_softmax_over_valid_tokens(inputs):
    pool, (_, query, _, query_mask) = AttentionPool(DIM), inputs
    for row, mask in enumerate(query_mask):
        words = query[row][mask]
        share = (words @ pool.weight.weight[0]).softmax(dim=0)
        torch.testing.assert_close(pool(query, query_mask)[row], share @ words)


def test_highlighting_scales_what_knows_the_query_by_its_own_score(inputs):
    context, query, context_mask, query_mask = inputs
    block = QueryGuidedHighlighting(DIM)
    highlighted, logits = block(*inputs)
    sentence = block.pool(query, query_mask)
    for row in range(2):
        for step in range(4):
            features = block.join(torch.cat([context[row, step], sentence[row]]))
            torch.testing.assert_close(logits[row, step], block.score(features)[0])
            scale = logits[row, step].sigmoid() if context_mask[row, step] else 0.0
            torch.testing.assert_close(highlighted[row, step], features * scale)


def test_highlighting_never_reads_the_padding_and_leaves_it_zero(inputs):
    block, mask = QueryGuidedHighlighting(DIM), inputs[2]
    highlighted, logits = block(*inputs)
    other, other_logits = block(*noisy(inputs))
    torch.testing.assert_close(other, highlighted)
    torch.testing.assert_close(other_logits[mask], logits[mask])
    assert not highlighted[~mask].any()


def test_gradients_stay_finite_where_sequences_are_padded(inputs):
    attention, block = ContextQueryAttention(DIM), QueryGuidedHighlighting(DIM)
    context, query, *masks = inputs
    context.requires_grad_()
    highlighted, logits = block(attention(context, query, *masks), query, *masks)
    (highlighted.sum() + (logits * masks[0]).sum()).backward()
    gradients = [context.grad, *(p.grad for p in [*attention.parameters(), *block.parameters()])]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not context.grad[~masks[0]].any()


def test_both_run_in_half_precision(inputs):
    context, query, *masks = inputs
    attention, block = ContextQueryAttention(DIM).bfloat16(), QueryGuidedHighlighting(DIM).bfloat16()
    context, query = context.bfloat16(), query.bfloat16()
    highlighted, logits = block(attention(context, query, *masks), query, *masks)
    assert highlighted.dtype == logits.dtype == torch.bfloat16
    assert highlighted.isfinite().all()
