"""The decoder follows its equations, never repeats a label, and passes no gradient through a choice."""

import pytest
import torch

from ommatid.errors import InputError
from ommatid.nn.label_decoder import (
    LabelDecoder,
    RegionAttention,
    best_in_pool,
    best_remaining,
    confident_labels,
    path_confidence,
    published_label_decoder,
)

LABELS, WIDTH, HIDDEN, ATTENTION, REGIONS, BATCH = 6, 5, 7, 4, 9, 3


@pytest.fixture
def features():
    return torch.randn(BATCH, REGIONS, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def initial():
    return torch.rand(BATCH, LABELS, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def truth():
    return torch.tensor([[1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]).bool()


def made_decoder(end_symbol=False, sharp=6.0):
    torch.manual_seed(2)
    decoder = LabelDecoder(LABELS, WIDTH, HIDDEN, ATTENTION, end_symbol=end_symbol).eval()
    with torch.no_grad():
        # An untrained decoder calls everything equally probable.
        decoder.output[3].weight.mul_(sharp)
    return decoder


class Greedy(torch.nn.Module):
    def __init__(self, decoder, steps):
        super().__init__()
        self.decoder, self.steps = decoder, steps

    def forward(self, features, initial):
        return tuple(self.decoder.unroll(features, initial, self.steps))


# --- attention ---


def test_attention_is_that_of_its_equation(features):
    torch.manual_seed(3)
    attention, hidden = RegionAttention(WIDTH, HIDDEN, ATTENTION), torch.randn(BATCH, HIDDEN)
    context, weights = attention(features, hidden)
    for row in range(BATCH):
        energy = torch.stack(
            [attention.energy(torch.relu(attention.region(v) + attention.guide(hidden[row])))[0] for v in features[row]]
        )
        expected = torch.sigmoid(attention.gate(hidden[row])) * (energy.softmax(0)[:, None] * features[row]).sum(0)
        torch.testing.assert_close(weights[row], energy.softmax(0))
        torch.testing.assert_close(context[row], expected)


def test_without_its_gate_attention_is_a_mean_of_regions(features):
    context, weights = RegionAttention(WIDTH, HIDDEN, ATTENTION, gate=False)(features, torch.randn(BATCH, HIDDEN))
    torch.testing.assert_close(context, (weights[..., None] * features).sum(dim=1))


def test_several_states_a_sample_are_as_many_single_ones(features):
    attention, hidden = RegionAttention(WIDTH, HIDDEN, ATTENTION), torch.randn(BATCH, 4, HIDDEN)
    found = attention(features, hidden, attention.keys(features))
    for beam in range(4):
        for several, single in zip(found, attention(features, hidden[:, beam]), strict=True):
            torch.testing.assert_close(several[:, beam], single)


# --- one step ---


def test_a_step_is_that_of_its_equation(features, initial):
    decoder = made_decoder()
    state = decoder.start(features, initial)
    mean = features.mean(dim=1)
    torch.testing.assert_close(state.hidden, decoder.first_hidden(mean))
    torch.testing.assert_close(state.cell, decoder.first_cell(mean))
    state = state._replace(chosen=torch.tensor([0, 5, 3])[:, None] == torch.arange(LABELS))
    context, weights = decoder.attention(features, state.hidden)
    told = torch.cat([initial, context, state.chosen.float()], dim=1)
    hidden, cell = decoder.cell(told, (state.hidden, state.cell))
    logits = decoder.output[3](decoder.output[1](hidden))
    found, found_logits, found_weights = decoder.step(state, features)
    for actual, expected in (
        (found.hidden, hidden),
        (found.cell, cell),
        (found.probs, logits.sigmoid()),
        (found_logits, logits),
        (found_weights, weights),
    ):
        torch.testing.assert_close(actual, expected)
    assert torch.equal(found.chosen, state.chosen)


def test_with_an_end_symbol_the_labels_of_a_softmax_are_fed_back(features, initial):
    decoder = made_decoder(end_symbol=True)
    state, logits, _ = decoder.step(decoder.start(features, initial), features)
    assert logits.shape == (BATCH, LABELS + 1)
    torch.testing.assert_close(state.probs, logits.softmax(dim=1)[:, :-1])


def test_a_single_region_needs_no_attention(features, initial):
    """The arm without attention: whatever the weights inside, the context is the gated mean."""
    decoder, mean = made_decoder(), features.mean(dim=1, keepdim=True)
    before = decoder.unroll(mean, initial, 3)
    with torch.no_grad():
        decoder.attention.energy.weight.neg_()
        decoder.attention.region.bias.add_(1)
    for found, expected in zip(decoder.unroll(mean, initial, 3), before, strict=True):
        torch.testing.assert_close(found, expected)


def test_dropout_stands_before_both_output_maps(features, initial):
    decoder = made_decoder()
    assert [type(layer).__name__ for layer in decoder.output] == ["Dropout", "Linear", "Dropout", "Linear"]
    decoder.train()
    first, second = (decoder.unroll(features, initial, 2).logits for _ in range(2))
    assert not torch.equal(first, second)


# --- its own order ---


def test_no_label_is_named_twice(features, initial):
    labels = made_decoder().unroll(features, initial, LABELS).labels
    assert torch.equal(labels.sort(dim=1).values, torch.arange(LABELS).expand(BATCH, -1))


def test_every_step_names_the_best_label_of_its_pool_and_is_told_so(features, initial):
    decoder = made_decoder().requires_grad_(False)
    found = decoder.unroll(features, initial, 4)
    state = decoder.start(features, initial)
    product = torch.ones(BATCH)
    for step in range(4):
        state, logits, weights = decoder.step(state, features)
        torch.testing.assert_close(found.logits[:, step], logits)
        torch.testing.assert_close(found.weights[:, step], weights)
        for row in range(BATCH):
            pool = [label for label in range(LABELS) if not state.chosen[row, label]]
            best = max(pool, key=lambda label: float(logits[row, label]))
            assert int(found.labels[row, step]) == best
            product[row] *= logits[row, best].sigmoid()
        torch.testing.assert_close(found.confidence[:, step], product ** (1 / (step + 1)))
        state = state._replace(chosen=state.chosen | (found.labels[:, step, None] == torch.arange(LABELS)))


def test_a_label_outside_the_pool_is_never_chosen_whatever_its_score():
    pool = torch.tensor([[False, True, False]])
    for scores in ([1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, -torch.inf, 0.0]):
        assert best_in_pool(torch.tensor([scores]), pool).tolist() == [1]


def test_more_steps_than_labels_are_refused(features, initial):
    with pytest.raises(InputError, match="steps: found 7, expected 1 to 6, the number of labels"):
        made_decoder().unroll(features, initial, LABELS + 1)


def test_with_an_end_symbol_its_own_order_is_of_labels_alone(features, initial):
    decoder = made_decoder(end_symbol=True)
    with torch.no_grad():
        decoder.output[3].bias[-1] = 50
    assert decoder.unroll(features, initial, LABELS).labels.amax() == LABELS - 1


def test_samples_do_not_know_each_other(features, initial):
    decoder = made_decoder()
    together = decoder.unroll(features, initial, 4)
    for row in range(BATCH):
        alone = decoder.unroll(features[row : row + 1], initial[row : row + 1], 4)
        for found, expected in zip(alone, together, strict=True):
            torch.testing.assert_close(found[0], expected[row])


# --- a given order ---


def test_told_its_own_order_it_does_the_same(features, initial):
    decoder = made_decoder()
    own = decoder.unroll(features, initial, 4)
    for found, expected in zip(decoder.unroll_order(features, initial, own.labels), own, strict=True):
        torch.testing.assert_close(found, expected)


def test_what_it_is_told_changes_the_steps_after_it_only(features, initial):
    decoder = made_decoder(end_symbol=True)
    order = torch.tensor([[0, 1, 2, 6], [3, 6, -1, -1], [4, 5, 6, -1]])
    other = torch.where(torch.arange(4) == 1, torch.tensor([[5], [0], [0]]), order)
    before, after = (decoder.unroll_order(features, initial, each).logits for each in (order, other))
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert not torch.isclose(after[:, 2], before[:, 2]).all(dim=1).any()


def test_end_and_padding_are_no_labels(features, initial):
    decoder = made_decoder(end_symbol=True)
    ended, padded = (torch.tensor([[0, last, -1]]).expand(BATCH, -1) for last in (LABELS, -1))
    assert torch.equal(
        decoder.unroll_order(features, initial, ended).logits, decoder.unroll_order(features, initial, padded).logits
    )


def test_padding_leaves_the_confidence_of_the_path():
    probs = torch.tensor([[[0.9, 0.1], [0.5, 0.4], [0.3, 0.2]]])
    found = path_confidence(probs.log(), torch.tensor([[0, 1, -1]]))
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.6, 0.6]]))


