"""Pools of recovered images: their diversity by the definition, and their files."""

import pytest
import torch
import torch.nn.functional as F

from ommatid.transfer.networks import build_classifier
from ommatid.transfer.pool import last_features, pool_diversity, read_pool, write_pool


def test_a_pool_is_as_diverse_as_its_features():
    torch.manual_seed(0)
    teacher = build_classifier("digits_cnn", 10, 1, [0.3], [0.4]).eval()
    images = torch.rand(9, 1, 8, 8)
    with torch.no_grad():
        features = F.normalize(teacher[1].forward_features(teacher[0](images))["pooled"], dim=1)
        probs = teacher(images).softmax(dim=1).mean(dim=0)
    torch.testing.assert_close(F.normalize(last_features(teacher, images), dim=1), features)
    similarity = features @ features.T
    off = ~torch.eye(9, dtype=torch.bool)
    found = pool_diversity(teacher, images)
    assert found["mean_similarity"] == pytest.approx(float(similarity[off].mean()), abs=1e-5)
    nearest = similarity.masked_fill(~off, -2).max(dim=1).values.mean()
    assert found["nearest_similarity"] == pytest.approx(float(nearest), abs=1e-5)
    assert found["class_entropy"] == pytest.approx(float(-(probs * probs.log()).sum()), abs=1e-5)


def test_the_same_image_again_and_again_is_not_diverse():
    teacher = build_classifier("digits_cnn", 10, 1, [0.3], [0.4])
    same = pool_diversity(teacher, torch.rand(1, 1, 8, 8).expand(300, -1, -1, -1))
    assert same["nearest_similarity"] == pytest.approx(1, abs=1e-4)
    assert same["mean_similarity"] == pytest.approx(1, abs=1e-4)
    assert pool_diversity(teacher, torch.rand(1, 1, 8, 8)) == {}


def test_a_pool_comes_back_as_it_was_written(tmp_path):
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    path = write_pool(tmp_path / "recovered.npz", images)
    assert torch.equal(read_pool(path, (1, 8, 8)), images)
    assert [each.name for each in tmp_path.iterdir()] == ["recovered.npz"]
