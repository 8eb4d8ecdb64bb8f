"""VSLNet against the numbers recorded from the authors' PyTorch code, with both of its predictors."""

import pytest
import torch
from torch import nn

from ommatid.grounding.vslnet import (
    VSLNet,
    decode_spans,
    extended_foreground,
    highlight_loss,
    published_name,
    span_loss,
)
from parity.fixture import load_fixture


@pytest.fixture(params=["field-vslnet", "field-vslnet-transformer"])
def fixture(request):
    return load_fixture(request.param)


@pytest.fixture
def method(fixture):
    """The recorded network with its recorded weights, without dropout."""
    config, state = fixture.config, fixture.tensors("state")
    characters = len(state["embedding_net.char_emb.char_emb.weight"])
    method = VSLNet(
        feature_dim=fixture.array("in/video").shape[-1],
        word_dim=config["word_dim"],
        vocabulary_size=2 + len(state["embedding_net.word_emb.glove_vec"]),
        hidden_dim=config["dim"],
        character_dim=config["char_dim"],
        alphabet="".join(chr(ord("a") + i) for i in range(characters - 2)),
        positions=config["max_pos_len"],
        heads=config["num_heads"],
        predictor=config["predictor"],
        extend=config["extend"],
        highlight_weight=config["highlight_lambda"],
        as_released=True,
    )
    method.load_state_dict(method.published_state(state))
    return method.eval()


@pytest.fixture
def video(fixture):
    return fixture.tensor("in/video").requires_grad_()


@pytest.fixture
def located(fixture, method, video):
    query = method.embed(fixture.tensor("in/word_ids").long(), fixture.tensor("in/char_ids").long())
    return method.locate(video, query, fixture.tensor("in/video_mask").bool(), fixture.tensor("in/query_mask").bool())


def moment(fixture):
    return torch.stack([fixture.tensor("in/start"), fixture.tensor("in/end")], dim=1).long()


def test_highlighting_and_logits_equal_the_release(fixture, located):
    fixture.assert_close(located.highlight_logits.sigmoid() * located.mask, "out/h_score")
    fixture.assert_close(located.start_logits, "out/start_logits")
    fixture.assert_close(located.end_logits, "out/end_logits")


def test_extended_foreground_equals_the_release(fixture):
    mask = fixture.tensor("in/video_mask").bool()
    fixture.assert_close(extended_foreground(moment(fixture), mask, fixture.config["extend"]).float(), "in/highlight")


def test_losses_equal_the_release(fixture, located):
    span = span_loss(located, moment(fixture))
    highlight = highlight_loss(located, fixture.tensor("in/highlight").bool())
    fixture.assert_close(span, "out/loc_loss")
    fixture.assert_close(highlight, "out/highlight_loss")
    fixture.assert_close(span + fixture.config["highlight_lambda"] * highlight, "out/total")


def test_gradients_equal_the_release(fixture, method, video, located):
    highlight = highlight_loss(located, fixture.tensor("in/highlight").bool())
    (span_loss(located, moment(fixture)) + fixture.config["highlight_lambda"] * highlight).backward()
    parameters: dict[str, nn.Parameter] = dict(method.named_parameters())
    for name in fixture.tensors("grad"):
        found = video if name == "video" else parameters[published_name(name)]
        fixture.assert_close(found.grad, f"grad/{name}")


def test_the_best_pair_equals_the_release(fixture, located):
    steps = located.mask.sum(dim=1)
    edges = (decode_spans(located).spans[:, 0] * steps[:, None]).round()
    fixture.assert_close(edges[:, 0], "out/start_index")
    fixture.assert_close(edges[:, 1] - 1, "out/end_index")