def test_the_best_remaining_label_is_told_until_none_is_left(features, initial, truth):
    decoder = made_decoder(end_symbol=True).requires_grad_(False)
    found = decoder.unroll_remaining(features, initial, truth, steps=5)
    for row in range(BATCH):
        left = set(truth[row].nonzero()[:, 0].tolist())
        for step, label in enumerate(found.labels[row].tolist()):
            if left:
                assert label == max(left, key=lambda each: float(found.logits[row, step, each]))
                left.remove(label)
            else:
                assert label == (LABELS if step == truth[row].sum() else -1)
    told = decoder.unroll_order(features, initial, found.labels)
    torch.testing.assert_close(told.logits, found.logits)


def test_without_an_end_symbol_nothing_is_told_after_the_last_label(features, initial, truth):
    found = made_decoder().unroll_remaining(features, initial, truth, steps=5)
    assert torch.equal(found.labels >= 0, torch.arange(5) < truth.sum(dim=1, keepdim=True))


def test_an_empty_rest_is_the_end():
    assert best_remaining(torch.zeros(1, 4), torch.zeros(1, 3, dtype=torch.bool)).tolist() == [3]


# --- the greedy answer ---


def test_a_path_ends_where_its_confidence_first_fails():
    labels = torch.tensor([[3, 1, 2], [0, 1, 2], [2, 0, 1]])
    confidence = torch.tensor([[0.9, 0.4, 0.6], [0.3, 0.6, 0.7], [0.9, 0.8, 0.5]])
    found = confident_labels(labels, confidence, 0.5, 4)
    assert [row.nonzero()[:, 0].tolist() for row in found] == [[3], [0], [0, 1, 2]]
    released = confident_labels(labels, confidence, 0.5, 4, as_released=True)
    assert [row.nonzero()[:, 0].tolist() for row in released] == [[2, 3], [1, 2], [0, 1, 2]]
    assert not confident_labels(labels, confidence, 0.99, 4, as_released=True).any()
    assert confident_labels(labels, confidence, 0.99, 4).sum(dim=1).tolist() == [1, 1, 1]


