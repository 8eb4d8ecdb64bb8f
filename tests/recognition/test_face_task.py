"""What is predicted can be read and drawn."""

import torch
from PIL import Image

from ommatid.recognition.face_task import FaceBatch, FaceComparison, FaceRanking


def test_a_comparison_says_what_it_decided_on(tmp_path):
    faces = (torch.rand(1, 8, 8), torch.rand(1, 8, 8))
    found = FaceComparison(faces, 0.5, 0.5)
    assert found.same
    assert FaceComparison(faces, 0.61239, 0.7).to_json() == {"cosine": 0.6124, "threshold": 0.7, "same": False}
    found.draw(tmp_path / "pair.png")
    assert Image.open(tmp_path / "pair.png").size[0] > 100


def test_a_ranking_says_who_is_alike(tmp_path):
    people = [(f"person {number}", 0.9 - number / 10) for number in range(9)]
    found = FaceRanking(torch.rand(3, 8, 8), people, [torch.rand(3, 8, 8)] * 9, 0.65)
    rows = found.to_json()["people"]
    assert rows[0] == {"name": "person 0", "cosine": 0.9, "same": True}
    assert [row["same"] for row in rows] == [True] * 3 + [False] * 6
    found.draw(tmp_path / "ranking.png")
    assert Image.open(tmp_path / "ranking.png").size[0] > 100


def test_a_batch_can_be_cut():
    batch = FaceBatch(torch.rand(4, 1, 8, 8), torch.arange(4), torch.zeros(4, dtype=torch.bool), torch.arange(4))
    assert len(batch) == 4
    assert batch[:2].labels.tolist() == [0, 1]
