"""A bidirectional LSTM without packing: what torch's packed sequences give."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ommatid.nn.bidirectional_lstm import BidirectionalLSTM, end_states

LENGTHS = torch.tensor([5, 2, 1])


@pytest.fixture
def sequence():
    torch.manual_seed(0)
    return torch.randn(3, 5, 4)


@pytest.fixture
def mask():
    return torch.arange(5) < LENGTHS[:, None]


def packed(layers):
    """torch's own, and ours with its weights."""
    torch.manual_seed(0)
    theirs = nn.LSTM(4, 3, layers, batch_first=True, bidirectional=True)
    ours = BidirectionalLSTM(4, 6, layers)
    for layer in range(layers):
        for direction, suffix in ((ours.ahead[layer], ""), (ours.back[layer], "_reverse")):
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(direction, f"{part}_l0").data = getattr(theirs, f"{part}_l{layer}{suffix}").data
    return ours, theirs


@pytest.mark.parametrize("layers", [1, 3])
def test_states_are_those_of_packed_sequences(layers, sequence, mask):
    ours, theirs = packed(layers)
    packs = pack_padded_sequence(sequence, LENGTHS, batch_first=True, enforce_sorted=False)
    output, (last, _) = theirs(packs)
    expected = pad_packed_sequence(output, batch_first=True, total_length=5)[0]
    found = ours(sequence, mask)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(end_states(found, mask), torch.cat([last[-2], last[-1]], dim=1))


def test_padding_changes_nothing_and_comes_out_as_zero(sequence, mask):
    lstm = BidirectionalLSTM(4, 6, 2).eval()
    noisy = torch.where(mask[..., None], sequence, 9.0)
    torch.testing.assert_close(lstm(noisy, mask), lstm(sequence, mask))
    torch.testing.assert_close(lstm(sequence[1:2, :2], mask[1:2, :2])[0], lstm(sequence, mask)[1, :2])
    assert not lstm(noisy, mask)[~mask].any()


def test_dropout_acts_between_layers_in_training_only(sequence, mask):
    lstm = BidirectionalLSTM(4, 6, 2, dropout=0.5)
    assert not torch.equal(lstm(sequence, mask), lstm(sequence, mask))
    lstm.eval()
    assert torch.equal(lstm(sequence, mask), lstm(sequence, mask))
    single = BidirectionalLSTM(4, 6, 1, dropout=0.5)
    assert torch.equal(single(sequence, mask), single(sequence, mask))


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="width must be even, half for each direction: got 5"):
        BidirectionalLSTM(4, 5)