# --- gradients, precision, export ---


def test_gradients_are_those_of_finite_differences(features, initial):
    decoder = made_decoder().double()
    inputs = features.double().requires_grad_(), initial.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda *each: decoder.unroll(*each, 3).logits, inputs)


def test_the_choice_has_no_gradient_but_the_probabilities_fed_back_have(features, initial):
    """Two steps: the first reaches the second through the LSTM and its probabilities, not through its label."""
    decoder = made_decoder()
    labels = decoder.unroll(features, initial, 2).labels
    free, told = (
        torch.autograd.grad(unrolled.logits[:, 1].sum(), decoder.output[3].bias)[0]
        for unrolled in (decoder.unroll(features, initial, 2), decoder.unroll_order(features, initial, labels))
    )
    assert torch.equal(free, told)
    assert (free != BATCH).any()


def test_every_parameter_learns(features, initial, truth):
    for end_symbol in (False, True):
        decoder = made_decoder(end_symbol).train()
        decoder.unroll(features, initial, 4).logits.square().sum().backward()
        assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("end_symbol", [False, True])
def test_half_precision_decodes_and_learns(features, initial, truth, end_symbol):
    decoder = made_decoder(end_symbol)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder.unroll(features, initial, 4)
        told = decoder.unroll_remaining(features, initial, truth, 4)
        decoder.search(features, initial, 2, 4)
    assert found.confidence.dtype == found.weights.dtype == torch.float32
    torch.testing.assert_close(found.weights.sum(dim=-1), torch.ones(BATCH, 4))
    expected = decoder.unroll_order(features, initial, found.labels).logits
    torch.testing.assert_close(found.logits.float(), expected, rtol=0.1, atol=0.1)
    (found.logits.float() + told.logits.float()).sum().backward()
    assert all(p.grad.isfinite().all() for p in decoder.parameters())


def test_greedy_decoding_can_be_exported(features, initial):
    greedy = Greedy(made_decoder(), 4)
    program = torch.export.export(greedy, (features, initial)).module()
    changed = features.flip(0), initial.flip(0)
    for found, expected in zip(program(*changed), greedy(*changed), strict=True):
        torch.testing.assert_close(found, expected)


def test_foreign_names_cover_every_weight():
    decoder = made_decoder()
    theirs = {
        "attn.encoder_att.weight": decoder.attention.region.weight,
        "attn.encoder_att.bias": decoder.attention.region.bias - 1,
        "attn.decoder_att.weight": decoder.attention.guide.weight,
        "attn.decoder_att.bias": torch.ones(ATTENTION),
        "attn.full_att.weight": decoder.attention.energy.weight,
        "attn.full_att.bias": torch.ones(1),
    }
    names = {
        "f_beta": decoder.attention.gate,
        "init_h": decoder.first_hidden,
        "init_c": decoder.first_cell,
        "decode_step": decoder.cell,
        "fc1": decoder.output[1],
        "fc2": decoder.output[3],
    }
    theirs |= {f"{name}.{part}": value for name, module in names.items() for part, value in module.named_parameters()}
    ours = published_label_decoder(theirs)
    assert ours.keys() == decoder.state_dict().keys()
    for name, value in decoder.state_dict().items():
        torch.testing.assert_close(ours[name], value)
