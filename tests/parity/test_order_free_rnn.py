"""Order-free label decoding, its losses and its metrics against recorded numbers of public re-implementations."""

import pytest
import torch

from ommatid.losses.label_order import all_label_loss, best_remaining_loss, best_remaining_targets
from ommatid.nn.label_decoder import LabelDecoder, confident_labels, published_label_decoder
from ommatid.recognition.multilabel import multilabel_scores
from parity.fixture import load_fixture

# --- decoder ---


@pytest.fixture
def decoded():
    return load_fixture("order-free-rnn-decoder")


@pytest.fixture
def decoder(decoded):
    config = decoded.config
    sizes = (config[name] for name in ("num_classes", "feature_dim", "hidden", "attention"))
    decoder = LabelDecoder(*sizes, dropout=0.0)
    decoder.load_state_dict(published_label_decoder(decoded.tensors("state")))
    return decoder


def unroll(fixture, decoder):
    features = fixture.tensor("in/features").flatten(1, 2)
    return decoder.unroll(features, fixture.tensor("in/initial_probs"), fixture.config["steps"])


def test_decoding_is_the_recorded_one(decoded, decoder):
    found = unroll(decoded, decoder)
    decoded.assert_close(found.logits.sigmoid(), "out/step_probs")
    decoded.assert_close(found.weights, "out/step_attention")
    decoded.assert_close(found.confidence, "out/path_confidence")
    assert torch.equal(found.labels, decoded.tensor("out/label_sequence"))


def test_the_answer_is_the_recorded_one(decoded, decoder):
    found, config = unroll(decoded, decoder), decoded.config
    settings = config["threshold"], config["num_classes"]
    released = confident_labels(found.labels, found.confidence, *settings, as_released=True)
    decoded.assert_close(released.float(), "out/predicted")


def test_a_beam_of_one_follows_the_recorded_path(decoded, decoder):
    """What the recorded cut-off keeps from the first step on, and at least one label."""
    config = decoded.config
    features, initial = decoded.tensor("in/features").flatten(1, 2), decoded.tensor("in/initial_probs")
    found = decoder.search(features, initial, 1, config["steps"], config["threshold"])
    kept = (decoded.tensor("out/path_confidence") >= config["threshold"]).cumprod(dim=1).bool()
    kept[:, 0] = True
    assert torch.equal(found.sequence, torch.where(kept, decoded.tensor("out/label_sequence"), -1))


def test_loss_and_gradients_are_the_recorded_ones(decoded, decoder):
    loss = all_label_loss(unroll(decoded, decoder).logits, decoded.tensor("in/labels").bool())
    decoded.assert_close(loss, "out/loss")
    loss.backward()
    for key, gradient in {
        "grad/fc2.weight": decoder.output[3].weight.grad,
        "grad/attention_out.weight": decoder.attention.energy.weight.grad,
    }.items():
        decoded.assert_close(gradient, key)
        # Small gradients are equal within any absolute tolerance: compare them in units of the largest one, too.
        expected = decoded.tensor(key)
        unit = expected.abs().max()
        torch.testing.assert_close(gradient / unit, expected / unit, rtol=decoded.rtol, atol=decoded.rtol)


# --- order-free sequence loss ---


@pytest.fixture
def ordered():
    return load_fixture("order-free-rnn-loss")


@pytest.fixture
def columns(ordered):
    """Their end symbol may stand anywhere, ours is last."""
    end = ordered.config["end_index"]
    return torch.tensor([label for label in range(ordered.config["num_classes"] + 1) if label != end] + [end])


@pytest.fixture
def log_probs(ordered, columns):
    return ordered.tensor("in/log_probs").transpose(0, 1)[..., columns].requires_grad_()


@pytest.fixture
def labels(ordered, columns):
    return ordered.tensor("in/labels")[:, columns[:-1]].bool()


def test_targets_are_the_recorded_ones(ordered, columns, log_probs, labels):
    found = best_remaining_targets(log_probs, labels)
    ordered.assert_close(torch.where(found < 0, -1, columns[found]), "out/target_sequence")


def test_both_means_are_the_recorded_ones(ordered, log_probs, labels):
    ordered.assert_close(best_remaining_loss(log_probs, labels), "out/loss")
    ordered.assert_close(best_remaining_loss(log_probs, labels, as_released=True), "out/loss_published")


def test_the_gradient_is_the_recorded_one(ordered, columns, log_probs, labels):
    """Theirs is of log-probabilities, ours of logits, which goes through the softmax, too: that part is taken off."""
    best_remaining_loss(log_probs, labels).backward()
    counted = best_remaining_targets(log_probs, labels) >= 0
    through_softmax = log_probs.detach().exp() * (counted / counted.sum())[..., None]
    found = torch.empty_like(through_softmax)
    found[..., columns] = log_probs.grad - through_softmax
    ordered.assert_close(found.transpose(0, 1), "grad/log_probs")


# --- metrics ---


@pytest.fixture
def measured():
    return load_fixture("order-free-rnn-metrics")


def test_metrics_are_the_recorded_ones(measured):
    """Recorded in per cent."""
    true, predicted = (measured.tensor(f"in/{name}").bool() for name in ("true", "pred"))
    for name, score in multilabel_scores(predicted, true).items():
        measured.assert_close(100 * score, f"out/{name.lower()}")


def test_every_recorded_array_is_compared(decoded, ordered, measured):
    """The mean of the classes' F1 is recorded for contrast; it is not what this literature reports."""
    steps = {"step_probs", "step_attention", "label_sequence", "path_confidence", "predicted", "loss"}
    assert set(decoded.tensors("out")) == steps
    assert set(decoded.tensors("grad")) == {"fc2.weight", "attention_out.weight"}
    assert set(ordered.tensors("out")) == {"loss", "loss_published", "target_sequence"}
    assert set(ordered.tensors("grad")) == {"log_probs"}
    assert set(measured.tensors("out")) == {"cp", "cr", "cf1", "op", "or", "of1", "cf1_mean_of_class_f1"}
