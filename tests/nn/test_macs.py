import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ommatid.nn.macs import count_macs, count_parameters


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


HEADS = (2, 3, 10, 8)  # batch, head, step, channel
PRODUCTS = 2 * 3 * 2 * 10 * 10 * 8  # scores and mixture


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("masked", [False, True])
def test_both_products_of_attention_are_counted(device, masked):
    heads = torch.zeros(HEADS, device=device)
    mask = torch.zeros(1, 3, 10, 10, device=device) if masked else None
    attend = Calls(lambda heads: F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask))
    assert count_macs(attend, heads) == PRODUCTS


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Linear(4, 5), (7, 4), 7 * 4 * 5),
        (nn.Linear(4, 5), (2, 7, 4), 14 * 4 * 5),
        (nn.Conv2d(8, 6, 3, padding=1), (1, 8, 5, 5), 25 * 6 * 8 * 9),
        (nn.Conv2d(8, 8, 3, padding=1, groups=4), (2, 8, 5, 5), 2 * 25 * 8 * 2 * 9),
        (nn.Conv2d(8, 8, 3, stride=2, groups=8), (1, 8, 7, 7), 9 * 8 * 9),
        (nn.Conv1d(8, 6, 3, groups=2), (1, 8, 5), 3 * 6 * 4 * 3),
        (nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2), (1, 8, 5, 5), 25 * 8 * 3 * 16),
        (Calls(lambda x: x @ x.mT), (2, 3, 5, 4), 6 * 5 * 5 * 4),
        (Calls(lambda x: torch.einsum("bhtd,bhsd->bhts", x, x)), (2, 3, 5, 4), 6 * 5 * 5 * 4),
        (Calls(lambda x: x @ x[0]), (5, 4), 5 * 4),
        (Calls(lambda x: x[0] @ x[1]), (5, 4), 4),
        (Calls(lambda x: torch.addmv(x[:, 0], x, x[0])), (5, 4), 5 * 4),
        (Calls(lambda x: torch.addbmm(x[0, :, :1], x, x.mT)), (3, 5, 4), 3 * 5 * 5 * 4),
        (Calls(lambda x: F.bilinear(x, x, x.new_zeros(3, 4, 4))), (2, 5, 4), 10 * 3 * 4 * 4),
        (nn.LSTM(8, 4, num_layers=2, bidirectional=True), (3, 2, 8), 6 * 16 * 2 * ((8 + 4) + (8 + 4))),
        (nn.GRU(8, 4), (3, 2, 8), 6 * 12 * (8 + 4)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8), 10 * 8 * (4 * 8 + 2 * 5 + 2 * 16)),
        (nn.Sequential(nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1)), (1, 4, 5, 5), 0),
    ],
)
def test_every_product_counts_one_multiply_add_per_term(module, shape, expected):
    assert count_macs(module, torch.zeros(shape)) == expected


def test_the_whole_batch_and_every_input_are_counted():
    distance = nn.Bilinear(4, 4, 1)
    assert count_macs(distance, torch.zeros(6, 4), torch.zeros(6, 4)) == 6 * 16


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 2))
    model.train()
    model[1].eval()
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 3, 8, 8)
    fast, generator = torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state()
    assert count_macs(model, images) == 2 * (36 * 4 * 27 + 144 * 2)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert model.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert len(seen) == 1
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model] == [1, 0, 0, 0, 0]
    assert not nn.modules.module._global_forward_pre_hooks
    assert not nn.modules.module._global_forward_hooks
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_model_is_left_as_it_was_when_the_pass_fails():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout())
    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError):
        count_macs(model, torch.zeros(1, 5))
    assert model.training
    assert model[1].training
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert not nn.modules.module._global_forward_pre_hooks
    assert count_macs(model, torch.zeros(1, 3)) == 12


def test_counting_is_without_gradients_and_in_evaluation_mode():
    def check(images):
        assert not torch.is_grad_enabled()
        assert not model.training
        return images

    model = Calls(check)
    assert count_macs(model, torch.zeros(1)) == 0
    assert torch.is_grad_enabled()


def test_parameters_are_counted_once_and_buffers_not():
    shared = nn.Linear(4, 4, bias=False)
    assert count_parameters(nn.Sequential(shared, nn.BatchNorm1d(4), shared)) == 16 + 8
    assert count_parameters(nn.Linear(4, 5).requires_grad_(False)) == 25
