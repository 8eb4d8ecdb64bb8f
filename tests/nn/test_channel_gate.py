import pytest
import torch

from ommatid.errors import InputError
from ommatid.nn.channel_gate import ChannelGate


def gate(*differences, **settings):
    made = ChannelGate(len(differences), **settings)
    made.logits.data = torch.tensor([[value, 0.0] for value in differences])
    return made


def test_a_soft_gate_is_the_probability_of_being_on():
    made = gate(0.5, -1.0, 3.0, mode="softmax")
    maps = torch.rand(2, 3, 4, 5, 6)
    on, off = made.logits.exp().unbind(dim=1)
    expected = maps * (on / (on + off)).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(made(maps), expected)
    torch.testing.assert_close(made.eval()(maps), expected)


def test_gates_begin_as_they_are_told():
    assert torch.equal(ChannelGate(3, start=2.0).differences(), torch.full((3,), 2.0))


def test_a_draw_is_all_or_nothing_and_as_likely_as_it_should_be():
    torch.manual_seed(0)
    made = gate(0.0, 2.0, -2.0)
    drawn = made(torch.ones(4000, 3, 1))[..., 0]
    assert ((drawn - drawn.round()).abs() < 1e-6).all()
    torch.testing.assert_close(drawn.mean(dim=0), made.probs(), atol=0.03, rtol=0)


def test_volumes_of_a_batch_draw_for_themselves_and_a_seed_decides():
    made = gate(0.0, 0.0, 0.0, 0.0)
    maps = torch.ones(8, 4, 3, 3)
    torch.manual_seed(0)
    first = made(maps)
    assert len(first[:, :, 0, 0].unique(dim=0)) > 1
    torch.manual_seed(0)
    assert torch.equal(made(maps), first)


def test_evaluation_draws_nothing():
    made = gate(0.5, -0.5).eval()
    state = torch.get_rng_state()
    assert made(torch.ones(3, 2, 2))[0].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mode", ["gumbel", "softmax"])
def test_gradients_open_what_helps_and_close_what_harms(mode):
    torch.manual_seed(0)
    made = ChannelGate(2, mode=mode)
    maps = torch.ones(64, 2, 3)
    loss = (made(maps)[:, 1] - made(maps)[:, 0]).mean()
    loss.backward()
    helps, harms = made.logits.grad
    assert helps[0] < 0 < helps[1]
    assert harms[0] > 0 > harms[1]


def test_gradients_of_soft_gates_are_those_of_finite_differences():
    made = gate(0.3, -0.7, mode="softmax").double()
    maps = torch.rand(2, 2, 4, dtype=torch.float64)

    def value(logits):
        return torch.func.functional_call(made, {"logits": logits}, (maps,)).square().sum()

    logits = made.logits.detach().clone().requires_grad_(True)
    [found] = torch.autograd.grad(value(logits), logits)
    # Probabilities are single precision, whatever the logits are.
    for place in range(4):
        step = torch.zeros(4, dtype=torch.float64).index_fill(0, torch.tensor(place), 1e-2).view(2, 2)
        with torch.no_grad():
            slope = (value(logits + step) - value(logits - step)) / 2e-2
        assert float(found.flatten()[place]) == pytest.approx(float(slope), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_passes_through(dtype):
    made = ChannelGate(2)
    found = made(torch.ones(4, 2, 3, dtype=dtype))
    assert found.dtype == dtype
    found.float().sum().backward()
    assert torch.isfinite(made.logits.grad).all()


def test_channels_are_ranked_by_the_difference_of_their_logits():
    made = gate(0.5, 3.0, -1.0, 2.0)
    made.logits.data += torch.tensor([[5.0], [0.0], [9.0], [-3.0]])
    assert made.ranking().tolist() == [1, 3, 0, 2]
    assert made.kept(2).tolist() == [1, 3]
    assert made.kept().tolist() == [0, 1, 3]
    assert gate(0.0, 0.0, 0.0).kept(2).tolist() == [0, 1], "the first of those that are alike"


def test_what_cannot_be_is_told():
    with pytest.raises(InputError, match="top must lie from 1 to 2, the number of channels, found 3"):
        gate(0.0, 0.0).kept(3)
    with pytest.raises(InputError, match="channels must be at least 1, found 0"):
        ChannelGate(0)
    with pytest.raises(InputError, match="temperature must be above 0"):
        ChannelGate(2, temperature=0.0)
