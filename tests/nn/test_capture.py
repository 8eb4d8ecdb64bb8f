import gc
import weakref

import pytest
import torch
from torch import nn

from ommatid.errors import InputError
from ommatid.nn.capture import capture, select


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    )


def test_inputs_and_outputs_are_what_the_layers_saw(model):
    x = torch.randn(5, 4)
    with capture(model, "0", what="input") as inputs, capture(model, ["0", "3"], what="output") as outputs:
        y = model(x)
        assert inputs["0"] is x
        assert outputs["3"] is y
        torch.testing.assert_close(outputs["0"], model[0](x))


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (nn.BatchNorm1d, ["1", "3.1"]),
        ("3.*", ["3.0", "3.1"]),
        (["3.1", nn.ReLU, "0"], ["0", "2", "3.1"]),
        ("?", ["0", "1", "2", "3"]),
    ],
)
def test_layers_are_named_by_pattern_or_type_in_model_order(model, layers, names):
    assert list(select(model, layers)) == names


def test_layers_can_be_the_modules_themselves(model):
    assert list(select(model, [model[3][0], model[1]])) == ["1", "3.0"]


def test_the_latest_forward_wins(model):
    first, second = torch.randn(5, 4), torch.randn(2, 4)
    with capture(model, "0", what="input") as acts:
        model(first)
        model(second)
        assert acts["0"] is second
        acts.clear()
        assert not acts
        model(first)
        assert acts["0"] is first


def test_nothing_is_kept_after_the_block(model):
    with capture(model, nn.Linear) as acts:
        model(torch.randn(5, 4))
        graph = weakref.ref(acts["0"])
    gc.collect()
    assert acts == {}
    assert graph() is None


def test_hooks_are_removed_even_after_an_error(model):
    with pytest.raises(ZeroDivisionError), capture(model, "*"):
        raise ZeroDivisionError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_nested_captures_do_not_disturb_each_other(model):
    with capture(model, "0") as outer:
        with capture(model, "0") as inner:
            model(torch.randn(5, 4))
        assert inner == {}
        assert "0" in outer


def test_captured_tensors_carry_gradients(model):
    x = torch.randn(5, 4, requires_grad=True)
    with capture(model, "1", what="input") as acts:
        model(x)
        acts["1"].sum().backward()
    assert x.grad.abs().sum() > 0


def test_an_input_given_by_keyword_is_captured():
    layer = nn.Sequential(nn.MultiheadAttention(4, 1))
    query = torch.randn(2, 4)
    with capture(layer, "0", what="input") as acts:
        layer[0](query=query, key=query, value=query)
        assert acts["0"] is query


def test_unknown_layers_are_named(model):
    with pytest.raises(InputError, match=r"unknown layer '3\.x': did you mean '3\.1'"):
        select(model, "3.x")
    with pytest.raises(InputError, match="the model has no Conv2d, expected a type of layer that it has"):
        select(model, nn.Conv2d)
    with pytest.raises(InputError, match="found a Linear that is not part of the model"):
        select(model, [nn.Linear(1, 1)])
