"""LGI against the numbers recorded from the authors' network."""

import pytest
import torch

from ommatid.grounding.lgi import LGI, diversity_loss, guidance_loss, regression_loss
from ommatid.grounding.task import GroundingBatch
from parity.fixture import load_fixture


@pytest.fixture
def fixture():
    return load_fixture("field-lgi")


@pytest.fixture
def batch(fixture):
    video = fixture.tensor("in/video").requires_grad_()
    count = len(video)
    return GroundingBatch(
        video=video,
        video_mask=fixture.tensor("in/video_mask").bool(),
        words=fixture.tensor("in/words").long(),
        word_mask=fixture.tensor("in/word_mask").bool(),
        duration=torch.ones(count),
        span=torch.stack([fixture.tensor("in/start"), fixture.tensor("in/end")], dim=1),
        glance=torch.full((count,), torch.nan),
        query=torch.arange(count),
    )


@pytest.fixture
def method(fixture):
    config = fixture.config
    method = LGI(
        feature_dim=config["video_enc_vemb_idim"],
        word_dim=config["query_enc_emb_odim"],
        vocabulary_size=config["query_enc_emb_idim"],
        hidden_dim=config["sqan_qdim"],
        attention_dim=config["sqan_att_hdim"],
        head_dim=config["grounding_hdim"],
        query_layers=config["query_enc_rnn_nlayer"],
        phrases=config["num_semantic_entity"],
        kernel=config["lgi_local_res_block_1d_ksize"],
        global_blocks=config["lgi_global_num_nl_block"],
        heads=config["lgi_global_nl_nheads"],
        positions=config["video_enc_pemb_idim"],
        output="relu" if config["dataset"] == "charades" else "sigmoid",
        guidance_weight=config["tag_weight"],
        diversity_weight=config["dqa_weight"],
        diversity=config["dqa_lambda"],
        as_released=True,
    )
    method.load_state_dict(method.published_state(fixture.tensors("state")))
    # Their word vectors are parameters, ours are data.
    torch.testing.assert_close(method.words.vectors, fixture.tensor("state/query_enc.embedding.weight"))
    method.report = lambda **_: None
    return method.eval()


def test_words_and_sentence_are_the_authors(fixture, method, batch):
    words, sentence = method.read(batch)
    fixture.assert_close(words, "out/word_feats")
    fixture.assert_close(sentence, "out/sent_feat")


def test_phrases_are_the_authors(fixture, method, batch):
    words, sentence = method.read(batch)
    phrases, weights = method.phrase_attention(sentence, words, batch.word_mask)
    fixture.assert_close(phrases, "out/phrase_feats")
    fixture.assert_close(weights, "out/phrase_attn")
    fixture.assert_close(method.phrase_pool(phrases)[1].softmax(dim=1), "out/phrase_pool")


def test_fused_video_is_the_authors(fixture, method, batch):
    video = method.embed(batch.video, batch.video_mask)
    fused = method.interact(video, fixture.tensor("out/phrase_feats"), batch.video_mask)
    fixture.assert_close(fused, "out/fused")


def test_moment_and_attention_are_the_authors(fixture, method, batch):
    found = method.regress(batch)
    fixture.assert_close(found.span, "out/loc")
    fixture.assert_close(found.attention_logits.softmax(dim=1), "out/temporal_attn")
    fixture.assert_close(found.phrase_weights, "out/phrase_attn")


def test_losses_and_gradients_are_the_authors(fixture, method, batch):
    found, config = method.regress(batch), fixture.config
    losses = {
        "out/loss_reg": regression_loss(found.span, batch.span),
        "out/loss_tag": config["tag_weight"]
        * guidance_loss(found.attention_logits, fixture.tensor("in/att_mask").bool()),
        "out/loss_dqa": config["dqa_weight"] * diversity_loss(found.phrase_weights, config["dqa_lambda"]),
    }
    for key, loss in losses.items():
        fixture.assert_close(loss[None], key)
    sum(losses.values()).backward()
    relation = method.far[0]
    for key, gradient in {
        "grad/video": batch.video.grad,
        "grad/sqan.guide_emb_fn.0.weight": method.phrase_attention.guide.weight.grad,
        "grad/vti_fn.global_fn.0.c_lin.weight": torch.cat([relation.key.weight.grad, relation.value.weight.grad]),
        "grad/ta_reg_fn.MLP_reg.2.weight": method.head[2].weight.grad,
    }.items():
        fixture.assert_close(gradient, key)
        # Small gradients are equal within any absolute tolerance: compare them in units of the largest one, too. Those
        # of the guide nearly cancel, so that single precision leaves little of their smallest entries.
        expected = fixture.tensor(key)
        unit = expected.abs().max()
        torch.testing.assert_close(gradient / unit, expected / unit, rtol=fixture.rtol, atol=fixture.rtol)


def test_every_recorded_array_is_compared(fixture):
    compared = {
        "word_feats",
        "sent_feat",
        "phrase_feats",
        "phrase_attn",
        "phrase_pool",
        "fused",
        "loc",
        "temporal_attn",
        "loss_reg",
        "loss_tag",
        "loss_dqa",
    }
    assert set(fixture.tensors("out")) == compared


def test_without_padding_the_default_is_the_release(fixture, method, batch):
    """The switch only says what padded steps may do."""
    whole = batch[batch.video_mask.all(dim=1)]
    released = method.regress(whole).span
    method.hparams.as_released = False
    torch.testing.assert_close(method.regress(whole).span, released)
    if not batch.video_mask.all():
        assert not torch.equal(method.regress(batch).span, fixture.tensor("out/loc"))
