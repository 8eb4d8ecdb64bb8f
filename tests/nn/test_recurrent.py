import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ommatid.nn.recurrent import BidirectionalGRU, published_gru, reversal

LENGTHS = torch.tensor([4, 7, 1, 6])
MASK = torch.arange(7) < LENGTHS[:, None]


@pytest.fixture
def sequence():
    return torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))


def test_equals_torchs_packed_bidirectional_gru_for_ragged_lengths(sequence):
    torch.manual_seed(1)
    theirs, ours = nn.GRU(3, 5, batch_first=True, bidirectional=True), BidirectionalGRU(3, 10)
    ours.load_state_dict(published_gru({f"gru.{name}": value for name, value in theirs.state_dict().items()}, "gru."))
    packed = pack_padded_sequence(sequence, LENGTHS, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True)
    torch.testing.assert_close(ours(sequence, MASK), expected)


def test_what_is_padded_never_matters_and_is_zero_in_the_output(sequence):
    gru = BidirectionalGRU(3, 4)
    other = torch.where(MASK[..., None], sequence, 1e3)
    out = gru(sequence, MASK)
    assert torch.equal(out, gru(other, MASK))
    assert (out[~MASK] == 0).all()


def test_a_sequence_alone_gives_what_it_gives_in_company(sequence):
    gru = BidirectionalGRU(3, 4)
    together = gru(sequence, MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = gru(sequence[row : row + 1, :length], MASK[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0])


def test_reversing_twice_changes_nothing():
    flip = reversal(MASK)
    assert torch.equal(flip.gather(1, flip), torch.arange(7).expand(4, 7))
    assert flip[0].tolist() == [3, 2, 1, 0, 4, 5, 6]


def test_gradients_are_right_and_stay_out_of_the_padding():
    torch.manual_seed(0)
    gru = BidirectionalGRU(2, 4).double()
    mask = torch.tensor([[True, True, True], [True, False, False]])
    sequence = torch.randn(2, 3, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: gru(x, mask), sequence)
    gru(sequence, mask).sum().backward()
    assert (sequence.grad[~mask] == 0).all()
    assert (sequence.grad[mask] != 0).all()


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="width must be even, half for each direction: got 5"):
        BidirectionalGRU(3, 5)
