"""Pairs are compared as the protocols say, in every condition."""

import math

import pytest
import torch
import torch.nn.functional as F

from ommatid.recognition import face_scores
from ommatid.recognition.face_scores import FaceScores, compared, verification_scores
from ommatid.recognition.verification import auc, kfold_accuracy, tar_at_far

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(12).repeat_interleave(5)
EMBEDDINGS = torch.eye(12)[LABELS] + 0.4 * torch.randn(60, 12, generator=GENERATOR)


def test_all_pairs_are_compared_once():
    scores, same = compared(EMBEDDINGS, LABELS)
    unit = F.normalize(EMBEDDINGS)
    pairs = [(i, j) for i in range(60) for j in range(i + 1, 60)]
    torch.testing.assert_close(scores, torch.stack([unit[i] @ unit[j] for i, j in pairs]))
    assert same.tolist() == [bool(LABELS[i] == LABELS[j]) for i, j in pairs]
    found = verification_scores(EMBEDDINGS, LABELS)
    assert found["TAR@FAR=1e-2"] == float(tar_at_far(scores, same, [1e-2], every_point=True)[0])
    assert found["auc"] == float(auc(scores, same))
    assert found.keys() == {"TAR@FAR=1e-2", "auc"}  # strangers are too few for 1e-3, and nothing is listed


def test_listed_pairs_are_compared_alone_and_in_folds():
    labels = torch.arange(60)
    labels[1:30:2] = labels[:30:2]
    scores, same = compared(EMBEDDINGS, labels, listed=True)
    assert len(scores) == 30
    assert same.tolist() == [True] * 15 + [False] * 15
    torch.testing.assert_close(scores, F.cosine_similarity(EMBEDDINGS[::2], EMBEDDINGS[1::2]))
    found = verification_scores(EMBEDDINGS, labels, listed=True)
    assert found["accuracy"] == float(kfold_accuracy(scores, same).mean)
    # A list that was cut in the middle of a pair.
    assert len(compared(EMBEDDINGS[:31], labels[:31], listed=True)[0]) == 15


def test_one_in_a_thousand_needs_many_strangers():
    labels = torch.arange(50).repeat_interleave(4)
    found = verification_scores(torch.randn(200, 8, generator=GENERATOR), labels)
    assert "TAR@FAR=1e-3" in found
    assert found["TAR@FAR=1e-3"] <= found["TAR@FAR=1e-2"] < 0.05


def test_pairs_of_one_kind_give_no_numbers():
    found = verification_scores(EMBEDDINGS[:5], LABELS[:5])
    assert all(math.isnan(value) for value in found.values())


def test_embeddings_that_diverged_give_no_numbers():
    found = verification_scores(EMBEDDINGS.clone().fill_(float("nan")), LABELS)
    assert found.keys() == {"TAR@FAR=1e-2", "auc"}
    assert all(math.isnan(value) for value in found.values())


def test_of_many_images_whole_identities_are_compared(monkeypatch):
    monkeypatch.setattr(face_scores, "MOST_IMAGES", 20)
    scores, same = compared(EMBEDDINGS, LABELS)
    assert len(scores) == 20 * 19 // 2
    assert int(same.sum()) == 4 * 10


def test_a_split_is_scored_whatever_its_batches_and_in_every_condition():
    other = EMBEDDINGS.flip(1) + 0.1
    tables = {"labels": LABELS.float()[:, None], "listed": torch.zeros(60, 1), "": EMBEDDINGS, "blur 2": other}
    scores = FaceScores()
    order = torch.randperm(60, generator=GENERATOR)
    # The last batch repeats samples, as a distributed sampler does.
    for part in (*order.split(17), order[:4]):
        scores.update(part, {name: table[part] for name, table in tables.items()})
    found = scores.compute()
    assert {name: found[name] for name in ("TAR@FAR=1e-2", "auc")} == pytest.approx(
        verification_scores(EMBEDDINGS, LABELS)
    )
    assert found["blur 2/auc"] == pytest.approx(verification_scores(other, LABELS)["auc"])
    assert len(found) == 4
