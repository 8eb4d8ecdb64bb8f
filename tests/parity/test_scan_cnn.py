"""Margin heads and verification protocols give the numbers of FaceX-Zoo, the toolbox of SCAN-CNN's authors."""

import pytest
import torch.nn.functional as F

from ommatid.losses.margin import MarginHead, published_head
from ommatid.recognition.verification import ijb_templates, kfold_accuracy, roc, tar_at_far, template_scores
from parity.fixture import load_fixture

KINDS = ("arcface", "cosface", "mv_arcface", "mv_cosface")


@pytest.fixture(scope="module")
def heads():
    return load_fixture("scan-cnn-heads")


@pytest.fixture(scope="module")
def verification():
    return load_fixture("scan-cnn-verification")


@pytest.mark.parametrize("kind", KINDS)
def test_logits_loss_and_gradients_of_every_head(heads, kind):
    features, labels = heads.tensor("in/features").requires_grad_(), heads.tensor("in/labels").long()
    published = heads.tensors("state")
    dim, classes = published["weight"].shape
    settings = heads.config
    margin = settings["ma" if kind.endswith("arcface") else "mm"]
    head = MarginHead(dim, classes, kind.replace("_", "-"), settings["s"], margin, settings["mv"], easy=True)
    head.load_state_dict(published_head(published, "toolbox"))
    logits = head(features, labels)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    heads.assert_close(logits, f"out/{kind}_logits")
    heads.assert_close(loss, f"out/{kind}_loss")
    heads.assert_close(features.grad, f"grad/{kind}.features")
    heads.assert_close(head.weight.grad.T, f"grad/{kind}.weight")


def test_accuracy_over_folds_and_its_standard_error(verification):
    scores, same = verification.tensor("in/lfw_scores"), verification.tensor("in/lfw_same").bool()
    found = kfold_accuracy(scores, same, rule="toolbox")
    verification.assert_close(found.mean, "out/lfw_mean_accuracy")
    verification.assert_close(found.standard_error, "out/lfw_standard_error")


def test_templates_of_several_media(verification):
    templates, media = (verification.tensor(f"in/ijb_{name}").long() for name in ("template", "media"))
    features, numbers = ijb_templates(verification.tensor("in/ijb_features"), templates, media)
    verification.assert_close(features, "out/ijb_template_features")
    first, second = (verification.tensor(f"in/ijb_pair{which}").long() for which in (1, 2))
    verification.assert_close(template_scores(features, numbers, first, second), "out/ijb_scores")


def test_true_accepts_at_false_accepts(verification):
    scores, same = verification.tensor("out/ijb_scores"), verification.tensor("in/ijb_label").bool()
    verification.assert_close(tar_at_far(scores, same, verification.tensor("out/ijb_far").tolist()), "out/ijb_tar")
    curve = roc(scores, same)
    assert curve.far[-1] == curve.tar[-1] == 1
