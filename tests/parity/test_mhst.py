"""The baseline of MHST's card, ViGA, against the numbers recorded from its authors' code."""

import pytest

from ommatid.grounding.viga import guided_moments
from ommatid.losses.glance import attention_guidance_kl, clip_nce_loss, gaussian_glance_weight, sliding_clips
from parity.fixture import load_fixture


@pytest.fixture(scope="module")
def fixture():
    return load_fixture("mhst-viga")


@pytest.fixture
def inputs(fixture):
    names = {"sentence": "in/sentence", "video": "in/video", "attention": "in/attn"}
    return {name: fixture.tensor(key).requires_grad_() for name, key in names.items()}


@pytest.fixture
def mask(fixture):
    return fixture.tensor("in/video_mask").bool()


def weights(fixture, mask):
    return gaussian_glance_weight(
        fixture.tensor("in/glance_frame"), mask, float(fixture.config["sigma_factor"]), mode="viga"
    )


def losses(fixture, inputs, mask):
    config, weight = fixture.config, weights(fixture, mask)
    lengths = config["clip_frames"] if isinstance(config["clip_frames"], list) else [config["clip_frames"]]
    clips = sliding_clips(inputs["video"], weight, mask, lengths, config["stride"], mode="viga")
    nce = clip_nce_loss(inputs["sentence"], *clips, temperature=float(config["temp"]))
    return nce, attention_guidance_kl(inputs["attention"], weight, mask, mode="viga")


def test_weights_around_the_glance_are_the_authors(fixture, mask):
    fixture.assert_close(weights(fixture, mask), "out/gaussian")


def test_losses_and_gradients_are_the_authors(fixture, inputs, mask):
    nce, guidance = losses(fixture, inputs, mask)
    fixture.assert_close(nce[None], "out/nce_loss")
    fixture.assert_close(guidance[None], "out/attn_loss")
    fixture.assert_close((nce + guidance)[None], "out/loss")
    (nce + guidance).backward()
    for name, key in {"sentence": "grad/sentence", "video": "grad/video", "attention": "grad/attn"}.items():
        fixture.assert_close(inputs[name].grad, key)


def test_the_best_window_around_the_attention_is_the_authors(fixture, inputs, mask):
    config = fixture.config
    moments = guided_moments(
        **inputs, mask=mask, lengths=config["moment_length_factors"], overlaps=config["overlapping_factors"]
    )
    expected = fixture.tensor("out/prediction")
    fixture.assert_close(moments.spans[:, : expected.shape[1]], "out/prediction")
