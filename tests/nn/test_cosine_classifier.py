"""Only directions count for a cosine classifier."""

import pytest
import torch

from ommatid.errors import InputError
from ommatid.nn.cosine_classifier import CosineClassifier


def test_lengths_change_nothing():
    classifier, features = CosineClassifier(8, 5), torch.randn(3, 8)
    logits = classifier(features)
    torch.testing.assert_close(classifier(4 * features), logits)
    with torch.no_grad():
        classifier.weight.mul_(3)
    torch.testing.assert_close(classifier(features), logits)


def test_logits_are_scaled_cosines():
    classifier = CosineClassifier(8, 5, scale=7.0)
    logits = classifier(classifier.weight[2][None] * 2)
    assert float(logits[0, 2].detach()) == pytest.approx(7)
    assert logits.abs().max() <= 7.001


def test_the_scale_is_learnt_or_stays():
    assert {name for name, _ in CosineClassifier(4, 2).named_parameters()} == {"weight", "scale"}
    fixed = CosineClassifier(4, 2, learn_scale=False)
    assert {name for name, _ in fixed.named_parameters()} == {"weight"}
    assert "scale" in fixed.state_dict()


def test_half_precision_gives_single_precision_logits():
    with torch.autocast("cpu", torch.bfloat16):
        assert CosineClassifier(8, 5)(torch.randn(2, 8).bfloat16()).dtype == torch.float32


def test_a_scale_of_zero_is_refused():
    with pytest.raises(InputError, match=r"scale: found 0\.0"):
        CosineClassifier(4, 2, scale=0.0)
